#include "keep/archive_walk.h"

#include "base/buffer.h"
#include "capture/file_read.h"
#include "io/fileops.h"
#include "io/safe_path.h"
#include "snapshot/pair_map.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/banned.h"

enum { DEPTH_MAX = 32768, READ_BYTES = 256 * 1024 };

struct level {
    char **names; /* sorted; those before `next` are freed */
    size_t count, next;
    size_t path_len; /* of the folder, in walk.path */
};

struct archive_walk {
    int top;
    char *metadata;
    bool past_cache, begun;
    struct level *levels;
    size_t depth, cap;
    struct buffer path;        /* of the entry, NUL-terminated */
    struct pair_map links;     /* (device, inode) -> where its first path stands, plus 1 */
    struct buffer first_paths; /* each with a NUL behind */
    int parent;                /* folder of the entry, for the next in it */
    size_t parent_depth;       /* 0: none open */
    struct file_read file;     /* of the entry */
    uint64_t given;            /* of its stream */
    uint64_t in_extent;
    uint32_t extent;
    uint8_t *bytes;
    struct node node;
    char target[4096];
    struct archive_entry entry;
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

int archive_walk_open(int top, const char *metadata, bool past_cache, struct archive_walk **out,
                      struct error *e)
{
    struct archive_walk *w = calloc(1, sizeof(*w));

