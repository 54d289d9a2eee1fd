/* What stands behind the tree in a tar: the metadata, then the folders once more, for the programs
 * that came back to them with more files after they had set their times. */
#include "keep/archive_private.h"

#include "base/clock.h"
#include "io/fileops.h"
#include "keep/gzip.h"
#include "keep/tar_write.h"
#include "snapshot/task_pool.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum {
    STRONG = 7, /* at least; all of this is text, and little of it */
    SLICE = 1024 * 1024,
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

/* ---- folders, gathered while the tree is walked ---- */

static int pack_folders(struct archive_tail *t, struct error *e)
{
    int rc = 0;

    if (!t->packer)
        t->packer = gzip_packer_new(STRONG);
    if (!t->packer || !buffer_ok(&t->raw))
        return no_memory(e);
    rc = gzip_pack(t->packer, t->raw.data, t->raw.len, &t->packed, e);
    buffer_clear(&t->raw);
    return rc;
}

int archive_tail_folder(struct archive_tail *t, const char *top, const char *path,
                        const struct node *n, struct error *e)
{
    struct buffer whole = BUFFER_INIT;

    buffer_printf(&whole, "%s%s%s", top, *path ? "/" : "", path);
    struct tar_member m = {.path = buffer_cstr(&whole), .node = n};
    bool ok = buffer_ok(&whole);
    if (ok)
        tar_put_header(&m, &t->raw);
    buffer_release(&whole);
    if (!ok || !buffer_ok(&t->raw))
        return no_memory(e);
    return t->raw.len >= SLICE ? pack_folders(t, e) : 0;
}

void archive_tail_release(struct archive_tail *t)
{
    gzip_packer_free(t->packer);
    buffer_release(&t->raw);
    buffer_release(&t->packed);
    *t = (struct archive_tail){0};
}

/* ---- a text packed by several threads ---- */

struct slice {
    struct task task; /* first */
    const uint8_t *raw;
    size_t len;
    struct buffer packed;
    int rc;
    struct error error;
};

struct slices {
    struct task_pool pool;
    struct gzip_packer *packers[TASK_POOL_MAX];
    struct slice *list;
    size_t count, next; /* the one that is waited for */
};

static void run_slice(struct task *t, void *packer)
{
    struct slice *s = (struct slice *)t;

    s->rc = gzip_pack(packer, s->raw, s->len, &s->packed, &s->error);
}

static bool next_done(void *ctx)
{
    const struct slices *s = ctx;

    return s->list[s->next].task.done;
}

static int start_slices(struct slices *s, const struct archive_order *o, const struct buffer *text,
                        struct error *e)
{
    unsigned level = o->level > STRONG ? o->level : STRONG, workers = archive_workers(o);
    int rc = 0;

    s->count = (text->len + SLICE - 1) / SLICE;
    s->list = calloc(s->count + 1, sizeof(*s->list));
    if (!s->list)
        return no_memory(e);
    for (unsigned i = 0; rc == 0 && i < workers && i < s->count; i++) {
        s->packers[i] = gzip_packer_new(level);
        rc = s->packers[i] ? task_pool_start(&s->pool, s->packers[i], e) : no_memory(e);
    }
    for (size_t i = 0; rc == 0 && i < s->count; i++) {
        size_t at = i * SLICE;
        s->list[i].task.run = run_slice;
        s->list[i].raw = text->data + at;
        s->list[i].len = text->len - at < SLICE ? text->len - at : SLICE;
        task_pool_push(&s->pool, &s->list[i].task, false);
    }
    return rc;
}

static int take_slices(struct slices *s, struct buffer *out, struct error *e)
{
    int rc = 0;

    for (s->next = 0; rc == 0 && s->next < s->count; s->next++) {
        struct slice *one = &s->list[s->next];
        task_pool_wait(&s->pool, next_done, s, NULL);
        rc = one->rc;
        if (rc != 0)
            *e = one->error;
        buffer_append(out, one->packed.data, one->packed.len);
        buffer_release(&one->packed);
    }
    return rc;
}

static int pack_text(const struct archive_order *o, const struct buffer *text, struct buffer *out,
                     struct error *e)
{
    struct slices s = {0};

    task_pool_init(&s.pool);
    int rc = start_slices(&s, o, text, e);
    if (rc == 0)
        rc = take_slices(&s, out, e);
    task_pool_release(&s.pool);
    for (size_t i = 0; i < s.count && s.list; i++)
        buffer_release(&s.list[i].packed);
    for (size_t i = 0; i < TASK_POOL_MAX; i++)
        gzip_packer_free(s.packers[i]);
    free(s.list);
    return rc;
}

/* ---- the whole ---- */

static void put_header(const struct archive_meta *m, uint64_t len, struct buffer *raw)
{
    struct buffer path = BUFFER_INIT;
    struct node n = {.type = NODE_FILE,
                     .mode = 0600,
                     .uid = geteuid(),
                     .gid = getegid(),
                     .mtime_s = m->time.s,
                     .size = len,
                     .ref_count = 1}; /* it has content, wherever that is */

    buffer_printf(&path, "%s/%s", m->name, m->inside);
    struct tar_member member = {
        .path = buffer_cstr(&path), .node = &n, .comment = TAR_METADATA_COMMENT};
    if (buffer_ok(&path))
        tar_put_header(&member, raw);
    else
        raw->failed = true;
    buffer_release(&path);
}

static int pack_all(struct archive_meta *m, const struct buffer *text, struct buffer *packed,
                    struct error *e)
{
    struct archive_tail *t = &m->tail;
    struct gzip_packer *packer = gzip_packer_new(STRONG);
    struct buffer raw = BUFFER_INIT;
    int rc = packer ? 0 : no_memory(e);

    put_header(m, text->len, &raw);
    if (rc == 0 && !buffer_ok(&raw))
        rc = no_memory(e);
    if (rc == 0)
        rc = gzip_pack(packer, raw.data, raw.len, packed, e);
    if (rc == 0)
        rc = pack_text(m->order, text, packed, e);
    buffer_clear(&raw);
    tar_put_padding(text->len, &raw);
    if (rc == 0 && t->packed.len > 0) {
        rc = gzip_pack(packer, raw.data, raw.len, packed, e);
        buffer_append(packed, t->packed.data, t->packed.len);
        buffer_clear(&raw);
    }
    buffer_append(&raw, t->raw.data, t->raw.len);
    tar_put_end(&raw);
    if (rc == 0 && (!buffer_ok(&raw) || !buffer_ok(&t->raw) || !buffer_ok(&t->packed)))
        rc = no_memory(e);
    if (rc == 0)
        rc = gzip_pack(packer, raw.data, raw.len, packed, e);
    gzip_packer_free(packer);
    buffer_release(&raw);
    return rc == 0 && !buffer_ok(packed) ? no_memory(e) : rc;
}

int archive_tar_finish(struct archive_meta *m, const struct buffer *text, int fd, uint64_t *offset,
                       struct error *e)
{
    struct buffer packed = BUFFER_INIT;
    int rc = pack_all(m, text, &packed, e);

    if (rc == 0)
        rc = file_write_all(fd, packed.data, packed.len, *offset, e);
    *offset += packed.len;
    buffer_release(&packed);
    return rc;
}
