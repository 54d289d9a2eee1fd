#include "service/timed.h"

#include "base/log.h"
#include "service/keeper.h"
#include "service/status.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

#define NS_A_MS UINT64_C(1000000)

struct timed_jobs {
    struct schedule *schedule;
    struct alarm *alarm;
    uv_fs_event_t *zone; /* of /etc, for a change of /etc/localtime; may be NULL */
    bool held;           /* a job that is due could not run */
    struct service *service;
    struct job reading; /* of what was done last */
    bool is_reading, read_again;
    struct timed_pasts past; /* the reading's, as are these */
    struct error read_error;
    int read_rc;
};

/* ---- clocks ---- */

static int64_t wall_s(void *ctx)
{
    return clock_wall().s;
}

static uint64_t boot_ms(void *ctx)
{
    return clock_boot_ns() / NS_A_MS;
}

/* ---- running ---- */

static void free_run(struct timed_run *run)
{
    free(run->watch);
    free(run);
}

static void tell_end(const struct timed_run *run, bool again)
{
    const char *watch = run->watch ? run->watch : "", *sep = run->watch ? ": " : "";

    if (run->rc == 0)
        log_info("%s%s%s done", watch, sep, timed_word(run->kind));
    else if (run->rc != ERR_CANCELLED)
        log_error("%s%s%s failed (try %u%s): %s", watch, sep, timed_word(run->kind), run->attempt,
                  again ? ", to be tried again" : ", the last for now", run->error.message);
}

static void on_ended(struct job *job)
{
    struct timed_run *run = (struct timed_run *)job;
    struct service *s = run->service;

    if (run->only_state) {
        service_problems_changed(s);
    } else {
        bool again = schedule_ended(s->timed->schedule, run->timed, run->rc, &run->error);
        tell_end(run, again);
        service_store_used(s);
        service_problems_changed(s);
    }
    free_run(run);
    service_stop_on(s);
    service_rearm(s);
}

static enum job_rank rank_of(enum timed_kind kind)
{
    return kind == TIMED_ARCHIVE ? JOB_ARCHIVE : kind == TIMED_VERIFY ? JOB_VERIFY : JOB_PRUNE;
}

static struct timed_run *new_run(struct service *s, const struct timed *t)
{
    struct timed_run *run = calloc(1, sizeof(*run));

    if (!run)
        return NULL;
    run->job = (struct job){.rank = rank_of(t->kind), .run = timed_work, .done = on_ended};
    run->service = s;
    run->kind = t->kind;
    run->config = s->config;
    run->slot = t->slot;
    run->attempt = t->attempt;
    run->last = schedule_last_attempt(s->timed->schedule, t);
    run->watch = t->watch ? strdup(t->watch) : NULL;
    if (run->watch || !t->watch)
        return run;
    free_run(run);
    return NULL;
}

/* The state that a start finds comes first; a folder that is gone, or an empty one in its place,
 * makes no archive (but prune looks at it, and freezes). */
static bool may_run(const struct service *s, const struct timed *t)
{
    const struct keeper *k;

    if (s->stopping || !s->ready || !s->config->enabled)
        return false;
    LIST_FOREACH(k, &s->keepers, link)
    {
        if (!k->root)
            continue;
        bool missing = k->since[PROBLEM_MISSING].s != 0 || k->since[PROBLEM_VACANT].s != 0;
        bool own = t->watch && strcmp(k->spec.name, t->watch) == 0;
        bool unseen = !missing && k->last_checked.s == 0 && k->failures == 0;
        if ((missing && own && t->kind == TIMED_ARCHIVE) || (unseen && (own || !t->watch)))
            return false;
    }
    return true;
}

static bool begin(void *ctx, struct timed *t)
{
    struct service *s = ctx;
    struct timed_run *run = may_run(s, t) ? new_run(s, t) : NULL;

    if (!run) {
        s->timed->held = true;
        return false;
    }
    run->timed = t;
    timed_state(t, true, run->state);
    jobs_push(s->background, &run->job);
    return true;
}

