#include "base/log.h"
#include "base/text.h"
#include "service/checked.h"
#include "service/keeper.h"
#include "service/place.h"
#include "service/problems.h"
#include "service/timed.h"
#include "snapshot/report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

#define MS UINT64_C(1000000)

enum { PAUSE_FIRST_MS = 1000, PAUSE_MAX_MS = 60000, PAUSE_DOUBLINGS_MAX = 6 };

/* ---- in the worker ---- */

static struct save_progress *progress_of(struct save_job *j)
{
    return j->ask ? &j->ask->progress : &j->progress;
}

uint64_t keeper_save_pulse(struct save_progress *p)
{
    return atomic_load(&p->files_seen) + atomic_load(&p->files_read) + atomic_load(&p->bytes_read) +
           atomic_load(&p->bytes_stored);
}

static uint64_t save_pulse(struct job *job)
{
    return keeper_save_pulse(progress_of((struct save_job *)job));
}

static void run_save(struct job *job)
{
    struct save_job *j = (struct save_job *)job;
    struct keeper *k = j->keeper;
    struct watch_spec spec = k->spec.spec;
    struct save_request request = {
        .repo = k->service->repo,
        .watch = &spec,
        .rules = k->rules,
        .helper = k->service->helper,
        .dirty = j->whole ? NULL : &j->dirty,
        .kind = j->kind,
        .name = j->ask ? j->ask->name : NULL,
        .note = j->ask ? j->ask->note : NULL,
        .gap = j->ask ? j->ask->gap : NULL,
        .accept = j->ask && j->ask->accept,
        .progress = progress_of(j),
        .cancel = &j->cancel,
    };

    spec.moved = j->ask && j->ask->moved;
    pthread_rwlock_rdlock(&k->service->store_lock);
    if (atomic_load(&k->service->cancel))
        j->rc = error_set(&j->error, ERR_CANCELLED, "interrupted");
    else
        j->rc = save_run(&request, &j->result, &j->error);
    pthread_rwlock_unlock(&k->service->store_lock);
    if (j->rc != 0 && j->rc != ERR_CANCELLED && place_lost(k->service->repo))
        j->rc = error_set(&j->error, ERR_NOREPO, "repository '%s' is not there (not mounted?)",
                          repo_path(k->service->repo));
}

/* ---- in the loop, afterwards ---- */

static void tell_snapshot(struct keeper *k, const struct save_result *r)
{
    char size[16];
    uint64_t changed = r->files_new + r->files_changed + r->files_removed;
    struct service_options *opt = k->service->opt;

    text_size(r->bytes_stored, size, sizeof(size));
    log_info("%s: snapshot %llu: %llu changed, %s stored, %.0f ms", k->spec.name,
             (unsigned long long)r->snapshot, (unsigned long long)changed, size, r->seconds * 1000);
    if (!opt->saved)
        return;
    json_t *line = report_saved(k->spec.name, r, r->incomplete_total ? ERR_INCOMPLETE : 0);
    char *text = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    if (text)
        opt->saved(opt->ctx, k->spec.name, text);
    free(text);
    json_decref(line);
}

static void tell_incomplete(struct keeper *k, const struct save_result *r)
{
    char quoted[256];

    if (r->incomplete_total > k->incomplete && r->incomplete_count > 0)
        log_warn("%s: %llu files could not be read whole; '%s': %s", k->spec.name,
                 (unsigned long long)r->incomplete_total,
                 text_escape(r->incomplete[0].path, quoted, sizeof(quoted)),
                 r->incomplete[0].reason);
    k->incomplete = r->incomplete_total;
    if (k->incomplete == 0)
        k->since[PROBLEM_INCOMPLETE] = (struct wall_time){0};
    else if (k->since[PROBLEM_INCOMPLETE].s == 0)
        k->since[PROBLEM_INCOMPLETE] = clock_wall();
}

static void tell_suspect(struct keeper *k, const struct save_result *r)
{
    if (r->suspect && !k->suspect)
        log_warn("%s: hardly a file is left of %llu: what is saved now is suspect", k->spec.name,
                 (unsigned long long)r->trusted_files);
    k->suspect = r->suspect;
}

static void tell_spoilt(struct keeper *k, const struct save_result *r)
{
    char quoted[256];

    if (r->spoilt_total > k->spoilt && r->spoilt_count > 0)
        log_warn("%s: snapshot %llu is not good: '%s' %s%s", k->spec.name,
                 (unsigned long long)r->current,
                 text_escape(r->spoilt[0].path, quoted, sizeof(quoted)), r->spoilt[0].reason,
                 r->spoilt_total > 1 ? ", and others" : "");
    k->spoilt = r->spoilt_total;
}

static void saved(struct keeper *k, const struct save_job *j)
{
    uint64_t now = clock_mono_ns();
    bool other = k->failures > 0 || problems_told(k->service) ||
                 (k->incomplete > 0) != (j->result.incomplete_total > 0) ||
                 k->suspect != j->result.suspect || j->result.files_removed > 0;

    if (k->failures > 0)
        log_info("%s: saving works again", k->spec.name);
    k->failures = 0;
    k->service->room_more = 0;
    k->retry_at = 0;
    k->since[PROBLEM_SAVE] = k->since[PROBLEM_VACANT] = (struct wall_time){0};
    checked_now(k->service, k->spec.name, k->last_checked.s == 0);
    k->last_checked = clock_wall();
    k->checked_ns = clock_boot_ns();
    k->unchecked_ms = 0;
    k->poll_cost_ns = (uint64_t)(j->result.seconds * 1e9);
    for (size_t i = 0; i < j->result.retry_count; i++)
        settle_touch(k->settle, j->result.retry[i], WATCH_ENTRY, now);
    if (j->result.snapshot)
        tell_snapshot(k, &j->result);
    tell_incomplete(k, &j->result);
    tell_suspect(k, &j->result);
    tell_spoilt(k, &j->result);
    service_store_used(k->service);
    if (other)
        service_problems_changed(k->service);
    timed_saved(k->service, k->spec.name);
}

