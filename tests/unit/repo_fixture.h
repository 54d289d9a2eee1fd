/* repo_fixture.h - saves of flat trees through the store's transactions, and a model of what every
 * acknowledged snapshot holds, to compare with.
 *
 * A file's content follows from a seed and a length. */
#ifndef WK_TESTS_REPO_FIXTURE_H
#define WK_TESTS_REPO_FIXTURE_H

#include "base/clock.h"
#include "io/fileops.h"
#include "store/chunk_list.h"
#include "store/repository.h"

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "scratch.h"
#include "store_test.h"

#define CHUNK (32u * 1024)
#define FILES_MAX 24
#define SNAPSHOTS_MAX 64
#ifndef FIXTURE_ROOT
#define FIXTURE_ROOT "/srv/app" /* of every watch */
#endif

struct model_file {
    char name[24];
    uint64_t seed, len;
};

struct model_tree {
    struct model_file files[FILES_MAX];
    size_t count;
};

struct model_snapshot {
    uint64_t number;
    char watch[16];
    struct model_tree tree;
    bool dropped;
};

struct model {
    struct model_snapshot snapshots[SNAPSHOTS_MAX];
    size_t count;
};

static inline void tree_set(struct model_tree *t, const char *name, uint64_t seed, uint64_t len)
{
    size_t i = 0;

    while (i < t->count && strcmp(t->files[i].name, name) != 0)
        i++;
    assert_true(i < FILES_MAX);
    if (i == t->count)
        t->count++;
    snprintf(t->files[i].name, sizeof(t->files[i].name), "%s", name);
    t->files[i].seed = seed;
    t->files[i].len = len;
}

static inline void tree_remove(struct model_tree *t, const char *name)
{
    for (size_t i = 0; i < t->count; i++) {
        if (strcmp(t->files[i].name, name) == 0) {
            t->files[i] = t->files[--t->count];
            return;
        }
    }
}

static inline const struct model_file *tree_find(const struct model_tree *t, const char *name)
{
    for (size_t i = 0; i < t->count; i++)
        if (strcmp(t->files[i].name, name) == 0)
            return &t->files[i];
    return NULL;
}

/* Even seeds compress, odd ones do not. */
static inline uint8_t *content_of(const struct model_file *f)
{
    uint8_t *p = must_alloc(f->len);
    uint64_t seed = f->seed, word;

    if (f->seed % 2 == 0) {
        fill_text(p, f->len, f->seed);
        return p;
    }
    for (uint64_t i = 0; i < f->len; i += sizeof(word)) {
        word = next_random(&seed);
        memcpy(p + i, &word, f->len - i < sizeof(word) ? f->len - i : sizeof(word));
    }
    return p;
}

/* The same, made once and kept until the process ends. For one thread. */
static inline const uint8_t *kept_content(const struct model_file *f)
{
    static struct {
        uint64_t seed, len;
        uint8_t *bytes;
    } kept[64];
    static size_t count;

    for (size_t i = 0; i < count; i++)
        if (kept[i].seed == f->seed && kept[i].len == f->len)
            return kept[i].bytes;
    if (count == sizeof(kept) / sizeof(kept[0]))
        free(kept[--count].bytes);
    kept[count].seed = f->seed;
    kept[count].len = f->len;
    kept[count].bytes = content_of(f);
    return kept[count++].bytes;
}

/* ---- saving ---- */

static inline int put_chunk(struct txn *t, const struct hash *id, const void *p, size_t n,
                            bool is_list, struct error *e)
{
    const struct block_chunk chunk = {.id = *id, .raw_len = (uint32_t)n};

    int rc = txn_claim(t, id, e);
    return rc <= 0 ? rc : txn_put_block(t, &chunk, 1, p, (uint32_t)n, is_list, NULL, NULL, 0, e);
}

static inline int put_list_chunk(void *ctx, const struct hash *id, const void *p, size_t n,
                                 struct error *e)
{
    return put_chunk(ctx, id, p, n, true, e);
}

static inline int put_content(struct txn *t, const struct model_file *f, struct node *n,
                              struct error *e)
{
    uint8_t *p = content_of(f);
    int rc = 0;

