/* Verify: whatever bit turns, it is told, with the pack, the files and the snapshots it costs. */
#include "snapshot_fixture.h"

#include "base/random.h"
#include "snapshot/report.h"
#include "snapshot/restore.h"
#include "snapshot/verify.h"

#include "base/banned.h"

static struct verify_result result;
static struct error last_error;

static int teardown(void **state)
{
    verify_result_release(&result);
    return fx_teardown(state);
}

static int verify_as(struct fx *f, struct verify_request req)
{
    verify_result_release(&result);
    last_error = (struct error)ERROR_INIT;
    req.repo = f->repo;
    req.workers = 2;
    return verify_run(&req, &result, &last_error);
}

static void verify_full(struct fx *f, bool record)
{
    int rc = verify_as(f, (struct verify_request){.level = VERIFY_FULL, .record = record});

    FX_OK(rc, last_error);
}

static void show_damage(void)
{
    for (size_t i = 0; i < result.damaged_count; i++) {
        const struct verify_damage *d = &result.damaged[i];
        print_message("  %" PRIu64 " (%zu) %s %s: %s\n", d->snapshot, d->snapshot_count,
                      d->path ? d->path : "-", d->pack ? d->pack : "-", d->reason);
    }
}

static void expect_clean(void)
{
    if (result.errors > 0)
        show_damage();
    assert_int_equal(result.errors, 0);
    assert_int_equal(result.damaged_count, 0);
}

static const struct verify_damage *damage_of(const char *path)
{
    for (size_t i = 0; i < result.damaged_count; i++) {
        const struct verify_damage *d = &result.damaged[i];
        if (path ? d->path && strcmp(d->path, path) == 0 : !d->path)
            return d;
    }
    return NULL;
}

static bool has_snapshot(const struct verify_damage *d, uint64_t number)
{
    for (size_t i = 0; i < d->snapshot_count; i++) {
        if (d->snapshots[i] == number)
            return true;
    }
    return false;
}

/* Where a chunk's record stands, opened for writing. */
static int open_place(struct fx *f, const void *text, size_t len, struct chunk_place *place,
                      struct record_header *h)
{
    struct error e = ERROR_INIT;
    struct hash id;
    uint8_t header[RECORD_HEADER_LEN];
    char name[40], path[256];

    hash_sha256(text, len, &id);
    FX_OK(catalog_chunk(repo_catalog(f->repo), &id, place, &e), e);
    for (int kind = PACK_LOG; kind <= PACK_DATA; kind++) {
        pack_file_name((uint8_t)kind, place->pack_id, name);
        snprintf(path, sizeof(path), "%s/packs/%s", f->repo_path, name);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0)
            continue;
        assert_int_equal(pread(fd, header, sizeof(header), (off_t)place->offset), sizeof(header));
        FX_OK(record_header_decode(header, place->pack_id, place->offset, h, &e), e);
        return fd;
    }
    fail();
    return -1;
}

static void flip(int fd, uint64_t at, unsigned bit)
{
    uint8_t byte;

    assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= (uint8_t)(1u << bit);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
}

static void damage_chunk(struct fx *f, const char *text)
{
    struct chunk_place place;
    struct record_header h;

    int fd = open_place(f, text, strlen(text), &place, &h);
    flip(fd, place.offset + RECORD_HEADER_LEN + h.body_len - 1, 3);
    close(fd);
}

/* ---- a sound repository ---- */

static void a_sound_repository_is_verified(void **state)
{
    struct fx *f = *state;
    struct snapshot_row row;

    verify_full(f, true); /* an empty one too */
    expect_clean();
    fx_begin(f);
    uint64_t d = fx_folder(f, NODE_ROOT, "d", 0755);
    uint64_t x = fx_file(f, d, "x", "one");
    uint64_t a = fx_commit(f);
    fx_begin(f);
    fx_rewrite(f, x, "two");
    f->chunk_len = 8;
    char long_text[4000];
    for (size_t i = 0; i < sizeof(long_text); i++)
        long_text[i] = (char)('a' + (i * i) % 23);
    fx_file_as(f, NODE_ROOT, "long", long_text, sizeof(long_text), fx_meta(NODE_FILE, 0644));
    uint64_t b = fx_commit(f);

    int rc = verify_as(f, (struct verify_request){.level = VERIFY_QUICK, .record = true});
    FX_OK(rc, last_error);
    expect_clean();
    fx_row(f, a, &row);
    assert_int_equal(row.verified.s, 0); /* nothing was read back */
    snapshot_row_release(&row);

    verify_full(f, true);
    expect_clean();
    assert_int_equal(result.snapshots, 2);
    assert_true(result.chunks > 2 && result.bytes > 0 && result.recorded);
    fx_row(f, a, &row);
    assert_true(row.verified.s > 0 && !row.damaged);
    snapshot_row_release(&row);
    fx_row(f, b, &row);
    assert_true(row.verified.s > 0);
    snapshot_row_release(&row);

    fx_reopen(f, REPO_READ);
    verify_full(f, false);
    expect_clean();
    assert_false(result.recorded);
}

