#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/error.h"
#include "store/codec.h"
#include "store_test.h"

#include <pthread.h>

#include "base/banned.h"

enum { LEN = 200000 };

static struct error e;

static void expect_back(int codec, const struct buffer *packed, const void *base, size_t base_len,
                        const void *raw, size_t raw_len)
{
    uint8_t *back = must_alloc(raw_len);

    assert_int_equal(
        codec_unpack(codec, packed->data, packed->len, base, base_len, back, raw_len, &e), 0);
    if (raw_len > 0)
        assert_memory_equal(back, raw, raw_len);
    free(back);
}

static void test_names(void **state)
{
    assert_int_equal(codec_by_name("zstd"), CODEC_ZSTD);
    assert_int_equal(codec_by_name("zlib"), CODEC_DEFLATE);
    assert_int_equal(codec_by_name("none"), CODEC_STORED);
    assert_int_equal(codec_by_name("lz4"), -1);
}

static void test_round_trip_of_every_codec_effort_and_length(void **state)
{
    static const size_t lengths[] = {0, 1, 2, 63, 100, 4095, 65537, LEN};
    uint8_t *raw = must_alloc(LEN);

    fill_text(raw, LEN, 5);
    for (int codec = CODEC_STORED; codec <= CODEC_ZSTD; codec++)
        for (int effort = CODEC_FAST; effort <= CODEC_STRONG; effort++)
            for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
                struct buffer out = BUFFER_INIT;
                buffer_append_str(&out, "before");
                int used = codec_pack(codec, effort, raw, lengths[i], NULL, 0, &out);
                assert_true(used == codec || used == CODEC_STORED);
                assert_true(lengths[i] < 4095 || used == codec);
                assert_true(out.len - 6 <= lengths[i]);
                assert_memory_equal(out.data, "before", 6);
                struct buffer packed = {.data = out.data + 6, .len = out.len - 6};
                expect_back(used, &packed, NULL, 0, raw, lengths[i]);
                buffer_release(&out);
            }
    free(raw);
}

/* A new version that differs in a few bytes costs little more than those, though it looks random.
 */
static void test_delta_against_a_base(void **state)
{
    uint8_t *base = must_alloc(LEN), *raw = must_alloc(LEN);

    for (int codec = CODEC_DEFLATE; codec <= CODEC_ZSTD; codec++)
        for (int effort = CODEC_FAST; effort <= CODEC_STRONG; effort++) {
            size_t len = codec == CODEC_ZSTD ? LEN : 30000; /* deflate looks back 32 KiB only */
            struct buffer out = BUFFER_INIT;
            fill_random(base, len, 6);
            memcpy(raw, base, len);
            fill_random(raw + len / 2, 50, 7);
            assert_int_equal(codec_pack(codec, effort, raw, len, base, len, &out), codec);
            assert_true(out.len < 1000);
            expect_back(codec, &out, base, len, raw, len);
            base[len - 1] ^= 1; /* another base gives other bytes, or none */
            uint8_t *back = must_alloc(len);
            if (codec_unpack(codec, out.data, out.len, base, len, back, len, &e) == 0)
                assert_memory_not_equal(back, raw, len);
            free(back);
            buffer_release(&out);
        }
    free(base);
    free(raw);
}

static void test_delta_of_large_chunk_reaches_its_whole_base(void **state)
{
    size_t len = 4 * 1024 * 1024;
    uint8_t *base = must_alloc(len), *raw = must_alloc(len);
    struct buffer out = BUFFER_INIT;

    fill_random(base, len, 8);
    memcpy(raw, base, len);
    raw[0] ^= 1;
    assert_int_equal(codec_pack(CODEC_ZSTD, CODEC_FAST, raw, len, base, len, &out), CODEC_ZSTD);
    assert_true(out.len < len / 100);
    expect_back(CODEC_ZSTD, &out, base, len, raw, len);
    buffer_release(&out);
    free(base);
    free(raw);
}

