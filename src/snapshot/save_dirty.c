/* A dirty set names entries. Each is checked in its parent, and the parent's own metadata with it,
 * because an entry that comes or goes moves its times. What the catalog does not know, or what the
 * disk no longer has, is decided at the deepest folder that both have. */
#include "snapshot/save_state.h"

#include "base/bytes.h"
#include "base/text.h"
#include "io/safe_path.h"
#include "store/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

struct item {
    char *path; /* "" = the root */
    unsigned how;
    uint64_t parent;
    bool in_server; /* the parent is, or lies in, a database server's data folder */
};

struct step { /* a folder on the way to the path resolved last */
    uint64_t node;
    size_t end; /* of its path */
    bool in_server;
};

struct dirty {
    struct save *s;
    struct item *v;
    size_t count, cap;
    /* the way to the path resolved last: */
    struct buffer way;
    struct step *steps;
    size_t step_count, step_cap;
    struct buffer meta, sig; /* of the row being checked */
    struct pair_map sides;   /* (parent, hash of name): side files looked at with their database */
};

/* ---- the list ---- */

static int add(struct dirty *d, const char *path, size_t n, unsigned how, const struct step *in,
               struct error *e)
{
    if (d->count == d->cap) {
        size_t cap = d->cap ? 2 * d->cap : 32;
        struct item *v = reallocarray(d->v, cap, sizeof(*v));
        if (!v)
            return save_no_memory(e);
        d->v = v;
        d->cap = cap;
    }
    char *copy = strndup(path, n);
    if (!copy)
        return save_no_memory(e);
    d->v[d->count++] =
        (struct item){.path = copy, .how = how, .parent = in->node, .in_server = in->in_server};
    return 0;
}

/* Folders right before what is in them. */
static int by_path(const void *a, const void *b)
{
    return text_path_order(((const struct item *)a)->path, ((const struct item *)b)->path);
}

static void sort_and_merge(struct dirty *d)
{
    size_t to = 0;

    if (d->count > 1)
        qsort(d->v, d->count, sizeof(*d->v), by_path);
    for (size_t i = 0; i < d->count; i++) {
        if (to > 0 && strcmp(d->v[to - 1].path, d->v[i].path) == 0) {
            d->v[to - 1].how |= d->v[i].how;
            free(d->v[i].path);
        } else {
            d->v[to++] = d->v[i];
        }
    }
    d->count = to;
}

/* ---- the way to an entry ---- */

/* Keep of the last way what the new path shares with it. */
static void shared_step(struct dirty *d, const char *path)
{
    const char *way = buffer_cstr(&d->way);

    while (d->step_count > 1) {
        const struct step *last = &d->steps[d->step_count - 1];
        if (strncmp(way, path, last->end) == 0 && path[last->end] == '/')
            break;
        d->step_count--;
    }
}

static int push_step(struct dirty *d, const struct step *step, struct error *e)
{
    if (d->step_count == d->step_cap) {
        size_t cap = d->step_cap ? 2 * d->step_cap : 16;
        struct step *v = reallocarray(d->steps, cap, sizeof(*v));
        if (!v)
            return save_no_memory(e);
        d->steps = v;
        d->step_cap = cap;
    }
    d->steps[d->step_count++] = *step;
    return 0;
}

static int first_step(struct dirty *d, struct error *e)
{
    struct step root = {.node = NODE_ROOT};
    struct node_brief b = {0};
    int rc;

    buffer_clear(&d->meta);
    rc = catalog_node(d->s->cat, d->s->watch, NODE_ROOT, CATALOG_OPEN, &d->meta, e);
    if (rc == 0)
        rc = node_brief_decode(d->meta.data, d->meta.len, &b, e);
    root.in_server = b.flags & NODE_SERVER_DATA;
    return rc < 0 ? rc : push_step(d, &root, e);
}

/* Is the name a folder in the catalog? *next is set when it is. */
static int known_folder(struct dirty *d, const struct step *in, const char *name, size_t n,
                        struct step *next, struct error *e)
{
    struct node_brief b;
    int rc =
        catalog_lookup(d->s->cat, d->s->watch, in->node, name, n, CATALOG_OPEN, &next->node, e);

    if (rc < 0)
        return rc == ERR_NOTFOUND ? 0 : rc;
    buffer_clear(&d->meta);
    rc = catalog_node(d->s->cat, d->s->watch, next->node, CATALOG_OPEN, &d->meta, e);
    if (rc == 0)
        rc = node_brief_decode(d->meta.data, d->meta.len, &b, e);
    if (rc < 0)
        return rc;
    next->in_server = in->in_server || b.flags & NODE_SERVER_DATA;
    return b.type == NODE_FOLDER;
}