/* ---- one bit, anywhere ---- */

struct pack_copy {
    char name[256];
    uint8_t *bytes;
    size_t len;
};

static size_t copy_packs(struct fx *f, struct pack_copy *copies, size_t max)
{
    char folder[256];
    size_t n = 0;

    snprintf(folder, sizeof(folder), "%s/packs", f->repo_path);
    DIR *d = opendir(folder);
    const struct dirent *entry;
    while ((entry = readdir(d)) != NULL) {
        struct stat st;
        if (entry->d_name[0] == '.')
            continue;
        assert_true(n < max);
        snprintf(copies[n].name, sizeof(copies[n].name), "%.100s/%.100s", folder, entry->d_name);
        int fd = open(copies[n].name, O_RDONLY | O_CLOEXEC);
        assert_int_equal(fstat(fd, &st), 0);
        copies[n].len = (size_t)st.st_size;
        copies[n].bytes = malloc(copies[n].len);
        assert_int_equal(read(fd, copies[n].bytes, copies[n].len), st.st_size);
        close(fd);
        n++;
    }
    closedir(d);
    return n;
}

/* A repository of a few snapshots with log and data packs. */
static uint64_t two_snapshots(struct fx *f, uint64_t *first)
{
    static char big[1200000];
    uint64_t seed = 1;

    fx_begin(f);
    uint64_t d = fx_folder(f, NODE_ROOT, "d", 0755);
    uint64_t x = fx_file(f, d, "x", "the first content");
    fx_file(f, d, "same", "the same all the time");
    *first = fx_commit(f);
    for (size_t i = 0; i < sizeof(big); i++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        big[i] = (char)(seed >> 56);
    }
    fx_begin(f);
    fx_rewrite(f, x, "the second content");
    f->chunk_len = 300000;
    fx_file_as(f, NODE_ROOT, "big", big, sizeof(big), fx_meta(NODE_FILE, 0644));
    f->chunk_len = 0;
    uint64_t second = fx_commit(f);
    fx_mark(f, MARK_PIN, second);
    return second;
}

struct extent {
    uint64_t from, to;
    uint8_t type;
};
struct extents {
    struct extent list[64];
    size_t count;
};

static int note_record(void *ctx, uint64_t from, uint64_t to, const struct record_header *h,
                       const uint8_t *body)
{
    struct extents *x = ctx;

    assert_non_null(h);
    assert_true(x->count < 64);
    x->list[x->count++] = (struct extent){from, to, h->type};
    return 0;
}

static void find_records(struct fx *f, const char *path, struct extents *x)
{
    struct error e = ERROR_INIT;
    uint8_t kind;
    uint64_t id;
    struct pack *p;
    char folder[256];

    x->count = 0;
    assert_true(pack_file_parse(strrchr(path, '/') + 1, &kind, &id));
    snprintf(folder, sizeof(folder), "%s/packs", f->repo_path);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    FX_OK(pack_open(fd, kind, id, repo_id(f->repo), false, &p, &e), e);
    FX_OK(pack_walk(p, 0, UINT64_MAX, note_record, x, NULL, &e), e);
    pack_close(p);
    close(fd);
}

