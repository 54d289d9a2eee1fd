#include "store/commit.h"

#include "base/bytes.h"
#include "store/codec.h"
#include "store/commit_private.h"
#include "store/field.h"
#include "store/node.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum {
    TEXT_MAX = 256 * 1024,    /* of any text in a commit or mark */
    NEEDS_MAX = 65536,        /* packs a commit may need */
    NUMBERS_MAX = 256 * 1024, /* snapshots or packs in one mark, prune or compaction */
    NEED_LEN = 16,
    PACKED_HEADER_LEN = 8,
    MARK_TYPE_SKIP = 128,        /* unknown types from here on may be skipped */
    COMMIT_FLAGS_MUST_KNOW = 16, /* flag bits from here on must be known */
};

enum commit_tag {
    COMMIT_WATCH_NAME = 1,
    COMMIT_ROOT = 2,
    COMMIT_RULES_TEXT = 3,
    COMMIT_NAME = 4,
    COMMIT_NOTE = 5,
    COMMIT_GAP = 6,
    COMMIT_VERSION = 7,
    COMMIT_NEEDS = 8,
    COMMIT_FILES_EXCLUDED = 9,
    COMMIT_TRUSTED_FILES = 10,
    COMMIT_SPOILT = 11,
    COMMIT_DECLASSED = 12,
    COMMIT_LIST = FIELD_MUST_KNOW | 1,
};
enum mark_tag { MARK_TEXT = 1 };
enum compaction_tag { COMPACTION_NEEDS = 1 };

static const uint8_t zero_id[WATCH_ID_LEN];

int body_damaged(const char *what, struct error *e)
{
    return error_set(e, ERR_DAMAGED, "%s does not parse", what);
}

void body_take_copy(struct reader *r, void *to, size_t n)
{
    const uint8_t *p = take_bytes(r, n);

    if (p)
        memcpy(to, p, n);
}

static void put_time(struct buffer *out, const struct wall_time *t)
{
    if (t->ns > 999999999)
        out->failed = true;
    put_i64(out, t->s);
    put_u32(out, t->ns);
}

static void take_time(struct reader *r, struct wall_time *t)
{
    t->s = take_i64(r);
    t->ns = take_u32(r);
    if (t->ns > 999999999)
        r->bad = true;
}

/* The end of a body that has no optional fields of its own yet. */
static int take_end(struct reader *r, const char *what, struct error *e)
{
    if (r->bad)
        return body_damaged(what, e);
    struct field_reader fields = field_reader_of(*r);
    struct field f;
    int rc;

    while ((rc = field_next(&fields, &f, e)) == 1) {
        rc = field_unknown(&f, e);
        if (rc < 0)
            break;
    }
    return rc;
}

const char *snapshot_kind_word(int kind)
{
    switch (kind) {
    case SNAPSHOT_CHANGE:
        return "change";
    case SNAPSHOT_INTERVAL:
        return "interval";
    case SNAPSHOT_MANUAL:
        return "manual";
    case SNAPSHOT_STARTUP:
        return "startup";
    case SNAPSHOT_SHUTDOWN:
        return "shutdown";
    case SNAPSHOT_SAFETY:
        return "safety";
    default:
        return "unknown";
    }
}

/* ---- commit ---- */

static void commit_encode_fixed(const struct commit *c, struct buffer *out)
{
    if (c->time.ns > 999999999)
        out->failed = true;
    put_u64(out, c->number); /* where recovery finds it in a torn record */
    put_u8(out, c->kind);
    put_varint(out, c->flags);
    put_varint(out, c->parent);
    buffer_append(out, c->watch_id, WATCH_ID_LEN);
    buffer_append(out, c->host_id, sizeof(c->host_id));
    put_varint(out, zigzag(c->time.s));
    put_varint(out, c->time.ns);
    put_varint(out, zigzag(c->utc_offset));
    put_varint(out, c->files);
    put_varint(out, c->folders);
    put_varint(out, c->bytes);
    put_varint(out, c->files_new);
    put_varint(out, c->files_changed);
    put_varint(out, c->files_removed);
    put_varint(out, c->bytes_read);
    put_varint(out, c->bytes_stored);
    put_varint(out, c->duration_ns);
    put_varint(out, c->incomplete_count);
    put_varint(out, c->next_node);
    put_varint(out, c->list_first);
    put_varint(out, c->list_count);
    buffer_append(out, c->chain.b, HASH_LEN);
    buffer_append(out, c->sum.b, sizeof(c->sum.b));
}

