#include "keep/archive_use.h"

#include "base/buffer.h"
#include "base/text.h"
#include "keep/archive_private.h"
#include "snapshot/restore_given.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

static int not_there(const struct archive_item *item, const char *path, struct error *e)
{
    char quoted[300];

    error_set(e, ERR_NOTFOUND, "'%s' is not in archive '%s'",
              text_escape(path, quoted, sizeof(quoted)), item->name);
    return error_path(e, path);
}

/* What stands below the selection, "" for itself; NULL: it is outside. */
static const char *within(const char *path, const char *selection)
{
    size_t n = strlen(selection);

    if (n == 0)
        return path;
    if (strncmp(path, selection, n) != 0 || (path[n] && path[n] != '/'))
        return NULL;
    return path + n + (path[n] == '/');
}

/* Read on to that entry: 1, or 0 when it does not come. */
static int read_to(struct archive_reader *r, const char *path, const struct archive_entry **x,
                   struct error *e)
{
    int rc;

    while ((rc = archive_reader_next(r, x, e)) == 1) {
        if (!(*x)->metadata && strcmp((*x)->path, path) == 0)
            break;
    }
    return rc;
}

/* ---- restore ---- */

struct kept_link { /* a file outside the selection, of which a name inside stands */
    char *outside, *inside;
};

struct selected {
    const struct archive_item *item;
    const char *path;
    bool single;
    struct archive_reader *reader;
    struct archive_reader *other; /* where the content of the entry comes from, when not NULL */
    struct kept_link *links;
    size_t link_count;
    char *single_name;
};

static const char *link_inside(const struct selected *s, const char *outside)
{
    for (size_t i = 0; i < s->link_count; i++) {
        if (strcmp(s->links[i].outside, outside) == 0)
            return s->links[i].inside;
    }
    return NULL;
}

static int keep_link(struct selected *s, const char *outside, const char *inside, struct error *e)
{
    struct kept_link *grown = reallocarray(s->links, s->link_count + 1, sizeof(*grown));

    if (!grown)
        return no_memory(e);
    s->links = grown;
    grown[s->link_count] = (struct kept_link){strdup(outside), strdup(inside)};
    s->link_count++;
    return grown[s->link_count - 1].outside && grown[s->link_count - 1].inside ? 0 : no_memory(e);
}

/* A further name whose first one is not restored: the first such is the file now. */
static int take_outside(struct selected *s, const char *outside, struct given_entry *out,
                        struct error *e)
{
    const struct archive_entry *x;

    out->link = link_inside(s, outside);
    if (out->link)
        return 0;
    int rc = keep_link(s, outside, out->path, e);
    if (rc == 0)
        rc = archive_reader_open(s->item->path, false, &s->other, e);
    if (rc == 0)
        rc = read_to(s->other, outside, &x, e);
    if (rc == 0)
        return error_set(e, ERR_DAMAGED, "the file that it is a further name of is not there");
    if (rc < 0)
        return rc;
    out->node = x->node;
    return 0;
}

static int next_selected(void *ctx, struct given_entry *out, struct error *e)
{
    struct selected *s = ctx;
    const struct archive_entry *x;
    const char *path = NULL;
    int rc = 1;

    archive_reader_close(s->other);
    s->other = NULL;
    while (rc == 1 && !path) {
        rc = archive_reader_next(s->reader, &x, e);
        if (rc == 1 && !x->metadata)
            path = within(x->path, s->path);
    }
    if (rc != 1)
        return rc;
    const char *link = x->link ? within(x->link, s->path) : NULL;
    *out = (struct given_entry){.path = s->single ? s->single_name : path, .node = x->node};
    if (link && *link)
        out->link = link;
    else if (x->link)
        rc = take_outside(s, x->link, out, e);
    return rc < 0 ? rc : 1;
}

static int selected_data(void *ctx, const uint8_t **p, size_t *len, struct error *e)
{
    struct selected *s = ctx;

    return archive_reader_data(s->other ? s->other : s->reader, p, len, e);
}

