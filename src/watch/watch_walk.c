#include "watch/watch_walk.h"

#include "base/clock.h"
#include "base/text.h"
#include "io/safe_path.h"
#include "watch/filesystem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum { LIST_BYTES = 32 * 1024, SLICE_NS = 5000000 };

static const uint32_t folder_mask = IN_CLOSE_WRITE | IN_MODIFY | IN_ATTRIB | IN_CREATE | IN_DELETE |
                                    IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF |
                                    IN_EXCL_UNLINK;

int walk_watch(struct watch_tree *t, int fd)
{
    return notify_add(t->notify, fd, folder_mask);
}

void walk_enqueue(struct watch_root *r, struct watch_node *node, bool report)
{
    struct watch_tree *t = r->tree;

    if (report && !(node->flags & NODE_REPORT)) {
        node->flags |= NODE_REPORT;
        TAILQ_INSERT_TAIL(&r->report, node, report);
    }
    if (!(node->flags & NODE_QUEUED)) {
        node->flags |= NODE_QUEUED;
        TAILQ_INSERT_TAIL(&t->queue, node, queue);
    }
    if (!r->walking)
        r->walk_began = clock_mono_ns();
    r->walking = true;
}

/* ---- forgetting ---- */

static bool guards_have(const struct watch_tree *t, int wd)
{
    struct watch_root *r;

    LIST_FOREACH(r, &t->roots, link)
    {
        for (size_t i = 0; i < r->guard_count; i++) {
            if (r->guards[i] == wd)
                return true;
        }
    }
    return false;
}

void walk_release_wd(struct watch_tree *t, int wd)
{
    if (wd >= 0 && !node_of_wd(&t->index, wd) && !guards_have(t, wd))
        notify_remove(t->notify, wd);
}

static void unwatch(struct watch_tree *t, struct watch_node *node)
{
    int wd = node->wd;

    node_set_wd(&t->index, node, -1);
    walk_release_wd(t, wd);
}

static void unlist(struct watch_tree *t, struct watch_root *r, struct watch_node *node)
{
    if (node->flags & NODE_QUEUED)
        TAILQ_REMOVE(&t->queue, node, queue);
    if (node->flags & NODE_REPORT)
        TAILQ_REMOVE(&r->report, node, report);
    if (node->flags & NODE_POLLED) {
        TAILQ_REMOVE(&r->polled, node, polled);
        r->polled_count--;
    }
    node->flags &= ~(unsigned)(NODE_QUEUED | NODE_REPORT | NODE_POLLED);
}

void walk_remove(struct watch_tree *t, struct watch_root *r, struct watch_node *node)
{
    struct watch_node *at = node;

    for (;;) { /* leaves first */
        struct watch_node *up = at->parent;
        if (!LIST_EMPTY(&at->children)) {
            at = LIST_FIRST(&at->children);
            continue;
        }
        bool last = at == node;
        unlist(t, r, at);
        unwatch(t, at);
        node_free(&t->index, at);
        if (last)
            return;
        at = up;
    }
}

static void remove_children(struct watch_tree *t, struct watch_root *r, struct watch_node *node)
{
    while (!LIST_EMPTY(&node->children))
        walk_remove(t, r, LIST_FIRST(&node->children));
}

void walk_set_polled(struct watch_root *r, struct watch_node *node)
{
    struct watch_tree *t = r->tree;

    remove_children(t, r, node);
    unwatch(t, node);
    if (!(node->flags & NODE_POLLED)) {
        node->flags |= NODE_POLLED;
        TAILQ_INSERT_TAIL(&r->polled, node, polled);
        r->polled_count++;
    }
}

static void set_watched(struct watch_root *r, struct watch_node *node, int wd)
{
    struct watch_tree *t = r->tree;
    int old = node->wd;

    if (node->flags & NODE_POLLED) {
        node->flags &= ~(unsigned)NODE_POLLED;
        TAILQ_REMOVE(&r->polled, node, polled);
        r->polled_count--;
    }
    node_set_wd(&t->index, node, wd);
    if (old != wd)
        walk_release_wd(t, old);
}

/* ---- walking one folder ---- */

struct listing {
    struct watch_root *r;
    struct watch_node *node;
    int fd;
};

static bool is_folder(int dirfd, const struct dirent64 *entry)
{
    struct stat st;

    if (entry->d_type != DT_UNKNOWN)
        return entry->d_type == DT_DIR;
    return fstatat(dirfd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) == 0 &&
           S_ISDIR(st.st_mode);
}

static void found(struct listing *l, const struct dirent64 *entry)
{
    struct watch_root *r = l->r;
    struct watch_tree *t = r->tree;
    const char *name = entry->d_name;

    if (r->calls.rules_file && strcmp(name, r->calls.rules_file) == 0)
        r->uneven = true;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || !is_folder(l->fd, entry))
        return;
    if (!r->calls.want(r->ctx, node_path(l->node, name, &t->child), true, NULL))
        return;
    struct watch_node *child = node_child(&t->index, l->node, name);
    if (!child)
        child = node_new(&t->index, l->node, name);
    if (!child) { /* no memory: the folder itself is looked at on the timer */
        walk_set_polled(r, l->node);
        return;
    }
    child->flags |= NODE_SEEN;
    walk_enqueue(r, child, false);
}

/* False when the folder could not be read to the end. */
static bool list_folders(struct listing *l)
{
    _Alignas(struct dirent64) char list[LIST_BYTES];
    ssize_t n;

    while ((n = getdents64(l->fd, list, sizeof(list))) > 0) {
        for (ssize_t at = 0; at < n;) {
            const struct dirent64 *entry = (const void *)(list + at);
            found(l, entry);
            if (l->node->flags & NODE_POLLED)
                return true;
            at += entry->d_reclen;
        }
    }
    return n == 0;
}

