/* cut_fixture.h - a disk under a repository, and what it has got when the power goes. Include it in
 * one file of a test.
 *
 * The files are the page cache: what was written is read there at once. Beside them stands, in
 * memory, what the disk has: the content of each file, and which names lead to which. A file's
 * content comes there when its flush returns, the names of a folder when a flush of the folder
 * does; before that the kernel may write any of it at any time: blocks of a file one by one, the
 * changes of a folder in their order. Nothing else follows from anything: a file that was flushed
 * may have no name yet, and a pack be removed though a page of the catalog is not written.
 *
 * SQLite writes by itself. That its flush of a WAL, the first time, flushes the folder too is what
 * it does (the unix VFS: os_unix.c, unixSync). */
#ifndef WK_TESTS_CUT_FIXTURE_H
#define WK_TESTS_CUT_FIXTURE_H

#include "fault_fixture.h"

enum { DISK_NAMES = 256, DISK_CHANGES = 512, DISK_BLOCK = 4096, DISK_SECTOR = 512 };

struct disk_file {
    uint8_t *bytes; /* that the disk has */
    size_t len;
    ino_t ino; /* 0: no name leads to it any more */
};

struct disk_name {
    char name[64];
    struct disk_file *file;
};

struct disk_names {
    struct disk_name list[DISK_NAMES];
    size_t count;
};

/* `file` gets the name; NULL: the name goes. */
struct disk_change {
    char name[64], from[64]; /* from: it was that, when it is not empty */
    struct disk_file *file;
};

struct disk_folder {
    char path[200];
    ino_t ino;
    struct disk_names now, safe; /* as it looks, and as it is on the disk */
    struct disk_change changes[DISK_CHANGES];
    size_t change_count; /* that lead from the one to the other */
};

enum { DISK_FOLDERS = 2 }; /* the repository's, its packs' */

static struct {
    bool on;
    bool lazy;        /* nothing comes there that was not flushed */
    pthread_t thread; /* that alone changes anything */
    uint64_t random;
    struct disk_folder folders[DISK_FOLDERS];
    struct disk_file *files[4096];
    size_t file_count;
    void (*moment)(void); /* between any two operations */
} disk;

static inline unsigned disk_any(unsigned n)
{
    return (unsigned)(next_random(&disk.random) % n);
}

/* ---- names ---- */

static inline struct disk_name *disk_find(struct disk_names *n, const char *name)
{
    for (size_t i = 0; i < n->count; i++)
        if (strcmp(n->list[i].name, name) == 0)
            return &n->list[i];
    return NULL;
}

static inline void disk_set(struct disk_names *n, const char *name, struct disk_file *file)
{
    struct disk_name *at = disk_find(n, name);

    if (!file) {
        if (at)
            *at = n->list[--n->count];
        return;
    }
    assert_true(at || n->count < DISK_NAMES);
    if (!at)
        at = &n->list[n->count++];
    snprintf(at->name, sizeof(at->name), "%.63s", name);
    at->file = file;
}

static inline void disk_apply(struct disk_names *n, const struct disk_change *c)
{
    if (c->from[0])
        disk_set(n, c->from, NULL);
    disk_set(n, c->name, c->file);
}

/* The first so many changes of a folder are on the disk. */
static inline void disk_journal(struct disk_folder *d, size_t count)
{
    for (size_t i = 0; i < count; i++)
        disk_apply(&d->safe, &d->changes[i]);
    d->change_count -= count;
    memmove(d->changes, d->changes + count, d->change_count * sizeof(d->changes[0]));
}

static inline void disk_change(struct disk_folder *d, const char *from, const char *name,
                               struct disk_file *file)
{
    struct disk_name *replaced = disk_find(&d->now, name);

    if (replaced)
        replaced->file->ino = 0;
    if (d->change_count == DISK_CHANGES)
        disk_journal(d, 1);
    struct disk_change *c = &d->changes[d->change_count++];
    *c = (struct disk_change){.file = file};
    snprintf(c->name, sizeof(c->name), "%.63s", name);
    snprintf(c->from, sizeof(c->from), "%.63s", from);
    disk_apply(&d->now, c);
}

static inline struct disk_file *disk_new_file(ino_t ino)
{
    struct disk_file *f = calloc(1, sizeof(*f));

    assert_true(f && disk.file_count < sizeof(disk.files) / sizeof(disk.files[0]));
    for (size_t i = 0; i < disk.file_count; i++)
        if (disk.files[i]->ino == ino)
            disk.files[i]->ino = 0; /* the number is used again */
    f->ino = ino;
    return disk.files[disk.file_count++] = f;
}

