/* year_check.h - what has to hold through the years of year_world.h: the floor, what is kept, the
 * days that have an archive, what can be read; found out by means of the test's own. */
#ifndef WK_TEST_YEAR_CHECK_H
#define WK_TEST_YEAR_CHECK_H

#include "save_fixture.h"

#include "base/clock.h"
#include "io/fileops.h"
#include "keep/archive.h"
#include "keep/prune.h"
#include "service/schedule.h"
#include "snapshot/restore.h"
#include "snapshot/selector.h"
#include "snapshot/verify.h"
#include "store/pack.h"
#include "store/record.h"

#include <inttypes.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <time.h>

#include "base/banned.h"

enum { MINUTE = 60, HOUR = 3600, DAY = 86400, FLOOR = 3, MEMORY = 8 };
enum { ROWS_MAX = 6000, WATCHES = 2, RUNS_MAX = 1000, SNAPSHOTS_MAX = 40000 };
static const int64_t new_year = 1767225600; /* 2026-01-01T00:00:00Z */
#define EASTERN "EST5EDT,M3.2.0,M11.1.0"

struct item { /* a snapshot or an archive, as the test sees it */
    uint64_t number;
    int64_t time, day; /* the label, and its local day */
    bool good, damaged, needed;
};
struct items { /* in the order in which they were really made */
    struct item *list;
    size_t count;
};

struct run {     /* of an archive */
    int64_t at;  /* true time */
    int64_t day; /* local, since 1970 */
    bool wrong;  /* while the clock was */
};
struct runs {
    struct run list[RUNS_MAX];
    size_t count;
};

/* When an archive has to be made. A local day of uptime is a date whose hour for it the clock has
 * reached or passed, forward, while the machine was up. Of several that were passed at once only
 * the newest counts: one run makes up for all. A date that the clock or the zone brings again is
 * none while its run is one of the last eight; and where the clock goes back by days, those that
 * lie before it are not made up. */
struct expected {
    struct runs runs;
    int64_t reached;
    int64_t memory[MEMORY];
    unsigned tries, failed; /* of the slot; of all */
};

struct watch {
    const char *name;
    struct place place;
    struct watch_spec spec;
    struct rules *rules;
    struct runs runs;
    struct expected expected;
    char made[RUNS_MAX][48]; /* names of archives, in the order in which they were made */
    size_t made_count;
    unsigned failed;           /* tries of its archive */
    bool gone, empty, emptied; /* no folder; nothing in it; its file is empty */
    bool damaged;              /* verification found it, and nobody has thawed */
};

struct world {
    char dir[64];
    char archives[96], repo_path[96];
    struct repo *repo;
    struct schedule *schedule;
    struct zone zone;
    int at;             /* the archives' minute of the day; -1: none */
    int64_t now, wrong; /* true time; how far the wall clock is off */
    int64_t off, told;  /* seconds it was off in all; up to when `expected` is */
    uint8_t boot;
    int64_t upset; /* when a clock, a zone or a folder was last not as usual */
    struct watch watches[WATCHES];
    char kept[TIMED_KINDS][WATCHES + 1][TIMED_STATE_MAX]; /* what survives a restart */
    struct keep_policy policy, archive_policy;
    uint64_t max_size;
    bool broken;              /* the archives' folder */
    bool verify_before_prune; /* so that the expected set is exact */
    bool look_at_truth;       /* read what is kept after each prune */
    unsigned checks, exact, found, verified;
    uint32_t counter, content[SNAPSHOTS_MAX]; /* of each snapshot; 0: none or not by us */
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

    return (uint64_t)(w->now - w->off - new_year + DAY) * 1000;
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

static int64_t date_of(const struct tm *local)
{
    struct tm day = {.tm_year = local->tm_year, .tm_mon = local->tm_mon, .tm_mday = local->tm_mday};

    return timegm(&day) / DAY;
}

static struct tm local_at(int64_t s)
{
    time_t t = (time_t)s;
    struct tm tm;

