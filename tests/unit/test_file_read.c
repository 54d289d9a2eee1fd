/* Reading one file of the source: what it is, whether it held still, its holes and attributes. */
#include "capture/file_read.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/xattr.h>

#include <cmocka.h>

#include "scratch.h"

static void put(const struct scratch *s, const char *name, const void *p, size_t n)
{
    int fd = openat(s->fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, p, n), (ssize_t)n);
    close(fd);
}

static void append(const struct scratch *s, const char *name, const char *text)
{
    int fd = openat(s->fd, name, O_WRONLY | O_APPEND | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static struct file_read open_ok(const struct scratch *s, const char *name)
{
    struct error e = ERROR_INIT;
    struct file_read f;

    assert_int_equal(file_read_open(&f, s->fd, name, false, &e), 0);
    return f;
}

static void a_file_that_holds_still(void **state)
{
    const struct scratch *s = *state;
    struct error e = ERROR_INIT;
    char p[16];
    size_t got;

    put(s, "f", "hello world", 11);
    struct file_read f = open_ok(s, "f");
    assert_int_equal(f.len, 11);
    assert_false(file_read_is_database(&f));
    assert_int_equal(file_read_at(&f, p, sizeof(p), 6, &got, &e), 0);
    assert_int_equal(got, 5);
    assert_memory_equal(p, "world", 5);
    assert_int_equal(file_read_check(&f), FILE_STABLE);
    file_read_close(&f);
}

static void growth_is_told_from_change(void **state)
{
    const struct scratch *s = *state;

    put(s, "log", "one\n", 4);
    struct file_read f = open_ok(s, "log");
    append(s, "log", "two\n");
    assert_int_equal(file_read_check(&f), FILE_GREW);
    assert_int_equal(f.len, 4);
    assert_int_equal(f.st.st_size, 8);
    file_read_close(&f);

    f = open_ok(s, "log");
    put(s, "log", "x", 1);
    assert_int_equal(file_read_check(&f), FILE_CHANGED);
    file_read_close(&f);

    f = open_ok(s, "log");
    assert_int_equal(fchmodat(s->fd, "log", 0600, 0), 0);
    assert_int_equal(file_read_check(&f), FILE_CHANGED);
    file_read_close(&f);
}

static void only_regular_files_are_opened(void **state)
{
    const struct scratch *s = *state;
    static const char *const names[] = {"fifo", "link", "folder", "socket", "absent"};
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct error e = ERROR_INIT;
    struct file_read f;

    put(s, "target", "t", 1);
    assert_int_equal(mkfifoat(s->fd, "fifo", 0600), 0);
    assert_int_equal(symlinkat("target", s->fd, "link"), 0);
    assert_int_equal(mkdirat(s->fd, "folder", 0700), 0);
    snprintf(at.sun_path, sizeof(at.sun_path), "%.60s/socket", s->path);
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(sock, (const struct sockaddr *)&at, sizeof(at)), 0);

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        assert_int_equal(file_read_open(&f, s->fd, names[i], false, &e), ERR_NOTFOUND);
        assert_int_equal(f.fd, -1);
    }
    close(sock);
}

static void a_database_is_known_by_its_header(void **state)
{
    const struct scratch *s = *state;
    char page[512] = "SQLite format 3";

    put(s, "any.name", page, sizeof(page));
    put(s, "short.db", page, 16);
    put(s, "fake.db",
        "SQLite format 2 is something else, and is never taken for a database...."
        "...............................................",
        110);
    struct file_read f = open_ok(s, "any.name");
    assert_true(file_read_is_database(&f));
    file_read_close(&f);
    f = open_ok(s, "short.db");
    assert_false(file_read_is_database(&f));
    file_read_close(&f);
    f = open_ok(s, "fake.db");
    assert_false(file_read_is_database(&f));
    file_read_close(&f);
    assert_true(file_begins_as_database(page, 100));
    assert_false(file_begins_as_database(page, 99));
}

