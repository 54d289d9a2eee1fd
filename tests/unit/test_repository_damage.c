/* Damage in a data pack costs what it touched, also when the packs are all there is. */
#include "world_fixture.h"

#include "io/fileops.h"

#include <dirent.h>
#include <fcntl.h>

#include "base/banned.h"

#define BLOCKS 60u
#define LARGE (BLOCKS * CHUNK)

/* The only data pack that holds something. */
static void find_data_pack(const struct world *w, char path[512], off_t *size)
{
    struct dirent *entry;
    struct stat st;
    char folder[256];

    snprintf(folder, sizeof(folder), "%s/packs", w->path);
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    path[0] = '\0';
    while ((entry = readdir(dir))) {
        char name[512];
        snprintf(name, sizeof(name), "%.200s/%.250s", folder, entry->d_name);
        if (strncmp(entry->d_name, "1-data-", 7) == 0 && stat(name, &st) == 0 &&
            st.st_size > 4096) {
            assert_int_equal(path[0], 0);
            memcpy(path, name, 512);
            *size = st.st_size;
        }
    }
    closedir(dir);
    assert_int_not_equal(path[0], 0);
}

static void flip_in_the_middle(const struct world *w)
{
    char path[512];
    off_t size = 0;
    uint8_t byte;

    find_data_pack(w, path, &size);
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, &byte, 1, size / 2), 1);
    byte ^= 4;
    assert_int_equal(pwrite(fd, &byte, 1, size / 2), 1);
    close(fd);
}

static void remove_catalog(const struct world *w)
{
    static const char *const names[] = {"catalog.db", "catalog.db-wal", "catalog.db-shm"};
    char path[256];

    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/%s", w->path, names[i]);
        unlink(path);
    }
}

struct count {
    struct chunk_source *source;
    unsigned sound, lost;
};

static int count_chunk(void *ctx, uint64_t off, const struct chunk_ref *ref, struct error *e)
{
    struct error why = ERROR_INIT;
    struct count *c = ctx;
    const uint8_t *p;
    size_t len;

    if (chunk_source_get(c->source, &ref->id, &p, &len, &why) == 0)
        c->sound++;
    else
        c->lost++;
    return 0;
}

/* Chunks of the first watch's only file. */
static struct count count_chunks(struct repo *r)
{
    struct count c = {.sound = 0};
    struct buffer meta = BUFFER_INIT;
    struct error e = ERROR_INIT;
    struct node n;
    uint64_t node;

    OK(chunk_source_open(r, &c.source, &e), e);
    OK(catalog_lookup(repo_catalog(r), 1, NODE_ROOT, "large", 5, CATALOG_OPEN, &node, &e), e);
    OK(catalog_node(repo_catalog(r), 1, node, CATALOG_OPEN, &meta, &e), e);
    OK(node_decode(meta.data, meta.len, &n, &e), e);
    OK(content_walk(c.source, &n, count_chunk, &c, &e), e);
    node_release(&n);
    buffer_release(&meta);
    chunk_source_close(c.source);
    return c;
}

static struct model_tree large_tree(void)
{
    struct model_tree t = {.count = 0};

    tree_set(&t, "large", 7, LARGE);
    return t;
}

static void give_up(struct repo *r, const struct model_tree *tree)
{
    struct error e = ERROR_INIT;
    struct txn *t;

    OK(begin_save(r, "given-up", &t, &e), e);
    OK(put_changes(t, &(struct model_tree){.count = 0}, tree, &e), e);
    txn_abort(t);
}

static void check_one_is_lost(struct world *w)
{
    struct error e = ERROR_INIT;
    struct repo *r;
    struct count c;

    flip_in_the_middle(w);
    remove_catalog(w);
    OK(open_repo(w->path, REPO_READ, NULL, &r, &e), e);
    c = count_chunks(r);
    repo_close(r);
    assert_int_equal(c.lost, 1);
    assert_int_equal(c.sound, BLOCKS - 1);
    OK(open_repo(w->path, REPO_WRITE, NULL, &r, &e), e);
    c = count_chunks(r);
    check_refs(r);
    repo_close(r);
    assert_int_equal(c.lost, 1);
    assert_int_equal(c.sound, BLOCKS - 1);
}

