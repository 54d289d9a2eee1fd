/* save_fixture.h - a source folder, repositories that save it, and both as text to compare.
 *
 * A line of a dump: path, type, mode, owner, size, SHA-256 of the content or the link's target,
 * holes apart; the first path of the same node for a further name; flags. */
#ifndef WK_TEST_SAVE_FIXTURE_H
#define WK_TEST_SAVE_FIXTURE_H

#include "base/text.h"
#include "io/atomic_file.h"
#include "io/safe_path.h"
#include "snapshot/save.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct place { /* of one test */
    char dir[64];
    char root[80];
    int rootfd;
};

struct saver { /* one repository that saves the place */
    char repo_path[96];
    struct repo *repo;
    struct watch_spec spec;
    struct rules *rules;
    struct sqlite_helper *helper;
    struct save_result last;
    struct error error;
};

static inline void must_at(int rc, const struct error *e, const char *file, int line)
{
    if (rc < 0) {
        print_error("%s:%d: %d %s\n", file, line, rc, e->message);
        fail();
    }
}
#define MUST(rc, e) must_at((rc), &(e), __FILE__, __LINE__)
#define SYS(call) assert_true((call) >= 0)

static inline int place_setup(void **state)
{
    struct place *p = calloc(1, sizeof(*p));

    assert_non_null(p);
    memcpy(p->dir, "/tmp/wk-save-XXXXXX", 20);
    assert_non_null(mkdtemp(p->dir));
    snprintf(p->root, sizeof(p->root), "%s/root", p->dir);
    SYS(mkdir(p->root, 0755));
    p->rootfd = open(p->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    SYS(p->rootfd);
    *state = p;
    return 0;
}

static inline int place_teardown(void **state)
{
    struct place *p = *state;
    struct error e = ERROR_INIT;
    int top = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    MUST(remove_tree(top, p->dir + 1, &e), e);
    close(top);
    close(p->rootfd);
    free(p);
    return 0;
}

static inline void saver_rules(struct saver *v, const char *const *include,
                               const char *const *exclude)
{
    struct error e = ERROR_INIT;

    rules_free(v->rules);
    v->spec.include = include;
    v->spec.exclude = exclude;
    MUST(rules_new(&v->spec, &v->rules, &e), e);
}

static inline void saver_open(struct saver *v, const struct place *p, const char *repo)
{
    const struct repo_options opt = {.wait_ms = 1000, .codec = CODEC_ZSTD};
    struct error e = ERROR_INIT;

    *v = (struct saver){.spec = {.name = "app", .root = p->root, .sqlite = true}};
    snprintf(v->repo_path, sizeof(v->repo_path), "%s/%.12s", p->dir, repo);
    MUST(repo_init(v->repo_path, &e), e);
    MUST(repo_open(v->repo_path, REPO_WRITE, &opt, &v->repo, &e), e);
    saver_rules(v, NULL, NULL);
    if (getenv("WATCHKEEP_HELPER"))
        v->helper = sqlite_helper_new(NULL);
}

static inline void saver_close(struct saver *v)
{
    save_result_release(&v->last);
    rules_free(v->rules);
    repo_close(v->repo);
    sqlite_helper_free(v->helper);
}

/* The code of save_run; v->last is its result. */
static inline int try_save(struct saver *v, struct save_request *q)
{
    save_result_release(&v->last);
    error_clear(&v->error);
    q->repo = v->repo;
    q->watch = &v->spec;
    q->rules = v->rules;
    q->helper = v->helper;
    if (!q->kind)
        q->kind = SNAPSHOT_MANUAL;
    return save_run(q, &v->last, &v->error);
}

/* Everything, by signature. The number of the snapshot, 0 when nothing had changed. */
static inline uint64_t save_all(struct saver *v)
{
    struct save_request q = {0};

    MUST(try_save(v, &q), v->error);
    return v->last.snapshot;
}

static inline uint64_t save_named(struct saver *v, const char *name)
{
    struct save_request q = {.name = name};

    MUST(try_save(v, &q), v->error);
    return v->last.snapshot;
}

static inline uint64_t save_dirty(struct saver *v, const struct dirty_path *paths, size_t count)
{
    const struct dirty_set set = {paths, count};
    struct save_request q = {.dirty = &set};

    MUST(try_save(v, &q), v->error);
    return v->last.snapshot;
}
#define SAVE_DIRTY(v, ...)                                  \
    save_dirty(v, (const struct dirty_path[]){__VA_ARGS__}, \
               sizeof((const struct dirty_path[]){__VA_ARGS__}) / sizeof(struct dirty_path))

/* Numbers from a seed. */
struct lcg {
    uint64_t x;
};
static inline unsigned next(struct lcg *r, unsigned n)
{
    r->x = r->x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)(r->x >> 33) % n;
}

