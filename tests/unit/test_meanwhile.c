/* What other threads do while the repository's lock is let go, and what is left when a step fails:
 * each case drives one order of events. */
#include "world_fixture.h"

#include "fault_fixture.h"
#include "snapshot/verify.h"
#include "store/repo_private.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

#include "base/banned.h"

#define LARGE (SMALL_SAVE_MAX + 20000u)
#define DAY 86400u

/* ---- the disk ---- */

static struct {
    struct repo *repo;
    bool loses_data;        /* a flush of a data pack fails */
    unsigned failing_syncs; /* bit n: the nth of the log from now on fails */
    bool full;              /* it fails for that */
    bool short_of_space;    /* statvfs says so */
    unsigned writes;        /* to data packs, until one fails; 0: none does */
    int catalog;            /* what a write to the catalog fails with */
    void (*at_read)(void);  /* once, where a pack is read and no lock is held */
    void (*emptying)(void); /* the same, while packs are being emptied, ... */
    bool moved;             /* ... and what was moved is read back */
    void (*at_flush)(void); /* once, where a full data pack is flushed */
} disk;

static bool leads_to(int fd, const char *what)
{
    char name[32], path[256];

    snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(name, path, sizeof(path) - 1);
    path[n > 0 ? n : 0] = 0;
    return strstr(path, what) != NULL;
}

static bool nothing_is_locked(void)
{
    pthread_mutex_t *const locks[] = {&disk.repo->write_lock, &disk.repo->pool_lock,
                                      &disk.repo->packs_lock};
    size_t taken = 0;

    while (taken < 3 && pthread_mutex_trylock(locks[taken]) == 0)
        taken++;
    for (size_t i = taken; i > 0; i--)
        pthread_mutex_unlock(locks[i - 1]);
    return taken == 3;
}

static bool is_written(int fd)
{
    char name[40] = "none";

    if (disk.repo->data)
        pack_file_name(PACK_DATA, disk.repo->data->id, name);
    return leads_to(fd, name);
}

static void once(void (**what)(void))
{
    void (*now)(void) = *what;

    *what = NULL;
    now();
}

static ssize_t disk_pread(int fd, void *p, size_t n, off_t off)
{
    if (disk.at_read && n > PACK_HEADER_LEN && nothing_is_locked())
        once(&disk.at_read);
    if (disk.emptying && disk.repo->doomed_count > 0 && nothing_is_locked() &&
        (!disk.moved || is_written(fd)))
        once(&disk.emptying);
    return fileops_system.pread(fd, p, n, off);
}

static ssize_t disk_pwrite(int fd, const void *p, size_t n, off_t off)
{
    bool fails = disk.writes > 0 && leads_to(fd, "/1-data-") && --disk.writes == 0;

    if (!fails)
        return fileops_system.pwrite(fd, p, n, off);
    errno = disk.full ? ENOSPC : EIO;
    return -1;
}

static int disk_sync(int fd)
{
    if (disk.at_flush && disk.repo->ending_count > 0 && leads_to(fd, "/1-data-"))
        once(&disk.at_flush);
    bool log = leads_to(fd, "/0-log-");
    bool fails = log && (disk.failing_syncs & 1);
    disk.failing_syncs >>= log;
    if (!fails && !(disk.loses_data && leads_to(fd, "/1-data-")))
        return fileops_system.fdatasync(fd);
    errno = EIO;
    return -1;
}

static int disk_gate(int op, const char *path)
{
    return op == FILEOP_WRITE ? disk.catalog : 0;
}

/* In the C library's place. */
int fstatvfs(int fd, struct statvfs *fs)
{
    struct statfs is;

    memset(fs, 0, sizeof(*fs));
    if (fstatfs(fd, &is) < 0)
        return -1;
    fs->f_bsize = fs->f_frsize = (unsigned long)is.f_bsize;
    fs->f_blocks = is.f_blocks;
    fs->f_bavail = fs->f_bfree = disk.short_of_space ? 0 : is.f_bavail;
    return 0;
}

static struct fileops table;

static int setup(void **state)
{
    if (world_open(state) != 0)
        return -1;
    memset(&disk, 0, sizeof(disk));
    disk.repo = ((struct world *)*state)->repo;
    table = fileops_system;
    table.pread = disk_pread;
    table.pwrite = disk_pwrite;
    table.fdatasync = disk_sync;
    table.gate = disk_gate;
    fileops = &table;
    return 0;
}

