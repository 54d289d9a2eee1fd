/* Which node is it? A name keeps its node, whatever inode is behind it now: programs save by
 * writing a new file and renaming it. Three things take precedence: a further name of an inode
 * that has been seen (a hard link), a folder or file that has moved here, and a node that has
 * other names which keep it. Inode numbers are used again by file systems, so that a move is only
 * believed of what is not younger than its cached signature. */
#include "snapshot/save_state.h"

#include "base/log.h"
#include "io/safe_path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/banned.h"

enum { CANDIDATES_MAX = 8 };

/* ---- what is known ---- */

struct signature entry_like(const struct node_brief *b, uint64_t ino)
{
    return (struct signature){.ino = ino,
                              .size = b->size,
                              .mode = node_format_of(b->type) | b->mode,
                              .uid = b->uid,
                              .gid = b->gid,
                              .mtime_s = b->mtime_s,
                              .mtime_ns = b->mtime_ns};
}

bool entry_signature(const struct save *s, const struct known *row, struct signature *out)
{
    struct node_brief b;
    struct error ignored = ERROR_INIT;

    if (!row || row->sig_len == 0 || node_brief_decode(row->meta, row->meta_len, &b, &ignored) < 0)
        return false;
    const struct signature like = entry_like(&b, row->ino);
    if (!signature_decode(row->sig, row->sig_len, &like, out))
        return false;
    if (s->dev_moved && out->dev == s->old_dev)
        out->dev = s->new_dev;
    return true;
}

struct entry { /* what is there, and what it is taken for */
    struct folder *in;
    const char *name;
    const struct stat *st;
    uint8_t type;
    struct signature now;
    const struct known *row; /* NULL: nothing known under this name */
    bool had_row;            /* also when the name was removed meanwhile */
    struct signature cached; /* of row, when has_cached */
    bool has_cached;
    struct node_brief brief; /* of row */
    /* chosen */
    uint64_t node;
    bool new_node, put_name;
    bool seen;        /* its content was looked at under another name */
    bool descend;     /* a folder whose content may be another */
    struct known old; /* version to compare with; in s->meta and s->sig when fetched */
};

static bool same_inode(const struct signature *a, const struct signature *b)
{
    return a->ino == b->ino && a->dev == b->dev;
}

/* Fetch the present version of a node that was not found by this name. */
static int fetch(struct save *s, uint64_t node, struct known *k, struct error *e)
{
    uint64_t ino = 0;

    buffer_clear(&s->meta);
    buffer_clear(&s->sig);
    int rc = catalog_node(s->cat, s->watch, node, CATALOG_OPEN, &s->meta, e);
    if (rc < 0)
        return rc;
    rc = catalog_cache_get(s->cat, s->watch, node, &ino, &s->sig, e);
    if (rc < 0 && rc != ERR_NOTFOUND)
        return rc;
    *k = (struct known){.node = node,
                        .ino = ino,
                        .meta = s->meta.data,
                        .meta_len = (uint32_t)s->meta.len,
                        .sig = s->sig.data,
                        .sig_len = (uint32_t)s->sig.len};
    return 0;
}

/* A thing that moves while it is looked for is met twice. The node stays where it was met first;
 * the next save finds what became of it. */
static bool was_looked_at(const struct save *s, uint64_t node)
{
    return node < s->looked_nodes && s->looked[node / 8] & (1u << node % 8);
}

static void look_at(struct save *s, uint64_t node)
{
    if (node < s->looked_nodes)
        s->looked[node / 8] |= (uint8_t)(1u << node % 8);
}

/* ---- found by inode ---- */

/* When it was made, or 0 where that is not recorded. */
static struct wall_time born(const struct entry *n)
{
    struct statx x = {0};

    if (!n->in->dir || statx(n->in->dir->fd, n->name, AT_SYMLINK_NOFOLLOW, STATX_BTIME, &x) < 0 ||
        !(x.stx_mask & STATX_BTIME))
        return (struct wall_time){0};
    return (struct wall_time){x.stx_btime.tv_sec, x.stx_btime.tv_nsec};
}

static bool same_mtime(const struct signature *a, const struct signature *b)
{
    return a->mtime_s == b->mtime_s && a->mtime_ns == b->mtime_ns;
}

