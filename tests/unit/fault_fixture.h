/* fault_fixture.h - repositories under faults: copies, what a power cut leaves, and runs of
 * something with a fault at every place in turn. Include it in one file of a test. */
#ifndef WK_TESTS_FAULT_FIXTURE_H
#define WK_TESTS_FAULT_FIXTURE_H

#include "repo_fixture.h"

#include <dirent.h>
#include <fcntl.h>

#include "fault_table.h"

#define LARGE (SMALL_SAVE_MAX + 20000u) /* bytes of a file that goes into a data pack */
static const struct upkeep everything = {.all = true, .keep_s = 0};

/* ---- copies of a repository ---- */

typedef void (*visit_file)(const char *path, const char *name, void *ctx);

static inline void each_file(const char *folder, visit_file visit, void *ctx)
{
    struct dirent *entry;
    char path[512];

    DIR *dir = opendir(folder);
    assert_non_null(dir);
    while ((entry = readdir(dir))) {
        snprintf(path, sizeof(path), "%.200s/%.250s", folder, entry->d_name);
        if (entry->d_type == DT_REG)
            visit(path, entry->d_name, ctx);
    }
    closedir(dir);
}

static inline void copy_into(const char *path, const char *name, void *ctx)
{
    static char buf[1 << 18];
    char to[512];
    ssize_t n;

    snprintf(to, sizeof(to), "%.200s/%.250s", (const char *)ctx, name);
    int in = open(path, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(in >= 0 && out >= 0);
    while ((n = read(in, buf, sizeof(buf))) > 0)
        assert_int_equal(write(out, buf, (size_t)n), n);
    close(in);
    close(out);
}

static inline void copy_repo(const char *from, const char *to)
{
    char a[256], b[256];

    snprintf(a, sizeof(a), "%s/packs", from);
    snprintf(b, sizeof(b), "%s/packs", to);
    assert_int_equal(mkdir(to, 0700), 0);
    assert_int_equal(mkdir(b, 0700), 0);
    each_file(from, copy_into, to[0] ? (void *)(uintptr_t)to : NULL);
    each_file(a, copy_into, b);
}

static inline void note_whole(const char *path, const char *name, void *ctx)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    note_flushed(st.st_ino, st.st_size);
}

static inline void all_is_flushed(const char *repo)
{
    char packs[256];

    snprintf(packs, sizeof(packs), "%s/packs", repo);
    each_file(repo, note_whole, NULL);
    each_file(packs, note_whole, NULL);
}

/* A flush, where nothing depends on what the disk has got. */
static inline int no_sync(int fd)
{
    return 0;
}

/* ---- the power cut ---- */

static inline void cut_file(const char *path, const char *name, void *ctx)
{
    static const char zero[512];
    uint64_t *seed = ctx;
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    off_t safe = flushed_len(st.st_ino);
    bool wal = strstr(name, "-wal") != NULL;
    bool pack = strstr(name, ".wkp") != NULL;
    if (strstr(name, "-shm")) {
        unlink(path);
        return;
    }
    if ((!wal && !pack) || st.st_size <= safe)
        return;
    uint64_t how = next_random(seed) % 4;
    off_t len = safe + (off_t)(next_random(seed) % (uint64_t)(st.st_size - safe + 1));
    if (how == 0)
        assert_int_equal(truncate(path, safe), 0);
    if (how == 1)
        assert_int_equal(truncate(path, len), 0);
    if (how != 2)
        return;
    int fd = open(path, O_WRONLY);
    for (off_t at = (safe + 511) / 512 * 512; at + 512 <= st.st_size; at += 512)
        if (next_random(seed) % 3 == 0)
            assert_int_equal(pwrite(fd, zero, 512, at), 512);
    close(fd);
}

static inline void cut_power(const char *repo, uint64_t seed)
{
    char packs[256], catalog[256];

    snprintf(packs, sizeof(packs), "%s/packs", repo);
    each_file(repo, cut_file, &seed);
    each_file(packs, cut_file, &seed);
    if (next_random(&seed) % 4 == 0) {
        snprintf(catalog, sizeof(catalog), "%s/catalog.db", repo);
        unlink(catalog);
    }
}

