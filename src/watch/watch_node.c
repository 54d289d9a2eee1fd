#include "watch/watch_node.h"

#include "base/random.h"
#include "watch/name_hash.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { FIRST_SLOTS = 64 };

bool node_index_init(struct node_index *x)
{
    x->names = calloc(FIRST_SLOTS, sizeof(*x->names));
    x->wds = calloc(FIRST_SLOTS, sizeof(*x->wds));
    x->slots = FIRST_SLOTS;
    x->count = 0;
    random_bytes(&x->next_seed, sizeof(x->next_seed));
    if (x->names && x->wds)
        return true;
    node_index_release(x);
    return false;
}

void node_index_release(struct node_index *x)
{
    free(x->names);
    free(x->wds);
    *x = (struct node_index){0};
}

static struct watch_node **name_slot(const struct node_index *x, const struct watch_node *parent,
                                     const char *name)
{
    return &x->names[name_hash(name, parent->seed) >> 20 & (x->slots - 1)];
}

static struct watch_node **wd_slot(const struct node_index *x, int wd)
{
    return &x->wds[(size_t)wd & (x->slots - 1)];
}

/* Twice the slots; without memory the chains just grow longer. */
static void grow(struct node_index *x)
{
    struct node_index old = *x;

    x->names = calloc(2 * old.slots, sizeof(*x->names));
    x->wds = calloc(2 * old.slots, sizeof(*x->wds));
    if (!x->names || !x->wds) {
        free(x->names);
        free(x->wds);
        *x = old;
        return;
    }
    x->slots = 2 * old.slots;
    for (size_t i = 0; i < old.slots; i++) {
        struct watch_node *next;
        for (struct watch_node *node = old.names[i]; node; node = next) {
            struct watch_node **slot = name_slot(x, node->parent, node->name);
            next = node->by_name;
            node->by_name = *slot;
            *slot = node;
        }
        for (struct watch_node *node = old.wds[i]; node; node = next) {
            struct watch_node **slot = wd_slot(x, node->wd);
            next = node->by_wd;
            node->by_wd = *slot;
            *slot = node;
        }
    }
    free(old.names);
    free(old.wds);
}

struct watch_node *node_new(struct node_index *x, struct watch_node *parent, const char *name)
{
    struct watch_node *node = calloc(1, sizeof(*node));

    if (!node)
        return NULL;
    node->wd = -1;
    node->seed = x->next_seed++;
    LIST_INIT(&node->children);
    if (parent) {
        if (!node_attach(x, node, parent, name)) {
            free(node);
            return NULL;
        }
    } else {
        node->name = strdup(name);
        if (!node->name) {
            free(node);
            return NULL;
        }
    }
    if (++x->count > x->slots)
        grow(x);
    return node;
}

void node_free(struct node_index *x, struct watch_node *node)
{
    node_set_wd(x, node, -1);
    node_detach(x, node);
    free(node->name);
    free(node);
    x->count--;
}

void node_detach(struct node_index *x, struct watch_node *node)
{
    if (!node->parent)
        return;
    struct watch_node **at = name_slot(x, node->parent, node->name);
    while (*at != node)
        at = &(*at)->by_name;
    *at = node->by_name;
    LIST_REMOVE(node, sibling);
    node->parent = NULL;
}

bool node_attach(struct node_index *x, struct watch_node *node, struct watch_node *parent,
                 const char *name)
{
    char *copy = strdup(name);

    if (!copy)
        return false;
    free(node->name);
    node->name = copy;
    node->parent = parent;
    LIST_INSERT_HEAD(&parent->children, node, sibling);
    struct watch_node **slot = name_slot(x, parent, name);
    node->by_name = *slot;
    *slot = node;
    return true;
}

struct watch_node *node_child(const struct node_index *x, const struct watch_node *parent,
                              const char *name)
{
    struct watch_node *node = *name_slot(x, parent, name);

    while (node && (node->parent != parent || strcmp(node->name, name) != 0))
        node = node->by_name;
    return node;
}

void node_set_wd(struct node_index *x, struct watch_node *node, int wd)
{
    if (node->wd == wd)
        return;
    if (node->wd >= 0) {
        struct watch_node **at = wd_slot(x, node->wd);
        while (*at != node)
            at = &(*at)->by_wd;
        *at = node->by_wd;
    }
    node->wd = wd;
    if (wd >= 0) {
        struct watch_node **slot = wd_slot(x, wd);
        node->by_wd = *slot;
        *slot = node;
    }
}

static struct watch_node *find_wd(struct watch_node *node, int wd)
{
    while (node && node->wd != wd)
        node = node->by_wd;
    return node;
}

struct watch_node *node_of_wd(const struct node_index *x, int wd)
{
    return wd < 0 ? NULL : find_wd(*wd_slot(x, wd), wd);
}

struct watch_node *node_same_wd(const struct watch_node *node)
{
    return find_wd(node->by_wd, node->wd);
}

struct watch_node *node_top(struct watch_node *node)
{
    while (node->parent)
        node = node->parent;
    return node;
}

struct watch_root *node_root(struct watch_node *node)
{
    return node_top(node)->root;
}

const char *node_path(const struct watch_node *node, const char *name, struct buffer *out)
{
    size_t n = strlen(name);

    for (const struct watch_node *up = node; up->parent; up = up->parent)
        n += strlen(up->name) + 1;
    buffer_clear(out);
    uint8_t *start = buffer_grow(out, n + 1);
    if (!start)
        return "";
    uint8_t *at = start + n;
    *at = 0;
    size_t len = strlen(name);
    at -= len;
    memcpy(at, name, len);
    for (const struct watch_node *up = node; up->parent; up = up->parent) {
        if (at < start + n)
            *--at = '/';
        len = strlen(up->name);
        at -= len;
        memcpy(at, up->name, len);
    }
    /* A folder's own path has no slash after it. */
    return (const char *)at;
}