/* The pack is named; and where snapshots have something at that place, they are. */
static bool well_told(const struct extents *x, const char *path, uint64_t at)
{
    bool costs = false, pack = false, snapshots = false;

    for (size_t i = 0; i < x->count; i++) {
        uint8_t type = x->list[i].type;
        if (at >= x->list[i].from && at < x->list[i].to)
            costs = type == RECORD_BLOCK || type == RECORD_FILE_LIST || type == RECORD_COMMIT;
    }
    for (size_t i = 0; i < result.damaged_count; i++) {
        const struct verify_damage *d = &result.damaged[i];
        pack = pack || (d->pack && strcmp(d->pack, strrchr(path, '/') + 1) == 0);
        snapshots = snapshots || (d->snapshot > 0 && d->snapshot_count > 0);
    }
    return result.errors > 0 && pack && (snapshots || !costs);
}

static size_t next_byte(const struct pack_copy *c, size_t at, size_t stride)
{
    bool log = strstr(c->name, "0-log-") != NULL;

    return at + (log || at < 300 || c->len - at < 64 ? stride : 19973);
}

static void any_bit_is_noticed(struct fx *f, enum repo_mode mode, size_t stride)
{
    struct pack_copy copies[8];
    struct extents records;
    uint64_t first;
    size_t tried = 0, missed = 0;

    two_snapshots(f, &first);
    fx_reopen(f, mode);
    size_t n = copy_packs(f, copies, 8);
    assert_int_equal(n, 2);
    for (size_t i = 0; i < n; i++) {
        const struct pack_copy *c = &copies[i];
        find_records(f, c->name, &records);
        int fd = open(c->name, O_RDWR | O_CLOEXEC);
        for (size_t at = 0; at < c->len; at = next_byte(c, at, stride)) {
            unsigned bit = (unsigned)(at * 5 + 3) % 8;
            flip(fd, at, bit);
            int rc = verify_as(f, (struct verify_request){.level = VERIFY_FULL});
            if (rc < 0 || !well_told(&records, c->name, at)) {
                print_message("byte %zu of %s: %d, %" PRIu64 " errors\n", at, c->name, rc,
                              result.errors);
                show_damage();
                missed++;
            }
            flip(fd, at, bit);
            tried++;
        }
        close(fd);
        free(c->bytes);
    }
    assert_true(tried > 200);
    assert_int_equal(missed, 0);
    FX_OK(verify_as(f, (struct verify_request){.level = VERIFY_FULL}), last_error);
    expect_clean();
}

static void every_bit_is_noticed_by_a_writer(void **state)
{
    any_bit_is_noticed(*state, REPO_WRITE, 1);
}

static void every_bit_is_noticed_by_a_reader(void **state)
{
    any_bit_is_noticed(*state, REPO_READ, 7);
}

/* The same with a handle opened after the bit turned: the catalog may have been made anew. */
static void every_bit_is_noticed_after_opening(void **state)
{
    struct fx *f = *state;
    struct pack_copy copies[8];
    uint64_t first;
    size_t missed = 0;

    two_snapshots(f, &first);
    repo_close(f->repo);
    f->repo = NULL;
    size_t n = copy_packs(f, copies, 8);
    for (size_t i = 0; i < n; i++) {
        const struct pack_copy *c = &copies[i];
        int fd = open(c->name, O_RDWR | O_CLOEXEC);
        for (size_t at = 0; at < c->len; at = next_byte(c, at, 11)) {
            struct error e = ERROR_INIT;
            struct repo_options opt = {.wait_ms = 5000};
            flip(fd, at, at % 8);
            if (repo_open(f->repo_path, REPO_READ, &opt, &f->repo, &e) == 0) {
                int rc = verify_as(f, (struct verify_request){.level = VERIFY_FULL});
                if (rc < 0 || result.errors == 0) {
                    print_message("byte %zu of %s: %d, %" PRIu64 " errors\n", at, c->name, rc,
                                  result.errors);
                    missed++;
                }
                repo_close(f->repo);
                f->repo = NULL;
            }
            flip(fd, at, at % 8);
        }
        close(fd);
        free(c->bytes);
    }
    fx_reopen(f, REPO_WRITE);
    assert_int_equal(missed, 0);
}

/* ---- what a damage costs ---- */