static void drop_unseen(struct watch_root *r, struct watch_node *node)
{
    struct watch_node *next;

    for (struct watch_node *child = LIST_FIRST(&node->children); child; child = next) {
        next = LIST_NEXT(child, sibling);
        if (child->flags & NODE_SEEN)
            child->flags &= ~(unsigned)NODE_SEEN;
        else
            walk_remove(r->tree, r, child);
    }
}

/* The folder could not be opened. */
static void walk_failed(struct watch_root *r, struct watch_node *node, int sys)
{
    struct watch_tree *t = r->tree;

    if (node != r->top && (sys == ENOENT || sys == ENOTDIR || sys == ELOOP)) {
        r->calls.dirty(r->ctx, node_path(node, "", &t->child), WATCH_ENTRY | WATCH_DIR);
        walk_remove(t, r, node);
    } else if (node != r->top && (sys == EACCES || sys == EPERM)) {
        /* Nothing to see for a scan either; a change of its mode is an event of its parent. */
        remove_children(t, r, node);
        unwatch(t, node);
    } else {
        walk_set_polled(r, node);
    }
}

static void watch_opened(struct watch_root *r, struct watch_node *node, int fd,
                         const struct stat *st)
{
    struct watch_tree *t = r->tree;

    if ((node == r->top || st->st_dev != r->dev) && filesystem_remote(fd)) {
        walk_set_polled(r, node);
        return;
    }
    int wd = walk_watch(t, fd);
    if (wd < 0) {
        if (wd == -ENOSPC)
            t->exhausted = r->exhausted = true;
        walk_set_polled(r, node);
        return;
    }
    set_watched(r, node, wd);
    struct listing l = {.r = r, .node = node, .fd = fd};
    if (!list_folders(&l))
        walk_set_polled(r, node);
    drop_unseen(r, node);
}

static void walk_folder(struct watch_root *r, struct watch_node *node, int rootfd)
{
    struct watch_tree *t = r->tree;
    struct error e = ERROR_INIT;
    struct stat st;

    if (!t->notify || (t->exhausted && node->wd < 0)) {
        if (t->notify)
            r->exhausted = true;
        walk_set_polled(r, node);
        return;
    }
    const char *path = node_path(node, "", &t->child);
    int fd = safe_open(rootfd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK, 0, &e);
    if (fd >= 0 && fstat(fd, &st) != 0) {
        e.sys = errno;
        close(fd);
        fd = -1;
    }
    if (fd < 0) {
        walk_failed(r, node, e.sys);
        return;
    }
    if (node != r->top && !r->calls.want(r->ctx, path, true, &st))
        walk_remove(t, r, node);
    else
        watch_opened(r, node, fd, &st);
    close(fd);
}

/* ---- slices ---- */

/* The queue is empty: all that was found is watched, so now it may be reported. */
static void root_walked(struct watch_root *r)
{
    struct watch_tree *t = r->tree;
    struct watch_node *node;

    r->walking = false;
    r->walk_cost = clock_mono_ns() - r->walk_began;
    if (r->polled_count == 0)
        r->exhausted = false;
    while ((node = TAILQ_FIRST(&r->report))) {
        TAILQ_REMOVE(&r->report, node, report);
        node->flags &= ~(unsigned)NODE_REPORT;
        if (node_root(node))
            r->calls.dirty(r->ctx, node_path(node, "", &t->path), WATCH_TREE | WATCH_DIR);
        else
            node_top(node)->flags |= NODE_MISSED; /* reported where it arrives */
    }
    r->calls.state(r->ctx);
}

static void all_walked(struct watch_tree *t)
{
    struct watch_root *r;

    LIST_FOREACH(r, &t->roots, link)
    {
        if (r->walking)
            root_walked(r);
    }
    struct watch_barrier *waiting = t->waiting;
    t->waiting = NULL;
    while (waiting) {
        struct watch_barrier *b = waiting;
        waiting = b->next;
        b->passed(b->ctx);
    }
}

/* The folder to walk in belongs to this root: open it unless it is open. False: the root is not
 * what was watched, and the queue has changed. */
static bool enter_root(struct watch_root *r, struct watch_root **in, int *fd)
{
    struct error e = ERROR_INIT;
    struct stat st;

    if (*in == r)
        return true;
    if (*fd >= 0)
        close(*fd);
    *in = NULL;
    *fd = root_open(r, &st, &e);
    if (*fd < 0 || st.st_dev != r->dev || st.st_ino != r->ino) {
        struct watch_node *top = r->top;
        /* Where it cannot be opened just now (no descriptors left), its folders become polled. */
        return watch_root_check(r) && r->top == top && *fd < 0;
    }
    *in = r;
    return true;
}

bool walk_slice(struct watch_tree *t, bool all)
{
    uint64_t end = clock_mono_ns() + SLICE_NS;
    struct watch_root *in = NULL;
    struct watch_node *node;
    bool walked = false;
    int fd = -1;

    while ((node = TAILQ_FIRST(&t->queue))) {
        struct watch_root *r = node_root(node);
        walked = true;
        if (r && !enter_root(r, &in, &fd))
            continue;
        TAILQ_REMOVE(&t->queue, node, queue);
        node->flags &= ~(unsigned)NODE_QUEUED;
        if (r)
            walk_folder(r, node, fd);
        else
            node_top(node)->flags |= NODE_MISSED; /* on the move: walked where it arrives */
        if (!all && clock_mono_ns() > end)
            break;
    }
    if (fd >= 0)
        close(fd);
    t->ahead = t->ahead || (walked && t->notify);
    if (TAILQ_EMPTY(&t->queue))
        all_walked(t);
    return walked;
}
