#include "snapshot/save.h"

#include "base/random.h"
#include "base/safety.h"
#include "base/text.h"
#include "io/fileops.h"
#include "io/safe_path.h"
#include "snapshot/save_state.h"
#include "snapshot/spoilt.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

enum {
    WORKERS_DEFAULT_MAX = 4,
    INCOMPLETE_LISTED_MAX = 1000,
    SUSPECT_FILES_MIN = 10,
    SUSPECT_SHARE = 10, /* a tenth is left */
};

/* ---- begin ---- */

static int open_root(struct save *s, struct error *e)
{
    const char *root = s->req->watch->root;
    char shown[512];

    s->rootfd = long_path_open(root, O_RDONLY | O_DIRECTORY, e);
    if (s->rootfd >= 0 && fstat(s->rootfd, &s->root_st) == 0)
        return 0;
    if (s->rootfd >= 0)
        return error_sys(e, errno, "cannot stat root '%s'", root);
    int sys = e->sys;
    text_escape(root, shown, sizeof(shown));
    if (sys == ENOTDIR && access(root, F_OK) == 0)
        return error_set(e, ERR_NOTFOUND, "root '%s' is not a folder", shown);
    if (sys == ENOENT || sys == ENOTDIR || e->code == ERR_NOTFOUND)
        return error_set(e, ERR_NOTFOUND, "root '%s' is not there", shown);
    if (sys == EACCES || sys == EPERM)
        return error_set(e, ERR_DENIED, "root '%s' cannot be read", shown);
    return e->code;
}

/* What was scanned must still be what the path leads to. */
static int check_root(const struct save *s, struct error *e)
{
    struct error ignored = ERROR_INIT;
    struct stat st;
    int fd = long_path_open(s->req->watch->root, O_PATH | O_DIRECTORY, &ignored);
    bool there = fd >= 0 && fstat(fd, &st) == 0 && st.st_ino == s->root_st.st_ino &&
                 st.st_dev == s->root_st.st_dev && st.st_nlink > 0;

    if (fd >= 0)
        close(fd);
    if (!SAFETY(ROOT_GONE, !there))
        return 0;
    return error_set(e, ERR_NOTFOUND, "root '%s' went away while it was saved",
                     s->req->watch->root);
}

/* Device numbers may differ after a new start of the system; the root tells. */
static int compare_devices(struct save *s, struct error *e)
{
    struct signature like = {0}, cached; /* only the inode counts */

    if (s->fresh)
        return 0;
    buffer_clear(&s->sig);
    int rc = catalog_cache_get(s->cat, s->watch, NODE_ROOT, &like.ino, &s->sig, e);
    if (rc < 0)
        return rc == ERR_NOTFOUND ? 0 : rc;
    if (!signature_decode(s->sig.data, s->sig.len, &like, &cached))
        return 0;
    s->root_replaced = cached.ino != s->root_st.st_ino;
    s->old_dev = cached.dev;
    s->new_dev = s->root_st.st_dev;
    s->dev_moved = cached.ino == s->root_st.st_ino && s->old_dev != s->new_dev;
    return 0;
}

static int prepare_work(struct save *s, struct error *e)
{
    struct save_work *w = &s->work;

    w->req = s->req;
    w->secret = catalog_fast_secret(s->cat);
    w->txn = s->txn;
    if (s->req->helper) {
        w->scratch = text_format("%s/scratch", repo_path(s->req->repo));
        if (!w->scratch)
            return save_no_memory(e);
        /* By the handle, not the path: where the repository was there may be a bare mount point. */
        if (fileops->mkdirat(repo_dirfd(s->req->repo), "scratch", 0700) < 0 && errno != EEXIST)
            return error_sys(e, errno, "cannot make the repository's scratch folder");
    }
    return 0;
}

static void show_expected(const struct save *s)
{
    const struct watch_row *row = txn_watch_row(s->txn);

    if (!s->req->progress)
        return;
    atomic_store(&s->req->progress->files_expected, row->files);
    atomic_store(&s->req->progress->bytes_expected, row->bytes);
}

