/* What stands in the root now, by a look at names and metadata alone: for the preview of a restore
 * in place, which saves nothing and so has nothing better to compare with. */
#include "snapshot/restore_plan_live.h"

#include "base/text.h"
#include "io/safe_path.h"
#include "snapshot/save_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

/* ---- one entry ---- */

/* A database with something in its side files is not what its own file says. */
static bool has_sides(const struct live_plan *p, const char *path)
{
    static const char *const ends[] = {"-wal", "-journal"};
    struct error ignored = ERROR_INIT;
    struct stat st;
    bool any = false;

    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        char *side = text_format("%s%s", path, ends[i]);
        any = any || (side && safe_stat(p->place, side, &st, &ignored) == 0 && st.st_size > 0);
        free(side);
    }
    return any;
}

static bool same_target(const struct live_plan *p, const char *path, const char *target)
{
    struct error ignored = ERROR_INIT;
    char now[4097];
    const char *name;

    int dir = safe_open_parent(p->place, path, &name, &ignored);
    ssize_t n = dir >= 0 ? readlinkat(dir, name, now, sizeof(now) - 1) : -1;
    if (dir >= 0)
        close(dir);
    if (n < 0)
        return false;
    now[n] = 0;
    return target && strcmp(now, target) == 0;
}

static bool looks_same(const struct live_plan *p, const char *path, const struct node *n,
                       const struct stat *st)
{
    bool same = n->uid == st->st_uid && n->gid == st->st_gid && n->mtime_s == st->st_mtim.tv_sec &&
                n->mtime_ns == (uint32_t)st->st_mtim.tv_nsec;

    if (n->type == NODE_SYMLINK)
        return same && same_target(p, path, n->target);
    same = same && n->mode == (st->st_mode & 07777);
    if (n->type == NODE_FILE && n->flags & NODE_SQLITE)
        return same && !has_sides(p, path);
    return same && (n->type != NODE_FILE || n->size == (uint64_t)st->st_size);
}

/* A file that was not written since, but for its owner or mode. */
static bool looks_same_inside(const struct live_plan *p, const char *path, const struct node *n,
                              const struct stat *st)
{
    return n->type == NODE_FILE && n->size == (uint64_t)st->st_size &&
           n->mtime_s == st->st_mtim.tv_sec && n->mtime_ns == (uint32_t)st->st_mtim.tv_nsec &&
           st->st_nlink == 1 && !(n->flags & NODE_SQLITE && has_sides(p, path));
}

int live_look(struct live_plan *p, const struct tree_entry *t, const char *path,
              enum live_state *state, struct error *e)
{
    struct stat st;
    struct node n;

    *state = LIVE_ABSENT;
    if (p->place < 0)
        return 0;
    if (safe_stat(p->place, path, &st, e) != 0) {
        if (e->code != ERR_NOTFOUND && e->code != ERR_REFUSED) /* a link where a folder was */
            return e->code;
        error_clear(e);
        return 0;
    }
    int rc = node_decode(t->meta, t->meta_len, &n, e);
    if (rc != 0)
        return rc;
    if (n.type != node_type_of(st.st_mode))
        *state = LIVE_OTHER_TYPE;
    else
        *state = looks_same(p, path, &n, &st)          ? LIVE_SAME
                 : looks_same_inside(p, path, &n, &st) ? LIVE_SAME_CONTENT
                                                       : LIVE_DIFFERENT;
    node_release(&n);
    return 0;
}

/* ---- what would go ---- */

struct pending {
    char *path;
    bool goes; /* with all that is in it: the snapshot has something else there */
};

struct looking {
    struct live_plan *plan;
    struct pending *pending; /* folders to look into */
    size_t count, cap;
};

static int push(struct looking *l, char *path, bool goes, struct error *e)
{
    if (!path)
        return no_memory(e);
    if (l->count == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 64;
        struct pending *v = reallocarray(l->pending, cap, sizeof(*v));
        if (!v) {
            free(path);
            return no_memory(e);
        }
        l->pending = v;
        l->cap = cap;
    }
    l->pending[l->count++] = (struct pending){path, goes};
    return 0;
}

/* The type that the snapshot has at path, 0: nothing. */
static int type_in_snapshot(struct live_plan *p, const char *path, uint8_t *type, struct error *e)
{
    const struct snapshot_row *s = p->req->snapshot;
    struct buffer meta = BUFFER_INIT;
    struct node_brief brief;
    uint64_t node;

    *type = 0;
    path = live_at(p, p->from, path);
    if (!path)
        return no_memory(e);
    int rc = tree_find(p->cat, s->watch_serial, (int64_t)s->commit.number, path, &node, e);
    if (rc == 0)
        rc = catalog_node(p->cat, s->watch_serial, node, (int64_t)s->commit.number, &meta, e);
    if (rc == 0)
        rc = node_brief_decode(meta.data, meta.len, &brief, e);
    if (rc == 0)
        *type = brief.type;
    buffer_release(&meta);
    if (rc != ERR_NOTFOUND)
        return rc;
    error_clear(e);
    return 0;
}

static int look_at(struct looking *l, int fd, const char *name, const char *path, bool goes,
                   struct error *e)
{
    struct live_plan *p = l->plan;
    enum live_where where = live_where(p, path);
    struct stat st;
    uint8_t type = 0;

    if ((where == LIVE_OUT && !goes) || fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return 0;
    bool dir = S_ISDIR(st.st_mode);
    const char *at = live_at(p, p->into, path);
    if (!at)
        return no_memory(e);
    if (!rules_want(p->req->rules, p->rootfd, at, dir, &st, NULL) ||
        (S_ISREG(st.st_mode) && p->req->sqlite && database_side_file(fd, name)))
        return 0;
    int rc = goes ? 0 : type_in_snapshot(p, path, &type, e);
    if (rc != 0)
        return rc;
    if (type != 0 && (!dir || type == NODE_FOLDER))
        return dir ? push(l, strdup(path), false, e) : 0;
    goes = goes || type != 0;
    rc = goes ? 1 : live_removes(p, where, path, dir, e);
    if (rc <= 0)
        return rc;
    rc = live_tell(p, LIVE_DELETE, path, node_type_of(st.st_mode), 0, e);
    return rc == 0 && dir ? push(l, strdup(path), goes, e) : rc;
}

static int look_into(struct looking *l, const struct pending *at, struct error *e)
{
    const char *folder = at->path;
    const struct dirent *entry;
    int rc = 0;

    int fd = safe_open(l->plan->place, folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, e);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        if (fd >= 0)
            close(fd);
        error_clear(e); /* what cannot be looked into has nothing to tell */
        return 0;
    }
    while (rc == 0 && (entry = readdir(d)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char *path = *folder ? text_format("%s/%s", folder, entry->d_name) : strdup(entry->d_name);
        rc = path ? look_at(l, fd, entry->d_name, path, at->goes, e) : no_memory(e);
        free(path);
    }
    closedir(d);
    return rc;
}

int live_look_removals(struct live_plan *p, struct error *e)
{
    struct looking l = {.plan = p};
    int rc = p->place < 0 ? 0 : push(&l, strdup(""), false, e);

    while (rc == 0 && l.count > 0) {
        struct pending folder = l.pending[--l.count];
        rc = look_into(&l, &folder, e);
        free(folder.path);
    }
    while (l.count > 0)
        free(l.pending[--l.count].path);
    free(l.pending);
    return rc;
}
