#include "keep/prune.h"

#include "base/clock.h"
#include "keep/guard.h"
#include "keep/pin.h"
#include "keep/prune_private.h"
#include "snapshot/freeze.h"
#include "snapshot/selector.h"
#include "snapshot/verify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum {
    BATCH = 64,        /* snapshots dropped by one record */
    FLOOR_ROUNDS = 16, /* each finds damage, or is the last */
    PRESSED_SHARE = 8, /* of what may go, at a time, when space is short */
};

int prune_no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

static int stopped(const struct pruning *p, struct error *e)
{
    return p->q->cancel && atomic_load(p->q->cancel)
               ? error_set(e, ERR_CANCELLED, "the pruning was interrupted")
               : 0;
}

/* ---- what there is ---- */

static int add_item(void *ctx, const struct snapshot_row *row)
{
    struct prune_items *l = ctx;

    if (l->count == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 64;
        struct keep_item *items = reallocarray(l->items, cap, sizeof(*items));
        if (!items)
            return ERR_FAILED;
        l->items = items;
        l->cap = cap;
    }
    bool named = row->commit.name && *row->commit.name;
    enum snapshot_good good = snapshot_good(row);
    l->items[l->count++] = (struct keep_item){
        .number = row->commit.number,
        .time = row->commit.time.s,
        .utc_offset = row->commit.utc_offset,
        .good = good == SNAPSHOT_GOOD,
        .unproven = good == SNAPSHOT_GOOD_UNKNOWN,
        .pinned = row->pinned && !named,
        .named = row->pinned && named,
        .suspect = (row->commit.flags & COMMIT_SUSPECT) != 0,
        .safety = row->commit.kind == SNAPSHOT_SAFETY,
        .size = row->commit.bytes_stored,
    };
    return 0;
}

static int load_items(struct pruning *p, const struct prune_watch *w, struct prune_items *l,
                      struct error *e)
{
    struct catalog *c;

    l->count = 0;
    int rc = repo_catalog_open(p->q->repo, &c, e);
    if (rc != 0)
        return rc;
    rc = catalog_snapshots(c, w->row.serial, 1, UINT64_MAX, false, add_item, l, e);
    repo_catalog_close(p->q->repo, c);
    if (rc == ERR_FAILED && e->code == 0)
        return prune_no_memory(e);
    if (rc == 0 && l->count > 0) {
        struct keep_decision *d = reallocarray(l->decisions, l->count, sizeof(*d));
        if (!d)
            return prune_no_memory(e);
        l->decisions = d;
    }
    return rc;
}

void prune_items_release(struct prune_items *l)
{
    free(l->items);
    free(l->decisions);
    *l = (struct prune_items){0};
}

static int plan(struct pruning *p, struct prune_items *l, const struct keep_policy *policy,
                struct error *e)
{
    return l->count == 0 ? 0 : retention_plan(l->items, l->count, policy, p->now, l->decisions, e);
}

static size_t dropped_in(const struct prune_items *l)
{
    size_t n = 0;

    for (size_t i = 0; i < l->count; i++)
        n += !l->decisions[i].keep;
    return n;
}

/* ---- the floor is verified ---- */

static int verify(struct pruning *p, const uint64_t *numbers, size_t count, struct error *e)
{
    struct verify_result result = {0};
    struct verify_request request = {
        .repo = p->q->reader ? p->q->reader : p->q->repo,
        .level = VERIFY_FULL,
        .snapshots = numbers,
        .count = count,
        .record = true,
        .record_in = p->q->repo,
        .cancel = p->q->cancel,
    };
    int rc = verify_run(&request, &result, e);

    p->result->verified += rc == 0 ? count : 0;
    verify_result_release(&result);
    return rc;
}

/* Those of the floor that nobody has verified, taking what is not known for good. */
static int unproven_floor(struct pruning *p, struct prune_items *l,
                          const struct keep_policy *policy, uint64_t **numbers, size_t *count,
                          struct error *e)
{
    *count = 0;
    *numbers = l->count ? calloc(l->count, sizeof(**numbers)) : NULL;
    if (l->count && !*numbers)
        return prune_no_memory(e);
    for (size_t i = 0; i < l->count; i++)
        l->items[i].good |= l->items[i].unproven;
    int rc = plan(p, l, policy, e);
    for (size_t i = 0; i < l->count; i++) {
        bool unproven = l->items[i].unproven;
        l->items[i].good &= !unproven;
        if (rc == 0 && unproven && l->decisions[i].floor_reason != KEEP_BY_NONE)
            (*numbers)[(*count)++] = l->items[i].number;
    }
    return rc;
}

