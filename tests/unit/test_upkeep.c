/* Seals, checkpoints, compaction: what lives stays readable, what is dead makes room, and the
 * catalog made anew is the one there was. */
#include "world_fixture.h"

#include "io/lock.h"
#include "snapshot/verify.h"
#include "store/catalog_write.h"
#include "store/repo_private.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "base/banned.h"

#define DAY 86400u

static struct upkeep_result keep_up(struct world *w, bool all, uint64_t keep_s)
{
    const struct upkeep u = {.all = all, .keep_s = keep_s};
    struct upkeep_result done;
    struct error e = ERROR_INIT;

    OK(repo_upkeep(w->repo, &u, &done, &e), e);
    return done;
}

static size_t packs_of(const char *repo, const char *prefix)
{
    char path[256];
    struct dirent *entry;
    size_t count = 0;

    snprintf(path, sizeof(path), "%s/packs", repo);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    while ((entry = readdir(dir)))
        count += strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    closedir(dir);
    return count;
}

/* The catalog as it lives is the one that the packs give, whatever was moved and removed. */
static void check_rebuild(struct world *w)
{
    check_model(w->repo, &w->model);
    check_refs(w->repo);
    check_rebuilt(w->repo, w->path);
    check_model(w->repo, &w->model);
    check_refs(w->repo);
}

/* Two watches, small and large files, a long list of chunks, things renewed and removed. */
static void make_history(struct world *w)
{
    struct model_tree a = {.count = 0}, b = {.count = 0};

    tree_set(&a, "settings.json", 2, 4000);
    tree_set(&a, "keys", 3, 3000);
    must_save(w, "app", &a);
    tree_set(&b, "film", 5, 3 * 1024 * 1024);
    must_save(w, "photos", &b);
    tree_set(&a, "settings.json", 4, 4100);
    must_save(w, "app", &a);
    tree_remove(&a, "keys");
    tree_set(&a, "log", 8, 200000);
    must_save(w, "app", &a);
    tree_set(&b, "film", 7, 2 * 1024 * 1024);
    must_save(w, "photos", &b);
    tree_set(&a, "settings.json", 6, 4200);
    tree_set(&a, "keys", 3, 3000);
    must_save(w, "app", &a);
    tree_set(&b, "still", 10, 5000);
    must_save(w, "photos", &b);
}

static void mark_all_kinds(struct world *w)
{
    uint64_t one = 1, two = 2;
    struct error e = ERROR_INIT;
    struct mark marks[] = {
        {.type = MARK_NAME, .text = "first", .count = 1, .snapshots = &one},
        {.type = MARK_NOTE, .text = "a note", .count = 1, .snapshots = &two},
        {.type = MARK_PIN, .count = 1, .snapshots = &one},
        {.type = MARK_VERIFIED, .count = 1, .snapshots = &two, .time = {.s = 77, .ns = 5}},
        {.type = MARK_DAMAGED, .count = 1, .snapshots = &one},
        {.type = MARK_EVENT, .text = "{\"event\":1}"},
        {.type = MARK_FREEZE, .text = "why"},
    };

    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++)
        OK(repo_mark(w->repo, &marks[i], &e), e);
}

static void test_the_log_before_a_checkpoint_goes(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;

    make_history(w);
    mark_all_kinds(w);
    struct upkeep_result done = keep_up(w, true, 0);
    assert_true(done.checkpoint_bytes > 0);
    assert_true(done.packs_emptied >= 1 && done.packs_removed == done.packs_emptied);
    assert_int_equal(packs_of(w->path, "0-log-"), 2); /* both copies, nothing else */
    check_rebuild(w);
    struct repo *reader;
    OK(open_repo(w->path, REPO_READ, NULL, &reader, &e), e);
    check_model(reader, &w->model);
    repo_close(reader);
    /* Life goes on: numbers, names, chains. */
    struct model_tree a = *last_tree(&w->model, "app");
    tree_set(&a, "later", 12, 7000);
    must_save(w, "app", &a);
    assert_int_equal(w->model.snapshots[w->model.count - 1].number, w->model.count);
    check_rebuild(w);
    struct snapshot_row row;
    OK(catalog_snapshot_by_name(repo_catalog(w->repo), "first", "app", &row, &e), e);
    assert_true(row.pinned && row.damaged);
    snapshot_row_release(&row);
    world_reopen(w, REPO_WRITE);
    check_rebuild(w);
}

