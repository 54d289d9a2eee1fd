/* What status takes from the marks: events, timed jobs that have failed since their last success,
 * how long a restore takes. */
#include "service/status.h"
#include "service/timed.h"
#include "snapshot/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { EVENTS_SHOWN = 20 };

struct collecting {
    json_t *doc;
    const struct config *config;
    const struct watch_row *watches;
    size_t count;
    json_t *failed; /* "job watch" -> {"job","watch","time","message"} */
    double seconds; /* of restore tests */
    bool tested;
};

/* Of no watch, or one that is configured still; without a configuration of watches all are. */
static bool is_ours(const struct config *c, const char *watch)
{
    return !watch || c->watch_count == 0 || config_watch(c, watch);
}

static const char *watch_name(const struct collecting *c, const struct mark *m)
{
    for (size_t i = 0; i < c->count; i++) {
        if (memcmp(c->watches[i].id, m->watch_id, WATCH_ID_LEN) == 0)
            return c->watches[i].name;
    }
    return NULL;
}

static void key_of(char *key, size_t cap, const char *job, size_t len, const char *watch)
{
    snprintf(key, cap, "%.*s %s", (int)len, job, watch ? watch : "");
}

static void take_failure(struct collecting *c, const struct mark *m, const json_t *event)
{
    const char *job = json_string_value(json_object_get(event, "job"));
    const char *watch = watch_name(c, m);
    char key[160];

    if (!job || !json_is_true(json_object_get(event, "last")))
        return;
    key_of(key, sizeof(key), job, strlen(job), watch);
    json_t *old = json_object_get(c->failed, key);
    json_int_t since = old ? json_integer_value(json_object_get(old, "since")) : m->time.s;
    json_object_set_new(c->failed, key,
                        json_pack("{s:s,s:s?,s:I,s:O?}", "job", job, "watch", watch, "since", since,
                                  "message", json_object_get(event, "message")));
}

static void take_state(struct collecting *c, const struct mark *m)
{
    const char *blank = strchr(m->text, ' ');
    static const char test[] = "restore-test";
    const char *watch = watch_name(c, m);
    char key[160];

    if (!blank)
        return;
    size_t len = (size_t)(blank - m->text);
    key_of(key, sizeof(key), m->text, len, watch);
    json_object_del(c->failed, key);
    if (len != sizeof(test) - 1 || memcmp(m->text, test, len) != 0 || !is_ours(c->config, watch))
        return;
    json_t *o = json_loads(blank + 1, 0, NULL);
    c->seconds += json_number_value(json_object_get(o, "seconds"));
    c->tested = true;
    json_decref(o);
}

static int take_mark(void *ctx, uint64_t sequence, const struct mark *m)
{
    struct collecting *c = ctx;
    json_t *event;

    if (m->type == MARK_STATE && m->text)
        take_state(c, m);
    if (m->type != MARK_EVENT || !m->text || !(event = json_loads(m->text, 0, NULL)))
        return 0;
    const char *what = json_string_value(json_object_get(event, "event"));
    if (what && strcmp(what, "job-failed") == 0)
        take_failure(c, m, event);
    json_decref(event);
    return 0;
}

static bool is_job(const struct config *c, const char *job, const char *watch)
{
    if (!is_ours(c, watch))
        return false;
    for (int kind = 0; kind < TIMED_KINDS; kind++) {
        if (strcmp(job, timed_word((enum timed_kind)kind)) == 0)
            return strcmp(timed_rule(c, (enum timed_kind)kind, watch), "off") != 0;
    }
    return true;
}

static void tell_failed(const struct collecting *c)
{
    const char *key;
    json_t *o;

    json_object_foreach(c->failed, key, o)
    {
        const char *job = json_string_value(json_object_get(o, "job"));
        const char *watch = json_string_value(json_object_get(o, "watch"));
        const char *message = json_string_value(json_object_get(o, "message"));
        struct wall_time since = {.s = json_integer_value(json_object_get(o, "since"))};
        if (is_job(c->config, job, watch))
            status_job_problem(c->doc, job, watch, since, message ? message : "");
    }
}

int status_add_events(json_t *doc, struct catalog *catalog, const struct config *config,
                      struct error *e)
{
    struct list_filter filter = {.recent = EVENTS_SHOWN};
    struct collecting c = {.doc = doc, .config = config, .failed = json_object()};
    struct watch_row *rows = NULL;
    json_t *events = NULL;

    int rc = catalog_watches(catalog, &rows, &c.count, e);
    c.watches = rows;
    if (rc == 0)
        rc = catalog_marks(catalog, take_mark, &c, e);
    if (rc == 0)
        rc = report_events(catalog, &filter, &events, e);
    if (rc == 0) {
        tell_failed(&c);
        json_object_set_new(doc, "events", events);
        if (c.tested)
            json_object_set_new(json_object_get(doc, "repository"), "restore_seconds",
                                json_real(c.seconds));
    }
    for (size_t i = 0; i < c.count; i++)
        watch_row_release(&rows[i]);
    free(rows);
    json_decref(c.failed);
    return rc;
}
