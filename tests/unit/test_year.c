/* A year of keeping, and what can go wrong in one. */
#include "year_world.h"

#include "base/banned.h"

struct plan {                 /* days on which something happens; 0: never */
    int fails;                /* every so many days */
    int forward, back, right; /* the clock jumps at six; when it is right again after that */
    int abroad, far, home;    /* other zones */
    int off, on, doubled;     /* the machine; a night that has an hour twice */
    int gone, found, emptied, mended; /* a folder; the content of a file */
    int rotten, thawed;             /* of watch one what was verified; when a person has seen it */
    int rotten_fresh, thawed_fresh; /* what was not */
    int archives_rotten;            /* the newest two, an hour before the prune */
};

static void day_begins(struct world *w, const struct plan *p, int day)
{
    if (day == p->abroad)
        travel(w, "JST-9");
    if (day == p->far)
        travel(w, "HST10");
    if (day == p->home)
        travel(w, EASTERN);
    if (p->gone && day == p->gone)
        set_gone(w, &w->watches[1], true);
    if (p->gone && day == p->found)
        set_gone(w, &w->watches[1], false);
    if (p->fails && day % p->fails == 5)
        break_archives(w, true);
    if (p->fails && day % p->fails == 6)
        break_archives(w, false);
    if (p->rotten && day == p->rotten) {
        rot_newest(w, &w->watches[0], 2);
        w->look_at_truth = true;
    }
    if (p->thawed && (day == p->thawed || day == p->thawed_fresh)) {
        assert_true(w->found > 0 && w->watches[0].damaged && !w->watches[1].damaged);
        thaw(w);
        w->look_at_truth = false;
    }
    w->watches[0].emptied = p->emptied && day >= p->emptied && day < p->mended;
}

/* An archive by hand at the local time at which one was made an hour before: both are there. */
static void in_the_doubled_hour(struct world *w)
{
    static struct items l;
    struct error e = ERROR_INIT;

    for (int i = 0; i < WATCHES; i++) {
        struct watch *watch = &w->watches[i];
        char twice[64];
        snprintf(twice, sizeof(twice), "%s-2", watch->made[watch->made_count - 1]);
        assert_non_null(strstr(twice, "2026-11-01_01-30-00-2"));
        MUST(archive_latest(w, watch, &e), e);
        assert_string_equal(watch->made[watch->made_count - 1], twice);
        archives_of(w, watch, &l);
        for (size_t k = watch->made_count - 1; k <= watch->made_count; k++) {
            const struct item *it = find(&l, k);
            assert_true(it && it->good);
        }
    }
    free(l.list);
    l.list = NULL;
    assert_string_equal(w->watches[0].made[w->watches[0].made_count - 1],
                        w->watches[1].made[w->watches[1].made_count - 1]);
}

static void live(struct world *w, const struct plan *p, int from, int to, int hours_apart)
{
    for (int day = from; day <= to; day++) {
        if (p->off && day >= p->off && day < p->on)
            continue;
        if (p->on && day == p->on)
            switched_off(w, (p->on - p->off) * (int64_t)DAY);
        day_begins(w, p, day);
        for (int hour = 0; hour < 24; hour += hours_apart) {
            save_all_of(w);
            if (hour == 2 && p->rotten_fresh && day == p->rotten_fresh)
                rot_newest(w, &w->watches[0], 2);
            if (hour == 3 && p->archives_rotten && day == p->archives_rotten)
                rot_archives(w, &w->watches[1], 2);
            if (hour == 6 && p->forward && day == p->forward)
                jump(w, 90 * DAY);
            if (hour == 6 && p->back && day == p->back)
                jump(w, -30 * (int64_t)DAY);
            if (hour == 1 && p->doubled && day == p->doubled) {
                pass_until(w, w->now + HOUR / 2);
                in_the_doubled_hour(w);
                pass_until(w, w->now + HOUR / 2);
            } else {
                pass_until(w, w->now + HOUR * hours_apart);
            }
            if (w->wrong > 0 && hour >= 9)
                jump(w, 0);
            if (w->wrong < 0 && hour >= 9 && day >= p->right)
                jump(w, 0);
        }
        verify_new_ones(w);
    }
}

/* ---- one archive for each local day ---- */

