/* Pruning real repositories: what stays is what the rules and the floor say, whatever happened
 * before, and all of it can be read. */
#include "prune_fixture.h"
#include "world_fixture.h"

#include "keep/pin.h"
#include "snapshot/freeze.h"

#include <fcntl.h>

#include "base/banned.h"

static struct pruner pruner;
static uint64_t noise;

static int setup(void **state)
{
    fixture_time = BEGIN;
    noise = 77;
    return world_open(state);
}

static int teardown(void **state)
{
    prune_result_release(&pruner.result);
    pruner = (struct pruner){0};
    return world_end(state);
}

/* A snapshot in which one file differs from the one before. */
static uint64_t change(struct world *w, const char *watch, const char *name)
{
    struct model_tree tree = *last_tree(&w->model, watch);
    struct error e = ERROR_INIT;

    tree_set(&tree, "file", next_random(&noise) | 1, 3000);
    OK(save_named(w->repo, &w->model, watch, name, &tree, &e), e);
    return w->model.snapshots[w->model.count - 1].number;
}

static void changes(struct world *w, int count, int64_t apart)
{
    for (int i = 0; i < count; i++) {
        fixture_time += apart;
        change(w, "app", NULL);
    }
}

static void run(struct world *w)
{
    struct error e = ERROR_INIT;

    OK(prune(w->repo, &pruner, &e), e);
    note_dropped(w->repo, &w->model);
    check_model(w->repo, &w->model);
    check_refs(w->repo);
}

static void mark(struct world *w, int type, uint64_t number)
{
    struct error e = ERROR_INIT;
    struct mark m = {.type = (uint8_t)type, .time = {.s = 1}, .count = 1, .snapshots = &number};

    OK(repo_mark(w->repo, &m, &e), e);
}

/* ---- the floor ---- */

static void test_keep_last_one_keeps_the_floor(void **state)
{
    struct world *w = *state;

    pruner.policy.snapshots.keep_last = 1;
    changes(w, 39, 3 * HOUR); /* nearly five days */
    run(w);
    /* The three newest, and the newest of each of the three latest days. */
    assert_int_equal(snapshot_count(w->repo), 5);
    for (uint64_t n = 37; n <= 39; n++)
        assert_true(there(w->repo, n));
    assert_true(there(w->repo, 31) && there(w->repo, 23));
    assert_int_equal(pruner.result.dropped, 34);
    assert_int_equal(pruner.result.kept, 5);
    assert_true(pruner.result.verified >= 5); /* nobody had verified any */
    run(w);
    assert_int_equal(pruner.result.dropped, 0);
    assert_int_equal(pruner.result.verified, 0);
}

static void test_days_without_snapshots_are_no_days(void **state)
{
    struct world *w = *state;

    pruner.policy.snapshots.keep_last = 1;
    changes(w, 5, 100 * DAY);
    changes(w, 4, 60);
    run(w);
    assert_int_equal(snapshot_count(w->repo), 5);
    assert_true(there(w->repo, 4) && there(w->repo, 3));
}

static void test_max_size_goes_down_to_the_floor(void **state)
{
    struct world *w = *state;

    pruner.policy.snapshots.keep_last = 1000;
    pruner.policy.max_size = 1;
    changes(w, 30, 60);
    uint64_t named = change(w, "app", "named");
    changes(w, 10, 60);
    run(w);
    assert_int_equal(snapshot_count(w->repo), 4);
    assert_true(there(w->repo, named));
    assert_true(pruner.result.too_large > 0);
    assert_int_equal(pruner.result.dropped, 37);
    assert_string_equal(pruner.last_reason, "the repository is larger than max_size");
}

static void test_max_size_stops_when_it_is_reached(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    uint64_t live;

    pruner.policy.snapshots.keep_last = 1000;
    changes(w, 60, 60);
    OK(repo_upkeep(w->repo, &(struct upkeep){.all = true}, NULL, &e), e);
    OK(repo_live_bytes(w->repo, &live, &e), e);
    pruner.policy.max_size = live - 60000; /* twenty of them */
    run(w);
    assert_in_range(snapshot_count(w->repo), 20, 45);
    assert_int_equal(pruner.result.too_large, 0);
    assert_true(there(w->repo, 60) && !there(w->repo, 1));
}

static void test_room_is_made_whatever_the_rules_keep(void **state)
{
    struct world *w = *state;

    pruner.policy.snapshots.keep_last = 1000;
    pruner.request.room = 60000;
    changes(w, 60, 60);
    run(w);
    assert_in_range(snapshot_count(w->repo), 20, 45);
    pruner.request.room = UINT64_MAX / 2;
    run(w);
    assert_int_equal(snapshot_count(w->repo), 3);
}

/* ---- what is in the way ---- */

static void test_pins_and_names_stay_until_unpinned(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct snapshot_row row;

    pruner.policy.snapshots.keep_last = 1;
    uint64_t named = change(w, "app", "before-upgrade");
    uint64_t pinned = change(w, "app", NULL);
    OK(pin_snapshot(w->repo, w->repo, "2", NULL, true, &row, &e), e);
    snapshot_row_release(&row);
    changes(w, 6, 60);
    run(w);
    assert_true(there(w->repo, named) && there(w->repo, pinned));
    OK(pin_snapshot(w->repo, w->repo, "before-upgrade", NULL, false, &row, &e), e);
    snapshot_row_release(&row);
    run(w);
    assert_true(!there(w->repo, named) && there(w->repo, pinned));
}

