#include "store/node.h"

#include "base/bytes.h"
#include "store/chunk_list.h"
#include "store/field.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum {
    NODE_FIXED_LEN = 32,
    OFF_MTIME = 12, /* u32 nanoseconds, i64 seconds */
    OFF_SIZE = 24,
    CONTENT_HEADER_LEN = 4,
    EXTENT_LEN = 16,
    XATTR_VALUE_MAX = 65536, /* the kernel's XATTR_SIZE_MAX */
    TARGET_MAX = 65535,
    TEXT_MAX = 65536,
};
_Static_assert(sizeof(struct chunk_ref) == CHUNK_REF_LEN, "decoding needs as much as it reads");
_Static_assert(sizeof(struct node_extent) == EXTENT_LEN, "decoding needs as much as it reads");

/* In the order in which they are encoded. */
enum node_tag {
    TAG_CONTENT = 1,
    TAG_TARGET = 2,
    TAG_XATTRS = 3,
    TAG_EXTENTS = 4,
    TAG_DEVICE = 5,
    TAG_REASON = 6,
    TAG_RECEIPT = 7,
};

static int damaged(struct error *e)
{
    return error_set(e, ERR_DAMAGED, "a node does not parse");
}

bool node_name_ok(const char *name, size_t len)
{
    if (len < 1 || len > NAME_LEN_MAX || memchr(name, '/', len) || memchr(name, 0, len))
        return false;
    return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

/* ---- what holds for every node, encoded or decoded ---- */

static bool content_ok(const struct node *n)
{
    uint64_t sum = 0;

    if (n->ref_count == 0)
        return n->depth == 0;
    if (n->type != NODE_FILE || n->ref_count > NODE_INLINE_REFS || n->depth > CHUNK_LIST_DEPTH_MAX)
        return false;
    for (uint32_t i = 0; i < n->ref_count; i++) {
        if (n->refs[i].len == 0 || n->refs[i].len > INT64_MAX - sum)
            return false;
        sum += n->refs[i].len;
    }
    return true;
}

static bool target_ok(const struct node *n)
{
    if (!n->target)
        return n->target_len == 0;
    return n->type == NODE_SYMLINK && n->target_len >= 1 && n->target_len <= TARGET_MAX &&
           !memchr(n->target, 0, n->target_len);
}

static bool xattrs_ok(const struct node *n)
{
    if (n->xattr_count > NODE_XATTRS_MAX)
        return false;
    for (uint32_t i = 0; i < n->xattr_count; i++) {
        const struct node_xattr *x = &n->xattrs[i];
        size_t len = strlen(x->name);
        if (len < 1 || len > NAME_LEN_MAX || x->len > XATTR_VALUE_MAX)
            return false;
        if (i > 0 && strcmp(n->xattrs[i - 1].name, x->name) >= 0)
            return false;
    }
    return true;
}

static bool extents_ok(const struct node *n)
{
    uint64_t end = 0;

    if (n->extent_count == 0)
        return true;
    if (n->type != NODE_FILE || n->extent_count > NODE_EXTENTS_MAX)
        return false;
    for (uint32_t i = 0; i < n->extent_count; i++) {
        const struct node_extent *x = &n->extents[i];
        if (x->off < end || x->len == 0 || x->off > n->size || x->len > n->size - x->off)
            return false;
        end = x->off + x->len;
    }
    return true;
}

static bool node_ok(const struct node *n)
{
    bool device = n->type == NODE_CHAR_DEVICE || n->type == NODE_BLOCK_DEVICE;

    return n->type >= NODE_FILE && n->type <= NODE_BLOCK_DEVICE && n->mode <= 07777 &&
           n->mtime_ns <= 999999999 && (device || n->rdev == 0) && content_ok(n) && target_ok(n) &&
           xattrs_ok(n) && extents_ok(n);
}

/* ---- encode ---- */

/* Begin a field whose length is known only at its end. */
static size_t field_begin(struct buffer *out, uint16_t tag)
{
    put_u16(out, tag);
    put_u16(out, 0);
    put_u32(out, 0);
    return out->len;
}

static void field_end(struct buffer *out, size_t begin)
{
    if (buffer_ok(out))
        store_u32(out->data + begin - 4, (uint32_t)(out->len - begin));
}

static void encode_content(const struct node *n, struct buffer *out)
{
    if (n->ref_count == 0)
        return;
    size_t begin = field_begin(out, TAG_CONTENT);
    put_u32(out, n->depth);
    for (uint32_t i = 0; i < n->ref_count; i++) {
        buffer_append(out, n->refs[i].id.b, HASH_LEN);
        put_u64(out, n->refs[i].len);
    }
    field_end(out, begin);
}

static void encode_xattrs(const struct node *n, struct buffer *out)
{
    if (n->xattr_count == 0)
        return;
    size_t begin = field_begin(out, TAG_XATTRS);
    for (uint32_t i = 0; i < n->xattr_count; i++) {
        const struct node_xattr *x = &n->xattrs[i];
        size_t name_len = strlen(x->name);
        put_u8(out, (uint8_t)name_len);
        buffer_append(out, x->name, name_len);
        put_u32(out, x->len);
        buffer_append(out, x->value, x->len);
    }
    field_end(out, begin);
}

static void encode_extents(const struct node *n, struct buffer *out)
{
    if (n->extent_count == 0)
        return;
    size_t begin = field_begin(out, TAG_EXTENTS);
    for (uint32_t i = 0; i < n->extent_count; i++) {
        put_u64(out, n->extents[i].off);
        put_u64(out, n->extents[i].len);
    }
    field_end(out, begin);
}

static void encode_device(const struct node *n, struct buffer *out)
{
    uint8_t le[8];

    store_u64(le, n->rdev);
    if (n->rdev != 0)
        field_put(out, TAG_DEVICE, le, sizeof(le), sizeof(le));
}

void node_encode(const struct node *n, struct buffer *out)
{
    size_t begin = out->len;

    if (!node_ok(n)) {
        out->failed = true;
        return;
    }
    put_u8(out, n->type);
    put_u8(out, n->flags);
    put_u16(out, n->mode);
    put_u32(out, n->uid);
    put_u32(out, n->gid);
    put_u32(out, n->mtime_ns);
    put_i64(out, n->mtime_s);
    put_u64(out, n->size);
    encode_content(n, out);
    if (n->target)
        field_put(out, TAG_TARGET, n->target, n->target_len, TARGET_MAX);
    encode_xattrs(n, out);
    encode_extents(n, out);
    encode_device(n, out);
    field_put_text(out, TAG_REASON, n->reason, TEXT_MAX);
    field_put_text(out, TAG_RECEIPT, n->receipt, TEXT_MAX);
    if (out->len - begin > NODE_ENCODED_MAX)
        out->failed = true;
}

/* ---- decode ---- */

static int take_fixed(struct reader *r, struct node *n, struct error *e)
{
    n->type = take_u8(r);
    n->flags = take_u8(r);
    n->mode = take_u16(r);
    n->uid = take_u32(r);
    n->gid = take_u32(r);
    n->mtime_ns = take_u32(r);
    n->mtime_s = take_i64(r);
    n->size = take_u64(r);
    if (r->bad || n->mode > 07777 || n->mtime_ns > 999999999)
        return damaged(e);
    if (n->type < NODE_FILE || n->type > NODE_BLOCK_DEVICE)
        return error_set(e, ERR_NOREPO,
                         "node of type %u is unknown to this watchkeep (" WK_VERSION ")", n->type);
    return 0;
}

static int take_content(struct node *n, const struct field *f, struct arena *a, struct error *e)
{
    uint32_t len = f->len - CONTENT_HEADER_LEN;

    if (f->len <= CONTENT_HEADER_LEN || len % CHUNK_REF_LEN != 0 ||
        load_u32(f->p) > CHUNK_LIST_DEPTH_MAX)
        return damaged(e);
    const uint8_t *p = f->p + CONTENT_HEADER_LEN;
    n->depth = (uint8_t)load_u32(f->p);
    n->ref_count = len / CHUNK_REF_LEN;
    n->refs = arena_take(a, n->ref_count * sizeof(*n->refs));
    for (uint32_t i = 0; i < n->ref_count; i++, p += CHUNK_REF_LEN) {
        memcpy(n->refs[i].id.b, p, HASH_LEN);
        n->refs[i].len = load_u64(p + HASH_LEN);
    }
    return 0;
}

/* Entries of an xattr field; 0 when it does not parse (a field is never empty). */
static uint32_t count_xattrs(const struct field *f)
{
    struct reader r = reader_of(f->p, f->len);
    uint32_t count = 0;

    while (r.left > 0 && !r.bad && count <= NODE_XATTRS_MAX) {
        take_bytes(&r, take_u8(&r));
        take_bytes(&r, take_u32(&r));
        count++;
    }
    return reader_done(&r) ? count : 0;
}

static int take_xattrs(struct node *n, const struct field *f, struct arena *a, struct error *e)
{
    struct reader r = reader_of(f->p, f->len);
    uint32_t count = count_xattrs(f);

    if (count == 0)
        return damaged(e);
    n->xattrs = arena_take(a, count * sizeof(*n->xattrs));
    for (uint32_t i = 0; i < count; i++) {
        struct node_xattr *x = &n->xattrs[i];
        uint8_t name_len = take_u8(&r);
        const uint8_t *name = take_bytes(&r, name_len);
        x->name = arena_text(a, name, name_len, NAME_LEN_MAX, e);
        if (!x->name)
            return e->code;
        x->len = take_u32(&r);
        const uint8_t *value = take_bytes(&r, x->len);
        uint8_t *copy = arena_take(a, x->len);
        memcpy(copy, value, x->len);
        x->value = copy;
    }
    n->xattr_count = count;
    return 0;
}

static int take_extents(struct node *n, const struct field *f, struct arena *a, struct error *e)
{
    if (f->len == 0 || f->len % EXTENT_LEN != 0)
        return damaged(e);
    n->extent_count = f->len / EXTENT_LEN;
    n->extents = arena_take(a, n->extent_count * sizeof(*n->extents));
    for (uint32_t i = 0; i < n->extent_count; i++) {
        n->extents[i].off = load_u64(f->p + (size_t)i * EXTENT_LEN);
        n->extents[i].len = load_u64(f->p + (size_t)i * EXTENT_LEN + 8);
    }
    return 0;
}

static int take_text(const char **text, const struct field *f, struct arena *a, struct error *e)
{
    *text = arena_text(a, f->p, f->len, TEXT_MAX, e);
    return *text ? 0 : e->code;
}

static int take_field(struct node *n, const struct field *f, struct arena *a, struct error *e)
{
    switch (f->tag) {
    case TAG_CONTENT:
        return take_content(n, f, a, e);
    case TAG_TARGET:
        n->target_len = f->len;
        return take_text(&n->target, f, a, e);
    case TAG_XATTRS:
        return take_xattrs(n, f, a, e);
    case TAG_EXTENTS:
        return take_extents(n, f, a, e);
    case TAG_DEVICE:
        if (f->len != 8)
            return damaged(e);
        n->rdev = load_u64(f->p);
        return 0;
    case TAG_REASON:
        return take_text(&n->reason, f, a, e);
    case TAG_RECEIPT:
        return take_text(&n->receipt, f, a, e);
    default:
        return field_unknown(f, e);
    }
}

/* What the decoded form may need: as much as the encoded one, where a field's header pays for the
 * NUL and the alignment of its copy, and for each xattr its entry and two alignments. */
static size_t arena_need(struct reader r)
{
    struct field_reader fields = field_reader_of(r);
    struct error ignored = ERROR_INIT;
    struct field f;
    size_t need = r.left;

    while (field_next(&fields, &f, &ignored) == 1)
        if (f.tag == TAG_XATTRS)
            need += count_xattrs(&f) * (sizeof(struct node_xattr) + 16);
    return need;
}

int node_decode(const void *p, size_t len, struct node *n, struct error *e)
{
    struct reader r = reader_of(p, len);
    struct arena a;
    struct field f;

    memset(n, 0, sizeof(*n));
    if (len > NODE_ENCODED_MAX)
        return damaged(e);
    int rc = take_fixed(&r, n, e);
    if (rc == 0)
        rc = arena_init(&a, arena_need(r), e);
    if (rc < 0)
        return rc;
    n->owned = a.p;
    struct field_reader fields = field_reader_of(r);
    while ((rc = field_next(&fields, &f, e)) == 1) {
        rc = take_field(n, &f, &a, e);
        if (rc < 0)
            break;
    }
    if (rc == 0 && !node_ok(n))
        rc = damaged(e);
    if (rc < 0)
        node_release(n);
    return rc;
}

void node_release(struct node *n)
{
    free(n->owned);
    memset(n, 0, sizeof(*n));
}

int node_brief_decode(const void *p, size_t len, struct node_brief *b, struct error *e)
{
    struct reader r = reader_of(p, len);
    struct node n;

    memset(&n, 0, sizeof(n));
    int rc = take_fixed(&r, &n, e);
    if (rc < 0)
        return rc;
    *b = (struct node_brief){.type = n.type, .flags = n.flags, .mode = n.mode, .size = n.size};
    return 0;
}

/* The next field but the receipt; 0 at the end or where the rest does not parse. */
static int next_lasting(struct field_reader *r, struct field *f)
{
    struct error ignored = ERROR_INIT;

    while (field_next(r, f, &ignored) == 1)
        if (f->tag != TAG_RECEIPT)
            return 1;
    return 0;
}

bool node_equal_but_times(const void *a, size_t alen, const void *b, size_t blen)
{
    const uint8_t *pa = a;
    const uint8_t *pb = b;

    if (alen < NODE_FIXED_LEN || blen < NODE_FIXED_LEN || memcmp(pa, pb, OFF_MTIME) != 0 ||
        memcmp(pa + OFF_SIZE, pb + OFF_SIZE, NODE_FIXED_LEN - OFF_SIZE) != 0)
        return false;
    struct field_reader ra = field_reader_of(reader_of(pa + NODE_FIXED_LEN, alen - NODE_FIXED_LEN));
    struct field_reader rb = field_reader_of(reader_of(pb + NODE_FIXED_LEN, blen - NODE_FIXED_LEN));
    for (;;) {
        struct field fa, fb;
        int more = next_lasting(&ra, &fa);
        if (more != next_lasting(&rb, &fb))
            return false;
        if (!more)
            return reader_done(&ra.in) && reader_done(&rb.in);
        if (fa.tag != fb.tag || fa.len != fb.len || memcmp(fa.p, fb.p, fa.len) != 0)
            return false;
    }
}
