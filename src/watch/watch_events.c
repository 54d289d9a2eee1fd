#include "base/clock.h"
#include "base/log.h"
#include "watch/watch_walk.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* The two halves of a rename stand next to each other in the queue; only the end of a read can come
 * between them. */
#define RENAME_GRACE_NS (UINT64_C(50) * 1000000)

enum { SAME_WD_MAX = 32 };

static const uint32_t self_mask = IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED;

static void report(struct watch_root *r, const struct watch_node *node, const char *name,
                   unsigned how)
{
    r->calls.dirty(r->ctx, node_path(node, name, &r->tree->path), how);
}

/* ---- about a watched folder itself ---- */

static void check_guards(struct watch_tree *t, const struct notify_event *event)
{
    struct watch_root *r;

    LIST_FOREACH(r, &t->roots, link)
    {
        for (size_t i = 0; i < r->guard_count; i++) {
            if (r->guards[i] != event->wd)
                continue;
            r->doubted = true;
            if (event->mask & IN_IGNORED) {
                r->guards[i--] = r->guards[--r->guard_count];
            }
        }
    }
}

static void self_event(struct watch_tree *t, struct watch_root *r, struct watch_node *node,
                       const struct notify_event *event)
{
    if (event->mask & IN_IGNORED) /* the kernel has dropped the watch */
        node_set_wd(&t->index, node, -1);
    if (node == r->top) {
        if (event->mask & self_mask)
            r->doubted = true;
        else if (event->mask & IN_ATTRIB)
            report(r, node, "", WATCH_ENTRY | WATCH_DIR);
    } else if (event->mask & IN_IGNORED) {
        /* Removed, which its parent has said or will say; or something was mounted or unmounted
         * there: look. */
        walk_enqueue(r, node, true);
    }
}

/* ---- about an entry of a watched folder ---- */

/* A folder stands at that name now: watch it, then report it. */
static void folder_came(struct watch_root *r, struct watch_node *parent, const char *name)
{
    struct watch_tree *t = r->tree;
    struct watch_node *node = node_child(&t->index, parent, name);

    if (!r->calls.want(r->ctx, node_path(parent, name, &t->path), true, NULL))
        return;
    if (!node)
        node = node_new(&t->index, parent, name);
    if (node)
        walk_enqueue(r, node, true);
    else
        report(r, parent, name, WATCH_TREE | WATCH_DIR);
}

static void folder_went(struct watch_root *r, struct watch_node *parent, const char *name)
{
    struct watch_node *node = node_child(&r->tree->index, parent, name);

    if (node)
        walk_remove(r->tree, r, node);
}

static void moved_away(struct watch_root *r, struct watch_node *parent,
                       const struct notify_event *event)
{
    struct watch_tree *t = r->tree;
    const char *path = node_path(parent, event->name, &t->path);
    size_t n = strlen(path) + 1;
    struct moved_from *m = malloc(sizeof(*m) + n);

    if (!m) {
        report(r, parent, event->name, WATCH_ENTRY);
        folder_went(r, parent, event->name);
        return;
    }
    *m = (struct moved_from){.root = r,
                             .cookie = event->cookie,
                             .is_dir = (event->mask & IN_ISDIR) != 0,
                             .until = clock_mono_ns() + RENAME_GRACE_NS};
    memcpy(m->path, path, n);
    m->node = m->is_dir ? node_child(&t->index, parent, event->name) : NULL;
    if (m->is_dir && t->ahead)
        root_suspect(r);
    if (m->node) {
        /* What is not watched yet, or was to be reported, is walked where it arrives. */
        if (m->node->flags & (NODE_QUEUED | NODE_REPORT | NODE_POLLED))
            m->node->flags |= NODE_MISSED;
        if (m->node->flags & NODE_REPORT)
            TAILQ_REMOVE(&r->report, m->node, report);
        m->node->flags &= ~(unsigned)NODE_REPORT;
        node_detach(&t->index, m->node);
    }
    TAILQ_INSERT_TAIL(&t->moved, m, link);
}

static struct moved_from *other_half(struct watch_root *r, uint32_t cookie)
{
    struct moved_from *m;

    TAILQ_FOREACH(m, &r->tree->moved, link)
    {
        if (m->root == r && m->cookie == cookie)
            return m;
    }
    return NULL;
}

/* The folder has a name again. True when all of it is known, so that nothing is to be walked. */
static bool folder_arrived(struct watch_root *r, struct moved_from *m, struct watch_node *parent,
                           const char *name)
{
    struct watch_tree *t = r->tree;
    struct watch_node *node = m->node;

    m->node = NULL;
    folder_went(r, parent, name); /* replaced */
    if (!node)
        return false;
    bool wanted = r->calls.want(r->ctx, node_path(parent, name, &t->path), true, NULL);
    if (!wanted || !node_attach(&t->index, node, parent, name)) {
        walk_remove(t, r, node);
        return !wanted;
    }
    bool known =
        node->wd >= 0 && !(node->flags & NODE_MISSED) && !r->uneven && !r->calls.rules_by_path;
    node->flags &= ~(unsigned)NODE_MISSED;
    return known;
}

