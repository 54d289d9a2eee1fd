#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "store/chunk_list.h"
#include "store/node.h"
#include "store_test.h"

#include "base/banned.h"

static struct error e;

static struct chunk_ref refs[] = {{{{1}}, 1000}, {{{2}}, 500}};
static struct node_xattr xattrs[] = {{"security.capability", (const uint8_t *)"\1\2\0", 3},
                                     {"user.empty", (const uint8_t *)"", 0},
                                     {"user.note", (const uint8_t *)"hi", 2}};
static struct node_extent extents[] = {{0, 1000}, {4096, 500}};

static struct node sample_file(void)
{
    return (struct node){
        .type = NODE_FILE,
        .flags = NODE_SQLITE,
        .mode = 04755,
        .uid = 1000,
        .gid = 65534,
        .mtime_s = -5,
        .mtime_ns = 999999999,
        .size = 8192,
        .depth = 2,
        .ref_count = 2,
        .refs = refs,
        .xattr_count = 3,
        .xattrs = xattrs,
        .extent_count = 2,
        .extents = extents,
        .reason = "kept changing",
        .receipt = "{\"mode\":\"wal\"}",
    };
}

static struct buffer encode(const struct node *n)
{
    struct buffer b = BUFFER_INIT;

    node_encode(n, &b);
    assert_true(buffer_ok(&b));
    return b;
}

static void expect_equal(const struct node *a, const struct node *b)
{
    assert_int_equal(a->type, b->type);
    assert_int_equal(a->flags, b->flags);
    assert_int_equal(a->mode, b->mode);
    assert_int_equal(a->uid, b->uid);
    assert_int_equal(a->gid, b->gid);
    assert_true(a->mtime_s == b->mtime_s && a->mtime_ns == b->mtime_ns);
    assert_true(a->size == b->size && a->rdev == b->rdev);
    assert_int_equal(a->depth, b->depth);
    assert_int_equal(a->ref_count, b->ref_count);
    for (uint32_t i = 0; i < a->ref_count; i++) {
        assert_true(hash_equal(&a->refs[i].id, &b->refs[i].id));
        assert_true(a->refs[i].len == b->refs[i].len);
    }
    assert_int_equal(a->target_len, b->target_len);
    if (a->target)
        assert_string_equal(a->target, b->target);
    assert_int_equal(a->xattr_count, b->xattr_count);
    for (uint32_t i = 0; i < a->xattr_count; i++) {
        assert_string_equal(a->xattrs[i].name, b->xattrs[i].name);
        assert_int_equal(a->xattrs[i].len, b->xattrs[i].len);
        assert_memory_equal(a->xattrs[i].value, b->xattrs[i].value, a->xattrs[i].len);
    }
    assert_int_equal(a->extent_count, b->extent_count);
    for (uint32_t i = 0; i < a->extent_count; i++)
        assert_true(a->extents[i].off == b->extents[i].off &&
                    a->extents[i].len == b->extents[i].len);
    assert_true(!a->reason == !b->reason && !a->receipt == !b->receipt);
    if (a->reason)
        assert_string_equal(a->reason, b->reason);
    if (a->receipt)
        assert_string_equal(a->receipt, b->receipt);
}

static void expect_round_trip(const struct node *n)
{
    struct buffer b = encode(n), again;
    struct node back;
    struct node_brief brief;

    assert_int_equal(node_decode(b.data, b.len, &back, &e), 0);
    expect_equal(n, &back);
    again = encode(&back);
    assert_int_equal(again.len, b.len);
    assert_memory_equal(again.data, b.data, b.len);
    assert_int_equal(node_brief_decode(b.data, b.len, &brief, &e), 0);
    assert_true(brief.type == n->type && brief.flags == n->flags && brief.mode == n->mode &&
                brief.size == n->size);
    node_release(&back);
    buffer_release(&b);
    buffer_release(&again);
}

static void test_round_trips(void **state)
{
    struct node n = sample_file();

    expect_round_trip(&n);
    n = (struct node){.type = NODE_FOLDER, .mode = 01777};
    expect_round_trip(&n);
    n = (struct node){.type = NODE_SYMLINK, .mode = 0777, .target = "../a", .target_len = 4};
    expect_round_trip(&n);
    n = (struct node){.type = NODE_BLOCK_DEVICE, .rdev = UINT64_C(8) << 32 | 1};
    expect_round_trip(&n);
    n = (struct node){.type = NODE_FILE, .flags = NODE_UNREAD, .reason = "permission denied"};
    expect_round_trip(&n);
    n = (struct node){.type = NODE_SOCKET};
    expect_round_trip(&n);
}

