/* What was acknowledged stays, whatever operation on files fails, and wherever the process is
 * killed or the power goes: for every operation in turn until none is hit.
 *
 * fail: the operation fails once, the process goes on and closes properly.
 * kill: it and everything after it fails; a write is cut in half.
 * cut:  as kill, and then what was not flushed is lost, shortened, or comes out with holes. */
#include "repo_fixture.h"

#include <dirent.h>
#include <fcntl.h>

#include "base/banned.h"

#define LARGE (SMALL_SAVE_MAX + 20000u)

enum mode { MODE_NONE, MODE_FAIL, MODE_KILL, MODE_CUT };

struct flushed {
    ino_t ino;
    off_t len;
};

static struct {
    enum mode mode;
    int error;
    unsigned at, count;
    bool dead, hit;
    struct flushed flushed[256];
    size_t flushed_count;
} fault;

/* Whether this operation has to fail. */
static bool strike(void)
{
    if (fault.mode == MODE_NONE)
        return false;
    bool now = ++fault.count == fault.at;
    if (now) {
        fault.hit = true;
        fault.dead = fault.mode != MODE_FAIL;
    }
    if (now || fault.dead)
        errno = fault.error;
    return now || fault.dead;
}

static void note_flushed(ino_t ino, off_t len)
{
    size_t i = 0;

    while (i < fault.flushed_count && fault.flushed[i].ino != ino)
        i++;
    assert_true(i < 256);
    if (i == fault.flushed_count)
        fault.flushed_count++;
    fault.flushed[i] = (struct flushed){ino, len};
}

static off_t flushed_len(ino_t ino)
{
    for (size_t i = 0; i < fault.flushed_count; i++)
        if (fault.flushed[i].ino == ino)
            return fault.flushed[i].len;
    return 0;
}

static int fault_openat(int dirfd, const char *path, int flags, mode_t mode)
{
    if ((flags & O_CREAT) ? strike() : fault.dead) {
        errno = fault.error;
        return -1;
    }
    return fileops_system.openat(dirfd, path, flags, mode);
}

static ssize_t fault_pwrite(int fd, const void *p, size_t n, off_t off)
{
    bool was_dead = fault.dead;

    if (!strike())
        return fileops_system.pwrite(fd, p, n, off);
    if (!was_dead && n > 1 && fileops_system.pwrite(fd, p, n / 2, off) < 0)
        return -1;
    errno = fault.error;
    return -1;
}

static int fault_sync(int fd)
{
    struct stat st;

    if (strike())
        return -1;
    int rc = fileops_system.fdatasync(fd);
    if (rc == 0 && fstat(fd, &st) == 0)
        note_flushed(st.st_ino, st.st_size);
    return rc;
}

static int fault_ftruncate(int fd, off_t len)
{
    return strike() ? -1 : fileops_system.ftruncate(fd, len);
}

static int fault_renameat2(int olddir, const char *old, int newdir, const char *new_,
                           unsigned flags)
{
    return strike() ? -1 : fileops_system.renameat2(olddir, old, newdir, new_, flags);
}

static int fault_unlinkat(int dirfd, const char *path, int flags)
{
    return strike() ? -1 : fileops_system.unlinkat(dirfd, path, flags);
}

static int fault_mkdirat(int dirfd, const char *path, mode_t mode)
{
    return strike() ? -1 : fileops_system.mkdirat(dirfd, path, mode);
}

static int fault_gate(int op, const char *path)
{
    struct stat st;

    if (op == FILEOP_OPEN ? fault.dead : strike())
        return fault.error;
    if (op == FILEOP_SYNC && stat(path, &st) == 0)
        note_flushed(st.st_ino, st.st_size);
    return 0;
}

static struct fileops fault_ops;

static void faults_on(enum mode mode, int error, unsigned at)
{
    fault_ops = fileops_system;
    fault_ops.openat = fault_openat;
    fault_ops.pwrite = fault_pwrite;
    fault_ops.fdatasync = fault_sync;
    fault_ops.fsync = fault_sync;
    fault_ops.ftruncate = fault_ftruncate;
    fault_ops.renameat2 = fault_renameat2;
    fault_ops.unlinkat = fault_unlinkat;
    fault_ops.mkdirat = fault_mkdirat;
    fault_ops.gate = fault_gate;
    memset(&fault, 0, sizeof(fault));
    fault.mode = mode;
    fault.error = error;
    fault.at = at;
    fileops = &fault_ops;
}