static void test_nothing_is_done_twice(void **state)
{
    struct world *w = *state;

    make_history(w);
    keep_up(w, true, 0);
    uint64_t bytes = repo_bytes(w->repo);
    for (int i = 0; i < 3; i++) {
        struct upkeep_result done = keep_up(w, true, 0);
        assert_true(done.checkpoint_bytes == 0 && done.bytes_moved == 0 &&
                    done.packs_emptied == 0 && done.packs_removed == 0 && done.packs_sealed == 0);
        world_reopen(w, REPO_WRITE);
    }
    assert_true(repo_bytes(w->repo) <= bytes + 65536);
    /* By itself it waits until it pays. */
    struct model_tree a = *last_tree(&w->model, "app");
    tree_set(&a, "settings.json", 20, 4000);
    must_save(w, "app", &a);
    assert_false(repo_upkeep_due(w->repo));
    assert_int_equal(keep_up(w, false, 0).checkpoint_bytes, 0);
    for (uint64_t i = 0; i < 3; i++) {
        tree_set(&a, "noise", 101 + 2 * i, 900 * 1024);
        must_save(w, "app", &a);
    }
    assert_true(repo_upkeep_due(w->repo));
    assert_true(keep_up(w, false, 0).checkpoint_bytes > 0);
    assert_false(repo_upkeep_due(w->repo));
    check_rebuild(w);
}

/* Drops with holes over two watches, in several rounds, upkeep between them. */
static void test_drops_with_holes(void **state)
{
    struct world *w = *state;
    const uint64_t first[] = {2, 4}, second[] = {1, 6}, third[] = {3, 5};

    make_history(w);
    must_drop(w, first, 2);
    check_rebuild(w);
    keep_up(w, true, 0);
    check_rebuild(w);
    must_drop(w, second, 2);
    check_rebuild(w);
    struct model_tree a = *last_tree(&w->model, "app");
    tree_set(&a, "new", 30, 9000);
    must_save(w, "app", &a);
    keep_up(w, true, 0);
    check_rebuild(w);
    must_drop(w, third, 2);
    keep_up(w, true, 0);
    check_rebuild(w);
    assert_int_equal(snapshot_count(w->repo), 2);
}

/* The log of a first save is nothing but what a checkpoint would say again, twice. */
static void test_a_first_save_is_not_told_twice(void **state)
{
    struct world *w = *state;
    const struct node root = {.type = NODE_FOLDER};
    struct commit c = {.kind = SNAPSHOT_CHANGE, .files = 60000};
    struct error e = ERROR_INIT;
    struct txn *t;

    OK(begin_save(w->repo, "links", &t, &e), e);
    OK(txn_node_put(t, NODE_ROOT, &root, &e), e);
    put_links(t, 0, (unsigned)c.files);
    OK(txn_commit(t, &c, &e), e);
    assert_true(repo_bytes(w->repo) > 4 * 1024 * 1024);
    assert_false(repo_upkeep_due(w->repo));
    assert_int_equal(keep_up(w, false, 0).checkpoint_bytes, 0);
}

/* A covered log pack of which most is needed stays: moving it would store everything twice. */
static void test_a_log_that_is_needed_stays(void **state)
{
    struct world *w = *state;
    struct model_tree a = {.count = 0};
    const uint64_t doomed[] = {1, 2, 3};

    for (uint64_t i = 0; i < 4; i++) {
        tree_set(&a, "noise", 101 + 2 * i, 900 * 1024);
        must_save(w, "app", &a);
    }
    uint64_t bytes = repo_bytes(w->repo);
    for (int i = 0; i < 3; i++) {
        struct upkeep_result done = keep_up(w, false, 0);
        assert_true((done.checkpoint_bytes > 0) == (i == 0));
        assert_true(done.bytes_moved == 0 && done.packs_emptied == 0);
    }
    assert_true(repo_bytes(w->repo) <= bytes + 300 * 1024); /* the catalog, for the most part */
    check_rebuild(w);
    must_drop(w, doomed, 3);
    struct upkeep_result done = keep_up(w, false, 0);
    assert_true(done.packs_emptied == 1 && done.bytes_moved < 1000 * 1024);
    assert_true(repo_bytes(w->repo) < bytes / 2);
    check_rebuild(w);
}

/* A watch whose snapshots are all dropped keeps its state, name and number. */
static void test_a_watch_without_snapshots(void **state)
{
    struct world *w = *state;
    const uint64_t photos[] = {2, 5, 7};

    make_history(w);
    must_drop(w, photos, 3);
    keep_up(w, true, 0);
    check_rebuild(w);
    struct model_tree b = *last_tree(&w->model, "photos");
    tree_set(&b, "more", 40, 800);
    must_save(w, "photos", &b);
    check_rebuild(w);
}

/* The commits that are kept name packs that were emptied since. */
static void assert_nothing_is_missed(struct world *w)
{
    const struct verify_request q = {.repo = w->repo, .level = VERIFY_QUICK};
    struct verify_result result;
    struct error e = ERROR_INIT;

    OK(verify_run(&q, &result, &e), e);
    if (result.errors > 0)
        print_error("%s: %s\n", result.damaged[0].pack, result.damaged[0].reason);
    assert_int_equal(result.errors, 0);
    verify_result_release(&result);
}

