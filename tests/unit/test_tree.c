/* Trees of snapshots as people look at them: walks, selectors, differences, histories, reports. */
#include "snapshot_fixture.h"

#include "snapshot/compare.h"
#include "snapshot/report.h"
#include "snapshot/selector.h"
#include "snapshot/tree.h"

#include <limits.h>
#include <time.h>

#include "base/banned.h"

/* ---- walking ---- */

struct lines {
    char text[8192];
    size_t count;
    const char *skip; /* do not go below this path */
};

static int show_path(void *ctx, const struct tree_entry *t, struct error *e)
{
    struct lines *l = ctx;
    size_t at = strlen(l->text);

    snprintf(l->text + at, sizeof(l->text) - at, "%u:%s\n", t->level, t->path);
    l->count++;
    return l->skip && strcmp(l->skip, t->path) == 0 ? TREE_SKIP : 0;
}

static const char *walk(struct fx *f, int64_t at, const char *path, unsigned depth,
                        const char *skip)
{
    static struct lines l;
    struct error e = ERROR_INIT;
    struct snapshot_row row;

    l = (struct lines){.skip = skip};
    fx_row(f, (uint64_t)at, &row);
    FX_OK(tree_walk(repo_catalog(f->repo), row.watch_serial, at, path, depth, show_path, &l, &e),
          e);
    snapshot_row_release(&row);
    return l.text;
}

static void walks_in_order(void **state)
{
    struct fx *f = *state;

    fx_begin(f);
    uint64_t b = fx_folder(f, NODE_ROOT, "b", 0755);
    fx_file(f, b, "y", "1");
    uint64_t deep = fx_folder(f, b, "x", 0755);
    fx_file(f, deep, "z", "2");
    fx_file(f, NODE_ROOT, "b-side", "3");
    fx_file(f, NODE_ROOT, "a", "4");
    int64_t n = (int64_t)fx_commit(f);

    assert_string_equal(walk(f, n, "", UINT_MAX, NULL),
                        "0:\n1:a\n1:b\n2:b/x\n3:b/x/z\n2:b/y\n1:b-side\n");
    assert_string_equal(walk(f, n, "", 1, NULL), "0:\n1:a\n1:b\n1:b-side\n");
    assert_string_equal(walk(f, n, "b", UINT_MAX, NULL), "0:b\n1:b/x\n2:b/x/z\n1:b/y\n");
    assert_string_equal(walk(f, n, "", UINT_MAX, "b"), "0:\n1:a\n1:b\n1:b-side\n");
    assert_string_equal(walk(f, n, "b/x/z", UINT_MAX, NULL), "0:b/x/z\n");
    assert_string_equal(walk(f, n, "b", 0, NULL), "0:b\n");
}

static void names_what_is_missing(void **state)
{
    struct fx *f = *state;
    struct error e = ERROR_INIT;
    struct snapshot_row row;
    uint64_t node;

    fx_begin(f);
    uint64_t b = fx_folder(f, NODE_ROOT, "b", 0755);
    fx_file(f, b, "file", "1");
    uint64_t n = fx_commit(f);
    fx_row(f, n, &row);
    struct catalog *c = repo_catalog(f->repo);
    int64_t at = (int64_t)n;
    assert_int_equal(tree_find(c, row.watch_serial, at, "b/none/x", &node, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.message, "'b/none'"));
    assert_int_equal(tree_find(c, row.watch_serial, at, "b/file/x", &node, &e), ERR_NOTFOUND);
    assert_int_equal(tree_find(c, row.watch_serial, at, "b/file", &node, &e), 0);
    snapshot_row_release(&row);
}

static int stop_at_deepest(void *ctx, const struct tree_entry *t, struct error *e)
{
    size_t *longest = ctx;

    if (strlen(t->path) > *longest)
        *longest = strlen(t->path);
    return 0;
}

