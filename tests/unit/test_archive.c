/* Archives in spite of failures: whatever operation fails, or is the last one, nothing that has the
 * name of an archive is less than one, and the next run completes. */
#include <sys/xattr.h>

#include "fault_fixture.h"
#include "snapshot_fixture.h"

#include "keep/archive_use.h"

static const char *folder_of(struct fx *f)
{
    return fx_path(f, "archives");
}

/* Something of each kind; `big` is long enough to be cut over several members. */
static uint64_t make_snapshot(struct fx *f, size_t big_len)
{
    struct node_extent run = {1 << 20, 5};
    struct node sparse = fx_meta(NODE_FILE, 0644), unread = fx_meta(NODE_FILE, 0644);
    struct node_xattr who = {.name = "user.who", .value = (const uint8_t *)"me", .len = 2};
    struct node marked = fx_meta(NODE_FILE, 0400), pipe = fx_meta(NODE_FIFO, 0640);
    char *big = malloc(big_len + 1);

    assert_non_null(big);
    for (size_t i = 0; i < big_len; i++)
        big[i] = (char)(i * 2654435761U >> 13);
    sparse.size = 3 << 20;
    sparse.extent_count = 1;
    sparse.extents = &run;
    unread.size = 10;
    unread.flags = NODE_UNREAD;
    unread.reason = "permission denied";
    f->chunk_len = 60000;
    fx_begin(f);
    uint64_t sub = fx_folder(f, NODE_ROOT, "sub", 0755);
    uint64_t a = fx_file(f, NODE_ROOT, "a.json", "{\"a\": 1}");
    fx_name(f, sub, "further", a);
    fx_file_as(f, NODE_ROOT, "big", big, big_len, fx_meta(NODE_FILE, 0600));
    fx_file_as(f, NODE_ROOT, "sparse", "12345", 5, sparse);
    fx_file(f, sub, "empty", "");
    fx_symlink(f, NODE_ROOT, "link", "a.json");
    fx_add(f, NODE_ROOT, "unread", &unread);
    uint64_t closed = fx_folder(f, sub, "closed", 0555);
    marked.xattr_count = 1;
    marked.xattrs = &who;
    fx_file_as(f, closed, "marked", "with an attribute", 17, marked);
    fx_add(f, closed, "pipe", &pipe);
    free(big);
    return fx_commit(f);
}

enum { FILES = 6 };

static int write_one(struct fx *f, uint64_t number, enum archive_format format, const char *name,
                     struct archive_result *result, struct error *e)
{
    struct snapshot_row row = {0};
    char folder[512];

    snprintf(folder, sizeof(folder), "%s", folder_of(f));
    fx_row(f, number, &row);
    struct archive_order o = {
        .snapshot = &row, .folder = folder, .name = name, .format = format, .level = 1};
    int rc = archive_write(f->repo, &o, result, e);
    snapshot_row_release(&row);
    return rc;
}

struct seen {
    unsigned count, verified, files; /* in each */
};

/* Each archive that there is reads back as what it says it is. */
static int check_item(void *ctx, const struct archive_item *item, struct error *e)
{
    struct seen *s = ctx;
    struct archive_check check;

    s->count++;
    s->verified += item->verified.s != 0;
    assert_true(item->told);
    FX_OK(archive_verify(item, false, NULL, NULL, &check, e), *e);
    if (check.errors)
        print_error("%s: %s\n", item->path, check.first);
    assert_int_equal(check.errors, 0);
    assert_int_equal(check.files, s->files);
    archive_check_release(&check);
    return 0;
}

static struct seen check_folder_of(struct fx *f, unsigned files)
{
    struct error e = ERROR_INIT;
    struct seen s = {.files = files};

    FX_OK(archive_list(folder_of(f), NULL, check_item, &s, &e), e);
    return s;
}

static struct seen check_folder(struct fx *f)
{
    return check_folder_of(f, FILES);
}

static void remove_folder(struct fx *f)
{
    struct error e = ERROR_INIT;
    int fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    FX_OK(remove_tree(fd, "archives", &e), e);
    close(fd);
}

