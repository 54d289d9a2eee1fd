#include "service/requests.h"

#include "base/log.h"
#include "service/keeper.h"
#include "service/prune_work.h"
#include "service/timed.h"
#include "snapshot/report.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

#define PAUSE_NS (UINT64_C(5) * 1000000000) /* after a prune that could make no room */
#define ROOM_MORE (UINT64_C(4) * 1024 * 1024)

struct prune_ask {
    struct job job;
    struct service *service;
    const struct config *config; /* lives on while jobs are at work */
    struct peer *peer;
    struct request_progress telling; /* nothing is told; it frees us from the loop */
    char *watch, *repo_path;
    bool dry_run, thaw;
    bool room;                    /* to make room, asked for by nobody: no peer */
    uint64_t room_bytes, missing; /* how much is asked for; of that, up to min_free */
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

/* What is verified is read by a handle of our own, beside the saves; but while one is open no pack
 * is removed. */
static void run_prune(struct job *job)
{
    struct prune_ask *q = (struct prune_ask *)job;
    struct service *s = q->service;
    struct repo_options opt = {0};
    struct repo *reader = NULL;

    pthread_rwlock_rdlock(&s->store_lock);
    if (!q->room)
        q->rc = repo_open(q->repo_path, REPO_READ, &opt, &reader, &q->error);
    if (q->rc == 0) {
        const struct prune_order order = {.config = q->config,
                                          .repo = s->repo,
                                          .reader = reader,
                                          .watch = q->watch,
                                          .dry_run = q->dry_run,
                                          .thaw = q->thaw,
                                          .pressed = q->room,
                                          .room = q->room ? q->room_bytes : 0,
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
    if (q->rc == 0 && !q->dry_run)
        timed_settled(s, TIMED_PRUNE, q->watch);
    service_problems_changed(s);
    request_progress_end(&q->telling, ask_free);
    service_store_used(s);
    service_stop_on(s);
    service_rearm(s);
}

static struct prune_ask *ask_new(struct service *s, const char *watch, void (*done)(struct job *))
{
    struct prune_ask *q = calloc(1, sizeof(*q));

    if (!q)
        return NULL;
    q->job = (struct job){.rank = JOB_VERIFY, .run = run_prune, .done = done};
    q->service = s;
    q->config = s->config;
    q->watch = watch ? strdup(watch) : NULL;
    q->repo_path = strdup(s->config->repository);
    if ((watch && !q->watch) || !q->repo_path) {
        ask_free(q);
        return NULL;
    }
    return q;
}

void request_prune(struct service *s, struct peer *peer, const json_t *request)
{
    struct prune_ask *q = ask_new(s, request_text(request, "watch"), on_pruned);

    if (!q) {
        peer_fail(peer, ERR_FAILED, "out of memory");
        return;
    }
    q->peer = peer;
    q->dry_run = json_is_true(json_object_get(request, "dry_run"));
    q->thaw = json_is_true(json_object_get(request, "thaw"));
    q->telling = (struct request_progress){.peer = peer, .ctx = q};
    request_progress_start(s, &q->telling, false);
    jobs_push(s->background, &q->job);
}

/* ---- when space is short ---- */

/* Saves that failed for it are tried again at once. */
static void on_room_made(struct job *job)
{
    struct prune_ask *q = (struct prune_ask *)job;
    struct service *s = q->service;
    const json_t *summary = json_array_get(q->lines, json_array_size(q->lines) - 1);
    json_int_t dropped = json_integer_value(json_object_get(summary, "dropped"));
    /* Packs that were dead already make room too, and others may have left some meanwhile. A save
     * that is too large for all there is must not be tried without a rest. */
    bool made = dropped > 0 || (q->missing > 0 && repo_free_missing(s->repo) == 0);
    struct keeper *k;

    if (dropped > 0)
        log_warn("%" JSON_INTEGER_FORMAT " snapshots were dropped to make room", dropped);
    if (q->rc != 0)
        log_warn("making room: %s", q->error.message);
    s->making_room = false;
    /* How much a save needs is not known before it has failed for it: more, each time. */
    s->room_more = made ? 2 * s->room_more + ROOM_MORE : s->room_more;
    s->make_room_at = made ? 0 : clock_mono_ns() + PAUSE_NS;
    ask_free(q);
    LIST_FOREACH(k, &s->keepers, link)
    {
        if (made && k->failures > 0 && k->failure.code == ERR_NOSPACE)
            k->retry_at = 0;
        keeper_pump(k, clock_mono_ns());
    }
    service_store_used(s);
    service_stop_on(s);
    service_rearm(s);
}

void service_make_room(struct service *s, bool save_failed)
{
    uint64_t missing = repo_free_missing(s->repo);
    uint64_t bytes = missing + (save_failed ? s->room_more : 0);

    if (s->making_room || s->stopping || clock_mono_ns() < s->make_room_at || bytes == 0)
        return;
    struct prune_ask *q = ask_new(s, NULL, on_room_made);
    if (!q)
        return; /* the next save that fails asks again */
    q->room = true;
    q->room_bytes = bytes;
    q->missing = missing;
    s->making_room = true;
    jobs_push(s->background, &q->job);
}