/* Whether the rules differ from those of the last snapshot. */
static int compare_rules(struct save *s, const char *rules, struct error *e)
{
    struct watch_row row;
    int rc = s->fresh ? 0 : catalog_watch_by_name(s->cat, s->req->watch->name, &row, e);

    if (s->fresh || rc < 0)
        return rc;
    s->rules_changed = strcmp(row.rules ? row.rules : "", rules) != 0;
    /* How a file is captured is not written in its signature. */
    if (rules_text_sqlite_off(row.rules) != rules_text_sqlite_off(rules))
        s->rehash = true;
    watch_row_release(&row);
    return 0;
}

/* Damage was found in the last snapshot: what is still in the folder is read once, though it looks
 * as before, and what was lost of it is stored again. */
static int compare_soundness(struct save *s, uint64_t last, struct error *e)
{
    struct snapshot_row row;

    if (s->fresh)
        return 0;
    int rc = catalog_snapshot(s->cat, last, &row, e);
    if (rc == ERR_NOTFOUND) { /* it was pruned */
        error_clear(e);
        return 0;
    }
    if (rc != 0)
        return rc;
    if (row.damaged)
        s->rehash = s->must_commit = true;
    snapshot_row_release(&row);
    return 0;
}

static int begin(struct save *s, struct error *e)
{
    const struct save_request *req = s->req;
    const struct txn_watch watch = {.name = req->watch->name,
                                    .root = req->watch->root,
                                    .rules = rules_text(req->rules),
                                    .moved = req->watch->moved};
    int rc = txn_begin(req->repo, &watch, &s->txn, e);

    if (rc < 0)
        return rc;
    const struct watch_row *row = txn_watch_row(s->txn);
    s->cat = txn_catalog(s->txn);
    s->watch = row->serial;
    s->fresh = row->last == 0;
    s->rehash = req->rehash;
    rc = compare_rules(s, watch.rules, e);
    if (rc < 0)
        return rc;
    s->must_commit = s->fresh || s->rules_changed || req->name || req->kind == SNAPSHOT_SAFETY;
    rc = compare_soundness(s, row->last, e);
    if (rc < 0)
        return rc;
    show_expected(s);
    if (!s->fresh) {
        s->looked_nodes = row->next_node;
        s->looked = calloc(1, (size_t)(s->looked_nodes / 8 + 1));
        if (!s->looked)
            return save_no_memory(e);
    }
    rc = prepare_work(s, e);
    if (rc == 0)
        rc = compare_devices(s, e);
    return rc < 0 ? rc : version_begin(s, e);
}

static void set_up(struct save *s)
{
    s->rootfd = -1;
    s->path = s->meta = s->sig = s->cached = (struct buffer)BUFFER_INIT;
    s->flight_end = &s->flight;
    s->worker_count =
        task_threads(s->req->workers, s->req->workers ? TASK_POOL_MAX : WORKERS_DEFAULT_MAX);
    for (unsigned i = 0; i <= s->worker_count; i++)
        s->workers[i].work = &s->work;
    random_bytes(&s->name_seed, sizeof(s->name_seed));
    task_pool_init(&s->work.pool);
    pthread_mutex_init(&s->work.error_lock, NULL);
}

