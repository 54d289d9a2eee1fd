/* Saves of content: large and sparse files, files that change while they are read, and what cannot
 * be read at all. */
#include "save_fixture.h"

#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>

/* ---- content ---- */

static void fill(uint8_t *p, size_t n, uint64_t seed)
{
    struct lcg r = {seed};

    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)next(&r, 256);
}

static void an_insertion_stores_little(void **state)
{
    const struct place *p = *state;
    const size_t n = 24 * 1024 * 1024;
    uint8_t *bytes = malloc(n + 100);
    struct saver v;

    assert_non_null(bytes);
    fill(bytes, n, 1);
    put_bytes(p, "large", bytes, n);
    saver_open(&v, p, "repo");
    save_all(&v);
    assert_holds(&v, p, true);
    assert_true(v.last.bytes_stored > n);
    memmove(bytes + n / 2 + 100, bytes + n / 2, n / 2);
    memset(bytes + n / 2, 'x', 100);
    put_bytes(p, "large", bytes, n + 100);
    assert_int_equal(SAVE_DIRTY(&v, {"large", DIRTY_ENTRY}), 2);
    assert_true(v.last.bytes_stored < 1024 * 1024);
    assert_holds(&v, p, true);

    /* The same bytes under another name are there already. */
    put_bytes(p, "copy", bytes, n + 100);
    save_all(&v);
    assert_true(v.last.bytes_stored < 64 * 1024);
    assert_holds(&v, p, true);
    assert_counted(&v);
    free(bytes);
    saver_close(&v);
}

static void many_files_of_all_sizes(void **state)
{
    const struct place *p = *state;
    struct saver v;
    struct lcg r = {42};
    uint8_t *bytes = malloc(1500000);
    char path[64];

    assert_non_null(bytes);
    for (unsigned d = 0; d < 40; d++) {
        snprintf(path, sizeof(path), "d%u", d);
        make_dir(p, path);
        for (unsigned f = 0; f < 12; f++) {
            size_t n = f == 0 ? 65536 + next(&r, 3) - 1 : next(&r, f < 10 ? 20000 : 800000);
            fill(bytes, n / (1 + f % 3), d * 100 + f);
            snprintf(path, sizeof(path), "d%u/f%u", d, f);
            put_bytes(p, path, bytes, n / (1 + f % 3));
        }
    }
    saver_open(&v, p, "repo");
    struct save_request q = {.workers = 4};
    MUST(try_save(&v, &q), v.error);
    assert_int_equal(v.last.files, 480);
    assert_holds(&v, p, true);
    assert_counted(&v);
    free(bytes);
    saver_close(&v);
}

/* So many that their names are looked up ahead of the walk. */
static void many_folders_that_change(void **state)
{
    const struct place *p = *state;
    struct saver v;
    char path[64], to[64];

    for (unsigned d = 0; d < 200; d++) {
        snprintf(path, sizeof(path), "d%03u", d);
        make_dir(p, path);
        snprintf(path, sizeof(path), "d%03u/below", d);
        make_dir(p, path);
        snprintf(path, sizeof(path), "d%03u/below/f", d);
        put_text(p, path, path);
        snprintf(path, sizeof(path), "d%03u/link", d);
        assert_int_equal(symlinkat("below", p->rootfd, path), 0);
    }
    saver_open(&v, p, "repo");
    struct save_request q = {.workers = 4};
    MUST(try_save(&v, &q), v.error);
    let_stamps_age(p);
    MUST(try_save(&v, &q), v.error);

    for (unsigned d = 0; d < 200; d += 5) {
        snprintf(path, sizeof(path), "d%03u/below/f", d);
        put_text(p, path, "another text");
        snprintf(path, sizeof(path), "d%03u/new", d + 1);
        put_text(p, path, path);
        snprintf(path, sizeof(path), "d%03u/below/f", d + 2);
        assert_int_equal(unlinkat(p->rootfd, path, 0), 0);
        snprintf(path, sizeof(path), "d%03u/below", d + 3);
        snprintf(to, sizeof(to), "d%03u/moved", d + 3);
        assert_int_equal(renameat(p->rootfd, path, p->rootfd, to), 0);
        snprintf(path, sizeof(path), "d%03u/link", d + 4);
        assert_int_equal(unlinkat(p->rootfd, path, 0), 0);
        assert_int_equal(symlinkat("elsewhere", p->rootfd, path), 0);
    }
    MUST(try_save(&v, &q), v.error);
    assert_true(v.last.snapshot > 0);
    assert_holds(&v, p, true);
    assert_counted(&v);
    let_stamps_age(p);
    MUST(try_save(&v, &q), v.error);
    MUST(try_save(&v, &q), v.error);
    assert_true(v.last.snapshot == 0);
    saver_close(&v);
}

