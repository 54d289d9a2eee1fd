/* What a save of a small change stores, and that every version reads back: deltas, their chains,
 * what holds their bases, and where files are cut. */
#include "save_fixture.h"

#include "store/catalog_write.h"

enum { RECORDS = 1550, RECORD = 67, VALUE_AT = 53, DOC = RECORDS * RECORD };

/* Lines of one length that compress as JSON does. */
static void make_doc(char *doc, struct lcg *r)
{
    for (unsigned i = 0; i < RECORDS; i++)
        snprintf(doc + (size_t)i * RECORD, RECORD + 1,
                 "{\"id\": %06u, \"token\": \"%08x%08x\", \"value\": %012u}\n", i,
                 next(r, 1u << 30), next(r, 1u << 30), 0u);
}

static void set_value(char *doc, unsigned record, unsigned value)
{
    char digits[16];

    snprintf(digits, sizeof(digits), "%012u", value);
    memcpy(doc + (size_t)record * RECORD + VALUE_AT, digits, 12);
}

static void assert_content(struct saver *v, const char *path, uint64_t at, const void *want,
                           size_t len)
{
    struct buffer meta = BUFFER_INIT, got = BUFFER_INIT;
    struct error e = ERROR_INIT;
    struct node n;

    MUST(catalog_node(repo_catalog(v->repo), watch_serial(v), node_at(v, path), (int64_t)at, &meta,
                      &e),
         e);
    MUST(node_decode(meta.data, meta.len, &n, &e), e);
    node_content(v->repo, &n, &got);
    assert_int_equal(got.len, len);
    assert_memory_equal(got.data, want, len);
    node_release(&n);
    buffer_release(&meta);
    buffer_release(&got);
}

struct chains {
    struct catalog *catalog;
    unsigned deltas, longest;
};

static int follow(void *ctx, const struct hash *id, const struct chunk_place *at)
{
    struct chains *c = ctx;
    struct chunk_place place = *at;
    struct block_base base;
    struct error e = ERROR_INIT;
    unsigned n = 0;

    while (catalog_delta_base(c->catalog, place.pack_id, place.offset, &base, &e) == 0) {
        n++;
        assert_true(n <= 100);
        MUST(catalog_chunk(c->catalog, &base.id, &place, &e), e);
    }
    c->deltas += n > 0;
    c->longest = n > c->longest ? n : c->longest;
    return 0;
}

static struct chains chains_of(struct saver *v)
{
    struct chains c = {0};
    struct error e = ERROR_INIT;

    MUST(repo_catalog_open(v->repo, &c.catalog, &e), e);
    struct chains inner = {.catalog = NULL};
    MUST(repo_catalog_open(v->repo, &inner.catalog, &e), e);
    MUST(catalog_chunks(c.catalog, follow, &inner, &e), e);
    repo_catalog_close(v->repo, inner.catalog);
    repo_catalog_close(v->repo, c.catalog);
    return inner;
}

/* The lowest bytes of the document tell the version: what is checked is all of it. */
static void a_changed_field_costs_a_delta(void **state)
{
    const struct place *p = *state;
    static char doc[DOC + 1], was[DOC + 1];
    struct lcg r = {7};
    struct saver v;
    uint64_t stored = 0, renewed = 0;

    make_doc(doc, &r);
    put_bytes(p, "state.json", doc, DOC);
    saver_open(&v, p, "repo");
    save_all(&v);
    for (unsigned i = 1; i <= 300; i++) {
        set_value(doc, 900, i);
        put_bytes(p, "state.json", doc, DOC);
        assert_int_equal(SAVE_DIRTY(&v, {"state.json", DIRTY_ENTRY}), i + 1);
        renewed += v.last.bytes_stored > 2000;
        stored += v.last.bytes_stored;
    }
    assert_true(stored / 300 < 500);
    assert_int_equal(renewed, 1); /* the line begins anew after rank 255 */
    struct chains c = chains_of(&v);
    assert_true(c.deltas >= 290);
    assert_int_equal(c.longest, 8);
    for (unsigned i = 0; i <= 300; i++) {
        memcpy(was, doc, DOC);
        set_value(was, 900, i);
        assert_content(&v, "state.json", i + 1, was, DOC);
    }
    assert_counted(&v);
    saver_close(&v);
}