static bool is_folder(struct dirty *d, const char *path, size_t n)
{
    struct error e = ERROR_INIT;
    struct stat st;
    char *copy = strndup(path, n);
    bool yes = copy && safe_stat(d->s->rootfd, copy, &st, &e) == 0 && S_ISDIR(st.st_mode);

    free(copy);
    return yes;
}

/* The folder's own metadata, by its parent. */
static int add_folder(struct dirty *d, const char *path, const struct step *in, struct error *e)
{
    const struct step none = {.node = 0};

    return add(d, path, in->end, DIRTY_ENTRY, d->step_count > 1 ? in - 1 : &none, e);
}

/* Folders of the path that the catalog knows become steps. *sure: how many of all steps are known
 * to be on the disk; a look now and then keeps the way short where the first of many has left. */
static int push_known(struct dirty *d, const char *path, size_t *sure, struct error *e)
{
    size_t ahead = 8;

    for (;;) {
        const struct step *in = &d->steps[d->step_count - 1];
        size_t from = in->end ? in->end + 1 : 0;
        const char *slash = strchr(path + from, '/');
        if (!slash)
            return 0;
        if (d->step_count - *sure >= ahead) {
            if (!is_folder(d, path, in->end))
                return 0;
            *sure = d->step_count;
            ahead *= 2;
        }
        struct step next = {.end = (size_t)(slash - path)};
        int rc = known_folder(d, in, path + from, next.end - from, &next, e);
        if (rc == 1)
            rc = push_step(d, &next, e);
        else if (rc == 0)
            return 0;
        if (rc < 0)
            return rc;
    }
}

/* How many of the steps are folders on the disk. The first `sure` are known to be. Where the last
 * is one, so are all above it. */
static size_t steps_there(struct dirty *d, const char *path, size_t sure)
{
    size_t low = sure, high = d->step_count; /* low are there */

    for (size_t try = high; low < high; try = low + (high - low + 1) / 2) {
        if (is_folder(d, path, d->steps[try - 1].end))
            low = try;
        else
            high = try - 1;
    }
    return low;
}

/* Find the folder above the path, or the first part of it that is not known or not there. */
static int resolve(struct dirty *d, const char *path, unsigned how, struct error *e)
{
    shared_step(d, path);
    size_t sure = d->step_count;

    buffer_clear(&d->way); /* what follows of it is new */
    buffer_append_str(&d->way, path);
    int rc = push_known(d, path, &sure, e);
    if (rc < 0)
        return rc;
    size_t there = steps_there(d, path, sure);
    /* It left, or is another thing now; should it turn up elsewhere, what changed below it has to
     * be found there. */
    if (there < d->step_count && !pair_map_put(&d->s->lost, d->steps[there].node, 0, 1))
        return save_no_memory(e);
    d->step_count = there;
    struct step *in = &d->steps[there - 1];
    const char *slash = strchr(path + (in->end ? in->end + 1 : 0), '/');
    rc = add_folder(d, path, in, e);
    if (rc < 0)
        return rc;
    return slash ? add(d, path, (size_t)(slash - path), DIRTY_ENTRY | DIRTY_TREE, in, e)
                 : add(d, path, strlen(path), how, in, e);
}

/* ---- hard links ----
 * An event names one path; what changed is the content of all names of that inode. The name may be
 * gone by now, or lead elsewhere, so that only the catalog knows the others. */

/* {u64 parent, u64 length, bytes} each */
static int take_link(void *ctx, uint64_t parent, const char *name, size_t len)
{
    struct buffer *b = ctx;

    put_u64(b, parent);
    put_u64(b, len);
    buffer_append(b, name, len);
    return 0;
}

static int add_link(struct dirty *d, uint64_t parent, const uint8_t *name, size_t len, unsigned how,
                    struct error *e)
{
    struct buffer path = BUFFER_INIT;
    int rc = catalog_node_path(d->s->cat, d->s->watch, parent, CATALOG_OPEN, &path, e);

    if (rc == 0) {
        path.len = strlen(buffer_cstr(&path));
        if (path.len > 0)
            buffer_append(&path, "/", 1);
        buffer_append(&path, name, len);
        const char *text = buffer_cstr(&path);
        rc = buffer_ok(&path) ? resolve(d, text, how, e) : save_no_memory(e);
    }
    buffer_release(&path);
    return rc;
}