static int teardown(void **state)
{
    fileops = &fileops_system;
    return world_end(state);
}

static void check(struct world *w)
{
    check_model(w->repo, &w->model);
    check_refs(w->repo);
}

/* Also by the packs alone. */
static void check_rebuild(struct world *w)
{
    struct error e = ERROR_INIT;

    check(w);
    OK(repo_rebuild(w->repo, &e), e);
    check(w);
}

static void reopen(struct world *w)
{
    world_reopen(w, REPO_WRITE);
    disk.repo = w->repo;
}

/* The handle goes on with what a process that is killed now leaves. */
static void kill_it(struct world *w)
{
    char left[128];

    snprintf(left, sizeof(left), "%s/left-%" PRIu64, w->scratch->path, clock_mono_ns());
    copy_repo(w->path, left);
    memcpy(w->path, left, sizeof(left));
    reopen(w);
}

static struct upkeep_result keep_up(struct world *w, bool pressed, bool all, uint64_t keep_s)
{
    const struct upkeep u = {.all = all, .pressed = pressed, .keep_s = keep_s};
    struct upkeep_result done;
    struct error e = ERROR_INIT;

    OK(repo_upkeep(w->repo, &u, &done, &e), e);
    return done;
}

static void verify(struct repo *r)
{
    const struct verify_request q = {.repo = r, .level = VERIFY_FULL, .workers = 1};
    struct verify_result result;
    struct error e = ERROR_INIT;

    OK(verify_run(&q, &result, &e), e);
    for (size_t i = 0; i < result.damaged_count; i++)
        print_message("%s: %s\n", result.damaged[i].pack, result.damaged[i].reason);
    assert_int_equal(result.errors, 0);
    verify_result_release(&result);
}

static int try_save(struct world *w, const char *watch, const char *name, uint64_t seed,
                    uint64_t len)
{
    struct model_tree tree = *last_tree(&w->model, watch);
    struct error e = ERROR_INIT;

    tree_set(&tree, name, seed, len);
    return save(w->repo, &w->model, watch, &tree, &e);
}

static void rebuild(void)
{
    struct error e = ERROR_INIT;

    OK(repo_rebuild(disk.repo, &e), e);
}

/* ---- failures ---- */

/* What the packs that are being emptied are called outlives it that everything is read anew. */
static void test_read_anew_after_a_compaction(void **state)
{
    struct world *w = *state;

    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(try_save(w, "app", "film", 2 * i + 1, LARGE), 0);
    must_drop(w, (const uint64_t[]){1, 2}, 2);
    assert_true(keep_up(w, true, true, DAY).packs_emptied > 0);
    disk.failing_syncs = 0x5; /* the log's, not that of the next pack's header, the fence's */
    assert_true(try_save(w, "app", "small", 8, 3000) < 0);
    assert_true(w->repo->refuse);
    assert_int_equal(try_save(w, "app", "small", 8, 3000), 0);
    assert_false(w->repo->refuse);
    assert_int_equal(try_save(w, "app", "film", 1, LARGE), 0);
    keep_up(w, true, true, 0);
    check_rebuild(w);
    reopen(w);
    check(w);
}

/* A fence that came with a small commit is known after a kill. */
static void test_killed_after_a_fence(void **state)
{
    struct world *w = *state;

    assert_int_equal(try_save(w, "app", "film", 1, LARGE), 0);
    disk.writes = 50;
    assert_true(try_save(w, "app", "film", 3, 3 * LARGE) < 0);
    assert_int_equal(disk.writes, 0);
    assert_int_equal(try_save(w, "other", "small", 8, 3000), 0);
    kill_it(w);
    check(w);
    assert_int_equal(try_save(w, "app", "film", 3, 3 * LARGE), 0);
    check_rebuild(w);
}

static void count_problem(void *ctx, uint64_t pack_id, const char *text)
{
    print_message("%" PRIu64 ": %s\n", pack_id, text);
    ++*(unsigned *)ctx;
}

static unsigned problems(struct repo *r)
{
    struct error e = ERROR_INIT;
    struct pack_row *rows;
    unsigned told = 0;
    size_t count;

    OK(repo_packs(r, &rows, &count, count_problem, &told, &e), e);
    free(rows);
    return told;
}

