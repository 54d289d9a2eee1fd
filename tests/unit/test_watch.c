/* The watched trees against real folders: every wait is for an event or a barrier, none for time.
 */
#include "base/clock.h"
#include "scratch.h"
#include "watch/filesystem.h"
#include "watch/watch_tree.h"

#include <errno.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <cmocka.h>

enum { SEEN_MAX = 100000, WAIT_MS = 120000 };

struct seen {
    char *path, *to; /* to: of a rename */
    unsigned how;
};

struct fixture {
    struct scratch *scratch;
    uv_loop_t loop;
    uv_timer_t limit;
    struct watch_tree *tree;
    struct watch_root *root;
    char root_path[128];
    struct seen *seen;
    size_t count;
    const char *unwanted; /* a folder's path, or NULL */
    ino_t unwanted_ino;
    unsigned states;
    bool passed;
    bool in_child;
};

/* ---- what is told ---- */

static bool on_want(void *ctx, const char *path, bool is_dir, const struct stat *st)
{
    struct fixture *f = ctx;

    assert_true(is_dir);
    return !(f->unwanted && strcmp(path, f->unwanted) == 0) &&
           !(st && f->unwanted_ino == st->st_ino);
}

static void on_dirty(void *ctx, const char *path, unsigned how)
{
    struct fixture *f = ctx;

    assert_true(f->count < SEEN_MAX);
    f->seen[f->count++] = (struct seen){.path = strdup(path), .how = how};
}

static void on_moved(void *ctx, const char *from, const char *to, unsigned how)
{
    struct fixture *f = ctx;

    f->seen[f->count++] = (struct seen){.path = strdup(from), .to = strdup(to), .how = how};
}

static void on_state(void *ctx)
{
    struct fixture *f = ctx;

    f->states++;
}

static void on_turn(void *ctx)
{
}

static void forget_seen(struct fixture *f)
{
    while (f->count > 0) {
        f->count--;
        free(f->seen[f->count].path);
        free(f->seen[f->count].to);
    }
}

/* How path was reported, all reports together; 0: it was not. */
static unsigned how_of(const struct fixture *f, const char *path)
{
    unsigned how = 0;

    for (size_t i = 0; i < f->count; i++) {
        if (strcmp(f->seen[i].path, path) == 0)
            how |= f->seen[i].how;
    }
    return how;
}

static bool was_moved(const struct fixture *f, const char *from, const char *to)
{
    for (size_t i = 0; i < f->count; i++) {
        if (f->seen[i].to && strcmp(f->seen[i].path, from) == 0 && strcmp(f->seen[i].to, to) == 0)
            return true;
    }
    return false;
}

/* Is path, or a folder above it as a tree, reported? */
static bool is_covered(const struct fixture *f, const char *path)
{
    for (size_t i = 0; i < f->count; i++) {
        const char *at = f->seen[i].path;
        size_t n = strlen(at);
        if (strcmp(at, path) == 0)
            return true;
        if ((f->seen[i].how & WATCH_TREE) &&
            (n == 0 || (strncmp(path, at, n) == 0 && path[n] == '/')))
            return true;
    }
    return false;
}

/* ---- waiting ---- */

static void on_limit(uv_timer_t *timer)
{
    struct fixture *f = timer->data;

    if (f->in_child) {
        fprintf(stderr, "waited too long\n");
        _exit(1);
    }
    fail_msg("waited too long");
}

static void on_passed(void *ctx)
{
    struct fixture *f = ctx;

    f->passed = true;
}

/* Until all that has happened is told. */
static void catch_up(struct fixture *f)
{
    struct watch_barrier barrier = {.passed = on_passed, .ctx = f};

    f->passed = false;
    watch_tree_barrier(f->tree, &barrier);
    assert_false(f->passed);
    while (!f->passed)
        uv_run(&f->loop, UV_RUN_ONCE);
}

static void until_state(struct fixture *f, enum watch_state state)
{
    while (watch_root_state(f->root) != state)
        uv_run(&f->loop, UV_RUN_ONCE);
}

/* ---- doing ---- */

