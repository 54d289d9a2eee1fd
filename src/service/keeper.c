#include "service/keeper.h"

#include "base/log.h"
#include "capture/database_header.h"
#include "io/safe_path.h"
#include "service/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

#define MS UINT64_C(1000000)
#define POLL_MIN_NS (10000 * MS)
#define CHECK_NS (2000 * MS)
/* Polling takes no more than a small part of the time. */
enum { POLL_COST_FACTOR = 20, HELD_MAX_MS = 30000, HELD_AFTER_MS = 100 };

/* ---- what the watched tree tells ---- */

/* The root, for the rest of this turn; it is not kept open, so that it can be unmounted. */
static int rootfd_of(struct keeper *k)
{
    struct error ignored = ERROR_INIT;

    if (k->rootfd < 0)
        k->rootfd = long_path_open(k->spec.root, O_PATH | O_DIRECTORY, &ignored);
    return k->rootfd;
}

static bool on_want(void *ctx, const char *path, bool is_dir, const struct stat *st)
{
    struct keeper *k = ctx;

    return rules_want(k->rules, rootfd_of(k), path, is_dir, st, NULL);
}

static bool is_database(struct keeper *k, const char *path)
{
    struct error ignored = ERROR_INIT;
    uint8_t header[DATABASE_HEADER_LEN];
    uint32_t page_size;
    uint64_t image_len;
    int fd =
        safe_open(rootfd_of(k), path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0, &ignored);

    if (fd < 0)
        return false;
    bool yes =
        pread(fd, header, sizeof(header), 0) == (ssize_t)sizeof(header) &&
        database_header_check(header, UINT64_MAX, &page_size, &image_len, &ignored) != ERR_USAGE;
    close(fd);
    return yes;
}

static void touch(struct keeper *k, const char *path, unsigned how)
{
    if (!rules_want(k->rules, rootfd_of(k), path, (how & WATCH_DIR) != 0, NULL, NULL))
        return;
    settle_touch(k->settle, path, how, clock_mono_ns());
    k->last_change = clock_wall();
}

/* An event on "x-wal" or "x-journal" is a change of the database x, whatever the rules say of the
 * side file; should x be none by the time of the save, it is one of that file. What happens to
 * "x-shm" says nothing: true where x is a database. */
static bool touch_database(struct keeper *k, const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t folder = slash ? (size_t)(slash + 1 - path) : 0;
    size_t base_len;
    bool done = false;

    if (!k->spec.spec.sqlite || !sqlite_side_name(path + folder, &base_len))
        return false;
    char *base = strndup(path, folder + base_len);
    if (base && strcmp(path + folder + base_len, "-shm") == 0)
        done = is_database(k, base);
    else if (base)
        touch(k, base, WATCH_ENTRY);
    free(base);
    return done;
}

static bool is_rules_file(const char *path)
{
    const char *slash = strrchr(path, '/');

    return strcmp(slash ? slash + 1 : path, IGNORE_FILE_NAME) == 0;
}

/* The rules of its folder may have changed. */
static void look_at_rules(struct keeper *k, const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = strndup(path, slash ? (size_t)(slash - path) : 0);

    if (!folder)
        return;
    rules_forget(k->rules, folder);
    watch_tree_again(k->root, folder);
    free(folder);
}

static void on_dirty(void *ctx, const char *path, unsigned how)
{
    struct keeper *k = ctx;

    if (how & WATCH_DIR) {
        touch(k, path, how);
        return;
    }
    if (is_rules_file(path))
        look_at_rules(k, path);
    if (!touch_database(k, path))
        touch(k, path, how);
}

static void on_moved(void *ctx, const char *from, const char *to, unsigned how)
{
    struct keeper *k = ctx;
    bool is_dir = (how & WATCH_DIR) != 0;
    int fd = rootfd_of(k);

    if (!rules_want(k->rules, fd, from, is_dir, NULL, NULL) ||
        !rules_want(k->rules, fd, to, is_dir, NULL, NULL)) {
        on_dirty(ctx, from, how);
        on_dirty(ctx, to, how);
        return;
    }
    uint64_t now = clock_mono_ns();
    settle_touch_pair(k->settle, from, to, how, now);
    k->last_change = clock_wall();
    if (is_dir) {
        /* A change below it, told under the old path, may not have been read yet, or a save at work
         * may be looking for it there in vain. */
        settle_touch(k->settle, to, how | WATCH_TREE, now);
        return;
    }
    if (is_rules_file(from))
        look_at_rules(k, from);
    if (is_rules_file(to))
        look_at_rules(k, to);
    touch_database(k, from);
    touch_database(k, to);
}

static void set_problem(struct keeper *k, enum keeper_problem p, bool there)
{
    if (there == (k->since[p].s != 0))
        return;
    k->since[p] = there ? clock_wall() : (struct wall_time){0};
    service_problems_changed(k->service);
}

