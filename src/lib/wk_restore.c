#include "lib/handle.h"

#include "base/text.h"
#include "config/places.h"
#include "snapshot/restore.h"
#include "snapshot/selector.h"

#include <stdlib.h>

#include "base/banned.h"

/* Live data is not a place to restore to from here: no file of it may be opened in this process. */
static int check_target(struct repo *r, const char *target, struct error *e)
{
    struct watch_row *rows = NULL;
    size_t count = 0;
    char quoted[300];
    int rc = catalog_watches(repo_catalog(r), &rows, &count, e);

    for (size_t i = 0; i < count; i++) {
        if (rc == 0 && (place_inside(target, rows[i].root) || place_inside(rows[i].root, target)))
            rc = error_set(e, ERR_REFUSED, "'%s' is, holds or lies in the root of watch '%s'",
                           text_escape(target, quoted, sizeof(quoted)), rows[i].name);
        watch_row_release(&rows[i]);
    }
    free(rows);
    if (rc == 0 && place_inside(target, repo_path(r)))
        rc = error_set(e, ERR_REFUSED, "'%s' lies in the repository",
                       text_escape(target, quoted, sizeof(quoted)));
    return rc;
}

static int run(struct repo *r, const struct snapshot_row *s, const char *path, const char *target,
               const wk_restore_options *o, struct restore_result *result, struct error *e)
{
    struct restore_request req = {.repo = r,
                                  .snapshot = s,
                                  .path = path,
                                  .target = target,
                                  .overwrite = o->overwrite != 0,
                                  .workers = o->threads};
    int rc = check_target(r, target, e);

    if (rc == 0)
        rc = repo_lease(r, s->commit.number, e);
    if (rc != 0)
        return rc;
    rc = restore_run(&req, result, e);
    repo_lease_end(r, s->commit.number);
    return rc;
}

static int restore(struct repo *r, const char *selector, const char *target,
                   const wk_restore_options *o, wk_restore_result *out, struct error *e)
{
    struct restore_result result = {0};
    struct snapshot_row s = {0};
    char *path = NULL;
    int rc = selector_resolve(r, selector, o->watch, &s, &path, e);

    if (rc != 0)
        return rc;
    out->snapshot = s.commit.number;
    rc = run(r, &s, path, target, o, &result, e);
    out->files = result.files;
    out->bytes = result.bytes;
    out->skipped = result.skipped;
    out->seconds = result.seconds;
    restore_result_release(&result);
    snapshot_row_release(&s);
    free(path);
    return rc;
}

int wk_restore(wk_handle *handle, const char *selector, const char *target,
               const wk_restore_options *options, wk_restore_result *result)
{
    wk_restore_options o = WK_RESTORE_OPTIONS_INIT;
    wk_restore_result out = WK_RESTORE_RESULT_INIT;
    struct error *e = handle_begin(handle);
    struct repo *r = NULL;
    char *place = NULL;
    struct catalog_try tried;
    int rc = 0;

    struct_take(&o, sizeof(o), options);
    if (!selector || !*selector || !target || !*target)
        rc = error_set(e, ERR_USAGE, "no snapshot or no target is given");
    if (rc == 0 && !(place = path_absolute(target, e)))
        rc = e->code;
    if (rc == 0)
        rc = handle_repo(handle, &r, e);
    if (rc == 0) {
        tried = repo_catalog_try(r);
        while (rc = restore(r, selector, place, &o, &out, e), repo_catalog_replaced(r, rc, &tried))
            ;
    }
    repo_close(r);
    free(place);
    struct_give(result, &out, sizeof(out));
    return handle_end(handle, rc);
}