    n->size = f->len;
    n->ref_count = (uint32_t)((f->len + CHUNK - 1) / CHUNK);
    n->refs = must_alloc(n->ref_count * sizeof(*n->refs));
    for (uint32_t i = 0; rc == 0 && i < n->ref_count; i++) {
        size_t off = (size_t)i * CHUNK;
        size_t len = f->len - off < CHUNK ? f->len - off : CHUNK;
        hash_sha256(p + off, len, &n->refs[i].id);
        n->refs[i].len = len;
        rc = put_chunk(t, &n->refs[i].id, p + off, len, false, e);
    }
    if (rc == 0 && n->ref_count > NODE_INLINE_REFS)
        rc = chunk_list_fold(&n->refs, &n->ref_count, &n->depth, put_list_chunk, t, e);
    free(p);
    return rc;
}

static inline int put_file(struct txn *t, const struct model_file *f, struct error *e)
{
    struct node n = {.type = NODE_FILE, .mode = 0644, .mtime_s = (int64_t)f->seed};
    struct error absent = ERROR_INIT;
    struct cache_key key = {.ino = f->seed};
    uint64_t id = 0;

    int rc = catalog_lookup(txn_catalog(t), txn_watch_row(t)->serial, NODE_ROOT, f->name,
                            strlen(f->name), CATALOG_OPEN, &id, &absent);
    bool known = rc == 0;
    if (rc < 0 && rc != ERR_NOTFOUND) {
        *e = absent;
        return rc;
    }
    if (!known)
        id = txn_new_node(t);
    rc = put_content(t, f, &n, e);
    if (rc == 0 && !known)
        rc = txn_name_put(t, NODE_ROOT, f->name, strlen(f->name), id, e);
    if (rc == 0)
        rc = txn_node_put(t, id, &n, e);
    if (rc == 0)
        rc = txn_cache_put(t, id, &key, &f->seed, sizeof(f->seed), e);
    free(n.refs);
    return rc;
}

static inline int remove_file(struct txn *t, const char *name, struct error *e)
{
    uint64_t id = 0;

    int rc = catalog_lookup(txn_catalog(t), txn_watch_row(t)->serial, NODE_ROOT, name, strlen(name),
                            CATALOG_OPEN, &id, e);
    if (rc == 0)
        rc = txn_name_remove(t, NODE_ROOT, name, strlen(name), e);
    return rc == 0 ? txn_node_remove(t, id, e) : rc;
}

/* Operations that lead from one tree to another. */
static inline int put_changes(struct txn *t, const struct model_tree *from,
                              const struct model_tree *to, struct error *e)
{
    const struct node root = {.type = NODE_FOLDER, .mode = 0755};
    int rc = txn_watch_row(t)->last == 0 ? txn_node_put(t, NODE_ROOT, &root, e) : 0;

    for (size_t i = 0; rc == 0 && i < to->count; i++) {
        const struct model_file *old = tree_find(from, to->files[i].name);
        if (!old || old->seed != to->files[i].seed || old->len != to->files[i].len)
            rc = put_file(t, &to->files[i], e);
    }
    for (size_t i = 0; rc == 0 && i < from->count; i++)
        if (!tree_find(to, from->files[i].name))
            rc = remove_file(t, from->files[i].name, e);
    return rc;
}

static inline const struct model_tree *last_tree(const struct model *m, const char *watch)
{
    static const struct model_tree empty;
    const struct model_tree *found = &empty;

    for (size_t i = 0; i < m->count; i++)
        if (strcmp(m->snapshots[i].watch, watch) == 0)
            found = &m->snapshots[i].tree;
    return found;
}

static inline void model_add(struct model *m, const char *watch, uint64_t number,
                             const struct model_tree *tree)
{
    assert_true(m->count < SNAPSHOTS_MAX);
    struct model_snapshot *s = &m->snapshots[m->count++];
    *s = (struct model_snapshot){.number = number, .tree = *tree};
    snprintf(s->watch, sizeof(s->watch), "%s", watch);
}

static inline int begin_save(struct repo *r, const char *watch, struct txn **t, struct error *e)
{
    const struct txn_watch w = {.name = watch, .root = FIXTURE_ROOT, .rules = "{}"};

    return txn_begin(r, &w, t, e);
}

/* Links with targets that do not compress: `count` of them make as many operations. */
static inline void put_links(struct txn *t, unsigned from, unsigned count)
{
    struct node n = {.type = NODE_SYMLINK};
    struct error e = ERROR_INIT;
    char name[32], target[65];
    struct hash random;

    for (unsigned i = from; i < from + count; i++) {
        uint64_t node = txn_new_node(t);
        snprintf(name, sizeof(name), "link-%06u", i);
        hash_sha256(name, strlen(name), &random);
        for (int b = 0; b < 32; b++)
            snprintf(target + 2 * b, 3, "%02x", random.b[b]);
        n.target = target;
        n.target_len = 64;
        OK(txn_name_put(t, NODE_ROOT, name, strlen(name), node, &e), e);
        OK(txn_node_put(t, node, &n, &e), e);
    }
}

