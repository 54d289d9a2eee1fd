/* What tar_write puts, tar_read gives back; gzip members likewise; what is cut off is noticed. */
#include "base/random.h"
#include "keep/gzip.h"
#include "keep/tar_read.h"
#include "keep/tar_write.h"

#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

struct input {
    const uint8_t *p;
    size_t left, step;
};

static int next_bytes(void *ctx, const uint8_t **p, size_t *len, struct error *e)
{
    struct input *in = ctx;

    *p = in->p;
    *len = in->left < in->step ? in->left : in->step;
    in->p += *len;
    in->left -= *len;
    return 0;
}

struct given {
    const char *path, *link;
    struct node node;
    const char *content; /* the data runs end to end */
};

#define LONG_NAME                                                                       \
    "a/very/long/path/0123456789012345678901234567890123456789/0123456789012345678901/" \
    "0123456789012345678901234567890123456789/end\xff\nof it"

static struct node_xattr xattrs[] = {
    {"security.capability", (const uint8_t *)"\1\0\0\2", 4},
    {"user.empty", (const uint8_t *)"", 0},
    {"user.odd=name%25", (const uint8_t *)"v\n=\0z", 5},
};
static struct node_extent runs[] = {{0, 3}, {1 << 20, 2}};
static struct node_extent last_run[] = {{5000, 5}};

static const struct given members[] = {
    {"top", NULL, {.type = NODE_FOLDER, .mode = 01777, .mtime_s = 1, .mtime_ns = 999999999}, NULL},
    {"top/file", NULL, {.type = NODE_FILE, .mode = 0640, .size = 5, .ref_count = 1}, "hello"},
    {"top/empty", NULL, {.type = NODE_FILE, .mode = 0, .uid = 2097152, .gid = UINT32_MAX}, ""},
    {"top/" LONG_NAME,
     NULL,
     {.type = NODE_FILE, .size = 1, .ref_count = 1, .mtime_s = -2, .mtime_ns = 500000000},
     "x"},
    {"top/old", NULL, {.type = NODE_FILE, .mtime_s = -631152000}, ""},
    {"top/late", NULL, {.type = NODE_FILE, .mtime_s = INT64_C(99999999999)}, ""},
    {"top/attrs", NULL, {.type = NODE_FILE, .mode = 04755, .xattr_count = 3, .xattrs = xattrs}, ""},
    {"top/sparse",
     NULL,
     {.type = NODE_FILE, .size = 2 << 20, .extent_count = 2, .extents = runs, .ref_count = 1},
     "abcde"},
    {"top/data at the end",
     NULL,
     {.type = NODE_FILE, .size = 5005, .extent_count = 1, .extents = last_run, .ref_count = 1},
     "12345"},
    {"top/hole", NULL, {.type = NODE_FILE, .size = UINT64_C(1) << 40}, ""},
    {"top/link", NULL, {.type = NODE_SYMLINK, .mode = 0777, .target = "../" LONG_NAME}, NULL},
    {"top/further", "top/" LONG_NAME, {.type = NODE_FILE}, NULL},
    {"top/fifo", NULL, {.type = NODE_FIFO, .mode = 0600}, NULL},
    {"top/device", NULL, {.type = NODE_CHAR_DEVICE, .rdev = UINT64_C(4095) << 32 | 1048575}, NULL},
};
enum { MEMBERS = sizeof(members) / sizeof(members[0]) };

static void put_all(struct buffer *out)
{
    for (size_t i = 0; i < MEMBERS; i++) {
        const struct given *g = &members[i];
        struct tar_member m = {.path = g->path, .node = &g->node, .link = g->link};
        tar_put_header(&m, out);
        if (!g->content)
            continue;
        buffer_append_str(out, g->content);
        tar_put_padding(strlen(g->content), out);
    }
    tar_put_end(out);
    assert_true(buffer_ok(out));
    assert_int_equal(out->len % TAR_BLOCK, 0);
}

static void check_node(const struct node *wanted, const struct node *n)
{
    assert_int_equal(n->type, wanted->type);
    assert_int_equal(n->mode, wanted->mode);
    assert_int_equal(n->uid, wanted->uid);
    assert_int_equal(n->gid, wanted->gid);
    assert_true(n->mtime_s == wanted->mtime_s);
    assert_int_equal(n->mtime_ns, wanted->mtime_ns);
    assert_true(n->size == wanted->size);
    assert_true(n->rdev == wanted->rdev);
    assert_int_equal(n->extent_count, wanted->extent_count);
    for (uint32_t i = 0; i < n->extent_count; i++) {
        assert_true(n->extents[i].off == wanted->extents[i].off);
        assert_true(n->extents[i].len == wanted->extents[i].len);
    }
    assert_int_equal(n->xattr_count, wanted->xattr_count);
    for (uint32_t i = 0; i < n->xattr_count; i++) {
        assert_string_equal(n->xattrs[i].name, wanted->xattrs[i].name);
        assert_int_equal(n->xattrs[i].len, wanted->xattrs[i].len);
        assert_memory_equal(n->xattrs[i].value, wanted->xattrs[i].value, n->xattrs[i].len);
    }
    if (wanted->target)
        assert_string_equal(n->target, wanted->target);
}

