#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "io/fileops.h"
#include "scratch.h"
#include "store/pack.h"
#include "store_test.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/banned.h"

static struct error e;

static const uint8_t repo_id[16] = "repository-id-16";

static struct pack_header header_of(uint8_t kind, uint64_t id)
{
    struct pack_header h = {
        .version = FORMAT_VERSION, .pack_id = id, .kind = kind, .id_algorithm = 1, .created_s = 1};

    memcpy(h.repo_id, repo_id, sizeof(repo_id));
    return h;
}

static struct pack *create(const struct scratch *s, uint64_t id)
{
    struct pack_header h = header_of(PACK_LOG, id);
    struct pack *p;

    assert_int_equal(pack_create(s->fd, &h, &p, &e), 0);
    return p;
}

/* Append one record whose body is len bytes of value. */
static uint64_t append(struct pack *p, uint8_t type, int value, size_t len)
{
    struct buffer b = BUFFER_INIT;
    uint8_t *body = must_alloc(len);
    uint64_t offset = p->len;

    memset(body, value, len);
    record_encode(type, (uint64_t)value, p->id, p->len, body, len, &b);
    assert_int_equal(pack_append(p, b.data, b.len, &e), 0);
    buffer_release(&b);
    free(body);
    return offset;
}

static void test_names(void **state)
{
    char name[40];
    uint8_t kind;
    uint64_t id;

    pack_file_name(PACK_LOG, 0x1f, name);
    assert_string_equal(name, "0-log-000000000000001f.wkp");
    assert_true(pack_file_parse(name, &kind, &id));
    assert_true(kind == PACK_LOG && id == 0x1f);
    pack_file_name(PACK_DATA, UINT64_MAX, name);
    assert_string_equal(name, "1-data-ffffffffffffffff.wkp");
    assert_true(pack_file_parse(name, &kind, &id));
    assert_true(kind == PACK_DATA && id == UINT64_MAX);

    static const char *const bad[] = {"",
                                      ".",
                                      "0-log-",
                                      "0-log-000000000000001f",
                                      "0-log-000000000000001F.wkp",
                                      "0-log-00000000000001f.wkp",
                                      "0-log-000000000000001f.wkp~",
                                      "0-data-000000000000001f.wkp",
                                      "1-log-000000000000001f.wkp",
                                      "0-log-00000000000000 1f.wkp"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(pack_file_parse(bad[i], &kind, &id));
}

static void test_create_append_read(void **state)
{
    struct scratch *s = *state;
    struct pack *p = create(s, 9);
    struct buffer body = BUFFER_INIT;
    struct record_header h;
    struct stat st;

    assert_true(p->len == PACK_HEADER_LEN && p->flushed == PACK_HEADER_LEN && !p->broken);
    uint64_t first = append(p, RECORD_BLOCK, 1, 1000);
    uint64_t second = append(p, RECORD_COMMIT, 2, 0);
    assert_true(first == 128 && second == 128 + record_span(1000));
    assert_true(p->flushed == PACK_HEADER_LEN);
    assert_int_equal(pack_flush(p, &e), 0);
    assert_true(p->flushed == p->len);
    pack_close(p);
    assert_int_equal(fstatat(s->fd, "0-log-0000000000000009.wkp", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0600);

    assert_int_equal(pack_open(s->fd, PACK_LOG, 9, repo_id, false, &p, &e), 0);
    assert_true(p->len == (uint64_t)st.st_size);
    buffer_append_str(&body, "x");
    assert_int_equal(pack_read(p, first, &h, &body, &e), 0);
    assert_int_equal(h.type, RECORD_BLOCK);
    assert_int_equal(body.len, 1001);
    assert_int_equal(body.data[1], 1);
    assert_int_equal(pack_read(p, second, &h, &body, &e), 0);
    assert_true(h.type == RECORD_COMMIT && h.sequence == 2 && h.body_len == 0);
    assert_int_equal(body.len, 1001);
    assert_int_equal(pack_read(p, p->len, &h, &body, &e), ERR_NOTFOUND);
    assert_int_equal(pack_read(p, p->len + 8, &h, &body, &e), ERR_NOTFOUND);
    assert_int_equal(pack_read(p, 0, &h, &body, &e), ERR_DAMAGED);
    assert_int_equal(pack_read(p, first + 8, &h, &body, &e), ERR_DAMAGED);
    assert_int_equal(pack_read(p, first + 1, &h, &body, &e), ERR_DAMAGED);
    assert_int_equal(pack_read(p, p->len - 8, &h, &body, &e), ERR_DAMAGED);
    assert_int_equal(body.len, 1001);
    buffer_release(&body);
    pack_close(p);
    pack_close(NULL);
}

static void test_create_never_replaces(void **state)
{
    struct scratch *s = *state;
    struct pack *p = create(s, 1), *q;
    struct pack_header h = header_of(PACK_LOG, 1);

    assert_int_equal(pack_create(s->fd, &h, &q, &e), ERR_FAILED);
    assert_null(q);
    pack_close(p);
    assert_int_equal(pack_open(s->fd, PACK_LOG, 1, repo_id, true, &p, &e), 0);
    pack_close(p);
}

static void test_open_tells_strangers(void **state)
{
    struct scratch *s = *state;
    struct pack *p = create(s, 1);
    uint8_t other[16] = {0};

    pack_close(p);
    assert_int_equal(pack_open(s->fd, PACK_LOG, 2, repo_id, false, &p, &e), ERR_NOTFOUND);
    assert_int_equal(pack_open(s->fd, PACK_LOG, 1, other, false, &p, &e), ERR_DAMAGED);
    assert_int_equal(
        linkat(s->fd, "0-log-0000000000000001.wkp", s->fd, "1-data-0000000000000001.wkp", 0), 0);
    assert_int_equal(
        linkat(s->fd, "0-log-0000000000000001.wkp", s->fd, "0-log-0000000000000003.wkp", 0), 0);
    assert_int_equal(pack_open(s->fd, PACK_DATA, 1, repo_id, false, &p, &e), ERR_DAMAGED);
    assert_int_equal(pack_open(s->fd, PACK_LOG, 3, repo_id, false, &p, &e), ERR_DAMAGED);
    assert_int_equal(symlinkat("0-log-0000000000000001.wkp", s->fd, "0-log-0000000000000004.wkp"),
                     0);
    assert_true(pack_open(s->fd, PACK_LOG, 4, repo_id, false, &p, &e) < 0);
    assert_int_equal(mkdirat(s->fd, "0-log-0000000000000005.wkp", 0700), 0);
    assert_true(pack_open(s->fd, PACK_LOG, 5, repo_id, false, &p, &e) < 0);
    assert_int_equal(mkfifoat(s->fd, "0-log-0000000000000006.wkp", 0600), 0);
    assert_true(pack_open(s->fd, PACK_LOG, 6, repo_id, false, &p, &e) < 0);
    assert_null(p);
}

/* ---- walking ---- */

/* What a walk showed: 'r' or 'd' and the place, in order. */
struct seen {
    char text[4096];
    size_t n;
    int stop_after;
};

static int see(void *ctx, uint64_t from, uint64_t to, const struct record_header *h,
               const uint8_t *body)
{
    struct seen *s = ctx;

    assert_true(!h == !body);
    s->n += (size_t)snprintf(s->text + s->n, sizeof(s->text) - s->n, "%c%llu-%llu ", h ? 'r' : 'd',
                             (unsigned long long)from, (unsigned long long)to);
    assert_true(s->n < sizeof(s->text));
    if (h)
        for (uint32_t i = 0; i < h->body_len; i++)
            assert_int_equal(body[i], (int)h->sequence);
    return s->stop_after > 0 && --s->stop_after == 0 ? 77 : 0;
}

static void expect_walk(const struct pack *p, uint64_t offset, uint64_t end, const char *want,
                        uint64_t want_tail)
{
    struct seen s = {.n = 0};
    uint64_t tail;

    assert_int_equal(pack_walk(p, offset, end, see, &s, &tail, &e), 0);
    assert_string_equal(s.text, want);
    assert_true(tail == want_tail);
}

/* Records of 24 bytes of body stand at 128, 192, 256, 320, and end at 384. */
static struct pack *four_records(const struct scratch *s)
{
    struct pack *p = create(s, 1);

    for (int i = 1; i <= 4; i++)
        append(p, RECORD_MARK, i, 24);
    assert_true(p->len == 384);
    return p;
}

static void flip(const struct pack *p, uint64_t at)
{
    uint8_t b;

    assert_int_equal(pread(p->fd, &b, 1, (off_t)at), 1);
    b ^= 0x20;
    assert_int_equal(pwrite(p->fd, &b, 1, (off_t)at), 1);
}

static void test_walk_of_a_sound_pack(void **state)
{
    struct pack *p = four_records(*state);
    struct seen s = {.stop_after = 2};
    uint64_t tail;

    expect_walk(p, 0, UINT64_MAX, "r128-192 r192-256 r256-320 r320-384 ", 384);
    expect_walk(p, 256, UINT64_MAX, "r256-320 r320-384 ", 384);
    expect_walk(p, 384, UINT64_MAX, "", 384);
    expect_walk(p, 0, 256, "r128-192 r192-256 ", 256); /* a fence */
    expect_walk(p, 0, 250, "r128-192 d192-250 ", 192);
    assert_int_equal(pack_walk(p, 0, UINT64_MAX, see, &s, &tail, &e), 77);
    assert_string_equal(s.text, "r128-192 r192-256 ");
    assert_true(tail == 256);
    pack_close(p);
}

static void test_walk_goes_on_behind_damage(void **state)
{
    struct pack *p = four_records(*state);

    for (uint64_t at = 192; at < 256; at++) { /* every byte of the second record */
        flip(p, at);
        expect_walk(p, 0, UINT64_MAX, "r128-192 d192-256 r256-320 r320-384 ", 384);
        flip(p, at);
    }
    flip(p, 128);
    expect_walk(p, 0, UINT64_MAX, "d128-192 r192-256 r256-320 r320-384 ", 384);
    flip(p, 300);
    flip(p, 200);
    expect_walk(p, 0, UINT64_MAX, "d128-256 d256-320 r320-384 ", 384);
    flip(p, 350);
    expect_walk(p, 0, UINT64_MAX, "d128-256 d256-320 d320-384 ", 128);
    pack_close(p);
}

/* A torn tail: what is missing, or zeros as file systems leave them, is damage at the end. */
static void test_walk_over_torn_tails(void **state)
{
    struct scratch *s = *state;
    struct pack *p = four_records(s);

    pack_close(p);
    for (uint64_t len = 383; len > 320; len--) {
        char want[64];
        snprintf(want, sizeof(want), "r128-192 r192-256 r256-320 d320-%u ", (unsigned)len);
        int fd = openat(s->fd, "0-log-0000000000000001.wkp", O_RDWR | O_CLOEXEC);
        assert_int_equal(ftruncate(fd, (off_t)len), 0);
        close(fd);
        assert_int_equal(pack_open(s->fd, PACK_LOG, 1, repo_id, true, &p, &e), 0);
        expect_walk(p, 0, UINT64_MAX, want, 320);
        pack_close(p);
    }
    int fd = openat(s->fd, "0-log-0000000000000001.wkp", O_RDWR | O_CLOEXEC);
    assert_int_equal(ftruncate(fd, 320), 0);
    assert_int_equal(ftruncate(fd, 4096), 0);
    close(fd);
    assert_int_equal(pack_open(s->fd, PACK_LOG, 1, repo_id, true, &p, &e), 0);
    expect_walk(p, 0, UINT64_MAX, "r128-192 r192-256 r256-320 d320-4096 ", 320);
    pack_close(p);
}

/* The writer takes back what it did not commit while a reader is at work: a reader that has looked
 * at the length before sees what one sees that looks now. */
static void test_walk_over_a_pack_cut_meanwhile(void **state)
{
    struct scratch *s = *state;
    struct pack *p = four_records(s);

    for (uint64_t len = 383; len >= 128; len--) {
        char want[96] = "";
        uint64_t tail = len / 64 * 64;
        for (uint64_t at = 128; at < tail; at += 64)
            snprintf(want + strlen(want), sizeof(want) - strlen(want), "r%u-%u ", (unsigned)at,
                     (unsigned)at + 64);
        if (len > tail)
            snprintf(want + strlen(want), sizeof(want) - strlen(want), "d%u-%u ", (unsigned)tail,
                     (unsigned)len);
        assert_int_equal(ftruncate(p->fd, (off_t)len), 0);
        expect_walk(p, 0, UINT64_MAX, want, tail);
    }
    pack_close(p);
}

static void test_padding_is_checked(void **state)
{
    struct pack *p = create(*state, 1);

    append(p, RECORD_MARK, 1, 3);
    append(p, RECORD_MARK, 2, 8);
    flip(p, 128 + 40 + 5);
    expect_walk(p, 0, UINT64_MAX, "r128-176 d173-176 r176-224 ", 224);
    pack_close(p);
}

/* The bytes of a whole pack inside a block of another, or of the same pack elsewhere, are content:
 * not even damage before them makes records of them. */
static void test_embedded_records_are_content(void **state)
{
    struct scratch *s = *state;
    struct pack *inner = four_records(s), *p;
    uint8_t bytes[384];
    struct buffer b = BUFFER_INIT;
    struct seen seen = {.n = 0};
    struct pack_header h = header_of(PACK_DATA, 1);

    assert_int_equal(pread(inner->fd, bytes, sizeof(bytes), 0), sizeof(bytes));
    assert_int_equal(pack_create(s->fd, &h, &p, &e), 0); /* the same id, another kind */
    for (int i = 0; i < 2; i++) {
        record_encode(RECORD_BLOCK, 0, 1, p->len, bytes, sizeof(bytes), &b);
        assert_int_equal(pack_append(p, b.data, b.len, &e), 0);
        buffer_clear(&b);
    }
    uint64_t second = 128 + record_span(sizeof(bytes));
    assert_int_equal(pack_append(p, bytes + 128, 256, &e), 0); /* even as they stand */
    flip(p, 128);                                              /* a header, then a length */
    flip(p, second + 17);
    assert_int_equal(pack_walk(p, 0, UINT64_MAX, see, &seen, NULL, &e), 0);
    assert_null(strchr(seen.text, 'r'));
    buffer_release(&b);
    pack_close(inner);
    pack_close(p);
}

static void test_unknown_record_types(void **state)
{
    struct pack *p = create(*state, 1);
    struct seen s = {.n = 0};
    struct record_header h;
    struct buffer body = BUFFER_INIT;

    append(p, RECORD_MARK, 1, 24);
    append(p, 200, 2, 24); /* may be skipped */
    append(p, RECORD_MARK, 3, 24);
    expect_walk(p, 0, UINT64_MAX, "r128-192 r256-320 ", 320);
    uint64_t unknown = append(p, 100, 4, 24);
    assert_int_equal(pack_walk(p, 0, UINT64_MAX, see, &s, NULL, &e), ERR_NOREPO);
    assert_non_null(strstr(e.message, "type 100"));
    assert_int_equal(pack_read(p, unknown, &h, &body, &e), ERR_NOREPO);
    buffer_release(&body);
    pack_close(p);
}

/* Larger than the window the walk reads through, and across its borders. */
static void test_walk_over_large_records(void **state)
{
    static const size_t lengths[] = {
        1024 * 1024 - 200, 100, 3 * 1024 * 1024 + 5, 8, 700000, 700000};
    struct pack *p = create(*state, 1);
    char want[400];
    size_t n = 0;

    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        uint64_t from = append(p, RECORD_BLOCK, (int)i + 1, lengths[i]);
        n += (size_t)snprintf(want + n, sizeof(want) - n, "r%llu-%llu ", (unsigned long long)from,
                              (unsigned long long)p->len);
    }
    expect_walk(p, 0, UINT64_MAX, want, p->len);
    pack_close(p);
}

static void test_damaged_body_is_not_read(void **state)
{
    struct pack *p = four_records(*state);
    struct buffer body = BUFFER_INIT;
    struct record_header h;

    for (uint64_t at = 192; at < 256; at++) {
        flip(p, at);
        assert_int_equal(pack_read(p, 192, &h, &body, &e), ERR_DAMAGED);
        assert_int_equal(body.len, 0);
        flip(p, at);
    }
    assert_int_equal(pack_read(p, 192, &h, &body, &e), 0);
    buffer_release(&body);
    pack_close(p);
}

/* ---- failing operations ---- */

static struct {
    int writes_before, write_error; /* fail after so many; 0: none */
    size_t write_max;               /* short writes of at most so many bytes; 0: whole */
    int flushes, flush_error, folder_error, read_error;
} fault;

static ssize_t faulty_pwrite(int fd, const void *p, size_t n, off_t off)
{
    if (fault.write_error && fault.writes_before-- <= 0) {
        errno = fault.write_error;
        return -1;
    }
    return pwrite(fd, p, fault.write_max && n > fault.write_max ? fault.write_max : n, off);
}

static int faulty_fdatasync(int fd)
{
    fault.flushes++;
    if (fault.flush_error) {
        errno = fault.flush_error;
        return -1;
    }
    return fdatasync(fd);
}

static int faulty_fsync(int fd)
{
    if (fault.folder_error) {
        errno = fault.folder_error;
        return -1;
    }
    return fsync(fd);
}

static ssize_t faulty_pread(int fd, void *p, size_t n, off_t off)
{
    if (fault.read_error) {
        errno = fault.read_error;
        return -1;
    }
    return pread(fd, p, n, off);
}

static struct fileops faulty;

static int faulty_setup(void **state)
{
    faulty = fileops_system;
    faulty.pwrite = faulty_pwrite;
    faulty.fdatasync = faulty_fdatasync;
    faulty.fsync = faulty_fsync;
    faulty.pread = faulty_pread;
    memset(&fault, 0, sizeof(fault));
    fileops = &faulty;
    return scratch_setup(state);
}

static int faulty_teardown(void **state)
{
    fileops = &fileops_system;
    return scratch_teardown(state);
}

static void test_short_writes_complete(void **state)
{
    fault.write_max = 7;
    struct pack *p = four_records(*state);

    expect_walk(p, 0, UINT64_MAX, "r128-192 r192-256 r256-320 r320-384 ", 384);
    assert_int_equal(fault.flushes, 1);
    assert_int_equal(pack_flush(p, &e), 0);
    assert_int_equal(fault.flushes, 2);
    pack_close(p);
}

static void expect_broken(struct pack *p, uint64_t len)
{
    uint8_t record[64] = {0};
    struct buffer body = BUFFER_INIT;
    struct record_header h;
    int flushes = fault.flushes;

    memset(&fault, 0, sizeof(fault)); /* the disk is well again: too late for this pack */
    assert_true(p->broken);
    assert_true(p->len == len);
    assert_int_equal(pack_append(p, record, sizeof(record), &e), ERR_FAILED);
    assert_int_equal(pack_flush(p, &e), ERR_FAILED);
    assert_int_equal(fault.flushes, 0);
    assert_true(p->len == len);
    assert_int_equal(pack_read(p, 128, &h, &body, &e), 0);
    buffer_release(&body);
    fault.flushes = flushes;
}

static void test_failed_write_ends_a_pack(void **state)
{
    static const int errors[] = {ENOSPC, EIO, EDQUOT};
    static const int codes[] = {ERR_NOSPACE, ERR_FAILED, ERR_NOSPACE};
    struct scratch *s = *state;
    uint8_t record[64] = {1};

    for (size_t i = 0; i < 3; i++) {
        struct pack *p = create(s, 10 + i);
        append(p, RECORD_MARK, 1, 24);
        fault.write_error = errors[i];
        fault.write_max = 10;
        fault.writes_before = 2; /* in the middle of the record */
        assert_int_equal(pack_append(p, record, sizeof(record), &e), codes[i]);
        expect_broken(p, 192);
        pack_close(p);
        /* What the failed write left is no record for who opens the pack later. */
        assert_int_equal(pack_open(s->fd, PACK_LOG, 10 + i, repo_id, true, &p, &e), 0);
        expect_walk(p, 0, UINT64_MAX, "r128-192 d192-212 ", 192);
        pack_close(p);
    }
}

static void test_failed_flush_ends_a_pack(void **state)
{
    struct pack *p = create(*state, 1);

    append(p, RECORD_MARK, 1, 24);
    assert_int_equal(pack_flush(p, &e), 0);
    append(p, RECORD_MARK, 2, 24);
    fault.flush_error = EIO;
    assert_int_equal(pack_flush(p, &e), ERR_FAILED);
    assert_int_equal(fault.flushes, 3);
    assert_true(p->flushed == 192);
    expect_broken(p, 256);
    pack_close(p);
}

static void expect_no_pack(struct scratch *s, int code)
{
    struct pack_header h = header_of(PACK_LOG, 1);
    struct pack *p;
    struct stat st;

    assert_int_equal(pack_create(s->fd, &h, &p, &e), code);
    assert_null(p);
    assert_int_equal(fstatat(s->fd, "0-log-0000000000000001.wkp", &st, 0), -1);
    memset(&fault, 0, sizeof(fault));
}

static void test_failed_creation_leaves_nothing(void **state)
{
    fault.write_error = ENOSPC;
    expect_no_pack(*state, ERR_NOSPACE);
    fault.flush_error = EIO;
    expect_no_pack(*state, ERR_FAILED);
    fault.folder_error = EIO;
    expect_no_pack(*state, ERR_FAILED);
    pack_close(create(*state, 1));
}

/* A disk that does not answer is no proof of damage. */
static void test_failed_read_is_no_damage(void **state)
{
    struct pack *p = four_records(*state), *q;
    struct buffer body = BUFFER_INIT;
    struct record_header h;
    struct seen s = {.n = 0};

    fault.read_error = EIO;
    assert_int_equal(pack_read(p, 128, &h, &body, &e), ERR_FAILED);
    assert_int_equal(e.sys, EIO);
    assert_int_equal(pack_walk(p, 0, UINT64_MAX, see, &s, NULL, &e), ERR_FAILED);
    assert_string_equal(s.text, "");
    struct scratch *scratch = *state;
    assert_int_equal(pack_open(scratch->fd, PACK_LOG, 1, repo_id, false, &q, &e), ERR_FAILED);
    buffer_release(&body);
    pack_close(p);
}

static void test_unaligned_appends_are_refused(void **state)
{
    struct pack *p = create(*state, 1);
    uint8_t bytes[64] = {0};

    assert_int_equal(pack_append(p, bytes, 63, &e), ERR_FAILED);
    assert_false(p->broken);
    p->len = 129;
    assert_int_equal(pack_append(p, bytes, 64, &e), ERR_FAILED);
    pack_close(p);
}

#define WITH_SCRATCH(f) cmocka_unit_test_setup_teardown(f, scratch_setup, scratch_teardown)
#define WITH_FAULTS(f) cmocka_unit_test_setup_teardown(f, faulty_setup, faulty_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        WITH_SCRATCH(test_create_append_read),
        WITH_SCRATCH(test_create_never_replaces),
        WITH_SCRATCH(test_open_tells_strangers),
        WITH_SCRATCH(test_walk_of_a_sound_pack),
        WITH_SCRATCH(test_walk_goes_on_behind_damage),
        WITH_SCRATCH(test_walk_over_torn_tails),
        WITH_SCRATCH(test_walk_over_a_pack_cut_meanwhile),
        WITH_SCRATCH(test_padding_is_checked),
        WITH_SCRATCH(test_embedded_records_are_content),
        WITH_SCRATCH(test_unknown_record_types),
        WITH_SCRATCH(test_walk_over_large_records),
        WITH_SCRATCH(test_damaged_body_is_not_read),
        WITH_FAULTS(test_short_writes_complete),
        WITH_FAULTS(test_failed_write_ends_a_pack),
        WITH_FAULTS(test_failed_flush_ends_a_pack),
        WITH_FAULTS(test_failed_creation_leaves_nothing),
        WITH_FAULTS(test_failed_read_is_no_damage),
        WITH_SCRATCH(test_unaligned_appends_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
