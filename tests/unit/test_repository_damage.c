/* Damage in a data pack costs what it touched, also when the packs are all there is. */
#include "repo_fixture.h"

#include <dirent.h>
#include <fcntl.h>

#include "base/banned.h"

#define BLOCKS 60u
#define LARGE (BLOCKS * CHUNK)

struct world {
    struct scratch *scratch;
    char path[128];
    struct model model;
};

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct error e = ERROR_INIT;

    if (!w || scratch_setup((void **)&w->scratch) != 0)
        return -1;
    snprintf(w->path, sizeof(w->path), "%s/repo", w->scratch->path);
    OK(repo_init(w->path, &e), e);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    int rc = scratch_teardown((void **)&w->scratch);

    free(w);
    return rc;
}

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

static void test_blocks_of_a_large_save(void **state)
{
    struct world *w = *state;
    struct model_tree tree = large_tree();
    struct error e = ERROR_INIT;
    struct repo *r;

    OK(open_repo(w->path, REPO_WRITE, NULL, &r, &e), e);
    OK(save(r, &w->model, "app", &tree, &e), e);
    repo_close(r);
    check_one_is_lost(w);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_blocks_of_a_large_save, setup, teardown),
        cmocka_unit_test_setup_teardown(test_blocks_of_a_save_that_was_given_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_blocks_of_a_run_before, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