static void take_down(struct save *s)
{
    batch_release(s);
    while (s->stack) {
        struct visit *v = s->stack;
        s->stack = v->next;
        folder_drop(v->in);
        free(v);
    }
    pair_map_release(&s->links);
    pair_map_release(&s->bound);
    pair_map_release(&s->fate);
    pair_map_release(&s->removed);
    pair_map_release(&s->gained);
    pair_map_release(&s->lost);
    pair_map_release(&s->times_at);
    pair_map_release(&s->incomplete);
    for (size_t i = 0; i < s->gone_count; i++)
        free(s->gone[i].name);
    for (size_t i = 0; i < s->other_count; i++)
        free(s->other_names[i].path);
    free(s->looked);
    free(s->gone);
    free(s->other_names);
    free(s->times);
    free(s->work.scratch);
    for (size_t i = 0; i < s->retry_count; i++)
        free(s->retry[i]);
    free(s->retry);
    buffer_release(&s->path);
    buffer_release(&s->meta);
    buffer_release(&s->sig);
    buffer_release(&s->cached);
    pthread_mutex_destroy(&s->work.error_lock);
    if (s->rootfd >= 0)
        close(s->rootfd);
}

/* ---- walk ---- */

static bool names_root_tree(const struct dirty_set *set)
{
    for (size_t i = 0; i < set->count; i++) {
        if (set->paths[i].how & DIRTY_TREE && !set->paths[i].path[strspn(set->paths[i].path, "/")])
            return true;
    }
    return false;
}

static int walk_all(struct save *s, struct error *e)
{
    struct visit v = {.node = NODE_ROOT, .is_new = s->fresh, .list = true};
    int rc = 0;

    buffer_clear(&s->meta);
    buffer_clear(&s->sig);
    if (!s->fresh) {
        rc = catalog_node(s->cat, s->watch, NODE_ROOT, CATALOG_OPEN, &s->meta, e);
        if (rc == 0)
            rc = catalog_cache_get(s->cat, s->watch, NODE_ROOT, &v.ino, &s->sig, e);
        if (rc < 0 && rc != ERR_NOTFOUND)
            return rc;
        error_clear(e);
    }
    v.meta = s->meta.data;
    v.meta_len = (uint32_t)s->meta.len;
    v.sig = s->sig.data;
    v.sig_len = (uint32_t)s->sig.len;
    rc = walk_push(s, &v, "", e);
    return rc < 0 ? rc : walk_run(s, e);
}

static int scan(struct save *s, struct error *e)
{
    const struct dirty_set *set = s->req->dirty;
    int rc;

    rules_look(s->req->rules);
    bool dirty_only = set && !s->fresh && !s->rules_changed && !s->rehash && !names_root_tree(set);
    rc = dirty_only ? dirty_run(s, set, e) : walk_all(s, e);
    if (rc == 0)
        rc = batch_drain(s, e);
    if (rc == 0)
        rc = save_work_check(&s->work, e);
    return rc < 0 ? rc : names_finish(s, e);
}

/* ---- commit ---- */

static uint64_t moved_by(uint64_t total, int64_t by)
{
    return by < 0 && (uint64_t)-by > total ? 0 : total + (uint64_t)by;
}

static int count_folder(void *ctx, uint64_t node, int64_t from, int64_t to, const void *meta,
                        size_t len)
{
    struct error e = ERROR_INIT;
    struct node_brief b;
    uint64_t *folders = ctx;

    if (to == CATALOG_OPEN && node != NODE_ROOT && node_brief_decode(meta, len, &b, &e) == 0)
        *folders += b.type == NODE_FOLDER;
    return 0;
}

struct before { /* the snapshot before this one */
    bool found;
    uint64_t folders;
    bool suspect;
    uint64_t trusted_files; /* in it, or where it is suspect in the last one that was not */
    uint64_t spoilt;
    bool only_safety; /* its state stands in snapshots of restores alone: none is `latest` */
};

static int count_spoilt(void *ctx, uint64_t node, int64_t from, int64_t to, const void *meta,
                        size_t len)
{
    struct error e = ERROR_INIT;
    struct node_brief b;
    uint64_t *spoilt = ctx;

    *spoilt += node_brief_decode(meta, len, &b, &e) == 0 && b.flags & NODE_SPOILT;
    return 0;
}

struct holder {
    struct state_sum sum;
    bool held;
};