static void act(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* In the root, by the shell. */
static void act(const char *fmt, ...)
{
    char line[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-ec", line, (char *)NULL);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void write_text(const struct fixture *f, const char *path, const char *text)
{
    char full[512];

    snprintf(full, sizeof(full), "%s/%s", f->root_path, path);
    int fd = open(full, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

/* ---- life ---- */

static const struct watch_calls calls = {.want = on_want,
                                         .dirty = on_dirty,
                                         .moved = on_moved,
                                         .state = on_state,
                                         .rules_file = ".rules"};

static void start(struct fixture *f)
{
    struct error e = ERROR_INIT;
    char barrier[128];

    assert_int_equal(uv_loop_init(&f->loop), 0);
    uv_timer_init(&f->loop, &f->limit);
    f->limit.data = f;
    uv_timer_start(&f->limit, on_limit, WAIT_MS, 0);
    assert_int_equal(watch_tree_open(&f->loop, on_turn, f, &f->tree, &e), 0);
    snprintf(barrier, sizeof(barrier), "%s/barrier", f->scratch->path);
    mkdir(barrier, 0700);
    assert_int_equal(watch_tree_barrier_folder(f->tree, barrier, &e), 0);
    assert_int_equal(watch_tree_add(f->tree, f->root_path, &calls, f, &f->root, &e), 0);
}

/* Everything stands, nothing is told yet. */
static void start_quiet(struct fixture *f)
{
    start(f);
    catch_up(f);
    assert_int_equal(watch_root_state(f->root), WATCH_STANDING);
    forget_seen(f);
}

static int setup(void **state)
{
    void *scratch;
    struct fixture *f = calloc(1, sizeof(*f));

    if (scratch_setup(&scratch) != 0 || !f)
        return -1;
    f->scratch = scratch;
    f->seen = calloc(SEEN_MAX, sizeof(*f->seen));
    snprintf(f->root_path, sizeof(f->root_path), "%s/root", f->scratch->path);
    *state = f;
    return f->seen ? mkdir(f->root_path, 0700) : -1;
}

static void stop(struct fixture *f)
{
    watch_tree_close(f->tree);
    f->tree = NULL;
    uv_close((uv_handle_t *)&f->limit, NULL);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    void *scratch = f->scratch;

    if (f->in_child)
        _exit(1); /* an assertion failed there */
    if (f->tree)
        stop(f);
    forget_seen(f);
    free(f->seen);
    free(f);
    return scratch_teardown(&scratch);
}

/* ---- tests ---- */

static void changes_of_files_are_told_with_their_kind(void **state)
{
    struct fixture *f = *state;

    write_text(f, "there", "1");
    write_text(f, "gone", "1");
    start_quiet(f);
    write_text(f, "new", "1");
    write_text(f, "there", "2");
    act("cd %s; rm gone; ln -s nowhere link; chmod 700 there; mkfifo pipe", f->root_path);
    char open_path[256];
    snprintf(open_path, sizeof(open_path), "%s/open", f->root_path);
    int fd = open(open_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, "x", 1), 1);
    catch_up(f);
    assert_int_equal(how_of(f, "new"), WATCH_ENTRY | WATCH_FLUSH | WATCH_CLOSED);
    assert_true(how_of(f, "there") & WATCH_CLOSED);
    assert_int_equal(how_of(f, "gone"), WATCH_ENTRY);
    assert_int_equal(how_of(f, "link"), WATCH_ENTRY);
    assert_int_equal(how_of(f, "pipe"), WATCH_ENTRY);
    assert_int_equal(how_of(f, "open"), WATCH_ENTRY | WATCH_FLUSH); /* not closed */
    close(fd);
    forget_seen(f);
    act("chmod 750 %s", f->root_path);
    catch_up(f);
    assert_int_equal(how_of(f, ""), WATCH_ENTRY | WATCH_DIR);
}

static void folders_made_with_content_are_told_whole_and_watched(void **state)
{
    struct fixture *f = *state;

    start_quiet(f);
    for (unsigned i = 0; i < 200; i++)
        act("cd %s; mkdir -p m%u/b/c; echo x >m%u/b/c/f", f->root_path, i, i);
    catch_up(f);
    for (unsigned i = 0; i < 200; i++) {
        char path[64];
        snprintf(path, sizeof(path), "m%u/b/c/f", i);
        assert_true(is_covered(f, path));
    }
    assert_int_equal(watch_tree_folders(f->tree), 1 + 3 * 200);
    forget_seen(f);
    write_text(f, "m199/b/c/later", "x");
    catch_up(f);
    assert_true(how_of(f, "m199/b/c/later") & WATCH_ENTRY);
    assert_false(is_covered(f, "m198/b/c/f"));
}

static void a_renamed_folder_keeps_its_watches(void **state)
{
    struct fixture *f = *state;

    act("cd %s; mkdir -p a/b/c other", f->root_path);
    start_quiet(f);
    act("cd %s; mv a other/z", f->root_path);
    write_text(f, "other/z/b/c/f", "x");
    catch_up(f);
    assert_true(was_moved(f, "a", "other/z"));
    assert_int_equal(how_of(f, "other/z") & WATCH_TREE, 0); /* nothing was walked */
    assert_true(how_of(f, "other/z/b/c/f") & WATCH_ENTRY);
    assert_int_equal(watch_tree_folders(f->tree), 5);
    forget_seen(f);
    /* Over an empty folder, and two exchanged. */
    act("cd %s; mkdir empty; mv -T other/z empty", f->root_path);
    write_text(f, "empty/b/f", "x");
    catch_up(f);
    assert_true(how_of(f, "empty/b/f") & WATCH_ENTRY);
    assert_int_equal(watch_tree_folders(f->tree), 5);
}

static void files_are_told_as_renamed(void **state)
{
    struct fixture *f = *state;

    write_text(f, "file", "1");
    start_quiet(f);
    write_text(f, "file.tmp", "2");
    act("cd %s; mv file.tmp file", f->root_path);
    catch_up(f);
    assert_true(was_moved(f, "file.tmp", "file"));
}

static void exchanged_folders_have_each_others_paths(void **state)
{
    struct fixture *f = *state;
    char a[256], b[256];

    act("cd %s; mkdir -p a/in-a b/in-b", f->root_path);
    start_quiet(f);
    snprintf(a, sizeof(a), "%s/a", f->root_path);
    snprintf(b, sizeof(b), "%s/b", f->root_path);
    assert_int_equal(renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE), 0);
    catch_up(f);
    write_text(f, "b/in-a/f", "x");
    write_text(f, "a/in-b/g", "x");
    catch_up(f);
    assert_true(is_covered(f, "b/in-a/f"));
    assert_true(is_covered(f, "a/in-b/g"));
    assert_int_equal(watch_tree_folders(f->tree), 5);
}

static void what_is_moved_out_is_a_removal(void **state)
{
    struct fixture *f = *state;

    act("cd %s; mkdir -p a/b/c", f->root_path);
    start_quiet(f);
    act("mv %s/a %s/outside", f->root_path, f->scratch->path);
    act("echo x >%s/outside/b/f", f->scratch->path);
    catch_up(f);
    assert_int_equal(how_of(f, "a"), WATCH_ENTRY | WATCH_DIR);
    assert_int_equal(f->count, 1);
    assert_int_equal(watch_tree_folders(f->tree), 1);
    forget_seen(f);
    act("mv %s/outside %s/back", f->scratch->path, f->root_path);
    write_text(f, "back/b/c/f", "x");
    catch_up(f);
    assert_true(how_of(f, "back") & WATCH_TREE);
    assert_true(is_covered(f, "back/b/c/f"));
    assert_int_equal(watch_tree_folders(f->tree), 4);
}

/* The second half never comes, and no barrier either: the grace ends it. */
static void a_rename_that_waits_ends_by_itself(void **state)
{
    struct fixture *f = *state;

    act("cd %s; mkdir a", f->root_path);
    start_quiet(f);
    assert_true(watch_tree_deadline(f->tree) == UINT64_MAX);
    act("mv %s/a %s/outside", f->root_path, f->scratch->path);
    while (watch_tree_deadline(f->tree) == UINT64_MAX)
        uv_run(&f->loop, UV_RUN_ONCE);
    assert_int_equal(f->count, 0);
    watch_tree_tick(f->tree, watch_tree_deadline(f->tree) - 1);
    assert_int_equal(f->count, 0);
    watch_tree_tick(f->tree, watch_tree_deadline(f->tree));
    assert_int_equal(how_of(f, "a"), WATCH_ENTRY | WATCH_DIR);
    assert_true(watch_tree_deadline(f->tree) == UINT64_MAX);
}

static void unwanted_folders_are_left_alone(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    char path[256];

    act("cd %s; mkdir -p cache/deep ours/deep kept", f->root_path);
    snprintf(path, sizeof(path), "%s/ours", f->root_path);
    assert_int_equal(stat(path, &st), 0);
    f->unwanted = "cache";
    f->unwanted_ino = st.st_ino;
    start_quiet(f);
    assert_int_equal(watch_tree_folders(f->tree), 2);
    write_text(f, "cache/deep/f", "x");
    write_text(f, "ours/deep/f", "x");
    catch_up(f);
    assert_int_equal(f->count, 0);
    /* Its rules change: it is looked at anew. */
    f->unwanted = NULL;
    watch_tree_again(f->root, "");
    catch_up(f);
    assert_int_equal(how_of(f, ""), WATCH_TREE | WATCH_DIR);
    assert_int_equal(watch_tree_folders(f->tree), 4);
    f->unwanted = "kept";
    watch_tree_again(f->root, "");
    catch_up(f);
    assert_int_equal(watch_tree_folders(f->tree), 3);
    /* Renamed to a name that is not wanted: a removal. */
    forget_seen(f);
    act("cd %s; rmdir kept; mv cache kept", f->root_path);
    catch_up(f);
    assert_int_equal(watch_tree_folders(f->tree), 1);
    assert_true(how_of(f, "cache") & WATCH_ENTRY);
}

static void a_folder_under_rules_of_its_own_is_walked_when_renamed(void **state)
{
    struct fixture *f = *state;

    act("cd %s; mkdir -p a/b; echo x >a/.rules", f->root_path);
    start_quiet(f);
    act("cd %s; mv a z", f->root_path);
    catch_up(f);
    assert_true(how_of(f, "z") & WATCH_TREE);
}

static void a_root_that_is_removed_is_missing_until_it_is_back(void **state)
{
    struct fixture *f = *state;

    act("cd %s; mkdir -p a/b", f->root_path);
    start_quiet(f);
    act("rm -r %s", f->root_path);
    until_state(f, WATCH_MISSING);
    assert_string_not_equal(watch_root_problem(f->root), "");
    assert_int_equal(watch_tree_folders(f->tree), 0);
    assert_false(watch_root_check(f->root));
    catch_up(f);
    forget_seen(f);
    act("mkdir -p %s/c; echo x >%s/c/f", f->root_path, f->root_path);
    assert_true(watch_root_check(f->root));
    catch_up(f);
    assert_int_equal(watch_root_state(f->root), WATCH_STANDING);
    assert_string_equal(watch_root_problem(f->root), "");
    assert_true(how_of(f, "") & WATCH_TREE);
    forget_seen(f);
    write_text(f, "c/g", "x");
    catch_up(f);
    assert_true(how_of(f, "c/g") & WATCH_ENTRY);
}

static void a_root_that_is_not_there_at_first_is_missing(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(rmdir(f->root_path), 0);
    start(f);
    assert_int_equal(watch_root_state(f->root), WATCH_MISSING);
    assert_int_equal(mkdir(f->root_path, 0700), 0);
    assert_true(watch_root_check(f->root));
    until_state(f, WATCH_STANDING);
    assert_true(how_of(f, "") & WATCH_TREE);
}

/* By a rename of the root, of a folder above it, and of a link above it. */
static void another_folder_in_the_roots_place_is_noticed(void **state)
{
    struct fixture *f = *state;

    act("mkdir -p %s/one/x/root %s/two/root; ln -s one %s/link; mv %s/root %s/first",
        f->scratch->path, f->scratch->path, f->scratch->path, f->scratch->path, f->scratch->path);
    snprintf(f->root_path, sizeof(f->root_path), "%s/link/x/root", f->scratch->path);
    start_quiet(f);
    act("cd %s/one/x; mkdir new; echo x >new/f; mv root old; mv new root", f->scratch->path);
    while (!(how_of(f, "") & WATCH_TREE))
        uv_run(&f->loop, UV_RUN_ONCE);
    catch_up(f);
    forget_seen(f);
    write_text(f, "f", "y");
    catch_up(f);
    assert_true(how_of(f, "f") & WATCH_ENTRY);
    forget_seen(f);
    act("cd %s; mv two/root two/y; mkdir two/x; mv two/y two/x/root; ln -s two new; mv -T new link",
        f->scratch->path);
    while (!(how_of(f, "") & WATCH_TREE))
        uv_run(&f->loop, UV_RUN_ONCE);
    catch_up(f);
    forget_seen(f);
    write_text(f, "g", "y");
    catch_up(f);
    assert_true(how_of(f, "g") & WATCH_ENTRY);
    forget_seen(f);
    act("cd %s; mv two/x two/z; mkdir -p two/x/root", f->scratch->path);
    while (!(how_of(f, "") & WATCH_TREE))
        uv_run(&f->loop, UV_RUN_ONCE);
    catch_up(f);
    assert_int_equal(watch_root_state(f->root), WATCH_STANDING);
    assert_int_equal(watch_tree_folders(f->tree), 1);
}

static void nested_roots_both_hear_of_a_change(void **state)
{
    struct fixture *f = *state;
    struct fixture inner = {.seen = calloc(SEEN_MAX, sizeof(struct seen))};
    struct watch_root *second;
    struct error e = ERROR_INIT;
    char path[256];

    act("cd %s; mkdir -p a/b", f->root_path);
    start_quiet(f);
    snprintf(path, sizeof(path), "%s/a", f->root_path);
    assert_int_equal(watch_tree_add(f->tree, path, &calls, &inner, &second, &e), 0);
    catch_up(f);
    forget_seen(f);
    forget_seen(&inner);
    write_text(f, "a/b/f", "x");
    catch_up(f);
    assert_true(how_of(f, "a/b/f") & WATCH_ENTRY);
    assert_true(how_of(&inner, "b/f") & WATCH_ENTRY);
    watch_tree_remove(f->tree, second);
    forget_seen(f);
    write_text(f, "a/b/g", "x");
    catch_up(f);
    assert_true(how_of(f, "a/b/g") & WATCH_ENTRY);
    forget_seen(&inner);
    free(inner.seen);
}

static void an_unreadable_folder_is_watched_when_it_may_be_read(void **state)
{
    struct fixture *f = *state;

    if (geteuid() == 0)
        skip(); /* may read everything; see e2e */
    act("cd %s; mkdir -p a/b; chmod 0 a", f->root_path);
    start_quiet(f);
    act("cd %s; chmod 700 a", f->root_path);
    catch_up(f);
    assert_true(how_of(f, "a") & WATCH_TREE);
    assert_int_equal(watch_tree_folders(f->tree), 3);
}

/* ---- limits ---- */

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        _exit(77);
    close(fd);
}

/* Run a part in a child that has limits of its own. */
static void in_own_namespace(struct fixture *f, void (*part)(struct fixture *f))
{
    char users[32], groups[32];
    int status;

    snprintf(users, sizeof(users), "0 %u 1", (unsigned)geteuid());
    snprintf(groups, sizeof(groups), "0 %u 1", (unsigned)getegid());
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (unshare(CLONE_NEWUSER) != 0)
            _exit(77);
        put("/proc/self/uid_map", users);
        put("/proc/self/setgroups", "deny");
        put("/proc/self/gid_map", groups);
        f->in_child = true;
        part(f);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(status, 0);
}

#define CHECK(what)                                                    \
    do {                                                               \
        if (!(what)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
            _exit(1);                                                  \
        }                                                              \
    } while (0)

static void with_few_watches(struct fixture *f)
{
    put("/proc/sys/user/max_inotify_watches", "9");
    start(f);
    catch_up(f);
    CHECK(watch_root_state(f->root) == WATCH_DEGRADED);
    CHECK(watch_root_exhausted(f->root));
    CHECK(strstr(watch_root_problem(f->root), "fs.inotify.max_user_watches"));
    forget_seen(f);
    write_text(f, "d3/deep/f", "x"); /* not watched */
    watch_tree_poll(f->root);
    catch_up(f);
    CHECK(is_covered(f, "d3/deep/f"));
    CHECK(!is_covered(f, "d3-is-no-such-folder") || (how_of(f, "") & WATCH_TREE));
    /* Raised: the next poll watches all of it. */
    put("/proc/sys/user/max_inotify_watches", "1000");
    watch_tree_poll(f->root);
    catch_up(f);
    CHECK(watch_root_state(f->root) == WATCH_STANDING);
    CHECK(!watch_root_exhausted(f->root));
    CHECK(*watch_root_problem(f->root) == 0);
    forget_seen(f);
    write_text(f, "d3/deep/f", "y");
    catch_up(f);
    CHECK(how_of(f, "d3/deep/f") & WATCH_ENTRY);
}

static void without_watches_left_the_rest_is_polled(void **state)
{
    struct fixture *f = *state;

    act("cd %s; mkdir -p d1/deep d2/deep d3/deep d4/deep", f->root_path);
    in_own_namespace(f, with_few_watches);
}

static void with_no_instance(struct fixture *f)
{
    put("/proc/sys/user/max_inotify_instances", "0");
    start(f);
    catch_up(f);
    CHECK(watch_root_state(f->root) == WATCH_POLLING);
    CHECK(strstr(watch_root_problem(f->root), "fs.inotify.max_user_instances"));
    forget_seen(f);
    watch_tree_poll(f->root);
    catch_up(f);
    CHECK(how_of(f, "") & WATCH_TREE);
    stop(f);
}

static void without_an_instance_everything_is_polled(void **state)
{
    in_own_namespace(*state, with_no_instance);
}

static void touch_mode(const struct fixture *f, const char *path)
{
    char full[512];

    snprintf(full, sizeof(full), "%s/%s", f->root_path, path);
    assert_int_equal(chmod(full, 0600), 0);
}

static void after_an_overflow_everything_is_told_and_nothing_is_stale(void **state)
{
    struct fixture *f = *state;
    char limit[32] = "";
    int fd = open("/proc/sys/fs/inotify/max_queued_events", O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_true(read(fd, limit, sizeof(limit) - 1) > 0);
    close(fd);
    act("cd %s; mkdir -p a/b c; touch f1 f2", f->root_path);
    start(f);
    catch_up(f);
    forget_seen(f);
    /* As many as the queue takes: the limit is everybody's, so it is not made less for this. */
    for (long i = 0; i <= atol(limit); i++)
        touch_mode(f, i % 2 ? "f1" : "f2");
    /* Lost: the renames, the removal and the new folder. */
    act("cd %s; mv a z; rmdir c; mkdir -p new/deep", f->root_path);
    catch_up(f);
    assert_true(watch_tree_overflows(f->tree) > 0);
    assert_true(how_of(f, "") & WATCH_TREE);
    assert_int_equal(watch_tree_folders(f->tree), 5);
    forget_seen(f);
    write_text(f, "z/b/f", "x");
    write_text(f, "new/deep/f", "x");
    catch_up(f);
    assert_true(how_of(f, "z/b/f") & WATCH_ENTRY);
    assert_true(how_of(f, "new/deep/f") & WATCH_ENTRY);
}

/* ---- against a model ---- */

static unsigned pick(unsigned n)
{
    return (unsigned)rand() % n;
}

/* Every folder there is gets a file; the event must name that very path. */
static void check_paths(struct fixture *f, const char *rel, size_t *folders)
{
    char path[1024], full[1200];
    struct stat st;

    (*folders)++;
    snprintf(path, sizeof(path), "%s%smark", rel, *rel ? "/" : "");
    write_text(f, path, "x");
    catch_up(f);
    if (!(how_of(f, path) & WATCH_ENTRY))
        fail_msg("a change of '%s' was not told", path);
    forget_seen(f);
    for (unsigned i = 0; i < 6; i++) {
        snprintf(path, sizeof(path), "%s%sd%u", rel, *rel ? "/" : "", i);
        snprintf(full, sizeof(full), "%s/%s", f->root_path, path);
        if (strlen(path) < 200 && stat(full, &st) == 0 && S_ISDIR(st.st_mode))
            check_paths(f, path, folders);
    }
}

static void random_path(char *out, size_t cap, const char *base)
{
    size_t n = (size_t)snprintf(out, cap, "%s", base);

    for (unsigned depth = 1 + pick(4); depth > 0 && n < cap; depth--)
        n += (size_t)snprintf(out + n, cap - n, "/d%u", pick(6));
}

static void random_renames_never_lead_to_a_wrong_path(void **state)
{
    struct fixture *f = *state;
    char a[256], b[256], outside[160];

    start_quiet(f);
    snprintf(outside, sizeof(outside), "%s/outside", f->scratch->path);
    mkdir(outside, 0700);
    srand(11);
    for (unsigned round = 0; round < 12; round++) {
        for (unsigned i = 0; i < 400; i++) {
            random_path(a, sizeof(a), pick(8) ? f->root_path : outside);
            random_path(b, sizeof(b), pick(8) ? f->root_path : outside);
            switch (pick(6)) {
            case 0:
            case 1:
                mkdir(a, 0700);
                break;
            case 2:
                rmdir(a);
                break;
            case 3:
                renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
                break;
            default:
                rename(a, b);
            }
            if (pick(40) == 0)
                uv_run(&f->loop, UV_RUN_NOWAIT);
        }
        catch_up(f);
        forget_seen(f);
        size_t folders = 0;
        check_paths(f, "", &folders);
        assert_int_equal(watch_tree_folders(f->tree), folders);
    }
}

/* ---- mounts ---- */

static void on_mounts(void *ctx)
{
    *(bool *)ctx = true;
}

static void with_mounts(struct fixture *f)
{
    struct error e = ERROR_INIT;
    struct mounts *m;
    bool changed = false;
    char sub[160];

    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        _exit(77);
    snprintf(sub, sizeof(sub), "%s/sub", f->root_path);
    mkdir(sub, 0700);
    start(f);
    catch_up(f);
    CHECK(mounts_open(&f->loop, on_mounts, &changed, &m, &e) == 0);
    uv_run(&f->loop, UV_RUN_NOWAIT); /* registers it */
    uint64_t before = mounts_around(f->root_path);
    if (mount("none", sub, "tmpfs", 0, NULL) != 0)
        _exit(77);
    while (!changed)
        uv_run(&f->loop, UV_RUN_ONCE);
    CHECK(mounts_around(f->root_path) != before);
    CHECK(mounts_around("/proc") == mounts_around("/proc"));
    watch_tree_again(f->root, "");
    catch_up(f);
    forget_seen(f);
    write_text(f, "sub/on-the-mount", "x");
    catch_up(f);
    CHECK(how_of(f, "sub/on-the-mount") & WATCH_ENTRY);
    /* Gone again: what lies below is what is there now. */
    forget_seen(f);
    CHECK(umount(sub) == 0);
    while (!(how_of(f, "sub") & WATCH_TREE))
        uv_run(&f->loop, UV_RUN_ONCE);
    CHECK(mounts_around(f->root_path) == before);
    write_text(f, "sub/below", "x");
    catch_up(f);
    CHECK(how_of(f, "sub/below") & WATCH_ENTRY);
    /* The root itself is mounted over: another folder stands at its path. */
    changed = false;
    CHECK(mount("none", f->root_path, "tmpfs", 0, NULL) == 0);
    while (!changed)
        uv_run(&f->loop, UV_RUN_ONCE);
    forget_seen(f);
    CHECK(watch_root_check(f->root));
    catch_up(f);
    CHECK(how_of(f, "") & WATCH_TREE);
    forget_seen(f);
    CHECK(umount(f->root_path) == 0); /* nothing of ours holds it */
    while (!(how_of(f, "") & WATCH_TREE))
        uv_run(&f->loop, UV_RUN_ONCE);
    mounts_close(m);
}

static void mounts_in_and_over_the_root_are_noticed(void **state)
{
    in_own_namespace(*state, with_mounts);
}

/* ---- a FUSE file system that holds one empty folder ---- */

static void reply(int fd, uint64_t unique, int error, const void *body, size_t n)
{
    struct fuse_out_header head = {
        .len = (uint32_t)(sizeof(head) + n), .error = error, .unique = unique};
    struct iovec parts[] = {{&head, sizeof(head)}, {(void *)(uintptr_t)body, n}};

    (void)!writev(fd, parts, n > 0 ? 2 : 1);
}

static void *serve_fuse(void *arg)
{
    int fd = *(int *)arg;
    _Alignas(struct fuse_in_header) static char buffer[1 << 20];
    const struct fuse_in_header *in = (const void *)buffer;

    while (read(fd, buffer, sizeof(buffer)) >= (ssize_t)sizeof(*in)) {
        struct fuse_init_out init = {
            .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_write = 4096};
        struct fuse_attr_out attr = {.attr = {.ino = 1, .mode = S_IFDIR | 0700, .nlink = 2}};
        struct fuse_open_out opened = {.fh = 1};
        struct fuse_statfs_out fs = {.st = {.bsize = 4096, .namelen = 255}};
        switch (in->opcode) {
        case FUSE_INIT:
            reply(fd, in->unique, 0, &init, sizeof(init));
            break;
        case FUSE_GETATTR:
            reply(fd, in->unique, 0, &attr, sizeof(attr));
            break;
        case FUSE_OPENDIR:
            reply(fd, in->unique, 0, &opened, sizeof(opened));
            break;
        case FUSE_STATFS:
            reply(fd, in->unique, 0, &fs, sizeof(fs));
            break;
        case FUSE_READDIR:
        case FUSE_RELEASEDIR:
            reply(fd, in->unique, 0, NULL, 0);
            break;
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT:
            break;
        default:
            reply(fd, in->unique, -ENOSYS, NULL, 0);
        }
    }
    return NULL;
}

static void with_fuse(struct fixture *f)
{
    static int fd;
    char options[128];
    pthread_t thread;

    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        _exit(77);
    fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
    if (fd < 0 || mount("test", f->root_path, "fuse.test", 0, options) != 0)
        _exit(77);
    CHECK(pthread_create(&thread, NULL, serve_fuse, &fd) == 0);
    start(f);
    catch_up(f);
    CHECK(watch_root_state(f->root) == WATCH_POLLING);
    CHECK(!watch_root_exhausted(f->root));
    CHECK(strstr(watch_root_problem(f->root), "FUSE"));
    forget_seen(f);
    watch_tree_poll(f->root);
    catch_up(f);
    CHECK(how_of(f, "") & WATCH_TREE);
}

static void a_fuse_file_system_is_polled(void **state)
{
    in_own_namespace(*state, with_fuse);
}

static void a_local_file_system_is_not_remote(void **state)
{
    struct fixture *f = *state;

    assert_null(filesystem_remote(f->scratch->fd));
}

int main(void)
{
#define WATCH(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        WATCH(changes_of_files_are_told_with_their_kind),
        WATCH(folders_made_with_content_are_told_whole_and_watched),
        WATCH(a_renamed_folder_keeps_its_watches),
        WATCH(files_are_told_as_renamed),
        WATCH(exchanged_folders_have_each_others_paths),
        WATCH(what_is_moved_out_is_a_removal),
        WATCH(a_rename_that_waits_ends_by_itself),
        WATCH(unwanted_folders_are_left_alone),
        WATCH(a_folder_under_rules_of_its_own_is_walked_when_renamed),
        WATCH(a_root_that_is_removed_is_missing_until_it_is_back),
        WATCH(a_root_that_is_not_there_at_first_is_missing),
        WATCH(another_folder_in_the_roots_place_is_noticed),
        WATCH(nested_roots_both_hear_of_a_change),
        WATCH(an_unreadable_folder_is_watched_when_it_may_be_read),
        WATCH(without_watches_left_the_rest_is_polled),
        WATCH(without_an_instance_everything_is_polled),
        WATCH(after_an_overflow_everything_is_told_and_nothing_is_stale),
        WATCH(random_renames_never_lead_to_a_wrong_path),
        WATCH(mounts_in_and_over_the_root_are_noticed),
        WATCH(a_fuse_file_system_is_polled),
        WATCH(a_local_file_system_is_not_remote),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
