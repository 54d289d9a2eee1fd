/* Restores as a user meets them: what stands in the target afterwards, and what does not. */
#include "snapshot_fixture.h"

#include "io/fileops.h"
#include "snapshot/restore.h"

#include <pthread.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "base/banned.h"

static struct restore_result result;
static struct error last_error;

static int teardown(void **state)
{
    restore_result_release(&result);
    fileops = &fileops_system;
    return fx_teardown(state);
}

struct how {
    const char *path;
    bool overwrite;
    unsigned workers;
    const atomic_bool *cancel;
};

/* Restore into the folder `to` of the scratch; the result stands in `result`. */
static int restore_to(struct fx *f, uint64_t number, const char *to, struct how how)
{
    struct snapshot_row row;
    char target[512];

    restore_result_release(&result);
    last_error = (struct error)ERROR_INIT;
    fx_row(f, number, &row);
    snprintf(target, sizeof(target), "%s", to[0] == '/' || to[0] == '.' ? to : fx_path(f, to));
    struct restore_request req = {.repo = f->repo,
                                  .snapshot = &row,
                                  .path = how.path,
                                  .target = target,
                                  .overwrite = how.overwrite,
                                  .workers = how.workers ? how.workers : 2,
                                  .cancel = how.cancel};
    int rc = restore_run(&req, &result, &last_error);
    snapshot_row_release(&row);
    return rc;
}

static void restore_well(struct fx *f, uint64_t number, const char *to, struct how how)
{
    int rc = restore_to(f, number, to, how);

    FX_OK(rc, last_error);
    assert_int_equal(result.problem_count, 0);
}

static struct stat look(struct fx *f, const char *rel)
{
    struct stat st;

    if (lstat(fx_path(f, rel), &st) != 0)
        fail_msg("no '%s'", rel);
    return st;
}

/* No scratch folder is left in the folder. */
static void no_litter(struct fx *f, const char *rel)
{
    DIR *d = opendir(fx_path(f, rel));
    const struct dirent *entry;

    assert_non_null(d);
    while ((entry = readdir(d)) != NULL)
        assert_null(strstr(entry->d_name, "watchkeep-restore"));
    closedir(d);
}

/* ---- what is restored ---- */

static uint64_t small_tree(struct fx *f)
{
    fx_begin(f);
    uint64_t sub = fx_folder(f, NODE_ROOT, "sub", 0750);
    fx_folder(f, NODE_ROOT, "empty", 0700);
    fx_file(f, NODE_ROOT, "a.json", "{\"a\":1}");
    fx_file(f, sub, "b.txt", "content of b");
    fx_file(f, sub, "nothing", "");
    fx_symlink(f, sub, "link", "../a.json");
    return fx_commit(f);
}

static void brings_a_tree_back(void **state)
{
    struct fx *f = *state;
    uint64_t n = small_tree(f);

    restore_well(f, n, "out", (struct how){0});
    assert_string_equal(fx_read(f, "out/a.json"), "{\"a\":1}");
    assert_string_equal(fx_read(f, "out/sub/b.txt"), "content of b");
    assert_string_equal(fx_read(f, "out/sub/nothing"), "");
    assert_int_equal(look(f, "out/empty").st_mode, S_IFDIR | 0700);
    assert_int_equal(look(f, "out/sub").st_mode, S_IFDIR | 0750);
    assert_int_equal(look(f, "out").st_mode, S_IFDIR | 0755);
    char target[64] = "";
    assert_int_equal(readlink(fx_path(f, "out/sub/link"), target, sizeof(target) - 1), 9);
    assert_string_equal(target, "../a.json");
    assert_int_equal(result.files, 4);
    assert_int_equal(result.bytes, 7 + 12);
    no_litter(f, ".");
}

static void makes_missing_parents(void **state)
{
    struct fx *f = *state;

    restore_well(f, small_tree(f), "x/y/z/", (struct how){0});
    assert_string_equal(fx_read(f, "x/y/z/a.json"), "{\"a\":1}");
}

static void a_folder_goes_straight_into_the_target(void **state)
{
    struct fx *f = *state;

    restore_well(f, small_tree(f), "out", (struct how){.path = "sub"});
    assert_string_equal(fx_read(f, "out/b.txt"), "content of b");
    assert_int_equal(fx_entries(f, "out"), 3);
    assert_int_equal(look(f, "out").st_mode, S_IFDIR | 0750);
}

static void a_file_keeps_its_name(void **state)
{
    struct fx *f = *state;
    uint64_t n = small_tree(f);

    restore_well(f, n, "out", (struct how){.path = "sub/b.txt"});
    assert_string_equal(fx_read(f, "out/b.txt"), "content of b");
    assert_int_equal(fx_entries(f, "out"), 1);
    assert_int_equal(mkdir(fx_path(f, "there"), 0710), 0);
    restore_well(f, n, "there", (struct how){.path = "sub/link"});
    assert_int_equal(fx_entries(f, "there"), 1);
    assert_int_equal(look(f, "there").st_mode, S_IFDIR | 0710);
}

static void a_missing_path_leaves_nothing(void **state)
{
    struct fx *f = *state;

    assert_int_equal(restore_to(f, small_tree(f), "out", (struct how){.path = "sub/none"}),
                     ERR_NOTFOUND);
    assert_false(fx_there(f, "out"));
}