/* Could it be what was cached, by its age? */
static bool old_enough(const struct entry *n, const struct signature *cached)
{
    struct wall_time b = born(n);

    if (b.s == 0 && b.ns == 0)
        return same_mtime(&n->now, cached);
    return b.s < cached->ctime_s || (b.s == cached->ctime_s && b.ns <= cached->ctime_ns);
}

/* Is the place where the node stood left? `elsewhere`: by something else, too. */
static int left_its_place(struct save *s, const struct entry *n, uint64_t node, bool elsewhere,
                          bool *left, struct error *e)
{
    struct buffer path = BUFFER_INIT;
    struct error none = ERROR_INIT;
    struct signature there;
    struct stat st;

    *left = false;
    int rc = catalog_node_path(s->cat, s->watch, node, CATALOG_OPEN, &path, e);
    if (rc == 0) {
        const char *old = buffer_cstr(&path);
        int found = safe_stat(s->rootfd, old, &st, &none);
        if (found == ERR_NOTFOUND || found == ERR_REFUSED) {
            *left = true;
        } else if (found == 0) {
            signature_of(&st, &there);
            *left = elsewhere && !same_inode(&there, &n->now);
        }
    }
    buffer_release(&path);
    return rc == ERR_NOTFOUND ? 0 : rc;
}

/* Does this candidate fit? Its version is fetched into n->old when it does. */
static int fits(struct save *s, struct entry *n, uint64_t node, bool link, bool *ok,
                struct error *e)
{
    struct known k;
    struct signature cached;
    struct node_brief b;

    *ok = false;
    if (node == NODE_ROOT || (n->row && n->row->node == node) || pair_map_get(&s->fate, node, 0) ||
        was_looked_at(s, node))
        return 0;
    int rc = fetch(s, node, &k, e);
    if (rc < 0)
        return rc == ERR_NOTFOUND ? 0 : rc;
    if (!entry_signature(s, &k, &cached) || !same_inode(&cached, &n->now) ||
        node_brief_decode(k.meta, k.meta_len, &b, e) < 0 || b.type != n->type)
        return 0;
    n->old = k;
    if (link) {
        *ok = old_enough(n, &cached);
        return 0;
    }
    if (n->type != NODE_FOLDER && (cached.size != n->now.size || !same_mtime(&cached, &n->now)))
        return 0;
    if (!old_enough(n, &cached))
        return 0;
    rc = left_its_place(s, n, node, n->type == NODE_FOLDER, ok, e);
    /* Paths below a name that was another folder's were looked up below that one. */
    n->descend = n->had_row || cached.racy || !same_mtime(&cached, &n->now);
    return rc;
}

/* The node that has this inode, 0 = none. link: it may still stand where it was. */
static int find_by_inode(struct save *s, struct entry *n, bool link, uint64_t *node,
                         struct error *e)
{
    uint64_t candidates[CANDIDATES_MAX];
    size_t count = 0;
    bool ok = false;

    *node = 0;
    if (s->fresh)
        return 0;
    int rc =
        catalog_cache_by_ino(s->cat, s->watch, n->now.ino, candidates, CANDIDATES_MAX, &count, e);
    for (size_t i = 0; rc == 0 && !ok && i < count; i++) {
        rc = fits(s, n, candidates[i], link, &ok, e);
        if (ok)
            *node = candidates[i];
    }
    return rc;
}

/* ---- choosing the node ---- */

static uint64_t *link_of(const struct save *s, const struct entry *n)
{
    return pair_map_get(&s->links, n->now.dev, n->now.ino);
}

/* From now on the inode is this node. */
static int bind_link(struct save *s, const struct entry *n, struct error *e)
{
    if (n->st->st_nlink < 2 || n->type == NODE_FOLDER)
        return 0;
    return pair_map_put(&s->links, n->now.dev, n->now.ino, n->node) ? 0 : save_no_memory(e);
}