/* The newest that is no safety snapshot has this state. */
static int visit_holder(void *ctx, const struct snapshot_row *row)
{
    struct holder *h = ctx;

    if (row->commit.kind == SNAPSHOT_SAFETY)
        return 0;
    h->held = memcmp(&row->commit.sum, &h->sum, sizeof(h->sum)) == 0;
    return 1;
}

static int look_behind_safety(struct save *s, const struct commit *newest, bool *only,
                              struct error *e)
{
    struct holder h = {.sum = newest->sum};
    int rc = catalog_snapshots(s->cat, s->watch, 1, newest->number, true, visit_holder, &h, e);

    *only = !h.held;
    return rc < 0 ? rc : 0;
}

static int load_before(struct save *s, struct before *b, struct error *e)
{
    const struct watch_row *w = txn_watch_row(s->txn);
    struct snapshot_row row;

    *b = (struct before){.trusted_files = w->files};
    if (w->last == 0)
        return 0;
    int rc = catalog_snapshot(s->cat, w->last, &row, e);
    if (rc == 0) {
        b->found = true;
        b->folders = row.commit.folders;
        b->suspect = row.commit.flags & COMMIT_SUSPECT;
        if (b->suspect && row.commit.trusted_files > 0)
            b->trusted_files = row.commit.trusted_files;
        b->spoilt = row.commit.spoilt;
        if (row.commit.kind == SNAPSHOT_SAFETY)
            rc = look_behind_safety(s, &row.commit, &b->only_safety, e);
        snapshot_row_release(&row);
    }
    return rc == ERR_NOTFOUND ? catalog_incomplete(s->cat, s->watch, count_spoilt, &b->spoilt, e)
                              : rc;
}

/* Compared with the last snapshot that was not suspect: what is gone does not become right by being
 * gone for a while. */
static bool is_suspect(const struct save *s, uint64_t before, uint64_t now)
{
    if (s->fresh || s->rules_changed || s->req->accept || before == 0)
        return false;
    return now == 0 || (before >= SUSPECT_FILES_MIN && now <= before / SUSPECT_SHARE);
}

static void tell_suspect(struct save_result *r, bool suspect, uint64_t trusted_files)
{
    r->suspect = suspect;
    r->trusted_files = suspect ? trusted_files : 0;
}

static void fill_result(struct save *s, uint64_t files, uint64_t bytes)
{
    struct save_result *r = s->res;
    uint64_t touched = r->files_new + r->files_changed;

    r->files = files;
    r->bytes = bytes;
    r->files_unchanged = files > touched ? files - touched : 0;
    r->bytes_read = atomic_load(&s->work.bytes_read);
}

static int commit(struct save *s, struct before *before, uint64_t started, struct error *e)
{
    const struct watch_row *row = txn_watch_row(s->txn);
    struct save_result *r = s->res;
    bool unsound = false;
    int rc = spoilt_pardon(s, before->spoilt, e);

    if (rc == 0)
        rc = version_put_times(s, e);
    if (rc == 0 && !before->found && row->last > 0)
        rc = catalog_nodes(s->cat, s->watch, count_folder, &before->folders, e);
    if (rc == 0)
        rc = version_unsound(s, &unsound, e);
    if (rc < 0)
        return rc;
    struct commit c = {
        .kind = (uint8_t)s->req->kind,
        .time = clock_wall(),
        .files = moved_by(row->files, s->files),
        .folders = moved_by(before->folders, s->folders),
        .bytes = moved_by(row->bytes, s->bytes),
        .files_new = r->files_new,
        .files_changed = r->files_changed,
        .files_removed = r->files_removed,
        .files_excluded = r->files_excluded,
        .bytes_read = atomic_load(&s->work.bytes_read),
        .incomplete_count = moved_by(row->incomplete_count, s->incomplete_count),
        .spoilt = moved_by(before->spoilt, s->spoilt),
        .declassed = s->declassed,
        .name = s->req->name,
        .note = s->req->note,
        .gap = s->req->gap,
    };
    c.utc_offset = clock_utc_offset(c.time.s);
    tell_suspect(r, is_suspect(s, before->trusted_files, c.files), before->trusted_files);
    c.trusted_files = r->trusted_files;
    c.flags = (c.incomplete_count > 0 ? COMMIT_INCOMPLETE : 0u) | (unsound ? COMMIT_UNSOUND : 0u) |
              (r->suspect ? COMMIT_SUSPECT : 0u) | (s->rules_changed ? COMMIT_RULES : 0u);
    c.duration_ns = clock_mono_ns() - started;
    r->incomplete_total = c.incomplete_count;
    r->spoilt_total = c.spoilt;
    fill_result(s, c.files, c.bytes);
    rc = guard_emptied(s, &c, r->suspect && !before->suspect, e);
    if (rc == 0)
        rc = guard_scrambled(s, &c, e);
    if (rc == 0) {
        rc = txn_commit(s->txn, &c, e);
        s->txn = NULL;
    }
    if (rc < 0)
        return rc;
    r->snapshot = r->current = c.number;
    r->bytes_stored = c.bytes_stored;
    if (s->req->progress)
        atomic_store(&s->req->progress->bytes_stored, c.bytes_stored);
    return 0;
}