/* 0 = nothing in the catalog by that path. */
static int node_of(struct dirty *d, const char *path, uint64_t *node, struct error *e)
{
    int rc = 0;

    *node = NODE_ROOT;
    while (rc == 0 && *path) {
        size_t n = strcspn(path, "/");
        rc = catalog_lookup(d->s->cat, d->s->watch, *node, path, n, CATALOG_OPEN, node, e);
        path += n + (path[n] == '/');
    }
    if (rc == ERR_NOTFOUND)
        *node = 0;
    return rc == ERR_NOTFOUND ? 0 : rc;
}

static int has_links(struct dirty *d, uint64_t node, bool *yes, struct error *e)
{
    struct node_brief b;
    size_t names = 0;

    *yes = false;
    buffer_clear(&d->meta);
    int rc = catalog_node(d->s->cat, d->s->watch, node, CATALOG_OPEN, &d->meta, e);
    if (rc == 0)
        rc = node_brief_decode(d->meta.data, d->meta.len, &b, e);
    if (rc < 0 || b.type == NODE_FOLDER)
        return rc == ERR_NOTFOUND ? 0 : rc;
    rc = catalog_node_names(d->s->cat, d->s->watch, node, CATALOG_OPEN, &names, e);
    *yes = names > 1;
    return rc == ERR_NOTFOUND ? 0 : rc;
}

static int add_links(struct dirty *d, const char *path, unsigned how, struct error *e)
{
    struct buffer names = BUFFER_INIT;
    uint64_t node = 0;
    bool linked = false;
    int rc = node_of(d, path, &node, e);

    if (rc == 0 && node != 0)
        rc = has_links(d, node, &linked, e);
    if (rc == 0 && linked)
        rc = catalog_links(d->s->cat, d->s->watch, node, CATALOG_OPEN, take_link, &names, e);
    struct reader r = reader_of(names.data, names.len);
    while (rc == 0 && r.left > 0) {
        uint64_t parent = take_u64(&r);
        size_t len = (size_t)take_u64(&r);
        const uint8_t *name = take_bytes(&r, len);
        rc = r.bad ? save_no_memory(e) : add_link(d, parent, name, len, how, e);
        if (rc == 0)
            rc = save_work_check(&d->s->work, e);
    }
    buffer_release(&names);
    return rc;
}

/* ---- what a path in the set stands for ---- */

/* Without slashes at the ends; NULL for what is no path beneath the root. */
static char *clean(const char *path)
{
    struct buffer b = BUFFER_INIT;
    char *out = NULL;
    bool ok = true;

    while (ok && *path) {
        size_t n = strcspn(path, "/");
        ok = n == 0 || node_name_ok(path, n);
        if (n > 0 && b.len > 0)
            buffer_append(&b, "/", 1);
        buffer_append(&b, path, n);
        path += n + (path[n] == '/');
    }
    if (ok)
        out = strdup(buffer_cstr(&b));
    if (!buffer_ok(&b)) {
        free(out);
        out = NULL;
    }
    buffer_release(&b);
    return out;
}

static int add_path(struct dirty *d, const char *path, unsigned how, struct error *e)
{
    const struct step none = {.node = 0};
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    size_t folder_len = slash ? (size_t)(slash - path) : 0;
    size_t base_len;
    int rc = 0;

    if (!*path)
        return add(d, "", 0, how, &none, e);
    if (strcmp(name, IGNORE_FILE_NAME) == 0 || server_marker(name)) {
        /* It decides about its whole folder. */
        char *folder = strndup(path, folder_len);
        if (!folder)
            return save_no_memory(e);
        if (strcmp(name, IGNORE_FILE_NAME) == 0)
            rules_forget(d->s->req->rules, folder);
        rc = add_path(d, folder, DIRTY_ENTRY | DIRTY_TREE, e);
        free(folder);
        if (rc < 0)
            return rc;
    }
    if (d->s->req->watch->sqlite && sqlite_side_name(name, &base_len)) {
        char *base = strndup(path, (size_t)(name - path) + base_len);
        if (!base)
            return save_no_memory(e);
        rc = resolve(d, base, DIRTY_ENTRY, e);
        free(base);
        if (rc < 0)
            return rc;
    }
    rc = add_links(d, path, how & ~DIRTY_TREE, e);
    return rc < 0 ? rc : resolve(d, path, how, e);
}