/* ---- the source ---- */

static inline void put_bytes(const struct place *p, const char *path, const void *bytes, size_t n)
{
    int fd = openat(p->rootfd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    SYS(fd);
    assert_int_equal(write(fd, bytes, n), (ssize_t)n);
    close(fd);
}

static inline void put_text(const struct place *p, const char *path, const char *text)
{
    put_bytes(p, path, text, strlen(text));
}

static inline void make_dir(const struct place *p, const char *path)
{
    SYS(mkdirat(p->rootfd, path, 0755));
}

/* Until no stamp of the source is so fresh that it could not be trusted. */
static inline void let_stamps_age(const struct place *p)
{
    struct stat st;
    int fd = openat(p->rootfd, "../clock", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    struct wall_time now;

    SYS(fd);
    SYS(futimens(fd, NULL));
    SYS(fstat(fd, &st));
    close(fd);
    do {
        now = clock_wall();
    } while ((now.s - st.st_ctim.tv_sec) * 1000000000 + (int64_t)now.ns - st.st_ctim.tv_nsec <
             15 * 1000 * 1000);
}

/* ---- as text ---- */

static inline int lines_by_path(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

struct dump {
    char **lines;
    size_t count, cap;
    struct dump_link {
        uint64_t a, b;
        char path[512];
    } links[256];
    size_t link_count;
    bool times;
};

static inline void dump_line(struct dump *d, char *line)
{
    assert_non_null(line);
    if (d->count == d->cap) {
        d->cap = d->cap ? 2 * d->cap : 64;
        d->lines = realloc(d->lines, d->cap * sizeof(*d->lines));
        assert_non_null(d->lines);
    }
    d->lines[d->count++] = line;
}

static inline const char *dump_link_of(struct dump *d, uint64_t a, uint64_t b, const char *path)
{
    for (size_t i = 0; i < d->link_count; i++) {
        if (d->links[i].a == a && d->links[i].b == b)
            return d->links[i].path;
    }
    assert_true(d->link_count < 256);
    struct dump_link *l = &d->links[d->link_count++];
    l->a = a;
    l->b = b;
    snprintf(l->path, sizeof(l->path), "%.500s", path);
    return "";
}

static inline char *dump_text(struct dump *d)
{
    struct buffer b = BUFFER_INIT;

    if (d->count > 0)
        qsort(d->lines, d->count, sizeof(*d->lines), lines_by_path);
    for (size_t i = 0; i < d->count; i++) {
        buffer_append_str(&b, d->lines[i]);
        buffer_append_str(&b, "\n");
        free(d->lines[i]);
    }
    free(d->lines);
    char *text = strdup(buffer_cstr(&b));
    buffer_release(&b);
    free(d);
    return text;
}

static inline char *describe(const struct dump *d, const char *path, unsigned mode, unsigned uid,
                             uint64_t size, const char *content, const char *link, int64_t mtime_s,
                             uint32_t mtime_ns, unsigned flags, const char *reason)
{
    char times[64] = "", what[300] = "";

    if (d->times)
        snprintf(times, sizeof(times), " %lld.%09u", (long long)mtime_s, mtime_ns);
    if (flags)
        snprintf(what, sizeof(what), " flags=%u %s", flags, reason ? reason : "");
    return text_format("%s %06o %u %llu %s%s%s%s%s", path, mode, uid, (unsigned long long)size,
                       content, *link ? " =" : "", link, times, what);
}

/* What really is on the disk. skip: a name left out anywhere, or NULL. */
static inline void dump_disk_at(struct dump *d, int dirfd, const char *prefix, const char *skip)
{
    DIR *dir = fdopendir(openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    struct dirent *x;
    struct {
        char name[256];
    } *names = NULL;
    size_t count = 0;

    assert_non_null(dir);
    while ((x = readdir(dir))) {
        if (strcmp(x->d_name, ".") == 0 || strcmp(x->d_name, "..") == 0 ||
            (skip && strcmp(x->d_name, skip) == 0))
            continue;
        names = realloc(names, (count + 1) * sizeof(*names));
        assert_non_null(names);
        snprintf(names[count++].name, sizeof(names->name), "%s", x->d_name);
    }
    closedir(dir);
    if (count > 1) /* links are named after the first path in byte order */
        qsort(names, count, sizeof(*names), (int (*)(const void *, const void *))strcmp);
    for (size_t i = 0; i < count; i++) {
        struct stat st;
        char path[4096], content[128] = "-";
        snprintf(path, sizeof(path), "%s%s%s", prefix, *prefix ? "/" : "", names[i].name);
        SYS(fstatat(dirfd, names[i].name, &st, AT_SYMLINK_NOFOLLOW));
        if (S_ISREG(st.st_mode)) {
            struct hash_stream *h = hash_stream_new();
            static uint8_t buf[65536];
            struct hash id;
            ssize_t n;
            int fd = openat(dirfd, names[i].name, O_RDONLY | O_CLOEXEC);
            SYS(fd);
            while ((n = read(fd, buf, sizeof(buf))) > 0)
                hash_stream_update(h, buf, (size_t)n);
            close(fd);
            hash_stream_final(h, &id);
            hash_stream_free(h);
            text_hex(id.b, 8, content);
        } else if (S_ISLNK(st.st_mode)) {
            ssize_t n = readlinkat(dirfd, names[i].name, content, sizeof(content) - 1);
            SYS(n);
            content[n] = 0;
        }
        const char *link = "";
        if (!S_ISDIR(st.st_mode) && st.st_nlink > 1)
            link = dump_link_of(d, st.st_dev, st.st_ino, path);
        dump_line(d, describe(d, path, st.st_mode, st.st_uid,
                              S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0, content, link,
                              st.st_mtim.tv_sec, (uint32_t)st.st_mtim.tv_nsec, 0, NULL));
        if (S_ISDIR(st.st_mode)) {
            int fd = openat(dirfd, names[i].name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            SYS(fd);
            dump_disk_at(d, fd, path, skip);
            close(fd);
        }
    }
    free(names);
}

static inline char *dump_disk(const struct place *p, bool times)
{
    struct dump *d = calloc(1, sizeof(*d));

    assert_non_null(d);
    d->times = times;
    dump_disk_at(d, p->rootfd, "", NULL);
    return dump_text(d);
}

/* The content of a node, holes filled with zeros. */
struct content {
    struct chunk_source *source;
    struct buffer stream;
};

static inline int take_content(void *ctx, uint64_t off, const struct chunk_ref *ref,
                               struct error *e)
{
    struct content *c = ctx;
    const uint8_t *p;
    size_t n;
    int rc = chunk_source_get(c->source, &ref->id, &p, &n, e);

    if (rc < 0)
        return rc;
    assert_int_equal(off, c->stream.len);
    assert_int_equal(n, ref->len);
    buffer_append(&c->stream, p, n);
    return 0;
}

static inline void node_content(struct repo *repo, const struct node *n, struct buffer *out)
{
    struct content c = {.stream = BUFFER_INIT};
    struct error e = ERROR_INIT;
    const struct node_extent whole = {0, n->size};
    const struct node_extent *runs = n->extent_count ? n->extents : &whole;
    size_t at = 0;

    MUST(chunk_source_open(repo, &c.source, &e), e);
    MUST(content_walk(c.source, n, take_content, &c, &e), e);
    chunk_source_close(c.source);
    assert_true(n->size < (UINT64_C(1) << 30));
    uint8_t *p = buffer_grow(out, (size_t)n->size);
    assert_true(p || n->size == 0);
    if (n->size)
        memset(p, 0, (size_t)n->size);
    if (n->ref_count > 0) {
        for (uint32_t i = 0; i < (n->extent_count ? n->extent_count : 1); i++) {
            assert_true(runs[i].off + runs[i].len <= n->size);
            assert_true(at + runs[i].len <= c.stream.len);
            memcpy(p + runs[i].off, c.stream.data + at, (size_t)runs[i].len);
            at += (size_t)runs[i].len;
        }
    }
    assert_int_equal(at, c.stream.len);
    buffer_release(&c.stream);
}

static inline unsigned type_bits(uint8_t type)
{
    static const unsigned bits[] = {0,       S_IFREG,  S_IFDIR, S_IFLNK,
                                    S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK};

    return bits[type];
}

static inline void dump_folder(struct dump *d, struct repo *repo, int64_t watch, int64_t at,
                               uint64_t folder, const char *prefix)
{
    struct catalog *c = repo_catalog(repo);
    struct error e = ERROR_INIT;
    struct name_iter *it;
    struct name_row row;
    int rc;

    MUST(catalog_children(c, watch, folder, at, &it, &e), e);
    while ((rc = name_iter_step(it, &row, &e)) == 1) {
        char path[4096], content[128] = "-";
        struct node n;
        size_t names = 0;
        uint64_t node = row.node;
        snprintf(path, sizeof(path), "%s%s%s", prefix, *prefix ? "/" : "", row.name);
        MUST(node_decode(row.meta, row.meta_len, &n, &e), e);
        if (n.type == NODE_FILE) {
            struct buffer b = BUFFER_INIT;
            struct hash id;
            node_content(repo, &n, &b);
            hash_sha256(b.data, b.len, &id);
            text_hex(id.b, 8, content);
            buffer_release(&b);
        } else if (n.target) {
            snprintf(content, sizeof(content), "%s", n.target);
        }
        const char *link = "";
        MUST(catalog_node_names(c, watch, node, at, &names, &e), e);
        if (n.type != NODE_FOLDER && names > 1)
            link = dump_link_of(d, node, 0, path);
        dump_line(d, describe(d, path, type_bits(n.type) | n.mode, n.uid, n.size, content, link,
                              n.mtime_s, n.mtime_ns, n.flags & (NODE_INCOMPLETE | NODE_SQLITE),
                              n.reason));
        if (n.type == NODE_FOLDER)
            dump_folder(d, repo, watch, at, node, path);
        node_release(&n);
    }
    MUST(rc, e);
    name_iter_close(it);
}

static inline int64_t watch_serial(struct saver *v)
{
    struct error e = ERROR_INIT;
    struct watch_row w;

    MUST(catalog_watch_by_name(repo_catalog(v->repo), v->spec.name, &w, &e), e);
    int64_t serial = w.serial;
    watch_row_release(&w);
    return serial;
}

/* A snapshot; 0 = the newest state. */
static inline char *dump_snapshot(struct saver *v, uint64_t number, bool times)
{
    struct dump *d = calloc(1, sizeof(*d));

    assert_non_null(d);
    d->times = times;
    dump_folder(d, v->repo, watch_serial(v), number ? (int64_t)number : CATALOG_OPEN, NODE_ROOT,
                "");
    return dump_text(d);
}

static inline struct commit commit_of(struct saver *v, uint64_t number, bool *whole)
{
    struct error e = ERROR_INIT;
    struct snapshot_row row;

    MUST(catalog_snapshot(repo_catalog(v->repo), number, &row, &e), e);
    struct commit c = row.commit;
    if (whole)
        *whole = row.whole;
    c.owned = NULL;
    c.name = c.note = c.gap = c.rules = c.root = c.watch_name = c.version = NULL;
    c.needs = NULL;
    snapshot_row_release(&row);
    return c;
}

/* The node of a path now, 0 = none. */
static inline uint64_t node_at(struct saver *v, const char *path)
{
    struct error e = ERROR_INIT;
    uint64_t node = NODE_ROOT;
    int64_t watch = watch_serial(v);

    while (*path) {
        size_t n = strcspn(path, "/");
        int rc =
            catalog_lookup(repo_catalog(v->repo), watch, node, path, n, CATALOG_OPEN, &node, &e);
        if (rc == ERR_NOTFOUND)
            return 0;
        MUST(rc, e);
        path += n + (path[n] == '/');
    }
    return node;
}

/* The version of a path now; release the node. */
static inline struct node version_at(struct saver *v, const char *path)
{
    struct buffer b = BUFFER_INIT;
    struct error e = ERROR_INIT;
    struct node n;

    MUST(catalog_node(repo_catalog(v->repo), watch_serial(v), node_at(v, path), CATALOG_OPEN, &b,
                      &e),
         e);
    MUST(node_decode(b.data, b.len, &n, &e), e);
    buffer_release(&b);
    return n;
}

/* Every chunk has as many references as there are. */
static inline void assert_counted(struct saver *v)
{
    struct error e = ERROR_INIT;
    uint64_t wrong = 0;

    MUST(repo_audit_refs(v->repo, &wrong, &e), e);
    assert_int_equal(wrong, 0);
}

static inline void assert_holds(struct saver *v, const struct place *p, bool times)
{
    char *disk = dump_disk(p, times), *stored = dump_snapshot(v, 0, times);

    assert_string_equal(stored, disk);
    free(disk);
    free(stored);
}

#endif