static void test_dead_data_packs_make_room(void **state)
{
    struct world *w = *state;
    struct model_tree a = {.count = 0};
    const uint64_t doomed[] = {1, 2, 3};

    for (uint64_t i = 0; i < 4; i++) {
        tree_set(&a, "film", 2 * i + 1, 8 * 1024 * 1024);
        tree_set(&a, "same", 99, 1024 * 1024);
        must_save(w, "app", &a);
        world_reopen(w, REPO_WRITE);
    }
    must_drop(w, doomed, 3);
    /* The pack is the one that is written: it has to end first. */
    for (uint64_t i = 0; i < 9; i++) {
        tree_set(&a, "fill", 201 + 2 * i, 9 * 1024 * 1024);
        must_save(w, "app", &a);
    }
    struct upkeep_result done = keep_up(w, false, 0);
    assert_true(done.packs_sealed + done.packs_emptied >= 1);
    uint64_t late[] = {5, 6, 7, 8, 9, 10, 11, 12};
    must_drop(w, late, 8);
    uint64_t before = repo_bytes(w->repo);
    done = keep_up(w, false, DAY);
    assert_true(done.packs_emptied > 0);
    assert_nothing_is_missed(w);
    done = keep_up(w, false, 0);
    assert_true(done.bytes_removed > 60 * 1024 * 1024);
    assert_nothing_is_missed(w);
    assert_true(repo_bytes(w->repo) < before - 50 * 1024 * 1024);
    check_rebuild(w);
}

static void test_seals_tell_the_hash_of_the_pack(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct model_tree a = {.count = 0};
    struct catalog_pack *rows;
    size_t count, sealed = 0;

    make_history(w);
    for (uint64_t i = 0; i < 3; i++) {
        tree_set(&a, "film", 2 * i + 1, 40 * 1024 * 1024);
        must_save(w, "app", &a);
    }
    struct upkeep_result done = keep_up(w, true, DAY);
    assert_int_equal(done.packs_sealed, 1);
    keep_up(w, false, DAY); /* the note about it has gone in */
    OK(catalog_packs(repo_catalog(w->repo), &rows, &count, &e), e);
    for (size_t i = 0; i < count; i++) {
        if (!rows[i].sealed)
            continue;
        char name[40], path[256];
        struct hash hash;
        pack_file_name(rows[i].kind, rows[i].id, name);
        snprintf(path, sizeof(path), "%s/packs/%s", w->path, name);
        uint64_t len = rows[i].len - record_span(48);
        uint8_t *p = must_alloc(len);
        int fd = open(path, O_RDONLY);
        OK(file_read_all(fd, p, len, 0, &e), e);
        close(fd);
        hash_sha256(p, len, &hash);
        free(p);
        assert_memory_equal(hash.b, rows[i].sha256.b, HASH_LEN);
        sealed++;
    }
    free(rows);
    assert_true(sealed >= 2); /* of both kinds */
    check_rebuild(w);
}

/* ---- damage ---- */

static void flip(const char *path, off_t off)
{
    int fd = open(path, O_RDWR);
    uint8_t byte;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, off), 1);
    byte ^= 0x40;
    assert_int_equal(pwrite(fd, &byte, 1, off), 1);
    close(fd);
}

static int find_part(void *ctx, uint64_t from, uint64_t to, const struct record_header *h,
                     const uint8_t *body)
{
    if (!h || h->type != RECORD_CHECKPOINT)
        return 0;
    *(uint64_t *)ctx = from;
    return 1;
}

/* Damage the first checkpoint part in each of the first `count` log packs that have one. */
static void damage_copies(struct world *w, int count)
{
    struct error e = ERROR_INIT;
    struct pack_row *rows;
    size_t packs;

    OK(repo_packs(w->repo, &rows, &packs, NULL, NULL, &e), e);
    for (size_t i = 0; i < packs && count > 0; i++) {
        char name[40], path[256];
        uint64_t at = 0;
        struct pack *p;
        if (rows[i].kind != PACK_LOG)
            continue;
        OK(repo_pack_open(w->repo, &rows[i], &p, &e), e);
        OK(pack_walk(p, 0, UINT64_MAX, find_part, &at, NULL, &e), e);
        pack_close(p);
        if (at == 0)
            continue;
        pack_file_name(PACK_LOG, rows[i].id, name);
        snprintf(path, sizeof(path), "%s/packs/%s", w->path, name);
        flip(path, (off_t)at + 60);
        count--;
    }
    free(rows);
    assert_int_equal(count, 0);
}

static void test_the_second_copy_stands_in(void **state)
{
    struct world *w = *state;

    make_history(w);
    keep_up(w, true, 0);
    damage_copies(w, 1);
    check_rebuild(w);
    /* And one is not enough to go on: the next upkeep makes two again. */
    struct model_tree a = *last_tree(&w->model, "app");
    tree_set(&a, "later", 12, 7000);
    must_save(w, "app", &a);
    keep_up(w, true, 0);
    damage_copies(w, 1);
    check_rebuild(w);
}