static void tell_missing(struct keeper *k, bool missing)
{
    bool was = k->since[PROBLEM_MISSING].s != 0;

    set_problem(k, PROBLEM_MISSING, missing);
    if (missing && !was)
        log_warn("%s: '%s' is missing: %s", k->spec.name, k->spec.root,
                 watch_root_problem(k->root));
    else if (!missing && was)
        log_info("%s: '%s' is back", k->spec.name, k->spec.root);
    if (missing && !was)
        k->next_check = clock_mono_ns() + CHECK_NS;
    else if (!missing)
        k->next_check = UINT64_MAX;
}

static void tell_polled(struct keeper *k)
{
    bool was = k->since[PROBLEM_POLLED].s != 0;
    bool is = watch_root_exhausted(k->root);

    set_problem(k, PROBLEM_POLLED, is);
    if (is && !was)
        log_warn("%s: %s", k->spec.name, watch_root_problem(k->root));
    else if (!is && was)
        log_info("%s: every folder is watched again", k->spec.name);
}

static uint64_t poll_every_ns(const struct keeper *k)
{
    uint64_t every = POLL_MIN_NS;

    if (k->poll_cost_ns * POLL_COST_FACTOR > every)
        every = k->poll_cost_ns * POLL_COST_FACTOR;
    if (k->interval_ms != CONFIG_OFF && k->interval_ms * MS < every)
        every = k->interval_ms * MS;
    return every;
}

static void on_state(void *ctx)
{
    struct keeper *k = ctx;
    enum watch_state state = watch_root_state(k->root);
    bool polled = state == WATCH_POLLING || state == WATCH_DEGRADED;

    tell_missing(k, state == WATCH_MISSING);
    if (state == WATCH_WALKING)
        return;
    tell_polled(k);
    if (polled && k->next_poll == UINT64_MAX)
        k->next_poll = clock_mono_ns() + poll_every_ns(k);
    else if (!polled)
        k->next_poll = UINT64_MAX;
    if (!k->stood) {
        k->stood = true;
        service_ready_on(k->service);
    }
}

/* ---- life ---- */

static void fail_asks(struct keeper *k, int code, const char *why)
{
    struct save_ask *ask;
    struct error e = ERROR_INIT;

    while ((ask = STAILQ_FIRST(&k->asks))) {
        STAILQ_REMOVE_HEAD(&k->asks, link);
        error_set(&e, code, "%s", why);
        ask->done(ask, code, NULL, &e);
    }
}

/* Who waits for the keeper before this one waits for this one now. */
static void take_over_asks(struct keeper *k)
{
    struct keeper *other;

    LIST_FOREACH(other, &k->service->keepers, link)
    {
        if (other != k && !other->root && strcmp(other->spec.name, k->spec.name) == 0)
            STAILQ_CONCAT(&k->asks, &other->asks);
    }
}

/* Does a pattern depend on where a name stands? */
static bool by_path(char *const *patterns)
{
    for (; patterns && *patterns; patterns++) {
        const char *slash = strchr(*patterns, '/');
        if (slash && slash[1])
            return true;
    }
    return false;
}

static void take_times(struct keeper *k, const struct watch_config *w)
{
    k->settle_ms = w->settle_ms;
    k->max_delay_ms = w->max_delay_ms;
    k->interval_ms = w->interval_ms;
}

static void next_interval(struct keeper *k)
{
    k->next_interval =
        k->interval_ms == CONFIG_OFF ? UINT64_MAX : clock_mono_ns() + k->interval_ms * MS;
}

int keeper_new(struct service *s, const struct watch_config *w, struct keeper **out,
               struct error *e)
{
    struct keeper *k = calloc(1, sizeof(*k));

    if (!k)
        return error_sys(e, ENOMEM, "cannot set up the watch '%s'", w->name);
    k->service = s;
    k->rootfd = -1;
    STAILQ_INIT(&k->asks);
    k->next_poll = k->next_check = UINT64_MAX;
    k->scan_due = SNAPSHOT_STARTUP;
    k->checked_ns = clock_boot_ns();
    k->unchecked_ms = (uint64_t)(clock_wall().s - checked_last(s, w->name)) * 1000;
    take_times(k, w);
    next_interval(k);
    LIST_INSERT_HEAD(&s->keepers, k, link);
    int rc = specs_build(w, s->config, &k->spec, e);
    if (rc == 0)
        rc = rules_new(&k->spec.spec, &k->rules, e);
    k->settle = settle_new(k->settle_ms * MS, k->max_delay_ms * MS);
    if (rc == 0 && !k->settle)
        rc = error_sys(e, ENOMEM, "cannot set up the watch '%s'", w->name);
    struct watch_calls calls = {.want = on_want,
                                .dirty = on_dirty,
                                .moved = on_moved,
                                .state = on_state,
                                .rules_file = IGNORE_FILE_NAME,
                                .rules_by_path = by_path(w->include) || by_path(w->exclude)};
    k->mounts = mounts_around(w->path);
    if (rc == 0)
        rc = watch_tree_add(s->tree, w->path, &calls, k, &k->root, e);
    if (rc != 0) {
        keeper_free(k);
        return rc;
    }
    take_over_asks(k);
    if (watch_root_state(k->root) == WATCH_MISSING)
        on_state(k);
    *out = k;
    return 0;
}