static void damage_names_files_and_snapshots(void **state)
{
    struct fx *f = *state;
    struct snapshot_row row;

    fx_begin(f);
    uint64_t d = fx_folder(f, NODE_ROOT, "d", 0755);
    uint64_t x = fx_file(f, d, "x", "hit content");
    uint64_t a = fx_commit(f);
    fx_begin(f);
    fx_file(f, NODE_ROOT, "copy", "hit content");
    fx_unname(f, d, "x");
    fx_name(f, d, "renamed", x);
    uint64_t b = fx_commit(f);
    fx_begin(f);
    fx_rewrite(f, x, "fine content");
    uint64_t fresh = 0;
    struct error e = ERROR_INIT;
    FX_OK(catalog_lookup(txn_catalog(f->txn), txn_watch_row(f->txn)->serial, NODE_ROOT, "copy", 4,
                         CATALOG_OPEN, &fresh, &e),
          e);
    fx_remove(f, NODE_ROOT, "copy", fresh);
    uint64_t c = fx_commit(f);
    fx_reopen(f, REPO_WRITE);
    damage_chunk(f, "hit content");

    verify_full(f, true);
    assert_int_equal(result.damaged_count, 2);
    const struct verify_damage *one = damage_of("d/renamed");
    assert_non_null(one);
    assert_int_equal(one->snapshot, b);
    assert_int_equal(one->snapshot_count, 2);
    assert_true(has_snapshot(one, a) && has_snapshot(one, b));
    assert_non_null(one->pack);
    const struct verify_damage *two = damage_of("copy");
    assert_non_null(two);
    assert_int_equal(two->snapshot_count, 1);
    fx_row(f, a, &row);
    assert_true(row.damaged && row.verified.s == 0);
    snapshot_row_release(&row);
    fx_row(f, c, &row);
    assert_true(!row.damaged && row.verified.s > 0);
    snapshot_row_release(&row);

    json_t *o = report_verify_summary(&result, 4);
    assert_int_equal(json_array_size(json_object_get(o, "damaged")), 2);
    assert_string_equal(json_string_value(json_object_get(o, "type")), "summary");
    assert_int_equal(json_integer_value(json_object_get(o, "exit")), 4);
    json_decref(o);
}

static void a_delta_falls_with_its_base(void **state)
{
    struct fx *f = *state;
    struct error e = ERROR_INIT;
    char base[9000], next[9000];
    struct hash base_id, next_id;

    for (size_t i = 0; i < sizeof(base); i++)
        base[i] = next[i] = (char)('a' + (i * 7 + i / 13) % 26);
    memcpy(next + 4000, "changed", 7);
    fx_begin(f);
    uint64_t x = fx_file_as(f, NODE_ROOT, "x", base, sizeof(base), fx_meta(NODE_FILE, 0644));
    uint64_t a = fx_commit(f);
    fx_begin(f);
    hash_sha256(base, sizeof(base), &base_id);
    hash_sha256(next, sizeof(next), &next_id);
    const struct block_base link = {.id = base_id, .rank = 1, .depth = 1};
    struct block_chunk chunk = {.id = next_id, .raw_len = sizeof(next)};
    assert_int_equal(txn_claim(f->txn, &next_id, &e), 1);
    FX_OK(
        txn_put_block(f->txn, &chunk, 1, next, sizeof(next), false, &link, base, sizeof(base), &e),
        e);
    struct node n = fx_meta(NODE_FILE, 0644);
    struct chunk_ref ref = {.id = next_id, .len = sizeof(next)};
    n.refs = &ref;
    n.ref_count = 1;
    n.size = sizeof(next);
    fx_node(f, x, &n);
    uint64_t b = fx_commit(f);
    verify_full(f, true);
    expect_clean();

    struct chunk_place place;
    struct record_header h;
    int fd = open_place(f, base, sizeof(base), &place, &h);
    flip(fd, place.offset + RECORD_HEADER_LEN + h.body_len - 1, 0);
    close(fd);
    verify_full(f, true);
    bool hit_a = false, hit_b = false;
    for (size_t i = 0; i < result.damaged_count; i++) {
        hit_a = hit_a || has_snapshot(&result.damaged[i], a);
        hit_b = hit_b || has_snapshot(&result.damaged[i], b);
    }
    assert_true(hit_a && hit_b);
}