static void make_large(struct world *w)
{
    struct model_tree tree = large_tree();
    struct error e = ERROR_INIT;
    struct repo *r;

    OK(open_repo(w->path, REPO_WRITE, NULL, &r, &e), e);
    OK(save(r, &w->model, "app", &tree, &e), e);
    repo_close(r);
}

static void test_blocks_of_a_large_save(void **state)
{
    make_large(*state);
    check_one_is_lost(*state);
}

/* The save that is committed writes no block of its own. */
static void test_blocks_of_a_save_that_was_given_up(void **state)
{
    struct world *w = *state;
    struct model_tree tree = large_tree();
    struct error e = ERROR_INIT;
    struct repo *r;

    OK(open_repo(w->path, REPO_WRITE, NULL, &r, &e), e);
    give_up(r, &tree);
    OK(save(r, &w->model, "app", &tree, &e), e);
    check_model(r, &w->model);
    repo_close(r);
    check_one_is_lost(w);
}

static void test_blocks_of_a_run_before(void **state)
{
    struct world *w = *state;
    struct model_tree tree = large_tree();
    struct error e = ERROR_INIT;
    struct repo *r;

    OK(open_repo(w->path, REPO_WRITE, NULL, &r, &e), e);
    give_up(r, &tree);
    repo_close(r);
    OK(open_repo(w->path, REPO_WRITE, NULL, &r, &e), e);
    OK(save(r, &w->model, "app", &tree, &e), e);
    check_model(r, &w->model);
    repo_close(r);
    check_one_is_lost(w);
}

/* Names until a list of them has gone to the log. */
static void begin_long_save(struct repo *r, const char *watch, struct txn **t)
{
    struct node n = {.type = NODE_FILE, .mode = 0600}, root = {.type = NODE_FOLDER};
    struct error e = ERROR_INIT;
    char name[32];

    OK(begin_save(r, watch, t, &e), e);
    OK(txn_node_put(*t, NODE_ROOT, &root, &e), e);
    for (int i = 0; i < 60000; i++) {
        uint64_t node = txn_new_node(*t);
        snprintf(name, sizeof(name), "file-%06d", i);
        OK(txn_name_put(*t, NODE_ROOT, name, strlen(name), node, &e), e);
        OK(txn_node_put(*t, node, &n, &e), e);
    }
}

static void log_path(const struct world *w, char path[256])
{
    snprintf(path, 256, "%s/packs/0-log-0000000000000001.wkp", w->path);
}

/* Holes in everything behind an offset, but for the first bytes of each sector of 4 KiB. */
static void tear(const char *path, off_t from)
{
    static const uint8_t junk[900] = {0xee};
    struct stat st;

    int fd = open(path, O_RDWR);
    assert_int_equal(fstat(fd, &st), 0);
    assert_true(st.st_size > from + 20000);
    for (off_t at = from + 1500; at < st.st_size - 900; at += 4096)
        assert_int_equal(pwrite(fd, junk, sizeof(junk), at), sizeof(junk));
    close(fd);
}

/* Power went while several saves had lists in the log, and the catalog is gone too: no number that
 * stands in the torn tail is given out again. */
