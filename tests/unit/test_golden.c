/* Repositories of this format version, kept in tests/golden: each must come out as its `expect`
 * says. `test_golden --make DIR` writes them anew. */
#include "repo_fixture.h"

#include "snapshot/verify.h"

#include <dirent.h>
#include <fcntl.h>

#include "base/banned.h"

#define PIECE 64u
#define PIECES (NODE_INLINE_REFS + 4u)

/* ---- files ---- */

static struct buffer load(const char *folder, const char *name)
{
    struct buffer b = BUFFER_INIT;
    char path[1024], piece[4096];
    ssize_t n;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        print_error("%s: %s\n", path, strerror(errno));
    assert_true(fd >= 0);
    while ((n = read(fd, piece, sizeof(piece))) > 0)
        buffer_append(&b, piece, (size_t)n);
    close(fd);
    assert_true(n == 0 && buffer_ok(&b));
    return b;
}

static void store(const char *folder, const char *name, const struct buffer *b)
{
    char path[1024];

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, b->data, b->len), b->len);
    close(fd);
}

static void copy_file(const char *from, const char *to, const char *name)
{
    struct buffer b = load(from, name);

    store(to, name, &b);
    buffer_release(&b);
}

/* The format file and the packs: what a repository is without its caches. */
static void copy_repo(const char *from, const char *to)
{
    char path[1024], name[300];
    struct dirent *entry;

    assert_true(mkdir(to, 0700) == 0 || errno == EEXIST);
    snprintf(path, sizeof(path), "%s/packs", to);
    assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
    copy_file(from, to, "format");
    snprintf(path, sizeof(path), "%s/packs", from);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    while ((entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof(name), "packs/%s", entry->d_name);
        copy_file(from, to, name);
    }
    closedir(dir);
}

/* ---- what a repository holds, as text ---- */

struct listing {
    struct repo *repo;
    struct chunk_source *source;
    struct hash_stream *hash;
    struct buffer *out;
};

static int hash_chunk(void *ctx, uint64_t off, const struct chunk_ref *ref, struct error *e)
{
    struct listing *l = ctx;
    const uint8_t *p;
    size_t len;

    int rc = chunk_source_get(l->source, &ref->id, &p, &len, e);
    if (rc == 0)
        hash_stream_update(l->hash, p, len);
    return rc;
}

static void list_file(struct listing *l, const struct name_row *row)
{
    struct error e = ERROR_INIT;
    struct hash sum;
    struct node n;
    char hex[2 * sizeof(sum) + 1];

    OK(node_decode(row->meta, row->meta_len, &n, &e), e);
    l->hash = hash_stream_new();
    assert_non_null(l->hash);
    int rc = content_walk(l->source, &n, hash_chunk, l, &e);
    hash_stream_final(l->hash, &sum);
    hash_stream_free(l->hash);
    text_hex(&sum, sizeof(sum), hex);
    buffer_printf(l->out, "  %s %" PRIu64 " %s\n", row->name, (uint64_t)n.size,
                  rc < 0 ? error_word(rc) : hex);
    node_release(&n);
}

static int list_snapshot(void *ctx, const struct snapshot_row *s)
{
    struct listing *l = ctx;
    struct error e = ERROR_INIT;
    struct name_iter *it;
    struct name_row row;
    int rc;

    buffer_printf(l->out, "snapshot %" PRIu64 " of %s name %s%s%s\n", s->commit.number,
                  s->watch_name, s->commit.name && *s->commit.name ? s->commit.name : "-",
                  s->pinned ? " pinned" : "", s->whole ? "" : " not whole");
    OK(catalog_children(repo_catalog(l->repo), s->watch_serial, NODE_ROOT,
                        (int64_t)s->commit.number, &it, &e),
       e);
    while ((rc = name_iter_step(it, &row, &e)) == 1)
        list_file(l, &row);
    OK(rc, e);
    name_iter_close(it);
    return 0;
}

static void list_repo(struct repo *r, struct buffer *out)
{
    struct listing l = {.repo = r, .out = out};
    struct error e = ERROR_INIT;

    OK(chunk_source_open(r, &l.source, &e), e);
    OK(catalog_snapshots(repo_catalog(r), 0, 0, UINT64_MAX, false, list_snapshot, &l, &e), e);
    chunk_source_close(l.source);
}

/* ---- making ---- */

