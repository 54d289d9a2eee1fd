#include "snapshot/selector.h"

#include "base/clock.h"
#include "base/parse.h"
#include "base/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { QUOTE_MAX = 128 };

enum snapshot_good snapshot_good(const struct snapshot_row *s)
{
    if (s->damaged || !s->whole || (s->commit.flags & (COMMIT_UNSOUND | COMMIT_SUSPECT)) ||
        s->commit.spoilt > 0)
        return SNAPSHOT_NOT_GOOD;
    if (s->verified.s == 0 && s->verified.ns == 0)
        return SNAPSHOT_GOOD_UNKNOWN;
    return SNAPSHOT_GOOD;
}

/* ---- the path behind the ':' ---- */

int selector_path(const char *text, char **out, struct error *e)
{
    char quoted[QUOTE_MAX];
    char *path = malloc(strlen(text) + 1);
    size_t n = 0;

    if (!path)
        return error_set(e, ERR_FAILED, "out of memory");
    for (const char *part = text; *part;) {
        size_t len = strcspn(part, "/");
        if (len == 2 && memcmp(part, "..", 2) == 0) {
            free(path);
            error_set(e, ERR_USAGE, "'%s' has a '..' in it: give a path from the watch's root",
                      text_escape(text, quoted, sizeof(quoted)));
            return error_path(e, text);
        }
        if (len > 0 && !(len == 1 && *part == '.')) {
            if (n > 0)
                path[n++] = '/';
            memcpy(path + n, part, len);
            n += len;
        }
        part += len + (part[len] == '/');
    }
    path[n] = 0;
    *out = path;
    return 0;
}

/* ---- which snapshot ---- */

struct query {
    struct catalog *catalog;
    const char *text;     /* the selector alone, for messages */
    const char *watch;    /* as given, or NULL */
    struct watch_row row; /* the watch, once need_watch found it */
    uint64_t skip;        /* the N of ~N */
    bool good;            /* only good ones */
    int64_t until;        /* @TIME */
    uint64_t found;       /* number, 0 = none */
    uint64_t newest;      /* of those looked at */
    uint64_t oldest;      /* of those that are too young for @TIME, 0 = none */
    int64_t oldest_time;
};

/* The watch that latest, good and @TIME mean. */
static int need_watch(struct query *q, struct error *e)
{
    struct watch_row *rows;
    size_t count;

    if (q->watch)
        return catalog_watch_by_name(q->catalog, q->watch, &q->row, e);
    int rc = catalog_watches(q->catalog, &rows, &count, e);
    if (rc != 0)
        return rc;
    if (count == 1) {
        q->row = rows[0];
    } else {
        if (count == 0)
            rc = error_set(e, ERR_NOTFOUND, "there is no snapshot yet");
        else
            rc = error_set(e, ERR_USAGE,
                           "'%s' could be of %zu watches ('%s', '%s'%s): say which"
                           " with -w WATCH",
                           q->text, count, rows[0].name, rows[1].name, count > 2 ? ", ..." : "");
        for (size_t i = 0; i < count; i++)
            watch_row_release(&rows[i]);
    }
    free(rows);
    return rc;
}

static int seen_newest(void *ctx, const struct snapshot_row *s)
{
    *(uint64_t *)ctx = s->commit.number;
    return 1;
}

static int not_there(struct query *q, const char *what, int64_t serial, struct error *e)
{
    uint64_t newest = 0;

    int rc = catalog_snapshots(q->catalog, serial, 1, UINT64_MAX, true, seen_newest, &newest, e);
    if (rc < 0)
        return rc;
    if (newest == 0)
        return error_set(e, ERR_NOTFOUND, "no %s: there is no snapshot yet", what);
    return error_set(e, ERR_NOTFOUND, "no %s; the newest is %" PRIu64, what, newest);
}

static int visit_latest(void *ctx, const struct snapshot_row *s)
{
    struct query *q = ctx;

    if (q->newest == 0)
        q->newest = s->commit.number;
    if (s->commit.kind == SNAPSHOT_SAFETY || (s->commit.flags & COMMIT_SUSPECT))
        return 0;
    if (q->good && snapshot_good(s) != SNAPSHOT_GOOD)
        return 0;
    if (q->skip-- > 0)
        return 0;
    q->found = s->commit.number;
    return 1;
}

static int visit_until(void *ctx, const struct snapshot_row *s)
{
    struct query *q = ctx;

    if (q->newest == 0)
        q->newest = s->commit.number;
    if (s->commit.time.s > q->until) {
        q->oldest = s->commit.number;
        q->oldest_time = s->commit.time.s;
        return 0;
    }
    q->found = s->commit.number;
    return 1;
}

