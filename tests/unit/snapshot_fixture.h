/* snapshot_fixture.h - snapshots made straight through the store's transaction calls, for the tests
 * of what reads them. A tree is described entry by entry; chunks are as small as the test wants. */
#ifndef WK_TEST_SNAPSHOT_FIXTURE_H
#define WK_TEST_SNAPSHOT_FIXTURE_H

#include "base/bytes.h"
#include "base/clock.h"
#include "io/safe_path.h"
#include "store/chunk_list.h"
#include "store/repository.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define FX_TIME 1700000000

struct fx {
    char dir[64]; /* scratch of the test */
    char repo_path[96];
    struct repo *repo;
    struct txn *txn;
    const char *watch;
    size_t chunk_len; /* how files are cut; 0: one chunk */
};

static inline void fx_ok_at(int rc, const struct error *e, const char *file, int line)
{
    if (rc < 0) {
        print_error("%s:%d: %d %s\n", file, line, rc, e->message);
        fail();
    }
}
#define FX_OK(rc, e) fx_ok_at((rc), &(e), __FILE__, __LINE__)

static inline void fx_reopen(struct fx *f, enum repo_mode mode)
{
    struct error e = ERROR_INIT;
    struct repo_options opt = {.wait_ms = 5000, .codec = CODEC_ZSTD};

    repo_close(f->repo);
    f->repo = NULL;
    FX_OK(repo_open(f->repo_path, mode, &opt, &f->repo, &e), e);
}

