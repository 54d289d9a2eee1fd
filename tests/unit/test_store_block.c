#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "store/block.h"
#include "store_test.h"

#include "base/banned.h"

enum { LEN = 3000 };

static struct error e;

/* Three chunks of 1000, 1999 and 1 bytes. */
static void sample(uint8_t *raw, struct block_chunk chunks[3])
{
    static const uint32_t lengths[] = {1000, 1999, 1};
    uint32_t off = 0;

    fill_text(raw, LEN, 1);
    for (int i = 0; i < 3; i++) {
        chunks[i] = (struct block_chunk){.raw_off = off, .raw_len = lengths[i]};
        hash_sha256(raw + off, lengths[i], &chunks[i].id);
        off += lengths[i];
    }
}

static void test_round_trip(void **state)
{
    uint8_t raw[LEN], back[LEN];
    struct block_chunk chunks[3];
    const struct block_base base_id = {.id = {{7}}, .rank = 3, .depth = 2};
    struct buffer named = BUFFER_INIT;
    struct block b;

    sample(raw, chunks);
    for (int codec = CODEC_STORED; codec <= CODEC_ZSTD; codec++)
        for (int with_base = 0; with_base < 2; with_base++) {
            struct buffer out = BUFFER_INIT;
            assert_int_equal(block_encode(chunks, 3, raw, LEN, codec, CODEC_FAST,
                                          with_base ? &base_id : NULL, raw, with_base ? LEN : 0,
                                          &out, &e),
                             0);
            assert_int_equal(block_decode_ids(out.data, out.len, &b, &named, &e), 0);
            assert_int_equal(b.codec, codec);
            assert_int_equal(b.has_base, with_base && codec != CODEC_STORED);
            assert_int_equal(b.bare, !b.has_base);
            assert_int_equal(b.count, 3);
            assert_int_equal(b.raw_len, LEN);
            for (int i = 0; i < 3; i++) {
                assert_true(hash_equal(&b.chunks[i].id, &chunks[i].id));
                assert_int_equal(b.chunks[i].raw_off, chunks[i].raw_off);
                assert_int_equal(b.chunks[i].raw_len, chunks[i].raw_len);
            }
            if (b.has_base) {
                assert_true(hash_equal(&b.base.id, &base_id.id));
                assert_int_equal(b.base.rank, 3);
                assert_int_equal(b.base.depth, 2);
                assert_int_equal(block_expand(&b, NULL, 0, back, &e), ERR_DAMAGED);
            }
            assert_int_equal(block_expand(&b, raw, LEN, back, &e), 0);
            assert_memory_equal(back, raw, LEN);
            block_release(&b);
            buffer_release(&out);
        }
    buffer_release(&named);
}

/* Of chunks that are not small the ids are no burden, and they save whoever looks for them an
 * expansion. */
static void test_ids_are_left_out_where_chunks_are_small(void **state)
{
    static const struct {
        uint32_t count, each;
        bool bare;
    } cases[] = {{1, 100, false}, {2, 100, true}, {4, 16383, true}, {4, 16384, false}};

    for (size_t n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
        struct block_chunk chunks[4];
        struct buffer out = BUFFER_INIT;
        uint32_t len = cases[n].count * cases[n].each;
        uint8_t *raw = must_alloc(len);
        struct block b;

        fill_text(raw, len, 4);
        for (uint32_t i = 0; i < cases[n].count; i++)
            chunks[i] = (struct block_chunk){.id = {{(uint8_t)i}}, .raw_len = cases[n].each};
        assert_int_equal(block_encode(chunks, cases[n].count, raw, len, CODEC_ZSTD, CODEC_FAST,
                                      NULL, NULL, 0, &out, &e),
                         0);
        assert_int_equal(block_decode(out.data, out.len, &b, &e), 0);
        assert_int_equal(b.bare, cases[n].bare);
        block_release(&b);
        buffer_release(&out);
        free(raw);
    }
}

/* A delta that does not pay must not tie its block to a base. */
static void test_base_is_dropped_when_it_does_not_help(void **state)
{
    uint8_t raw[LEN], base[LEN], back[LEN];
    struct block_chunk chunk = {.raw_len = LEN};
    const struct block_base base_id = {.id = {{7}}, .rank = 3, .depth = 2};
    struct buffer out = BUFFER_INIT;
    struct block b;

    fill_random(raw, LEN, 2);
    fill_random(base, LEN, 3);
    assert_int_equal(
        block_encode(&chunk, 1, raw, LEN, CODEC_ZSTD, CODEC_FAST, &base_id, base, LEN, &out, &e),
        0);
    assert_int_equal(block_decode(out.data, out.len, &b, &e), 0);
    assert_int_equal(b.codec, CODEC_STORED);
    assert_false(b.has_base);
    assert_int_equal(block_expand(&b, NULL, 0, back, &e), 0);
    assert_memory_equal(back, raw, LEN);
    block_release(&b);
    buffer_release(&out);
}

