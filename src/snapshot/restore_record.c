#include "snapshot/restore_record.h"

#include "base/buffer.h"
#include "base/string_list.h"
#include "base/text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum {
    PATH_BYTES_MAX = 16384,
    TEXT_BYTES_MAX = 48 * 1024, /* one request to the service */
    RECORDS_PINNED = 2,
};

void restore_record_release(struct restore_record *r)
{
    free(r->from);
    free(r->into);
    free(r->path);
    string_list_free(r->only);
    *r = (struct restore_record){0};
}

/* ---- as text ---- */

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

static void put_hex(struct buffer *b, const char *key, const char *path)
{
    size_t n = strlen(path);
    char *hex = malloc(2 * n + 1);

    if (!hex) {
        b->failed = true;
        return;
    }
    text_hex(path, n, hex);
    buffer_printf(b, "%s %s\n", key, hex);
    free(hex);
}

int restore_record_text(const struct restore_record *r, char **text, struct error *e)
{
    struct buffer b = BUFFER_INIT;

    buffer_printf(&b, "restored %" PRIu64 "\nback %" PRIu64 "\nbase %" PRIu64 "\n", r->restored,
                  r->back, r->base);
    for (size_t i = 0; i < 2; i++) {
        if (r->added[i])
            buffer_printf(&b, "added %" PRIu64 "\n", r->added[i]);
    }
    buffer_printf(&b, "undo %d\ndone %d\n", r->undo, r->done);
    put_hex(&b, "path", r->path);
    if (r->from && r->into) {
        put_hex(&b, "from", r->from);
        put_hex(&b, "into", r->into);
    }
    for (char **at = r->only; at && *at; at++)
        put_hex(&b, "only", *at);
    *text = buffer_ok(&b) && b.len <= TEXT_BYTES_MAX ? strdup(buffer_cstr(&b)) : NULL;
    bool large = b.len > TEXT_BYTES_MAX;
    buffer_release(&b);
    if (large)
        return error_set(e, ERR_REFUSED,
                         "the record of this restore is too long: restore fewer"
                         " files at once");
    return *text ? 0 : no_memory(e);
}

static int take_number(const char *value, uint64_t *out)
{
    char *end;

    if (*value < '0' || *value > '9')
        return -1;
    errno = 0;
    *out = strtoull(value, &end, 10);
    return *end || errno ? -1 : 0;
}

/* A path, malloc'ed, or NULL. */
static char *take_path(const char *hex)
{
    size_t n = strlen(hex) / 2;
    char *path = strlen(hex) % 2 == 0 && n <= PATH_BYTES_MAX ? malloc(n + 1) : NULL;

    if (path && text_unhex(hex, path, n)) {
        path[n] = 0;
        if (strlen(path) == n)
            return path;
    }
    free(path);
    return NULL;
}

static int take_only(struct restore_record *r, const char *hex)
{
    char *path = take_path(hex);
    bool kept = path && string_list_add(&r->only, path, strlen(path));

    free(path);
    return kept ? 0 : -1;
}

static int take_value(struct restore_record *r, const char *key, const char *value)
{
    uint64_t flag = 0;
    int rc = 0;

    if (strcmp(key, "restored") == 0)
        return take_number(value, &r->restored);
    if (strcmp(key, "back") == 0)
        return take_number(value, &r->back);
    if (strcmp(key, "base") == 0)
        return take_number(value, &r->base);
    if (strcmp(key, "added") == 0)
        return take_number(value, &r->added[r->added[0] != 0]);
    if (strcmp(key, "only") == 0)
        return take_only(r, value);
    char **path = strcmp(key, "path") == 0   ? &r->path
                  : strcmp(key, "from") == 0 ? &r->from
                  : strcmp(key, "into") == 0 ? &r->into
                                             : NULL;
    if (path) {
        free(*path);
        *path = take_path(value);
        return *path ? 0 : -1;
    }
    if (strcmp(key, "undo") == 0)
        r->undo = (rc = take_number(value, &flag)) == 0 && flag;
    else if (strcmp(key, "done") == 0)
        r->done = (rc = take_number(value, &flag)) == 0 && flag;
    return rc; /* a key that a later version adds is passed over */
}

/* One line "key value". */
static int take_line(struct restore_record *r, char *line)
{
    char *value = strchr(line, ' ');

    if (!value)
        return -1;
    *value++ = 0;
    return take_value(r, line, value);
}

int restore_record_parse(const char *text, struct restore_record *r, struct error *e)
{
    char *copy = strlen(text) <= TEXT_BYTES_MAX ? strdup(text) : NULL, *save = NULL;
    int bad = copy ? 0 : -1;

    *r = (struct restore_record){0};
    for (char *line = copy ? strtok_r(copy, "\n", &save) : NULL; line && bad == 0;
         line = strtok_r(NULL, "\n", &save))
        bad = take_line(r, line);
    free(copy);
    if (bad == 0 && r->path && r->restored && r->back && r->base)
        return 0;
    restore_record_release(r);
    return error_set(e, ERR_DAMAGED, "the record of a restore in place cannot be read");
}