static int keep(struct save *s, struct entry *n, struct error *e)
{
    n->node = n->row->node;
    n->old = *n->row;
    n->seen |= n->type != NODE_FOLDER && was_looked_at(s, n->node);
    look_at(s, n->node);
    /* Without a cached inode it may be any folder. */
    n->descend = !n->has_cached;
    if (n->has_cached && !same_inode(&n->cached, &n->now)) {
        n->descend = true;
        if (!pair_map_put(&s->fate, n->node, 0, FATE_OTHER_INODE))
            return save_no_memory(e);
    }
    return bind_link(s, n, e);
}

/* Another node from now on; the row's stays only if it is found elsewhere. */
static int displace(struct save *s, struct entry *n, struct error *e)
{
    int rc = n->row ? names_displace(s, n->in->node, n->name, n->row, e) : 0;

    n->row = NULL;
    return rc;
}

static int take_known(struct save *s, struct entry *n, uint64_t node, bool seen, struct error *e)
{
    const struct known old = n->old; /* displacing fetches nothing */
    int rc = displace(s, n, e);

    look_at(s, node);
    n->old = old;
    n->node = node;
    n->seen = seen;
    n->put_name = true;
    return rc < 0 ? rc : bind_link(s, n, e);
}

static int take_new(struct save *s, struct entry *n, struct error *e)
{
    int rc = displace(s, n, e);

    n->node = txn_new_node(s->txn);
    n->new_node = n->put_name = n->descend = true;
    n->old = (struct known){0};
    return rc < 0 ? rc : bind_link(s, n, e);
}

static int take_moved(struct save *s, struct entry *n, uint64_t node, struct error *e)
{
    const struct known old = n->old;
    bool descend = n->descend;
    int rc = displace(s, n, e);

    if (rc == 0)
        rc = names_move(s, node, n->type, n->in->node, n->name, e);
    look_at(s, node);
    n->node = node;
    n->old = old;
    n->descend = descend || pair_map_get(&s->lost, node, 0);
    return rc;
}

/* A name with no row, or whose row does not fit. */
static int choose_unknown(struct save *s, struct entry *n, struct error *e)
{
    uint64_t node = 0;
    bool link = n->type != NODE_FOLDER && n->st->st_nlink > 1;
    const uint64_t *linked = link ? link_of(s, n) : NULL;

    if (linked)
        return take_known(s, n, *linked, true, e);
    int rc = find_by_inode(s, n, link, &node, e);
    if (rc < 0)
        return rc;
    if (node && link)
        return take_known(s, n, node, false, e);
    if (node && (n->type == NODE_FOLDER || n->type == NODE_FILE))
        return take_moved(s, n, node, e);
    return take_new(s, n, e);
}

static int choose_folder(struct save *s, struct entry *n, struct error *e)
{
    uint64_t node = 0;

    if (!n->has_cached || same_inode(&n->cached, &n->now))
        return keep(s, n, e);
    /* Another folder by that name: one that was known elsewhere, or a copy put in its place. */
    int rc = find_by_inode(s, n, false, &node, e);
    if (rc < 0)
        return rc;
    if (node)
        return take_moved(s, n, node, e);
    return keep(s, n, e);
}

/* Without cached inodes two names of one node must still turn out as one inode. */
static int bound_elsewhere(struct save *s, struct entry *n, bool *elsewhere, struct error *e)
{
    int64_t names = 1;
    int rc = names_count(s, n->row->node, &names, e);

    *elsewhere = false;
    if (rc < 0 || names < 2)
        return rc;
    const uint64_t *ino = pair_map_get(&s->bound, n->row->node, 0);
    if (ino)
        *elsewhere = *ino != n->now.ino;
    else if (!pair_map_put(&s->bound, n->row->node, 0, n->now.ino))
        return save_no_memory(e);
    return 0;
}

/* A known name of something that is no folder. */
static int choose_known(struct save *s, struct entry *n, struct error *e)
{
    const uint64_t *linked = n->st->st_nlink > 1 ? link_of(s, n) : NULL;
    bool broken = false;
    int64_t names = 1;
    int rc = 0;

    if (linked && *linked == n->row->node) {
        n->seen = true;
        return keep(s, n, e);
    }
    if (linked)
        return take_known(s, n, *linked, true, e);
    if (!n->has_cached)
        rc = bound_elsewhere(s, n, &broken, e);
    if (rc == 0 && n->has_cached && !same_inode(&n->cached, &n->now)) {
        uint64_t node = 0;
        if (n->st->st_nlink > 1)
            rc = find_by_inode(s, n, true, &node, e);
        if (rc == 0 && node)
            return take_known(s, n, node, false, e);
        if (rc == 0)
            rc = names_count(s, n->row->node, &names, e);
        /* The other names keep the node; one that was met may be put only later. */
        broken = names > 1 || was_looked_at(s, n->row->node);
    }
    if (rc < 0)
        return rc;
    return broken ? take_new(s, n, e) : keep(s, n, e);
}

