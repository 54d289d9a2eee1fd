/* Checkpoints: their parts, and the rows in them. */
#include "store/commit.h"

#include "base/bytes.h"
#include "store/commit_private.h"
#include "store/node.h"

#include <string.h>

#include "base/banned.h"

enum {
    ROW_BYTES_MAX = 6 * 1024 * 1024, /* a commit or mark inside a row */
    ROW_TEXT_MAX = 256 * 1024,
};

enum row_bit { ROW_DAMAGED = 1 << 0, ROW_PINNED = 1 << 1, ROW_WHOLE = 1 << 2 };

int checkpoint_encode(const struct checkpoint_part *c, const void *rows, size_t len, int codec,
                      struct buffer *out)
{
    put_u64(out, c->id);
    put_u32(out, c->part);
    put_u32(out, c->parts);
    put_u64(out, c->covers);
    put_u64(out, c->next_number);
    put_u64(out, c->next_pack);
    buffer_append(out, c->chain.b, HASH_LEN);
    return body_put_packed(rows, len, CHECKPOINT_RAW_MAX, codec, out);
}

static int take_part(struct reader *r, struct checkpoint_part *c, struct error *e)
{
    memset(c, 0, sizeof(*c));
    c->id = take_u64(r);
    c->part = take_u32(r);
    c->parts = take_u32(r);
    c->covers = take_u64(r);
    c->next_number = take_u64(r);
    c->next_pack = take_u64(r);
    body_take_copy(r, c->chain.b, HASH_LEN);
    /* Only the last part tells how many there are. */
    if (r->bad || c->part == UINT32_MAX || (c->parts != 0 && c->parts != c->part + 1))
        return body_damaged("a checkpoint", e);
    return 0;
}

int checkpoint_part_decode(const void *p, size_t n, struct checkpoint_part *c, struct error *e)
{
    struct reader r = reader_of(p, n);

    return take_part(&r, c, e);
}

int checkpoint_decode(const void *p, size_t n, struct checkpoint_part *c, struct buffer *rows,
                      struct error *e)
{
    struct reader r = reader_of(p, n);

    int rc = take_part(&r, c, e);
    return rc < 0 ? rc : body_take_packed(&r, CHECKPOINT_RAW_MAX, "a checkpoint", rows, e);
}

/* ---- rows ---- */

static void put_text(struct buffer *out, const struct row_text *t)
{
    body_put_bytes(out, t->p, t->len, ROW_TEXT_MAX);
}

static void take_text(struct reader *r, struct row_text *t)
{
    const uint8_t *p;

    body_take_sized(r, &p, &t->len, ROW_TEXT_MAX);
    t->p = (const char *)p;
    if (p && memchr(p, 0, t->len))
        r->bad = true;
}

static void put_snapshot(const struct row *r, struct buffer *out)
{
    body_put_bytes(out, r->bytes, r->len, ROW_BYTES_MAX);
    put_u8(out, (uint8_t)((r->damaged ? ROW_DAMAGED : 0) | (r->pinned ? ROW_PINNED : 0) |
                          (r->whole ? ROW_WHOLE : 0)));
    put_i64(out, r->time.s);
    put_u32(out, r->time.ns);
    put_text(out, &r->texts[0]);
    put_text(out, &r->texts[1]);
}

static void take_snapshot(struct reader *r, struct row *row)
{
    body_take_sized(r, &row->bytes, &row->len, ROW_BYTES_MAX);
    uint8_t bits = take_u8(r);
    row->damaged = bits & ROW_DAMAGED;
    row->pinned = bits & ROW_PINNED;
    row->whole = bits & ROW_WHOLE;
    row->time.s = take_i64(r);
    row->time.ns = take_u32(r);
    take_text(r, &row->texts[0]);
    take_text(r, &row->texts[1]);
}

static void put_watch(const struct row *r, struct buffer *out)
{
    buffer_append(out, r->watch_id, WATCH_ID_LEN);
    put_u64(out, r->serial);
    put_u8(out, r->frozen);
    put_u64(out, r->last);
    put_u64(out, r->node);
    put_u64(out, r->files);
    put_u64(out, r->total_bytes);
    put_u64(out, r->incomplete);
    buffer_append(out, r->sum.b, sizeof(r->sum.b));
    for (int i = 0; i < ROW_TEXTS; i++)
        put_text(out, &r->texts[i]);
}