/* While the packs that were emptied are still there, losing both copies loses nothing. */
static void test_both_copies_lost_while_the_old_log_is_there(void **state)
{
    struct world *w = *state;

    make_history(w);
    assert_true(keep_up(w, true, DAY).packs_emptied > 0);
    damage_copies(w, 2);
    check_rebuild(w);
}

/* What cannot be read is not thrown away: the pack stays. */
static void test_a_damaged_pack_is_not_emptied(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct model_tree a = {.count = 0};
    struct chunk_place at;
    struct hash id;
    char path[256];

    tree_set(&a, "bad", 3, 5000);
    tree_set(&a, "good", 5, 6000);
    must_save(w, "app", &a);
    uint8_t *content = content_of(&a.files[0]);
    hash_sha256(content, 5000, &id);
    free(content);
    OK(catalog_chunk(repo_catalog(w->repo), &id, &at, &e), e);
    snprintf(path, sizeof(path), "%s/packs/0-log-%016" PRIx64 ".wkp", w->path, at.pack_id);
    flip(path, (off_t)at.offset + 300);
    struct upkeep_result done = keep_up(w, true, 0);
    assert_int_equal(done.packs_emptied, 0);
    assert_int_equal(access(path, F_OK), 0);
    check_refs(w->repo);
    assert_int_equal(snapshot_count(w->repo), 1);
}

/* ---- others at work ---- */

static void test_an_open_save_is_waited_for(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct model_tree a, b;
    const uint64_t doomed[] = {1, 3, 4};
    struct txn *t;
    uint64_t number;

    make_history(w);
    must_drop(w, doomed, 3);
    /* Content that nothing needs any more is named again by a save that has begun. */
    a = *last_tree(&w->model, "photos");
    b = a;
    tree_set(&b, "again", 8, 200000);
    OK(begin_save(w->repo, "photos", &t, &e), e);
    OK(put_changes(t, &a, &b, &e), e);
    struct upkeep_result done = keep_up(w, true, 0);
    assert_true(done.waiting);
    assert_int_equal(done.packs_emptied, 0);
    OK(end_save(t, NULL, &b, &number, &e), e);
    model_add(&w->model, "photos", number, &b);
    done = keep_up(w, true, 0);
    assert_true(done.packs_removed > 0);
    check_rebuild(w);
}

/* While a checkpoint reads the state that it is to tell a save is acknowledged, and the log pack
 * with it breaks under the next one: the first part comes to a later pack. */
static struct {
    struct world *w;
    pthread_t upkeep, saves;
    atomic_bool ended, switched, breaks; /* both threads come to the hooks */
} meanwhile;

static ssize_t pwrite_breaks(int fd, const void *p, size_t n, off_t off)
{
    if (!meanwhile.breaks || pthread_equal(pthread_self(), meanwhile.upkeep))
        return fileops_system.pwrite(fd, p, n, off);
    meanwhile.breaks = false;
    errno = EIO;
    return -1;
}

static void *save_twice(void *unused)
{
    struct world *w = meanwhile.w;
    struct model_tree tree = {.count = 0};
    struct error e = ERROR_INIT;

    tree_set(&tree, "kept", 3, 9000);
    must_save(w, "late", &tree);
    meanwhile.breaks = true;
    tree_set(&tree, "not kept", 5, 9000);
    assert_true(save(w->repo, &w->model, "late", &tree, &e) < 0);
    assert_false(meanwhile.breaks);
    return NULL;
}

static int open_switches(int dirfd, const char *name, int flags, mode_t mode)
{
    if ((flags & O_CREAT) && strncmp(name, "0-log-", 6) == 0)
        meanwhile.switched = true;
    return fileops_system.openat(dirfd, name, flags, mode);
}

/* Some reads are made under the lock that the saves wait for; the saves come at the first that is
 * not. */
static int gate_saves(int op, const char *path)
{
    struct repo *r = meanwhile.w->repo;

    if (op != FILEOP_READ || !meanwhile.switched || meanwhile.ended ||
        !pthread_equal(pthread_self(), meanwhile.upkeep) || pthread_mutex_trylock(&r->write_lock))
        return 0;
    pthread_mutex_unlock(&r->write_lock);
    meanwhile.ended = true;
    assert_int_equal(pthread_create(&meanwhile.saves, NULL, save_twice, NULL), 0);
    assert_int_equal(pthread_join(meanwhile.saves, NULL), 0);
    return 0;
}

