#include "base/buffer.h"
#include "base/text.h"
#include "capture/helper_capture.h"

#include <sqlite3.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum { MESSAGE_MAX = 160 };

struct check {
    char message[MESSAGE_MAX]; /* "ok", or the first finding */
    uint64_t tables, rows;
};

static bool has_side(const char *path, const char *suffix)
{
    char *name = text_format("%s%s", path, suffix);
    bool there = !name || access(name, F_OK) == 0;

    free(name);
    return there;
}

/* "file:" and the path with what has a meaning in a URI as %HH. */
static void put_uri(struct buffer *out, const char *path)
{
    buffer_append_str(out, "file:");
    for (; *path; path++) {
        if (strchr("?#%", *path))
            buffer_printf(out, "%%%02X", (unsigned)(uint8_t)*path);
        else
            buffer_append(out, path, 1);
    }
}

static int open_for_check(const char *path, sqlite3 **db)
{
    struct buffer uri = BUFFER_INIT;
    int rc = SQLITE_NOMEM;

    put_uri(&uri, path);
    buffer_append_str(&uri, "?mode=ro");
    if (!has_side(path, "-wal") && !has_side(path, "-journal"))
        buffer_append_str(&uri, "&immutable=1");
    const char *name = buffer_cstr(&uri);
    if (buffer_ok(&uri))
        rc = sqlite3_open_v2(name, db, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL);
    buffer_release(&uri);
    /* The schema may be anybody's: nothing in it may call out. */
    if (rc == SQLITE_OK)
        rc = sqlite3_db_config(*db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, (int *)NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_db_config(*db, SQLITE_DBCONFIG_DEFENSIVE, 1, (int *)NULL);
    if (rc == SQLITE_OK)
        sqlite3_extended_result_codes(*db, 1);
    return rc;
}

static void set_message(struct check *c, const char *before, const char *text)
{
    size_t n = (size_t)snprintf(c->message, sizeof(c->message), "%s", before);

    text_escape(text, c->message + n, sizeof(c->message) - n);
}

/* Collations and functions that its app brings are in the schema: no fault of the database. */
static bool needs_its_app(int rc)
{
    return (rc & 0xff) == SQLITE_ERROR;
}

static int check_integrity(sqlite3 *db, struct check *c)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(db, "PRAGMA integrity_check(1)", -1, &s, NULL);

    if (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(s, 0);
        set_message(c, "", text ? text : "out of memory");
        rc = SQLITE_OK;
    }
    sqlite3_finalize(s);
    return rc == SQLITE_DONE ? SQLITE_INTERNAL : rc;
}

static int count_by(sqlite3 *db, const char *table, const char *how, uint64_t *rows)
{
    sqlite3_stmt *s = NULL;
    char *sql = sqlite3_mprintf("SELECT count(*) FROM main.\"%w\"%s", table, how);
    int rc = sql ? sqlite3_prepare_v2(db, sql, -1, &s, NULL) : SQLITE_NOMEM;

    if (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        *rows += (uint64_t)sqlite3_column_int64(s, 0);
        rc = SQLITE_OK;
    }
    sqlite3_finalize(s);
    sqlite3_free(sql);
    return rc;
}

/* An index, or a table that is one, in an order that only its app knows cannot be walked here. */
static int count_rows(sqlite3 *db, const char *table, uint64_t *rows)
{
    int rc = count_by(db, table, "", rows);

    if (needs_its_app(rc))
        rc = count_by(db, table, " NOT INDEXED", rows);
    return needs_its_app(rc) ? SQLITE_OK : rc;
}

/* Ordinary tables: virtual ones have no root page and may need modules that are not here. */
static int count_tables(sqlite3 *db, struct check *c)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(db,
                                "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND "
                                "rootpage > 0 AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
                                -1, &s, NULL);

    while (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        c->tables++;
        rc = count_rows(db, (const char *)sqlite3_column_text(s, 0), &c->rows);
    }
    sqlite3_finalize(s);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* The message is printable already (text_escape): only two characters mean something in JSON. */
static int put_detail(const struct check *c, char detail[DETAIL_MAX], struct error *e)
{
    struct buffer out = BUFFER_INIT;
    int rc = 0;

    buffer_append_str(&out, "{\"integrity\":\"");
    for (const char *p = c->message; *p; p++) {
        if (*p == '"' || *p == '\\')
            buffer_append_str(&out, "\\");
        buffer_append(&out, p, 1);
    }
    buffer_printf(&out, "\",\"tables\":%llu,\"rows\":%llu}", (unsigned long long)c->tables,
                  (unsigned long long)c->rows);
    if (!buffer_ok(&out) || out.len >= DETAIL_MAX)
        rc = error_set(e, ERR_FAILED, "cannot tell the result of the check");
    else
        memcpy(detail, buffer_cstr(&out), out.len + 1);
    buffer_release(&out);
    return rc;
}

int helper_check(const char *path, bool *ok, char detail[DETAIL_MAX], struct error *e)
{
    struct check c = {.message = ""};
    sqlite3 *db = NULL;

    int rc = open_for_check(path, &db);
    if (rc == SQLITE_OK)
        rc = check_integrity(db, &c);
    *ok = rc == SQLITE_OK && strcmp(c.message, "ok") == 0;
    if (needs_its_app(rc)) {
        set_message(&c, "not checked: ", sqlite3_errmsg(db));
        *ok = true;
    }
    if (*ok)
        rc = count_tables(db, &c);
    if ((rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB) {
        set_message(&c, "", sqlite3_errstr(rc));
        *ok = false;
        rc = SQLITE_OK;
    }
    int result =
        rc == SQLITE_OK ? put_detail(&c, detail, e) : sqlite_failed(db, rc, "cannot check it", e);
    sqlite3_close(db);
    return result;
}