/* Verify what the floor would stand on, until it stands on what was verified. */
static int prove_floor(struct pruning *p, struct prune_watch *w, struct prune_items *l,
                       const struct keep_policy *policy, bool drops, struct error *e)
{
    uint64_t *numbers = NULL;
    size_t count = 0;
    int rc = 0;

    for (int round = 0; rc == 0 && round < FLOOR_ROUNDS; round++) {
        rc = unproven_floor(p, l, policy, &numbers, &count, e);
        drops |= rc == 0 && dropped_in(l) > 0;
        bool proven = count == 0 || !drops || p->q->dry_run;
        if (rc == 0 && !proven)
            rc = verify(p, numbers, count, e);
        free(numbers);
        if (proven)
            break;
        if (rc == 0)
            rc = load_items(p, w, l, e);
    }
    return rc;
}

/* ---- telling ---- */

static void tell_one(struct pruning *p, const struct prune_watch *w, const struct keep_item *item,
                     const char *archive, bool keep, const char *reason)
{
    const struct prune_line line = {.watch = w->row.name,
                                    .archive = archive,
                                    .snapshot = archive ? 0 : item->number,
                                    .time = item->time,
                                    .keep = keep,
                                    .reason = reason};

    if (archive)
        *(keep ? &p->result->archives_kept : &p->result->archives_dropped) += 1;
    else
        *(keep ? &p->result->kept : &p->result->dropped) += 1;
    if (p->q->tell)
        p->q->tell(p->q->ctx, &line);
}

static void tell_all_kept(struct pruning *p, const struct prune_watch *w,
                          const struct prune_items *l, const char *reason)
{
    for (size_t i = 0; i < l->count; i++)
        tell_one(p, w, &l->items[i], NULL, true, reason);
}

/* ---- dropping ---- */

struct numbers { /* rising */
    uint64_t *list;
    size_t count;
};