static void walks_deeper_than_any_path_may_be_long(void **state)
{
    enum { LEVELS = 1500 };
    struct fx *f = *state;
    struct error e = ERROR_INIT;
    struct snapshot_row row;
    uint64_t parent = NODE_ROOT;
    size_t longest = 0;

    fx_begin(f);
    for (int i = 0; i < LEVELS; i++)
        parent = fx_folder(f, parent, "sixteen-letters-", 0755);
    fx_file(f, parent, "end", "x");
    uint64_t n = fx_commit(f);
    fx_row(f, n, &row);
    FX_OK(tree_walk(repo_catalog(f->repo), row.watch_serial, (int64_t)n, "", UINT_MAX,
                    stop_at_deepest, &longest, &e),
          e);
    assert_int_equal(longest, LEVELS * 17 + 3);
    snapshot_row_release(&row);
}

/* ---- selectors ---- */

static uint64_t commit_at(struct fx *f, int64_t s, struct commit c)
{
    char text[32];

    snprintf(text, sizeof(text), "%lld", (long long)s);
    fx_begin(f);
    uint64_t node = 0;
    struct error e = ERROR_INIT;
    if (catalog_lookup(txn_catalog(f->txn), txn_watch_row(f->txn)->serial, NODE_ROOT, "f", 1,
                       CATALOG_OPEN, &node, &e) == 0)
        fx_rewrite(f, node, text);
    else
        fx_file(f, NODE_ROOT, "f", text);
    c.time.s = s;
    return fx_commit_as(f, c);
}

static struct error last_error;

/* The number, or the negative code. */
static int64_t select_in(struct fx *f, const char *text, const char *watch, char **path)
{
    struct snapshot_row row;

    last_error = (struct error)ERROR_INIT;
    int rc = selector_resolve(f->repo, text, watch, &row, path, &last_error);
    if (rc != 0)
        return rc;
    int64_t n = (int64_t)row.commit.number;
    snapshot_row_release(&row);
    return n;
}

static void selects_by_number_and_name(void **state)
{
    struct fx *f = *state;
    char *path;

    assert_int_equal(select_in(f, "1", NULL, NULL), ERR_NOTFOUND);
    assert_int_equal(select_in(f, "latest", NULL, NULL), ERR_NOTFOUND);
    int64_t a = (int64_t)commit_at(f, FX_TIME, (struct commit){.name = "before"});
    int64_t b = (int64_t)commit_at(f, FX_TIME + 10, (struct commit){0});
    char text[64];
    snprintf(text, sizeof(text), "%lld:./sub//x/", (long long)b);
    assert_int_equal(select_in(f, text, NULL, &path), b);
    assert_string_equal(path, "sub/x");
    free(path);
    assert_int_equal(select_in(f, "before", NULL, &path), a);
    assert_null(path);
    assert_int_equal(select_in(f, "before:", NULL, &path), a);
    assert_string_equal(path, "");
    free(path);
    assert_int_equal(select_in(f, "latest", NULL, NULL), b);
    assert_int_equal(select_in(f, "latest~1", NULL, NULL), a);
    assert_int_equal(select_in(f, "latest~2", NULL, NULL), ERR_NOTFOUND);
    assert_int_equal(select_in(f, "latest~x", NULL, NULL), ERR_USAGE);
    assert_int_equal(select_in(f, "999", NULL, NULL), ERR_NOTFOUND);
    snprintf(text, sizeof(text), "no snapshot 999; the newest is %lld", (long long)b);
    assert_string_equal(last_error.message, text);
    assert_int_equal(select_in(f, "after", NULL, NULL), ERR_NOTFOUND);
    assert_int_equal(select_in(f, "a b", NULL, NULL), ERR_USAGE);
    assert_int_equal(select_in(f, "latest:../x", NULL, &path), ERR_USAGE);
    assert_int_equal(select_in(f, "latest:a/../../x", NULL, &path), ERR_USAGE);
    assert_null(path);
}

static void latest_is_never_suspect_or_safety(void **state)
{
    struct fx *f = *state;

    int64_t a = (int64_t)commit_at(f, FX_TIME, (struct commit){0});
    commit_at(f, FX_TIME + 1, (struct commit){.kind = SNAPSHOT_SAFETY});
    int64_t c = (int64_t)commit_at(f, FX_TIME + 2, (struct commit){.flags = COMMIT_SUSPECT});
    char text[32];
    assert_int_equal(select_in(f, "latest", NULL, NULL), a);
    snprintf(text, sizeof(text), "%lld", (long long)c);
    assert_int_equal(select_in(f, text, NULL, NULL), c);
}

