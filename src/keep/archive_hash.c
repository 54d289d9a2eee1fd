#include "keep/archive_private.h"

#include <string.h>

#include "base/banned.h"

static const uint8_t zeros[65536];

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

static int wrong_length(struct error *e)
{
    return error_set(e, ERR_DAMAGED, "its content is not as long as it says");
}

int archive_hash_begin(struct archive_hasher *h, const struct node *n, struct error *e)
{
    *h = (struct archive_hasher){.stream = hash_stream_new(), .node = n};
    return h->stream ? 0 : no_memory(e);
}

static void add_hole(struct archive_hasher *h, uint64_t until)
{
    while (h->pos < until) {
        uint64_t left = until - h->pos;
        size_t now = left < sizeof(zeros) ? (size_t)left : sizeof(zeros);
        hash_stream_update(h->stream, zeros, now);
        h->pos += now;
    }
}

int archive_hash_add(struct archive_hasher *h, const uint8_t *p, uint64_t len, struct error *e)
{
    const struct node *n = h->node;

    if (n->extent_count == 0) {
        if (h->pos > n->size || len > n->size - h->pos)
            return wrong_length(e);
        hash_stream_update(h->stream, p, (size_t)len);
        h->pos += len;
        return 0;
    }
    while (len > 0) {
        if (h->extent == n->extent_count)
            return wrong_length(e);
        const struct node_extent *x = &n->extents[h->extent];
        uint64_t left = x->len - h->in_extent;
        uint64_t now = len < left ? len : left;
        add_hole(h, x->off + h->in_extent);
        hash_stream_update(h->stream, p, (size_t)now);
        h->pos += now;
        p += now;
        len -= now;
        h->in_extent += now;
        if (h->in_extent == x->len) {
            h->extent++;
            h->in_extent = 0;
        }
    }
    return 0;
}

int archive_hash_end(struct archive_hasher *h, struct hash *out, struct error *e)
{
    bool short_ = h->node->extent_count == 0 && h->pos > 0 && h->pos != h->node->size;

    if (short_ || h->extent != h->node->extent_count)
        return wrong_length(e);
    add_hole(h, h->node->size);
    hash_stream_final(h->stream, out);
    return 0;
}

void archive_hash_release(struct archive_hasher *h)
{
    hash_stream_free(h->stream);
    h->stream = NULL;
}