static void rest_after_failure(struct keeper *k)
{
    unsigned doublings = k->failures < PAUSE_DOUBLINGS_MAX ? k->failures : PAUSE_DOUBLINGS_MAX;
    uint64_t pause = (uint64_t)PAUSE_FIRST_MS << doublings;

    k->failures++;
    k->retry_at = clock_mono_ns() + (pause < PAUSE_MAX_MS ? pause : PAUSE_MAX_MS) * MS;
}

/* What stands at the root's path is not the root: tried again, for nobody tells when it is. */
static void vacant(struct keeper *k, const struct save_job *j)
{
    if (k->since[PROBLEM_VACANT].s == 0) {
        k->since[PROBLEM_VACANT] = clock_wall();
        log_warn("%s: %s", k->spec.name, j->error.message);
    }
    k->failure = j->error;
    if (!j->ask)
        rest_after_failure(k);
}

static void failed(struct keeper *k, struct save_job *j)
{
    bool told = k->failures > 0 && strcmp(k->failure.message, j->error.message) == 0;
    struct service *s = k->service;

    settle_return(k->settle, &j->set, clock_mono_ns());
    if (j->whole && !j->ask && !k->scan_due)
        k->scan_due = j->kind == SNAPSHOT_SHUTDOWN ? SNAPSHOT_STARTUP : j->kind;
    if (j->rc == ERR_CANCELLED && j->kind == SNAPSHOT_INTERVAL)
        return; /* as asked */
    if (j->rc == ERR_NOTFOUND && k->root && !watch_root_check(k->root))
        return; /* a vanished source is not a change: `missing` says it all */
    if (j->rc == ERR_NOTFOUND) {
        vacant(k, j);
        return;
    }
    if (j->rc == ERR_NOSPACE)
        service_make_room(s, true);
    if (j->ask)
        return; /* told to who asked; what is dirty is tried again as ever */
    rest_after_failure(k);
    k->failure = j->error;
    if (k->since[PROBLEM_SAVE].s == 0)
        k->since[PROBLEM_SAVE] = clock_wall();
    service_problems_changed(s);
    if (!told)
        log_error("%s: cannot save: %s", k->spec.name, j->error.message);
    if (s->stopping && s->result == 0) {
        s->result = j->rc;
        *s->error = j->error;
    }
}

static void free_job(struct save_job *j)
{
    settle_set_release(&j->set);
    save_result_release(&j->result);
    free(j->paths);
    free(j);
}

static void on_done(struct job *job)
{
    struct save_job *j = (struct save_job *)job;
    struct keeper *k = j->keeper;
    struct service *s = k->service;

    k->job = NULL;
    if (j->rc == 0)
        saved(k, j);
    else
        failed(k, j);
    if (j->ask)
        j->ask->done(j->ask, j->rc, &j->result, &j->error);
    free_job(j);
    keeper_pump_name(s, k->spec.name);
    service_stop_on(s);
    service_rearm(s);
}

static unsigned dirty_how(unsigned how)
{
    return (how & WATCH_ENTRY ? (unsigned)DIRTY_ENTRY : 0) |
           (how & WATCH_TREE ? (unsigned)DIRTY_TREE : 0) |
           (how & WATCH_FLUSH ? (unsigned)DIRTY_FLUSH : 0);
}

/* Without memory for the list the whole tree is looked at. */
static void list_paths(struct save_job *j)
{
    j->paths = j->set.count ? calloc(j->set.count, sizeof(*j->paths)) : NULL;
    if (!j->paths && j->set.count > 0)
        j->whole = true;
    for (size_t i = 0; j->paths && i < j->set.count; i++) {
        j->paths[i].path = j->set.paths[i].path;
        j->paths[i].how = dirty_how(j->set.paths[i].how);
    }
    j->dirty.paths = j->paths;
    j->dirty.count = j->paths ? j->set.count : 0;
}

/* What may take long has threads of its own, so that a small save never waits behind it. */
static struct jobs *thread_for(const struct save_job *j)
{
    struct service *s = j->keeper->service;

    if (j->whole && j->ask)
        return s->asked;
    if (j->whole)
        return jobs_quiet(s->scans) ? s->scans : s->background;
    return !jobs_quiet(s->jobs) && jobs_quiet(s->asked) ? s->asked : s->jobs;
}

void keeper_save(struct keeper *k, int kind, bool whole, struct settle_set *set,
                 struct save_ask *ask)
{
    struct save_job *j = calloc(1, sizeof(*j));
    struct error e = ERROR_INIT;

    if (!j) {
        settle_return(k->settle, set, clock_mono_ns());
        if (whole && !ask)
            k->scan_due = kind;
        error_sys(&e, ENOMEM, "cannot save");
        k->failure = e;
        rest_after_failure(k);
        if (ask)
            ask->done(ask, e.code, NULL, &e);
        return;
    }
    j->job.rank = JOB_SAVE;
    j->job.pulse = save_pulse;
    j->job.run = run_save;
    j->job.done = on_done;
    j->keeper = k;
    j->set = *set;
    j->whole = whole;
    j->kind = kind;
    j->ask = ask;
    *set = (struct settle_set){0};
    list_paths(j);
    k->job = j;
    jobs_push(thread_for(j), &j->job);
}
