/* states_fixture.h - a source with a bit of everything in two states, both saved, and how what
 * stands on the disk compares with them. Include it in one file of a test. */
#ifndef WK_TESTS_STATES_FIXTURE_H
#define WK_TESTS_STATES_FIXTURE_H

#include "save_fixture.h"
#include "store/hash.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "fault_table.h"

#define ATTRIBUTE "user.state"

struct states {
    struct place *place;
    struct saver saver;
    uint64_t one, two;
    char *disk_one, *disk_two;
};

static inline void put_database(const struct place *p, const char *name, int rows)
{
    char path[256], sql[200];
    sqlite3 *db;

    snprintf(path, sizeof(path), "%s/%s", p->root, name);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    snprintf(
        sql, sizeof(sql),
        "DROP TABLE IF EXISTS t; CREATE TABLE t(x); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
        "SELECT i + 1 FROM n WHERE i < %d) INSERT INTO t SELECT i FROM n",
        rows);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static inline void put_attribute(const struct place *p, const char *path, const char *value)
{
    int fd = openat(p->rootfd, path, O_RDONLY | O_CLOEXEC);

    SYS(fd);
    SYS(fsetxattr(fd, ATTRIBUTE, value, strlen(value), 0));
    close(fd);
}

static inline int truncate_at(const struct place *p, const char *path, off_t len)
{
    int fd = openat(p->rootfd, path, O_WRONLY | O_CLOEXEC);
    int rc = ftruncate(fd, len);

    close(fd);
    return rc;
}

static inline void make_one(const struct place *p)
{
    put_text(p, "same", "the same");
    put_text(p, "changed", "one");
    put_text(p, "gone", "only in one");
    put_text(p, "file or folder", "a file");
    make_dir(p, "folder or file");
    make_dir(p, "folder or file/below");
    put_text(p, "folder or file/below/it", "below");
    SYS(symlinkat("same", p->rootfd, "link or file"));
    make_dir(p, "closed");
    put_text(p, "closed/in", "one");
    SYS(fchmodat(p->rootfd, "closed", 0555, 0));
    put_database(p, "app.db", 3);
    put_text(p, "linked", "one inode");
    SYS(linkat(p->rootfd, "linked", p->rootfd, "closed too", 0));
    put_attribute(p, "linked", "one");
    put_attribute(p, "changed", "one");
    SYS(mknodat(p->rootfd, "pipe", S_IFIFO | 0640, 0));
    put_text(p, "holes", "begins");
    SYS(truncate_at(p, "holes", 3 << 20));
    put_text(p, "as it is", "its content never changes");
    put_attribute(p, "as it is", "one");
}

static inline void make_two(const struct place *p)
{
    put_text(p, "changed", "another and longer");
    SYS(unlinkat(p->rootfd, "gone", 0));
    put_text(p, "new", "only in two");
    make_dir(p, "new folder");
    put_text(p, "new folder/in", "only in two");
    SYS(unlinkat(p->rootfd, "file or folder", 0));
    make_dir(p, "file or folder");
    put_text(p, "file or folder/in", "a folder");
    SYS(unlinkat(p->rootfd, "folder or file/below/it", 0));
    SYS(unlinkat(p->rootfd, "folder or file/below", AT_REMOVEDIR));
    SYS(unlinkat(p->rootfd, "folder or file", AT_REMOVEDIR));
    put_text(p, "folder or file", "a file");
    SYS(unlinkat(p->rootfd, "link or file", 0));
    put_text(p, "link or file", "a file");
    SYS(fchmodat(p->rootfd, "closed", 0755, 0));
    put_text(p, "closed/in", "two");
    SYS(fchmodat(p->rootfd, "closed", 0500, 0));
    put_database(p, "app.db", 2000);
    put_database(p, "more.db", 2);
    SYS(unlinkat(p->rootfd, "closed too", 0));
    put_attribute(p, "linked", "two");
    put_attribute(p, "changed", "two");
    put_attribute(p, "new folder", "two");
    SYS(unlinkat(p->rootfd, "pipe", 0));
    SYS(linkat(p->rootfd, "new", p->rootfd, "new folder/further", 0));
    SYS(mknodat(p->rootfd, "new folder/pipe", S_IFIFO | 0600, 0));
    SYS(truncate_at(p, "holes", 1 << 20));
    put_attribute(p, "as it is", "two");
    SYS(fchmodat(p->rootfd, "as it is", 0400, 0));
}

static inline uint64_t save_safety(struct states *s)
{
    struct save_request q = {.kind = SNAPSHOT_SAFETY};

    MUST(try_save(&s->saver, &q), s->saver.error);
    assert_int_not_equal(s->saver.last.snapshot, 0);
    return s->saver.last.snapshot;
}

static inline void get_row(struct states *s, uint64_t number, struct snapshot_row *row)
{
    struct error e = ERROR_INIT;

    MUST(catalog_snapshot(repo_catalog(s->saver.repo), number, row, &e), e);
}

/* In memory where there is some: it is flushed very often. */
static inline int memory_place(struct place **out)
{
    struct place *p = calloc(1, sizeof(*p));

    assert_non_null(p);
    memcpy(p->dir, "/dev/shm/wk-save-XXXXXX", 24);
    if (!mkdtemp(p->dir)) {
        free(p);
        return place_setup((void **)out);
    }
    snprintf(p->root, sizeof(p->root), "%s/root", p->dir);
    SYS(mkdir(p->root, 0755));
    p->rootfd = open(p->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    SYS(p->rootfd);
    *out = p;
    return 0;
}

static inline void dump_attribute(struct buffer *b, int dirfd, const char *name)
{
    char value[16] = "", self[320];

    snprintf(self, sizeof(self), "/proc/self/fd/%d/%s", dirfd, name);
    if (lgetxattr(self, ATTRIBUTE, value, sizeof(value) - 1) > 0)
        buffer_printf(b, "%s: %s\n", name, value);
}

/* What stands there, with metadata and attributes. */
static inline char *dump_state(const struct place *p)
{
    static const char *const names[] = {"linked", "changed", "as it is", "new folder"};
    struct buffer b = BUFFER_INIT;
    char *disk = dump_disk(p, true);

    buffer_append_str(&b, disk);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        dump_attribute(&b, p->rootfd, names[i]);
    free(disk);
    disk = strdup(buffer_cstr(&b));
    buffer_release(&b);
    return disk;
}

static inline void assert_state(const struct place *p, const char *wanted)
{
    char *state = dump_state(p);

    assert_string_equal(state, wanted);
    free(state);
}

/* A line of a dump without what it says of further names (of two, one may be gone already); bare:
 * also without mode, owner and time. */
static const char *reduced(const char *line, bool bare, char out[5000])
{
    unsigned mode = 0, uid = 0;
    int from = 0, end = 0;

    snprintf(out, 5000, "%s", line);
    char *link = strstr(out, " ="), *times = strrchr(out, ' ');
    if (link && times)
        memmove(link, times, strlen(times) + 1);
    char *meta = strchr(out, ' ');
    while (meta && (strspn(meta + 1, "01234567") != 6 || meta[7] != ' '))
        meta = strchr(meta + 1, ' ');
    if (!bare || !meta || sscanf(meta, " %n%o %u%n", &from, &mode, &uid, &end) != 2)
        return out;
    *strrchr(out, ' ') = 0;
    snprintf(meta + 1, 7, "%06o", mode & S_IFMT);
    memmove(meta + 7, meta + end, strlen(meta + end) + 1);
    return out;
}

static inline bool has_line(const char *state, const char *line, bool bare)
{
    char wanted[5000], found[5000];
    char *copy = strdup(state), *save = NULL;
    bool has = false;

    reduced(line, bare, wanted);
    for (char *at = strtok_r(copy, "\n", &save); at && !has; at = strtok_r(NULL, "\n", &save))
        has = strcmp(reduced(at, bare, found), wanted) == 0;
    free(copy);
    return has;
}

/* Every file that stands in p is as in one of the two states: with its metadata, but for what was
 * told that it could not be set. */
static inline void assert_no_half(const struct states *s, const struct place *p, bool told)
{
    char *state = dump_state(p), *save = NULL;

    for (char *line = strtok_r(state, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (strstr(line, " 04") || strstr(line, ".watchkeep-restore-") || strstr(line, "app.db-"))
            continue; /* a folder; our scratch folder; what is stale */
        /* In place, what differs in metadata alone is set in several steps; its content stays. */
        bool steps = p == s->place && strncmp(line, "as it is", 8) == 0;
        if (steps && line[8] == ':')
            continue;
        if (!has_line(s->disk_one, line, told || steps) &&
            !has_line(s->disk_two, line, told || steps))
            fail_msg("half of something: %s", line);
    }
    free(state);
}

/* All of a state is there. */
static inline void assert_has(const struct place *p, const char *wanted)
{
    char *state = dump_state(p), *lines = strdup(wanted), *save = NULL;

    for (char *line = strtok_r(lines, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (!strstr(line, " 04") && !has_line(state, line, false)) /* a folder may hold more */
            fail_msg("not there: %s", line);
    }
    free(lines);
    free(state);
}

#endif
