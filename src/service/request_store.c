#include "service/proof.h"
#include "service/requests.h"
#include "service/timed.h"

#include "keep/pin.h"
#include "snapshot/report.h"
#include "snapshot/selector.h"
#include "snapshot/verify.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

struct store_request {
    struct job job;
    struct service *service;
    struct peer *peer;
    struct request_progress telling;
    json_t *request;
    char *repo_path;
    struct verify_progress progress;
    struct verify_result result;
    bool has_result;
    json_t *doc; /* the answer of what is no verification */
    struct error error;
    int rc;
};

static void store_request_free(void *ctx)
{
    struct store_request *q = ctx;

    json_decref(q->request);
    json_decref(q->doc);
    free(q->repo_path);
    verify_result_release(&q->result);
    free(q);
}

static void finish(struct store_request *q)
{
    struct service *s = q->service;

    peer_end(q->peer);
    request_progress_end(&q->telling, store_request_free);
    service_store_used(s);
    service_problems_changed(s);
    service_stop_on(s);
    service_rearm(s);
}

static json_t *progress_line(void *ctx)
{
    struct store_request *q = ctx;

    return json_pack("{s:s,s:I,s:I}", "type", "progress", "bytes",
                     (json_int_t)atomic_load(&q->progress.bytes_done), "bytes_total",
                     (json_int_t)atomic_load(&q->progress.bytes_total));
}

static uint64_t pulse(struct job *job)
{
    return atomic_load(&((struct store_request *)job)->progress.bytes_done);
}

static void start(struct service *s, struct jobs *jobs, struct peer *peer, const json_t *request,
                  enum job_rank rank, void (*run)(struct job *), void (*done)(struct job *))
{
    struct store_request *q = calloc(1, sizeof(*q));
    char *path = strdup(s->config->repository);

    if (!q || !path) {
        free(q);
        free(path);
        peer_fail(peer, ERR_FAILED, "out of memory");
        return;
    }
    q->job = (struct job){.rank = rank, .pulse = pulse, .run = run, .done = done};
    q->service = s;
    q->peer = peer;
    q->repo_path = path;
    q->request = request ? json_deep_copy(request) : NULL;
    q->telling = (struct request_progress){.peer = peer, .line = progress_line, .ctx = q};
    request_progress_start(s, &q->telling, json_is_true(json_object_get(request, "progress")));
    jobs_push(jobs, &q->job);
}

/* ---- verify ---- */

/* The snapshots that were named, as numbers. */
static int resolve(struct store_request *q, struct repo *r, uint64_t **numbers, size_t *count,
                   struct error *e)
{
    const json_t *texts = json_object_get(q->request, "snapshots");
    struct snapshot_row row;
    size_t i;
    json_t *text;

    *count = 0;
    *numbers = calloc(json_array_size(texts) + 1, sizeof(**numbers));
    if (!*numbers)
        return error_set(e, ERR_FAILED, "out of memory");
    json_array_foreach(texts, i, text)
    {
        const char *name = json_string_value(text);
        char *path = NULL;
        if (!name)
            return error_set(e, ERR_USAGE, "a snapshot must be named by a text");
        int rc = selector_resolve(r, name, request_text(q->request, "watch"), &row, &path, e);
        if (rc != 0)
            return rc;
        (*numbers)[(*count)++] = row.commit.number;
        snapshot_row_release(&row);
        free(path);
    }
    return 0;
}

/* It reads with a handle of its own, beside the saves; only the marks go through the writer's. */
static int verify(struct store_request *q, struct repo *r, struct error *e)
{
    const char *level = request_text(q->request, "level");
    uint64_t *numbers = NULL;
    size_t count = 0;

    int rc = resolve(q, r, &numbers, &count, e);
    if (rc == 0 && level && strcmp(level, "restore-test") == 0) {
        const struct proof_request proof = {.reader = r,
                                            .writer = q->service->repo,
                                            .watch = request_text(q->request, "watch"),
                                            .snapshots = numbers,
                                            .count = count,
                                            .cancel = &q->service->cancel_verify};
        rc = proof_restore_all(&proof, &q->result, e);
        q->has_result = rc == 0;
        free(numbers);
        return rc;
    }
    struct verify_request request = {
        .repo = r,
        .level = level && strcmp(level, "quick") == 0 ? VERIFY_QUICK : VERIFY_FULL,
        .snapshots = count > 0 ? numbers : NULL,
        .count = count,
        .again = level && strcmp(level, "full") == 0,
        .record = true,
        .record_in = q->service->repo,
        .progress = &q->progress,
        .cancel = &q->service->cancel_verify,
    };
    if (rc == 0) {
        rc = verify_run(&request, &q->result, e);
        q->has_result = rc == 0;
    }
    free(numbers);
    return rc;
}

