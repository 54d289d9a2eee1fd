/* A year of keeping: the service's own scheduler over a real repository, a real source and real
 * archives, with hand-made clocks. After every prune, archive and verification the floor is looked
 * for by means of the test's own. */
#include "save_fixture.h"

#include "base/clock.h"
#include "io/fileops.h"
#include "keep/archive.h"
#include "keep/prune.h"
#include "service/schedule.h"
#include "snapshot/selector.h"
#include "snapshot/verify.h"

#include <inttypes.h>
#include <stdint.h>
#include <sys/statvfs.h>
#include <time.h>

#include "base/banned.h"

enum { HOUR = 3600, DAY = 86400, ROWS_MAX = 6000, WATCHES = 2, RUNS_MAX = 2000 };
static const int64_t new_year = 1767225600; /* 2026-01-01T00:00:00Z */
#define EASTERN "EST5EDT,M3.2.0,M11.1.0"

struct item { /* a snapshot or an archive, as the test sees it */
    uint64_t number;
    int64_t day; /* local */
    bool good;
};
struct items {
    struct item *list;
    size_t count;
};

struct watch {
    const char *name;
    struct place place;
    struct watch_spec spec;
    struct rules *rules;
    int64_t archived[RUNS_MAX]; /* true times */
    size_t archives;
    bool gone, emptied; /* no folder; nothing in it */
};

struct world {
    char dir[64];
    char archives[96], repo_path[96];
    struct repo *repo;
    struct schedule *schedule;
    struct zone zone;
    int64_t now, wrong; /* true time; how far the wall clock is off */
    struct watch watches[WATCHES];
    struct keep_policy policy, archive_policy;
    uint64_t max_size;
    bool archiving;
    unsigned failures, checks;
    uint64_t counter;
};

/* ---- clocks ---- */

static void set_clock(const struct world *w)
{
    const struct wall_time t = {.s = w->now + w->wrong};

    clock_fake(&t);
}

static int64_t wall_s(void *ctx)
{
    return clock_wall().s;
}

static uint64_t boot_ms(void *ctx)
{
    const struct world *w = ctx;

    return (uint64_t)(w->now - new_year + DAY) * 1000;
}

static void set_zone(const char *tz)
{
    setenv("TZ", tz, 1);
    tzset();
}

static int32_t offset_at(void *ctx, int64_t s)
{
    return clock_utc_offset(s);
}

/* ---- the floor, by other means ---- */

static int64_t local_day(int64_t time, int32_t offset)
{
    int64_t local = time + offset;

    return local / DAY - (local % DAY < 0);
}

static int add_row(void *ctx, const struct snapshot_row *row)
{
    struct items *l = ctx;

    assert_true(l->count < ROWS_MAX);
    l->list[l->count++] =
        (struct item){.number = row->commit.number,
                      .day = local_day(row->commit.time.s, row->commit.utc_offset),
                      .good = snapshot_good(row) == SNAPSHOT_GOOD};
    return 0;
}

static void snapshots_of(struct world *w, const char *watch, struct items *l)
{
    struct error e = ERROR_INIT;
    struct watch_row row;

    l->count = 0;
    if (!l->list)
        l->list = calloc(ROWS_MAX, sizeof(*l->list));
    assert_non_null(l->list);
    MUST(catalog_watch_by_name(repo_catalog(w->repo), watch, &row, &e), e);
    MUST(catalog_snapshots(repo_catalog(w->repo), row.serial, 1, UINT64_MAX, false, add_row, l, &e),
         e);
    watch_row_release(&row);
}

static int add_archive(void *ctx, const struct archive_item *item, struct error *e)
{
    struct items *l = ctx;

    l->list[l->count] = (struct item){.number = l->count + 1,
                                      .day = local_day(item->time.s, item->utc_offset),
                                      .good = item->verified.s != 0 && !item->damaged};
    l->count++;
    return 0;
}