/* ---- what is left ---- */

static inline int read_chunk(void *ctx, uint64_t off, const struct chunk_ref *ref, struct error *e)
{
    const uint8_t *p;
    size_t len;

    return chunk_source_get(ctx, &ref->id, &p, &len, e);
}

struct whole {
    struct repo *repo;
    struct chunk_source *source;
};

/* Every snapshot that is listed, acknowledged or not, is whole and readable. */
static inline int check_listed(void *ctx, const struct snapshot_row *s)
{
    struct whole *w = ctx;
    struct error e = ERROR_INIT;
    struct name_iter *it;
    struct name_row row;
    struct node n;

    assert_true(s->whole);
    OK(catalog_children(repo_catalog(w->repo), s->watch_serial, NODE_ROOT,
                        (int64_t)s->commit.number, &it, &e),
       e);
    while (name_iter_step(it, &row, &e) == 1) {
        OK(node_decode(row.meta, row.meta_len, &n, &e), e);
        OK(content_walk(w->source, &n, read_chunk, w->source, &e), e);
        node_release(&n);
    }
    name_iter_close(it);
    return 0;
}

static inline size_t check_all_listed(struct repo *r)
{
    struct error e = ERROR_INIT;
    struct whole w = {.repo = r};

    OK(chunk_source_open(r, &w.source, &e), e);
    OK(catalog_snapshots(repo_catalog(r), 0, 0, UINT64_MAX, false, check_listed, &w, &e), e);
    chunk_source_close(w.source);
    return snapshot_count(r);
}

/* ---- a run with a fault in it ---- */

/* In memory where there is some: flushes are counted here, not waited for. */
static inline int memory_scratch(struct scratch **out)
{
    struct scratch *s = malloc(sizeof(*s));

    if (!s)
        return -1;
    *s = (struct scratch){.path = "/dev/shm/wk-unit-XXXXXX", .fd = -1};
    if (!mkdtemp(s->path)) {
        free(s);
        return scratch_setup((void **)out);
    }
    s->fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *out = s;
    return s->fd < 0 ? -1 : 0;
}

struct fault_base {
    struct scratch *scratch;
    char path[128];
    struct model model;
};

/* A new repository, opened to be filled. */
static inline int fault_base_begin(void **state, struct fault_base **out, struct repo **r)
{
    struct fault_base *b = calloc(1, sizeof(*b));
    struct error e = ERROR_INIT;

    if (!b || memory_scratch(&b->scratch) != 0)
        return -1;
    snprintf(b->path, sizeof(b->path), "%s/base", b->scratch->path);
    OK(repo_init(b->path, &e), e);
    OK(open_repo(b->path, REPO_WRITE, NULL, r, &e), e);
    *state = *out = b;
    return 0;
}

static inline int fault_base_end(void **state)
{
    struct fault_base *b = *state;

    faults_off();
    int rc = scratch_teardown((void **)&b->scratch);
    free(b);
    return rc;
}

struct fault_run {
    const char *path;  /* of the repository */
    const char *aside; /* an empty folder beside it */
    unsigned kinds;
    enum mode mode;
    unsigned at;
    bool hit;
    struct model model; /* what was acknowledged */
    unsigned tried, failed;
    bool opened, drop_tried, dropped;
};

/* What is done while the fault waits, and what must hold afterwards. */
struct fault_plan {
    void (*run)(struct fault_run *f);
    void (*check)(struct fault_run *f);
    unsigned least;  /* places that must be met, or the table is not in use */
    unsigned sample; /* in a sanitized build every so many-th place */
};

/* While nothing can be written, all that was acknowledged can be read. */
static inline void check_readers(const struct fault_run *f)
{
    struct error e = ERROR_INIT;
    struct model m = f->model;
    struct repo *r;

    OK(open_repo(f->path, REPO_READ, NULL, &r, &e), e);
    m.snapshots[0].dropped |= f->drop_tried;
    m.snapshots[1].dropped |= f->drop_tried;
    check_model(r, &m);
    repo_close(r);
}

