/* Saves, as their users see them: what makes a snapshot, what is in it, what it costs. */
#include "save_fixture.h"

#include <pthread.h>
#include <sched.h>
#include <sys/xattr.h>

/* ---- what makes a snapshot ---- */

static void the_first_save_holds_everything(void **state)
{
    const struct place *p = *state;
    struct saver v;

    put_text(p, "a", "one");
    make_dir(p, "d");
    make_dir(p, "d/empty");
    put_text(p, "d/b", "two");
    put_text(p, "d/zero", "");
    SYS(symlinkat("../nowhere", p->rootfd, "d/link"));
    SYS(mkfifoat(p->rootfd, "fifo", 0600));
    saver_open(&v, p, "repo");
    assert_int_equal(save_all(&v), 1);
    assert_holds(&v, p, true);
    assert_int_equal(v.last.files, 5);
    assert_int_equal(v.last.files_new, 5);
    assert_int_equal(v.last.bytes, 6);
    assert_int_equal(v.last.bytes_read, 6);
    bool whole;
    struct commit c = commit_of(&v, 1, &whole);
    assert_true(whole);
    assert_int_equal(c.files, 5);
    assert_int_equal(c.folders, 2);
    assert_int_equal(c.flags, 0);
    saver_close(&v);
}

static void an_empty_root_is_a_snapshot(void **state)
{
    const struct place *p = *state;
    struct saver v;

    saver_open(&v, p, "repo");
    assert_int_equal(save_all(&v), 1);
    assert_int_equal(v.last.files, 0);
    assert_false(v.last.suspect);
    assert_int_equal(save_all(&v), 0);
    assert_int_equal(v.last.current, 1);
    saver_close(&v);
}

static void nothing_changed_costs_nothing(void **state)
{
    const struct place *p = *state;
    struct saver v;

    make_dir(p, "d");
    put_text(p, "d/a", "content");
    let_stamps_age(p);
    saver_open(&v, p, "repo");
    save_all(&v);
    uint64_t size = repo_bytes(v.repo);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(save_all(&v), 0);
        assert_int_equal(v.last.current, 1);
        assert_int_equal(v.last.bytes_read, 0);
        assert_int_equal(v.last.files_unchanged, 1);
    }
    assert_int_equal(repo_bytes(v.repo), size);
    struct save_request q = {.rehash = true};
    MUST(try_save(&v, &q), v.error);
    assert_int_equal(v.last.bytes_read, 7);
    assert_int_equal(v.last.snapshot, 0);
    saver_close(&v);
}

/* What only the safety snapshot of a restore holds no `latest` would bring back. */
static void a_state_of_safety_snapshots_alone_is_saved(void **state)
{
    const struct place *p = *state;
    struct save_request safety = {.kind = SNAPSHOT_SAFETY};
    struct saver v;

    put_text(p, "a", "old");
    saver_open(&v, p, "repo");
    assert_int_equal(save_all(&v), 1);
    MUST(try_save(&v, &safety), v.error);
    assert_int_equal(v.last.snapshot, 2);
    assert_int_equal(save_all(&v), 0); /* it is that of 1 too */
    put_text(p, "a", "newer");
    MUST(try_save(&v, &safety), v.error);
    assert_int_equal(v.last.snapshot, 3);
    MUST(try_save(&v, &safety), v.error);
    assert_int_equal(v.last.snapshot, 4);
    assert_int_equal(save_all(&v), 5);
    assert_int_equal(v.last.files_changed, 0);
    assert_int_equal(save_all(&v), 0);
    assert_int_equal(v.last.current, 5);
    saver_close(&v);
}

/* On a full disk it goes, and cannot always be made anew at once. */
static void a_catalog_that_is_gone_is_made_anew(void **state)
{
    const struct place *p = *state;
    struct saver v;
    char path[128];

    put_text(p, "a", "old");
    saver_open(&v, p, "repo");
    snprintf(path, sizeof(path), "%s/catalog.db", v.repo_path);
    SYS(unlink(path));
    assert_int_equal(save_all(&v), 1);
    put_text(p, "a", "newer");
    assert_int_equal(save_all(&v), 2);
    SYS(access(path, F_OK));
    saver_close(&v);
}