static void what_a_damaged_list_chunk_costs(void **state)
{
    struct fx *f = *state;
    char text[8000];
    struct error e = ERROR_INIT;
    struct buffer meta = BUFFER_INIT;
    struct node n;

    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = (char)(i * 2654435761u >> 11);
    f->chunk_len = 16;
    fx_begin(f);
    uint64_t id = fx_file_as(f, NODE_ROOT, "long", text, sizeof(text), fx_meta(NODE_FILE, 0644));
    fx_file(f, NODE_ROOT, "other", "unharmed");
    uint64_t a = fx_commit(f);
    struct snapshot_row row;
    fx_row(f, a, &row);
    FX_OK(catalog_node(repo_catalog(f->repo), row.watch_serial, id, (int64_t)a, &meta, &e), e);
    snapshot_row_release(&row);
    FX_OK(node_decode(meta.data, meta.len, &n, &e), e);
    assert_true(n.depth > 0);
    struct chunk_place place;
    FX_OK(catalog_chunk(repo_catalog(f->repo), &n.refs[0].id, &place, &e), e);
    node_release(&n);
    buffer_release(&meta);
    char name[40], path[256];
    pack_file_name(PACK_LOG, place.pack_id, name);
    snprintf(path, sizeof(path), "%s/packs/%s", f->repo_path, name);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    flip(fd, place.offset + RECORD_HEADER_LEN + 20, 1);
    close(fd);
    verify_full(f, false);
    assert_non_null(damage_of("long"));
    assert_null(damage_of("other"));
    uint64_t given[] = {a};
    FX_OK(
        verify_as(f, (struct verify_request){.level = VERIFY_FULL, .snapshots = given, .count = 1}),
        last_error);
    assert_non_null(damage_of("long"));
    assert_null(damage_of("other"));
}

static void padding_costs_nothing_but_is_told(void **state)
{
    struct fx *f = *state;
    struct chunk_place place;
    struct record_header h;
    struct snapshot_row row;
    char text[16];
    uint64_t a = 0;

    /* Some length leaves padding. */
    for (int i = 0; i < 8 && a == 0; i++) {
        snprintf(text, sizeof(text), "padded%.*s", i, "xxxxxxxx");
        fx_begin(f);
        fx_file(f, NODE_ROOT, text, text);
        a = fx_commit(f);
        int fd = open_place(f, text, strlen(text), &place, &h);
        uint64_t end = place.offset + RECORD_HEADER_LEN + h.body_len;
        if (end % RECORD_ALIGN != 0)
            flip(fd, end, 0);
        else
            a = 0;
        close(fd);
    }
    assert_true(a > 0);
    verify_full(f, true);
    assert_int_equal(result.errors, 1);
    assert_int_equal(result.damaged_count, 1);
    assert_null(result.damaged[0].path);
    assert_non_null(result.damaged[0].pack);
    assert_true(has_snapshot(&result.damaged[0], a));
    fx_row(f, a, &row);
    assert_false(row.damaged); /* all of it can be restored */
    snapshot_row_release(&row);
}

static void a_missing_pack_is_named(void **state)
{
    struct fx *f = *state;
    uint64_t first;
    char path[256], name[40];
    struct chunk_place place;
    struct error e = ERROR_INIT;
    struct hash id;

    uint64_t second = two_snapshots(f, &first);
    struct buffer meta = BUFFER_INIT;
    struct snapshot_row row;
    uint64_t node;
    struct node n;
    fx_row(f, second, &row);
    FX_OK(catalog_lookup(repo_catalog(f->repo), row.watch_serial, NODE_ROOT, "big", 3,
                         (int64_t)second, &node, &e),
          e);
    FX_OK(catalog_node(repo_catalog(f->repo), row.watch_serial, node, (int64_t)second, &meta, &e),
          e);
    snapshot_row_release(&row);
    FX_OK(node_decode(meta.data, meta.len, &n, &e), e);
    id = n.refs[0].id;
    node_release(&n);
    buffer_release(&meta);
    FX_OK(catalog_chunk(repo_catalog(f->repo), &id, &place, &e), e);
    pack_file_name(PACK_DATA, place.pack_id, name);
    snprintf(path, sizeof(path), "%s/packs/%s", f->repo_path, name);
    fx_reopen(f, REPO_READ);
    assert_int_equal(unlink(path), 0);
    for (int level = VERIFY_QUICK; level <= VERIFY_FULL; level++) {
        FX_OK(verify_as(f, (struct verify_request){.level = (enum verify_level)level}), last_error);
        const struct verify_damage *d = damage_of("big");
        assert_non_null(d);
        assert_string_equal(d->pack, name);
        assert_true(has_snapshot(d, second) && !has_snapshot(d, first));
        assert_null(damage_of("d/same"));
    }
}