static void faults_off(void)
{
    fileops = &fileops_system;
    fault.mode = MODE_NONE;
}

/* ---- copies of a repository ---- */

typedef void (*visit_file)(const char *path, const char *name, void *ctx);

static void each_file(const char *folder, visit_file visit, void *ctx)
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

static void copy_into(const char *path, const char *name, void *ctx)
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

static void copy_repo(const char *from, const char *to)
{
    char a[256], b[256];

    snprintf(a, sizeof(a), "%s/packs", from);
    snprintf(b, sizeof(b), "%s/packs", to);
    assert_int_equal(mkdir(to, 0700), 0);
    assert_int_equal(mkdir(b, 0700), 0);
    each_file(from, copy_into, to[0] ? (void *)(uintptr_t)to : NULL);
    each_file(a, copy_into, b);
}

static void note_whole(const char *path, const char *name, void *ctx)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    note_flushed(st.st_ino, st.st_size);
}

static void all_is_flushed(const char *repo)
{
    char packs[256];

    snprintf(packs, sizeof(packs), "%s/packs", repo);
    each_file(repo, note_whole, NULL);
    each_file(packs, note_whole, NULL);
}

/* ---- the power cut ---- */

static void cut_file(const char *path, const char *name, void *ctx)
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

static void cut_power(const char *repo, uint64_t seed)
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

/* ---- the scenario ---- */

struct outcome {
    struct model model;
    unsigned tried, failed; /* saves */
    bool opened, drop_tried, dropped;
};

static void try_save(struct repo *r, struct outcome *o, const char *watch, const char *name,
                     const struct model_tree *tree)
{
    struct error e = ERROR_INIT;

    o->tried++;
    if (save_named(r, &o->model, watch, name, tree, &e) < 0)
        o->failed++;
}

static void try_two_at_once(struct repo *r, struct outcome *o)
{
    struct model_tree a = *last_tree(&o->model, "app");
    struct error e = ERROR_INIT;
    struct txn *given_up, *t;
    uint64_t number;

    tree_set(&a, "both", 41, LARGE);
    if (begin_save(r, "given-up", &given_up, &e) < 0)
        return;
    put_changes(given_up, &(struct model_tree){.count = 0}, &a, &e);
    if (begin_save(r, "app", &t, &e) == 0) {
        o->tried++;
        int rc = put_changes(t, last_tree(&o->model, "app"), &a, &e);
        if (rc < 0) {
            txn_abort(t);
        } else {
            rc = end_save(t, NULL, &a, &number, &e);
            if (rc == 0)
                model_add(&o->model, "app", number, &a);
        }
        o->failed += rc < 0;
    }
    txn_abort(given_up);
}

static void try_drop(struct repo *r, struct outcome *o)
{
    struct error e = ERROR_INIT;
    uint64_t number = o->model.snapshots[0].number;

    o->drop_tried = true;
    if (repo_drop(r, &number, 1, &e) == 0)
        o->dropped = true;
}

static void run(const char *path, struct outcome *o)
{
    struct error e = ERROR_INIT;
    struct model_tree a = *last_tree(&o->model, "app"), b = *last_tree(&o->model, "photos");
    struct repo *r;

    if (open_repo(path, REPO_WRITE, NULL, &r, &e) < 0)
        return;
    o->opened = true;
    tree_set(&a, "one", 51, 3000);
    try_save(r, o, "app", "named", &a);
    tree_set(&b, "large", 53, LARGE);
    tree_remove(&b, "photo.jpg");
    try_save(r, o, "photos", NULL, &b);
    try_drop(r, o);
    try_two_at_once(r, o);
    repo_idle(r, &e);
    a = *last_tree(&o->model, "app");
    tree_set(&a, "two", 52, 9000);
    try_save(r, o, "app", NULL, &a);
    repo_close(r);
}

/* ---- afterwards ---- */

