/* timed.h - the service's timed jobs: schedule.h wired to the loop, the background thread and the
 * repository (used in src/service only).
 *
 * A job's state is a mark in the packs (MARK_STATE), written by the job when its work is done; each
 * failed run is an event there. The loop thread's, but for what workers do. */
#ifndef WK_SERVICE_TIMED_H
#define WK_SERVICE_TIMED_H

#include "service/schedule.h"
#include "service/supervisor.h"

#include <jansson.h>

struct timed_jobs;

/* What was done last is read by a worker from now on; until it is known no job runs. */
int timed_open(struct service *s, struct error *e);
void timed_close(struct service *s); /* no job at work */
/* When that job runs by these settings, "off": never; of verification watch is NULL. Any thread. */
const char *timed_rule(const struct config *c, enum timed_kind kind, const char *watch);
/* The rules of s->config are in force from now on. */
void timed_configure(struct service *s);
/* Set the alarm to the next thing that is due by the wall clock. */
void timed_rearm(struct service *s);
/* Begin what is due: something that held a job back may be gone. */
void timed_look(struct service *s);
/* A save of the watch has ended well: from the first one on its jobs are due. */
void timed_saved(struct service *s, const char *watch);
/* The job's work was done on request: what has failed is well again. watch NULL: of all. */
void timed_settled(struct service *s, enum timed_kind kind, const char *watch);
/* When it runs next; s = 0: never. */
struct wall_time timed_next(struct service *s, enum timed_kind kind, const char *watch);
/* Problems of jobs that have failed for good. */
void timed_status(struct service *s, json_t *doc);

/* ---- timed_past.c: in the worker ---- */

struct timed_past { /* one thing that the packs know */
    char *watch;    /* NULL: of all */
    char *state;    /* of that kind of job, as timed_state said; NULL: it is the time ... */
    enum timed_kind kind;
    int64_t first; /* ... of the watch's first snapshot that is kept */
};
struct timed_pasts {
    struct timed_past *list;
    size_t count;
};
/* *out is zeroed; the states come first. */
int timed_past_read(struct repo *repo, struct timed_pasts *out, struct error *e);
void timed_past_release(struct timed_pasts *p);

/* ---- timed_work.c: in the worker ---- */

struct timed_run {
    struct job job;
    struct service *service;
    struct timed *timed; /* the loop's */
    enum timed_kind kind;
    char *watch;                 /* or NULL */
    const struct config *config; /* of when it was begun */
    char state[TIMED_STATE_MAX]; /* what to keep when it is done */
    bool only_state;             /* no work: keep it */
    int64_t slot;                /* UTC seconds */
    unsigned attempt;
    bool last; /* attempt of this slot */
    struct error error;
    int rc;
};
void timed_work(struct job *job);

#endif
