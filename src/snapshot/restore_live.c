#include "snapshot/restore_live.h"

#include "base/text.h"
#include "io/safe_path.h"
#include "snapshot/restore_plan_live.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

/* Open the root, and the folder below it that the content goes to, where it is there. */
static int open_places(struct live_plan *p, struct error *e)
{
    const struct live_request *req = p->req;
    const int flags = O_RDONLY | O_DIRECTORY;
    char quoted[300];

    p->rootfd = long_path_open(req->root, flags, e);
    if (p->rootfd < 0)
        return p->rootfd;
    p->place = *p->into ? safe_open(p->rootfd, p->into, flags | O_NOFOLLOW, 0, e) : p->rootfd;
    if (p->place < 0 && e->sys == ENOTDIR)
        return error_set(e, ERR_REFUSED, "'%s' is not a folder",
                         text_escape(p->into, quoted, sizeof(quoted)));
    if (p->place < 0 && e->sys != ENOENT)
        return p->place;
    if (p->place < 0) {
        error_clear(e);
        return 0;
    }
    if (restore_same_mount(p->rootfd, p->place))
        return 0;
    return error_set(e, ERR_REFUSED,
                     "'%s' lies on another file system that is mounted inside the root, where "
                     "nothing is restored in place: restore to another folder",
                     text_escape(p->into, quoted, sizeof(quoted)));
}

static void plan_init(struct live_plan *p, const struct live_request *req,
                      struct live_result *result)
{
    memset(result, 0, sizeof(*result));
    *p = (struct live_plan){.req = req,
                            .result = result,
                            .rootfd = -1,
                            .from = req->from ? req->from : "",
                            .into = req->into ? req->into : "",
                            .place = -1};
    p->shifted = strcmp(p->from, p->into) != 0;
}

int live_preview(const struct live_request *req, struct live_result *result, struct error *e)
{
    struct live_plan p;

    plan_init(&p, req, result);
    int rc = open_places(&p, e);
    if (rc == 0)
        rc = live_plan_make(&p, e);
    live_plan_release(&p);
    return rc;
}

/* ---- doing it ---- */

static int take_databases(struct restore_job *j, struct error *e)
{
    struct live_plan *p = j->live;
    size_t count = j->database_count + p->database_count;
    char **all = count > 0 ? reallocarray(j->databases, count, sizeof(char *)) : j->databases;

    if (count > 0 && !all)
        return error_set(e, ERR_FAILED, "out of memory");
    j->databases = all;
    j->database_cap = count;
    for (size_t i = 0; i < p->database_count; i++)
        j->databases[j->database_count++] = p->databases[i];
    p->database_count = 0;
    return 0;
}

static void tell_problems(struct restore_job *j)
{
    struct error why = ERROR_INIT;

    for (size_t i = 0; i < j->live->problem_count; i++) {
        error_set(&why, ERR_REFUSED, "%s", j->live->problems[i].why);
        restore_problem(j, j->live->problems[i].path, &why);
    }
}

/* A further step is done all the same; the first failure counts. */
static int also(int rc, int further, struct error *e, const struct error *why)
{
    if (rc == 0 && further != 0)
        *e = *why;
    return rc != 0 ? rc : further;
}

/* Everything that is new is written and flushed: change what stands there. */
static int apply(struct restore_job *j, struct restore_target *t, struct error *e)
{
    struct live_plan *p = j->live;
    struct error later = ERROR_INIT;

    p->result->begun = true;
    t->placed = true;
    t->into = *p->into ? live_make_place(p, e) : p->rootfd;
    int rc = t->into < 0 ? t->into : live_remove(j, t->into, e);
    if (rc == 0)
        rc = restore_merge(j, t, e);
    if (rc == 0)
        rc = live_set(j, t->into, e);
    restore_target_close(t);
    if (t->into < 0)
        return also(rc, live_leave(p, -1, &later), e, &later);
    /* Whatever has failed, no folder is left open, and what is there is flushed. */
    rc = also(rc, restore_folders(j, t->into, &later), e, &later);
    rc = also(rc, live_leave(p, t->into, &later), e, &later);
    rc = also(rc, restore_flush(t->into, &later), e, &later);
    if (t->into != p->rootfd)
        close(t->into);
    return rc;
}

static int stage(struct restore_job *j, struct restore_target *t, struct error *e)
{
    j->tree = t->tree;
    int rc = restore_write_tree(j, e);
    if (rc == 0)
        rc = take_databases(j, e);
    if (rc == 0)
        rc = restore_flush(t->tree, e);
    return rc;
}

static int run(struct restore_job *j, struct error *e)
{
    const struct live_request *req = j->live->req;
    struct error ignored = ERROR_INIT;
    struct restore_target t;

    tell_problems(j);
    if (live_plan_empty(j->live)) {
        restore_target_clear(j->live->rootfd);
        j->result->finished = true;
        return 0;
    }
    /* Its scratch folder changes the root's times, also where nothing else in it changes. */
    int rc = j->live->shifted ? live_enter_above(j->live, "", j->live->rootfd, e)
                              : live_enter(j->live, "", j->live->rootfd, e);
    if (rc != 0)
        return rc;
    rc = restore_target_live(j->live->rootfd, req->root, &t, e);
    bool of_target = rc != 0;
    if (rc == 0) {
        rc = stage(j, &t, e);
        of_target = atomic_load(&j->target_failed);
    }
    if (rc == 0 && req->begin)
        rc = req->begin(req->ctx, e);
    if (rc == 0) {
        rc = apply(j, &t, e);
        of_target = rc != 0;
        j->result->finished = rc == 0;
    }
    if (of_target)
        restore_tell_target(j, &t, e);
    restore_target_close(&t);
    if (!j->live->result->begun)
        live_leave(j->live, j->live->place, &ignored);
    if (t.folder >= 0)
        close(t.folder);
    return rc;
}

static int run_once(const struct live_request *req, struct live_result *result, struct error *e)
{
    struct live_plan p;
    const struct restore_request request = {.repo = req->repo,
                                            .snapshot = req->snapshot,
                                            .path = req->from ? req->from : "",
                                            .target = req->root,
                                            .overwrite = true,
                                            .workers = req->workers,
                                            .progress = req->progress,
                                            .cancel = req->cancel};

    plan_init(&p, req, result);
    int rc = open_places(&p, e);
    if (rc == 0)
        rc = live_plan_make(&p, e);
    if (rc == 0)
        rc = restore_job_run(&request, &p, &result->written, run, e);
    live_plan_release(&p);
    return rc;
}

/* A catalog that fails is replaced and all is done anew, but only while nothing has changed: what
 * was put in place is not what base holds. */
int live_restore(const struct live_request *req, struct live_result *result, struct error *e)
{
    struct catalog_try tried = repo_catalog_try(req->repo);
    int rc;

    while (rc = run_once(req, result, e),
           !result->begun && repo_catalog_replaced(req->repo, rc, &tried))
        live_result_release(result);
    return rc;
}

void live_result_release(struct live_result *r)
{
    restore_result_release(&r->written);
}