    assert_non_null(localtime_r(&t, &tm));
    return tm;
}

/* ---- the days that have an archive ---- */

static void add_run(struct runs *r, int64_t at, int64_t day, bool wrong)
{
    assert_true(r->count < RUNS_MAX);
    r->list[r->count++] = (struct run){.at = at, .day = day, .wrong = wrong};
}

static bool remembered(const struct expected *x, int64_t day)
{
    bool is = false;

    for (int i = 0; i < MEMORY; i++)
        is = is || x->memory[i] == day;
    return is;
}

static void expect_at(const struct world *w, struct watch *watch, int64_t at)
{
    struct expected *x = &watch->expected;
    struct tm tm = local_at(at + w->wrong);
    int64_t day = date_of(&tm) - (tm.tm_hour * 60 + tm.tm_min < w->at);

    if (day < x->reached - 1) {
        x->reached = day;
        x->tries = 0;
    }
    if (day <= x->reached || watch->gone)
        return;
    if (!remembered(x, day)) {
        if (w->broken) {
            x->failed++;
            if (++x->tries < 3)
                return;
        } else {
            add_run(&x->runs, at, day, w->wrong != 0);
            memmove(x->memory, x->memory + 1, sizeof(x->memory) - sizeof(x->memory[0]));
            x->memory[MEMORY - 1] = day;
        }
    }
    x->tries = 0;
    x->reached = day;
}

/* Minute by minute, up to now. */
static void expect_until_now(struct world *w)
{
    for (; w->at >= 0 && w->told + MINUTE <= w->now; w->told += MINUTE) {
        for (int i = 0; i < WATCHES; i++)
            expect_at(w, &w->watches[i], w->told + MINUTE);
    }
    w->told = w->now;
}

static void expect_this_instant(struct world *w)
{
    for (int i = 0; w->at >= 0 && i < WATCHES; i++)
        expect_at(w, &w->watches[i], w->now);
}

/* ---- the floor, by other means ---- */

static int64_t local_day(int64_t time, int32_t offset)
{
    int64_t local = time + offset;

    return local / DAY - (local % DAY < 0);
}

static struct item *add_item(struct items *l)
{
    assert_true(l->count < ROWS_MAX);
    return &l->list[l->count++];
}

static void empty_items(struct items *l)
{
    l->count = 0;
    if (!l->list)
        l->list = calloc(ROWS_MAX, sizeof(*l->list));
    assert_non_null(l->list);
}

static int add_row(void *ctx, const struct snapshot_row *row)
{
    *add_item(ctx) = (struct item){.number = row->commit.number,
                                   .time = row->commit.time.s,
                                   .day = local_day(row->commit.time.s, row->commit.utc_offset),
                                   .good = snapshot_good(row) == SNAPSHOT_GOOD,
                                   .damaged = row->damaged};
    return 0;
}

static void snapshots_of(struct world *w, const char *watch, struct items *l)
{
    struct error e = ERROR_INIT;
    struct watch_row row;

    empty_items(l);
    MUST(catalog_watch_by_name(repo_catalog(w->repo), watch, &row, &e), e);
    MUST(catalog_snapshots(repo_catalog(w->repo), row.serial, 1, UINT64_MAX, false, add_row, l, &e),
         e);
    watch_row_release(&row);
}

struct archive_search {
    const struct watch *watch;
    struct items *list;
};

/* Numbered by the order in which they were made, whatever their labels say. */
static int add_archive(void *ctx, const struct archive_item *item, struct error *e)
{
    struct archive_search *s = ctx;
    uint64_t number = 0;

    for (size_t i = 0; i < s->watch->made_count; i++)
        number = strcmp(s->watch->made[i], item->name) == 0 ? i + 1 : number;
    assert_true(number > 0);
    *add_item(s->list) = (struct item){.number = number,
                                       .time = item->time.s,
                                       .day = local_day(item->time.s, item->utc_offset),
                                       .good = item->verified.s != 0 && !item->damaged,
                                       .damaged = item->damaged};
    return 0;
}

static int by_number(const void *a, const void *b)
{
    const struct item *x = a, *y = b;

    return x->number < y->number ? -1 : x->number > y->number;
}

static void archives_of(struct world *w, const struct watch *watch, struct items *l)
{
    struct archive_search s = {.watch = watch, .list = l};
    struct error e = ERROR_INIT;

    empty_items(l);
    if (w->broken)
        return;
    MUST(archive_list(w->archives, watch->name, add_archive, &s, &e), e);
    qsort(l->list, l->count, sizeof(*l->list), by_number);
}

static struct item *find(const struct items *l, uint64_t number)
{
    const struct item key = {.number = number};