void keeper_free(struct keeper *k)
{
    fail_asks(k, ERR_NOTFOUND, "the watch is no longer configured");
    watch_tree_remove(k->service->tree, k->root);
    LIST_REMOVE(k, link);
    if (k->rootfd >= 0)
        close(k->rootfd);
    settle_free(k->settle);
    rules_free(k->rules);
    specs_release(&k->spec);
    free(k);
}

void keeper_tune(struct keeper *k, const struct watch_config *w)
{
    bool other = k->interval_ms != w->interval_ms;

    take_times(k, w);
    settle_tune(k->settle, k->settle_ms * MS, k->max_delay_ms * MS);
    if (other)
        next_interval(k);
}

static bool same_list(char *const *a, char *const *b)
{
    size_t i = 0;

    if (!a || !b)
        return (!a || !*a) && (!b || !*b);
    for (; a[i] && b[i] && strcmp(a[i], b[i]) == 0; i++)
        ;
    return !a[i] && !b[i];
}

bool keeper_differs(const struct keeper *k, const struct watch_config *w)
{
    return strcmp(k->spec.root, w->path) != 0 || !same_list(k->spec.include, w->include) ||
           !same_list(k->spec.exclude, w->exclude) || k->spec.spec.sqlite != w->sqlite;
}

void keeper_pump_name(struct service *s, const char *name)
{
    struct keeper *k;

    LIST_FOREACH(k, &s->keepers, link)
    {
        if (strcmp(k->spec.name, name) == 0)
            keeper_pump(k, clock_mono_ns());
    }
}

void keeper_retire(struct keeper *k, bool replaced)
{
    watch_tree_remove(k->service->tree, k->root);
    k->root = NULL;
    k->scan_due = 0;
    k->next_interval = k->next_poll = k->next_check = UINT64_MAX;
    k->last_begun = replaced;
    if (!replaced)
        fail_asks(k, ERR_NOTFOUND, "the watch is no longer configured");
    keeper_pump(k, clock_mono_ns());
}

/* ---- asks ---- */

void keeper_ask(struct keeper *k, struct save_ask *ask)
{
    STAILQ_INSERT_TAIL(&k->asks, ask, link);
    keeper_pump(k, clock_mono_ns());
}

void keeper_hold(struct keeper *k, bool on)
{
    uint64_t rest_ms = on ? HELD_MAX_MS : k->settle_ms + HELD_AFTER_MS;

    k->held_until = clock_mono_ns() + rest_ms * MS;
}

/* ---- what is due ---- */

/* Whether the root is there: a vanished source is not a change. */
static bool present(struct keeper *k)
{
    return k->root && watch_root_check(k->root);
}

static void save_all_dirty(struct keeper *k, int kind, struct save_ask *ask)
{
    struct settle_set set = {0};
    /* Watches that are only now being made have told nothing of what was there before them. */
    bool whole = (ask && ask->whole) || k->scan_due ||
                 (k->root && watch_root_state(k->root) == WATCH_WALKING);

    settle_take(k->settle, 0, true, &set);
    keeper_save(k, kind, whole, &set, ask);
}

static void serve_ask(struct keeper *k)
{
    struct save_ask *ask = STAILQ_FIRST(&k->asks);
    struct error e = ERROR_INIT;

    STAILQ_REMOVE_HEAD(&k->asks, link);
    if (!present(k)) {
        error_set(&e, ERR_NOTFOUND, "the watch '%s' is missing: there is no folder '%s'",
                  k->spec.name, k->spec.root);
        error_path(&e, k->spec.root);
        ask->done(ask, ERR_NOTFOUND, NULL, &e);
        return;
    }
    save_all_dirty(k, ask->kind ? ask->kind : SNAPSHOT_MANUAL, ask);
}

static void poll_if_due(struct keeper *k, uint64_t now)
{
    if (k->root && now >= k->next_check) {
        k->next_check = now + CHECK_NS;
        watch_root_check(k->root);
    }
    if (k->root && now >= k->next_poll) {
        k->next_poll = now + poll_every_ns(k);
        watch_tree_poll(k->root);
    }
    if (now >= k->next_interval) {
        next_interval(k);
        if (!k->scan_due)
            k->scan_due = SNAPSHOT_INTERVAL;
    }
}