/* A pack that broke on a full disk is cut before its fence: it is as long as it has to be. */
static void test_a_pack_is_cut_before_its_fence(void **state)
{
    const struct model_tree none = {.count = 0};
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    struct error e = ERROR_INIT;
    struct txn *first, *second;

    assert_int_equal(try_save(w, "app", "film", 1, LARGE), 0);
    OK(begin_save(w->repo, "first", &first, &e), e);
    tree_set(&tree, "film", 3, LARGE);
    OK(put_changes(first, &none, &tree, &e), e);
    OK(begin_save(w->repo, "second", &second, &e), e);
    tree_set(&tree, "film", 5, LARGE);
    OK(put_changes(second, &none, &tree, &e), e);
    txn_abort(second); /* what it put is flushed, and all before it */
    disk.full = true;
    disk.writes = 3;
    tree_set(&tree, "film", 7, LARGE);
    assert_int_equal(put_changes(first, &none, &tree, &e), ERR_NOSPACE);
    txn_abort(first);
    assert_int_equal(try_save(w, "other", "small", 8, 3000), 0);
    assert_int_equal(problems(w->repo), 0);
    kill_it(w);
    assert_int_equal(problems(w->repo), 0);
    check_rebuild(w);
    assert_int_equal(problems(w->repo), 0);
    assert_int_equal(try_save(w, "first", "film", 3, LARGE), 0);
    check_rebuild(w);
}

/* The end of the log cannot be flushed, nor the fence before it; the catalog is made anew, and the
 * process is killed. What the next one finds there is in its catalog, and in that of a rebuild. */
static void test_killed_before_a_fence(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;

    disk.failing_syncs = 0x3; /* of the commit, of the next pack's header */
    assert_true(try_save(w, "app", "small", 4, 3000) < 0);
    assert_false(w->repo->refuse);
    OK(repo_rebuild(w->repo, &e), e);
    kill_it(w);
    assert_int_equal(try_save(w, "app", "small", 6, 3000), 0);
    size_t known = snapshot_count(w->repo);
    check_rebuild(w);
    assert_int_equal(snapshot_count(w->repo), known);
}

/* What stands behind the end of a pack that broke is not there, also before the fence is. */
static void test_verify_ends_at_a_fence_to_come(void **state)
{
    struct world *w = *state;

    assert_int_equal(try_save(w, "app", "small", 2, 3000), 0);
    for (unsigned i = 0; i < 2; i++) {
        disk.failing_syncs = i == 0 ? 0x1 : 0x3;
        assert_true(try_save(w, "app", "small", 4 + i, 3000) < 0);
    }
    assert_false(w->repo->refuse);
    verify(w->repo);
    check_rebuild(w);
}

/* Nothing of one is cut, and no commit has told the catalog of its fence: it ends there all the
 * same. */
static void test_a_fence_outlives_what_is_given_back(void **state)
{
    const struct model_tree none = {.count = 0};
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    struct error e = ERROR_INIT;
    uint64_t number;
    struct txn *t;

    assert_int_equal(try_save(w, "app", "film", 1, LARGE), 0);
    OK(begin_save(w->repo, "other", &t, &e), e);
    tree_set(&tree, "film", 3, LARGE);
    disk.full = true;
    disk.writes = 1;
    assert_int_equal(put_changes(t, &none, &tree, &e), ERR_NOSPACE);
    assert_int_equal(end_save(t, NULL, &tree, &number, &e), ERR_NOSPACE);
    assert_int_equal(try_save(w, "other", "small", 8, 3000), 0);
    kill_it(w);
    assert_int_equal(try_save(w, "other", "film", 3, LARGE), 0);
    check_rebuild(w);
}

/* ---- a pack that is being emptied ---- */

static struct txn *waiting; /* keeps the packs from being sealed until it is given up */
static struct world *world;

/* One of which the catalog, being full, does not learn; then one that has it caught up. */
static void catch_up(void)
{
    disk.catalog = ENOSPC;
    assert_int_equal(try_save(world, "log", "small", 11, 3000), 0);
    assert_true(disk.repo->catalog_stale);
    disk.catalog = 0;
    assert_int_equal(try_save(world, "log", "small", 13, 3000), 0);
}

static void save_some(void)
{
    catch_up();
    assert_int_equal(try_save(world, "log", "large", 15, LARGE), 0);
}

static void give_up(void)
{
    txn_abort(waiting);
    disk.emptying = save_some;
}

