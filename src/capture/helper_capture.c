#include "capture/helper_capture.h"

#include "base/clock.h"
#include "base/safety.h"
#include "base/text.h"
#include "capture/database_header.h"
#include "capture/helper_source.h"
#include "io/fileops.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/banned.h"

enum {
    TRY_AGAIN = 1, /* a positive result: look again while there is time */
    PAUSE_NS = 3000000,
    COPY_BYTES = 256 * 1024,
    AT_SCHEMA_COOKIE = 40,
};

/* A rollback-mode database up to this size is read under SHARED at once: a few milliseconds. */
static const uint64_t brief_lock_max = UINT64_C(4) << 20;

struct capture {
    char source[PATH_MAX];
    const char *scratch;
    uint64_t start_ns, end_ns, pass_end_ns;
    const char *mode;
    bool recovered;
    uint64_t image_len, pinned_ns;
    uint32_t page_size;
};

enum road { ROAD_WAIT, ROAD_PLAIN, ROAD_PINNED, ROAD_RECOVER };

/* ---- SQLite in this process ---- */

/* Side files of this database are never made by us: SQLite would make the -wal and -shm of a closed
 * database and leave them there, owned by whoever we are. */
static const char *guarded;
static int (*system_open)(const char *path, int flags, int mode);

static bool is_guarded(const char *path)
{
    size_t n = guarded ? strlen(guarded) : 0;

    return n > 0 && strncmp(path, guarded, n) == 0 && (path[n] == 0 || path[n] == '-');
}

static int guard_open(const char *path, int flags, int mode)
{
    return system_open(path, is_guarded(path) ? flags & ~O_CREAT : flags, mode);
}

int helper_setup(struct error *e)
{
    sqlite3_vfs *vfs;

    sqlite3_config(SQLITE_CONFIG_SINGLETHREAD);
    if (sqlite3_initialize() != SQLITE_OK || !(vfs = sqlite3_vfs_find(NULL)) || vfs->iVersion < 3)
        return error_set(e, ERR_FAILED, "cannot start SQLite");
    sqlite3_syscall_ptr was = vfs->xGetSystemCall(vfs, "open");
    if (!was)
        return error_set(e, ERR_FAILED, "SQLite's file system layer has no open");
    memcpy(&system_open, &was, sizeof(was));
    if (vfs->xSetSystemCall(vfs, "open", (sqlite3_syscall_ptr)(void (*)(void))guard_open) != 0)
        return error_set(e, ERR_FAILED, "SQLite's file system layer takes no open");
    return 0;
}

static int code_of(int rc, int sys)
{
    switch (rc & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return ERR_BUSY;
    case SQLITE_NOTADB:
        return ERR_USAGE;
    case SQLITE_CORRUPT:
        return ERR_DAMAGED;
    case SQLITE_FULL:
        return ERR_NOSPACE;
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_READONLY:
        return ERR_DENIED;
    default:
        if (sys == EACCES || sys == EPERM || sys == EROFS)
            return ERR_DENIED;
        return sys == ENOSPC || sys == EDQUOT || sys == EFBIG ? ERR_NOSPACE : ERR_FAILED;
    }
}

int sqlite_failed(sqlite3 *db, int rc, const char *what, struct error *e)
{
    int sys = db && ((rc & 0xff) == SQLITE_CANTOPEN || (rc & 0xff) == SQLITE_IOERR)
                  ? sqlite3_system_errno(db)
                  : 0;

    if (rc == SQLITE_OK)
        rc = SQLITE_ERROR;
    error_set(e, code_of(rc, sys), "%s: %s%s%s", what, sqlite3_errstr(rc), sys ? ": " : "",
              sys ? strerror(sys) : "");
    e->sys = sys;
    return e->code;
}

static int exec(sqlite3 *db, const char *sql)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL);
}

