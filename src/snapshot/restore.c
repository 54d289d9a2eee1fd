#include "snapshot/restore.h"

#include "base/clock.h"
#include "base/safety.h"
#include "base/text.h"
#include "io/fileops.h"
#include "io/safe_path.h"
#include "snapshot/restore_job.h"
#include "snapshot/task_pool.h"
#include "snapshot/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum { PROBLEMS_MAX = 1000, WORKERS_MAX = 4, QUEUE_PER_WORKER = 2 };

/* ---- problems and warnings ---- */

/* Of several, the first of these decides (CONTRACT.md, exit codes). */
static int rank(int code)
{
    static const int order[] = {ERR_FAILED,  ERR_NOSPACE, ERR_DENIED,
                                ERR_DAMAGED, ERR_REFUSED, ERR_INCOMPLETE};
    int n = (int)(sizeof(order) / sizeof(order[0]));

    for (int i = 0; i < n; i++) {
        if (order[i] == code)
            return n - i;
    }
    return code == 0 ? 0 : n;
}

static void keep_problem(struct restore_result *r, const char *path, const char *reason)
{
    if (r->problem_count == PROBLEMS_MAX)
        return;
    if (!r->problems)
        r->problems = calloc(PROBLEMS_MAX, sizeof(*r->problems));
    if (!r->problems)
        return;
    struct restore_problem p = {.path = strdup(path), .reason = strdup(reason)};
    if (p.path && p.reason) {
        r->problems[r->problem_count++] = p;
    } else {
        free(p.path);
        free(p.reason);
    }
}

void restore_problem(struct restore_job *j, const char *path, const struct error *why)
{
    int code = why->code == ERR_NOTFOUND ? ERR_DAMAGED : why->code;

    pthread_mutex_lock(&j->lock);
    keep_problem(j->result, path, why->message);
    j->result->skipped++;
    if (rank(code) > rank(j->worst))
        j->worst = code;
    pthread_mutex_unlock(&j->lock);
}

void restore_warn(struct restore_job *j, enum restore_warning kind, const char *path, int sys)
{
    char quoted[256];

    pthread_mutex_lock(&j->lock);
    if (j->warnings[kind].count++ == 0) {
        text_escape(path, quoted, sizeof(quoted));
        j->warnings[kind].first = sys ? text_format("'%s': %s", quoted, strerrordesc_np(sys))
                                      : text_format("'%s'", quoted);
    }
    pthread_mutex_unlock(&j->lock);
}

static void tell_warnings(struct restore_job *j)
{
    static const char *const what[WARN_KINDS] = {
        [WARN_OWNER] = "the owner could not be set",
        [WARN_SETUID] = "set-user-id and set-group-id bits were left out, as the owner is another",
        [WARN_XATTR] = "extended attributes could not be set",
        [WARN_MODE] = "the mode could not be set",
        [WARN_TIMES] = "the time of change could not be set",
        [WARN_DEVICE] = "devices were not made (that needs root)",
        [WARN_CHANGING] = "kept changing while it was saved and may be torn",
        [WARN_SERVER_DATA] = "saved inside a database server's data folder: no consistent copy",
        [WARN_UNREAD] = "could not be read when it was saved: what is there is older",
    };
    struct restore_result *r = j->result;

    r->warnings = calloc(WARN_KINDS, sizeof(*r->warnings));
    for (int i = 0; i < WARN_KINDS; i++) {
        if (j->warnings[i].count == 0 || !r->warnings)
            continue;
        char *line = text_format("%s: %" PRIu64 " %s, first %s", what[i], j->warnings[i].count,
                                 j->warnings[i].count == 1 ? "entry" : "entries",
                                 j->warnings[i].first ? j->warnings[i].first : "?");
        if (line)
            r->warnings[r->warning_count++] = line;
    }
}

void restore_result_release(struct restore_result *r)
{
    for (size_t i = 0; i < r->problem_count; i++) {
        free(r->problems[i].path);
        free(r->problems[i].reason);
    }
    for (size_t i = 0; i < r->warning_count; i++)
        free(r->warnings[i]);
    free(r->problems);
    free(r->warnings);
    memset(r, 0, sizeof(*r));
}

