#include "service/requests.h"

#include "base/log.h"
#include "service/archives.h"
#include "service/status.h"
#include "snapshot/report.h"
#include "snapshot/selector.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { CHANGES_SHOWN_MAX = 1000, PROGRESS_MS = 200 };

/* ---- small things that all commands share ---- */

const char *request_text(const json_t *request, const char *key)
{
    return json_string_value(json_object_get(request, key));
}

uint64_t request_number(const json_t *request, const char *key, uint64_t absent)
{
    const json_t *value = json_object_get(request, key);

    return json_is_integer(value) && json_integer_value(value) >= 0
               ? (uint64_t)json_integer_value(value)
               : absent;
}

void request_failed(struct peer *peer, const struct error *e)
{
    peer_line(peer, report_error(e));
    peer_line(peer, json_pack("{s:s,s:i}", "type", "summary", "exit", error_exit_code(e->code)));
    peer_end(peer);
}

void request_done(struct peer *peer)
{
    peer_line(peer, json_pack("{s:s,s:i}", "type", "summary", "exit", 0));
    peer_end(peer);
}

static void on_progress(uv_timer_t *timer)
{
    struct request_progress *p = timer->data;
    json_t *line = p->line(p->ctx);

    if (line)
        peer_line(p->peer, line);
}

void request_progress_start(struct service *s, struct request_progress *p, bool wanted)
{
    uv_timer_init(&s->loop, &p->timer);
    p->timer.data = p;
    if (wanted)
        uv_timer_start(&p->timer, on_progress, PROGRESS_MS, PROGRESS_MS);
}

static void on_progress_closed(uv_handle_t *handle)
{
    struct request_progress *p = handle->data;

    p->closed(p->ctx);
}

void request_progress_end(struct request_progress *p, void (*closed)(void *ctx))
{
    p->closed = closed;
    uv_close((uv_handle_t *)&p->timer, on_progress_closed);
}

/* ---- requests that only read: in a thread, so that nothing waits for them, nor they for a save --
 */

struct reading {
    uv_work_t work;
    struct service *service;
    struct peer *peer;
    json_t *request; /* a copy of our own */
    json_t *doc;
    int (*read)(struct reading *r, struct error *e);
    char *repo_path;
    const struct config *config; /* lives on while requests are at work */
    struct error error;
    int rc;
};

static int open_reading(struct reading *r, struct repo **out, struct error *e)
{
    struct repo_options opt = {0};

    return repo_open(r->repo_path, REPO_READ, &opt, out, e);
}

static bool read_time(const json_t *request, const char *key, int64_t *t)
{
    const json_t *value = json_object_get(request, key);

    *t = json_integer_value(value);
    return json_is_integer(value);
}

static int read_archives(struct reading *r, struct error *e)
{
    struct archives_filter filter = {.watch = request_text(r->request, "watch"),
                                     .recent = request_number(r->request, "recent", 0)};

    filter.has_since = read_time(r->request, "since", &filter.since);
    filter.has_until = read_time(r->request, "until", &filter.until);
    return archives_report(r->config, &filter, &r->doc, e);
}

static int read_list(struct reading *r, struct error *e)
{
    struct list_filter filter = {.watch = request_text(r->request, "watch"),
                                 .recent = request_number(r->request, "recent", 0)};
    struct repo *repo;
    struct catalog_try tried;
    if (json_is_true(json_object_get(r->request, "archives")))
        return read_archives(r, e);
    int rc = open_reading(r, &repo, e);

    if (rc != 0)
        return rc;
    filter.has_since = read_time(r->request, "since", &filter.since);
    filter.has_until = read_time(r->request, "until", &filter.until);
    tried = repo_catalog_try(repo);
    while (rc = report_list(repo, &filter, &r->doc, e), repo_catalog_replaced(repo, rc, &tried))
        ;
    repo_close(repo);
    return rc;
}

static int show(struct reading *r, struct repo *repo, const char *text, struct error *e)
{
    struct snapshot_row row;
    char *path = NULL;

    int rc = selector_resolve(repo, text, request_text(r->request, "watch"), &row, &path, e);
    if (rc != 0)
        return rc;
    rc = report_show(repo, &row, CHANGES_SHOWN_MAX, &r->doc, e);
    snapshot_row_release(&row);
    free(path);
    return rc;
}

static int read_show(struct reading *r, struct error *e)
{
    const char *text = request_text(r->request, "snapshot");
    struct repo *repo;
    struct catalog_try tried;

    if (!text)
        return error_set(e, ERR_USAGE, "which snapshot?");
    int rc = open_reading(r, &repo, e);
    if (rc != 0)
        return rc;
    tried = repo_catalog_try(repo);
    while (rc = show(r, repo, text, e), repo_catalog_replaced(repo, rc, &tried))
        ;
    repo_close(repo);
    return rc;
}

