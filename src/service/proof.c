#include "service/proof.h"

#include "base/buffer.h"
#include "keep/archive_use.h"
#include "service/remember.h"
#include "snapshot/selector.h"
#include "snapshot/test_folder.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

/* ---- marks ---- */

static int watch_id(struct repo *r, const char *watch, uint8_t id[WATCH_ID_LEN], struct error *e)
{
    struct watch_row row = {0};
    struct catalog *c;

    memset(id, 0, WATCH_ID_LEN);
    if (!watch)
        return 0;
    int rc = repo_catalog_open(r, &c, e);
    if (rc != 0)
        return rc;
    rc = catalog_watch_by_name(c, watch, &row, e);
    if (rc == 0)
        memcpy(id, row.id, WATCH_ID_LEN);
    watch_row_release(&row);
    repo_catalog_close(r, c);
    return rc;
}

int proof_keep_mark(struct repo *writer, uint8_t type, const char *watch, const char *text,
                    struct error *e)
{
    struct mark m = {.type = type, .time = clock_wall(), .text = text};
    int rc = watch_id(writer, watch, m.watch_id, e);

    return rc == 0 ? repo_mark(writer, &m, e) : rc;
}

int proof_keep_state(struct repo *writer, const char *watch, const char *key, const char *value,
                     struct error *e)
{
    struct buffer text = BUFFER_INIT;

    buffer_printf(&text, "%s %s", key, value);
    int rc = buffer_ok(&text) ? proof_keep_mark(writer, MARK_STATE, watch, buffer_cstr(&text), e)
                              : no_memory(e);
    buffer_release(&text);
    return rc;
}

/* ---- one snapshot ---- */

/* what: the snapshot or the archive; the reference is taken. */
static int keep_test(struct repo *writer, const char *watch, const char *key, json_t *what,
                     const struct restore_test *test, struct error *e)
{
    json_t *o = json_pack("{s:o,s:I,s:I,s:f}", key, what, "files", (json_int_t)test->files, "bytes",
                          (json_int_t)test->bytes, "seconds", test->seconds);
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    int rc = text ? proof_keep_state(writer, watch, "restore-test", text, e) : no_memory(e);

    free(text);
    json_decref(o);
    return rc;
}

int proof_restore(struct repo *reader, struct repo *writer, const struct snapshot_row *row,
                  const atomic_bool *cancel, struct restore_test *test, struct error *e)
{
    char *folder = remember_folder();

    *test = (struct restore_test){0};
    if (!folder)
        return error_set(e, ERR_FAILED, "there is no folder to test a restore in");
    int rc = repo_lease(reader, row->commit.number, e);
    if (rc == 0) {
        rc = restore_test_run(reader, row, folder, NULL, cancel, test, e);
        repo_lease_end(reader, row->commit.number);
    }
    if (rc == 0 && test->errors > 0)
        rc = error_set(e, ERR_DAMAGED,
                       "snapshot %llu of '%s' does not come back as it was saved: '%s': %s",
                       (unsigned long long)row->commit.number, row->watch_name,
                       test->path ? test->path : "?", test->reason ? test->reason : "?");
    else if (rc == 0 && writer)
        rc = keep_test(writer, row->watch_name, "snapshot",
                       json_integer((json_int_t)row->commit.number), test, e);
    free(folder);
    return rc;
}

/* ---- one archive ---- */

static int check_archive(const struct archive_item *item, struct sqlite_helper *helper,
                         const atomic_bool *cancel, bool *databases, struct error *e)
{
    struct archive_check check = {0};
    int rc = archive_verify(item, true, helper, cancel, &check, e);

    *databases = check.databases > 0;
    if (rc == 0 && check.errors > 0)
        rc = error_set(e, ERR_DAMAGED, "the archive '%s' is damaged: %s", item->path,
                       check.first ? check.first : "?");
    archive_check_release(&check);
    return rc;
}

static int unpack(const struct archive_item *item, const char *target, const atomic_bool *cancel,
                  struct restore_test *test, struct error *e)
{
    const struct restore_request request = {.target = target, .cancel = cancel};
    struct restore_result result = {0};
    int rc = archive_restore(item, &request, &result, e);

    test->seconds = result.seconds;
    restore_result_release(&result);
    return rc;
}

static int compare_unpacked(const struct archive_item *item, const char *tree,
                            struct sqlite_helper *helper, const atomic_bool *cancel,
                            struct restore_test *test, struct error *e)
{
    struct archive_check check = {0};
    int rc = archive_verify_tree(item, tree, helper, cancel, &check, e);

    test->files = check.files;
    test->bytes = check.bytes;
    test->errors = check.errors;
    if (rc == 0 && check.errors > 0)
        rc = error_set(e, ERR_DAMAGED, "the archive '%s' does not come back as it was written: %s",
                       item->path, check.first ? check.first : "?");
    archive_check_release(&check);
    return rc;
}