static void a_fresh_stamp_is_looked_at_again(void **state)
{
    const struct place *p = *state;
    struct saver v;

    put_text(p, "a", "before");
    saver_open(&v, p, "repo");
    save_all(&v);
    do { /* until the save comes at once after the write */
        put_text(p, "a", "behind");
        save_all(&v);
    } while (v.last.retry_count == 0);
    assert_string_equal(v.last.retry[0], "a");
    /* Its stamps may hide a change that followed at once: it is read once more, then trusted. */
    let_stamps_age(p);
    assert_int_equal(save_all(&v), 0);
    assert_int_equal(v.last.bytes_read, 6);
    assert_int_equal(v.last.retry_count, 0);
    assert_int_equal(save_all(&v), 0);
    assert_int_equal(v.last.bytes_read, 0);
    saver_close(&v);
}

static void a_touch_waits_for_the_next_snapshot(void **state)
{
    const struct place *p = *state;
    const struct timespec old[2] = {{1000, 5}, {1000, 5}};
    struct saver v;

    make_dir(p, "d");
    put_text(p, "d/a", "a");
    put_text(p, "d/b", "b");
    saver_open(&v, p, "repo");
    save_all(&v);
    SYS(utimensat(p->rootfd, "d/a", old, 0));
    SYS(utimensat(p->rootfd, "d", old, 0));
    assert_int_equal(save_all(&v), 0);
    struct node n = version_at(&v, "d/a");
    assert_int_not_equal(n.mtime_s, 1000);
    node_release(&n);

    put_text(p, "d/b", "other");
    assert_int_equal(SAVE_DIRTY(&v, {"d/b", DIRTY_ENTRY}), 2);
    assert_holds(&v, p, true);
    assert_int_equal(v.last.files_changed, 1);

    /* Once they have ridden they do so no more. */
    assert_int_equal(save_all(&v), 0);
    SYS(utimensat(p->rootfd, "d/a", NULL, 0));
    assert_int_equal(SAVE_DIRTY(&v, {"d/a", DIRTY_ENTRY}), 0);
    assert_int_equal(save_named(&v, "with-times"), 3);
    assert_holds(&v, p, true);
    saver_close(&v);
}

static void a_name_makes_a_snapshot(void **state)
{
    const struct place *p = *state;
    struct saver v;

    put_text(p, "a", "a");
    saver_open(&v, p, "repo");
    save_all(&v);
    assert_int_equal(save_named(&v, "here"), 2);
    struct save_request q = {.name = "here"};
    assert_int_equal(try_save(&v, &q), ERR_REFUSED);
    assert_int_equal(save_all(&v), 0);
    assert_int_equal(v.last.current, 2);
    saver_close(&v);
}

static void metadata_alone_is_a_change(void **state)
{
    const struct place *p = *state;
    struct saver v;
    char path[128];

    put_text(p, "a", "a");
    make_dir(p, "d");
    let_stamps_age(p);
    saver_open(&v, p, "repo");
    save_all(&v);
    SYS(fchmodat(p->rootfd, "a", 0600, 0));
    assert_int_equal(save_all(&v), 2);
    assert_int_equal(v.last.files_changed, 1);
    SYS(fchmodat(p->rootfd, "d", 0700, 0));
    assert_int_equal(SAVE_DIRTY(&v, {"d", DIRTY_ENTRY}), 3);
    assert_holds(&v, p, false);
    snprintf(path, sizeof(path), "%s/a", p->root);
    if (setxattr(path, "user.note", "x", 1, 0) == 0) {
        assert_int_equal(SAVE_DIRTY(&v, {"a", DIRTY_ENTRY}), 4);
        struct node n = version_at(&v, "a");
        assert_int_equal(n.xattr_count, 1);
        assert_string_equal(n.xattrs[0].name, "user.note");
        node_release(&n);
    }
    /* A further name outside the root moves only what is no change. */
    snprintf(path, sizeof(path), "%s/outside", p->dir);
    SYS(linkat(p->rootfd, "a", AT_FDCWD, path, 0));
    assert_int_equal(save_all(&v), 0);
    saver_close(&v);
}