/* ---- in the repository ---- */

struct search {
    const uint8_t *watch_id;
    struct restore_record *list; /* the latest first, each restore once */
    size_t count, max;
};

static void keep(struct search *s, struct restore_record *r)
{
    /* A restore that has ended, or gone on, stands in a later record for the earlier one. */
    bool same = s->count > 0 && s->list[0].base == r->base;

    if (!same) {
        if (s->count == s->max)
            restore_record_release(&s->list[s->count - 1]);
        else
            s->count++;
        memmove(&s->list[1], &s->list[0], (s->count - 1) * sizeof(*s->list));
        s->list[0] = (struct restore_record){0};
    }
    restore_record_release(&s->list[0]);
    s->list[0] = *r;
}

static int take_mark(void *ctx, uint64_t sequence, const struct mark *m)
{
    struct error ignored = ERROR_INIT;
    struct search *s = ctx;
    struct restore_record r;

    if (m->type != MARK_SAFETY || !m->text || memcmp(m->watch_id, s->watch_id, WATCH_ID_LEN) != 0)
        return 0;
    if (restore_record_parse(m->text, &r, &ignored) != 0)
        return 0; /* of a version that writes something else */
    r.time = m->time;
    keep(s, &r);
    return 0;
}

static int search(struct catalog *c, struct search *s, struct error *e)
{
    int rc = catalog_marks(c, take_mark, s, e);

    return rc < 0 ? rc : 0;
}

int restore_record_last(struct catalog *c, const uint8_t *watch_id, struct restore_record *out,
                        struct error *e)
{
    struct search s = {.watch_id = watch_id, .list = out, .max = 1};

    *out = (struct restore_record){0};
    int rc = search(c, &s, e);
    if (rc == 0 && s.count == 0)
        rc = error_set(e, ERR_NOTFOUND, "there is no restore in place to take back");
    return rc;
}

static int pin(struct repo *r, struct catalog *c, uint64_t number, bool pinned, struct error *e)
{
    struct snapshot_row row;
    struct mark m = {.type = pinned ? MARK_PIN : MARK_UNPIN,
                     .time = clock_wall(),
                     .count = 1,
                     .snapshots = &number};
    int rc = catalog_snapshot(c, number, &row, e);

    if (rc == ERR_NOTFOUND) {
        error_clear(e);
        return 0;
    }
    if (rc == 0) {
        bool is = row.pinned;
        snapshot_row_release(&row);
        rc = is == pinned ? 0 : repo_mark(r, &m, e);
    }
    return rc;
}

/* The one that falls out of the window of the last two. */
static int unpin_old(struct repo *r, struct catalog *c, const struct search *s, struct error *e)
{
    const struct restore_record *old = &s->list[RECORDS_PINNED];
    const uint64_t numbers[] = {old->back, old->base};
    int rc = 0;

    for (size_t i = 0; i < 2 && rc == 0; i++) {
        bool needed = false;
        for (size_t k = 0; k < RECORDS_PINNED; k++)
            needed = needed || s->list[k].back == numbers[i] || s->list[k].base == numbers[i];
        if (!needed)
            rc = pin(r, c, numbers[i], false, e);
    }
    return rc;
}

static int mark(struct repo *r, const uint8_t *watch_id, const struct restore_record *rec,
                struct error *e)
{
    uint64_t back = rec->back;
    struct mark m = {.type = MARK_SAFETY, .time = clock_wall(), .count = 1, .snapshots = &back};
    char *text;

    int rc = restore_record_text(rec, &text, e);
    if (rc != 0)
        return rc;
    memcpy(m.watch_id, watch_id, WATCH_ID_LEN);
    m.text = text;
    rc = repo_mark(r, &m, e);
    if (rc == 0 && rec->undo && rec->done) {
        m.type = MARK_UNDO;
        m.snapshots = (uint64_t[]){rec->restored};
        rc = repo_mark(r, &m, e);
    }
    free(text);
    return rc;
}

int restore_record_put(struct repo *r, struct catalog *c, const uint8_t *watch_id,
                       const struct restore_record *rec, struct error *e)
{
    struct restore_record list[RECORDS_PINNED + 1] = {0};
    struct search s = {.watch_id = watch_id, .list = list, .max = RECORDS_PINNED + 1};

    int rc = pin(r, c, rec->back, true, e);
    if (rc == 0 && rec->base != rec->back)
        rc = pin(r, c, rec->base, true, e);
    if (rc == 0)
        rc = mark(r, watch_id, rec, e);
    if (rc == 0)
        rc = search(c, &s, e);
    if (rc == 0 && s.count > RECORDS_PINNED)
        rc = unpin_old(r, c, &s, e);
    for (size_t i = 0; i < s.count; i++)
        restore_record_release(&list[i]);
    return rc;
}