static void put_pieces(struct txn *t, const char *name, const void *bytes, size_t len, size_t piece,
                       const struct block_base *link, const void *base)
{
    struct node n = {.type = NODE_FILE, .mode = 0644, .size = len};
    struct error e = ERROR_INIT;
    uint64_t id = txn_new_node(t);

    n.ref_count = (uint32_t)((len + piece - 1) / piece);
    n.refs = must_alloc(n.ref_count * sizeof(*n.refs));
    for (uint32_t i = 0; i < n.ref_count; i++) {
        const uint8_t *p = (const uint8_t *)bytes + i * piece;
        struct block_chunk c = {.raw_len = (uint32_t)(len - i * piece)};
        if (c.raw_len > piece)
            c.raw_len = (uint32_t)piece;
        hash_sha256(p, c.raw_len, &c.id);
        n.refs[i] = (struct chunk_ref){.id = c.id, .len = c.raw_len};
        if (txn_claim(t, &c.id, &e) == 1)
            OK(txn_put_block(t, &c, 1, p, c.raw_len, false, link, base, link ? len : 0, &e), e);
    }
    if (n.ref_count > NODE_INLINE_REFS)
        OK(chunk_list_fold(&n.refs, &n.ref_count, &n.depth, put_list_chunk, t, &e), e);
    OK(txn_name_put(t, NODE_ROOT, name, strlen(name), id, &e), e);
    OK(txn_node_put(t, id, &n, &e), e);
    free(n.refs);
}

/* A file as a delta on another, and one whose chunks need a list. */
static void save_shapes(struct repo *r)
{
    const struct node root = {.type = NODE_FOLDER, .mode = 0755};
    struct block_base link = {.rank = 1, .depth = 1};
    uint8_t old[2048], changed[2048], many[PIECE * PIECES];
    const struct model_tree none = {.count = 3};
    struct error e = ERROR_INIT;
    uint64_t number;
    struct txn *t;

    fill_random(old, sizeof(old), 5);
    memcpy(changed, old, sizeof(old));
    memset(changed + 500, 'x', 40);
    fill_random(many, sizeof(many), 6);
    hash_sha256(old, sizeof(old), &link.id);
    OK(begin_save(r, "shapes", &t, &e), e);
    OK(txn_node_put(t, NODE_ROOT, &root, &e), e);
    put_pieces(t, "base", old, sizeof(old), sizeof(old), NULL, NULL);
    put_pieces(t, "delta", changed, sizeof(changed), sizeof(changed), &link, old);
    put_pieces(t, "listed", many, sizeof(many), PIECE, NULL, NULL);
    OK(end_save(t, "shapes", &none, &number, &e), e);
}

static void make_base(const char *path)
{
    static const enum codec codecs[] = {CODEC_ZSTD, CODEC_DEFLATE, CODEC_STORED};
    struct model *m = calloc(1, sizeof(*m));
    struct model_tree tree = {.count = 0};
    struct error e = ERROR_INIT;
    struct repo *r;

    assert_non_null(m);
    OK(repo_init(path, &e), e);
    for (unsigned i = 0; i < 3; i++) {
        struct repo_options opt = {.codec = codecs[i]};
        char name[8];
        snprintf(name, sizeof(name), "f%u", i);
        OK(repo_open(path, REPO_WRITE, &opt, &r, &e), e);
        tree_set(&tree, name, 2 + 2 * i, 700);
        OK(save_named(r, m, "app", i == 0 ? "first" : NULL, &tree, &e), e);
        if (i == 2) {
            uint64_t kept = m->snapshots[0].number, gone = m->snapshots[1].number;
            struct mark pin = {.type = MARK_PIN, .count = 1, .snapshots = &kept};
            save_shapes(r);
            OK(repo_mark(r, &pin, &e), e);
            OK(repo_drop(r, &gone, 1, &e), e);
        }
        repo_close(r);
    }
    free(m);
}

/* The last log pack, relative to the repository. */
static void log_name(const char *repo, char name[300])
{
    char path[1024];
    struct dirent *entry;

    snprintf(path, sizeof(path), "%s/packs", repo);
    name[0] = '\0';
    DIR *dir = opendir(path);
    assert_non_null(dir);
    while ((entry = readdir(dir)))
        if (strncmp(entry->d_name, "0-log-", 6) == 0 &&
            (!name[0] || strcmp(entry->d_name, name + 6) > 0))
            snprintf(name, 300, "packs/%s", entry->d_name);
    closedir(dir);
    assert_true(name[0]);
}

/* The same after upkeep: a fence behind a torn tail, seals, a checkpoint twice, a data pack with
 * what lived, and a log that goes on. */