/* ---- which node it is ---- */

static void a_save_by_rename_keeps_the_node(void **state)
{
    const struct place *p = *state;
    struct saver v;

    put_text(p, "config", "v1");
    saver_open(&v, p, "repo");
    save_all(&v);
    uint64_t node = node_at(&v, "config");
    put_text(p, ".config.tmp", "v2");
    SYS(renameat(p->rootfd, ".config.tmp", p->rootfd, "config"));
    assert_int_equal(SAVE_DIRTY(&v, {"config", DIRTY_ENTRY}, {".config.tmp", DIRTY_ENTRY}), 2);
    assert_int_equal(node_at(&v, "config"), node);
    assert_int_equal(v.last.files_changed, 1);
    assert_int_equal(v.last.files_new, 0);
    assert_int_equal(v.last.files_removed, 0);
    assert_holds(&v, p, true);
    saver_close(&v);
}

static void a_moved_folder_is_the_same_folder(void **state)
{
    const struct place *p = *state;
    struct saver v;
    char path[64];

    make_dir(p, "old");
    make_dir(p, "old/in");
    for (int i = 0; i < 100; i++) {
        snprintf(path, sizeof(path), "old/in/f%d", i);
        put_text(p, path, path);
    }
    make_dir(p, "there");
    let_stamps_age(p);
    saver_open(&v, p, "repo");
    save_all(&v);
    uint64_t node = node_at(&v, "old");
    SYS(renameat(p->rootfd, "old", p->rootfd, "there/new"));
    assert_int_equal(SAVE_DIRTY(&v, {"old", DIRTY_ENTRY}, {"there/new", DIRTY_ENTRY}), 2);
    assert_int_equal(node_at(&v, "there/new"), node);
    assert_int_equal(v.last.bytes_read, 0);
    assert_int_equal(v.last.files_new + v.last.files_changed + v.last.files_removed, 0);
    assert_true(v.last.bytes_stored < 1500);
    assert_holds(&v, p, false);

    SYS(renameat(p->rootfd, "there/new", p->rootfd, "old"));
    put_text(p, "old/in/f7", "changed on the way");
    assert_int_equal(save_all(&v), 3);
    assert_int_equal(node_at(&v, "old"), node);
    assert_int_equal(v.last.files_changed, 1);
    assert_holds(&v, p, false);
    saver_close(&v);
}

static void a_change_on_the_way_is_found_in_the_moved_folder(void **state)
{
    const struct place *p = *state;
    struct saver v;

    make_dir(p, "old");
    make_dir(p, "old/sub");
    put_text(p, "old/sub/f", "one");
    let_stamps_age(p);
    saver_open(&v, p, "repo");
    save_all(&v);
    put_text(p, "old/sub/f", "two");
    SYS(renameat(p->rootfd, "old", p->rootfd, "new"));
    SAVE_DIRTY(&v, {"new", DIRTY_ENTRY}, {"old/sub/f", DIRTY_ENTRY}, {"old", DIRTY_ENTRY});
    assert_holds(&v, p, true);
    saver_close(&v);
}

static void folders_that_changed_places(void **state)
{
    const struct place *p = *state;
    struct saver v;

    make_dir(p, "a");
    make_dir(p, "b");
    put_text(p, "a/f", "in a");
    put_text(p, "b/f", "in b");
    put_text(p, "b/g", "more");
    let_stamps_age(p);
    saver_open(&v, p, "repo");
    save_all(&v);
    uint64_t a = node_at(&v, "a"), b = node_at(&v, "b");
    SYS(renameat2(p->rootfd, "a", p->rootfd, "b", RENAME_EXCHANGE));
    assert_int_equal(SAVE_DIRTY(&v, {"a", DIRTY_ENTRY}, {"b", DIRTY_ENTRY}), 2);
    assert_holds(&v, p, false);
    assert_int_equal(node_at(&v, "a"), b);
    assert_int_equal(node_at(&v, "b"), a);
    assert_int_equal(v.last.bytes_read, 0);

    /* cur -> old, new -> cur */
    SYS(renameat(p->rootfd, "a", p->rootfd, "z"));
    SYS(renameat(p->rootfd, "b", p->rootfd, "a"));
    assert_int_equal(save_all(&v), 3);
    assert_int_equal(node_at(&v, "a"), a);
    assert_int_equal(node_at(&v, "z"), b);
    assert_holds(&v, p, false);
    saver_close(&v);
}