static int choose(struct save *s, struct entry *n, struct error *e)
{
    if (n->row && names_removed(s, n->in->node, n->name))
        n->row = NULL;
    if (!n->row)
        return choose_unknown(s, n, e);
    if (n->brief.type != n->type)
        return choose_unknown(s, n, e);
    return n->type == NODE_FOLDER ? choose_folder(s, n, e) : choose_known(s, n, e);
}

/* ---- doing it ---- */

static int gone(struct save *s, struct folder *f, const char *name, const struct known *row,
                struct error *e)
{
    if (!row || names_removed(s, f->node, name))
        return 0;
    return names_gone(s, f->node, name, row, e);
}

static int put_name(struct save *s, const struct entry *n, struct error *e)
{
    if (!n->put_name)
        return 0;
    return names_put(s, n->in->node, n->name, n->node, n->type, n->new_node, e);
}

static int visit_folder(struct save *s, const struct entry *n, unsigned how, struct error *e)
{
    struct visit v = {.in = n->in,
                      .node = n->node,
                      .is_new = n->new_node,
                      .put_name = n->put_name,
                      .list = n->descend || (how & DIRTY_TREE) || (n->brief.flags & NODE_UNREAD),
                      .meta = (uint8_t *)(uintptr_t)n->old.meta,
                      .meta_len = n->old.meta_len,
                      .sig = (uint8_t *)(uintptr_t)n->old.sig,
                      .sig_len = n->old.sig_len,
                      .ino = n->old.ino};

    s->listed = v.list;
    return walk_push(s, &v, n->name, e);
}

