/* The catalog by itself: intervals against a model of every snapshot, prunes with holes, references
 * of lists, and what is told apart when it is opened. */
#include "base/text.h"
#include "store/catalog_write.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "scratch.h"
#include "store_test.h"

#include "base/banned.h"

enum { NAMES = 12, COMMITS = 60 };

static const uint8_t repo_id[16] = {1, 2, 3};
static const uint8_t watch_id[WATCH_ID_LEN] = {9, 8, 7};

struct fixture {
    struct scratch *scratch;
    struct catalog *catalog;
    struct buffer ops;
    struct state_sum sum;
    uint64_t next;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error e = ERROR_INIT;

    if (!f || scratch_setup((void **)&f->scratch) != 0)
        return -1;
    f->next = 1;
    *state = f;
    return catalog_open(f->scratch->path, CATALOG_WRITE, false, repo_id, &f->catalog, &e);
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    catalog_close(f->catalog);
    buffer_release(&f->ops);
    int rc = scratch_teardown((void **)&f->scratch);
    free(f);
    return rc;
}

/* ---- making commits ---- */

static void name_put(struct fixture *f, uint64_t parent, const char *name, uint64_t node)
{
    const struct op op = {.type = OP_NAME_PUT,
                          .parent = parent,
                          .name = name,
                          .name_len = (uint8_t)strlen(name),
                          .node = node};

    op_encode(&op, &f->ops);
}

static void name_remove(struct fixture *f, uint64_t parent, const char *name)
{
    const struct op op = {
        .type = OP_NAME_REMOVE, .parent = parent, .name = name, .name_len = (uint8_t)strlen(name)};

    op_encode(&op, &f->ops);
}

static void node_put(struct fixture *f, uint64_t node, const struct node *n)
{
    struct buffer meta = BUFFER_INIT;

    node_encode(n, &meta);
    const struct op op = {
        .type = OP_NODE_PUT, .node = node, .meta = meta.data, .meta_len = (uint32_t)meta.len};
    op_encode(&op, &f->ops);
    buffer_release(&meta);
}

static void node_remove(struct fixture *f, uint64_t node)
{
    const struct op op = {.type = OP_NODE_REMOVE, .node = node};

    op_encode(&op, &f->ops);
}

static void file_put(struct fixture *f, uint64_t node, uint64_t version)
{
    struct node n = {.type = NODE_FILE, .size = version};

    node_put(f, node, &n);
}

static uint64_t apply(struct fixture *f)
{
    struct error e = ERROR_INIT;
    struct commit m = {.number = f->next++,
                       .kind = SNAPSHOT_CHANGE,
                       .next_node = 1000,
                       .watch_name = "app",
                       .root = "/srv",
                       .rules = ""};

    memcpy(m.watch_id, watch_id, WATCH_ID_LEN);
    OK(catalog_begin(f->catalog, &e), e);
    OK(catalog_apply_begin(f->catalog, watch_id, m.number, &e), e);
    OK(catalog_apply_ops(f->catalog, f->ops.data, f->ops.len, &e), e);
    m.sum = f->sum = *catalog_apply_sum(f->catalog);
    OK(catalog_apply_end(f->catalog, &m, &e), e);
    OK(catalog_commit(f->catalog, &e), e);
    buffer_clear(&f->ops);
    return m.number;
}

static void drop(struct fixture *f, uint64_t number)
{
    struct error e = ERROR_INIT;

    OK(catalog_begin(f->catalog, &e), e);
    OK(catalog_drop(f->catalog, number, &e), e);
    OK(catalog_commit(f->catalog, &e), e);
}

static int64_t count_rows(struct fixture *f, const char *sql)
{
    char path[128];
    sqlite3 *db;
    sqlite3_stmt *s;

    snprintf(path, sizeof(path), "%s/catalog.db", f->scratch->path);
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &s, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(s), SQLITE_ROW);
    int64_t v = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    sqlite3_close(db);
    return v;
}

/* ---- every snapshot against a model ---- */

struct state { /* of NAMES names: the node, 0 = none, and its version */
    uint64_t node[NAMES], version[NAMES];
};

struct history {
    struct state at[COMMITS + 1];
    bool kept[COMMITS + 1];
    uint64_t last;
};