static void test_what_is_read_stays_until_it_is_not(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;

    pruner.policy.snapshots.keep_last = 1;
    changes(w, 6, 60);
    OK(repo_lease(w->repo, 2, &e), e);
    run(w);
    assert_true(there(w->repo, 2) && !there(w->repo, 1) && !there(w->repo, 3));
    repo_lease_end(w->repo, 2);
    run(w);
    assert_false(there(w->repo, 2));
}

static void test_a_dry_run_changes_nothing(void **state)
{
    struct world *w = *state;

    pruner.policy.snapshots.keep_last = 1;
    pruner.request.dry_run = true;
    changes(w, 6, 60);
    char *before = dump_catalog(w->path);
    run(w);
    char *after = dump_catalog(w->path);
    assert_string_equal(before, after);
    assert_int_equal(pruner.told, 6);
    assert_int_equal(pruner.told_dropped, 3);
    free(before);
    free(after);
}

static void test_one_watch_and_strangers(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;

    pruner.policy.snapshots.keep_last = 1;
    for (int i = 0; i < 6; i++) {
        change(w, "app", NULL);
        change(w, "other", NULL);
        change(w, "stranger", NULL);
    }
    pruner.request.watch = "app";
    run(w);
    assert_int_equal(snapshot_count(w->repo), 15);
    pruner.request.watch = NULL;
    run(w);
    assert_int_equal(snapshot_count(w->repo), 12); /* who is not configured keeps all */
    pruner.request.watch = "nobody";
    assert_int_equal(prune(w->repo, &pruner, &e), ERR_NOTFOUND);
}

/* ---- good or not ---- */

static void test_damaged_ones_count_for_nothing(void **state)
{
    struct world *w = *state;

    pruner.policy.snapshots.keep_last = 1;
    changes(w, 10, 60);
    for (uint64_t n = 6; n <= 10; n++)
        mark(w, MARK_DAMAGED, n);
    run(w);
    for (uint64_t n = 3; n <= 5; n++)
        assert_true(there(w->repo, n));
    assert_true(there(w->repo, 10));
    assert_false(there(w->repo, 1) || there(w->repo, 2));
}

/* One byte of the newest content is changed where it is stored. */
static void damage_newest(struct world *w)
{
    static uint8_t pack[1 << 22];
    const struct model_tree *t = last_tree(&w->model, "app");
    uint8_t *content = content_of(tree_find(t, "file"));
    char path[256];

    snprintf(path, sizeof(path), "%s/packs/0-log-%016x.wkp", w->path, 1);
    int fd = open(path, O_RDWR);
    ssize_t n = pread(fd, pack, sizeof(pack), 0);
    uint8_t *at = n > 0 ? memmem(pack, (size_t)n, content, 64) : NULL;
    assert_non_null(at);
    uint8_t other = (uint8_t)(*at ^ 1);
    assert_int_equal(pwrite(fd, &other, 1, at - pack), 1);
    close(fd);
    free(content);
}

static void test_damage_found_on_the_way_stops_it(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;

    pruner.policy.snapshots.keep_last = 1;
    changes(w, 8, 60);
    damage_newest(w);
    OK(prune(w->repo, &pruner, &e), e);
    assert_int_equal(pruner.result.frozen_count, 1);
    assert_string_equal(pruner.result.frozen[0].watch, "app");
    assert_non_null(strstr(pruner.result.frozen[0].reason, "damage"));
    assert_int_equal(snapshot_count(w->repo), 8);
    OK(prune(w->repo, &pruner, &e), e); /* and so it stays */
    assert_int_equal(pruner.result.frozen_count, 1);
    assert_int_equal(snapshot_count(w->repo), 8);
    pruner.request.thaw = true;
    OK(prune(w->repo, &pruner, &e), e);
    assert_int_equal(pruner.result.frozen_count, 0);
    assert_int_equal(snapshot_count(w->repo), 4); /* three good ones, and the last */
    for (uint64_t n = 5; n <= 8; n++)
        assert_true(there(w->repo, n));
}

static void test_damage_that_was_mended_freezes_no_more(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct watch_row row;

    pruner.policy.snapshots.keep_last = 1;
    changes(w, 8, 60);
    OK(catalog_watch_by_name(repo_catalog(w->repo), "app", &row, &e), e);
    OK(freeze_set(w->repo, row.id, FREEZE_DAMAGED, 0, &e, "in %d snapshots", 1), e);
    watch_row_release(&row);
    mark(w, MARK_DAMAGED, 7);
    run(w);
    assert_int_equal(pruner.result.frozen_count, 1);
    mark(w, MARK_REPAIRED, 7);
    run(w);
    assert_int_equal(pruner.result.frozen_count, 0);
    assert_int_equal(snapshot_count(w->repo), 3);
}

/* ---- clocks ---- */