/* Whether the path is a folder: what is restored of it, and where it goes, follows from that. */
static int look(struct selected *s, struct error *e)
{
    const struct archive_entry *x;
    const char *slash = strrchr(s->path, '/');

    if (!*s->path)
        return 0;
    int rc = archive_reader_open(s->item->path, false, &s->reader, e);
    if (rc == 0)
        rc = read_to(s->reader, s->path, &x, e);
    if (rc == 0)
        rc = not_there(s->item, s->path, e);
    if (rc == 1) {
        s->single = x->link || x->node->type != NODE_FOLDER;
        s->single_name = strdup(slash ? slash + 1 : s->path);
        rc = s->single_name ? 0 : no_memory(e);
    }
    archive_reader_close(s->reader);
    s->reader = NULL;
    return rc;
}

int archive_restore(const struct archive_item *item, const struct restore_request *req,
                    struct restore_result *result, struct error *e)
{
    struct selected s = {.item = item, .path = req->path ? req->path : ""};
    struct restore_source source = {.ctx = &s, .next = next_selected, .data = selected_data};

    memset(result, 0, sizeof(*result));
    int rc = look(&s, e);
    source.single = s.single;
    if (rc == 0)
        rc = archive_reader_open(item->path, false, &s.reader, e);
    if (rc == 0)
        rc = restore_given_run(req, &source, result, e);
    archive_reader_close(s.reader);
    archive_reader_close(s.other);
    for (size_t i = 0; i < s.link_count; i++) {
        free(s.links[i].outside);
        free(s.links[i].inside);
    }
    free(s.links);
    free(s.single_name);
    return rc;
}

/* ---- cat ---- */

