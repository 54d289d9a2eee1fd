#include "store/node.h"

#include "base/bytes.h"
#include "store/chunk_list.h"
#include "store/field.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/banned.h"

enum {
    REF_LEAST = HASH_LEN + 1,
    EXTENT_LEN = 16,
    XATTR_VALUE_MAX = 65536, /* the kernel's XATTR_SIZE_MAX */
    TARGET_MAX = 65535,
    TEXT_MAX = 65536,
};
_Static_assert(sizeof(struct node_extent) == EXTENT_LEN, "decoding needs as much as it reads");

/* In the order in which they are encoded. A tag with the top bit set must be known. */
enum node_tag {
    TAG_MUST_KNOW = 0x80,
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

uint8_t node_type_of(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return NODE_FILE;
    case S_IFDIR:
        return NODE_FOLDER;
    case S_IFLNK:
        return NODE_SYMLINK;
    case S_IFIFO:
        return NODE_FIFO;
    case S_IFSOCK:
        return NODE_SOCKET;
    case S_IFCHR:
        return NODE_CHAR_DEVICE;
    default:
        return NODE_BLOCK_DEVICE;
    }
}

mode_t node_format_of(uint8_t type)
{
    static const mode_t formats[] = {
        [NODE_FILE] = S_IFREG,         [NODE_FOLDER] = S_IFDIR,  [NODE_SYMLINK] = S_IFLNK,
        [NODE_FIFO] = S_IFIFO,         [NODE_SOCKET] = S_IFSOCK, [NODE_CHAR_DEVICE] = S_IFCHR,
        [NODE_BLOCK_DEVICE] = S_IFBLK,
    };

    return type < sizeof(formats) / sizeof(formats[0]) ? formats[type] : 0;
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

static void put_field(struct buffer *out, uint8_t tag, const void *p, size_t len, size_t max)
{
    if (len > max) {
        out->failed = true;
        return;
    }
    put_u8(out, tag);
    put_varint(out, len);
    buffer_append(out, p, len);
}

static void put_text(struct buffer *out, uint8_t tag, const char *s)
{
    if (s)
        put_field(out, tag, s, strlen(s), TEXT_MAX);
}

static void encode_content(const struct node *n, struct buffer *out)
{
    uint8_t bytes[VARINT_MAX];
    size_t len = 1;

    if (n->ref_count == 0)
        return;
    for (uint32_t i = 0; i < n->ref_count; i++)
        len += HASH_LEN + store_varint(bytes, n->refs[i].len);
    put_u8(out, TAG_CONTENT);
    put_varint(out, len);
    put_u8(out, n->depth);
    for (uint32_t i = 0; i < n->ref_count; i++) {
        buffer_append(out, n->refs[i].id.b, HASH_LEN);
        put_varint(out, n->refs[i].len);
    }
}

static void encode_xattrs(const struct node *n, struct buffer *out)
{
    size_t len = 0;

    if (n->xattr_count == 0)
        return;
    for (uint32_t i = 0; i < n->xattr_count; i++)
        len += 1 + strlen(n->xattrs[i].name) + 4 + n->xattrs[i].len;
    put_u8(out, TAG_XATTRS);
    put_varint(out, len);
    for (uint32_t i = 0; i < n->xattr_count; i++) {
        const struct node_xattr *x = &n->xattrs[i];
        size_t name_len = strlen(x->name);
        put_u8(out, (uint8_t)name_len);
        buffer_append(out, x->name, name_len);
        put_u32(out, x->len);
        buffer_append(out, x->value, x->len);
    }
}

static void encode_extents(const struct node *n, struct buffer *out)
{
    if (n->extent_count == 0)
        return;
    put_u8(out, TAG_EXTENTS);
    put_varint(out, (uint64_t)n->extent_count * EXTENT_LEN);
    for (uint32_t i = 0; i < n->extent_count; i++) {
        put_u64(out, n->extents[i].off);
        put_u64(out, n->extents[i].len);
    }
}

static void encode_device(const struct node *n, struct buffer *out)
{
    uint8_t le[8];

    store_u64(le, n->rdev);
    if (n->rdev != 0)
        put_field(out, TAG_DEVICE, le, sizeof(le), sizeof(le));
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
    put_varint(out, n->mode);
    put_varint(out, n->uid);
    put_varint(out, n->gid);
    put_varint(out, zigzag(n->mtime_s));
    put_u32(out, n->mtime_ns);
    put_varint(out, n->size);
    encode_content(n, out);
    if (n->target)
        put_field(out, TAG_TARGET, n->target, n->target_len, TARGET_MAX);
    encode_xattrs(n, out);
    encode_extents(n, out);
    encode_device(n, out);
    put_text(out, TAG_REASON, n->reason);
    put_text(out, TAG_RECEIPT, n->receipt);
    if (out->len - begin > NODE_ENCODED_MAX)
        out->failed = true;
}

/* ---- decode ---- */

static int take_head(struct reader *r, struct node *n, struct error *e)
{
    n->type = take_u8(r);
    n->flags = take_u8(r);
    uint64_t mode = take_varint(r);
    uint64_t uid = take_varint(r);
    uint64_t gid = take_varint(r);
    n->mtime_s = unzigzag(take_varint(r));
    n->mtime_ns = take_u32(r);
    n->size = take_varint(r);
    if (r->bad || mode > 07777 || uid > UINT32_MAX || gid > UINT32_MAX || n->mtime_ns > 999999999)
        return damaged(e);
    if (n->type < NODE_FILE || n->type > NODE_BLOCK_DEVICE)
        return error_set(e, ERR_NOREPO,
                         "node of type %u is unknown to this watchkeep (" WK_VERSION ")", n->type);
    n->mode = (uint16_t)mode;
    n->uid = (uint32_t)uid;
    n->gid = (uint32_t)gid;
    return 0;
}

struct node_field {
    uint8_t tag;
    uint32_t len;
    const uint8_t *p;
};

/* The next field, with a tag above `last`: 1, 0 at the end, or ERR_DAMAGED. */
static int next_field(struct reader *r, uint8_t *last, struct node_field *f)
{
    if (reader_done(r))
        return 0;
    f->tag = take_u8(r);
    uint64_t len = take_varint(r);
    f->p = take_bytes(r, len > NODE_ENCODED_MAX ? SIZE_MAX : (size_t)len);
    if (r->bad || f->tag <= *last)
        return ERR_DAMAGED;
    f->len = (uint32_t)len;
    *last = f->tag;
    return 1;
}

static int take_content(struct node *n, const struct node_field *f, struct arena *a,
                        struct error *e)
{
    struct reader r = reader_of(f->p, f->len);

    n->depth = take_u8(&r);
    n->refs = arena_take(a, f->len / REF_LEAST * sizeof(*n->refs));
    while (!r.bad && r.left >= REF_LEAST && n->ref_count < NODE_INLINE_REFS) {
        struct chunk_ref *ref = &n->refs[n->ref_count++];
        memcpy(ref->id.b, take_bytes(&r, HASH_LEN), HASH_LEN);
        ref->len = take_varint(&r);
    }
    return reader_done(&r) && n->ref_count > 0 ? 0 : damaged(e);
}

/* Entries of an xattr field; 0 when it does not parse (a field is never empty). */
static uint32_t count_xattrs(const struct node_field *f)
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

static int take_xattrs(struct node *n, const struct node_field *f, struct arena *a, struct error *e)
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

static int take_extents(struct node *n, const struct node_field *f, struct arena *a,
                        struct error *e)
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

static int take_text(const char **text, const struct node_field *f, struct arena *a,
                     struct error *e)
{
    *text = arena_text(a, f->p, f->len, TEXT_MAX, e);
    return *text ? 0 : e->code;
}

static int take_field(struct node *n, const struct node_field *f, struct arena *a, struct error *e)
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
        if (f->tag & TAG_MUST_KNOW)
            return error_set(e, ERR_NOREPO,
                             "field %#x of a node is unknown to this watchkeep (" WK_VERSION
                             ") and may not be skipped",
                             f->tag);
        return 0;
    }
}

