/* Power cuts while several saves are open, on a disk that has of what was not flushed whatever it
 * likes: their steps in any order, and a cut at any moment of any of them, also while what an
 * earlier cut left is being put in order. What was acknowledged must be there, and whole, and saves
 * go on in it. WK_SEED repeats a run, WK_SEEDS makes it longer. */
#include "base/bytes.h"
#include "cut_fixture.h"
#include "saves_fixture.h"

#include "base/banned.h"

enum { STEPS = 45, SEEDS = 100, SEEDS_CHECKED = 40 };

/* Of which moments one is the last. */
enum when { ANY_TIME, WHILE_OPEN, IN_UPKEEP, IN_A_COMMIT, IN_A_RECORD, IN_A_FLUSH };

static struct {
    enum when when;
    unsigned left; /* such moments until it ends; 0: it does not */
    bool gone;
    bool killed;    /* the process alone: the page cache stays */
    char path[128]; /* what is left */
    struct model model;
    struct said said[SNAPSHOTS_MAX];
    struct asked asked;
    bool used[1024]; /* numbers of snapshots that never were, and stand on the disk */
} cut;

/* Mostly soon, and at times late. */
static void next_cut(void)
{
    static const unsigned most[] = {[ANY_TIME] = 600,   [WHILE_OPEN] = 300, [IN_UPKEEP] = 300,
                                    [IN_A_COMMIT] = 60, [IN_A_RECORD] = 15, [IN_A_FLUSH] = 8};

    cut.when = (enum when)any(IN_A_FLUSH + 1);
    cut.left = 1 + any(1 + any(most[cut.when]));
}

/* What goes on in this step goes on beside the disk. */
static void it_ends(void)
{
    snprintf(cut.path, sizeof(cut.path), "%s/repo-%u", g.scratch->path, ++g.copies);
    cut.gone = true;
    cut.killed = any(4) == 0;
    if (cut.killed)
        disk_keep(cut.path);
    else
        disk_cut(cut.path);
    cut.model = g.model;
    memcpy(cut.said, g.said, sizeof(cut.said));
    cut.asked = g.asked;
}

static bool may_go(void)
{
    bool open = false;

    for (unsigned i = 0; i < WATCHES; i++)
        open |= g.open[i].t != NULL;
    switch (cut.when) {
    case IN_A_COMMIT:
        return g.asked.watch != NULL;
    case IN_A_RECORD:
        return g.asked.drop || g.asked.mark;
    case WHILE_OPEN:
        return open;
    case IN_UPKEEP:
        return g.within;
    case IN_A_FLUSH:
        return g.flushing;
    default:
        return true;
    }
}

static void moment(void)
{
    if (cut.left > 0 && may_go() && --cut.left == 0)
        it_ends();
    else if (disk_any(16) == 0)
        disk_write_back();
}

/* ---- what may have been done, though nobody was told ---- */

static struct model_snapshot *of_number(uint64_t number)
{
    for (size_t i = 0; i < g.model.count; i++)
        if (g.model.snapshots[i].number == number)
            return &g.model.snapshots[i];
    return NULL;
}

static int take_unknown(void *ctx, const struct snapshot_row *s)
{
    const struct model_snapshot *known = of_number(s->commit.number);

    if (known) {
        assert_false(known->dropped);
        return 0;
    }
    assert_non_null(g.asked.watch);
    assert_string_equal(s->watch_name, g.asked.watch);
    g.said[g.model.count] = (struct said){0};
    model_add(&g.model, s->watch_name, s->commit.number, &g.asked.tree);
    g.asked.watch = NULL;
    return 0;
}

static void what_became_of_it(void)
{
    struct error e = ERROR_INIT;
    struct snapshot_row row;

    OK(catalog_snapshots(repo_catalog(g.repo), 0, 0, UINT64_MAX, false, take_unknown, NULL, &e), e);
    if (g.asked.drop &&
        catalog_snapshot(repo_catalog(g.repo), g.asked.drop, &row, &e) == ERR_NOTFOUND)
        of_number(g.asked.drop)->dropped = true;
    else if (g.asked.drop)
        snapshot_row_release(&row);
    if (g.asked.mark) {
        struct said *said = &g.said[of_number(g.asked.mark) - g.model.snapshots];
        OK(catalog_snapshot(repo_catalog(g.repo), g.asked.mark, &row, &e), e);
        if (row.pinned == g.asked.said.pinned && (row.commit.name != NULL) == g.asked.said.named)
            *said = g.asked.said;
        snapshot_row_release(&row);
    }
    g.asked = (struct asked){0};
}

