#include "keep/archive_report.h"
#include "service/archives.h"
#include "service/requests.h"
#include "service/timed.h"
#include "snapshot/report.h"

#include "base/parse.h"
#include "base/text.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { META_MAX = 64, META_LEN_MAX = 4096 };

struct archiving {
    struct job job; /* first */
    struct service *service;
    struct peer *peer;
    const struct config *config; /* of when it was asked */
    struct request_progress telling;
    struct archive_progress progress;
    json_t *request;
    const char *meta[META_MAX + 1]; /* the request's */
    json_t *lines;                  /* "archived" and error lines, in order */
    json_t *written;                /* the former alone */
    int exit;
};

static void archiving_free(void *ctx)
{
    struct archiving *q = ctx;

    json_decref(q->request);
    json_decref(q->lines);
    json_decref(q->written);
    free(q);
}

/* ---- the job ---- */

static uint64_t pulse(struct job *job)
{
    return atomic_load(&((struct archiving *)job)->progress.bytes);
}

static int archive_number(struct archiving *q, struct sqlite_helper *helper, uint64_t number,
                          struct archive_result *result, struct error *e)
{
    struct service *s = q->service;
    struct snapshot_row row = {0};
    struct catalog *c;
    int rc = repo_catalog_open(s->repo, &c, e);

    if (rc != 0)
        return rc;
    rc = catalog_snapshot(c, number, &row, e);
    repo_catalog_close(s->repo, c);
    if (rc == 0) {
        struct archive_order order = {.snapshot = &row,
                                      .name = request_text(q->request, "name"),
                                      .meta = q->meta,
                                      .helper = helper,
                                      .progress = &q->progress,
                                      .cancel = &s->cancel_verify};
        archives_order(q->config, row.watch_name, &order);
        rc = archive_write(s->repo, &order, result, e);
    }
    snapshot_row_release(&row);
    return rc;
}

static void archive_one(struct archiving *q, struct sqlite_helper *helper, uint64_t number)
{
    struct archive_result result = {0};
    struct error e = ERROR_INIT;

    int rc = archive_number(q, helper, number, &result, &e);
    int code = rc != 0 ? error_exit_code(rc) : result.item.complete ? 0 : 3;
    if (result.item.path) {
        json_t *line = archive_report_written(&result, code);
        json_array_append(q->written, line);
        json_array_append_new(q->lines, line);
    }
    if (rc != 0)
        json_array_append_new(q->lines, report_error(&e));
    q->exit = error_worse_exit(q->exit, code);
    archive_result_release(&result);
}

/* A helper of its own: counting the rows of a large database must not hold up a save. */
static void run_archive(struct job *job)
{
    struct archiving *q = (struct archiving *)job;
    struct sqlite_helper *helper = sqlite_helper_new(NULL);
    size_t i;
    json_t *n;

    pthread_rwlock_rdlock(&q->service->store_lock);
    json_array_foreach(json_object_get(q->request, "snapshots"), i, n)
        archive_one(q, helper, (uint64_t)json_integer_value(n));
    pthread_rwlock_unlock(&q->service->store_lock);
    sqlite_helper_free(helper);
}

static void on_archived(struct job *job)
{
    struct archiving *q = (struct archiving *)job;
    struct service *s = q->service;
    size_t i;
    json_t *line;

    json_array_foreach(q->lines, i, line) peer_line(q->peer, json_incref(line));
    json_array_foreach(q->written, i, line)
    {
        if (q->exit == 0)
            timed_settled(s, TIMED_ARCHIVE, json_string_value(json_object_get(line, "watch")));
    }
    peer_line(q->peer, archive_report_summary(q->written, q->exit));
    peer_end(q->peer);
    request_progress_end(&q->telling, archiving_free);
    service_stop_on(s);
    service_rearm(s);
}

/* ---- the request ---- */

static json_t *progress_line(void *ctx)
{
    struct archiving *q = ctx;

    return json_pack("{s:s,s:I,s:I,s:I}", "type", "progress", "files",
                     (json_int_t)atomic_load(&q->progress.files), "bytes",
                     (json_int_t)atomic_load(&q->progress.bytes), "bytes_total",
                     (json_int_t)atomic_load(&q->progress.bytes_total));
}

static int take_meta(struct archiving *q, struct error *e)
{
    size_t i;
    json_t *item;

    json_array_foreach(json_object_get(q->request, "meta"), i, item)
    {
        const char *text = json_string_value(item);
        const char *equals = text ? strchr(text, '=') : NULL;
        if (!equals || equals == text || strlen(text) > META_LEN_MAX || i == META_MAX)
            return error_set(e, ERR_USAGE, "'meta' is not a list of at most %d KEY=VALUE",
                             META_MAX);
        q->meta[i] = text;
    }
    return 0;
}

static int check(struct archiving *q, struct error *e)
{
    const json_t *numbers = json_object_get(q->request, "snapshots");
    const char *name = request_text(q->request, "name");
    char quoted[200];
    size_t i;
    json_t *n;

    if (name && !parse_name_ok(name))
        return error_set(e, ERR_USAGE, "'%s' cannot be the name of an archive",
                         text_escape(name, quoted, sizeof(quoted)));
    if (!json_is_array(numbers))
        return error_set(e, ERR_USAGE, "which snapshots?");
    json_array_foreach(numbers, i, n)
    {
        if (!json_is_integer(n) || json_integer_value(n) <= 0)
            return error_set(e, ERR_USAGE, "a snapshot must be named by its number");
    }
    return take_meta(q, e);
}

void request_archive(struct service *s, struct peer *peer, const json_t *request)
{
    struct error e = ERROR_INIT;
    struct archiving *q = calloc(1, sizeof(*q));

    if (q) {
        q->request = json_deep_copy(request);
        q->lines = json_array();
        q->written = json_array();
    }
    if (!q || !q->request || !q->lines || !q->written) {
        if (q)
            archiving_free(q);
        peer_fail(peer, ERR_FAILED, "out of memory");
        return;
    }
    if (check(q, &e) != 0) {
        request_failed(peer, &e);
        archiving_free(q);
        return;
    }
    q->job =
        (struct job){.rank = JOB_SCAN, .pulse = pulse, .run = run_archive, .done = on_archived};
    q->service = s;
    q->peer = peer;
    q->config = s->config;
    q->telling = (struct request_progress){.peer = peer, .line = progress_line, .ctx = q};
    request_progress_start(s, &q->telling, json_is_true(json_object_get(request, "progress")));
    jobs_push(s->background, &q->job);
}
