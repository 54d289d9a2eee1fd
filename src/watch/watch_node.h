/* watch_node.h - the folders of the watched trees, by name and by watch descriptor (used by
 * watch_tree.c and watch_events.c only).
 *
 * A node holds its name and its parent, nothing that depends on where the parent stands: a renamed
 * folder costs the same whatever lies below it. One inode may stand in several places (bind mounts,
 * nested roots), so a watch descriptor leads to a list of nodes. */
#ifndef WK_WATCH_WATCH_NODE_H
#define WK_WATCH_WATCH_NODE_H

#include "base/buffer.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

struct watch_root;

enum node_flag {
    NODE_QUEUED = 1 << 0, /* waits to be walked */
    NODE_REPORT = 1 << 1, /* to be reported when the walk is over */
    NODE_POLLED = 1 << 2, /* not watched: looked at on a timer, with all below it */
    NODE_SEEN = 1 << 3,   /* found by the walk of its parent that is going on */
    NODE_MISSED = 1 << 4, /* something happened below while it was on the move */
};

struct watch_node {
    struct watch_node *parent;
    struct watch_root *root; /* in a root's top node, else NULL */
    char *name;              /* "" in a top node */
    int wd;                  /* -1: not watched */
    unsigned flags;
    uint64_t seed; /* what the names of its children are hashed with */
    LIST_HEAD(node_children, watch_node) children;
    LIST_ENTRY(watch_node) sibling;
    TAILQ_ENTRY(watch_node) queue, report, polled;
    struct watch_node *by_name, *by_wd; /* next in the slot */
};

struct node_index {
    struct watch_node **names, **wds; /* hash slots, chained through the nodes */
    size_t slots;                     /* a power of two */
    size_t count;                     /* of nodes */
    uint64_t next_seed;
};

bool node_index_init(struct node_index *x);
void node_index_release(struct node_index *x); /* all nodes must be gone */

/* A new folder `name` in parent, or a top node (parent NULL). NULL on no memory. */
struct watch_node *node_new(struct node_index *x, struct watch_node *parent, const char *name);
/* A node without children, detached from everything but its parent. */
void node_free(struct node_index *x, struct watch_node *node);
/* Take it out of its parent, with all below it. */
void node_detach(struct node_index *x, struct watch_node *node);
/* Put a detached one into a parent under a name. False on no memory: it stays detached. */
bool node_attach(struct node_index *x, struct watch_node *node, struct watch_node *parent,
                 const char *name);

struct watch_node *node_child(const struct node_index *x, const struct watch_node *parent,
                              const char *name);
void node_set_wd(struct node_index *x, struct watch_node *node, int wd); /* -1: take it away */
/* The first node with that descriptor, and the next one. */
struct watch_node *node_of_wd(const struct node_index *x, int wd);
struct watch_node *node_same_wd(const struct watch_node *node);

/* The topmost node above it (itself when it has no parent). */
struct watch_node *node_top(struct watch_node *node);
/* Its root, or NULL while it is detached. */
struct watch_root *node_root(struct watch_node *node);
/* Path of `name` in the node's folder ("" for the folder itself) relative to the top; borrowed from
 * *out. */
const char *node_path(const struct watch_node *node, const char *name, struct buffer *out);

#endif
