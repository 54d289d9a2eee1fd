#include "service/prune_work.h"

#include "base/text.h"
#include "service/archives.h"
#include "service/policy.h"
#include "snapshot/report.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum { HOST_MAX = 256 };

struct work {
    const struct prune_order *order;
    json_t *decisions; /* by what they are of: one each, the last one counts */
};

static int policy(void *ctx, const char *watch, struct prune_policy *out, struct error *e)
{
    const struct work *w = ctx;

    return policy_of(w->order->config, watch, out);
}

static void tell(void *ctx, const struct prune_line *line)
{
    struct work *w = ctx;
    char key[PRUNE_NAME_MAX + 160];

    if (line->archive)
        snprintf(key, sizeof(key), "%s/%s", line->watch, line->archive);
    else
        snprintf(key, sizeof(key), "%" PRIu64, line->snapshot);
    json_t *o = json_pack("{s:s,s:o,s:o,s:o,s:o,s:b,s:s}", "type", "decision", "id",
                          line->archive ? json_null() : json_integer((json_int_t)line->snapshot),
                          "archive", report_text(line->archive), "watch", report_text(line->watch),
                          "time", report_time((struct wall_time){.s = line->time}), "keep",
                          line->keep, "reason", line->reason);
    if (o)
        json_object_set_new(w->decisions, key, o);
}

/* ---- archives ---- */

struct archive_list {
    struct prune_archive *list;
    size_t count, cap;
    char repository[ARCHIVE_REPOSITORY_MAX]; /* ours */
    char host[HOST_MAX];                     /* ours */
};

/* One that nobody can say anything about is left alone. */
static int add_archive(void *ctx, const struct archive_item *item, struct error *e)
{
    struct archive_list *l = ctx;

    if (l->count == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 32;
        struct prune_archive *list = reallocarray(l->list, cap, sizeof(*list));
        if (!list)
            return error_set(e, ERR_FAILED, "out of memory");
        l->list = list;
        l->cap = cap;
    }
    struct prune_archive *a = &l->list[l->count];
    *a = (struct prune_archive){.item = strdup(item->path),
                                .snapshot = item->snapshot,
                                .foreign = strcmp(item->repository, l->repository) != 0,
                                .other_host = !item->host || strcmp(item->host, l->host) != 0,
                                .root = item->root ? strdup(item->root) : NULL,
                                .time = item->time.s,
                                .utc_offset = item->utc_offset,
                                .verified =
                                    item->verified.s != 0 && !item->damaged && !item->suspect,
                                .manual = item->manual || !item->told,
                                .size = item->stored_bytes};
    l->count++;
    snprintf(a->name, sizeof(a->name), "%s", item->name);
    return a->item && (a->root || !item->root) ? 0 : error_set(e, ERR_FAILED, "out of memory");
}

static int by_age(const void *a, const void *b)
{
    const struct prune_archive *x = a, *y = b;

    if (x->foreign != y->foreign) /* what was before this repository is older */
        return x->foreign ? -1 : 1;
    if (!x->foreign && x->snapshot != y->snapshot) /* the clock may have been anywhere */
        return x->snapshot < y->snapshot ? -1 : 1;
    if (x->time != y->time)
        return x->time < y->time ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int list_archives(void *ctx, const char *watch, struct prune_archive **list, size_t *count,
                         struct error *e)
{
    const struct prune_order *o = ctx;
    struct archive_list l = {0};

    text_hex(repo_id(o->repo), 16, l.repository);
    gethostname(l.host, sizeof(l.host) - 1);
    int rc = archives_each(o->config, watch, add_archive, &l, e);

    if (l.count > 0)
        qsort(l.list, l.count, sizeof(*l.list), by_age);
    *list = l.list;
    *count = l.count;
    return rc;
}

static int remove_archive(void *ctx, const struct prune_archive *a, struct error *e)
{
    char name[PRUNE_NAME_MAX];
    const struct archive_item item = {.path = a->item, .name = name};

    snprintf(name, sizeof(name), "%s", a->name);
    return archive_remove(&item, e);
}

static void release_archives(void *ctx, struct prune_archive *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(list[i].item);
        free(list[i].root);
    }
    free(list);
}

/* ---- telling ---- */

static json_t *frozen_list(const struct prune_result *r)
{
    json_t *list = json_array();

    for (size_t i = 0; i < r->frozen_count; i++)
        json_array_append_new(list, json_pack("{s:o,s:o}", "watch", report_text(r->frozen[i].watch),
                                              "reason", report_text(r->frozen[i].reason)));
    return list;
}

static json_t *summary(const struct prune_order *o, const struct prune_result *r, int code)
{
    return json_pack("{s:s,s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:o,s:i}", "type", "summary",
                     "dry_run", o->dry_run, "kept", (json_int_t)r->kept, "dropped",
                     (json_int_t)r->dropped, "archives_kept", (json_int_t)r->archives_kept,
                     "archives_dropped", (json_int_t)r->archives_dropped, "verified",
                     (json_int_t)r->verified, "bytes_before", (json_int_t)r->bytes_before,
                     "bytes_after", (json_int_t)r->bytes_after, "bytes_moved",
                     (json_int_t)r->bytes_moved, "too_large", (json_int_t)r->too_large, "frozen",
                     frozen_list(r), "exit", error_exit_code(code));
}

int prune_work(const struct prune_order *o, json_t **lines, struct error *e)
{
    struct work w = {.order = o, .decisions = json_object()};
    struct prune_result result;
    const char *key;
    json_t *line;
    struct prune_order same = *o;
    const struct prune_archives archives = {
        .list = list_archives, .remove = remove_archive, .release = release_archives, .ctx = &same};
    const struct prune_request q = {.repo = o->repo,
                                    .archives = &archives,
                                    .reader = o->reader,
                                    .watch = o->watch,
                                    .dry_run = o->dry_run,
                                    .thaw = o->thaw,
                                    .pressed = o->pressed,
                                    .room = o->room,
                                    .policy = policy,
                                    .tell = tell,
                                    .ctx = &w,
                                    .clocks = o->clocks,
                                    .cancel = o->cancel};

    int rc = prune_run(&q, &result, e);
    if (rc == 0 && result.frozen_count > 0)
        rc = error_set(e, ERR_REFUSED,
                       "pruning of '%s' is frozen: %s; it goes on by itself when the cause is "
                       "gone; if all is right: watchkeep -w %s prune --thaw",
                       result.frozen[0].watch, result.frozen[0].reason, result.frozen[0].watch);
    *lines = json_array();
    json_object_foreach(w.decisions, key, line) json_array_append(*lines, line);
    json_array_append_new(*lines, summary(o, &result, rc));
    json_decref(w.decisions);
    prune_result_release(&result);
    return rc;
}