struct disk_place {
    struct disk_folder *folder;
    char name[64], path[300];
};

/* Where that is, when it is on this disk. SQLite makes its -shm anew whenever it is the first. */
static inline bool disk_find_place(int dirfd, const char *path, struct disk_place *p)
{
    const char *slash = strrchr(path, '/');
    struct stat st;

    p->folder = NULL;
    for (int i = 0; i < DISK_FOLDERS; i++) {
        struct disk_folder *d = &disk.folders[i];
        size_t n = strlen(d->path);
        if (slash ? (size_t)(slash - path) == n && strncmp(path, d->path, n) == 0
                  : fstat(dirfd, &st) == 0 && st.st_ino == d->ino)
            p->folder = d;
    }
    path = slash ? slash + 1 : path;
    if (!p->folder || strstr(path, "-shm") || strlen(path) >= sizeof(p->name))
        return false;
    snprintf(p->name, sizeof(p->name), "%.63s", path);
    snprintf(p->path, sizeof(p->path), "%.199s/%.63s", p->folder->path, path);
    return true;
}

/* It is there: known from now on, when it was not. */
static inline struct disk_file *disk_met(const struct disk_place *p)
{
    struct disk_name *known = disk_find(&p->folder->now, p->name);
    struct stat st;

    if (known || stat(p->path, &st) != 0)
        return known ? known->file : NULL;
    disk_change(p->folder, "", p->name, disk_new_file(st.st_ino));
    return disk_find(&p->folder->now, p->name)->file;
}

static inline void disk_gone(const struct disk_place *p)
{
    if (disk_find(&p->folder->now, p->name))
        disk_change(p->folder, "", p->name, NULL);
}

/* ---- content ---- */

static inline uint8_t *disk_read(const char *path, size_t *len)
{
    int fd = open(path, O_RDONLY);
    struct stat st;

    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    *len = (size_t)st.st_size;
    uint8_t *p = must_alloc(*len);
    assert_int_equal(read(fd, p, *len), *len);
    close(fd);
    return p;
}

static inline void disk_resize(struct disk_file *f, size_t len)
{
    f->bytes = realloc(f->bytes, len + 1);
    assert_non_null(f->bytes);
    if (len > f->len)
        memset(f->bytes + f->len, 0, len - f->len);
    f->len = len;
}

/* How a file's content comes to the disk by itself: how many of 16 pieces of what size. */
struct disk_share {
    size_t piece;
    unsigned of_16;
    bool in_order; /* up to one that does not */
    bool size;     /* the length too, though not all that it holds */
};

static inline void disk_write_some(struct disk_file *f, const uint8_t *now, size_t len,
                                   const struct disk_share *s)
{
    const size_t was = f->len;
    bool stopped = false;

    for (size_t at = 0; at < len; at += s->piece) {
        size_t n = len - at < s->piece ? len - at : s->piece;
        size_t known = at >= was ? 0 : was - at < n ? was - at : n;
        if (known == n && memcmp(f->bytes + at, now + at, n) == 0)
            continue;
        stopped |= s->in_order && disk_any(16) >= s->of_16;
        if (s->in_order ? stopped : disk_any(16) >= s->of_16)
            continue;
        if (f->len < at + n)
            disk_resize(f, at + n);
        memcpy(f->bytes + at, now + at, n);
    }
    if (s->size && f->len != len)
        disk_resize(f, len);
}

static inline struct disk_share disk_some_share(void)
{
    return (struct disk_share){.piece = disk_any(4) ? DISK_BLOCK : DISK_SECTOR,
                               .of_16 = (unsigned[]){0, 2, 8, 14, 16}[disk_any(5)],
                               .in_order = disk_any(3) == 0,
                               .size = disk_any(2)};
}

static inline void disk_write_file(const struct disk_folder *d, const struct disk_name *n,
                                   const struct disk_share *s)
{
    char path[300];
    size_t len;

    snprintf(path, sizeof(path), "%.199s/%.63s", d->path, n->name);
    if (access(path, F_OK) != 0)
        return; /* it went without our seeing it */
    uint8_t *now = disk_read(path, &len);
    disk_write_some(n->file, now, len, s);
    free(now);
}

static inline void disk_flushed(struct disk_file *f, uint8_t *content, size_t len)
{
    free(f->bytes);
    f->bytes = content;
    f->len = len;
}