static void name_of(int i, char out[16])
{
    snprintf(out, 16, "n%c-%d", 'z' - i, i); /* not in the order of the numbers */
}

static void random_step(struct fixture *f, struct history *h, uint64_t *seed, uint64_t *nodes)
{
    struct state now = h->at[h->last];
    char name[16];

    if (h->last == 0) {
        struct node root = {.type = NODE_FOLDER};
        node_put(f, NODE_ROOT, &root);
    }
    for (int k = 0; k < 4; k++) {
        int i = (int)(next_random(seed) % NAMES);
        name_of(i, name);
        if (now.node[i] == 0) {
            now.node[i] = ++*nodes;
            name_put(f, NODE_ROOT, name, now.node[i]);
            file_put(f, now.node[i], now.version[i] = next_random(seed) >> 8);
        } else if (next_random(seed) % 3 == 0) {
            name_remove(f, NODE_ROOT, name);
            node_remove(f, now.node[i]);
            now.node[i] = 0;
        } else {
            file_put(f, now.node[i], now.version[i] = next_random(seed) >> 8);
        }
    }
    h->last = apply(f);
    h->at[h->last] = now;
    h->kept[h->last] = true;
}

static void check_state(struct fixture *f, const struct state *want, int64_t at)
{
    struct error e = ERROR_INIT;
    struct node_brief brief;
    struct name_iter *it;
    struct name_row row;
    char name[16], before[16] = "";
    int seen = 0, have = 0, rc;

    for (int i = 0; i < NAMES; i++)
        have += want->node[i] != 0;
    OK(catalog_children(f->catalog, 1, NODE_ROOT, at, &it, &e), e);
    while ((rc = name_iter_step(it, &row, &e)) == 1) {
        int i = 'z' - row.name[1];
        name_of(i, name);
        assert_string_equal(row.name, name);
        assert_true(strcmp(before, row.name) < 0);
        memcpy(before, name, sizeof(before));
        assert_int_equal(row.node, want->node[i]);
        OK(node_brief_decode(row.meta, row.meta_len, &brief, &e), e);
        assert_int_equal(brief.size, want->version[i]);
        seen++;
    }
    OK(rc, e);
    name_iter_close(it);
    assert_int_equal(seen, have);
    for (int i = 0; i < NAMES; i++) {
        uint64_t node = 0;
        name_of(i, name);
        rc = catalog_lookup(f->catalog, 1, NODE_ROOT, name, strlen(name), at, &node, &e);
        assert_int_equal(rc, want->node[i] ? 0 : ERR_NOTFOUND);
        assert_int_equal(node, want->node[i]);
    }
}

static void check_history(struct fixture *f, const struct history *h)
{
    for (uint64_t n = 1; n <= h->last; n++)
        if (h->kept[n])
            check_state(f, &h->at[n], (int64_t)n);
    check_state(f, &h->at[h->last], CATALOG_OPEN);
}

/* Versions of a name's file that some kept snapshot holds, or the present state. */
static int64_t living_versions(const struct history *h)
{
    int64_t count = 1; /* the root */

    for (int i = 0; i < NAMES; i++) {
        bool counted = false;
        for (uint64_t n = 1; n <= h->last; n++) {
            bool same = n > 1 && h->at[n].node[i] == h->at[n - 1].node[i] &&
                        h->at[n].version[i] == h->at[n - 1].version[i];
            counted = same && counted;
            if (h->at[n].node[i] && !counted && (h->kept[n] || n == h->last)) {
                counted = true;
                count++;
            }
        }
    }
    return count;
}

static void test_every_kept_snapshot_reads_as_it_was(void **state)
{
    struct fixture *f = *state;
    struct history *h = calloc(1, sizeof(*h));
    uint64_t seed = 1, nodes = NODE_ROOT;

    assert_non_null(h);
    for (int i = 0; i < COMMITS; i++) {
        random_step(f, h, &seed, &nodes);
        while (next_random(&seed) % 3 == 0) {
            uint64_t n = 1 + next_random(&seed) % h->last;
            drop(f, n); /* also again, also the newest */
            h->kept[n] = false;
        }
        check_history(f, h);
        assert_int_equal(count_rows(f, "SELECT (SELECT count(*) FROM nodes)+"
                                       "(SELECT count(*) FROM old_nodes)"),
                         living_versions(h));
    }
    for (uint64_t n = 1; n <= h->last; n++)
        drop(f, n);
    assert_int_equal(count_rows(f, "SELECT count(*) FROM old_nodes"), 0);
    assert_int_equal(count_rows(f, "SELECT count(*) FROM old_names"), 0);
    check_state(f, &h->at[h->last], CATALOG_OPEN);
    free(h);
}

