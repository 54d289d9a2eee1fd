/* The plan of a restore in place. One walk of the snapshot's tree with the other state beside it
 * finds what is to be written, one walk of the other state what is to go. A file with several names
 * is written with all of them as soon as one of them differs. Memory follows the changes. */
#include "snapshot/restore_plan_live.h"

#include "base/text.h"
#include "capture/sqlite_capture.h"
#include "io/safe_path.h"
#include "snapshot/left_out.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

/* ---- paths ---- */

const char *live_at(struct live_plan *p, const char *folder, const char *path)
{
    if (!*folder || !*path)
        return *path ? path : folder;
    buffer_clear(&p->joined);
    buffer_append_str(&p->joined, folder);
    buffer_append(&p->joined, "/", 1);
    buffer_append_str(&p->joined, path);
    buffer_append(&p->joined, "", 1);
    return buffer_ok(&p->joined) ? (const char *)p->joined.data : NULL;
}

const char *live_below(const char *path, const char *folder)
{
    size_t n = strlen(folder);

    return n == 0 ? path : path[n] == '/' ? path + n + 1 : "";
}

/* Whether the rules of today capture what stands at path. */
static bool is_wanted(struct live_plan *p, const char *path, bool folder)
{
    const char *at = live_at(p, p->into, path);

    return at && rules_want(p->req->rules, p->rootfd, at, folder, NULL, NULL);
}

/* ---- what was asked for ---- */

static bool below(const char *path, const char *folder)
{
    size_t n = strlen(folder);

    return n == 0 ? *path != 0 : strncmp(path, folder, n) == 0 && path[n] == '/';
}

