/* supervisor.h - the service's one struct and what its files share (used in src/service only).
 *
 * service.c starts and stops, keeper.c runs one watch, requests.c answers the control socket,
 * status.c describes, reload.c applies a changed configuration, timed.c runs what is due by the
 * wall clock, problems.c has people told of what is wrong. All of it is the loop thread's;
 * only jobs (jobs.h) use `repo` once the loop runs. */
#ifndef WK_SERVICE_SUPERVISOR_H
#define WK_SERVICE_SUPERVISOR_H

#include "base/clock.h"
#include "capture/sqlite_capture.h"
#include "config/config.h"
#include "service/control.h"
#include "service/jobs.h"
#include "service/service.h"
#include "store/repository.h"
#include "watch/alarm.h"
#include "watch/filesystem.h"
#include "watch/watch_tree.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

struct keeper;
struct timed_jobs;
struct problems;
struct checked;

struct service {
    struct service_options *opt;
    struct config *config;
    struct config **old_configs; /* jobs may still look at them */
    size_t old_config_count;
    uv_loop_t loop;
    uv_signal_t terminate, interrupt, hangup;
    uv_timer_t manager; /* the watchdog, or more time while starting and stopping */
    struct alarm *alarm;
    struct jobs *jobs;               /* what is short: saves of what changed, tidying up */
    struct jobs *asked;              /* saves somebody asked for that may take long */
    struct jobs *scans, *background; /* whole scans of our own; verification too */
    /* Held for reading by what uses the repository, for writing by what puts it in order. */
    pthread_rwlock_t store_lock;
    struct watch_tree *tree;
    struct mounts *mounts; /* may be NULL */
    struct control *control;
    struct sqlite_helper *helper;
    struct repo *repo;
    LIST_HEAD(, keeper) keepers;
    size_t reads;              /* requests being answered in the loop's threads */
    struct timed_jobs *timed;  /* timed.h */
    struct problems *problems; /* problems.h */
    struct checked *checked;   /* checked.h */
    struct job idle_job, upkeep_job, new_job;
    uint64_t idle_at;           /* when the store may tidy up, UINT64_MAX: nothing to tidy */
    unsigned store_uses;        /* since it tidied up last */
    uint64_t new_at, new_since; /* when what is new is verified, and since when there is some;
                                   UINT64_MAX: nothing is */
    bool idling, keeping_up, verifying_new;
    bool making_room;      /* a prune for want of space is at work */
    uint64_t make_room_at; /* not again before that */
    uint64_t room_more;    /* beyond min_free, for saves that still found too little; 0: none */
    struct wall_time since;
    struct wall_time config_bad_since; /* s = 0: the running configuration is the newest */
    struct error config_error;
    uint64_t overflows_told, overflow_quiet_until;
    atomic_bool cancel;        /* stop what is at work, unsaved or not */
    atomic_bool cancel_verify; /* stop what saves nothing */
    bool watching;             /* every watch has been set up, though not all may stand yet */
    bool ready, stopping, ending;
    bool silent_told; /* that the watchdog is not answered */
    int result;       /* what service_run returns, with *error */
    struct error *error;
};

/* Set the alarm to the next thing that is due. Call it after anything that may have changed that.
 */
void service_rearm(struct service *s);
/* Whether the workers answer: of the jobs at work, however long they take, one has got on lately.
 */
bool service_gets_on(struct service *s);
/* No job anywhere. */
bool service_quiet(struct service *s);
/* The store has been written to. */
void service_store_used(struct service *s);
/* What is wrong may not be what it was: whoever is to be told will be. */
void service_problems_changed(struct service *s);
/* A save found too little space: prune down to what is needed, or to the floor. */
void service_make_room(struct service *s, bool save_failed);
/* SIGTERM, or the stop request; the second time: at once. */
void service_stop(struct service *s);
/* While stopping: end the loop when nothing is left to do. */
void service_stop_on(struct service *s);
/* While starting: READY when every watch stands. */
void service_ready_on(struct service *s);

/* Use another configuration from now on (taken over); the old one lives on while jobs are at work.
 */
void service_set_config(struct service *s, struct config *fresh);
/* SIGHUP, or the reload request: 0, or what is wrong (the running settings stay). */
int service_reload(struct service *s, struct error *e);

/* The control socket's handler. */
void requests_serve(void *service, struct peer *peer, enum control_right right,
                    const json_t *request);
#endif