static void holes_stay_holes(void **state)
{
    const struct place *p = *state;
    const off_t tib = INT64_C(1) << 40;
    struct saver v;

    int fd = openat(p->rootfd, "sparse", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    SYS(fd);
    if (ftruncate(fd, tib) < 0) {
        close(fd);
        print_message("no file of 1 TiB here: not tested\n");
        skip();
    }
    assert_int_equal(pwrite(fd, "begin", 5, 0), 5);
    assert_int_equal(pwrite(fd, "middle", 6, tib / 2), 6);
    close(fd);
    saver_open(&v, p, "repo");
    save_all(&v);
    assert_true(v.last.bytes_read < 1024 * 1024);
    struct node n = version_at(&v, "sparse");
    assert_int_equal(n.size, tib);
    assert_int_equal(n.extent_count, 2);
    assert_int_equal(n.extents[0].off, 0);
    assert_true(n.extents[1].off <= (uint64_t)tib / 2);
    node_release(&n);
    saver_close(&v);
}

static void what_is_all_hole_costs_nothing(void **state)
{
    static const struct {
        const char *name;
        off_t size;
    } files[] = {{"large", INT64_C(1) << 33}, {"small", 5000}, {"one", 1}};
    const struct place *p = *state;
    struct saver v;

    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        int fd = openat(p->rootfd, files[i].name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        SYS(fd);
        SYS(ftruncate(fd, files[i].size));
        close(fd);
    }
    put_bytes(p, "zeros", (uint8_t[5000]){0}, 5000); /* zeros that stand on the disk are content */
    saver_open(&v, p, "repo");
    save_all(&v);
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        struct node n = version_at(&v, files[i].name);
        assert_int_equal(n.size, files[i].size);
        assert_int_equal(n.ref_count, 0);
        assert_int_equal(n.extent_count, 0);
        node_release(&n);
    }
    struct node n = version_at(&v, "zeros");
    assert_int_equal(n.ref_count, 1);
    node_release(&n);
    assert_int_equal(save_all(&v), 0);

    /* Data comes, and goes again. */
    put_text(p, "small", "not a hole");
    save_all(&v);
    n = version_at(&v, "small");
    assert_int_equal(n.ref_count, 1);
    node_release(&n);
    int fd = openat(p->rootfd, "small", O_WRONLY | O_TRUNC | O_CLOEXEC);
    SYS(fd);
    SYS(ftruncate(fd, 5000));
    close(fd);
    save_all(&v);
    n = version_at(&v, "small");
    assert_int_equal(n.ref_count, 0);
    node_release(&n);
    saver_close(&v);
}

struct writer {
    char path[128];
    atomic_bool stop;
    atomic_uint written;
    bool append;
};
static void *keep_writing(void *arg)
{
    struct writer *w = arg;
    int fd = open(w->path, O_WRONLY | O_CLOEXEC | (w->append ? O_APPEND : 0));
    unsigned i = 0;

    while (fd >= 0 && !atomic_load(&w->stop)) {
        char line[32];
        int n = snprintf(line, sizeof(line), "line %u\n", i++);
        ssize_t done = w->append ? write(fd, line, (size_t)n)
                                 : pwrite(fd, line, (size_t)n, (off_t)(i % 10000) * 4096);
        if (done < 0)
            break;
        atomic_fetch_add(&w->written, 1);
    }
    close(fd);
    return NULL;
}

static void start_writer(struct writer *w, const struct place *p, const char *name, bool append,
                         pthread_t *thread)
{
    snprintf(w->path, sizeof(w->path), "%s/%s", p->root, name);
    atomic_init(&w->stop, false);
    atomic_init(&w->written, 0);
    w->append = append;
    assert_int_equal(pthread_create(thread, NULL, keep_writing, w), 0);
    while (atomic_load(&w->written) == 0)
        sched_yield();
}

static void a_growing_file_is_whole(void **state)
{
    const struct place *p = *state;
    struct buffer b = BUFFER_INIT, now = BUFFER_INIT;
    struct error e = ERROR_INIT;
    struct saver v;
    struct writer w;
    pthread_t thread;

    put_text(p, "log", "begin\n");
    saver_open(&v, p, "repo");
    start_writer(&w, p, "log", true, &thread);
    for (unsigned i = 0; i < 5; i++) {
        save_all(&v);
        assert_int_equal(v.last.incomplete_total, 0);
    }
    atomic_store(&w.stop, true);
    pthread_join(thread, NULL);
    struct node n = version_at(&v, "log");
    node_content(v.repo, &n, &b);
    MUST(small_file_read(p->rootfd, "log", UINT32_MAX, &now, &e), e);
    assert_true(b.len <= now.len);
    assert_memory_equal(b.data, now.data, b.len);
    node_release(&n);
    buffer_release(&b);
    buffer_release(&now);
    saver_close(&v);
}