/* The same state, reached in whatever way, has the same sum; an empty one has none. */
static void test_the_sum_follows_the_state(void **state)
{
    struct fixture *f = *state;
    static const struct state_sum zero;

    file_put(f, 5, 1);
    name_put(f, NODE_ROOT, "a", 5);
    apply(f);
    struct state_sum one = f->sum;
    file_put(f, 5, 2);
    file_put(f, 6, 1);
    name_put(f, NODE_ROOT, "b", 6);
    apply(f);
    assert_memory_not_equal(&f->sum, &one, sizeof(one));
    file_put(f, 5, 1);
    name_remove(f, NODE_ROOT, "b");
    node_remove(f, 6);
    apply(f);
    assert_memory_equal(&f->sum, &one, sizeof(one));
    name_put(f, NODE_ROOT, "a", 5); /* as it is */
    file_put(f, 5, 1);
    apply(f);
    assert_memory_equal(&f->sum, &one, sizeof(one));
    name_remove(f, NODE_ROOT, "a");
    node_remove(f, 5);
    apply(f);
    assert_memory_equal(&f->sum, &zero, sizeof(zero));
}

static void test_put_twice_in_one_commit(void **state)
{
    struct fixture *f = *state;
    struct error e = ERROR_INIT;
    uint64_t node;

    file_put(f, 5, 1);
    file_put(f, 5, 2);
    name_put(f, NODE_ROOT, "a", 5);
    name_put(f, NODE_ROOT, "a", 6);
    file_put(f, 6, 3);
    apply(f);
    struct state_sum twice = f->sum;
    OK(catalog_lookup(f->catalog, 1, NODE_ROOT, "a", 1, 1, &node, &e), e);
    assert_int_equal(node, 6);
    assert_int_equal(count_rows(f, "SELECT count(*) FROM nodes"), 2);
    name_remove(f, NODE_ROOT, "a");
    node_remove(f, 5);
    node_remove(f, 6);
    apply(f);
    file_put(f, 5, 2);
    name_put(f, NODE_ROOT, "a", 6);
    file_put(f, 6, 3);
    apply(f);
    assert_memory_equal(&f->sum, &twice, sizeof(twice));
}

static void test_paths_and_hard_links(void **state)
{
    struct fixture *f = *state;
    struct error e = ERROR_INIT;
    struct node folder = {.type = NODE_FOLDER};
    struct buffer path = BUFFER_INIT;
    size_t count;

    node_put(f, NODE_ROOT, &folder);
    node_put(f, 2, &folder);
    node_put(f, 3, &folder);
    file_put(f, 4, 1);
    name_put(f, NODE_ROOT, "one", 2);
    name_put(f, 2, "two", 3);
    name_put(f, 3, "file", 4);
    name_put(f, NODE_ROOT, "link", 4);
    apply(f);
    name_remove(f, NODE_ROOT, "link");
    name_remove(f, NODE_ROOT, "one"); /* the folder moves: one row */
    name_put(f, NODE_ROOT, "eins", 2);
    apply(f);
    OK(catalog_node_path(f->catalog, 1, 4, CATALOG_OPEN, &path, &e), e);
    assert_string_equal(buffer_cstr(&path), "eins/two/file");
    buffer_clear(&path);
    OK(catalog_node_path(f->catalog, 1, 3, 1, &path, &e), e);
    assert_string_equal(buffer_cstr(&path), "one/two");
    buffer_clear(&path);
    OK(catalog_node_path(f->catalog, 1, NODE_ROOT, 1, &path, &e), e);
    assert_string_equal(buffer_cstr(&path), "");
    OK(catalog_node_names(f->catalog, 1, 4, 1, &count, &e), e);
    assert_int_equal(count, 2);
    OK(catalog_node_names(f->catalog, 1, 4, 2, &count, &e), e);
    assert_int_equal(count, 1);
    assert_int_equal(catalog_node_path(f->catalog, 1, 77, 2, &path, &e), ERR_NOTFOUND);
    buffer_release(&path);
}