/* ---- without failures ---- */

static void check_restored(struct fx *f)
{
    struct stat a, b;
    char who[8];

    assert_string_equal(fx_read(f, "back/a.json"), "{\"a\": 1}");
    assert_int_equal(stat(fx_path(f, "back/a.json"), &a), 0);
    assert_int_equal(stat(fx_path(f, "back/sub/further"), &b), 0);
    assert_int_equal(a.st_ino, b.st_ino);
    assert_int_equal(stat(fx_path(f, "back/sparse"), &a), 0);
    assert_int_equal(a.st_size, 3 << 20);
    assert_true(a.st_blocks < 100);
    assert_int_equal(stat(fx_path(f, "back/big"), &a), 0);
    assert_int_equal(a.st_size, 5000000);
    assert_int_equal(a.st_mtim.tv_sec, FX_TIME);
    assert_int_equal(a.st_mtim.tv_nsec, 123456789);
    assert_false(fx_there(f, "back/unread"));
    assert_false(fx_there(f, "back/metadata.json"));
    assert_int_equal(fx_entries(f, "back"), 5);
    assert_string_equal(fx_read(f, "back/sub/closed/marked"), "with an attribute");
    assert_int_equal(getxattr(fx_path(f, "back/sub/closed/marked"), "user.who", who, 8), 2);
    assert_int_equal(lstat(fx_path(f, "back/sub/closed/pipe"), &a), 0);
    assert_int_equal(a.st_mode, S_IFIFO | 0640);
}

static uint64_t faults_of_tree(struct fx *f, const struct archive_item *item)
{
    struct archive_check check;
    struct error e = ERROR_INIT;

    FX_OK(archive_verify_tree(item, fx_path(f, "back"), NULL, NULL, &check, &e), e);
    uint64_t errors = check.errors;
    archive_check_release(&check);
    return errors;
}

/* What was restored is held against the archive, file by file. */
static void check_compared(struct fx *f, const struct archive_item *item)
{
    static const char *const files[] = {"back/a.json", "back/big", "back/sparse", "back/sub/empty"};

    assert_int_equal(faults_of_tree(f, item), 0);
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        int fd = open(fx_path(f, files[i]), O_RDWR | O_CLOEXEC);
        uint8_t byte = 0;
        off_t at = i == 2 ? 1 << 20 : 1;
        struct stat st;
        assert_int_equal(fstat(fd, &st), 0);
        (void)!pread(fd, &byte, 1, at);
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        assert_int_equal(faults_of_tree(f, item), 1);
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        assert_int_equal(ftruncate(fd, st.st_size), 0);
        close(fd);
        assert_int_equal(faults_of_tree(f, item), 0);
    }
    fx_write(f, "back/more", "x");
    assert_int_equal(faults_of_tree(f, item), 1);
    assert_int_equal(unlink(fx_path(f, "back/more")), 0);
    assert_int_equal(unlink(fx_path(f, "back/sub/empty")), 0);
    assert_int_equal(faults_of_tree(f, item), 1);
}

