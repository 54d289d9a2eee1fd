#include "service/archives.h"

#include "keep/archive_report.h"
#include "service/policy.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/banned.h"

/* Of the nearest folder on the way to it that is there. */
static bool device_of(const char *path, dev_t *dev)
{
    char *at = strdup(path);
    char *slash = at;
    struct stat st;
    bool is = false;

    while (at && slash && !(is = stat(*at ? at : "/", &st) == 0) && (slash = strrchr(at, '/')))
        *slash = 0;
    free(at);
    *dev = is ? st.st_dev : 0;
    return is;
}

/* What saves leave to others archives do too, where they stand on the same file system. */
static uint64_t left_free(const struct config *c, const char *folder)
{
    struct statvfs fs;
    unsigned percent;
    uint64_t bytes;
    dev_t here, there;

    policy_left_free(c, &bytes, &percent);
    if (!device_of(c->repository, &here) || !device_of(folder, &there) || here != there ||
        statvfs(c->repository, &fs) != 0)
        return 0;
    return bytes ? bytes : (uint64_t)fs.f_blocks * fs.f_frsize / 100 * percent;
}

void archives_order(const struct config *c, const char *watch, struct archive_order *o)
{
    bool folder = strcmp(config_text(c, "archive", watch, "format"), "directory") == 0;

    o->folder = config_text(c, "archive", watch, "path");
    o->format = folder ? ARCHIVE_DIRECTORY : ARCHIVE_TAR_GZ;
    o->level = (unsigned)config_number(c, "archive", watch, "level");
    o->leave_free = left_free(c, o->folder);
}

int archives_each(const struct config *c, const char *watch, archive_visit visit, void *ctx,
                  struct error *e)
{
    const char *usual = config_text(c, "archive", NULL, "path");
    int rc = archive_list(usual, watch, visit, ctx, e);

    for (size_t i = 0; rc == 0 && i < c->watch_count; i++) {
        const char *name = c->watches[i].name;
        const char *own = config_text(c, "archive", name, "path");
        if (strcmp(own, usual) != 0 && (!watch || strcmp(watch, name) == 0))
            rc = archive_list(own, name, visit, ctx, e);
    }
    return rc;
}

struct listing {
    const struct archives_filter *filter;
    json_t *list;
};

static int add_item(void *ctx, const struct archive_item *item, struct error *e)
{
    const struct listing *l = ctx;
    const struct archives_filter *f = l->filter;

    if ((f->has_since && item->time.s < f->since) || (f->has_until && item->time.s > f->until))
        return 0;
    if (json_array_append_new(l->list, archive_report_item(item)) != 0)
        return error_set(e, ERR_FAILED, "out of memory");
    return 0;
}

/* Where archives of several folders meet. */
static void put_in_order(json_t *list)
{
    for (size_t i = 1; i < json_array_size(list); i++) {
        json_t *item = json_incref(json_array_get(list, i));
        const char *time = json_string_value(json_object_get(item, "time"));
        size_t to = i;
        while (to > 0 &&
               strcmp(json_string_value(json_object_get(json_array_get(list, to - 1), "time")),
                      time) > 0)
            to--;
        if (to < i) {
            json_array_remove(list, i);
            json_array_insert(list, to, item);
        }
        json_decref(item);
    }
}

int archives_report(const struct config *c, const struct archives_filter *f, json_t **out,
                    struct error *e)
{
    struct listing l = {.filter = f, .list = json_array()};
    int rc = l.list ? archives_each(c, f->watch, add_item, &l, e)
                    : error_set(e, ERR_FAILED, "out of memory");

    if (rc == 0)
        put_in_order(l.list);
    while (rc == 0 && f->recent && json_array_size(l.list) > f->recent)
        json_array_remove(l.list, 0);
    *out = rc == 0 ? json_pack("{s:i,s:O}", "schema", 1, "archives", l.list) : NULL;
    json_decref(l.list);
    return rc == 0 && !*out ? error_set(e, ERR_FAILED, "out of memory") : rc;
}
