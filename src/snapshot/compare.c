/* Two trees are merged name by name, folder by folder, with a stack of pairs of folders. What
 * stands on one side only is looked up by node id on the other: found under another name, it moved,
 * and a folder that moved is compared under its two paths. What is gone at its old path can be told
 * from what moved away only at the end, so entries are gathered (memory follows the differences,
 * not the trees), then put in path order and shown. */
#include "snapshot/compare.h"

#include "base/text.h"
#include "snapshot/left_out.h"
#include "snapshot/number_set.h"
#include "snapshot/tree.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

/* ---- what is gathered ---- */

struct found {
    enum diff_kind kind;
    uint8_t type;
    uint64_t node;
    uint64_t old_size, new_size;
    char *path, *old_path;
    size_t order; /* of finding */
};

/* One name on one side, as an iterator gave it. */
struct side {
    struct name_iter *it; /* NULL: the folder is not on this side */
    struct name_row row;
    struct node_brief brief;
    bool have; /* row holds the next name */
};

struct pair {
    size_t parent;  /* index of the pair it stands in; itself for the first */
    char *name;     /* of this folder; for the first: the whole path */
    char *old_path; /* where it stood in A when it moved, else NULL */
    struct side a, b;
};

/* A folder on side A alone that is somewhere in B: gone into at the end, unless it was met there.
 */
struct deferred {
    uint64_t node;
    char *path;
};

struct diff {
    struct repo *repo;
    const struct snapshot_row *a, *b;
    struct left_out *left_out; /* of b, once asked */
    struct catalog *catalog;
    int64_t watch, at_a, at_b;
    struct pair *pairs;
    size_t depth, cap;
    struct found *found;
    size_t found_count, found_cap;
    struct number_set moved; /* node ids told as moved */
    struct deferred *deferred;
    size_t deferred_count, deferred_cap;
};

/* ---- paths ---- */

#define NO_PAIR SIZE_MAX

/* One step up from pair `at`: its own part of the path, and *up (NO_PAIR at the top). */
static const char *path_part(const struct diff *d, size_t at, bool in_a, size_t *up)
{
    const struct pair *p = &d->pairs[at];
    bool top = p->parent == at || (in_a && p->old_path);

    *up = top ? NO_PAIR : p->parent;
    return in_a && p->old_path ? p->old_path : p->name;
}

/* Path of a name in the pair `in` (NO_PAIR: the name itself). */
static char *path_of(const struct diff *d, size_t in, const char *name, bool in_a)
{
    size_t len = strlen(name);
    size_t up;

    for (size_t at = in; at != NO_PAIR; at = up)
        len += 1 + strlen(path_part(d, at, in_a, &up));
    char *path = malloc(len + 1);
    if (!path)
        return NULL;
    size_t end = len - strlen(name);
    memcpy(path + end, name, strlen(name) + 1);
    for (size_t at = in; at != NO_PAIR; at = up) {
        const char *part = path_part(d, at, in_a, &up);
        size_t n = strlen(part);
        path[--end] = '/';
        end -= n;
        memcpy(path + end, part, n);
    }
    if (*path == '/') /* the first pair is the root, whose own part is "" */
        memmove(path, path + 1, len);
    return path;
}

/* ---- gathering ---- */

static int add_found(struct diff *d, const struct found *f, struct error *e)
{
    if (!f->path)
        return no_memory(e);
    if (d->found_count == d->found_cap) {
        size_t cap = d->found_cap ? 2 * d->found_cap : 64;
        struct found *found = reallocarray(d->found, cap, sizeof(*found));
        if (!found)
            return no_memory(e);
        d->found = found;
        d->found_cap = cap;
    }
    d->found[d->found_count] = *f;
    d->found[d->found_count].order = d->found_count;
    d->found_count++;
    return 0;
}

/* path and old_path are taken over, also on failure. */
static int tell(struct diff *d, enum diff_kind kind, const struct side *a, const struct side *b,
                char *path, char *old_path, struct error *e)
{
    struct found f = {.kind = kind, .path = path, .old_path = old_path};

    if (a) {
        f.node = a->row.node;
        f.type = a->brief.type;
        f.old_size = a->brief.size;
    }
    if (b) {
        f.node = b->row.node;
        f.type = b->brief.type;
        f.new_size = b->brief.size;
    }
    int rc = add_found(d, &f, e);
    if (rc != 0) {
        free(path);
        free(old_path);
    }
    return rc;
}

