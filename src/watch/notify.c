#include "watch/notify.h"

#include "base/parse.h"
#include "io/safe_path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/banned.h"

enum { READ_BYTES = 256 * 1024, READS_A_TURN = 8 };

struct notify {
    uv_poll_t poll;
    int fd;
    struct notify_calls calls;
    void *ctx;
    int barrier_dir, barrier_wd;
    uint64_t barrier_number;
    struct notify_barrier *first; /* oldest first */
    struct notify_barrier **last;
    uint64_t reads, reads_seen; /* seen: by notify_gets_on */
    bool queued_seen;
    _Alignas(struct inotify_event) char buffer[READ_BYTES];
};

/* Everything up to barrier `number` has been delivered. */
static void barriers_pass(struct notify *n, uint64_t number)
{
    while (n->first && n->first->number <= number) {
        struct notify_barrier *b = n->first;
        n->first = b->next;
        if (!n->first)
            n->last = &n->first;
        b->number = 0;
        b->passed(b->ctx);
    }
}

static void barrier_event(struct notify *n, const struct notify_event *event)
{
    struct error ignored = ERROR_INIT;
    uint64_t number;

    if ((event->mask & IN_CREATE) && parse_u64(event->name, &number, &ignored) == 0)
        barriers_pass(n, number);
}

static void deliver(struct notify *n, const struct inotify_event *raw)
{
    struct notify_event event = {
        .wd = raw->wd, .mask = raw->mask, .cookie = raw->cookie, .name = raw->len ? raw->name : ""};

    if (raw->mask & IN_Q_OVERFLOW) {
        uint64_t made = n->barrier_number;
        n->calls.overflow(n->ctx);
        barriers_pass(n, made);
    } else if (raw->wd == n->barrier_wd && n->barrier_wd >= 0) {
        barrier_event(n, &event);
    } else {
        n->calls.event(n->ctx, &event);
    }
}

/* One read; false when nothing was there. */
static bool read_some(struct notify *n)
{
    ssize_t got;

    do
        got = read(n->fd, n->buffer, sizeof(n->buffer));
    while (got < 0 && errno == EINTR);
    n->reads += got > 0;
    for (ssize_t at = 0; at < got;) {
        const struct inotify_event *raw = (const void *)(n->buffer + at);
        deliver(n, raw);
        at += (ssize_t)(sizeof(*raw) + raw->len);
    }
    return got > 0;
}

bool notify_read(struct notify *n)
{
    for (int i = 0; i < READS_A_TURN; i++) {
        if (!read_some(n))
            return true;
    }
    return false;
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct notify *n = poll->data;
    bool empty = notify_read(n);

    n->calls.turn(n->ctx, empty);
}

void notify_drain(struct notify *n)
{
    while (!notify_read(n))
        ;
    n->calls.turn(n->ctx, true);
}

bool notify_gets_on(struct notify *n)
{
    int bytes = 0;
    bool queued = ioctl(n->fd, FIONREAD, &bytes) == 0 && bytes > 0;
    bool held_up = queued && n->queued_seen && n->reads == n->reads_seen;

    n->queued_seen = queued;
    n->reads_seen = n->reads;
    return !held_up;
}

static int open_failed(struct error *e, int sys)
{
    if (sys == EMFILE || sys == ENFILE)
        return error_set(e, ERR_FAILED,
                         "no inotify instances left: raise the limits fs.inotify.max_user_instances"
                         " or RLIMIT_NOFILE");
    return error_sys(e, sys, "cannot start inotify");
}

int notify_open(uv_loop_t *loop, const struct notify_calls *calls, void *ctx, struct notify **out,
                struct error *e)
{
    struct notify *n = malloc(sizeof(*n));

    if (!n)
        return error_sys(e, ENOMEM, "cannot start inotify");
    n->calls = *calls;
    n->ctx = ctx;
    n->barrier_dir = n->barrier_wd = -1;
    n->barrier_number = 0;
    n->first = NULL;
    n->last = &n->first;
    n->reads = n->reads_seen = 0;
    n->queued_seen = false;
    n->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (n->fd < 0) {
        int rc = open_failed(e, errno);
        free(n);
        return rc;
    }
    int rc = uv_poll_init(loop, &n->poll, n->fd);
    if (rc != 0) {
        close(n->fd);
        free(n);
        return open_failed(e, -rc);
    }
    n->poll.data = n;
    rc = uv_poll_start(&n->poll, UV_READABLE, on_readable);
    if (rc != 0) {
        notify_close(n);
        return open_failed(e, -rc);
    }
    *out = n;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct notify *n = handle->data;

    close(n->fd);
    if (n->barrier_dir >= 0)
        close(n->barrier_dir);
    free(n);
}

void notify_close(struct notify *n)
{
    if (!n)
        return;
    n->first = NULL;
    n->last = &n->first;
    uv_close((uv_handle_t *)&n->poll, on_closed);
}

int notify_add(struct notify *n, int fd, uint32_t mask)
{
    char path[40];

    /* The descriptor's own link leads to the very folder, whatever stands at its path by now. */
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int wd = inotify_add_watch(n->fd, path, mask | IN_ONLYDIR);
    return wd >= 0 ? wd : -errno;
}

int notify_add_entry(struct notify *n, const char *path, uint32_t mask)
{
    int wd = inotify_add_watch(n->fd, path, mask | IN_DONT_FOLLOW | IN_MASK_ADD);

    return wd >= 0 ? wd : -errno;
}

void notify_remove(struct notify *n, int wd)
{
    inotify_rm_watch(n->fd, wd);
}

int notify_barrier_folder(struct notify *n, const char *path, struct error *e)
{
    int fd = long_path_open(path, O_RDONLY | O_DIRECTORY, e);

    if (fd < 0)
        return fd;
    int wd = notify_add(n, fd, IN_CREATE);
    if (wd < 0) {
        close(fd);
        return error_sys(e, -wd, "cannot watch '%s'", path);
    }
    if (n->barrier_dir >= 0)
        close(n->barrier_dir);
    n->barrier_dir = fd;
    n->barrier_wd = wd;
    return 0;
}

int notify_barrier_start(struct notify *n, struct notify_barrier *b, struct error *e)
{
    char name[24];

    if (n->barrier_dir < 0)
        return error_set(e, ERR_FAILED, "there is no folder for a barrier");
    snprintf(name, sizeof(name), "%llu", (unsigned long long)(n->barrier_number + 1));
    unlinkat(n->barrier_dir, name, 0); /* left by a run that was killed */
    int fd = openat(n->barrier_dir, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_sys(e, errno, "cannot make a barrier");
    close(fd);
    unlinkat(n->barrier_dir, name, 0);
    b->number = ++n->barrier_number;
    b->next = NULL;
    *n->last = b;
    n->last = &b->next;
    return 0;
}
