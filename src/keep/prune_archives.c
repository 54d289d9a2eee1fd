#include "keep/prune_private.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* 1: the floor does not let it go. */
static int remove_one(struct pruning *p, struct prune_items *l, const struct prune_archive *list,
                      bool *gone, size_t i, struct error *e)
{
    const struct prune_archives *a = p->q->archives;

    gone[i] = true;
    if (!retention_floor_holds(l->items, l->count, gone)) {
        gone[i] = false;
        return 1;
    }
    return a->remove(a->ctx, &list[i], e);
}

/* Several may keep their archives in one folder, under one name of a watch: what another repository
 * had is an older one of ours only where it was made here, of the same folder. */
static bool somebody_elses(const struct prune_watch *w, const struct prune_archive *a)
{
    return a->foreign && (a->other_host || !a->root || strcmp(a->root, w->row.root) != 0);
}

/* One that cannot be removed keeps no other one; the first failure is told in the end. */
static int remove_all(struct pruning *p, const struct prune_watch *w, struct prune_items *l,
                      const struct prune_archive *list, prune_teller tell, struct error *e)
{
    bool *gone = calloc(l->count, sizeof(*gone));
    char text[KEEP_TEXT_MAX];
    int rc = gone ? 0 : prune_no_memory(e);

    for (size_t i = 0; gone && i < l->count; i++) {
        struct error ignored = ERROR_INIT;
        bool keep = l->decisions[i].keep;
        int one = keep || p->q->dry_run ? 0 : remove_one(p, l, list, gone, i, rc ? &ignored : e);
        retention_text(&l->items[i], &w->policy.archives, &l->decisions[i], text);
        tell(p, w, &l->items[i], list[i].name, keep || one != 0,
             one < 0                                          ? "it cannot be removed"
             : one > 0                                        ? "the floor needs it"
             : !list[i].manual && somebody_elses(w, &list[i]) ? "of another host or folder"
                                                              : text);
        rc = rc == 0 && one < 0 ? one : rc;
    }
    free(gone);
    return rc;
}

int prune_archives_of(struct pruning *p, struct prune_watch *w, prune_teller tell, struct error *e)
{
    const struct prune_archives *a = p->q->archives;
    struct prune_archive *list = NULL;
    struct prune_items l = {0};

    int rc = a->list(a->ctx, w->row.name, &list, &l.count, e);
    if (rc != 0 || l.count == 0)
        goto out;
    l.items = calloc(l.count, sizeof(*l.items));
    l.decisions = calloc(l.count, sizeof(*l.decisions));
    if (!l.items || !l.decisions) {
        rc = prune_no_memory(e);
        goto out;
    }
    for (size_t i = 0; i < l.count; i++)
        l.items[i] = (struct keep_item){.number = i + 1,
                                        .time = list[i].time,
                                        .utc_offset = list[i].utc_offset,
                                        .good = list[i].verified && !somebody_elses(w, &list[i]),
                                        .named = list[i].manual || somebody_elses(w, &list[i]),
                                        .size = list[i].size};
    rc = retention_plan(l.items, l.count, &w->policy.archives, p->now, l.decisions, e);
    if (rc == 0)
        rc = remove_all(p, w, &l, list, tell, e);
out:
    a->release(a->ctx, list, l.count);
    prune_items_release(&l);
    return rc;
}