static void a_file_that_never_holds_still_is_marked(void **state)
{
    const struct place *p = *state;
    const size_t n = 48 * 1024 * 1024;
    uint8_t *bytes = calloc(1, n);
    struct saver v;
    struct writer w;
    pthread_t thread;

    assert_non_null(bytes);
    put_bytes(p, "busy", bytes, n);
    put_text(p, "calm", "x");
    saver_open(&v, p, "repo");
    start_writer(&w, p, "busy", false, &thread);
    /* A save during which the writer never got a processor finds the file still. */
    uint64_t number = save_all(&v);
    for (unsigned i = 1; i < 50 && v.last.incomplete_total == 0; i++)
        number = save_all(&v);
    atomic_store(&w.stop, true);
    pthread_join(thread, NULL);
    assert_int_equal(v.last.incomplete_total, 1);
    assert_int_equal(v.last.incomplete_count, 1);
    assert_string_equal(v.last.incomplete[0].path, "busy");
    assert_string_equal(v.last.incomplete[0].reason, "kept changing while it was read");
    assert_int_equal(commit_of(&v, number, NULL).flags, COMMIT_INCOMPLETE);
    bool again = false;
    for (size_t i = 0; i < v.last.retry_count; i++)
        again |= strcmp(v.last.retry[i], "busy") == 0;
    assert_true(again);

    /* When it holds still it is whole, and the mark goes. */
    assert_int_equal(save_all(&v), number + 1);
    assert_int_equal(v.last.incomplete_total, 0);
    assert_holds(&v, p, false);
    free(bytes);
    saver_close(&v);
}

/* ---- what cannot be read ---- */

