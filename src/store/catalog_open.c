/* The connection: what is opened how, the schema, prepared statements, the one row of state.
 *
 * The writer's file is in WAL mode with synchronous NORMAL and no automatic checkpoint: a commit is
 * a write without a flush. What a power cut takes from the end of the WAL is caught up from the
 * packs, hence nothing here needs to be durable, only whole. */
#include "store/catalog_private.h"

#include "base/clock.h"
#include "base/random.h"
#include "base/text.h"
#include "io/fileops.h"
#include "io/vfs.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum {
    SCHEMA_VERSION = 7,
    APPLICATION_ID = 0x776b6361, /* "wkca" */
    BUSY_MS = 5000,
};

#define FILE_NAME "catalog.db"
#define TEXT(number) #number
#define TEXT_OF(macro) TEXT(macro)

static const char *const statements[CAT_COUNT] = {
#define X(name, sql) sql,
    CATALOG_STATEMENTS(X)
#undef X
};

/* What holds now and what held once stand apart: names and nodes are the present state of all
 * watches, old_names and old_nodes what [from_, to_) says, both numbers of snapshots of their
 * watch. An id is watch serial and node number in one (cat_node_id); ids grow as nodes are made, so
 * that rows are appended. Old rows are found by the number that closed them (prune). */
static const char schema[] =
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;"
    "CREATE TABLE state(one INTEGER PRIMARY KEY, log_pack INT, log_offset INT, sequence INT,"
    " next_number INT, chain BLOB, commit_pack INT, commit_offset INT, chunk_count INT,"
    " uncounted INT, next_pack INT, folded_pack INT, folded_bytes INT);"
    "INSERT INTO state VALUES(1,0,0,0,1,zeroblob(32),0,0,0,0,1,0,0);"
    "CREATE TABLE watches(serial INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE,"
    " name TEXT NOT NULL UNIQUE, root TEXT, rules TEXT, last INT, next_node INT, files INT,"
    " bytes INT, incomplete INT, sum BLOB, frozen INT);"
    "CREATE TABLE snapshots(number INTEGER PRIMARY KEY, watch INT NOT NULL, body BLOB NOT NULL,"
    " time_s INT, kind INT, flags INT, name TEXT, note TEXT, verified_s INT, verified_ns INT,"
    " damaged INT, pinned INT, whole INT);"
    "CREATE INDEX snapshots_watch ON snapshots(watch,number);"
    "CREATE INDEX snapshots_name ON snapshots(name) WHERE name IS NOT NULL;"
    "CREATE TABLE names(watch INT, parent INT, name BLOB, from_ INT, node INT,"
    " PRIMARY KEY(watch,parent,name)) WITHOUT ROWID;"
    "CREATE INDEX names_node ON names(watch,node);"
    "CREATE TABLE old_names(watch INT, parent INT, to_ INT, name BLOB, from_ INT, node INT,"
    " PRIMARY KEY(watch,parent,to_,name,from_)) WITHOUT ROWID;"
    "CREATE INDEX old_names_node ON old_names(watch,node,to_);"
    "CREATE INDEX old_names_to ON old_names(watch,to_,from_);"
    "CREATE TABLE nodes(id INTEGER PRIMARY KEY, from_ INT, incomplete INT, meta BLOB);"
    "CREATE INDEX nodes_incomplete ON nodes(id) WHERE incomplete;"
    "CREATE TABLE old_nodes(watch INT, node INT, to_ INT, from_ INT, meta BLOB,"
    " PRIMARY KEY(watch,node,to_)) WITHOUT ROWID;"
    "CREATE INDEX old_nodes_to ON old_nodes(watch,to_,from_);"
    "CREATE TABLE cache(id INTEGER PRIMARY KEY, ino INT, pending INT, sig BLOB);"
    "CREATE INDEX cache_ino ON cache(ino);"
    "CREATE INDEX cache_pending ON cache(id) WHERE pending;"
    "CREATE TABLE chunks(id BLOB PRIMARY KEY, pack INT, offset INT, raw_off INT, raw_len INT,"
    " refs INT) WITHOUT ROWID;"
    "CREATE TABLE lists(id BLOB, depth INT, refs INT, counted INT, PRIMARY KEY(id,depth))"
    " WITHOUT ROWID;"
    "CREATE TABLE deltas(pack INT, offset INT, base BLOB, rank INT, depth INT,"
    " PRIMARY KEY(pack,offset)) WITHOUT ROWID;"
    "CREATE TABLE marks(sequence INTEGER PRIMARY KEY, type INT, body BLOB);"
    "CREATE INDEX marks_type ON marks(type,sequence);"
    "CREATE TABLE packs(id INTEGER PRIMARY KEY, kind INT, len INT, fence INT, sealed INT,"
    " sha256 BLOB, gone INT);";

