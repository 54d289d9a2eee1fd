#include "keep/archive_read.h"

#include "base/text.h"
#include "io/safe_path.h"
#include "keep/archive_private.h"
#include "keep/archive_walk.h"
#include "keep/gzip.h"
#include "keep/tar_read.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

struct archive_reader {
    struct archive_walk *walk; /* a folder; else all that follows */
    int fd;
    struct gzip_reader *gzip;
    struct tar_reader *tar;
    char *top;   /* the folder that everything stands under; NULL before the first entry */
    bool behind; /* the metadata: folders that stand there were given before */
    struct archive_entry entry;
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

static int next_bytes(void *ctx, const uint8_t **p, size_t *len, struct error *e)
{
    return gzip_reader_next(((struct archive_reader *)ctx)->gzip, p, len, e);
}

static int open_folder(struct archive_reader *r, const char *path, bool past_cache, struct error *e)
{
    char inside[ARCHIVE_INSIDE_MAX];
    int fd = r->fd;

    r->fd = -1;
    archive_meta_inside(fd, path, inside);
    return archive_walk_open(fd, inside, past_cache, &r->walk, e);
}

static int open_any(struct archive_reader *r, const char *path, bool past_cache, struct error *e)
{
    char quoted[300];
    struct stat st;

    r->fd = long_path_open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, e);
    if (r->fd < 0)
        return r->fd;
    if (fstat(r->fd, &st) != 0 || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)))
        return error_set(e, ERR_USAGE, "'%s' is neither a tar.gz nor a folder",
                         text_escape(path, quoted, sizeof(quoted)));
    if (S_ISDIR(st.st_mode))
        return open_folder(r, path, past_cache, e);
    int rc = gzip_reader_open(r->fd, past_cache, 2, &r->gzip, e);
    return rc == 0 ? tar_reader_open(next_bytes, r, &r->tar, e) : rc;
}

static struct archive_reader *new_reader(void)
{
    struct archive_reader *r = calloc(1, sizeof(*r));

    if (r)
        r->fd = -1;
    return r;
}

static int opened(int rc, struct archive_reader *r, struct archive_reader **out)
{
    *out = rc == 0 ? r : NULL;
    if (rc != 0)
        archive_reader_close(r);
    return rc;
}

int archive_reader_open(const char *path, bool past_cache, struct archive_reader **out,
                        struct error *e)
{
    struct archive_reader *r = new_reader();

    return opened(r ? open_any(r, path, past_cache, e) : no_memory(e), r, out);
}

int archive_reader_open_tree(const char *path, struct archive_reader **out, struct error *e)
{
    struct archive_reader *r = new_reader();
    int top = r ? long_path_open(path, O_RDONLY | O_DIRECTORY, e) : no_memory(e);

    return opened(top < 0 ? top : archive_walk_open(top, "", true, &r->walk, e), r, out);
}

void archive_reader_close(struct archive_reader *r)
{
    if (!r)
        return;
    archive_walk_close(r->walk);
    tar_reader_close(r->tar);
    gzip_reader_close(r->gzip);
    if (r->fd >= 0)
        close(r->fd);
    free(r->top);
    free(r);
}

/* What stands below the top folder; NULL: it does not. */
static const char *below(const struct archive_reader *r, const char *path)
{
    size_t n = strlen(r->top);

    if (strncmp(path, r->top, n) != 0 || (path[n] && path[n] != '/'))
        return NULL;
    return path + n + (path[n] == '/');
}

static int stands_apart(const char *path, struct error *e)
{
    char quoted[300];

    return error_set(e, ERR_REFUSED,
                     "the archive has an entry '%s' beside its one folder: it is none of watchkeep",
                     text_escape(path, quoted, sizeof(quoted)));
}

static int take_tar_entry(struct archive_reader *r, const struct tar_entry *t, struct error *e)
{
    if (!r->top)
        r->top = strndup(t->path, strcspn(t->path, "/"));
    if (!r->top)
        return no_memory(e);
    r->entry = (struct archive_entry){.path = below(r, t->path),
                                      .link = t->link ? below(r, t->link) : NULL,
                                      .node = &t->node,
                                      .content = t->content,
                                      .metadata = t->metadata};
    if (!r->entry.path || (t->link && !r->entry.link))
        return stands_apart(r->entry.path ? t->link : t->path, e);
    if (!*r->entry.path && t->node.type != NODE_FOLDER)
        return stands_apart(t->path, e);
    return 1;
}

int archive_reader_next(struct archive_reader *r, const struct archive_entry **out, struct error *e)
{
    const struct tar_entry *t;

    int rc;

    if (r->walk)
        return archive_walk_next(r->walk, out, e);
    do
        rc = tar_reader_next(r->tar, &t, e);
    while (rc == 1 && r->behind && t->node.type == NODE_FOLDER && !t->link);
    if (rc == 1)
        rc = take_tar_entry(r, t, e);
    if (rc == 1)
        r->behind |= r->entry.metadata;
    *out = &r->entry;
    return rc;
}

int archive_reader_data(struct archive_reader *r, const uint8_t **p, size_t *len, struct error *e)
{
    return r->walk ? archive_walk_data(r->walk, p, len, e) : tar_reader_data(r->tar, p, len, e);
}