/* A database is opened as a copy of what was unpacked: that takes room too. */
static int bring_back(const struct archive_item *item, bool databases, struct sqlite_helper *helper,
                      const atomic_bool *cancel, struct restore_test *test, struct error *e)
{
    char *folder = remember_folder();
    struct test_folder t;

    if (!folder)
        return error_set(e, ERR_FAILED, "there is no folder to test a restore in");
    int rc = test_folder_open(&t, folder, databases ? 2 * item->bytes : item->bytes, e);
    if (rc == 0)
        rc = unpack(item, t.target, cancel, test, e);
    if (rc == 0)
        rc = compare_unpacked(item, t.target, helper, cancel, test, e);
    test_folder_close(&t);
    free(folder);
    return rc;
}

/* A helper of its own: counting the rows of a large database must not hold up a save. */
int proof_archive(const struct archive_item *item, struct repo *writer, const atomic_bool *cancel,
                  struct restore_test *test, struct error *e)
{
    struct sqlite_helper *helper = sqlite_helper_new(NULL);
    bool databases = false;

    *test = (struct restore_test){0};
    int rc = helper ? check_archive(item, helper, cancel, &databases, e) : no_memory(e);
    if (rc == 0)
        rc = bring_back(item, databases, helper, cancel, test, e);
    if (rc == 0 && writer)
        rc = keep_test(writer, item->watch, "archive", json_string(item->name), test, e);
    sqlite_helper_free(helper);
    return rc;
}

/* ---- several ---- */

static int add_damage(struct verify_result *r, const struct snapshot_row *row,
                      const struct restore_test *t, struct error *e)
{
    struct verify_damage *list = reallocarray(r->damaged, r->damaged_count + 1, sizeof(*list));

    if (!list)
        return no_memory(e);
    r->damaged = list;
    struct verify_damage *d = &list[r->damaged_count++];
    *d = (struct verify_damage){.snapshot = row->commit.number,
                                .path = t->path ? strdup(t->path) : NULL,
                                .reason = strdup(t->reason ? t->reason : "?"),
                                .snapshots = malloc(sizeof(*d->snapshots)),
                                .snapshot_count = 1};
    if (!d->reason || !d->snapshots)
        return no_memory(e);
    d->snapshots[0] = row->commit.number;
    return 0;
}

static int test_row(const struct proof_request *q, const struct snapshot_row *row,
                    struct verify_result *r, struct error *e)
{
    struct restore_test test;
    struct error own = ERROR_INIT;
    int rc = proof_restore(q->reader, q->writer, row, q->cancel, &test, &own);

    r->snapshots++;
    r->bytes += test.bytes;
    r->seconds += test.seconds;
    r->errors += test.errors;
    if (rc == ERR_DAMAGED && test.errors > 0)
        rc = add_damage(r, row, &test, e);
    else if (rc != 0)
        *e = own;
    restore_test_release(&test);
    return rc;
}

static int test_number(const struct proof_request *q, uint64_t number, struct verify_result *r,
                       struct error *e)
{
    struct snapshot_row row = {0};
    int rc = catalog_snapshot(repo_catalog(q->reader), number, &row, e);

    if (rc == 0)
        rc = test_row(q, &row, r, e);
    snapshot_row_release(&row);
    return rc;
}

static int test_latest(const struct proof_request *q, const char *watch, struct verify_result *r,
                       struct error *e)
{
    struct snapshot_row row = {0};
    int rc = selector_resolve(q->reader, "latest", watch, &row, NULL, e);

    if (rc == ERR_NOTFOUND && !q->watch) { /* nothing that could be restored yet */
        error_clear(e);
        return 0;
    }
    if (rc == 0)
        rc = test_row(q, &row, r, e);
    snapshot_row_release(&row);
    return rc;
}

static int test_every_watch(const struct proof_request *q, struct verify_result *r, struct error *e)
{
    struct watch_row *rows = NULL;
    size_t count = 0;
    int rc = catalog_watches(repo_catalog(q->reader), &rows, &count, e);

    for (size_t i = 0; i < count; i++) {
        if (rc == 0)
            rc = test_latest(q, rows[i].name, r, e);
        watch_row_release(&rows[i]);
    }
    free(rows);
    return rc;
}

int proof_restore_all(const struct proof_request *q, struct verify_result *result, struct error *e)
{
    int rc = 0;

    *result = (struct verify_result){.recorded = q->writer != NULL};
    for (size_t i = 0; rc == 0 && i < q->count; i++)
        rc = test_number(q, q->snapshots[i], result, e);
    if (q->count == 0)
        rc = q->watch ? test_latest(q, q->watch, result, e) : test_every_watch(q, result, e);
    return rc;
}