static void good_is_verified_and_whole(void **state)
{
    struct fx *f = *state;

    uint64_t a = commit_at(f, FX_TIME, (struct commit){0});
    uint64_t b = commit_at(f, FX_TIME + 1, (struct commit){0});
    uint64_t c = commit_at(f, FX_TIME + 2, (struct commit){0});
    assert_int_equal(select_in(f, "good", NULL, NULL), ERR_NOTFOUND);
    fx_mark(f, MARK_VERIFIED, a);
    fx_mark(f, MARK_VERIFIED, b);
    fx_mark(f, MARK_VERIFIED, c);
    assert_int_equal(select_in(f, "good", NULL, NULL), (int64_t)c);
    fx_mark(f, MARK_DAMAGED, b);
    assert_int_equal(select_in(f, "good~1", NULL, NULL), (int64_t)a);
}

static void selects_by_time(void **state)
{
    struct fx *f = *state;
    char *path;

    setenv("TZ", "UTC", 1);
    tzset();
    int64_t a = (int64_t)commit_at(f, 1700000000, (struct commit){0}); /* 2023-11-14T22:13:20Z */
    int64_t b = (int64_t)commit_at(f, 1700000100, (struct commit){0});
    assert_int_equal(select_in(f, "@2023-11-14T22:13:20Z", NULL, NULL), a);
    assert_int_equal(select_in(f, "@2023-11-14 22:14:59", NULL, NULL), a);
    assert_int_equal(select_in(f, "@2023-11-14 22:15:a/b", NULL, &path), b);
    assert_string_equal(path, "a/b");
    free(path);
    assert_int_equal(select_in(f, "@2023-11-14 22:15:00:a", NULL, &path), b);
    assert_string_equal(path, "a");
    free(path);
    assert_int_equal(select_in(f, "@2020-01-01", NULL, NULL), ERR_NOTFOUND);
    assert_non_null(
        strstr(last_error.message, "is as old as '@2020-01-01'; the oldest is 1, of 20"));
    assert_int_equal(select_in(f, "@whenever", NULL, NULL), ERR_USAGE);
    /* The clock is a label: order is by number. */
    int64_t c = (int64_t)commit_at(f, 1600000000, (struct commit){0});
    assert_int_equal(select_in(f, "@2023-11-14T22:13:20Z", NULL, NULL), c);
}

static void several_watches_must_be_told_apart(void **state)
{
    struct fx *f = *state;

    int64_t a = (int64_t)commit_at(f, FX_TIME, (struct commit){0});
    f->watch = "web";
    int64_t b = (int64_t)commit_at(f, FX_TIME, (struct commit){0});
    assert_int_equal(select_in(f, "latest", NULL, NULL), ERR_USAGE);
    assert_non_null(strstr(last_error.message, "-w WATCH"));
    assert_int_equal(select_in(f, "latest", "app", NULL), a);
    assert_int_equal(select_in(f, "latest", "web", NULL), b);
    assert_int_equal(select_in(f, "latest", "none", NULL), ERR_NOTFOUND);
    char text[32];
    snprintf(text, sizeof(text), "%lld", (long long)b);
    assert_int_equal(select_in(f, text, "app", NULL), ERR_NOTFOUND);
}

/* ---- differences ---- */

static int show_diff(void *ctx, const struct diff_entry *d, struct error *e)
{
    struct lines *l = ctx;
    size_t at = strlen(l->text);

    snprintf(l->text + at, sizeof(l->text) - at, "%s %s%s%s\n", report_change_word(d->kind),
             d->path, d->old_path ? " < " : "", d->old_path ? d->old_path : "");
    return 0;
}

static const char *diff(struct fx *f, uint64_t a, uint64_t b, const char *prefix)
{
    static struct lines l;
    struct error e = ERROR_INIT;
    struct snapshot_row ra, rb;

    l = (struct lines){0};
    fx_row(f, a, &ra);
    fx_row(f, b, &rb);
    int rc = diff_run(f->repo, &ra, &rb, prefix, show_diff, &l, &e);
    snapshot_row_release(&ra);
    snapshot_row_release(&rb);
    if (rc != 0)
        snprintf(l.text, sizeof(l.text), "%d", rc);
    return l.text;
}