static void test_golden(void **state)
{
    struct block_chunk chunk = {.raw_len = 5};
    struct buffer out = BUFFER_INIT;

    memset(chunk.id.b, 0x11, HASH_LEN);
    assert_int_equal(
        block_encode(&chunk, 1, "abcde", 5, CODEC_STORED, CODEC_FAST, NULL, NULL, 0, &out, &e), 0);
    assert_hex(out.data, out.len,
               "0000000001000000"
               "0500000005000000"
               "1111111111111111111111111111111111111111111111111111111111111111"
               "05000000"
               "6162636465");
    buffer_release(&out);
}

static void test_golden_bare(void **state)
{
    struct block_chunk chunks[2] = {{.raw_len = 200}, {.raw_len = 2}};
    struct buffer out = BUFFER_INIT;
    uint8_t raw[202];

    memset(raw, 'x', sizeof(raw));
    assert_int_equal(block_encode(chunks, 2, raw, sizeof(raw), CODEC_STORED, CODEC_FAST, NULL, NULL,
                                  0, &out, &e),
                     0);
    assert_int_equal(out.len, 16 + 3 + sizeof(raw));
    assert_hex(out.data, 16 + 3,
               "0002000002000000"
               "ca000000ca000000"
               "c80102");
    assert_memory_equal(out.data + 16 + 3, raw, sizeof(raw));
    buffer_release(&out);
}

static void test_golden_with_base(void **state)
{
    uint8_t raw[64] = {0}, head[16];
    struct block_chunk chunk = {.raw_len = sizeof(raw)};
    struct block_base base_id = {.rank = 5, .depth = 2};
    struct buffer out = BUFFER_INIT;

    memset(base_id.id.b, 0x33, HASH_LEN);
    assert_int_equal(block_encode(&chunk, 1, raw, sizeof(raw), CODEC_DEFLATE, CODEC_FAST, &base_id,
                                  raw, sizeof(raw), &out, &e),
                     0);
    memcpy(head, "\1\1\5\2\1\0\0\0\x40\0\0\0", 12);
    store_u32(head + 12, (uint32_t)(out.len - 16 - 32 - 36));
    assert_memory_equal(out.data, head, sizeof(head));
    assert_memory_equal(out.data + 16, base_id.id.b, HASH_LEN);
    buffer_release(&out);
}

static void expect_refused(const uint8_t *p, size_t n, int code)
{
    uint8_t *copy = must_alloc(n); /* of its exact size, for ASan */
    struct block b;

    memcpy(copy, p, n);
    assert_int_equal(block_decode(copy, n, &b, &e), code);
    free(copy);
}

static void expect_refused_ids(const uint8_t *p, size_t n)
{
    struct buffer raw = BUFFER_INIT;
    struct block b;

    assert_int_equal(block_decode_ids(p, n, &b, &raw, &e), ERR_DAMAGED);
    buffer_release(&raw);
}

static void test_truncation_and_excess_are_refused(void **state)
{
    uint8_t raw[LEN];
    struct block_chunk chunks[3];
    const struct block_base base_id = {.id = {{7}}, .rank = 3, .depth = 2};
    struct buffer out = BUFFER_INIT;

    sample(raw, chunks);
    for (int bare = 0; bare < 2; bare++) {
        buffer_clear(&out);
        block_encode(chunks, 3, raw, LEN, CODEC_ZSTD, CODEC_FAST, bare ? NULL : &base_id, raw,
                     bare ? 0 : LEN, &out, &e);
        for (size_t n = 0; n < out.len; n++)
            expect_refused(out.data, n, ERR_DAMAGED);
        put_u8(&out, 0);
        expect_refused(out.data, out.len, ERR_DAMAGED);
    }
    buffer_release(&out);
}

/* A flipped bit is refused or leads to bytes whose hash differs; only the two bytes that readers
 * ignore, and ids themselves, may change without the expansion noticing. Of a bare block the ids
 * that somebody asks for are those it was made of. */