static void archives_of(struct world *w, const char *watch, struct items *l)
{
    struct error e = ERROR_INIT;

    l->count = 0;
    if (!l->list)
        l->list = calloc(ROWS_MAX, sizeof(*l->list));
    MUST(archive_list(w->archives, watch, add_archive, l, &e), e);
}

static const struct item *find(const struct items *l, uint64_t number)
{
    const struct item *found = NULL;

    for (size_t i = 0; i < l->count; i++)
        found = l->list[i].number == number ? &l->list[i] : found;
    return found;
}

static size_t good_count(const struct items *l)
{
    size_t n = 0;

    for (size_t i = 0; i < l->count; i++)
        n += l->list[i].good;
    return n;
}

static bool is_new_day(int64_t days[3], size_t *count, int64_t day)
{
    for (size_t i = 0; i < *count; i++) {
        if (days[i] == day)
            return false;
    }
    if (*count == 3)
        return false;
    days[(*count)++] = day;
    return true;
}

/* What the law asks to stay: the three newest good ones, and the newest good one of each of the
 * three latest days that have one. What the prune itself has verified counts. */
static void floor_held(const struct items *before, const struct items *after)
{
    size_t newest = 0, day_count = 0;
    int64_t days[3];

    for (size_t i = before->count; i-- > 0;) {
        const struct item *it = &before->list[i], *now = find(after, it->number);
        if (now ? !now->good : !it->good)
            continue;
        bool needed = newest++ < 3;
        if (is_new_day(days, &day_count, it->day) || needed)
            assert_non_null(now);
    }
    assert_true(good_count(after) >= (good_count(before) < 3 ? good_count(before) : 3));
}

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

static int verify_share(struct world *w, struct error *e)
{
    const struct verify_part part = {.repo = w->repo, .record_in = w->repo};
    struct verify_result result = {0};
    bool round;
    int rc = verify_sample(&part, 20, &result, &round, e);

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
        assert_true(watch->archives < RUNS_MAX);
        watch->archived[watch->archives++] = w->now;
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
    (*at)->time = item->time.s;
    (*at)->utc_offset = item->utc_offset;
    (*at)->verified = item->verified.s != 0 && !item->damaged;
    (*at)->manual = item->manual;
    (*at)->size = item->stored_bytes;
    ++*at;
    return 0;
}

static int list_archives(void *ctx, const char *watch, struct prune_archive **list, size_t *count,
                         struct error *e)
{
    const struct world *w = ctx;
    struct prune_archive *at = *list = calloc(ROWS_MAX, sizeof(*at));