/* ---- errors and statements ---- */

static int error_code_of(int rc)
{
    switch (rc & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_FORMAT:
    case SQLITE_SCHEMA:
    case SQLITE_ERROR: /* a table that is not there */
        return ERR_CATALOG;
    case SQLITE_IOERR:
        if (rc == SQLITE_IOERR_SHMSIZE)
            return ERR_NOSPACE;
        return rc == SQLITE_IOERR_NOMEM ? ERR_FAILED : ERR_CATALOG;
    case SQLITE_FULL:
        return ERR_NOSPACE;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return ERR_BUSY;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_CANTOPEN:
        return ERR_DENIED;
    default:
        return ERR_FAILED;
    }
}

int cat_error(struct catalog *c, int rc, const char *what, struct error *e)
{
    int code = error_code_of(rc);

    c->failed |= code == ERR_CATALOG;
    return error_set(e, code, "catalog: cannot %s: %s", what,
                     c->db ? sqlite3_errmsg(c->db) : sqlite3_errstr(rc));
}

int cat_no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

sqlite3_stmt *cat_prepare(struct catalog *c, const char *sql, struct error *e)
{
    sqlite3_stmt *s = NULL;

    if (!c->db) {
        error_set(e, ERR_CATALOG, "catalog: it could not be opened again");
        return NULL;
    }
    int rc = sqlite3_prepare_v3(c->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &s, NULL);

    if (rc != SQLITE_OK) {
        cat_error(c, rc, "prepare", e);
        return NULL;
    }
    return s;
}

static sqlite3_stmt *bind_list(struct catalog *c, struct error *e, enum catalog_stmt id,
                               const char *fmt, va_list ap)
{
    int rc = SQLITE_OK;

    if (!c->stmts[id] && !(c->stmts[id] = cat_prepare(c, statements[id], e)))
        return NULL;
    sqlite3_stmt *s = c->stmts[id];
    sqlite3_reset(s);
    for (int i = 1; rc == SQLITE_OK && fmt[i - 1]; i++) {
        if (fmt[i - 1] == 'i') {
            rc = sqlite3_bind_int64(s, i, va_arg(ap, int64_t));
        } else if (fmt[i - 1] == 'b') {
            const void *p = va_arg(ap, const void *);
            size_t n = va_arg(ap, size_t);
            rc = sqlite3_bind_blob64(s, i, n ? p : "", n, SQLITE_STATIC);
        } else {
            rc = sqlite3_bind_text(s, i, va_arg(ap, const char *), -1, SQLITE_STATIC);
        }
    }
    if (rc != SQLITE_OK) {
        cat_error(c, rc, "bind", e);
        return NULL;
    }
    return s;
}

sqlite3_stmt *cat_bind(struct catalog *c, struct error *e, enum catalog_stmt id, const char *fmt,
                       ...)
{
    va_list ap;

    va_start(ap, fmt);
    sqlite3_stmt *s = bind_list(c, e, id, fmt, ap);
    va_end(ap);
    return s;
}

int cat_step(struct catalog *c, sqlite3_stmt *s, struct error *e)
{
    int rc = sqlite3_step(s);

    if (rc == SQLITE_ROW)
        return 1;
    if (rc != SQLITE_DONE)
        cat_error(c, rc, "read or write", e);
    sqlite3_reset(s);
    return rc == SQLITE_DONE ? 0 : e->code;
}

int cat_run(struct catalog *c, struct error *e, enum catalog_stmt id, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    sqlite3_stmt *s = bind_list(c, e, id, fmt, ap);
    va_end(ap);
    if (!s)
        return e->code;
    int rc = cat_step(c, s, e);
    if (rc == 1)
        sqlite3_reset(s);
    return rc < 0 ? rc : 0;
}