/* Each time in a process of its own: nothing but the repository tells the line of versions. */
static void lines_go_on_after_a_restart(void **state)
{
    const struct place *p = *state;
    static char doc[DOC + 1];
    struct lcg r = {8};
    struct saver v;

    make_doc(doc, &r);
    put_bytes(p, "state.json", doc, DOC);
    saver_open(&v, p, "repo");
    save_all(&v);
    for (unsigned i = 1; i <= 40; i++) {
        struct error e = ERROR_INIT;
        set_value(doc, next(&r, RECORDS), next(&r, 1000000));
        put_bytes(p, "state.json", doc, DOC);
        if (i % 3 == 0)
            MUST(repo_rebuild(v.repo, &e), e);
        saver_close(&v);
        saver_open(&v, p, "repo");
        save_all(&v);
        assert_true(v.last.bytes_stored < 1200);
        assert_content(&v, "state.json", i + 1, doc, DOC);
    }
    assert_true(chains_of(&v).longest <= 8);
    assert_counted(&v);
    saver_close(&v);
}

static void a_file_replaced_by_rename_is_its_next_version(void **state)
{
    const struct place *p = *state;
    static char doc[DOC + 64];
    struct lcg r = {9};
    struct saver v;

    make_doc(doc, &r);
    put_bytes(p, "state.json", doc, DOC);
    saver_open(&v, p, "repo");
    save_all(&v);
    for (unsigned i = 1; i <= 20; i++) {
        size_t len = DOC + i; /* it grows in the middle */
        memmove(doc + DOC / 2 + 1, doc + DOC / 2, len - 1 - DOC / 2);
        doc[DOC / 2] = ' ';
        put_bytes(p, "new", doc, len);
        SYS(renameat(p->rootfd, "new", p->rootfd, "state.json"));
        save_all(&v);
        assert_true(v.last.bytes_stored < 1000);
        assert_content(&v, "state.json", i + 1, doc, len);
    }
    assert_holds(&v, p, true);
    assert_counted(&v);
    saver_close(&v);
}

static void what_is_appended_is_what_is_stored(void **state)
{
    const struct place *p = *state;
    enum { FIRST = 400000, MORE = 500, TIMES = 40 };
    uint8_t *log = malloc(FIRST + TIMES * MORE);
    struct lcg r = {10};
    struct saver v;
    uint64_t stored = 0;

    assert_non_null(log);
    for (size_t i = 0; i < FIRST + TIMES * MORE; i++)
        log[i] = (uint8_t)('a' + next(&r, 26));
    put_bytes(p, "app.log", log, FIRST);
    saver_open(&v, p, "repo");
    save_all(&v);
    for (size_t i = 1; i <= TIMES; i++) {
        put_bytes(p, "app.log", log, FIRST + i * MORE);
        save_all(&v);
        stored += v.last.bytes_stored;
        assert_content(&v, "app.log", i + 1, log, FIRST + i * MORE);
    }
    assert_true(stored / TIMES < 4 * MORE);
    assert_counted(&v);
    free(log);
    saver_close(&v);
}

/* Pages are rewritten everywhere, hence also where the file is cut. */
static void a_page_in_place_costs_a_page(void **state)
{
    const struct place *p = *state;
    enum { PAGE = 4096, PAGES = 6 * 1024 };
    uint8_t *bytes = malloc(PAGES * PAGE);
    struct lcg r = {11};
    struct saver v;
    uint64_t most = 0;

    assert_non_null(bytes);
    for (size_t i = 0; i < PAGES * PAGE; i++)
        bytes[i] = (uint8_t)next(&r, 256);
    put_bytes(p, "large", bytes, PAGES * PAGE);
    saver_open(&v, p, "repo");
    save_all(&v);
    for (unsigned i = 1; i <= 120; i++) {
        size_t at = (size_t)next(&r, PAGES) * PAGE;
        for (size_t k = 0; k < PAGE; k++)
            bytes[at + k] = (uint8_t)next(&r, 256);
        put_bytes(p, "large", bytes, PAGES * PAGE);
        assert_int_equal(save_all(&v), i + 1);
        most = v.last.bytes_stored > most ? v.last.bytes_stored : most;
    }
    assert_true(most < 2 * PAGE + 2000); /* one chunk may have been hit twice */
    assert_holds(&v, p, true);
    assert_counted(&v);

    /* One byte more at the front: the rest is found again. */
    uint8_t *longer = malloc(PAGES * PAGE + 1);
    assert_non_null(longer);
    longer[0] = 'x';
    memcpy(longer + 1, bytes, PAGES * PAGE);
    put_bytes(p, "large", longer, PAGES * PAGE + 1);
    save_all(&v);
    assert_true(v.last.bytes_stored < 2000);
    assert_holds(&v, p, true);

    /* Touched, and read again without the cache: no change. */
    struct error e = ERROR_INIT;
    MUST(repo_rebuild(v.repo, &e), e);
    let_stamps_age(p);
    assert_int_equal(save_all(&v), 0);
    free(longer);
    free(bytes);
    saver_close(&v);
}