static void test_a_jump_of_the_clock_drops_nothing(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;

    pruner.policy.snapshots.keep_days = 7;
    changes(w, 10, 12 * HOUR);
    run(w);
    assert_int_equal(snapshot_count(w->repo), 10);
    pruner.clocks.wall += 400 * DAY; /* not the boot clock: fixture_time follows below */
    fixture_time += 400 * DAY;
    OK(prune(w->repo, &pruner, &e), e);
    assert_int_equal(snapshot_count(w->repo), 10);
    fixture_time -= 400 * DAY;
    changes(w, 2, HOUR);
    run(w);
    assert_int_equal(snapshot_count(w->repo), 12);
    changes(w, 10, DAY);
    run(w);
    assert_true(snapshot_count(w->repo) < 12); /* real time makes them old */
}

/* ---- random histories ---- */

struct goods {
    uint64_t numbers[SNAPSHOTS_MAX];
    int64_t days[SNAPSHOTS_MAX];
    size_t count;
};

static int add_good(void *ctx, const struct snapshot_row *row)
{
    struct goods *g = ctx;

    if (snapshot_good(row) != SNAPSHOT_GOOD)
        return 0;
    g->numbers[g->count] = row->commit.number;
    g->days[g->count++] = row->commit.time.s / DAY;
    return 0;
}

/* The law, told once more: of what was good, the three newest, and the newest of each of the three
 * latest days that have one, in order of number. */
static void check_floor(struct world *w, const struct goods *before)
{
    int64_t days[3];
    size_t seen = 0;

    for (size_t i = 0; i < before->count; i++) { /* newest first */
        bool known = false;
        if (i < 3)
            assert_true(there(w->repo, before->numbers[i]));
        for (size_t d = 0; d < seen; d++)
            known |= days[d] == before->days[i];
        if (known || seen == 3)
            continue;
        days[seen++] = before->days[i];
        assert_true(there(w->repo, before->numbers[i]));
    }
}

static void random_policy(struct world *w)
{
    struct keep_policy *p = &pruner.policy.snapshots;

    *p = (struct keep_policy){.keep_last = 1 + (uint32_t)(next_random(&noise) % 4)};
    if (next_random(&noise) % 3 == 0)
        p->keep_days = 1 + (uint32_t)(next_random(&noise) % 5);
    if (next_random(&noise) % 3 == 0)
        p->keep_daily = 1 + (uint32_t)(next_random(&noise) % 5);
    pruner.policy.max_size = next_random(&noise) % 4 == 0 ? 1 : 0;
}

static void random_step(struct world *w)
{
    switch (next_random(&noise) % 12) {
    case 0:
        fixture_time += (int64_t)(next_random(&noise) % 3) * DAY;
        break;
    case 1:
        fixture_time -= (int64_t)(next_random(&noise) % 40) * HOUR;
        break;
    case 2:
        mark(w, MARK_DAMAGED, w->model.snapshots[w->model.count - 1].number);
        break;
    case 3:
        mark(w, MARK_PIN, w->model.snapshots[next_random(&noise) % w->model.count].number);
        break;
    default:
        fixture_time += (int64_t)(next_random(&noise) % 10) * HOUR;
    }
}

static void test_random_histories(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    const char *given = getenv("WK_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)clock_mono_ns() % 1000000;

    print_message("WK_SEED=%" PRIu64 "\n", seed);
    noise = seed * 2 + 1;
    change(w, "app", NULL);
    while (w->model.count < SNAPSHOTS_MAX) {
        random_step(w);
        change(w, "app", NULL);
        if (next_random(&noise) % 5 != 0)
            continue;
        random_policy(w);
        /* So that what is good before is what is good for the prune: all is verified. */
        uint64_t live = 0;
        for (size_t i = 0; i < w->model.count; i++) {
            struct snapshot_row row;
            if (catalog_snapshot(repo_catalog(w->repo), w->model.snapshots[i].number, &row, &e) !=
                0)
                continue;
            if (!row.damaged)
                mark(w, MARK_VERIFIED, row.commit.number);
            snapshot_row_release(&row);
            live++;
        }
        assert_true(live > 0);
        struct goods before = {.count = 0};
        OK(catalog_snapshots(repo_catalog(w->repo), 0, 1, UINT64_MAX, true, add_good, &before, &e),
           e);
        run(w);
        check_floor(w, &before);
        run(w);
        check_floor(w, &before);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_keep_last_one_keeps_the_floor),
        T(test_days_without_snapshots_are_no_days),
        T(test_max_size_goes_down_to_the_floor),
        T(test_max_size_stops_when_it_is_reached),
        T(test_room_is_made_whatever_the_rules_keep),
        T(test_pins_and_names_stay_until_unpinned),
        T(test_what_is_read_stays_until_it_is_not),
        T(test_a_dry_run_changes_nothing),
        T(test_one_watch_and_strangers),
        T(test_damaged_ones_count_for_nothing),
        T(test_damage_found_on_the_way_stops_it),
        T(test_damage_that_was_mended_freezes_no_more),
        T(test_a_jump_of_the_clock_drops_nothing),
        T(test_random_histories),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
