/* The unix VFS does all the work on descriptors of its own; this shim stands before it and asks
 * fileops->gate first. It never opens a database file itself: closing a second descriptor of the
 * inode would drop the POSIX locks that SQLite holds on it. */
#include "io/vfs.h"

#include "base/bytes.h"
#include "base/safety.h"
#include "io/fileops.h"

#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* The real file lies behind it in the same allocation. */
struct shim_file {
    sqlite3_file base;
    const char *path; /* SQLite keeps it until the file is closed */
    sqlite3_file *real;
    bool pages;      /* a database: its pages carry checksums */
    bool flush_lost; /* a flush failed */
    bool wal;
    struct held *held; /* of a WAL that is written to, else NULL */
};

/* Frames of a WAL that are not written yet. */
struct held {
    sqlite3_int64 off, next; /* where they go; where the last write ended, -1: nowhere */
    size_t len;
    bool commit; /* the last frame header was that of a transaction's last frame */
    uint8_t bytes[64 * 1024];
};

enum { PAGE_SIZE_MIN = 512, FRAME_HEADER = 24, FRAME_COMMIT = 4 };

static vfs_sum page_sum;

_Static_assert(sizeof(struct shim_file) % 8 == 0, "the real file behind it is aligned");

static sqlite3_file *real_of(sqlite3_file *f)
{
    return ((struct shim_file *)(void *)f)->real;
}

static sqlite3_vfs *real_vfs(sqlite3_vfs *vfs)
{
    return vfs->pAppData;
}

/* SQLITE_OK, or the result for the errno that the gate injects. */
static int ask(int op, const char *path, int otherwise)
{
    int sys = fileops->gate ? fileops->gate(op, path ? path : "") : 0;

    switch (sys) {
    case 0:
        return SQLITE_OK;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return SQLITE_FULL;
    default:
        return otherwise;
    }
}

static int ask_file(int op, sqlite3_file *f, int otherwise)
{
    return ask(op, ((struct shim_file *)(void *)f)->path, otherwise);
}

/* SQLite tells a full disk by ENOSPC alone: a quota or a limit on the length of files would look
 * like a disk that is broken. */
static int real_write(sqlite3_file *real, const void *p, int n, sqlite3_int64 off)
{
    int sys = 0;

    int rc = real->pMethods->xWrite(real, p, n, off);
    if (rc == SQLITE_IOERR_WRITE &&
        real->pMethods->xFileControl(real, SQLITE_FCNTL_LAST_ERRNO, &sys) == SQLITE_OK &&
        (sys == EDQUOT || sys == EFBIG))
        return SQLITE_FULL;
    return rc;
}

/* ---- frames of a WAL ----
 *
 * SQLite writes each frame as a header and a page. They are gathered and written together, at the
 * latest with the frame that ends a transaction: before that one stands, no other connection looks
 * for any of them (https://sqlite.org/walformat.html), and this one's reads write them first. */

static int held_write(struct shim_file *file)
{
    struct held *h = file->held;

    if (!h || h->len == 0)
        return SQLITE_OK;
    size_t len = h->len;
    h->len = 0;
    return real_write(file->real, h->bytes, (int)len, h->off);
}

/* A write that does not go on where the last one ended goes straight to the file. */
static int wal_write(struct shim_file *file, const void *p, int n, sqlite3_int64 off)
{
    static const uint8_t none[4];
    struct held *h = file->held;
    int rc = SQLITE_OK;

    if (!h && (h = file->held = malloc(sizeof(*h))))
        *h = (struct held){.next = -1};
    bool goes_on = h && off == h->next && (size_t)n <= sizeof(h->bytes);
    if (h && (!goes_on || (size_t)n > sizeof(h->bytes) - h->len))
        rc = held_write(file);
    if (rc != SQLITE_OK)
        return rc;
    if (h)
        h->next = off + n;
    if (h && n == FRAME_HEADER)
        h->commit = memcmp((const uint8_t *)p + FRAME_COMMIT, none, sizeof(none)) != 0;
    if (!goes_on)
        return real_write(file->real, p, n, off);
    if (h->len == 0)
        h->off = off;
    memcpy(h->bytes + h->len, p, (size_t)n);
    h->len += (size_t)n;
    return n == FRAME_HEADER || (n == VFS_PAGE && !h->commit) ? SQLITE_OK : held_write(file);
}

static int held_write_of(sqlite3_file *f)
{
    return held_write((struct shim_file *)(void *)f);
}

/* ---- a file ---- */

static int shim_close(sqlite3_file *f)
{
    struct shim_file *file = (struct shim_file *)(void *)f;

    held_write(file);
    free(file->held);
    file->held = NULL;
    return real_of(f)->pMethods->xClose(real_of(f));
}

/* Reads shorter than any page are of the header alone. */
static bool is_page(sqlite3_file *f, int n)
{
    return ((struct shim_file *)(void *)f)->pages && n >= PAGE_SIZE_MIN;
}