static bool to_flush(const struct save *s, const char *path)
{
    size_t low = 0, high = s->flush_count;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int d = strcmp(path, s->flush[mid]);
        if (d == 0)
            return true;
        if (d < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return false;
}

static int read_file(struct save *s, const struct entry *n, bool flush, struct error *e)
{
    const char *path = save_path(s, n->in->path, n->name);
    struct file_job *j = path ? file_job_new(n->in->dir, path, n->in->node, n->node, n->old.meta,
                                             n->old.meta_len, n->old.sig, n->old.sig_len)
                              : NULL;

    if (!j)
        return save_no_memory(e);
    j->put_name = n->put_name;
    j->linked = n->st->st_nlink > 1;
    j->flush = flush;
    j->seen = n->now;
    return batch_add(s, j, e);
}

static char *read_target(int dirfd, const char *name, uint32_t *len)
{
    size_t cap = 4096 + 1;
    char *target = malloc(cap);
    ssize_t n = target ? readlinkat(dirfd, name, target, cap - 1) : -1;

    if (n < 0) {
        free(target);
        return NULL;
    }
    target[n] = 0;
    *len = (uint32_t)n;
    return target;
}

/* Links, FIFOs, sockets, devices: never opened. */
static int take_special(struct save *s, const struct entry *n, struct error *e)
{
    const struct stat *st = n->st;
    struct error ignored = ERROR_INIT;
    struct node_xattr *xattrs = NULL;
    struct node v = {.type = n->type,
                     .mode = (uint16_t)(st->st_mode & 07777),
                     .uid = st->st_uid,
                     .gid = st->st_gid,
                     .mtime_s = n->now.mtime_s,
                     .mtime_ns = n->now.mtime_ns};
    struct signature sig = n->now;
    char *target = NULL;

    sig.racy = signature_is_racy(&sig, clock_wall());
    if (n->type == NODE_CHAR_DEVICE || n->type == NODE_BLOCK_DEVICE)
        v.rdev = (uint64_t)major(st->st_rdev) << 32 | minor(st->st_rdev);
    if (n->type == NODE_SYMLINK) {
        target = read_target(n->in->dir->fd, n->name, &v.target_len);
        if (!target || v.target_len == 0) { /* gone, or something else by now */
            free(target);
            names_unbind(s, &n->now, n->node);
            return n->put_name ? 0 : gone(s, n->in, n->name, n->row, e);
        }
        v.target = target;
    }
    int rc = xattrs_read(-1, n->in->dir->fd, n->name, &xattrs, &v.xattr_count, &ignored);
    v.xattrs = xattrs;
    if (rc == ERR_INCOMPLETE)
        log_warn("'%s': %s", n->name, ignored.message);
    if (rc < 0 && rc != ERR_INCOMPLETE)
        rc = save_no_memory(e);
    else
        rc = put_name(s, n, e);
    if (rc == 0)
        rc = version_compare(s, n->node, &v, n->old.meta_len ? &n->old : NULL, &sig, e);
    xattrs_free(xattrs);
    free(target);
    return rc;
}

static bool unchanged(const struct save *s, struct entry *n, bool sides, bool flush)
{
    struct database_sides found;
    struct signature cached;
    struct node_brief b;
    struct error e = ERROR_INIT;

    if (s->rehash || flush || !entry_signature(s, &n->old, &cached) || cached.racy)
        return false;
    if (sides && node_brief_decode(n->old.meta, n->old.meta_len, &b, &e) == 0 &&
        b.flags & NODE_SQLITE) {
        database_sides_look(n->in->dir->fd, n->name, clock_wall(), &found);
        n->now.wal = found.hash;
    }
    return signature_same(&cached, &n->now);
}

static int take(struct save *s, struct entry *n, unsigned how, bool sides, struct error *e)
{
    if (n->type == NODE_FOLDER)
        return visit_folder(s, n, how, e);
    bool flush = how & DIRTY_FLUSH;
    if (s->flush_count > 0 && !flush)
        flush = to_flush(s, save_path(s, n->in->path, n->name));
    if (n->seen || (!n->new_node && unchanged(s, n, sides, flush))) {
        if (!n->seen || !n->put_name || n->type != NODE_FILE)
            return put_name(s, n, e);
        /* Its job may be under way, and may find the other name gone. */
        const char *path = save_path(s, n->in->path, n->name);
        return path ? names_other(s, n->node, n->in->node, path, e) : save_no_memory(e);
    }
    return n->type == NODE_FILE ? read_file(s, n, flush, e) : take_special(s, n, e);
}

/* In or out, by the rules. */
static bool wanted(struct save *s, struct folder *f, const char *name, const struct stat *st)
{
    const char *path = save_path(s, f->path, name);
    bool is_dir = S_ISDIR(st->st_mode);

    if (!path)
        return true;
    /* Of a dirty set, the folder is in: the catalog knows it, and the rules are the same. */
    if (!f->rules_seen)
        rules_see_above(s->req->rules, s->rootfd, f->path);
    f->rules_seen = true;
    return rules_want_in(s->req->rules, path, is_dir, st);
}

static void count_seen(struct save *s, const struct entry *n)
{
    if (s->req->progress && n->type != NODE_FOLDER)
        atomic_fetch_add_explicit(&s->req->progress->files_seen, 1, memory_order_relaxed);
    if (!s->fresh && strcmp(n->name, IGNORE_FILE_NAME) == 0 &&
        !(n->has_cached && signature_same(&n->cached, &n->now)))
        s->rules_changed = true;
}

int entry_check(struct save *s, struct folder *f, const char *name, const struct stat *st,
                const struct known *row, unsigned how, bool sides, struct error *e)
{
    struct entry n = {.in = f, .name = name, .st = st, .row = row, .had_row = row != NULL};
    int rc = 0;

    s->listed = false;
    if (!st || !wanted(s, f, name, st))
        return gone(s, f, name, row, e);
    n.type = node_type_of(st->st_mode);
    signature_of(st, &n.now);
    if (row) {
        n.has_cached = entry_signature(s, row, &n.cached);
        rc = node_brief_decode(row->meta, row->meta_len, &n.brief, e);
    }
    count_seen(s, &n);
    if (rc == 0)
        rc = choose(s, &n, e);
    return rc < 0 ? rc : take(s, &n, how, sides, e);
}