/* What the machine did is what was expected, to the second. */
static void ran_as_expected(const struct world *w)
{
    for (int i = 0; i < WATCHES; i++) {
        const struct watch *watch = &w->watches[i];
        const struct runs *did = &watch->runs, *want = &watch->expected.runs;
        for (size_t k = 0; k < did->count && k < want->count; k++) {
            const struct run *a = &did->list[k], *b = &want->list[k];
            if (a->at != b->at || a->day != b->day)
                fail_msg("%s: run %zu of day %lld (of this year) at %lld, not of day %lld at %lld",
                         watch->name, k, (long long)(a->day - new_year / DAY),
                         (long long)((a->at - new_year) / MINUTE),
                         (long long)(b->day - new_year / DAY),
                         (long long)((b->at - new_year) / MINUTE));
        }
        assert_int_equal(did->count, want->count);
        assert_int_equal(watch->failed, watch->expected.failed);
    }
}

/* By the calendar alone: while the clock was right each date of uptime has one run, and no other
 * date has any. */
static void one_a_day(const struct world *w, const struct plan *p, int days)
{
    for (int i = 0; i < WATCHES; i++) {
        const struct runs *r = &w->watches[i].runs;
        for (int day = 2; day < days; day++) {
            size_t n = 0;
            bool failed = p->fails && day % p->fails == 5;
            bool away = i == 1 && p->gone && day >= p->gone && day < p->found - 1;
            bool off = p->off && day >= p->off && day < p->on - 1;
            bool skipped = p->back && day > p->back && day < p->right;
            for (size_t k = 0; k < r->count; k++)
                n += !r->list[k].wrong && r->list[k].day == new_year / DAY + day - 1;
            if (n != (failed || away || off || skipped ? 0 : 1))
                fail_msg("%s: day %d has %zu archives", w->watches[i].name, day, n);
        }
    }
}

/* ---- the tests ---- */

/* Snapshots are kept for seven days, archives for thirty. */
static void a_year_of_seven_days(void **state)
{
    static struct world w;
    static struct items l;
    const struct plan p = {.fails = 37,
                           .forward = 40,
                           .back = 80,
                           .right = 83,
                           .abroad = 100,
                           .far = 104,
                           .home = 109,
                           .rotten = 120,
                           .thawed = 127,
                           .gone = 150,
                           .found = 155,
                           .emptied = 200,
                           .mended = 203,
                           .off = 250,
                           .on = 254,
                           .doubled = 305};

    open_world(&w, 90); /* 01:30 */
    w.policy = (struct keep_policy){.keep_min = 3, .keep_days = 7};
    w.archive_policy = (struct keep_policy){.keep_min = 3, .keep_days = 30};
    live(&w, &p, 1, 365, 1);
    ran_as_expected(&w);
    one_a_day(&w, &p, 365);
    snapshots_of(&w, "one", &l);
    assert_in_range(l.count, 7 * 24 - 2, 8 * 24 + 2);
    archives_of(&w, &w.watches[0], &l);
    assert_in_range(l.count, 29, 33);
    print_message("%u tries failed, %u prunes looked at, %u of them exactly\n", w.watches[0].failed,
                  w.checks, w.exact);
    assert_true(w.watches[0].failed == 10 * 3 && w.checks > 700 && w.exact > 380);
    free(l.list);
    l.list = NULL;
    close_world(&w);
}

/* By what a rule groups, told by the C library. */
static void key_of(const struct item *it, int32_t offset, char unit, char out[32])
{
    time_t local = (time_t)(it->time + offset);
    struct tm tm;

    assert_non_null(gmtime_r(&local, &tm));
    size_t n = unit == 'h'   ? strftime(out, 32, "%Y-%m-%d %H", &tm)
               : unit == 'd' ? strftime(out, 32, "%Y-%m-%d", &tm)
               : unit == 'w' ? strftime(out, 32, "%G-%V", &tm)
               : unit == 'm' ? strftime(out, 32, "%Y-%m", &tm)
                             : strftime(out, 32, "%Y", &tm);
    assert_true(n > 0);
}