static uint64_t sum_of(const void *page, sqlite3_int64 off)
{
    return page_sum(page, VFS_PAGE - VFS_RESERVED, (uint64_t)off / VFS_PAGE);
}

static int check_page(const uint8_t *page, int n, sqlite3_int64 off)
{
    if (n == VFS_PAGE && off % VFS_PAGE == 0 &&
        load_u64(page + VFS_PAGE - VFS_RESERVED) == sum_of(page, off))
        return SQLITE_OK;
    return SQLITE_IOERR_DATA;
}

static int shim_read(sqlite3_file *f, void *p, int n, sqlite3_int64 off)
{
    int rc = held_write_of(f);

    if (rc == SQLITE_OK)
        rc = ask_file(FILEOP_READ, f, SQLITE_IOERR_READ);
    if (rc == SQLITE_OK)
        rc = real_of(f)->pMethods->xRead(real_of(f), p, n, off);
    return rc == SQLITE_OK && is_page(f, n) ? SAFETY(CATALOG_SUM, check_page(p, n, off)) : rc;
}

/* The page stays SQLite's own: what is written is a copy. */
static int write_page(sqlite3_file *real, const void *p, int n, sqlite3_int64 off)
{
    uint8_t page[VFS_PAGE];

    if (n != VFS_PAGE || off % VFS_PAGE != 0)
        return SQLITE_IOERR_WRITE;
    memcpy(page, p, VFS_PAGE - VFS_RESERVED);
    store_u64(page + VFS_PAGE - VFS_RESERVED, sum_of(page, off));
    return real_write(real, page, n, off);
}

static int shim_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 off)
{
    int rc = ask_file(FILEOP_WRITE, f, SQLITE_IOERR_WRITE);

    if (rc == SQLITE_OK && is_page(f, n))
        return write_page(real_of(f), p, n, off);
    if (rc == SQLITE_OK && ((struct shim_file *)(void *)f)->wal)
        return wal_write((struct shim_file *)(void *)f, p, n, off);
    return rc == SQLITE_OK ? real_write(real_of(f), p, n, off) : rc;
}

static int shim_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    int rc = held_write_of(f);

    if (rc == SQLITE_OK)
        rc = ask_file(FILEOP_TRUNCATE, f, SQLITE_IOERR_TRUNCATE);
    return rc == SQLITE_OK ? real_of(f)->pMethods->xTruncate(real_of(f), size) : rc;
}

static int shim_sync(sqlite3_file *f, int flags)
{
    struct shim_file *file = (struct shim_file *)(void *)f;

    if (SAFETY(CATALOG_FLUSH, file->flush_lost))
        return SQLITE_IOERR_FSYNC;
    int rc = held_write(file);
    if (rc == SQLITE_OK)
        rc = ask_file(FILEOP_SYNC, f, SQLITE_IOERR_FSYNC);
    if (rc == SQLITE_OK)
        rc = file->real->pMethods->xSync(file->real, flags);
    file->flush_lost = rc != SQLITE_OK;
    return rc;
}

static int shim_file_size(sqlite3_file *f, sqlite3_int64 *size)
{
    int rc = held_write_of(f);

    return rc == SQLITE_OK ? real_of(f)->pMethods->xFileSize(real_of(f), size) : rc;
}

static int shim_lock(sqlite3_file *f, int level)
{
    return real_of(f)->pMethods->xLock(real_of(f), level);
}

static int shim_unlock(sqlite3_file *f, int level)
{
    return real_of(f)->pMethods->xUnlock(real_of(f), level);
}

static int shim_check_reserved(sqlite3_file *f, int *held)
{
    return real_of(f)->pMethods->xCheckReservedLock(real_of(f), held);
}

static int shim_control(sqlite3_file *f, int op, void *arg)
{
    return real_of(f)->pMethods->xFileControl(real_of(f), op, arg);
}

static int shim_sector_size(sqlite3_file *f)
{
    return real_of(f)->pMethods->xSectorSize(real_of(f));
}

static int shim_characteristics(sqlite3_file *f)
{
    return real_of(f)->pMethods->xDeviceCharacteristics(real_of(f));
}

static int shim_shm_map(sqlite3_file *f, int region, int size, int extend, void volatile **p)
{
    return real_of(f)->pMethods->xShmMap(real_of(f), region, size, extend, p);
}

static int shim_shm_lock(sqlite3_file *f, int offset, int n, int flags)
{
    return real_of(f)->pMethods->xShmLock(real_of(f), offset, n, flags);
}

static void shim_shm_barrier(sqlite3_file *f)
{
    real_of(f)->pMethods->xShmBarrier(real_of(f));
}

static int shim_shm_unmap(sqlite3_file *f, int remove)
{
    return real_of(f)->pMethods->xShmUnmap(real_of(f), remove);
}

static int shim_fetch(sqlite3_file *f, sqlite3_int64 off, int n, void **p)
{
    *p = NULL; /* no mapping: each page passes by shim_read */
    return SQLITE_OK;
}