static void times_modes_and_owners(void **state)
{
    struct fx *f = *state;
    struct node n = fx_meta(NODE_FILE, 04751);

    fx_begin(f);
    n.mtime_s = -86400 * 365;
    n.mtime_ns = 999999999;
    if (geteuid() == 0)
        n.uid = n.gid = 12345;
    fx_file_as(f, NODE_ROOT, "old", "x", 1, n);
    struct node l = fx_meta(NODE_SYMLINK, 0777);
    l.target = "nowhere";
    l.target_len = 7;
    l.mtime_s = 5;
    if (geteuid() == 0)
        l.uid = 23456;
    fx_add(f, NODE_ROOT, "link", &l);
    struct node d = fx_meta(NODE_FOLDER, 01777);
    d.mtime_s = 77;
    uint64_t folder = fx_add(f, NODE_ROOT, "folder", &d);
    fx_file(f, folder, "in", "y");
    struct node p = fx_meta(NODE_FIFO, 0620);
    fx_add(f, NODE_ROOT, "pipe", &p);
    p.type = NODE_SOCKET;
    fx_add(f, NODE_ROOT, "socket", &p);
    uint64_t number = fx_commit(f);
    restore_well(f, number, "out", (struct how){0});

    struct stat st = look(f, "out/old");
    assert_int_equal(st.st_mode, S_IFREG | 04751);
    assert_int_equal(st.st_mtim.tv_sec, -86400 * 365);
    assert_int_equal(st.st_mtim.tv_nsec, 999999999);
    assert_int_equal(st.st_uid, n.uid);
    assert_int_equal(st.st_gid, n.gid);
    assert_int_equal(look(f, "out/link").st_mtim.tv_sec, 5);
    assert_int_equal(look(f, "out/link").st_uid, l.uid);
    assert_int_equal(look(f, "out/folder").st_mode, S_IFDIR | 01777);
    assert_int_equal(look(f, "out/folder").st_mtim.tv_sec, 77);
    assert_int_equal(look(f, "out").st_mtim.tv_sec, FX_TIME);
    assert_int_equal(look(f, "out").st_mtim.tv_nsec, 123456789);
    assert_int_equal(look(f, "out/pipe").st_mode, S_IFIFO | 0620);
    assert_int_equal(look(f, "out/socket").st_mode, S_IFSOCK | 0620);
}

/* The target's own time holds also where it was filled entry by entry. */
static void a_filled_target_gets_its_time(void **state)
{
    struct fx *f = *state;
    uint64_t n = small_tree(f);

    assert_int_equal(mkdir(fx_path(f, "out"), 0700), 0);
    fx_write(f, "out/other", "kept");
    restore_well(f, n, "out", (struct how){.overwrite = true});
    assert_int_equal(look(f, "out").st_mtim.tv_sec, FX_TIME);
    assert_int_equal(look(f, "out").st_mode, S_IFDIR | 0755);
    assert_string_equal(fx_read(f, "out/other"), "kept");
    no_litter(f, "out");
}

static void xattrs_come_back(void **state)
{
    struct fx *f = *state;
    const char *probe = fx_path(f, "probe");
    char value[64] = "";

    fx_write(f, "probe", "");
    if (setxattr(probe, "user.test", "1", 1, 0) != 0) {
        print_message("user xattrs are not supported here\n");
        skip();
    }
    fx_begin(f);
    struct node_xattr x[] = {{.name = "user.note", .value = (const uint8_t *)"hello", .len = 5},
                             {.name = "user.void", .value = NULL, .len = 0}};
    struct node n = fx_meta(NODE_FILE, 0444);
    n.xattrs = x;
    n.xattr_count = 2;
    fx_file_as(f, NODE_ROOT, "file", "x", 1, n);
    n = fx_meta(NODE_FOLDER, 0755);
    n.xattrs = x;
    n.xattr_count = 1;
    fx_add(f, NODE_ROOT, "folder", &n);
    uint64_t number = fx_commit(f);
    restore_well(f, number, "out", (struct how){0});
    assert_int_equal(getxattr(fx_path(f, "out/file"), "user.note", value, sizeof(value)), 5);
    assert_memory_equal(value, "hello", 5);
    assert_int_equal(getxattr(fx_path(f, "out/file"), "user.void", value, sizeof(value)), 0);
    assert_int_equal(getxattr(fx_path(f, "out/folder"), "user.note", value, sizeof(value)), 5);
}

static void an_acl_of_the_place_is_not_inherited(void **state)
{
    struct fx *f = *state;
    /* version 2; user::rwx, user:1:rwx, group::rwx, mask::rwx, other::rwx */
    static const uint8_t acl[] = {2, 0, 0,   0,   1,   0,   7,  0, 255, 255, 255, 255, 2,   0,  7,
                                  0, 1, 0,   0,   0,   4,   0,  7, 0,   255, 255, 255, 255, 16, 0,
                                  7, 0, 255, 255, 255, 255, 32, 0, 7,   0,   255, 255, 255, 255};

    uint64_t n = small_tree(f);
    assert_int_equal(mkdir(fx_path(f, "place"), 0755), 0);
    if (setxattr(fx_path(f, "place"), "system.posix_acl_default", acl, sizeof(acl), 0) != 0)
        skip();
    restore_well(f, n, "place/out", (struct how){0});
    assert_int_equal(getxattr(fx_path(f, "place/out"), "system.posix_acl_default", NULL, 0), -1);
    assert_int_equal(getxattr(fx_path(f, "place/out/a.json"), "system.posix_acl_access", NULL, 0),
                     -1);
    assert_int_equal(look(f, "place/out/a.json").st_mode, S_IFREG | 0644);
}

