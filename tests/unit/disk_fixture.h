/* disk_fixture.h - a repository on a disk that fails where a test says so, and where a test can
 * come between. Include it in one file of a test. */
#ifndef WK_TESTS_DISK_FIXTURE_H
#define WK_TESTS_DISK_FIXTURE_H

#include "world_fixture.h"

#include "fault_fixture.h"
#include "snapshot/verify.h"
#include "threads_fixture.h"

#include <fcntl.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

#define DAY 86400u

static struct {
    struct repo *repo;
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

static inline bool leads_to(int fd, const char *what)
{
    char name[32], path[256];

    snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(name, path, sizeof(path) - 1);
    path[n > 0 ? n : 0] = 0;
    return strstr(path, what) != NULL;
}

static inline bool is_written(int fd)
{
    char name[40] = "none";

    if (disk.repo->data)
        pack_file_name(PACK_DATA, disk.repo->data->id, name);
    return leads_to(fd, name);
}

static inline void once(void (**what)(void))
{
    void (*now)(void) = *what;

    *what = NULL;
    now();
}

static inline ssize_t disk_pread(int fd, void *p, size_t n, off_t off)
{
    if (disk.at_read && n > PACK_HEADER_LEN && nothing_is_locked(disk.repo))
        once(&disk.at_read);
    if (disk.emptying && disk.repo->doomed_count > 0 && nothing_is_locked(disk.repo) &&
        (!disk.moved || is_written(fd)))
        once(&disk.emptying);
    return fileops_system.pread(fd, p, n, off);
}

static inline ssize_t disk_pwrite(int fd, const void *p, size_t n, off_t off)
{
    bool fails = disk.writes > 0 && leads_to(fd, "/1-data-") && --disk.writes == 0;

    if (!fails)
        return fileops_system.pwrite(fd, p, n, off);
    errno = disk.full ? ENOSPC : EIO;
    return -1;
}

static inline int disk_sync(int fd)
{
    if (disk.at_flush && disk.repo->ending_count > 0 && leads_to(fd, "/1-data-"))
        once(&disk.at_flush);
    bool fails = false;
    if (disk.failing_syncs != 0 && leads_to(fd, "/0-log-")) { /* by several threads where it is 0 */
        fails = disk.failing_syncs & 1;
        disk.failing_syncs >>= 1;
    }
    if (!fails)
        return fileops_system.fdatasync(fd);
    errno = EIO;
    return -1;
}

static inline int disk_gate(int op, const char *path)
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

static inline int setup(void **state)
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

static inline int teardown(void **state)
{
    fileops = &fileops_system;
    return world_end(state);
}

static inline void check(struct world *w)
{
    check_model(w->repo, &w->model);
    check_refs(w->repo);
}

/* Also by the packs alone. */
static inline void check_rebuild(struct world *w)
{
    struct error e = ERROR_INIT;

    check(w);
    OK(repo_rebuild(w->repo, &e), e);
    check(w);
}

static inline void reopen(struct world *w)
{
    world_reopen(w, REPO_WRITE);
    disk.repo = w->repo;
}

/* The handle goes on with what a process that is killed now leaves. */
static inline void kill_it(struct world *w)
{
    char left[128];

    snprintf(left, sizeof(left), "%s/left-%" PRIu64, w->scratch->path, clock_mono_ns());
    copy_repo(w->path, left);
    memcpy(w->path, left, sizeof(left));
    reopen(w);
}

static inline struct upkeep_result keep_up(struct world *w, bool pressed, bool all, uint64_t keep_s)
{
    const struct upkeep u = {.all = all, .pressed = pressed, .keep_s = keep_s};
    struct upkeep_result done;
    struct error e = ERROR_INIT;

    OK(repo_upkeep(w->repo, &u, &done, &e), e);
    return done;
}

static inline void verify(struct repo *r)
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

static inline int try_save(struct world *w, const char *watch, const char *name, uint64_t seed,
                           uint64_t len)
{
    struct model_tree tree = *last_tree(&w->model, watch);
    struct error e = ERROR_INIT;

    tree_set(&tree, name, seed, len);
    return save(w->repo, &w->model, watch, &tree, &e);
}

/* One of which the catalog, being full, does not learn; then one that has it caught up. */
static inline void catch_up(struct world *w)
{
    disk.catalog = ENOSPC;
    assert_int_equal(try_save(w, "log", "small", 11, 3000), 0);
    assert_true(disk.repo->catalog_stale);
    disk.catalog = 0;
    assert_int_equal(try_save(w, "log", "small", 13, 3000), 0);
}

static inline void be_short(struct world *w)
{
    repo_min_free(w->repo, UINT64_MAX / 4, 0);
    assert_int_equal(try_save(w, "short", "film", 5, LARGE), ERR_NOSPACE);
    repo_min_free(w->repo, 0, 0);
    assert_null(w->repo->data);
}

static inline void save_links(struct world *w)
{
    struct error e = ERROR_INIT;
    uint64_t number;
    struct txn *t;

    OK(begin_save(w->repo, "links", &t, &e), e);
    put_links(t, 0, 100);
    OK(end_save(t, NULL, &(struct model_tree){.count = 0}, &number, &e), e);
}

#endif
