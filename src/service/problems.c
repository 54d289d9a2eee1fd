#include "service/problems.h"

#include "base/buffer.h"
#include "service/alert.h"
#include "service/kept_note.h"
#include "service/status.h"
#include "snapshot/report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

#define NS UINT64_C(1000000000)
static const uint64_t wait_ns = 1 * NS, pause_ns = 5 * NS, given_up_ns = 3600 * NS;
static const char note_key[] = "alerts told", alert_code[] = "alert-failed";
static const char told_new[] = "problem", told_gone[] = "recovered";

enum { HOST_MAX = 256 };

struct problems {
    struct alert *alert;
    uint64_t at;     /* of the next look, UINT64_MAX: none */
    uint64_t looked; /* when the last one began */
    bool looking, loaded;
    struct kept_note told; /* "code watch" -> the problem as it was told */
    uv_work_t work;
    json_t *doc;  /* of the look at work */
    json_t *note; /* what was told before the last restart, read by the first look */
    char *repo_path;
    const struct config *config; /* of the look at work */
};

/* ---- what was told ---- */

static char *key_of(const json_t *problem)
{
    struct buffer b = BUFFER_INIT;
    const char *watch = json_string_value(json_object_get(problem, "watch"));

    buffer_printf(&b, "%s %s", json_string_value(json_object_get(problem, "code")),
                  watch ? watch : "");
    char *key = buffer_ok(&b) ? strdup(buffer_cstr(&b)) : NULL;
    buffer_release(&b);
    return key;
}

static void look_by(struct problems *p, uint64_t at)
{
    if (p->looked > 0 && at < p->looked + pause_ns)
        at = p->looked + pause_ns;
    if (at < p->at)
        p->at = at;
}

/* What event_of was given. */
static json_t *problem_of(const json_t *event)
{
    static const char *const around[] = {"schema", "event", "time", "host", "repository"};
    json_t *problem = json_copy((json_t *)(uintptr_t)event);

    for (size_t i = 0; i < sizeof(around) / sizeof(around[0]); i++)
        json_object_del(problem, around[i]);
    return problem;
}

/* Only what somebody took was told; what is not is seen again by the next look, or that of the next
 * start. */
static void on_told(void *ctx, const char *key, const json_t *event, bool told)
{
    struct service *s = ctx;
    struct problems *p = s->problems;
    const char *what = json_string_value(json_object_get(event, "event"));

    if (!told) {
        look_by(p, clock_mono_ns() + given_up_ns);
        service_rearm(s);
        return;
    }
    if (strcmp(what, told_gone) == 0)
        json_object_del(p->told.value, key);
    else
        json_object_set_new(p->told.value, key, problem_of(event));
    kept_note_changed(&p->told, true);
    service_problems_changed(s);
    service_rearm(s);
}

/* ---- events ---- */

static json_t *event_of(const char *what, const json_t *problem, const struct service *s)
{
    char host[HOST_MAX] = "";
    json_t *event = json_object();

    gethostname(host, sizeof(host) - 1);
    json_object_set_new(event, "schema", json_integer(1));
    json_object_set_new(event, "event", json_string(what));
    json_object_set_new(event, "time", report_time(clock_wall()));
    json_object_set_new(event, "host", report_text(host));
    json_object_set_new(event, "repository", report_text(s->config->repository));
    json_object_update(event, (json_t *)(uintptr_t)problem);
    return event;
}

/* Before its first look at the tree nobody knows whether a watch is well again. */
static bool is_settled(const json_t *doc, const json_t *problem)
{
    const char *watch = json_string_value(json_object_get(problem, "watch"));
    size_t i;
    json_t *w;

    json_array_foreach(json_object_get(doc, "watches"), i, w)
    {
        const char *name = json_string_value(json_object_get(w, "name"));
        const char *state = json_string_value(json_object_get(w, "state"));
        if (watch && name && strcmp(name, watch) != 0)
            continue;
        if (state && strcmp(state, "missing") != 0 &&
            json_is_null(json_object_get(w, "last_checked")))
            return false;
    }
    return true;
}

static void tell_new(struct service *s, const json_t *now)
{
    struct problems *p = s->problems;
    const char *key;
    json_t *problem;

    json_object_foreach((json_t *)(uintptr_t)now, key, problem)
    {
        if (!json_object_get(p->told.value, key) && !alert_holds(p->alert, key))
            alert_send(p->alert, key, event_of(told_new, problem, s));
    }
}

static void tell_gone(struct service *s, const json_t *now)
{
    struct problems *p = s->problems;
    const char *key;
    json_t *problem;

    json_object_foreach(p->told.value, key, problem)
    {
        if (!json_object_get(now, key) && !alert_holds(p->alert, key) &&
            is_settled(p->doc, problem))
            alert_send(p->alert, key, event_of(told_gone, problem, s));
    }
}