static void a_strange_file_is_named(void **state)
{
    struct fx *f = *state;

    fx_begin(f);
    fx_file(f, NODE_ROOT, "x", "x");
    fx_commit(f);
    fx_write(f, "repo/packs/stranger", "?");
    verify_full(f, true);
    assert_int_equal(result.errors, 1);
    assert_non_null(strstr(result.damaged[0].reason, "stranger"));
    assert_true(fx_there(f, "repo/packs/stranger"));
}

/* Cut short at its first write a new pack has no header; nothing ever stood in it. */
static void a_pack_that_never_was_is_no_damage(void **state)
{
    static const char *const names[] = {"repo/packs/0-log-0000000000000017.wkp",
                                        "repo/packs/1-data-0000000000000018.wkp"};
    struct fx *f = *state;
    uint64_t first;

    two_snapshots(f, &first);
    for (size_t i = 0; i < 2; i++) {
        fx_write(f, names[i], "");
        verify_full(f, false);
        expect_clean();
        assert_int_equal(truncate(fx_path(f, names[i]), PACK_HEADER_LEN), 0);
        verify_full(f, false);
        expect_clean();
        fx_write(f, names[i], "no header");
        verify_full(f, false);
        assert_int_equal(result.errors, 1);
        assert_string_equal(result.damaged[0].pack, strrchr(names[i], '/') + 1);
        assert_int_equal(unlink(fx_path(f, names[i])), 0);
    }
}

/* ---- only some snapshots ---- */

static void only_what_is_asked_for(void **state)
{
    struct fx *f = *state;
    struct snapshot_row row;

    fx_begin(f);
    uint64_t x = fx_file(f, NODE_ROOT, "x", "first version");
    uint64_t a = fx_commit(f);
    fx_begin(f);
    fx_rewrite(f, x, "second version");
    uint64_t b = fx_commit(f);
    damage_chunk(f, "first version");
    struct verify_request req = {.level = VERIFY_FULL, .snapshots = &b, .count = 1, .record = true};
    FX_OK(verify_as(f, req), last_error);
    expect_clean();
    assert_int_equal(result.snapshots, 1);
    assert_int_equal(result.chunks, 1);
    fx_row(f, b, &row);
    assert_true(row.verified.s > 0);
    snapshot_row_release(&row);
    fx_row(f, a, &row);
    assert_true(row.verified.s == 0 && !row.damaged);
    snapshot_row_release(&row);
    req.snapshots = &a;
    FX_OK(verify_as(f, req), last_error);
    assert_int_equal(result.damaged_count, 1);
    assert_string_equal(result.damaged[0].path, "x");
    assert_int_equal(result.damaged[0].snapshot, a);
    uint64_t none = 999;
    req.snapshots = &none;
    assert_int_equal(verify_as(f, req), ERR_NOTFOUND);
}

/* ---- and healed ---- */

static void a_lost_chunk_is_stored_again(void **state)
{
    struct fx *f = *state;
    struct snapshot_row row;

    fx_begin(f);
    fx_file(f, NODE_ROOT, "x", "will be lost");
    uint64_t a = fx_commit(f);
    damage_chunk(f, "will be lost");
    verify_full(f, true);
    assert_true(result.errors > 0);
    fx_row(f, a, &row);
    assert_true(row.damaged);
    snapshot_row_release(&row);

    fx_begin(f);
    fx_file(f, NODE_ROOT, "y", "will be lost"); /* the source still has it */
    uint64_t b = fx_commit(f);
    fx_row(f, b, &row);
    assert_false(row.damaged);
    snapshot_row_release(&row);
    verify_full(f, true);
    /* The old copy is still there and still damaged; every snapshot is whole again. */
    for (size_t i = 0; i < result.damaged_count; i++)
        assert_int_equal(result.damaged[i].snapshot_count, 0);
    fx_row(f, a, &row);
    assert_false(row.damaged);
    assert_true(row.verified.s > 0);
    snapshot_row_release(&row);
}

