#include "snapshot/restore_given.h"

#include "io/fileops.h"
#include "io/safe_path.h"
#include "snapshot/pair_map.h"
#include "snapshot/restore_job.h"
#include "store/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

struct giving {
    struct restore_job *job;
    const struct restore_source *source;
    struct restore_dir dir;
    struct restore_folder **open; /* the folders of the path given last, by level; [0] the top */
    size_t depth, cap;
    struct pair_map folders; /* (folder above, hash of the name) -> the folder: it may come again */
    bool reading_failed;     /* the source ended it, not an entry */
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

/* ---- folders ---- */

static struct restore_folder *folder_new(struct restore_job *j, struct restore_folder *parent,
                                         const char *name, size_t len)
{
    struct restore_folder *f = calloc(1, sizeof(*f) + len + 1);

    if (!f)
        return NULL;
    memcpy(f->name, name, len);
    f->parent = parent;
    f->before = j->last;
    j->last = f;
    return f;
}

static int set_meta(struct restore_folder *f, const struct node *n, struct error *e)
{
    struct buffer meta = BUFFER_INIT;

    node_encode(n, &meta);
    if (!buffer_ok(&meta)) {
        buffer_release(&meta);
        return error_set(e, ERR_DAMAGED, "its metadata cannot be");
    }
    free(f->meta);
    f->meta = meta.data;
    f->meta_len = (uint32_t)meta.len;
    return 0;
}

static int push(struct giving *g, struct restore_folder *f, struct error *e)
{
    if (!f)
        return no_memory(e);
    if (g->depth == g->cap) {
        size_t cap = g->cap ? 2 * g->cap : 32;
        struct restore_folder **open = reallocarray(g->open, cap, sizeof(struct restore_folder *));
        if (!open)
            return no_memory(e);
        g->open = open;
        g->cap = cap;
    }
    g->open[g->depth++] = f;
    return 0;
}

/* The place of that folder in the table, or where it is to go; names of one hash stand behind one
 * another. *f NULL: it was not given yet. */
static uint64_t look_up(const struct giving *g, const struct restore_folder *parent,
                        const char *name, struct restore_folder **f)
{
    for (uint64_t seed = 0;; seed++) {
        uint64_t key = hash_guard(name, strlen(name), seed);
        const uint64_t *there = pair_map_get(&g->folders, (uintptr_t)parent, key);
        *f = there ? (struct restore_folder *)(uintptr_t)*there : NULL; /* as it was put there */
        if (!*f || strcmp((*f)->name, name) == 0)
            return key;
    }
}

/* Make the folder, or find it there: then somebody named it before. */
static int enter(struct giving *g, const char *name, size_t len, struct error *e)
{
    struct restore_job *j = g->job;
    struct restore_folder *f, *parent = g->open[g->depth - 1];
    char own[NAME_LEN_MAX + 1];

    if (!node_name_ok(name, len))
        return error_set(e, ERR_REFUSED, "a path in it cannot be");
    memcpy(own, name, len);
    own[len] = 0;
    uint64_t key = look_up(g, parent, own, &f);
    if (f)
        return push(g, f, e);
    int dirfd = restore_dir_open(j->tree, &g->dir, parent, e);
    if (dirfd < 0)
        return dirfd;
    if (fileops->mkdirat(dirfd, own, 0700) != 0 && errno != EEXIST)
        return error_sys(e, errno, "cannot make the folder");
    f = folder_new(j, parent, own, len);
    if (f && !pair_map_put(&g->folders, (uintptr_t)parent, key, (uintptr_t)f))
        return no_memory(e);
    return push(g, f, e);
}

/* Go to the folder that the first len bytes of path name. */
static int go_to(struct giving *g, const char *path, size_t len, struct error *e)
{
    size_t level = 1, at = 0;
    int rc = 0;

    while (rc == 0 && at < len) {
        const char *slash = memchr(path + at, '/', len - at);
        size_t n = slash ? (size_t)(slash - path) - at : len - at;
        if (level < g->depth &&
            (strncmp(g->open[level]->name, path + at, n) != 0 || g->open[level]->name[n] != 0))
            g->depth = level;
        if (level >= g->depth)
            rc = enter(g, path + at, n, e);
        level++;
        at += n + 1;
    }
    if (rc == 0)
        g->depth = level;
    return rc;
}

static int put_folder(struct giving *g, const struct given_entry *x, struct error *e)
{
    int rc = go_to(g, x->path, strlen(x->path), e);

    return rc == 0 ? set_meta(g->open[g->depth - 1], x->node, e) : rc;
}

/* ---- files ---- */

static int put_bytes(int fd, const struct node *n, uint64_t *pos, uint32_t *extent,
                     uint64_t *in_extent, const uint8_t *p, uint64_t len, struct error *e)
{
    int rc = 0;

    while (rc == 0 && len > 0) {
        uint64_t now = len, at = *pos;
        if (n->extent_count > 0) {
            if (*extent == n->extent_count)
                return error_set(e, ERR_DAMAGED, "its content is longer than it says");
            const struct node_extent *x = &n->extents[*extent];
            at = x->off + *in_extent;
            now = len < x->len - *in_extent ? len : x->len - *in_extent;
            *in_extent += now;
            if (*in_extent == x->len) {
                ++*extent;
                *in_extent = 0;
            }
        }
        rc = file_write_all(fd, p, (size_t)now, at, e);
        p += now;
        len -= now;
        *pos += now;
    }
    return rc;
}

static int put_content(struct giving *g, int fd, const struct node *n, struct error *e)
{
    struct restore_job *j = g->job;
    uint64_t pos = 0, in_extent = 0;
    uint32_t extent = 0;
    const uint8_t *p;
    size_t len = 1;
    int rc = 0;

    while (rc == 0 && len > 0) {
        if (restore_stopped(j) != 0) {
            *e = j->why;
            rc = e->code;
        } else {
            rc = g->source->data(g->source->ctx, &p, &len, e);
        }
        if (rc != 0) {
            g->reading_failed = true;
            break;
        }
        rc = put_bytes(fd, n, &pos, &extent, &in_extent, p, len, e);
        if (j->req->progress)
            atomic_fetch_add(&j->req->progress->bytes_done, len);
    }
    if (rc == 0 && (n->size > INT64_MAX || fileops->ftruncate(fd, (off_t)n->size) != 0))
        rc = error_sys(e, n->size > INT64_MAX ? EFBIG : errno, "cannot set its length");
    if (rc == 0)
        atomic_fetch_add(&j->bytes, pos);
    return rc;
}

static int put_file(struct giving *g, int dir, const char *name, const struct given_entry *x,
                    struct error *e)
{
    const struct node *n = x->node;
    int fd = restore_create(dir, name, n, e);

