/* Verifying in parts: only what is new, and a sample that goes round. */
#include "snapshot_fixture.h"

#include "base/random.h"
#include "snapshot/verify.h"

#include "base/banned.h"

static struct verify_result result;
static struct error last_error;
static bool flag; /* all, or round */

static int teardown(void **state)
{
    verify_result_release(&result);
    return fx_teardown(state);
}

static void read_new(struct fx *f)
{
    const struct verify_part part = {.repo = f->repo, .record_in = f->repo};

    verify_result_release(&result);
    FX_OK(verify_new(&part, UINT64_MAX, &result, &flag, &last_error), last_error);
}

static void read_sample(struct fx *f, unsigned percent)
{
    const struct verify_part part = {.repo = f->repo, .record_in = f->repo};

    verify_result_release(&result);
    FX_OK(verify_sample(&part, percent, &result, &flag, &last_error), last_error);
}

static uint64_t save_random(struct fx *f, const char *name, size_t len)
{
    uint8_t *data = malloc(len);

    assert_non_null(data);
    random_bytes(data, len);
    fx_begin(f);
    fx_file_as(f, NODE_ROOT, name, data, len, fx_meta(NODE_FILE, 0644));
    free(data);
    return fx_commit(f);
}

static int64_t verified(struct fx *f, uint64_t number)
{
    struct snapshot_row row;

    fx_row(f, number, &row);
    int64_t at = row.damaged ? -1 : row.verified.s;
    snapshot_row_release(&row);
    return at;
}

static void only_what_is_new_is_read(void **state)
{
    struct fx *f = *state;

    uint64_t a = save_random(f, "a", 300000);
    uint64_t b = save_random(f, "b", 300000);
    assert_int_equal(verified(f, a), 0);
    read_new(f);
    assert_true(flag && result.errors == 0 && result.bytes > 600000);
    assert_true(verified(f, a) > 0 && verified(f, b) > 0);
    read_new(f);
    assert_true(result.bytes < 4096); /* the mark that says so */
    uint64_t c = save_random(f, "c", 1000);
    read_new(f);
    assert_true(result.bytes > 1000 && result.bytes < 8192);
    assert_true(verified(f, c) > 0);
    /* Without the note everything is new. */
    fx_reopen(f, REPO_WRITE);
    struct error e = ERROR_INIT;
    FX_OK(repo_rebuild(f->repo, &e), e);
    assert_true(verified(f, c) > 0);
    read_new(f);
    assert_true(result.bytes > 600000);
}

static void in_pieces(void **state)
{
    struct fx *f = *state;
    int calls = 0;

    const struct verify_part part = {.repo = f->repo, .record_in = f->repo};
    uint64_t a = save_random(f, "a", 3000000); /* a data pack besides the log */
    for (flag = false; !flag; calls++) {
        assert_int_equal(verified(f, a), 0);
        verify_result_release(&result);
        FX_OK(verify_new(&part, 1, &result, &flag, &last_error), last_error);
    }
    assert_true(calls >= 2);
    assert_true(verified(f, a) > 0);
}

/* Turn a bit in the middle of the largest pack. */
static void damage(struct fx *f)
{
    char folder[128], worst[400] = "", path[400];
    off_t largest = 0;
    struct dirent *entry;
    struct stat st;
    uint8_t byte;

    snprintf(folder, sizeof(folder), "%s/packs", f->repo_path);
    DIR *d = opendir(folder);
    assert_non_null(d);
    while ((entry = readdir(d)) != NULL) {
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > largest) {
            largest = st.st_size;
            snprintf(worst, sizeof(worst), "%s", path);
        }
    }
    closedir(d);
    int fd = open(worst, O_RDWR | O_CLOEXEC);
    assert_int_equal(pread(fd, &byte, 1, largest / 2), 1);
    byte ^= 4;
    assert_int_equal(pwrite(fd, &byte, 1, largest / 2), 1);
    close(fd);
}

