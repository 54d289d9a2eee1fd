#include "service/alert.h"

#include "base/log.h"
#include "service/alert_program.h"
#include "service/jobs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <unistd.h>

#include "base/banned.h"

enum { TIME_OUT_MS = 30000, WAITING_MAX = 100 };

struct message {
    STAILQ_ENTRY(message) link;
    char *key;
    json_t *event;
};

struct alert {
    uv_loop_t *loop;
    alert_ended ended;
    void *ctx;
    char *command; /* or NULL */
    unsigned attempts;
    uint64_t delay_ms;
    STAILQ_HEAD(, message) waiting; /* the first one may be at work */
    size_t count;
    unsigned attempt; /* of the first one; 0: not tried yet */
    uv_timer_t *rest; /* between two tries */
    struct jobs *jobs;
    int stop; /* eventfd */
    bool at_work;
    struct job job;
    struct alert_program program; /* of the job */
    char *path, *text;            /* its */
    struct error error;
    int rc;
    struct error failure;
    struct wall_time failing_since; /* s = 0: the last one was told */
};

static void next(struct alert *a);

static void free_message(struct message *m)
{
    free(m->key);
    json_decref(m->event);
    free(m);
}

/* ---- what came of it ---- */

static void well(struct alert *a)
{
    a->failing_since = (struct wall_time){0};
}

static void failed(struct alert *a, const struct error *why)
{
    if (a->failing_since.s == 0)
        a->failing_since = clock_wall();
    a->failure = *why;
    log_error("an alert was not told: %s", why->message);
}

static void no_memory(struct alert *a)
{
    struct error e = ERROR_INIT;

    error_set(&e, ERR_FAILED, "out of memory");
    failed(a, &e);
}

static void take_out(struct alert *a, struct message *m)
{
    if (m == STAILQ_FIRST(&a->waiting)) {
        uv_timer_stop(a->rest);
        a->attempt = 0;
    }
    STAILQ_REMOVE(&a->waiting, m, message, link);
    a->count--;
}

/* It has been told, or is given up. */
static void end(struct alert *a, struct message *m, bool told)
{
    take_out(a, m);
    a->ended(a->ctx, m->key, m->event, told);
    free_message(m);
}

/* The one at work stays until it is done. */
static void drop_all(struct alert *a)
{
    struct message *m;

    while ((m = STAILQ_FIRST(&a->waiting)) && (!a->at_work || (m = STAILQ_NEXT(m, link)) != NULL)) {
        take_out(a, m);
        free_message(m);
    }
}

/* ---- one try ---- */

static void run(struct job *job)
{
    struct alert *a = (struct alert *)((char *)job - offsetof(struct alert, job));

    a->rc = alert_program_run(&a->program, a->text, &a->error);
}

static void on_rest(uv_timer_t *timer)
{
    next(timer->data);
}

static void free_try(struct alert *a)
{
    a->at_work = false;
    free(a->path);
    free(a->text);
    a->path = a->text = NULL;
}

/* attempt is 0 where another program was named meanwhile. */
static void on_done(struct job *job)
{
    struct alert *a = (struct alert *)((char *)job - offsetof(struct alert, job));

    free_try(a);
    if (!a->command) {
        drop_all(a);
    } else if (a->rc == 0) {
        well(a);
        end(a, STAILQ_FIRST(&a->waiting), true);
    } else {
        failed(a, &a->error);
        if (a->attempt >= a->attempts)
            end(a, STAILQ_FIRST(&a->waiting), false);
        else if (a->attempt > 0)
            uv_timer_start(a->rest, on_rest, a->delay_ms, 0);
    }
    next(a);
}

static bool prepare(struct alert *a)
{
    struct error e = ERROR_INIT;

    a->path = strdup(a->command);
    a->text = json_dumps(STAILQ_FIRST(&a->waiting)->event, JSON_COMPACT | JSON_REAL_PRECISION(9));
    if (!a->path || !a->text) {
        no_memory(a);
        return false;
    }
    if (a->jobs || jobs_open(a->loop, false, &a->jobs, &e) == 0)
        return true;
    failed(a, &e);
    return false;
}