static void cancelling_marks_nothing(void **state)
{
    struct fx *f = *state;
    struct snapshot_row row;
    atomic_bool cancel = true;

    fx_begin(f);
    fx_file(f, NODE_ROOT, "x", "x");
    uint64_t a = fx_commit(f);
    assert_int_equal(
        verify_as(f,
                  (struct verify_request){.level = VERIFY_FULL, .record = true, .cancel = &cancel}),
        ERR_CANCELLED);
    fx_row(f, a, &row);
    assert_int_equal(row.verified.s, 0);
    snapshot_row_release(&row);
}

/* A record that is as it was written, and content that its id does not belong to. */
static void content_under_a_wrong_id_is_told(void **state)
{
    struct fx *f = *state;
    struct node n = fx_meta(NODE_FILE, 0644);
    struct chunk_ref ref = {.len = 5};
    struct block_chunk chunk = {.raw_len = 5};
    struct error e = ERROR_INIT;

    hash_sha256("right", 5, &ref.id);
    chunk.id = ref.id;
    n.refs = &ref;
    n.ref_count = 1;
    n.size = 5;
    fx_begin(f);
    assert_int_equal(txn_claim(f->txn, &ref.id, &e), 1);
    FX_OK(txn_put_block(f->txn, &chunk, 1, "wrong", 5, false, NULL, NULL, 0, &e), e);
    fx_add(f, NODE_ROOT, "x", &n);
    uint64_t a = fx_commit(f);
    verify_full(f, true);
    const struct verify_damage *d = damage_of("x");
    assert_non_null(d);
    assert_true(has_snapshot(d, a));
}

static void make_catalog_anew(struct fx *f)
{
    char path[128];

    repo_close(f->repo);
    f->repo = NULL;
    snprintf(path, sizeof(path), "%s/catalog.db", f->repo_path);
    assert_int_equal(unlink(path), 0);
    fx_reopen(f, REPO_WRITE);
}

/* A block without ids cannot contradict its bytes: that they are others than those the files need
 * shows against the catalog, and after a rebuild in what is missing. */
static void wrong_content_of_a_bare_block_is_told(void **state)
{
    struct fx *f = *state;
    struct block_chunk chunks[2] = {{.raw_len = 5}, {.raw_off = 5, .raw_len = 5}};
    struct node n = fx_meta(NODE_FILE, 0644);
    struct error e = ERROR_INIT;

    hash_sha256("right", 5, &chunks[0].id);
    hash_sha256("sound", 5, &chunks[1].id);
    n.ref_count = 1;
    n.size = 5;
    fx_begin(f);
    for (int i = 0; i < 2; i++)
        assert_int_equal(txn_claim(f->txn, &chunks[i].id, &e), 1);
    FX_OK(txn_put_block(f->txn, chunks, 2, "wrongsound", 10, false, NULL, NULL, 0, &e), e);
    for (int i = 0; i < 2; i++) {
        n.refs = &(struct chunk_ref){.id = chunks[i].id, .len = 5};
        fx_add(f, NODE_ROOT, i == 0 ? "x" : "y", &n);
    }
    uint64_t a = fx_commit(f);
    for (int again = 0; again < 2; again++) {
        verify_full(f, true);
        const struct verify_damage *d = damage_of("x");
        assert_non_null(d);
        assert_true(has_snapshot(d, a));
        assert_null(damage_of("y"));
        if (again == 0)
            make_catalog_anew(f);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fx_setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_sound_repository_is_verified),
        TEST(every_bit_is_noticed_by_a_writer),
        TEST(every_bit_is_noticed_by_a_reader),
        TEST(every_bit_is_noticed_after_opening),
        TEST(damage_names_files_and_snapshots),
        TEST(a_delta_falls_with_its_base),
        TEST(what_a_damaged_list_chunk_costs),
        TEST(padding_costs_nothing_but_is_told),
        TEST(a_missing_pack_is_named),
        TEST(a_strange_file_is_named),
        TEST(a_pack_that_never_was_is_no_damage),
        TEST(only_what_is_asked_for),
        TEST(a_lost_chunk_is_stored_again),
        TEST(cancelling_marks_nothing),
        TEST(content_under_a_wrong_id_is_told),
        TEST(wrong_content_of_a_bare_block_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