static void put_needs(struct buffer *out, uint16_t tag, const struct pack_need *needs,
                      uint32_t count)
{
    if (count == 0)
        return;
    if (count > NEEDS_MAX) {
        out->failed = true;
        return;
    }
    put_u16(out, tag);
    put_u16(out, 0);
    put_u32(out, count * NEED_LEN);
    for (uint32_t i = 0; i < count; i++) {
        put_u64(out, needs[i].pack_id);
        put_u64(out, needs[i].len);
    }
}

static void put_count(struct buffer *out, uint16_t tag, uint64_t count)
{
    uint8_t bytes[8];

    store_u64(bytes, count);
    if (count > 0)
        field_put(out, tag, bytes, sizeof(bytes), sizeof(bytes));
}

void commit_encode(const struct commit *c, struct buffer *out)
{
    commit_encode_fixed(c, out);
    field_put_text(out, COMMIT_WATCH_NAME, c->watch_name, TEXT_MAX);
    field_put_text(out, COMMIT_ROOT, c->root, TEXT_MAX);
    field_put_text(out, COMMIT_RULES_TEXT, c->rules, TEXT_MAX);
    field_put_text(out, COMMIT_NAME, c->name, TEXT_MAX);
    field_put_text(out, COMMIT_NOTE, c->note, TEXT_MAX);
    field_put_text(out, COMMIT_GAP, c->gap, TEXT_MAX);
    field_put_text(out, COMMIT_VERSION, c->version, TEXT_MAX);
    put_needs(out, COMMIT_NEEDS, c->needs, c->need_count);
    put_count(out, COMMIT_FILES_EXCLUDED, c->files_excluded);
    put_count(out, COMMIT_TRUSTED_FILES, c->trusted_files);
    put_count(out, COMMIT_SPOILT, c->spoilt);
    put_count(out, COMMIT_DECLASSED, c->declassed);
    if (c->list_len > 0)
        field_put(out, COMMIT_LIST, c->list, c->list_len, COMMIT_LIST_MAX);
}

static uint32_t take_varint32(struct reader *r)
{
    uint64_t v = take_varint(r);

    r->bad |= v > UINT32_MAX;
    return (uint32_t)v;
}

static void commit_take_fixed(struct reader *r, struct commit *c)
{
    c->number = take_u64(r);
    c->kind = take_u8(r);
    c->flags = take_varint32(r);
    c->parent = take_varint(r);
    body_take_copy(r, c->watch_id, WATCH_ID_LEN);
    body_take_copy(r, c->host_id, sizeof(c->host_id));
    c->time.s = unzigzag(take_varint(r));
    c->time.ns = take_varint32(r);
    int64_t offset = unzigzag(take_varint(r));
    r->bad |= c->time.ns > 999999999 || offset < INT32_MIN || offset > INT32_MAX;
    c->utc_offset = (int32_t)offset;
    c->files = take_varint(r);
    c->folders = take_varint(r);
    c->bytes = take_varint(r);
    c->files_new = take_varint(r);
    c->files_changed = take_varint(r);
    c->files_removed = take_varint(r);
    c->bytes_read = take_varint(r);
    c->bytes_stored = take_varint(r);
    c->duration_ns = take_varint(r);
    c->incomplete_count = take_varint(r);
    c->next_node = take_varint(r);
    c->list_first = take_varint(r);
    c->list_count = take_varint(r);
    body_take_copy(r, c->chain.b, HASH_LEN);
    body_take_copy(r, c->sum.b, sizeof(c->sum.b));
}

static int take_needs(const struct field *f, struct arena *a, struct pack_need **needs,
                      uint32_t *count, struct error *e)
{
    if (f->len % NEED_LEN != 0 || f->len / NEED_LEN > NEEDS_MAX)
        return body_damaged("a list of packs", e);
    *count = f->len / NEED_LEN;
    *needs = arena_take(a, *count * sizeof(**needs));
    for (uint32_t i = 0; i < *count; i++) {
        (*needs)[i].pack_id = load_u64(f->p + (size_t)i * NEED_LEN);
        (*needs)[i].len = load_u64(f->p + (size_t)i * NEED_LEN + 8);
    }
    return 0;
}