static void test_the_log_breaks_before_the_first_part(void **state)
{
    struct world *w = *state;
    struct fileops ops = fileops_system;
    struct error e = ERROR_INIT;

    make_history(w);
    meanwhile.w = w;
    meanwhile.upkeep = pthread_self();
    meanwhile.ended = false;
    meanwhile.switched = false;
    meanwhile.breaks = false;
    ops.gate = gate_saves;
    ops.openat = open_switches;
    ops.pwrite = pwrite_breaks;
    fileops = &ops;
    const struct upkeep u = {.all = true};
    struct upkeep_result done;
    OK(repo_upkeep(w->repo, &u, &done, &e), e);
    fileops = &fileops_system;
    assert_true(meanwhile.ended);
    check_model(w->repo, &w->model);
    OK(repo_rebuild(w->repo, &e), e);
    check_model(w->repo, &w->model);
    keep_up(w, true, 0);
    check_rebuild(w);
}

/* A save that begins while packs are being emptied, and goes on when they have been. */
static struct {
    struct repo *repo;
    struct txn *t;
    void (*begun)(void);
} beside;

static ssize_t pread_beside(int fd, void *p, size_t n, off_t off)
{
    struct error e = ERROR_INIT;
    struct hash any = {{1}};

    if (beside.repo && !beside.t && n > PACK_HEADER_LEN) { /* a header is read under a lock */
        OK(begin_save(beside.repo, "late", &beside.t, &e), e);
        OK(txn_claim(beside.t, &any, &e), e); /* what it knows is fixed here */
        if (beside.begun)
            beside.begun();
    }
    return fileops_system.pread(fd, p, n, off);
}

static void empty_a_pack_beside_a_save(struct world *w, void (*begun)(void))
{
    struct model_tree a = {.count = 0};
    struct fileops ops = fileops_system;
    const uint64_t doomed[] = {1, 2, 3};

    for (uint64_t i = 0; i < 4; i++) {
        tree_set(&a, "film", 2 * i + 1, 25 * 1024 * 1024);
        must_save(w, "app", &a);
    }
    keep_up(w, false, DAY);
    must_drop(w, doomed, 3);
    beside.repo = w->repo;
    beside.t = NULL;
    beside.begun = begun;
    ops.pread = pread_beside;
    fileops = &ops;
    struct upkeep_result done = keep_up(w, false, DAY);
    fileops = &fileops_system;
    assert_non_null(beside.t);
    assert_int_equal(done.packs_emptied, 1);
}

static void test_a_save_that_begins_meanwhile(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct model_tree late = {.count = 0};
    uint64_t number;

    empty_a_pack_beside_a_save(w, NULL);
    /* In the state that this save reads by, the first film stands where it stood. */
    tree_set(&late, "film", 1, 25 * 1024 * 1024);
    OK(put_changes(beside.t, &(struct model_tree){.count = 0}, &late, &e), e);
    OK(end_save(beside.t, NULL, &late, &number, &e), e);
    model_add(&w->model, "late", number, &late);
    check_rebuild(w);
}

/* A version of a chunk of the first film, as a delta on it if that may be. Whether it is one. */
static bool put_version_of_film(unsigned version)
{
    const struct model_file film = {.seed = 1, .len = 25 * 1024 * 1024};
    struct block_chunk chunk = {.raw_len = CHUNK};
    struct chunk_ref ref = {.len = CHUNK};
    struct node n = {.type = NODE_FILE, .mode = 0644, .size = CHUNK, .refs = &ref, .ref_count = 1};
    struct chunk_source *source = NULL;
    struct error e = ERROR_INIT;
    uint8_t raw[CHUNK];
    struct hash old;
    char name[16];

    memcpy(raw, kept_content(&film), CHUNK);
    hash_sha256(raw, CHUNK, &old);
    raw[100 * version] ^= 1;
    hash_sha256(raw, CHUNK, &chunk.id);
    ref.id = chunk.id;
    assert_int_equal(txn_claim(beside.t, &chunk.id, &e), 1);
    int rc = txn_put_version(beside.t, &source, &chunk, raw, false, &old, true, &e);
    OK(rc, e);
    chunk_source_close(source);
    uint64_t id = txn_new_node(beside.t);
    snprintf(name, sizeof(name), "version %u", version);
    OK(txn_name_put(beside.t, NODE_ROOT, name, strlen(name), id, &e), e);
    OK(txn_node_put(beside.t, id, &n, &e), e);
    return rc == 1;
}

static void put_version_meanwhile(void)
{
    const struct node root = {.type = NODE_FOLDER, .mode = 0755};
    struct error e = ERROR_INIT;

    OK(txn_node_put(beside.t, NODE_ROOT, &root, &e), e);
    assert_false(put_version_of_film(1));
}

/* What stands in a pack that is being emptied, or was, is no base: it has no reference of its own
 * there, and goes with the pack. */
