/* Events: marks that tell what happened, as JSON texts of their own. */
#include "snapshot/report.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

struct events {
    const struct list_filter *filter;
    const struct watch_row *watches;
    size_t count;
    json_t *list;
};

static bool wanted(const struct list_filter *f, const struct mark *m, const char *watch)
{
    if (f->watch && (!watch || strcmp(watch, f->watch) != 0))
        return false;
    return (!f->has_since || m->time.s >= f->since) && (!f->has_until || m->time.s <= f->until);
}

static int take(void *ctx, uint64_t sequence, const struct mark *m)
{
    struct events *v = ctx;
    const char *watch = NULL;
    json_t *event = NULL;

    for (size_t i = 0; i < v->count; i++) {
        if (memcmp(v->watches[i].id, m->watch_id, WATCH_ID_LEN) == 0)
            watch = v->watches[i].name;
    }
    if (m->type == MARK_EVENT && m->text && wanted(v->filter, m, watch))
        event = json_loads(m->text, 0, NULL);
    if (!json_is_object(event)) {
        json_decref(event);
        return 0;
    }
    json_object_set_new(event, "time", report_time(m->time));
    json_object_set_new(event, "watch", report_text(watch));
    if (v->filter->recent && json_array_size(v->list) == v->filter->recent)
        json_array_remove(v->list, 0);
    return json_array_append_new(v->list, event) == 0 ? 0 : ERR_FAILED;
}

int report_events(struct catalog *c, const struct list_filter *f, json_t **out, struct error *e)
{
    struct events v = {.filter = f, .list = json_array()};
    struct watch_row *rows = NULL;
    int rc = catalog_watches(c, &rows, &v.count, e);

    v.watches = rows;
    if (rc == 0)
        rc = catalog_marks(c, take, &v, e);
    if (rc == ERR_FAILED && e->code == 0)
        error_set(e, ERR_FAILED, "out of memory");
    for (size_t i = 0; i < v.count; i++)
        watch_row_release(&rows[i]);
    free(rows);
    if (rc == 0)
        *out = v.list;
    else
        json_decref(v.list);
    return rc;
}