    if (fd < 0)
        return fd;
    int rc = put_content(g, fd, n, e);
    if (rc == 0) {
        struct restore_subject s = {.fd = fd, .path = x->path};
        rc = restore_metadata(g->job, &s, n, e);
    }
    if (fileops->close(fd) != 0 && rc == 0)
        rc = error_sys(e, errno, "cannot write it out");
    if (rc != 0)
        fileops->unlinkat(dir, name, 0);
    return rc;
}

static int put_link(struct giving *g, int dir, const char *name, const struct given_entry *x,
                    struct error *e)
{
    const char *from_name;
    int rc = 0;
    int from = safe_open_parent(g->job->tree, x->link, &from_name, e);

    if (from < 0)
        return from;
    if (fileops->linkat(from, from_name, dir, name) != 0)
        rc = error_sys(e, errno, "cannot make it a further name of another");
    close(from);
    return rc;
}

static int put_other(struct giving *g, int dir, const char *name, const struct given_entry *x,
                     bool *done, struct error *e)
{
    struct restore_subject s = {.fd = -1, .dir = dir, .name = name, .path = x->path};
    bool device = x->node->type == NODE_CHAR_DEVICE || x->node->type == NODE_BLOCK_DEVICE;
    int sys = restore_make_special(x->node, dir, name);

    if (device && sys == EPERM) {
        restore_warn(g->job, WARN_DEVICE, x->path, 0);
        *done = false;
        return 0;
    }
    if (sys != 0)
        return error_sys(e, sys, "cannot make it");
    return restore_metadata(g->job, &s, x->node, e);
}

static int put_entry(struct giving *g, const struct given_entry *x, bool *done, struct error *e)
{
    const char *slash = strrchr(x->path, '/');
    const char *name = slash ? slash + 1 : x->path;

    *done = true;
    if (x->node->type == NODE_FOLDER && !x->link) {
        *done = false;
        return put_folder(g, x, e);
    }
    if (!node_name_ok(name, strlen(name)))
        return error_set(e, ERR_REFUSED, "a path in it cannot be");
    int rc = go_to(g, x->path, slash ? (size_t)(slash - x->path) : 0, e);
    if (rc != 0)
        return rc;
    int dir = restore_dir_open(g->job->tree, &g->dir, g->open[g->depth - 1], e);
    if (dir < 0)
        return dir;
    if (x->link)
        return put_link(g, dir, name, x, e);
    return x->node->type == NODE_FILE ? put_file(g, dir, name, x, e)
                                      : put_other(g, dir, name, x, done, e);
}

/* ---- the whole ---- */

static int one_more(struct giving *g, struct error *e)
{
    struct restore_job *j = g->job;
    struct given_entry x = {0};
    bool done;

    if (restore_stopped(j) != 0) {
        *e = j->why;
        return e->code;
    }
    int rc = g->source->next(g->source->ctx, &x, e);
    if (rc <= 0)
        return rc;
    rc = put_entry(g, &x, &done, e);
    if (rc == 0) {
        if (done)
            atomic_fetch_add(&j->files, 1);
        return 1;
    }
    if (g->reading_failed)
        return rc;
    if (restore_fatal(e->sys))
        return restore_target_failed(j, x.path, e);
    restore_problem(j, x.path, e);
    error_clear(e);
    return 1;
}

static int write_tree(struct restore_job *j, const void *ctx, struct error *e)
{
    const struct restore_source *source = ctx;
    struct giving g = {.job = j, .source = source, .dir = RESTORE_DIR_INIT};

    j->top = folder_new(j, NULL, "", 0);
    int rc = push(&g, j->top, e);
    if (rc == 0)
        rc = 1;
    while (rc == 1)
        rc = one_more(&g, e);
    restore_dir_close(&g.dir);
    pair_map_release(&g.folders);
    free(g.open);
    return rc;
}

int restore_given_run(const struct restore_request *req, const struct restore_source *source,
                      struct restore_result *result, struct error *e)
{
    struct restore_job j;

    restore_job_init(&j, req, result);
    j.single = source->single;
    return restore_job_end(&j, restore_into_target(&j, write_tree, source, e), e);
}