static void test_no_delta_stands_on_what_goes(void **state)
{
    struct world *w = *state;
    const struct model_tree none = {.count = 0};
    struct error e = ERROR_INIT;
    struct chunk_source *s;
    const uint8_t *p;
    uint64_t number;
    size_t len;

    empty_a_pack_beside_a_save(w, put_version_meanwhile);
    assert_false(put_version_of_film(2));
    OK(end_save(beside.t, NULL, &none, &number, &e), e);
    for (int rebuilt = 0; rebuilt < 2; rebuilt++) {
        OK(chunk_source_open(w->repo, &s, &e), e);
        for (unsigned version = 1; version <= 2; version++) {
            const struct model_file film = {.seed = 1, .len = 25 * 1024 * 1024};
            uint8_t raw[CHUNK];
            struct hash id;
            memcpy(raw, kept_content(&film), CHUNK);
            raw[100 * version] ^= 1;
            hash_sha256(raw, CHUNK, &id);
            OK(chunk_source_get(s, &id, &p, &len, &e), e);
            assert_memory_equal(p, raw, CHUNK);
        }
        chunk_source_close(s);
        OK(repo_rebuild(w->repo, &e), e);
    }
    check_refs(w->repo);
}

static void test_leases_and_open_readers_hold_packs(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct repo *reader;

    make_history(w);
    OK(open_repo(w->path, REPO_READ, NULL, &reader, &e), e);
    OK(repo_lease(reader, 3, &e), e);
    size_t before = packs_of(w->path, "");
    struct upkeep_result done = keep_up(w, true, 0);
    assert_true(done.packs_emptied > 0 && done.packs_removed == 0 && done.waiting);
    assert_true(packs_of(w->path, "") > before);
    check_model(reader, &w->model);
    repo_close(reader);
    done = keep_up(w, true, 0);
    assert_true(done.packs_removed > 0 && !done.waiting);
    check_rebuild(w);
}

/* What is written to the catalog while new readers have to wait, for they do not wait for ever. */
static struct {
    int lock;
    unsigned writes;
} closed;

static int gate_watched(int op, const char *path)
{
    bool writes = op == FILEOP_WRITE || op == FILEOP_SYNC;

    closed.writes += writes && lock_held(closed.lock, LOCK_PACKS, 1, false);
    return 0;
}

static void test_readers_wait_for_unlinks_alone(void **state)
{
    struct world *w = *state;
    struct fileops ops = fileops_system;
    char path[256];

    make_history(w);
    snprintf(path, sizeof(path), "%s/lock", w->path);
    closed.lock = open(path, O_RDONLY | O_CLOEXEC);
    closed.writes = 0;
    assert_true(closed.lock >= 0);
    ops.gate = gate_watched;
    fileops = &ops;
    struct upkeep_result done = keep_up(w, true, 0);
    fileops = &fileops_system;
    close(closed.lock);
    assert_true(done.packs_removed > 0);
    assert_int_equal(closed.writes, 0); /* it went to the disk before */
}

static void test_emptied_packs_stay_for_a_day(void **state)
{
    struct world *w = *state;

    make_history(w);
    struct upkeep_result done = keep_up(w, true, DAY);
    assert_true(done.packs_emptied > 0 && done.packs_removed == 0 && !done.waiting);
    check_rebuild(w); /* also that they are to go is known again */
    world_reopen(w, REPO_WRITE);
    done = keep_up(w, true, 0);
    assert_true(done.packs_removed > 0);
    check_rebuild(w);
}