static void test_numbers_of_a_torn_tail(void **state)
{
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    struct error e = ERROR_INIT;
    struct txn *t[3];
    struct stat st;
    struct repo *r;
    char log[256];

    log_path(w, log);
    OK(open_repo(w->path, REPO_WRITE, NULL, &r, &e), e);
    tree_set(&tree, "a", 2, 300);
    OK(save(r, &w->model, "app", &tree, &e), e);
    uint64_t last = w->model.snapshots[0].number;
    assert_int_equal(stat(log, &st), 0);
    begin_long_save(r, "first", &t[0]);
    begin_long_save(r, "second", &t[1]);
    begin_long_save(r, "third", &t[2]);
    for (int i = 0; i < 3; i++)
        txn_abort(t[i]);
    repo_close(r);
    tear(log, st.st_size);
    remove_catalog(w);
    for (int i = 0; i < 2; i++) {
        OK(open_repo(w->path, REPO_WRITE, NULL, &r, &e), e);
        repo_close(r);
        remove_catalog(w);
    }
    OK(open_repo(w->path, REPO_WRITE, NULL, &r, &e), e);
    tree_set(&tree, "a", 4, 300);
    OK(save(r, &w->model, "app", &tree, &e), e);
    assert_int_equal(w->model.snapshots[1].number, last + 4);
    check_model(r, &w->model);
    repo_close(r);
}

/* The same for a commit whose own bytes are not all there. */
static void test_number_of_a_torn_commit(void **state)
{
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    struct error e = ERROR_INIT;
    struct stat st;
    struct repo *r;
    char log[256];

    log_path(w, log);
    OK(open_repo(w->path, REPO_WRITE, NULL, &r, &e), e);
    tree_set(&tree, "a", 2, 300);
    OK(save(r, &w->model, "app", &tree, &e), e);
    tree_set(&tree, "a", 3, 300);
    OK(save(r, &w->model, "app", &tree, &e), e);
    uint64_t last = w->model.snapshots[1].number;
    repo_close(r);
    assert_int_equal(stat(log, &st), 0);
    assert_int_equal(truncate(log, st.st_size - 24), 0);
    remove_catalog(w);
    w->model.count--;
    OK(open_repo(w->path, REPO_WRITE, NULL, &r, &e), e);
    OK(save(r, &w->model, "app", &tree, &e), e);
    assert_int_equal(w->model.snapshots[w->model.count - 1].number, last + 1);
    repo_close(r);
}

/* ---- damage that no checksum of a record sees ---- */

/* Turn a bit at the end of the body of the nth commit in the log. */
static void flip_commit(const struct world *w, unsigned nth)
{
    struct record_header h;
    struct error e = ERROR_INIT;
    uint8_t header[RECORD_HEADER_LEN], byte;
    char log[256];

    log_path(w, log);
    int fd = open(log, O_RDWR);
    for (off_t at = PACK_HEADER_LEN;; at += (off_t)record_span(h.body_len)) {
        assert_int_equal(pread(fd, header, sizeof(header), at), sizeof(header));
        OK(record_header_decode(header, 1, (uint64_t)at, &h, &e), e);
        off_t last = at + RECORD_HEADER_LEN + (off_t)h.body_len - 1;
        if (h.type != RECORD_COMMIT || --nth > 0)
            continue;
        assert_int_equal(pread(fd, &byte, 1, last), 1);
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, last), 1);
        break;
    }
    close(fd);
}

/* The commits stand on each other: a reader of the packs alone sees that one is not there, and that
 * the state after the next is not the one that was committed. */
static void test_a_lost_commit_is_noticed(void **state)
{
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    struct notices told = {.count = 0};
    struct error e = ERROR_INIT;
    struct snapshot_row row;
    struct repo *r;

    OK(open_repo(w->path, REPO_WRITE, NULL, &r, &e), e);
    tree_set(&tree, "a", 2, 300);
    OK(save(r, &w->model, "app", &tree, &e), e);
    tree_set(&tree, "b", 3, 300);
    OK(save(r, &w->model, "app", &tree, &e), e);
    tree_set(&tree, "c", 4, 300);
    OK(save(r, &w->model, "app", &tree, &e), e);
    repo_close(r);
    flip_commit(w, 2);
    remove_catalog(w);
    OK(open_repo(w->path, REPO_READ, &told, &r, &e), e);
    assert_non_null(strstr(told.all, "a commit before snapshot 3 is missing"));
    OK(catalog_snapshot(repo_catalog(r), 1, &row, &e), e);
    assert_true(row.whole);
    snapshot_row_release(&row);
    OK(catalog_snapshot(repo_catalog(r), 3, &row, &e), e);
    assert_false(row.whole);
    snapshot_row_release(&row);
    repo_close(r);
}

