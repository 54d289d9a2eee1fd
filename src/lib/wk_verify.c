#include "lib/handle.h"

#include "base/text.h"
#include "snapshot/selector.h"
#include "snapshot/verify.h"

#include <stdlib.h>

#include "base/banned.h"

static int name_damage(const struct verify_result *v, struct error *e)
{
    char quoted[400];

    if (v->errors == 0)
        return 0;
    if (v->damaged_count == 0)
        return error_set(e, ERR_DAMAGED, "%llu errors in what is stored",
                         (unsigned long long)v->errors);
    const struct verify_damage *d = &v->damaged[0];
    if (!d->path)
        return error_set(e, ERR_DAMAGED, "the repository is damaged: %s", d->reason);
    error_set(e, ERR_DAMAGED, "'%s' of snapshot %llu is damaged: %s",
              text_escape(d->path, quoted, sizeof(quoted)), (unsigned long long)d->snapshot,
              d->reason);
    return error_path(e, d->path);
}

/* number 0: everything stored. */
static int verify(struct repo *r, uint64_t number, unsigned flags, wk_verify_result *out,
                  struct error *e)
{
    struct verify_result v = {0};
    struct verify_request req = {.repo = r,
                                 .level = flags & WK_VERIFY_QUICK ? VERIFY_QUICK : VERIFY_FULL,
                                 .snapshots = number ? &number : NULL,
                                 .count = number ? 1 : 0,
                                 .again = true};
    int rc = verify_run(&req, &v, e);

    if (rc == 0)
        rc = name_damage(&v, e);
    out->snapshots = v.snapshots;
    out->chunks = v.chunks;
    out->bytes = v.bytes;
    out->errors = v.errors;
    out->seconds = v.seconds;
    verify_result_release(&v);
    return rc;
}

static int number_of(struct repo *r, const char *selector, uint64_t *number, struct error *e)
{
    struct snapshot_row s = {0};
    char *path = NULL;
    int rc = selector_resolve(r, selector, NULL, &s, &path, e);

    if (rc != 0)
        return rc;
    *number = s.commit.number;
    if (path)
        rc = error_set(e, ERR_USAGE, "a snapshot is verified as a whole, not '%s' alone", path);
    snapshot_row_release(&s);
    free(path);
    return rc;
}

int wk_verify(wk_handle *handle, const char *selector, unsigned flags, wk_verify_result *result)
{
    wk_verify_result out = WK_VERIFY_RESULT_INIT;
    struct error *e = handle_begin(handle);
    struct repo *r = NULL;
    uint64_t number = 0;
    struct catalog_try tried;
    int rc = 0;

    if (flags & ~(unsigned)WK_VERIFY_QUICK)
        rc = error_set(e, ERR_USAGE, "an unknown flag is given");
    if (rc == 0)
        rc = handle_repo(handle, &r, e);
    if (rc == 0 && selector) {
        tried = repo_catalog_try(r);
        while (rc = number_of(r, selector, &number, e), repo_catalog_replaced(r, rc, &tried))
            ;
    }
    if (rc == 0)
        rc = verify(r, number, flags, &out, e);
    repo_close(r);
    struct_give(result, &out, sizeof(out));
    return handle_end(handle, rc);
}