static int defer(struct diff *d, uint64_t node, char *path, struct error *e)
{
    if (!path)
        return no_memory(e);
    if (d->deferred_count == d->deferred_cap) {
        size_t cap = d->deferred_cap ? 2 * d->deferred_cap : 16;
        struct deferred *deferred = reallocarray(d->deferred, cap, sizeof(*deferred));
        if (!deferred) {
            free(path);
            return no_memory(e);
        }
        d->deferred = deferred;
        d->deferred_cap = cap;
    }
    d->deferred[d->deferred_count++] = (struct deferred){node, path};
    return 0;
}

/* ---- the stack ---- */

static int open_side(struct diff *d, struct side *s, uint64_t node, int64_t at, struct error *e)
{
    return node == 0 ? 0 : catalog_children(d->catalog, d->watch, node, at, &s->it, e);
}

/* Go down into a folder: node_a or node_b may be 0 where it is on one side only. old_path is taken
 * over, also on failure. */
static int push(struct diff *d, size_t in, const char *name, uint64_t node_a, uint64_t node_b,
                char *old_path, struct error *e)
{
    if (d->depth == d->cap) {
        size_t cap = d->cap ? 2 * d->cap : 16;
        struct pair *pairs = reallocarray(d->pairs, cap, sizeof(*pairs));
        if (!pairs) {
            free(old_path);
            return no_memory(e);
        }
        d->pairs = pairs;
        d->cap = cap;
    }
    struct pair *p = &d->pairs[d->depth];
    *p = (struct pair){
        .parent = in == NO_PAIR ? d->depth : in, .name = strdup(name), .old_path = old_path};
    d->depth++;
    if (!p->name)
        return no_memory(e);
    int rc = open_side(d, &p->a, node_a, d->at_a, e);
    return rc != 0 ? rc : open_side(d, &p->b, node_b, d->at_b, e);
}

static void pop(struct diff *d)
{
    struct pair *p = &d->pairs[--d->depth];

    name_iter_close(p->a.it);
    name_iter_close(p->b.it);
    free(p->name);
    free(p->old_path);
}

/* ---- comparing one thing ---- */

static bool is_folder(const struct side *s)
{
    return s->brief.type == NODE_FOLDER;
}

static bool same_content(const struct node *a, const struct node *b)
{
    if (a->type != b->type || a->size != b->size || a->rdev != b->rdev || a->depth != b->depth ||
        a->ref_count != b->ref_count || a->target_len != b->target_len)
        return false;
    for (uint32_t i = 0; i < a->ref_count; i++) {
        if (!hash_equal(&a->refs[i].id, &b->refs[i].id))
            return false;
    }
    return a->target_len == 0 || memcmp(a->target, b->target, a->target_len) == 0;
}

static bool same_xattrs(const struct node *a, const struct node *b)
{
    if (a->xattr_count != b->xattr_count)
        return false;
    for (uint32_t i = 0; i < a->xattr_count; i++) {
        const struct node_xattr *x = &a->xattrs[i];
        const struct node_xattr *y = &b->xattrs[i];
        if (strcmp(x->name, y->name) != 0 || x->len != y->len ||
            (x->len > 0 && memcmp(x->value, y->value, x->len) != 0))
            return false;
    }
    return true;
}

static bool same_metadata(const struct node *a, const struct node *b)
{
    bool times = a->type == NODE_FOLDER || (a->mtime_s == b->mtime_s && a->mtime_ns == b->mtime_ns);

    return times && a->mode == b->mode && a->uid == b->uid && a->gid == b->gid &&
           (a->flags & NODE_INCOMPLETE) == (b->flags & NODE_INCOMPLETE) && same_xattrs(a, b);
}

enum difference { SAME, DIFFERENT_CONTENT, DIFFERENT_METADATA };

static int difference(const struct name_row *a, const struct name_row *b, enum difference *out,
                      struct error *e)
{
    struct node na = {0};
    struct node nb = {0};

    *out = SAME;
    if (a->meta_len == b->meta_len && memcmp(a->meta, b->meta, a->meta_len) == 0)
        return 0;
    int rc = node_decode(a->meta, a->meta_len, &na, e);
    if (rc == 0)
        rc = node_decode(b->meta, b->meta_len, &nb, e);
    if (rc == 0 && !same_content(&na, &nb))
        *out = DIFFERENT_CONTENT;
    else if (rc == 0 && !same_metadata(&na, &nb))
        *out = DIFFERENT_METADATA;
    node_release(&na);
    node_release(&nb);
    return rc;
}

