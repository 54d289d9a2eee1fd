/* A repository as the rooms above see it: what was saved can be read back, by whoever opens it next
 * and in whatever state its index is. */
#include "world_fixture.h"

#include "io/lock.h"

#include <dirent.h>

#include <fcntl.h>
#include <pthread.h>

#include "base/banned.h"

/* Small and large saves of two watches, with files that change, come and go. */
static void make_history(struct world *w)
{
    struct model_tree a = {.count = 0}, b = {.count = 0};

    tree_set(&a, "settings.json", 2, 3000);
    tree_set(&a, "notes.txt", 4, 70000);
    must_save(w, "app", &a);
    tree_set(&b, "photo.jpg", 7, 3 * 1024 * 1024);
    must_save(w, "photos", &b);
    tree_set(&a, "settings.json", 6, 3100);
    must_save(w, "app", &a);
    tree_remove(&a, "notes.txt");
    tree_set(&a, "video.mkv", 9, 5 * 1024 * 1024 + 17);
    must_save(w, "app", &a);
    tree_set(&a, "notes.txt", 4, 70000);
    must_save(w, "app", &a);
    tree_set(&b, "photo.jpg", 11, 2 * 1024 * 1024);
    must_save(w, "photos", &b);
}

static void remove_catalog(const struct world *w)
{
    char path[160];
    static const char *const names[] = {"catalog.db", "catalog.db-wal", "catalog.db-shm"};

    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/%s", w->path, names[i]);
        unlink(path);
    }
}

static void mark_one(struct world *w, enum mark_type type, uint64_t number, const char *text)
{
    struct error e = ERROR_INIT;
    struct mark m = {.type = (uint8_t)type,
                     .time = {.s = 1700001000, .ns = 5},
                     .text = text,
                     .count = 1,
                     .snapshots = &number};

    OK(repo_mark(w->repo, &m, &e), e);
}

/* ---- tests ---- */

static void test_init_again_says_so(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;

    assert_true(repo_exists(w->path));
    assert_int_equal(repo_init(w->path, &e), 1);
}