static void an_archive_is_verified_and_restores(void **state)
{
    struct archive_result result;
    struct restore_result restored;
    struct error e = ERROR_INIT;
    struct fx f;

    fx_open(&f);
    uint64_t number = make_snapshot(&f, 5000000);
    for (int i = 0; i < 2; i++) {
        enum archive_format format = i ? ARCHIVE_DIRECTORY : ARCHIVE_TAR_GZ;
        FX_OK(write_one(&f, number, format, NULL, &result, &e), e);
        assert_true(result.item.verified.s != 0);
        assert_int_equal(result.item.snapshot, number);
        assert_int_equal(result.item.files, FILES);
        assert_int_equal(result.left_out_count, 1);
        assert_string_equal(result.left_out[0].path, "unread");
        struct restore_request req = {.target = fx_path(&f, "back")};
        FX_OK(archive_restore(&result.item, &req, &restored, &e), e);
        check_restored(&f);
        check_compared(&f, &result.item);
        restore_result_release(&restored);
        int fd = open(f.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        FX_OK(remove_tree(fd, "back", &e), e);
        close(fd);
        FX_OK(archive_remove(&result.item, &e), e);
        assert_int_equal(fx_entries(&f, "archives/app/automatic"), 0);
        archive_result_release(&result);
    }
    fx_close(&f);
}

static void a_further_name_alone_brings_its_content(void **state)
{
    struct archive_result result;
    struct restore_result restored;
    struct error e = ERROR_INIT;
    struct fx f;

    fx_open(&f);
    uint64_t number = make_snapshot(&f, 100);
    FX_OK(write_one(&f, number, ARCHIVE_TAR_GZ, "one", &result, &e), e);
    struct restore_request req = {.target = fx_path(&f, "back"), .path = "sub"};
    FX_OK(archive_restore(&result.item, &req, &restored, &e), e);
    assert_string_equal(fx_read(&f, "back/further"), "{\"a\": 1}");
    assert_int_equal(fx_entries(&f, "back"), 3);
    restore_result_release(&restored);
    req = (struct restore_request){.target = fx_path(&f, "single"), .path = "sub/further"};
    FX_OK(archive_restore(&result.item, &req, &restored, &e), e);
    assert_string_equal(fx_read(&f, "single/further"), "{\"a\": 1}");
    restore_result_release(&restored);
    archive_result_release(&result);
    assert_int_equal(write_one(&f, number, ARCHIVE_DIRECTORY, "one", &result, &e), ERR_REFUSED);
    archive_result_release(&result);
    fx_close(&f);
}

static void what_is_not_archived(void **state)
{
    struct archive_result result;
    struct error e = ERROR_INIT;
    struct fx f;

    fx_open(&f);
    uint64_t damaged = make_snapshot(&f, 100);
    fx_mark(&f, MARK_DAMAGED, damaged);
    assert_int_equal(write_one(&f, damaged, ARCHIVE_TAR_GZ, NULL, &result, &e), ERR_DAMAGED);
    fx_begin(&f);
    fx_file(&f, NODE_ROOT, "b", "b");
    uint64_t suspect = fx_commit_as(&f, (struct commit){.flags = COMMIT_SUSPECT});
    assert_int_equal(write_one(&f, suspect, ARCHIVE_TAR_GZ, NULL, &result, &e), ERR_REFUSED);
    assert_false(fx_there(&f, "archives"));
    fx_close(&f);
}

/* A suspect snapshot that somebody named is archived, and the metadata says what it is. */
static void a_suspect_one_that_is_named(void **state)
{
    struct snapshot_row row = {0};
    struct archive_result result;
    struct error e = ERROR_INIT;
    char folder[512];
    struct fx f;

    fx_open(&f);
    make_snapshot(&f, 100);
    fx_begin(&f);
    fx_file(&f, NODE_ROOT, "b", "b");
    fx_row(&f, fx_commit_as(&f, (struct commit){.flags = COMMIT_SUSPECT}), &row);
    snprintf(folder, sizeof(folder), "%s", folder_of(&f));
    for (int i = 0; i < 2; i++) {
        struct archive_order o = {.snapshot = &row,
                                  .named = true,
                                  .folder = folder,
                                  .name = i ? "two" : "one",
                                  .format = i ? ARCHIVE_DIRECTORY : ARCHIVE_TAR_GZ,
                                  .level = 1};
        FX_OK(archive_write(f.repo, &o, &result, &e), e);
        assert_true(result.item.suspect);
        archive_result_release(&result);
    }
    snapshot_row_release(&row);
    assert_int_equal(check_folder_of(&f, FILES + 1).verified, 2);
    const char *watch = "archives/app/manual";
    char path[128];
    snprintf(path, sizeof(path), "%s/backup_one.json", watch);
    assert_non_null(strstr(fx_read(&f, path), "\n \"suspect\": true,"));
    snprintf(path, sizeof(path), "%s/backup_two/metadata.json", watch);
    assert_non_null(strstr(fx_read(&f, path), "\n \"suspect\": true,"));
    fx_close(&f);
}

/* ---- with failures ---- */

/* What was not flushed is lost; after a whole run that is nothing. */
static void lose_power(struct fx *f, bool hit)
{
    int fd = open(folder_of(f), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return;
    if (lose_unflushed(fd) > 0)
        assert_true(hit);
    close(fd);
}

/* One run in which the at-th change fails; false: there were not so many. */
static bool one_failure(struct fx *f, uint64_t number, enum archive_format format, enum mode mode,
                        int error, unsigned at)
{
    struct archive_result result;
    struct error e = ERROR_INIT;

    faults_on(OF_CHANGES, mode, error, at);
    int rc = write_one(f, number, format, NULL, &result, &e);
    bool hit = fault.hit;
    bool verified = result.item.verified.s != 0;
    bool named = result.item.path != NULL;
    faults_off();
    archive_result_release(&result);
    if (mode == MODE_CUT)
        lose_power(f, hit);
    if (!hit)
        assert_int_equal(rc, 0);
    struct seen s = check_folder(f);
    /* What was said to stand stands; a failure to clear up alone is none of the archive. */
    assert_true(s.count <= 1 && (rc != 0 || s.count == 1));
    assert_true(!named || s.count == 1);
    assert_true(rc != 0 || verified);

    FX_OK(write_one(f, number, format, NULL, &result, &e), e);
    archive_result_release(&result);
    struct seen after = check_folder(f);
    assert_int_equal(after.count, s.count + 1);
    assert_int_equal(fx_entries(f, "archives/app/automatic"), 2 * after.count);
    remove_folder(f);
    return hit;
}

static void each_failure(enum archive_format format)
{
    static const struct {
        enum mode mode;
        int error;
    } modes[] = {{MODE_FAIL, EIO},   {MODE_FAIL, ENOSPC}, {MODE_STICKY, ENOSPC},
                 {MODE_STICKY, EIO}, {MODE_KILL, EIO},    {MODE_CUT, EIO}};
    struct fx f;

    fx_open(&f);
    uint64_t number = make_snapshot(&f, 100000);
    for (size_t m = 0; m < sizeof(modes) / sizeof(modes[0]); m++) {
        unsigned at = 1;
        while (one_failure(&f, number, format, modes[m].mode, modes[m].error, at))
            at++;
        assert_true(at > (format == ARCHIVE_DIRECTORY ? 40 : 10));
    }
    fx_close(&f);
}

static void no_failure_leaves_half_a_tar(void **state)
{
    each_failure(ARCHIVE_TAR_GZ);
}

static void no_failure_leaves_half_a_folder(void **state)
{
    each_failure(ARCHIVE_DIRECTORY);
}

/* A removal that was cut off leaves nothing under the name, and is ended by the next run. */
static void a_removal_cut_off_is_ended(void **state)
{
    struct archive_result result, again;
    struct error e = ERROR_INIT;
    struct fx f;

    fx_open(&f);
    uint64_t number = make_snapshot(&f, 100);
    for (unsigned at = 1, hit = 1; hit; at++) {
        FX_OK(write_one(&f, number, ARCHIVE_DIRECTORY, "one", &result, &e), e);
        faults_on(OF_CHANGES, MODE_KILL, EIO, at);
        int rc = archive_remove(&result.item, &e);
        hit = fault.hit;
        faults_off();
        assert_true(hit || rc == 0);
        check_folder(&f);
        FX_OK(archive_remove(&result.item, &e), e);
        FX_OK(write_one(&f, number, ARCHIVE_TAR_GZ, "one", &again, &e), e);
        assert_int_equal(fx_entries(&f, "archives/app/manual"), 2);
        archive_result_release(&result);
        archive_result_release(&again);
        remove_folder(&f);
    }
    fx_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_archive_is_verified_and_restores),
        cmocka_unit_test(a_further_name_alone_brings_its_content),
        cmocka_unit_test(what_is_not_archived),
        cmocka_unit_test(a_suspect_one_that_is_named),
        cmocka_unit_test(no_failure_leaves_half_a_tar),
        cmocka_unit_test(no_failure_leaves_half_a_folder),
        cmocka_unit_test(a_removal_cut_off_is_ended),
    };
    if (access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 0); /* it is flushed very often */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