    return l->count ? bsearch(&key, l->list, l->count, sizeof(key), by_number) : NULL;
}

static size_t good_count(const struct items *l)
{
    size_t n = 0;

    for (size_t i = 0; i < l->count; i++)
        n += l->list[i].good;
    return n;
}

static bool is_new_day(int64_t days[FLOOR], size_t *count, int64_t day)
{
    for (size_t i = 0; i < *count; i++) {
        if (days[i] == day)
            return false;
    }
    if (*count == FLOOR)
        return false;
    days[(*count)++] = day;
    return true;
}

/* What the law asks to stay: the three newest good ones, and the newest good one of each of the
 * three latest days that have one. What the prune itself has verified, or found damaged, counts as
 * it stands after. */
static void floor_held(struct items *before, const struct items *after)
{
    size_t newest = 0, day_count = 0, good = 0;
    int64_t days[FLOOR];

    for (size_t i = before->count; i-- > 0;) {
        struct item *it = &before->list[i];
        const struct item *now = find(after, it->number);
        it->needed = false;
        if (now ? !now->good : !it->good)
            continue;
        good++;
        it->needed = newest++ < FLOOR;
        it->needed = is_new_day(days, &day_count, it->day) || it->needed;
        if (it->needed)
            assert_non_null(now);
    }
    assert_true(good_count(after) >= (good < FLOOR ? good : FLOOR));
}

/* What is younger than `seconds` and what the floor needs, and nothing else. */
static void kept_exactly(const struct world *w, const struct items *before,
                         const struct items *after, int64_t seconds)
{
    for (size_t i = 0; i < before->count; i++) {
        const struct item *it = &before->list[i];
        bool wanted = it->needed || it->time >= w->now - seconds;
        if (wanted != (find(after, it->number) != NULL))
            fail_msg("day %lld: %llu of %lld s ago is %s", (long long)((w->now - new_year) / DAY),
                     (unsigned long long)it->number, (long long)(w->now - it->time),
                     wanted ? "gone" : "there");
    }
}

/* ---- what is stored ---- */

static void content_text(const struct watch *watch, uint32_t n, char out[64])
{
    snprintf(out, 64, "{\"n\": %" PRIu32 ", \"of\": \"%s\"}", n, watch->name);
}

/* Whether the snapshot gives back what was saved. */
static bool readable(struct world *w, const struct watch *watch, uint64_t number)
{
    char want[64] = "", got[80] = "";
    struct snapshot_row row = {0};
    struct error e = ERROR_INIT;
    int fd = memfd_create("cat", MFD_CLOEXEC);

    SYS(fd);
    MUST(catalog_snapshot(repo_catalog(w->repo), number, &row, &e), e);
    content_text(watch, w->content[number], want);
    int rc = restore_cat(w->repo, &row, "state.json", fd, NULL, &e);
    assert_true(pread(fd, got, sizeof(got) - 1, 0) >= 0);
    close(fd);
    snapshot_row_release(&row);
    return rc == 0 && strcmp(got, want) == 0;
}

static size_t readable_and_good(struct world *w, const struct watch *watch, const struct items *l)
{
    size_t n = 0;

    for (size_t i = 0; i < l->count; i++)
        n += l->list[i].good && readable(w, watch, l->list[i].number);
    return n;
}

/* A stored byte of what this snapshot's file holds turns into another. */
static void rot(struct world *w, const struct watch *watch, uint64_t number)
{
    char text[64], name[40], path[200];
    uint8_t bytes[RECORD_HEADER_LEN], last;
    struct error e = ERROR_INIT;
    struct chunk_place place;
    struct record_header h;
    struct hash id;
    int fd = -1;

    content_text(watch, w->content[number], text);
    hash_sha256(text, strlen(text), &id);
    MUST(catalog_chunk(repo_catalog(w->repo), &id, &place, &e), e);
    for (int kind = PACK_LOG; fd < 0 && kind <= PACK_DATA; kind++) {
        pack_file_name((uint8_t)kind, place.pack_id, name);
        snprintf(path, sizeof(path), "%s/packs/%s", w->repo_path, name);
        fd = open(path, O_RDWR | O_CLOEXEC);
    }
    SYS(fd);
    assert_int_equal(pread(fd, bytes, sizeof(bytes), (off_t)place.offset), sizeof(bytes));
    MUST(record_header_decode(bytes, place.pack_id, place.offset, &h, &e), e);
    off_t at = (off_t)(place.offset + RECORD_HEADER_LEN + h.body_len - 1);
    assert_int_equal(pread(fd, &last, 1, at), 1);
    last ^= 8;
    assert_int_equal(pwrite(fd, &last, 1, at), 1);
    close(fd);
    assert_false(readable(w, watch, number));
}

#endif