static void zeros_cost_nothing(void **state)
{
    const struct place *p = *state;
    const size_t n = 48 * 1024 * 1024;
    uint8_t *bytes = calloc(1, n);
    struct saver v;

    assert_non_null(bytes);
    put_bytes(p, "zeros", bytes, n);
    saver_open(&v, p, "repo");
    save_all(&v);
    assert_true(v.last.bytes_stored < 1500);
    bytes[n / 2] = 1;
    put_bytes(p, "zeros", bytes, n);
    save_all(&v);
    assert_true(v.last.bytes_stored < 1500);
    assert_holds(&v, p, true);
    assert_counted(&v);
    free(bytes);
    saver_close(&v);
}

/* Where nothing is alike, nothing is gained, nor lost. */
static void another_file_in_its_place_is_stored_whole(void **state)
{
    const struct place *p = *state;
    const size_t n = 4 * 1024 * 1024;
    uint8_t *bytes = malloc(n);
    struct lcg r = {12};
    struct saver v;

    assert_non_null(bytes);
    saver_open(&v, p, "repo");
    for (unsigned turn = 0; turn < 2; turn++) {
        for (size_t i = 0; i < n; i++)
            bytes[i] = (uint8_t)next(&r, 256);
        put_bytes(p, "video", bytes, n);
        save_all(&v);
        assert_true(v.last.bytes_stored < n + n / 100);
        assert_holds(&v, p, true);
    }
    assert_int_equal(chains_of(&v).deltas, 0);
    assert_counted(&v);
    free(bytes);
    saver_close(&v);
}

static void a_base_outlives_its_snapshot(void **state)
{
    const struct place *p = *state;
    static char doc[DOC + 1];
    struct lcg r = {13};
    struct saver v;
    struct error e = ERROR_INIT;
    const uint64_t first[] = {1, 2, 3};

    make_doc(doc, &r);
    put_bytes(p, "state.json", doc, DOC);
    saver_open(&v, p, "repo");
    save_all(&v);
    for (unsigned i = 1; i <= 6; i++) {
        set_value(doc, 900, i);
        put_bytes(p, "state.json", doc, DOC);
        save_all(&v);
    }
    MUST(repo_drop(v.repo, first, 3, &e), e);
    assert_counted(&v);
    for (unsigned i = 4; i <= 7; i++) {
        set_value(doc, 900, i - 1);
        assert_content(&v, "state.json", i, doc, DOC);
    }
    MUST(repo_rebuild(v.repo, &e), e);
    assert_counted(&v);
    for (unsigned i = 4; i <= 7; i++) {
        set_value(doc, 900, i - 1);
        assert_content(&v, "state.json", i, doc, DOC);
    }
    saver_close(&v);
}

/* A base that is lost serves nobody any more, and takes no save down. */
static void a_lost_base_is_done_without(void **state)
{
    const struct place *p = *state;
    static char doc[DOC + 1];
    struct lcg r = {14};
    struct saver v;
    struct error e = ERROR_INIT;

    make_doc(doc, &r);
    put_bytes(p, "state.json", doc, DOC);
    saver_open(&v, p, "repo");
    save_all(&v);
    set_value(doc, 900, 1);
    put_bytes(p, "state.json", doc, DOC);
    save_all(&v);
    struct node n = version_at(&v, "state.json");
    for (uint32_t i = 0; i < n.ref_count; i++)
        MUST(repo_chunk_lost(v.repo, &n.refs[i].id, &e), e);
    node_release(&n);
    saver_close(&v); /* and nothing of it is in memory */
    saver_open(&v, p, "repo");
    set_value(doc, 900, 2);
    put_bytes(p, "state.json", doc, DOC);
    assert_int_equal(save_all(&v), 3);
    assert_true(v.last.bytes_stored > 5000);
    assert_content(&v, "state.json", 3, doc, DOC);
    assert_counted(&v);
    saver_close(&v);
}

int main(void)
{
#define PLACE_TEST(f) cmocka_unit_test_setup_teardown(f, place_setup, place_teardown)
    const struct CMUnitTest tests[] = {
        PLACE_TEST(a_changed_field_costs_a_delta),
        PLACE_TEST(lines_go_on_after_a_restart),
        PLACE_TEST(a_file_replaced_by_rename_is_its_next_version),
        PLACE_TEST(what_is_appended_is_what_is_stored),
        PLACE_TEST(a_page_in_place_costs_a_page),
        PLACE_TEST(zeros_cost_nothing),
        PLACE_TEST(another_file_in_its_place_is_stored_whole),
        PLACE_TEST(a_base_outlives_its_snapshot),
        PLACE_TEST(a_lost_base_is_done_without),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