static void a_folder_made_anew_is_another_folder(void **state)
{
    const struct place *p = *state;
    struct saver v;

    make_dir(p, "a");
    put_text(p, "a/one", "1");
    put_text(p, "a/two", "2");
    saver_open(&v, p, "repo");
    save_all(&v);
    uint64_t a = node_at(&v, "a");
    SYS(unlinkat(p->rootfd, "a/one", 0));
    SYS(unlinkat(p->rootfd, "a/two", 0));
    SYS(unlinkat(p->rootfd, "a", AT_REMOVEDIR));
    make_dir(p, "b"); /* often with the inode number of the one before */
    put_text(p, "b/three", "3");
    SAVE_DIRTY(&v, {"a", DIRTY_ENTRY}, {"b", DIRTY_ENTRY});
    assert_holds(&v, p, true);
    assert_int_not_equal(node_at(&v, "b"), a);
    assert_int_equal(v.last.files_removed, 2);
    assert_int_equal(v.last.files_new, 1);
    saver_close(&v);
}

static void hard_links_are_names_of_one_node(void **state)
{
    const struct place *p = *state;
    struct saver v;

    make_dir(p, "d");
    put_text(p, "a", "shared");
    SYS(linkat(p->rootfd, "a", p->rootfd, "d/b", 0));
    saver_open(&v, p, "repo");
    save_all(&v);
    assert_holds(&v, p, true);
    assert_int_equal(node_at(&v, "a"), node_at(&v, "d/b"));
    assert_int_equal(v.last.files, 2);
    assert_int_equal(v.last.bytes, 6);

    /* Written through one name: both have it. */
    put_text(p, "d/b", "shared still");
    SAVE_DIRTY(&v, {"d/b", DIRTY_ENTRY});
    assert_holds(&v, p, true);

    /* A further name of a file that had one. */
    put_text(p, "single", "x");
    save_all(&v);
    SYS(linkat(p->rootfd, "single", p->rootfd, "also", 0));
    SAVE_DIRTY(&v, {"also", DIRTY_ENTRY});
    assert_int_equal(node_at(&v, "single"), node_at(&v, "also"));
    assert_holds(&v, p, true);

    /* Broken by a save through rename: the other name keeps the node. */
    uint64_t shared = node_at(&v, "d/b");
    put_text(p, "t", "mine alone");
    SYS(renameat(p->rootfd, "t", p->rootfd, "a"));
    SAVE_DIRTY(&v, {"a", DIRTY_ENTRY});
    assert_int_equal(node_at(&v, "d/b"), shared);
    assert_int_not_equal(node_at(&v, "a"), shared);
    assert_holds(&v, p, true);

    /* The last name goes, and with it the node. */
    SYS(unlinkat(p->rootfd, "also", 0));
    SAVE_DIRTY(&v, {"also", DIRTY_ENTRY});
    assert_holds(&v, p, true);
    SYS(unlinkat(p->rootfd, "single", 0));
    SYS(unlinkat(p->rootfd, "d/b", 0));
    SAVE_DIRTY(&v, {"d/b", DIRTY_ENTRY}, {"single", DIRTY_ENTRY});
    assert_holds(&v, p, true);
    assert_int_equal(v.last.bytes, 10);
    assert_int_equal(v.last.files, 1);
    saver_close(&v);
}