/* The first column of the first row of sql. */
static int query_int(sqlite3 *db, const char *sql, int64_t *v)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &s, NULL);

    if (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        *v = sqlite3_column_int64(s, 0);
        rc = SQLITE_OK;
    } else if (rc == SQLITE_DONE) {
        rc = SQLITE_ERROR;
    }
    sqlite3_finalize(s);
    return rc;
}

/* Whether the open read transaction reads through a WAL; what a look before said may have changed
 * since. A reader has no journal file open but a WAL. (PRAGMA journal_mode would parse the schema.)
 */
static int reads_wal(sqlite3 *db, bool *is_wal)
{
    sqlite3_file *f = NULL;
    int rc = sqlite3_file_control(db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &f);

    *is_wal = rc == SQLITE_OK && f && f->pMethods;
    return rc;
}

/* Open a file of ours; no journal, no flush, no shared memory: it is thrown away on any error. */
static int open_scratch(const char *path, sqlite3 **db)
{
    int rc = sqlite3_open_v2(path, db, SQLITE_OPEN_READWRITE, NULL);

    if (rc == SQLITE_OK)
        rc = exec(*db, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=OFF");
    return rc;
}

/* ---- the scratch file ---- */

static const char *const side_suffixes[] = {"-wal", "-shm", "-journal"};

static int reset_scratch(const struct capture *c, struct error *e)
{
    for (size_t i = 0; i < sizeof(side_suffixes) / sizeof(*side_suffixes); i++) {
        char *name = text_format("%s%s", c->scratch, side_suffixes[i]);
        if (name)
            unlink(name);
        free(name);
    }
    return truncate(c->scratch, 0) == 0
               ? 0
               : error_sys(e, errno, "cannot empty the scratch file '%s'", c->scratch);
}

/* What was made must be a database by its own header; what lies behind its last page goes. */
static int prove_scratch(struct capture *c, struct error *e)
{
    uint8_t header[DATABASE_HEADER_LEN] = {0};
    off_t len = -1;
    size_t got;
    int fd = open(c->scratch, O_RDWR | O_CLOEXEC);
    int rc = fd < 0 ? error_sys(e, errno, "cannot open the scratch file") : 0;

    if (rc == 0 && (len = lseek(fd, 0, SEEK_END)) < 0)
        rc = error_sys(e, errno, "cannot measure the scratch file");
    if (rc == 0)
        rc = file_read_some(fd, header, sizeof(header), 0, &got, e);
    if (rc == 0)
        rc = SAFETY(DATABASE_HEADER,
                    database_header_check(header, (uint64_t)len, &c->page_size, &c->image_len, e));
    if (rc == 0 && (uint64_t)len > c->image_len && ftruncate(fd, (off_t)c->image_len) != 0)
        rc = error_sys(e, errno, "cannot cut the scratch file");
    if (fd >= 0)
        close(fd);
    return rc;
}

/* ---- plain copies ---- */

static int copy_bytes(int from, int to, uint64_t len, struct error *e)
{
    static uint8_t bytes[COPY_BYTES];

    for (uint64_t off = 0; off < len;) {
        size_t want = len - off < sizeof(bytes) ? (size_t)(len - off) : sizeof(bytes);
        size_t got;
        int rc = file_read_some(from, bytes, want, off, &got, e);
        if (rc == 0 && got < want)
            return TRY_AGAIN;
        if (rc == 0)
            rc = file_write_all(to, bytes, got, off, e);
        if (rc != 0)
            return rc;
        off += got;
    }
    return 0;
}

/* The first len bytes of `from` become the file `to`. TRY_AGAIN: the source is shorter or gone. */
static int copy_file(const char *from, const char *to, uint64_t len, struct error *e)
{
    int in = open(from, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (in < 0)
        return errno == ENOENT ? TRY_AGAIN : error_sys(e, errno, "cannot open '%s'", from);
    int rc = 0;
    int out = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (out < 0)
        rc = error_sys(e, errno, "cannot make the scratch file '%s'", to);
    else if (ioctl(out, FICLONE, in) != 0)
        rc = copy_bytes(in, out, len, e);
    else if (ftruncate(out, (off_t)len) != 0)
        rc = error_sys(e, errno, "cannot cut the scratch file '%s'", to);
    if (out >= 0 && close(out) != 0 && rc == 0)
        rc = error_sys(e, errno, "cannot write the scratch file '%s'", to);
    close(in);
    return rc;
}

/* Whether nothing moved since `before`, which was not racy. */
static int still_same(const struct capture *c, const struct source_look *before, struct error *e)
{
    struct source_look now;
    int rc = source_look(c->source, &now, e);

    return rc != 0 ? rc : source_same(before, &now) ? 0 : TRY_AGAIN;
}

static int take_plain(struct capture *c, const struct source_look *l, struct error *e)
{
    int rc = copy_file(c->source, c->scratch, l->image_len, e);

    if (rc == 0)
        rc = still_same(c, l, e);
    c->mode = l->wal_mode ? "immutable" : "rollback";
    return rc;
}

/* ---- recovery of a copy ---- */

static int copy_side(const struct capture *c, const char *suffix, const struct side_file *s,
                     struct error *e)
{
    if (!s->there || s->sig.size == 0)
        return 0;
    char *from = text_format("%s%s", c->source, suffix);
    char *to = text_format("%s%s", c->scratch, suffix);
    int rc = from && to ? copy_file(from, to, s->sig.size, e)
                        : error_set(e, ERR_FAILED, "out of memory");
    free(from);
    free(to);
    return rc;
}

/* Stock SQLite plays the copied journal back, or the copied WAL in. */
static int recover_copy(struct capture *c, struct error *e)
{
    sqlite3 *db = NULL;
    int64_t v = 0;
    int rc = open_scratch(c->scratch, &db);

    if (rc == SQLITE_OK)
        rc = query_int(db, "PRAGMA schema_version", &v);
    if (rc == SQLITE_OK)
        rc = query_int(db, "PRAGMA wal_checkpoint(TRUNCATE)", &v);
    if (rc == SQLITE_OK && v != 0)
        rc = SQLITE_BUSY;
    int result = rc == SQLITE_OK ? 0 : sqlite_failed(db, rc, "cannot recover a copy of it", e);
    sqlite3_close(db);
    return result;
}

static int take_recovered(struct capture *c, const struct source_look *l, struct error *e)
{
    int rc = copy_file(c->source, c->scratch, l->db.size, e);

    if (rc == 0)
        rc = l->wal.there ? copy_side(c, "-wal", &l->wal, e)
                          : copy_side(c, "-journal", &l->journal, e);
    if (rc == 0)
        rc = still_same(c, l, e);
    if (rc == 0)
        rc = recover_copy(c, e);
    c->mode = "recovered";
    c->recovered = true;
    return rc;
}

/* ---- one read transaction ---- */

static unsigned ms_left(const struct capture *c)
{
    uint64_t now = clock_mono_ns();

    return now < c->end_ns ? (unsigned)((c->end_ns - now) / 1000000) : 0;
}

/* What may pass by itself when the state on the disk is looked at again. */
static bool passing(int rc, int sys)
{
    if ((rc & 0xff) == SQLITE_CANTOPEN)
        return sys != EACCES && sys != EPERM;
    return (rc & 0xff) == SQLITE_READONLY || (rc & 0xff) == SQLITE_BUSY || rc == SQLITE_PROTOCOL;
}

static int source_failed(sqlite3 *db, int rc, struct error *e)
{
    bool again = passing(rc, db ? sqlite3_system_errno(db) : 0);

    sqlite_failed(db, rc, "cannot read it", e);
    return again ? TRY_AGAIN : e->code;
}

/* Open and pin: from here to the COMMIT the source is one state. */
static int pin_source(struct capture *c, sqlite3 **db, int64_t *cookie, bool *is_wal,
                      struct error *e)
{
    int rc = sqlite3_open_v2(c->source, db, SQLITE_OPEN_READONLY, NULL);

    if (rc == SQLITE_OK) {
        sqlite3_extended_result_codes(*db, 1);
        sqlite3_busy_timeout(*db, (int)ms_left(c));
        rc = sqlite3_db_config(*db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, (int *)NULL);
    }
    if (rc == SQLITE_OK)
        rc = exec(*db, "BEGIN");
    /* Reads page 1 and nothing of the schema, which may be of a kind we do not know. */
    if (rc == SQLITE_OK)
        rc = query_int(*db, "PRAGMA schema_version", cookie);
    if (rc == SQLITE_OK)
        rc = reads_wal(*db, is_wal);
    return rc == SQLITE_OK ? 0 : source_failed(*db, rc, e);
}

static int backup_to(sqlite3 *source, sqlite3 *image, struct error *e)
{
    sqlite3_backup *b = sqlite3_backup_init(image, "main", source, "main");

    if (!b)
        return sqlite_failed(image, sqlite3_extended_errcode(image), "cannot begin the copy", e);
    int rc = sqlite3_backup_step(b, -1);
    int end = sqlite3_backup_finish(b);
    if (rc == SQLITE_DONE && end == SQLITE_OK)
        return 0;
    return sqlite_failed(image, rc == SQLITE_DONE ? end : rc, "cannot copy it", e);
}

/* ---- the image's header ----
 * sqlite3_backup counts the image's schema cookie and change counter from zero and puts its own
 * version there. Without a WAL the source's header stands in its file, under our SHARED lock; with
 * one only the cookie can be asked for. */

static int read_header(sqlite3 *source, uint8_t header[DATABASE_HEADER_LEN])
{
    sqlite3_file *f = NULL;
    int rc = sqlite3_file_control(source, "main", SQLITE_FCNTL_FILE_POINTER, &f);

    return rc == SQLITE_OK ? f->pMethods->xRead(f, header, DATABASE_HEADER_LEN, 0) : rc;
}

static int put_at(const struct capture *c, const uint8_t *p, size_t n, uint64_t at, struct error *e)
{
    int fd = open(c->scratch, O_WRONLY | O_CLOEXEC);
    int rc = fd < 0 ? error_sys(e, errno, "cannot open the scratch file")
                    : file_write_all(fd, p, n, at, e);

    if (fd >= 0)
        close(fd);
    return rc;
}

static int put_cookie(const struct capture *c, int64_t cookie, struct error *e)
{
    uint32_t v = (uint32_t)cookie;
    uint8_t be[4] = {(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v};

    return put_at(c, be, sizeof(be), AT_SCHEMA_COOKIE, e);
}

/* ---- pinned ---- */

static int take_pinned(struct capture *c, struct error *e)
{
    sqlite3 *source = NULL, *image = NULL;
    uint8_t header[DATABASE_HEADER_LEN];
    int64_t cookie = 0;
    bool is_wal = false;
    uint64_t begin = 0;

    int sql = open_scratch(c->scratch, &image);
    if (sql == SQLITE_OK)
        sql = exec(image, "PRAGMA journal_mode=OFF");
    int rc = sql == SQLITE_OK ? 0 : sqlite_failed(image, sql, "cannot open the scratch file", e);

    guarded = c->source;
    if (rc == 0)
        rc = pin_source(c, &source, &cookie, &is_wal, e);
    if (rc == 0) {
        begin = clock_mono_ns();
        rc = backup_to(source, image, e);
        if (rc == 0 && !is_wal && (sql = read_header(source, header)) != SQLITE_OK)
            rc = sqlite_failed(source, sql, "cannot read its header", e);
        exec(source, "COMMIT");
        c->pinned_ns = clock_mono_ns() - begin;
    }
    sqlite3_close(source);
    guarded = NULL;
    sql = sqlite3_close(image);
    if (rc == 0 && sql != SQLITE_OK)
        rc = sqlite_failed(NULL, sql, "cannot close the scratch file", e);
    if (rc == 0)
        rc = is_wal ? put_cookie(c, cookie, e) : put_at(c, header, sizeof(header), 0, e);
    c->mode = is_wal ? "wal" : "rollback";
    return rc;
}

/* ---- the choice ---- */

static enum road settled(const struct source_look *l, enum road road)
{
    return source_racy(l) ? ROAD_WAIT : road;
}

static enum road choose_wal(const struct source_look *l)
{
    bool frames = l->wal.there && l->wal.sig.size > 0;

    if (!l->held || l->remote)
        return settled(l, frames ? ROAD_RECOVER : ROAD_PLAIN);
    /* Held with a file missing: being opened or closed, opened by another of the file's names, or
     * in exclusive locking mode. */
    return l->wal.there && l->shm.there ? ROAD_PINNED : ROAD_WAIT;
}

static enum road choose_rollback(const struct capture *c, const struct source_look *l)
{
    if (l->hot && !l->writer)
        return settled(l, ROAD_RECOVER);
    if (!l->writer && l->image_len <= l->db.size && l->image_len > 0 && !source_racy(l))
        return ROAD_PLAIN;
    /* Passes without a lock do not come through a busy writer: small ones are read under SHARED,
     * large ones too when half of the time is over. */
    if (l->db.size <= brief_lock_max || clock_mono_ns() >= c->pass_end_ns)
        return ROAD_PINNED;
    return ROAD_WAIT;
}

static int take(struct capture *c, struct error *e)
{
    struct source_look l;
    int rc = source_look(c->source, &l, e);

    if (rc != 0)
        return rc;
    enum road road = l.wal_mode || l.wal.there ? choose_wal(&l) : choose_rollback(c, &l);
    c->recovered = false;
    c->pinned_ns = 0;
    if (road == ROAD_WAIT) {
        error_set(e, ERR_BUSY, "%s", l.held ? "locked by another process" : "it keeps changing");
        return TRY_AGAIN;
    }
    rc = reset_scratch(c, e);
    if (rc != 0)
        return rc;
    error_set(e, ERR_BUSY, "it keeps changing");
    switch (road) {
    case ROAD_PLAIN:
        return take_plain(c, &l, e);
    case ROAD_RECOVER:
        return take_recovered(c, &l, e);
    default:
        return take_pinned(c, e);
    }
}

static unsigned long long whole_ms(uint64_t ns)
{
    return (ns + 999999) / 1000000;
}

int helper_capture(const char *path, const char *scratch, unsigned deadline_ms,
                   char receipt[RECEIPT_MAX], struct error *e)
{
    struct capture c = {.scratch = scratch, .start_ns = clock_mono_ns()};
    int rc;

    c.end_ns = c.start_ns + deadline_ms * UINT64_C(1000000);
    c.pass_end_ns = c.start_ns + deadline_ms * UINT64_C(500000);
    /* SQLite names side files after the real path; so do we. */
    if (!realpath(path, c.source))
        return error_sys(e, errno, "cannot find it");
    while ((rc = take(&c, e)) == TRY_AGAIN) {
        if (clock_mono_ns() >= c.end_ns)
            return e->code;
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
    }
    if (rc == 0)
        rc = prove_scratch(&c, e);
    if (rc != 0)
        return rc;
    error_clear(e);
    snprintf(receipt, RECEIPT_MAX,
             "{\"mode\":\"%s\",\"pages\":%llu,\"ms\":%llu,\"recovered\":%s,\"pinned_ms\":%llu}",
             c.mode, (unsigned long long)(c.image_len / c.page_size),
             whole_ms(clock_mono_ns() - c.start_ns), c.recovered ? "true" : "false",
             whole_ms(c.pinned_ns));
    return 0;
}