/* Of each of the n newest keys that have a good one the newest good one. */
static void want(const struct items *l, const int32_t *offsets, char unit, unsigned n, bool *wanted)
{
    char key[32], last[32] = "";

    for (size_t i = l->count; i-- > 0 && n > 0;) {
        if (!l->list[i].good)
            continue;
        key_of(&l->list[i], offsets[i], unit, key);
        if (strcmp(key, last) != 0) {
            wanted[i] = true;
            n--;
        }
        memcpy(last, key, sizeof(last));
    }
}

struct offsets {
    int32_t list[ROWS_MAX];
    size_t count;
};

static int add_offset(void *ctx, const struct snapshot_row *row)
{
    struct offsets *o = ctx;

    o->list[o->count++] = row->commit.utc_offset;
    return 0;
}

static void offsets_of(struct world *w, struct offsets *o)
{
    struct error e = ERROR_INIT;
    struct watch_row row;

    o->count = 0;
    MUST(catalog_watch_by_name(repo_catalog(w->repo), "one", &row, &e), e);
    MUST(catalog_snapshots(repo_catalog(w->repo), row.serial, 1, UINT64_MAX, false, add_offset, o,
                           &e),
         e);
    watch_row_release(&row);
}

/* One prune, and what is there after it is what each of the rules wants, and the floor. */
static void pruned_exactly(struct world *w)
{
    static struct items before, after;
    static struct offsets offsets;
    bool wanted[ROWS_MAX] = {false};
    struct error e = ERROR_INIT;

    verify_new_ones(w);
    snapshots_of(w, "one", &before);
    offsets_of(w, &offsets);
    want(&before, offsets.list, 'h', w->policy.keep_hourly, wanted);
    want(&before, offsets.list, 'd', w->policy.keep_daily, wanted);
    want(&before, offsets.list, 'w', w->policy.keep_weekly, wanted);
    want(&before, offsets.list, 'm', w->policy.keep_monthly, wanted);
    want(&before, offsets.list, 'y', w->policy.keep_yearly, wanted);
    for (size_t i = before.count > FLOOR ? before.count - FLOOR : 0; i < before.count; i++)
        wanted[i] = true; /* the newest of all, good or not */
    MUST(prune(w, &w->watches[0], false, &e), e);
    snapshots_of(w, "one", &after);
    floor_held(&before, &after);
    for (size_t i = 0; i < before.count; i++) {
        bool there = find(&after, before.list[i].number) != NULL;
        if (there != (wanted[i] || before.list[i].needed))
            fail_msg("%llu of %zu: %s", (unsigned long long)before.list[i].number, before.count,
                     there ? "there" : "gone");
    }
    free(before.list);
    free(after.list);
    before.list = after.list = NULL;
}

/* The newest of each hour, day, week, month, year, through a change of the year; the archives at an
 * hour that the night of the summer time does not have. */
static void rules_of_all_kinds(void **state)
{
    static struct world w;
    static struct items l;
    const struct plan p = {
        .abroad = 20, .home = 25, .archives_rotten = 30, .emptied = 40, .mended = 41};

    open_world(&w, 150); /* 02:30 */
    w.policy = (struct keep_policy){.keep_min = 3,
                                    .keep_hourly = 30,
                                    .keep_daily = 7,
                                    .keep_weekly = 4,
                                    .keep_monthly = 12,
                                    .keep_yearly = 2};
    w.archive_policy = (struct keep_policy){.keep_min = 3, .keep_last = 1};
    w.verify_before_prune = true;
    for (int days = 10; days <= 70; days += 10) {
        live(&w, &p, days - 9, days, 1);
        pruned_exactly(&w);
    }
    ran_as_expected(&w);
    one_a_day(&w, &p, 70);
    const struct runs *r = &w.watches[0].runs;
    int64_t march8 = 1772953200; /* 03:00 EDT: an hour that begins with it */
    size_t gap = 0;
    for (size_t i = 0; i < r->count; i++)
        gap += r->list[i].at == march8;
    assert_int_equal(gap, 1);
    snapshots_of(&w, "one", &l);
    assert_in_range(l.count, 30 + 5 + 2, 30 + 7 + 4 + 12 + 2 + 3);
    archives_of(&w, &w.watches[1], &l);
    assert_int_equal(l.count, 3);
    assert_int_equal(good_count(&l), 3);
    free(l.list);
    l.list = NULL;
    close_world(&w);
}

/* Nothing that can be set breaks the floor: one is to be kept, and the repository is to have no
 * size at all. What the prune would rely on is damaged before anybody has verified it; the file is
 * emptied; there are no archives. */