static void tells_added_removed_changed(void **state)
{
    struct fx *f = *state;

    fx_begin(f);
    uint64_t d = fx_folder(f, NODE_ROOT, "d", 0755);
    uint64_t gone = fx_folder(f, NODE_ROOT, "gone", 0755);
    uint64_t in_gone = fx_file(f, gone, "in", "1");
    uint64_t same = fx_file(f, d, "same", "2");
    uint64_t changed = fx_file(f, d, "changed", "3");
    uint64_t touched = fx_file(f, d, "touched", "4");
    uint64_t mode = fx_file(f, d, "mode", "5");
    uint64_t link = fx_symlink(f, d, "link", "old");
    uint64_t turns = fx_file(f, NODE_ROOT, "turns", "6");
    uint64_t a = fx_commit(f);

    fx_begin(f);
    fx_remove(f, gone, "in", in_gone);
    fx_remove(f, NODE_ROOT, "gone", gone);
    fx_rewrite(f, changed, "33");
    struct node n = fx_meta(NODE_FILE, 0644);
    n.mtime_s++;
    n.size = 1;
    fx_content(f, "4", 1, &n);
    fx_node(f, touched, &n);
    free(n.refs);
    n = fx_meta(NODE_FILE, 0600);
    n.size = 1;
    fx_content(f, "5", 1, &n);
    fx_node(f, mode, &n);
    free(n.refs);
    n = fx_meta(NODE_SYMLINK, 0777);
    n.target = "new";
    n.target_len = 3;
    fx_node(f, link, &n);
    struct node folder = fx_meta(NODE_FOLDER, 0755);
    folder.mtime_s += 5; /* a folder's time alone is nothing to tell */
    fx_node(f, d, &folder);
    fx_remove(f, NODE_ROOT, "turns", turns);
    uint64_t was = fx_folder(f, NODE_ROOT, "turns", 0755);
    fx_file(f, was, "inside", "7");
    uint64_t b = fx_commit(f);
    (void)same;

    assert_string_equal(diff(f, a, b, ""),
                        "changed d/changed\nchanged d/link\nmetadata d/mode\nmetadata d/touched\n"
                        "removed gone\nremoved gone/in\nremoved turns\nadded turns\n"
                        "added turns/inside\n");
    assert_string_equal(diff(f, b, a, "gone"), "added gone\nadded gone/in\n");
    assert_string_equal(diff(f, a, b, "d/changed"), "changed d/changed\n");
    assert_string_equal(diff(f, a, a, ""), "");
    assert_string_equal(diff(f, a, b, "nowhere"), "-6");
}

static void a_moved_folder_is_one_entry(void **state)
{
    struct fx *f = *state;

    fx_begin(f);
    uint64_t from = fx_folder(f, NODE_ROOT, "from", 0755);
    uint64_t tree = fx_folder(f, from, "tree", 0755);
    fx_file(f, tree, "kept", "1");
    uint64_t changed = fx_file(f, tree, "changed", "2");
    uint64_t gone = fx_file(f, tree, "gone", "3");
    uint64_t single = fx_file(f, NODE_ROOT, "single", "4");
    uint64_t a = fx_commit(f);

    fx_begin(f);
    fx_unname(f, from, "tree");
    fx_name(f, NODE_ROOT, "a-tree", tree);
    fx_rewrite(f, changed, "22");
    fx_remove(f, tree, "gone", gone);
    fx_file(f, tree, "fresh", "5");
    fx_unname(f, NODE_ROOT, "single");
    fx_name(f, from, "alone", single);
    uint64_t b = fx_commit(f);

    assert_string_equal(diff(f, a, b, ""),
                        "moved a-tree < from/tree\nchanged a-tree/changed\nadded a-tree/fresh\n"
                        "moved from/alone < single\nremoved from/tree/gone\n");
    assert_string_equal(diff(f, b, a, ""), "removed a-tree/fresh\nmoved from/tree < a-tree\n"
                                           "changed from/tree/changed\nadded from/tree/gone\n"
                                           "moved single < from/alone\n");
}