static void holes_stay_holes(void **state)
{
    struct fx *f = *state;
    enum { PART = 65536 };
    struct node_extent x[] = {{.off = 1 << 20, .len = PART}, {.off = 64 << 20, .len = PART}};
    struct node n = fx_meta(NODE_FILE, 0644);
    char *data = malloc(2 * PART);
    char part[4];

    fx_begin(f);
    memset(data, 'a', PART);
    memset(data + PART, 'b', PART);
    n.size = 100 << 20;
    n.extents = x;
    n.extent_count = 2;
    f->chunk_len = 50000; /* chunks do not end where runs do */
    fx_file_as(f, NODE_ROOT, "sparse", data, 2 * PART, n);
    n.extents = NULL;
    struct node_extent none = {.off = 0, .len = 1};
    n.extents = &none;
    n.extent_count = 1;
    n.size = UINT64_C(1) << 40;
    fx_file_as(f, NODE_ROOT, "huge", "z", 1, n);
    uint64_t number = fx_commit(f);
    restore_well(f, number, "out", (struct how){0});

    struct stat st = look(f, "out/sparse");
    assert_int_equal(st.st_size, 100 << 20);
    assert_true(st.st_blocks * 512 <= 4 * PART);
    int fd = open(fx_path(f, "out/sparse"), O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, part, 2, (1 << 20) + PART - 1), 2);
    assert_memory_equal(part, "a\0", 2);
    assert_int_equal(pread(fd, part, 2, (64 << 20) - 1), 2);
    assert_memory_equal(part, "\0b", 2);
    close(fd);
    assert_int_equal(look(f, "out/huge").st_size, INT64_C(1) << 40);
    assert_true(look(f, "out/huge").st_blocks <= 16);
    free(data);
}

static void hard_links_share_one_file(void **state)
{
    struct fx *f = *state;

    fx_begin(f);
    uint64_t d = fx_folder(f, NODE_ROOT, "d", 0755);
    uint64_t x = fx_file(f, d, "first", "shared");
    fx_name(f, NODE_ROOT, "second", x);
    fx_name(f, NODE_ROOT, "third", x);
    uint64_t number = fx_commit(f);
    restore_well(f, number, "out", (struct how){0});
    assert_int_equal(look(f, "out/second").st_ino, look(f, "out/d/first").st_ino);
    assert_int_equal(look(f, "out/third").st_nlink, 3);
    assert_int_equal(result.files, 3);
    restore_well(f, number, "part", (struct how){.path = "d"});
    assert_int_equal(look(f, "part/first").st_nlink, 1);
}

static void large_files_through_list_chunks(void **state)
{
    enum { LEN = 300000 };
    struct fx *f = *state;
    char *data = malloc(LEN), *back = malloc(LEN);

    for (size_t i = 0; i < LEN; i++)
        data[i] = (char)(i * 2654435761u >> 13);
    f->chunk_len = 256;
    fx_begin(f);
    fx_file_as(f, NODE_ROOT, "large", data, LEN, fx_meta(NODE_FILE, 0644));
    uint64_t number = fx_commit(f);
    restore_well(f, number, "out", (struct how){0});
    int fd = open(fx_path(f, "out/large"), O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(fd, back, LEN), LEN);
    assert_memory_equal(data, back, LEN);
    close(fd);
    free(data);
    free(back);
}

static void odd_names_are_bytes(void **state)
{
    static const char *const names[] = {"-rf", "new\nline", "\xff\xfe", " ", "a\\b", "..."};
    struct fx *f = *state;
    char rel[64];

    fx_begin(f);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        fx_file(f, NODE_ROOT, names[i], names[i]);
    uint64_t number = fx_commit(f);
    restore_well(f, number, "out", (struct how){0});
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(rel, sizeof(rel), "out/%s", names[i]);
        assert_string_equal(fx_read(f, rel), names[i]);
    }
}

static void paths_longer_than_the_kernel_takes(void **state)
{
    enum { LEVELS = 600 };
    struct fx *f = *state;
    struct error e = ERROR_INIT;
    struct buffer path = BUFFER_INIT;
    uint64_t parent = NODE_ROOT;
    char text[8] = "";

    fx_begin(f);
    buffer_append_str(&path, "out");
    for (int i = 0; i < LEVELS; i++) {
        parent = fx_folder(f, parent, "sixteen-letters-", i == LEVELS - 1 ? 0500 : 0755);
        buffer_append_str(&path, "/sixteen-letters-");
    }
    uint64_t x = fx_file(f, parent, "end", "deep");
    fx_name(f, parent, "twin", x);
    uint64_t number = fx_commit(f);
    restore_well(f, number, "out", (struct how){0});
    buffer_append_str(&path, "/twin");
    int base = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = safe_open(base, buffer_cstr(&path), O_RDONLY, 0, &e);
    FX_OK(fd, e);
    assert_int_equal(read(fd, text, sizeof(text)), 4);
    assert_string_equal(text, "deep");
    close(fd);
    /* And once more over itself. */
    restore_well(f, number, "out", (struct how){.overwrite = true});
    close(base);
    buffer_release(&path);
}

/* ---- where it goes ---- */

static void refuses_a_target_that_holds_things(void **state)
{
    struct fx *f = *state;
    uint64_t n = small_tree(f);

    mkdir(fx_path(f, "out"), 0755);
    fx_write(f, "out/mine", "mine");
    assert_int_equal(restore_to(f, n, "out", (struct how){0}), ERR_REFUSED);
    assert_non_null(strstr(last_error.message, "--overwrite"));
    assert_int_equal(restore_to(f, n, "out", (struct how){.path = "a.json"}), ERR_REFUSED);
    assert_int_equal(fx_entries(f, "out"), 1);
    fx_write(f, "file", "x");
    assert_int_equal(restore_to(f, n, "file", (struct how){0}), ERR_REFUSED);
    assert_int_equal(symlink("nowhere", fx_path(f, "dangling")), 0);
    assert_int_equal(restore_to(f, n, "dangling", (struct how){0}), ERR_REFUSED);
    no_litter(f, ".");
}