static void test_golden(void **state)
{
    static struct chunk_ref one[] = {{{{0}}, 5}};
    static struct node_xattr note[] = {{"user.a", (const uint8_t *)"b", 1}};
    static struct node_extent run[] = {{4096, 5}};
    struct node n = {.type = NODE_FILE,
                     .flags = NODE_CHANGING,
                     .mode = 0644,
                     .uid = 1,
                     .gid = 2,
                     .mtime_s = 1700000000,
                     .mtime_ns = 7,
                     .size = 4101,
                     .ref_count = 1,
                     .refs = one,
                     .xattr_count = 1,
                     .xattrs = note,
                     .extent_count = 1,
                     .extents = run,
                     .reason = "r"};

    memset(one[0].id.b, 0xee, HASH_LEN);
    struct buffer b = encode(&n);
    assert_hex(b.data, b.len,
               "0102a403010280c49fd50c070000008520012200eeeeeeeeeeeeeeeeeeeeeeee"
               "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee05030c06757365722e610100"
               "000062041000100000000000000500000000000000060172");
    buffer_release(&b);
    n = (struct node){.type = NODE_SYMLINK, .mode = 0777, .target = "xy", .target_len = 2};
    b = encode(&n);
    assert_hex(b.data, b.len, "0300ff03000000000000000002027879");
    buffer_release(&b);
    n = (struct node){.type = NODE_CHAR_DEVICE, .rdev = UINT64_C(1) << 32 | 3, .receipt = "{}"};
    b = encode(&n);
    assert_hex(b.data, b.len, "06000000000000000000000508030000000100000007027b7d");
    buffer_release(&b);
}

static int decode_exact(const uint8_t *p, size_t n)
{
    uint8_t *copy = must_alloc(n); /* of its exact size, for ASan */
    struct node back;

    memcpy(copy, p, n);
    int rc = node_decode(copy, n, &back, &e);
    if (rc == 0) {
        /* Whatever decodes is a node that can be written again. */
        struct buffer b = encode(&back);
        buffer_release(&b);
        node_release(&back);
    }
    free(copy);
    return rc;
}

/* Cut at a field's end a node is whole without the field; anywhere else it is damage. */
static void test_truncations(void **state)
{
    struct node n = sample_file();
    struct buffer b = encode(&n);
    size_t whole = 0;

    for (size_t len = 0; len < b.len; len++) {
        int rc = decode_exact(b.data, len);
        assert_true(rc == 0 || rc == ERR_DAMAGED);
        whole += rc == 0;
    }
    assert_int_equal(whole, 5); /* before content, xattrs, extents, reason, receipt */
    buffer_release(&b);
}