static void test_init_refuses_a_folder_in_use(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct repo *r;
    char path[160], file[200];

    snprintf(path, sizeof(path), "%s/other", w->scratch->path);
    mkdir(path, 0700);
    snprintf(file, sizeof(file), "%s/thesis.doc", path);
    close(open(file, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(repo_init(path, &e), ERR_REFUSED);
    assert_non_null(strstr(e.message, "thesis.doc"));
    assert_int_equal(repo_open(path, REPO_READ, NULL, &r, &e), ERR_NOREPO);
    assert_int_equal(repo_open("/nonexistent/x", REPO_READ, NULL, &r, &e), ERR_NOREPO);
}

static void test_saved_is_read_back(void **state)
{
    struct world *w = *state;

    make_history(w);
    check_model(w->repo, &w->model);
    assert_int_equal(snapshot_count(w->repo), 6);
    check_refs(w->repo);
    world_reopen(w, REPO_WRITE);
    check_model(w->repo, &w->model);
    world_reopen(w, REPO_READ);
    assert_false(repo_in_memory(w->repo));
    check_model(w->repo, &w->model);
    assert_int_equal(w->notices.count, 0);
}

static void test_a_small_save_stays_in_the_log(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct model_tree a = {.count = 0};
    struct pack_row *rows;
    size_t count;

    tree_set(&a, "small", 3, 500000);
    must_save(w, "app", &a);
    OK(repo_packs(w->repo, &rows, &count, NULL, NULL, &e), e);
    assert_int_equal(count, 1);
    assert_int_equal(rows[0].kind, PACK_LOG);
    free(rows);
    tree_set(&a, "large", 5, 2000000);
    must_save(w, "app", &a);
    OK(repo_packs(w->repo, &rows, &count, NULL, NULL, &e), e);
    assert_int_equal(count, 2);
    assert_int_equal(rows[1].kind, PACK_DATA);
    assert_true(rows[1].bytes > 2000000);
    free(rows);
}

static void test_unchanged_adds_nothing(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct cache_key key = {.ino = 77};
    struct buffer signature = BUFFER_INIT;
    struct txn *t;
    uint64_t nodes[4], ino;
    size_t count;

    make_history(w);
    uint64_t before = repo_bytes(w->repo);
    OK(begin_save(w->repo, "app", &t, &e), e);
    assert_false(txn_changed(t));
    int64_t serial = txn_watch_row(t)->serial;
    OK(txn_cache_put(t, 2, &key, "signature", 9, &e), e);
    txn_end_unchanged(t);
    assert_int_equal(snapshot_count(w->repo), 6);
    OK(catalog_cache_get(repo_catalog(w->repo), serial, 2, &ino, &signature, &e), e);
    assert_int_equal(ino, 77);
    assert_int_equal(signature.len, 9);
    OK(catalog_cache_by_ino(repo_catalog(w->repo), serial, 77, nodes, 4, &count, &e), e);
    assert_int_equal(count, 1);
    assert_int_equal(nodes[0], 2);
    buffer_release(&signature);
    assert_true(repo_bytes(w->repo) < before + 65536);
}

static void test_marks_survive_a_rebuild(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct snapshot_row row;
    struct watch_row watch;

    make_history(w);
    mark_one(w, MARK_NAME, 1, "before-upgrade");
    mark_one(w, MARK_NOTE, 1, "it worked");
    mark_one(w, MARK_PIN, 1, NULL);
    mark_one(w, MARK_VERIFIED, 3, NULL);
    mark_one(w, MARK_DAMAGED, 2, NULL);
    mark_one(w, MARK_EVENT, 2, "{\"event\":\"x\"}");
    OK(catalog_watch_by_name(repo_catalog(w->repo), "app", &watch, &e), e);
    struct mark freeze = {.type = MARK_FREEZE, .text = "the root is gone"};
    memcpy(freeze.watch_id, watch.id, WATCH_ID_LEN);
    watch_row_release(&watch);
    OK(repo_mark(w->repo, &freeze, &e), e);
    check_rebuilt(w->repo, w->path);
    OK(catalog_snapshot_by_name(repo_catalog(w->repo), "before-upgrade", "app", &row, &e), e);
    assert_int_equal(row.commit.number, 1);
    assert_string_equal(row.commit.note, "it worked");
    assert_true(row.pinned);
    snapshot_row_release(&row);
    OK(catalog_snapshot(repo_catalog(w->repo), 3, &row, &e), e);
    assert_int_equal(row.verified.s, 1700001000);
    snapshot_row_release(&row);
    OK(catalog_watch_by_name(repo_catalog(w->repo), "app", &watch, &e), e);
    assert_true(watch.frozen);
    watch_row_release(&watch);
}

static void mark_watch(struct world *w, const uint8_t *id, int type, const char *text)
{
    struct error e = ERROR_INIT;
    struct mark m = {.type = (uint8_t)type, .text = text};

    memcpy(m.watch_id, id, WATCH_ID_LEN);
    OK(repo_mark(w->repo, &m, &e), e);
}

static unsigned frozen(struct world *w)
{
    struct error e = ERROR_INIT;
    struct watch_row watch;

    OK(catalog_watch_by_name(repo_catalog(w->repo), "app", &watch, &e), e);
    unsigned causes = watch.frozen;
    watch_row_release(&watch);
    return causes;
}

static void test_each_cause_of_a_freeze_goes_alone(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct watch_row watch;
    static const uint8_t all[WATCH_ID_LEN];

    make_history(w);
    OK(catalog_watch_by_name(repo_catalog(w->repo), "app", &watch, &e), e);
    mark_watch(w, watch.id, MARK_FREEZE, "missing: '/x' is gone");
    mark_watch(w, watch.id, MARK_FREEZE, "emptied: 90 of 100 files are gone");
    assert_int_equal(frozen(w), FREEZE_MISSING | FREEZE_EMPTIED);
    mark_watch(w, watch.id, MARK_THAW, "missing");
    assert_int_equal(frozen(w), FREEZE_EMPTIED);
    mark_watch(w, all, MARK_FREEZE, "damaged: in 3 snapshots");
    mark_watch(w, watch.id, MARK_FREEZE, NULL);
    OK(repo_upkeep(w->repo, &(struct upkeep){.all = true}, NULL, &e), e);
    OK(repo_rebuild(w->repo, &e), e);
    assert_int_equal(frozen(w), FREEZE_EMPTIED | FREEZE_DAMAGED | FREEZE_OTHER);
    mark_watch(w, watch.id, MARK_THAW, NULL);
    assert_int_equal(frozen(w), 0);
    watch_row_release(&watch);
}

static void test_a_taken_name_is_refused(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct model_tree a = {.count = 0};
    uint64_t other = 2;

    tree_set(&a, "f", 2, 100);
    OK(save_named(w->repo, &w->model, "app", "first", &a, &e), e);
    tree_set(&a, "f", 4, 100);
    assert_int_equal(save_named(w->repo, &w->model, "app", "first", &a, &e), ERR_REFUSED);
    OK(save_named(w->repo, &w->model, "photos", "first", &a, &e), e);
    OK(save_named(w->repo, &w->model, "app", "second", &a, &e), e);
    struct mark m = {.type = MARK_NAME, .text = "first", .count = 1, .snapshots = &other};
    other = 3;
    assert_int_equal(repo_mark(w->repo, &m, &e), ERR_REFUSED);
    assert_int_equal(snapshot_count(w->repo), 3);
    check_model(w->repo, &w->model);
}

static void test_another_root_is_refused_until_moved(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct model_tree a = {.count = 0};
    struct txn_watch moved = {.name = "app", .root = "/mnt/new", .rules = "{}"};
    struct txn *t;
    struct watch_row row;
    uint64_t number;

    tree_set(&a, "f", 2, 100);
    must_save(w, "app", &a);
    assert_int_equal(txn_begin(w->repo, &moved, &t, &e), ERR_REFUSED);
    moved.moved = true;
    OK(txn_begin(w->repo, &moved, &t, &e), e);
    OK(end_save(t, NULL, &a, &number, &e), e);
    OK(catalog_watch_by_name(repo_catalog(w->repo), "app", &row, &e), e);
    assert_string_equal(row.root, "/mnt/new");
    watch_row_release(&row);
}

static void test_two_writers(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct repo *second;

    assert_int_equal(open_repo(w->path, REPO_WRITE, NULL, &second, &e), ERR_BUSY);
    repo_close(w->repo);
    w->repo = NULL;
    OK(open_repo(w->path, REPO_WRITE, NULL, &second, &e), e);
    repo_close(second);
}

static void test_lock_file_removed_and_made_again(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    char path[160];

    repo_close(w->repo);
    w->repo = NULL;
    snprintf(path, sizeof(path), "%s/lock", w->path);
    unlink(path);
    OK(open_repo(w->path, REPO_WRITE, NULL, &w->repo, &e), e);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
}

static void test_reader_beside_a_writer(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct repo *reader;
    struct notices n = {0};

    make_history(w);
    OK(open_repo(w->path, REPO_READ, &n, &reader, &e), e);
    assert_false(repo_in_memory(reader));
    check_model(reader, &w->model);
    struct model_tree a = *last_tree(&w->model, "app");
    tree_set(&a, "later", 13, 3 * 1024 * 1024);
    must_save(w, "app", &a);
    check_model(reader, &w->model); /* it sees what came since */
    OK(repo_lease(reader, 1, &e), e);
    assert_true(repo_leased(w->repo, 1));
    repo_lease_end(reader, 1);
    assert_false(repo_leased(w->repo, 1));
    repo_close(reader);
    assert_int_equal(n.count, 0);
}

static void test_a_still_reader_keeps_its_state(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct repo *reader;

    make_history(w);
    struct model before = w->model;
    repo_close(w->repo);
    w->repo = NULL;
    OK(open_repo(w->path, REPO_READ, NULL, &reader, &e), e);
    OK(open_repo(w->path, REPO_WRITE, NULL, &w->repo, &e), e);
    for (uint64_t i = 0; i < 20; i++) {
        struct model_tree a = *last_tree(&w->model, "app");
        tree_set(&a, "settings.json", 100 + i, 4000);
        must_save(w, "app", &a);
        OK(repo_idle(w->repo, &e), e);
        check_model(reader, &before);
    }
    repo_close(w->repo);
    w->repo = NULL;
    check_model(reader, &before);
    repo_close(reader);
    OK(open_repo(w->path, REPO_WRITE, NULL, &w->repo, &e), e);
    check_model(w->repo, &w->model);
}

static size_t entries(const char *path)
{
    struct error e = ERROR_INIT;
    size_t count = 0;
    int fd = open(path, O_RDONLY | O_DIRECTORY);
    struct dirent *entry;
    DIR *dir = fdopendir(fd);

    OK(dir ? 0 : -1, e);
    while ((entry = readdir(dir)))
        count++;
    closedir(dir);
    return count;
}

static void test_reader_makes_no_files(void **state)
{
    struct world *w = *state;

    make_history(w);
    repo_close(w->repo);
    w->repo = NULL;
    size_t before = entries(w->path);
    struct error e = ERROR_INIT;
    OK(open_repo(w->path, REPO_READ, NULL, &w->repo, &e), e);
    check_model(w->repo, &w->model);
    assert_int_equal(entries(w->path), before);
    world_reopen(w, REPO_READ);
    assert_int_equal(entries(w->path), before);
}

static void copy_file(const char *from, const char *to)
{
    static char buf[1 << 16];
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ssize_t n;

    assert_true(in >= 0 && out >= 0);
    while ((n = read(in, buf, sizeof(buf))) > 0)
        assert_int_equal(write(out, buf, (size_t)n), n);
    close(in);
    close(out);
}

/* As rsync of `format` and `packs` alone does. */
static void copy_packs(const char *from, const char *to)
{
    char a[512], b[512];
    struct dirent *entry;

    mkdir(to, 0700);
    snprintf(b, sizeof(b), "%s/packs", to);
    mkdir(b, 0700);
    snprintf(a, sizeof(a), "%s/format", from);
    snprintf(b, sizeof(b), "%s/format", to);
    copy_file(a, b);
    snprintf(a, sizeof(a), "%s/packs", from);
    DIR *dir = opendir(a);
    while ((entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(a, sizeof(a), "%s/packs/%s", from, entry->d_name);
        snprintf(b, sizeof(b), "%s/packs/%s", to, entry->d_name);
        copy_file(a, b);
    }
    closedir(dir);
}

static void test_a_copy_without_catalog(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct notices n = {0};
    struct repo *copy, *second;
    char path[160];

    make_history(w);
    snprintf(path, sizeof(path), "%s/copy", w->scratch->path);
    copy_packs(w->path, path); /* the writer is at work */
    OK(open_repo(path, REPO_READ, &n, &copy, &e), e);
    assert_true(repo_in_memory(copy));
    assert_int_equal(n.count, 1);
    check_model(copy, &w->model);
    check_refs(copy);
    assert_int_equal(entries(path), 4);
    repo_close(copy);
    OK(open_repo(path, REPO_WRITE, NULL, &second, &e), e);
    check_model(second, &w->model);
    struct model m = w->model;
    struct model_tree a = *last_tree(&m, "app");
    tree_set(&a, "settings.json", 500, 900);
    OK(save(second, &m, "app", &a, &e), e);
    check_model(second, &m);
    repo_close(second);
}

static void test_catalog_removed(void **state)
{
    struct world *w = *state;
    uint64_t doomed[] = {3};
    struct error e = ERROR_INIT;

    make_history(w);
    mark_one(w, MARK_NAME, 2, "holiday");
    OK(repo_drop(w->repo, doomed, 1, &e), e);
    w->model.snapshots[2].dropped = true;
    repo_close(w->repo);
    w->repo = NULL;
    char *before = dump_catalog(w->path);
    remove_catalog(w);
    OK(open_repo(w->path, REPO_READ, &w->notices, &w->repo, &e), e);
    assert_true(repo_in_memory(w->repo));
    assert_int_equal(w->notices.count, 1);
    check_model(w->repo, &w->model);
    world_reopen(w, REPO_WRITE);
    check_model(w->repo, &w->model);
    assert_int_equal(snapshot_count(w->repo), 5);
    check_refs(w->repo);
    char *after = dump_catalog(w->path);
    assert_string_equal(before, after);
    free(before);
    free(after);
}

static void overwrite(const char *path, off_t off, const void *p, size_t n)
{
    int fd = open(path, O_WRONLY);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, p, n, off), (ssize_t)n);
    close(fd);
}

static void test_catalog_of_garbage(void **state)
{
    struct world *w = *state;
    char path[160], junk[9000];
    struct error e = ERROR_INIT;

    make_history(w);
    repo_close(w->repo);
    snprintf(path, sizeof(path), "%s/catalog.db", w->path);
    memset(junk, 0x5a, sizeof(junk));
    overwrite(path, 0, junk, sizeof(junk));
    w->repo = NULL;
    OK(open_repo(w->path, REPO_READ, &w->notices, &w->repo, &e), e);
    assert_int_equal(w->notices.count, 1);
    check_model(w->repo, &w->model);
    world_reopen(w, REPO_WRITE);
    assert_int_equal(w->notices.count, 1);
    check_model(w->repo, &w->model);
    world_reopen(w, REPO_WRITE);
    assert_int_equal(w->notices.count, 0);
}

static void test_catalog_of_another_repository(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct model other = {.count = 0};
    struct model_tree a = {.count = 0};
    struct repo *r;
    char path[160], from[200], to[200];

    make_history(w);
    snprintf(path, sizeof(path), "%s/other", w->scratch->path);
    OK(repo_init(path, &e), e);
    OK(open_repo(path, REPO_WRITE, NULL, &r, &e), e);
    tree_set(&a, "x", 2, 100);
    OK(save(r, &other, "app", &a, &e), e);
    repo_close(r);
    repo_close(w->repo);
    w->repo = NULL;
    snprintf(from, sizeof(from), "%s/catalog.db", path);
    snprintf(to, sizeof(to), "%s/catalog.db", w->path);
    copy_file(from, to);
    OK(open_repo(w->path, REPO_WRITE, &w->notices, &w->repo, &e), e);
    assert_int_equal(w->notices.count, 1);
    check_model(w->repo, &w->model);
}

/* The catalog of an older state is caught up; one that knows more than the packs gives way, and the
 * numbers it knew stay used. */
static void test_catalog_older_and_newer_than_the_packs(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct model_tree a = {.count = 0};
    char catalog[200], kept[200], packs[200], old[200];

    tree_set(&a, "f", 2, 4000);
    must_save(w, "app", &a);
    world_reopen(w, REPO_WRITE);
    repo_close(w->repo);
    w->repo = NULL;
    snprintf(catalog, sizeof(catalog), "%s/catalog.db", w->path);
    snprintf(kept, sizeof(kept), "%s/kept.db", w->scratch->path);
    snprintf(old, sizeof(old), "%s/old", w->scratch->path);
    snprintf(packs, sizeof(packs), "%s/packs/0-log-0000000000000001.wkp", w->path);
    copy_file(catalog, kept);
    copy_file(packs, old);
    OK(open_repo(w->path, REPO_WRITE, NULL, &w->repo, &e), e);
    struct model early = w->model;
    make_history(w);
    repo_close(w->repo);
    w->repo = NULL;
    copy_file(kept, catalog);
    OK(open_repo(w->path, REPO_WRITE, &w->notices, &w->repo, &e), e);
    assert_int_equal(w->notices.count, 0);
    check_model(w->repo, &w->model);
    uint64_t highest = w->model.snapshots[w->model.count - 1].number;
    repo_close(w->repo);
    w->repo = NULL;
    copy_file(old, packs);
    OK(open_repo(w->path, REPO_WRITE, &w->notices, &w->repo, &e), e);
    assert_true(w->notices.count > 0);
    check_model(w->repo, &early);
    tree_set(&a, "f", 4, 4100);
    OK(save(w->repo, &early, "app", &a, &e), e);
    assert_true(early.snapshots[1].number > highest);
}

static void test_torn_tail(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    char path[200], junk[5000];
    struct stat st;

    make_history(w);
    repo_close(w->repo);
    w->repo = NULL;
    snprintf(path, sizeof(path), "%s/packs/0-log-0000000000000001.wkp", w->path);
    assert_int_equal(stat(path, &st), 0);
    fill_random(junk, sizeof(junk), 1);
    overwrite(path, st.st_size, junk, sizeof(junk));
    OK(open_repo(w->path, REPO_READ, NULL, &w->repo, &e), e);
    check_model(w->repo, &w->model);
    world_reopen(w, REPO_WRITE);
    check_model(w->repo, &w->model);
    struct model_tree a = *last_tree(&w->model, "app");
    tree_set(&a, "after", 2, 900);
    must_save(w, "app", &a);
    world_reopen(w, REPO_WRITE);
    assert_int_equal(w->notices.count, 0);
    check_model(w->repo, &w->model);
    assert_int_equal(stat(path, &st), 0);
    OK(repo_rebuild(w->repo, &e), e);
    check_model(w->repo, &w->model);
    check_refs(w->repo);
}

static void test_interleaved_saves(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct model_tree a = {.count = 0}, b = {.count = 0}, none = {.count = 0};
    struct txn *ta, *tb, *again;
    uint64_t na, nb;

    tree_set(&a, "shared", 21, 4 * 1024 * 1024);
    tree_set(&b, "shared", 21, 4 * 1024 * 1024);
    tree_set(&b, "own", 23, 2 * 1024 * 1024);
    OK(begin_save(w->repo, "app", &ta, &e), e);
    OK(begin_save(w->repo, "photos", &tb, &e), e);
    assert_int_equal(begin_save(w->repo, "app", &again, &e), ERR_BUSY);
    OK(put_changes(ta, &none, &a, &e), e);
    OK(put_changes(tb, &none, &b, &e), e);
    OK(end_save(tb, NULL, &b, &nb, &e), e);
    model_add(&w->model, "photos", nb, &b);
    check_model(w->repo, &w->model);
    OK(end_save(ta, NULL, &a, &na, &e), e);
    model_add(&w->model, "app", na, &a);
    check_model(w->repo, &w->model);
    check_refs(w->repo);
    check_rebuilt(w->repo, w->path);
    check_model(w->repo, &w->model);
}

/* A save that is given up leaves chunks, not a snapshot; another that relied on nothing of it. */
static void test_abort_beside_a_save_of_the_same(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct model_tree a = {.count = 0}, none = {.count = 0};
    struct txn *ta, *tb;
    uint64_t nb;

    tree_set(&a, "shared", 21, 4 * 1024 * 1024);
    OK(begin_save(w->repo, "app", &ta, &e), e);
    OK(begin_save(w->repo, "photos", &tb, &e), e);
    OK(put_changes(ta, &none, &a, &e), e);
    OK(put_changes(tb, &none, &a, &e), e);
    txn_abort(ta);
    OK(end_save(tb, NULL, &a, &nb, &e), e);
    model_add(&w->model, "photos", nb, &a);
    assert_int_equal(snapshot_count(w->repo), 1);
    check_model(w->repo, &w->model);
    OK(begin_save(w->repo, "app", &ta, &e), e);
    OK(put_changes(ta, &none, &a, &e), e);
    assert_int_equal(txn_bytes_stored(ta), 0); /* all of it is there */
    txn_abort(ta);
    world_reopen(w, REPO_WRITE);
    check_model(w->repo, &w->model);
    check_refs(w->repo);
}

/* Many operations: lists are written to the log before the commit. */
static void test_long_lists(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct node n = {.type = NODE_FILE, .mode = 0600}, root = {.type = NODE_FOLDER};
    struct model_tree none = {.count = 0};
    struct txn *t, *other;
    uint64_t number, between;
    char name[32];

    OK(begin_save(w->repo, "app", &t, &e), e);
    OK(txn_node_put(t, NODE_ROOT, &root, &e), e);
    for (int i = 0; i < 80000; i++) {
        uint64_t node = txn_new_node(t);
        snprintf(name, sizeof(name), "file-%06d", i);
        n.size = (uint64_t)i;
        OK(txn_name_put(t, NODE_ROOT, name, strlen(name), node, &e), e);
        OK(txn_node_put(t, node, &n, &e), e);
        if (i == 40000) {
            struct model_tree b = {.count = 0};
            tree_set(&b, "small", 2, 100);
            OK(begin_save(w->repo, "photos", &other, &e), e);
            OK(put_changes(other, &none, &b, &e), e);
            OK(end_save(other, NULL, &b, &between, &e), e);
            model_add(&w->model, "photos", between, &b);
        }
    }
    OK(end_save(t, NULL, &none, &number, &e), e);
    assert_true(number < between); /* its number was taken with its first list */
    check_rebuilt(w->repo, w->path);
    struct snapshot_row row;
    OK(catalog_snapshot(repo_catalog(w->repo), number, &row, &e), e);
    assert_true(row.whole);
    assert_true(row.commit.list_count > 1);
    snapshot_row_release(&row);
    check_model(w->repo, &w->model);
}

/* The catalog is lost while a long save has lists in the log: the save still comes out whole. */
static void test_rebuild_during_a_save(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct node n = {.type = NODE_FILE, .mode = 0600}, root = {.type = NODE_FOLDER};
    struct model_tree none = {.count = 0};
    struct snapshot_row row;
    struct txn *t;
    uint64_t number;
    char name[32];

    OK(begin_save(w->repo, "app", &t, &e), e);
    OK(txn_node_put(t, NODE_ROOT, &root, &e), e);
    for (int i = 0; i < 30000; i++) {
        uint64_t node = txn_new_node(t);
        snprintf(name, sizeof(name), "file-%06d", i);
        OK(txn_name_put(t, NODE_ROOT, name, strlen(name), node, &e), e);
        OK(txn_node_put(t, node, &n, &e), e);
    }
    OK(repo_rebuild(w->repo, &e), e);
    OK(end_save(t, NULL, &none, &number, &e), e);
    OK(repo_rebuild(w->repo, &e), e);
    OK(catalog_snapshot(repo_catalog(w->repo), number, &row, &e), e);
    assert_true(row.whole);
    snapshot_row_release(&row);
    world_reopen(w, REPO_WRITE);
    OK(catalog_snapshot(repo_catalog(w->repo), number, &row, &e), e);
    assert_true(row.whole);
    snapshot_row_release(&row);
}

static void test_delta_blocks(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct model_tree a = {.count = 0};
    struct node n = {.type = NODE_FILE, .mode = 0600, .size = CHUNK, .ref_count = 1};
    struct chunk_source *s;
    struct chunk_place at;
    struct txn *t;
    uint8_t *old = must_alloc(CHUNK), *new_ = must_alloc(CHUNK);
    const uint8_t *p;
    struct hash base;
    uint64_t number;
    size_t len;

    tree_set(&a, "f", 33, CHUNK);
    must_save(w, "app", &a);
    uint8_t *made = content_of(&a.files[0]);
    memcpy(old, made, CHUNK);
    free(made);
    memcpy(new_, old, CHUNK);
    memset(new_ + 500, 'x', 40);
    struct block_chunk chunk = {.raw_len = CHUNK};
    hash_sha256(new_, CHUNK, &chunk.id);
    hash_sha256(old, CHUNK, &base);
    const struct block_base link = {.id = base, .rank = 1, .depth = 1};
    struct chunk_ref ref = {.id = chunk.id, .len = CHUNK};
    n.refs = &ref;
    OK(begin_save(w->repo, "app", &t, &e), e);
    assert_int_equal(txn_claim(t, &chunk.id, &e), 1);
    assert_int_equal(txn_claim(t, &chunk.id, &e), 0);
    OK(txn_put_block(t, &chunk, 1, new_, CHUNK, false, &link, old, CHUNK, &e), e);
    assert_true(txn_bytes_stored(t) < 1000);
    OK(txn_node_put(t, 2, &n, &e), e);
    OK(end_save(t, NULL, &a, &number, &e), e);
    OK(chunk_source_open(w->repo, &s, &e), e);
    OK(chunk_source_get(s, &chunk.id, &p, &len, &e), e);
    assert_int_equal(len, CHUNK);
    assert_memory_equal(p, new_, CHUNK);
    chunk_source_close(s);
    OK(catalog_chunk(repo_catalog(w->repo), &base, &at, &e), e);
    assert_int_equal(at.refs, 2); /* its own version's and the delta's */
    check_refs(w->repo);
    uint64_t first = 1;
    OK(repo_drop(w->repo, &first, 1, &e), e);
    OK(catalog_chunk(repo_catalog(w->repo), &base, &at, &e), e);
    assert_int_equal(at.refs, 1);
    OK(repo_rebuild(w->repo, &e), e);
    check_refs(w->repo);
    free(old);
    free(new_);
}

static void test_a_lost_chunk_is_stored_again(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct model_tree a = {.count = 0}, b = {.count = 0}, none = {.count = 0};
    struct chunk_source *s;
    struct hash id;
    const uint8_t *p;
    size_t len;
    struct txn *t;
    uint64_t number;

    tree_set(&a, "f", 2, 5000);
    must_save(w, "app", &a);
    uint8_t *content = content_of(&a.files[0]);
    hash_sha256(content, 5000, &id);
    free(content);
    OK(repo_chunk_lost(w->repo, &id, &e), e);
    OK(chunk_source_open(w->repo, &s, &e), e);
    assert_int_equal(chunk_source_get(s, &id, &p, &len, &e), ERR_NOTFOUND);
    tree_set(&b, "same", 2, 5000);
    OK(begin_save(w->repo, "photos", &t, &e), e);
    OK(put_changes(t, &none, &b, &e), e);
    assert_true(txn_bytes_stored(t) > 0);
    OK(end_save(t, NULL, &b, &number, &e), e);
    model_add(&w->model, "photos", number, &b);
    OK(chunk_source_get(s, &id, &p, &len, &e), e);
    chunk_source_close(s);
    check_model(w->repo, &w->model);
    check_refs(w->repo);
}

/* Bit rot costs what it touches, and is told apart from absence. */
static void test_a_rotten_block(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct model_tree a = {.count = 0};
    struct chunk_source *s;
    struct chunk_place at;
    struct hash id;
    const uint8_t *p;
    size_t len;
    char path[200];

    tree_set(&a, "bad", 3, 5000);
    must_save(w, "app", &a);
    tree_set(&a, "good", 5, 6000);
    must_save(w, "app", &a);
    uint8_t *content = content_of(&a.files[0]);
    hash_sha256(content, 5000, &id);
    free(content);
    OK(catalog_chunk(repo_catalog(w->repo), &id, &at, &e), e);
    snprintf(path, sizeof(path), "%s/packs/0-log-%016" PRIx64 ".wkp", w->path, at.pack_id);
    overwrite(path, (off_t)at.offset + 200, "\xff\xfe\xfd", 3);
    OK(chunk_source_open(w->repo, &s, &e), e);
    assert_int_equal(chunk_source_get(s, &id, &p, &len, &e), ERR_DAMAGED);
    chunk_source_close(s);
    remove_catalog(w);
    world_reopen(w, REPO_WRITE);
    assert_int_equal(snapshot_count(w->repo), 2); /* both are listed still */
    struct snapshot_row row;
    OK(catalog_snapshot(repo_catalog(w->repo), 2, &row, &e), e);
    assert_true(row.whole);
    snapshot_row_release(&row);
}

static void test_prune_lets_chunks_go(void **state)
{
    struct world *w = *state;
    uint64_t doomed[] = {1, 2, 4};

    make_history(w);
    must_drop(w, doomed, 3);
    assert_int_equal(snapshot_count(w->repo), 3);
    check_model(w->repo, &w->model);
    check_refs(w->repo);
    check_rebuilt(w->repo, w->path);
    struct model_tree a = *last_tree(&w->model, "app");
    tree_set(&a, "settings.json", 71, 2000);
    must_save(w, "app", &a);
    check_model(w->repo, &w->model);
    check_refs(w->repo);
}

static void test_full_log_pack_is_sealed(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct pack_row *rows;
    size_t count;

    for (uint64_t i = 0; i < 80; i++) {
        struct model_tree a = {.count = 0};
        tree_set(&a, "f", 2 * i + 1, 900 * 1024);
        w->model.count = w->model.count > 60 ? 60 : w->model.count;
        must_save(w, "app", &a);
    }
    OK(repo_idle(w->repo, &e), e); /* when there is time */
    OK(repo_packs(w->repo, &rows, &count, NULL, NULL, &e), e);
    assert_int_equal(count, 2);
    assert_true(rows[0].sealed);
    assert_false(rows[1].sealed);
    assert_true(rows[0].bytes >= PACK_SEAL_LEN);
    free(rows);
    w->model.count = 0;
    assert_int_equal(snapshot_count(w->repo), 80);
    remove_catalog(w);
    world_reopen(w, REPO_WRITE);
    assert_int_equal(snapshot_count(w->repo), 80);
}

static void test_full_data_packs_are_sealed(void **state)
{
    const struct upkeep upkeep = {.keep_s = UPKEEP_KEEP_S};
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct model_tree a = {.count = 0};
    struct pack_row *rows;
    size_t count;

    tree_set(&a, "huge", 3, 150 * 1024 * 1024);
    must_save(w, "app", &a);
    OK(repo_upkeep(w->repo, &upkeep, NULL, &e), e);
    OK(repo_packs(w->repo, &rows, &count, NULL, NULL, &e), e);
    assert_int_equal(count, 4);
    assert_true(rows[1].sealed && rows[2].sealed && !rows[3].sealed);
    free(rows);
    check_model(w->repo, &w->model);
    char *live = dump_catalog(w->path);
    remove_catalog(w);
    world_reopen(w, REPO_WRITE);
    char *rebuilt = dump_catalog(w->path);
    assert_string_equal(live, rebuilt);
    free(live);
    free(rebuilt);
    check_model(w->repo, &w->model);
    check_refs(w->repo);
}

/* Workers pack blocks of one save while others read what was saved before. */
struct worker {
    pthread_t thread;
    struct txn *t;
    struct repo *repo;
    const struct hash *known;
    uint64_t seed;
    unsigned claimed;
    int rc;
};

static void *pack_blocks(void *ctx)
{
    struct worker *w = ctx;
    struct error e = ERROR_INIT;
    uint8_t *raw = malloc(CHUNK);
    struct hash id;

    for (uint64_t i = 0; raw && w->rc == 0 && i < 200; i++) {
        const struct model_file f = {.seed = 2 * (i + 1000) + 1, .len = CHUNK};
        uint8_t *p = content_of(&f); /* the same for all workers */
        hash_sha256(p, CHUNK, &id);
        int rc = txn_claim(w->t, &id, &e);
        w->claimed += rc == 1;
        const struct block_chunk chunk = {.id = id, .raw_len = CHUNK};
        if (rc == 1)
            rc = txn_put_block(w->t, &chunk, 1, p, CHUNK, false, NULL, NULL, 0, &e);
        w->rc = rc;
        free(p);
    }
    free(raw);
    return NULL;
}

static void *read_chunks(void *ctx)
{
    struct worker *w = ctx;
    struct error e = ERROR_INIT;
    struct chunk_source *s;
    const uint8_t *p;
    size_t len;

    w->rc = chunk_source_open(w->repo, &s, &e);
    for (int i = 0; w->rc == 0 && i < 500; i++)
        w->rc = chunk_source_get(s, w->known, &p, &len, &e);
    chunk_source_close(s);
    return NULL;
}

static void test_many_threads(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct model_tree a = {.count = 0};
    struct worker workers[6] = {0};
    struct hash known;
    struct txn *t;
    uint64_t number;
    unsigned claimed = 0;

    tree_set(&a, "f", 33, CHUNK);
    must_save(w, "app", &a);
    uint8_t *p = content_of(&a.files[0]);
    hash_sha256(p, CHUNK, &known);
    free(p);
    OK(begin_save(w->repo, "photos", &t, &e), e);
    for (int i = 0; i < 6; i++) {
        workers[i] = (struct worker){.t = t, .repo = w->repo, .known = &known};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, i < 3 ? pack_blocks : read_chunks,
                                        &workers[i]),
                         0);
    }
    for (uint64_t i = 0; i < 10; i++) {
        tree_set(&a, "f", 33 + 2 * i, 5000); /* saves of another watch meanwhile */
        must_save(w, "app", &a);
    }
    for (int i = 0; i < 6; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_int_equal(workers[i].rc, 0);
        claimed += workers[i].claimed;
    }
    assert_int_equal(claimed, 200);
    struct model_tree none = {.count = 0};
    OK(end_save(t, NULL, &none, &number, &e), e);
    assert_int_equal(catalog_chunk_count(repo_catalog(w->repo)), 211);
    check_model(w->repo, &w->model);
    check_refs(w->repo);
}