static void an_empty_target_may_be_of_any_kind(void **state)
{
    struct fx *f = *state;
    uint64_t n = small_tree(f);

    mkdir(fx_path(f, "plain"), 0711);
    restore_well(f, n, "plain", (struct how){0});
    assert_string_equal(fx_read(f, "plain/sub/b.txt"), "content of b");

    mkdir(fx_path(f, "real"), 0755);
    assert_int_equal(symlink("real", fx_path(f, "way")), 0);
    restore_well(f, n, "way", (struct how){0});
    assert_true(S_ISLNK(look(f, "way").st_mode));
    assert_string_equal(fx_read(f, "real/sub/b.txt"), "content of b");

    /* Our own working folder stays what it is. */
    mkdir(fx_path(f, "here"), 0755);
    ino_t ino = look(f, "here").st_ino;
    int back = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(chdir(fx_path(f, "here")), 0);
    restore_well(f, n, ".", (struct how){0});
    assert_int_equal(fchdir(back), 0);
    close(back);
    assert_int_equal(look(f, "here").st_ino, ino);
    assert_string_equal(fx_read(f, "here/a.json"), "{\"a\":1}");
    no_litter(f, "here");
    no_litter(f, ".");
}

static void a_mount_point_is_filled(void **state)
{
    struct fx *f = *state;
    uint64_t n = small_tree(f);

    mkdir(fx_path(f, "mnt"), 0755);
    if (mount("none", fx_path(f, "mnt"), "tmpfs", 0, "size=1m,mode=0755") != 0)
        skip();
    int rc = restore_to(f, n, "mnt", (struct how){0});
    const char *got = fx_read(f, "mnt/sub/b.txt");
    dev_t inside = look(f, "mnt/sub").st_dev, outside = look(f, "repo").st_dev;
    umount(fx_path(f, "mnt"));
    FX_OK(rc, last_error);
    assert_string_equal(got, "content of b");
    assert_int_not_equal(inside, outside);
}

/* ---- over what stands there ---- */

enum { NOTHING, A_FILE, A_FOLDER, A_LINK, KINDS };

static void put_old(struct fx *f, const char *rel, int kind)
{
    char inside[128];

    snprintf(inside, sizeof(inside), "%s/inside", rel);
    if (kind == A_FILE)
        fx_write(f, rel, "old");
    if (kind == A_FOLDER) {
        mkdir(fx_path(f, rel), 0700);
        fx_write(f, inside, "old");
    }
    if (kind == A_LINK)
        assert_int_equal(symlink("../outside", fx_path(f, rel)), 0);
}

static void everything_over_everything(void **state)
{
    static const char *const news[] = {"file", "folder", "link"};
    struct fx *f = *state;
    char rel[64], inside[80];

    fx_begin(f);
    for (int k = 0; k < KINDS; k++) {
        snprintf(rel, sizeof(rel), "file%d", k);
        fx_file(f, NODE_ROOT, rel, "new");
        snprintf(rel, sizeof(rel), "folder%d", k);
        uint64_t d = fx_folder(f, NODE_ROOT, rel, 0755);
        fx_file(f, d, "fresh", "new");
        snprintf(rel, sizeof(rel), "link%d", k);
        fx_symlink(f, NODE_ROOT, rel, "target");
    }
    uint64_t n = fx_commit(f);
    mkdir(fx_path(f, "outside"), 0755);
    fx_write(f, "outside/canary", "untouched");
    mkdir(fx_path(f, "out"), 0755);
    for (size_t i = 0; i < 3; i++) {
        for (int k = 0; k < KINDS; k++) {
            snprintf(rel, sizeof(rel), "out/%s%d", news[i], k);
            put_old(f, rel, k);
        }
    }
    fx_write(f, "out/other", "stays");
    restore_well(f, n, "out", (struct how){.overwrite = true});
    for (int k = 0; k < KINDS; k++) {
        snprintf(rel, sizeof(rel), "out/file%d", k);
        assert_string_equal(fx_read(f, rel), "new");
        snprintf(rel, sizeof(rel), "out/folder%d", k);
        assert_true(S_ISDIR(look(f, rel).st_mode));
        snprintf(inside, sizeof(inside), "%s/fresh", rel);
        assert_string_equal(fx_read(f, inside), "new");
        snprintf(inside, sizeof(inside), "%s/inside", rel);
        assert_int_equal(fx_there(f, inside), k == A_FOLDER);
        snprintf(rel, sizeof(rel), "out/link%d", k);
        assert_true(S_ISLNK(look(f, rel).st_mode));
    }
    assert_string_equal(fx_read(f, "out/other"), "stays");
    assert_int_equal(fx_entries(f, "outside"), 1);
    assert_string_equal(fx_read(f, "outside/canary"), "untouched");
    no_litter(f, "out");
}

static int no_exchange(int olddir, const char *old, int newdir, const char *new_, unsigned flags)
{
    if (flags & (RENAME_EXCHANGE | RENAME_NOREPLACE)) {
        errno = EINVAL;
        return -1;
    }
    return renameat2(olddir, old, newdir, new_, flags);
}

static void file_systems_without_exchange(void **state)
{
    static struct fileops plain;

    plain = fileops_system;
    plain.renameat2 = no_exchange;
    fileops = &plain;
    everything_over_everything(state);
    restore_well(*state, small_tree(*state), "fresh", (struct how){0});
}

static void an_existing_inode_is_never_written_through(void **state)
{
    struct fx *f = *state;
    uint64_t n = small_tree(f);

    fx_write(f, "canary", "untouched");
    mkdir(fx_path(f, "out"), 0755);
    assert_int_equal(link(fx_path(f, "canary"), fx_path(f, "out/a.json")), 0);
    restore_well(f, n, "out", (struct how){.overwrite = true});
    assert_string_equal(fx_read(f, "canary"), "untouched");
    assert_string_equal(fx_read(f, "out/a.json"), "{\"a\":1}");
}