/* The kernel writes something back. */
static inline void disk_write_back(void)
{
    struct disk_folder *d = &disk.folders[disk_any(DISK_FOLDERS)];
    const struct disk_share s = disk_some_share();

    if (disk.lazy)
        return;
    if (disk_any(2))
        disk_journal(d, disk_any((unsigned)d->change_count + 1));
    else if (d->now.count > 0)
        disk_write_file(d, &d->now.list[disk_any((unsigned)d->now.count)], &s);
}

/* ---- the operations ---- */

static inline bool disk_is_ours(void)
{
    return disk.on && pthread_equal(pthread_self(), disk.thread) != 0;
}

static inline void disk_moment(void)
{
    if (disk_is_ours() && disk.moment)
        disk.moment();
}

static inline int disk_openat(int dirfd, const char *path, int flags, mode_t mode)
{
    struct disk_place p;
    int fd = fileops_system.openat(dirfd, path, flags, mode);

    if (fd >= 0 && (flags & O_CREAT) && disk_is_ours() && disk_find_place(dirfd, path, &p)) {
        disk_met(&p);
        disk_moment();
    }
    return fd;
}

static inline ssize_t disk_pwrite(int fd, const void *p, size_t n, off_t off)
{
    disk_moment();
    ssize_t put = fileops_system.pwrite(fd, p, n, off);
    disk_moment();
    return put;
}

static inline int disk_ftruncate(int fd, off_t len)
{
    disk_moment();
    int rc = fileops_system.ftruncate(fd, len);
    disk_moment();
    return rc;
}

static inline int disk_renameat2(int olddir, const char *old, int newdir, const char *new_,
                                 unsigned flags)
{
    struct disk_place from, to;

    disk_moment();
    int rc = fileops_system.renameat2(olddir, old, newdir, new_, flags);
    if (rc == 0 && disk_is_ours() && disk_find_place(olddir, old, &from) &&
        disk_find_place(newdir, new_, &to)) {
        struct disk_name *n = disk_find(&from.folder->now, from.name);
        assert_true(n && from.folder == to.folder);
        disk_change(to.folder, from.name, to.name, n->file);
    }
    disk_moment();
    return rc;
}

static inline int disk_unlinkat(int dirfd, const char *path, int flags)
{
    struct disk_place p;

    disk_moment();
    int rc = fileops_system.unlinkat(dirfd, path, flags);
    if (rc == 0 && disk_is_ours() && disk_find_place(dirfd, path, &p))
        disk_gone(&p);
    disk_moment();
    return rc;
}

static inline struct disk_name *disk_name_of(ino_t ino, struct disk_folder **d)
{
    for (int i = 0; i < DISK_FOLDERS; i++) {
        *d = &disk.folders[i];
        for (size_t n = 0; n < (*d)->now.count; n++)
            if ((*d)->now.list[n].file->ino == ino)
                return &(*d)->now.list[n];
    }
    return NULL;
}

/* What is in the file when it begins is on the disk when it has ended; `during` comes between. */
static inline int disk_sync(int fd, void (*during)(void))
{
    struct disk_folder *d;
    struct stat st;
    char path[300];
    size_t len = 0;

    disk_moment();
    bool ours = disk_is_ours() && fstat(fd, &st) == 0;
    struct disk_name *n = ours && S_ISREG(st.st_mode) ? disk_name_of(st.st_ino, &d) : NULL;
    struct disk_file *f = n ? n->file : NULL;
    uint8_t *content = NULL;
    if (n) {
        snprintf(path, sizeof(path), "%.199s/%.63s", d->path, n->name);
        content = disk_read(path, &len);
    }
    if (during)
        during();
    disk_moment();
    if (!disk_is_ours()) {
        free(content); /* the power went */
        return 0;
    }
    if (f)
        disk_flushed(f, content, len);
    for (int i = 0; ours && S_ISDIR(st.st_mode) && i < DISK_FOLDERS; i++)
        if (disk.folders[i].ino == st.st_ino)
            disk_journal(&disk.folders[i], disk.folders[i].change_count);
    disk_moment();
    return 0;
}

static inline int disk_plain_sync(int fd)
{
    return disk_sync(fd, NULL);
}

static inline void disk_sync_catalog(const struct disk_place *p, struct disk_file *f)
{
    struct disk_name *safe = disk_find(&p->folder->safe, p->name);
    size_t len;

    if (access(p->path, F_OK) != 0)
        return; /* set aside: the name leads elsewhere */
    uint8_t *content = disk_read(p->path, &len);
    disk_flushed(f, content, len);
    if (strstr(p->name, "-wal") && !(safe && safe->file == f))
        disk_journal(p->folder, p->folder->change_count);
}