static void test_newer_format_is_refused(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct repo *r;
    char path[160], text[200];

    repo_close(w->repo);
    w->repo = NULL;
    snprintf(path, sizeof(path), "%s/format", w->path);
    int fd = open(path, O_RDWR);
    ssize_t n = read(fd, text, sizeof(text) - 1);
    assert_true(n > 0);
    text[n] = '\0';
    char *version = strstr(text, "version 1");
    assert_non_null(version);
    version[8] = '9';
    assert_int_equal(pwrite(fd, text, (size_t)n, 0), n);
    close(fd);
    assert_int_equal(open_repo(w->path, REPO_READ, NULL, &r, &e), ERR_NOREPO);
    assert_non_null(strstr(e.message, "9"));
    assert_int_equal(open_repo(w->path, REPO_WRITE, NULL, &r, &e), ERR_NOREPO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, world_open, world_end)
        T(test_init_again_says_so),
        T(test_init_refuses_a_folder_in_use),
        T(test_saved_is_read_back),
        T(test_a_small_save_stays_in_the_log),
        T(test_unchanged_adds_nothing),
        T(test_marks_survive_a_rebuild),
        T(test_a_taken_name_is_refused),
        T(test_each_cause_of_a_freeze_goes_alone),
        T(test_another_root_is_refused_until_moved),
        T(test_two_writers),
        T(test_lock_file_removed_and_made_again),
        T(test_reader_beside_a_writer),
        T(test_a_still_reader_keeps_its_state),
        T(test_reader_makes_no_files),
        T(test_a_copy_without_catalog),
        T(test_catalog_removed),
        T(test_catalog_of_garbage),
        T(test_catalog_of_another_repository),
        T(test_catalog_older_and_newer_than_the_packs),
        T(test_torn_tail),
        T(test_interleaved_saves),
        T(test_abort_beside_a_save_of_the_same),
        T(test_long_lists),
        T(test_rebuild_during_a_save),
        T(test_delta_blocks),
        T(test_a_lost_chunk_is_stored_again),
        T(test_a_rotten_block),
        T(test_prune_lets_chunks_go),
        T(test_full_log_pack_is_sealed),
        T(test_full_data_packs_are_sealed),
        T(test_many_threads),
        T(test_newer_format_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