static void check_member(struct tar_reader *r, const struct given *g)
{
    const struct tar_entry *t;
    struct error e = ERROR_INIT;
    struct buffer content = BUFFER_INIT;
    const uint8_t *p;
    size_t len = 1;

    assert_int_equal(tar_reader_next(r, &t, &e), 1);
    assert_string_equal(t->path, g->path);
    assert_int_equal(t->link != NULL, g->link != NULL);
    if (g->link)
        assert_string_equal(t->link, g->link);
    check_node(&g->node, &t->node);
    while (len > 0) {
        assert_int_equal(tar_reader_data(r, &p, &len, &e), 0);
        buffer_append(&content, p, len);
    }
    assert_string_equal(buffer_cstr(&content), g->content ? g->content : "");
    buffer_release(&content);
}

static void odd_members_come_back(void **state)
{
    struct buffer tar = BUFFER_INIT;
    struct error e = ERROR_INIT;
    const struct tar_entry *t;
    static const size_t steps[] = {1, 511, 512, 513, 1 << 20};

    put_all(&tar);
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        struct input in = {tar.data, tar.len, steps[i]};
        struct tar_reader *r;
        assert_int_equal(tar_reader_open(next_bytes, &in, &r, &e), 0);
        for (size_t k = 0; k < MEMBERS; k++)
            check_member(r, &members[k]);
        assert_int_equal(tar_reader_next(r, &t, &e), 0);
        tar_reader_close(r);
    }
    buffer_release(&tar);
}

/* Read all of it: how many members came, and what the last call gave. */
static int read_all(const uint8_t *p, size_t n, size_t *count, struct error *e)
{
    struct input in = {p, n, 4096};
    const struct tar_entry *t;
    struct tar_reader *r;
    int rc;

    *count = 0;
    assert_int_equal(tar_reader_open(next_bytes, &in, &r, e), 0);
    while ((rc = tar_reader_next(r, &t, e)) == 1)
        ++*count;
    tar_reader_close(r);
    return rc;
}

static void what_is_cut_off_is_noticed(void **state)
{
    struct buffer tar = BUFFER_INIT;
    struct error e = ERROR_INIT;
    size_t count;

    put_all(&tar);
    assert_int_equal(read_all(tar.data, tar.len, &count, &e), 0);
    assert_int_equal(count, MEMBERS);
    for (size_t len = 0; len + 2 * TAR_BLOCK < tar.len; len += 100)
        assert_int_equal(read_all(tar.data, len, &count, &e), ERR_DAMAGED);
    buffer_release(&tar);
}

static void headers_that_do_not_match_are_noticed(void **state)
{
    struct buffer tar = BUFFER_INIT;
    struct error e = ERROR_INIT;
    size_t count;

    put_all(&tar);
    for (size_t at = 0; at < TAR_BLOCK; at++) { /* of the first header, an extended one */
        if (at == 155)                          /* behind the checksum's own end */
            continue;
        tar.data[at] ^= 1;
        int rc = read_all(tar.data, tar.len, &count, &e);
        assert_true(rc == ERR_DAMAGED || rc == ERR_REFUSED);
        tar.data[at] ^= 1;
    }
    buffer_release(&tar);
}

static void paths_that_lead_out_are_refused(void **state)
{
    static const char *const paths[] = {"../up", "a/../../b", "/etc/passwd",
                                        "a/..",  "..",        "a//../b"};
    struct node n = {.type = NODE_FILE};
    struct error e = ERROR_INIT;
    size_t count;

    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        for (int as_link = 0; as_link < 2; as_link++) {
            struct buffer tar = BUFFER_INIT;
            struct tar_member m = {
                .path = as_link ? "a" : paths[i], .node = &n, .link = as_link ? paths[i] : NULL};
            tar_put_header(&m, &tar);
            tar_put_end(&tar);
            assert_int_equal(read_all(tar.data, tar.len, &count, &e), ERR_REFUSED);
            buffer_release(&tar);
        }
    }
}

/* ---- gzip ---- */

static int file_of(const void *p, size_t n)
{
    int fd = memfd_create("gzip", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, p, n), n);
    return fd;
}

static int unpack(const void *p, size_t n, unsigned threads, struct buffer *out, struct error *e)
{
    struct gzip_reader *r;
    const uint8_t *part;
    size_t len = 1;
    int fd = file_of(p, n);
    int rc = gzip_reader_open(fd, false, threads, &r, e);

    assert_int_equal(rc, 0);
    buffer_clear(out);
    while (rc == 0 && len > 0) {
        rc = gzip_reader_next(r, &part, &len, e);
        if (rc == 0)
            buffer_append(out, part, len);
    }
    gzip_reader_close(r);
    close(fd);
    return rc;
}

