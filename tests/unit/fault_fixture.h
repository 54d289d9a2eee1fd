/* fault_fixture.h - the table of file operations, failing at the Nth change; copies of
 * repositories; what a power cut leaves. Include it in one file of a test. */
#ifndef WK_TESTS_FAULT_FIXTURE_H
#define WK_TESTS_FAULT_FIXTURE_H

#include "repo_fixture.h"

#include <dirent.h>
#include <fcntl.h>

/* fail: the operation fails once. sticky: it and every change after it fail. kill: nothing at all
 * works from there on; a write is cut in half. cut: as kill, and the power goes. */
enum mode { MODE_NONE, MODE_FAIL, MODE_STICKY, MODE_KILL, MODE_CUT };

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
static inline bool strike(void)
{
    if (fault.mode == MODE_NONE)
        return false;
    bool now = ++fault.count == fault.at;
    if (now) {
        fault.hit = true;
        fault.dead = fault.mode == MODE_KILL || fault.mode == MODE_CUT;
    }
    bool struck = now || fault.dead || (fault.mode == MODE_STICKY && fault.hit);
    if (struck)
        errno = fault.error;
    return struck;
}

static inline void note_flushed(ino_t ino, off_t len)
{
    size_t i = 0;

    while (i < fault.flushed_count && fault.flushed[i].ino != ino)
        i++;
    assert_true(i < 256);
    if (i == fault.flushed_count)
        fault.flushed_count++;
    fault.flushed[i] = (struct flushed){ino, len};
}

static inline off_t flushed_len(ino_t ino)
{
    for (size_t i = 0; i < fault.flushed_count; i++)
        if (fault.flushed[i].ino == ino)
            return fault.flushed[i].len;
    return 0;
}

static inline int fault_openat(int dirfd, const char *path, int flags, mode_t mode)
{
    if ((flags & O_CREAT) ? strike() : fault.dead) {
        errno = fault.error;
        return -1;
    }
    return fileops_system.openat(dirfd, path, flags, mode);
}

static inline ssize_t fault_pwrite(int fd, const void *p, size_t n, off_t off)
{
    bool was_dead = fault.dead;

    if (!strike())
        return fileops_system.pwrite(fd, p, n, off);
    if (!was_dead && n > 1 && fileops_system.pwrite(fd, p, n / 2, off) < 0)
        return -1;
    errno = fault.error;
    return -1;
}

static inline int fault_sync(int fd)
{
    struct stat st;

    if (strike())
        return -1;
    int rc = fileops_system.fdatasync(fd);
    if (rc == 0 && fstat(fd, &st) == 0)
        note_flushed(st.st_ino, st.st_size);
    return rc;
}

static inline int fault_ftruncate(int fd, off_t len)
{
    return strike() ? -1 : fileops_system.ftruncate(fd, len);
}

static inline int fault_renameat2(int olddir, const char *old, int newdir, const char *new_,
                                  unsigned flags)
{
    return strike() ? -1 : fileops_system.renameat2(olddir, old, newdir, new_, flags);
}

static inline int fault_unlinkat(int dirfd, const char *path, int flags)
{
    return strike() ? -1 : fileops_system.unlinkat(dirfd, path, flags);
}

static inline int fault_mkdirat(int dirfd, const char *path, mode_t mode)
{
    return strike() ? -1 : fileops_system.mkdirat(dirfd, path, mode);
}

static inline int fault_gate(int op, const char *path)
{
    struct stat st;

    if (op == FILEOP_OPEN ? fault.dead : strike())
        return fault.error;
    if (op == FILEOP_SYNC && stat(path, &st) == 0)
        note_flushed(st.st_ino, st.st_size);
    return 0;
}

static struct fileops fault_ops;

static inline void faults_on(enum mode mode, int error, unsigned at)
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

static inline void faults_off(void)
{
    fileops = &fileops_system;
    fault.mode = MODE_NONE;
}

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

#endif
