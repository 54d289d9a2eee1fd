/* prune_fixture.h - prunes of a repository of repo_fixture.h: one policy for all watches, and what
 * was decided. Include it in one file of a test. */
#ifndef WK_TESTS_PRUNE_FIXTURE_H
#define WK_TESTS_PRUNE_FIXTURE_H

#define FIXTURE_ROOT "/"

#include "keep/prune.h"
#include "snapshot/selector.h"

#include "repo_fixture.h"

#define DAY INT64_C(86400)
#define HOUR INT64_C(3600)
#define BEGIN (INT64_C(1700000000) / DAY * DAY)

struct pruner {
    struct prune_policy policy;
    struct prune_request request;
    struct age_reading clocks;
    struct prune_result result;
    size_t told, told_dropped;
    char last_reason[128];
};

static inline int one_policy(void *ctx, const char *watch, struct prune_policy *out,
                             struct error *e)
{
    *out = ((struct pruner *)ctx)->policy;
    return strcmp(watch, "stranger") == 0 ? ERR_NOTFOUND : 0;
}

static inline void hear(void *ctx, const struct prune_line *line)
{
    struct pruner *p = ctx;

    p->told++;
    p->told_dropped += !line->keep;
    snprintf(p->last_reason, sizeof(p->last_reason), "%s", line->reason);
}

/* The clocks as the fixture has them: nothing but the fixture's time passes. */
static inline int prune(struct repo *r, struct pruner *p, struct error *e)
{
    prune_result_release(&p->result);
    p->told = p->told_dropped = 0;
    p->request.repo = r;
    p->request.policy = one_policy;
    p->request.tell = hear;
    p->request.ctx = p;
    p->clocks.boot += fixture_time > p->clocks.wall ? fixture_time - p->clocks.wall : 0;
    p->clocks.wall = fixture_time;
    p->request.clocks = &p->clocks;
    return prune_run(&p->request, &p->result, e);
}

static inline bool there(struct repo *r, uint64_t number)
{
    struct error e = ERROR_INIT;
    struct snapshot_row row;
    int rc = catalog_snapshot(repo_catalog(r), number, &row, &e);

    if (rc == 0)
        snapshot_row_release(&row);
    return rc == 0;
}

/* What the model holds and the repository does not has been dropped. */
static inline size_t note_dropped(struct repo *r, struct model *m)
{
    size_t dropped = 0;

    for (size_t i = 0; i < m->count; i++) {
        m->snapshots[i].dropped = !there(r, m->snapshots[i].number);
        dropped += m->snapshots[i].dropped;
    }
    return dropped;
}

#endif