static void side_files_go_with_their_database(void **state)
{
    struct fx *f = *state;
    struct node n = fx_meta(NODE_FILE, 0644);

    fx_begin(f);
    uint64_t d = fx_folder(f, NODE_ROOT, "d", 0755);
    n.flags = NODE_SQLITE;
    fx_file_as(f, d, "app.db", "new database", 12, n);
    fx_file_as(f, NODE_ROOT, "fresh.db", "another", 7, n);
    fx_file(f, NODE_ROOT, "plain", "x");
    uint64_t number = fx_commit(f);
    mkdir(fx_path(f, "out"), 0755);
    mkdir(fx_path(f, "out/d"), 0755);
    fx_write(f, "out/d/app.db", "old database");
    fx_write(f, "out/d/app.db-wal", "old log");
    fx_write(f, "out/d/app.db-shm", "old index");
    fx_write(f, "out/d/app.db-journal", "old journal");
    fx_write(f, "out/fresh.db-wal", "left over");
    fx_write(f, "out/plain-wal", "not ours");
    restore_well(f, number, "out", (struct how){.overwrite = true});
    assert_string_equal(fx_read(f, "out/d/app.db"), "new database");
    assert_int_equal(fx_entries(f, "out/d"), 1);
    assert_false(fx_there(f, "out/fresh.db-wal"));
    assert_string_equal(fx_read(f, "out/plain-wal"), "not ours");
}

/* Somebody swaps a folder of the target for a link to elsewhere, again and again. */
struct attack {
    struct fx *f;
    atomic_bool stop;
};

static void *swap_folder(void *ctx)
{
    struct attack *a = ctx;
    char folder[512], away[512];

    snprintf(folder, sizeof(folder), "%s/out/sub", a->f->dir);
    snprintf(away, sizeof(away), "%s/out/away", a->f->dir);
    while (!atomic_load(&a->stop)) {
        if (rename(folder, away) == 0) {
            if (symlink("../outside", folder) == 0) {
                sched_yield();
                unlink(folder);
            }
            rename(away, folder);
        }
    }
    return NULL;
}

static void a_planted_link_is_not_followed(void **state)
{
    struct fx *f = *state;
    struct attack a = {.f = f};
    pthread_t thread;
    uint64_t n = small_tree(f);

    mkdir(fx_path(f, "outside"), 0755);
    fx_write(f, "outside/b.txt", "untouched");
    mkdir(fx_path(f, "out"), 0755);
    mkdir(fx_path(f, "out/sub"), 0755);
    assert_int_equal(pthread_create(&thread, NULL, swap_folder, &a), 0);
    for (int i = 0; i < 60; i++)
        restore_to(f, n, "out", (struct how){.overwrite = true});
    atomic_store(&a.stop, true);
    pthread_join(thread, NULL);
    assert_string_equal(fx_read(f, "outside/b.txt"), "untouched");
    assert_int_equal(fx_entries(f, "outside"), 1);
    assert_int_equal(look(f, "outside").st_mode, S_IFDIR | 0755);
    assert_int_not_equal(look(f, "outside").st_mtim.tv_sec, FX_TIME);
}

/* ---- when something is wrong ---- */

/* Turn a bit in the middle of each record that holds a chunk of this content. */
static void damage_text(struct fx *f, const char *text)
{
    struct error e = ERROR_INIT;
    struct chunk_place place;
    struct record_header h;
    struct hash id;
    uint8_t header[RECORD_HEADER_LEN], byte;
    char name[40], path[256];

    hash_sha256(text, strlen(text), &id);
    FX_OK(catalog_chunk(repo_catalog(f->repo), &id, &place, &e), e);
    for (int kind = PACK_LOG; kind <= PACK_DATA; kind++) {
        pack_file_name((uint8_t)kind, place.pack_id, name);
        snprintf(path, sizeof(path), "%s/packs/%s", f->repo_path, name);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0)
            continue;
        assert_int_equal(pread(fd, header, sizeof(header), (off_t)place.offset), sizeof(header));
        FX_OK(record_header_decode(header, place.pack_id, place.offset, &h, &e), e);
        off_t at = (off_t)(place.offset + RECORD_HEADER_LEN + h.body_len - 1);
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 4;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        close(fd);
    }
}

static void a_damaged_file_is_left_out(void **state)
{
    struct fx *f = *state;

    fx_begin(f);
    uint64_t d = fx_folder(f, NODE_ROOT, "d", 0755);
    uint64_t bad = fx_file(f, d, "bad", "this one will be damaged");
    fx_name(f, NODE_ROOT, "bad-twin", bad);
    fx_file(f, d, "good", "this one will not");
    f->chunk_len = 10;
    fx_file(f, d, "half", "0123456789 the second part of this one is damaged");
    f->chunk_len = 0;
    uint64_t n = fx_commit(f);
    damage_text(f, "this one will be damaged");
    damage_text(f, " the secon");
    assert_int_equal(restore_to(f, n, "out", (struct how){0}), ERR_DAMAGED);
    assert_string_equal(fx_read(f, "out/d/good"), "this one will not");
    assert_false(fx_there(f, "out/d/bad"));
    assert_false(fx_there(f, "out/bad-twin"));
    assert_false(fx_there(f, "out/d/half"));
    assert_int_equal(result.skipped, 3);
    assert_int_equal(result.problem_count, 3);
    assert_int_equal(result.files, 1);
    bool named = false;
    for (size_t i = 0; i < result.problem_count; i++)
        named = named || strcmp(result.problems[i].path, "d/half") == 0;
    assert_true(named);
    no_litter(f, ".");

    /* What stands there under a damaged file's name stays. */
    mkdir(fx_path(f, "over"), 0755);
    mkdir(fx_path(f, "over/d"), 0755);
    fx_write(f, "over/d/bad", "older");
    assert_int_equal(restore_to(f, n, "over", (struct how){.overwrite = true}), ERR_DAMAGED);
    assert_string_equal(fx_read(f, "over/d/bad"), "older");
    assert_string_equal(fx_read(f, "over/d/good"), "this one will not");

    assert_int_equal(restore_to(f, n, "alone", (struct how){.path = "d/bad"}), ERR_DAMAGED);
    assert_int_equal(result.problem_count, 1);
    assert_string_equal(result.problems[0].path, "d/bad");
    assert_int_equal(restore_to(f, n, "sub", (struct how){.path = "d"}), ERR_DAMAGED);
    named = false;
    for (size_t i = 0; i < result.problem_count; i++)
        named = named || strcmp(result.problems[i].path, "d/half") == 0;
    assert_true(named);
}