static void greedy(void **state)
{
    static struct world w;
    static struct items before, after;
    const struct plan p = {.rotten_fresh = 8,
                           .thawed_fresh = 10,
                           .thawed = 10,
                           .forward = 12,
                           .back = 15,
                           .right = 17,
                           .gone = 20,
                           .found = 22};
    const struct plan empties = {.emptied = 25, .mended = 30};

    open_world(&w, -1);
    w.policy = (struct keep_policy){.keep_min = 3, .keep_last = 1};
    w.archive_policy = (struct keep_policy){.keep_min = 3, .keep_last = 1};
    w.max_size = 1;
    live(&w, &p, 1, 7, 2);
    w.look_at_truth = true;
    live(&w, &p, 8, 24, 2);
    assert_true(w.checks >= 2 * 23);
    w.look_at_truth = true;
    snapshots_of(&w, "one", &before);
    assert_in_range(good_count(&before), 3, 16);
    /* Five days in which nothing good comes: the good ones of before are not one fewer. */
    live(&w, &empties, 25, 29, 2);
    snapshots_of(&w, "one", &after);
    size_t still = 0;
    for (size_t i = 0; i < before.count; i++)
        still += before.list[i].good && find(&after, before.list[i].number) &&
                 readable(&w, &w.watches[0], before.list[i].number);
    assert_true(still >= 3);
    assert_int_equal(good_count(&after), still);
    assert_true(after.count > still);
    live(&w, &empties, 30, 32, 2);
    snapshots_of(&w, "one", &after);
    assert_in_range(good_count(&after), 3, 16);
    assert_int_equal(w.watches[0].made_count + w.watches[1].made_count, 0);
    free(before.list);
    free(after.list);
    before.list = after.list = NULL;
    close_world(&w);
}

static void take_all_away(struct world *w)
{
    struct watch *watch = &w->watches[0];
    char name[16];

    SYS(unlinkat(watch->place.rootfd, "state.json", 0));
    for (int i = 0; i < 120; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        SYS(unlinkat(watch->place.rootfd, name, 0));
    }
    watch->empty = true;
}

static void same_items(const struct items *a, const struct items *b)
{
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        assert_int_equal(a->list[i].number, b->list[i].number);
        assert_int_equal(a->list[i].good, b->list[i].good);
    }
}

/* A mount point without its disk, as far as a save is made of it: every timed job, and a rescan an
 * hour, for thirty days take nothing away. The archives of that time hold the last good state. */
static void an_emptied_folder(void **state)
{
    static struct world w;
    static struct items before, after, archives, archives_after;
    const struct plan none = {0};
    char name[16];

    open_world(&w, 180); /* 03:00 */
    w.policy = (struct keep_policy){.keep_min = 3, .keep_days = 1};
    w.archive_policy = (struct keep_policy){.keep_min = 3, .keep_days = 1};
    for (int i = 0; i < 120; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        put_text(&w.watches[0].place, name, name);
    }
    live(&w, &none, 1, 5, 2);
    snapshots_of(&w, "one", &before);
    archives_of(&w, &w.watches[0], &archives);
    assert_true(good_count(&before) >= 5 && good_count(&archives) >= 3);
    take_all_away(&w);
    size_t rows = before.count, pruned = w.checks;
    uint64_t newest = before.list[rows - 1].number;
    live(&w, &none, 6, 35, 1);
    assert_int_equal(w.checks - pruned, 2 * 30);
    assert_int_equal(w.verified, 35);
    snapshots_of(&w, "one", &after);
    for (size_t i = after.count; i-- > 0 && after.list[i].number > newest;) {
        assert_false(after.list[i].good);
        after.count--;
    }
    same_items(&before, &after);
    archives_of(&w, &w.watches[0], &archives_after);
    for (size_t i = 0; i < archives.count; i++)
        assert_non_null(find(&archives_after, archives.list[i].number));
    free(before.list);
    free(after.list);
    free(archives.list);
    free(archives_after.list);
    before.list = after.list = archives.list = archives_after.list = NULL;
    close_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy),
        cmocka_unit_test(an_emptied_folder),
        cmocka_unit_test(rules_of_all_kinds),
        cmocka_unit_test(a_year_of_seven_days),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
