#include "service/client.h"

#include "base/buffer.h"
#include "base/log.h"
#include "io/atomic_file.h"
#include "io/lock.h"
#include "io/safe_path.h"
#include "service/control.h"
#include "service/protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/banned.h"

enum {
    SOCKET_PATH_MAX = 4096,
    READ_BYTES = 64 * 1024,
    LINE_MAX_BYTES = 256 * 1024 * 1024,
    WAIT_MIN_MS = 4 * PROTOCOL_WORKING_MS,
};

char *client_socket_of(const char *repo_path)
{
    struct error ignored = ERROR_INIT;
    struct buffer text = BUFFER_INIT;
    char *path = NULL;
    int dir = long_path_open(repo_path, O_RDONLY | O_DIRECTORY, &ignored);

    if (dir < 0)
        return NULL;
    int fd = openat(dir, "lock", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    bool held = fd >= 0 && lock_held(fd, LOCK_WRITER, 1, false);
    if (fd >= 0)
        close(fd);
    if (held && small_file_read(dir, "lock", SOCKET_PATH_MAX, &text, &ignored) == 0) {
        const char *content = buffer_cstr(&text);
        size_t n = strcspn(content, "\n");
        path = n > 0 ? strndup(content, n) : NULL;
    }
    close(dir);
    buffer_release(&text);
    return path;
}

static uint64_t at_least(uint64_t wait_ms)
{
    return wait_ms < WAIT_MIN_MS ? WAIT_MIN_MS : wait_ms;
}

/* unix(7): a send timeout is connect's too. */
static void limit_waiting(int fd, uint64_t wait_ms)
{
    uint64_t seconds = wait_ms / 1000;
    struct timeval t = {.tv_sec = seconds < INT32_MAX ? (time_t)seconds : INT32_MAX,
                        .tv_usec = (suseconds_t)(wait_ms % 1000 * 1000)};

    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
}

static int process_of(int fd)
{
    struct ucred who = {0};
    socklen_t len = sizeof(who);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 && who.pid > 0 ? who.pid : 0;
}

static int silent(int fd, uint64_t wait_ms, struct error *e)
{
    char process[40] = "";
    int pid = process_of(fd);

    if (pid > 0)
        snprintf(process, sizeof(process), " (process %d)", pid);
    return error_set(e, ERR_BUSY, "the service%s has not answered for %g s: it is stopped or stuck",
                     process, (double)wait_ms / 1000);
}

static int connect_to(const char *socket_path, uint64_t wait_ms, struct error *e)
{
    struct sockaddr_un addr;
    int rc = control_address(socket_path, &addr, e);

    if (rc != 0)
        return rc;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_sys(e, errno, "cannot make a socket");
    limit_waiting(fd, wait_ms);
    do
        rc = connect(fd, (const struct sockaddr *)&addr, sizeof(addr));
    while (rc != 0 && errno == EINTR);
    if (rc == 0)
        return fd;
    if (errno == EAGAIN)
        rc = silent(fd, wait_ms, e);
    else if (errno == ECONNREFUSED || errno == ENOENT || errno == ENOTDIR)
        rc = error_set(e, ERR_NOTFOUND, "no service listens on '%s'", socket_path);
    else
        rc = error_sys(e, errno, "cannot reach the service on '%s'", socket_path);
    close(fd);
    return rc;
}

static int went_away(struct error *e)
{
    return error_set(e, ERR_FAILED, "the service went away before it had answered");
}

static int send_request(int fd, const json_t *request, uint64_t wait_ms, struct error *e)
{
    char *text = json_dumps(request, JSON_COMPACT);
    size_t left = text ? strlen(text) : 0;
    int rc = text ? 0 : error_sys(e, ENOMEM, "cannot ask the service");

    if (text)
        text[left++] = '\n'; /* in place of the NUL */
    for (size_t at = 0; rc == 0 && left > 0;) {
        ssize_t n = send(fd, text + at, left, MSG_NOSIGNAL);
        if (n > 0) {
            at += (size_t)n;
            left -= (size_t)n;
        } else if (errno == EPIPE || errno == ECONNRESET) {
            break; /* what it had to say may still be read */
        } else if (errno == EAGAIN) {
            rc = silent(fd, wait_ms, e);
        } else if (errno != EINTR) {
            rc = error_sys(e, errno, "cannot ask the service");
        }
    }
    free(text);
    return rc;
}

static bool is_sign_of_life(const json_t *line)
{
    const char *type = json_string_value(json_object_get(line, "type"));

    return type && strcmp(type, "working") == 0;
}

/* Whether a line ends the answer. */
static bool is_last(const json_t *line)
{
    const char *type = json_string_value(json_object_get(line, "type"));

    return !type || strcmp(type, "summary") == 0 || strcmp(type, "error") == 0;
}

struct answer {
    client_line line;
    void *ctx;
    struct buffer text; /* not yet told */
    bool last;          /* a line that may be the last was told */
};

static int tell(struct answer *a, const uint8_t *text, size_t n, struct error *e)
{
    json_t *line = json_loadb((const char *)text, n, JSON_REJECT_DUPLICATES, NULL);

    if (!line)
        return error_set(e, ERR_FAILED, "the service's answer is no JSON");
    int rc = 0;
    if (!is_sign_of_life(line)) {
        a->last = is_last(line);
        rc = a->line(a->ctx, line, e);
    }
    json_decref(line);
    return rc;
}

/* Tell every whole line; searched: bytes that are known to hold no end of line. */
static int tell_lines(struct answer *a, size_t searched, struct error *e)
{
    size_t at = 0;
    const uint8_t *end;
    int rc = 0;

    while (rc == 0 &&
           (end = memchr(a->text.data + at + searched, '\n', a->text.len - at - searched))) {
        size_t n = (size_t)(end - a->text.data) - at;
        rc = tell(a, a->text.data + at, n, e);
        at += n + 1;
        searched = 0;
    }
    memmove(a->text.data, a->text.data + at, a->text.len - at);
    a->text.len -= at;
    return rc;
}

static int read_answer(int fd, struct answer *a, uint64_t wait_ms, struct error *e)
{
    for (;;) {
        size_t before = a->text.len;
        uint8_t *room = buffer_grow(&a->text, READ_BYTES);
        if (!room || before > LINE_MAX_BYTES)
            return error_set(e, ERR_FAILED, "the service's answer is too long");
        ssize_t n = read(fd, room, READ_BYTES);
        a->text.len = before + (n > 0 ? (size_t)n : 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return silent(fd, wait_ms, e);
        if (n < 0 && errno != ECONNRESET)
            return error_sys(e, errno, "cannot read the service's answer");
        if (n <= 0)
            break;
        int rc = tell_lines(a, before, e);
        if (rc != 0)
            return rc;
    }
    return a->last && a->text.len == 0 ? 0 : went_away(e);
}

int client_process(const char *socket_path)
{
    struct error ignored = ERROR_INIT;
    struct sockaddr_un addr;
    int pid = 0;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd >= 0 && control_address(socket_path, &addr, &ignored) == 0 &&
        connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0)
        pid = process_of(fd);
    if (fd >= 0)
        close(fd);
    return pid;
}

int client_request(const char *socket_path, const json_t *request, uint64_t wait_ms,
                   client_line line, void *ctx, struct error *e)
{
    struct answer answer = {.line = line, .ctx = ctx, .text = BUFFER_INIT};
    uint64_t wait = at_least(wait_ms);
    int fd = connect_to(socket_path, wait, e);

    if (fd < 0)
        return fd;
    int rc = send_request(fd, request, wait, e);
    if (rc == 0)
        rc = read_answer(fd, &answer, wait, e);
    close(fd);
    buffer_release(&answer.text);
    return rc;
}