static int count_version(void *ctx, uint64_t from, int64_t to, const void *meta, size_t len)
{
    int64_t *seen = ctx;

    seen[seen[0] * 2 + 1] = (int64_t)from;
    seen[seen[0] * 2 + 2] = to;
    seen[0]++;
    return 0;
}

static int count_node(void *ctx, uint64_t node, int64_t from, int64_t to, const void *meta,
                      size_t len)
{
    ++*(int *)ctx;
    return 0;
}

static void test_versions_and_incomplete(void **state)
{
    struct fixture *f = *state;
    struct error e = ERROR_INIT;
    struct node torn = {.type = NODE_FILE, .flags = NODE_CHANGING, .reason = "busy"};
    int64_t seen[16] = {0};
    int count = 0;

    file_put(f, 5, 1);
    file_put(f, 6, 1);
    apply(f);
    file_put(f, 6, 2);
    apply(f);
    node_put(f, 5, &torn);
    apply(f);
    OK(catalog_versions(f->catalog, 1, 5, count_version, seen, &e), e);
    assert_int_equal(seen[0], 2);
    assert_int_equal(seen[1], 1);
    assert_int_equal(seen[2], 3);
    assert_int_equal(seen[3], 3);
    assert_true(seen[4] == CATALOG_OPEN);
    OK(catalog_incomplete(f->catalog, 1, count_node, &count, &e), e);
    assert_int_equal(count, 1);
    file_put(f, 5, 3);
    apply(f);
    count = 0;
    OK(catalog_incomplete(f->catalog, 1, count_node, &count, &e), e);
    assert_int_equal(count, 0);
}

/* ---- references ---- */

struct lists {
    struct {
        struct hash id;
        struct chunk_ref refs[4];
        uint32_t count;
        bool lost;
    } list[4];
    int count;
};

static int read_list(void *ctx, const struct hash *id, struct chunk_ref **refs, uint32_t *count,
                     struct error *e)
{
    struct lists *l = ctx;

    for (int i = 0; i < l->count; i++) {
        if (!hash_equal(&l->list[i].id, id) || l->list[i].lost)
            continue;
        *count = l->list[i].count;
        *refs = must_alloc(sizeof(l->list[i].refs));
        memcpy(*refs, l->list[i].refs, sizeof(l->list[i].refs));
        return 0;
    }
    return error_set(e, ERR_NOTFOUND, "no such list");
}

static struct hash id_of(uint8_t n)
{
    struct hash h = {{n, 0x55}};

    return h;
}

static void add_chunk(struct fixture *f, uint8_t n)
{
    struct error e = ERROR_INIT;
    const struct block_chunk chunk = {.id = id_of(n), .raw_len = 10};

    OK(catalog_begin(f->catalog, &e), e);
    OK(catalog_add_block(f->catalog, 3, 128 + n * 64u, &chunk, 1, NULL, false, &e), e);
    OK(catalog_commit(f->catalog, &e), e);
}

static uint64_t refs_of(struct fixture *f, uint8_t n)
{
    struct error e = ERROR_INIT;
    struct chunk_place at;
    struct hash id = id_of(n);

    OK(catalog_chunk(f->catalog, &id, &at, &e), e);
    return at.refs;
}

static void check_audit(struct fixture *f)
{
    struct error e = ERROR_INIT;
    uint64_t wrong = 9;

    OK(catalog_audit_refs(f->catalog, &wrong, NULL, NULL, &e), e);
    assert_int_equal(wrong, 0);
}

static void ref_put(struct fixture *f, uint64_t node, uint8_t depth, uint8_t a, uint8_t b)
{
    struct chunk_ref refs[2] = {{.id = id_of(a), .len = 10}, {.id = id_of(b), .len = 10}};
    struct node n = {
        .type = NODE_FILE, .depth = depth, .ref_count = b ? 2 : 1, .refs = refs, .size = node};

    node_put(f, node, &n);
}