static void make_upkept(const char *base, const char *path)
{
    static const struct upkeep everything = {.all = true, .keep_s = 0};
    struct model_tree tree = {.count = 0};
    struct model *m = calloc(1, sizeof(*m));
    struct error e = ERROR_INIT;
    char name[300];
    struct repo *r;

    assert_non_null(m);
    copy_repo(base, path);
    OK(open_repo(path, REPO_WRITE, NULL, &r, &e), e);
    OK(repo_upkeep(r, &everything, NULL, &e), e);
    repo_close(r);
    log_name(path, name);
    struct buffer b = load(path, name);
    buffer_append_str(&b, "torn off in the middle of a write");
    store(path, name, &b);
    buffer_release(&b);
    OK(open_repo(path, REPO_WRITE, NULL, &r, &e), e);
    tree_set(&tree, "later", 10, 500);
    OK(save(r, m, "second", &tree, &e), e);
    repo_close(r);
    free(m);
}

enum feature {
    INCOMPAT,
    RO_COMPAT,
    COMPAT,
    RECORD_KNOW,
    RECORD_SKIP,
    TORN,
    DAMAGED_HEADER,
    FOREIGN,
    MISSING
};

static void change_log(const char *repo, int what)
{
    struct error e = ERROR_INIT;
    struct pack_header h;
    char name[300];

    log_name(repo, name);
    struct buffer b = load(repo, name);
    OK(pack_header_decode(b.data, b.len, &h, false, &e), e);
    h.incompat = what == INCOMPAT ? UINT64_C(1) << 40 : 0;
    h.ro_compat = what == RO_COMPAT ? UINT64_C(1) << 40 : 0;
    h.compat = what == COMPAT ? UINT64_C(1) << 40 : 0;
    pack_header_encode(&h, b.data);
    if (what == RECORD_KNOW || what == RECORD_SKIP)
        record_encode(what == RECORD_KNOW ? 100 : 200, UINT64_C(1) << 20, h.pack_id, b.len, "new",
                      3, &b);
    if (what == TORN)
        b.len -= 24;
    store(repo, name, &b);
    buffer_release(&b);
}

static void change_pack(const char *repo, const char *pack, int what)
{
    struct error e = ERROR_INIT;
    struct pack_header h;
    char name[300], path[1024];

    snprintf(name, sizeof(name), "packs/%s", pack);
    snprintf(path, sizeof(path), "%s/%s", repo, name);
    if (what == MISSING) {
        assert_int_equal(unlink(path), 0);
        return;
    }
    struct buffer b = load(repo, name);
    OK(pack_header_decode(b.data, b.len, &h, false, &e), e);
    if (what == FOREIGN)
        h.repo_id[0] ^= 1;
    pack_header_encode(&h, b.data);
    if (what == DAMAGED_HEADER)
        b.data[50] ^= 1;
    store(repo, name, &b);
    buffer_release(&b);
}

/* The log that goes on behind the checkpoint, or what the checkpoint moved blocks to. */
static void change_second_log(const char *repo, int what)
{
    char name[300];

    log_name(repo, name);
    change_pack(repo, name + sizeof("packs/") - 1, what);
}

static void change_data(const char *repo, int what)
{
    char path[1024], name[300] = "";
    struct dirent *entry;

    snprintf(path, sizeof(path), "%s/packs", repo);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    while ((entry = readdir(dir)))
        if (strncmp(entry->d_name, "1-data-", 7) == 0)
            snprintf(name, sizeof(name), "%s", entry->d_name);
    closedir(dir);
    change_pack(repo, name, what);
}

static void change_format(const char *repo, int what)
{
    static const char *const words[] = {"\nincompat 0", "\nro-compat 0", "\ncompat 0"};
    struct buffer b = load(repo, "format");

    buffer_append(&b, "", 1);
    char *at = strstr((char *)b.data, words[what]);
    assert_non_null(at);
    at[strlen(words[what]) - 1] = '8';
    b.len--;
    if (what == COMPAT)
        buffer_append_str(&b, "colour blue\n");
    store(repo, "format", &b);
    buffer_release(&b);
}

static const struct golden {
    const char *name;
    bool upkept;
    void (*change)(const char *repo, int what);
    int what, read, write; /* codes of opening */
} all[] = {
    {"good", false, NULL, 0, 0, 0},
    {"torn-tail", false, change_log, TORN, 0, 0},
    {"compat-format", false, change_format, COMPAT, 0, 0},
    {"compat-pack", false, change_log, COMPAT, 0, 0},
    {"record-may-skip", false, change_log, RECORD_SKIP, 0, 0},
    {"ro-compat-format", false, change_format, RO_COMPAT, 0, ERR_NOREPO},
    {"ro-compat-pack", false, change_log, RO_COMPAT, 0, ERR_NOREPO},
    {"incompat-format", false, change_format, INCOMPAT, ERR_NOREPO, ERR_NOREPO},
    {"incompat-pack", false, change_log, INCOMPAT, ERR_NOREPO, ERR_NOREPO},
    {"record-must-know", false, change_log, RECORD_KNOW, ERR_NOREPO, ERR_NOREPO},
    {"upkept", true, NULL, 0, 0, 0},
    {"log-header-damaged", true, change_second_log, DAMAGED_HEADER, 0, 0},
    {"log-foreign", true, change_second_log, FOREIGN, 0, 0},
    {"log-missing", true, change_second_log, MISSING, 0, 0},
    {"data-header-damaged", true, change_data, DAMAGED_HEADER, 0, 0},
    {"data-foreign", true, change_data, FOREIGN, 0, 0},
    {"data-missing", true, change_data, MISSING, 0, 0},
};