/* ---- stopping ---- */

int restore_fail(struct restore_job *j, const struct error *why)
{
    pthread_mutex_lock(&j->lock);
    if (j->code == 0) {
        j->why = *why;
        atomic_store_explicit(&j->code, why->code, memory_order_release);
    }
    int code = j->code;
    pthread_cond_broadcast(&j->more);
    pthread_cond_broadcast(&j->room);
    pthread_mutex_unlock(&j->lock);
    return code;
}

int restore_stopped(struct restore_job *j)
{
    struct error why = ERROR_INIT;

    if (j->req->cancel && atomic_load_explicit(j->req->cancel, memory_order_relaxed)) {
        error_set(&why, ERR_CANCELLED, "restore was interrupted");
        return restore_fail(j, &why);
    }
    return atomic_load_explicit(&j->code, memory_order_acquire);
}

bool restore_fatal(int sys)
{
    return sys == ENOSPC || sys == EDQUOT || sys == EIO || sys == EROFS || sys == ENOMEM ||
           sys == EMFILE || sys == ENFILE || sys == ENODEV || sys == ESTALE;
}

/* Put words around a message; what kind of error it is stays. */
static int __attribute__((format(printf, 2, 3))) reword(struct error *e, const char *fmt, ...)
{
    char text[sizeof(e->message)];
    int code = e->code, sys = e->sys;
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    error_set(e, code, "%s", text);
    e->sys = sys;
    return code;
}

int restore_target_failed(struct restore_job *j, const char *path, struct error *e)
{
    char quoted[256];

    atomic_store(&j->target_failed, true);
    reword(e, "cannot restore '%s': %s", text_escape(path, quoted, sizeof(quoted)), e->message);
    return error_path(e, path);
}

static const char *what_to_do(int sys)
{
    switch (sys) {
    case ENOSPC:
    case EDQUOT:
        return "make room there, or restore to another file system";
    case EROFS:
        return "it may only be read: restore to another place";
    case EACCES:
    case EPERM:
        return "restore as a user who may write there, or to another place";
    case EIO:
        return "the disk fails: look into the system's log, and restore to another disk";
    case EMFILE:
    case ENFILE:
        return "raise the limit of open files";
    default:
        return "restore to another place";
    }
}

/* People see where it was to go, what they find there, and what helps. */
void restore_tell_target(const struct restore_job *j, const struct restore_target *t,
                         struct error *e)
{
    char quoted[256], path[sizeof(e->path)], target[300] = "";

    if (e->sys == 0)
        return;
    memcpy(path, e->path, sizeof(path));
    text_escape(j->req->target, quoted, sizeof(quoted));
    if (!strstr(e->message, quoted))
        snprintf(target, sizeof(target), " in target '%s'", quoted);
    reword(e, "%s%s; %s; %s", e->message, target,
           t->placed ? "not all is safely in place" : "nothing was put in place",
           what_to_do(e->sys));
    memcpy(e->path, path, sizeof(path));
}

/* ---- folders of the tree ---- */

const char *restore_path(const struct restore_folder *f, const char *name, struct buffer *out)
{
    size_t len = name ? strlen(name) : 0;

    for (const struct restore_folder *at = f; at->parent; at = at->parent)
        len += strlen(at->name) + (len > 0);
    buffer_clear(out);
    char *path = (char *)buffer_grow(out, len + 1);
    if (!path)
        return NULL;
    path[len] = 0;
    if (name) {
        size_t n = strlen(name);
        len -= n;
        memcpy(path + len, name, n);
    }
    for (const struct restore_folder *at = f; at->parent; at = at->parent) {
        size_t n = strlen(at->name);
        if (path[len] != 0)
            path[--len] = '/';
        len -= n;
        memcpy(path + len, at->name, n);
    }
    return path;
}

int restore_dir_open(int tree, struct restore_dir *d, const struct restore_folder *f,
                     struct error *e)
{
    const int flags = O_PATH | O_DIRECTORY | O_NOFOLLOW;
    struct buffer path = BUFFER_INIT;
    int fd;

