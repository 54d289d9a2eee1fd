/* year_world.h - a machine that lives through years: the service's own scheduler over a real
 * repository, two real sources and their archives, with hand-made clocks. After every prune,
 * archive and verification it looks for what has to hold (year_check.h). Include it in one file of
 * a test. */
#ifndef WK_TEST_YEAR_WORLD_H
#define WK_TEST_YEAR_WORLD_H

#include "year_check.h"

/* ---- the jobs ---- */

static void verify_new_ones(struct world *w)
{
    const struct verify_part part = {.repo = w->repo, .record_in = w->repo};
    struct verify_result result = {0};
    struct error e = ERROR_INIT;
    bool all;

    MUST(verify_new(&part, UINT64_MAX, &result, &all, &e), e);
    verify_result_release(&result);
}

/* What it says to be damaged is what cannot be read, and of this the watch is frozen. */
static void check_damage(struct world *w)
{
    static struct items l;

    for (int i = 0; i < WATCHES; i++) {
        struct watch *watch = &w->watches[i];
        size_t damaged = 0;
        snapshots_of(w, watch->name, &l);
        for (size_t k = 0; k < l.count; k++) {
            assert_int_equal(l.list[k].damaged, !readable(w, watch, l.list[k].number));
            damaged += l.list[k].damaged;
        }
        watch->damaged = damaged > 0;
        w->found += (unsigned)damaged;
    }
    free(l.list);
    l.list = NULL;
}

static int verify_share(struct world *w, struct error *e)
{
    const struct verify_part part = {.repo = w->repo, .record_in = w->repo};
    struct verify_result result = {0};
    bool round;
    int rc = verify_sample(&part, 20, &result, &round, e);

    w->verified += rc == 0;
    if (rc == 0 && result.errors > 0) {
        if (w->found == 0)
            check_damage(w);
        w->upset = w->now;
        rc = error_set(e, ERR_DAMAGED, "damage");
    }
    verify_result_release(&result);
    return rc;
}

static int archive_latest(struct world *w, struct watch *watch, struct error *e)
{
    struct snapshot_row row = {0};
    struct archive_result result = {0};
    const struct archive_order order = {.snapshot = &row,
                                        .folder = w->archives,
                                        .format = ARCHIVE_TAR_GZ,
                                        .level = 1,
                                        .workers = 1};

    MUST(selector_resolve(w->repo, "latest", watch->name, &row, NULL, e), *e);
    int rc = archive_write(w->repo, &order, &result, e);
    if (rc == 0) {
        assert_true(watch->made_count < RUNS_MAX && result.item.verified.s != 0);
        snprintf(watch->made[watch->made_count++], sizeof(watch->made[0]), "%.40s",
                 result.item.name);
    }
    archive_result_release(&result);
    snapshot_row_release(&row);
    return rc;
}

static int policy(void *ctx, const char *watch, struct prune_policy *out, struct error *e)
{
    const struct world *w = ctx;

    *out = (struct prune_policy){
        .snapshots = w->policy, .archives = w->archive_policy, .max_size = w->max_size};
    return 0;
}

static int list_one(void *ctx, const struct archive_item *item, struct error *e)
{
    struct prune_archive **at = ctx;

    snprintf((*at)->name, sizeof((*at)->name), "%.200s", item->name);
    (*at)->item = strdup(item->path);
    (*at)->snapshot = item->snapshot;
    (*at)->time = item->time.s;
    (*at)->utc_offset = item->utc_offset;
    (*at)->verified = item->verified.s != 0 && !item->damaged;
    (*at)->manual = item->manual;
    (*at)->size = item->stored_bytes;
    ++*at;
    return 0;
}

static int by_snapshot(const void *a, const void *b)
{
    const struct prune_archive *x = a, *y = b;

    if (x->snapshot != y->snapshot)
        return x->snapshot < y->snapshot ? -1 : 1;
    return x->time < y->time ? -1 : x->time > y->time;
}

static int list_archives(void *ctx, const char *watch, struct prune_archive **list, size_t *count,
                         struct error *e)
{
    const struct world *w = ctx;
    struct prune_archive *at = *list = calloc(ROWS_MAX, sizeof(*at));

    assert_non_null(at);
    int rc = archive_list(w->archives, watch, list_one, &at, e);
    *count = (size_t)(at - *list);
    qsort(*list, *count, sizeof(**list), by_snapshot);
    return rc;
}

static int remove_it(void *ctx, const struct archive_item *item, struct error *e)
{
    return strcmp(item->path, ctx) == 0 ? archive_remove(item, e) : 0;
}