static int numbers_init(struct numbers *n, size_t cap, struct error *e)
{
    *n = (struct numbers){.list = calloc(cap ? cap : 1, sizeof(*n->list))};
    return n->list ? 0 : prune_no_memory(e);
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static bool is_in(const struct numbers *n, uint64_t number)
{
    return bsearch(&number, n->list, n->count, sizeof(number), by_number) != NULL;
}

static int still_frozen(struct pruning *p, const struct prune_watch *w, bool *frozen,
                        struct error *e)
{
    struct watch_row row;
    struct catalog *c;

    int rc = repo_catalog_open(p->q->repo, &c, e);
    if (rc != 0)
        return rc;
    rc = catalog_watch_by_id(c, w->row.id, &row, e);
    if (rc == 0) {
        *frozen = row.frozen != 0;
        watch_row_release(&row);
    }
    repo_catalog_close(p->q->repo, c);
    return rc;
}

/* Of `want` those that may go as things are this moment. */
static int choose(struct pruning *p, const struct prune_items *l, const struct numbers *want,
                  struct numbers *now, struct error *e)
{
    bool *drop = calloc(l->count ? l->count : 1, sizeof(*drop));

    if (!drop)
        return prune_no_memory(e);
    for (size_t i = 0; i < l->count; i++) {
        const struct keep_item *item = &l->items[i];
        if (!is_in(want, item->number) || item->pinned || item->named ||
            repo_leased(p->q->repo, item->number))
            continue;
        drop[i] = true;
        if (retention_floor_holds(l->items, l->count, drop))
            now->list[now->count++] = item->number;
        else
            drop[i] = false;
    }
    free(drop);
    return 0;
}

static int drop_batch(struct pruning *p, struct prune_watch *w, const struct numbers *want,
                      struct numbers *done, struct error *e)
{
    struct numbers now = {.list = done->list + done->count};
    struct prune_items l = {0};
    bool frozen = false;

    pin_hold();
    int rc = load_items(p, w, &l, e);
    if (rc == 0)
        rc = still_frozen(p, w, &frozen, e);
    if (rc == 0 && !frozen)
        rc = choose(p, &l, want, &now, e);
    if (rc == 0 && now.count > 0)
        rc = repo_drop(p->q->repo, now.list, (uint32_t)now.count, e);
    pin_release();
    prune_items_release(&l);
    if (rc == 0)
        done->count += now.count;
    return rc;
}

/* done has room for as many as `all`. */
static int drop(struct pruning *p, struct prune_watch *w, const struct numbers *all,
                struct numbers *done, struct error *e)
{
    int rc = 0;

    for (size_t at = 0; rc == 0 && at < all->count; at += BATCH) {
        size_t n = all->count - at < BATCH ? all->count - at : BATCH;
        const struct numbers want = {.list = all->list + at, .count = n};
        rc = stopped(p, e);
        if (rc == 0)
            rc = drop_batch(p, w, &want, done, e);
    }
    return rc;
}

/* ---- one watch ---- */

/* What was to go and is still there somebody reads just now, or has pinned. */
static void tell_plan(struct pruning *p, struct prune_watch *w, const struct prune_items *l,
                      const struct keep_policy *policy, const struct numbers *done, bool failed)
{
    char text[KEEP_TEXT_MAX];

    for (size_t i = 0; i < l->count; i++) {
        const struct keep_item *item = &l->items[i];
        bool keep = l->decisions[i].keep;
        bool gone = !keep && (is_in(done, item->number) || p->q->dry_run);
        if (failed && !gone)
            continue;
        retention_text(item, policy, &l->decisions[i], text);
        tell_one(p, w, item, NULL, !gone, keep || gone ? text : "it is in use now");
    }
}

static int carry_out(struct pruning *p, struct prune_watch *w, const struct prune_items *l,
                     const struct keep_policy *policy, struct error *e)
{
    struct numbers all = {0}, done = {0};
    int rc = numbers_init(&all, l->count, e);

    if (rc == 0)
        rc = numbers_init(&done, l->count, e);
    for (size_t i = 0; rc == 0 && i < l->count; i++)
        if (!l->decisions[i].keep)
            all.list[all.count++] = l->items[i].number;
    if (rc == 0 && !p->q->dry_run)
        rc = drop(p, w, &all, &done, e);
    if (done.list)
        tell_plan(p, w, l, policy, &done, rc != 0);
    free(all.list);
    free(done.list);
    return rc;
}

static int note_frozen(struct pruning *p, struct prune_watch *w, struct error *e)
{
    struct prune_result *r = p->result;
    struct freeze_reason why;
    struct catalog *c;
    char text[400];

    struct prune_frozen *all = reallocarray(r->frozen, r->frozen_count + 1, sizeof(*all));
    if (!all)
        return prune_no_memory(e);
    r->frozen = all;
    int rc = repo_catalog_open(p->q->repo, &c, e);
    if (rc != 0)
        return rc;
    rc = freeze_why(c, &w->row, ~0u, &why, e);
    if (rc == 0 && !*why.text && guard_root(c, &w->row, text, sizeof(text), e) == 1)
        snprintf(why.text, sizeof(why.text), "%s", text); /* a dry run wrote no mark */
    repo_catalog_close(p->q->repo, c);
    if (rc != 0)
        return rc;
    struct prune_frozen *f = &r->frozen[r->frozen_count++];
    snprintf(f->watch, sizeof(f->watch), "%s", w->row.name);
    snprintf(f->reason, sizeof(f->reason), "%s", why.text);
    w->frozen = true;
    return 0;
}

static int load_row(struct pruning *p, struct prune_watch *w, bool look, struct error *e)
{
    struct watch_row fresh = {0};
    struct catalog *c;

    int rc = repo_catalog_open(p->q->repo, &c, e);
    if (rc != 0)
        return rc;
    rc = catalog_watch_by_id(c, w->row.id, &fresh, e);
    if (rc == 0) {
        watch_row_release(&w->row);
        w->row = fresh;
    }
    if (rc == 0 && look)
        rc = guard_look(p->q->repo, c, p->q->thaw, p->q->dry_run, &w->row, e);
    repo_catalog_close(p->q->repo, c);
    return rc;
}

static int prune_snapshots(struct pruning *p, struct prune_watch *w, struct error *e)
{
    struct keep_policy policy = w->policy.snapshots;
    struct prune_items l = {0};

    if (p->q->dry_run && w->policy.max_size > 0) { /* a guess: what each save stored */
        policy.max_size = w->policy.max_size;
        policy.size_besides = p->unshared;
    }
    int rc = load_items(p, w, &l, e);
    if (rc == 0)
        rc = prove_floor(p, w, &l, &policy, false, e);
    if (rc == 0 && !p->q->dry_run)
        rc = load_row(p, w, false, e); /* damage may have been found */
    if (rc == 0 && w->row.frozen) {
        rc = note_frozen(p, w, e);
        tell_all_kept(p, w, &l, "pruning is frozen");
    } else if (rc == 0) {
        rc = plan(p, &l, &policy, e);
        if (rc == 0)
            rc = carry_out(p, w, &l, &policy, e);
    }
    prune_items_release(&l);
    return rc;
}

static int prune_watch(struct pruning *p, struct prune_watch *w, struct error *e)
{
    struct prune_items l = {0};
    int rc = stopped(p, e);

    if (rc == 0 && !w->configured) {
        rc = load_items(p, w, &l, e);
        if (rc == 0)
            tell_all_kept(p, w, &l, "the watch is no longer configured");
        prune_items_release(&l);
        return rc;
    }
    if (rc == 0)
        rc = load_row(p, w, true, e);
    if (rc == 0 && w->row.frozen) {
        rc = load_items(p, w, &l, e);
        if (rc == 0)
            rc = note_frozen(p, w, e);
        if (rc == 0)
            tell_all_kept(p, w, &l, "pruning is frozen");
        prune_items_release(&l);
        return rc;
    }
    if (rc == 0)
        rc = prune_snapshots(p, w, e);
    if (rc == 0 && !w->frozen && p->q->archives) {
        struct error own = ERROR_INIT;
        if (prune_archives_of(p, w, tell_one, &own) != 0 && !p->archives.code)
            p->archives = own;
    }
    return rc;
}

/* ---- when space is short ---- */

/* With each of them of size 1, a size is a number: of what may go, the oldest part. */
static int plan_oldest(struct pruning *p, struct prune_watch *w, struct prune_items *l,
                       struct error *e)
{
    struct keep_policy policy = w->policy.snapshots;

    for (size_t i = 0; i < l->count; i++)
        l->items[i].size = 1;
    policy.max_size = 1;
    int rc = plan(p, l, &policy, e);
    size_t may = rc == 0 ? dropped_in(l) : 0;
    policy.max_size = l->count - (may / PRESSED_SHARE + 1);
    return rc == 0 && may > 0 ? plan(p, l, &policy, e) : rc;
}

static int press_watch(struct pruning *p, struct prune_watch *w, const char *why, uint64_t *gone,
                       struct error *e)
{
    struct numbers all = {0}, done = {0};
    struct prune_items l = {0};
    int rc = load_items(p, w, &l, e);

    if (rc == 0)
        rc = prove_floor(p, w, &l, &w->policy.snapshots, true, e);
    if (rc == 0)
        rc = load_row(p, w, false, e);
    if (rc == 0 && !w->row.frozen && l.count > 1)
        rc = plan_oldest(p, w, &l, e);
    if (rc == 0)
        rc = numbers_init(&all, l.count, e);
    if (rc == 0)
        rc = numbers_init(&done, l.count, e);
    for (size_t i = 0; rc == 0 && !w->row.frozen && l.count > 1 && i < l.count; i++)
        if (!l.decisions[i].keep)
            all.list[all.count++] = l.items[i].number;
    if (rc == 0)
        rc = drop(p, w, &all, &done, e);
    for (size_t i = 0; done.list && i < l.count; i++) {
        if (!is_in(&done, l.items[i].number))
            continue;
        p->result->kept -= p->result->kept > 0; /* as which it was told before */
        tell_one(p, w, &l.items[i], NULL, false, why);
    }
    *gone += done.count;
    free(all.list);
    free(done.list);
    prune_items_release(&l);
    return rc;
}

/* Until what lives is small enough, or nothing may go any more. */
static int press(struct pruning *p, uint64_t room, struct error *e)
{
    uint64_t live = 0, gone;
    int rc = repo_live_bytes(p->q->repo, &live, e);
    uint64_t target = room ? (live > room ? live - room : 1) : UINT64_MAX;

    do {
        gone = 0;
        p->result->too_large = 0;
        for (size_t i = 0; rc == 0 && i < p->watch_count; i++) {
            struct prune_watch *w = &p->watches[i];
            uint64_t limit = w->configured && w->policy.max_size ? w->policy.max_size : UINT64_MAX;
            if (live <= limit && live <= target)
                continue;
            if (w->configured && !w->frozen)
                rc = press_watch(p, w,
                                 live > target ? "its file system is too full"
                                               : "the repository is larger than max_size",
                                 &gone, e);
            limit = limit < target ? limit : target;
            if (live - limit > p->result->too_large)
                p->result->too_large = live - limit;
        }
        if (rc == 0 && gone > 0)
            rc = repo_live_bytes(p->q->repo, &live, e);
    } while (rc == 0 && gone > 0);
    return rc;
}

/* ---- all of it ---- */

static int load_watches(struct pruning *p, struct error *e)
{
    struct watch_row *rows = NULL;
    size_t count = 0;
    struct catalog *c;

    int rc = repo_catalog_open(p->q->repo, &c, e);
    if (rc != 0)
        return rc;
    rc = catalog_watches(c, &rows, &count, e);
    repo_catalog_close(p->q->repo, c);
    p->watches = rc == 0 ? calloc(count ? count : 1, sizeof(*p->watches)) : NULL;
    if (rc == 0 && !p->watches)
        rc = prune_no_memory(e);
    for (size_t i = 0; i < count; i++) {
        if (rc == 0 && (!p->q->watch || strcmp(p->q->watch, rows[i].name) == 0))
            p->watches[p->watch_count++].row = rows[i];
        else
            watch_row_release(&rows[i]);
    }
    free(rows);
    if (rc == 0 && p->q->watch && p->watch_count == 0)
        rc = error_set(e, ERR_NOTFOUND, "no watch '%s' in the repository", p->q->watch);
    return rc;
}

static int load_policies(struct pruning *p, struct error *e)
{
    for (size_t i = 0; i < p->watch_count; i++) {
        struct prune_watch *w = &p->watches[i];
        int rc = p->q->policy(p->q->ctx, w->row.name, &w->policy, e);
        if (rc < 0 && rc != ERR_NOTFOUND)
            return rc;
        w->configured = rc == 0;
    }
    return 0;
}

/* For a guess of what dropping brings: what no save's own bytes account for. */
static int load_unshared(struct pruning *p, struct error *e)
{
    uint64_t live = 0, own = 0;
    struct prune_items l = {0};
    int rc = repo_live_bytes(p->q->repo, &live, e);

    for (size_t i = 0; rc == 0 && i < p->watch_count; i++) {
        rc = load_items(p, &p->watches[i], &l, e);
        for (size_t j = 0; j < l.count; j++)
            own += l.items[j].size;
    }
    prune_items_release(&l);
    p->unshared = live > own ? live - own : 0;
    return rc;
}

/* Also where nobody asked for room but others took it: then what is dropped goes at once, and what
 * lives is moved only as far as it fits. */
static int upkeep(struct pruning *p, bool all, struct error *e)
{
    bool pressed = p->q->pressed || p->q->room > 0 || repo_free_missing(p->q->repo) > 0;
    const struct upkeep u = {.keep_s = pressed ? 0 : UPKEEP_KEEP_S,
                             .all = all,
                             .pressed = pressed,
                             .cancel = p->q->cancel};
    struct upkeep_result done = {0};
    int rc = repo_upkeep(p->q->repo, &u, &done, e);

    p->result->bytes_moved += rc == ERR_BUSY ? 0 : done.bytes_moved;
    if (rc != ERR_BUSY) /* else somebody is at it */
        return rc;
    error_clear(e);
    return 0;
}

/* Packs that are dead, or mostly, go first: that takes hardly any room. */
static int tidy(struct pruning *p, struct error *e)
{
    int rc = upkeep(p, p->q->pressed && p->q->room == 0, e);

    if (rc == 0 && p->q->room > 0 && repo_free_missing(p->q->repo) > 0)
        rc = upkeep(p, true, e);
    return rc;
}

/* What lives in large packs moves only where there is room for all of it: then more has to go. */
static int make_room(struct pruning *p, struct error *e)
{
    uint64_t room = p->q->room, before;
    int rc;

    do {
        before = p->result->dropped;
        rc = press(p, room, e);
        if (rc != 0)
            return rc;
        error_clear(e);
        rc = tidy(p, e);
        room = repo_free_missing(p->q->repo);
    } while ((rc == 0 || rc == ERR_NOSPACE) && room > 0 && p->result->dropped > before);
    return rc;
}

static int run(struct pruning *p, struct error *e)
{
    const struct prune_request *q = p->q;
    int rc = load_watches(p, e);

    if (rc == 0)
        rc = load_policies(p, e);
    if (rc == 0)
        rc = prune_time(p, e);
    if (rc == 0 && q->dry_run)
        rc = load_unshared(p, e);
    for (size_t i = 0; rc == 0 && i < p->watch_count; i++)
        rc = prune_watch(p, &p->watches[i], e);
    if (rc == 0 && !q->dry_run)
        rc = make_room(p, e);
    if (rc != 0 || !p->archives.code)
        return rc;
    *e = p->archives;
    return e->code;
}

int prune_run(const struct prune_request *q, struct prune_result *result, struct error *e)
{
    struct pruning p = {.q = q, .result = result, .archives = ERROR_INIT};

    *result = (struct prune_result){.bytes_before = repo_bytes(q->repo)};
    int rc = run(&p, e);
    result->bytes_after = repo_bytes(q->repo);
    for (size_t i = 0; i < p.watch_count; i++)
        watch_row_release(&p.watches[i].row);
    free(p.watches);
    return rc;
}

void prune_result_release(struct prune_result *r)
{
    free(r->frozen);
    *r = (struct prune_result){0};
}