    if (d->fd >= 0 && d->folder == f)
        return d->fd;
    if (d->fd >= 0 && f->parent && d->folder == f->parent) {
        fd = safe_open(d->fd, f->name, flags, 0, e);
    } else if (restore_path(f, NULL, &path)) {
        fd = safe_open(tree, (const char *)path.data, flags, 0, e);
    } else {
        fd = error_set(e, ERR_FAILED, "out of memory");
    }
    buffer_release(&path);
    if (fd < 0)
        return fd;
    restore_dir_close(d);
    d->folder = f;
    d->fd = fd;
    return fd;
}

void restore_dir_close(struct restore_dir *d)
{
    if (d->fd >= 0)
        close(d->fd);
    d->fd = -1;
    d->folder = NULL;
}

/* ---- the whole ---- */

/* Write the tree: this thread walks, the others write. */
int restore_write_tree(struct restore_job *j, struct error *e)
{
    pthread_t threads[WORKERS_MAX];
    unsigned count = task_threads(j->req->workers, WORKERS_MAX);
    unsigned started = 0;

    j->queue_max = (size_t)count * QUEUE_PER_WORKER;
    while (started < count && pthread_create(&threads[started], NULL, restore_work, j) == 0)
        started++;
    int rc = started > 0 ? restore_plan(j, e)
                         : error_set(e, ERR_FAILED, "cannot start a thread to restore with");
    if (rc != 0)
        restore_fail(j, e);
    pthread_mutex_lock(&j->lock);
    j->closed = true;
    pthread_cond_broadcast(&j->more);
    pthread_mutex_unlock(&j->lock);
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    if (restore_stopped(j) != 0) {
        *e = j->why;
        return e->code;
    }
    return restore_links(j, e);
}

int restore_flush(int fd, struct error *e)
{
    return SAFETY(RESTORE_FLUSH, fileops->syncfs(fd)) == 0
               ? 0
               : error_sys(e, errno, "cannot flush what was restored");
}

/* Folders get their modes before a single rename shows them, but after a merge: a folder that may
 * not be written cannot be moved or filled. */
static int finish(struct restore_job *j, struct restore_target *t, struct error *e)
{
    int rc = t->inside ? 0 : restore_folders(j, t->tree, e);
    if (rc == 0)
        rc = restore_flush(t->tree, e);
    if (rc == 0)
        rc = restore_target_place(j, t, e);
    if (rc != 0)
        return rc;
    bool late = t->inside;
    restore_target_close(t);
    if (late) {
        rc = restore_folders(j, t->folder, e);
        int flushed = restore_flush(t->folder, rc == 0 ? e : &(struct error)ERROR_INIT);
        rc = rc != 0 ? rc : flushed;
    }
    return rc;
}

static int is_single(const struct restore_request *req, bool *single, struct error *e)
{
    struct catalog *c;
    struct buffer meta = BUFFER_INIT;
    struct node_brief brief;
    uint64_t node;
    const char *path = req->path ? req->path : "";

    *single = false;
    if (!*path)
        return 0;
    int rc = repo_catalog_open(req->repo, &c, e);
    if (rc != 0)
        return rc;
    int64_t at = (int64_t)req->snapshot->commit.number;
    rc = tree_find(c, req->snapshot->watch_serial, at, path, &node, e);
    if (rc == 0)
        rc = catalog_node(c, req->snapshot->watch_serial, node, at, &meta, e);
    if (rc == 0 && !buffer_ok(&meta))
        rc = error_set(e, ERR_FAILED, "out of memory");
    if (rc == 0)
        rc = node_brief_decode(meta.data, meta.len, &brief, e);
    if (rc == 0)
        *single = brief.type != NODE_FOLDER;
    buffer_release(&meta);
    repo_catalog_close(req->repo, c);
    return rc;
}

int restore_into_target(struct restore_job *j,
                        int (*write)(struct restore_job *j, const void *ctx, struct error *e),
                        const void *ctx, struct error *e)
{
    struct restore_target t;

    int rc = restore_target_open(j->req, j->single, &t, e);
    bool of_target = rc != 0;
    if (rc == 0) {
        j->tree = t.tree;
        rc = write(j, ctx, e);
        of_target = atomic_load(&j->target_failed);
    }
    if (rc == 0) {
        rc = finish(j, &t, e);
        of_target = rc != 0;
        j->result->finished = rc == 0;
    }
    if (of_target)
        restore_tell_target(j, &t, e);
    restore_target_close(&t);
    if (t.folder >= 0)
        close(t.folder);
    if (t.parent >= 0)
        close(t.parent);
    free(t.name);
    return rc;
}

