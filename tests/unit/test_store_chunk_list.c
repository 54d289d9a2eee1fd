#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "store/chunk_list.h"
#include "store_test.h"

#include "base/banned.h"

static struct error e;

/* List chunks as the store would keep them. */
struct kept {
    struct {
        struct hash id;
        uint8_t *bytes;
        size_t len;
    } * chunks;
    size_t count, fresh;
};

static int keep(void *ctx, const struct hash *id, const void *p, size_t n, struct error *err)
{
    struct kept *k = ctx;
    struct hash check;

    hash_sha256(p, n, &check);
    assert_true(hash_equal(&check, id));
    for (size_t i = 0; i < k->count; i++)
        if (hash_equal(&k->chunks[i].id, id))
            return 0;
    k->chunks = realloc(k->chunks, (k->count + 1) * sizeof(*k->chunks));
    assert_non_null(k->chunks);
    k->chunks[k->count].id = *id;
    k->chunks[k->count].bytes = must_alloc(n);
    k->chunks[k->count].len = n;
    memcpy(k->chunks[k->count++].bytes, p, n);
    k->fresh++;
    return 0;
}

static void kept_release(struct kept *k)
{
    for (size_t i = 0; i < k->count; i++)
        free(k->chunks[i].bytes);
    free(k->chunks);
}

static struct chunk_ref *make_refs(uint32_t count, uint64_t seed)
{
    struct chunk_ref *refs = must_alloc(count * sizeof(*refs));

    for (uint32_t i = 0; i < count; i++) {
        fill_random(refs[i].id.b, HASH_LEN, seed + i);
        refs[i].len = 1 + i % 1000;
    }
    return refs;
}

/* Append the data references below refs to out. */
static void unfold(const struct kept *k, const struct chunk_ref *refs, uint32_t count,
                   uint8_t depth, struct chunk_ref *out, uint32_t *n)
{
    for (uint32_t i = 0; i < count; i++) {
        if (depth == 0) {
            out[(*n)++] = refs[i];
            continue;
        }
        size_t at = 0;
        while (at < k->count && !hash_equal(&k->chunks[at].id, &refs[i].id))
            at++;
        assert_true(at < k->count);
        struct chunk_ref *below;
        uint32_t below_count;
        uint64_t sum = 0;
        assert_int_equal(
            chunk_list_decode(k->chunks[at].bytes, k->chunks[at].len, &below, &below_count, &e), 0);
        for (uint32_t j = 0; j < below_count; j++)
            sum += below[j].len;
        assert_true(sum == refs[i].len);
        unfold(k, below, below_count, (uint8_t)(depth - 1), out, n);
        free(below);
    }
}

static void test_fold_and_unfold(void **state)
{
    static const struct {
        uint32_t count;
        uint8_t depth;
    } cases[] = {{0, 0}, {1, 0}, {32, 0}, {33, 1}, {1000, 1}, {20000, 2}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct kept k = {0};
        uint32_t count = cases[i].count, n = 0;
        uint8_t depth;
        struct chunk_ref *all = make_refs(count, 100), *folded = make_refs(count, 100);
        struct chunk_ref *back = must_alloc(count * sizeof(*back));
        assert_int_equal(chunk_list_fold(&folded, &count, &depth, keep, &k, &e), 0);
        assert_int_equal(depth, cases[i].depth);
        assert_true(count <= NODE_INLINE_REFS);
        unfold(&k, folded, count, depth, back, &n);
        assert_int_equal(n, cases[i].count);
        assert_memory_equal(back, all, n * sizeof(*back));
        free(all);
        free(folded);
        free(back);
        kept_release(&k);
    }
}

/* Runs as the format has them: from 16 to 256 references, ended by an id. */
static void test_runs_have_their_bounds(void **state)
{
    struct kept k = {0};
    uint32_t count = 20000;
    uint8_t depth;
    struct chunk_ref *refs = make_refs(count, 7);

    assert_int_equal(chunk_list_fold(&refs, &count, &depth, keep, &k, &e), 0);
    size_t ended_by_id = 0;
    for (size_t i = 0; i < k.count; i++) {
        size_t n = k.chunks[i].len / CHUNK_REF_LEN;
        assert_in_range(n, 1, 256);
        const uint8_t *last = k.chunks[i].bytes + (n - 1) * CHUNK_REF_LEN;
        if (n < 256 && load_u16(last) % 64 == 0)
            ended_by_id++;
    }
    assert_true(ended_by_id + k.count / 5 > k.count);
    free(refs);
    kept_release(&k);
}

