/* More chunks in one transaction of the catalog than it keeps in memory: wherever places and
 * references meet, every row says both. */
#include "store/catalog_write.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "scratch.h"
#include "store_test.h"

#include "base/banned.h"

static const uint8_t repo_id[16] = {1, 2, 3};
static const uint8_t watch_id[WATCH_ID_LEN] = {9, 8, 7};

struct world {
    struct scratch *scratch;
    struct catalog *catalog;
};

static int setup(void **state)
{
    struct world *w = must_alloc(sizeof(*w));
    struct error e = ERROR_INIT;

    if (scratch_setup((void **)&w->scratch) != 0)
        return -1;
    *state = w;
    return catalog_open(w->scratch->path, CATALOG_WRITE, false, repo_id, &w->catalog, &e);
}

static int teardown(void **state)
{
    struct world *w = *state;

    catalog_close(w->catalog);
    int rc = scratch_teardown((void **)&w->scratch);
    free(w);
    return rc;
}

enum { MANY = 160 * 1000, STEP = 10 * 1000, TWICE = 7 };

static struct hash many_id(uint32_t n)
{
    uint32_t spread = (n + 1) * UINT32_C(2654435761); /* each differs, in no order */
    struct hash h = {{0x55}};

    memcpy(h.b, &spread, sizeof(spread));
    return h;
}

static void place_many(struct catalog *c, uint32_t first)
{
    struct block_chunk *chunks = must_alloc(STEP * sizeof(*chunks));
    struct error e = ERROR_INIT;

    for (uint32_t i = 0; i < STEP; i++)
        chunks[i] =
            (struct block_chunk){.id = many_id(first + i), .raw_off = i * 10, .raw_len = 10};
    OK(catalog_add_block(c, 3, 128 + first, chunks, STEP, NULL, false, &e), e);
    free(chunks);
}

static void node_put(struct buffer *ops, uint64_t node, const struct node *n)
{
    struct buffer meta = BUFFER_INIT;

    node_encode(n, &meta);
    const struct op op = {
        .type = OP_NODE_PUT, .node = node, .meta = meta.data, .meta_len = (uint32_t)meta.len};
    op_encode(&op, ops);
    buffer_release(&meta);
}

/* One file for each chunk, a second one for every TWICEth. */
static void refer_many(struct catalog *c, uint32_t first)
{
    struct buffer ops = BUFFER_INIT;
    struct error e = ERROR_INIT;

    for (uint32_t i = first; i < first + STEP; i++) {
        struct chunk_ref ref = {.id = many_id(i), .len = 10};
        struct node n = {.type = NODE_FILE, .ref_count = 1, .refs = &ref, .size = 10};
        node_put(&ops, 2 + i, &n);
        if (i % TWICE == 0)
            node_put(&ops, 2 + MANY + i, &n);
    }
    OK(catalog_apply_ops(c, ops.data, ops.len, &e), e);
    buffer_release(&ops);
}

/* References come behind < 0 places or after them, both in steps. */
static void check_many(void **state, int behind)
{
    struct world *w = *state;
    struct catalog *c = w->catalog;
    uint64_t wrong = 9;
    struct commit m = {.number = 1, .next_node = 3 * MANY, .watch_name = "app", .root = "/srv"};
    struct error e = ERROR_INIT;

    memcpy(m.watch_id, watch_id, WATCH_ID_LEN);
    m.rules = "";
    OK(catalog_begin(c, &e), e);
    OK(catalog_apply_begin(c, watch_id, 1, &e), e);
    for (int at = -MANY; at < 2 * MANY; at += STEP) {
        if (at >= 0 && at < MANY)
            place_many(c, (uint32_t)at);
        if (at - behind >= 0 && at - behind < MANY)
            refer_many(c, (uint32_t)(at - behind));
    }
    m.sum = *catalog_apply_sum(c);
    OK(catalog_apply_end(c, &m, &e), e);
    OK(catalog_commit(c, &e), e);
    assert_int_equal(catalog_chunk_count(c), MANY);
    for (uint32_t i = 0; i < MANY; i++) {
        struct hash id = many_id(i);
        struct chunk_place place;
        OK(catalog_chunk(c, &id, &place, &e), e);
        assert_int_equal(place.pack_id, 3);
        assert_int_equal(place.offset, 128 + i / STEP * STEP);
        assert_int_equal(place.raw_off, i % STEP * 10);
        assert_int_equal(place.refs, i % TWICE == 0 ? 2 : 1);
    }
    OK(catalog_audit_refs(c, &wrong, NULL, NULL, &e), e);
    assert_int_equal(wrong, 0);
}

static void test_many_chunks_placed_just_before(void **state)
{
    check_many(state, 2 * STEP);
}

static void test_many_chunks_referred_to_just_before(void **state)
{
    check_many(state, -2 * STEP);
}

static void test_many_chunks_placed_long_before(void **state)
{
    check_many(state, 15 * STEP);
}

static void test_many_chunks_referred_to_long_before(void **state)
{
    check_many(state, -15 * STEP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_many_chunks_placed_just_before),
        T(test_many_chunks_referred_to_just_before),
        T(test_many_chunks_placed_long_before),
        T(test_many_chunks_referred_to_long_before),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