static void saving_by_rename_is_a_change(void **state)
{
    struct fx *f = *state;

    fx_begin(f);
    uint64_t x = fx_file(f, NODE_ROOT, "x", "new content");
    uint64_t y = fx_file(f, NODE_ROOT, "y", "old");
    uint64_t a = fx_commit(f);
    fx_begin(f);
    fx_remove(f, NODE_ROOT, "y", y);
    fx_unname(f, NODE_ROOT, "x");
    fx_name(f, NODE_ROOT, "y", x);
    uint64_t b = fx_commit(f);
    assert_string_equal(diff(f, a, b, ""), "removed x\nchanged y\n");
}

static void swapped_folders_are_two_moves(void **state)
{
    struct fx *f = *state;

    fx_begin(f);
    uint64_t p = fx_folder(f, NODE_ROOT, "p", 0755);
    uint64_t q = fx_folder(f, NODE_ROOT, "q", 0755);
    fx_file(f, p, "one", "1");
    fx_file(f, q, "two", "2");
    uint64_t a = fx_commit(f);
    fx_begin(f);
    fx_unname(f, NODE_ROOT, "p");
    fx_unname(f, NODE_ROOT, "q");
    fx_name(f, NODE_ROOT, "p", q);
    fx_name(f, NODE_ROOT, "q", p);
    uint64_t b = fx_commit(f);
    assert_string_equal(diff(f, a, b, ""), "moved p < q\nmoved q < p\n");
}

static void a_further_hard_link_is_an_addition(void **state)
{
    struct fx *f = *state;

    fx_begin(f);
    uint64_t x = fx_file(f, NODE_ROOT, "x", "1");
    uint64_t a = fx_commit(f);
    fx_begin(f);
    fx_name(f, NODE_ROOT, "y", x);
    uint64_t b = fx_commit(f);
    assert_string_equal(diff(f, a, b, ""), "added y\n");
    assert_string_equal(diff(f, b, a, ""), "removed y\n");
}

static void different_watches_are_not_compared(void **state)
{
    struct fx *f = *state;

    uint64_t a = commit_at(f, FX_TIME, (struct commit){0});
    f->watch = "web";
    uint64_t b = commit_at(f, FX_TIME, (struct commit){0});
    assert_string_equal(diff(f, a, b, ""), "-2");
}

/* ---- history ---- */

static int show_history(void *ctx, const struct history_entry *h, struct error *e)
{
    struct lines *l = ctx;
    size_t at = strlen(l->text);
    struct node_brief b;

    FX_OK(node_brief_decode(h->meta, h->meta_len, &b, e), *e);
    snprintf(l->text + at, sizeof(l->text) - at, "%lld-%lld %s %llu\n", (long long)h->from,
             (long long)h->newest, h->path, (unsigned long long)b.size);
    return 0;
}

static void history_follows_moves_and_rebirths(void **state)
{
    struct fx *f = *state;
    struct error e = ERROR_INIT;
    struct lines l = {0};
    char want[256];

    fx_begin(f);
    uint64_t first = fx_file(f, NODE_ROOT, "log", "1");
    uint64_t a = fx_commit(f);
    fx_begin(f);
    fx_rewrite(f, first, "22");
    fx_commit(f);
    fx_begin(f);
    fx_remove(f, NODE_ROOT, "log", first);
    uint64_t other = fx_file(f, NODE_ROOT, "draft", "333");
    uint64_t c = fx_commit(f);
    fx_begin(f);
    fx_unname(f, NODE_ROOT, "draft");
    fx_name(f, NODE_ROOT, "log", other);
    fx_commit(f);
    fx_begin(f);
    fx_rewrite(f, other, "4444");
    uint64_t last = fx_commit(f);

    FX_OK(history_run(f->repo, "app", "log", show_history, &l, &e), e);
    snprintf(want, sizeof(want),
             "%llu-%llu log 1\n%llu-%llu log 2\n%llu-%llu log 3\n%llu-%llu log 4\n",
             (unsigned long long)a, (unsigned long long)a, (unsigned long long)a + 1,
             (unsigned long long)a + 1, (unsigned long long)c, (unsigned long long)last - 1,
             (unsigned long long)last, (unsigned long long)last);
    assert_string_equal(l.text, want);

    fx_begin(f);
    fx_remove(f, NODE_ROOT, "log", other);
    fx_commit(f);
    l = (struct lines){0};
    FX_OK(history_run(f->repo, "app", "log", show_history, &l, &e), e);
    assert_string_equal(l.text, want);
    assert_int_equal(history_run(f->repo, "app", "never", show_history, &l, &e), ERR_NOTFOUND);
    assert_int_equal(history_run(f->repo, "none", "log", show_history, &l, &e), ERR_NOTFOUND);
}

