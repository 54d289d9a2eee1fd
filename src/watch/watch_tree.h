/* watch_tree.h - several watched roots under one inotify instance.
 *
 * Folders only are watched; each is watched first, then read, so that nothing made meanwhile is
 * missed. A new folder is reported only when all below it is watched. Walks go in slices of a few
 * milliseconds, so that the loop stays awake. A folder that inotify cannot watch (none left, a
 * network file system) is polled: with all below it, by watch_tree_poll. A root that is gone,
 * unmounted or replaced by another folder is `missing` until it is back, and is then walked and
 * reported as a whole; guards on the parts of its path tell when that happens.
 * No descriptor is kept open beneath a root, so that it can be unmounted. Loop thread only. */
#ifndef WK_WATCH_WATCH_TREE_H
#define WK_WATCH_WATCH_TREE_H

#include "base/error.h"
#include "watch/notify.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <uv.h>

struct watch_tree;
struct watch_root;

enum watch_how {
    WATCH_ENTRY = 1 << 0,  /* the entry itself */
    WATCH_TREE = 1 << 1,   /* it and everything below it */
    WATCH_FLUSH = 1 << 2,  /* written to and not closed since */
    WATCH_CLOSED = 1 << 3, /* closed after writing: takes an earlier WATCH_FLUSH away */
    WATCH_DIR = 1 << 4,    /* the entry is a folder, as far as the event tells */
};

enum watch_state {
    WATCH_STANDING, /* every folder is watched */
    WATCH_WALKING,  /* watches are being made */
    WATCH_DEGRADED, /* some folders are polled */
    WATCH_POLLING,  /* the root itself is polled */
    WATCH_MISSING,  /* no root there */
};

/* Paths are relative to the root, "" the root itself. No call may add or remove roots. */
struct watch_calls {
    /* Descend into (and watch) this folder? st is NULL when only its name is known. */
    bool (*want)(void *ctx, const char *path, bool is_dir, const struct stat *st);
    /* Something happened there: enum watch_how. Files are not asked for by `want` first. */
    void (*dirty)(void *ctx, const char *path, unsigned how);
    /* Renamed within the root: both halves at once. */
    void (*moved)(void *ctx, const char *from, const char *to, unsigned how);
    /* watch_root_state or watch_root_problem may have changed. */
    void (*state)(void *ctx);
    /* The name of files that hold rules for the folder they stand in, or NULL. Where there are
     * some, a renamed folder is walked anew. */
    const char *rules_file;
    /* What is wanted depends on more than names (a pattern has a slash in it): the same. */
    bool rules_by_path;
};

/* turn: after each turn in which something was read or walked. Without an inotify instance every
 * root is polled (watch_root_problem says why); this fails only without memory. */
int watch_tree_open(uv_loop_t *loop, void (*turn)(void *ctx), void *ctx, struct watch_tree **out,
                    struct error *e);
/* Roots are removed. Freed when the loop has closed its handles. NULL is fine. */
void watch_tree_close(struct watch_tree *t);

/* path: absolute. A path that is not there is no error: the root is missing. *calls is copied. */
int watch_tree_add(struct watch_tree *t, const char *path, const struct watch_calls *calls,
                   void *ctx, struct watch_root **out, struct error *e);
void watch_tree_remove(struct watch_tree *t, struct watch_root *r); /* NULL is fine */

enum watch_state watch_root_state(const struct watch_root *r);
/* Why folders are polled or the root is missing: a sentence for people, "" when all is well. */
const char *watch_root_problem(struct watch_root *r);
/* Whether that is a shortage that somebody should end, not the nature of the file system. */
bool watch_root_exhausted(const struct watch_root *r);
/* No inotify instance could be had: every root is polled until the end. */
bool watch_tree_blind(const struct watch_tree *t);
size_t watch_tree_folders(const struct watch_tree *t); /* watched or polled now */
uint64_t watch_tree_overflows(const struct watch_tree *t);

/* Is the root's path still what is watched? Called before a save and while it is missing. */
bool watch_root_check(struct watch_root *r);
/* Report every polled folder of the root as WATCH_TREE, trying again to watch it. */
void watch_tree_poll(struct watch_root *r);
/* Walk the folder (and all below it) again and report it as WATCH_TREE: its rules have changed. */
void watch_tree_again(struct watch_root *r, const char *folder);

/* The next moment (clock_mono_ns) at which watch_tree_tick has something to do, UINT64_MAX: none.
 */
uint64_t watch_tree_deadline(const struct watch_tree *t);
void watch_tree_tick(struct watch_tree *t, uint64_t now_ns);

/* False: what the kernel has queued was there at the call before, and nothing was read since. */
bool watch_tree_gets_on(struct watch_tree *t);

/* Read and report everything that the kernel has queued, and finish all walks. */
void watch_tree_drain(struct watch_tree *t);

/* passed fires when everything that happened before this call has been reported (never from within
 * it). The folder must be private to us. Where there is no inotify it fires at the next turn. */
struct watch_barrier {
    void (*passed)(void *ctx);
    void *ctx;
    struct notify_barrier notify; /* the rest is ours */
    struct watch_tree *tree;
    struct watch_barrier *next;
};
int watch_tree_barrier_folder(struct watch_tree *t, const char *path, struct error *e);
void watch_tree_barrier(struct watch_tree *t, struct watch_barrier *b);

#endif