/* A block that holds other bytes than its table says, in a record that is as it was written. */
static void test_a_chunk_under_a_wrong_id(void **state)
{
    struct world *w = *state;
    const struct model_tree none = {.count = 0};
    struct chunk_source *source;
    struct error e = ERROR_INIT;
    struct hash id;
    struct txn *t;
    const uint8_t *p;
    uint64_t number;
    size_t len;
    struct repo *r;

    hash_sha256("right", 5, &id);
    OK(open_repo(w->path, REPO_WRITE, NULL, &r, &e), e);
    OK(begin_save(r, "app", &t, &e), e);
    OK(put_chunk(t, &id, "wrong", 5, false, &e), e);
    struct chunk_ref ref = {.id = id, .len = 5};
    struct node n = {.type = NODE_FILE, .mode = 0600, .size = 5, .refs = &ref, .ref_count = 1};
    uint64_t node = txn_new_node(t);
    OK(txn_name_put(t, NODE_ROOT, "f", 1, node, &e), e);
    OK(txn_node_put(t, node, &n, &e), e);
    OK(end_save(t, NULL, &none, &number, &e), e);
    OK(chunk_source_open(r, &source, &e), e);
    assert_int_equal(chunk_source_get(source, &id, &p, &len, &e), ERR_DAMAGED);
    chunk_source_close(source);
    repo_close(r);
}

/* ---- a sector that the disk refuses to read, for good ---- */

static struct {
    dev_t dev;
    ino_t ino;
    off_t at;
} bad_sector;

static ssize_t pread_but_one_sector(int fd, void *p, size_t n, off_t off)
{
    struct stat st;

    if (fstat(fd, &st) == 0 && st.st_dev == bad_sector.dev && st.st_ino == bad_sector.ino &&
        off < bad_sector.at + 4096 && off + (off_t)n > bad_sector.at) {
        errno = EIO;
        return -1;
    }
    return pread(fd, p, n, off);
}

static void sector_goes_bad(const char *path, off_t at)
{
    static struct fileops ops;
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    bad_sector.dev = st.st_dev;
    bad_sector.ino = st.st_ino;
    bad_sector.at = at / 4096 * 4096;
    ops = fileops_system;
    ops.pread = pread_but_one_sector;
    fileops = &ops;
}

/* Nothing is taken for lost by itself: it may be the cable. */
static void test_a_bad_sector_in_a_data_pack(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct repo *r;
    char path[512];
    off_t size;

    make_large(w);
    remove_catalog(w);
    find_data_pack(w, path, &size);
    for (off_t at = size / 2; at >= 0; at -= size / 2) { /* that of its header too */
        sector_goes_bad(path, at);
        assert_int_equal(open_repo(w->path, REPO_READ, NULL, &r, &e), ERR_FAILED);
        assert_non_null(strstr(e.message, "cannot read data pack"));
        assert_int_equal(open_repo(w->path, REPO_WRITE, NULL, &r, &e), ERR_FAILED);
        assert_non_null(strstr(e.message, "cannot read data pack"));
    }
    fileops = &fileops_system;
    error_clear(&e);
    OK(open_repo(w->path, REPO_WRITE, NULL, &r, &e), e);
    check_model(r, &w->model);
    repo_close(r);
}