static inline int disk_gate(int op, const char *path)
{
    struct disk_place p;

    disk_moment();
    if (op == FILEOP_READ || !disk_is_ours() || !disk_find_place(AT_FDCWD, path, &p))
        return 0;
    if (op == FILEOP_DELETE) {
        disk_gone(&p);
        return 0;
    }
    struct disk_file *f = disk_met(&p);
    if (f && op == FILEOP_SYNC)
        disk_sync_catalog(&p, f);
    return 0;
}

static inline struct fileops disk_table(void)
{
    struct fileops ops = fileops_system;

    ops.openat = disk_openat;
    ops.pwrite = disk_pwrite;
    ops.ftruncate = disk_ftruncate;
    ops.renameat2 = disk_renameat2;
    ops.unlinkat = disk_unlinkat;
    ops.fdatasync = disk_plain_sync;
    ops.fsync = disk_plain_sync;
    ops.gate = disk_gate;
    return ops;
}

/* ---- the disk as a whole ---- */

static inline void disk_off(void)
{
    for (size_t i = 0; i < disk.file_count; i++) {
        free(disk.files[i]->bytes);
        free(disk.files[i]);
    }
    disk.file_count = 0;
    disk.on = false;
}

static inline void disk_look(const char *path, const char *name, void *ctx)
{
    struct disk_place p;

    if (disk_find_place(AT_FDCWD, path, &p))
        disk_met(&p);
}

static inline void disk_name_folders(const char *repo)
{
    struct stat st;

    for (int i = 0; i < DISK_FOLDERS; i++) {
        struct disk_folder *d = &disk.folders[i];
        snprintf(d->path, sizeof(d->path), "%.180s%s", repo, i ? "/packs" : "");
        assert_int_equal(stat(d->path, &st), 0);
        d->ino = st.st_ino;
    }
}

/* This repository is on it, as it stands. */
static inline void disk_on(const char *repo)
{
    const struct disk_share all = {.piece = DISK_BLOCK, .of_16 = 16, .size = true};

    disk_off();
    memset(disk.folders, 0, sizeof(disk.folders));
    disk_name_folders(repo);
    for (int i = 0; i < DISK_FOLDERS; i++) {
        struct disk_folder *d = &disk.folders[i];
        each_file(d->path, disk_look, NULL);
        disk_journal(d, d->change_count);
        for (size_t n = 0; n < d->now.count; n++)
            disk_write_file(d, &d->now.list[n], &all);
    }
    disk.thread = pthread_self();
    disk.on = true;
}

/* The process is killed: what it wrote is in the page cache still. A copy of that takes the
 * repository's place on the disk, which is off until `on` is set. */
static inline void disk_keep(const char *to)
{
    char path[300];
    struct stat st;

    for (int i = 0; i < DISK_FOLDERS; i++)
        each_file(disk.folders[i].path, disk_look, NULL);
    copy_repo(disk.folders[0].path, to);
    disk_name_folders(to);
    for (int i = 0; i < DISK_FOLDERS; i++) {
        struct disk_folder *d = &disk.folders[i];
        for (size_t n = 0; n < d->now.count; n++) {
            snprintf(path, sizeof(path), "%.199s/%.63s", d->path, d->now.list[n].name);
            assert_int_equal(stat(path, &st), 0);
            d->now.list[n].file->ino = st.st_ino;
        }
    }
    disk.on = false;
}

static inline void disk_put(const char *folder, const struct disk_name *n)
{
    char path[300];

    snprintf(path, sizeof(path), "%.199s/%.63s", folder, n->name);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, n->file->bytes, n->file->len), n->file->len);
    close(fd);
}

/* The power goes: what the disk has comes to a new folder, and this one is on no disk any more. */
static inline void disk_cut(const char *to)
{
    char folder[200];

    assert_int_equal(mkdir(to, 0700), 0);
    for (int i = 0; i < DISK_FOLDERS; i++) {
        struct disk_folder *d = &disk.folders[i];
        each_file(d->path, disk_look, NULL);
        snprintf(folder, sizeof(folder), "%.180s%s", to, i ? "/packs" : "");
        assert_true(i == 0 || mkdir(folder, 0700) == 0);
        for (size_t n = 0; n < d->now.count && !disk.lazy; n++) {
            const struct disk_share s = disk_some_share();
            disk_write_file(d, &d->now.list[n], &s);
        }
        disk_journal(d, disk.lazy ? 0 : disk_any((unsigned)d->change_count + 1));
        for (size_t n = 0; n < d->safe.count; n++)
            disk_put(folder, &d->safe.list[n]);
    }
    disk_off();
}

#endif