/* ---- what is incomplete now ---- */

struct listing {
    struct catalog *cat;
    int64_t watch;
    struct save_result *res;
    struct error *e;
    int rc;
};

static const char *reason_of(const struct node *n)
{
    if (n->reason)
        return n->reason;
    if (n->flags & NODE_UNREAD)
        return "cannot be read";
    return n->flags & NODE_CHANGING ? "kept changing while it was read"
                                    : "a database server's data folder";
}

static int add_path(struct listing *l, uint64_t node, const char *reason,
                    struct incomplete_path *list, size_t *count)
{
    struct incomplete_path *to = &list[*count];
    struct buffer path = BUFFER_INIT;
    int rc = catalog_node_path(l->cat, l->watch, node, CATALOG_OPEN, &path, l->e);

    if (rc == 0) {
        to->path = strdup(buffer_cstr(&path));
        to->reason = strdup(reason);
        ++*count;
        if (!to->path || !to->reason)
            rc = save_no_memory(l->e);
    }
    buffer_release(&path);
    return rc == ERR_NOTFOUND ? 0 : rc;
}

static int list_one(void *ctx, uint64_t node, int64_t from, int64_t to, const void *meta,
                    size_t len)
{
    struct listing *l = ctx;
    struct save_result *r = l->res;
    struct node n;

    if (r->incomplete_count == INCOMPLETE_LISTED_MAX && r->spoilt_count == r->spoilt_total)
        return 1;
    l->rc = node_decode(meta, len, &n, l->e);
    if (l->rc != 0)
        return l->rc;
    if (n.flags & NODE_INCOMPLETE && r->incomplete_count < INCOMPLETE_LISTED_MAX)
        l->rc = add_path(l, node, reason_of(&n), r->incomplete, &r->incomplete_count);
    if (l->rc == 0 && n.flags & NODE_SPOILT && r->spoilt_count < INCOMPLETE_LISTED_MAX)
        l->rc = add_path(l, node, spoilt_reason(n.flags, n.size), r->spoilt, &r->spoilt_count);
    node_release(&n);
    return l->rc;
}

static int list_incomplete(struct save *s, struct catalog *cat, struct error *e)
{
    struct listing l = {.cat = cat, .watch = s->watch, .res = s->res, .e = e};

    s->res->incomplete = calloc(INCOMPLETE_LISTED_MAX, sizeof(*s->res->incomplete));
    s->res->spoilt = calloc(INCOMPLETE_LISTED_MAX, sizeof(*s->res->spoilt));
    if (!s->res->incomplete || !s->res->spoilt)
        return save_no_memory(e);
    int rc = catalog_incomplete(cat, s->watch, list_one, &l, e);
    return l.rc < 0 ? l.rc : rc < 0 ? rc : 0;
}