/* The first of `only` that is not less than the n bytes at path followed by `end`. */
static size_t lower_bound(const struct live_plan *p, const char *path, char end)
{
    size_t n = strlen(path), low = 0, high = p->only_count;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const char *at = p->req->only[mid];
        int c = strncmp(at, path, n);
        if (c == 0)
            c = (int)(unsigned char)at[n] - (int)(unsigned char)end;
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static enum live_where where_by_name(const struct live_plan *p, const char *path)
{
    const char *wanted = p->req->path ? p->req->path : "";

    if (!*path && p->shifted && p->place >= 0)
        return LIVE_BEFORE;
    if (!p->req->only) {
        if (strcmp(path, wanted) == 0 || below(path, wanted))
            return LIVE_IN;
        return below(wanted, path) ? LIVE_BEFORE : LIVE_OUT;
    }
    size_t at = lower_bound(p, path, 0);
    if (at < p->only_count && strcmp(p->req->only[at], path) == 0)
        return LIVE_IN;
    at = lower_bound(p, path, *path ? '/' : 0);
    return at < p->only_count && below(p->req->only[at], path) ? LIVE_BEFORE : LIVE_OUT;
}

/* What is named may be a database: its side files go and come with it. */
enum live_where live_where(const struct live_plan *p, const char *path)
{
    enum live_where where = where_by_name(p, path);
    size_t n;

    if (where != LIVE_OUT || !p->req->sqlite)
        return where;
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    if (!sqlite_side_name(name, &n))
        return where;
    char *base = strndup(path, (size_t)(name - path) + n);
    if (base && where_by_name(p, base) == LIVE_IN)
        where = LIVE_IN;
    free(base);
    return where;
}

int live_tell(struct live_plan *p, enum live_change what, const char *path, uint8_t type,
              uint64_t size, struct error *e)
{
    struct live_result *r = p->result;

    switch (what) {
    case LIVE_ADD:
        r->added++;
        break;
    case LIVE_REPLACE:
        r->replaced++;
        break;
    case LIVE_METADATA:
        r->metadata++;
        break;
    case LIVE_DELETE:
        r->removed++;
        break;
    }
    if (!p->req->change)
        return 0;
    path = live_at(p, p->into, path);
    return path ? p->req->change(p->req->ctx, what, path, type, size, e) : no_memory(e);
}

/* ---- the other snapshot, beside the walk ---- */

static int other_set(struct live_plan *p, unsigned level, uint64_t node, struct error *e)
{
    if (level >= p->other_cap) {
        size_t cap = 2 * (size_t)level + 16;
        uint64_t *other = reallocarray(p->other, cap, sizeof(*other));
        if (!other)
            return no_memory(e);
        p->other = other;
        p->other_cap = cap;
    }
    p->other[level] = node;
    return 0;
}

/* The entry of the same path in the other snapshot, 0: none; its meta, appended. */
static int other_find(struct live_plan *p, const struct snapshot_row *s, const struct tree_entry *t,
                      uint64_t *node, struct buffer *meta, struct error *e)
{
    int64_t at = (int64_t)s->commit.number;
    uint64_t parent = t->level > 0 ? p->other[t->level - 1] : 0;
    int rc = 0;

    *node = t->level > 0 ? 0 : s == p->req->base ? p->into_node : p->from_node;
    if (parent != 0)
        rc = catalog_lookup(p->cat, s->watch_serial, parent, t->name, strlen(t->name), at, node, e);
    if (rc == 0 && *node != 0)
        rc = catalog_node(p->cat, s->watch_serial, *node, at, meta, e);
    if (rc == ERR_NOTFOUND) {
        error_clear(e);
        *node = 0;
        rc = 0;
    }
    return rc == 0 && !buffer_ok(meta) ? no_memory(e) : rc;
}

static int single_name(struct live_plan *p, const struct snapshot_row *s, uint64_t node, bool *yes,
                       struct error *e)
{
    size_t count = 0;
    int rc =
        catalog_node_names(p->cat, s->watch_serial, node, (int64_t)s->commit.number, &count, e);

    *yes = count <= 1;
    return rc;
}

static bool same_content(const struct node *a, const struct node *b)
{
    if (a->size != b->size || a->depth != b->depth || a->ref_count != b->ref_count ||
        a->extent_count != b->extent_count)
        return false;
    for (uint32_t i = 0; i < a->ref_count; i++) {
        if (a->refs[i].len != b->refs[i].len || !hash_equal(&a->refs[i].id, &b->refs[i].id))
            return false;
    }
    for (uint32_t i = 0; i < a->extent_count; i++) {
        if (a->extents[i].off != b->extents[i].off || a->extents[i].len != b->extents[i].len)
            return false;
    }
    return true;
}

static bool same_xattrs(const struct node *a, const struct node *b)
{
    if (a->xattr_count != b->xattr_count)
        return false;
    for (uint32_t i = 0; i < a->xattr_count; i++) {
        const struct node_xattr *x = &a->xattrs[i], *y = &b->xattrs[i];
        if (strcmp(x->name, y->name) != 0 || x->len != y->len ||
            (x->len > 0 && memcmp(x->value, y->value, x->len) != 0))
            return false;
    }
    return true;
}

/* All that a restore brings back. What was noted beside it (how it was captured, how it compares
 * with the version before) makes no difference. */
static bool same_node(const struct node *a, const struct node *b)
{
    return a->type == b->type && a->mode == b->mode && a->uid == b->uid && a->gid == b->gid &&
           a->mtime_s == b->mtime_s && a->mtime_ns == b->mtime_ns && a->rdev == b->rdev &&
           a->target_len == b->target_len &&
           (a->target_len == 0 || memcmp(a->target, b->target, a->target_len) == 0) &&
           same_xattrs(a, b) && same_content(a, b);
}

static bool same_meta(const struct tree_entry *t, const struct buffer *meta)
{
    struct error ignored = ERROR_INIT;
    struct node a, b;
    bool same = false;

    if (t->meta_len == meta->len && memcmp(t->meta, meta->data, meta->len) == 0)
        return true;
    if (node_decode(t->meta, t->meta_len, &a, &ignored) != 0)
        return false;
    if (node_decode(meta->data, meta->len, &b, &ignored) == 0) {
        same = same_node(&a, &b);
        node_release(&b);
    }
    node_release(&a);
    return same;
}

/* Whether the file that stands there can be given other metadata without being written anew: whole,
 * with no further name that would change with it, and by somebody who may. */
static bool can_be_set(const struct live_plan *p, const char *path, const struct node *old)
{
    struct error ignored = ERROR_INIT;
    struct stat st;

    return p->place >= 0 && safe_stat(p->place, path, &st, &ignored) == 0 && S_ISREG(st.st_mode) &&
           st.st_nlink == 1 && !(old->flags & (NODE_UNREAD | NODE_CHANGING)) &&
           (geteuid() == 0 || (st.st_uid == geteuid() && st.st_mode & S_IRUSR));
}

static bool only_metadata(const struct live_plan *p, const struct tree_entry *t, const char *path,
                          const struct buffer *meta)
{
    struct error ignored = ERROR_INIT;
    struct node a, b;
    bool yes = false;

    if (node_decode(t->meta, t->meta_len, &a, &ignored) != 0)
        return false;
    if (node_decode(meta->data, meta->len, &b, &ignored) == 0) {
        yes = a.type == NODE_FILE && b.type == NODE_FILE &&
              !(a.flags & (NODE_UNREAD | NODE_CHANGING)) && same_content(&a, &b) &&
              can_be_set(p, path, &b);
        node_release(&b);
    }
    node_release(&a);
    return yes;
}

/* Content, metadata and, of files, how names hang together. */
static int compare(struct live_plan *p, const struct tree_entry *t, const char *path, uint64_t node,
                   const struct buffer *meta, bool folder, enum live_state *state, struct error *e)
{
    bool alone = true, other_alone = true, same = same_meta(t, meta);
    bool same_names = node == t->node && !p->shifted;
    int rc = 0;

    *state = same ? LIVE_SAME : LIVE_DIFFERENT;
    if (folder || (same && same_names) || (!same && !only_metadata(p, t, path, meta)))
        return 0;
    rc = single_name(p, p->req->snapshot, t->node, &alone, e);
    if (rc == 0)
        rc = single_name(p, p->req->base, node, &other_alone, e);
    if (!alone || !other_alone)
        *state = LIVE_DIFFERENT;
    else if (!same)
        *state = LIVE_SAME_CONTENT;
    return rc;
}

static int add_problem(struct live_plan *p, const char *path, const char *why, struct error *e)
{
    if (p->problem_count == p->problem_cap) {
        size_t cap = p->problem_cap ? 2 * p->problem_cap : 16;
        struct live_problem *v = reallocarray(p->problems, cap, sizeof(*v));
        if (!v)
            return no_memory(e);
        p->problems = v;
        p->problem_cap = cap;
    }
    path = live_at(p, p->into, path);
    p->problems[p->problem_count] = (struct live_problem){path ? strdup(path) : NULL, why};
    return p->problems[p->problem_count].path ? (p->problem_count++, 0) : no_memory(e);
}

static int add_database(struct live_plan *p, const char *path, struct error *e)
{
    if (p->database_count == p->database_cap) {
        size_t cap = p->database_cap ? 2 * p->database_cap : 16;
        char **v = reallocarray(p->databases, cap, sizeof(char *));
        if (!v)
            return no_memory(e);
        p->databases = v;
        p->database_cap = cap;
    }
    p->databases[p->database_count] = strdup(path);
    return p->databases[p->database_count] ? (p->database_count++, 0) : no_memory(e);
}

/* Where base stands: what there is of this entry. *kept: it cannot make way. */
static int look_at_base(struct live_plan *p, const struct tree_entry *t, const char *path,
                        bool folder, enum live_state *state, bool *kept, struct error *e)
{
    struct buffer meta = BUFFER_INIT;
    struct node_brief mine, brief;
    uint64_t node;

    *state = LIVE_ABSENT;
    int rc = other_find(p, p->req->base, t, &node, &meta, e);
    if (rc == 0 && node != 0)
        rc = node_brief_decode(meta.data, meta.len, &brief, e);
    if (rc == 0)
        rc = node_brief_decode(t->meta, t->meta_len, &mine, e);
    if (rc == 0 && node != 0) {
        *state = LIVE_OTHER_TYPE;
        if (brief.type == mine.type)
            rc = compare(p, t, path, node, &meta, folder, state, e);
        *kept = brief.flags & (NODE_UNREAD | NODE_CHANGING) && brief.type == NODE_FILE &&
                !p->req->force;
        bool stays = *state == LIVE_SAME || *state == LIVE_SAME_CONTENT;
        if (rc == 0 && brief.flags & NODE_SQLITE && !stays && !*kept)
            rc = add_database(p, path, e);
    }
    if (rc == 0 && folder)
        rc = other_set(p, t->level, node != 0 && brief.type == NODE_FOLDER ? node : 0, e);
    buffer_release(&meta);
    return rc;
}

/* ---- what is to be written ---- */

static int add_node(struct number_set *set, uint64_t node, struct error *e)
{
    return number_set_add(set, node) < 0 ? no_memory(e) : 0;
}

static int plan_folder(struct live_plan *p, const struct tree_entry *t, const char *path,
                       enum live_where where, enum live_state state, struct error *e)
{
    bool there = state == LIVE_SAME || state == LIVE_DIFFERENT;

    if (there && where == LIVE_BEFORE)
        return live_mend(p, path, e);
    if (state == LIVE_SAME)
        return 0;
    if (state == LIVE_DIFFERENT) {
        int rc = add_node(&p->touched, t->node, e);
        return rc != 0 ? rc : live_tell(p, LIVE_METADATA, path, NODE_FOLDER, 0, e);
    }
    int rc = add_node(&p->fresh, t->node, e);
    if (rc == 0)
        rc = live_tell(p, state == LIVE_ABSENT ? LIVE_ADD : LIVE_REPLACE, path, NODE_FOLDER, 0, e);
    return rc;
}

static int plan_setting(struct live_plan *p, const struct tree_entry *t, const char *path,
                        const struct node_brief *brief, struct error *e)
{
    if (p->setting_count == p->setting_cap) {
        size_t cap = p->setting_cap ? 2 * p->setting_cap : 64;
        struct live_setting *v = reallocarray(p->settings, cap, sizeof(*v));
        if (!v)
            return no_memory(e);
        p->settings = v;
        p->setting_cap = cap;
    }
    p->settings[p->setting_count] = (struct live_setting){strdup(path), t->node};
    if (!p->settings[p->setting_count].path)
        return no_memory(e);
    p->setting_count++;
    return live_tell(p, LIVE_METADATA, path, brief->type, brief->size, e);
}

static int plan_file(struct live_plan *p, const struct tree_entry *t, const char *path,
                     const struct node_brief *brief, enum live_state state, bool kept,
                     struct error *e)
{
    if (state == LIVE_SAME && !kept) {
        p->result->unchanged++;
        return 0;
    }
    if (kept)
        return add_problem(p, path,
                           "what stands there could not be saved whole before, so it stays", e);
    if (state == LIVE_SAME_CONTENT)
        return plan_setting(p, t, path, brief, e);
    int rc = add_node(&p->write, t->node, e);
    if (rc == 0)
        rc = live_tell(p, state == LIVE_ABSENT ? LIVE_ADD : LIVE_REPLACE, path, brief->type,
                       brief->size, e);
    return rc;
}

static int visit_target(void *ctx, const struct tree_entry *t, struct error *e)
{
    struct live_plan *p = ctx;
    struct node_brief brief;
    const char *path = live_below(t->path, p->from);
    enum live_where where = live_where(p, path);
    enum live_state state;
    bool kept = false;

    if (p->req->cancel && atomic_load_explicit(p->req->cancel, memory_order_relaxed))
        return error_set(e, ERR_CANCELLED, "restore was interrupted");
    int rc = node_brief_decode(t->meta, t->meta_len, &brief, e);
    if (rc != 0)
        return rc;
    bool folder = brief.type == NODE_FOLDER;
    if (where == LIVE_OUT)
        return folder ? TREE_SKIP : 0;
    p->found = p->found || where == LIVE_IN || !p->req->path || !*p->req->path;
    if (!is_wanted(p, path, folder)) {
        p->result->left_out++;
        rc = folder ? add_node(&p->skip, t->node, e) : 0;
        return rc != 0 ? rc : folder ? TREE_SKIP : 0;
    }
    rc = p->req->base ? look_at_base(p, t, path, folder, &state, &kept, e)
                      : live_look(p, t, path, &state, e);
    if (rc == 0)
        rc = folder ? plan_folder(p, t, path, where, state, e)
                    : plan_file(p, t, path, &brief, state, kept, e);
    return rc;
}

/* ---- what is to go ---- */

static int has_path(struct live_plan *p, const struct snapshot_row *s, const char *path,
                    struct error *e)
{
    uint64_t node;
    int rc = tree_find(p->cat, s->watch_serial, (int64_t)s->commit.number, path, &node, e);

    if (rc == ERR_NOTFOUND) {
        error_clear(e);
        return 0;
    }
    return rc == 0 ? 1 : rc;
}

/* What was put elsewhere than where it stood; `path` counts from the root. */
static int has_shifted(struct live_plan *p, const struct snapshot_row *s, const char *path,
                       struct error *e)
{
    const char *from = p->req->added_from ? p->req->added_from : "";
    const char *into = p->req->added_into ? p->req->added_into : "";

    if (below(into, path))
        return 1; /* a folder that was made on the way there */
    if (strcmp(path, into) != 0 && !below(path, into))
        return 0;
    path = live_at(p, from, live_below(path, into));
    return path ? has_path(p, s, path, e) : no_memory(e);
}

/* Whether what is taken back had brought it: 1, 0 or an error. */
static int was_added(struct live_plan *p, const char *path, struct error *e)
{
    const struct live_request *req = p->req;
    int rc = 0;

    if (req->added[0])
        rc = has_shifted(p, req->added[0], path, e);
    if (rc == 0 && req->added[1])
        rc = has_path(p, req->added[1], path, e);
    return rc;
}

int live_removes(struct live_plan *p, enum live_where where, const char *path, bool dir,
                 struct error *e)
{
    const struct live_request *req = p->req;
    int rc = 0;

    if (req->remove == LIVE_ADDED && (req->added[0] || req->added[1]))
        return was_added(p, path, e);
    if (req->remove == LIVE_ADDED)
        return where == LIVE_IN;
    if (req->remove == LIVE_KEEP || where != LIVE_IN)
        return 0;
    if (!p->rules)
        rc = left_out_open(req->repo, req->snapshot, &p->rules, e);
    path = live_at(p, p->from, path);
    if (rc == 0)
        rc = path ? left_out_is(p->rules, path, dir, e) : no_memory(e);
    return rc < 0 ? rc : !rc;
}

static int add_removal(struct live_plan *p, const char *path, bool dir, bool database, bool cleared,
                       struct error *e)
{
    if (p->removal_count == p->removal_cap) {
        size_t cap = p->removal_cap ? 2 * p->removal_cap : 64;
        struct live_removal *v = reallocarray(p->removals, cap, sizeof(*v));
        if (!v)
            return no_memory(e);
        p->removals = v;
        p->removal_cap = cap;
    }
    struct live_removal *r = &p->removals[p->removal_count];
    *r = (struct live_removal){strdup(path), dir, database, cleared};
    if (!r->path)
        return no_memory(e);
    p->removal_count++;
    return live_tell(p, LIVE_DELETE, path, dir ? NODE_FOLDER : NODE_FILE, 0, e);
}

/* The folder that loses something gets its metadata anew, where it is restored at all. */
static int touch_parent(struct live_plan *p, const struct tree_entry *t, const char *path,
                        struct error *e)
{
    uint64_t parent = p->other[t->level - 1];
    char *slash, *folder = strdup(path);
    int rc = 0;

    if (!folder)
        return no_memory(e);
    slash = strrchr(folder, '/');
    *(slash ? slash : folder) = 0;
    if (parent != 0 && live_where(p, folder) == LIVE_IN)
        rc = add_node(&p->touched, parent, e);
    free(folder);
    return rc;
}

static int visit_base(void *ctx, const struct tree_entry *t, struct error *e)
{
    struct live_plan *p = ctx;
    const char *path = live_below(t->path, p->into);
    enum live_where where = live_where(p, path);
    struct node_brief mine, brief;
    struct buffer meta = BUFFER_INIT;
    uint64_t node;

    if (where == LIVE_OUT && !(p->clearing && t->level > p->clearing))
        return TREE_SKIP;
    int rc = node_brief_decode(t->meta, t->meta_len, &mine, e);
    if (rc != 0)
        return rc;
    bool folder = mine.type == NODE_FOLDER, database = mine.flags & NODE_SQLITE;
    if (p->clearing && t->level > p->clearing)
        return add_removal(p, path, folder, database, true, e);
    p->clearing = 0;
    rc = other_find(p, p->req->snapshot, t, &node, &meta, e);
    if (rc == 0 && node != 0)
        rc = node_brief_decode(meta.data, meta.len, &brief, e);
    buffer_release(&meta);
    if (rc == 0 && folder)
        rc = other_set(p, t->level, node != 0 && brief.type == NODE_FOLDER ? node : 0, e);
    if (rc != 0)
        return rc;
    if (node != 0) {
        if (!folder || brief.type == NODE_FOLDER)
            return 0;
        p->clearing = t->level;
        return add_removal(p, path, true, false, true, e);
    }
    rc = live_removes(p, where, path, folder, e);
    if (rc <= 0)
        return rc < 0 ? rc : TREE_SKIP;
    rc = touch_parent(p, t, path, e);
    return rc != 0 ? rc : add_removal(p, path, folder, database, false, e);
}

/* TREE_SKIP is for folders only. */
static int visit_base_entry(void *ctx, const struct tree_entry *t, struct error *e)
{
    struct node_brief brief;
    int rc = visit_base(ctx, t, e);

    if (rc != TREE_SKIP)
        return rc;
    rc = node_brief_decode(t->meta, t->meta_len, &brief, e);
    return rc != 0 ? rc : brief.type == NODE_FOLDER ? TREE_SKIP : 0;
}

static int plan_removals(struct live_plan *p, struct error *e)
{
    const struct snapshot_row *base = p->req->base;

    if (p->into_node == 0)
        return 0;
    return tree_walk(p->cat, base->watch_serial, (int64_t)base->commit.number, p->into, UINT_MAX,
                     visit_base_entry, p, e);
}

/* ---- all of it ---- */

static int left_out_today(const char *path, struct error *e)
{
    char quoted[300];

    return error_set(e, ERR_REFUSED,
                     "the rules of today leave '%s' out, so that what stands there is never "
                     "touched: restore to another folder",
                     text_escape(path, quoted, sizeof(quoted)));
}

static int no_such_path(struct live_plan *p, struct error *e)
{
    char quoted[300];
    int rc = has_path(p, p->req->snapshot, live_at(p, p->from, p->req->path), e);

    if (rc != 0)
        return rc < 0 ? rc : left_out_today(p->req->path, e);
    return error_set(e, ERR_NOTFOUND, "'%s' is not in snapshot %llu",
                     text_escape(p->req->path, quoted, sizeof(quoted)),
                     (unsigned long long)p->req->snapshot->commit.number);
}

/* What a lost part of its file list named would look as if it had not been there. */
static int check_whole(const struct live_plan *p, struct error *e)
{
    const struct snapshot_row *s = p->req->snapshot;

    if (s->whole || p->req->remove == LIVE_KEEP)
        return 0;
    return error_set(e, ERR_DAMAGED,
                     "snapshot %llu is not whole: part of its file list is lost, so nobody knows "
                     "what it did not have; restore it without --delete",
                     (unsigned long long)s->commit.number);
}

/* What stands in a folder that is left out is not saved: nothing could bring it back. */
static int check_place(struct live_plan *p, struct error *e)
{
    char *copy = strdup(p->into);
    bool wanted = true;

    if (!copy)
        return no_memory(e);
    for (char *at = copy; wanted && *at;) {
        at += strcspn(at, "/");
        char end = *at;
        *at = 0;
        wanted = rules_want(p->req->rules, p->rootfd, copy, true, NULL, NULL);
        *at = end;
        at += end != 0;
    }
    free(copy);
    if (wanted)
        return 0;
    return left_out_today(p->into, e);
}

static int find_tops(struct live_plan *p, struct error *e)
{
    const struct snapshot_row *s = p->req->snapshot, *base = p->req->base;
    int rc =
        tree_find(p->cat, s->watch_serial, (int64_t)s->commit.number, p->from, &p->from_node, e);

    if (rc != 0 || !base)
        return rc;
    rc = tree_find(p->cat, base->watch_serial, (int64_t)base->commit.number, p->into, &p->into_node,
                   e);
    if (rc != ERR_NOTFOUND)
        return rc;
    error_clear(e);
    p->into_node = 0;
    return 0;
}

int live_plan_make(struct live_plan *p, struct error *e)
{
    const struct snapshot_row *s = p->req->snapshot;
    int rc = check_whole(p, e);

    if (rc != 0)
        return rc;
    while (p->req->only && p->req->only[p->only_count])
        p->only_count++;
    rules_look(p->req->rules);
    rc = check_place(p, e);
    if (rc == 0)
        rc = repo_catalog_open(p->req->repo, &p->cat, e);
    if (rc == 0)
        rc = find_tops(p, e);
    if (rc == 0)
        rc = tree_walk(p->cat, s->watch_serial, (int64_t)s->commit.number, p->from, UINT_MAX,
                       visit_target, p, e);
    if (rc == 0 && !p->found && !p->req->only && p->req->remove != LIVE_ADDED)
        rc = no_such_path(p, e);
    if (rc == 0)
        rc = p->req->base ? plan_removals(p, e) : live_look_removals(p, e);
    return rc;
}

void live_plan_release(struct live_plan *p)
{
    if (p->cat)
        repo_catalog_close(p->req->repo, p->cat);
    left_out_close(p->rules);
    number_set_release(&p->write);
    number_set_release(&p->fresh);
    number_set_release(&p->touched);
    number_set_release(&p->skip);
    for (size_t i = 0; i < p->removal_count; i++)
        free(p->removals[i].path);
    for (size_t i = 0; i < p->setting_count; i++)
        free(p->settings[i].path);
    for (size_t i = 0; i < p->problem_count; i++)
        free(p->problems[i].path);
    for (size_t i = 0; i < p->database_count; i++)
        free(p->databases[i]);
    for (size_t i = 0; i < p->kept_count; i++)
        free(p->kept[i].path);
    free(p->removals);
    free(p->settings);
    free(p->problems);
    free(p->databases);
    free(p->kept);
    free(p->other);
    buffer_release(&p->joined);
    if (p->place >= 0 && p->place != p->rootfd)
        close(p->place);
    if (p->rootfd >= 0)
        close(p->rootfd);
    p->rootfd = p->place = -1;
}

bool live_plan_empty(const struct live_plan *p)
{
    return p->write.count == 0 && p->fresh.count == 0 && p->touched.count == 0 &&
           p->removal_count == 0 && p->setting_count == 0 && p->kept_count == 0;
}

enum live_pick live_pick(struct live_plan *p, const struct tree_entry *t, bool folder)
{
    const char *path = live_below(t->path, p->from);

    if (live_where(p, path) == LIVE_OUT || (folder && number_set_has(&p->skip, t->node)))
        return LIVE_SKIP;
    if (folder)
        return number_set_has(&p->fresh, t->node) ? LIVE_WRITE : LIVE_PASS;
    /* Of a file with several names one that is left out stays so. */
    return number_set_has(&p->write, t->node) && is_wanted(p, path, false) ? LIVE_WRITE : LIVE_SKIP;
}