static void moved(void *ctx, const struct timed *t)
{
    struct service *s = ctx;
    /* One that has failed still owes its slot: a restart tries it, and until then the log says that
     * it failed. */
    struct timed_run *run = s->stopping || t->failed ? NULL : new_run(s, t);

    if (!run)
        return;
    run->only_state = true;
    timed_state(t, false, run->state);
    jobs_push(s->background, &run->job);
}

/* ---- what was done last ---- */

static bool is_of(const struct timed *t, const char *watch)
{
    return !t->watch || strcmp(t->watch, watch) == 0;
}

static void take_past(struct service *s, const struct timed_past *p)
{
    struct schedule *schedule = s->timed->schedule;
    struct timed *t;

    if (p->state) {
        t = schedule_find(schedule, p->kind, p->watch);
        if (t)
            schedule_known(schedule, t, p->state);
        return;
    }
    for (t = schedule_first(schedule); t; t = LIST_NEXT(t, link)) {
        if (is_of(t, p->watch))
            schedule_known_since(schedule, t, p->first);
    }
}

static void run_reading(struct job *job)
{
    struct timed_jobs *t =
        (struct timed_jobs *)((char *)job - offsetof(struct timed_jobs, reading));
    struct service *s = t->service;

    pthread_rwlock_rdlock(&s->store_lock);
    t->read_rc = timed_past_read(s->repo, &t->past, &t->read_error);
    pthread_rwlock_unlock(&s->store_lock);
}

static void read_past(struct service *s);

static void on_read(struct job *job)
{
    struct timed_jobs *t =
        (struct timed_jobs *)((char *)job - offsetof(struct timed_jobs, reading));
    struct service *s = t->service;

    t->is_reading = false;
    if (t->read_rc != 0)
        log_warn("when the timed jobs ran last cannot be read: %s", t->read_error.message);
    for (size_t i = 0; t->read_rc == 0 && i < t->past.count; i++)
        take_past(s, &t->past.list[i]);
    timed_past_release(&t->past);
    if (t->read_again && !s->stopping)
        read_past(s);
    if (!s->stopping)
        timed_look(s);
    service_stop_on(s);
    service_rearm(s);
}

/* By a worker: whoever makes the catalog anew has those who ask for it wait. */
static void read_past(struct service *s)
{
    struct timed_jobs *t = s->timed;

    t->read_again = t->is_reading;
    if (t->is_reading)
        return;
    t->is_reading = true;
    t->read_error = (struct error)ERROR_INIT;
    t->reading = (struct job){.rank = JOB_ARCHIVE, .run = run_reading, .done = on_read};
    jobs_push(s->jobs, &t->reading);
}

void timed_saved(struct service *s, const char *watch)
{
    struct timed *t;
    bool look = s->timed->held;

    for (t = schedule_first(s->timed->schedule); t; t = LIST_NEXT(t, link)) {
        if (t->known || !is_of(t, watch))
            continue;
        if (s->timed->is_reading) { /* it may have run before, which counts more */
            s->timed->read_again = true;
            continue;
        }
        schedule_known_since(s->timed->schedule, t, clock_wall().s);
        look = true;
    }
    if (look)
        timed_look(s);
}

void timed_settled(struct service *s, enum timed_kind kind, const char *watch)
{
    struct timed *t;

    for (t = schedule_first(s->timed->schedule); t; t = LIST_NEXT(t, link)) {
        if (t->kind == kind && !t->gone && (!watch || is_of(t, watch)) && schedule_settled(t))
            moved(s, t);
    }
    service_problems_changed(s);
}

/* ---- rules ---- */

const char *timed_rule(const struct config *c, enum timed_kind kind, const char *watch)
{
    if (kind == TIMED_VERIFY)
        return config_text(c, "verify", NULL, "at");
    return kind == TIMED_ARCHIVE ? config_text(c, "archive", watch, "at")
                                 : config_text(c, "retention", watch, "prune_at");
}

static void set_rule(struct service *s, enum timed_kind kind, const char *watch, const char *rule)
{
    struct error e = ERROR_INIT;

    if (schedule_set(s->timed->schedule, kind, watch, rule, &e) != 0)
        log_error("%s will not run: %s", timed_word(kind), e.message);
}