static void a_type_that_changes_is_another_node(void **state)
{
    const struct place *p = *state;
    struct saver v;

    put_text(p, "x", "file");
    make_dir(p, "y");
    put_text(p, "y/f", "in it");
    saver_open(&v, p, "repo");
    save_all(&v);
    SYS(unlinkat(p->rootfd, "x", 0));
    make_dir(p, "x");
    put_text(p, "x/f", "in x");
    SYS(unlinkat(p->rootfd, "y/f", 0));
    SYS(unlinkat(p->rootfd, "y", AT_REMOVEDIR));
    SYS(symlinkat("x", p->rootfd, "y"));
    SAVE_DIRTY(&v, {"x", DIRTY_ENTRY}, {"y", DIRTY_ENTRY}, {"y/f", DIRTY_ENTRY},
               {"x/f", DIRTY_ENTRY});
    assert_holds(&v, p, true);
    assert_int_equal(commit_of(&v, v.last.snapshot, NULL).folders, 1);
    saver_close(&v);
}

/* ---- dirty sets ---- */

static void a_new_tree_is_found_by_its_top(void **state)
{
    const struct place *p = *state;
    struct saver v;

    put_text(p, "a", "a");
    saver_open(&v, p, "repo");
    save_all(&v);
    make_dir(p, "n");
    make_dir(p, "n/m");
    put_text(p, "n/m/f", "deep");
    /* Only something deep in it is named: what is above is new, and found. */
    assert_int_equal(SAVE_DIRTY(&v, {"n/m/f", DIRTY_ENTRY}), 2);
    assert_holds(&v, p, false);
    SYS(unlinkat(p->rootfd, "n/m/f", 0));
    SYS(unlinkat(p->rootfd, "n/m", AT_REMOVEDIR));
    SYS(unlinkat(p->rootfd, "n", AT_REMOVEDIR));
    assert_int_equal(SAVE_DIRTY(&v, {"n/m/f", DIRTY_ENTRY}), 3);
    assert_holds(&v, p, false);
    /* What never was, and paths that are none. */
    assert_int_equal(SAVE_DIRTY(&v, {"never/was", DIRTY_ENTRY | DIRTY_TREE}, {"gone", DIRTY_ENTRY},
                                {"../etc", DIRTY_ENTRY}, {"a/b", DIRTY_ENTRY}),
                     0);
    assert_int_equal(SAVE_DIRTY(&v, {"", DIRTY_ENTRY}), 0);
    saver_close(&v);
}

/* ---- the root ---- */

static void a_missing_root_is_no_snapshot(void **state)
{
    const struct place *p = *state;
    struct save_request q = {0};
    struct saver v;
    char away[128];

    put_text(p, "a", "a");
    saver_open(&v, p, "repo");
    save_all(&v);
    snprintf(away, sizeof(away), "%s/away", p->dir);
    SYS(rename(p->root, away));
    assert_int_equal(try_save(&v, &q), ERR_NOTFOUND);
    assert_non_null(strstr(v.error.message, "is not there"));
    SYS(rename(away, p->root));
    assert_int_equal(save_all(&v), 0);
    assert_int_equal(v.last.current, 1);
    saver_close(&v);
}

struct remover {
    const struct place *place;
    struct save_progress progress;
    char away[128];
    atomic_bool done; /* the save ended, whether or not the root was moved */
    bool moved;
};

static void *move_root_away(void *ctx)
{
    struct remover *m = ctx;

    while (atomic_load(&m->progress.bytes_read) == 0 && !atomic_load(&m->done))
        sched_yield();
    m->moved = !atomic_load(&m->done) && rename(m->place->root, m->away) == 0;
    return NULL;
}

/* What was read through the open folder is whole, and all the same it is no state of the root. */
static void a_root_that_goes_while_it_is_saved_is_no_snapshot(void **state)
{
    const struct place *p = *state;
    const size_t len = 32 * 1024 * 1024;
    uint8_t *bytes = calloc(1, len);
    struct saver v;
    int rc = 0;

    assert_non_null(bytes);
    saver_open(&v, p, "repo");
    put_text(p, "a", "a");
    save_all(&v);
    /* A save that ended before the root was moved shows nothing: then another. */
    for (unsigned i = 1; i < 50 && rc == 0; i++) {
        struct remover m = {.place = p};
        struct save_request q = {.progress = &m.progress};
        pthread_t thread;
        uint64_t before = v.last.current;
        bytes[0] = (uint8_t)i;
        put_bytes(p, "large", bytes, len);
        snprintf(m.away, sizeof(m.away), "%s/away", p->dir);
        assert_int_equal(pthread_create(&thread, NULL, move_root_away, &m), 0);
        rc = try_save(&v, &q);
        atomic_store(&m.done, true);
        pthread_join(thread, NULL);
        if (m.moved)
            SYS(rename(m.away, p->root));
        if (rc == 0)
            continue;
        assert_int_equal(rc, ERR_NOTFOUND);
        assert_non_null(strstr(v.error.message, "went away while it was saved"));
        assert_int_equal(save_all(&v), before + 1);
    }
    assert_int_equal(rc, ERR_NOTFOUND);
    free(bytes);
    saver_close(&v);
}

