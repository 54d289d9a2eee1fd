/* Random changes in a small world of names: a full save, a dirty one and the disk must agree. */
#include "save_fixture.h"

#include <pthread.h>

struct changes { /* what a watcher would have told */
    struct dirty_path paths[64];
    char names[64][128];
    size_t count;
};
static void note(struct changes *c, const char *path, unsigned how)
{
    if (c->count == 64)
        return;
    snprintf(c->names[c->count], sizeof(c->names[0]), "%.100s", path);
    c->paths[c->count] = (struct dirty_path){c->names[c->count], how};
    c->count++;
}

/* A path of a small world of names: x, x/y, x/y/z. */
static void some_path(struct lcg *r, char out[64])
{
    static const char *const names[] = {"a", "b", "c", "d", "e"};
    size_t at = 0;

    for (unsigned depth = 1 + next(r, 3); depth > 0; depth--)
        at += (size_t)snprintf(out + at, 64 - at, "%s%s", at ? "/" : "", names[next(r, 5)]);
}

/* An event names what really changed, not the links that led there. */
static bool through_a_link(const struct place *p, const char *path)
{
    struct stat st;
    char part[64];

    for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(part, sizeof(part), "%.*s", (int)(slash - path), path);
        if (fstatat(p->rootfd, part, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode))
            return true;
    }
    return false;
}