static int write_snapshot(struct restore_job *j, const void *ctx, struct error *e)
{
    return restore_write_tree(j, e);
}

static int run(struct restore_job *j, struct error *e)
{
    int rc = is_single(j->req, &j->single, e);

    return rc != 0 ? rc : restore_into_target(j, write_snapshot, NULL, e);
}

static int verdict(struct restore_job *j, struct error *e)
{
    const struct restore_result *r = j->result;
    const char *first = r->problem_count > 0 ? r->problems[0].path : "";
    char quoted[256];

    if (j->worst == 0 && j->req->snapshot && !j->req->snapshot->whole) {
        j->worst = ERR_DAMAGED;
        return error_set(e, ERR_DAMAGED,
                         "snapshot %" PRIu64
                         " is not whole: part of its file list is lost, and what "
                         "stood there is not restored",
                         j->req->snapshot->commit.number);
    }
    if (j->worst == 0)
        return 0;
    text_escape(first, quoted, sizeof(quoted));
    error_set(e, j->worst, "%" PRIu64 " %s could not be restored, first '%s': %s", r->skipped,
              r->skipped == 1 ? "entry" : "entries", quoted,
              r->problem_count > 0 ? r->problems[0].reason : "out of memory");
    return error_path(e, first);
}

static void job_release(struct restore_job *j)
{
    while (j->last) {
        struct restore_folder *f = j->last;
        j->last = f->before;
        free(f->meta);
        free(f);
    }
    while (j->splits) {
        struct restore_split *s = j->splits;
        j->splits = s->next;
        restore_split_free(s);
    }
    while (j->queue) {
        struct restore_batch *b = j->queue;
        j->queue = b->next;
        restore_batch_free(b);
    }
    for (size_t i = 0; i < j->database_count; i++)
        free(j->databases[i]);
    for (int i = 0; i < WARN_KINDS; i++)
        free(j->warnings[i].first);
    free(j->databases);
    buffer_release(&j->repeated);
    pthread_cond_destroy(&j->more);
    pthread_cond_destroy(&j->room);
    pthread_mutex_destroy(&j->lock);
}

void restore_job_init(struct restore_job *j, const struct restore_request *req,
                      struct restore_result *result)
{
    *j = (struct restore_job){.req = req, .result = result, .tree = -1, .begun = clock_mono_ns()};
    memset(result, 0, sizeof(*result));
    j->queue_end = &j->queue;
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->more, NULL);
    pthread_cond_init(&j->room, NULL);
}

int restore_job_end(struct restore_job *j, int rc, struct error *e)
{
    struct restore_result *r = j->result;

    if (rc == 0) {
        tell_warnings(j);
        rc = verdict(j, e);
    }
    if (r->finished) {
        r->files = atomic_load(&j->files);
        r->bytes = atomic_load(&j->bytes);
    }
    r->seconds = (double)(clock_mono_ns() - j->begun) / 1e9;
    job_release(j);
    return rc;
}

int restore_job_run(const struct restore_request *req, struct live_plan *live,
                    struct restore_result *result,
                    int (*work)(struct restore_job *j, struct error *e), struct error *e)
{
    struct restore_job j;

    restore_job_init(&j, req, result);
    j.live = live;
    int rc = repo_lease(req->repo, req->snapshot->commit.number, e);
    if (rc == 0) {
        rc = work(&j, e);
        repo_lease_end(req->repo, req->snapshot->commit.number);
    }
    return restore_job_end(&j, rc, e);
}

int restore_run(const struct restore_request *req, struct restore_result *result, struct error *e)
{
    struct catalog_try tried = repo_catalog_try(req->repo);
    int rc;

    while (rc = restore_job_run(req, NULL, result, run, e),
           repo_catalog_replaced(req->repo, rc, &tried))
        restore_result_release(result);
    return rc;
}