/* What verify names. */
static void verify(struct repo *r, struct buffer *out)
{
    const struct verify_request req = {.repo = r, .level = VERIFY_FULL, .workers = 1};
    struct verify_result result;
    struct error e = ERROR_INIT;

    OK(verify_run(&req, &result, &e), e);
    buffer_printf(out, "verify: %" PRIu64 " errors\n", result.errors);
    for (size_t i = 0; i < result.damaged_count; i++) {
        const struct verify_damage *d = &result.damaged[i];
        buffer_printf(out, "  %s %s: %s\n", d->pack ? d->pack : "-", d->path ? d->path : "-",
                      d->reason);
    }
    verify_result_release(&result);
}

/* Open and tell; a writer also makes the catalog anew and must still hold the same. */
static void describe(const char *path, enum repo_mode mode, int want, struct buffer *out)
{
    struct error e = ERROR_INIT;
    struct buffer again = BUFFER_INIT;
    struct repo *r;

    int rc = open_repo(path, mode, NULL, &r, &e);
    if (rc != want)
        print_error("%s: %d, not %d: %s\n", path, rc, want, e.message);
    assert_int_equal(rc, want);
    buffer_printf(out, "%s: %s\n", mode == REPO_READ ? "read" : "write", rc < 0 ? "refused" : "ok");
    if (rc < 0)
        return;
    size_t from = out->len;
    list_repo(r, out);
    if (mode == REPO_READ)
        verify(r, out);
    if (mode == REPO_WRITE) {
        OK(repo_rebuild(r, &e), e);
        list_repo(r, &again);
        assert_int_equal(again.len, out->len - from);
        assert_memory_equal(again.data, out->data + from, again.len);
        check_refs(r);
    }
    buffer_release(&again);
    repo_close(r);
}

static void outcome(const struct golden *g, const char *from, const char *scratch,
                    struct buffer *out)
{
    char path[1024];

    snprintf(path, sizeof(path), "%s/%s.read", scratch, g->name);
    copy_repo(from, path);
    describe(path, REPO_READ, g->read, out);
    snprintf(path, sizeof(path), "%s/%s.write", scratch, g->name);
    copy_repo(from, path);
    describe(path, REPO_WRITE, g->write, out);
    assert_true(buffer_ok(out));
}

static void test_golden(void **state)
{
    struct scratch *s = *state;
    char from[512];

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        struct buffer got = BUFFER_INIT;
        snprintf(from, sizeof(from), "%s/%s", WK_TEST_GOLDEN, all[i].name);
        struct buffer want = load(from, "expect");
        outcome(&all[i], from, s->path, &got);
        buffer_append(&got, "", 1);
        buffer_append(&want, "", 1);
        assert_string_equal((char *)got.data, (char *)want.data);
        buffer_release(&got);
        buffer_release(&want);
    }
}

static const char *make_into;

static void make_golden(void **state)
{
    struct scratch *s = *state;
    char base[128], upkept[128], to[512];

    snprintf(base, sizeof(base), "%s/base", s->path);
    make_base(base);
    snprintf(upkept, sizeof(upkept), "%s/upkept", s->path);
    make_upkept(base, upkept);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        struct buffer expect = BUFFER_INIT;
        snprintf(to, sizeof(to), "%s/%s", make_into, all[i].name);
        copy_repo(all[i].upkept ? upkept : base, to);
        if (all[i].change)
            all[i].change(to, all[i].what);
        outcome(&all[i], to, s->path, &expect);
        store(to, "expect", &expect);
        buffer_release(&expect);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest make[] = {
        cmocka_unit_test_setup_teardown(make_golden, scratch_setup, scratch_teardown)};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_golden, scratch_setup, scratch_teardown)};

    if (argc == 3 && strcmp(argv[1], "--make") == 0) {
        make_into = argv[2];
        return cmocka_run_group_tests(make, NULL, NULL);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