/* A data pack that has ended without a seal is not gone on with while it is being emptied. */
static void test_a_pack_being_emptied_is_not_written(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;

    assert_int_equal(try_save(w, "app", "film", 1, 4 * LARGE), 0);
    assert_int_equal(try_save(w, "app", "film", 3, LARGE), 0);
    must_drop(w, (const uint64_t[]){1}, 1);
    repo_min_free(w->repo, UINT64_MAX / 4, 0);
    assert_int_equal(try_save(w, "app", "film", 5, LARGE), ERR_NOSPACE);
    repo_min_free(w->repo, 0, 0);
    assert_null(w->repo->data);
    for (uint64_t i = 0; i < 4; i++)
        assert_int_equal(try_save(w, "log", "small", 2 * i + 1, 3000), 0);
    world = w;
    OK(begin_save(w->repo, "other", &waiting, &e), e);
    disk.at_read = give_up;
    struct upkeep_result done = keep_up(w, false, true, 0);
    assert_null(disk.at_read);
    assert_null(disk.emptying);
    assert_true(done.packs_emptied > 0);
    check_rebuild(w);
}

/* The catalog is made anew while packs are emptied, and a chunk that stands in two places has
 * another one from then on: in the pack that is to go. */
static void test_a_catalog_made_anew_while_packs_are_emptied(void **state)
{
    const struct model_tree none = {.count = 0};
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    struct error e = ERROR_INIT;
    struct hash any = {{1}};
    struct txn *small, *large;
    uint64_t number;

    OK(begin_save(w->repo, "small", &small, &e), e);
    OK(txn_claim(small, &any, &e), e); /* what it knows is fixed here */
    OK(begin_save(w->repo, "large", &large, &e), e);
    tree_set(&tree, "same", 1, 20000);
    tree_set(&tree, "large", 3, LARGE);
    OK(put_changes(large, &none, &tree, &e), e);
    txn_abort(large);
    tree.count = 1;
    OK(put_changes(small, &none, &tree, &e), e);
    OK(end_save(small, NULL, &tree, &number, &e), e);
    model_add(&w->model, "small", number, &tree);
    check(w);
    disk.emptying = rebuild;
    keep_up(w, true, false, 0);
    assert_null(disk.emptying);
    check(w);
    keep_up(w, true, false, 0);
    check_rebuild(w);
}

static atomic_bool stop; /* the upkeep */

static void cancel(void)
{
    stop = true;
}

static void be_short(struct world *w)
{
    repo_min_free(w->repo, UINT64_MAX / 4, 0);
    assert_int_equal(try_save(w, "short", "film", 5, LARGE), ERR_NOSPACE);
    repo_min_free(w->repo, 0, 0);
    assert_null(w->repo->data);
}

/* What was moved to a pack by a compaction that was broken off stands behind the pack that is
 * emptied later, also where packs are taken in by id. */
static void test_what_moves_goes_to_the_newest_pack(void **state)
{
    const struct upkeep u = {.keep_s = DAY, .cancel = &stop};
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    struct upkeep_result done;
    struct error e = ERROR_INIT;

    world = w;
    stop = false;
    assert_int_equal(try_save(w, "app", "film", 1, LARGE), 0);
    be_short(w);
    tree_set(&tree, "stays", 3, CHUNK);
    tree_set(&tree, "goes", 5, 32 * CHUNK);
    tree_set(&tree, "goes too", 7, 32 * CHUNK);
    w->repo->pack_full = 65 * CHUNK; /* the last block ends it */
    must_save(w, "other", &tree);
    assert_null(w->repo->data);
    tree.count = 1;
    must_save(w, "other", &tree);
    must_drop(w, (const uint64_t[]){2}, 1);
    catch_up();
    disk.moved = true;
    disk.emptying = cancel;
    assert_int_equal(repo_upkeep(w->repo, &u, &done, &e), ERR_CANCELLED);
    assert_null(disk.emptying);
    keep_up(w, false, true, DAY);
    check_rebuild(w);
}

static void save_links(struct world *w)
{
    struct error e = ERROR_INIT;
    uint64_t number;
    struct txn *t;

    OK(begin_save(w->repo, "links", &t, &e), e);
    put_links(t, 0, 100);
    OK(end_save(t, NULL, &(struct model_tree){.count = 0}, &number, &e), e);
}

/* A commit names all of a pack that is flushed, also what a save beside it was given up with. That
 * stays when the commit is told by a checkpoint alone: else the pack would seem cut off. */