static int collect(struct dirty *d, const struct dirty_set *set, struct error *e)
{
    int rc = first_step(d, e);

    for (size_t i = 0; rc == 0 && i < set->count; i++) {
        char *path = clean(set->paths[i].path);
        if (path)
            rc = add_path(d, path, set->paths[i].how, e);
        free(path);
        if (rc == 0)
            rc = save_work_check(&d->s->work, e);
    }
    if (rc == 0 && !buffer_ok(&d->way))
        rc = save_no_memory(e);
    sort_and_merge(d);
    return rc;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Files that are to be flushed also when a tree above them is read. */
static int note_flush(struct dirty *d, struct error *e)
{
    struct save *s = d->s;

    s->flush = calloc(d->count ? d->count : 1, sizeof(*s->flush));
    if (!s->flush)
        return save_no_memory(e);
    for (size_t i = 0; i < d->count; i++) {
        if (d->v[i].how & DIRTY_FLUSH)
            s->flush[s->flush_count++] = d->v[i].path;
    }
    qsort(s->flush, s->flush_count, sizeof(*s->flush), by_bytes);
    return 0;
}

/* ---- checking ---- */

static int row_of(struct dirty *d, uint64_t parent, const char *name, struct known *row,
                  struct error *e)
{
    struct save *s = d->s;
    uint64_t node = 0, ino = 0;
    int rc = catalog_lookup(s->cat, s->watch, parent, name, strlen(name), CATALOG_OPEN, &node, e);

    if (rc < 0)
        return rc;
    buffer_clear(&d->meta);
    buffer_clear(&d->sig);
    rc = catalog_node(s->cat, s->watch, node, CATALOG_OPEN, &d->meta, e);
    if (rc == 0)
        rc = catalog_cache_get(s->cat, s->watch, node, &ino, &d->sig, e);
    if (rc < 0 && (rc != ERR_NOTFOUND || d->meta.len == 0))
        return rc;
    *row = (struct known){.node = node,
                          .ino = ino,
                          .meta = d->meta.data,
                          .sig = d->sig.data,
                          .meta_len = (uint32_t)d->meta.len,
                          .sig_len = (uint32_t)d->sig.len};
    return 0;
}

static int check_root(struct dirty *d, unsigned how, struct error *e)
{
    struct save *s = d->s;
    struct visit v = {.node = NODE_ROOT, .list = how & DIRTY_TREE};

    buffer_clear(&d->meta);
    buffer_clear(&d->sig);
    int rc = catalog_node(s->cat, s->watch, NODE_ROOT, CATALOG_OPEN, &d->meta, e);
    if (rc == 0)
        rc = catalog_cache_get(s->cat, s->watch, NODE_ROOT, &v.ino, &d->sig, e);
    if (rc < 0 && rc != ERR_NOTFOUND)
        return rc;
    v.meta = d->meta.data;
    v.meta_len = (uint32_t)d->meta.len;
    v.sig = d->sig.data;
    v.sig_len = (uint32_t)d->sig.len;
    s->listed = v.list;
    return walk_push(s, &v, "", e);
}

static int check_name(struct dirty *d, struct folder *f, const char *name, unsigned how,
                      struct known *row, bool *there, struct error *e)
{
    struct stat st;
    int rc = row_of(d, f->node, name, row, e);

    if (rc < 0 && rc != ERR_NOTFOUND)
        return rc;
    bool known = rc == 0;
    int sys = fstatat(f->dir->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ? errno : 0;
    *there = sys == 0;
    if (sys != 0 && sys != ENOENT) /* its folder has become unreadable, and says so itself */
        return 0;
    if (!known)
        *row = (struct known){0};
    if (sys == 0 && S_ISDIR(st.st_mode) && !known)
        how |= DIRTY_TREE;
    bool absent = sys != 0 || (S_ISREG(st.st_mode) && d->s->req->watch->sqlite &&
                               database_side_file(f->dir->fd, name));
    return entry_check(d->s, f, name, absent ? NULL : &st, known ? row : NULL, how, true, e);
}

static bool says_database(const struct known *row)
{
    struct error e = ERROR_INIT;
    struct node_brief b;

    return row->meta_len && node_brief_decode(row->meta, row->meta_len, &b, &e) == 0 &&
           b.flags & NODE_SQLITE;
}

static uint64_t side_key(const struct save *s, const char *name)
{
    return hash_guard(name, strlen(name), s->name_seed);
}

/* Where a database begins or ends to be one, its side files become files or cease to be. */
static int check_sides(struct dirty *d, struct folder *f, const char *name, bool was, bool there,
                       struct error *e)
{
    static const char *const suffixes[] = {"-wal", "-shm", "-journal"};
    struct save *s = d->s;
    struct stat st;
    size_t base_len;
    bool found = false;
    int rc = 0;

    if (!s->req->watch->sqlite || sqlite_side_name(name, &base_len))
        return 0;
    char side[NAME_LEN_MAX + 16];
    for (size_t i = 0; rc == 0 && i < 3; i++) {
        struct buffer b = BUFFER_INIT;
        buffer_printf(&b, "%s%s", name, suffixes[i]);
        bool fits = buffer_ok(&b) && b.len <= NAME_LEN_MAX;
        if (fits)
            memcpy(side, buffer_cstr(&b), b.len + 1);
        buffer_release(&b);
        if (!fits || fstatat(f->dir->fd, side, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        if (!found && was == (there && database_header(f->dir->fd, name)))
            return 0;
        found = true;
        struct known row;
        bool ignored;
        rc = check_name(d, f, side, DIRTY_ENTRY, &row, &ignored, e);
        if (rc == 0 && !pair_map_put(&d->sides, f->node, side_key(s, side), 1))
            rc = save_no_memory(e);
    }
    return rc;
}

static int check_item(struct dirty *d, struct folder *f, const char *name, unsigned how,
                      struct error *e)
{
    struct known row;
    bool there = false;

    /* It comes behind its database in the set; looked at twice, it would be two. */
    if (d->sides.count > 0 && pair_map_get(&d->sides, f->node, side_key(d->s, name)))
        return 0;
    int rc = check_name(d, f, name, how, &row, &there, e);

    if (rc < 0)
        return rc;
    bool listed = d->s->listed;
    bool was = says_database(&row);
    rc = check_sides(d, f, name, was, there, e);
    d->s->listed = listed;
    return rc;
}

static struct folder *open_parent(struct dirty *d, const struct item *i, struct folder *last,
                                  struct error *e)
{
    const char *slash = strrchr(i->path, '/');
    size_t n = slash ? (size_t)(slash - i->path) : 0;

    if (last && strncmp(last->path, i->path, n) == 0 && !last->path[n]) {
        last->refs++;
        return last;
    }
    char *path = strndup(i->path, n);
    int fd = path ? safe_open(d->s->rootfd, path, O_RDONLY | O_DIRECTORY, 0, e) : -1;
    struct dir_handle *dir = fd >= 0 ? dir_handle_new(fd, &d->s->open_dirs) : NULL;
    struct folder *f = dir ? folder_new(path, i->parent, dir, i->in_server) : NULL;
    if (!f && (!path || fd >= 0))
        save_no_memory(e);
    free(path);
    return f;
}

static bool is_beneath(const char *path, const char *folder)
{
    size_t n = strlen(folder);

    return n == 0 || (strncmp(path, folder, n) == 0 && path[n] == '/');
}

/* Its folder went, or was shut, since the way was found: it says so itself, or the next save. */
static int parent_failed(struct dirty *d, const struct item *i, struct error *e)
{
    int rc = e->code;

    if (rc != ERR_NOTFOUND && rc != ERR_REFUSED && rc != ERR_DENIED && e->sys != EIO)
        return rc;
    error_clear(e);
    return save_retry(d->s, i->path, e);
}

static int check_all(struct dirty *d, struct error *e)
{
    struct folder *f = NULL;
    const char *covered = NULL; /* listed as a tree */
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < d->count; i++) {
        const struct item *item = &d->v[i];
        if (covered && is_beneath(item->path, covered))
            continue;
        if (!*item->path) {
            rc = check_root(d, item->how, e);
        } else {
            struct folder *parent = open_parent(d, item, f, e);
            folder_drop(f);
            f = parent;
            const char *slash = strrchr(item->path, '/');
            rc = f ? check_item(d, f, slash ? slash + 1 : item->path, item->how, e)
                   : parent_failed(d, item, e);
        }
        if (rc == 0 && d->s->listed)
            covered = item->path;
        d->s->listed = false;
        if (rc == 0)
            rc = walk_run(d->s, e);
        if (rc == 0)
            rc = save_work_check(&d->s->work, e);
    }
    folder_drop(f);
    return rc;
}

int dirty_run(struct save *s, const struct dirty_set *set, struct error *e)
{
    struct dirty d = {.s = s, .way = BUFFER_INIT, .meta = BUFFER_INIT, .sig = BUFFER_INIT};
    int rc = collect(&d, set, e);

    if (rc == 0)
        rc = note_flush(&d, e);
    if (rc == 0)
        rc = check_all(&d, e);
    free(s->flush);
    s->flush = NULL;
    s->flush_count = 0;
    for (size_t i = 0; i < d.count; i++)
        free(d.v[i].path);
    free(d.v);
    free(d.steps);
    buffer_release(&d.way);
    buffer_release(&d.meta);
    buffer_release(&d.sig);
    pair_map_release(&d.sides);
    return rc;
}