static int remove_archive(void *ctx, const struct prune_archive *archive, struct error *e)
{
    const struct world *w = ctx;

    return archive_list(w->archives, NULL, remove_it, archive->item, e);
}

static void release_archives(void *ctx, struct prune_archive *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(list[i].item);
    free(list);
}

struct stock { /* all there is of a watch */
    struct items snapshots, archives;
    size_t sound;
};

static void take_stock(struct world *w, const struct watch *watch, struct stock *s)
{
    snapshots_of(w, watch->name, &s->snapshots);
    archives_of(w, watch, &s->archives);
    s->sound = w->look_at_truth ? readable_and_good(w, watch, &s->snapshots) : 0;
}

static bool frozen(const struct watch *watch)
{
    return watch->gone || watch->empty || watch->damaged;
}

static void check_prune(struct world *w, const struct watch *watch, struct stock *before,
                        const struct stock *after)
{
    const struct keep_policy *p = &w->policy, *a = &w->archive_policy;

    floor_held(&before->snapshots, &after->snapshots);
    floor_held(&before->archives, &after->archives);
    assert_true(!w->look_at_truth ||
                after->sound >= (before->sound < FLOOR ? before->sound : FLOOR));
    if (frozen(watch)) {
        assert_int_equal(after->snapshots.count, before->snapshots.count);
        assert_int_equal(after->archives.count, before->archives.count);
    } else if (p->keep_days > 0 && w->now - w->upset > (p->keep_days + 2) * (int64_t)DAY) {
        kept_exactly(w, &before->snapshots, &after->snapshots, p->keep_days * (int64_t)DAY);
        w->exact++;
        if (w->now - w->upset > (a->keep_days + 2) * (int64_t)DAY)
            kept_exactly(w, &before->archives, &after->archives, a->keep_days * (int64_t)DAY);
    }
    w->checks++;
}

static int prune(struct world *w, struct watch *watch, bool thaw, struct error *e)
{
    static struct stock before, after;
    struct age_reading clocks = {.wall = clock_wall().s, .boot = (int64_t)(boot_ms(w) / 1000)};
    const struct prune_archives archives = {
        .list = list_archives, .remove = remove_archive, .release = release_archives, .ctx = w};
    const struct prune_request q = {.repo = w->repo,
                                    .watch = watch->name,
                                    .policy = policy,
                                    .ctx = w,
                                    .archives = w->broken ? NULL : &archives,
                                    .clocks = &clocks,
                                    .thaw = thaw};
    struct prune_result result = {0};

    clocks.boot_id[0] = w->boot;
    if (w->verify_before_prune)
        verify_new_ones(w);
    if (thaw)
        watch->damaged = false;
    take_stock(w, watch, &before);
    int rc = prune_run(&q, &result, e);
    take_stock(w, watch, &after);
    /* Frozen for a reason that the test knows; or for damage that this prune has found itself. */
    assert_true(!frozen(watch) || result.frozen_count > 0);
    if (result.frozen_count > 0 && !frozen(watch)) {
        assert_non_null(strstr(result.frozen[0].reason, "damage"));
        watch->damaged = true;
        w->upset = w->now;
        w->found++;
    }
    prune_result_release(&result);
    check_prune(w, watch, &before, &after);
    return rc;
}

static int number_of(const struct world *w, const char *watch)
{
    int i = 0;

    while (i < WATCHES && (!watch || strcmp(w->watches[i].name, watch) != 0))
        i++;
    return i;
}

static int run_archive(struct world *w, struct watch *watch, const struct timed *t, struct error *e)
{
    struct tm tm = local_at(t->slot);
    int rc = archive_latest(w, watch, e);

    if (rc == 0)
        add_run(&watch->runs, w->now, date_of(&tm), w->wrong != 0);
    else
        watch->failed++;
    return rc;
}

static bool begin(void *ctx, struct timed *t)
{
    struct world *w = ctx;
    int i = number_of(w, t->watch), rc = 0;
    struct watch *watch = &w->watches[i % WATCHES];
    struct error e = ERROR_INIT;

    if (t->kind == TIMED_ARCHIVE && watch->gone)
        return false;
    if (t->kind == TIMED_ARCHIVE)
        rc = run_archive(w, watch, t, &e);
    else if (t->kind == TIMED_PRUNE)
        rc = prune(w, watch, false, &e);
    else
        rc = verify_share(w, &e);
    if (rc == 0)
        timed_state(t, true, w->kept[t->kind][i]);
    schedule_ended(w->schedule, t, rc, &e);
    return true;
}

static void moved(void *ctx, const struct timed *t)
{
    struct world *w = ctx;

    timed_state(t, false, w->kept[t->kind][number_of(w, t->watch)]);
}