static int none_fits(const struct query *q, struct error *e)
{
    char time[32];

    if (q->oldest == 0)
        return error_set(e, ERR_NOTFOUND, "no snapshot '%s' of watch '%s'; the newest is %" PRIu64,
                         q->text, q->row.name, q->newest);
    time_local(q->oldest_time, time, sizeof(time));
    return error_set(e, ERR_NOTFOUND,
                     "no snapshot of watch '%s' is as old as '%s'; the oldest is %" PRIu64
                     ", of %s",
                     q->row.name, q->text, q->oldest, time);
}

static int search(struct query *q, snapshot_visit visit, struct snapshot_row *row, struct error *e)
{
    int rc = need_watch(q, e);

    if (rc != 0)
        return rc;
    rc = catalog_snapshots(q->catalog, q->row.serial, 1, UINT64_MAX, true, visit, q, e);
    if (rc >= 0 && q->found != 0)
        rc = catalog_snapshot(q->catalog, q->found, row, e);
    else if (rc >= 0 && q->newest == 0)
        rc = error_set(e, ERR_NOTFOUND, "watch '%s' has no snapshot yet", q->row.name);
    else if (rc >= 0)
        rc = none_fits(q, e);
    watch_row_release(&q->row);
    return rc;
}

static int by_number(struct query *q, struct snapshot_row *row, struct error *e)
{
    char what[64];
    uint64_t number;

    int rc = parse_u64(q->text, &number, e);
    if (rc != 0)
        return rc;
    rc = catalog_snapshot(q->catalog, number, row, e);
    if (rc == ERR_NOTFOUND) {
        snprintf(what, sizeof(what), "snapshot %" PRIu64, number);
        return not_there(q, what, 0, e);
    }
    if (rc == 0 && q->watch && strcmp(q->watch, row->watch_name) != 0) {
        rc = error_set(e, ERR_NOTFOUND, "snapshot %" PRIu64 " is of watch '%s', not of '%s'",
                       number, row->watch_name, q->watch);
        snapshot_row_release(row);
    }
    return rc;
}

static int by_name(struct query *q, struct snapshot_row *row, struct error *e)
{
    char what[QUOTE_MAX + 32];
    char quoted[QUOTE_MAX];

    text_escape(q->text, quoted, sizeof(quoted));
    if (!parse_name_ok(q->text))
        return error_set(e, ERR_USAGE,
                         "'%s' is no snapshot (a number, a name, latest, latest~N, "
                         "good, good~N or @TIME)",
                         quoted);
    int rc = catalog_snapshot_by_name(q->catalog, q->text, q->watch, row, e);
    if (rc != ERR_NOTFOUND)
        return rc;
    snprintf(what, sizeof(what), "snapshot is named '%s'", quoted);
    return not_there(q, what, 0, e);
}

/* Whether text is word or word~N; the N goes to q->skip. */
static bool is_counted(struct query *q, const char *word, int *rc, struct error *e)
{
    size_t n = strlen(word);

    if (strncmp(q->text, word, n) != 0 || (q->text[n] && q->text[n] != '~'))
        return false;
    q->skip = 0;
    *rc = q->text[n] == '~' ? parse_u64(q->text + n + 1, &q->skip, e) : 0;
    return true;
}

static int resolve(struct query *q, struct snapshot_row *row, struct error *e)
{
    int rc = 0;

    if (is_counted(q, "latest", &rc, e))
        return rc != 0 ? rc : search(q, visit_latest, row, e);
    if (is_counted(q, "good", &rc, e)) {
        q->good = true;
        return rc != 0 ? rc : search(q, visit_latest, row, e);
    }
    if (*q->text && q->text[strspn(q->text, "0123456789")] == 0)
        return by_number(q, row, e);
    return by_name(q, row, e);
}

/* Length of the selector at the begin of text; what follows is "" or begins with ':'. */
static int selector_len(struct query *q, const char *text, size_t *len, struct error *e)
{
    size_t used;

    if (*text != '@') {
        *len = strcspn(text, ":");
        return 0;
    }
    int rc = parse_time_prefix(text + 1, clock_wall().s, &q->until, &used, e);
    *len = used + 1;
    return rc;
}

int selector_resolve(struct repo *r, const char *text, const char *watch, struct snapshot_row *row,
                     char **path, struct error *e)
{
    struct query q = {.catalog = repo_catalog(r), .watch = watch};
    char *inside = NULL;
    size_t len = 0;

    if (path)
        *path = NULL;
    int rc = selector_len(&q, text, &len, e);
    if (rc != 0)
        return rc;
    char *alone = strndup(text, len);
    if (!alone)
        return error_set(e, ERR_FAILED, "out of memory");
    q.text = alone;
    if (text[len] == ':' && !path)
        rc = error_set(e, ERR_USAGE, "'%s' names a path, where a snapshot alone is meant", alone);
    else if (text[len] == ':')
        rc = selector_path(text + len + 1, &inside, e);
    if (rc == 0)
        rc = *text == '@' ? search(&q, visit_until, row, e) : resolve(&q, row, e);
    if (rc == 0 && path)
        *path = inside;
    else
        free(inside);
    free(alone);
    return rc;
}