/* The last save of a watch that is configured no more, or of the whole service. */
static void pump_last(struct keeper *k)
{
    bool stopping = k->service->stopping;
    struct settle_set set = {0};

    if (k->scan_due == SNAPSHOT_INTERVAL)
        k->scan_due = 0;
    bool whole = k->scan_due != 0;
    if (k->failures > 0 || k->last_begun || (settle_count(k->settle) == 0 && !whole) ||
        (k->root && !present(k)))
        return;
    k->last_begun = stopping; /* what comes after it is the next start's */
    k->scan_due = 0;
    settle_take(k->settle, 0, true, &set);
    keeper_save(k, stopping ? SNAPSHOT_SHUTDOWN : SNAPSHOT_CHANGE, whole, &set, NULL);
}

/* One save of a watch at a time, also while a retired keeper has the last one of the same name. */
static bool name_busy(const struct keeper *k)
{
    const struct keeper *other;

    LIST_FOREACH(other, &k->service->keepers, link)
    {
        if (other->job && strcmp(other->spec.name, k->spec.name) == 0)
            return true;
    }
    return false;
}

void keeper_pump(struct keeper *k, uint64_t now_ns)
{
    struct service *s = k->service;
    struct settle_set set;

    if (!s->stopping)
        poll_if_due(k, now_ns);
    if (s->ending || name_busy(k))
        return;
    if (s->stopping || !k->root) {
        pump_last(k);
        return;
    }
    /* Nothing is read before the watches stand: what changes meanwhile would be missed. */
    if (!k->stood)
        return;
    bool resting = now_ns < k->retry_at || now_ns < k->held_until;
    if (k->scan_due == SNAPSHOT_STARTUP && !resting && s->ready && present(k)) {
        settle_take(k->settle, now_ns, true, &set);
        k->scan_due = 0;
        keeper_save(k, SNAPSHOT_STARTUP, true, &set, NULL);
    } else if (!STAILQ_EMPTY(&k->asks)) {
        serve_ask(k);
    } else if (k->scan_due && !resting && s->ready && present(k)) {
        int kind = k->scan_due;
        settle_take(k->settle, now_ns, true, &set);
        k->scan_due = 0;
        keeper_save(k, kind, true, &set, NULL);
    } else if (!resting && settle_deadline(k->settle) <= now_ns && present(k) &&
               settle_take(k->settle, now_ns, false, &set)) {
        keeper_save(k, SNAPSHOT_CHANGE, false, &set, NULL);
    }
}

uint64_t keeper_deadline(const struct keeper *k)
{
    uint64_t at = k->next_interval;

    if (k->service->stopping)
        return UINT64_MAX;
    if (k->next_poll < at)
        at = k->next_poll;
    if (k->next_check < at)
        at = k->next_check;
    if (name_busy(k) || !k->stood || !k->root || !k->service->ready ||
        k->since[PROBLEM_MISSING].s != 0)
        return at;
    uint64_t save = k->scan_due ? 0 : settle_deadline(k->settle);
    if (save < k->retry_at)
        save = k->retry_at;
    if (save < k->held_until)
        save = k->held_until;
    return save < at ? save : at;
}

void keeper_turn(struct keeper *k)
{
    if (k->rootfd >= 0)
        close(k->rootfd);
    k->rootfd = -1;
}

void keeper_mounts_changed(struct keeper *k)
{
    uint64_t now = k->root ? mounts_around(k->spec.root) : k->mounts;

    if (now == k->mounts)
        return;
    k->mounts = now;
    log_info("%s: something was mounted or unmounted at, above or below '%s'", k->spec.name,
             k->spec.root);
    if (watch_root_check(k->root))
        watch_tree_again(k->root, "");
}

void keeper_stop(struct keeper *k)
{
    fail_asks(k, ERR_CANCELLED, "the service is stopping");
    if (k->job && k->job->kind == SNAPSHOT_INTERVAL)
        atomic_store(&k->job->cancel, true);
    k->failures = 0;
    keeper_pump(k, clock_mono_ns());
}

bool keeper_gone(const struct keeper *k)
{
    return !k->root && !k->job &&
           (k->failures > 0 || k->last_begun || settle_count(k->settle) == 0);
}

uint64_t keeper_lag_ms(const struct keeper *k, uint64_t now_ns)
{
    uint64_t oldest = settle_oldest(k->settle);

    if (k->job && k->job->set.first_ns && (!oldest || k->job->set.first_ns < oldest))
        oldest = k->job->set.first_ns;
    return oldest && oldest < now_ns ? (now_ns - oldest) / MS : 0;
}

bool keeper_scanning(const struct keeper *k)
{
    return k->scan_due == SNAPSHOT_STARTUP || (k->job && k->job->whole) ||
           (k->root && watch_root_state(k->root) == WATCH_WALKING);
}