static int64_t fixture_time = 1700000000; /* of every commit */

static inline int end_save(struct txn *t, const char *name, const struct model_tree *tree,
                           uint64_t *number, struct error *e)
{
    struct commit c = {
        .kind = SNAPSHOT_CHANGE, .time = {.s = fixture_time}, .files = tree->count, .name = name};

    int rc = txn_commit(t, &c, e);
    *number = c.number;
    return rc;
}

/* Save tree as the watch's next state; acknowledged saves go into the model. */
static inline int save_named(struct repo *r, struct model *m, const char *watch, const char *name,
                             const struct model_tree *tree, struct error *e)
{
    struct txn *t;
    uint64_t number;

    int rc = begin_save(r, watch, &t, e);
    if (rc < 0)
        return rc;
    rc = put_changes(t, last_tree(m, watch), tree, e);
    if (rc < 0) {
        txn_abort(t);
        return rc;
    }
    rc = end_save(t, name, tree, &number, e);
    if (rc == 0)
        model_add(m, watch, number, tree);
    return rc;
}

static inline int save(struct repo *r, struct model *m, const char *watch,
                       const struct model_tree *tree, struct error *e)
{
    return save_named(r, m, watch, NULL, tree, e);
}

/* ---- checking ---- */

struct compare {
    struct chunk_source *source;
    const uint8_t *want;
    uint64_t len;
};

static inline int compare_chunk(void *ctx, uint64_t off, const struct chunk_ref *ref,
                                struct error *e)
{
    struct compare *c = ctx;
    const uint8_t *p;
    size_t len;

    int rc = chunk_source_get(c->source, &ref->id, &p, &len, e);
    if (rc < 0)
        return rc;
    assert_int_equal(len, ref->len);
    assert_true(off + len <= c->len);
    if (memcmp(p, c->want + off, len) != 0) /* which is much faster */
        assert_memory_equal(p, c->want + off, len);
    return 0;
}

static inline void check_file(struct chunk_source *s, const struct model_file *f,
                              const uint8_t *meta, size_t len)
{
    struct error e = ERROR_INIT;
    struct compare c = {.source = s, .want = kept_content(f), .len = f->len};
    struct node n;

    OK(node_decode(meta, len, &n, &e), e);
    assert_int_equal(n.size, f->len);
    OK(content_walk(s, &n, compare_chunk, &c, &e), e);
    node_release(&n);
}

static inline void check_tree(struct repo *r, int64_t watch, int64_t at,
                              const struct model_tree *tree)
{
    struct error e = ERROR_INIT;
    struct chunk_source *s;
    struct name_iter *it;
    struct name_row row;
    size_t seen = 0;
    int rc;

    OK(chunk_source_open(r, &s, &e), e);
    OK(catalog_children(repo_catalog(r), watch, NODE_ROOT, at, &it, &e), e);
    while ((rc = name_iter_step(it, &row, &e)) == 1) {
        const struct model_file *f = tree_find(tree, row.name);
        if (!f) {
            print_error("snapshot %" PRId64 " holds '%s', which it should not\n", at, row.name);
            fail();
        }
        check_file(s, f, row.meta, row.meta_len);
        seen++;
    }
    OK(rc, e);
    name_iter_close(it);
    chunk_source_close(s);
    assert_int_equal(seen, tree->count);
}

/* Every acknowledged snapshot is there, whole, and holds what was saved. */
static inline void check_model(struct repo *r, const struct model *m)
{
    struct error e = ERROR_INIT;
    struct snapshot_row row;

    for (size_t i = 0; i < m->count; i++) {
        const struct model_snapshot *s = &m->snapshots[i];
        if (s->dropped)
            continue;
        OK(catalog_snapshot(repo_catalog(r), s->number, &row, &e), e);
        assert_string_equal(row.watch_name, s->watch);
        assert_true(row.whole);
        int64_t serial = row.watch_serial;
        snapshot_row_release(&row);
        check_tree(r, serial, (int64_t)s->number, &s->tree);
    }
}

static inline int count_snapshot(void *ctx, const struct snapshot_row *s)
{
    ++*(size_t *)ctx;
    return 0;
}