/* What was saved under another name for long takes the path: what stood there until then is told,
 * also what it was after the other one was first saved. */
static void history_goes_on_before_a_node_came(void **state)
{
    struct fx *f = *state;
    struct error e = ERROR_INIT;
    struct lines l = {0};

    fx_begin(f);
    uint64_t a = fx_file(f, NODE_ROOT, "a", "1");
    uint64_t b = fx_file(f, NODE_ROOT, "b", "22");
    uint64_t n = fx_commit(f);
    assert_int_equal(n, 1);
    for (unsigned i = 0; i < 2; i++) {
        fx_begin(f);
        fx_rewrite(f, a, i ? "4444" : "333");
        fx_commit(f);
    }
    for (unsigned i = 0; i < 3; i++) { /* they take turns */
        fx_begin(f);
        fx_unname(f, NODE_ROOT, "a");
        fx_unname(f, NODE_ROOT, "b");
        fx_name(f, NODE_ROOT, "a", i % 2 ? a : b);
        fx_name(f, NODE_ROOT, "b", i % 2 ? b : a);
        fx_commit(f);
    }
    FX_OK(history_run(f->repo, "app", "a", show_history, &l, &e), e);
    assert_string_equal(l.text, "1-1 a 1\n1-6 a 2\n2-2 a 3\n3-6 b 4\n");

    fx_begin(f);
    fx_remove(f, NODE_ROOT, "b", a);
    fx_commit(f);
    l = (struct lines){0};
    FX_OK(history_run(f->repo, "app", "a", show_history, &l, &e), e);
    assert_string_equal(l.text, "1-1 a 1\n1-7 a 2\n2-2 a 3\n3-6 b 4\n");
}

/* ---- reports ---- */

static bool is_null(const json_t *o, const char *key)
{
    return json_is_null(json_object_get(o, key));
}

static void lists_as_the_contract_says(void **state)
{
    static const char *const keys[] = {"id",      "watch",    "time",     "kind",    "name",
                                       "note",    "files",    "bytes",    "changed", "stored_bytes",
                                       "seconds", "complete", "verified", "damaged", "good",
                                       "spoilt",  "suspect",  "pinned"};
    struct fx *f = *state;
    struct error e = ERROR_INIT;
    json_t *out;

    commit_at(f, FX_TIME, (struct commit){.files_new = 1, .files_changed = 2, .files_removed = 3});
    uint64_t b =
        commit_at(f, FX_TIME + 1, (struct commit){.name = "n", .flags = COMMIT_INCOMPLETE});
    uint64_t c = commit_at(f, FX_TIME + 2, (struct commit){.kind = SNAPSHOT_CHANGE});
    fx_mark(f, MARK_VERIFIED, b);
    fx_mark(f, MARK_DAMAGED, c);

    FX_OK(report_list(f->repo, &(struct list_filter){0}, &out, &e), e);
    assert_int_equal(json_integer_value(json_object_get(out, "schema")), 1);
    json_t *all = json_object_get(out, "snapshots");
    assert_int_equal(json_array_size(all), 3);
    json_t *s = json_array_get(all, 0);
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        assert_non_null(json_object_get(s, keys[i]));
    assert_int_equal(json_object_size(s), sizeof(keys) / sizeof(keys[0]));
    assert_int_equal(json_integer_value(json_object_get(s, "changed")), 6);
    assert_true(is_null(s, "name") && is_null(s, "verified") && is_null(s, "good"));
    assert_string_equal(json_string_value(json_object_get(s, "kind")), "manual");
    assert_string_equal(json_string_value(json_object_get(s, "watch")), "app");
    assert_true(json_is_true(json_object_get(s, "complete")));
    s = json_array_get(all, 1);
    assert_true(json_is_true(json_object_get(s, "good")));
    assert_true(json_is_false(json_object_get(s, "complete")));
    assert_string_equal(json_string_value(json_object_get(s, "name")), "n");
    assert_true(json_is_string(json_object_get(s, "verified")));
    s = json_array_get(all, 2);
    assert_true(json_is_false(json_object_get(s, "good")));
    assert_true(json_is_true(json_object_get(s, "damaged")));
    json_decref(out);

    FX_OK(report_list(f->repo, &(struct list_filter){.recent = 2}, &out, &e), e);
    all = json_object_get(out, "snapshots");
    assert_int_equal(json_array_size(all), 2);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(all, 0), "id")), b);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(all, 1), "id")), c);
    json_decref(out);
    struct list_filter span = {
        .has_since = true, .since = FX_TIME + 1, .has_until = true, .until = FX_TIME + 1};
    FX_OK(report_list(f->repo, &span, &out, &e), e);
    assert_int_equal(json_array_size(json_object_get(out, "snapshots")), 1);
    json_decref(out);
    assert_int_equal(report_list(f->repo, &(struct list_filter){.watch = "none"}, &out, &e),
                     ERR_NOTFOUND);
}