/* ---- the world ---- */

static int no_flush(int fd)
{
    return 0;
}

static void have(struct world *w, enum timed_kind kind, const char *watch, const char *rule)
{
    const char *state = w->kept[kind][number_of(w, watch)];
    struct error e = ERROR_INIT;

    MUST(schedule_set(w->schedule, kind, watch, rule, &e), e);
    struct timed *t = schedule_find(w->schedule, kind, watch);
    if (t && *state)
        assert_true(schedule_known(w->schedule, t, state));
    else if (t)
        schedule_known_since(w->schedule, t, w->now);
}

/* As a start of the service does. */
static void start(struct world *w)
{
    const struct schedule_clock clock = {
        .wall_s = wall_s, .boot_ms = boot_ms, .zone = &w->zone, .ctx = w};
    const struct schedule_calls calls = {.begin = begin, .moved = moved, .ctx = w};
    char at[32] = "off";

    if (w->at >= 0)
        snprintf(at, sizeof(at), "%02d:%02d", w->at / 60, w->at % 60);
    schedule_free(w->schedule);
    w->schedule = schedule_new(&clock, &calls);
    assert_non_null(w->schedule);
    schedule_retries(w->schedule, 3, 60000);
    for (int i = 0; i < WATCHES; i++) {
        have(w, TIMED_ARCHIVE, w->watches[i].name, at);
        have(w, TIMED_PRUNE, w->watches[i].name, "04:00");
    }
    have(w, TIMED_VERIFY, NULL, "05:00");
}

