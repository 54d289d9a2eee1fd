#include "snapshot/heal.h"

#include "io/fileops.h"
#include "io/safe_path.h"
#include "snapshot/content_class.h"
#include "snapshot/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

enum { PIECE = 128 * 1024 };

struct healing {
    const struct heal_request *req;
    heal_visit visit;
    void *ctx;
    int rootfd;
    uint8_t *piece;
};

/* What the file that stands there is, where a file of class `before` was saved. */
static int look(struct healing *h, int fd, const char *name, enum content_class before,
                enum content_class *now, struct error *e)
{
    struct content_look look;
    uint64_t at = 0;
    size_t got = 0;
    int rc;

    content_look_begin(&look, name);
    do {
        rc = file_read_some(fd, h->piece, PIECE, at, &got, e);
        if (rc == 0) {
            content_look_feed(&look, h->piece, got);
            at += got;
        }
        /* Of a database the header and the length are all that counts. */
    } while (rc == 0 && got == PIECE && before != CONTENT_SQLITE);
    if (rc == 0 && before == CONTENT_SQLITE) {
        struct stat st;
        at = fstat(fd, &st) == 0 ? (uint64_t)st.st_size : at;
    }
    *now = content_look_end(&look, at, before);
    return rc;
}

static int check_content(struct healing *h, const struct tree_entry *t, enum content_class before,
                         struct error *e)
{
    enum content_class now;

    int fd = safe_open(h->rootfd, t->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, e);
    if (fd < 0) {
        error_clear(e); /* what may not be read may be whole */
        return 0;
    }
    int rc = look(h, fd, t->name, before, &now, e);
    close(fd);
    if (rc != 0) {
        error_clear(e);
        return 0;
    }
    bool broken = now == CONTENT_JSON_BROKEN || now == CONTENT_SQLITE_BROKEN;
    return broken ? h->visit(h->ctx, t->path, HEAL_BROKEN, e) : 0;
}

static bool unchanged(const struct tree_entry *t, const struct stat *st)
{
    struct error ignored = ERROR_INIT;
    struct node n;

    if (node_decode(t->meta, t->meta_len, &n, &ignored) != 0)
        return false;
    bool same = n.size == (uint64_t)st->st_size && n.mtime_s == st->st_mtim.tv_sec &&
                n.mtime_ns == (uint32_t)st->st_mtim.tv_nsec;
    node_release(&n);
    return same;
}

static int check_file(struct healing *h, const struct tree_entry *t, const struct node_brief *b,
                      struct error *e)
{
    enum content_class class = node_class(b->flags);
    struct stat st;

    if (safe_stat(h->rootfd, t->path, &st, e) != 0) {
        bool gone = e->code == ERR_NOTFOUND;
        error_clear(e);
        return gone && h->req->missing ? h->visit(h->ctx, t->path, HEAL_MISSING, e) : 0;
    }
    if (b->type != NODE_FILE || !S_ISREG(st.st_mode) || b->size == 0 || b->flags & NODE_SPOILT ||
        (class != CONTENT_JSON && class != CONTENT_SQLITE))
        return 0;
    if (st.st_size == 0)
        return h->visit(h->ctx, t->path, HEAL_EMPTY, e);
    return unchanged(t, &st) ? 0 : check_content(h, t, class, e);
}

static int check_entry(void *ctx, const struct tree_entry *t, struct error *e)
{
    struct healing *h = ctx;
    struct node_brief b;

    if (h->req->cancel && atomic_load_explicit(h->req->cancel, memory_order_relaxed))
        return error_set(e, ERR_CANCELLED, "interrupted");
    int rc = node_brief_decode(t->meta, t->meta_len, &b, e);
    if (rc != 0)
        return rc;
    bool folder = b.type == NODE_FOLDER;
    if (!rules_want(h->req->rules, h->rootfd, t->path, folder, NULL, NULL))
        return folder ? TREE_SKIP : 0;
    return folder ? 0 : check_file(h, t, &b, e);
}

static int walk(struct healing *h, struct error *e)
{
    const struct snapshot_row *s = h->req->good;
    struct catalog *c;

    int rc = repo_catalog_open(h->req->repo, &c, e);
    if (rc != 0)
        return rc;
    rc = tree_walk(c, s->watch_serial, (int64_t)s->commit.number, "", UINT_MAX, check_entry, h, e);
    repo_catalog_close(h->req->repo, c);
    return rc;
}

int heal_find(const struct heal_request *req, heal_visit visit, void *ctx, struct error *e)
{
    struct healing h = {.req = req, .visit = visit, .ctx = ctx, .piece = malloc(PIECE)};

    if (!h.piece)
        return error_set(e, ERR_FAILED, "out of memory");
    rules_look(req->rules);
    h.rootfd = long_path_open(req->root, O_RDONLY | O_DIRECTORY, e);
    int rc = h.rootfd < 0 ? h.rootfd : walk(&h, e);
    if (h.rootfd >= 0)
        close(h.rootfd);
    free(h.piece);
    return rc;
}