/* Chunks 1 and 2 are data, 10 lists them; 11 lists 10 as a list of lists. */
static void make_lists(struct fixture *f, struct lists *l)
{
    *l = (struct lists){.count = 2};
    l->list[0].id = id_of(10);
    l->list[0].count = 2;
    l->list[0].refs[0] = (struct chunk_ref){.id = id_of(1), .len = 10};
    l->list[0].refs[1] = (struct chunk_ref){.id = id_of(2), .len = 10};
    l->list[1].id = id_of(11);
    l->list[1].count = 1;
    l->list[1].refs[0] = (struct chunk_ref){.id = id_of(10), .len = 20};
    catalog_set_list_reader(f->catalog, read_list, l);
    add_chunk(f, 1);
    add_chunk(f, 2);
    add_chunk(f, 10);
    add_chunk(f, 11);
}

static void test_lists_count_their_children_once(void **state)
{
    struct fixture *f = *state;
    struct lists l;

    make_lists(f, &l);
    ref_put(f, 5, 1, 10, 0);
    ref_put(f, 6, 1, 10, 0);
    ref_put(f, 7, 0, 1, 0);
    apply(f);
    assert_int_equal(refs_of(f, 10), 2);
    assert_int_equal(refs_of(f, 1), 2); /* the list, and node 7 */
    assert_int_equal(refs_of(f, 2), 1);
    check_audit(f);
    ref_put(f, 8, 2, 11, 0);
    apply(f);
    assert_int_equal(refs_of(f, 11), 1);
    assert_int_equal(refs_of(f, 10), 3);
    assert_int_equal(refs_of(f, 2), 1);
    check_audit(f);
    for (uint64_t n = 5; n <= 8; n++)
        node_remove(f, n);
    apply(f);
    check_audit(f);
    drop(f, 1);
    drop(f, 2);
    assert_int_equal(refs_of(f, 1), 0);
    assert_int_equal(refs_of(f, 2), 0);
    assert_int_equal(refs_of(f, 10), 0);
    assert_int_equal(refs_of(f, 11), 0);
    check_audit(f);
}

/* Somebody's file holds the very bytes of a list chunk. */
static void test_a_chunk_that_is_data_and_list(void **state)
{
    struct fixture *f = *state;
    struct lists l;

    make_lists(f, &l);
    ref_put(f, 5, 0, 10, 0);
    apply(f);
    assert_int_equal(refs_of(f, 1), 0);
    ref_put(f, 6, 1, 10, 0);
    apply(f);
    assert_int_equal(refs_of(f, 10), 2);
    assert_int_equal(refs_of(f, 1), 1);
    node_remove(f, 6);
    apply(f);
    drop(f, 2);
    assert_int_equal(refs_of(f, 10), 1);
    assert_int_equal(refs_of(f, 1), 0);
    check_audit(f);
}

static void test_a_list_that_is_lost_and_comes_back(void **state)
{
    struct fixture *f = *state;
    struct lists l;

    make_lists(f, &l);
    l.list[0].lost = true;
    ref_put(f, 5, 1, 10, 0);
    apply(f);
    assert_int_equal(refs_of(f, 1), 0);
    l.list[0].lost = false;
    add_chunk(f, 10);
    assert_int_equal(refs_of(f, 1), 1);
    check_audit(f);
}

/* ---- opening ---- */

static void test_what_is_not_ours(void **state)
{
    struct fixture *f = *state;
    struct error e = ERROR_INIT;
    struct catalog *c;
    static const uint8_t other[16] = {4};
    char path[128];
    sqlite3 *db;

    catalog_close(f->catalog);
    f->catalog = NULL;
    assert_int_equal(catalog_open(f->scratch->path, CATALOG_READ, false, other, &c, &e),
                     ERR_CATALOG);
    OK(catalog_open(f->scratch->path, CATALOG_READ, false, repo_id, &c, &e), e);
    catalog_close(c);
    snprintf(path, sizeof(path), "%s/catalog.db", f->scratch->path);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version=99", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(catalog_open(f->scratch->path, CATALOG_WRITE, false, repo_id, &c, &e),
                     ERR_CATALOG);
}