static void change_something(const struct place *p, struct lcg *r, struct changes *c)
{
    char a[64], b[64], text[64];
    struct error e = ERROR_INIT;
    struct stat st;
    int fd;

    some_path(r, a);
    some_path(r, b);
    if (through_a_link(p, a) || through_a_link(p, b))
        return;
    switch (next(r, 10)) {
    case 0:
    case 1: /* write */
        fd = openat(p->rootfd, a, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
        if (fd >= 0) {
            int n = snprintf(text, sizeof(text), "content %u", next(r, 1000));
            assert_int_equal(write(fd, text, (size_t)n), n);
            close(fd);
            note(c, a, DIRTY_ENTRY);
        }
        break;
    case 2:
    case 3:
        if (mkdirat(p->rootfd, a, 0755) == 0)
            note(c, a, DIRTY_ENTRY | DIRTY_TREE);
        break;
    case 4: /* remove */
        if (fstatat(p->rootfd, a, &st, AT_SYMLINK_NOFOLLOW) == 0) {
            int dirfd = open(p->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            MUST(remove_tree(dirfd, a, &e), e);
            close(dirfd);
            note(c, a, DIRTY_ENTRY);
        }
        break;
    case 5:
    case 6: /* rename */
        if (renameat2(p->rootfd, a, p->rootfd, b, next(r, 3) ? 0 : RENAME_EXCHANGE) == 0) {
            note(c, a, DIRTY_ENTRY);
            note(c, b, DIRTY_ENTRY);
        }
        break;
    case 7:
        if (linkat(p->rootfd, a, p->rootfd, b, 0) == 0)
            note(c, b, DIRTY_ENTRY);
        break;
    case 8:
        if (symlinkat(a, p->rootfd, b) == 0)
            note(c, b, DIRTY_ENTRY);
        break;
    case 9:
        if (fstatat(p->rootfd, a, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISLNK(st.st_mode) &&
            fchmodat(p->rootfd, a, S_ISDIR(st.st_mode) ? 0700 : 0600, 0) == 0)
            note(c, a, DIRTY_ENTRY);
        break;
    default:
        break;
    }
}

static void a_dirty_save_gives_what_a_full_one_gives(void **state)
{
    const struct place *p = *state;
    struct saver full, dirty;
    char name[16];

    saver_open(&full, p, "full");
    saver_open(&dirty, p, "dirty");
    save_all(&full);
    save_all(&dirty);
    for (unsigned round = 0; round < 250; round++) {
        struct lcg r = {round * 7919 + 1};
        struct changes *c = calloc(1, sizeof(*c));
        assert_non_null(c);
        unsigned steps = 1 + next(&r, 12);
        for (unsigned i = 0; i < steps; i++)
            change_something(p, &r, c);
        if (round % 3 == 0)
            let_stamps_age(p);
        uint64_t a = save_all(&full);
        uint64_t b = save_dirty(&dirty, c->paths, c->count);
        char *x = dump_snapshot(&full, 0, false), *y = dump_snapshot(&dirty, 0, false);
        char *z = dump_disk(p, false);
        if (strcmp(x, z) != 0 || strcmp(y, z) != 0 || !a != !b) {
            fprintf(stderr, "round %u: %llu %llu\n-- disk\n%s-- full\n%s-- dirty\n%s", round,
                    (unsigned long long)a, (unsigned long long)b, z, x, y);
            for (size_t i = 0; i < c->count; i++)
                fprintf(stderr, "  %s %u\n", c->paths[i].path, c->paths[i].how);
            fail();
        }
        if (a)
            assert_int_equal(full.last.files, dirty.last.files);
        assert_int_equal(full.last.bytes, dirty.last.bytes);
        free(x);
        free(y);
        free(z);
        free(c);
        if (round % 10 == 9) { /* times too, and totals as counted anew */
            snprintf(name, sizeof(name), "r%u", round);
            save_named(&full, name);
            assert_holds(&full, p, true);
            struct saver anew;
            snprintf(name, sizeof(name), "n%u", round);
            saver_open(&anew, p, name);
            save_all(&anew);
            assert_int_equal(anew.last.files, full.last.files);
            assert_int_equal(anew.last.bytes, full.last.bytes);
            assert_int_equal(commit_of(&anew, 1, NULL).folders,
                             commit_of(&full, full.last.snapshot, NULL).folders);
            bool whole;
            commit_of(&full, full.last.snapshot, &whole);
            assert_true(whole);
            saver_close(&anew);
        }
    }
    assert_counted(&full);
    assert_counted(&dirty);
    saver_close(&full);
    saver_close(&dirty);
}

/* Whatever a save met on its way, the next one finds. */
struct mess {
    const struct place *p;
    atomic_bool stop;
    unsigned seed;
};
static void *keep_changing(void *arg)
{
    struct mess *m = arg;
    struct lcg r = {m->seed};

    while (!atomic_load(&m->stop)) {
        struct changes c = {.count = 0};
        for (unsigned i = 0; i < 20; i++)
            change_something(m->p, &r, &c);
    }
    return NULL;
}

static void a_save_amid_changes_leaves_nothing_wrong(void **state)
{
    const struct place *p = *state;
    struct saver v;

    saver_open(&v, p, "repo");
    for (unsigned round = 0; round < 20; round++) {
        struct mess m = {.p = p, .seed = round + 1};
        pthread_t thread;
        atomic_init(&m.stop, false);
        assert_int_equal(pthread_create(&thread, NULL, keep_changing, &m), 0);
        for (unsigned i = 0; i < 10; i++) {
            struct save_request q = {0};
            int rc = try_save(&v, &q);
            if (rc < 0)
                fprintf(stderr, "round %u: %s\n", round, v.error.message);
            assert_int_equal(rc, 0);
        }
        atomic_store(&m.stop, true);
        pthread_join(thread, NULL);
        save_all(&v);
        save_all(&v);
        assert_holds(&v, p, false);
        assert_int_equal(v.last.incomplete_total, 0);
        bool whole;
        struct commit c = commit_of(&v, v.last.current, &whole);
        assert_true(whole);
        struct saver anew;
        char name[16];
        snprintf(name, sizeof(name), "n%u", round);
        saver_open(&anew, p, name);
        save_all(&anew);
        struct commit d = commit_of(&anew, 1, NULL);
        assert_int_equal(c.files, d.files);
        assert_int_equal(c.folders, d.folders);
        assert_int_equal(c.bytes, d.bytes);
        saver_close(&anew);
    }
    assert_counted(&v);
    saver_close(&v);
}

int main(void)
{
#define PLACE_TEST(f) cmocka_unit_test_setup_teardown(f, place_setup, place_teardown)
    const struct CMUnitTest tests[] = {
        PLACE_TEST(a_dirty_save_gives_what_a_full_one_gives),
        PLACE_TEST(a_save_amid_changes_leaves_nothing_wrong),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