/* Both sides hold the name, and they are the same thing in time. */
static int compare(struct diff *d, size_t in, const struct side *a, const struct side *b,
                   struct error *e)
{
    enum difference how;

    int rc = difference(&a->row, &b->row, &how, e);
    if (rc == 0 && how != SAME)
        rc = tell(d, how == DIFFERENT_CONTENT ? DIFF_CHANGED : DIFF_METADATA, a, b,
                  path_of(d, in, b->row.name, false), NULL, e);
    if (rc == 0 && is_folder(b))
        rc = push(d, in, b->row.name, a->row.node, b->row.node, NULL, e);
    return rc;
}

/* How many names a node has at a snapshot; none is no error. */
static int names_at(struct diff *d, uint64_t node, int64_t at, size_t *count, struct error *e)
{
    int rc = catalog_node_names(d->catalog, d->watch, node, at, count, e);

    if (rc == ERR_NOTFOUND) {
        *count = 0;
        rc = 0;
    }
    return rc;
}

static int only_a(struct diff *d, size_t in, const struct side *a, struct error *e)
{
    size_t elsewhere;

    int rc = tell(d, DIFF_REMOVED, a, NULL, path_of(d, in, a->row.name, true), NULL, e);
    if (rc != 0 || !is_folder(a))
        return rc;
    rc = names_at(d, a->row.node, d->at_b, &elsewhere, e);
    if (rc == 0 && elsewhere > 0)
        return defer(d, a->row.node, path_of(d, in, a->row.name, true), e);
    return rc == 0 ? push(d, in, a->row.name, a->row.node, 0, NULL, e) : rc;
}

/* The path in A of a node that has exactly one name on both sides, or NULL. */
static int old_place(struct diff *d, uint64_t node, char **path, struct error *e)
{
    struct buffer out = BUFFER_INIT;
    size_t before;
    size_t now = 0;

    *path = NULL;
    int rc = names_at(d, node, d->at_a, &before, e);
    if (rc == 0 && before == 1)
        rc = names_at(d, node, d->at_b, &now, e);
    if (rc != 0 || before != 1 || now != 1)
        return rc;
    rc = catalog_node_path(d->catalog, d->watch, node, d->at_a, &out, e);
    if (rc == 0 && !buffer_ok(&out))
        rc = no_memory(e);
    if (rc == 0)
        *path = (char *)out.data;
    else
        buffer_release(&out);
    return rc;
}

/* b stands where something of the same node id did not: at old (taken over). */
static int moved(struct diff *d, size_t in, const struct side *b, char *old, struct error *e)
{
    struct buffer meta = BUFFER_INIT;
    struct side a = {.row = {.node = b->row.node}};
    enum difference how = SAME;

    int rc = catalog_node(d->catalog, d->watch, b->row.node, d->at_a, &meta, e);
    if (rc == 0 && !buffer_ok(&meta))
        rc = no_memory(e);
    a.row.meta = meta.data;
    a.row.meta_len = (uint32_t)meta.len;
    if (rc == 0)
        rc = node_brief_decode(meta.data, meta.len, &a.brief, e);
    if (rc == 0)
        rc = difference(&a.row, &b->row, &how, e);
    if (rc == 0 && number_set_add(&d->moved, b->row.node) < 0)
        rc = no_memory(e);
    char *shown = rc == 0 ? strdup(old) : NULL;
    if (rc == 0 && !shown)
        rc = no_memory(e);
    if (rc == 0)
        rc = tell(d, DIFF_MOVED, &a, b, path_of(d, in, b->row.name, false), shown, e);
    if (rc == 0 && how == DIFFERENT_CONTENT)
        rc = tell(d, DIFF_CHANGED, &a, b, path_of(d, in, b->row.name, false), NULL, e);
    if (rc == 0 && is_folder(b)) {
        rc = push(d, in, b->row.name, b->row.node, b->row.node, old, e);
        old = NULL;
    }
    free(old);
    buffer_release(&meta);
    return rc;
}

static int only_b(struct diff *d, size_t in, const struct side *b, struct error *e)
{
    char *old;

    int rc = old_place(d, b->row.node, &old, e);
    if (rc != 0)
        return rc;
    if (old)
        return moved(d, in, b, old, e);
    rc = tell(d, DIFF_ADDED, NULL, b, path_of(d, in, b->row.name, false), NULL, e);
    return rc == 0 && is_folder(b) ? push(d, in, b->row.name, 0, b->row.node, NULL, e) : rc;
}