int cat_number(struct catalog *c, struct error *e, int64_t *v, enum catalog_stmt id,
               const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    sqlite3_stmt *s = bind_list(c, e, id, fmt, ap);
    va_end(ap);
    int rc = s ? cat_step(c, s, e) : e->code;
    if (rc <= 0)
        return rc < 0 ? rc : ERR_NOTFOUND;
    *v = sqlite3_column_int64(s, 0);
    sqlite3_reset(s);
    return 0;
}

int cat_exec(struct catalog *c, const char *sql, struct error *e)
{
    int rc = c->db ? sqlite3_exec(c->db, sql, NULL, NULL, NULL) : SQLITE_CANTOPEN;

    return rc == SQLITE_OK ? 0 : cat_error(c, rc, "execute", e);
}

/* ---- the row of state ---- */

int cat_state_load(struct catalog *c, struct error *e)
{
    sqlite3_stmt *s = cat_bind(c, e, CAT_STATE_GET, "");
    int rc = s ? cat_step(c, s, e) : e->code;

    if (rc < 0)
        return rc;
    if (rc == 0 || sqlite3_column_bytes(s, 4) != HASH_LEN) {
        if (rc == 1)
            sqlite3_reset(s);
        return error_set(e, ERR_CATALOG, "catalog: its state is missing");
    }
    struct catalog_position *p = &c->position;
    p->log_pack = (uint64_t)sqlite3_column_int64(s, 0);
    p->log_offset = (uint64_t)sqlite3_column_int64(s, 1);
    p->sequence = (uint64_t)sqlite3_column_int64(s, 2);
    p->next_number = (uint64_t)sqlite3_column_int64(s, 3);
    memcpy(p->chain.b, sqlite3_column_blob(s, 4), HASH_LEN);
    p->commit_pack = (uint64_t)sqlite3_column_int64(s, 5);
    p->commit_offset = (uint64_t)sqlite3_column_int64(s, 6);
    c->chunk_count = (uint64_t)sqlite3_column_int64(s, 7);
    c->uncounted = (uint64_t)sqlite3_column_int64(s, 8);
    p->next_pack = (uint64_t)sqlite3_column_int64(s, 9);
    p->folded_pack = (uint64_t)sqlite3_column_int64(s, 10);
    p->folded_bytes = (uint64_t)sqlite3_column_int64(s, 11);
    sqlite3_reset(s);
    return 0;
}

static int state_store(struct catalog *c, struct error *e)
{
    const struct catalog_position *p = &c->position;

    return cat_run(c, e, CAT_STATE_PUT, "iiiibiiiiiii", (int64_t)p->log_pack,
                   (int64_t)p->log_offset, (int64_t)p->sequence, (int64_t)p->next_number,
                   p->chain.b, (size_t)HASH_LEN, (int64_t)p->commit_pack, (int64_t)p->commit_offset,
                   (int64_t)c->chunk_count, (int64_t)c->uncounted, (int64_t)p->next_pack,
                   (int64_t)p->folded_pack, (int64_t)p->folded_bytes);
}

int catalog_position(struct catalog *c, struct catalog_position *p, struct error *e)
{
    if (!c->in_write) {
        int rc = cat_state_load(c, e);
        if (rc < 0)
            return rc;
    }
    *p = c->position;
    return 0;
}

int catalog_set_position(struct catalog *c, const struct catalog_position *p, struct error *e)
{
    uint64_t next_pack = c->position.next_pack;

    assert(c->in_write);
    c->position = *p;
    if (c->position.next_pack < next_pack)
        c->position.next_pack = next_pack;
    return 0;
}

/* ---- transactions ---- */

int catalog_begin(struct catalog *c, struct error *e)
{
    int rc = cat_run(c, e, CAT_BEGIN_WRITE, "");
    if (rc < 0)
        return rc;
    rc = cat_state_load(c, e);
    if (rc < 0) {
        sqlite3_exec(c->db, "ROLLBACK", NULL, NULL, NULL);
        return rc;
    }
    c->in_write = true;
    return 0;
}

int catalog_commit(struct catalog *c, struct error *e)
{
    int rc = cat_flush_chunks(c, e);
    if (rc == 0)
        rc = state_store(c, e);
    if (rc == 0)
        rc = cat_run(c, e, CAT_COMMIT, "");
    if (rc < 0) {
        catalog_rollback(c);
        return rc;
    }
    c->in_write = false;
    return 0;
}