/* What the decoded form may need at most: for each field a copy of it, its alignment and a NUL; of
 * references and xattrs the decoded entries, which are longer than the encoded ones. */
static size_t arena_need(struct reader r)
{
    struct node_field f;
    uint8_t last = 0;
    size_t need = 0;

    while (next_field(&r, &last, &f) == 1) {
        need += f.len + 8;
        if (f.tag == TAG_CONTENT)
            need += f.len / REF_LEAST * sizeof(struct chunk_ref);
        else if (f.tag == TAG_XATTRS)
            need += count_xattrs(&f) * (sizeof(struct node_xattr) + 16);
    }
    return need;
}

static int take_fields(struct reader r, struct node *n, struct error *e)
{
    struct node_field f;
    struct arena a;
    uint8_t last = 0;

    if (reader_done(&r))
        return 0;
    int rc = arena_init(&a, arena_need(r), e);
    if (rc < 0)
        return rc;
    n->owned = a.p;
    while ((rc = next_field(&r, &last, &f)) == 1) {
        rc = take_field(n, &f, &a, e);
        if (rc < 0)
            return rc;
    }
    return rc < 0 ? damaged(e) : 0;
}

int node_decode(const void *p, size_t len, struct node *n, struct error *e)
{
    struct reader r = reader_of(p, len);

    memset(n, 0, sizeof(*n));
    if (len > NODE_ENCODED_MAX)
        return damaged(e);
    int rc = take_head(&r, n, e);
    if (rc == 0)
        rc = take_fields(r, n, e);
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
    int rc = take_head(&r, &n, e);
    if (rc < 0)
        return rc;
    *b = (struct node_brief){.type = n.type,
                             .flags = n.flags,
                             .mode = n.mode,
                             .uid = n.uid,
                             .gid = n.gid,
                             .mtime_s = n.mtime_s,
                             .mtime_ns = n.mtime_ns,
                             .size = n.size};
    return 0;
}

/* The next field but the receipt; 0 at the end or where the rest does not parse. */
static int next_lasting(struct reader *r, uint8_t *last, struct node_field *f)
{
    while (next_field(r, last, f) == 1)
        if (f->tag != TAG_RECEIPT)
            return 1;
    return 0;
}

static bool heads_equal_but_times(struct reader *ra, struct reader *rb)
{
    struct error ignored = ERROR_INIT;
    struct node a = {0}, b = {0};

    return take_head(ra, &a, &ignored) == 0 && take_head(rb, &b, &ignored) == 0 &&
           a.type == b.type && a.flags == b.flags && a.mode == b.mode && a.uid == b.uid &&
           a.gid == b.gid && a.size == b.size;
}

bool node_equal_but_times(const void *a, size_t alen, const void *b, size_t blen)
{
    struct reader ra = reader_of(a, alen), rb = reader_of(b, blen);
    uint8_t last_a = 0, last_b = 0;

    if (!heads_equal_but_times(&ra, &rb))
        return false;
    for (;;) {
        struct node_field fa, fb;
        int more = next_lasting(&ra, &last_a, &fa);
        if (more != next_lasting(&rb, &last_b, &fb))
            return false;
        if (!more)
            return reader_done(&ra) && reader_done(&rb);
        if (fa.tag != fb.tag || fa.len != fb.len || memcmp(fa.p, fb.p, fa.len) != 0)
            return false;
    }
}