static int read_chunk(void *ctx, uint64_t off, const struct chunk_ref *ref, struct error *e)
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
static int check_listed(void *ctx, const struct snapshot_row *s)
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

static size_t check_all_listed(struct repo *r)
{
    struct error e = ERROR_INIT;
    struct whole w = {.repo = r};

    OK(chunk_source_open(r, &w.source, &e), e);
    OK(catalog_snapshots(repo_catalog(r), 0, 0, UINT64_MAX, false, check_listed, &w, &e), e);
    chunk_source_close(w.source);
    return snapshot_count(r);
}

static void check_after(const char *path, struct outcome *o, bool exact)
{
    struct error e = ERROR_INIT;
    struct snapshot_row row;
    struct repo *r;

    /* A reader comes first: it finds the same without changing anything. */
    OK(open_repo(path, REPO_READ, NULL, &r, &e), e);
    o->model.snapshots[0].dropped = o->drop_tried;
    check_model(r, &o->model);
    repo_close(r);
    OK(open_repo(path, REPO_WRITE, NULL, &r, &e), e);
    check_model(r, &o->model);
    size_t listed = check_all_listed(r);
    bool first_is_there =
        catalog_snapshot(repo_catalog(r), o->model.snapshots[0].number, &row, &e) == 0;
    if (first_is_there)
        snapshot_row_release(&row);
    assert_false(first_is_there && o->dropped);
    size_t acknowledged = o->model.count - 1 + first_is_there;
    if (exact)
        assert_int_equal(listed, acknowledged);
    assert_true(listed >= acknowledged && listed <= acknowledged + 1);
    check_refs(r);
    uint64_t newest = o->model.snapshots[o->model.count - 1].number;
    struct model_tree c = {.count = 0};
    tree_set(&c, "later", 61, LARGE);
    OK(save(r, &o->model, "third", &c, &e), e);
    assert_true(o->model.snapshots[o->model.count - 1].number > newest);
    check_model(r, &o->model);
    char *live = dump_catalog(path);
    OK(repo_rebuild(r, &e), e);
    assert_int_equal(check_all_listed(r), listed + 1);
    char *rebuilt = dump_catalog(path);
    char *end_live = strstr(live, "SELECT chain"), *end_rebuilt = strstr(rebuilt, "SELECT chain");
    *end_live = *end_rebuilt = '\0'; /* but the next number may be higher in the one that lived */
    assert_string_equal(live, rebuilt);
    free(live);
    free(rebuilt);
    repo_close(r);
}

struct base {
    struct scratch *scratch;
    char path[128];
    struct model model;
};

/* In memory where there is some: flushes are counted here, not waited for. */
static int memory_scratch(struct scratch **out)
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

static int setup(void **state)
{
    struct base *b = calloc(1, sizeof(*b));
    struct model_tree a = {.count = 0}, p = {.count = 0};
    struct error e = ERROR_INIT;
    struct repo *r;

    if (!b || memory_scratch(&b->scratch) != 0)
        return -1;
    snprintf(b->path, sizeof(b->path), "%s/base", b->scratch->path);
    OK(repo_init(b->path, &e), e);
    OK(open_repo(b->path, REPO_WRITE, NULL, &r, &e), e);
    tree_set(&a, "zero", 2, 5000);
    OK(save(r, &b->model, "app", &a, &e), e);
    tree_set(&a, "zero", 4, 5100);
    OK(save(r, &b->model, "app", &a, &e), e);
    tree_set(&p, "photo.jpg", 5, LARGE);
    OK(save(r, &b->model, "photos", &p, &e), e);
    repo_close(r);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct base *b = *state;

    faults_off();
    int rc = scratch_teardown((void **)&b->scratch);
    free(b);
    return rc;
}

static void remove_repo(const struct base *b, const char *path)
{
    struct error e = ERROR_INIT;

    OK(remove_tree(b->scratch->fd, path + strlen(b->scratch->path) + 1, &e), e);
}

