/* restore_plan_live.h - what a restore in place has to do; for the files of restore alone.
 *
 * restore_live.c       the order of the whole
 * restore_plan_live.c  the plan, from two snapshots (or for a preview, from what stands there)
 * restore_look_live.c  what stands there, for the preview
 * restore_apply_live.c removing, and what may be replaced
 * restore_set_live.c   metadata of files whose content stays */
#ifndef WK_SNAPSHOT_RESTORE_PLAN_LIVE_H
#define WK_SNAPSHOT_RESTORE_PLAN_LIVE_H

#include "base/buffer.h"
#include "snapshot/number_set.h"
#include "snapshot/restore_job.h"
#include "snapshot/restore_live.h"
#include "snapshot/tree.h"

#include <sys/stat.h>

struct left_out;

struct live_removal {
    char *path;
    bool dir, database;
    bool cleared; /* a folder where a file is to come: all of it goes, or nothing */
};

struct live_setting { /* a file whose content is as it is to be: its metadata is set where it stands
                       */
    char *path;
    uint64_t node; /* in the snapshot */
};

struct live_kept { /* a folder that only lies on the way: it looks afterwards as before */
    char *path;
    bool of_root; /* the path counts from the root */
    mode_t mode;
    struct timespec mtime;
};

struct live_problem {
    char *path;
    const char *why;
};

struct live_plan {
    const struct live_request *req;
    struct live_result *result;
    struct catalog *cat;
    int rootfd;
    const char *from, *into; /* of the request, "" where it has none */
    bool shifted;            /* they are not the same */
    int place;               /* the folder `into`; -1: it is to be made */
    uint64_t from_node;      /* in the snapshot */
    uint64_t into_node;      /* in base, 0: it is not there */
    struct buffer joined;    /* of live_at */
    size_t only_count;
    bool found;                /* req->path is in the snapshot */
    struct left_out *rules;    /* of the snapshot; opened when first asked */
    struct number_set write;   /* nodes of the snapshot: files and the like to be written */
    struct number_set fresh;   /* folders to be made */
    struct number_set touched; /* folders to be given their metadata */
    struct number_set skip;    /* folders that are not entered */
    uint64_t *other;           /* by level: the folder of the other snapshot, 0: none */
    size_t other_cap;
    unsigned clearing;             /* level of the folder that makes way for a file, 0: none */
    struct live_removal *removals; /* a folder before what is in it */
    size_t removal_count, removal_cap;
    struct live_setting *settings;
    size_t setting_count, setting_cap;
    struct live_problem *problems;
    size_t problem_count, problem_cap;
    char **databases; /* of base, that make way */
    size_t database_count, database_cap;
    struct live_kept *kept;
    size_t kept_count, kept_cap;
};

/* All paths of a plan count from `from` and `into`. Such a path below one of these: valid until the
 * next call. NULL: no memory. */
const char *live_at(struct live_plan *p, const char *folder, const char *path);
/* What of a path stands below that folder. */
const char *live_below(const char *path, const char *folder);

enum live_where { LIVE_OUT, LIVE_BEFORE, LIVE_IN };
/* Whether path is restored, or lies on the way to what is. */
enum live_where live_where(const struct live_plan *p, const char *path);

/* Make the plan; release it in every case. */
int live_plan_make(struct live_plan *p, struct error *e);
void live_plan_release(struct live_plan *p);
bool live_plan_empty(const struct live_plan *p);

enum live_pick { LIVE_SKIP, LIVE_PASS, LIVE_WRITE };
/* LIVE_PASS: a folder that is there already; for anything else it is LIVE_SKIP. */
enum live_pick live_pick(struct live_plan *p, const struct tree_entry *t, bool folder);

/* ---- restore_plan_live.c, for the others ---- */

int live_tell(struct live_plan *p, enum live_change what, const char *path, uint8_t type,
              uint64_t size, struct error *e);
/* Whether what stands at path, which the snapshot does not have, is to go: 1, 0 or an error. */
int live_removes(struct live_plan *p, enum live_where where, const char *path, bool dir,
                 struct error *e);

/* ---- restore_look_live.c ---- */

/* LIVE_SAME_CONTENT: of a file whose metadata can be set where it stands. */
enum live_state { LIVE_ABSENT, LIVE_SAME, LIVE_SAME_CONTENT, LIVE_DIFFERENT, LIVE_OTHER_TYPE };
int live_look(struct live_plan *p, const struct tree_entry *t, const char *path,
              enum live_state *state, struct error *e);
/* Tell what would be removed. */
int live_look_removals(struct live_plan *p, struct error *e);

/* ---- restore_apply_live.c ---- */

/* 0, or why what stands at path (st) must not be replaced or removed. */
int live_may_go(struct live_plan *p, const char *path, const struct stat *st, struct error *e);
/* Before something in this open folder changes: remember how it looks where only its way leads
 * through it, and let its owner write. */
int live_enter(struct live_plan *p, const char *path, int fd, struct error *e);
/* The same of a folder above `into`; its path counts from the root. */
int live_enter_above(struct live_plan *p, const char *path, int fd, struct error *e);
int live_remove(struct restore_job *j, int rootfd, struct error *e);
/* What went wrong with one entry: a problem of its own, 0; or the end of everything. */
int live_failed(struct restore_job *j, const char *path, struct error *e);
/* The node that base has at path, to be released. ERR_NOTFOUND. */
int live_base_node(struct live_plan *p, const char *path, struct node *n, struct error *e);
/* A folder on the way that a run which was cut off left open is given its looks back, too. */
int live_mend(struct live_plan *p, const char *path, struct error *e);
/* Give folders on the way their looks back; `place` is where the tree went. */
int live_leave(struct live_plan *p, int place, struct error *e);
/* Make the folder `into`, and those above it that are missing. A descriptor, or a code. */
int live_make_place(struct live_plan *p, struct error *e);
/* What helps where the kernel said EPERM, or NULL. */
const char *live_hint(int dirfd, const char *name, int sys);

/* ---- restore_set_live.c ---- */

/* Set the metadata of p->settings, in the folder `place`. */
int live_set(struct restore_job *j, int place, struct error *e);

#endif
