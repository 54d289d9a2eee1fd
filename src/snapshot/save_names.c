/* A name that is not there any more is only noted while the walk goes on: its node may turn up
 * under another name. What is left at the end is removed, folders with all below them. */
#include "snapshot/save_state.h"

#include "store/hash.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* ---- what was done so far ---- */

static uint64_t name_key(const struct save *s, const char *name)
{
    return hash_guard(name, strlen(name), s->name_seed);
}

bool names_removed(const struct save *s, uint64_t parent, const char *name)
{
    return s->removed.count > 0 && pair_map_get(&s->removed, parent, name_key(s, name));
}

static int note_removed(struct save *s, uint64_t parent, const char *name, struct error *e)
{
    return pair_map_put(&s->removed, parent, name_key(s, name), 1) ? 0 : save_no_memory(e);
}

static int gain(struct save *s, uint64_t node, int64_t by, struct error *e)
{
    uint64_t *v = pair_map_get(&s->gained, node, 0);

    if (v) {
        *v = (uint64_t)((int64_t)*v + by);
        return 0;
    }
    return pair_map_put(&s->gained, node, 0, (uint64_t)by) ? 0 : save_no_memory(e);
}

static int64_t gained(const struct save *s, uint64_t node)
{
    const uint64_t *v = pair_map_get(&s->gained, node, 0);

    return v ? (int64_t)*v : 0;
}

int names_count(struct save *s, uint64_t node, int64_t *count, struct error *e)
{
    size_t n = 0;
    int rc = s->fresh ? 0 : catalog_node_names(s->cat, s->watch, node, CATALOG_OPEN, &n, e);

    *count = (int64_t)n + gained(s, node);
    return rc == ERR_NOTFOUND ? 0 : rc;
}

static bool has_fate(const struct save *s, uint64_t node, enum fate fate)
{
    const uint64_t *v = pair_map_get(&s->fate, node, 0);

    return v && *v == fate;
}

static void count_name(struct save *s, uint8_t type, int by)
{
    if (type == NODE_FOLDER)
        s->folders += by;
    else
        s->files += by;
}

/* ---- coming, moving ---- */

int names_put(struct save *s, uint64_t parent, const char *name, uint64_t node, uint8_t type,
              bool new_node, struct error *e)
{
    int rc = txn_name_put(s->txn, parent, name, strlen(name), node, e);

    if (rc < 0)
        return rc;
    count_name(s, type, 1);
    s->res->files_new += type != NODE_FOLDER;
    return new_node ? 0 : gain(s, node, 1, e);
}

int names_move(struct save *s, uint64_t node, uint8_t type, uint64_t parent, const char *name,
               struct error *e)
{
    struct buffer old = BUFFER_INIT;
    uint64_t old_parent = 0;
    int rc = catalog_node_name(s->cat, s->watch, node, CATALOG_OPEN, &old_parent, &old, e);
    const char *old_name = buffer_cstr(&old);

    if (rc < 0)
        goto out;
    if (names_removed(s, old_parent, old_name)) {
        count_name(s, type, 1); /* it was displaced, and counted then */
        s->res->files_removed -= type != NODE_FOLDER;
    } else {
        rc = txn_name_remove(s->txn, old_parent, old_name, strlen(old_name), e);
        if (rc == 0)
            rc = note_removed(s, old_parent, old_name, e);
        if (rc == 0)
            rc = gain(s, node, -1, e);
    }
    if (rc == 0)
        rc = txn_name_put(s->txn, parent, name, strlen(name), node, e);
    if (rc == 0)
        rc = gain(s, node, 1, e);
    if (rc == 0 && !pair_map_put(&s->fate, node, 0, FATE_MOVED))
        rc = save_no_memory(e);
out:
    buffer_release(&old);
    return rc;
}

/* ---- going ---- */