static void moved_here(struct watch_root *r, struct watch_node *parent,
                       const struct notify_event *event)
{
    struct watch_tree *t = r->tree;
    bool is_dir = (event->mask & IN_ISDIR) != 0;
    unsigned how = WATCH_ENTRY | WATCH_CLOSED | (is_dir ? WATCH_DIR : 0);
    struct moved_from *m = other_half(r, event->cookie);

    if (is_dir && (t->ahead || node_child(&t->index, parent, event->name)))
        root_suspect(r);

    if (!m) {
        folder_went(r, parent, event->name);
        if (is_dir)
            folder_came(r, parent, event->name);
        else
            report(r, parent, event->name, how);
        return;
    }
    TAILQ_REMOVE(&t->moved, m, link);
    bool known = true;
    if (is_dir)
        known = folder_arrived(r, m, parent, event->name);
    else
        folder_went(r, parent, event->name);
    r->calls.moved(r->ctx, m->path, node_path(parent, event->name, &t->path), how);
    if (!known)
        folder_came(r, parent, event->name);
    free(m);
}

static void child_event(struct watch_tree *t, struct watch_root *r, struct watch_node *node,
                        const struct notify_event *event)
{
    bool is_dir = (event->mask & IN_ISDIR) != 0;
    unsigned how = WATCH_ENTRY | (is_dir ? WATCH_DIR : 0);

    if (r->calls.rules_file && !is_dir && strcmp(event->name, r->calls.rules_file) == 0)
        r->uneven = true;
    if (event->mask & IN_MOVED_FROM) {
        moved_away(r, node, event);
        return;
    }
    if (event->mask & IN_MOVED_TO) {
        moved_here(r, node, event);
        return;
    }
    if ((event->mask & IN_DELETE) || ((event->mask & IN_CREATE) && !is_dir))
        folder_went(r, node, event->name);
    if ((event->mask & IN_CREATE) && is_dir) {
        const struct watch_node *child = node_child(&t->index, node, event->name);
        if (!child || child->wd < 0 || (child->flags & NODE_REPORT)) {
            folder_came(r, node, event->name);
            return;
        } /* else a walk has been faster, and has seen or will see what is in it */
    }
    if ((event->mask & IN_ATTRIB) && is_dir) {
        const struct watch_node *child = node_child(&t->index, node, event->name);
        if (child && child->wd < 0) /* perhaps it may be read now */
            folder_came(r, node, event->name);
    }
    if (event->mask & IN_MODIFY)
        how |= WATCH_FLUSH;
    if (event->mask & IN_CLOSE_WRITE)
        how |= WATCH_CLOSED;
    report(r, node, event->name, how);
}

/* ---- dispatch ---- */

static bool still_has(const struct watch_tree *t, int wd, const struct watch_node *node)
{
    const struct watch_node *at = node_of_wd(&t->index, wd);

    while (at && at != node)
        at = node_same_wd(at);
    return at != NULL;
}

void events_deliver(void *tree, const struct notify_event *event)
{
    struct watch_tree *t = tree;
    struct watch_node *nodes[SAME_WD_MAX];
    size_t count = 0;
    bool self = event->name[0] == 0;

    if (self && (event->mask & (self_mask | IN_ATTRIB)))
        check_guards(t, event);
    struct watch_node *node = node_of_wd(&t->index, event->wd);
    for (; node && count < SAME_WD_MAX; node = node_same_wd(node))
        nodes[count++] = node;
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && !still_has(t, event->wd, nodes[i]))
            continue;
        struct watch_root *r = node_root(nodes[i]);
        if (!r)
            node_top(nodes[i])->flags |= NODE_MISSED; /* on the move: walked where it arrives */
        else if (self)
            self_event(t, r, nodes[i], event);
        else
            child_event(t, r, nodes[i], event);
        if (!r && (event->mask & IN_IGNORED))
            node_set_wd(&t->index, nodes[i], -1);
    }
}

void events_overflow(void *tree)
{
    struct watch_tree *t = tree;
    struct watch_root *r;

    t->overflows++;
    events_expire(t, UINT64_MAX);
    LIST_FOREACH(r, &t->roots, link)
    {
        r->doubted = true;
        if (r->top)
            walk_enqueue(r, r->top, true);
    }
}

void events_expire(struct watch_tree *t, uint64_t now_ns)
{
    struct moved_from *m;

    while ((m = TAILQ_FIRST(&t->moved)) && m->until <= now_ns) {
        TAILQ_REMOVE(&t->moved, m, link);
        if (m->node)
            walk_remove(t, m->root, m->node);
        m->root->calls.dirty(m->root->ctx, m->path, WATCH_ENTRY | (m->is_dir ? WATCH_DIR : 0));
        free(m);
    }
}

void events_forget(struct watch_tree *t, const struct watch_root *r)
{
    struct moved_from *next;

    for (struct moved_from *m = TAILQ_FIRST(&t->moved); m; m = next) {
        next = TAILQ_NEXT(m, link);
        if (m->root != r)
            continue;
        TAILQ_REMOVE(&t->moved, m, link);
        if (m->node)
            walk_remove(t, m->root, m->node);
        free(m);
    }
}

void events_turn(void *tree, bool empty)
{
    struct watch_tree *t = tree;
    struct watch_root *r;

    LIST_FOREACH(r, &t->roots, link)
    {
        if (r->doubted)
            watch_root_check(r);
    }
    tree_walk_on(t, empty);
    t->turn(t->ctx);
}