void catalog_rollback(struct catalog *c)
{
    struct error ignored = ERROR_INIT;

    watch_row_release(&c->apply.watch);
    memset(&c->apply, 0, sizeof(c->apply));
    id_map_release(&c->pending);
    cat_load_release(c);
    if (c->db && !sqlite3_get_autocommit(c->db))
        cat_run(c, &ignored, CAT_ROLLBACK, "");
    c->in_write = false;
}

/* Whoever writes first after a checkpoint begins the WAL anew and flushes its header: that is not
 * to be a save, which waits for one flush only. */
static int begin_wal(struct catalog *c, struct error *e)
{
    int rc = cat_run(c, e, CAT_STATE_TOUCH, "");

    c->wal_begun = rc == 0;
    c->changes_by_then = sqlite3_total_changes(c->db);
    return rc;
}

int catalog_checkpoint(struct catalog *c, bool goes_on, struct error *e)
{
    int frames = 0, done = 0;

    if (!c->db)
        return error_set(e, ERR_CATALOG, "catalog: it is not open");
    if (goes_on && c->wal_begun && sqlite3_total_changes(c->db) == c->changes_by_then)
        return 0;
    int rc = sqlite3_wal_checkpoint_v2(c->db, NULL, SQLITE_CHECKPOINT_PASSIVE, &frames, &done);
    c->wal_begun = false;
    if (rc == SQLITE_OK && goes_on && frames > 0 && done == frames && !c->in_write) {
        int begun = begin_wal(c, e);
        if (begun < 0)
            return begun;
    }
    sqlite3_db_release_memory(c->db); /* the system's cache has the pages that are needed again */
    return rc == SQLITE_OK || rc == SQLITE_BUSY || rc == SQLITE_LOCKED
               ? 0
               : cat_error(c, rc, "checkpoint", e);
}

int catalog_read_begin(struct catalog *c, struct error *e)
{
    int64_t ignored;
    int rc = cat_run(c, e, CAT_BEGIN_READ, "");

    if (rc < 0)
        return rc;
    c->in_read = true;
    rc = cat_number(c, e, &ignored, CAT_STATE_GET, ""); /* the state is fixed by the first read */
    if (rc < 0)
        catalog_read_end(c);
    return rc == ERR_NOTFOUND ? error_set(e, ERR_CATALOG, "catalog: its state is missing") : rc;
}

void catalog_read_end(struct catalog *c)
{
    struct error ignored = ERROR_INIT;

    if (c->in_read && !sqlite3_get_autocommit(c->db))
        cat_run(c, &ignored, CAT_COMMIT, "");
    c->in_read = false;
}

/* ---- opening ---- */

/* A file of our own mode, before SQLite makes one with its own. */
static int create_file(const char *path, struct error *e)
{
    int fd =
        fileops->openat(AT_FDCWD, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return errno == EEXIST ? 0 : error_sys(e, errno, "cannot create the catalog");
    fileops->close(fd);
    return 0;
}

static char *uri_of_file(const char *path, bool immutable)
{
    static const char plain[] = "/-_.~";
    struct buffer b = BUFFER_INIT;

    buffer_append_str(&b, "file:");
    for (const unsigned char *p = (const unsigned char *)path; *p; p++) {
        if ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
            strchr(plain, *p))
            buffer_append(&b, p, 1);
        else
            buffer_printf(&b, "%%%02x", *p);
    }
    if (immutable)
        buffer_append_str(&b, "?immutable=1");
    buffer_append(&b, "", 1);
    if (!buffer_ok(&b)) {
        buffer_release(&b);
        return NULL;
    }
    return (char *)b.data;
}

static char *uri_of(const struct catalog *c)
{
    static unsigned long count;

    if (c->mode == CATALOG_MEMORY)
        return text_format("file:/watchkeep-%ld-%lu?vfs=memdb", (long)getpid(),
                           __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED));
    char *path = text_format("%s/" FILE_NAME, c->repo_path);
    char *uri = path ? uri_of_file(path, c->mode == CATALOG_READ_STATIC) : NULL;
    free(path);
    return uri;
}

