#include "service/alert_program.h"

#include "base/clock.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/banned.h"

enum { REPORT_FD = STDERR_FILENO + 1, STOPPED_MS = 3000, KILLED_MS = 2000, NOT_STARTED = 127 };

extern char **environ;

/* What the child is given. */
struct gift {
    int input, output, report[2];
};

static void close_gift(struct gift *g)
{
    const int all[] = {g->input, g->output, g->report[0], g->report[1]};

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (all[i] >= 0)
            close(all[i]);
    }
}

static bool put_text(int fd, const char *text)
{
    size_t len = strlen(text), at = 0;

    while (fd >= 0 && at < len) {
        ssize_t n = write(fd, text + at, len - at);
        if (n < 0 && errno != EINTR)
            return false;
        at += n > 0 ? (size_t)n : 0;
    }
    return fd >= 0 && lseek(fd, 0, SEEK_SET) == 0;
}

static int open_gift(struct gift *g, const char *text, struct error *e)
{
    *g = (struct gift){.input = -1, .output = -1, .report = {-1, -1}};
    g->input = memfd_create("event", MFD_CLOEXEC);
    if (put_text(g->input, text))
        g->output = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (g->output >= 0 && pipe2(g->report, O_CLOEXEC | O_NONBLOCK) == 0)
        return 0;
    error_sys(e, errno, "cannot prepare what a program is given");
    close_gift(g);
    return e->code;
}

/* ---- the child ---- */

/* Between fork and exec: only calls that are safe in a signal handler. Descriptors go before the
 * exec, which may wait for a disk: a lock of ours must not live on in here. */
static void become(const char *path, const struct gift *g)
{
    char *const argv[] = {(char *)(uintptr_t)path, NULL};
    const struct sigaction usual = {.sa_handler = SIG_DFL};
    sigset_t none;
    int why;

    for (int n = 1; n < NSIG; n++)
        sigaction(n, &usual, NULL);
    setsid();
    if (dup2(g->input, STDIN_FILENO) < 0 || dup2(g->output, STDOUT_FILENO) < 0 ||
        (g->report[1] != REPORT_FD && dup3(g->report[1], REPORT_FD, O_CLOEXEC) < 0))
        _exit(NOT_STARTED);
    (void)close_range(REPORT_FD + 1, UINT_MAX, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(path, argv, environ);
    why = errno;
    (void)!write(REPORT_FD, &why, sizeof(why));
    _exit(NOT_STARTED);
}

/* A pidfd. Not posix_spawn: that returns only when the program has been read from its disk. No
 * signal may be handled in the child as if it were us. */
static int start(const char *path, const struct gift *g, pid_t *pid, struct error *e)
{
    sigset_t all, old;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    *pid = fork();
    if (*pid == 0)
        become(path, g);
    int sys = errno;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (*pid < 0)
        return error_sys(e, sys, "cannot start a process");
    int fd = pidfd_open(*pid, 0);
    if (fd >= 0)
        return fd;
    sys = errno;
    kill(*pid, SIGKILL);
    (void)waitpid(*pid, NULL, WNOHANG);
    return error_sys(e, sys, "cannot watch a process");
}

/* ---- waiting ---- */

enum how { ENDED, TOO_LATE, STOPPED };

static enum how wait_for(int pidfd, int stop, uint64_t limit_ms)
{
    uint64_t end = clock_mono_ns() / 1000000 + limit_ms;
    struct pollfd fds[] = {{.fd = pidfd, .events = POLLIN}, {.fd = stop, .events = POLLIN}};

    for (;;) {
        uint64_t now = clock_mono_ns() / 1000000;
        uint64_t left = now < end ? end - now : 0;
        int n = poll(fds, 2, left < INT_MAX ? (int)left : INT_MAX);
        if (n > 0 && fds[0].revents)
            return ENDED;
        if (n > 0)
            return STOPPED;
        if (n == 0 && left == 0)
            return TOO_LATE;
    }
}

/* Whether it was there to be reaped; *end says how it ended. */
static bool reap(int pidfd, siginfo_t *end)
{
    *end = (siginfo_t){0};
    return waitid(P_PIDFD, (id_t)pidfd, end, WEXITED | WNOHANG) == 0 && end->si_pid != 0;
}

static int tell_end(const struct alert_program *p, const siginfo_t *end, const struct gift *g,
                    struct error *e)
{
    char quoted[PATH_MAX];
    int why;

    text_escape(p->path, quoted, sizeof(quoted));
    if (end->si_code != CLD_EXITED)
        return error_set(e, ERR_FAILED, "'%s' was ended by signal %d", quoted, end->si_status);
    if (end->si_status == NOT_STARTED &&
        read(g->report[0], &why, sizeof(why)) == (ssize_t)sizeof(why))
        return error_sys(e, why, "'%s' cannot be started", quoted);
    if (end->si_status != 0)
        return error_set(e, ERR_FAILED, "'%s' ended with exit code %d", quoted, end->si_status);
    return 0;
}

static int end_it(struct alert_program *p, int pidfd, pid_t pid, enum how how, struct error *e)
{
    char quoted[PATH_MAX];
    siginfo_t end;

    kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
    (void)wait_for(pidfd, -1, KILLED_MS);
    bool gone = reap(pidfd, &end);
    if (gone)
        close(pidfd);
    else
        p->left = pidfd;
    if (how == STOPPED)
        return error_set(e, ERR_CANCELLED, "stopped");
    return error_set(e, ERR_FAILED, "'%s' did not end within %llu s and %s",
                     text_escape(p->path, quoted, sizeof(quoted)),
                     (unsigned long long)p->limit_ms / 1000,
                     gone ? "was killed" : "cannot be killed");
}

/* ---- the outside ---- */

static int look_at_left(struct alert_program *p, struct error *e)
{
    siginfo_t end;

    if (p->left < 0)
        return 0;
    if (!reap(p->left, &end))
        return error_set(e, ERR_FAILED, "one that was started before cannot be killed yet");
    alert_program_release(p);
    return 0;
}

int alert_program_run(struct alert_program *p, const char *text, struct error *e)
{
    siginfo_t end;
    struct gift g;
    pid_t pid;

    int rc = look_at_left(p, e);
    if (rc == 0)
        rc = open_gift(&g, text, e);
    if (rc != 0)
        return rc;
    int pidfd = start(p->path, &g, &pid, e);
    if (pidfd < 0) {
        close_gift(&g);
        return pidfd;
    }
    enum how how = wait_for(pidfd, p->stop, p->limit_ms);
    if (how == STOPPED && wait_for(pidfd, -1, STOPPED_MS) == ENDED)
        how = ENDED;
    if (how == ENDED && reap(pidfd, &end)) {
        rc = tell_end(p, &end, &g, e);
        close(pidfd);
    } else {
        rc = end_it(p, pidfd, pid, how, e);
    }
    close_gift(&g);
    return rc;
}

void alert_program_release(struct alert_program *p)
{
    if (p->left >= 0)
        close(p->left);
    p->left = -1;
}