/* Who asks for it gets a catalog of what can be read; what a source still has is stored again. */
static void rebuild_past(struct world *w, bool first_sector)
{
    struct model_tree tree = large_tree();
    struct notices told = {.count = 0};
    struct error e = ERROR_INIT;
    struct repo *r;
    char path[512];
    off_t size;

    make_large(w);
    remove_catalog(w);
    find_data_pack(w, path, &size);
    sector_goes_bad(path, first_sector ? 0 : size / 2);
    const struct repo_options past = {.past_unread = true, .notice = take_notice, .ctx = &told};
    OK(repo_open(w->path, REPO_WRITE, &past, &r, &e), e);
    assert_int_equal(repo_rebuild(r, &e), ERR_DAMAGED);
    assert_non_null(strstr(told.all, first_sector ? "the disk refuses to read 3968 bytes"
                                                  : "the disk refuses to read 4096 bytes"));
    struct count c = count_chunks(r);
    assert_true(c.lost >= 1 && c.lost <= 2 && c.lost + c.sound == BLOCKS);
    error_clear(&e);
    OK(save(r, &w->model, "again", &tree, &e), e);
    assert_int_equal(count_chunks(r).lost, 0);
    check_refs(r);
    repo_close(r);
}

static void test_rebuild_past_a_bad_sector(void **state)
{
    rebuild_past(*state, false);
}

static void test_rebuild_past_a_header(void **state)
{
    rebuild_past(*state, true);
}

/* It was the cable: what a rebuild and the saves after it had to do without is there again. */
static void test_a_disk_that_answers_again(void **state)
{
    struct world *w = *state;
    const struct repo_options past = {.past_unread = true};
    struct model_tree small = {.count = 0};
    struct error e = ERROR_INIT;
    struct repo *r;
    char path[512];
    off_t size;

    make_large(w);
    for (int last = 0; last < 2; last++) {
        remove_catalog(w);
        find_data_pack(w, path, &size);
        sector_goes_bad(path, last ? size - 1 : 0);
        OK(repo_open(w->path, REPO_WRITE, &past, &r, &e), e);
        assert_int_equal(repo_rebuild(r, &e), ERR_DAMAGED);
        error_clear(&e);
        tree_set(&small, "small", 77 + (uint64_t)last, 100);
        OK(save(r, &w->model, "small", &small, &e), e);
        repo_close(r);
        OK(open_repo(w->path, REPO_WRITE, NULL, &r, &e), e);
        repo_close(r);
        fileops = &fileops_system;
        OK(open_repo(w->path, REPO_WRITE, NULL, &r, &e), e);
        OK(repo_rebuild(r, &e), e);
        assert_int_equal(count_chunks(r).lost, 0);
        check_model(r, &w->model);
        check_refs(r);
        repo_close(r);
    }
}

static int teardown_disk(void **state)
{
    fileops = &fileops_system;
    return world_end(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_bad_sector_in_a_data_pack, world_make,
                                        teardown_disk),
        cmocka_unit_test_setup_teardown(test_rebuild_past_a_bad_sector, world_make, teardown_disk),
        cmocka_unit_test_setup_teardown(test_rebuild_past_a_header, world_make, teardown_disk),
        cmocka_unit_test_setup_teardown(test_a_disk_that_answers_again, world_make, teardown_disk),
        cmocka_unit_test_setup_teardown(test_blocks_of_a_large_save, world_make, world_end),
        cmocka_unit_test_setup_teardown(test_blocks_of_a_save_that_was_given_up, world_make,
                                        world_end),
        cmocka_unit_test_setup_teardown(test_blocks_of_a_run_before, world_make, world_end),
        cmocka_unit_test_setup_teardown(test_numbers_of_a_torn_tail, world_make, world_end),
        cmocka_unit_test_setup_teardown(test_number_of_a_torn_commit, world_make, world_end),
        cmocka_unit_test_setup_teardown(test_a_lost_commit_is_noticed, world_make, world_end),
        cmocka_unit_test_setup_teardown(test_a_chunk_under_a_wrong_id, world_make, world_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