static void flip_bits(bool with_base)
{
    uint8_t raw[LEN], back[LEN + 1];
    const struct block_base base_id = {.id = {{7}}, .rank = 3, .depth = 2};
    struct block_chunk chunks[3];
    struct buffer out = BUFFER_INIT;

    sample(raw, chunks);
    block_encode(chunks, 3, raw, LEN, CODEC_ZSTD, CODEC_FAST, with_base ? &base_id : NULL, raw,
                 with_base ? LEN : 0, &out, &e);
    for (size_t bit = 0; bit < out.len * 8; bit++) {
        if (bit / 8 == 2 || bit / 8 == 3)
            continue;
        out.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        struct block b;
        bool same = false;
        if (block_decode(out.data, out.len, &b, &e) == 0) {
            same = b.raw_len == LEN && b.count == 3 && block_expand(&b, raw, LEN, back, &e) == 0;
            for (uint32_t i = 0; same && i < 3; i++) {
                struct hash h;
                hash_sha256(back + b.chunks[i].raw_off, b.chunks[i].raw_len, &h);
                same = hash_equal(&h, b.bare ? &chunks[i].id : &b.chunks[i].id);
            }
            block_release(&b);
        }
        /* zstd's frame header has bits without meaning to the content (unused descriptor bit). */
        if (same)
            assert_memory_equal(back, raw, LEN);
        out.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    buffer_release(&out);
}

static void test_bit_flips_never_pass_for_the_same_chunks(void **state)
{
    flip_bits(false);
    flip_bits(true);
}

static void test_lying_lengths_are_refused(void **state)
{
    uint8_t raw[LEN];
    struct block_chunk chunk = {.raw_len = LEN};
    struct buffer out = BUFFER_INIT;

    fill_text(raw, LEN, 1);
    block_encode(&chunk, 1, raw, LEN, CODEC_STORED, CODEC_FAST, NULL, NULL, 0, &out, &e);
    store_u32(out.data + 4, BLOCK_CHUNKS_MAX + 1); /* count */
    expect_refused(out.data, out.len, ERR_DAMAGED);
    store_u32(out.data + 4, 0);
    expect_refused(out.data, out.len, ERR_DAMAGED);
    store_u32(out.data + 4, BLOCK_CHUNKS_MAX); /* allowed, but not there */
    expect_refused(out.data, out.len, ERR_DAMAGED);
    store_u32(out.data + 4, 1);
    store_u32(out.data + 8, BLOCK_RAW_MAX + 1); /* raw length */
    expect_refused(out.data, out.len, ERR_DAMAGED);
    store_u32(out.data + 8, LEN + 1);
    expect_refused(out.data, out.len, ERR_DAMAGED);
    store_u32(out.data + 8, LEN);
    store_u32(out.data + 16 + 32, 0); /* the chunk's length */
    expect_refused(out.data, out.len, ERR_DAMAGED);
    store_u32(out.data + 16 + 32, UINT32_MAX);
    expect_refused(out.data, out.len, ERR_DAMAGED);
    store_u32(out.data + 16 + 32, LEN);
    out.data[0] = 3; /* a codec and a flag of a newer version */
    expect_refused(out.data, out.len, ERR_NOREPO);
    out.data[0] = 0;
    out.data[1] = 4;
    expect_refused(out.data, out.len, ERR_NOREPO);
    buffer_release(&out);
}

static void test_lying_lengths_of_a_bare_block_are_refused(void **state)
{
    uint8_t raw[LEN];
    struct block_chunk chunks[3];
    struct buffer out = BUFFER_INIT;

    sample(raw, chunks); /* e8 07, cf 0f, 01 */
    block_encode(chunks, 3, raw, LEN, CODEC_STORED, CODEC_FAST, NULL, NULL, 0, &out, &e);
    assert_memory_equal(out.data + 16, "\xe8\x07\xcf\x0f\x01", 5);
    store_u32(out.data + 4, BLOCK_CHUNKS_MAX); /* allowed, but not there */
    expect_refused(out.data, out.len, ERR_DAMAGED);
    store_u32(out.data + 4, 3);
    out.data[20] = 0;
    expect_refused(out.data, out.len, ERR_DAMAGED);
    out.data[20] = 2; /* more than are left */
    expect_refused(out.data, out.len, ERR_DAMAGED);
    out.data[20] = 1;
    out.data[17] = 0; /* longer than it need be */
    expect_refused(out.data, out.len, ERR_DAMAGED);
    out.data[17] = 7;
    out.data[0] = CODEC_ZSTD; /* which it is not */
    expect_refused_ids(out.data, out.len);
    out.data[0] = CODEC_STORED;
    out.data[1] = BLOCK_BARE | BLOCK_HAS_BASE; /* the two do not go together */
    expect_refused(out.data, out.len, ERR_DAMAGED);
    out.data[0] = CODEC_ZSTD;
    expect_refused(out.data, out.len, ERR_DAMAGED);
    buffer_release(&out);
}

static void test_encoder_refuses_what_does_not_add_up(void **state)
{
    struct block_chunk chunks[2] = {{.raw_len = 3}, {.raw_len = 3}};
    struct buffer out = BUFFER_INIT;

    assert_int_equal(
        block_encode(chunks, 2, "abcde", 5, CODEC_ZSTD, CODEC_FAST, NULL, NULL, 0, &out, &e),
        ERR_FAILED);
    assert_int_equal(
        block_encode(chunks, 0, "", 0, CODEC_ZSTD, CODEC_FAST, NULL, NULL, 0, &out, &e),
        ERR_FAILED);
    buffer_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_base_is_dropped_when_it_does_not_help),
        cmocka_unit_test(test_ids_are_left_out_where_chunks_are_small),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_golden_bare),
        cmocka_unit_test(test_golden_with_base),
        cmocka_unit_test(test_truncation_and_excess_are_refused),
        cmocka_unit_test(test_bit_flips_never_pass_for_the_same_chunks),
        cmocka_unit_test(test_lying_lengths_are_refused),
        cmocka_unit_test(test_lying_lengths_of_a_bare_block_are_refused),
        cmocka_unit_test(test_encoder_refuses_what_does_not_add_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
