#include "service/keeper.h"
#include "service/requests.h"
#include "snapshot/report.h"
#include "snapshot/restore_record.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

struct record_request {
    struct job job;
    struct service *service;
    struct peer *peer;
    char *watch;
    struct restore_record record;
    struct error error;
    int rc;
};

static void record_request_free(struct record_request *q)
{
    restore_record_release(&q->record);
    free(q->watch);
    free(q);
}

static int put(struct repo *r, struct record_request *q)
{
    struct catalog *c;
    struct watch_row row;
    int rc = repo_catalog_open(r, &c, &q->error);

    if (rc != 0)
        return rc;
    rc = catalog_watch_by_name(c, q->watch, &row, &q->error);
    if (rc == 0) {
        rc = restore_record_put(r, c, row.id, &q->record, &q->error);
        watch_row_release(&row);
    }
    repo_catalog_close(r, c);
    return rc;
}

static void run_record(struct job *job)
{
    struct record_request *q = (struct record_request *)job;

    pthread_rwlock_rdlock(&q->service->store_lock);
    q->rc = put(q->service->repo, q);
    pthread_rwlock_unlock(&q->service->store_lock);
}

static void hold(struct service *s, const char *watch, bool on)
{
    struct keeper *k;

    LIST_FOREACH(k, &s->keepers, link)
    {
        if (k->root && strcmp(k->spec.name, watch) == 0)
            keeper_hold(k, on);
    }
}

static void on_recorded(struct job *job)
{
    struct record_request *q = (struct record_request *)job;
    struct service *s = q->service;

    if (q->rc == 0)
        hold(s, q->watch, !q->record.done);
    if (q->rc == 0)
        request_done(q->peer);
    else
        request_failed(q->peer, &q->error);
    record_request_free(q);
    service_store_used(s);
    service_stop_on(s);
    service_rearm(s);
}

void request_record(struct service *s, struct peer *peer, const json_t *request)
{
    struct record_request *q = calloc(1, sizeof(*q));
    const char *watch = request_text(request, "watch");
    const char *text = request_text(request, "text");
    struct error e = ERROR_INIT;
    int rc = q ? 0 : error_set(&e, ERR_FAILED, "out of memory");

    if (rc == 0 && (!watch || !text))
        rc = error_set(&e, ERR_USAGE, "a record names its watch and has a text");
    if (rc == 0)
        rc = restore_record_parse(text, &q->record, &e);
    if (rc == 0 && !(q->watch = strdup(watch)))
        rc = error_set(&e, ERR_FAILED, "out of memory");
    if (rc != 0) {
        request_failed(peer, &e);
        if (q)
            record_request_free(q);
        return;
    }
    q->job = (struct job){.rank = JOB_SAVE, .run = run_record, .done = on_recorded};
    q->service = s;
    q->peer = peer;
    jobs_push(s->asked, &q->job);
}