/* f0, f1, ... */
static void put_files(const struct place *p, unsigned count)
{
    char path[32];

    for (unsigned i = 0; i < count; i++) {
        snprintf(path, sizeof(path), "f%u", i);
        put_text(p, path, path);
    }
}

static void remove_files(const struct place *p, unsigned from, unsigned to)
{
    char path[32];

    for (unsigned i = from; i < to; i++) {
        snprintf(path, sizeof(path), "f%u", i);
        SYS(unlinkat(p->rootfd, path, 0));
    }
}

static void almost_empty_at_once_is_suspect(void **state)
{
    const struct place *p = *state;
    struct saver v;

    put_files(p, 20);
    saver_open(&v, p, "repo");
    save_all(&v);
    remove_files(p, 0, 17);
    save_all(&v);
    assert_false(v.last.suspect); /* 3 of 20 */
    SYS(unlinkat(p->rootfd, "f17", 0));
    SYS(unlinkat(p->rootfd, "f18", 0));
    save_all(&v);
    assert_false(v.last.suspect); /* of few files some may well go */
    SYS(unlinkat(p->rootfd, "f19", 0));
    uint64_t number = save_all(&v);
    assert_true(v.last.suspect); /* all */
    assert_true(commit_of(&v, number, NULL).flags & COMMIT_SUSPECT);
    saver_close(&v);
}

static void two_of_twenty_left_is_suspect(void **state)
{
    const struct place *p = *state;
    struct saver v;

    put_files(p, 20);
    saver_open(&v, p, "repo");
    save_all(&v);
    remove_files(p, 0, 18);
    save_all(&v);
    assert_true(v.last.suspect);
    assert_int_equal(v.last.files_removed, 18);
    saver_close(&v);
}

static void what_stays_almost_empty_stays_suspect(void **state)
{
    const struct place *p = *state;
    struct save_request accepted = {.accept = true};
    struct saver v;

    put_files(p, 20);
    saver_open(&v, p, "repo");
    save_all(&v);
    remove_files(p, 0, 20);
    save_all(&v);
    assert_true(v.last.suspect);
    for (unsigned i = 0; i < 3; i++) { /* a log or two that are written again prove nothing */
        put_text(p, "new", i == 0 ? "a" : i == 1 ? "b" : "c");
        uint64_t number = save_all(&v);
        assert_true(v.last.suspect);
        assert_int_equal(v.last.trusted_files, 20);
        struct commit c = commit_of(&v, number, NULL);
        assert_true(c.flags & COMMIT_SUSPECT);
        assert_int_equal(c.trusted_files, 20);
    }
    assert_int_equal(save_all(&v), 0);
    assert_true(v.last.suspect);

    /* Accepted, though nothing changed. */
    MUST(try_save(&v, &accepted), v.error);
    assert_int_equal(v.last.snapshot, 6);
    assert_false(v.last.suspect);
    put_text(p, "new", "d");
    save_all(&v);
    assert_false(v.last.suspect);
    MUST(try_save(&v, &accepted), v.error); /* there is nothing to accept */
    assert_int_equal(v.last.snapshot, 0);
    saver_close(&v);
}