static void test_bit_flips_are_survived(void **state)
{
    struct node n = sample_file();
    struct buffer b = encode(&n);

    for (size_t bit = 0; bit < b.len * 8; bit++) {
        b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int rc = decode_exact(b.data, b.len);
        assert_true(rc == 0 || rc == ERR_DAMAGED || rc == ERR_NOREPO);
        b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    buffer_release(&b);
}

static void put_field(struct buffer *b, uint8_t tag, const char *bytes, uint32_t len)
{
    put_u8(b, tag);
    put_varint(b, len);
    buffer_append(b, bytes, len);
}

static void test_fields_of_newer_versions(void **state)
{
    struct node n = {.type = NODE_FOLDER};
    struct buffer b = encode(&n);
    size_t len = b.len;

    put_field(&b, 0x40, "future", 6);
    assert_int_equal(decode_exact(b.data, b.len), 0);
    put_field(&b, 0x40, "twice", 5);
    assert_int_equal(decode_exact(b.data, b.len), ERR_DAMAGED);
    b.len = len;
    put_field(&b, 0x81, "must know", 9);
    assert_int_equal(decode_exact(b.data, b.len), ERR_NOREPO);
    b.len = len;
    b.data[0] = 8; /* type */
    assert_int_equal(decode_exact(b.data, b.len), ERR_NOREPO);
    buffer_release(&b);
}

static void test_xattr_fields_are_bounded(void **state)
{
    struct node n = {.type = NODE_FILE};
    struct buffer b = encode(&n);
    size_t len = b.len;

    put_field(&b, 3, "", 0);
    assert_int_equal(decode_exact(b.data, b.len), ERR_DAMAGED);
    b.len = len;
    put_field(&b, 3, "\0\0\0\0\0", 5); /* no name */
    assert_int_equal(decode_exact(b.data, b.len), ERR_DAMAGED);
    b.len = len;
    put_field(&b, 3, "\1a\0\0\0\0\1a\0\0\0\0", 12); /* the same name twice */
    assert_int_equal(decode_exact(b.data, b.len), ERR_DAMAGED);
    b.len = len;
    put_field(&b, 3, "\1a\xff\xff\xff\x7f", 6);
    assert_int_equal(decode_exact(b.data, b.len), ERR_DAMAGED);
    b.len = len;
    put_field(&b, 3, "\2a\0\0\0\0\0", 7); /* NUL inside */
    assert_int_equal(decode_exact(b.data, b.len), ERR_DAMAGED);
    /* A great many tiny ones: refused by count, not by memory. */
    b.len = len;
    struct buffer many = BUFFER_INIT;
    for (uint32_t i = 0; i < NODE_XATTRS_MAX + 1; i++) {
        char name[5];
        text_hex(&i, 2, name);
        put_u8(&many, 4);
        buffer_append(&many, name, 4);
        put_u32(&many, 0);
    }
    put_field(&b, 3, (const char *)many.data, (uint32_t)many.len);
    assert_int_equal(decode_exact(b.data, b.len), ERR_DAMAGED);
    buffer_release(&many);
    buffer_release(&b);
}

static void expect_not_encoded(const struct node *n)
{
    struct buffer b = BUFFER_INIT;

    node_encode(n, &b);
    assert_false(buffer_ok(&b));
    buffer_release(&b);
}

static void test_encoder_refuses_what_could_not_be_read_back(void **state)
{
    struct chunk_ref many[NODE_INLINE_REFS + 1];
    struct node_xattr twice[] = {{"user.a", NULL, 0}, {"user.a", NULL, 0}};
    struct node_extent overlap[] = {{0, 10}, {9, 10}};
    struct node n = {.type = NODE_FILE, .ref_count = NODE_INLINE_REFS + 1, .refs = many};

    memset(many, 1, sizeof(many));
    expect_not_encoded(&n);
    many[0].len = many[1].len = INT64_MAX;
    n.ref_count = 2;
    expect_not_encoded(&n);
    many[0].len = 0;
    n.ref_count = 1;
    expect_not_encoded(&n);
    many[0].len = 5;
    n.type = NODE_FOLDER;
    expect_not_encoded(&n);
    n = (struct node){.type = NODE_FILE, .depth = 1};
    expect_not_encoded(&n);
    n = (struct node){.type = NODE_FILE, .xattr_count = 2, .xattrs = twice};
    expect_not_encoded(&n);
    n = (struct node){.type = NODE_FILE, .size = 100, .extent_count = 2, .extents = overlap};
    expect_not_encoded(&n);
    overlap[1] = (struct node_extent){10, 91};
    expect_not_encoded(&n);
    overlap[1] = (struct node_extent){10, UINT64_MAX - 5};
    expect_not_encoded(&n);
    n = (struct node){.type = NODE_FILE, .target = "x", .target_len = 1};
    expect_not_encoded(&n);
    n = (struct node){.type = NODE_SYMLINK, .target = "", .target_len = 0};
    expect_not_encoded(&n);
    n = (struct node){.type = NODE_FILE, .rdev = 1};
    expect_not_encoded(&n);
    n = (struct node){.type = NODE_FILE, .mode = 010000};
    expect_not_encoded(&n);
    n = (struct node){.type = NODE_FILE, .mtime_ns = 1000000000};
    expect_not_encoded(&n);
    n = (struct node){.type = 0};
    expect_not_encoded(&n);
    n = (struct node){.type = NODE_BLOCK_DEVICE + 1};
    expect_not_encoded(&n);
}

static bool equal_but_times(const struct node *a, const struct node *b)
{
    struct buffer x = encode(a), y = encode(b);
    bool same = node_equal_but_times(x.data, x.len, y.data, y.len);

    assert_int_equal(node_equal_but_times(y.data, y.len, x.data, x.len), same);
    buffer_release(&x);
    buffer_release(&y);
    return same;
}

static void test_equal_but_times(void **state)
{
    struct node a = sample_file(), b = a;
    struct chunk_ref other[] = {{{{1}}, 1000}, {{{3}}, 500}};

    b.mtime_s = 7;
    b.mtime_ns = 1;
    assert_true(equal_but_times(&a, &b));
    b.receipt = "{\"mode\":\"wal\",\"pinned_ms\":3}";
    assert_true(equal_but_times(&a, &b));
    b.receipt = NULL;
    assert_true(equal_but_times(&a, &b));
    b.mode = 0644;
    assert_false(equal_but_times(&a, &b));
    b = a;
    b.size = 8193;
    assert_false(equal_but_times(&a, &b));
    b = a;
    b.refs = other;
    assert_false(equal_but_times(&a, &b));
    b = a;
    b.xattr_count = 2;
    assert_false(equal_but_times(&a, &b));
    b = a;
    b.reason = NULL;
    assert_false(equal_but_times(&a, &b));
    b = a;
    b.flags = 0;
    assert_false(equal_but_times(&a, &b));
    assert_false(node_equal_but_times("", 0, "", 0));
}

static void test_names(void **state)
{
    char name[257];

    memset(name, 'a', sizeof(name));
    assert_true(node_name_ok(name, 255));
    assert_false(node_name_ok(name, 256));
    assert_false(node_name_ok(name, 0));
    assert_false(node_name_ok(".", 1));
    assert_false(node_name_ok("..", 2));
    assert_true(node_name_ok("...", 3));
    assert_true(node_name_ok(".a", 2));
    assert_true(node_name_ok("\xff\n", 2));
    assert_false(node_name_ok("a/b", 3));
    assert_false(node_name_ok("a\0b", 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_truncations),
        cmocka_unit_test(test_bit_flips_are_survived),
        cmocka_unit_test(test_fields_of_newer_versions),
        cmocka_unit_test(test_xattr_fields_are_bounded),
        cmocka_unit_test(test_encoder_refuses_what_could_not_be_read_back),
        cmocka_unit_test(test_equal_but_times),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