/* ---- it goes on ---- */

/* Of damage nothing is said. What a torn write left is named where it is cut off; a pack that
 * compaction removed is missed by the older records, until the one comes that says so. */
static bool is_harmless(const char *line)
{
    static const char *const known[] = {
        "a write that was cut off at the end of the log was discarded",
        "catalog made anew from the packs: there was none",
        "catalog made anew from the packs: catalog: ", /* a page of it, while it was being made */
    };
    bool torn = strstr(g.notices.all, known[0]) != NULL;

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strncmp(line, known[i], strlen(known[i])) == 0)
            return true;
    return (torn && strncmp(line, "log pack ", 9) == 0) ||
           strstr(line, " is not there: what was moved to it") ||
           (strncmp(line, "data pack ", 10) == 0 && strstr(line, "No such file"));
}

static void check_notices(void)
{
    char *save = NULL, all[sizeof(g.notices.all)];

    memcpy(all, g.notices.all, sizeof(all));
    for (char *line = strtok_r(all, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (is_harmless(line))
            continue;
        print_error("notice: %s\n", line);
        fail();
    }
}

static void check_reader(void)
{
    struct error e = ERROR_INIT;
    struct model known = g.model;
    struct repo *reader;

    for (size_t i = 0; i < known.count; i++)
        known.snapshots[i].dropped |= known.snapshots[i].number == g.asked.drop;
    OK(open_repo(g.path, REPO_READ, NULL, &reader, &e), e);
    check_model(reader, &known);
    repo_close(reader);
}

static void check_all(void)
{
    check();
    verify(g.repo, any(2));
    if (any(2) == 0)
        check_rebuilt_after_fault(g.repo, g.path);
}

static void use_number(const struct pack_file *f, const uint8_t *p, uint64_t at)
{
    struct error ignored = ERROR_INIT;
    struct record_header h;

    if (record_header_decode(p, f->id, at, &h, &ignored) < 0 ||
        (h.type != RECORD_COMMIT && h.type != RECORD_FILE_LIST))
        return;
    uint64_t number = load_u64(p + RECORD_HEADER_LEN);
    if (number < sizeof(cut.used) && !of_number(number))
        cut.used[number] = true;
}

/* Whole or not, its number is not used for another one. */
static void note_numbers(const char *path, const char *name, void *ctx)
{
    struct pack_file f;
    size_t len;

    if (!pack_file_parse(name, &f.kind, &f.id) || f.kind != PACK_LOG)
        return;
    uint8_t *p = disk_read(path, &len);
    for (size_t at = PACK_HEADER_LEN; at + RECORD_HEADER_LEN + 8 <= len; at += RECORD_ALIGN)
        use_number(&f, p + at, at);
    free(p);
}

static void check_numbers(void)
{
    for (size_t i = 0; i < g.model.count; i++)
        assert_false(cut.used[g.model.snapshots[i].number]);
}

/* It may end again while the repository is being opened. */
static void goes_on(void)
{
    while (cut.gone) {
        close_it();
        cut.gone = false;
        memcpy(g.path, cut.path, sizeof(g.path));
        g.model = cut.model;
        memcpy(g.said, cut.said, sizeof(g.said));
        g.asked = cut.asked;
        if (any(4) == 0)
            check_reader();
        if (cut.killed)
            disk.on = true;
        else
            disk_on(g.path);
        cut.when = ANY_TIME;
        cut.left = any(3) ? 0 : 1 + any(300);
        open_again();
    }
    cut.left = 0;
    check_notices();
    what_became_of_it();
    check_numbers();
    each_file(disk.folders[1].path, note_numbers, NULL);
    check_all();
    next_cut();
}

/* Between two steps. */
static void killed(void)
{
    cut.left = 0;
    it_ends();
}

/* ---- a run ---- */

static int flush(int fd)
{
    return is_here() ? disk_sync(fd, between_flushing) : 0;
}

static ssize_t read_pack(int fd, void *p, size_t n, off_t off)
{
    if (is_here() && g.within)
        between(30);
    return fileops_system.pread(fd, p, n, off);
}

static int gate(int op, const char *path)
{
    if (is_here() && g.within && op == FILEOP_READ)
        between(30);
    return disk_gate(op, path);
}

static void begin_run(uint64_t seed)
{
    struct error e = ERROR_INIT;

    memset(&g, 0, sizeof(g));
    memset(&cut, 0, sizeof(cut));
    g.random = seed * 7919;
    disk.random = seed * 104729;
    assert_int_equal(memory_scratch(&g.scratch), 0);
    snprintf(g.path, sizeof(g.path), "%s/repo-0", g.scratch->path);
    OK(repo_init(g.path, &e), e);
    disk_on(g.path);
    open_again();
}

static void end_run(void)
{
    disk_off();
    disk.lazy = false;
    close_it();
    fileops = &fileops_system;
    assert_int_equal(scratch_teardown((void **)&g.scratch), 0);
}

static void run(uint64_t seed)
{
    begin_run(seed);
    next_cut();
    for (unsigned n = 0; n < STEPS; n++) {
        step(killed);
        if (cut.gone)
            goes_on();
    }
    cut.left = 0;
    close_it();
    open_again();
    check_all();
    check_numbers();
    end_run();
}

/* ---- one by one ---- */

/* A log pack was made, and its name is not on the disk. */
static void kill_at_a_new_pack(void)
{
    const struct disk_folder *packs = &disk.folders[1];
    char path[300];
    struct stat st;

    if (cut.gone || packs->change_count == 0)
        return;
    const struct disk_change *last = &packs->changes[packs->change_count - 1];
    snprintf(path, sizeof(path), "%.199s/%.63s", packs->path, last->name);
    if (stat(path, &st) != 0 || st.st_size < PACK_HEADER_LEN)
        return;
    snprintf(cut.path, sizeof(cut.path), "%s/killed", g.scratch->path);
    disk_keep(cut.path);
    cut.gone = true;
}

static void use(const char *left)
{
    close_it();
    memcpy(g.path, left, sizeof(g.path));
}

static void test_a_pack_that_a_killed_writer_made(void **state)
{
    struct fileops ops = disk_table();
    struct model_tree tree = {.count = 0};
    struct error e = ERROR_INIT;

    begin_run(1);
    disk.lazy = true;
    disk.moment = kill_at_a_new_pack;
    fileops = &ops;
    tree_set(&tree, "f", 2, 3000);
    OK(save(g.repo, &g.model, "a", &tree, &e), e);
    pthread_mutex_lock(&g.repo->write_lock);
    OK(repo_log_seal(g.repo, NULL, &e), e);
    pthread_mutex_unlock(&g.repo->write_lock);
    assert_true(cut.gone);
    use(cut.path);
    disk.on = true;
    OK(open_repo(g.path, REPO_WRITE, &g.notices, &g.repo, &e), e);
    tree_set(&tree, "f", 4, 3000);
    OK(save(g.repo, &g.model, "a", &tree, &e), e);
    snprintf(cut.path, sizeof(cut.path), "%s/cut", g.scratch->path);
    disk_cut(cut.path);
    use(cut.path);
    OK(open_repo(g.path, REPO_WRITE, &g.notices, &g.repo, &e), e);
    check_model(g.repo, &g.model);
    end_run();
}

/* ---- at random ---- */

static void test_power_cuts_between_the_steps_of_saves(void **state)
{
    const char *given = getenv("WK_SEED"), *many = getenv("WK_SEEDS");
    uint64_t seed = given ? strtoull(given, NULL, 10) : 1;
    const char *sanitized = getenv("WK_SANITIZE");
    uint64_t all = sanitized && *sanitized ? SEEDS_CHECKED : SEEDS;
    uint64_t count = many ? strtoull(many, NULL, 10) : given ? 1 : all;
    struct fileops ops = disk_table();

    this_thread = pthread_self();
    ops.pread = read_pack;
    ops.gate = gate;
    ops.fdatasync = flush;
    disk.moment = moment;
    for (uint64_t n = 0; n < count; n++) {
        print_message("WK_SEED=%" PRIu64 "\n", seed + n);
        fileops = &ops;
        run(seed + n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_pack_that_a_killed_writer_made),
        cmocka_unit_test(test_power_cuts_between_the_steps_of_saves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
