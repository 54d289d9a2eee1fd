/* keeper.h - one watch as the service runs it: its rules, what has changed in it, its saves.
 *
 * One save of a watch is at work at a time. While it runs, what happens gathers for the next; when
 * it fails, what it was to save is put back and tried again after a pause that grows. Order: the
 * startup scan, then saves that somebody waits for, then the timed scan, then what is ripe. */
#ifndef WK_SERVICE_KEEPER_H
#define WK_SERVICE_KEEPER_H

#include "service/specs.h"
#include "service/supervisor.h"
#include "snapshot/save.h"
#include "watch/settle.h"

/* Somebody waits for a save. */
struct save_ask {
    STAILQ_ENTRY(save_ask) link;
    char *name, *note; /* or NULL; the asker's */
    bool whole;        /* the whole tree, trusting no event */
    bool moved;        /* the root may differ from the one on record */
    bool accept;       /* what is left of an almost empty root is right */
    int kind;          /* enum snapshot_kind, 0: SNAPSHOT_MANUAL */
    const char *gap;   /* or NULL */
    /* Called once, from the loop. result is NULL when nothing was tried. */
    void (*done)(struct save_ask *ask, int rc, const struct save_result *result,
                 const struct error *e);
    struct save_progress progress;
};

enum keeper_problem {
    PROBLEM_MISSING,
    PROBLEM_POLLED, /* no inotify watches left */
    PROBLEM_SAVE,   /* the last save failed */
    PROBLEM_INCOMPLETE,
    PROBLEM_VACANT, /* an empty folder stands where the root was */
    PROBLEM_COUNT
};

struct save_job;

struct keeper {
    LIST_ENTRY(keeper) link;
    struct service *service;
    struct watch_spec_owned spec;
    struct rules *rules;
    struct watch_root *root; /* NULL: retired */
    struct settle *settle;
    uint64_t settle_ms, max_delay_ms, interval_ms;
    int rootfd;           /* open for one turn, -1 else */
    uint64_t mounts;      /* mounts_around when last looked */
    struct save_job *job; /* at work or queued */
    STAILQ_HEAD(, save_ask) asks;
    bool stood;      /* its watches have stood once: the startup scan may begin */
    bool last_begun; /* it has had its last save, or is to have none */
    int scan_due;    /* enum snapshot_kind of the whole scan that is to come, or 0 */
    uint64_t next_interval, next_poll, next_check;
    uint64_t poll_cost_ns; /* what the last save took */
    uint64_t retry_at;     /* no saves of our own before that, after a failure */
    uint64_t held_until;   /* the same, while a restore puts its files in place */
    unsigned failures;     /* in a row */
    struct error failure;
    uint64_t incomplete;
    bool suspect;    /* hardly a file is left, and the log says so */
    uint64_t spoilt; /* files the log was told of */
    struct wall_time last_change, last_checked;
    uint64_t checked_ns;   /* by the boot clock; before the first check: since it is watched */
    uint64_t unchecked_ms; /* before that; 0 from the first check on */
    struct wall_time since[PROBLEM_COUNT]; /* s = 0: no such problem */
};

int keeper_new(struct service *s, const struct watch_config *w, struct keeper **out,
               struct error *e);
/* New settings that need no new look at the tree. */
void keeper_tune(struct keeper *k, const struct watch_config *w);
/* Whether the settings differ in what is captured, so that a new keeper is needed. */
bool keeper_differs(const struct keeper *k, const struct watch_config *w);
/* Watch no more, but save what is dirty; not where another keeper of that name takes over, which
 * scans everything. Free it when it is gone. */
void keeper_retire(struct keeper *k, bool replaced);
bool keeper_gone(const struct keeper *k); /* retired, and nothing is left to do */
void keeper_free(struct keeper *k);

/* After everything that was reported so far. */
void keeper_ask(struct keeper *k, struct save_ask *ask);

/* A restore in place begins (on) or has ended: what it changes is to come into one snapshot. One
 * that is never heard of again holds up saves for half a minute, asked ones not at all. */
void keeper_hold(struct keeper *k, bool on);

/* Begin what is due now. */
void keeper_pump(struct keeper *k, uint64_t now_ns);
/* The same for all of that name: a save of it has ended. */
void keeper_pump_name(struct service *s, const char *name);
uint64_t keeper_deadline(const struct keeper *k); /* of the next keeper_pump */
/* The end of a turn: what was open for it is closed. */
void keeper_turn(struct keeper *k);
void keeper_mounts_changed(struct keeper *k);
/* The service stops: end timed scans, save what is dirty. */
void keeper_stop(struct keeper *k);

uint64_t keeper_lag_ms(const struct keeper *k, uint64_t now_ns); /* of the oldest unsaved change */
bool keeper_scanning(const struct keeper *k);

/* ---- keeper_save.c ---- */

struct save_job {
    struct job job;
    struct keeper *keeper;
    struct settle_set set;
    struct dirty_path *paths;
    struct dirty_set dirty;
    bool whole;
    int kind;
    struct save_ask *ask; /* or NULL */
    struct save_progress progress;
    atomic_bool cancel;
    struct save_result result;
    struct error error;
    int rc;
};
/* Begin a save: of the whole tree, or of all that is in the set (taken over). */
void keeper_save(struct keeper *k, int kind, bool whole, struct settle_set *set,
                 struct save_ask *ask);
/* For struct job: moves while the save gets on. */
uint64_t keeper_save_pulse(struct save_progress *p);

#endif
