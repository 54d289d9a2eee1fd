#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "store/codec.h"
#include "store/commit.h"
#include "store/node.h"
#include "store_test.h"

#include "base/banned.h"

static struct error e;

static const uint8_t watch_id[WATCH_ID_LEN] = "watch-id-16-byte";

static struct pack_need needs[] = {{3, 1000}, {4, UINT64_C(1) << 40}};

static struct commit sample_commit(void)
{
    struct commit c = {
        .number = 42,
        .parent = 41,
        .time = {.s = 1700000000, .ns = 5},
        .utc_offset = -3600,
        .kind = SNAPSHOT_MANUAL,
        .flags = COMMIT_INCOMPLETE | COMMIT_RULES,
        .files = 1,
        .folders = 2,
        .bytes = 3,
        .files_new = 4,
        .files_changed = 5,
        .files_removed = 6,
        .bytes_read = 7,
        .bytes_stored = 8,
        .duration_ns = 9,
        .incomplete_count = 10,
        .next_node = 11,
        .list_first = 12,
        .list_count = 13,
        .watch_name = "bot",
        .root = "/srv/bot",
        .rules = "",
        .name = "before-upgrade",
        .note = "a note",
        .gap = "overflow",
        .version = "0.1.0",
        .need_count = 2,
        .needs = needs,
        .list = "\0\0\0\0\2\0\0\0\4\t",
        .list_len = 10,
        .trusted_files = 1000,
        .spoilt = 3,
        .declassed = 70,
    };

    memcpy(c.watch_id, watch_id, WATCH_ID_LEN);
    memcpy(c.host_id, "host-id-16-bytes", 16);
    memset(c.chain.b, 0xcc, HASH_LEN);
    memset(c.sum.b, 0xdd, sizeof(c.sum.b));
    return c;
}

static void expect_text(const char *got, const char *want)
{
    if (!want)
        assert_null(got);
    else
        assert_string_equal(got, want);
}

static void test_commit_round_trip(void **state)
{
    struct commit c = sample_commit(), back;
    struct buffer b = BUFFER_INIT, again = BUFFER_INIT;

    commit_encode(&c, &b);
    assert_true(buffer_ok(&b));
    assert_int_equal(commit_decode(b.data, b.len, &back, &e), 0);
    assert_true(back.number == 42 && back.parent == 41 && back.time.s == c.time.s &&
                back.time.ns == 5 && back.utc_offset == -3600 && back.kind == SNAPSHOT_MANUAL &&
                back.flags == c.flags && back.list_count == 13);
    expect_text(back.watch_name, "bot");
    expect_text(back.root, "/srv/bot");
    expect_text(back.rules, "");
    expect_text(back.name, "before-upgrade");
    expect_text(back.note, "a note");
    expect_text(back.gap, "overflow");
    expect_text(back.version, "0.1.0");
    assert_int_equal(back.need_count, 2);
    assert_memory_equal(back.needs, needs, sizeof(needs));
    assert_int_equal(back.trusted_files, 1000);
    assert_int_equal(back.spoilt, 3);
    assert_int_equal(back.declassed, 70);
    struct buffer ops = BUFFER_INIT;
    assert_int_equal(commit_list_decode(&back, &ops, &e), 0);
    assert_int_equal(ops.len, 2);
    assert_memory_equal(ops.data, "\4\t", 2); /* remove node 9 */
    buffer_release(&ops);
    commit_encode(&back, &again); /* and so every field came back */
    assert_int_equal(again.len, b.len);
    assert_memory_equal(again.data, b.data, b.len);
    commit_release(&back);

    c.watch_name = c.root = c.rules = c.name = c.note = c.gap = c.version = NULL;
    c.need_count = 0;
    c.list_len = 0;
    c.trusted_files = c.spoilt = c.declassed = 0;
    buffer_clear(&b);
    commit_encode(&c, &b);
    const size_t fixed = b.len;
    assert_int_equal(fixed, 112);
    assert_int_equal(commit_decode(b.data, b.len, &back, &e), 0);
    assert_null(back.watch_name);
    assert_null(back.needs);
    assert_true(back.files_excluded == 0);
    commit_release(&back);
    commit_release(&back);
    c.files_excluded = 14;
    commit_encode(&c, &b);
    assert_int_equal(commit_decode(b.data + fixed, b.len - fixed, &back, &e), 0);
    assert_true(back.files_excluded == 14);
    commit_release(&back);
    b.data[fixed + fixed + 4] = 7; /* a length that is none of a number */
    assert_int_equal(commit_decode(b.data + fixed, b.len - fixed - 1, &back, &e), ERR_DAMAGED);
    buffer_release(&b);
    buffer_release(&again);
}