static void data_that_comes_back_ends_suspicion(void **state)
{
    const struct place *p = *state;
    struct saver v;

    put_files(p, 20);
    saver_open(&v, p, "repo");
    save_all(&v);
    remove_files(p, 1, 20);
    save_all(&v);
    assert_true(v.last.suspect);
    put_text(p, "f1", "back");
    save_all(&v);
    assert_true(v.last.suspect); /* 2 of 20 */
    put_text(p, "f2", "back");
    save_all(&v);
    assert_false(v.last.suspect);
    saver_close(&v);
}

static void a_cancelled_save_saves_nothing(void **state)
{
    const struct place *p = *state;
    atomic_bool cancel = true;
    struct save_request q = {.cancel = &cancel};
    struct saver v;

    put_text(p, "a", "a");
    saver_open(&v, p, "repo");
    assert_int_equal(try_save(&v, &q), ERR_CANCELLED);
    assert_int_equal(v.last.snapshot, 0);
    assert_int_equal(save_all(&v), 1);
    saver_close(&v);
}

/* ---- rules ---- */

static void a_change_of_rules_is_said_to_be_one(void **state)
{
    const struct place *p = *state;
    const char *const exclude[] = {"*.tmp", NULL};
    struct saver v;

    put_text(p, "a.tmp", "t");
    put_text(p, "b", "b");
    saver_open(&v, p, "repo");
    save_all(&v);
    saver_rules(&v, NULL, exclude);
    /* Also where only one path is looked at. */
    assert_int_equal(SAVE_DIRTY(&v, {"b", DIRTY_ENTRY}), 2);
    assert_int_equal(commit_of(&v, 2, NULL).flags, COMMIT_RULES);
    assert_int_equal(node_at(&v, "a.tmp"), 0);
    char *before = dump_snapshot(&v, 1, false);
    assert_non_null(strstr(before, "a.tmp"));
    free(before);
    assert_int_equal(save_all(&v), 0);
    put_text(p, "c.tmp", "new");
    assert_int_equal(SAVE_DIRTY(&v, {"c.tmp", DIRTY_ENTRY}), 0);
    saver_rules(&v, NULL, NULL);
    assert_int_equal(save_all(&v), 3);
    assert_holds(&v, p, true);
    saver_close(&v);
}

static void an_ignore_file_rules_its_folder(void **state)
{
    const struct place *p = *state;
    struct saver v;

    make_dir(p, "d");
    make_dir(p, "d/cache");
    put_text(p, "d/cache/x", "x");
    put_text(p, "d/a.o", "o");
    put_text(p, "d/a.c", "c");
    put_text(p, "a.o", "o");
    saver_open(&v, p, "repo");
    save_all(&v);
    put_text(p, "d/" IGNORE_FILE_NAME, "*.o\ncache/\n");
    assert_int_equal(SAVE_DIRTY(&v, {"d/" IGNORE_FILE_NAME, DIRTY_ENTRY}), 2);
    assert_true(commit_of(&v, 2, NULL).flags & COMMIT_RULES);
    assert_int_equal(node_at(&v, "d/a.o"), 0);
    assert_int_equal(node_at(&v, "d/cache"), 0);
    assert_int_not_equal(node_at(&v, "a.o"), 0);
    assert_int_not_equal(node_at(&v, "d/" IGNORE_FILE_NAME), 0);
    put_text(p, "d/cache/y", "y");
    put_text(p, "d/b.o", "b");
    assert_int_equal(
        SAVE_DIRTY(&v, {"d/cache/y", DIRTY_ENTRY}, {"d/b.o", DIRTY_ENTRY}, {"d/a.o", DIRTY_TREE}),
        0);
    assert_int_equal(save_all(&v), 0);
    SYS(unlinkat(p->rootfd, "d/" IGNORE_FILE_NAME, 0));
    assert_int_equal(SAVE_DIRTY(&v, {"d/" IGNORE_FILE_NAME, DIRTY_ENTRY}), 3);
    assert_holds(&v, p, false);
    saver_close(&v);
}

