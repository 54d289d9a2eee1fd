/* watch_walk.h - what watch_tree.c, watch_walk.c and watch_events.c share (used by them only).
 *
 * watch_tree.c holds the roots and the barrier, watch_walk.c makes watches by walking,
 * watch_events.c keeps the nodes as the events say. A node that is to be walked stands in the
 * tree's queue; when the queue is empty, the nodes to be reported are. */
#ifndef WK_WATCH_WATCH_WALK_H
#define WK_WATCH_WATCH_WALK_H

#include "watch/notify.h"
#include "watch/watch_node.h"
#include "watch/watch_tree.h"

struct moved_from { /* the first half of a rename, waiting for the second */
    TAILQ_ENTRY(moved_from) link;
    struct watch_root *root;
    struct watch_node *node; /* the folder, detached; NULL for a file or an unknown folder */
    uint32_t cookie;
    bool is_dir;
    uint64_t until; /* then it is a removal */
    char path[];
};

struct watch_root {
    LIST_ENTRY(watch_root) link;
    struct watch_tree *tree;
    struct watch_calls calls;
    void *ctx;
    char *path;
    struct watch_node *top; /* NULL: missing */
    dev_t dev;
    ino_t ino;
    TAILQ_HEAD(, watch_node) report, polled;
    size_t polled_count;
    int *guards; /* descriptors on the parts of its path */
    size_t guard_count;
    bool walking;   /* something of it was queued since the queue was last empty */
    bool doubted;   /* to be checked at the end of the turn */
    bool uneven;    /* a rules file was seen in it */
    bool exhausted; /* some folder is polled because there are no watches left */
    bool suspect;   /* its nodes may be wrong */
    uint64_t suspect_until, walk_began, walk_cost;
    char problem[320];
};

struct watch_tree {
    uv_loop_t *loop;
    uv_idle_t idle;
    struct notify *notify; /* NULL: none to be had, see no_notify */
    char no_notify[256];
    void (*turn)(void *ctx);
    void *ctx;
    struct node_index index;
    LIST_HEAD(, watch_root) roots;
    TAILQ_HEAD(, watch_node) queue;
    TAILQ_HEAD(moved_list, moved_from) moved;
    struct watch_barrier *waiting; /* passed, but the queue is not empty yet */
    struct buffer path;            /* scratch for events */
    struct buffer child;           /* scratch for walks */
    bool exhausted;                /* no watches left: do not ask again before the next poll */
    bool ahead;                    /* something was walked since the kernel's queue was empty */
    uint64_t overflows;
};

/* Watch `fd`'s folder in the way of all folders; the descriptor or a negative errno. */
int walk_watch(struct watch_tree *t, int fd);

/* Queue a node for walking, with all that will be found below it; report: and report it then. */
void walk_enqueue(struct watch_root *r, struct watch_node *node, bool report);
/* Walk for a few milliseconds (all: to the end). False: there was nothing to walk. */
bool walk_slice(struct watch_tree *t, bool all);
/* Forget a folder and all below it, with their watches. It may be detached. */
void walk_remove(struct watch_tree *t, struct watch_root *r, struct watch_node *node);
/* The descriptor is no node's and no guard's: give it back. */
void walk_release_wd(struct watch_tree *t, int wd);
/* Polled from now on. */
void walk_set_polled(struct watch_root *r, struct watch_node *node);

/* The node of a folder by its path, or NULL. */
struct watch_node *root_find(struct watch_root *r, const char *path);
/* The root's path now: an O_PATH descriptor, or a negative code; *st is set. */
int root_open(const struct watch_root *r, struct stat *st, struct error *e);
/* Take it as missing. */
void root_lose(struct watch_root *r, const char *why);

/* Walk for a while, and go on in the turns to come until the queue is empty. empty: the kernel's
 * queue has just been found so. */
void tree_walk_on(struct watch_tree *t, bool empty);

void events_deliver(void *tree, const struct notify_event *event);
void events_overflow(void *tree);
void events_turn(void *tree, bool empty);
/* Its nodes may be wrong. */
void root_suspect(struct watch_root *r);
/* Renames that wait (until the moment) are removals. */
void events_expire(struct watch_tree *t, uint64_t now_ns);
/* Those of a root are forgotten. */
void events_forget(struct watch_tree *t, const struct watch_root *r);

#endif