static void test_what_a_folded_commit_names_stays(void **state)
{
    const struct model_tree none = {.count = 0};
    struct world *w = *state;
    struct model_tree kept = {.count = 0}, other = {.count = 0};
    struct error e = ERROR_INIT;
    struct txn *first, *second;
    uint64_t number;

    tree_set(&kept, "film", 1, LARGE);
    tree_set(&other, "film", 3, LARGE);
    OK(begin_save(w->repo, "app", &first, &e), e);
    OK(put_changes(first, &none, &kept, &e), e);
    OK(begin_save(w->repo, "other", &second, &e), e);
    OK(put_changes(second, &none, &other, &e), e);
    txn_abort(second);
    OK(end_save(first, NULL, &kept, &number, &e), e);
    model_add(&w->model, "app", number, &kept);
    save_links(w);
    assert_true(keep_up(w, false, true, 0).packs_removed > 0);
    be_short(w);
    verify(w->repo);
    check_rebuild(w);
    verify(w->repo);
}

/* What was read where bytes were given back is not what is written there next. */
static void test_written_again_where_it_was_cut(void **state)
{
    const struct model_tree none = {.count = 0};
    struct world *w = *state;

    world = w;
    assert_int_equal(try_save(w, "app", "film", 1, LARGE), 0);
    assert_int_equal(try_save(w, "other", "film", 3, LARGE), 0);
    save_links(w);
    must_save(w, "other", &none);
    assert_true(keep_up(w, false, true, 0).packs_removed > 0);
    must_drop(w, (const uint64_t[]){2}, 1); /* its list of chunks is read */
    be_short(w);
    catch_up();
    assert_non_null(w->repo->data);
    assert_int_equal(try_save(w, "other", "film", 7, LARGE), 0);
    uint64_t number = w->model.snapshots[w->model.count - 1].number;
    must_save(w, "other", &none);
    must_drop(w, &number, 1);
    check_rebuild(w);
}

/* A save took what another snapshot needed for stored, and is acknowledged when that one is gone;
 * the catalog, being full, did not learn of it. What it says is no ground to cut anything. */
static void test_nothing_is_given_back_by_a_stale_catalog(void **state)
{
    const struct upkeep u = {.keep_s = DAY};
    const struct model_tree none = {.count = 0};
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    struct upkeep_result done;
    struct error e = ERROR_INIT;
    struct txn *t;
    uint64_t number;

    assert_int_equal(try_save(w, "app", "film", 1, LARGE), 0);
    assert_int_equal(try_save(w, "other", "film", 3, LARGE), 0);
    save_links(w);
    must_save(w, "other", &none);
    assert_true(keep_up(w, false, true, 0).packs_removed > 0);
    OK(begin_save(w->repo, "late", &t, &e), e);
    tree_set(&tree, "film", 3, LARGE);
    OK(put_changes(t, &none, &tree, &e), e);
    must_drop(w, (const uint64_t[]){2}, 1);
    disk.catalog = ENOSPC;
    OK(end_save(t, NULL, &tree, &number, &e), e);
    model_add(&w->model, "late", number, &tree);
    assert_int_equal(repo_upkeep(w->repo, &u, &done, &e), ERR_NOSPACE);
    disk.catalog = 0;
    OK(repo_idle(w->repo, &e), e);
    check_rebuild(w);
}

/* The power goes behind the record of a compaction, and takes the catalog's news of it; the disk is
 * full when the repository is opened next. What was moved is kept: the record says that it counts.
 */
static void test_what_was_moved_is_not_given_back(void **state)
{
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    char before[128], a[160], b[160];

    tree_set(&tree, "stays", 3, 8 * CHUNK);
    tree_set(&tree, "goes", 5, 2 * LARGE);
    must_save(w, "app", &tree);
    tree.count = 1;
    must_save(w, "app", &tree);
    must_drop(w, (const uint64_t[]){1}, 1);
    reopen(w); /* the catalog is in its file */
    snprintf(before, sizeof(before), "%s/before", w->scratch->path);
    copy_repo(w->path, before);
    assert_int_equal(keep_up(w, true, false, DAY).packs_emptied, 1);
    repo_close(w->repo);
    w->repo = NULL;
    snprintf(a, sizeof(a), "%s/catalog.db", before);
    snprintf(b, sizeof(b), "%s/catalog.db", w->path);
    assert_int_equal(rename(a, b), 0);
    disk.short_of_space = true;
    reopen(w);
    disk.short_of_space = false;
    check(w);
    assert_int_equal(try_save(w, "other", "film", 7, 2 * LARGE), 0);
    check_rebuild(w);
}