    assert_non_null(at);
    int rc = archive_list(w->archives, watch, list_one, &at, e);
    *count = (size_t)(at - *list);
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

static int prune(struct world *w, struct watch *watch, struct error *e)
{
    static struct items before, after, archives_before, archives_after;
    const struct age_reading clocks = {
        .wall = clock_wall().s, .boot = (int64_t)(boot_ms(w) / 1000), .boot_id = {1}};
    const struct prune_archives archives = {
        .list = list_archives, .remove = remove_archive, .release = release_archives, .ctx = w};
    const struct prune_request q = {.repo = w->repo,
                                    .watch = watch->name,
                                    .policy = policy,
                                    .ctx = w,
                                    .archives = &archives,
                                    .clocks = &clocks};
    struct prune_result result = {0};

    snapshots_of(w, watch->name, &before);
    archives_of(w, watch->name, &archives_before);
    int rc = prune_run(&q, &result, e);
    assert_true(!(watch->gone || watch->emptied) || result.frozen_count > 0);
    prune_result_release(&result);
    snapshots_of(w, watch->name, &after);
    archives_of(w, watch->name, &archives_after);
    floor_held(&before, &after);
    assert_true(good_count(&archives_after) >=
                (good_count(&archives_before) < 3 ? good_count(&archives_before) : 3));
    assert_true(!(watch->gone || watch->emptied) || after.count == before.count);
    w->checks++;
    return rc;
}

static struct watch *watch_of(struct world *w, const struct timed *t)
{
    for (int i = 0; t->watch && i < WATCHES; i++) {
        if (strcmp(w->watches[i].name, t->watch) == 0)
            return &w->watches[i];
    }
    return NULL;
}

static bool begin(void *ctx, struct timed *t)
{
    struct world *w = ctx;
    struct watch *watch = watch_of(w, t);
    struct error e = ERROR_INIT;
    int rc = 0;

    if (t->kind == TIMED_ARCHIVE && watch->gone)
        return false;
    if (t->kind == TIMED_ARCHIVE)
        rc = archive_latest(w, watch, &e);
    else if (t->kind == TIMED_PRUNE)
        rc = prune(w, watch, &e);
    else
        rc = verify_share(w, &e);
    w->failures += rc != 0;
    schedule_ended(w->schedule, t, rc, &e);
    return true;
}

/* ---- the world ---- */

static int no_flush(int fd)
{
    return 0;
}

static void have(struct world *w, enum timed_kind kind, const char *watch, const char *rule)
{
    struct error e = ERROR_INIT;

    MUST(schedule_set(w->schedule, kind, watch, rule, &e), e);
    struct timed *t = schedule_find(w->schedule, kind, watch);
    if (t)
        schedule_known_since(w->schedule, t, w->now);
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
}

/* In memory where there is room: what an archive flushes takes most of the time. */
static void make_place(struct world *w)
{
    struct statvfs fs;
    bool memory = statvfs("/dev/shm", &fs) == 0 && fs.f_bavail > (256 << 20) / fs.f_frsize;

    snprintf(w->dir, sizeof(w->dir), "%s/wk-year-XXXXXX", memory ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(w->dir));
}

static void open_world(struct world *w, const char *archive_at)
{
    static struct fileops fast;
    const struct repo_options opt = {.wait_ms = 1000, .codec = CODEC_ZSTD};
    const struct schedule_clock clock = {
        .wall_s = wall_s, .boot_ms = boot_ms, .zone = &w->zone, .ctx = w};
    const struct schedule_calls calls = {.begin = begin, .ctx = w};
    struct error e = ERROR_INIT;

    fast = fileops_system;
    fast.fsync = fast.fdatasync = no_flush;
    fileops = &fast;
    *w = (struct world){.now = new_year + 5 * HOUR, .zone = {.offset_at = offset_at}};
    set_zone(EASTERN);
    set_clock(w);
    make_place(w);
    snprintf(w->archives, sizeof(w->archives), "%s/archives", w->dir);
    snprintf(w->repo_path, sizeof(w->repo_path), "%s/repo", w->dir);
    MUST(repo_init(w->repo_path, &e), e);
    MUST(repo_open(w->repo_path, REPO_WRITE, &opt, &w->repo, &e), e);
    open_watch(w, &w->watches[0], "one");
    open_watch(w, &w->watches[1], "two");
    w->schedule = schedule_new(&clock, &calls);
    assert_non_null(w->schedule);
    schedule_retries(w->schedule, 3, 60000);
    for (int i = 0; i < WATCHES; i++) {
        have(w, TIMED_ARCHIVE, w->watches[i].name, archive_at);
        have(w, TIMED_PRUNE, w->watches[i].name, "04:00");
    }
    have(w, TIMED_VERIFY, NULL, "05:00");
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

static void save(struct world *w, struct watch *watch, const char *content)
{
    struct save_request q = {
        .repo = w->repo, .watch = &watch->spec, .rules = watch->rules, .kind = SNAPSHOT_CHANGE};
    struct save_result result = {0};
    struct error e = ERROR_INIT;

    if (watch->gone)
        return;
    if (!watch->emptied)
        put_text(&watch->place, "state.json", content);
    MUST(save_run(&q, &result, &e), e);
    save_result_release(&result);
}

static void save_all_of(struct world *w, bool emptied)
{
    char content[64];

    snprintf(content, sizeof(content), "{\"n\": %" PRIu64 "}", ++w->counter);
    for (int i = 0; i < WATCHES; i++)
        save(w, &w->watches[i], emptied && i == 0 ? "" : content);
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
}

static void jump(struct world *w, int64_t wrong)
{
    w->wrong = wrong;
    set_clock(w);
    schedule_tick(w->schedule);
}

static void set_gone(struct watch *watch, bool gone)
{
    char away[96];

    snprintf(away, sizeof(away), "%s.away", watch->place.root);
    SYS(rename(gone ? watch->place.root : away, gone ? away : watch->place.root));
    watch->gone = gone;
}

static void break_archives(const struct world *w, bool broken)
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
}

static void damage_newest(struct world *w)
{
    static struct items l;
    struct error e = ERROR_INIT;

    snapshots_of(w, "one", &l);
    const struct mark m = {.type = MARK_DAMAGED,
                           .time = clock_wall(),
                           .count = 1,
                           .snapshots = &l.list[l.count - 1].number};
    MUST(repo_mark(w->repo, &m, &e), e);
}

struct plan { /* days on which something happens; 0: never */
    int fails, forward, back, abroad, home, damaged, gone, found, emptied, mended;
};

static void day_begins(struct world *w, const struct plan *p, int day)
{
    if (day == p->abroad)
        set_zone("JST-9");
    if (day == p->home)
        set_zone(EASTERN);
    if (p->gone && day == p->gone)
        set_gone(&w->watches[1], true);
    if (p->gone && day == p->found)
        set_gone(&w->watches[1], false);
    if (p->fails && day % p->fails == 5)
        break_archives(w, true);
    if (p->fails && day % p->fails == 6)
        break_archives(w, false);
    if (p->damaged && day % p->damaged == 7)
        damage_newest(w);
}

static void live(struct world *w, const struct plan *p, int days, int hours_apart)
{
    for (int day = 1; day <= days; day++) {
        bool emptied = p->emptied && day >= p->emptied && day < p->mended;
        day_begins(w, p, day);
        for (int hour = 0; hour < 24; hour += hours_apart) {
            save_all_of(w, emptied);
            if (hour == 6 && p->forward && day == p->forward)
                jump(w, 90 * DAY);
            if (hour == 6 && p->back && day == p->back)
                jump(w, -30 * (int64_t)DAY);
            pass_until(w, w->now + HOUR * hours_apart);
            if (w->wrong != 0 && hour >= 9)
                jump(w, 0);
        }
        verify_new_ones(w);
    }
}

static size_t archives_between(const struct watch *watch, int64_t from, int64_t to)
{
    size_t n = 0;

    for (size_t i = 0; i < watch->archives; i++)
        n += watch->archived[i] >= from && watch->archived[i] < to;
    return n;
}

/* ---- the tests ---- */

/* Seven days are kept, archives for thirty. */
static void a_year_of_seven_days(void **state)
{
    static struct world w;
    static struct items l;
    const struct plan p = {.fails = 37,
                           .forward = 40,
                           .back = 80,
                           .abroad = 100,
                           .home = 110,
                           .damaged = 30,
                           .gone = 150,
                           .found = 155,
                           .emptied = 200,
                           .mended = 202};

    open_world(&w, "03:00");
    w.policy = (struct keep_policy){.keep_min = 3, .keep_days = 7};
    w.archive_policy = (struct keep_policy){.keep_min = 3, .keep_days = 30};
    live(&w, &p, 365, 1);
    /* One archive each day of both watches, in the same minute and in the doubled hour, but for the
     * days that could not, and the wrong days that the clock showed. */
    for (int day = 2; day < 364; day++) {
        int64_t from = new_year + 5 * HOUR + (int64_t)day * DAY;
        bool quiet = day % 37 != 5 && day % 37 != 4 && (day < 38 || day > 42) &&
                     (day < 78 || day > 82) && (day < 98 || day > 112);
        for (int i = 0; i < WATCHES; i++) {
            if (quiet && (i == 0 || day < 148 || day > 156))
                assert_int_equal(archives_between(&w.watches[i], from, from + DAY), 1);
            assert_true(archives_between(&w.watches[i], from, from + DAY) <= 3);
        }
    }
    /* What is there at the end: the last seven days, and not much else. */
    snapshots_of(&w, "one", &l);
    assert_in_range(l.count, 7 * 24 - 2, 8 * 24 + 2);
    archives_of(&w, "one", &l);
    assert_in_range(l.count, 29, 32);
    assert_true(w.failures >= 9 * 3 && w.checks > 700);
    free(l.list);
    l.list = NULL;
    close_world(&w);
}

/* The newest of each hour, day, week, month, year. */
static void rules_of_all_kinds(void **state)
{
    static struct world w;
    static struct items l;
    const struct plan p = {.damaged = 9, .abroad = 20, .home = 25, .emptied = 40, .mended = 41};

    open_world(&w, "01:30");
    w.policy = (struct keep_policy){.keep_min = 3,
                                    .keep_hourly = 24,
                                    .keep_daily = 7,
                                    .keep_weekly = 4,
                                    .keep_monthly = 12,
                                    .keep_yearly = 2};
    w.archive_policy = (struct keep_policy){.keep_min = 3, .keep_last = 5};
    live(&w, &p, 70, 1);
    snapshots_of(&w, "one", &l);
    /* Hours and days overlap; some that were not verified yet come besides. */
    assert_in_range(l.count, 24 + 6 + 2, 2 * 24 + 7 + 4 + 3 + 3 + 6);
    int64_t last = INT64_MAX;
    size_t days = 0;
    for (size_t i = l.count; i-- > 0;) {
        days += l.list[i].good && l.list[i].day < last;
        last = l.list[i].good && l.list[i].day < last ? l.list[i].day : last;
    }
    assert_true(days >= 7);
    archives_of(&w, "two", &l);
    assert_in_range(l.count, 5, 6);
    free(l.list);
    l.list = NULL;
    close_world(&w);
}

/* Nothing that can be set breaks the floor: one is to be kept, and the repository is to have no
 * size at all. */
static void greedy(void **state)
{
    static struct world w;
    static struct items l;
    const struct plan p = {.damaged = 8, .forward = 11, .back = 15, .gone = 18, .found = 20};

    open_world(&w, "off");
    w.policy = (struct keep_policy){.keep_min = 3, .keep_last = 1};
    w.archive_policy = (struct keep_policy){.keep_min = 3, .keep_last = 1};
    w.max_size = 1;
    live(&w, &p, 30, 2);
    snapshots_of(&w, "one", &l);
    assert_true(good_count(&l) >= 3 && l.count < 40);
    archives_of(&w, "one", &l);
    assert_int_equal(l.count, 0);
    free(l.list);
    l.list = NULL;
    close_world(&w);
}

/* A mount point without its disk: every timed job for thirty days takes nothing away. */
static void an_empty_mount_point(void **state)
{
    static struct world w;
    static struct items before, after;
    const struct plan none = {0};
    char name[16];

    open_world(&w, "03:00");
    w.policy = (struct keep_policy){.keep_min = 3, .keep_days = 1};
    w.archive_policy = (struct keep_policy){.keep_min = 3, .keep_days = 1};
    for (int i = 0; i < 120; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        put_text(&w.watches[0].place, name, name);
    }
    live(&w, &none, 5, 2);
    snapshots_of(&w, "one", &before);
    assert_true(good_count(&before) >= 5);
    SYS(unlinkat(w.watches[0].place.rootfd, "state.json", 0));
    for (int i = 0; i < 120; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        SYS(unlinkat(w.watches[0].place.rootfd, name, 0));
    }
    w.watches[0].emptied = true;
    live(&w, &none, 30, 2);
    snapshots_of(&w, "one", &after);
    for (size_t i = 0; i < before.count; i++)
        assert_non_null(find(&after, before.list[i].number));
    assert_int_equal(good_count(&after), good_count(&before));
    free(before.list);
    free(after.list);
    before.list = after.list = NULL;
    close_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy),
        cmocka_unit_test(an_empty_mount_point),
        cmocka_unit_test(rules_of_all_kinds),
        cmocka_unit_test(a_year_of_seven_days),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