static inline size_t snapshot_count(struct repo *r)
{
    struct error e = ERROR_INIT;
    size_t count = 0;

    OK(catalog_snapshots(repo_catalog(r), 0, 0, UINT64_MAX, false, count_snapshot, &count, &e), e);
    return count;
}

static inline void check_refs(struct repo *r)
{
    struct error e = ERROR_INIT;
    uint64_t wrong = 0;

    OK(repo_audit_refs(r, &wrong, &e), e);
    assert_int_equal(wrong, 0);
}

/* ---- opening ---- */

struct notices {
    unsigned count;
    char last[512];
    char all[4096]; /* a line each, as far as there is room */
};

static inline void take_notice(void *ctx, const char *text)
{
    struct notices *n = ctx;

    n->count++;
    snprintf(n->last, sizeof(n->last), "%s", text);
    size_t len = strlen(n->all);
    snprintf(n->all + len, sizeof(n->all) - len, "%s\n", text);
    if (getenv("WK_TEST_NOTICES"))
        print_message("notice: %s\n", text);
}

static inline int open_repo(const char *path, enum repo_mode mode, struct notices *n,
                            struct repo **r, struct error *e)
{
    static struct notices unread;
    struct repo_options opt = {.codec = CODEC_ZSTD, .notice = take_notice, .ctx = n ? n : &unread};

    return repo_open(path, mode, &opt, r, e);
}

/* ---- the catalog as text ---- */

static inline void dump_table(sqlite3 *db, const char *sql, struct buffer *out)
{
    sqlite3_stmt *s;

    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &s, NULL), SQLITE_OK);
    buffer_printf(out, "%s\n", sql);
    while (sqlite3_step(s) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(s); i++) {
            if (sqlite3_column_type(s, i) == SQLITE_BLOB) {
                const uint8_t *p = sqlite3_column_blob(s, i);
                for (int k = 0; k < sqlite3_column_bytes(s, i); k++)
                    buffer_printf(out, "%02x", p[k]);
            } else {
                const unsigned char *p = sqlite3_column_text(s, i);
                buffer_printf(out, "%s", p ? (const char *)p : "NULL");
            }
            buffer_append_str(out, "|");
        }
        buffer_append_str(out, "\n");
    }
    sqlite3_finalize(s);
}

/* All rows but those of pure caches, and of chunks that nothing references. */
static inline char *dump_catalog(const char *repo_path)
{
    static const char *const tables[] = {
        "SELECT * FROM watches ORDER BY serial",
        "SELECT * FROM snapshots ORDER BY number",
        "SELECT * FROM names ORDER BY watch,parent,name",
        "SELECT * FROM old_names ORDER BY watch,parent,to_,name,from_",
        "SELECT * FROM nodes ORDER BY id",
        "SELECT * FROM old_nodes ORDER BY watch,node,to_",
        "SELECT id,raw_off,raw_len,refs FROM chunks WHERE refs>0 ORDER BY id",
        "SELECT * FROM lists ORDER BY id,depth",
        "SELECT * FROM deltas ORDER BY pack,offset",
        "SELECT * FROM marks ORDER BY sequence",
        "SELECT chain,commit_pack,commit_offset,next_number FROM state",
    };
    struct buffer out = BUFFER_INIT;
    char path[256];
    sqlite3 *db;

    snprintf(path, sizeof(path), "%s/catalog.db", repo_path);
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
        dump_table(db, tables[i], &out);
    sqlite3_close(db);
    buffer_append(&out, "", 1);
    assert_true(buffer_ok(&out));
    return (char *)out.data;
}

static inline void compare_rebuilt(struct repo *r, const char *repo_path, const char *up_to)
{
    struct error e = ERROR_INIT;
    char *live = dump_catalog(repo_path);

    OK(repo_rebuild(r, &e), e);
    char *rebuilt = dump_catalog(repo_path);
    if (up_to)
        *strstr(live, up_to) = *strstr(rebuilt, up_to) = '\0';
    assert_string_equal(live, rebuilt);
    free(live);
    free(rebuilt);
}

/* The catalog made anew from the packs is the one there was. */
static inline void check_rebuilt(struct repo *r, const char *repo_path)
{
    compare_rebuilt(r, repo_path, NULL);
}

/* The same after something was broken off: the next number may be higher in the one that lived. */
static inline void check_rebuilt_after_fault(struct repo *r, const char *repo_path)
{
    compare_rebuilt(r, repo_path, "SELECT chain");
}

#endif