static void copy_file(const char *from, const char *to)
{
    static char buf[1 << 16];
    int in = open(from, O_RDONLY);
    ssize_t n;

    if (in < 0) {
        assert_int_equal(errno, ENOENT); /* it went after it was listed */
        return;
    }
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(out >= 0);
    while ((n = read(in, buf, sizeof(buf))) > 0)
        assert_int_equal(write(out, buf, (size_t)n), n);
    close(in);
    close(out);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static size_t list_packs(const char *repo, char **names, size_t max)
{
    char path[256];
    struct dirent *entry;
    size_t count = 0;

    snprintf(path, sizeof(path), "%s/packs", repo);
    DIR *dir = opendir(path);
    while ((entry = readdir(dir)))
        if (entry->d_name[0] != '.' && count < max)
            names[count++] = strdup(entry->d_name);
    closedir(dir);
    qsort(names, count, sizeof(*names), by_name);
    return count;
}

/* As rsync copies: the folder is listed, then the files are read by name, while the repository is
 * put in order between two of them. */
static void test_a_copy_made_while_packs_come_and_go(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    const uint64_t doomed[] = {1, 4};
    char *names[64], to[200], a[512], b[512];
    struct repo *copy;

    make_history(w);
    for (size_t pause = 0, count = 1; pause <= count && pause < 10; pause++) {
        struct model before = w->model;
        count = list_packs(w->path, names, 64);
        snprintf(to, sizeof(to), "%s/copy-%zu", w->scratch->path, pause);
        mkdir(to, 0700);
        snprintf(b, sizeof(b), "%s/packs", to);
        mkdir(b, 0700);
        snprintf(a, sizeof(a), "%s/format", w->path);
        snprintf(b, sizeof(b), "%s/format", to);
        copy_file(a, b);
        for (size_t i = 0; i <= count; i++) {
            if (i == pause) {
                struct model_tree t = *last_tree(&w->model, "app");
                tree_set(&t, "settings.json", 300 + pause, 4000);
                must_save(w, "app", &t);
                keep_up(w, true, DAY);
                if (pause == 1)
                    must_drop(w, doomed, 2);
                keep_up(w, true, DAY);
            }
            if (i == count)
                break;
            snprintf(a, sizeof(a), "%s/packs/%s", w->path, names[i]);
            snprintf(b, sizeof(b), "%s/packs/%s", to, names[i]);
            copy_file(a, b);
            free(names[i]);
        }
        if (pause == 1) /* the copy may know of the drop */
            for (size_t i = 0; i < before.count; i++)
                before.snapshots[i].dropped = w->model.snapshots[i].dropped;
        OK(open_repo(to, REPO_READ, NULL, &copy, &e), e);
        check_model(copy, &before);
        check_refs(copy);
        repo_close(copy);
        OK(open_repo(to, REPO_WRITE, NULL, &copy, &e), e);
        check_model(copy, &before);
        check_refs(copy);
        repo_close(copy);
    }
    check_rebuild(w);
}

static void copy_listed(const struct world *w, char **names, size_t count, const char *to)
{
    char a[512], b[512];

    mkdir(to, 0700);
    snprintf(b, sizeof(b), "%s/packs", to);
    mkdir(b, 0700);
    snprintf(a, sizeof(a), "%s/format", w->path);
    snprintf(b, sizeof(b), "%s/format", to);
    copy_file(a, b);
    for (size_t i = 0; i < count; i++) {
        snprintf(a, sizeof(a), "%s/packs/%s", w->path, names[i]);
        snprintf(b, sizeof(b), "%s/packs/%s", to, names[i]);
        copy_file(a, b);
        free(names[i]);
    }
}

/* The data pack is filled to its end, to the chunk: what is moved out of it goes to a new one. */
static void fill_a_pack(struct world *w)
{
    enum { FILES = 63, WHOLE = 32, REST = 27 };
    struct model_tree a = {.count = 0};
    char name[24];

    for (uint64_t i = 0; i <= FILES; i++) {
        snprintf(name, sizeof(name), "f%u", (unsigned)(i % FILES_MAX));
        tree_set(&a, name, 2 * i + 1, (i == FILES ? REST : WHOLE) * (uint64_t)CHUNK);
        if (i % FILES_MAX == FILES_MAX - 1)
            must_save(w, "app", &a);
    }
    must_save(w, "app", &a);
}

/* The copy has the log with the compaction, and not the pack that this one made. */
static void test_a_copy_without_what_was_moved(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    const uint64_t doomed[] = {1, 2};
    char *names[8], to[200];
    struct repo *copy;

    fill_a_pack(w);
    must_drop(w, doomed, 2);
    size_t count = list_packs(w->path, names, 8);
    struct upkeep_result done = keep_up(w, false, DAY);
    assert_int_equal(done.packs_emptied, 1);
    assert_int_equal(packs_of(w->path, "0-log-"), 1); /* no checkpoint: the record is in this one */
    assert_int_equal(packs_of(w->path, "1-data-"), 2);
    snprintf(to, sizeof(to), "%s/copy", w->scratch->path);
    copy_listed(w, names, count, to);
    for (int mode = REPO_READ; mode <= REPO_WRITE; mode++) {
        OK(open_repo(to, (enum repo_mode)mode, NULL, &copy, &e), e);
        check_model(copy, &w->model);
        check_refs(copy);
        repo_close(copy);
    }
    check_rebuild(w);
}

/* Readers in processes of their own, while everything that can be moved is moved and removed. */
static void read_on(const char *path, const struct model *m)
{
    struct error e = ERROR_INIT;
    struct repo *r;

    for (int i = 0; i < 40; i++) {
        OK(open_repo(path, REPO_READ, NULL, &r, &e), e);
        OK(repo_lease(r, 2, &e), e);
        check_model(r, m);
        repo_lease_end(r, 2);
        repo_close(r);
    }
}

static void test_readers_beside_it(void **state)
{
    struct world *w = *state;
    pid_t pids[2];
    int status;

    make_history(w);
    struct model m = w->model;
    for (int i = 0; i < 2; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            read_on(w->path, &m);
            _exit(0);
        }
    }
    size_t left = 2;
    uint64_t removed = 0;
    for (uint64_t i = 0; left > 0; i++) {
        struct model_tree t = *last_tree(&w->model, "app");
        tree_set(&t, "settings.json", 400 + 2 * (i % 50), 4000);
        w->model.count = w->model.count > 50 ? 50 : w->model.count;
        must_save(w, "app", &t);
        removed += keep_up(w, true, 0).packs_removed;
        for (int n = 0; n < 2; n++) {
            if (pids[n] == 0 || waitpid(pids[n], &status, WNOHANG) != pids[n])
                continue;
            assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
            pids[n] = 0;
            left--;
        }
    }
    removed += keep_up(w, true, 0).packs_removed;
    assert_true(removed > 0);
    check_model(w->repo, &m);
    check_refs(w->repo);
}