static void damage_in_what_is_new(void **state)
{
    struct fx *f = *state;

    uint64_t a = save_random(f, "a", 3000000);
    damage(f);
    read_new(f);
    assert_true(result.errors > 0 && result.recorded);
    assert_int_equal(verified(f, a), -1);
    /* It is told once; what comes later is verified beside it. */
    read_new(f);
    assert_int_equal(result.errors, 0);
    fx_begin(f);
    uint64_t node;
    FX_OK(catalog_lookup(repo_catalog(f->repo), 1, NODE_ROOT, "a", 1, CATALOG_OPEN, &node,
                         &last_error),
          last_error);
    fx_remove(f, NODE_ROOT, "a", node);
    fx_file(f, NODE_ROOT, "b", "sound");
    uint64_t b = fx_commit(f);
    read_new(f);
    assert_int_equal(result.errors, 0);
    assert_true(verified(f, b) > 0);
}

/* A pack ends when it is a day old. */
static void many_packs(struct fx *f, int count)
{
    const struct upkeep u = {.keep_s = UPKEEP_KEEP_S};
    struct wall_time now = {.s = 1600000000};
    char name[16];

    for (int i = 0; i < count; i++, now.s += 90000) {
        clock_fake(&now);
        snprintf(name, sizeof(name), "f%d", i);
        save_random(f, name, 1500000);
        FX_OK(repo_idle(f->repo, &last_error), last_error);
        FX_OK(repo_upkeep(f->repo, &u, NULL, &last_error), last_error);
    }
    clock_fake(NULL);
}

static void a_round_reads_everything(void **state)
{
    static const unsigned shares[] = {5, 10, 34, 100};
    struct fx *f = *state;
    struct pack_row *rows;
    size_t count;
    uint64_t all = 0;

    many_packs(f, 12);
    read_new(f);
    FX_OK(repo_packs(f->repo, &rows, &count, NULL, NULL, &last_error), last_error);
    for (size_t i = 0; i < count; i++)
        all += rows[i].bytes;
    free(rows);
    assert_true(count >= 6);
    for (size_t i = 0; i < 4; i++) {
        unsigned runs = 0, most = (100 + shares[i] - 1) / shares[i];
        uint64_t read = 0;
        for (flag = false; !flag; runs++) {
            assert_true(runs < most);
            read_sample(f, shares[i]);
            assert_int_equal(result.errors, 0);
            read += result.bytes;
            if (runs == 0)
                fx_reopen(f, REPO_WRITE); /* it goes on where it was */
        }
        assert_true(read >= all);
        assert_true(read < all + all / 10);
    }
}

/* The end of a round moves the time at which a snapshot was verified to its beginning. */
static void a_round_verifies_again(void **state)
{
    struct fx *f = *state;
    struct wall_time now = {.s = 1700000000};

    many_packs(f, 6);
    clock_fake(&now);
    uint64_t a = save_random(f, "a", 1000);
    read_new(f);
    assert_int_equal(verified(f, a), 1700000000);
    for (now.s = 1700100000, flag = false; !flag; now.s += 86400) {
        clock_fake(&now);
        assert_int_equal(verified(f, a), 1700000000);
        read_sample(f, 34);
    }
    assert_int_equal(verified(f, a), 1700100000);
    clock_fake(NULL);
}

static void a_round_finds_damage(void **state)
{
    struct fx *f = *state;
    bool found = false;
    unsigned runs = 0;

    many_packs(f, 6);
    uint64_t a = save_random(f, "a", 3000000);
    read_new(f);
    assert_true(verified(f, a) > 0);
    damage(f);
    read_new(f);
    assert_int_equal(result.errors, 0); /* not new */
    for (flag = false; !flag && !found; runs++) {
        read_sample(f, 5);
        found = result.errors > 0;
        assert_true(runs < 20);
    }
    assert_true(found && result.recorded && result.damaged_count > 0);
    assert_int_equal(verified(f, a), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(only_what_is_new_is_read, fx_setup, teardown),
        cmocka_unit_test_setup_teardown(in_pieces, fx_setup, teardown),
        cmocka_unit_test_setup_teardown(damage_in_what_is_new, fx_setup, teardown),
        cmocka_unit_test_setup_teardown(a_round_reads_everything, fx_setup, teardown),
        cmocka_unit_test_setup_teardown(a_round_verifies_again, fx_setup, teardown),
        cmocka_unit_test_setup_teardown(a_round_finds_damage, fx_setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