/* With the fault at its place; false when nothing was hit any more. */
static inline bool run_with_fault(struct fault_base *b, const struct fault_plan *plan,
                                  unsigned kinds, enum mode mode, int error, unsigned at)
{
    char path[160], aside[160];
    struct fault_run f = {.path = path, .aside = aside, .kinds = kinds, .mode = mode, .at = at};
    struct error e = ERROR_INIT;

    f.model = b->model;
    snprintf(path, sizeof(path), "%s/run", b->scratch->path);
    snprintf(aside, sizeof(aside), "%s/aside", b->scratch->path);
    copy_repo(b->path, path);
    assert_int_equal(mkdir(aside, 0700), 0);
    faults_on(kinds, mode, error, at);
    if (mode == MODE_CUT)
        all_is_flushed(path);
    plan->run(&f);
    f.hit = fault.hit;
    if (mode == MODE_STICKY && kinds == OF_CHANGES)
        check_readers(&f);
    faults_off();
    if (mode == MODE_CUT)
        cut_power(path, at);
    if (getenv("WK_TEST_NOTICES"))
        print_message("mode %d at %u: %u of %u failed\n", mode, at, f.failed, f.tried);
    if (mode == MODE_FAIL && f.opened)
        assert_true(f.failed <= 1); /* the handle goes on */
    if (!f.hit)
        assert_true(f.opened && f.failed == 0 && f.dropped == f.drop_tried);
    plan->check(&f);
    OK(remove_tree(b->scratch->fd, "run", &e), e);
    OK(remove_tree(b->scratch->fd, "aside", &e), e);
    return f.hit;
}

/* For every place until none is hit. error 0: each of these in turn. */
static inline void every_place(struct fault_base *b, const struct fault_plan *plan, unsigned kinds,
                               enum mode mode, int error)
{
    static const int errors[] = {ENOSPC, EIO, EDQUOT, EROFS, EFBIG};
    const char *sanitized = getenv("WK_SANITIZE");
    unsigned step = sanitized && *sanitized ? plan->sample : 1;
    unsigned at = 1;

    while (run_with_fault(b, plan, kinds, mode, error ? error : errors[at / step % 5], at))
        at += step;
    if (mode != MODE_RAGGED)
        assert_true(at > (kinds == OF_CHANGES ? plan->least : 3));
}

/* ---- as tests ---- */

#define EVERY_PLACE(name, plan, kinds, mode, error)       \
    static void name(void **state)                        \
    {                                                     \
        every_place(*state, &(plan), kinds, mode, error); \
    }

/* What every plan has to bear. */
#define USUAL_FAULTS(plan)                                                        \
    EVERY_PLACE(test_an_error_anywhere, plan, OF_CHANGES, MODE_FAIL, 0)           \
    EVERY_PLACE(test_no_write_from_anywhere_on, plan, OF_CHANGES, MODE_STICKY, 0) \
    EVERY_PLACE(test_killed_anywhere, plan, OF_CHANGES, MODE_KILL, EIO)           \
    EVERY_PLACE(test_a_power_cut_anywhere, plan, OF_CHANGES, MODE_CUT, EIO)       \
    EVERY_PLACE(test_a_read_error_anywhere, plan, OF_READS, MODE_FAIL, EIO)       \
    EVERY_PLACE(test_in_fragments, plan, 0, MODE_RAGGED, EIO)

#define FAULT_TEST(name) cmocka_unit_test_setup_teardown(name, setup, fault_base_end)
#define USUAL_FAULT_TESTS                                                           \
    FAULT_TEST(test_an_error_anywhere), FAULT_TEST(test_no_write_from_anywhere_on), \
        FAULT_TEST(test_killed_anywhere), FAULT_TEST(test_a_power_cut_anywhere),    \
        FAULT_TEST(test_a_read_error_anywhere), FAULT_TEST(test_in_fragments)

#endif