/* The snapshot stands; that its list cannot be told does not undo it. */
static void list_after_commit(struct save *s)
{
    struct error e = ERROR_INIT;
    struct catalog *cat = NULL;

    if (s->res->incomplete_total + s->res->spoilt_total == 0 ||
        repo_catalog_open(s->req->repo, &cat, &e) < 0)
        return;
    list_incomplete(s, cat, &e);
    repo_catalog_close(s->req->repo, cat);
}

static int end_unchanged(struct save *s, const struct before *before, struct error *e)
{
    const struct watch_row *row = txn_watch_row(s->txn);
    struct save_result *r = s->res;
    int rc = 0;

    r->current = row->last;
    r->incomplete_total = row->incomplete_count;
    r->spoilt_total = before->spoilt;
    tell_suspect(r, before->suspect, before->trusted_files);
    fill_result(s, row->files, row->bytes);
    if (r->incomplete_total + r->spoilt_total > 0)
        rc = list_incomplete(s, s->cat, e);
    if (rc == 0) {
        txn_end_unchanged(s->txn);
        s->txn = NULL;
    }
    return rc;
}

/* ---- all of it ---- */

static int finish(struct save *s, uint64_t started, struct error *e)
{
    struct before before;
    int rc = check_root(s, e);

    if (rc == 0)
        rc = load_before(s, &before, e);
    if (rc < 0)
        return rc;
    s->must_commit |= before.only_safety;
    s->must_commit |= s->req->accept && (before.suspect || before.spoilt > 0);
    bool unchanged = !s->must_commit && !txn_changed(s->txn);
    const struct watch_row *row = txn_watch_row(s->txn);
    struct watch_row was = {.frozen = row->frozen};
    memcpy(was.id, row->id, WATCH_ID_LEN);
    rc = unchanged ? end_unchanged(s, &before, e) : commit(s, &before, started, e);
    if (rc == 0)
        guard_refilled(s, &was);
    if (rc == 0 && !unchanged)
        list_after_commit(s);
    return rc;
}

static int run_once(const struct save_request *req, struct save_result *result, struct error *e)
{
    struct save *s = calloc(1, sizeof(*s));
    uint64_t started = clock_mono_ns();

    *result = (struct save_result){0};
    if (!s)
        return save_no_memory(e);
    s->req = req;
    s->res = result;
    set_up(s);
    int rc = open_root(s, e);
    if (rc == 0)
        rc = begin(s, e);
    if (rc == 0)
        rc = guard_vacant(s, e);
    if (rc == 0)
        rc = scan(s, e);
    if (rc == 0)
        rc = finish(s, started, e);
    if (rc < 0) /* no thread may use the transaction when it ends */
        save_work_fail(&s->work, e);
    task_pool_stop(&s->work.pool);
    if (s->txn)
        txn_abort(s->txn);
    if (rc == 0) {
        result->retry = s->retry;
        result->retry_count = s->retry_count;
        s->retry = NULL;
        s->retry_count = 0;
        result->seconds = (double)(clock_mono_ns() - started) / 1e9;
    }
    take_down(s);
    free(s);
    return rc;
}

int save_run(const struct save_request *req, struct save_result *result, struct error *e)
{
    struct catalog_try tried = repo_catalog_try(req->repo);
    int rc;

    while (rc = run_once(req, result, e), repo_catalog_replaced(req->repo, rc, &tried))
        save_result_release(result);
    return rc;
}

static void release_paths(struct incomplete_path *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(list[i].path);
        free(list[i].reason);
    }
    free(list);
}

void save_result_release(struct save_result *r)
{
    release_paths(r->incomplete, r->incomplete_count);
    release_paths(r->spoilt, r->spoilt_count);
    for (size_t i = 0; i < r->retry_count; i++)
        free(r->retry[i]);
    free(r->retry);
    *r = (struct save_result){0};
}