/* One changed reference: at most two runs a level are new (two where the change moved a cut). */
static void test_one_change_renews_a_run_a_level(void **state)
{
    const uint32_t all = 20000;
    struct kept k = {0};
    uint8_t depth;
    uint32_t count = all;
    struct chunk_ref *refs = make_refs(count, 55);
    size_t total = 0;

    assert_int_equal(chunk_list_fold(&refs, &count, &depth, keep, &k, &e), 0);
    free(refs);
    for (uint32_t i = 0; i < 50; i++) {
        refs = make_refs(all, 55);
        fill_random(refs[i * 399].id.b, HASH_LEN, 90000 + i);
        count = all;
        k.fresh = 0;
        assert_int_equal(chunk_list_fold(&refs, &count, &depth, keep, &k, &e), 0);
        assert_in_range(k.fresh, depth, 2 * depth + 2);
        total += k.fresh;
        free(refs);
    }
    assert_true(total <= 50 * (size_t)(depth + 1));
    kept_release(&k);
}

static void test_insertion_renews_a_run_a_level(void **state)
{
    const uint32_t all = 20000;
    struct kept k = {0};
    uint8_t depth;
    uint32_t count = all;
    struct chunk_ref *refs = make_refs(count, 55);

    assert_int_equal(chunk_list_fold(&refs, &count, &depth, keep, &k, &e), 0);
    free(refs);
    struct chunk_ref *old = make_refs(all, 55);
    refs = must_alloc((all + 1) * sizeof(*refs));
    memcpy(refs, old, 9999 * sizeof(*refs));
    fill_random(refs[9999].id.b, HASH_LEN, 1);
    refs[9999].len = 5;
    memcpy(refs + 10000, old + 9999, (all - 9999) * sizeof(*refs));
    count = all + 1;
    k.fresh = 0;
    assert_int_equal(chunk_list_fold(&refs, &count, &depth, keep, &k, &e), 0);
    assert_in_range(k.fresh, depth, 2 * depth + 2);
    free(old);
    free(refs);
    kept_release(&k);
}

static void test_golden(void **state)
{
    struct kept k = {0};
    uint32_t count = 33;
    uint8_t depth;
    struct chunk_ref *refs = must_alloc(count * sizeof(*refs));

    for (uint32_t i = 0; i < count; i++) {
        memset(refs[i].id.b, (int)i + 1, HASH_LEN);
        refs[i].len = i + 1;
    }
    refs[19].id.b[0] = 64; /* u16 0x1440: the 20th ends a run */
    assert_int_equal(chunk_list_fold(&refs, &count, &depth, keep, &k, &e), 0);
    assert_int_equal(depth, 1);
    assert_int_equal(count, 2);
    assert_true(refs[0].len == 210 && refs[1].len == 561 - 210);
    assert_int_equal(k.chunks[0].len, 20 * CHUNK_REF_LEN);
    assert_hex(k.chunks[0].bytes, 2 * CHUNK_REF_LEN,
               "0101010101010101010101010101010101010101010101010101010101010101"
               "0100000000000000"
               "0202020202020202020202020202020202020202020202020202020202020202"
               "0200000000000000");
    free(refs);
    kept_release(&k);
}

static int refuse(void *ctx, const struct hash *id, const void *p, size_t n, struct error *err)
{
    return error_set(err, ERR_NOSPACE, "no");
}

static void test_error_of_sink_is_passed_on(void **state)
{
    uint32_t count = 100;
    uint8_t depth;
    struct chunk_ref *refs = make_refs(count, 1);

    assert_int_equal(chunk_list_fold(&refs, &count, &depth, refuse, NULL, &e), ERR_NOSPACE);
    assert_int_equal(count, 100);
    free(refs); /* still the caller's */
}

static void test_damaged_lists_are_refused(void **state)
{
    uint8_t bytes[257 * CHUNK_REF_LEN];
    struct chunk_ref *refs;
    uint32_t count;

    memset(bytes, 0, sizeof(bytes));
    for (int i = 0; i < 257; i++)
        bytes[i * CHUNK_REF_LEN + HASH_LEN] = 1;
    assert_int_equal(chunk_list_decode(bytes, 256 * CHUNK_REF_LEN, &refs, &count, &e), 0);
    assert_int_equal(count, 256);
    free(refs);
    assert_int_equal(chunk_list_decode(bytes, sizeof(bytes), &refs, &count, &e), ERR_DAMAGED);
    for (size_t n = 0; n < 2 * CHUNK_REF_LEN; n++)
        if (n != CHUNK_REF_LEN)
            assert_int_equal(chunk_list_decode(bytes, n, &refs, &count, &e), ERR_DAMAGED);
    memset(bytes + HASH_LEN, 0, 8); /* no content under a reference */
    assert_int_equal(chunk_list_decode(bytes, 2 * CHUNK_REF_LEN, &refs, &count, &e), ERR_DAMAGED);
    memset(bytes + HASH_LEN, 0xff, 8); /* more than can be summed */
    assert_int_equal(chunk_list_decode(bytes, 2 * CHUNK_REF_LEN, &refs, &count, &e), ERR_DAMAGED);
    assert_null(refs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fold_and_unfold),
        cmocka_unit_test(test_runs_have_their_bounds),
        cmocka_unit_test(test_one_change_renews_a_run_a_level),
        cmocka_unit_test(test_insertion_renews_a_run_a_level),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_error_of_sink_is_passed_on),
        cmocka_unit_test(test_damaged_lists_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