static void next(struct alert *a)
{
    if (a->at_work || STAILQ_EMPTY(&a->waiting) || !a->command ||
        uv_is_active((uv_handle_t *)a->rest))
        return;
    error_clear(&a->error);
    a->rc = ERR_CANCELLED;
    a->attempt++;
    a->at_work = true;
    a->job = (struct job){.rank = JOB_SAVE, .run = run, .done = on_done};
    if (!prepare(a)) {
        free_try(a);
        end(a, STAILQ_FIRST(&a->waiting), false);
        return;
    }
    a->program.path = a->path;
    jobs_push(a->jobs, &a->job);
}

/* ---- the outside ---- */

struct alert *alert_new(uv_loop_t *loop, alert_ended ended, void *ctx)
{
    struct alert *a = calloc(1, sizeof(*a));
    uv_timer_t *rest = calloc(1, sizeof(*rest));

    if (!a || !rest || (a->stop = eventfd(0, EFD_CLOEXEC)) < 0) {
        free(a);
        free(rest);
        return NULL;
    }
    uv_timer_init(loop, rest);
    rest->data = a;
    a->rest = rest;
    a->loop = loop;
    a->ended = ended;
    a->ctx = ctx;
    a->attempts = 1;
    a->program = (struct alert_program){.limit_ms = TIME_OUT_MS, .stop = a->stop, .left = -1};
    STAILQ_INIT(&a->waiting);
    return a;
}

void alert_command(struct alert *a, const char *command)
{
    char *fresh = command && *command ? strdup(command) : NULL;
    bool same = fresh && a->command && strcmp(fresh, a->command) == 0;

    free(a->command);
    a->command = fresh;
    if (!fresh) {
        drop_all(a);
        well(a);
    } else if (!same) {
        uv_timer_stop(a->rest);
        a->attempt = 0;
        next(a);
    }
}

void alert_retries(struct alert *a, unsigned attempts, uint64_t delay_ms)
{
    a->attempts = attempts;
    a->delay_ms = delay_ms;
}

bool alert_wanted(const struct alert *a)
{
    return a && a->command;
}

/* What waits longest, and is not at work. */
static void drop_oldest(struct alert *a)
{
    struct message *m = STAILQ_FIRST(&a->waiting);

    log_warn("too many alerts wait to be told: the oldest is given up");
    end(a, a->at_work ? STAILQ_NEXT(m, link) : m, false);
}

void alert_send(struct alert *a, const char *key, json_t *event)
{
    struct message *m = calloc(1, sizeof(*m));
    char *own = key ? strdup(key) : NULL;

    if (!a->command || !event || !m || !own) {
        if (a->command)
            no_memory(a);
        json_decref(event);
        free(own);
        free(m);
        return;
    }
    m->key = own;
    m->event = event;
    if (a->count == WAITING_MAX)
        drop_oldest(a);
    STAILQ_INSERT_TAIL(&a->waiting, m, link);
    a->count++;
    next(a);
}

bool alert_holds(const struct alert *a, const char *key)
{
    const struct message *m;

    STAILQ_FOREACH(m, &a->waiting, link)
    {
        if (strcmp(m->key, key) == 0)
            return true;
    }
    return false;
}

const char *alert_failure(const struct alert *a, struct wall_time *since)
{
    if (!a || a->failing_since.s == 0)
        return NULL;
    *since = a->failing_since;
    return a->failure.message;
}

static void free_handle(uv_handle_t *handle)
{
    free(handle);
}

void alert_close(struct alert *a)
{
    if (!a)
        return;
    (void)eventfd_write(a->stop, 1);
    jobs_close(a->jobs);
    if (a->at_work && a->rc == 0)
        end(a, STAILQ_FIRST(&a->waiting), true);
    free_try(a);
    drop_all(a);
    uv_close((uv_handle_t *)a->rest, free_handle);
    alert_program_release(&a->program);
    close(a->stop);
    free(a->command);
    free(a);
}