static int write_all(int fd, const uint8_t *p, size_t n, struct error *e)
{
    while (n > 0) {
        ssize_t put = write(fd, p, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return error_sys(e, errno, "cannot write the content");
        p += put;
        n -= (size_t)put;
    }
    return 0;
}

static int write_hole(int fd, uint64_t len, struct error *e)
{
    static const uint8_t zeros[65536];
    int rc = 0;

    while (rc == 0 && len > 0) {
        size_t now = len < sizeof(zeros) ? (size_t)len : sizeof(zeros);
        rc = write_all(fd, zeros, now, e);
        len -= now;
    }
    return rc;
}

static int cat_runs(struct archive_reader *r, const struct node *n, int fd, struct error *e)
{
    uint64_t pos = 0, in_extent = 0;
    uint32_t extent = 0;
    const uint8_t *p;
    size_t len = 1;
    int rc = 0;

    while (rc == 0 && len > 0) {
        rc = archive_reader_data(r, &p, &len, e);
        for (size_t at = 0, now; rc == 0 && at < len; at += now) {
            now = len - at;
            if (extent < n->extent_count) {
                const struct node_extent *x = &n->extents[extent];
                rc = write_hole(fd, x->off + in_extent - pos, e);
                pos = x->off + in_extent;
                now = now < x->len - in_extent ? now : (size_t)(x->len - in_extent);
                in_extent += now;
                if (in_extent == x->len) {
                    extent++;
                    in_extent = 0;
                }
            }
            if (rc == 0)
                rc = write_all(fd, p + at, now, e);
            pos += now;
        }
    }
    return rc == 0 ? write_hole(fd, n->size - pos, e) : rc;
}

int archive_cat(const struct archive_item *item, const char *path, int fd, struct error *e)
{
    const struct archive_entry *x;
    struct archive_reader *r;
    char quoted[300];

    int rc = archive_reader_open(item->path, false, &r, e);
    if (rc != 0)
        return rc;
    rc = read_to(r, path, &x, e);
    if (rc == 0)
        rc = not_there(item, path, e);
    if (rc == 1 && x->link) {
        char *first = strdup(x->link);
        rc = !first                     ? no_memory(e)
             : strcmp(first, path) == 0 ? error_set(e, ERR_DAMAGED, "it is a name of itself")
                                        : archive_cat(item, first, fd, e);
        free(first);
    } else if (rc == 1 && x->node->type != NODE_FILE) {
        error_set(e, ERR_USAGE, "'%s' is no regular file",
                  text_escape(path, quoted, sizeof(quoted)));
        rc = error_path(e, path);
    } else if (rc == 1) {
        rc = cat_runs(r, x->node, fd, e);
    }
    archive_reader_close(r);
    return rc;
}

/* ---- ls ---- */

struct listed {              /* an entry, kept until all are there and can be put in order */
    size_t path, link, meta; /* offsets in listing.bytes; link 0: none */
    uint32_t meta_len;
    uint64_t content;
    bool shown; /* it is within what is asked for */
};

struct listing {
    struct listed *list;
    size_t count, shown, cap;
    struct buffer bytes;
};

static size_t put_text(struct buffer *b, const char *text)
{
    size_t at = b->len;

    buffer_append(b, text, strlen(text) + 1);
    return at;
}

static int list_entry(struct listing *l, const struct archive_entry *x, bool shown, struct error *e)
{
    struct node n = *x->node;

    n.extent_count = 0;
    n.extents = NULL;
    if (l->count == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 256;
        struct listed *list = reallocarray(l->list, cap, sizeof(*list));
        if (!list)
            return no_memory(e);
        l->list = list;
        l->cap = cap;
    }
    struct listed *at = &l->list[l->count++];
    *at = (struct listed){
        .path = put_text(&l->bytes, x->path), .content = x->content, .shown = shown};
    l->shown += shown;
    if (x->link)
        at->link = put_text(&l->bytes, x->link);
    at->meta = l->bytes.len;
    node_encode(&n, &l->bytes);
    at->meta_len = (uint32_t)(l->bytes.len - at->meta);
    return buffer_ok(&l->bytes) ? 0
                                : error_set(e, ERR_DAMAGED, "an entry of the archive cannot be");
}

static int by_path(const void *a, const void *b, void *ctx)
{
    const char *text = ctx;

    return text_path_order(text + ((const struct listed *)a)->path,
                           text + ((const struct listed *)b)->path);
}

struct first_name { /* of the file that a listed name is a further one of */
    const char *path;
    const char *text; /* of the listing */
};

static int by_name(const void *key, const void *listed)
{
    const struct first_name *k = key;

    return text_path_order(k->path, k->text + ((const struct listed *)listed)->path);
}

/* A further name is told as what its first one is; that may lie outside what is listed. */
static const struct listed *what_it_is(const struct listing *l, const struct listed *at)
{
    const char *text = (const char *)l->bytes.data;
    const struct first_name key = {text + at->link, text};

    if (!at->link)
        return at;
    const struct listed *first = bsearch(&key, l->list, l->count, sizeof(*l->list), by_name);
    return first ? first : at;
}

static int show_listed(const struct listing *l, archive_entry_visit visit, void *ctx,
                       struct error *e)
{
    const char *text = (const char *)l->bytes.data;
    int rc = 0;

    if (l->count > 0)
        qsort_r(l->list, l->count, sizeof(*l->list), by_path, l->bytes.data);
    for (size_t i = 0; rc == 0 && i < l->count; i++) {
        const struct listed *at = &l->list[i];
        const struct listed *is = what_it_is(l, at);
        struct node n;
        if (!at->shown)
            continue;
        rc = node_decode(l->bytes.data + is->meta, is->meta_len, &n, e);
        if (rc != 0)
            break;
        struct archive_entry x = {.path = text + at->path,
                                  .link = at->link ? text + at->link : NULL,
                                  .node = &n,
                                  .content = at->content};
        rc = visit(ctx, &x, e);
        node_release(&n);
    }
    return rc;
}

int archive_each(const struct archive_item *item, const char *path, archive_entry_visit visit,
                 void *ctx, struct error *e)
{
    struct listing l = {.bytes = BUFFER_INIT};
    const struct archive_entry *x;
    struct archive_reader *r;

    int rc = archive_reader_open(item->path, false, &r, e);
    if (rc != 0)
        return rc;
    buffer_append(&l.bytes, "", 1); /* offset 0 is none */
    while ((rc = archive_reader_next(r, &x, e)) == 1) {
        bool shown = within(x->path, path) != NULL;
        if (!x->metadata && (shown || !x->link) && (rc = list_entry(&l, x, shown, e)) != 0)
            break;
    }
    archive_reader_close(r);
    if (rc == 0)
        rc = l.shown > 0 ? show_listed(&l, visit, ctx, e) : not_there(item, path, e);
    free(l.list);
    buffer_release(&l.bytes);
    return rc;
}