static int read_status(struct reading *r, struct error *e)
{
    int rc = status_add_repository(r->doc, r->repo_path, r->config, e);

    if (rc == 0)
        status_finish(r->doc);
    return rc;
}

static void on_work(uv_work_t *work)
{
    struct reading *r = work->data;

    r->rc = r->read(r, &r->error);
}

static void on_worked(uv_work_t *work, int status)
{
    struct reading *r = work->data;
    struct service *s = r->service;

    if (status != 0)
        r->rc = error_set(&r->error, ERR_CANCELLED, "the service is stopping");
    if (r->rc == 0) {
        peer_line(r->peer, r->doc);
        r->doc = NULL;
    } else {
        peer_line(r->peer, report_error(&r->error));
    }
    peer_end(r->peer);
    json_decref(r->doc);
    json_decref(r->request);
    free(r->repo_path);
    free(r);
    s->reads--;
    service_stop_on(s);
}

static void start_reading(struct service *s, struct peer *peer, const json_t *request,
                          int (*read)(struct reading *r, struct error *e), json_t *doc)
{
    struct reading *r = calloc(1, sizeof(*r));

    if (!r) {
        json_decref(doc);
        peer_fail(peer, ERR_FAILED, "out of memory");
        return;
    }
    r->work.data = r;
    r->service = s;
    r->peer = peer;
    r->request = json_deep_copy(request);
    r->doc = doc;
    r->read = read;
    r->repo_path = strdup(s->config->repository);
    r->config = s->config;
    s->reads++;
    if (!r->request || !r->repo_path || uv_queue_work(&s->loop, &r->work, on_work, on_worked) != 0)
        on_worked(&r->work, UV_ENOMEM);
}

/* ---- the commands ---- */

static void serve_list(struct service *s, struct peer *peer, const json_t *request)
{
    start_reading(s, peer, request, read_list, NULL);
}

static void serve_show(struct service *s, struct peer *peer, const json_t *request)
{
    start_reading(s, peer, request, read_show, NULL);
}

static void serve_status(struct service *s, struct peer *peer, const json_t *request)
{
    start_reading(s, peer, request, read_status, status_live(s));
}

static void serve_reload(struct service *s, struct peer *peer, const json_t *request)
{
    struct error e = ERROR_INIT;

    if (service_reload(s, &e) == 0)
        request_done(peer);
    else
        request_failed(peer, &e);
}

static void serve_rebuild(struct service *s, struct peer *peer, const json_t *request)
{
    request_rebuild(s, peer);
}

static void serve_stop(struct service *s, struct peer *peer, const json_t *request)
{
    request_done(peer);
    service_stop(s);
}

static const struct {
    const char *name;
    enum control_right right;
    bool stopping; /* also while the service stops */
    void (*serve)(struct service *s, struct peer *peer, const json_t *request);
} commands[] = {
    {"list", CONTROL_LOOK_AND_SAVE, true, serve_list},
    {"show", CONTROL_LOOK_AND_SAVE, true, serve_show},
    {"status", CONTROL_LOOK_AND_SAVE, true, serve_status},
    {"archive", CONTROL_LOOK_AND_SAVE, false, request_archive},
    {"verify", CONTROL_ALL, false, request_verify},
    {"reload", CONTROL_ALL, false, serve_reload},
    {"pin", CONTROL_ALL, false, request_pin},
    {"unpin", CONTROL_ALL, false, request_pin},
    {"prune", CONTROL_ALL, false, request_prune},
    {"record", CONTROL_ALL, true, request_record},
    {"rebuild", CONTROL_ALL, false, serve_rebuild},
    {"stop", CONTROL_ALL, true, serve_stop},
};

void requests_serve(void *service, struct peer *peer, enum control_right right,
                    const json_t *request)
{
    struct service *s = service;
    const char *name = request_text(request, "command");

    if (name && strcmp(name, "save") == 0 && !s->stopping) {
        request_save(s, peer, right, request);
        return;
    }
    for (size_t i = 0; name && i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(name, commands[i].name) != 0)
            continue;
        if (right < commands[i].right)
            peer_fail(peer, ERR_DENIED,
                      "not permitted: '%s' is for root and the repository's owner", name);
        else if (s->stopping && !commands[i].stopping)
            break;
        else
            commands[i].serve(s, peer, request);
        return;
    }
    if (s->stopping)
        peer_fail(peer, ERR_CANCELLED, "the service is stopping");
    else
        peer_fail(peer, ERR_USAGE, "the service does not know this command");
}
