/* Jobs go to the workers in batches: small files of neighbouring folders together, a large file
 * alone. Batches come back in the order they were given, however they finish. A save of one batch
 * needs no thread. */
#include "snapshot/save_state.h"

#include "io/safe_path.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum {
    BATCH_LEN = 512 * 1024, /* of raw bytes; a further small file may go beyond it */
    BATCH_FILES = 512,
    BATCH_DIRS = 24,
    FLIGHT_PER_WORKER = 4,
    FEW_FILES = 16,
    WORTH_THREADS = 4 * 1024 * 1024, /* one file of this length is read by several */
};

struct batch {
    struct task task;
    struct batch *next;
    struct file_job *first, **end;
    unsigned files, dirs;
    uint64_t bytes;
    const struct dir_handle *last_dir;
};

/* ---- the workers' side ---- */

static void batch_run(struct task *t, void *worker)
{
    struct batch *b = (struct batch *)((char *)t - offsetof(struct batch, task));
    struct save_worker *w = worker;
    struct error e = ERROR_INIT;
    int rc = 0;

    w->few = b->files <= FEW_FILES;
    for (struct file_job *j = b->first; rc == 0 && j; j = j->next)
        rc = file_job_run(w, j, &e);
    if (rc < 0)
        save_work_fail(w->work, &e);
}

/* A worker's last block, which no further batch will fill; any thread packs it. */
struct last_block {
    struct task task;
    struct save_worker *of;
};

static void last_block_run(struct task *t, void *worker)
{
    struct last_block *b = (struct last_block *)((char *)t - offsetof(struct last_block, task));
    struct error e = ERROR_INIT;

    if (save_work_check(b->of->work, &e) < 0 || save_worker_flush(b->of, &e) < 0)
        save_work_fail(b->of->work, &e);
}

/* ---- results ---- */

int save_retry(struct save *s, const char *path, struct error *e)
{
    if (s->retry_count == s->retry_cap) {
        size_t cap = s->retry_cap ? 2 * s->retry_cap : 16;
        char **v = reallocarray(s->retry, cap, sizeof(*v));
        if (!v)
            return save_no_memory(e);
        s->retry = v;
        s->retry_cap = cap;
    }
    s->retry[s->retry_count] = strdup(path);
    return s->retry[s->retry_count++] ? 0 : save_no_memory(e);
}

/* A further name of the same file may still be there. 1: it is tried. */
static int try_other_name(struct save *s, const struct file_job *j, const struct other_name *o,
                          struct error *e)
{
    const char *name = NULL;
    int fd = safe_open_parent(s->rootfd, o->path, &name, e);

    if (fd == ERR_NOTFOUND || fd == ERR_REFUSED) {
        error_clear(e);
        return 0;
    }
    if (fd < 0)
        return fd;
    struct dir_handle *dir = dir_handle_new(fd, &s->open_dirs);
    struct file_job *again = dir ? file_job_new(dir, o->path, o->parent, j->node, j->old_meta,
                                                j->old_meta_len, j->old_cache, j->old_cache_len)
                                 : NULL;
    dir_handle_drop(dir);
    if (!again)
        return save_no_memory(e);
    again->seen = j->seen;
    again->linked = again->put_name = true;
    int rc = batch_add(s, again, e);
    return rc < 0 ? rc : 1;
}

static int vanished(struct save *s, const struct file_job *j, struct error *e)
{
    const struct known row = {.node = j->node,
                              .meta = j->old_meta,
                              .meta_len = j->old_meta_len,
                              .sig = j->old_cache,
                              .sig_len = j->old_cache_len};
    struct other_name other;
    int rc = 0;

    if (!j->put_name && j->old_meta_len > 0)
        rc = names_gone(s, j->parent, j->name, &row, e);
    while (rc == 0 && j->linked && names_take_other(s, j->node, &other)) {
        rc = try_other_name(s, j, &other, e);
        free(other.path);
    }
    if (rc == 0 && j->linked)
        names_unbind(s, &j->seen, j->node);
    return rc < 0 ? rc : 0;
}

static int finish_job(struct save *s, struct file_job *j, struct error *e)
{
    int rc = j->look_again ? save_retry(s, j->path, e) : 0;

    if (rc < 0)
        return rc;
    if (s->req->progress)
        atomic_fetch_add_explicit(&s->req->progress->files_read, 1, memory_order_relaxed);
    if (j->outcome == FILE_VANISHED)
        return vanished(s, j, e);
    if (j->put_name)
        rc = names_put(s, j->parent, j->name, j->node, NODE_FILE, j->old_meta_len == 0, e);
    if (rc == 0)
        rc = version_take(s, j->node, &j->n, j->outcome, j->old_meta, j->old_meta_len,
                          &j->signature, &j->hashes, e);
    return rc;
}

static void batch_free(struct batch *b)
{
    struct file_job *next;

    for (struct file_job *j = b ? b->first : NULL; j; j = next) {
        next = j->next;
        file_job_free(j);
    }
    free(b);
}

static bool head_done(void *ctx)
{
    struct save *s = ctx;

    return s->flight->task.done;
}

/* The oldest batch is done: take what came of it. */
static int land(struct save *s, struct error *e)
{
    struct batch *b = s->flight;
    int rc = save_work_check(&s->work, e);

    s->flight = b->next;
    if (!s->flight)
        s->flight_end = &s->flight;
    s->in_flight--;
    for (struct file_job *j = b->first; rc == 0 && j; j = j->next)
        rc = finish_job(s, j, e);
    batch_free(b);
    if (s->req->progress)
        atomic_store(&s->req->progress->bytes_stored, txn_bytes_stored(s->txn));
    return rc;
}

