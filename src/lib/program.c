#include "lib/program.h"

#include "base/buffer.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/banned.h"

enum { READ_BYTES = 65536, LINE_MAX_BYTES = 16 * 1024 * 1024, ARGS_MAX = 32 };

extern char **environ;

struct stream {
    int fd; /* -1: at its end */
    struct buffer held;
};

static char *which_program(void)
{
    const char *env = secure_getenv("WATCHKEEP_PROGRAM");

    if (env && *env)
        return text_format("%s", env);
    char *installed = text_format("%s/watchkeep", WK_BINDIR);
    if (installed && access(installed, X_OK) == 0)
        return installed;
    free(installed);
    return text_format("watchkeep"); /* by PATH */
}

/* The child gets /dev/null, its two pipes, and no other descriptor of the caller. */
static int spawn(char **argv, int out, int err, pid_t *pid)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none, all;

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attr);
    int rc = posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(&files, err, STDERR_FILENO);
    if (rc == 0)
        rc = posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    if (rc == 0)
        rc = posix_spawnp(pid, argv[0], &files, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    return rc;
}

/* A pipe whose writing end stands above the standard descriptors, which the child puts in place one
 * by one. */
static int make_pipe(int ends[2])
{
    if (pipe2(ends, O_CLOEXEC) != 0)
        return errno;
    int high = fcntl(ends[1], F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    int rc = high < 0 ? errno : 0;
    close(ends[1]);
    ends[1] = high;
    if (rc != 0)
        close(ends[0]);
    return rc;
}

static int start(char **argv, struct stream streams[2], pid_t *pid)
{
    int out[2], err[2];
    int rc = make_pipe(out);

    if (rc != 0)
        return rc;
    rc = make_pipe(err);
    if (rc == 0) {
        rc = spawn(argv, out[1], err[1], pid);
        close(err[1]);
        streams[1].fd = err[0];
    }
    close(out[1]);
    streams[0].fd = out[0];
    return rc;
}

static void give_lines(struct stream *s, int from_stderr, program_line line, void *ctx)
{
    size_t begin = 0;

    for (size_t i = 0; i < s->held.len; i++) {
        if (s->held.data[i] != '\n')
            continue;
        line(ctx, from_stderr, (const char *)s->held.data + begin, i - begin);
        begin = i + 1;
    }
    if (begin == 0)
        return;
    memmove(s->held.data, s->held.data + begin, s->held.len - begin);
    s->held.len -= begin;
}

static void end_stream(struct stream *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

static void read_stream(struct stream *s, int from_stderr, program_line line, void *ctx)
{
    char bytes[READ_BYTES];
    ssize_t n = read(s->fd, bytes, sizeof(bytes));

    if (n < 0 && errno == EINTR)
        return;
    if (n <= 0) {
        if (s->held.len > 0)
            line(ctx, from_stderr, (const char *)s->held.data, s->held.len);
        buffer_clear(&s->held);
        end_stream(s);
        return;
    }
    buffer_append(&s->held, bytes, (size_t)n);
    give_lines(s, from_stderr, line, ctx);
    if (!buffer_ok(&s->held) || s->held.len > LINE_MAX_BYTES)
        buffer_clear(&s->held);
}

static void read_all(struct stream streams[2], program_line line, void *ctx)
{
    while (streams[0].fd >= 0 || streams[1].fd >= 0) {
        struct pollfd p[2] = {{.fd = streams[0].fd, .events = POLLIN},
                              {.fd = streams[1].fd, .events = POLLIN}};
        if (poll(p, 2, -1) < 0)
            continue;
        for (int i = 0; i < 2; i++)
            if (p[i].revents)
                read_stream(&streams[i], i, line, ctx);
    }
}

static int wait_for(pid_t pid, int *exit_code, struct error *e)
{
    int status, rc;

    *exit_code = -1;
    do
        rc = waitpid(pid, &status, 0);
    while (rc < 0 && errno == EINTR);
    if (rc != pid)
        return 0;
    if (WIFSIGNALED(status))
        return error_set(e, ERR_FAILED, "the program 'watchkeep' was killed by signal %d",
                         WTERMSIG(status));
    *exit_code = WEXITSTATUS(status);
    return 0;
}

int program_run(const char *const *args, program_line line, void *ctx, int *exit_code,
                struct error *e)
{
    struct stream streams[2] = {{-1, BUFFER_INIT}, {-1, BUFFER_INIT}};
    char *argv[ARGS_MAX + 2] = {which_program()};
    char quoted[512];
    pid_t pid = 0;
    int n = 0;
    int rc = argv[0] ? 0 : ENOMEM;

    for (; rc == 0 && args[n]; n++) {
        argv[n + 1] = n < ARGS_MAX ? text_format("%s", args[n]) : NULL;
        if (!argv[n + 1])
            rc = ENOMEM;
    }
    if (rc == 0)
        rc = start(argv, streams, &pid);
    if (rc != 0) {
        rc = error_set(e, ERR_FAILED, "cannot start the program '%s': %s",
                       text_escape(argv[0] ? argv[0] : "watchkeep", quoted, sizeof(quoted)),
                       strerror(rc));
    } else {
        read_all(streams, line, ctx);
        rc = wait_for(pid, exit_code, e);
    }
    for (int i = 0; i < 2; i++) {
        end_stream(&streams[i]);
        buffer_release(&streams[i].held);
    }
    for (int i = 0; i <= ARGS_MAX; i++)
        free(argv[i]);
    return rc;
}