/* A base that begins like a zstd dictionary is content like any other. */
static void test_base_that_looks_like_a_dictionary(void **state)
{
    uint8_t base[4096], raw[4096];
    struct buffer out = BUFFER_INIT;

    fill_random(base, sizeof(base), 9);
    memcpy(base, "\x37\xa4\x30\xec", 4);
    memcpy(raw, base, sizeof(raw));
    raw[100] ^= 1;
    assert_int_equal(codec_pack(CODEC_ZSTD, CODEC_FAST, raw, sizeof(raw), base, sizeof(base), &out),
                     CODEC_ZSTD);
    expect_back(CODEC_ZSTD, &out, base, sizeof(base), raw, sizeof(raw));
    buffer_release(&out);
}

static void expect_packed(int codec, const uint8_t *raw, size_t len)
{
    struct buffer out = BUFFER_INIT;

    assert_int_equal(codec_pack(codec, CODEC_FAST, raw, len, NULL, 0, &out), codec);
    assert_true(out.len < len * 8 / 10);
    buffer_release(&out);
}

static void test_incompressible_is_stored(void **state)
{
    uint8_t *raw = must_alloc(LEN);
    struct buffer out = BUFFER_INIT;

    for (int codec = CODEC_DEFLATE; codec <= CODEC_ZSTD; codec++) {
        fill_random(raw, LEN, 10);
        buffer_clear(&out);
        assert_int_equal(codec_pack(codec, CODEC_FAST, raw, LEN, NULL, 0, &out), CODEC_STORED);
        assert_int_equal(out.len, LEN);
        expect_back(CODEC_STORED, &out, NULL, 0, raw, LEN);
        /* A compressible part is not missed, before, behind or after the random one. */
        fill_text(raw + LEN / 2, LEN / 2, 11);
        expect_packed(codec, raw, LEN);
        fill_random(raw + LEN / 2, LEN / 2, 10);
        fill_text(raw, LEN / 2, 11);
        expect_packed(codec, raw, LEN);
        fill_random(raw, 30000, 10);
        fill_text(raw + 15000, 15000, 11);
        expect_packed(codec, raw, 30000);
        /* Every value equally often, and yet no chance at work. */
        for (size_t i = 0; i < LEN; i++)
            raw[i] = (uint8_t)i;
        expect_packed(codec, raw, LEN);
    }
    buffer_release(&out);
    free(raw);
}

/* Whatever the damage: an answer, no write beyond the end (ASan watches), and never other bytes
 * under ERR_OK but for a codec without redundancy. */
static void test_damaged_input_is_survived(void **state)
{
    uint8_t raw[600], *back = must_alloc(sizeof(raw));

    fill_text(raw, sizeof(raw), 12);
    for (int codec = CODEC_DEFLATE; codec <= CODEC_ZSTD; codec++)
        for (int with_base = 0; with_base < 2; with_base++) {
            size_t base_len = with_base ? 100 : 0;
            struct buffer out = BUFFER_INIT;
            assert_int_equal(codec_pack(codec, CODEC_FAST, raw, sizeof(raw), raw, base_len, &out),
                             codec);
            for (size_t n = 0; n < out.len; n++) {
                uint8_t *cut = must_alloc(n); /* of its exact size, for ASan */
                memcpy(cut, out.data, n);
                assert_int_equal(codec_unpack(codec, cut, n, raw, base_len, back, sizeof(raw), &e),
                                 ERR_DAMAGED);
                free(cut);
            }
            for (size_t bit = 0; bit < out.len * 8; bit++) {
                out.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
                codec_unpack(codec, out.data, out.len, raw, base_len, back, sizeof(raw), &e);
                out.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
            }
            put_u8(&out, 0);
            assert_int_equal(
                codec_unpack(codec, out.data, out.len, raw, base_len, back, sizeof(raw), &e),
                ERR_DAMAGED);
            buffer_release(&out);
        }
    free(back);
}

static void test_wrong_raw_length_is_refused(void **state)
{
    uint8_t raw[1000], back[1001];

    fill_text(raw, sizeof(raw), 13);
    for (int codec = CODEC_STORED; codec <= CODEC_ZSTD; codec++) {
        struct buffer out = BUFFER_INIT;
        assert_int_equal(codec_pack(codec, CODEC_FAST, raw, sizeof(raw), NULL, 0, &out), codec);
        assert_int_equal(codec_unpack(codec, out.data, out.len, NULL, 0, back, 999, &e),
                         ERR_DAMAGED);
        assert_int_equal(codec_unpack(codec, out.data, out.len, NULL, 0, back, 1001, &e),
                         ERR_DAMAGED);
        buffer_release(&out);
    }
    assert_int_equal(codec_unpack(3, raw, 1, NULL, 0, back, 1, &e), ERR_NOREPO);
}