static int shim_unfetch(sqlite3_file *f, sqlite3_int64 off, void *p)
{
    return real_of(f)->pMethods->xUnfetch(real_of(f), off, p);
}

static const sqlite3_io_methods shim_methods = {
    .iVersion = 3,
    .xClose = shim_close,
    .xRead = shim_read,
    .xWrite = shim_write,
    .xTruncate = shim_truncate,
    .xSync = shim_sync,
    .xFileSize = shim_file_size,
    .xLock = shim_lock,
    .xUnlock = shim_unlock,
    .xCheckReservedLock = shim_check_reserved,
    .xFileControl = shim_control,
    .xSectorSize = shim_sector_size,
    .xDeviceCharacteristics = shim_characteristics,
    .xShmMap = shim_shm_map,
    .xShmLock = shim_shm_lock,
    .xShmBarrier = shim_shm_barrier,
    .xShmUnmap = shim_shm_unmap,
    .xFetch = shim_fetch,
    .xUnfetch = shim_unfetch,
};

/* ---- the file system ---- */

static int shim_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *f, int flags, int *out)
{
    struct shim_file *file = (struct shim_file *)(void *)f;

    file->base.pMethods = NULL;
    file->path = path;
    file->real = (sqlite3_file *)(void *)(file + 1);
    file->real->pMethods = NULL;
    file->pages = (flags & SQLITE_OPEN_MAIN_DB) != 0;
    file->flush_lost = false;
    file->wal = (flags & SQLITE_OPEN_WAL) != 0;
    file->held = NULL;
    int rc = ask(FILEOP_OPEN, path, SQLITE_CANTOPEN);
    if (rc != SQLITE_OK)
        return rc;
    rc = real_vfs(vfs)->xOpen(real_vfs(vfs), path, file->real, flags, out);
    if (rc == SQLITE_OK && file->real->pMethods->iVersion < 3)
        rc = SQLITE_CANTOPEN; /* no shared memory, hence no WAL */
    if (rc == SQLITE_OK)
        file->base.pMethods = &shim_methods;
    else if (file->real->pMethods)
        file->real->pMethods->xClose(file->real);
    return rc;
}

static int shim_delete(sqlite3_vfs *vfs, const char *path, int sync_dir)
{
    int rc = ask(FILEOP_DELETE, path, SQLITE_IOERR_DELETE);

    return rc == SQLITE_OK ? real_vfs(vfs)->xDelete(real_vfs(vfs), path, sync_dir) : rc;
}

static int shim_access(sqlite3_vfs *vfs, const char *path, int flags, int *out)
{
    return real_vfs(vfs)->xAccess(real_vfs(vfs), path, flags, out);
}

static int shim_full_pathname(sqlite3_vfs *vfs, const char *path, int cap, char *out)
{
    return real_vfs(vfs)->xFullPathname(real_vfs(vfs), path, cap, out);
}

static int shim_randomness(sqlite3_vfs *vfs, int n, char *out)
{
    return real_vfs(vfs)->xRandomness(real_vfs(vfs), n, out);
}

static int shim_sleep(sqlite3_vfs *vfs, int us)
{
    return real_vfs(vfs)->xSleep(real_vfs(vfs), us);
}

static int shim_last_error(sqlite3_vfs *vfs, int n, char *out)
{
    return real_vfs(vfs)->xGetLastError(real_vfs(vfs), n, out);
}

static int shim_current_time(sqlite3_vfs *vfs, double *day)
{
    return real_vfs(vfs)->xCurrentTime(real_vfs(vfs), day);
}

static int shim_current_time64(sqlite3_vfs *vfs, sqlite3_int64 *ms)
{
    return real_vfs(vfs)->xCurrentTimeInt64(real_vfs(vfs), ms);
}

/* No extension is loaded through this VFS, hence no xDl* members. */
static sqlite3_vfs shim = {
    .iVersion = 2,
    .zName = VFS_NAME,
    .xOpen = shim_open,
    .xDelete = shim_delete,
    .xAccess = shim_access,
    .xFullPathname = shim_full_pathname,
    .xRandomness = shim_randomness,
    .xSleep = shim_sleep,
    .xGetLastError = shim_last_error,
    .xCurrentTime = shim_current_time,
    .xCurrentTimeInt64 = shim_current_time64,
};

static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;

static int register_with(vfs_sum sum)
{
    sqlite3_vfs *real = sqlite3_vfs_find(NULL);

    if (!real || real->iVersion < 2)
        return -1;
    shim.szOsFile = (int)sizeof(struct shim_file) + real->szOsFile;
    shim.mxPathname = real->mxPathname;
    shim.pAppData = real;
    page_sum = sum;
    return sqlite3_vfs_register(&shim, 0) == SQLITE_OK ? 0 : -1;
}

int vfs_register(vfs_sum sum)
{
    static int result = 1; /* not yet */

    pthread_mutex_lock(&once);
    if (result > 0)
        result = register_with(sum);
    int rc = result;
    pthread_mutex_unlock(&once);
    return rc;
}
