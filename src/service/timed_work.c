/* The timed jobs' work. Each reads with a handle of its own, beside the saves; what it has to say
 * goes into the packs through the writer's. */
#include "base/log.h"
#include "base/text.h"
#include "service/archives.h"
#include "service/proof.h"
#include "service/prune_work.h"
#include "service/timed.h"
#include "snapshot/selector.h"
#include "snapshot/verify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* ---- what is kept ---- */

/* The reference is taken. */
static void keep_event(struct service *s, const char *watch, json_t *event)
{
    struct error e = ERROR_INIT;
    char *text = event ? json_dumps(event, JSON_COMPACT) : NULL;

    if (!text)
        error_set(&e, ERR_FAILED, "out of memory");
    else
        proof_keep_mark(s->repo, MARK_EVENT, watch, text, &e);
    if (e.code)
        log_warn("an event cannot be kept: %s", e.message);
    free(text);
    json_decref(event);
}

static void keep_failure(const struct timed_run *run)
{
    keep_event(run->service, run->watch,
               json_pack("{s:s,s:s,s:s,s:i,s:b}", "event", "job-failed", "job",
                         timed_word(run->kind), "message", run->error.message, "attempt",
                         (int)run->attempt, "last", run->last));
}

static void keep_done(const struct timed_run *run)
{
    struct error e = ERROR_INIT;

    if (proof_keep_state(run->service->repo, run->watch, timed_word(run->kind), run->state, &e) !=
        0)
        log_warn("that '%s' is done cannot be kept: %s", timed_word(run->kind), e.message);
}

/* ---- verify ---- */

static int open_to_read(struct service *s, struct repo **r, struct error *e)
{
    struct repo_options opt = {0};

    return repo_open(repo_path(s->repo), REPO_READ, &opt, r, e);
}

static int read_sample(struct timed_run *run, struct repo *r, struct error *e)
{
    struct service *s = run->service;
    struct verify_progress progress = {0};
    struct verify_result result = {0};
    const struct verify_part part = {
        .repo = r, .record_in = s->repo, .progress = &progress, .cancel = &s->cancel_verify};
    bool round = false;

    int rc = verify_sample(&part, (unsigned)config_number(run->config, "verify", NULL, "sample"),
                           &result, &round, e);
    if (rc == 0 && result.errors > 0)
        rc = error_set(e, ERR_DAMAGED, "verification found damage (%llu errors)",
                       (unsigned long long)result.errors);
    if (rc == 0)
        log_info("verify: %llu bytes read back in %.1f s, no damage%s",
                 (unsigned long long)result.bytes, result.seconds,
                 round ? "; with these every stored byte of this round" : "");
    verify_result_release(&result);
    return rc;
}

static int test_latest(struct timed_run *run, struct repo *r, const char *watch, struct error *e)
{
    struct snapshot_row row = {0};
    struct restore_test test = {0};

    int rc = selector_resolve(r, "latest", watch, &row, NULL, e);
    if (rc == ERR_NOTFOUND) { /* nothing to restore yet */
        error_clear(e);
        return 0;
    }
    if (rc == 0)
        rc = proof_restore(r, run->service->repo, &row, &run->service->cancel_verify, &test, e);
    if (rc == 0)
        log_info("verify: snapshot %llu of %s came back in %.1f s as it was saved",
                 (unsigned long long)row.commit.number, watch, test.seconds);
    restore_test_release(&test);
    snapshot_row_release(&row);
    return rc;
}

struct archive_test {
    char *path; /* of the newest, or NULL */
    struct repo *writer;
    const atomic_bool *cancel;
};

static int newest(void *ctx, const struct archive_item *item, struct error *e)
{
    char **path = ctx;

    free(*path);
    *path = strdup(item->path);
    return *path ? 0 : error_set(e, ERR_FAILED, "out of memory");
}

static int test_newest(void *ctx, const struct archive_item *item, struct error *e)
{
    const struct archive_test *t = ctx;
    struct restore_test test;

    if (strcmp(item->path, t->path) != 0)
        return 0;
    int rc = proof_archive(item, t->writer, t->cancel, &test, e);
    if (rc == 0)
        log_info("verify: the archive '%s' came back in %.1f s as it was written", item->path,
                 test.seconds);
    restore_test_release(&test);
    return rc;
}