/* Whether two things under one name are one thing in time. Files are, whatever their ids (saving by
 * rename makes a new one); folders are unless one of them stands elsewhere on the other side. */
static int one_in_time(struct diff *d, const struct side *a, const struct side *b, bool *yes,
                       struct error *e)
{
    size_t elsewhere = 0;

    *yes = a->row.node == b->row.node || (!is_folder(a) && !is_folder(b));
    if (*yes || !is_folder(a) || !is_folder(b))
        return 0;
    int rc = names_at(d, a->row.node, d->at_b, &elsewhere, e);
    if (rc == 0 && elsewhere == 0)
        rc = names_at(d, b->row.node, d->at_a, &elsewhere, e);
    *yes = elsewhere == 0;
    return rc;
}

static int both(struct diff *d, size_t in, const struct side *a, const struct side *b,
                struct error *e)
{
    bool one;

    int rc = one_in_time(d, a, b, &one, e);
    if (rc != 0)
        return rc;
    if (one)
        return compare(d, in, a, b, e);
    rc = only_a(d, in, a, e);
    return rc != 0 ? rc : only_b(d, in, b, e);
}

/* ---- the merge ---- */

static int look_ahead(struct side *s, struct error *e)
{
    if (!s->it || s->have)
        return 0;
    int rc = name_iter_step(s->it, &s->row, e);
    if (rc < 0)
        return rc;
    if (rc == 0) {
        name_iter_close(s->it);
        s->it = NULL;
        return 0;
    }
    if (!node_name_ok(s->row.name, s->row.name_len) || strlen(s->row.name) != s->row.name_len)
        return error_set(e, ERR_DAMAGED, "a name is none: the catalog is damaged");
    s->have = true;
    return node_brief_decode(s->row.meta, s->row.meta_len, &s->brief, e);
}

static int name_order(const struct side *a, const struct side *b)
{
    if (!a->have || !b->have)
        return a->have ? -1 : 1;
    return strcmp(a->row.name, b->row.name);
}

static int step(struct diff *d, struct error *e)
{
    size_t in = d->depth - 1;
    struct pair *p = &d->pairs[in];

    int rc = look_ahead(&p->a, e);
    if (rc == 0)
        rc = look_ahead(&p->b, e);
    if (rc != 0)
        return rc;
    if (!p->a.have && !p->b.have) {
        pop(d);
        return 0;
    }
    /* Copies: going down may move the stack; what rows point to stays until the next step. */
    struct side a = p->a;
    struct side b = p->b;
    int order = name_order(&a, &b);
    p->a.have = a.have && order > 0;
    p->b.have = b.have && order < 0;
    if (order == 0)
        return both(d, in, &a, &b, e);
    return order < 0 ? only_a(d, in, &a, e) : only_b(d, in, &b, e);
}

/* The thing at prefix on one side; one that is not there leaves have false. */
static int first_side(struct diff *d, const char *prefix, int64_t at, struct side *s,
                      struct buffer *meta, struct error *e)
{
    int rc = tree_find(d->catalog, d->watch, at, prefix, &s->row.node, e);

    if (rc == 0)
        rc = catalog_node(d->catalog, d->watch, s->row.node, at, meta, e);
    if (rc == ERR_NOTFOUND) {
        error_clear(e);
        return 0;
    }
    if (rc == 0 && !buffer_ok(meta))
        rc = no_memory(e);
    s->row.name = prefix;
    s->row.meta = meta->data;
    s->row.meta_len = (uint32_t)meta->len;
    s->have = true;
    return rc != 0 ? rc : node_brief_decode(meta->data, meta->len, &s->brief, e);
}

static int begin(struct diff *d, const char *prefix, struct error *e)
{
    struct buffer meta_a = BUFFER_INIT;
    struct buffer meta_b = BUFFER_INIT;
    struct side a = {0};
    struct side b = {0};

    int rc = first_side(d, prefix, d->at_a, &a, &meta_a, e);
    if (rc == 0)
        rc = first_side(d, prefix, d->at_b, &b, &meta_b, e);
    if (rc == 0 && !a.have && !b.have) {
        char quoted[256];
        error_set(e, ERR_NOTFOUND, "'%s' is in neither snapshot %" PRId64 " nor %" PRId64,
                  text_escape(prefix, quoted, sizeof(quoted)), d->at_a, d->at_b);
        rc = error_path(e, prefix);
    } else if (rc == 0 && a.have && b.have) {
        rc = both(d, NO_PAIR, &a, &b, e);
    } else if (rc == 0) {
        rc = a.have ? only_a(d, NO_PAIR, &a, e) : only_b(d, NO_PAIR, &b, e);
    }
    buffer_release(&meta_a);
    buffer_release(&meta_b);
    return rc;
}