/* One run with the fault at its place; false when nothing was hit any more. */
static bool run_with_fault(struct base *b, enum mode mode, int error, unsigned at)
{
    struct outcome o = {.model = b->model};
    char path[160];

    snprintf(path, sizeof(path), "%s/run", b->scratch->path);
    copy_repo(b->path, path);
    faults_on(mode, error, at);
    if (mode == MODE_CUT)
        all_is_flushed(path);
    run(path, &o);
    bool hit = fault.hit;
    faults_off();
    if (mode == MODE_CUT)
        cut_power(path, at);
    if (getenv("WK_TEST_NOTICES"))
        print_message("mode %d at %u: %u of %u saves failed\n", mode, at, o.failed, o.tried);
    if (mode == MODE_FAIL && o.opened)
        assert_true(o.failed <= 1); /* the handle goes on */
    if (!hit)
        assert_true(o.opened && o.failed == 0 && o.dropped);
    check_after(path, &o, mode == MODE_FAIL || !hit);
    remove_repo(b, path);
    return hit;
}

static void every_place(struct base *b, enum mode mode, int error)
{
    const char *sanitized = getenv("WK_SANITIZE");
    unsigned step = sanitized && *sanitized ? 7 : 1; /* a sanitizer run takes a sample */
    unsigned at = 1;

    while (run_with_fault(b, mode, error, at))
        at += step;
    assert_true(at > 30); /* the table is in use */
}

static void test_killed_anywhere(void **state)
{
    every_place(*state, MODE_KILL, EIO);
}

static void test_power_cut_anywhere(void **state)
{
    every_place(*state, MODE_CUT, EIO);
}

static void test_input_output_error_anywhere(void **state)
{
    every_place(*state, MODE_FAIL, EIO);
}

static void test_disk_full_anywhere(void **state)
{
    every_place(*state, MODE_FAIL, ENOSPC);
}

/* A making that is broken off anywhere can be begun again. */
static void test_init_killed_anywhere(void **state)
{
    struct base *b = *state;
    struct error e = ERROR_INIT;
    struct repo *r;
    char path[160];
    bool hit = true;

    snprintf(path, sizeof(path), "%s/new", b->scratch->path);
    for (unsigned at = 1; hit; at++) {
        faults_on(MODE_KILL, EIO, at);
        repo_init(path, &e);
        hit = fault.hit;
        faults_off();
        OK(repo_init(path, &e), e);
        OK(open_repo(path, REPO_WRITE, NULL, &r, &e), e);
        repo_close(r);
        remove_repo(b, path);
    }
}

/* The flush of the commit fails: that save is not listed, later ones are, its number is not used
 * again, and the pack that failed is not written again. */
static void test_a_failed_flush(void **state)
{
    struct base *b = *state;
    struct outcome o = {.model = b->model};
    struct error e = ERROR_INIT;
    struct model_tree a = *last_tree(&b->model, "app");
    struct stat before, after;
    struct repo *r;
    char log[256];

    OK(open_repo(b->path, REPO_WRITE, NULL, &r, &e), e);
    snprintf(log, sizeof(log), "%s/packs/0-log-0000000000000001.wkp", b->path);
    faults_on(MODE_FAIL, EIO, 2); /* write, flush */
    tree_set(&a, "one", 51, 3000);
    assert_int_equal(save(r, &o.model, "app", &a, &e), ERR_FAILED);
    assert_true(fault.hit);
    faults_off();
    assert_int_equal(stat(log, &before), 0);
    assert_int_equal(snapshot_count(r), 3);
    OK(save(r, &o.model, "app", &a, &e), e);
    assert_int_equal(o.model.snapshots[3].number, 5);
    assert_int_equal(stat(log, &after), 0);
    assert_int_equal(before.st_size, after.st_size);
    check_model(r, &o.model);
    repo_close(r);
    OK(open_repo(b->path, REPO_WRITE, NULL, &r, &e), e);
    assert_int_equal(snapshot_count(r), 4);
    OK(repo_rebuild(r, &e), e);
    assert_int_equal(snapshot_count(r), 4);
    check_model(r, &o.model);
    repo_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_a_failed_flush),     T(test_init_killed_anywhere),        T(test_killed_anywhere),
        T(test_power_cut_anywhere), T(test_input_output_error_anywhere), T(test_disk_full_anywhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