static int test_archive(struct timed_run *run, const char *watch, struct error *e)
{
    const char *folder = config_text(run->config, "archive", watch, "path");
    struct archive_test t = {.writer = run->service->repo, .cancel = &run->service->cancel_verify};

    int rc = archive_list(folder, watch, newest, &t.path, e);
    if (rc == 0 && t.path)
        rc = archive_list(folder, watch, test_newest, &t, e);
    free(t.path);
    return rc;
}

/* Of every watch, also after one has failed, which is what is told. */
static int test_restores(struct timed_run *run, struct repo *r, struct error *e)
{
    const struct config *c = run->config;
    const char *what = config_text(c, "verify", NULL, "restore_test");
    int rc = 0;

    for (size_t i = 0; rc != ERR_CANCELLED && i < c->watch_count; i++) {
        struct error own = ERROR_INIT;
        int one = 0;
        if (strcmp(what, "latest") == 0)
            one = test_latest(run, r, c->watches[i].name, &own);
        else if (strcmp(what, "archive") == 0)
            one = test_archive(run, c->watches[i].name, &own);
        if (one == 0)
            continue;
        if (rc != 0)
            log_error("verify: %s", own.message);
        if (rc == 0 || one == ERR_CANCELLED) {
            rc = one;
            *e = own;
        }
    }
    return rc;
}

static int run_verify(struct timed_run *run, struct error *e)
{
    struct repo *r;

    int rc = open_to_read(run->service, &r, e);
    if (rc != 0)
        return rc;
    rc = read_sample(run, r, e);
    if (rc == 0)
        rc = test_restores(run, r, e);
    repo_close(r);
    return rc;
}

/* ---- archive ---- */

/* A helper of its own: counting the rows of a large database must not hold up a save. */
static int archive_row(struct timed_run *run, struct repo *r, const struct snapshot_row *row,
                       struct archive_result *result, struct error *e)
{
    struct sqlite_helper *helper = sqlite_helper_new(NULL);
    struct archive_progress progress = {0};
    struct archive_order order = {.snapshot = row,
                                  .helper = helper,
                                  .progress = &progress,
                                  .cancel = &run->service->cancel_verify};

    archives_order(run->config, row->watch_name, &order);
    int rc = archive_write(r, &order, result, e);
    sqlite_helper_free(helper);
    return rc;
}

/* *written: there is one more archive, whatever came of reading it back. */
static int archive_latest(struct timed_run *run, struct repo *r, bool *written, struct error *e)
{
    struct archive_result result = {0};
    struct snapshot_row row = {0};
    char size[16];

    int rc = selector_resolve(r, "latest", run->watch, &row, NULL, e);
    if (rc != 0)
        return rc;
    rc = archive_row(run, r, &row, &result, e);
    text_size(result.item.stored_bytes, size, sizeof(size));
    if (rc == 0)
        log_info("%s: snapshot %llu archived: '%s', %s, %.1f s", run->watch,
                 (unsigned long long)row.commit.number, result.item.path, size,
                 result.item.seconds);
    *written = result.item.path != NULL;
    archive_result_release(&result);
    snapshot_row_release(&row);
    return rc;
}

/* What an earlier try for the same slot has written: the newest that was not read back. */
struct unread {
    struct timed_run *run;
    char repository[ARCHIVE_REPOSITORY_MAX];
    char *path; /* or NULL */
    bool damaged;
    int (*use)(struct unread *u, const struct archive_item *item, struct error *e);
};

static int take_unread(void *ctx, const struct archive_item *item, struct error *e)
{
    struct unread *u = ctx;

    if (item->manual || !item->told || item->verified.s != 0 || item->time.s < u->run->slot ||
        strcmp(item->repository, u->repository) != 0)
        return 0;
    u->damaged = item->damaged;
    return newest(&u->path, item, e);
}

static int use_unread(void *ctx, const struct archive_item *item, struct error *e)
{
    struct unread *u = ctx;

    return strcmp(item->path, u->path) == 0 ? u->use(u, item, e) : 0;
}

static int each_archive(struct unread *u, archive_visit visit, struct error *e)
{
    const struct timed_run *run = u->run;

    return archive_list(config_text(run->config, "archive", run->watch, "path"), run->watch, visit,
                        u, e);
}