static bool head_is_done(struct save *s)
{
    pthread_mutex_lock(&s->work.pool.lock);
    bool done = s->flight && s->flight->task.done;
    pthread_mutex_unlock(&s->work.pool.lock);
    return done;
}

/* ---- giving out ---- */

static void start_threads(struct save *s)
{
    struct error e = ERROR_INIT;

    for (unsigned i = 1; i <= s->worker_count; i++) {
        if (task_pool_start(&s->work.pool, &s->workers[i], &e) < 0)
            break;
    }
    s->inline_only = s->work.pool.count == 0; /* slower, but done */
}

/* The batches that wait go to the threads, which are started first. */
static void push_waiting(struct save *s)
{
    unsigned skip = s->pushed;

    if (s->work.pool.count == 0)
        start_threads(s);
    for (struct batch *b = s->flight; b && !s->inline_only; b = b->next) {
        if (skip > 0) {
            skip--;
            continue;
        }
        task_pool_push(&s->work.pool, &b->task, false);
    }
    s->pushed = s->in_flight;
}

bool batch_threads(struct save *s)
{
    push_waiting(s);
    return !s->inline_only;
}

/* The batch that is being filled is on its way. */
static int submit(struct save *s, struct error *e)
{
    struct batch *b = s->filling;
    unsigned limit = FLIGHT_PER_WORKER * s->worker_count;
    int rc = 0;

    if (!b)
        return 0;
    s->filling = NULL;
    b->task.run = batch_run;
    *s->flight_end = b;
    s->flight_end = &b->next;
    s->in_flight++;
    /* The first one waits: when no second comes, no thread is needed. */
    if (s->inline_only) {
        batch_run(&b->task, &s->workers[0]);
        b->task.done = true;
        return land(s, e);
    }
    if (s->in_flight < 2 && s->work.pool.count == 0 && b->bytes < WORTH_THREADS)
        return 0;
    push_waiting(s);
    if (s->inline_only)
        return batch_drain(s, e);
    while (rc == 0 && s->in_flight > 0 && (s->in_flight >= limit || head_is_done(s))) {
        task_pool_wait(&s->work.pool, head_done, s, NULL);
        s->pushed--;
        rc = land(s, e);
    }
    return rc;
}

static int drain_once(struct save *s, struct error *e)
{
    int rc = submit(s, e);

    while (rc == 0 && s->in_flight > 0) {
        if (s->work.pool.count > 0) {
            task_pool_wait(&s->work.pool, head_done, s, NULL);
            s->pushed--;
        } else {
            batch_run(&s->flight->task, &s->workers[0]);
        }
        rc = land(s, e);
    }
    return rc;
}

struct last_blocks {
    struct last_block v[TASK_POOL_MAX + 1];
    unsigned count;
};

static bool last_blocks_done(void *ctx)
{
    const struct last_blocks *l = ctx;
    bool done = true;

    for (unsigned i = 0; i < l->count; i++)
        done &= l->v[i].task.done;
    return done;
}

static int flush_workers(struct save *s, struct error *e)
{
    struct last_blocks l = {.count = 0};

    for (unsigned i = 0; i <= s->worker_count; i++) {
        if (s->workers[i].chunk_count > 0)
            l.v[l.count++] = (struct last_block){.task.run = last_block_run, .of = &s->workers[i]};
    }
    for (unsigned i = 0; i < l.count; i++) {
        if (l.count > 1 && s->work.pool.count > 0)
            task_pool_push(&s->work.pool, &l.v[i].task, true);
        else
            last_block_run(&l.v[i].task, &s->workers[0]);
    }
    if (l.count > 1 && s->work.pool.count > 0)
        task_pool_wait(&s->work.pool, last_blocks_done, &l, &s->workers[0]);
    return save_work_check(&s->work, e);
}

int batch_drain(struct save *s, struct error *e)
{
    int rc = 0;

    /* A result may give rise to another job. */
    while (rc == 0 && (s->filling || s->in_flight > 0))
        rc = drain_once(s, e);
    return rc < 0 ? rc : flush_workers(s, e);
}

static bool fits(const struct batch *b, const struct file_job *j)
{
    bool large = j->seen.size > SMALL_FILE_MAX;

    if (b->files == 0)
        return true;
    return !large && b->bytes < BATCH_LEN && b->files < BATCH_FILES &&
           (b->last_dir == j->dir || b->dirs < BATCH_DIRS);
}

int batch_add(struct save *s, struct file_job *j, struct error *e)
{
    int rc = 0;

    if (s->filling && !fits(s->filling, j))
        rc = submit(s, e);
    if (rc == 0 && !s->filling) {
        s->filling = calloc(1, sizeof(*s->filling));
        if (!s->filling)
            rc = save_no_memory(e);
        else
            s->filling->end = &s->filling->first;
    }
    if (rc < 0) {
        file_job_free(j);
        return rc;
    }
    struct batch *b = s->filling;
    *b->end = j;
    b->end = &j->next;
    b->files++;
    b->bytes += j->seen.size;
    b->dirs += b->last_dir != j->dir;
    b->last_dir = j->dir;
    return 0;
}

void batch_release(struct save *s)
{
    struct batch *next;

    task_pool_release(&s->work.pool);
    batch_free(s->filling);
    for (struct batch *b = s->flight; b; b = next) {
        next = b->next;
        batch_free(b);
    }
    for (unsigned i = 0; i <= s->worker_count; i++)
        save_worker_release(&s->workers[i]);
}