static bool is_gone(const struct catalog *c)
{
    char *path = text_format("%s/" FILE_NAME, c->repo_path);
    bool gone = path && access(path, F_OK) < 0 && errno == ENOENT;

    free(path);
    return gone;
}

/* Its WAL and shared memory are opened by their names with the first read: those of a file that has
 * taken its place are not to be touched with the old one. */
static bool has_moved(struct catalog *c)
{
    int moved = 0;

    return c->mode != CATALOG_MEMORY &&
           sqlite3_file_control(c->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved) == SQLITE_OK &&
           moved;
}

static int connect_to(struct catalog *c, bool writing, struct error *e)
{
    int flags = SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX;

    flags |= writing ? SQLITE_OPEN_READWRITE : SQLITE_OPEN_READONLY;
    if (c->mode == CATALOG_MEMORY)
        flags |= SQLITE_OPEN_CREATE;
    const char *vfs = c->mode == CATALOG_MEMORY ? NULL : VFS_NAME;
    int rc = sqlite3_open_v2(c->uri, &c->db, flags, vfs);
    /* It went aside, or somebody removed it: to be made anew, and no matter of rights. */
    if (rc != SQLITE_OK && c->mode != CATALOG_MEMORY && is_gone(c))
        return error_set(e, ERR_CATALOG, "catalog: it is not there");
    if (rc != SQLITE_OK)
        return cat_error(c, c->db ? sqlite3_extended_errcode(c->db) : rc, "open", e);
    if (has_moved(c))
        return error_set(e, ERR_CATALOG, "catalog: it was made anew meanwhile");
    sqlite3_extended_result_codes(c->db, 1);
    sqlite3_busy_timeout(c->db, BUSY_MS);
    sqlite3_db_config(c->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    sqlite3_db_config(c->db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
    return 0;
}

static int pragma_number(struct catalog *c, const char *sql, int64_t *v, struct error *e)
{
    sqlite3_stmt *s = cat_prepare(c, sql, e);
    int rc = s ? cat_step(c, s, e) : e->code;

    if (rc == 1)
        *v = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return rc < 0 ? rc : 0;
}

static int make_schema(struct catalog *c, const uint8_t repo_id[16], struct error *e)
{
    char sql[100];
    uint8_t secret[FAST_SECRET_LEN];

    random_bytes(secret, sizeof(secret));
    snprintf(sql, sizeof(sql), "PRAGMA application_id=%d;PRAGMA user_version=%d;", APPLICATION_ID,
             SCHEMA_VERSION);
    int rc = cat_exec(c, "BEGIN IMMEDIATE", e);
    if (rc == 0)
        rc = cat_exec(c, schema, e);
    if (rc == 0)
        rc = cat_run(c, e, CAT_META_PUT, "tb", "repository", repo_id, (size_t)16);
    if (rc == 0)
        rc = cat_run(c, e, CAT_META_PUT, "tb", "secret", secret, sizeof(secret));
    if (rc == 0)
        rc = cat_exec(c, sql, e);
    return rc == 0 ? cat_exec(c, "COMMIT", e) : rc;
}

static int meta_exact(struct catalog *c, const char *key, void *p, size_t n, struct error *e)
{
    sqlite3_stmt *s = cat_bind(c, e, CAT_META_GET, "t", key);
    int rc = s ? cat_step(c, s, e) : e->code;

    if (rc < 0)
        return rc;
    bool fits = rc == 1 && (size_t)sqlite3_column_bytes(s, 0) == n;
    if (fits)
        memcpy(p, sqlite3_column_blob(s, 0), n);
    sqlite3_reset(s);
    return fits ? 0 : error_set(e, ERR_CATALOG, "catalog: its %s is missing", key);
}

/* Ours, of this schema and of this repository. */
static int check_identity(struct catalog *c, const uint8_t repo_id[16], struct error *e)
{
    int64_t application = 0, version = 0;
    uint8_t id[16];

    int rc = pragma_number(c, "PRAGMA application_id", &application, e);
    if (rc == 0)
        rc = pragma_number(c, "PRAGMA user_version", &version, e);
    if (rc < 0)
        return rc;
    if (application != APPLICATION_ID || version != SCHEMA_VERSION)
        return error_set(e, ERR_CATALOG, "catalog: not of this program (schema %" PRId64 ")",
                         version);
    rc = meta_exact(c, "repository", id, sizeof(id), e);
    if (rc == 0 && memcmp(id, repo_id, sizeof(id)) != 0)
        rc = error_set(e, ERR_CATALOG, "catalog: of another repository");
    if (rc == 0)
        rc = meta_exact(c, "secret", c->secret, sizeof(c->secret), e);
    return rc == 0 ? cat_state_load(c, e) : rc;
}

/* An empty file gets its schema; synchronous is off for it, a cut leaves an empty one again. */
static int prepare_writer(struct catalog *c, const uint8_t repo_id[16], struct error *e)
{
    int64_t tables = 0, version = 0;

    int reserved = VFS_RESERVED;

    int rc = cat_exec(c, "PRAGMA synchronous=OFF;PRAGMA page_size=" TEXT_OF(VFS_PAGE), e);
    if (rc == 0 && c->mode == CATALOG_WRITE)
        sqlite3_file_control(c->db, "main", SQLITE_FCNTL_RESERVE_BYTES, &reserved);
    if (rc == 0)
        rc = cat_exec(
            c, c->mode == CATALOG_MEMORY ? "PRAGMA journal_mode=OFF" : "PRAGMA journal_mode=WAL",
            e);
    if (rc == 0)
        rc = pragma_number(c, "SELECT count(*) FROM sqlite_schema", &tables, e);
    if (rc == 0)
        rc = pragma_number(c, "PRAGMA user_version", &version, e);
    if (rc == 0 && tables == 0 && version == 0)
        rc = make_schema(c, repo_id, e);
    if (rc < 0)
        return rc;
    return cat_exec(c,
                    "PRAGMA synchronous=NORMAL;PRAGMA wal_autocheckpoint=0;"
                    "PRAGMA foreign_keys=OFF;PRAGMA cache_size=-8192;PRAGMA temp_store=MEMORY",
                    e);
}

static int prepare_reader(struct catalog *c, struct error *e)
{
    return cat_exec(c, "PRAGMA cache_size=-4096;PRAGMA temp_store=MEMORY;PRAGMA query_only=ON", e);
}

static struct catalog *new_handle(const char *repo_path, enum catalog_mode mode)
{
    struct catalog *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->mode = mode;
    c->repo_path = strdup(repo_path);
    c->uri = c->repo_path ? uri_of(c) : NULL;
    id_map_init(&c->pending, sizeof(struct pending_chunk));
    if (!c->uri) {
        catalog_close(c);
        return NULL;
    }
    return c;
}

static int open_file(struct catalog *c, struct error *e)
{
    bool writing = c->mode == CATALOG_WRITE;
    int rc = 0;

    c->failed = c->keep_wal = false;
    if (vfs_register(hash_guard) != 0)
        return error_set(e, ERR_FAILED, "cannot register the file system of the catalog");
    if (writing) {
        char *path = text_format("%s/" FILE_NAME, c->repo_path);
        rc = path ? create_file(path, e) : cat_no_memory(e);
        free(path);
    }
    if (rc == 0)
        rc = connect_to(c, writing, e);
    if (rc == 0)
        rc = writing ? prepare_writer(c, c->repo_id, e) : prepare_reader(c, e);
    return rc == 0 ? check_identity(c, c->repo_id, e) : rc;
}

/* VACUUM INTO gives the copy without the WAL flag of the file, which a memory one cannot have. */
static int copy_into(struct catalog *from, struct catalog *memory, struct error *e)
{
    sqlite3_stmt *s = NULL;

    int rc = cat_exec(from, "PRAGMA query_only=OFF", e);
    if (rc == 0 && !(s = cat_prepare(from, "VACUUM INTO ?1", e)))
        rc = e->code;
    if (rc == 0) {
        sqlite3_bind_text(s, 1, memory->uri, -1, SQLITE_STATIC);
        rc = cat_step(from, s, e);
    }
    sqlite3_finalize(s);
    return rc;
}

static int open_memory(struct catalog *c, struct catalog *from, struct error *e)
{
    int rc = connect_to(c, true, e);

    if (rc == 0 && from)
        rc = copy_into(from, c, e);
    if (rc == 0)
        rc = prepare_writer(c, c->repo_id, e);
    return rc == 0 ? check_identity(c, c->repo_id, e) : rc;
}

static int new_memory(const char *repo_path, struct catalog *from, const uint8_t repo_id[16],
                      struct catalog **out, struct error *e)
{
    struct catalog *c = new_handle(repo_path, CATALOG_MEMORY);

    *out = NULL;
    if (!c)
        return cat_no_memory(e);
    memcpy(c->repo_id, repo_id, sizeof(c->repo_id));
    int rc = open_memory(c, from, e);
    if (rc < 0) {
        catalog_close(c);
        return rc;
    }
    *out = c;
    return 0;
}

int catalog_copy(struct catalog *c, struct catalog **out, struct error *e)
{
    return new_memory(c->repo_path, c, c->repo_id, out, e);
}

static int open_memory_copy(const char *repo_path, const uint8_t repo_id[16], struct catalog **out,
                            struct error *e)
{
    struct catalog *file = NULL;

    int rc = catalog_open(repo_path, CATALOG_READ, false, repo_id, &file, e);
    if (rc == 0)
        rc = catalog_copy(file, out, e);
    catalog_close(file);
    return rc;
}

int catalog_open(const char *repo_path, enum catalog_mode mode, bool copy_from_file,
                 const uint8_t repo_id[16], struct catalog **out, struct error *e)
{
    *out = NULL;
    if (mode == CATALOG_MEMORY)
        return copy_from_file ? open_memory_copy(repo_path, repo_id, out, e)
                              : new_memory(repo_path, NULL, repo_id, out, e);
    struct catalog *c = new_handle(repo_path, mode);
    if (!c)
        return cat_no_memory(e);
    memcpy(c->repo_id, repo_id, sizeof(c->repo_id));
    int rc = open_file(c, e);
    if (rc < 0) {
        catalog_close(c);
        return rc;
    }
    *out = c;
    return 0;
}

int catalog_clone(const struct catalog *from, struct catalog **out, struct error *e)
{
    enum catalog_mode mode = from->mode == CATALOG_WRITE ? CATALOG_READ : from->mode;

    *out = NULL;
    struct catalog *c = new_handle(from->repo_path, mode);
    char *uri = mode == CATALOG_MEMORY ? strdup(from->uri) : NULL;
    if (!c || (mode == CATALOG_MEMORY && !uri)) {
        free(uri);
        catalog_close(c);
        return cat_no_memory(e);
    }
    if (uri) {
        free(c->uri);
        c->uri = uri;
    }
    memcpy(c->repo_id, from->repo_id, sizeof(c->repo_id));
    int rc = connect_to(c, mode == CATALOG_MEMORY, e);
    if (rc == 0)
        rc = prepare_reader(c, e);
    if (rc == 0)
        rc = check_identity(c, c->repo_id, e);
    if (rc < 0) {
        catalog_close(c);
        return rc;
    }
    c->read_list = from->read_list;
    c->read_list_ctx = from->read_list_ctx;
    *out = c;
    return 0;
}

static void disconnect(struct catalog *c)
{
    if (!c->db)
        return;
    if (c->in_write)
        catalog_rollback(c);
    catalog_read_end(c);
    cat_iters_free(c);
    for (int i = 0; i < CAT_COUNT; i++) {
        sqlite3_finalize(c->stmts[i]);
        c->stmts[i] = NULL;
    }
    cat_bulk_free(c);
    if (c->keep_wal || c->mode != CATALOG_WRITE)
        sqlite3_db_config(c->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_close_v2(c->db);
    c->db = NULL;
}

int catalog_reopen(struct catalog *c, struct error *e)
{
    assert(c->mode != CATALOG_MEMORY);
    disconnect(c);
    int rc = open_file(c, e);
    if (rc < 0)
        disconnect(c);
    return rc;
}

bool catalog_failed(const struct catalog *c)
{
    return c->failed;
}

void catalog_keep_wal(struct catalog *c)
{
    c->keep_wal = true;
}

void catalog_close(struct catalog *c)
{
    if (!c)
        return;
    disconnect(c);
    cat_load_release(c);
    id_map_release(&c->pending);
    free(c->repo_path);
    free(c->uri);
    free(c);
}

const uint8_t *catalog_fast_secret(struct catalog *c)
{
    return c->secret;
}

void catalog_set_list_reader(struct catalog *c, catalog_list_reader read, void *ctx)
{
    c->read_list = read;
    c->read_list_ctx = ctx;
}