/* A disk that does not give it back damages it as well. */
static int read_again(struct unread *u, const struct archive_item *item, struct error *e)
{
    struct sqlite_helper *helper = sqlite_helper_new(NULL);
    struct archive_check check;

    int rc = archive_verify(item, true, helper, &u->run->service->cancel_verify, &check, e);
    u->damaged = (rc == 0 && check.errors > 0) || (rc != 0 && e->sys == EIO);
    if (u->damaged) {
        log_error("%s: archive '%s' does not read back as it was written: %s", u->run->watch,
                  item->name, rc == 0 && check.first ? check.first : e->message);
        error_clear(e);
        rc = 0;
    } else if (rc == 0) {
        log_info("%s: archive '%s' was read back", u->run->watch, item->path);
    }
    archive_check_release(&check);
    sqlite_helper_free(helper);
    return rc;
}

static int remove_unread(struct unread *u, const struct archive_item *item, struct error *e)
{
    log_info("%s: archive '%s', which does not read back, gives way to another one", u->run->watch,
             item->path);
    return archive_remove(item, e);
}

/* Tries do not pile up archives: one that was written is read back, and if it is damaged it goes
 * as soon as the next one stands in its place. */
static int archive_once(struct unread *u, struct repo *r, struct error *e)
{
    struct error ignored = ERROR_INIT;
    bool written = false;
    int rc = 0;

    (void)each_archive(u, take_unread, &ignored); /* a folder that is amiss the writing tells */
    u->use = read_again;
    if (u->path && !u->damaged)
        rc = each_archive(u, use_unread, e);
    if (rc != 0 || (u->path && !u->damaged))
        return rc;
    rc = archive_latest(u->run, r, &written, e);
    u->use = remove_unread;
    if (written && u->path && each_archive(u, use_unread, &ignored) != 0)
        log_warn("%s: %s", u->run->watch, ignored.message);
    return rc;
}

static int run_archive(struct timed_run *run, struct error *e)
{
    struct unread u = {.run = run};
    struct repo *r;
    int rc = open_to_read(run->service, &r, e);

    if (rc != 0)
        return rc;
    text_hex(repo_id(r), 16, u.repository);
    rc = archive_once(&u, r, e);
    free(u.path);
    repo_close(r);
    return rc;
}

/* ---- prune ---- */

static void tell_prune(const struct timed_run *run, const json_t *lines)
{
    const json_t *summary = json_array_get(lines, json_array_size(lines) - 1);

    log_info("%s: %lld snapshots kept, %lld dropped; %lld archives dropped", run->watch,
             (long long)json_integer_value(json_object_get(summary, "kept")),
             (long long)json_integer_value(json_object_get(summary, "dropped")),
             (long long)json_integer_value(json_object_get(summary, "archives_dropped")));
}

static int run_prune(struct timed_run *run, struct error *e)
{
    struct repo *reader;
    json_t *lines = NULL;
    int rc = open_to_read(run->service, &reader, e);

    if (rc != 0)
        return rc;
    const struct prune_order order = {.config = run->config,
                                      .repo = run->service->repo,
                                      .reader = reader,
                                      .watch = run->watch,
                                      .cancel = &run->service->cancel_verify};
    rc = prune_work(&order, &lines, e);
    repo_close(reader);
    if (rc == ERR_REFUSED) { /* status says that it is frozen, and why; the next run looks again */
        log_warn("%s", e->message);
        error_clear(e);
        rc = 0;
    } else if (rc == 0) {
        tell_prune(run, lines);
    }
    json_decref(lines);
    return rc;
}

/* ---- all ---- */

static int run_kind(struct timed_run *run, struct error *e)
{
    switch (run->kind) {
    case TIMED_ARCHIVE:
        return run_archive(run, e);
    case TIMED_VERIFY:
        return run_verify(run, e);
    case TIMED_PRUNE:
        return run_prune(run, e);
    default:
        return 0;
    }
}

void timed_work(struct job *job)
{
    struct timed_run *run = (struct timed_run *)job;
    struct service *s = run->service;

    pthread_rwlock_rdlock(&s->store_lock);
    if (atomic_load(&s->cancel_verify))
        run->rc = error_set(&run->error, ERR_CANCELLED, "the service is stopping");
    else if (!run->only_state)
        run->rc = run_kind(run, &run->error);
    if (run->rc == 0)
        keep_done(run);
    else if (run->rc != ERR_CANCELLED)
        keep_failure(run);
    pthread_rwlock_unlock(&s->store_lock);
}