static void holes_are_found(void **state)
{
    const struct scratch *s = *state;
    struct error e = ERROR_INIT;
    struct node_extent *x;
    uint32_t n;
    const uint64_t mib = 1024 * 1024;

    int fd = openat(s->fd, "sparse", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    assert_int_equal(pwrite(fd, "begin", 5, 0), 5);
    assert_int_equal(pwrite(fd, "middle", 6, (off_t)(512 * mib)), 6);
    assert_int_equal(ftruncate(fd, (off_t)(1024 * mib)), 0);
    close(fd);
    struct file_read f = open_ok(s, "sparse");
    assert_int_equal(file_read_extents(&f, &x, &n, &e), 0);
    assert_int_equal(n, 2);
    assert_int_equal(x[0].off, 0);
    assert_true(x[0].len >= 5 && x[0].len <= mib);
    assert_true(x[1].off <= 512 * mib && x[1].off + x[1].len >= 512 * mib + 6);
    free(x);
    file_read_close(&f);

    put(s, "hollow", "", 0);
    fd = openat(s->fd, "hollow", O_WRONLY | O_CLOEXEC);
    assert_int_equal(ftruncate(fd, (off_t)(64 * mib)), 0);
    close(fd);
    f = open_ok(s, "hollow");
    assert_int_equal(file_read_extents(&f, &x, &n, &e), 1);
    assert_int_equal(n, 0);
    assert_null(x);
    file_read_close(&f);

    put(s, "dense", "no holes here", 13);
    f = open_ok(s, "dense");
    assert_int_equal(file_read_extents(&f, &x, &n, &e), 0);
    assert_int_equal(n, 0);
    assert_null(x);
    file_read_close(&f);
}

static void attributes_come_sorted(void **state)
{
    const struct scratch *s = *state;
    struct error e = ERROR_INIT;
    struct node_xattr *x;
    uint32_t n;

    put(s, "f", "x", 1);
    struct file_read f = open_ok(s, "f");
    assert_int_equal(xattrs_read(f.fd, -1, NULL, &x, &n, &e), 0);
    assert_int_equal(n, 0);
    if (fsetxattr(f.fd, "user.b", "2\0two", 5, 0) < 0) {
        print_message("no user attributes here (%s): the rest is not tested\n", strerror(errno));
        file_read_close(&f);
        skip();
    }
    assert_int_equal(fsetxattr(f.fd, "user.a", "", 0, 0), 0);
    assert_int_equal(xattrs_read(f.fd, -1, NULL, &x, &n, &e), 0);
    assert_int_equal(n, 2);
    assert_string_equal(x[0].name, "user.a");
    assert_int_equal(x[0].len, 0);
    assert_string_equal(x[1].name, "user.b");
    assert_int_equal(x[1].len, 5);
    assert_memory_equal(x[1].value, "2\0two", 5);
    xattrs_free(x);
    file_read_close(&f);

    /* By its name, without opening it. */
    assert_int_equal(xattrs_read(-1, s->fd, "f", &x, &n, &e), 0);
    assert_int_equal(n, 2);
    xattrs_free(x);
}

static void signatures_survive_encoding(void **state)
{
    const struct scratch *s = *state;
    const struct signature none = {0};
    struct signature a, b;
    uint8_t bytes[SIGNATURE_MAX + 1];
    struct stat st;

    put(s, "f", "x", 1);
    assert_int_equal(fstatat(s->fd, "f", &st, 0), 0);
    signature_of(&st, &a);
    a.wal = UINT64_C(0x1122334455667788);
    a.racy = true;
    size_t len = signature_encode(&a, &none, bytes);
    assert_int_equal(signature_decode(bytes, len, &none, &b), len);
    assert_int_equal(signature_decode(bytes, len + 1, &none, &b), len); /* hashes follow it */
    assert_true(signature_same(&a, &b));
    assert_true(b.racy);
    assert_int_equal(signature_decode(bytes, len - 1, &none, &b), 0);
    b = a;
    b.wal++;
    assert_false(signature_same(&a, &b));
    bytes[0] ^= 0xc0; /* of another version of the program */
    assert_int_equal(signature_decode(bytes, len, &none, &b), 0);
    memset(&a, 0xff, sizeof(a)); /* the longest */
    a.racy = false;
    a.mtime_s = INT64_MIN;
    a.ctime_s = INT64_MAX;
    len = signature_encode(&a, &none, bytes);
    assert_true(len <= SIGNATURE_MAX);
    assert_int_equal(signature_decode(bytes, len, &none, &b), len);
    assert_true(signature_same(&a, &b));
}

static void signatures_say_only_what_differs(void **state)
{
    static const struct signature at_first = {.dev = 0xfc00,
                                              .ino = 123456789,
                                              .size = 5000,
                                              .mtime_s = 1700000000,
                                              .mtime_ns = 123456789,
                                              .ctime_s = 1700000000,
                                              .ctime_ns = 123456789,
                                              .mode = 0100644,
                                              .uid = 1000,
                                              .gid = 1000,
                                              .nlink = 1};
    struct signature a = at_first, b;
    uint8_t bytes[SIGNATURE_MAX];

    (void)state;
    size_t least = signature_encode(&a, &at_first, bytes);
    assert_true(least <= 4);
    for (int i = 0; i < 13; i++) { /* each field alone, and then all of them */
        a = i < 12 ? at_first : a;
        a.dev += i == 0 || i == 12;
        a.ino += i == 1 || i == 12;
        a.size += i == 2 || i == 12;
        a.mtime_s += i == 3 || i == 12;
        a.mtime_ns += i == 4 || i == 12;
        a.ctime_s += i == 5;
        a.ctime_ns += i == 6 || i == 12;
        a.mode += i == 7 || i == 12;
        a.uid += i == 8 || i == 12;
        a.gid += i == 9 || i == 12;
        a.nlink += i == 10 || i == 12;
        a.wal += i == 11 || i == 12;
        size_t len = signature_encode(&a, &at_first, bytes);
        assert_int_equal(signature_decode(bytes, len, &at_first, &b), len);
        assert_true(signature_same(&a, &b));
        assert_false(signature_same(&at_first, &b));
        assert_int_equal(signature_decode(bytes, len - 1, &at_first, &b), 0);
    }
}

static void fresh_stamps_are_racy(void **state)
{
    const struct wall_time now = {1000000, 500000000};
    struct signature s = {.ctime_s = 1000000, .ctime_ns = 495000000, .mtime_ns = 1};

    assert_true(signature_is_racy(&s, now));
    s.ctime_ns = 480000000;
    assert_false(signature_is_racy(&s, now));
    s.ctime_ns = 600000000; /* the server's clock is ahead */
    assert_true(signature_is_racy(&s, now));
    s.ctime_s += 86400; /* the clock was set back */
    assert_false(signature_is_racy(&s, now));

    /* A file system that knows seconds only. */
    s = (struct signature){.ctime_s = 999999, .mtime_s = 5};
    assert_true(signature_is_racy(&s, now));
    s.ctime_s = 999998;
    assert_false(signature_is_racy(&s, now));
}

int main(void)
{
#define SCRATCH_TEST(f) cmocka_unit_test_setup_teardown(f, scratch_setup, scratch_teardown)
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(a_file_that_holds_still),
        SCRATCH_TEST(growth_is_told_from_change),
        SCRATCH_TEST(only_regular_files_are_opened),
        SCRATCH_TEST(a_database_is_known_by_its_header),
        SCRATCH_TEST(holes_are_found),
        SCRATCH_TEST(attributes_come_sorted),
        SCRATCH_TEST(signatures_survive_encoding),
        cmocka_unit_test(signatures_say_only_what_differs),
        cmocka_unit_test(fresh_stamps_are_racy),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