static int commit_take_list(struct commit *c, const struct field *f, struct arena *a,
                            struct error *e)
{
    if (f->len <= PACKED_HEADER_LEN || f->len > COMMIT_LIST_MAX)
        return body_damaged("the operations in a commit", e);
    uint8_t *copy = arena_take(a, f->len);
    memcpy(copy, f->p, f->len);
    c->list = copy;
    c->list_len = f->len;
    return 0;
}

static const char **commit_text(struct commit *c, uint16_t tag)
{
    switch (tag) {
    case COMMIT_WATCH_NAME:
        return &c->watch_name;
    case COMMIT_ROOT:
        return &c->root;
    case COMMIT_RULES_TEXT:
        return &c->rules;
    case COMMIT_NAME:
        return &c->name;
    case COMMIT_NOTE:
        return &c->note;
    case COMMIT_GAP:
        return &c->gap;
    case COMMIT_VERSION:
        return &c->version;
    default:
        return NULL;
    }
}

static uint64_t *commit_count(struct commit *c, uint16_t tag)
{
    switch (tag) {
    case COMMIT_FILES_EXCLUDED:
        return &c->files_excluded;
    case COMMIT_TRUSTED_FILES:
        return &c->trusted_files;
    case COMMIT_SPOILT:
        return &c->spoilt;
    case COMMIT_DECLASSED:
        return &c->declassed;
    default:
        return NULL;
    }
}

static int commit_take_field(struct commit *c, const struct field *f, struct arena *a,
                             struct error *e)
{
    if (f->tag == COMMIT_NEEDS)
        return take_needs(f, a, &c->needs, &c->need_count, e);
    if (f->tag == COMMIT_LIST)
        return commit_take_list(c, f, a, e);
    uint64_t *count = commit_count(c, f->tag);
    if (count && f->len != 8)
        return body_damaged("a count of files in a commit", e);
    if (count) {
        *count = load_u64(f->p);
        return 0;
    }
    const char **text = commit_text(c, f->tag);
    if (!text)
        return field_unknown(f, e);
    *text = arena_text(a, f->p, f->len, TEXT_MAX, e);
    return *text ? 0 : e->code;
}

int commit_decode(const void *p, size_t n, struct commit *c, struct error *e)
{
    struct reader r = reader_of(p, n);
    struct arena a;
    struct field f;

    memset(c, 0, sizeof(*c));
    commit_take_fixed(&r, c);
    if (r.bad || c->number == 0)
        return body_damaged("a commit", e);
    if (c->flags >> COMMIT_FLAGS_MUST_KNOW)
        return error_set(e, ERR_NOREPO,
                         "commit has flags %#x, unknown to this watchkeep (" WK_VERSION ")",
                         c->flags);
    /* A field's own header pays for the NUL and the alignment of its copy. */
    int rc = arena_init(&a, r.left, e);
    if (rc < 0)
        return rc;
    c->owned = a.p;
    struct field_reader fields = field_reader_of(r);
    while ((rc = field_next(&fields, &f, e)) == 1) {
        rc = commit_take_field(c, &f, &a, e);
        if (rc < 0)
            break;
    }
    if (rc < 0)
        commit_release(c);
    return rc;
}

void commit_release(struct commit *c)
{
    free(c->owned);
    memset(c, 0, sizeof(*c));
}

/* ---- lists of numbers ---- */