static void what_was_never_read_is_named(void **state)
{
    struct fx *f = *state;
    struct node n = fx_meta(NODE_FILE, 0644);

    fx_begin(f);
    n.flags = NODE_UNREAD;
    n.reason = "Permission denied";
    fx_file_as(f, NODE_ROOT, "never", "", 0, n);
    fx_file_as(f, NODE_ROOT, "older", "kept", 4, n);
    n.flags = NODE_CHANGING;
    fx_file_as(f, NODE_ROOT, "torn", "torn", 4, n);
    uint64_t number = fx_commit(f);
    assert_int_equal(restore_to(f, number, "out", (struct how){0}), ERR_INCOMPLETE);
    assert_false(fx_there(f, "out/never"));
    assert_string_equal(fx_read(f, "out/older"), "kept");
    assert_int_equal(result.problem_count, 1);
    assert_non_null(strstr(result.problems[0].reason, "Permission denied"));
    assert_int_equal(result.warning_count, 2);
}

static atomic_int writes_left;

static ssize_t full_pwrite(int fd, const void *p, size_t n, off_t off)
{
    if (atomic_fetch_sub(&writes_left, 1) <= 0) {
        errno = ENOSPC;
        return -1;
    }
    return pwrite(fd, p, n, off);
}

/* The message names the entry, the target, what is there now and what helps. */
static void tells_all(struct fx *f, const char *entry, const char *now, const char *advice)
{
    const char *const wanted[] = {entry, fx_path(f, "out"), now, advice};

    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        if (!strstr(last_error.message, wanted[i]))
            fail_msg("no '%s' in: %s", wanted[i], last_error.message);
    }
}

static void a_full_disk_leaves_nothing(void **state)
{
    static struct fileops full;
    struct fx *f = *state;
    uint64_t n = small_tree(f);

    full = fileops_system;
    full.pwrite = full_pwrite;
    fileops = &full;
    for (int left = 0;; left++) {
        atomic_store(&writes_left, left);
        int rc = restore_to(f, n, "out", (struct how){0});
        if (rc == 0)
            break;
        assert_int_equal(rc, ERR_NOSPACE);
        assert_false(result.finished);
        tells_all(f, left == 0 ? "'" : "b.txt'", "nothing was put in place", "make room");
        assert_false(fx_there(f, "out"));
        no_litter(f, ".");
    }
    assert_string_equal(fx_read(f, "out/sub/b.txt"), "content of b");
}

static atomic_int ops_left;
static int fails_with = EIO;

static int fail_now(void)
{
    if (atomic_fetch_sub(&ops_left, 1) > 0)
        return 0;
    errno = fails_with;
    return -1;
}
static int f_renameat2(int a, const char *b, int c, const char *d, unsigned e)
{
    return fail_now() ? -1 : renameat2(a, b, c, d, e);
}
static int f_mkdirat(int a, const char *b, mode_t c)
{
    return fail_now() ? -1 : mkdirat(a, b, c);
}
static int f_fsync(int a)
{
    return fail_now() ? -1 : fsync(a);
}
static int f_ftruncate(int a, off_t b)
{
    return fail_now() ? -1 : ftruncate(a, b);
}

/* Whatever step fails, a file under a final name is whole. */
static void every_failing_step_leaves_whole_files(void **state)
{
    static struct fileops failing;
    struct fx *f = *state;
    char target[32];

    uint64_t n = small_tree(f);
    failing = fileops_system;
    failing.renameat2 = f_renameat2;
    failing.mkdirat = f_mkdirat;
    failing.fsync = f_fsync;
    failing.ftruncate = f_ftruncate;
    for (int over = 0; over < 2; over++) {
        for (int left = 0;; left++) {
            snprintf(target, sizeof(target), "out%d-%d", over, left);
            if (over) {
                mkdir(fx_path(f, target), 0755);
                char rel[64];
                snprintf(rel, sizeof(rel), "%s/a.json", target);
                fx_write(f, rel, "old");
            }
            atomic_store(&ops_left, left);
            fileops = &failing;
            int rc = restore_to(f, n, target, (struct how){.overwrite = over});
            fileops = &fileops_system;
            char rel[64];
            snprintf(rel, sizeof(rel), "%s/a.json", target);
            const char *got = fx_read(f, rel);
            if (rc == 0)
                assert_string_equal(got, "{\"a\":1}");
            else if (strcmp(got, "(none)") != 0 && strcmp(got, "old") != 0)
                assert_string_equal(got, "{\"a\":1}");
            if (rc == 0)
                break;
            no_litter(f, ".");
            if (over)
                no_litter(f, target);
        }
    }
}