/* ---- deltas ---- */

static int put_version(struct txn *t, const uint8_t *p, size_t n, const struct hash *id,
                       const struct hash *base_id, const uint8_t *base, struct error *e)
{
    const struct block_chunk chunk = {.id = *id, .raw_len = (uint32_t)n};
    const struct block_base link = {.id = base_id ? *base_id : *id};

    int rc = txn_claim(t, id, e);
    return rc <= 0 ? rc
                   : txn_put_block(t, &chunk, 1, p, (uint32_t)n, false, base_id ? &link : NULL,
                                   base, base ? n : 0, e);
}

/* 20 versions of one file, each a delta on the one before; all but some are dropped. */
static void test_chains_of_deltas(void **state)
{
    enum { VERSIONS = 16, LEN = 20000 };
    struct world *w = *state;
    struct error e = ERROR_INIT;
    uint8_t *text = must_alloc(LEN), *base = must_alloc(LEN);
    struct hash ids[VERSIONS];
    uint64_t numbers[VERSIONS], dropped[VERSIONS];
    uint32_t drops = 0;
    struct chunk_source *s;
    const uint8_t *p;
    size_t len;

    fill_text(text, LEN, 9);
    for (int i = 0; i < VERSIONS; i++) {
        const struct node root = {.type = NODE_FOLDER, .mode = 0755};
        struct node n = {.type = NODE_FILE, .mode = 0644, .size = LEN, .mtime_s = i};
        struct chunk_ref ref = {.len = LEN};
        struct commit c = {.kind = SNAPSHOT_CHANGE};
        struct txn *t;
        memcpy(base, text, LEN);
        memset(text + 100 * i, 'A' + i, 60);
        hash_sha256(text, LEN, &ids[i]);
        ref.id = ids[i];
        n.refs = &ref;
        n.ref_count = 1;
        OK(begin_save(w->repo, "app", &t, &e), e);
        OK(put_version(t, text, LEN, &ids[i], i % 8 ? &ids[i - 1] : NULL, i % 8 ? base : NULL, &e),
           e);
        if (i == 0) {
            OK(txn_node_put(t, NODE_ROOT, &root, &e), e);
            OK(txn_name_put(t, NODE_ROOT, "f", 1, txn_new_node(t), &e), e);
        }
        OK(txn_node_put(t, 2, &n, &e), e);
        OK(txn_commit(t, &c, &e), e);
        numbers[i] = c.number;
    }
    check_rebuild(w);
    for (int i = 0; i < VERSIONS; i++)
        if (i != 3 && i != VERSIONS - 1)
            dropped[drops++] = numbers[i];
    OK(repo_drop(w->repo, dropped, drops, &e), e);
    keep_up(w, true, 0);
    check_rebuild(w);
    OK(chunk_source_open(w->repo, &s, &e), e);
    OK(chunk_source_get(s, &ids[3], &p, &len, &e), e);
    OK(chunk_source_get(s, &ids[VERSIONS - 1], &p, &len, &e), e);
    assert_memory_equal(p, text, LEN);
    /* Deltas that nothing needs went together with what only they needed. */
    assert_int_equal(chunk_source_get(s, &ids[5], &p, &len, &e), ERR_NOTFOUND);
    assert_int_equal(chunk_source_get(s, &ids[6], &p, &len, &e), ERR_NOTFOUND);
    chunk_source_close(s);
    world_reopen(w, REPO_WRITE);
    keep_up(w, true, 0);
    check_rebuild(w);
    free(text);
    free(base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, world_open, world_end)
        T(test_the_log_before_a_checkpoint_goes),
        T(test_nothing_is_done_twice),
        T(test_drops_with_holes),
        T(test_a_first_save_is_not_told_twice),
        T(test_a_log_that_is_needed_stays),
        T(test_a_watch_without_snapshots),
        T(test_dead_data_packs_make_room),
        T(test_seals_tell_the_hash_of_the_pack),
        T(test_the_second_copy_stands_in),
        T(test_both_copies_lost_while_the_old_log_is_there),
        T(test_a_damaged_pack_is_not_emptied),
        T(test_an_open_save_is_waited_for),
        T(test_the_log_breaks_before_the_first_part),
        T(test_a_save_that_begins_meanwhile),
        T(test_no_delta_stands_on_what_goes),
        T(test_leases_and_open_readers_hold_packs),
        T(test_readers_wait_for_unlinks_alone),
        T(test_emptied_packs_stay_for_a_day),
        T(test_a_copy_made_while_packs_come_and_go),
        T(test_a_copy_without_what_was_moved),
        T(test_readers_beside_it),
        T(test_chains_of_deltas),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