static void open_watch(struct world *w, struct watch *watch, const char *name)
{
    struct error e = ERROR_INIT;

    watch->name = name;
    snprintf(watch->place.root, sizeof(watch->place.root), "%.50s/%.10s", w->dir, name);
    SYS(mkdir(watch->place.root, 0755));
    watch->place.rootfd = open(watch->place.root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    SYS(watch->place.rootfd);
    watch->spec = (struct watch_spec){.name = name, .root = watch->place.root};
    MUST(rules_new(&watch->spec, &watch->rules, &e), e);
    struct tm tm = local_at(w->now);
    watch->expected.reached = date_of(&tm) - (tm.tm_hour * 60 + tm.tm_min < w->at);
}

/* In memory where there is room: what an archive flushes takes most of the time. */
static void make_place(struct world *w)
{
    struct statvfs fs;
    bool memory = statvfs("/dev/shm", &fs) == 0 && fs.f_bavail > (256 << 20) / fs.f_frsize;

    snprintf(w->dir, sizeof(w->dir), "%s/wk-year-XXXXXX", memory ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(w->dir));
}

/* archive_at: the minute of the day, -1: never. */
static void open_world(struct world *w, int archive_at)
{
    static struct fileops fast;
    const struct repo_options opt = {.wait_ms = 1000, .codec = CODEC_ZSTD};
    struct error e = ERROR_INIT;

    fast = fileops_system;
    fast.fsync = fast.fdatasync = no_flush;
    fileops = &fast;
    memset(w, 0, sizeof(*w));
    w->now = w->told = w->upset = new_year + 5 * HOUR;
    w->zone = (struct zone){.offset_at = offset_at};
    w->at = archive_at;
    set_zone(EASTERN);
    set_clock(w);
    make_place(w);
    snprintf(w->archives, sizeof(w->archives), "%s/archives", w->dir);
    snprintf(w->repo_path, sizeof(w->repo_path), "%s/repo", w->dir);
    MUST(repo_init(w->repo_path, &e), e);
    MUST(repo_open(w->repo_path, REPO_WRITE, &opt, &w->repo, &e), e);
    open_watch(w, &w->watches[0], "one");
    open_watch(w, &w->watches[1], "two");
    start(w);
}

static void close_world(struct world *w)
{
    struct error e = ERROR_INIT;
    int top = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    schedule_free(w->schedule);
    repo_close(w->repo);
    for (int i = 0; i < WATCHES; i++) {
        rules_free(w->watches[i].rules);
        close(w->watches[i].place.rootfd);
    }
    MUST(remove_tree(top, w->dir + 1, &e), e);
    close(top);
    clock_fake(NULL);
    fileops = &fileops_system;
    set_zone("UTC");
}

/* ---- what happens ---- */

static void save(struct world *w, struct watch *watch, enum snapshot_kind kind)
{
    struct save_request q = {
        .repo = w->repo, .watch = &watch->spec, .rules = watch->rules, .kind = kind};
    struct save_result result = {0};
    struct error e = ERROR_INIT;
    char text[64] = "", tick[64];

    if (watch->gone)
        return;
    content_text(watch, w->counter, tick);
    if (watch->emptied)
        put_text(&watch->place, "tick", tick); /* so that there is something to save */
    else
        memcpy(text, tick, sizeof(text));
    if (!watch->empty)
        put_text(&watch->place, "state.json", text);
    MUST(save_run(&q, &result, &e), e);
    assert_true(result.snapshot < SNAPSHOTS_MAX);
    if (result.snapshot && !watch->emptied && !watch->empty)
        w->content[result.snapshot] = w->counter;
    save_result_release(&result);
}

static void save_all_of(struct world *w)
{
    w->counter++;
    for (int i = 0; i < WATCHES; i++)
        save(w, &w->watches[i], SNAPSHOT_INTERVAL);
}

/* As the service: woken at the moment that is due. */
static void pass_until(struct world *w, int64_t end)
{
    while (w->now < end) {
        int64_t due = schedule_due(w->schedule);
        int64_t at = due == INT64_MAX ? end : due - w->wrong;
        if (due != INT64_MIN && at > w->now)
            w->now = at < end ? at : end;
        set_clock(w);
        schedule_tick(w->schedule);
    }
    expect_until_now(w);
}

/* Something that wakes the service: the clock or the zone was set, a folder is back, it began. */
static void wake(struct world *w)
{
    set_clock(w);
    w->upset = w->now;
    schedule_tick(w->schedule);
    expect_this_instant(w);
}

static void jump(struct world *w, int64_t wrong)
{
    w->wrong = wrong;
    wake(w);
}

static void travel(struct world *w, const char *zone)
{
    set_zone(zone);
    wake(w);
}

static void switched_off(struct world *w, int64_t seconds)
{
    w->now += seconds;
    w->told = w->now;
    w->off = w->now - new_year + DAY - MINUTE;
    w->boot++;
    set_clock(w);
    start(w);
    save_all_of(w);
    wake(w);
}

static void set_gone(struct world *w, struct watch *watch, bool gone)
{
    char away[96];

    snprintf(away, sizeof(away), "%s.away", watch->place.root);
    SYS(rename(gone ? watch->place.root : away, gone ? away : watch->place.root));
    watch->gone = gone;
    if (!gone)
        save(w, watch, SNAPSHOT_INTERVAL);
    wake(w);
}

static void break_archives(struct world *w, bool broken)
{
    char away[128];

    snprintf(away, sizeof(away), "%s.away", w->archives);
    if (broken) {
        SYS(rename(w->archives, away));
        int fd = open(w->archives, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        SYS(fd);
        close(fd);
    } else {
        SYS(unlink(w->archives));
        SYS(rename(away, w->archives));
    }
    w->broken = broken;
}

static void rot_newest(struct world *w, struct watch *watch, size_t count)
{
    static struct items l;

    snapshots_of(w, watch->name, &l);
    for (size_t i = l.count; i-- > 0 && count > 0; count--)
        rot(w, watch, l.list[i].number);
    w->found = 0;
    w->upset = w->now;
    free(l.list);
    l.list = NULL;
}

/* Bytes in the middle of the archive's file (more than the head of a gzip member, in which many say
 * nothing); who reads it back then says so in its words. */
static int rot_if(void *ctx, const struct archive_item *item, struct error *e)
{
    const char *name = ctx;
    struct archive_check check;
    uint8_t bytes[64];

    if (strcmp(item->name, name) != 0)
        return 0;
    off_t at = (off_t)item->stored_bytes / 2;
    int fd = open(item->path, O_RDWR | O_CLOEXEC);
    SYS(fd);
    assert_int_equal(pread(fd, bytes, sizeof(bytes), at), sizeof(bytes));
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] ^= 1;
    assert_int_equal(pwrite(fd, bytes, sizeof(bytes), at), sizeof(bytes));
    close(fd);
    int rc = archive_verify(item, true, NULL, NULL, &check, e);
    assert_true(rc != 0 || check.errors > 0);
    archive_check_release(&check);
    return rc;
}

static void rot_archives(struct world *w, struct watch *watch, size_t count)
{
    struct error e = ERROR_INIT;

    for (size_t i = watch->made_count - count; i < watch->made_count; i++)
        MUST(archive_list(w->archives, watch->name, rot_if, watch->made[i], &e), e);
}

static void thaw(struct world *w)
{
    struct error e = ERROR_INIT;

    for (int i = 0; i < WATCHES; i++)
        MUST(prune(w, &w->watches[i], true, &e), e);
    w->upset = w->now;
}

#endif