/* Two frames, a skippable one, or one of an older zstd are no packed block. */
static void test_only_one_plain_zstd_frame(void **state)
{
    uint8_t raw[1000], back[2000];
    struct buffer out = BUFFER_INIT;

    fill_text(raw, sizeof(raw), 14);
    codec_pack(CODEC_ZSTD, CODEC_FAST, raw, sizeof(raw), NULL, 0, &out);
    size_t one = out.len;
    codec_pack(CODEC_ZSTD, CODEC_FAST, raw, sizeof(raw), NULL, 0, &out);
    assert_int_equal(codec_unpack(CODEC_ZSTD, out.data, out.len, NULL, 0, back, 2000, &e),
                     ERR_DAMAGED);
    assert_int_equal(codec_unpack(CODEC_ZSTD, out.data, one, NULL, 0, back, 1000, &e), 0);
    buffer_release(&out);
}

/* Packed by zstd 1.5.4 and zlib 1.2.13 with the first 43 bytes as base: old packs stay readable. */
static void test_golden_packed_bytes(void **state)
{
    static const char text[] = "the quick brown fox jumps over the lazy dog; the lazy dog sleeps "
                               "while the quick brown fox jumps over the lazy dog";
    static const struct {
        int codec;
        const char *hex;
    } golden[] = {
        {CODEC_DEFLATE, "03b189546a8da251a13827351568627946664e2a5886486300"},
        {CODEC_ZSTD,
         "28b52ffd2072350200940374686520717569636b2062726f776e20666f78206a756d7073206f7665722074686"
         "5206c617a7920646f673b20736c65657073207768696c6503009450809ec2671cb30c"},
    };
    uint8_t packed[128], back[sizeof(text) - 1];

    for (size_t i = 0; i < 2; i++) {
        size_t len = strlen(golden[i].hex) / 2;
        assert_true(text_unhex(golden[i].hex, packed, len));
        assert_int_equal(
            codec_unpack(golden[i].codec, packed, len, text, 43, back, sizeof(back), &e), 0);
        assert_memory_equal(back, text, sizeof(back));
    }
}

static void *pack_in_thread(void *arg)
{
    uint8_t raw[5000], back[5000];
    struct error mine = ERROR_INIT;

    for (int codec = CODEC_DEFLATE; codec <= CODEC_ZSTD; codec++)
        for (uint64_t i = 0; i < 20; i++) {
            struct buffer out = BUFFER_INIT;
            memset(raw, (int)i, sizeof(raw));
            int used = codec_pack(codec, CODEC_FAST, raw, sizeof(raw), raw, i % 2 * 100, &out);
            int rc =
                codec_unpack(used, out.data, out.len, raw, i % 2 * 100, back, sizeof(back), &mine);
            buffer_release(&out);
            if (rc != 0 || memcmp(raw, back, sizeof(raw)) != 0)
                return arg;
        }
    return NULL;
}

static void test_threads_have_their_own_contexts(void **state)
{
    pthread_t t[4];
    void *failed;

    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, pack_in_thread, t), 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(t[i], &failed), 0);
        assert_null(failed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_round_trip_of_every_codec_effort_and_length),
        cmocka_unit_test(test_delta_against_a_base),
        cmocka_unit_test(test_delta_of_large_chunk_reaches_its_whole_base),
        cmocka_unit_test(test_base_that_looks_like_a_dictionary),
        cmocka_unit_test(test_incompressible_is_stored),
        cmocka_unit_test(test_damaged_input_is_survived),
        cmocka_unit_test(test_wrong_raw_length_is_refused),
        cmocka_unit_test(test_only_one_plain_zstd_frame),
        cmocka_unit_test(test_golden_packed_bytes),
        cmocka_unit_test(test_threads_have_their_own_contexts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