static void put_numbers(struct buffer *out, const uint64_t *v, uint32_t count)
{
    if (count > NUMBERS_MAX) {
        out->failed = true;
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        put_u64(out, v[i]);
}

/* Take count numbers into memory that the caller frees; *v stays NULL for none. */
static int take_numbers(struct reader *r, uint32_t count, uint64_t **v, struct error *e)
{
    const uint8_t *p = NULL;

    if (!r->bad && count <= NUMBERS_MAX)
        p = take_bytes(r, (size_t)count * 8);
    if (!p)
        return body_damaged("a list of numbers", e);
    if (count == 0)
        return 0;
    *v = malloc((size_t)count * sizeof(**v));
    if (!*v)
        return error_set(e, ERR_FAILED, "out of memory");
    for (uint32_t i = 0; i < count; i++)
        (*v)[i] = load_u64(p + (size_t)i * 8);
    return 0;
}

/* ---- mark ---- */

static const struct {
    enum freeze_cause cause;
    const char *word;
} freeze_words[] = {{FREEZE_MISSING, "missing"},
                    {FREEZE_EMPTIED, "emptied"},
                    {FREEZE_SCRAMBLED, "scrambled"},
                    {FREEZE_DAMAGED, "damaged"}};
enum { FREEZE_WORDS = sizeof(freeze_words) / sizeof(freeze_words[0]), FREEZE_ALL = 0xff };

const char *freeze_word(enum freeze_cause cause)
{
    for (size_t i = 0; i < FREEZE_WORDS; i++)
        if (freeze_words[i].cause == cause)
            return freeze_words[i].word;
    return "other";
}

unsigned freeze_causes(const char *text)
{
    if (!text || !*text)
        return FREEZE_ALL;
    size_t len = strcspn(text, ":");
    for (size_t i = 0; i < FREEZE_WORDS; i++)
        if (strlen(freeze_words[i].word) == len && memcmp(text, freeze_words[i].word, len) == 0)
            return freeze_words[i].cause;
    return FREEZE_OTHER;
}

void mark_encode(const struct mark *m, struct buffer *out)
{
    put_u8(out, m->type);
    put_u8(out, 0);
    put_u16(out, 0);
    put_u32(out, m->count);
    buffer_append(out, m->watch_id, WATCH_ID_LEN);
    put_time(out, &m->time);
    put_u32(out, 0);
    put_numbers(out, m->snapshots, m->count);
    field_put_text(out, MARK_TEXT, m->text, TEXT_MAX);
}

/* The numbers and the text share one allocation: numbers first, they want the alignment. */
static int mark_take_rest(struct reader r, struct mark *m, struct error *e)
{
    struct arena a;
    struct field f;
    const uint8_t *numbers = NULL;

    if (m->count <= NUMBERS_MAX)
        numbers = take_bytes(&r, (size_t)m->count * 8);
    if (!numbers)
        return body_damaged("a mark", e);
    int rc = arena_init(&a, (size_t)m->count * 8 + r.left, e);
    if (rc < 0)
        return rc;
    m->owned = a.p;
    m->snapshots = arena_take(&a, (size_t)m->count * 8);
    for (uint32_t i = 0; i < m->count; i++)
        m->snapshots[i] = load_u64(numbers + (size_t)i * 8);
    struct field_reader fields = field_reader_of(r);
    while ((rc = field_next(&fields, &f, e)) == 1) {
        if (f.tag == MARK_TEXT)
            rc = (m->text = arena_text(&a, f.p, f.len, TEXT_MAX, e)) ? 0 : e->code;
        else
            rc = field_unknown(&f, e);
        if (rc < 0)
            break;
    }
    return rc;
}

int mark_decode(const void *p, size_t n, struct mark *m, struct error *e)
{
    struct reader r = reader_of(p, n);

    memset(m, 0, sizeof(*m));
    m->type = take_u8(&r);
    take_u8(&r);
    take_u16(&r);
    m->count = take_u32(&r);
    body_take_copy(&r, m->watch_id, WATCH_ID_LEN);
    take_time(&r, &m->time);
    take_u32(&r);
    if (r.bad)
        return body_damaged("a mark", e);
    if (m->type == 0 || (m->type > MARK_STATE && m->type < MARK_TYPE_SKIP))
        return error_set(e, ERR_NOREPO,
                         "mark of type %u is unknown to this watchkeep (" WK_VERSION ")", m->type);
    int rc = mark_take_rest(r, m, e);
    if (rc < 0)
        mark_release(m);
    return rc;
}

void mark_release(struct mark *m)
{
    free(m->owned);
    memset(m, 0, sizeof(*m));
}

/* ---- operations and file lists ---- */

void body_put_name(struct buffer *out, const char *name, uint8_t len)
{
    if (!node_name_ok(name, len))
        out->failed = true;
    put_u8(out, len);
    buffer_append(out, name, len);
}

void body_take_name(struct reader *r, const char **name, uint8_t *len)
{
    *len = take_u8(r);
    *name = (const char *)take_bytes(r, *len);
    if (!*name || !node_name_ok(*name, *len))
        r->bad = true;
}

/* u32 length and bytes, at most max. */
void body_put_bytes(struct buffer *out, const void *p, uint32_t len, uint32_t max)
{
    if (len > max)
        out->failed = true;
    put_u32(out, len);
    buffer_append(out, p, len);
}

void body_take_sized(struct reader *r, const uint8_t **p, uint32_t *len, uint32_t max)
{
    *len = take_u32(r);
    if (*len > max)
        r->bad = true;
    *p = take_bytes(r, *len);
}

void op_encode(const struct op *op, struct buffer *out)
{
    put_u8(out, op->type);
    switch (op->type) {
    case OP_NAME_PUT:
        put_varint(out, op->parent);
        body_put_name(out, op->name, op->name_len);
        put_varint(out, op->node);
        break;
    case OP_NAME_REMOVE:
        put_varint(out, op->parent);
        body_put_name(out, op->name, op->name_len);
        break;
    case OP_NODE_PUT:
        put_varint(out, op->node);
        put_varint(out, op->meta_len);
        out->failed |= op->meta_len > NODE_ENCODED_MAX;
        buffer_append(out, op->meta, op->meta_len);
        break;
    case OP_NODE_REMOVE:
        put_varint(out, op->node);
        break;
    default:
        out->failed = true;
    }
}

int op_decode(struct reader *r, struct op *op, struct error *e)
{
    if (reader_done(r))
        return 0;
    memset(op, 0, sizeof(*op));
    op->type = take_u8(r);
    switch (op->type) {
    case OP_NAME_PUT:
        op->parent = take_varint(r);
        body_take_name(r, &op->name, &op->name_len);
        op->node = take_varint(r);
        break;
    case OP_NAME_REMOVE:
        op->parent = take_varint(r);
        body_take_name(r, &op->name, &op->name_len);
        break;
    case OP_NODE_PUT:
        op->node = take_varint(r);
        op->meta_len = take_varint32(r);
        r->bad |= op->meta_len > NODE_ENCODED_MAX;
        op->meta = take_bytes(r, op->meta_len);
        break;
    case OP_NODE_REMOVE:
        op->node = take_varint(r);
        break;
    default:
        if (!r->bad)
            return error_set(e, ERR_NOREPO,
                             "operation %u in a file list is unknown to this "
                             "watchkeep (" WK_VERSION ")",
                             op->type);
    }
    return r->bad || op->node > NODE_NUMBER_MAX ? body_damaged("a file list", e) : 1;
}

/* Packed bytes to the end of a body: {u8 codec, u8 must-know flags, u16 0, u32 raw_len, packed}. */
int body_put_packed(const void *raw, size_t len, size_t max, int codec, struct buffer *out)
{
    if (len > max)
        return ERR_FAILED;
    size_t head = out->len;
    put_u32(out, 0);
    put_u32(out, (uint32_t)len);
    int used = codec_pack(codec, CODEC_FAST, raw, len, NULL, 0, out);
    if (used < 0 || !buffer_ok(out))
        return ERR_FAILED;
    out->data[head] = (uint8_t)used;
    return 0;
}

int body_take_packed(struct reader *r, size_t max, const char *what, struct buffer *raw,
                     struct error *e)
{
    uint8_t codec = take_u8(r);
    uint8_t flags = take_u8(r);
    take_u16(r);
    uint32_t len = take_u32(r);

    if (r->bad || len > max)
        return body_damaged(what, e);
    if (flags != 0)
        return error_set(e, ERR_NOREPO,
                         "%s has flags %#x, unknown to this watchkeep (" WK_VERSION ")", what,
                         flags);
    size_t before = raw->len;
    uint8_t *to = buffer_grow(raw, len);
    if (!to)
        return error_set(e, ERR_FAILED, "out of memory");
    size_t packed_len = r->left;
    int rc = codec_unpack(codec, take_bytes(r, packed_len), packed_len, NULL, 0, to, len, e);
    if (rc < 0)
        raw->len = before;
    return rc;
}

int file_list_encode(uint64_t number, const uint8_t *watch_id, const void *ops, size_t len,
                     int codec, struct buffer *out)
{
    put_u64(out, number);
    buffer_append(out, watch_id, WATCH_ID_LEN);
    return body_put_packed(ops, len, FILE_LIST_RAW_MAX, codec, out);
}

int file_list_decode(const void *p, size_t n, uint64_t *number, uint8_t *watch_id,
                     struct buffer *ops, struct error *e)
{
    struct reader r = reader_of(p, n);

    *number = take_u64(&r);
    memcpy(watch_id, zero_id, WATCH_ID_LEN);
    body_take_copy(&r, watch_id, WATCH_ID_LEN);
    return body_take_packed(&r, FILE_LIST_RAW_MAX, "a file list", ops, e);
}

/* ---- fence, seal, prune, compaction ---- */

void fence_encode(const struct fence *f, struct buffer *out)
{
    put_u64(out, f->pack_id);
    put_u64(out, f->len);
}

int fence_decode(const void *p, size_t n, struct fence *f, struct error *e)
{
    struct reader r = reader_of(p, n);

    f->pack_id = take_u64(&r);
    f->len = take_u64(&r);
    return take_end(&r, "a fence", e);
}

void seal_encode(const struct seal *s, struct buffer *out)
{
    put_u64(out, s->len);
    put_u64(out, s->records);
    buffer_append(out, s->sha256.b, HASH_LEN);
}

int seal_decode(const void *p, size_t n, struct seal *s, struct error *e)
{
    struct reader r = reader_of(p, n);

    memset(s, 0, sizeof(*s));
    s->len = take_u64(&r);
    s->records = take_u64(&r);
    body_take_copy(&r, s->sha256.b, HASH_LEN);
    return take_end(&r, "a seal", e);
}

/* Prune and compaction are alike: a time and a list of numbers. */
static void timed_list_encode(const struct wall_time *t, const uint64_t *v, uint32_t count,
                              struct buffer *out)
{
    put_time(out, t);
    put_u32(out, count);
    put_numbers(out, v, count);
}

static int timed_list_decode(const void *p, size_t n, const char *what, struct wall_time *t,
                             uint64_t **v, uint32_t *count, struct error *e)
{
    struct reader r = reader_of(p, n);

    take_time(&r, t);
    *count = take_u32(&r);
    int rc = take_numbers(&r, *count, v, e);
    return rc < 0 ? rc : take_end(&r, what, e);
}

void prune_encode(const struct prune *p, struct buffer *out)
{
    timed_list_encode(&p->time, p->snapshots, p->count, out);
}

int prune_decode(const void *p, size_t n, struct prune *out, struct error *e)
{
    memset(out, 0, sizeof(*out));
    int rc = timed_list_decode(p, n, "a prune record", &out->time, &out->snapshots, &out->count, e);
    out->owned = out->snapshots;
    if (rc < 0)
        prune_release(out);
    return rc;
}

void prune_release(struct prune *p)
{
    free(p->owned);
    memset(p, 0, sizeof(*p));
}

void compaction_encode(const struct compaction *c, struct buffer *out)
{
    timed_list_encode(&c->time, c->packs, c->count, out);
    put_needs(out, COMPACTION_NEEDS, c->needs, c->need_count);
}

/* Packs and needs live in one allocation. */
static int compaction_take(struct reader *r, struct compaction *out, struct error *e)
{
    struct field_reader fields;
    struct field f = {0};
    struct arena a;
    uint64_t *packs = NULL;
    int rc;

    take_time(r, &out->time);
    out->count = take_u32(r);
    rc = take_numbers(r, out->count, &packs, e);
    if (rc == 0)
        rc = arena_init(&a, out->count * sizeof(*packs) + r->left + 64, e);
    if (rc < 0) {
        free(packs);
        return rc;
    }
    out->owned = a.p;
    out->packs = arena_take(&a, out->count * sizeof(*packs));
    if (out->count > 0)
        memcpy(out->packs, packs, out->count * sizeof(*packs));
    free(packs);
    fields = field_reader_of(*r);
    while ((rc = field_next(&fields, &f, e)) == 1) {
        rc = f.tag == COMPACTION_NEEDS ? take_needs(&f, &a, &out->needs, &out->need_count, e)
                                       : field_unknown(&f, e);
        if (rc < 0)
            return rc;
    }
    return rc;
}

int compaction_decode(const void *p, size_t n, struct compaction *out, struct error *e)
{
    struct reader r = reader_of(p, n);

    memset(out, 0, sizeof(*out));
    int rc = compaction_take(&r, out, e);
    if (rc < 0)
        compaction_release(out);
    return rc;
}

void compaction_release(struct compaction *c)
{
    free(c->owned);
    memset(c, 0, sizeof(*c));
}
