#include "capture/helper_process.h"

#include "base/clock.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/banned.h"

enum { REAP_MS = 2000, BEAT_MS = 500 };

extern char **environ;

void helper_process_init(struct helper_process *p)
{
    p->pid = 0;
    p->pidfd = p->sock = -1;
}

/* A process that the kernel cannot kill yet (a disk that does not answer) is not waited for. */
static void reap(struct helper_process *p)
{
    struct pollfd dead = {.fd = p->pidfd, .events = POLLIN};
    int rc;

    if (p->pidfd >= 0) {
        pidfd_send_signal(p->pidfd, SIGKILL, NULL, 0);
        do
            rc = poll(&dead, 1, REAP_MS);
        while (rc < 0 && errno == EINTR);
        close(p->pidfd);
    }
    do
        rc = waitpid(p->pid, NULL, p->pidfd >= 0 ? WNOHANG : 0);
    while (rc < 0 && errno == EINTR);
}

void helper_process_end(struct helper_process *p)
{
    if (p->sock >= 0)
        close(p->sock); /* alone this ends a helper that is well */
    if (p->pid > 0)
        reap(p);
    helper_process_init(p);
}

/* Descriptors 0 and 1 are /dev/null, 2 stays, HELPER_FD is the socket, nothing else is passed. */
static int spawn(const char *program, int sock, pid_t *pid)
{
    char *argv[] = {text_format("%s", HELPER_NAME), NULL};
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none, all;
    int rc = argv[0] ? 0 : ENOMEM;

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attr);
    if (rc == 0)
        rc = posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (rc == 0)
        rc = posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(&files, sock, HELPER_FD);
    if (rc == 0)
        rc = posix_spawn_file_actions_addclosefrom_np(&files, HELPER_FD + 1);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    if (rc == 0)
        rc = posix_spawn(pid, program, &files, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    free(argv[0]);
    return rc;
}

static int start(struct helper_process *p, const char *program, struct error *e)
{
    char quoted[PATH_MAX];
    pid_t pid = 0;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return error_sys(e, errno, "cannot make a socket for the capture helper");
    /* The file actions put 0..HELPER_FD in place one by one: the socket must stand above them. */
    int theirs = fcntl(pair[1], F_DUPFD_CLOEXEC, HELPER_FD + 1);
    int rc = theirs < 0 ? errno : spawn(program, theirs, &pid);
    if (theirs >= 0)
        close(theirs);
    close(pair[1]);
    if (rc != 0) {
        close(pair[0]);
        return error_sys(e, rc, "cannot start the capture helper '%s'",
                         text_escape(program, quoted, sizeof(quoted)));
    }
    p->sock = pair[0];
    p->pidfd = pidfd_open(pid, 0);
    p->pid = pid;
    return 0;
}

static bool has_died(const struct helper_process *p)
{
    struct pollfd end = {.fd = p->sock, .events = POLLIN | POLLRDHUP};

    return poll(&end, 1, 0) != 0; /* nothing is to be read between requests */
}

static atomic_uint_least64_t beats;

uint64_t helper_process_beats(void)
{
    return atomic_load(&beats);
}

/* What it has computed so far; one that is stopped, or waits for a disk that does not answer, stays
 * where it is. */
static uint64_t computed_ns(pid_t pid)
{
    struct timespec t = {0};
    clockid_t clock;

    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &t) != 0)
        return 0;
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* 1: something is there to be read; 0: the time is over. */
static int wait_for_reply(const struct helper_process *h, uint64_t limit_ms)
{
    uint64_t end = clock_mono_ns() + limit_ms * UINT64_C(1000000);
    struct pollfd p = {.fd = h->sock, .events = POLLIN | POLLRDHUP};
    uint64_t seen = computed_ns(h->pid);

    for (;;) {
        uint64_t now = clock_mono_ns();
        uint64_t left = now < end ? (end - now) / 1000000 + 1 : 0;
        int rc = poll(&p, 1, left > BEAT_MS ? BEAT_MS : (int)left);
        if (rc > 0)
            return 1;
        if (left == 0)
            return 0;
        uint64_t computed = computed_ns(h->pid);
        if (computed != seen)
            atomic_fetch_add(&beats, 1);
        seen = computed;
    }
}

static int receive(struct helper_process *p, uint64_t limit_ms, struct helper_reply *reply,
                   struct error *e)
{
    ssize_t n;

    if (!wait_for_reply(p, limit_ms))
        return error_set(e, ERR_FAILED, "the capture helper did not answer for %llu ms",
                         (unsigned long long)limit_ms);
    do
        n = recv(p->sock, p->message, sizeof(p->message), MSG_TRUNC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return error_sys(e, errno, "cannot hear the capture helper");
    if (n == 0)
        return error_set(e, ERR_FAILED, "the capture helper died");
    if ((size_t)n > sizeof(p->message) || !helper_reply_decode(p->message, (size_t)n, reply))
        return error_set(e, ERR_FAILED, "the capture helper gave no answer that makes sense");
    return 0;
}

int helper_process_ask(struct helper_process *p, const char *program,
                       const struct helper_request *q, uint64_t limit_ms,
                       struct helper_reply *reply, struct error *e)
{
    struct buffer out = BUFFER_INIT;
    int rc = 0;

    helper_request_encode(q, &out);
    if (!buffer_ok(&out) || out.len > HELPER_MESSAGE_MAX)
        rc = error_set(e, ERR_FAILED, "the path is too long for the capture helper");
    if (rc == 0 && p->pid > 0 && has_died(p))
        helper_process_end(p);
    if (rc == 0 && p->pid == 0)
        rc = start(p, program, e);
    if (rc == 0) {
        if (send(p->sock, out.data, out.len, MSG_NOSIGNAL) < 0)
            rc = error_sys(e, errno, "cannot ask the capture helper");
        else
            rc = receive(p, limit_ms, reply, e);
        if (rc != 0)
            helper_process_end(p);
    }
    buffer_release(&out);
    return rc;
}