    *out = NULL;
    if (w) {
        w->top = top;
        w->parent = w->file.fd = -1;
        w->past_cache = past_cache;
        w->metadata = strdup(metadata);
        w->bytes = malloc(READ_BYTES);
    } else {
        close(top);
    }
    if (!w || !w->metadata || !w->bytes) {
        archive_walk_close(w);
        return no_memory(e);
    }
    *out = w;
    return 0;
}

static void forget_entry(struct archive_walk *w)
{
    file_read_close(&w->file);
    w->file.fd = -1;
    xattrs_free(w->node.xattrs);
    free(w->node.extents);
    w->node = (struct node){0};
    w->given = w->in_extent = 0;
    w->extent = 0;
}

static void pop(struct archive_walk *w)
{
    struct level *l = &w->levels[--w->depth];

    while (l->next < l->count)
        free(l->names[l->next++]);
    free(l->names);
}

void archive_walk_close(struct archive_walk *w)
{
    if (!w)
        return;
    forget_entry(w);
    while (w->depth > 0)
        pop(w);
    if (w->parent >= 0)
        close(w->parent);
    close(w->top);
    pair_map_release(&w->links);
    buffer_release(&w->first_paths);
    buffer_release(&w->path);
    free(w->levels);
    free(w->metadata);
    free(w->bytes);
    free(w);
}

/* ---- folders ---- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int read_names(int fd, struct level *l, struct error *e)
{
    DIR *d = fdopendir(fd);
    const struct dirent *entry;
    size_t cap = 0;
    int rc = 0;

    if (!d) {
        close(fd);
        return error_sys(e, errno, "cannot list a folder");
    }
    while (rc == 0 && (entry = readdir(d)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (l->count == cap) {
            cap = cap ? 2 * cap : 32;
            char **names = reallocarray(l->names, cap, sizeof(char *));
            if (!names) {
                rc = no_memory(e);
                break;
            }
            l->names = names;
        }
        l->names[l->count] = strdup(entry->d_name);
        if (l->names[l->count])
            l->count++;
        else
            rc = no_memory(e);
    }
    closedir(d);
    if (l->count > 0)
        qsort(l->names, l->count, sizeof(char *), by_text);
    return rc;
}

static const char *path_of(const struct archive_walk *w)
{
    return (const char *)w->path.data;
}

/* Go down into the folder whose path stands in w->path. */
static int push(struct archive_walk *w, struct error *e)
{
    if (w->depth == DEPTH_MAX)
        return error_set(e, ERR_REFUSED, "folders nest deeper than %d", DEPTH_MAX);
    if (w->depth == w->cap) {
        size_t cap = w->cap ? 2 * w->cap : 16;
        struct level *levels = reallocarray(w->levels, cap, sizeof(*levels));
        if (!levels)
            return no_memory(e);
        w->levels = levels;
        w->cap = cap;
    }
    int fd = safe_open(w->top, path_of(w), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, e);
    if (fd < 0)
        return fd;
    struct level *l = &w->levels[w->depth++];
    *l = (struct level){.path_len = w->path.len - 1};
    return read_names(fd, l, e);
}

/* The folder that the deepest level lists, open. */
static int parent_of(struct archive_walk *w, struct error *e)
{
    struct level *l = &w->levels[w->depth - 1];
    char *folder;

    if (w->parent >= 0 && w->parent_depth == w->depth)
        return w->parent;
    if (w->parent >= 0)
        close(w->parent);
    folder = strndup(path_of(w), l->path_len);
    w->parent = folder ? safe_open(w->top, folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, e)
                       : no_memory(e);
    free(folder);
    w->parent_depth = w->depth;
    return w->parent;
}

/* ---- one entry ---- */

static void take_stat(struct node *n, const struct stat *st)
{
    *n = (struct node){.type = node_type_of(st->st_mode),
                       .mode = (uint16_t)(st->st_mode & 07777),
                       .uid = st->st_uid,
                       .gid = st->st_gid,
                       .mtime_s = st->st_mtim.tv_sec,
                       .mtime_ns = (uint32_t)st->st_mtim.tv_nsec};
    if (n->type == NODE_FILE)
        n->size = (uint64_t)st->st_size;
    if (n->type == NODE_CHAR_DEVICE || n->type == NODE_BLOCK_DEVICE)
        n->rdev = (uint64_t)major(st->st_rdev) << 32 | minor(st->st_rdev);
}

/* What cannot be read of them is not there: whoever has no right to see it could not keep it. */
static int take_xattrs(struct archive_walk *w, int fd, int dir, const char *name, struct error *e)
{
    struct error partly = ERROR_INIT;
    int rc = xattrs_read(fd, dir, name, &w->node.xattrs, &w->node.xattr_count, &partly);

    if (rc == 0 || rc == ERR_INCOMPLETE)
        return 0;
    *e = partly;
    return rc;
}

static int open_file(struct archive_walk *w, int dir, const char *name, struct error *e)
{
    uint32_t runs;
    int rc = file_read_open(&w->file, dir, name, false, e);

    if (rc != 0) {
        w->file.fd = -1;
        return rc;
    }
    if (w->past_cache)
        posix_fadvise(w->file.fd, 0, 0, POSIX_FADV_DONTNEED);
    rc = take_xattrs(w, w->file.fd, -1, NULL, e);
    if (rc != 0)
        return rc;
    rc = file_read_extents(&w->file, &w->node.extents, &runs, e);
    if (rc < 0)
        return rc;
    w->node.extent_count = runs;
    w->entry.content = rc == 1 ? 0 : runs ? 0 : w->node.size;
    for (uint32_t i = 0; i < runs; i++)
        w->entry.content += w->node.extents[i].len;
    return 0;
}

/* The path of its first name, where this is a further one. */
static int take_link(struct archive_walk *w, const struct stat *st, struct error *e)
{
    if (S_ISDIR(st->st_mode) || st->st_nlink < 2)
        return 0;
    const uint64_t *first = pair_map_get(&w->links, st->st_dev, st->st_ino);
    if (first) {
        w->entry.link = (const char *)w->first_paths.data + *first;
        return 0;
    }
    uint64_t at = w->first_paths.len;
    buffer_append_str(&w->first_paths, path_of(w));
    buffer_append(&w->first_paths, "", 1);
    return buffer_ok(&w->first_paths) && pair_map_put(&w->links, st->st_dev, st->st_ino, at)
               ? 0
               : no_memory(e);
}

static int take_entry(struct archive_walk *w, int dir, const char *name, struct error *e)
{
    struct node *n = &w->node;
    struct stat st;

    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return error_sys(e, errno, "cannot look at an entry");
    take_stat(n, &st);
    w->entry = (struct archive_entry){.path = path_of(w), .node = n};
    w->entry.metadata = w->depth == 1 && strcmp(name, w->metadata) == 0;
    int rc = take_link(w, &st, e);
    if (rc != 0 || w->entry.link)
        return rc;
    if (n->type == NODE_FILE)
        return open_file(w, dir, name, e);
    if (n->type == NODE_SYMLINK) {
        ssize_t len = readlinkat(dir, name, w->target, sizeof(w->target) - 1);
        if (len <= 0)
            return error_sys(e, len < 0 ? errno : EINVAL, "cannot read a link");
        w->target[len] = 0;
        n->target = w->target;
        n->target_len = (uint32_t)len;
    }
    return take_xattrs(w, -1, dir, name, e);
}

static int take_top(struct archive_walk *w, struct error *e)
{
    struct stat st;

    buffer_append(&w->path, "", 1);
    if (!buffer_ok(&w->path))
        return no_memory(e);
    if (fstat(w->top, &st) != 0)
        return error_sys(e, errno, "cannot look at the archive");
    take_stat(&w->node, &st);
    w->entry = (struct archive_entry){.path = path_of(w), .node = &w->node};
    return take_xattrs(w, w->top, -1, NULL, e);
}

static int take_name(struct archive_walk *w, struct error *e)
{
    struct level *l = &w->levels[w->depth - 1];
    char *name = l->names[l->next++];

    int dir = parent_of(w, e);
    w->path.len = l->path_len;
    if (l->path_len > 0)
        buffer_append(&w->path, "/", 1);
    buffer_append(&w->path, name, strlen(name) + 1);
    int rc = dir < 0 ? dir : buffer_ok(&w->path) ? take_entry(w, dir, name, e) : no_memory(e);
    free(name);
    if (rc != 0 && !e->path[0])
        error_path(e, path_of(w));
    return rc;
}

int archive_walk_next(struct archive_walk *w, const struct archive_entry **out, struct error *e)
{
    bool folder = w->begun && w->entry.node->type == NODE_FOLDER;
    int rc = 0;

    *out = &w->entry;
    if (folder)
        rc = push(w, e);
    forget_entry(w);
    if (!w->begun) {
        w->begun = true;
        rc = take_top(w, e);
        return rc == 0 ? 1 : rc;
    }
    while (rc == 0 && w->depth > 0 && w->levels[w->depth - 1].next == w->levels[w->depth - 1].count)
        pop(w);
    if (rc != 0 || w->depth == 0)
        return rc;
    rc = take_name(w, e);
    return rc == 0 ? 1 : rc;
}

/* ---- content ---- */

int archive_walk_data(struct archive_walk *w, const uint8_t **p, size_t *len, struct error *e)
{
    const struct node *n = &w->node;
    uint64_t off = w->given, left = w->entry.content - w->given;

    *p = w->bytes;
    *len = 0;
    if (left == 0 || w->file.fd < 0)
        return 0;
    if (n->extent_count > 0) {
        const struct node_extent *x = &n->extents[w->extent];
        off = x->off + w->in_extent;
        left = x->len - w->in_extent;
    }
    size_t now = left < READ_BYTES ? (size_t)left : READ_BYTES;
    int rc = file_read_all(w->file.fd, w->bytes, now, off, e);
    if (rc != 0)
        return rc;
    *len = now;
    w->given += now;
    w->in_extent += now;
    if (n->extent_count > 0 && w->in_extent == n->extents[w->extent].len) {
        w->extent++;
        w->in_extent = 0;
    }
    return 0;
}