static void shows_one_with_its_changes(void **state)
{
    struct fx *f = *state;
    struct error e = ERROR_INIT;
    struct snapshot_row row;
    json_t *out;

    uint64_t a = commit_at(f, FX_TIME, (struct commit){0});
    fx_begin(f);
    fx_file(f, NODE_ROOT, "x", "1");
    fx_file(f, NODE_ROOT, "y", "1");
    uint64_t b = fx_commit(f);
    fx_row(f, b, &row);
    FX_OK(report_show(f->repo, &row, 1, &out, &e), e);
    assert_int_equal(json_integer_value(json_object_get(out, "compared_with")), a);
    assert_int_equal(json_integer_value(json_object_get(out, "parent")), a);
    assert_int_equal(json_array_size(json_object_get(out, "changes")), 1);
    assert_true(json_is_true(json_object_get(out, "changes_more")));
    assert_non_null(strstr(json_string_value(json_object_get(out, "root")), "/app"));
    json_decref(out);
    snapshot_row_release(&row);
    fx_row(f, a, &row);
    FX_OK(report_show(f->repo, &row, 100, &out, &e), e);
    assert_true(is_null(out, "compared_with"));
    json_decref(out);
    snapshot_row_release(&row);
}

static void odd_names_are_readable_and_exact(void **state)
{
    json_t *o = json_object();

    report_path(o, "path", "a\xff\n");
    assert_string_equal(json_string_value(json_object_get(o, "path")), "a\xef\xbf\xbd\n");
    assert_string_equal(json_string_value(json_object_get(o, "path_b64")), "Yf8K");
    report_path(o, "path", "plain");
    report_path(o, "other", "gr\xc3\xbcn");
    assert_null(json_object_get(o, "other_b64"));
    json_decref(o);
}

static void errors_carry_exit_codes(void **state)
{
    struct error e = ERROR_INIT;

    error_set(&e, ERR_NOTFOUND, "no snapshot %d", 9);
    json_t *o = report_error(&e);
    assert_string_equal(json_string_value(json_object_get(o, "type")), "error");
    assert_int_equal(json_integer_value(json_object_get(o, "code")), 6);
    assert_string_equal(json_string_value(json_object_get(o, "message")), "no snapshot 9");
    json_decref(o);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fx_setup, fx_teardown)
    const struct CMUnitTest tests[] = {
        TEST(walks_in_order),
        TEST(names_what_is_missing),
        TEST(walks_deeper_than_any_path_may_be_long),
        TEST(selects_by_number_and_name),
        TEST(latest_is_never_suspect_or_safety),
        TEST(good_is_verified_and_whole),
        TEST(selects_by_time),
        TEST(several_watches_must_be_told_apart),
        TEST(tells_added_removed_changed),
        TEST(a_moved_folder_is_one_entry),
        TEST(saving_by_rename_is_a_change),
        TEST(swapped_folders_are_two_moves),
        TEST(a_further_hard_link_is_an_addition),
        TEST(different_watches_are_not_compared),
        TEST(history_follows_moves_and_rebirths),
        TEST(history_goes_on_before_a_node_came),
        TEST(lists_as_the_contract_says),
        TEST(shows_one_with_its_changes),
        cmocka_unit_test(odd_names_are_readable_and_exact),
        cmocka_unit_test(errors_carry_exit_codes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