/* All that the stack holds, and then what was deferred; that may defer more. */
static int merge(struct diff *d, struct error *e)
{
    int rc = 0;

    for (size_t i = 0; rc == 0; i++) {
        while (rc == 0 && d->depth > 0)
            rc = step(d, e);
        if (rc != 0 || i == d->deferred_count)
            break;
        const struct deferred *next = &d->deferred[i];
        if (!number_set_has(&d->moved, next->node))
            rc = push(d, NO_PAIR, next->path, next->node, 0, NULL, e);
    }
    return rc;
}

/* ---- in order ---- */

static int by_path(const void *a, const void *b)
{
    const struct found *x = a;
    const struct found *y = b;
    int order = text_path_order(x->path, y->path);

    return order != 0 ? order : x->order < y->order ? -1 : 1;
}

static bool moved_away(const struct diff *d, const struct found *f)
{
    return f->kind == DIFF_REMOVED && number_set_has(&d->moved, f->node);
}

/* Was what is gone left out by changed rules? From one snapshot to the next they are only looked at
 * where they have changed. */
static int judge_removed(struct diff *d, struct found *f, struct error *e)
{
    bool same_rules =
        d->b->commit.parent == d->a->commit.number && !(d->b->commit.flags & COMMIT_RULES);
    int rc = 0;

    if (f->kind != DIFF_REMOVED || same_rules)
        return 0;
    if (!d->left_out)
        rc = left_out_open(d->repo, d->b, &d->left_out, e);
    if (rc == 0)
        rc = left_out_is(d->left_out, f->path, f->type == NODE_FOLDER, e);
    if (rc == 1)
        f->kind = DIFF_EXCLUDED;
    return rc < 0 ? rc : 0;
}

static int show(struct diff *d, diff_visit visit, void *ctx, struct error *e)
{
    int rc = 0;

    if (d->found_count > 0)
        qsort(d->found, d->found_count, sizeof(*d->found), by_path);
    for (size_t i = 0; i < d->found_count && rc == 0; i++) {
        struct found *f = &d->found[i];
        if (moved_away(d, f))
            continue;
        rc = judge_removed(d, f, e);
        struct diff_entry entry = {.kind = f->kind,
                                   .path = f->path,
                                   .old_path = f->old_path,
                                   .type = f->type,
                                   .old_size = f->old_size,
                                   .new_size = f->new_size};
        if (rc == 0)
            rc = visit(ctx, &entry, e);
    }
    return rc;
}

static void diff_release(struct diff *d)
{
    while (d->depth > 0)
        pop(d);
    for (size_t i = 0; i < d->found_count; i++) {
        free(d->found[i].path);
        free(d->found[i].old_path);
    }
    for (size_t i = 0; i < d->deferred_count; i++)
        free(d->deferred[i].path);
    free(d->pairs);
    free(d->found);
    free(d->deferred);
    number_set_release(&d->moved);
    left_out_close(d->left_out);
}

int diff_run(struct repo *r, const struct snapshot_row *a, const struct snapshot_row *b,
             const char *prefix, diff_visit visit, void *ctx, struct error *e)
{
    struct diff d = {.repo = r,
                     .a = a,
                     .b = b,
                     .catalog = repo_catalog(r),
                     .watch = b->watch_serial,
                     .at_a = (int64_t)a->commit.number,
                     .at_b = (int64_t)b->commit.number};

    if (a->watch_serial != b->watch_serial)
        return error_set(e, ERR_USAGE,
                         "snapshot %" PRIu64 " is of watch '%s', %" PRIu64
                         " of watch '%s': nothing to compare",
                         a->commit.number, a->watch_name, b->commit.number, b->watch_name);
    int rc = begin(&d, prefix ? prefix : "", e);
    if (rc == 0)
        rc = merge(&d, e);
    if (rc == 0)
        rc = show(&d, visit, ctx, e);
    diff_release(&d);
    return rc;
}
