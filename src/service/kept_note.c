#include "service/kept_note.h"

#include "base/buffer.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

int kept_note_open(struct kept_note *n, struct service *s, const char *key, struct error *e)
{
    *n = (struct kept_note){.service = s, .key = key, .value = json_object()};
    return n->value ? 0 : error_sys(e, ENOMEM, "cannot set up '%s'", key);
}

json_t *kept_note_read(struct catalog *c, const char *key)
{
    struct buffer b = BUFFER_INIT;
    struct error ignored = ERROR_INIT;
    json_t *value = NULL;

    if (catalog_note_get(c, key, &b, &ignored) == 0)
        value = json_loadb((const char *)b.data, b.len, 0, NULL);
    buffer_release(&b);
    if (json_is_object(value))
        return value;
    json_decref(value);
    return NULL;
}

static void write_text(struct job *job)
{
    struct kept_note *n = (struct kept_note *)((char *)job - offsetof(struct kept_note, job));
    struct error e = ERROR_INIT;

    if (repo_note_put(n->service->repo, n->key, n->text, strlen(n->text), &e) != 0)
        log_debug("'%s' cannot be noted: %s", n->key, e.message);
}

static bool take_text(struct kept_note *n)
{
    n->text = json_dumps(n->value, JSON_COMPACT);
    if (n->text)
        n->changed = false;
    return n->text != NULL;
}

static void on_written(struct job *job)
{
    struct kept_note *n = (struct kept_note *)((char *)job - offsetof(struct kept_note, job));

    n->writing = false;
    free(n->text);
    n->text = NULL;
    if (n->changed)
        kept_note_changed(n, true);
    service_stop_on(n->service);
}

void kept_note_changed(struct kept_note *n, bool now)
{
    struct service *s = n->service;

    n->changed = true;
    if (!now || n->writing || s->stopping || s->ending || !take_text(n))
        return;
    n->writing = true;
    n->job = (struct job){.rank = JOB_IDLE, .run = write_text, .done = on_written};
    jobs_push(s->jobs, &n->job);
}

void kept_note_close(struct kept_note *n)
{
    free(n->text); /* of a job that was dropped */
    n->text = NULL;
    n->changed |= n->writing;
    if (n->changed && n->service->repo && take_text(n))
        write_text(&n->job);
    free(n->text);
    json_decref(n->value);
    *n = (struct kept_note){0};
}