/* Text, then noise, then text again, then what a program is made of. */
static void fill(uint8_t *p, size_t n)
{
    memset(p, 'a', n);
    for (size_t i = 0; i < n; i += 7)
        p[i] = (uint8_t)('a' + i / 7 % 26);
    if (n > 100000)
        random_bytes(p + n / 3, n / 3);
    for (size_t i = n / 8 * 7; n > 100000 && i < n; i++)
        p[i] = (uint8_t)(i * i >> 7);
}

static void members_come_back(void **state)
{
    static const size_t sizes[] = {1, 100, 16384, 16385, 300000, 5000000};
    struct buffer packed = BUFFER_INIT, all = BUFFER_INIT, back = BUFFER_INIT;
    struct error e = ERROR_INIT;

    for (unsigned level = 1; level <= 12; level += level < 6 ? 5 : 6) {
        struct gzip_packer *p = gzip_packer_new(level);
        assert_non_null(p);
        buffer_clear(&packed);
        buffer_clear(&all);
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            uint8_t *raw = buffer_grow(&all, sizes[i]);
            fill(raw, sizes[i]);
            assert_int_equal(gzip_pack(p, raw, sizes[i], &packed, &e), 0);
        }
        gzip_packer_free(p);
        for (unsigned threads = 0; threads < 4; threads += 2) {
            assert_int_equal(unpack(packed.data, packed.len, threads, &back, &e), 0);
            assert_int_equal(back.len, all.len);
            assert_memory_equal(back.data, all.data, all.len);
        }
    }
    for (size_t cut = 1; cut < 40; cut++)
        assert_int_equal(unpack(packed.data, packed.len - cut, 2, &back, &e), ERR_DAMAGED);
    for (size_t at = 0; at < packed.len; at += 1 + packed.len / 60) {
        packed.data[at] ^= 0x10;
        int rc = unpack(packed.data, packed.len, 2, &back, &e);
        /* The header holds bytes without a meaning: time, system. */
        assert_true(rc == ERR_DAMAGED ||
                    (rc == 0 && back.len == all.len && !memcmp(back.data, all.data, all.len)));
        packed.data[at] ^= 0x10;
    }
    buffer_release(&packed);
    buffer_release(&all);
    buffer_release(&back);
}

/* A path of `folders` folders of 49 letters each, and a name. */
static const char *long_path(char path[512], size_t folders, size_t name)
{
    size_t n = 0;

    for (; folders > 0; folders--, path[n++] = '/')
        for (size_t i = 0; i < 49; i++)
            path[n++] = (char)('a' + i % 26);
    for (; name > 0; name--)
        path[n++] = 'n';
    path[n] = 0;
    return path;
}

/* How many bytes its headers take; it must come back as it went in. */
static size_t header_len(const char *path, uint8_t type)
{
    const struct given g = {path, NULL, {.type = type, .mode = 0700}, NULL};
    struct tar_member m = {.path = path, .node = &g.node};
    struct buffer tar = BUFFER_INIT;
    struct error e = ERROR_INIT;
    struct tar_reader *r;

    tar_put_header(&m, &tar);
    size_t len = tar.len;
    tar_put_end(&tar);
    assert_true(buffer_ok(&tar));
    struct input in = {tar.data, tar.len, 512};
    assert_int_equal(tar_reader_open(next_bytes, &in, &r, &e), 0);
    check_member(r, &g);
    tar_reader_close(r);
    buffer_release(&tar);
    return len;
}

static void a_path_of_two_fields_needs_no_header_of_its_own(void **state)
{
    enum { PLAIN = 512, EXTENDED = 3 * 512 };
    char path[512];

    assert_int_equal(header_len(long_path(path, 0, 100), NODE_FILE), PLAIN);
    assert_int_equal(header_len(long_path(path, 0, 101), NODE_FILE), EXTENDED);
    assert_int_equal(header_len(long_path(path, 2, 1), NODE_FILE), PLAIN);
    assert_int_equal(header_len(long_path(path, 3, 100), NODE_FILE), PLAIN);
    assert_int_equal(header_len(long_path(path, 3, 101), NODE_FILE), EXTENDED);
    assert_int_equal(header_len(long_path(path, 4, 50), NODE_FILE), PLAIN);
    assert_int_equal(header_len(long_path(path, 4, 51), NODE_FILE), EXTENDED);
    assert_int_equal(header_len(long_path(path, 3, 99), NODE_FOLDER), PLAIN);
    assert_int_equal(header_len(long_path(path, 3, 100), NODE_FOLDER), EXTENDED);
    for (size_t name = 1; name < 120; name++)
        for (size_t folders = 0; folders < 7; folders++)
            header_len(long_path(path, folders, name), folders % 2 ? NODE_FOLDER : NODE_FILE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(odd_members_come_back),
        cmocka_unit_test(a_path_of_two_fields_needs_no_header_of_its_own),
        cmocka_unit_test(what_is_cut_off_is_noticed),
        cmocka_unit_test(headers_that_do_not_match_are_noticed),
        cmocka_unit_test(paths_that_lead_out_are_refused),
        cmocka_unit_test(members_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