static void our_own_repository_is_left_out(void **state)
{
    const struct place *p = *state;
    struct saver v;
    const char *const own[] = {v.repo_path, NULL};

    put_text(p, "a", "a");
    saver_open(&v, p, "root/repo");
    v.spec.own_paths = own;
    saver_rules(&v, NULL, NULL);
    save_all(&v);
    assert_int_equal(v.last.files, 1);
    assert_int_equal(node_at(&v, "repo"), 0);
    assert_int_equal(save_all(&v), 0);
    assert_int_equal(SAVE_DIRTY(&v, {"repo/catalog.db", DIRTY_ENTRY}, {"repo", DIRTY_TREE}), 0);
    saver_close(&v);
}

static void a_server_folder_is_marked_once(void **state)
{
    const struct place *p = *state;
    struct saver v;

    make_dir(p, "pg");
    make_dir(p, "pg/base");
    make_dir(p, "pg/base/1");
    put_text(p, "pg/PG_VERSION", "15\n");
    put_text(p, "pg/base/1/PG_VERSION", "15\n");
    put_text(p, "pg/base/1/1234", "rows");
    saver_open(&v, p, "repo");
    save_all(&v);
    assert_int_equal(v.last.incomplete_total, 1);
    assert_string_equal(v.last.incomplete[0].path, "pg");
    assert_non_null(strstr(v.last.incomplete[0].reason, "dump the database instead"));
    assert_int_equal(v.last.files, 3);
    put_text(p, "pg/base/1/1234", "more rows");
    SAVE_DIRTY(&v, {"pg/base/1/1234", DIRTY_ENTRY});
    assert_int_equal(v.last.incomplete_total, 1);
    assert_int_equal(commit_of(&v, 2, NULL).flags, COMMIT_INCOMPLETE);
    SYS(unlinkat(p->rootfd, "pg/PG_VERSION", 0));
    SYS(unlinkat(p->rootfd, "pg/base/1/PG_VERSION", 0));
    SAVE_DIRTY(&v, {"pg/PG_VERSION", DIRTY_ENTRY}, {"pg/base/1/PG_VERSION", DIRTY_ENTRY});
    assert_int_equal(v.last.incomplete_total, 0);
    saver_close(&v);
}

int main(void)
{
#define PLACE_TEST(f) cmocka_unit_test_setup_teardown(f, place_setup, place_teardown)
    const struct CMUnitTest tests[] = {
        PLACE_TEST(the_first_save_holds_everything),
        PLACE_TEST(an_empty_root_is_a_snapshot),
        PLACE_TEST(nothing_changed_costs_nothing),
        PLACE_TEST(a_state_of_safety_snapshots_alone_is_saved),
        PLACE_TEST(a_catalog_that_is_gone_is_made_anew),
        PLACE_TEST(a_fresh_stamp_is_looked_at_again),
        PLACE_TEST(a_touch_waits_for_the_next_snapshot),
        PLACE_TEST(a_name_makes_a_snapshot),
        PLACE_TEST(metadata_alone_is_a_change),
        PLACE_TEST(a_save_by_rename_keeps_the_node),
        PLACE_TEST(a_moved_folder_is_the_same_folder),
        PLACE_TEST(a_change_on_the_way_is_found_in_the_moved_folder),
        PLACE_TEST(folders_that_changed_places),
        PLACE_TEST(a_folder_made_anew_is_another_folder),
        PLACE_TEST(hard_links_are_names_of_one_node),
        PLACE_TEST(a_type_that_changes_is_another_node),
        PLACE_TEST(a_new_tree_is_found_by_its_top),
        PLACE_TEST(a_missing_root_is_no_snapshot),
        PLACE_TEST(a_root_that_goes_while_it_is_saved_is_no_snapshot),
        PLACE_TEST(almost_empty_at_once_is_suspect),
        PLACE_TEST(two_of_twenty_left_is_suspect),
        PLACE_TEST(what_stays_almost_empty_stays_suspect),
        PLACE_TEST(data_that_comes_back_ends_suspicion),
        PLACE_TEST(a_cancelled_save_saves_nothing),
        PLACE_TEST(a_change_of_rules_is_said_to_be_one),
        PLACE_TEST(an_ignore_file_rules_its_folder),
        PLACE_TEST(our_own_repository_is_left_out),
        PLACE_TEST(a_server_folder_is_marked_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