static void a_target_that_may_not_be_written_is_named(void **state)
{
    static const struct {
        int sys, code;
        const char *advice;
    } cases[] = {
        {EROFS, ERR_DENIED, "it may only be read"},
        {EACCES, ERR_DENIED, "as a user who may write there"},
        {EDQUOT, ERR_NOSPACE, "make room"},
        {EIO, ERR_FAILED, "the disk fails"},
    };
    static struct fileops failing;
    struct fx *f = *state;
    uint64_t n = small_tree(f);

    failing = fileops_system;
    failing.mkdirat = f_mkdirat;
    fileops = &failing;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fails_with = cases[i].sys;
        atomic_store(&ops_left, 0);
        assert_int_equal(restore_to(f, n, "out", (struct how){0}), cases[i].code);
        tells_all(f, "make target", "nothing was put in place", cases[i].advice);
        no_litter(f, ".");
    }
    /* Entries that cannot be made are named; the others come. */
    fails_with = EACCES;
    atomic_store(&ops_left, 1);
    assert_int_equal(restore_to(f, n, "out", (struct how){0}), ERR_DENIED);
    assert_true(result.finished);
    assert_int_equal(result.problem_count, 2); /* both folders */
    assert_string_equal(fx_read(f, "out/a.json"), "{\"a\":1}");
    fails_with = EIO;
}

static void cancelling_leaves_nothing(void **state)
{
    struct fx *f = *state;
    atomic_bool cancel = true;

    assert_int_equal(restore_to(f, small_tree(f), "out", (struct how){.cancel = &cancel}),
                     ERR_CANCELLED);
    assert_false(fx_there(f, "out"));
    no_litter(f, ".");
}

static void what_a_killed_restore_left_is_removed(void **state)
{
    struct fx *f = *state;
    uint64_t n = small_tree(f);
    char path[512];

    mkdir(fx_path(f, ".watchkeep-restore-0123456789ab"), 0700);
    fx_write(f, ".watchkeep-restore-0123456789ab/x", "x");
    mkdir(fx_path(f, ".watchkeep-restore-notes"), 0700);
    mkdir(fx_path(f, ".watchkeep-restore-aaaaaaaaaaaa"), 0700);
    snprintf(path, sizeof(path), "%s", fx_path(f, ".watchkeep-restore-aaaaaaaaaaaa"));
    int live = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(flock(live, LOCK_EX), 0);
    mkdir(fx_path(f, "out"), 0700);
    mkdir(fx_path(f, "out/.watchkeep-restore-bbbbbbbbbbbb.in"), 0700);
    mkdir(fx_path(f, "out/.watchkeep-restore-bbbbbbbbbbbb.in/old"), 0700);
    restore_well(f, n, "out", (struct how){0});
    assert_false(fx_there(f, ".watchkeep-restore-0123456789ab"));
    assert_true(fx_there(f, ".watchkeep-restore-notes"));
    assert_true(fx_there(f, ".watchkeep-restore-aaaaaaaaaaaa")); /* another restore is at it */
    close(live);
    /* One that holds what had to make way is for people to look at. */
    mkdir(fx_path(f, "out/.watchkeep-restore-cccccccccccc.in"), 0700);
    mkdir(fx_path(f, "out/.watchkeep-restore-cccccccccccc.in/old"), 0700);
    fx_write(f, "out/.watchkeep-restore-cccccccccccc.in/old/0", "precious");
    mkdir(fx_path(f, ".watchkeep-restore-dddddddddddd"), 0700);
    restore_well(f, n, "out", (struct how){.overwrite = true});
    assert_string_equal(fx_read(f, "out/.watchkeep-restore-cccccccccccc.in/old/0"), "precious");
    assert_false(fx_there(f, ".watchkeep-restore-dddddddddddd"));
}

/* ---- without root ---- */

/* The repository is root's: what is open already is all that can be used without it. */
static void open_connections(struct fx *f)
{
    struct catalog *c[8];
    struct error e = ERROR_INIT;

    for (int i = 0; i < 8; i++)
        FX_OK(repo_catalog_open(f->repo, &c[i], &e), e);
    for (int i = 0; i < 8; i++)
        repo_catalog_close(f->repo, c[i]);
}

static void without_root_owners_are_a_warning(void **state)
{
    struct fx *f = *state;
    struct node n = fx_meta(NODE_FILE, 06755);

    if (geteuid() != 0)
        skip();
    fx_begin(f);
    n.uid = n.gid = 12345;
    fx_file_as(f, NODE_ROOT, "theirs", "x", 1, n);
    n.uid = 4321;
    n.gid = 4321;
    fx_file_as(f, NODE_ROOT, "ours", "y", 1, n);
    uint64_t ro = fx_folder(f, NODE_ROOT, "read-only", 0555);
    fx_file(f, ro, "in", "z");
    struct node dev = fx_meta(NODE_CHAR_DEVICE, 0666);
    dev.rdev = (UINT64_C(1) << 32) | 3;
    fx_add(f, NODE_ROOT, "null", &dev);
    uint64_t number = fx_commit(f);
    restore_well(f, number, "root", (struct how){0});
    assert_int_equal(look(f, "root/theirs").st_mode, S_IFREG | 06755);
    assert_int_equal(look(f, "root/null").st_rdev, makedev(1, 3));
    assert_int_equal(result.warning_count, 0);

    mkdir(fx_path(f, "home"), 0755);
    assert_int_equal(chown(fx_path(f, "home"), 4321, 4321), 0);
    assert_int_equal(chmod(f->dir, 0755), 0);
    mkdir(fx_path(f, "home/over"), 0755);
    fx_write(f, "home/over/x", "x");
    assert_int_equal(chown(fx_path(f, "home/over"), 4321, 4321), 0);
    open_connections(f);
    assert_int_equal(setegid(4321), 0);
    assert_int_equal(seteuid(4321), 0);
    int first = restore_to(f, number, "home/out", (struct how){0});
    size_t warnings = result.warning_count;
    int second = restore_to(f, number, "home/over", (struct how){.overwrite = true});
    assert_int_equal(seteuid(0), 0);
    assert_int_equal(setegid(0), 0);
    assert_int_equal(first, 0);
    assert_int_equal(second, 0);
    assert_int_equal(warnings, 3); /* owners, set-id bits, a device */
    assert_int_equal(look(f, "home/out/theirs").st_mode, S_IFREG | 0755);
    assert_int_equal(look(f, "home/out/ours").st_mode, S_IFREG | 06755);
    assert_int_equal(look(f, "home/out/read-only").st_mode, S_IFDIR | 0555);
    assert_string_equal(fx_read(f, "home/over/read-only/in"), "z");
    assert_int_equal(look(f, "home/over/read-only").st_mode, S_IFDIR | 0555);
    assert_false(fx_there(f, "home/out/null"));
}