/* Archives of watches that are configured no more. */
static void drop_old(struct service *s)
{
    struct timed *t, *next;

    for (t = schedule_first(s->timed->schedule); t; t = next) {
        next = LIST_NEXT(t, link);
        if (!t->gone && t->watch && !config_watch(s->config, t->watch))
            set_rule(s, t->kind, t->watch, NULL);
    }
}

void timed_configure(struct service *s)
{
    const struct config *c = s->config;

    schedule_retries(s->timed->schedule, (unsigned)config_number(c, "retry", NULL, "attempts"),
                     config_number(c, "retry", NULL, "delay"));
    drop_old(s);
    for (size_t i = 0; i < c->watch_count; i++) {
        const char *watch = c->watches[i].name;
        set_rule(s, TIMED_ARCHIVE, watch, timed_rule(c, TIMED_ARCHIVE, watch));
        set_rule(s, TIMED_PRUNE, watch, timed_rule(c, TIMED_PRUNE, watch));
    }
    set_rule(s, TIMED_VERIFY, NULL, timed_rule(c, TIMED_VERIFY, NULL));
    read_past(s);
}

/* ---- the loop ---- */

void timed_look(struct service *s)
{
    s->timed->held = false;
    schedule_tick(s->timed->schedule);
    timed_rearm(s);
}

static void on_wall(void *ctx)
{
    struct service *s = ctx;

    timed_look(s);
    service_problems_changed(s); /* a watch may have been unchecked for too long */
    service_rearm(s);
}

static void on_zone(uv_fs_event_t *event, const char *name, int events, int status)
{
    if (status == 0 && name && strcmp(name, "localtime") == 0)
        on_wall(event->data);
}

void timed_rearm(struct service *s)
{
    if (!s->timed || s->stopping)
        return;
    int64_t at = schedule_due(s->timed->schedule);
    int64_t age = status_max_age_at(s);
    alarm_set(s->timed->alarm, alarm_wall_ns(age < at ? age : at));
}

static void free_handle(uv_handle_t *handle)
{
    free(handle);
}

/* Where it cannot be watched, the next wake-up sees a change. */
static void watch_zone(struct service *s)
{
    uv_fs_event_t *zone = calloc(1, sizeof(*zone));

    if (!zone || uv_fs_event_init(&s->loop, zone) != 0) {
        free(zone);
        return;
    }
    zone->data = s;
    (void)uv_fs_event_start(zone, on_zone, "/etc", 0);
    s->timed->zone = zone;
}

int timed_open(struct service *s, struct error *e)
{
    const struct schedule_clock clock = {.wall_s = wall_s, .boot_ms = boot_ms, .zone = &zone_local};
    const struct schedule_calls calls = {.begin = begin, .moved = moved, .ctx = s};
    struct timed_jobs *t = calloc(1, sizeof(*t));

    s->timed = t;
    if (t)
        t->service = s;
    if (!t || !(t->schedule = schedule_new(&clock, &calls)))
        return error_sys(e, ENOMEM, "cannot set up the timed jobs");
    int rc = alarm_open(&s->loop, ALARM_WALL, on_wall, s, &t->alarm, e);
    if (rc != 0)
        return rc;
    watch_zone(s);
    timed_configure(s);
    return 0;
}

void timed_close(struct service *s)
{
    struct timed_jobs *t = s->timed;

    if (!t)
        return;
    alarm_close(t->alarm);
    if (t->zone)
        uv_close((uv_handle_t *)t->zone, free_handle);
    schedule_free(t->schedule);
    timed_past_release(&t->past);
    free(t);
    s->timed = NULL;
}

/* ---- status ---- */

struct wall_time timed_next(struct service *s, enum timed_kind kind, const char *watch)
{
    struct wall_time at = {0};
    struct timed *t = s->timed ? schedule_find(s->timed->schedule, kind, watch) : NULL;

    if (t && !schedule_next(s->timed->schedule, t, &at.s))
        at.s = 0;
    return at;
}

void timed_status(struct service *s, json_t *doc)
{
    struct timed *t;

    for (t = s->timed ? schedule_first(s->timed->schedule) : NULL; t; t = LIST_NEXT(t, link)) {
        if (t->given_up && !t->gone)
            status_job_problem(doc, timed_word(t->kind), t->watch,
                               (struct wall_time){.s = t->failed_since}, t->failure.message);
    }
}