/* Run a test as a user who is not root; its status is the test's. */
static void as_nobody(struct place *p, void (*test)(struct place *p))
{
    if (geteuid() != 0) {
        test(p);
        return;
    }
    SYS(chown(p->dir, 65534, 65534));
    SYS(chown(p->root, 65534, 65534));
    pid_t child = fork();
    SYS(child);
    if (child == 0) {
        if (setgid(65534) < 0 || setuid(65534) < 0)
            _exit(3);
        test(p);
        _exit(0);
    }
    int status = 0;
    SYS(waitpid(child, &status, 0));
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* In a child a failed assertion has to end it. */
#define CHECK(x)                                                \
    do {                                                        \
        if (!(x)) {                                             \
            print_error("%s:%d: %s\n", __FILE__, __LINE__, #x); \
            _exit(1);                                           \
        }                                                       \
    } while (0)

static void unreadable_in_child(struct place *p)
{
    struct saver v;

    make_dir(p, "d");
    put_text(p, "d/f", "last good content");
    put_text(p, "d/g", "stays");
    make_dir(p, "shut");
    put_text(p, "shut/x", "below");
    saver_open(&v, p, "repo");
    CHECK(save_all(&v) == 1);

    SYS(fchmodat(p->rootfd, "d/f", 0, 0));
    SYS(fchmodat(p->rootfd, "shut", 0, 0));
    put_text(p, "d/never", "never seen");
    SYS(fchmodat(p->rootfd, "d/never", 0, 0));
    CHECK(save_all(&v) == 2);
    CHECK(v.last.incomplete_total == 3 && v.last.incomplete_count == 3);
    CHECK(v.last.files_removed == 0);
    CHECK(v.last.files == 4);
    struct commit c = commit_of(&v, 2, NULL);
    CHECK(c.flags == (COMMIT_INCOMPLETE | COMMIT_UNSOUND));
    struct node n = version_at(&v, "d/f");
    CHECK(n.flags == node_with_class(NODE_UNREAD, CONTENT_TEXT) && n.size == 17 && n.mode == 0);
    CHECK(strstr(n.reason, "Permission denied"));
    node_release(&n);
    CHECK(node_at(&v, "shut/x") != 0);
    n = version_at(&v, "shut");
    CHECK(n.flags == NODE_UNREAD);
    node_release(&n);
    n = version_at(&v, "d/never");
    CHECK(n.flags == NODE_UNREAD && n.size == 0 && n.ref_count == 0);
    node_release(&n);

    /* The same state is no change, in whatever way it is looked at. */
    CHECK(save_all(&v) == 0);
    CHECK(v.last.incomplete_total == 3 && v.last.incomplete_count == 3);
    CHECK(SAVE_DIRTY(&v, {"d/f", DIRTY_ENTRY}, {"shut", DIRTY_ENTRY}, {"shut/x", DIRTY_ENTRY}) ==
          0);

    SYS(fchmodat(p->rootfd, "d/f", 0644, 0));
    SYS(fchmodat(p->rootfd, "shut", 0755, 0));
    put_text(p, "shut/new", "came meanwhile");
    CHECK(SAVE_DIRTY(&v, {"d/f", DIRTY_ENTRY}, {"shut", DIRTY_ENTRY}) == 3);
    CHECK(v.last.incomplete_total == 1);
    n = version_at(&v, "d/f");
    CHECK(n.flags == node_with_class(0, CONTENT_TEXT) && !n.reason);
    node_release(&n);
    CHECK(node_at(&v, "shut/new") != 0);
    /* What was never readable makes no snapshot unsound. */
    CHECK(commit_of(&v, 3, NULL).flags == COMMIT_INCOMPLETE);
    SYS(fchmodat(p->rootfd, "d/never", 0644, 0));
    CHECK(save_all(&v) == 4);
    CHECK(commit_of(&v, 4, NULL).flags == 0);
    char *disk = dump_disk(p, false), *stored = dump_snapshot(&v, 0, false);
    CHECK(strcmp(disk, stored) == 0);
    free(disk);
    free(stored);
    saver_close(&v);
}

static void what_cannot_be_read_is_kept_and_marked(void **state)
{
    as_nobody(*state, unreadable_in_child);
}

static void unsearchable_in_child(struct place *p)
{
    struct saver v;

    make_dir(p, "d");
    put_text(p, "d/f", "x");
    saver_open(&v, p, "repo");
    CHECK(save_all(&v) == 1);
    SYS(fchmodat(p->rootfd, "d", 0444, 0)); /* names can be read, nothing else */
    CHECK(save_all(&v) == 2);
    CHECK(v.last.files_removed == 0 && v.last.incomplete_total == 1);
    CHECK(node_at(&v, "d/f") != 0);
    SYS(fchmodat(p->rootfd, "d", 0755, 0));
    CHECK(save_all(&v) == 3);
    CHECK(v.last.incomplete_total == 0);
    SYS(chmod(p->root, 0));
    struct save_request q = {0};
    CHECK(try_save(&v, &q) == ERR_DENIED);
    SYS(chmod(p->root, 0755));
    saver_close(&v);
}

static void a_folder_that_cannot_be_searched_loses_nothing(void **state)
{
    as_nobody(*state, unsearchable_in_child);
}

static void a_path_beyond_path_max(void **state)
{
    const struct place *p = *state;
    struct saver v;
    char name[202];
    int fd = openat(p->rootfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    memset(name, 'n', 200);
    name[200] = 0;
    for (unsigned i = 0; i < 250; i++) {
        SYS(mkdirat(fd, name, 0755));
        int below = openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        SYS(below);
        close(fd);
        fd = below;
        /* A second folder at each level waits while the deeper one is looked at. */
        SYS(mkdirat(fd, "wait", 0755));
    }
    int f = openat(fd, "wait/file", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    SYS(f);
    assert_int_equal(write(f, "deep", 4), 4);
    close(f);
    saver_open(&v, p, "repo");
    save_all(&v);
    assert_int_equal(v.last.files, 1);
    assert_int_equal(v.last.bytes, 4);
    assert_int_equal(v.last.incomplete_total, 0);
    assert_int_equal(commit_of(&v, 1, NULL).folders, 500);
    f = openat(fd, "wait/file", O_WRONLY | O_TRUNC | O_CLOEXEC);
    SYS(f);
    assert_int_equal(write(f, "deeper", 6), 6);
    close(f);
    close(fd);
    assert_int_equal(save_all(&v), 2);
    assert_int_equal(v.last.bytes, 6);
    saver_close(&v);
}

int main(void)
{
#define PLACE_TEST(f) cmocka_unit_test_setup_teardown(f, place_setup, place_teardown)
    const struct CMUnitTest tests[] = {
        PLACE_TEST(an_insertion_stores_little),
        PLACE_TEST(many_files_of_all_sizes),
        PLACE_TEST(many_folders_that_change),
        PLACE_TEST(holes_stay_holes),
        PLACE_TEST(what_is_all_hole_costs_nothing),
        PLACE_TEST(a_growing_file_is_whole),
        PLACE_TEST(a_file_that_never_holds_still_is_marked),
        PLACE_TEST(what_cannot_be_read_is_kept_and_marked),
        PLACE_TEST(a_folder_that_cannot_be_searched_loses_nothing),
        PLACE_TEST(a_path_beyond_path_max),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
