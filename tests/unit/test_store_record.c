#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "store/record.h"
#include "store_test.h"

#include "base/banned.h"

static struct error e;

static struct pack_header sample_header(void)
{
    struct pack_header h = {
        .version = FORMAT_VERSION,
        .compat = 4,
        .pack_id = UINT64_C(0x1122334455667788),
        .kind = PACK_LOG,
        .id_algorithm = 1,
        .created_s = -2,
        .created_ns = 123456789,
    };

    for (int i = 0; i < 16; i++)
        h.repo_id[i] = (uint8_t)(0xa0 + i);
    return h;
}

static void test_pack_header_golden(void **state)
{
    struct pack_header h = sample_header(), back;
    uint8_t bytes[PACK_HEADER_LEN];

    pack_header_encode(&h, bytes);
    assert_hex(bytes, sizeof(bytes),
               "574b5041434b0d0a010000008000000000000000000000000000000000000000"
               "0400000000000000a0a1a2a3a4a5a6a7a8a9aaabacadaeaf8877665544332211"
               "0101000000000000feffffffffffffff15cd5b07000000000000000000000000"
               "0000000000000000000000000000000000000000000000003e1fb3264247fc8b");
    assert_int_equal(pack_header_decode(bytes, sizeof(bytes), &back, true, &e), 0);
    assert_int_equal(back.version, 1);
    assert_true(back.compat == 4 && back.incompat == 0 && back.ro_compat == 0);
    assert_memory_equal(back.repo_id, h.repo_id, 16);
    assert_true(back.pack_id == h.pack_id);
    assert_int_equal(back.kind, PACK_LOG);
    assert_int_equal(back.id_algorithm, 1);
    assert_int_equal(back.key_id, 0);
    assert_true(back.created_s == -2);
    assert_int_equal(back.created_ns, 123456789);
}

