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
    struct block b;

    sample(raw, chunks);
    for (int codec = CODEC_STORED; codec <= CODEC_ZSTD; codec++)
        for (int with_base = 0; with_base < 2; with_base++) {
            struct buffer out = BUFFER_INIT;
            assert_int_equal(block_encode(chunks, 3, raw, LEN, codec, CODEC_FAST,
                                          with_base ? &base_id : NULL, raw, with_base ? LEN : 0,
                                          &out, &e),
                             0);
            assert_int_equal(block_decode(out.data, out.len, &b, &e), 0);
            assert_int_equal(b.codec, codec);
            assert_int_equal(b.has_base, with_base && codec != CODEC_STORED);
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
    struct block_chunk chunks[2] = {{.raw_len = 3}, {.raw_len = 2}};
    struct buffer out = BUFFER_INIT;

    memset(chunks[0].id.b, 0x11, HASH_LEN);
    memset(chunks[1].id.b, 0x22, HASH_LEN);
    assert_int_equal(
        block_encode(chunks, 2, "abcde", 5, CODEC_STORED, CODEC_FAST, NULL, NULL, 0, &out, &e), 0);
    assert_hex(out.data, out.len,
               "0000000002000000"
               "0500000005000000"
               "1111111111111111111111111111111111111111111111111111111111111111"
               "03000000"
               "2222222222222222222222222222222222222222222222222222222222222222"
               "02000000"
               "6162636465");
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

static void test_truncation_and_excess_are_refused(void **state)
{
    uint8_t raw[LEN];
    struct block_chunk chunks[3];
    const struct block_base base_id = {.id = {{7}}, .rank = 3, .depth = 2};
    struct buffer out = BUFFER_INIT;

    sample(raw, chunks);
    block_encode(chunks, 3, raw, LEN, CODEC_ZSTD, CODEC_FAST, &base_id, raw, LEN, &out, &e);
    for (size_t n = 0; n < out.len; n++)
        expect_refused(out.data, n, ERR_DAMAGED);
    put_u8(&out, 0);
    expect_refused(out.data, out.len, ERR_DAMAGED);
    buffer_release(&out);
}

/* A flipped bit is refused or leads to bytes whose hash differs; only the two bytes that readers
 * ignore, and ids themselves, may change without the expansion noticing. */
static void test_bit_flips_never_pass_for_the_same_chunks(void **state)
{
    uint8_t raw[LEN], back[LEN + 1];
    struct block_chunk chunks[3];
    struct buffer out = BUFFER_INIT;

    sample(raw, chunks);
    block_encode(chunks, 3, raw, LEN, CODEC_ZSTD, CODEC_FAST, NULL, NULL, 0, &out, &e);
    for (size_t bit = 0; bit < out.len * 8; bit++) {
        if (bit / 8 == 2 || bit / 8 == 3)
            continue;
        out.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        struct block b;
        bool same = false;
        if (block_decode(out.data, out.len, &b, &e) == 0) {
            same = b.raw_len == LEN && b.count == 3 && block_expand(&b, NULL, 0, back, &e) == 0;
            for (uint32_t i = 0; same && i < 3; i++) {
                struct hash h;
                hash_sha256(back + b.chunks[i].raw_off, b.chunks[i].raw_len, &h);
                same = hash_equal(&h, &b.chunks[i].id);
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

static void test_lying_lengths_are_refused(void **state)
{
    uint8_t raw[LEN];
    struct block_chunk chunks[3];
    struct buffer out = BUFFER_INIT;

    sample(raw, chunks);
    block_encode(chunks, 3, raw, LEN, CODEC_STORED, CODEC_FAST, NULL, NULL, 0, &out, &e);
    store_u32(out.data + 4, BLOCK_CHUNKS_MAX + 1); /* count */
    expect_refused(out.data, out.len, ERR_DAMAGED);
    store_u32(out.data + 4, 0);
    expect_refused(out.data, out.len, ERR_DAMAGED);
    store_u32(out.data + 4, BLOCK_CHUNKS_MAX); /* allowed, but not there */
    expect_refused(out.data, out.len, ERR_DAMAGED);
    store_u32(out.data + 4, 3);
    store_u32(out.data + 8, BLOCK_RAW_MAX + 1); /* raw length */
    expect_refused(out.data, out.len, ERR_DAMAGED);
    store_u32(out.data + 8, LEN + 1);
    expect_refused(out.data, out.len, ERR_DAMAGED);
    store_u32(out.data + 8, LEN);
    store_u32(out.data + 16 + 32, 0); /* the first chunk's length */
    expect_refused(out.data, out.len, ERR_DAMAGED);
    store_u32(out.data + 16 + 32, UINT32_MAX);
    expect_refused(out.data, out.len, ERR_DAMAGED);
    store_u32(out.data + 16 + 32, 1000);
    out.data[0] = 3; /* a codec and a flag of a newer version */
    expect_refused(out.data, out.len, ERR_NOREPO);
    out.data[0] = 0;
    out.data[1] = 2;
    expect_refused(out.data, out.len, ERR_NOREPO);
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
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_golden_with_base),
        cmocka_unit_test(test_truncation_and_excess_are_refused),
        cmocka_unit_test(test_bit_flips_never_pass_for_the_same_chunks),
        cmocka_unit_test(test_lying_lengths_are_refused),
        cmocka_unit_test(test_encoder_refuses_what_does_not_add_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