static int note_gone(struct save *s, uint64_t parent, const char *name, const struct known *row,
                     bool name_removed, struct error *e)
{
    struct node_brief b;
    int rc = node_brief_decode(row->meta, row->meta_len, &b, e);

    if (rc < 0)
        return rc;
    if (s->gone_count == s->gone_cap) {
        size_t cap = s->gone_cap ? 2 * s->gone_cap : 16;
        struct gone *v = reallocarray(s->gone, cap, sizeof(*v));
        if (!v)
            return save_no_memory(e);
        s->gone = v;
        s->gone_cap = cap;
    }
    struct gone *g = &s->gone[s->gone_count];
    *g = (struct gone){.parent = parent,
                       .node = row->node,
                       .size = b.size,
                       .type = b.type,
                       .flags = b.flags,
                       .name_removed = name_removed,
                       .name = strdup(name)};
    if (!g->name)
        return save_no_memory(e);
    s->gone_count++;
    if (strcmp(name, IGNORE_FILE_NAME) == 0)
        s->rules_changed = true;
    return 0;
}

int names_gone(struct save *s, uint64_t parent, const char *name, const struct known *row,
               struct error *e)
{
    return note_gone(s, parent, name, row, false, e);
}

static int drop_name(struct save *s, uint64_t parent, const char *name, uint8_t type, bool left_out,
                     struct error *e)
{
    int rc = txn_name_remove(s->txn, parent, name, strlen(name), e);

    count_name(s, type, -1);
    s->res->files_removed += type != NODE_FOLDER && !left_out;
    s->res->files_excluded += type != NODE_FOLDER && left_out;
    return rc;
}

/* Is it gone because the rules have changed? Then it was not removed. */
static bool left_out(struct save *s, uint64_t parent, const char *name, uint8_t type)
{
    struct buffer folder = BUFFER_INIT;
    struct error ignored = ERROR_INIT;
    bool out = false;

    if (s->rules_changed &&
        catalog_node_path(s->cat, s->watch, parent, CATALOG_OPEN, &folder, &ignored) == 0) {
        const char *path = save_path(s, buffer_cstr(&folder), name);
        out = path && !rules_want(s->req->rules, s->rootfd, path, type == NODE_FOLDER, NULL, NULL);
    }
    buffer_release(&folder);
    return out;
}

int names_displace(struct save *s, uint64_t parent, const char *name, const struct known *row,
                   struct error *e)
{
    int rc = note_gone(s, parent, name, row, true, e);

    if (rc == 0)
        rc = drop_name(s, parent, name, s->gone[s->gone_count - 1].type, false, e);
    if (rc == 0)
        rc = note_removed(s, parent, name, e);
    return rc < 0 ? rc : gain(s, row->node, -1, e);
}

/* The node loses this name; without any other it goes too. Only the catalog's names count: the link
 * count of a cached signature may be that of another moment. */
static int lose_name(struct save *s, const struct gone *g, struct error *e)
{
    int64_t left = 0;

    if (has_fate(s, g->node, FATE_DEAD))
        return 0;
    int rc = names_count(s, g->node, &left, e);
    if (rc == 0 && !g->name_removed && --left > 0)
        rc = gain(s, g->node, -1, e);
    if (rc < 0 || left > 0)
        return rc;
    /* One that had several names may come here again. */
    if (pair_map_get(&s->gained, g->node, 0) && !pair_map_put(&s->fate, g->node, 0, FATE_DEAD))
        return save_no_memory(e);
    return version_remove(s, g->node, g->type, g->flags, g->size, e);
}

struct removed_folder { /* its content is to be removed */
    uint64_t node;
    bool left_out; /* and so is all in it */
};

struct below {
    struct removed_folder *v;
    size_t count, cap;
};

static bool push_below(struct below *b, uint64_t node, bool left_out)
{
    if (b->count == b->cap) {
        size_t cap = b->cap ? 2 * b->cap : 16;
        struct removed_folder *v = reallocarray(b->v, cap, sizeof(*v));
        if (!v)
            return false;
        b->v = v;
        b->cap = cap;
    }
    b->v[b->count++] = (struct removed_folder){node, left_out};
    return true;
}

static int remove_child(struct save *s, const struct removed_folder *in, const struct name_row *row,
                        struct below *below, struct error *e)
{
    struct gone g = {.parent = in->node, .node = row->node};
    struct node_brief b;

