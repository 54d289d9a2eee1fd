#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/buffer.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/fileops.h"
#include "io/lock.h"
#include "io/safe_path.h"

#include "scratch.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/banned.h"

static int scratch_fd(void **state)
{
    return ((struct scratch *)*state)->fd;
}

static void put_file(int dirfd, const char *name, const char *text)
{
    int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void check_file(int dirfd, const char *name, const char *want)
{
    struct buffer b = BUFFER_INIT;
    struct error e = ERROR_INIT;

    if (small_file_read(dirfd, name, 1 << 20, &b, &e) != 0)
        fail_msg("%s", e.message);
    assert_string_equal(buffer_cstr(&b), want);
    buffer_release(&b);
}

static bool exists(int dirfd, const char *name)
{
    struct stat st;

    return fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static int count_entries(int dirfd)
{
    DIR *d = fdopendir(openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    int n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

/* ---- transfers ---- */

static struct fileops table;
static int fail_in; /* countdown to the operation that fails; 0: never */
static int fail_errno;

static bool fails(void)
{
    if (fail_in == 0 || --fail_in != 0)
        return false;
    errno = fail_errno;
    return true;
}

static int faulty_openat(int dirfd, const char *path, int flags, mode_t mode)
{
    return fails() ? -1 : fileops_system.openat(dirfd, path, flags, mode);
}

static int faulty_close(int fd)
{
    int rc = fileops_system.close(fd);

    return fails() ? -1 : rc;
}

static ssize_t faulty_pwrite(int fd, const void *p, size_t n, off_t off)
{
    return fails() ? -1 : fileops_system.pwrite(fd, p, n, off);
}

static int faulty_fdatasync(int fd)
{
    return fails() ? -1 : fileops_system.fdatasync(fd);
}

static int faulty_renameat2(int olddir, const char *old, int newdir, const char *to, unsigned flags)
{
    return fails() ? -1 : fileops_system.renameat2(olddir, old, newdir, to, flags);
}

static int faulty_fsync(int fd)
{
    return fails() ? -1 : fileops_system.fsync(fd);
}

/* One byte at a time, and every second call is interrupted. */
static unsigned calls;

static ssize_t tiny_pwrite(int fd, const void *p, size_t n, off_t off)
{
    if (calls++ % 2 == 0) {
        errno = EINTR;
        return -1;
    }
    return fileops_system.pwrite(fd, p, n ? 1 : 0, off);
}

static ssize_t tiny_pread(int fd, void *p, size_t n, off_t off)
{
    if (calls++ % 2 == 0) {
        errno = EINTR;
        return -1;
    }
    return fileops_system.pread(fd, p, n ? 1 : 0, off);
}

static void use_faulty_table(void)
{
    table = fileops_system;
    table.openat = faulty_openat;
    table.close = faulty_close;
    table.pwrite = faulty_pwrite;
    table.fdatasync = faulty_fdatasync;
    table.renameat2 = faulty_renameat2;
    table.fsync = faulty_fsync;
    fileops = &table;
}

static int teardown(void **state)
{
    fileops = &fileops_system;
    return scratch_teardown(state);
}

static void test_transfers_are_whole(void **state)
{
    struct error e = ERROR_INIT;
    char back[32] = "";
    size_t got;
    int fd = fileops->openat(scratch_fd(state), "f", O_RDWR | O_CREAT, 0600);

    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    table = fileops_system;
    table.pwrite = tiny_pwrite;
    table.pread = tiny_pread;
    fileops = &table;
    assert_int_equal(file_write_all(fd, "0123456789", 10, 5, &e), 0);
    assert_int_equal(file_read_all(fd, back, 8, 7, &e), 0);
    assert_string_equal(back, "23456789");
    assert_int_equal(file_read_some(fd, back, sizeof(back), 10, &got, &e), 0);
    assert_int_equal(got, 5);
    assert_memory_equal(back, "56789", 5);
    assert_int_equal(file_read_some(fd, back, 4, 999, &got, &e), 0);
    assert_int_equal(got, 0);
    assert_int_equal(file_read_all(fd, back, 8, 8, &e), ERR_DAMAGED);
    assert_non_null(strstr(e.message, "ends early"));
    assert_int_equal(file_write_all(fd, "x", 1, UINT64_MAX, &e), ERR_NOSPACE);
    close(fd);
    assert_int_equal(file_read_all(fd, back, 1, 0, &e), ERR_FAILED);
    assert_int_equal(e.sys, EBADF);
}

/* ---- atomic files ---- */

static void test_atomic_file_replaces(void **state)
{
    int dir = scratch_fd(state);
    struct error e = ERROR_INIT;
    struct stat st;

    assert_int_equal(atomic_file_write(dir, "conf", "one", 3, 0, &e), 0);
    check_file(dir, "conf", "one");
    assert_int_equal(fstatat(dir, "conf", &st, 0), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(atomic_file_write(dir, "conf", "", 0, 0640, &e), 0);
    check_file(dir, "conf", "");
    assert_int_equal(fstatat(dir, "conf", &st, 0), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(count_entries(dir), 1);
    assert_true(atomic_file_write(dir, "a/b", "x", 1, 0, &e) < 0);
    assert_true(atomic_file_write(dir, "", "x", 1, 0, &e) < 0);
}

/* Fail each operation in turn: the old or the new text is there, nothing else is left. */
static void test_atomic_file_survives_any_failure(void **state)
{
    static const char *const named[] = {NULL,
                                        "create a temporary file for 'conf'",
                                        "write",
                                        "flush the new 'conf'",
                                        "close",
                                        "rename the new 'conf'",
                                        "flush the folder of 'conf'"};
    int dir = scratch_fd(state);
    struct error e = ERROR_INIT;
    int n = 0;
    int rc;

    fail_errno = ENOSPC;
    do {
        put_file(dir, "conf", "old");
        use_faulty_table();
        fail_in = ++n;
        rc = atomic_file_write(dir, "conf", "new", 3, 0, &e);
        fail_in = 0;
        fileops = &fileops_system;
        assert_int_equal(count_entries(dir), 1);
        if (rc == 0)
            break;
        assert_int_equal(rc, ERR_NOSPACE);
        assert_in_range(n, 1, 6);
        assert_non_null(strstr(e.message, named[n]));
        assert_string_equal(e.path, "conf");
        check_file(dir, "conf", n == 6 ? "new" : "old");
    } while (n < 50);
    assert_int_equal(n, 7);
    check_file(dir, "conf", "new");
}

static void test_small_file_is_bounded(void **state)
{
    int dir = scratch_fd(state);
    struct buffer b = BUFFER_INIT;
    struct error e = ERROR_INIT;
    char big[20001];

    memset(big, 'z', sizeof(big) - 1);
    big[sizeof(big) - 1] = 0;
    put_file(dir, "big", big);
    put_file(dir, "five", "12345");
    buffer_append_str(&b, ">");
    assert_int_equal(small_file_read(dir, "five", 5, &b, &e), 0);
    assert_int_equal(small_file_read(dir, "five", 4, &b, &e), ERR_DAMAGED);
    assert_int_equal(small_file_read(dir, "none", 5, &b, &e), ERR_NOTFOUND);
    assert_string_equal(buffer_cstr(&b), ">12345");
    assert_int_equal(small_file_read(dir, "big", 20000, &b, &e), 0);
    assert_int_equal(b.len, 20006);
    assert_int_equal(small_file_read(dir, "big", 19999, &b, &e), ERR_DAMAGED);
    assert_int_equal(b.len, 20006);
    assert_true(small_file_read(dir, ".", 10, &b, &e) < 0);
    buffer_release(&b);
}

/* ---- locks ---- */

static int open_lock(void **state)
{
    return openat(scratch_fd(state), "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

static void test_lock_between_descriptions(void **state)
{
    struct error e = ERROR_INIT;
    int a = open_lock(state);
    int b = open_lock(state);

    assert_int_equal(lock_take(a, LOCK_WRITER, true, 0, &e), 0);
    assert_int_equal(lock_take(b, LOCK_WRITER, true, 0, &e), ERR_BUSY);
    assert_int_equal(lock_take(b, LOCK_WRITER, false, 5, &e), ERR_BUSY);
    assert_true(lock_held(b, LOCK_WRITER, 1, true));
    assert_false(lock_held(a, LOCK_WRITER, 1, true)); /* its own does not count */
    lock_drop(a, LOCK_WRITER);
    assert_false(lock_held(b, LOCK_WRITER, 1, true));
    assert_int_equal(lock_take(b, LOCK_WRITER, true, 0, &e), 0);
    close(b);
    assert_int_equal(lock_take(a, LOCK_WRITER, true, 0, &e), 0);
    close(a);
    assert_int_equal(lock_take(a, LOCK_WRITER, true, 0, &e), ERR_FAILED);
    assert_true(lock_held(a, LOCK_WRITER, 1, true)); /* cannot tell */
}

static void test_leases_are_shared(void **state)
{
    const uint64_t seven = LOCK_LEASE_BASE + 7;
    struct error e = ERROR_INIT;
    int a = open_lock(state);
    int b = open_lock(state);
    int c = open_lock(state);

    assert_int_equal(lock_take(a, seven, false, 0, &e), 0);
    assert_int_equal(lock_take(b, seven, false, 0, &e), 0);
    assert_int_equal(lock_take(c, seven, true, 0, &e), ERR_BUSY);
    assert_int_equal(lock_take(c, seven + 1, true, 0, &e), 0);
    assert_int_equal(lock_take(c, LOCK_WRITER, true, 0, &e), 0);
    assert_true(lock_held(c, LOCK_LEASE_BASE, 100, true));
    assert_true(lock_held(c, LOCK_LEASE_BASE, 0, true));
    assert_false(lock_held(c, seven, 1, false));
    assert_false(lock_held(c, LOCK_LEASE_BASE, 7, true)); /* 0..6 */
    lock_drop(a, seven);
    assert_true(lock_held(c, seven, 1, true));
    lock_drop(b, seven);
    assert_false(lock_held(c, LOCK_LEASE_BASE, 0, true));
    close(a);
    close(b);
    close(c);
}

/* A child that takes the writer's byte, says so through told, and holds it until let_go closes. */
static pid_t fork_holder(void **state, int *told, int *let_go)
{
    int up[2];
    int down[2];

    assert_int_equal(pipe2(up, O_CLOEXEC), 0);
    assert_int_equal(pipe2(down, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct error e = ERROR_INIT;
        char c = 0;
        close(down[1]);
        int fd = open_lock(state);
        if (lock_take(fd, LOCK_WRITER, true, 0, &e) != 0 || write(up[1], "h", 1) != 1)
            _exit(1);
        _exit(read(down[0], &c, 1) == 0 ? 0 : 1);
    }
    close(up[1]);
    close(down[0]);
    *told = up[0];
    *let_go = down[1];
    char c;
    assert_int_equal(read(*told, &c, 1), 1);
    return pid;
}

static void test_lock_between_processes(void **state)
{
    struct error e = ERROR_INIT;
    int told, let_go, status;
    pid_t pid = fork_holder(state, &told, &let_go);
    int fd = open_lock(state);

    assert_int_equal(lock_take(fd, LOCK_WRITER, true, 0, &e), ERR_BUSY);
    close(let_go);
    assert_int_equal(lock_take(fd, LOCK_WRITER, true, 60000, &e), 0); /* waits for its end */
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close(told);
    close(fd);
}

static void test_lock_dies_with_its_holder(void **state)
{
    struct error e = ERROR_INIT;
    int told, let_go;
    pid_t pid = fork_holder(state, &told, &let_go);
    int fd = open_lock(state);

    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(lock_take(fd, LOCK_WRITER, true, 0, &e), 0);
    close(let_go);
    close(told);
    close(fd);
}

/* The lock belongs to the description: closing another one of the same file, which would drop a
 * POSIX lock, does not. */
static void test_lock_survives_an_unrelated_close(void **state)
{
    struct error e = ERROR_INIT;
    int a = open_lock(state);
    int b = open_lock(state);

    assert_int_equal(lock_take(a, LOCK_WRITER, true, 0, &e), 0);
    close(open_lock(state));
    assert_int_equal(lock_take(b, LOCK_WRITER, true, 0, &e), ERR_BUSY);
    close(a);
    close(b);
}

/* ---- safe paths ---- */

static void make_maze(int dir)
{
    assert_int_equal(mkdirat(dir, "outside", 0700), 0);
    assert_int_equal(mkdirat(dir, "base", 0700), 0);
    assert_int_equal(mkdirat(dir, "base/sub", 0700), 0);
    put_file(dir, "outside/secret", "secret");
    put_file(dir, "base/sub/file", "text");
    assert_int_equal(symlinkat("../outside", dir, "base/out"), 0);
    assert_int_equal(symlinkat("sub", dir, "base/in"), 0);
    assert_int_equal(symlinkat("../../outside/secret", dir, "base/sub/link"), 0);
}

static int open_base(int dir)
{
    return openat(dir, "base", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void test_safe_open_stays_beneath(void **state)
{
    static const char *const refused[] = {
        "out/secret",  "in/file", "sub/link", "../outside/secret", "sub/../../outside/secret",
        "/etc/passwd", ".."};
    struct error e = ERROR_INIT;
    const char *name;
    struct stat st;
    int dir = scratch_fd(state);

    make_maze(dir);
    int base = open_base(dir);
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        assert_int_equal(safe_open(base, refused[i], O_RDONLY, 0, &e), ERR_REFUSED);
        assert_string_equal(e.path, refused[i]);
    }
    assert_int_equal(safe_open(base, "out/new", O_WRONLY | O_CREAT, 0600, &e), ERR_REFUSED);
    assert_int_equal(safe_open(base, "sub/link", O_WRONLY | O_CREAT | O_TRUNC, 0600, &e),
                     ERR_REFUSED);
    assert_int_equal(safe_stat(base, "out/secret", &st, &e), ERR_REFUSED);
    assert_int_equal(safe_open_parent(base, "out/secret", &name, &e), ERR_REFUSED);
    assert_int_equal(safe_open_parent(base, "/etc", &name, &e), ERR_REFUSED);
    assert_int_equal(safe_open_parent(base, "/etc/passwd", &name, &e), ERR_REFUSED);
    assert_int_equal(remove_tree(base, "out/secret", &e), ERR_REFUSED);
    check_file(dir, "outside/secret", "secret");
    assert_false(exists(dir, "outside/new"));
    close(base);
}

static void test_safe_open_opens(void **state)
{
    struct error e = ERROR_INIT;
    struct stat st;
    const char *name;
    int dir = scratch_fd(state);

    make_maze(dir);
    int base = open_base(dir);
    int fd = safe_open(base, "sub/file", O_RDONLY, 0, &e);
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    close(fd);
    fd = safe_open(base, "sub/made", O_WRONLY | O_CREAT | O_EXCL, 0640, &e);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(safe_stat(base, "sub/made", &st, &e), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(safe_stat(base, "sub/link", &st, &e), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(safe_stat(base, "", &st, &e), 0);
    assert_true(S_ISDIR(st.st_mode));
    assert_int_equal(safe_stat(base, ".", &st, &e), 0);
    assert_int_equal(safe_stat(base, "sub/none", &st, &e), ERR_NOTFOUND);
    fd = safe_open(base, "", O_RDONLY | O_DIRECTORY, 0, &e);
    assert_true(fd >= 0);
    assert_true(exists(fd, "sub"));
    close(fd);
    static const char path[] = "sub/file";
    fd = safe_open_parent(base, path, &name, &e);
    assert_true(fd >= 0);
    assert_ptr_equal(name, path + 4);
    assert_true(exists(fd, name));
    close(fd);
    fd = safe_open_parent(base, "top", &name, &e);
    assert_true(fd >= 0);
    assert_string_equal(name, "top");
    close(fd);
    assert_int_equal(safe_open_parent(base, "", &name, &e), ERR_USAGE);
    assert_int_equal(safe_open_parent(base, "sub/", &name, &e), ERR_USAGE);
    assert_int_equal(safe_open_parent(base, "sub/..", &name, &e), ERR_USAGE);
    close(base);
}

/* "<root>/ddd.../ddd.../..." of more than two times PATH_MAX bytes. */
static char *long_path(const char *root)
{
    struct buffer b = BUFFER_INIT;

    buffer_append_str(&b, root);
    for (int i = 0; i < 50; i++) {
        char part[201];
        memset(part, 'a' + i % 26, sizeof(part) - 1);
        part[sizeof(part) - 1] = 0;
        buffer_printf(&b, "/%s", part);
    }
    assert_true(b.len > 2 * PATH_MAX);
    char *path = strdup(buffer_cstr(&b));
    assert_non_null(path);
    buffer_release(&b);
    return path;
}

static void test_paths_beyond_path_max(void **state)
{
    struct scratch *s = *state;
    struct error e = ERROR_INIT;
    struct stat st;
    const char *name;
    char root[128];

    snprintf(root, sizeof(root), "%s/deep", s->path);
    char *folder = long_path(root);
    const char *rel = folder + strlen(s->path) + 1;
    if (make_dirs(folder, 0700, &e) != 0)
        fail_msg("%s", e.message);
    assert_int_equal(make_dirs(folder, 0700, &e), 0);

    char *file = text_format("%s/file", rel);
    int fd = safe_open(s->fd, file, O_WRONLY | O_CREAT | O_EXCL, 0600, &e);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "far", 3), 3);
    close(fd);
    assert_int_equal(safe_stat(s->fd, file, &st, &e), 0);
    assert_int_equal(st.st_size, 3);
    fd = safe_open_parent(s->fd, file, &name, &e);
    assert_true(fd >= 0);
    assert_string_equal(name, "file");
    check_file(fd, name, "far");
    assert_int_equal(symlinkat("file", fd, "link"), 0);
    assert_int_equal(symlinkat("..", fd, "up"), 0);
    close(fd);
    char *absolute = text_format("%s//file", folder);
    fd = long_path_open(absolute, O_RDONLY, &e);
    assert_true(fd >= 0);
    close(fd);
    char *link = text_format("%s/link", rel);
    assert_int_equal(safe_open(s->fd, link, O_RDONLY, 0, &e), ERR_REFUSED);
    char *up = text_format("%s/up/x", rel);
    assert_int_equal(safe_open(s->fd, up, O_RDONLY, 0, &e), ERR_REFUSED);
    char *missing = text_format("%s/none", rel);
    assert_int_equal(safe_stat(s->fd, missing, &st, &e), ERR_NOTFOUND);

    if (remove_tree(s->fd, "deep", &e) != 0)
        fail_msg("%s", e.message);
    assert_false(exists(s->fd, "deep"));
    free(folder);
    free(file);
    free(absolute);
    free(link);
    free(up);
    free(missing);
}

static void test_one_name_too_long(void **state)
{
    struct error e = ERROR_INIT;
    char name[9000];

    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    assert_int_equal(safe_open(scratch_fd(state), name, O_RDONLY, 0, &e), ERR_FAILED);
    assert_int_equal(e.sys, ENAMETOOLONG);
    assert_true(long_path_open(name, O_RDONLY, &e) < 0);
    assert_true(make_dirs(name, 0700, &e) < 0);
    assert_int_equal(e.sys, ENAMETOOLONG);
    assert_int_equal(long_path_open("", O_RDONLY, &e), ERR_NOTFOUND);
    assert_int_equal(make_dirs("", 0700, &e), ERR_NOTFOUND);
}

static void test_make_dirs(void **state)
{
    struct scratch *s = *state;
    struct error e = ERROR_INIT;
    struct stat st;
    char path[128];

    snprintf(path, sizeof(path), "%s//a/./b/c/", s->path);
    assert_int_equal(make_dirs(path, 0750, &e), 0);
    assert_int_equal(make_dirs(path, 0700, &e), 0);
    assert_int_equal(fstatat(s->fd, "a/b/c", &st, 0), 0);
    assert_int_equal(st.st_mode & 0777, 0750);
    assert_int_equal(make_dirs("/", 0700, &e), 0);
    put_file(s->fd, "file", "x");
    snprintf(path, sizeof(path), "%s/file/sub", s->path);
    assert_true(make_dirs(path, 0700, &e) < 0);
    assert_int_equal(e.sys, ENOTDIR);
}

/* ---- removing trees ---- */

static void test_remove_tree_follows_no_link(void **state)
{
    struct error e = ERROR_INIT;
    int dir = scratch_fd(state);

    make_maze(dir);
    assert_int_equal(remove_tree(dir, "base", &e), 0);
    assert_false(exists(dir, "base"));
    check_file(dir, "outside/secret", "secret");
    assert_int_equal(remove_tree(dir, "base", &e), 0); /* already gone */
    assert_int_equal(remove_tree(dir, "base/sub/x", &e), 0);
    assert_int_equal(symlinkat("outside", dir, "link"), 0);
    assert_int_equal(remove_tree(dir, "link", &e), 0); /* the link, not what it names */
    assert_int_equal(remove_tree(dir, "outside/secret", &e), 0);
    assert_int_equal(count_entries(dir), 1);
    assert_int_equal(remove_tree(dir, "..", &e), ERR_USAGE);
    assert_int_equal(remove_tree(dir, "", &e), ERR_USAGE);
}

static void test_remove_tree_deep_and_wide(void **state)
{
    struct error e = ERROR_INIT;
    int dir = scratch_fd(state);
    char name[16];

    assert_int_equal(mkdirat(dir, "t", 0700), 0);
    int at = openat(dir, "t", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < 2000; i++) {
        assert_int_equal(mkdirat(at, "d", 0700), 0);
        int next = openat(at, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(next >= 0);
        if (i % 1000 == 0) {
            for (int k = 0; k < 1500; k++) { /* more entries than one getdents64 returns */
                snprintf(name, sizeof(name), "e%d", k);
                if (k % 5 == 0)
                    assert_int_equal(mkdirat(at, name, 0500), 0);
                else
                    put_file(at, name, "");
            }
        }
        close(at);
        at = next;
    }
    close(at);
    struct rlimit all, few;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &all), 0);
    few = all;
    few.rlim_cur = 64; /* fewer descriptors than levels */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    int rc = remove_tree(dir, "t", &e);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &all), 0);
    if (rc != 0)
        fail_msg("%s", e.message);
    assert_int_equal(count_entries(dir), 0);
}

/* As somebody who is not root: folders without rights are no obstacle to their owner. */
static void test_remove_tree_opens_closed_folders(void **state)
{
    int dir = scratch_fd(state);
    int status;

    assert_int_equal(fchmod(dir, 0777), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct error e = ERROR_INIT;
        if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
            _exit(77);
        if (mkdirat(dir, "t", 0700) != 0 || mkdirat(dir, "t/closed", 0700) != 0 ||
            mkdirat(dir, "t/closed/sub", 0700) != 0 || mkdirat(dir, "t/closed/sub/x", 0) != 0 ||
            fchmodat(dir, "t/closed/sub", 0500, 0) != 0 || fchmodat(dir, "t/closed", 0, 0) != 0)
            _exit(1);
        _exit(remove_tree(dir, "t", &e) == 0 ? 0 : 2);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_false(exists(dir, "t"));
}

static int failing_unlinkat(int dirfd, const char *path, int flags)
{
    if (strcmp(path, "stuck") == 0) {
        errno = EROFS;
        return -1;
    }
    return fileops_system.unlinkat(dirfd, path, flags);
}

static void test_remove_tree_tells_what_failed(void **state)
{
    struct error e = ERROR_INIT;
    int dir = scratch_fd(state);

    make_maze(dir);
    put_file(dir, "base/sub/stuck", "x");
    table = fileops_system;
    table.unlinkat = failing_unlinkat;
    fileops = &table;
    assert_int_equal(remove_tree(dir, "base", &e), ERR_DENIED);
    assert_string_equal(e.message, "cannot remove 'base': Read-only file system");
    assert_true(exists(dir, "base/sub/stuck"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_transfers_are_whole, scratch_setup, teardown),
        cmocka_unit_test_setup_teardown(test_atomic_file_replaces, scratch_setup, teardown),
        cmocka_unit_test_setup_teardown(test_atomic_file_survives_any_failure, scratch_setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_small_file_is_bounded, scratch_setup, teardown),
        cmocka_unit_test_setup_teardown(test_lock_between_descriptions, scratch_setup, teardown),
        cmocka_unit_test_setup_teardown(test_leases_are_shared, scratch_setup, teardown),
        cmocka_unit_test_setup_teardown(test_lock_between_processes, scratch_setup, teardown),
        cmocka_unit_test_setup_teardown(test_lock_dies_with_its_holder, scratch_setup, teardown),
        cmocka_unit_test_setup_teardown(test_lock_survives_an_unrelated_close, scratch_setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_safe_open_stays_beneath, scratch_setup, teardown),
        cmocka_unit_test_setup_teardown(test_safe_open_opens, scratch_setup, teardown),
        cmocka_unit_test_setup_teardown(test_paths_beyond_path_max, scratch_setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_name_too_long, scratch_setup, teardown),
        cmocka_unit_test_setup_teardown(test_make_dirs, scratch_setup, teardown),
        cmocka_unit_test_setup_teardown(test_remove_tree_follows_no_link, scratch_setup, teardown),
        cmocka_unit_test_setup_teardown(test_remove_tree_deep_and_wide, scratch_setup, teardown),
        cmocka_unit_test_setup_teardown(test_remove_tree_opens_closed_folders, scratch_setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_remove_tree_tells_what_failed, scratch_setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