static void take_watch(struct reader *r, struct row *row)
{
    body_take_copy(r, row->watch_id, WATCH_ID_LEN);
    row->serial = take_u64(r);
    row->frozen = take_u8(r);
    row->last = take_u64(r);
    row->node = take_u64(r);
    row->files = take_u64(r);
    row->total_bytes = take_u64(r);
    row->incomplete = take_u64(r);
    body_take_copy(r, row->sum.b, sizeof(row->sum.b));
    for (int i = 0; i < ROW_TEXTS; i++)
        take_text(r, &row->texts[i]);
}

static void put_pack(const struct row *r, struct buffer *out)
{
    put_u64(out, r->pack_id);
    put_u8(out, r->pack_kind);
    put_u64(out, r->pack_len);
    put_u64(out, r->pack_fence);
    put_i64(out, r->pack_gone);
    buffer_append(out, r->sha256.b, HASH_LEN);
}

static void take_pack(struct reader *r, struct row *row)
{
    row->pack_id = take_u64(r);
    row->pack_kind = take_u8(r);
    row->pack_len = take_u64(r);
    row->pack_fence = take_u64(r);
    row->pack_gone = take_i64(r);
    body_take_copy(r, row->sha256.b, HASH_LEN);
}

void row_encode(const struct row *r, struct buffer *out)
{
    put_u8(out, r->type);
    switch (r->type) {
    case ROW_SNAPSHOT:
        put_snapshot(r, out);
        break;
    case ROW_NAME:
        buffer_append(out, r->watch_id, WATCH_ID_LEN);
        put_u64(out, r->parent);
        body_put_name(out, r->name, r->name_len);
        put_u64(out, r->from);
        put_u64(out, r->to);
        put_u64(out, r->node);
        break;
    case ROW_NODE:
        buffer_append(out, r->watch_id, WATCH_ID_LEN);
        put_u64(out, r->node);
        put_u64(out, r->from);
        put_u64(out, r->to);
        body_put_bytes(out, r->bytes, r->len, NODE_ENCODED_MAX);
        break;
    case ROW_MARK:
        put_u64(out, r->sequence);
        body_put_bytes(out, r->bytes, r->len, ROW_BYTES_MAX);
        break;
    case ROW_PACK:
        put_pack(r, out);
        break;
    case ROW_WATCH:
        put_watch(r, out);
        break;
    default:
        out->failed = true;
    }
}

int row_decode(struct reader *r, struct row *row, struct error *e)
{
    if (reader_done(r))
        return 0;
    memset(row, 0, sizeof(*row));
    row->type = take_u8(r);
    switch (row->type) {
    case ROW_SNAPSHOT:
        take_snapshot(r, row);
        break;
    case ROW_NAME:
        body_take_copy(r, row->watch_id, WATCH_ID_LEN);
        row->parent = take_u64(r);
        body_take_name(r, &row->name, &row->name_len);
        row->from = take_u64(r);
        row->to = take_u64(r);
        row->node = take_u64(r);
        break;
    case ROW_NODE:
        body_take_copy(r, row->watch_id, WATCH_ID_LEN);
        row->node = take_u64(r);
        row->from = take_u64(r);
        row->to = take_u64(r);
        body_take_sized(r, &row->bytes, &row->len, NODE_ENCODED_MAX);
        break;
    case ROW_MARK:
        row->sequence = take_u64(r);
        body_take_sized(r, &row->bytes, &row->len, ROW_BYTES_MAX);
        break;
    case ROW_PACK:
        take_pack(r, row);
        break;
    case ROW_WATCH:
        take_watch(r, row);
        break;
    default:
        if (!r->bad)
            return error_set(e, ERR_NOREPO,
                             "row %u in a checkpoint is unknown to this watchkeep (" WK_VERSION ")",
                             row->type);
    }
    /* A watch that used them all up has one more than the highest as its next. */
    bool high = row->node > NODE_NUMBER_MAX + (row->type == ROW_WATCH);
    return r->bad || high ? body_damaged("a checkpoint", e) : 1;
}
