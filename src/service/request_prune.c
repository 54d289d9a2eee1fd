#include "service/requests.h"

#include "service/prune_work.h"
#include "snapshot/report.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

struct prune_ask {
    struct job job;
    struct service *service;
    const struct config *config; /* lives on while jobs are at work */
    struct peer *peer;
    struct request_progress telling; /* nothing is told; it frees us from the loop */
    char *watch, *repo_path;
    bool dry_run, thaw;
    json_t *lines;
    struct error error;
    int rc;
};

static void ask_free(void *ctx)
{
    struct prune_ask *q = ctx;

    json_decref(q->lines);
    free(q->watch);
    free(q->repo_path);
    free(q);
}

/* What is verified is read by a handle of our own, beside the saves. */
static void run_prune(struct job *job)
{
    struct prune_ask *q = (struct prune_ask *)job;
    struct service *s = q->service;
    struct repo_options opt = {0};
    struct repo *reader;

    pthread_rwlock_rdlock(&s->store_lock);
    q->rc = repo_open(q->repo_path, REPO_READ, &opt, &reader, &q->error);
    if (q->rc == 0) {
        const struct prune_order order = {.config = q->config,
                                          .repo = s->repo,
                                          .reader = reader,
                                          .watch = q->watch,
                                          .dry_run = q->dry_run,
                                          .thaw = q->thaw,
                                          .cancel = &s->cancel_verify};
        q->rc = prune_work(&order, &q->lines, &q->error);
        repo_close(reader);
    }
    pthread_rwlock_unlock(&s->store_lock);
}

static void on_pruned(struct job *job)
{
    struct prune_ask *q = (struct prune_ask *)job;
    struct service *s = q->service;
    size_t i, n = json_array_size(q->lines);
    json_t *line;

    for (i = 0; i + 1 < n; i++)
        peer_line(q->peer, json_incref(json_array_get(q->lines, i)));
    if (q->rc != 0)
        peer_line(q->peer, report_error(&q->error));
    line = n > 0 ? json_incref(json_array_get(q->lines, n - 1))
                 : json_pack("{s:s,s:i}", "type", "summary", "exit", error_exit_code(q->rc));
    peer_line(q->peer, line);
    peer_end(q->peer);
    request_progress_end(&q->telling, ask_free);
    service_store_used(s);
    service_stop_on(s);
    service_rearm(s);
}

void request_prune(struct service *s, struct peer *peer, const json_t *request)
{
    struct prune_ask *q = calloc(1, sizeof(*q));
    const char *watch = request_text(request, "watch");

    if (q) {
        q->watch = watch ? strdup(watch) : NULL;
        q->repo_path = strdup(s->config->repository);
    }
    if (!q || (watch && !q->watch) || !q->repo_path) {
        if (q)
            ask_free(q);
        peer_fail(peer, ERR_FAILED, "out of memory");
        return;
    }
    q->job = (struct job){.rank = JOB_VERIFY, .run = run_prune, .done = on_pruned};
    q->service = s;
    q->config = s->config;
    q->peer = peer;
    q->dry_run = json_is_true(json_object_get(request, "dry_run"));
    q->thaw = json_is_true(json_object_get(request, "thaw"));
    q->telling = (struct request_progress){.peer = peer, .ctx = q};
    request_progress_start(s, &q->telling, false);
    jobs_push(s->background, &q->job);
}
