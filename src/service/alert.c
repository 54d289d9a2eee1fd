#include "service/alert.h"

#include "base/log.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#include "base/banned.h"

enum { TIME_OUT_MS = 30000, WAITING_MAX = 100, WHY_MAX = 512 };

struct message {
    STAILQ_ENTRY(message) link;
    char *text;
};

struct alert {
    uv_loop_t *loop;
    void (*ended)(void *ctx);
    void *ctx;
    char *command; /* or NULL */
    STAILQ_HEAD(, message) waiting;
    size_t count;
    bool running, timed_out, closing;
    uv_process_t process;
    uv_pipe_t input;
    uv_timer_t timer;
    uv_write_t write;
    char *text; /* being written */
    int open;   /* handles of the run that are not closed yet */
    char why[WHY_MAX];
    struct wall_time failing_since; /* s = 0: the last one was told */
};

static void next(struct alert *a);

static void free_alert(struct alert *a)
{
    free(a->command);
    free(a);
}

static void drop_first(struct alert *a)
{
    struct message *m = STAILQ_FIRST(&a->waiting);

    STAILQ_REMOVE_HEAD(&a->waiting, link);
    a->count--;
    free(m->text);
    free(m);
}

static void drop_all(struct alert *a)
{
    while (!STAILQ_EMPTY(&a->waiting))
        drop_first(a);
}

/* ---- what came of it ---- */

static void told(struct alert *a)
{
    a->failing_since = (struct wall_time){0};
}

static void failed(struct alert *a, const char *why)
{
    if (a->failing_since.s == 0)
        a->failing_since = clock_wall();
    snprintf(a->why, sizeof(a->why), "'%s' %s", a->command ? a->command : "?", why);
    log_error("an alert was not told: %s", a->why);
}

static void failed_with(struct alert *a, const char *how, int number)
{
    char why[64];

    snprintf(why, sizeof(why), "%s %d", how, number);
    failed(a, why);
}

/* ---- one run ---- */

static void on_closed(uv_handle_t *handle)
{
    struct alert *a = handle->data;

    if (--a->open > 0)
        return;
    free(a->text);
    a->text = NULL;
    a->running = false;
    if (a->closing) {
        free_alert(a);
        return;
    }
    if (a->ended)
        a->ended(a->ctx);
    next(a);
}

static void close_run(struct alert *a)
{
    uv_handle_t *const all[] = {(uv_handle_t *)&a->process, (uv_handle_t *)&a->input,
                                (uv_handle_t *)&a->timer};

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (!uv_is_closing(all[i]))
            uv_close(all[i], on_closed);
    }
}

static void on_exit_of(uv_process_t *process, int64_t status, int number)
{
    struct alert *a = process->data;

    if (a->timed_out)
        failed(a, "did not end within 30 s and was killed");
    else if (number != 0)
        failed_with(a, "was ended by signal", number);
    else if (status != 0)
        failed_with(a, "ended with exit code", (int)status);
    else
        told(a);
    close_run(a);
}

static void kill_run(struct alert *a)
{
    int pid = uv_process_get_pid(&a->process);

    if (pid > 1)
        kill(-pid, SIGKILL);
}

static void on_time_out(uv_timer_t *timer)
{
    struct alert *a = timer->data;

    a->timed_out = true;
    kill_run(a);
}

static void on_written(uv_write_t *write, int status)
{
    struct alert *a = write->data;

    /* One that does not read its input tells by its exit code whether that was right. */
    if (!uv_is_closing((uv_handle_t *)&a->input))
        uv_close((uv_handle_t *)&a->input, on_closed);
}

static int spawn(struct alert *a)
{
    char *args[] = {a->command, NULL};
    uv_stdio_container_t stdio[3] = {
        {.flags = UV_CREATE_PIPE | UV_READABLE_PIPE, .data.stream = (uv_stream_t *)&a->input},
        {.flags = UV_IGNORE},
        {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO},
    };
    const uv_process_options_t options = {
        .exit_cb = on_exit_of,
        .file = a->command,
        .args = args,
        .flags = UV_PROCESS_DETACHED,
        .stdio_count = 3,
        .stdio = stdio,
    };

    return uv_spawn(a->loop, &a->process, &options);
}

static void start(struct alert *a)
{
    char why[128];

    a->running = true;
    a->timed_out = false;
    a->open = 3;
    uv_pipe_init(a->loop, &a->input, 0);
    uv_timer_init(a->loop, &a->timer);
    a->process.data = a->input.data = a->timer.data = a->write.data = a;
    int rc = spawn(a);
    a->process.data = a;
    if (rc != 0) {
        snprintf(why, sizeof(why), "cannot be started: %s", uv_strerror(rc));
        failed(a, why);
        close_run(a);
        return;
    }
    uv_timer_start(&a->timer, on_time_out, TIME_OUT_MS, 0);
    uv_buf_t buf = uv_buf_init(a->text, (unsigned)strlen(a->text));
    if (uv_write(&a->write, (uv_stream_t *)&a->input, &buf, 1, on_written) != 0)
        on_written(&a->write, 0);
}

static void next(struct alert *a)
{
    struct message *m = STAILQ_FIRST(&a->waiting);

    if (a->running || !m || !a->command)
        return;
    a->text = m->text;
    m->text = NULL;
    drop_first(a);
    start(a);
}

/* ---- the outside ---- */

struct alert *alert_new(uv_loop_t *loop, void (*ended)(void *ctx), void *ctx)
{
    struct alert *a = calloc(1, sizeof(*a));

    if (!a)
        return NULL;
    a->loop = loop;
    a->ended = ended;
    a->ctx = ctx;
    STAILQ_INIT(&a->waiting);
    return a;
}

void alert_command(struct alert *a, const char *command)
{
    char *fresh = command && *command ? strdup(command) : NULL;

    free(a->command); /* libuv keeps no pointer to it */
    a->command = fresh;
    if (!fresh) {
        drop_all(a);
        told(a);
    }
}

bool alert_wanted(const struct alert *a)
{
    return a && a->command;
}

void alert_send(struct alert *a, json_t *event)
{
    struct message *m = calloc(1, sizeof(*m));
    char *text = event ? json_dumps(event, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;

    json_decref(event);
    if (!a->command || !m || !text) {
        if (a->command)
            failed(a, "was not given an event: out of memory");
        free(m);
        free(text);
        return;
    }
    if (a->count == WAITING_MAX) {
        log_warn("too many alerts wait to be told: the oldest is dropped");
        drop_first(a);
    }
    m->text = text;
    STAILQ_INSERT_TAIL(&a->waiting, m, link);
    a->count++;
    next(a);
}

const char *alert_failure(const struct alert *a, struct wall_time *since)
{
    if (!a || a->failing_since.s == 0)
        return NULL;
    *since = a->failing_since;
    return a->why;
}

void alert_close(struct alert *a)
{
    if (!a)
        return;
    drop_all(a);
    a->closing = true;
    if (!a->running) {
        free_alert(a);
        return;
    }
    kill_run(a);
    close_run(a);
}