static json_t *by_key(const json_t *doc)
{
    json_t *all = json_object(), *problem;
    size_t i;

    json_array_foreach(json_object_get(doc, "problems"), i, problem)
    {
        const char *code = json_string_value(json_object_get(problem, "code"));
        char *key = key_of(problem);
        if (key && code && strcmp(code, alert_code) != 0)
            json_object_set(all, key, problem);
        free(key);
    }
    return all;
}

/* ---- looking ---- */

static json_t *read_note(const char *repo_path)
{
    const struct repo_options opt = {0};
    struct error ignored = ERROR_INIT;
    struct repo *r;

    if (repo_open(repo_path, REPO_READ, &opt, &r, &ignored) != 0)
        return NULL;
    json_t *note = kept_note_read(repo_catalog(r), note_key);
    repo_close(r);
    return note;
}

static void on_work(uv_work_t *work)
{
    struct service *s = work->data;
    struct problems *p = s->problems;
    struct error ignored = ERROR_INIT;

    if (!p->loaded)
        p->note = read_note(p->repo_path);
    (void)status_add_repository(p->doc, p->repo_path, p->config, &ignored);
}

static void take_note(struct problems *p)
{
    p->loaded = true;
    if (p->note)
        json_object_update_missing(p->told.value, p->note);
    json_decref(p->note);
    p->note = NULL;
}

static void on_worked(uv_work_t *work, int status)
{
    struct service *s = work->data;
    struct problems *p = s->problems;

    if (status == 0 && !s->stopping && alert_wanted(p->alert)) {
        take_note(p);
        json_t *now = by_key(p->doc);
        tell_new(s, now);
        tell_gone(s, now);
        json_decref(now);
    }
    json_decref(p->doc);
    p->doc = NULL;
    p->looking = false;
    s->reads--;
    service_stop_on(s);
    service_rearm(s);
}

void problems_look(struct service *s, uint64_t now_ns)
{
    struct problems *p = s->problems;

    if (!p || now_ns < p->at || p->looking || s->stopping)
        return;
    p->at = UINT64_MAX;
    p->looked = now_ns;
    p->doc = status_live(s);
    if (!p->doc)
        return;
    s->reads++;
    p->looking = true;
    p->config = s->config;
    if (uv_queue_work(&s->loop, &p->work, on_work, on_worked) != 0)
        on_worked(&p->work, UV_ENOMEM);
}

uint64_t problems_deadline(const struct service *s)
{
    return s->problems && !s->problems->looking ? s->problems->at : UINT64_MAX;
}

void service_problems_changed(struct service *s)
{
    struct problems *p = s->problems;

    if (p && alert_wanted(p->alert) && !s->stopping)
        look_by(p, clock_mono_ns() + wait_ns);
}

bool problems_told(const struct service *s)
{
    return s->problems && json_object_size(s->problems->told.value) > 0;
}

/* ---- life ---- */

int problems_open(struct service *s, struct error *e)
{
    struct problems *p = calloc(1, sizeof(*p));

    s->problems = p;
    if (!p)
        return error_sys(e, ENOMEM, "cannot set up the alerts");
    p->at = UINT64_MAX;
    p->work.data = s;
    int rc = kept_note_open(&p->told, s, note_key, e);
    if (rc != 0)
        return rc;
    p->repo_path = strdup(s->config->repository);
    p->alert = alert_new(&s->loop, on_told, s);
    if (!p->repo_path || !p->alert)
        return error_sys(e, ENOMEM, "cannot set up the alerts");
    problems_configure(s);
    return 0;
}

void problems_configure(struct service *s)
{
    alert_retries(s->problems->alert, (unsigned)config_number(s->config, "retry", NULL, "attempts"),
                  config_number(s->config, "retry", NULL, "delay"));
    alert_command(s->problems->alert, config_text(s->config, "alert", NULL, "command"));
    service_problems_changed(s);
}

void problems_close(struct service *s)
{
    struct problems *p = s->problems;

    if (!p)
        return;
    alert_close(p->alert);
    kept_note_close(&p->told);
    json_decref(p->note);
    free(p->repo_path);
    free(p);
    s->problems = NULL;
}

void problems_status(struct service *s, json_t *doc)
{
    struct wall_time since;
    const char *why = s->problems ? alert_failure(s->problems->alert, &since) : NULL;
    struct buffer text = BUFFER_INIT;

    if (!why)
        return;
    buffer_printf(&text, "an alert was not told: %s", why);
    status_problem(doc, alert_code, NULL, since, buffer_cstr(&text),
                   "see that the program of [alert] command works (the log has what it wrote); it "
                   "is tried again by itself");
    buffer_release(&text);
}