static void test_a_copy_in_memory(void **state)
{
    struct fixture *f = *state;
    struct error e = ERROR_INIT;
    struct catalog *copy, *second;
    uint64_t node;

    file_put(f, 5, 1);
    name_put(f, NODE_ROOT, "a", 5);
    apply(f);
    OK(catalog_open(f->scratch->path, CATALOG_MEMORY, true, repo_id, &copy, &e), e);
    name_put(f, NODE_ROOT, "b", 5);
    apply(f);
    OK(catalog_clone(copy, &second, &e), e);
    OK(catalog_lookup(second, 1, NODE_ROOT, "a", 1, CATALOG_OPEN, &node, &e), e);
    assert_int_equal(catalog_lookup(second, 1, NODE_ROOT, "b", 1, CATALOG_OPEN, &node, &e),
                     ERR_NOTFOUND);
    catalog_close(copy);
    OK(catalog_lookup(second, 1, NODE_ROOT, "a", 1, CATALOG_OPEN, &node, &e), e);
    catalog_close(second);
}

static void test_a_reading_transaction_stands_still(void **state)
{
    struct fixture *f = *state;
    struct error e = ERROR_INIT;
    struct catalog *reader;
    uint64_t node;

    file_put(f, 5, 1);
    name_put(f, NODE_ROOT, "a", 5);
    apply(f);
    OK(catalog_clone(f->catalog, &reader, &e), e);
    OK(catalog_read_begin(reader, &e), e);
    name_remove(f, NODE_ROOT, "a");
    apply(f);
    OK(catalog_lookup(reader, 1, NODE_ROOT, "a", 1, CATALOG_OPEN, &node, &e), e);
    catalog_read_end(reader);
    assert_int_equal(catalog_lookup(reader, 1, NODE_ROOT, "a", 1, CATALOG_OPEN, &node, &e),
                     ERR_NOTFOUND);
    catalog_close(reader);
}

static void test_caches(void **state)
{
    struct fixture *f = *state;
    struct error e = ERROR_INIT;
    struct cache_key key = {.ino = 42}, late = {.ino = 43, .pending = true};
    struct buffer b = BUFFER_INIT;
    uint64_t nodes[2], ino, *pending;
    size_t count;

    file_put(f, 5, 1);
    file_put(f, 6, 1);
    apply(f);
    OK(catalog_begin(f->catalog, &e), e);
    OK(catalog_cache_put(f->catalog, 1, 5, &key, "sig5", 4, &e), e);
    OK(catalog_cache_put(f->catalog, 1, 6, &late, "sig6", 4, &e), e);
    OK(catalog_note_put(f->catalog, "verify", "pos", 3, &e), e);
    OK(catalog_commit(f->catalog, &e), e);
    OK(catalog_cache_by_ino(f->catalog, 1, 42, nodes, 2, &count, &e), e);
    assert_int_equal(count, 1);
    OK(catalog_cache_by_ino(f->catalog, 1, 44, nodes, 2, &count, &e), e);
    assert_int_equal(count, 0);
    OK(catalog_cache_pending(f->catalog, 1, &pending, &count, &e), e);
    assert_int_equal(count, 1);
    assert_int_equal(pending[0], 6);
    free(pending);
    OK(catalog_note_get(f->catalog, "verify", &b, &e), e);
    assert_int_equal(b.len, 3);
    buffer_clear(&b);
    file_put(f, 5, 2); /* a new version: the signature was of the one before */
    apply(f);
    assert_int_equal(catalog_cache_get(f->catalog, 1, 5, &ino, &b, &e), ERR_NOTFOUND);
    OK(catalog_cache_get(f->catalog, 1, 6, &ino, &b, &e), e);
    assert_int_equal(ino, 43);
    assert_memory_equal(b.data, "sig6", 4);
    buffer_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_every_kept_snapshot_reads_as_it_was),
        T(test_the_sum_follows_the_state),
        T(test_put_twice_in_one_commit),
        T(test_paths_and_hard_links),
        T(test_versions_and_incomplete),
        T(test_lists_count_their_children_once),
        T(test_a_chunk_that_is_data_and_list),
        T(test_a_list_that_is_lost_and_comes_back),
        T(test_what_is_not_ours),
        T(test_a_copy_in_memory),
        T(test_a_reading_transaction_stands_still),
        T(test_caches),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