static void flip(const struct world *w, const char *pack, off_t off)
{
    char path[256];
    uint8_t b;

    snprintf(path, sizeof(path), "%s/packs/%s", w->path, pack);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &b, 1, off), 1);
    b ^= 0x10;
    assert_int_equal(pwrite(fd, &b, 1, off), 1);
    close(fd);
}

/* A block that nothing needs was damaged when its pack was emptied. What stood there is not known,
 * though the file stays for a day: it goes. */
static void test_nothing_is_known_in_an_emptied_pack(void **state)
{
    struct world *w = *state;

    assert_int_equal(try_save(w, "app", "film", 1, LARGE), 0);
    assert_int_equal(try_save(w, "app", "film", 2, 3000), 0);
    must_drop(w, (const uint64_t[]){1}, 1);
    flip(w, "1-data-0000000000000002.wkp", 20000);
    assert_int_equal(keep_up(w, true, false, DAY).packs_emptied, 1);
    reopen(w);
    assert_int_equal(try_save(w, "app", "film", 1, LARGE), 0);
    keep_up(w, false, false, 0);
    check_rebuild(w);
}

/* ---- the end of a save ---- */

/* Of a thread. */
static bool is_asleep(long tid)
{
    char path[64], text[256];

    snprintf(path, sizeof(path), "/proc/self/task/%ld/stat", tid);
    FILE *f = tid ? fopen(path, "re") : NULL;
    bool asleep = f && fgets(text, sizeof(text), f) && strstr(text, ") S ");
    if (f)
        fclose(f);
    return asleep;
}

static struct {
    struct world *w;
    struct txn *large;
    struct model_tree tree;
    pthread_t thread;
    atomic_long tid;
    uint64_t number;
} ending;

static void *end_large(void *unused)
{
    struct error e = ERROR_INIT;

    ending.tid = gettid();
    OK(end_save(ending.large, NULL, &ending.tree, &ending.number, &e), e);
    return NULL;
}

/* The end of a large save waits for the flush; meanwhile another one is acknowledged of which the
 * catalog, being full, does not learn. */
static void end_meanwhile(void)
{
    assert_int_equal(pthread_create(&ending.thread, NULL, end_large, NULL), 0);
    for (unsigned asleep = 0; asleep < 100; sched_yield())
        asleep = is_asleep(ending.tid) && nothing_is_locked() ? asleep + 1 : 0;
    disk.catalog = ENOSPC;
    assert_int_equal(try_save(ending.w, "small", "small", 8, 3000), 0);
    assert_true(disk.repo->catalog_stale);
    disk.catalog = 0;
}

static void test_a_commit_waits_beside_another(void **state)
{
    struct world *w = *state;
    const struct model_tree none = {.count = 0};
    struct error e = ERROR_INIT;

    memset(&ending, 0, sizeof(ending));
    ending.w = w;
    w->repo->pack_full = 2 * LARGE;
    OK(begin_save(w->repo, "large", &ending.large, &e), e);
    tree_set(&ending.tree, "film", 1, LARGE);
    OK(put_changes(ending.large, &none, &ending.tree, &e), e);
    disk.at_flush = end_meanwhile;
    assert_int_equal(try_save(w, "full", "film", 3, 2 * LARGE), 0);
    assert_null(disk.at_flush);
    assert_int_equal(pthread_join(ending.thread, NULL), 0);
    model_add(&w->model, "large", ending.number, &ending.tree);
    check_rebuild(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_read_anew_after_a_compaction, setup, teardown),
        cmocka_unit_test_setup_teardown(test_killed_after_a_fence, setup, teardown),
        cmocka_unit_test_setup_teardown(test_killed_before_a_fence, setup, teardown),
        cmocka_unit_test_setup_teardown(test_verify_ends_at_a_fence_to_come, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_pack_is_cut_before_its_fence, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_fence_outlives_what_is_given_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_pack_being_emptied_is_not_written, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_catalog_made_anew_while_packs_are_emptied, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_moves_goes_to_the_newest_pack, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_a_folded_commit_names_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_is_given_back_by_a_stale_catalog, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_written_again_where_it_was_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_was_moved_is_not_given_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_is_known_in_an_emptied_pack, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_commit_waits_beside_another, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