    if (names_removed(s, in->node, row->name))
        return 0;
    int rc = node_brief_decode(row->meta, row->meta_len, &b, e);
    if (rc < 0)
        return rc;
    g.type = b.type;
    g.flags = b.flags;
    g.size = b.size;
    bool out = in->left_out || left_out(s, in->node, row->name, b.type);
    rc = drop_name(s, in->node, row->name, b.type, out, e);
    if (rc == 0 && b.type == NODE_FOLDER && !push_below(below, row->node, out))
        rc = save_no_memory(e);
    if (rc < 0)
        return rc;
    return b.type == NODE_FOLDER ? version_remove(s, g.node, g.type, g.flags, 0, e)
                                 : lose_name(s, &g, e);
}

static int remove_children(struct save *s, const struct removed_folder *in, struct below *below,
                           struct error *e)
{
    struct name_iter *it = NULL;
    struct name_row row;
    int rc = catalog_children(s->cat, s->watch, in->node, CATALOG_OPEN, &it, e);

    while (rc == 0 && (rc = name_iter_step(it, &row, e)) == 1)
        rc = remove_child(s, in, &row, below, e);
    name_iter_close(it);
    return rc;
}

static int remove_below(struct save *s, uint64_t folder, bool out, struct error *e)
{
    struct below below = {0};
    int rc = push_below(&below, folder, out) ? 0 : save_no_memory(e);

    while (rc == 0 && below.count > 0) {
        const struct removed_folder in = below.v[--below.count];
        rc = save_work_check(&s->work, e);
        if (rc == 0)
            rc = remove_children(s, &in, &below, e);
        if (rc == 0 && !pair_map_put(&s->fate, in.node, 0, FATE_DEAD))
            rc = save_no_memory(e);
    }
    free(below.v);
    return rc;
}

static int finish_gone(struct save *s, const struct gone *g, struct error *e)
{
    bool out = false;
    int rc = 0;

    if (g->name_removed && has_fate(s, g->node, FATE_MOVED))
        return 0;
    if (!g->name_removed) {
        if (names_removed(s, g->parent, g->name) || has_fate(s, g->parent, FATE_DEAD))
            return 0;
        out = left_out(s, g->parent, g->name, g->type);
        rc = drop_name(s, g->parent, g->name, g->type, out, e);
        if (rc == 0)
            rc = note_removed(s, g->parent, g->name, e);
    }
    if (rc < 0)
        return rc;
    if (g->type != NODE_FOLDER)
        return lose_name(s, g, e);
    rc = remove_below(s, g->node, out, e);
    return rc < 0 ? rc : version_remove(s, g->node, g->type, g->flags, 0, e);
}

static int put_others(struct save *s, struct error *e)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < s->other_count; i++) {
        const struct other_name *o = &s->other_names[i];
        const char *slash = strrchr(o->path, '/');
        rc = names_put(s, o->parent, slash ? slash + 1 : o->path, o->node, NODE_FILE, false, e);
    }
    return rc;
}

int names_finish(struct save *s, struct error *e)
{
    int rc = put_others(s, e);

    for (size_t i = 0; rc == 0 && i < s->gone_count; i++) {
        rc = save_work_check(&s->work, e);
        if (rc == 0)
            rc = finish_gone(s, &s->gone[i], e);
    }
    return rc;
}

/* ---- further names of nodes that are being read ---- */

int names_other(struct save *s, uint64_t node, uint64_t parent, const char *path, struct error *e)
{
    if (s->other_count == s->other_cap) {
        size_t cap = s->other_cap ? 2 * s->other_cap : 16;
        struct other_name *v = reallocarray(s->other_names, cap, sizeof(*v));
        if (!v)
            return save_no_memory(e);
        s->other_names = v;
        s->other_cap = cap;
    }
    char *copy = strdup(path);
    if (!copy)
        return save_no_memory(e);
    s->other_names[s->other_count++] = (struct other_name){node, parent, copy};
    return 0;
}

bool names_take_other(struct save *s, uint64_t node, struct other_name *out)
{
    for (size_t i = 0; i < s->other_count; i++) {
        if (s->other_names[i].node != node)
            continue;
        *out = s->other_names[i];
        s->other_names[i] = s->other_names[--s->other_count];
        return true;
    }
    return false;
}

void names_unbind(struct save *s, const struct signature *sig, uint64_t node)
{
    const uint64_t *bound = pair_map_get(&s->links, sig->dev, sig->ino);

    if (bound && *bound == node)
        pair_map_remove(&s->links, sig->dev, sig->ino);
}
