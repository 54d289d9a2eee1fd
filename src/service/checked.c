#include "service/checked.h"

#include "service/kept_note.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

#define WRITE_EVERY_NS (UINT64_C(3600) * 1000000000)

struct checked {
    struct kept_note note; /* name -> seconds */
    uint64_t written_ns;
};

/* ---- what the runs before left ---- */

static int take_time(void *ctx, const struct snapshot_row *row)
{
    *(int64_t *)ctx = row->commit.time.s;
    return 1; /* the newest is enough */
}

static void take_newest(struct catalog *c, const char *watch, json_t *last)
{
    struct error ignored = ERROR_INIT;
    struct watch_row row = {0};
    int64_t newest = 0;

    if (catalog_watch_by_name(c, watch, &row, &ignored) == 0 &&
        catalog_snapshots(c, row.serial, 1, UINT64_MAX, true, take_time, &newest, &ignored) >= 0 &&
        newest > 0)
        json_object_set_new(last, watch, json_integer((json_int_t)newest));
    watch_row_release(&row);
}

/* Of the watches of today. */
static void take_known(struct service *s, struct catalog *c)
{
    json_t *last = s->checked->note.value, *known = kept_note_read(c, s->checked->note.key);

    for (size_t i = 0; i < s->config->watch_count; i++) {
        const char *watch = s->config->watches[i].name;
        json_t *at = json_object_get(known, watch);
        if (json_is_integer(at))
            json_object_set(last, watch, at);
        else
            take_newest(c, watch, last);
    }
    json_decref(known);
}

int checked_open(struct service *s, struct error *e)
{
    struct error ignored = ERROR_INIT;
    struct catalog *c;

    s->checked = calloc(1, sizeof(*s->checked));
    if (!s->checked)
        return error_sys(e, ENOMEM, "cannot set up what was checked");
    int rc = kept_note_open(&s->checked->note, s, "watches checked", e);
    if (rc == 0 && repo_catalog_open(s->repo, &c, &ignored) == 0) {
        take_known(s, c);
        repo_catalog_close(s->repo, c);
    }
    return rc;
}

void checked_close(struct service *s)
{
    if (!s->checked)
        return;
    kept_note_close(&s->checked->note);
    free(s->checked);
    s->checked = NULL;
}

/* ---- this run ---- */

static void set(struct service *s, const char *watch, bool write)
{
    struct checked *c = s->checked;

    json_object_set_new(c->note.value, watch, json_integer((json_int_t)clock_wall().s));
    if (write)
        c->written_ns = clock_boot_ns();
    kept_note_changed(&c->note, write);
}

int64_t checked_last(struct service *s, const char *watch)
{
    const json_t *at = json_object_get(s->checked->note.value, watch);

    if (!json_is_integer(at) || json_integer_value(at) > clock_wall().s)
        set(s, watch, true);
    return (int64_t)json_integer_value(json_object_get(s->checked->note.value, watch));
}

void checked_now(struct service *s, const char *watch, bool first)
{
    set(s, watch, first || clock_boot_ns() - s->checked->written_ns >= WRITE_EVERY_NS);
}