static void test_every_broken_pack_header_is_refused(void **state)
{
    struct pack_header h = sample_header(), back;
    uint8_t bytes[PACK_HEADER_LEN];

    pack_header_encode(&h, bytes);
    for (size_t n = 0; n < sizeof(bytes); n++) {
        uint8_t *cut = must_alloc(n);
        memcpy(cut, bytes, n);
        assert_int_equal(pack_header_decode(cut, n, &back, false, &e), ERR_DAMAGED);
        free(cut);
    }
    for (size_t bit = 0; bit < sizeof(bytes) * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(pack_header_decode(bytes, sizeof(bytes), &back, false, &e), ERR_DAMAGED);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static int decode_changed(const struct pack_header *h, bool for_writing)
{
    uint8_t bytes[PACK_HEADER_LEN];
    struct pack_header back;

    pack_header_encode(h, bytes);
    return pack_header_decode(bytes, sizeof(bytes), &back, for_writing, &e);
}

/* What only a newer version can have written is named, not called damage. */
static void test_unknown_features_are_refused_by_name(void **state)
{
    struct pack_header h = sample_header();

    h.incompat = UINT64_C(1) << 40;
    assert_int_equal(decode_changed(&h, false), ERR_NOREPO);
    assert_non_null(strstr(e.message, "incompat features 0x10000000000"));
    h = sample_header();
    h.ro_compat = 2;
    assert_int_equal(decode_changed(&h, false), 0);
    assert_int_equal(decode_changed(&h, true), ERR_NOREPO);
    assert_non_null(strstr(e.message, "ro-compat features 0x2"));
    h = sample_header();
    h.compat = UINT64_MAX;
    assert_int_equal(decode_changed(&h, true), 0);
    h.version = 2;
    assert_int_equal(decode_changed(&h, false), ERR_NOREPO);
    assert_non_null(strstr(e.message, "format 2"));
    h = sample_header();
    h.kind = 3;
    assert_int_equal(decode_changed(&h, false), ERR_NOREPO);
    h = sample_header();
    h.id_algorithm = 2;
    assert_int_equal(decode_changed(&h, false), ERR_NOREPO);
    h = sample_header();
    h.key_id = 1;
    assert_int_equal(decode_changed(&h, false), ERR_NOREPO);
}

static void test_record_golden(void **state)
{
    struct buffer b = BUFFER_INIT;
    struct record_header h;

    record_encode(RECORD_MARK, 77, 5, 128, "hello", 5, &b);
    assert_true(buffer_ok(&b));
    assert_int_equal(b.len, record_span(5));
    assert_hex(b.data, b.len,
               "574b5231040000004d00000000000000050000000000000009add43a4bb2773b"
               "7b5ff3208a2e60c368656c6c6f000000");
    assert_int_equal(record_header_decode(b.data, 5, 128, &h, &e), 0);
    assert_int_equal(h.type, RECORD_MARK);
    assert_true(h.sequence == 77);
    assert_int_equal(h.body_len, 5);
    assert_true(record_body_ok(&h, 5, 128, b.data + RECORD_HEADER_LEN));
    buffer_release(&b);
}

static void test_finishing_in_place_gives_the_same(void **state)
{
    struct buffer want = BUFFER_INIT, b = BUFFER_INIT;
    const char body[] = "some body bytes";

    for (size_t n = 0; n < sizeof(body); n++) {
        buffer_clear(&want);
        buffer_clear(&b);
        record_encode(RECORD_BLOCK, n, 5, 128, body, n, &want);
        assert_non_null(buffer_grow(&b, RECORD_HEADER_LEN));
        buffer_append(&b, body, n);
        record_finish(RECORD_BLOCK, n, 5, 128, &b);
        assert_true(buffer_ok(&want) && buffer_ok(&b));
        assert_int_equal(b.len, want.len);
        assert_memory_equal(b.data, want.data, want.len);
    }
    buffer_release(&want);
    buffer_release(&b);
}

static void test_spans_are_aligned(void **state)
{
    assert_true(record_span(0) == 40);
    assert_true(record_span(1) == 48);
    assert_true(record_span(8) == 48);
    assert_true(record_span(9) == 56);
    assert_true(record_span(RECORD_BODY_MAX) == RECORD_BODY_MAX + 40);
    assert_true(record_span(UINT32_MAX) == UINT64_C(0x100000028));
}

static void test_every_bit_of_a_record_counts(void **state)
{
    struct buffer b = BUFFER_INIT;
    struct record_header h;

    record_encode(RECORD_COMMIT, 1, 2, 4096, "some body bytes", 15, &b);
    for (size_t bit = 0; bit < (RECORD_HEADER_LEN + 15) * 8; bit++) {
        b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int rc = record_header_decode(b.data, 2, 4096, &h, &e);
        if (bit < RECORD_HEADER_LEN * 8)
            assert_int_equal(rc, ERR_DAMAGED);
        else
            assert_true(rc == 0 && !record_body_ok(&h, 2, 4096, b.data + RECORD_HEADER_LEN));
        b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    buffer_release(&b);
}

/* Pack bytes inside some file's content stand elsewhere than where they were written. */
static void test_record_counts_only_at_its_place(void **state)
{
    struct buffer b = BUFFER_INIT;
    struct record_header h;

    record_encode(RECORD_COMMIT, 1, 2, 4096, "body", 4, &b);
    assert_int_equal(record_header_decode(b.data, 2, 4096, &h, &e), 0);
    for (uint64_t offset = 0; offset < 65536; offset += 8)
        if (offset != 4096)
            assert_int_equal(record_header_decode(b.data, 2, offset, &h, &e), ERR_DAMAGED);
    for (uint64_t pack = 0; pack < 1000; pack++)
        if (pack != 2)
            assert_int_equal(record_header_decode(b.data, pack, 4096, &h, &e), ERR_DAMAGED);
    buffer_release(&b);
}

static void test_unknown_types_by_their_half(void **state)
{
    struct record_header h;

    for (unsigned type = 0; type < 256; type++) {
        struct buffer b = BUFFER_INIT;
        record_encode((uint8_t)type, 1, 2, 128, NULL, 0, &b);
        bool usable = (type >= RECORD_BLOCK && type <= RECORD_SEAL) || type >= 128;
        assert_int_equal(record_header_decode(b.data, 2, 128, &h, &e), usable ? 0 : ERR_NOREPO);
        buffer_release(&b);
    }
}

/* The seed of both guards, as FORMAT.md gives it. */
static uint64_t seed_by_the_book(uint64_t pack_id, uint64_t offset)
{
    uint64_t z = pack_id * UINT64_C(0x9e3779b97f4a7c15) + offset;

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Set one byte of a record's header as a newer version would, with a guard that matches. */
static int decode_with_byte(int at, uint8_t value)
{
    struct buffer b = BUFFER_INIT;
    struct record_header h;

    record_encode(RECORD_MARK, 1, 2, 128, NULL, 0, &b);
    b.data[at] = value;
    store_u64(b.data + 32, hash_guard(b.data, 32, seed_by_the_book(2, 128)));
    int rc = record_header_decode(b.data, 2, 128, &h, &e);
    buffer_release(&b);
    return rc;
}

static void test_header_bytes_of_newer_versions(void **state)
{
    assert_int_equal(decode_with_byte(5, 1), ERR_NOREPO);
    assert_int_equal(decode_with_byte(6, 1), 0);
    assert_int_equal(decode_with_byte(20, 1), 0);
    assert_int_equal(decode_with_byte(19, 0x7f), ERR_DAMAGED); /* a body beyond the bound */
}

static void test_too_long_a_body_is_refused(void **state)
{
    struct buffer b = BUFFER_INIT;
    uint8_t *body = must_alloc(RECORD_BODY_MAX + 1);

    memset(body, 1, RECORD_BODY_MAX + 1);
    record_encode(RECORD_BLOCK, 0, 1, 128, body, RECORD_BODY_MAX, &b);
    assert_true(buffer_ok(&b));
    record_encode(RECORD_BLOCK, 0, 1, 128, body, RECORD_BODY_MAX + 1, &b);
    assert_false(buffer_ok(&b));
    buffer_release(&b);
    free(body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pack_header_golden),
        cmocka_unit_test(test_every_broken_pack_header_is_refused),
        cmocka_unit_test(test_unknown_features_are_refused_by_name),
        cmocka_unit_test(test_record_golden),
        cmocka_unit_test(test_finishing_in_place_gives_the_same),
        cmocka_unit_test(test_spans_are_aligned),
        cmocka_unit_test(test_every_bit_of_a_record_counts),
        cmocka_unit_test(test_record_counts_only_at_its_place),
        cmocka_unit_test(test_unknown_types_by_their_half),
        cmocka_unit_test(test_header_bytes_of_newer_versions),
        cmocka_unit_test(test_too_long_a_body_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