/* ---- cat ---- */

static void cat_streams_one_file(void **state)
{
    struct fx *f = *state;
    struct error e = ERROR_INIT;
    struct snapshot_row row;
    struct node_extent x[] = {{.off = 3, .len = 2}, {.off = 8, .len = 1}};
    struct node n = fx_meta(NODE_FILE, 0644);
    char text[64] = "";

    fx_begin(f);
    n.extents = x;
    n.extent_count = 2;
    n.size = 10;
    fx_file_as(f, NODE_ROOT, "sparse", "abc", 3, n);
    f->chunk_len = 4;
    fx_file(f, NODE_ROOT, "text", "0123456789");
    uint64_t d = fx_folder(f, NODE_ROOT, "d", 0755);
    (void)d;
    uint64_t number = fx_commit(f);
    fx_row(f, number, &row);
    int fd = open(fx_path(f, "cat"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    FX_OK(restore_cat(f->repo, &row, "text", fd, NULL, &e), e);
    assert_int_equal(pread(fd, text, sizeof(text), 0), 10);
    assert_string_equal(text, "0123456789");
    assert_int_equal(ftruncate(fd, 0), 0);
    lseek(fd, 0, SEEK_SET);
    FX_OK(restore_cat(f->repo, &row, "sparse", fd, NULL, &e), e);
    assert_int_equal(pread(fd, text, sizeof(text), 0), 10);
    assert_memory_equal(text, "\0\0\0ab\0\0\0c\0", 10);
    assert_int_equal(restore_cat(f->repo, &row, "d", fd, NULL, &e), ERR_USAGE);
    assert_int_equal(restore_cat(f->repo, &row, "none", fd, NULL, &e), ERR_NOTFOUND);
    damage_text(f, "4567");
    assert_int_equal(ftruncate(fd, 0), 0);
    lseek(fd, 0, SEEK_SET);
    assert_int_equal(restore_cat(f->repo, &row, "text", fd, NULL, &e), ERR_DAMAGED);
    assert_int_equal(lseek(fd, 0, SEEK_END), 4); /* not one byte that is not what it was */
    close(fd);
    snapshot_row_release(&row);
}

/* ---- many ---- */

static void many_small_files(void **state)
{
    enum { FILES = 3000 };
    struct fx *f = *state;
    char name[32], text[32];
    uint64_t folder = 0;

    fx_begin(f);
    for (int i = 0; i < FILES; i++) {
        if (i % 100 == 0) {
            snprintf(name, sizeof(name), "d%d", i / 100);
            folder = fx_folder(f, NODE_ROOT, name, 0755);
        }
        snprintf(name, sizeof(name), "f%d", i);
        snprintf(text, sizeof(text), "content %d", i % 700);
        fx_file(f, folder, name, text);
    }
    uint64_t number = fx_commit(f);
    restore_well(f, number, "out", (struct how){.workers = 4});
    assert_int_equal(result.files, FILES);
    for (int i = 0; i < FILES; i++) {
        char rel[64];
        snprintf(rel, sizeof(rel), "out/d%d/f%d", i / 100, i);
        snprintf(text, sizeof(text), "content %d", i % 700);
        assert_string_equal(fx_read(f, rel), text);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fx_setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(brings_a_tree_back),
        TEST(makes_missing_parents),
        TEST(a_folder_goes_straight_into_the_target),
        TEST(a_file_keeps_its_name),
        TEST(a_missing_path_leaves_nothing),
        TEST(times_modes_and_owners),
        TEST(a_filled_target_gets_its_time),
        TEST(xattrs_come_back),
        TEST(an_acl_of_the_place_is_not_inherited),
        TEST(holes_stay_holes),
        TEST(hard_links_share_one_file),
        TEST(large_files_through_list_chunks),
        TEST(odd_names_are_bytes),
        TEST(paths_longer_than_the_kernel_takes),
        TEST(refuses_a_target_that_holds_things),
        TEST(an_empty_target_may_be_of_any_kind),
        TEST(a_mount_point_is_filled),
        TEST(everything_over_everything),
        TEST(file_systems_without_exchange),
        TEST(an_existing_inode_is_never_written_through),
        TEST(side_files_go_with_their_database),
        TEST(a_planted_link_is_not_followed),
        TEST(a_damaged_file_is_left_out),
        TEST(what_was_never_read_is_named),
        TEST(a_full_disk_leaves_nothing),
        TEST(every_failing_step_leaves_whole_files),
        TEST(a_target_that_may_not_be_written_is_named),
        TEST(cancelling_leaves_nothing),
        TEST(what_a_killed_restore_left_is_removed),
        TEST(without_root_owners_are_a_warning),
        TEST(cat_streams_one_file),
        TEST(many_small_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