static inline void fx_open(struct fx *f)
{
    struct error e = ERROR_INIT;
    const char *tmp = getenv("TMPDIR");

    memset(f, 0, sizeof(*f));
    f->watch = "app";
    snprintf(f->dir, sizeof(f->dir), "%.30s/wk-test-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->repo_path, sizeof(f->repo_path), "%.60s/repo", f->dir);
    FX_OK(repo_init(f->repo_path, &e), e);
    fx_reopen(f, REPO_WRITE);
}

static inline void fx_close(struct fx *f)
{
    struct error e = ERROR_INIT;

    repo_close(f->repo);
    f->repo = NULL;
    int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    FX_OK(remove_tree(root, f->dir + 1, &e), e);
    close(root);
}

/* As cmocka's setup and teardown; *state is the struct fx. */
static inline int fx_setup(void **state)
{
    struct fx *f = calloc(1, sizeof(*f));

    *state = f;
    fx_open(f);
    return 0;
}

static inline int fx_teardown(void **state)
{
    fx_close(*state);
    free(*state);
    return 0;
}

/* ---- making snapshots ---- */

static inline struct node fx_meta(uint8_t type, uint16_t mode)
{
    return (struct node){.type = type,
                         .mode = mode,
                         .uid = geteuid(),
                         .gid = getegid(),
                         .mtime_s = FX_TIME,
                         .mtime_ns = 123456789};
}

static inline void fx_node(struct fx *f, uint64_t id, const struct node *n)
{
    struct error e = ERROR_INIT;

    FX_OK(txn_node_put(f->txn, id, n, &e), e);
}

static inline void fx_begin(struct fx *f)
{
    struct error e = ERROR_INIT;
    char root[96];

    snprintf(root, sizeof(root), "%.60s/%.30s", f->dir, f->watch);
    struct txn_watch w = {.name = f->watch, .root = root, .rules = ""};
    FX_OK(txn_begin(f->repo, &w, &f->txn, &e), e);
    if (txn_watch_row(f->txn)->last == 0) {
        struct node n = fx_meta(NODE_FOLDER, 0755);
        fx_node(f, NODE_ROOT, &n);
    }
}

static inline void fx_name(struct fx *f, uint64_t parent, const char *name, uint64_t node)
{
    struct error e = ERROR_INIT;

    FX_OK(txn_name_put(f->txn, parent, name, strlen(name), node, &e), e);
}

static inline void fx_unname(struct fx *f, uint64_t parent, const char *name)
{
    struct error e = ERROR_INIT;

    FX_OK(txn_name_remove(f->txn, parent, name, strlen(name), &e), e);
}

static inline void fx_remove(struct fx *f, uint64_t parent, const char *name, uint64_t node)
{
    struct error e = ERROR_INIT;

    fx_unname(f, parent, name);
    FX_OK(txn_node_remove(f->txn, node, &e), e);
}

static inline uint64_t fx_add(struct fx *f, uint64_t parent, const char *name, const struct node *n)
{
    uint64_t id = txn_new_node(f->txn);

    fx_node(f, id, n);
    fx_name(f, parent, name, id);
    return id;
}

static inline uint64_t fx_folder(struct fx *f, uint64_t parent, const char *name, uint16_t mode)
{
    struct node n = fx_meta(NODE_FOLDER, mode);

    return fx_add(f, parent, name, &n);
}

static inline void fx_put_chunk(struct fx *f, const void *p, size_t len, bool is_list,
                                struct hash *id)
{
    struct error e = ERROR_INIT;
    struct block_chunk c = {.raw_len = (uint32_t)len};

    hash_sha256(p, len, id);
    c.id = *id;
    int rc = txn_claim(f->txn, id, &e);
    FX_OK(rc, e);
    if (rc == 1)
        FX_OK(txn_put_block(f->txn, &c, 1, p, (uint32_t)len, is_list, NULL, NULL, 0, &e), e);
}

static inline int fx_list_sink(void *ctx, const struct hash *id, const void *p, size_t n,
                               struct error *e)
{
    struct hash made;

    fx_put_chunk(ctx, p, n, true, &made);
    assert_true(hash_equal(&made, id));
    return 0;
}

/* Store the stream and set refs, count and depth; free n->refs afterwards. */
static inline void fx_content(struct fx *f, const void *p, size_t len, struct node *n)
{
    struct error e = ERROR_INIT;
    size_t cut = f->chunk_len ? f->chunk_len : len;
    size_t count = len == 0 ? 0 : (len + cut - 1) / cut;

    n->refs = calloc(count + 1, sizeof(*n->refs));
    assert_non_null(n->refs);
    for (size_t i = 0; i < count; i++) {
        size_t at = i * cut;
        size_t now = len - at < cut ? len - at : cut;
        fx_put_chunk(f, (const uint8_t *)p + at, now, false, &n->refs[i].id);
        n->refs[i].len = now;
    }
    n->ref_count = (uint32_t)count;
    FX_OK(chunk_list_fold(&n->refs, &n->ref_count, &n->depth, fx_list_sink, f, &e), e);
}

static inline uint64_t fx_file_as(struct fx *f, uint64_t parent, const char *name, const void *p,
                                  size_t len, struct node n)
{
    if (n.extent_count == 0)
        n.size = len;
    fx_content(f, p, len, &n);
    uint64_t id = fx_add(f, parent, name, &n);
    free(n.refs);
    return id;
}

static inline uint64_t fx_file(struct fx *f, uint64_t parent, const char *name, const char *text)
{
    return fx_file_as(f, parent, name, text, strlen(text), fx_meta(NODE_FILE, 0644));
}

/* A new version of a file. */
static inline void fx_rewrite(struct fx *f, uint64_t id, const char *text)
{
    struct node n = fx_meta(NODE_FILE, 0644);

    n.size = strlen(text);
    fx_content(f, text, strlen(text), &n);
    fx_node(f, id, &n);
    free(n.refs);
}

static inline uint64_t fx_symlink(struct fx *f, uint64_t parent, const char *name,
                                  const char *target)
{
    struct node n = fx_meta(NODE_SYMLINK, 0777);

    n.target = target;
    n.target_len = (uint32_t)strlen(target);
    return fx_add(f, parent, name, &n);
}

static inline uint64_t fx_commit_as(struct fx *f, struct commit c)
{
    struct error e = ERROR_INIT;

    if (c.kind == 0)
        c.kind = SNAPSHOT_MANUAL;
    if (c.time.s == 0)
        c.time = (struct wall_time){.s = FX_TIME + 100};
    FX_OK(txn_commit(f->txn, &c, &e), e);
    f->txn = NULL;
    assert_true(c.number > 0);
    return c.number;
}

static inline uint64_t fx_commit(struct fx *f)
{
    return fx_commit_as(f, (struct commit){0});
}

static inline void fx_row(struct fx *f, uint64_t number, struct snapshot_row *row)
{
    struct error e = ERROR_INIT;

    FX_OK(catalog_snapshot(repo_catalog(f->repo), number, row, &e), e);
}

static inline void fx_mark(struct fx *f, uint8_t type, uint64_t number)
{
    struct error e = ERROR_INIT;
    struct mark m = {.type = type, .time = {.s = FX_TIME + 500}, .count = 1, .snapshots = &number};

    FX_OK(repo_mark(f->repo, &m, &e), e);
}

/* ---- looking at files ---- */

static inline const char *fx_path(struct fx *f, const char *rel)
{
    static char paths[4][512];
    static unsigned next;
    char *out = paths[next++ % 4];

    snprintf(out, 512, "%s/%s", f->dir, rel);
    return out;
}

static inline void fx_write(struct fx *f, const char *rel, const char *text)
{
    int fd = open(fx_path(f, rel), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

/* Content as a string; "(none)" when there is no such file. Static memory. */
static inline const char *fx_read(struct fx *f, const char *rel)
{
    static char text[65536];
    int fd = open(fx_path(f, rel), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        return "(none)";
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    assert_true(n >= 0);
    text[n] = 0;
    return text;
}

static inline bool fx_there(struct fx *f, const char *rel)
{
    struct stat st;

    return lstat(fx_path(f, rel), &st) == 0;
}

/* How many entries a folder of the scratch holds. */
static inline size_t fx_entries(struct fx *f, const char *rel)
{
    DIR *d = opendir(fx_path(f, rel));
    size_t n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

#endif