static void run_verify(struct job *job)
{
    struct store_request *q = (struct store_request *)job;
    struct repo_options opt = {0};
    struct repo *r;

    pthread_rwlock_rdlock(&q->service->store_lock);
    q->rc = repo_open(q->repo_path, REPO_READ, &opt, &r, &q->error);
    if (q->rc == 0) {
        q->rc = verify(q, r, &q->error);
        repo_close(r);
    }
    pthread_rwlock_unlock(&q->service->store_lock);
}

static void on_verified(struct job *job)
{
    struct store_request *q = (struct store_request *)job;
    int code = q->rc != 0 ? q->rc : q->result.errors > 0 ? ERR_DAMAGED : 0;

    if (q->rc != 0)
        peer_line(q->peer, report_error(&q->error));
    peer_line(q->peer, q->has_result ? report_verify_summary(&q->result, error_exit_code(code))
                                     : json_pack("{s:s,s:i}", "type", "summary", "exit",
                                                 error_exit_code(code)));
    if (code == 0)
        timed_settled(q->service, TIMED_VERIFY, NULL);
    finish(q);
}

void request_verify(struct service *s, struct peer *peer, const json_t *request)
{
    start(s, s->background, peer, request, JOB_VERIFY, run_verify, on_verified);
}

/* ---- rebuild ---- */

static void run_rebuild(struct job *job)
{
    struct store_request *q = (struct store_request *)job;

    pthread_rwlock_wrlock(&q->service->store_lock);
    q->rc = repo_rebuild(q->service->repo, &q->error);
    pthread_rwlock_unlock(&q->service->store_lock);
}

static void on_rebuilt(struct job *job)
{
    struct store_request *q = (struct store_request *)job;

    if (q->rc != 0)
        peer_line(q->peer, report_error(&q->error));
    peer_line(q->peer, json_pack("{s:s,s:i}", "type", "summary", "exit", error_exit_code(q->rc)));
    finish(q);
}

void request_rebuild(struct service *s, struct peer *peer)
{
    start(s, s->jobs, peer, NULL, JOB_REBUILD, run_rebuild, on_rebuilt);
}

/* ---- pin, unpin ---- */

static int pin(struct store_request *q, struct repo *reader, struct error *e)
{
    const char *text = request_text(q->request, "snapshot");
    bool pinned = strcmp(request_text(q->request, "command"), "pin") == 0;
    struct snapshot_row row;

    if (!text)
        return error_set(e, ERR_USAGE, "which snapshot?");
    int rc = pin_snapshot(reader, q->service->repo, text, request_text(q->request, "watch"), pinned,
                          &row, e);
    if (rc == 0) {
        q->doc = report_pinned(&row, pinned);
        snapshot_row_release(&row);
    }
    return rc;
}

static void run_pin(struct job *job)
{
    struct store_request *q = (struct store_request *)job;
    struct repo_options opt = {0};
    struct repo *reader;
    struct catalog_try tried;

    pthread_rwlock_rdlock(&q->service->store_lock);
    q->rc = repo_open(q->repo_path, REPO_READ, &opt, &reader, &q->error);
    if (q->rc == 0) {
        tried = repo_catalog_try(reader);
        while (q->rc = pin(q, reader, &q->error), repo_catalog_replaced(reader, q->rc, &tried))
            ;
        repo_close(reader);
    }
    pthread_rwlock_unlock(&q->service->store_lock);
}

static void on_pinned(struct job *job)
{
    struct store_request *q = (struct store_request *)job;

    if (q->rc != 0) {
        peer_line(q->peer, report_error(&q->error));
    } else {
        peer_line(q->peer, q->doc);
        q->doc = NULL;
    }
    finish(q);
}

void request_pin(struct service *s, struct peer *peer, const json_t *request)
{
    start(s, s->jobs, peer, request, JOB_VERIFY, run_pin, on_pinned);
}