static void test_commit_golden(void **state)
{
    struct commit c = sample_commit();
    struct buffer b = BUFFER_INIT;

    commit_encode(&c, &b);
    assert_hex(b.data, b.len,
               "2a0000000000000003092977617463682d69642d31362d62797465686f73742d"
               "69642d31362d627974657380c49fd50c059f380102030405060708090a0b0c0d"
               "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
               "dddddddddddddddddddddddddddddddd0100000003000000626f740200000008"
               "0000002f7372762f626f740300000000000000040000000e0000006265666f72"
               "652d75706772616465050000000600000061206e6f746506000000080000006f"
               "766572666c6f770700000005000000302e312e30080000002000000003000000"
               "00000000e803000000000000040000000000000000000000000100000a000000"
               "08000000e8030000000000000b0000000800000003000000000000000c000000"
               "080000004600000000000000018000000a00000000000000020000000409");
    buffer_release(&b);
}

typedef int (*decode_exact)(const uint8_t *p, size_t n);

/* Decode every truncation and every flip of one bit, in memory of the exact size (for ASan).
 * Returns how many truncations were taken as whole. */
static size_t survive(const struct buffer *b, decode_exact decode)
{
    size_t whole = 0;

    for (size_t n = 0; n < b->len; n++) {
        uint8_t *copy = must_alloc(n);
        memcpy(copy, b->data, n);
        whole += decode(copy, n) == 0;
        free(copy);
    }
    uint8_t *copy = must_alloc(b->len);
    memcpy(copy, b->data, b->len);
    for (size_t bit = 0; bit < b->len * 8; bit++) {
        copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int rc = decode(copy, b->len);
        assert_true(rc == 0 || rc == ERR_DAMAGED || rc == ERR_NOREPO);
        copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_int_equal(decode(copy, b->len), 0);
    free(copy);
    return whole;
}

static int decode_commit(const uint8_t *p, size_t n)
{
    struct commit c;
    int rc = commit_decode(p, n, &c, &e);

    if (rc == 0)
        commit_release(&c);
    return rc;
}

static void test_broken_commits(void **state)
{
    struct commit c = sample_commit();
    struct buffer b = BUFFER_INIT;

    commit_encode(&c, &b);
    assert_int_equal(survive(&b, decode_commit), 12); /* cut before each field it is whole */
    b.data[0] = 0;                                    /* number */
    assert_int_equal(decode_commit(b.data, b.len), ERR_DAMAGED);
    c.flags = 1u << 16;
    buffer_clear(&b);
    commit_encode(&c, &b);
    assert_int_equal(decode_commit(b.data, b.len), ERR_NOREPO);
    c.flags = 1u << 15; /* may be skipped */
    c.time.ns = 999999999;
    buffer_clear(&b);
    commit_encode(&c, &b);
    assert_int_equal(decode_commit(b.data, b.len), 0);
    uint8_t *ns = b.data + 8 + 1 + 3 + 1 + WATCH_ID_LEN + 16 + 5;
    assert_memory_equal(ns, "\xff\x93\xeb\xdc\x03", 5);
    ns[4] = 4;
    assert_int_equal(decode_commit(b.data, b.len), ERR_DAMAGED);
    buffer_release(&b);
}

static void put_field(struct buffer *b, uint16_t tag, const void *bytes, uint32_t len)
{
    put_u16(b, tag);
    put_u16(b, 0);
    put_u32(b, len);
    buffer_append(b, bytes, len);
}

static void test_commit_fields(void **state)
{
    struct commit c = {.number = 1}, back;
    struct buffer b = BUFFER_INIT;

    commit_encode(&c, &b);
    const size_t fixed = b.len;
    put_field(&b, 5, "n\0te", 4); /* a NUL inside a text */
    assert_int_equal(decode_commit(b.data, b.len), ERR_DAMAGED);
    b.len = fixed;
    put_field(&b, 8, "only seven", 7); /* no whole need */
    assert_int_equal(decode_commit(b.data, b.len), ERR_DAMAGED);
    b.len = fixed;
    put_field(&b, 0x7fff, "future", 6);
    assert_int_equal(decode_commit(b.data, b.len), 0);
    put_field(&b, 0x8000, "future", 6);
    assert_int_equal(decode_commit(b.data, b.len), ERR_NOREPO);
    b.len = fixed;
    put_field(&b, 0x8001, "12345678", 8); /* no operations behind their header */
    assert_int_equal(decode_commit(b.data, b.len), ERR_DAMAGED);
    b.len = fixed;
    put_field(&b, 2, "b", 1);
    put_field(&b, 1, "a", 1); /* order */
    assert_int_equal(decode_commit(b.data, b.len), ERR_DAMAGED);
    b.len = fixed;
    for (int i = 1; i < 8; i++)
        put_field(&b, (uint16_t)i, "", 0); /* the most memory for the fewest bytes */
    put_field(&b, 8, needs, sizeof(needs));
    assert_int_equal(commit_decode(b.data, b.len, &back, &e), 0);
    expect_text(back.version, "");
    commit_release(&back);
    buffer_release(&b);
}

static void test_too_long_texts_are_not_encoded(void **state)
{
    char *text = must_alloc(300 * 1024);
    struct commit c = {.number = 1, .rules = text};
    struct mark m = {.type = MARK_EVENT, .text = text};
    struct buffer b = BUFFER_INIT;

    memset(text, 'a', 300 * 1024);
    text[300 * 1024 - 1] = 0;
    commit_encode(&c, &b);
    assert_false(buffer_ok(&b));
    buffer_release(&b);
    mark_encode(&m, &b);
    assert_false(buffer_ok(&b));
    buffer_release(&b);
    free(text);
}

static void test_kind_words(void **state)
{
    assert_string_equal(snapshot_kind_word(SNAPSHOT_CHANGE), "change");
    assert_string_equal(snapshot_kind_word(SNAPSHOT_INTERVAL), "interval");
    assert_string_equal(snapshot_kind_word(SNAPSHOT_MANUAL), "manual");
    assert_string_equal(snapshot_kind_word(SNAPSHOT_STARTUP), "startup");
    assert_string_equal(snapshot_kind_word(SNAPSHOT_SHUTDOWN), "shutdown");
    assert_string_equal(snapshot_kind_word(SNAPSHOT_SAFETY), "safety");
    assert_string_equal(snapshot_kind_word(0), "unknown");
}

static int decode_mark(const uint8_t *p, size_t n)
{
    struct mark m;
    int rc = mark_decode(p, n, &m, &e);

    if (rc == 0)
        mark_release(&m);
    return rc;
}

static void test_marks(void **state)
{
    uint64_t snapshots[] = {7, UINT64_MAX};
    struct mark m = {.type = MARK_NAME,
                     .time = {.s = -1, .ns = 2},
                     .text = "n1",
                     .count = 2,
                     .snapshots = snapshots};
    struct mark back;
    struct buffer b = BUFFER_INIT;

    memcpy(m.watch_id, watch_id, WATCH_ID_LEN);
    mark_encode(&m, &b);
    assert_hex(b.data, b.len,
               "030000000200000077617463682d69642d31362d62797465ffffffffffffffff"
               "02000000000000000700000000000000ffffffffffffffff0100000002000000"
               "6e31");
    assert_int_equal(mark_decode(b.data, b.len, &back, &e), 0);
    assert_int_equal(back.type, MARK_NAME);
    assert_true(back.time.s == -1 && back.time.ns == 2 && back.count == 2);
    assert_memory_equal(back.snapshots, snapshots, sizeof(snapshots));
    assert_memory_equal(back.watch_id, watch_id, WATCH_ID_LEN);
    expect_text(back.text, "n1");
    mark_release(&back);
    assert_int_equal(survive(&b, decode_mark), 1);
    store_u32(b.data + 4, UINT32_MAX); /* a count that is not there */
    assert_int_equal(decode_mark(b.data, b.len), ERR_DAMAGED);
    store_u32(b.data + 4, 2);
    b.data[0] = MARK_STATE + 1;
    assert_int_equal(decode_mark(b.data, b.len), ERR_NOREPO);
    b.data[0] = 128;
    assert_int_equal(decode_mark(b.data, b.len), 0);
    b.data[0] = 0;
    assert_int_equal(decode_mark(b.data, b.len), ERR_NOREPO);
    buffer_clear(&b);
    m = (struct mark){.type = MARK_FREEZE};
    mark_encode(&m, &b);
    assert_int_equal(mark_decode(b.data, b.len, &back, &e), 0);
    assert_null(back.text);
    assert_int_equal(back.count, 0);
    mark_release(&back);
    buffer_release(&b);
}

static void encode_ops(struct buffer *b)
{
    struct op ops[] = {
        {.type = OP_NAME_PUT, .parent = 1, .name = "a.json", .name_len = 6, .node = 2},
        {.type = OP_NAME_REMOVE, .parent = 3, .name = "\xff", .name_len = 1},
        {.type = OP_NODE_PUT, .node = 2, .meta = (const uint8_t *)"meta", .meta_len = 4},
        {.type = OP_NODE_REMOVE, .node = 9},
    };

    for (int i = 0; i < 4; i++)
        op_encode(&ops[i], b);
    assert_true(buffer_ok(b));
}

static int decode_ops(const uint8_t *p, size_t n)
{
    struct reader r = reader_of(p, n);
    struct op op;
    int rc;

    while ((rc = op_decode(&r, &op, &e)) == 1)
        ;
    return rc;
}

static void test_ops(void **state)
{
    struct buffer b = BUFFER_INIT;
    struct op op;

    encode_ops(&b);
    assert_hex(b.data, b.len,
               "010106612e6a736f6e02"
               "020301ff"
               "0302046d657461"
               "0409");
    struct reader r = reader_of(b.data, b.len);
    assert_int_equal(op_decode(&r, &op, &e), 1);
    assert_true(op.type == OP_NAME_PUT && op.parent == 1 && op.name_len == 6 && op.node == 2);
    assert_memory_equal(op.name, "a.json", 6);
    assert_int_equal(op_decode(&r, &op, &e), 1);
    assert_true(op.type == OP_NAME_REMOVE && op.parent == 3 && op.name_len == 1 && op.node == 0);
    assert_int_equal(op_decode(&r, &op, &e), 1);
    assert_true(op.type == OP_NODE_PUT && op.node == 2 && op.meta_len == 4);
    assert_memory_equal(op.meta, "meta", 4);
    assert_int_equal(op_decode(&r, &op, &e), 1);
    assert_true(op.type == OP_NODE_REMOVE && op.node == 9);
    assert_int_equal(op_decode(&r, &op, &e), 0);
    assert_int_equal(survive(&b, decode_ops), 4); /* after 0, 1, 2 and 3 operations */
    buffer_release(&b);
}

static void test_node_numbers_are_bounded(void **state)
{
    for (uint64_t over = 0; over <= 1; over++) {
        struct buffer b = BUFFER_INIT;
        struct op op = {.type = OP_NODE_REMOVE, .node = NODE_NUMBER_MAX + over};
        struct row row = {.type = ROW_NODE, .node = NODE_NUMBER_MAX + over};
        op_encode(&op, &b);
        struct reader r = reader_of(b.data, b.len);
        assert_int_equal(op_decode(&r, &op, &e), over ? ERR_DAMAGED : 1);
        buffer_clear(&b);
        row_encode(&row, &b);
        r = reader_of(b.data, b.len);
        assert_int_equal(row_decode(&r, &row, &e), over ? ERR_DAMAGED : 1);
        buffer_release(&b);
    }
}

/* A name that could lead out of its folder neither gets in nor comes out. */
static void test_ops_with_bad_names(void **state)
{
    static const char *const bad[] = {"..", ".", "a/b", ""};
    struct buffer b = BUFFER_INIT;

    for (int i = 0; i < 4; i++) {
        uint8_t len = (uint8_t)strlen(bad[i]);
        struct op op = {.type = OP_NAME_REMOVE, .parent = 1, .name = bad[i], .name_len = len};
        struct row row = {.type = ROW_NAME, .name = bad[i], .name_len = len};
        op_encode(&op, &b);
        assert_false(buffer_ok(&b));
        buffer_release(&b);
        row_encode(&row, &b);
        assert_false(buffer_ok(&b));
        buffer_release(&b);
        put_u8(&b, OP_NAME_REMOVE);
        put_varint(&b, 1);
        put_u8(&b, len);
        buffer_append(&b, bad[i], len);
        assert_int_equal(decode_ops(b.data, b.len), ERR_DAMAGED);
        buffer_release(&b);
    }
    assert_int_equal(decode_ops((const uint8_t *)"\5", 1), ERR_NOREPO);
}

static int decode_file_list(const uint8_t *p, size_t n)
{
    struct buffer ops = BUFFER_INIT;
    uint8_t id[WATCH_ID_LEN];
    uint64_t number;
    int rc = file_list_decode(p, n, &number, id, &ops, &e);

    assert_true(rc == 0 || ops.len == 0);
    buffer_release(&ops);
    return rc;
}

static void test_file_lists(void **state)
{
    for (int codec = CODEC_STORED; codec <= CODEC_ZSTD; codec++) {
        struct buffer ops = BUFFER_INIT, b = BUFFER_INIT, back = BUFFER_INIT;
        uint8_t id[WATCH_ID_LEN];
        uint64_t number;
        for (int i = 0; i < 20; i++)
            encode_ops(&ops);
        assert_int_equal(file_list_encode(42, watch_id, ops.data, ops.len, codec, &b), 0);
        assert_int_equal(b.data[24], codec);
        assert_int_equal(file_list_decode(b.data, b.len, &number, id, &back, &e), 0);
        assert_true(number == 42);
        assert_memory_equal(id, watch_id, WATCH_ID_LEN);
        assert_int_equal(back.len, ops.len);
        assert_memory_equal(back.data, ops.data, ops.len);
        assert_int_equal(survive(&b, decode_file_list), 0);
        b.data[25] = 1; /* a must-know flag */
        assert_int_equal(decode_file_list(b.data, b.len), ERR_NOREPO);
        b.data[25] = 0;
        store_u32(b.data + 28, FILE_LIST_RAW_MAX + 1);
        assert_int_equal(decode_file_list(b.data, b.len), ERR_DAMAGED);
        buffer_release(&ops);
        buffer_release(&b);
        buffer_release(&back);
    }
}

static void test_file_list_golden(void **state)
{
    struct buffer b = BUFFER_INIT;

    assert_int_equal(file_list_encode(42, watch_id, "raw", 3, CODEC_STORED, &b), 0);
    assert_hex(b.data, b.len,
               "2a00000000000000"
               "77617463682d69642d31362d62797465"
               "00000000"
               "03000000"
               "726177");
    assert_true(file_list_encode(42, watch_id, "", FILE_LIST_RAW_MAX + 1, CODEC_STORED, &b) < 0);
    buffer_release(&b);
}

static int decode_fence(const uint8_t *p, size_t n)
{
    struct fence f;

    return fence_decode(p, n, &f, &e);
}

static int decode_seal(const uint8_t *p, size_t n)
{
    struct seal s;

    return seal_decode(p, n, &s, &e);
}

static void test_fence_and_seal(void **state)
{
    struct fence f = {.pack_id = 3, .len = 4096}, f2;
    struct seal s = {.len = 70000, .records = 12}, s2;
    struct buffer b = BUFFER_INIT;

    memset(s.sha256.b, 0x5a, HASH_LEN);
    fence_encode(&f, &b);
    assert_hex(b.data, b.len,
               "0300000000000000"
               "0010000000000000");
    assert_int_equal(fence_decode(b.data, b.len, &f2, &e), 0);
    assert_true(f2.pack_id == 3 && f2.len == 4096);
    assert_int_equal(survive(&b, decode_fence), 0);
    put_field(&b, 1, "later", 5);
    assert_int_equal(decode_fence(b.data, b.len), 0);
    put_field(&b, 0x8001, "later", 5);
    assert_int_equal(decode_fence(b.data, b.len), ERR_NOREPO);
    buffer_clear(&b);
    seal_encode(&s, &b);
    assert_hex(b.data, b.len,
               "7011010000000000"
               "0c00000000000000"
               "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a");
    assert_int_equal(seal_decode(b.data, b.len, &s2, &e), 0);
    assert_true(s2.len == 70000 && s2.records == 12 && hash_equal(&s2.sha256, &s.sha256));
    assert_int_equal(survive(&b, decode_seal), 0);
    buffer_release(&b);
}

static int decode_prune(const uint8_t *p, size_t n)
{
    struct prune x;
    int rc = prune_decode(p, n, &x, &e);

    if (rc == 0)
        prune_release(&x);
    return rc;
}

static int decode_compaction(const uint8_t *p, size_t n)
{
    struct compaction x;
    int rc = compaction_decode(p, n, &x, &e);

    if (rc == 0)
        compaction_release(&x);
    return rc;
}

static void test_prune_and_compaction(void **state)
{
    uint64_t numbers[] = {5, 6, 7};
    struct prune p = {.time = {1, 2}, .count = 3, .snapshots = numbers}, p2;
    struct pack_need need = {.pack_id = 8, .len = 9};
    struct compaction c = {.time = {1, 2}, .count = 2, .packs = numbers}, c2;
    struct buffer b = BUFFER_INIT;

    prune_encode(&p, &b);
    assert_hex(b.data, b.len,
               "0100000000000000"
               "02000000"
               "03000000"
               "0500000000000000"
               "0600000000000000"
               "0700000000000000");
    assert_int_equal(prune_decode(b.data, b.len, &p2, &e), 0);
    assert_true(p2.time.s == 1 && p2.time.ns == 2 && p2.count == 3);
    assert_memory_equal(p2.snapshots, numbers, sizeof(numbers));
    prune_release(&p2);
    assert_int_equal(survive(&b, decode_prune), 0);
    buffer_clear(&b);
    compaction_encode(&c, &b);
    assert_int_equal(compaction_decode(b.data, b.len, &c2, &e), 0);
    assert_true(c2.count == 2 && c2.packs[1] == 6 && c2.need_count == 0);
    compaction_release(&c2);
    assert_int_equal(survive(&b, decode_compaction), 0);
    buffer_clear(&b);
    c.need_count = 1;
    c.needs = &need;
    compaction_encode(&c, &b);
    assert_hex(b.data, b.len,
               "010000000000000002000000"
               "02000000"
               "05000000000000000600000000000000"
               "0100000010000000"
               "0800000000000000"
               "0900000000000000");
    assert_int_equal(compaction_decode(b.data, b.len, &c2, &e), 0);
    assert_true(c2.count == 2 && c2.need_count == 1 && c2.needs[0].pack_id == 8 &&
                c2.needs[0].len == 9);
    compaction_release(&c2);
    assert_int_equal(survive(&b, decode_compaction), 1); /* cut before its needs */
    buffer_clear(&b);
    p.count = 0;
    prune_encode(&p, &b);
    assert_int_equal(prune_decode(b.data, b.len, &p2, &e), 0);
    assert_int_equal(p2.count, 0);
    prune_release(&p2);
    buffer_release(&b);
}

static void encode_rows(struct buffer *b)
{
    struct row rows[] = {
        {.type = ROW_SNAPSHOT,
         .bytes = (const uint8_t *)"commit",
         .len = 6,
         .damaged = true,
         .whole = true,
         .time = {9, 10},
         .texts = {{"name", 4}, {"", 0}}},
        {.type = ROW_NAME, .parent = 1, .name = "n", .name_len = 1, .from = 2, .to = 3, .node = 4},
        {.type = ROW_NODE,
         .node = 5,
         .from = 6,
         .to = INT64_MAX,
         .bytes = (const uint8_t *)"m",
         .len = 1},
        {.type = ROW_MARK, .sequence = 11, .bytes = (const uint8_t *)"mark", .len = 4},
        {.type = ROW_PACK,
         .pack_id = 7,
         .pack_kind = 2,
         .pack_len = 8,
         .pack_fence = 12,
         .pack_gone = 13},
        {.type = ROW_WATCH,
         .serial = 14,
         .frozen = true,
         .last = 15,
         .node = 16,
         .files = 17,
         .total_bytes = 18,
         .incomplete = 19,
         .texts = {{"app", 3}, {"/srv", 4}, {"{}", 2}}},
    };

    memcpy(rows[1].watch_id, watch_id, WATCH_ID_LEN);
    memcpy(rows[2].watch_id, watch_id, WATCH_ID_LEN);
    memset(rows[4].sha256.b, 0x77, HASH_LEN);
    memcpy(rows[5].watch_id, watch_id, WATCH_ID_LEN);
    memset(rows[5].sum.b, 0x55, sizeof(rows[5].sum.b));
    for (int i = 0; i < 6; i++)
        row_encode(&rows[i], b);
    assert_true(buffer_ok(b));
}

static int decode_rows(const uint8_t *p, size_t n)
{
    struct reader r = reader_of(p, n);
    struct row row;
    int rc;

    while ((rc = row_decode(&r, &row, &e)) == 1)
        ;
    return rc;
}

static void test_rows(void **state)
{
    struct buffer b = BUFFER_INIT;
    struct row row;

    encode_rows(&b);
    assert_hex(b.data, b.len,
               "0106000000636f6d6d69740509000000000000000a000000040000006e616d65"
               "000000000277617463682d69642d31362d627974650100000000000000016e02"
               "00000000000000030000000000000004000000000000000377617463682d6964"
               "2d31362d6279746505000000000000000600000000000000ffffffffffffff7f"
               "010000006d040b00000000000000040000006d61726b05070000000000000002"
               "08000000000000000c000000000000000d000000000000007777777777777777"
               "7777777777777777777777777777777777777777777777770677617463682d69"
               "642d31362d627974650e00000000000000010f00000000000000100000000000"
               "0000110000000000000012000000000000001300000000000000555555555555"
               "5555555555555555555503000000617070040000002f737276020000007b7d");
    struct reader r = reader_of(b.data, b.len);
    assert_int_equal(row_decode(&r, &row, &e), 1);
    assert_true(row.type == ROW_SNAPSHOT && row.len == 6 && row.damaged && !row.pinned &&
                row.whole && row.time.s == 9 && row.time.ns == 10 && row.texts[0].len == 4 &&
                row.texts[1].len == 0);
    assert_int_equal(row_decode(&r, &row, &e), 1);
    assert_true(row.type == ROW_NAME && row.parent == 1 && row.from == 2 && row.to == 3 &&
                row.node == 4 && row.name_len == 1 && row.name[0] == 'n');
    assert_memory_equal(row.watch_id, watch_id, WATCH_ID_LEN);
    assert_int_equal(row_decode(&r, &row, &e), 1);
    assert_true(row.type == ROW_NODE && row.node == 5 && row.from == 6 && row.to == INT64_MAX &&
                row.len == 1 && row.bytes[0] == 'm');
    assert_int_equal(row_decode(&r, &row, &e), 1);
    assert_true(row.type == ROW_MARK && row.len == 4 && row.sequence == 11);
    assert_int_equal(row_decode(&r, &row, &e), 1);
    assert_true(row.type == ROW_PACK && row.pack_id == 7 && row.pack_kind == 2 &&
                row.pack_len == 8 && row.pack_fence == 12 && row.pack_gone == 13 &&
                row.sha256.b[31] == 0x77);
    assert_int_equal(row_decode(&r, &row, &e), 1);
    assert_true(row.type == ROW_WATCH && row.serial == 14 && row.frozen && row.last == 15 &&
                row.node == 16 && row.files == 17 && row.total_bytes == 18 &&
                row.incomplete == 19 && row.sum.b[15] == 0x55 && row.texts[1].len == 4);
    assert_memory_equal(row.texts[2].p, "{}", 2);
    assert_int_equal(row_decode(&r, &row, &e), 0);
    assert_int_equal(survive(&b, decode_rows), 6);
    assert_int_equal(decode_rows((const uint8_t *)"\7", 1), ERR_NOREPO);
    buffer_release(&b);
}

static int decode_checkpoint(const uint8_t *p, size_t n)
{
    struct checkpoint_part c;
    struct buffer rows = BUFFER_INIT;
    int rc = checkpoint_decode(p, n, &c, &rows, &e);

    assert_true(rc == 0 || rows.len == 0);
    buffer_release(&rows);
    return rc;
}

static void test_checkpoints(void **state)
{
    struct checkpoint_part c = {
        .id = 1, .part = 2, .parts = 3, .covers = 4, .next_number = 5, .next_pack = 6};
    struct checkpoint_part back;
    struct buffer rows = BUFFER_INIT, b = BUFFER_INIT, got = BUFFER_INIT;

    memset(c.chain.b, 0xab, HASH_LEN);
    assert_int_equal(checkpoint_encode(&c, "rows", 4, CODEC_ZSTD, &b), 0);
    assert_hex(b.data, b.len,
               "0100000000000000"
               "02000000"
               "03000000"
               "0400000000000000"
               "0500000000000000"
               "0600000000000000"
               "abababababababababababababababababababababababababababababababab"
               "00000000"
               "04000000"
               "726f7773");
    for (int i = 0; i < 20; i++)
        encode_rows(&rows);
    buffer_clear(&b);
    assert_int_equal(checkpoint_encode(&c, rows.data, rows.len, CODEC_ZSTD, &b), 0);
    assert_int_equal(checkpoint_decode(b.data, b.len, &back, &got, &e), 0);
    assert_true(back.id == 1 && back.part == 2 && back.parts == 3 && back.covers == 4 &&
                back.next_number == 5 && back.next_pack == 6 && hash_equal(&back.chain, &c.chain));
    assert_int_equal(got.len, rows.len);
    assert_memory_equal(got.data, rows.data, rows.len);
    assert_int_equal(survive(&b, decode_checkpoint), 0);
    assert_int_equal(checkpoint_part_decode(b.data, b.len, &back, &e), 0);
    store_u32(b.data + 8, 3); /* part 3 of 3, counted from 0 */
    assert_int_equal(decode_checkpoint(b.data, b.len), ERR_DAMAGED);
    store_u32(b.data + 12, 0); /* one of more to come */
    assert_int_equal(decode_checkpoint(b.data, b.len), 0);
    buffer_release(&rows);
    buffer_release(&b);
    buffer_release(&got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commit_round_trip),
        cmocka_unit_test(test_commit_golden),
        cmocka_unit_test(test_broken_commits),
        cmocka_unit_test(test_commit_fields),
        cmocka_unit_test(test_too_long_texts_are_not_encoded),
        cmocka_unit_test(test_kind_words),
        cmocka_unit_test(test_marks),
        cmocka_unit_test(test_ops),
        cmocka_unit_test(test_node_numbers_are_bounded),
        cmocka_unit_test(test_ops_with_bad_names),
        cmocka_unit_test(test_file_lists),
        cmocka_unit_test(test_file_list_golden),
        cmocka_unit_test(test_fence_and_seal),
        cmocka_unit_test(test_prune_and_compaction),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_checkpoints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
