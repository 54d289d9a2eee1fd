#include "base/parse.h"
#include "service/keeper.h"
#include "service/requests.h"
#include "snapshot/report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* One watch, or one path that is none, of a save request. */
struct part {
    struct save_ask ask; /* first: on_asked gets it */
    struct job job;      /* of a path that is no watch of ours */
    struct saving *saving;
    bool is_watch;
    char *name;
    char *path;
    struct save_result result; /* of the job */
    struct error error;
    int rc;
};

struct saving {
    struct service *service;
    struct peer *peer;
    const struct config *config; /* of when it was asked */
    struct watch_barrier barrier;
    struct request_progress progress;
    char *name, *note;
    bool moved, accept;
    bool safety; /* before a restore in place */
    struct part *parts;
    size_t count;
    size_t open; /* parts that are not done */
    int exit;
    struct save_result sum; /* its lists are ours */
};

static void saving_free(void *ctx)
{
    struct saving *w = ctx;

    for (size_t i = 0; i < w->count; i++) {
        free(w->parts[i].name);
        free(w->parts[i].path);
    }
    save_result_release(&w->sum);
    free(w->parts);
    free(w->name);
    free(w->note);
    free(w);
}

/* ---- what came of it ---- */

static void join_paths(struct incomplete_path **sum, size_t *count,
                       const struct incomplete_path *more, size_t more_count)
{
    size_t n = *count + more_count;
    struct incomplete_path *list = n > 0 ? reallocarray(*sum, n, sizeof(*list)) : *sum;

    if (n > 0 && !list)
        return;
    *sum = list;
    for (size_t i = 0; i < more_count; i++) {
        struct incomplete_path *to = &list[*count];
        to->path = strdup(more[i].path);
        to->reason = strdup(more[i].reason ? more[i].reason : "");
        if (!to->path || !to->reason) {
            free(to->path);
            free(to->reason);
            return;
        }
        ++*count;
    }
}

static void add_result(struct save_result *sum, const struct save_result *r)
{
    if (r->snapshot)
        sum->snapshot = r->snapshot;
    if (r->current > sum->current)
        sum->current = r->current;
    sum->files_new += r->files_new;
    sum->files_changed += r->files_changed;
    sum->files_removed += r->files_removed;
    sum->files_excluded += r->files_excluded;
    sum->files_unchanged += r->files_unchanged;
    sum->bytes_read += r->bytes_read;
    sum->bytes_stored += r->bytes_stored;
    sum->files += r->files;
    sum->bytes += r->bytes;
    sum->seconds += r->seconds;
    sum->suspect = sum->suspect || r->suspect;
    sum->trusted_files += r->trusted_files;
    sum->incomplete_total += r->incomplete_total;
    sum->spoilt_total += r->spoilt_total;
    join_paths(&sum->incomplete, &sum->incomplete_count, r->incomplete, r->incomplete_count);
    join_paths(&sum->spoilt, &sum->spoilt_count, r->spoilt, r->spoilt_count);
}

static void all_saved(struct saving *w)
{
    peer_line(w->peer, report_save_summary(&w->sum, NULL, w->exit));
    peer_end(w->peer);
    request_progress_end(&w->progress, saving_free);
}

static void part_saved(struct part *p, int rc, const struct save_result *r, const struct error *e)
{
    struct saving *w = p->saving;

    if (rc == 0) {
        add_result(&w->sum, r);
        w->exit =
            error_worse_exit(w->exit, r->incomplete_total ? error_exit_code(ERR_INCOMPLETE) : 0);
        if (w->count > 1)
            peer_line(w->peer, report_saved(p->name, r, r->incomplete_total ? ERR_INCOMPLETE : 0));
    } else {
        w->exit = error_worse_exit(w->exit, error_exit_code(rc));
        peer_line(w->peer, report_error(e));
    }
    if (--w->open == 0)
        all_saved(w);
}

static void on_asked(struct save_ask *ask, int rc, const struct save_result *result,
                     const struct error *e)
{
    part_saved((struct part *)ask, rc, result, e);
}

/* ---- a path that is no watch of ours ---- */

/* With the rules that are on record when it was a watch once. */
static int spec_of(struct part *p, struct watch_spec_owned *spec, struct error *e)
{
    struct service *s = p->saving->service;
    struct watch_config plain = {.name = p->name, .path = p->path, .sqlite = true};
    struct watch_row row;

    if (catalog_watch_by_name(repo_catalog(s->repo), p->name, &row, e) != 0) {
        error_clear(e);
        return specs_build(&plain, p->saving->config, spec, e);
    }
    int rc = strcmp(row.root, p->path) == 0 ? specs_from_row(&row, p->saving->config, spec, e)
                                            : specs_build(&plain, p->saving->config, spec, e);
    watch_row_release(&row);
    return rc;
}

static void run_path(struct job *job)
{
    struct part *p = (struct part *)((char *)job - offsetof(struct part, job));
    struct service *s = p->saving->service;
    struct watch_spec_owned spec = {0};
    struct rules *rules = NULL;

    pthread_rwlock_rdlock(&s->store_lock);
    p->rc = spec_of(p, &spec, &p->error);
    spec.spec.moved = p->ask.moved;
    if (p->rc == 0)
        p->rc = rules_new(&spec.spec, &rules, &p->error);
    struct save_request request = {.repo = s->repo,
                                   .watch = &spec.spec,
                                   .rules = rules,
                                   .helper = s->helper,
                                   .kind = p->ask.kind,
                                   .name = p->ask.name,
                                   .note = p->ask.note,
                                   .accept = p->ask.accept,
                                   .progress = &p->ask.progress,
                                   .cancel = &s->cancel};
    if (p->rc == 0)
        p->rc = save_run(&request, &p->result, &p->error);
    pthread_rwlock_unlock(&s->store_lock);
    rules_free(rules);
    specs_release(&spec);
}

static uint64_t path_pulse(struct job *job)
{
    struct part *p = (struct part *)((char *)job - offsetof(struct part, job));

    return keeper_save_pulse(&p->ask.progress);
}

static void on_path_saved(struct job *job)
{
    struct part *p = (struct part *)((char *)job - offsetof(struct part, job));
    struct service *s = p->saving->service;
    struct save_result result = p->result;

    service_store_used(s);
    part_saved(p, p->rc, &result, &p->error);
    save_result_release(&result);
    service_stop_on(s);
    service_rearm(s);
}

/* ---- the request ---- */

static struct keeper *find_keeper(struct service *s, const char *name)
{
    struct keeper *k;

    LIST_FOREACH(k, &s->keepers, link)
    {
        if (k->root && strcmp(k->spec.name, name) == 0)
            return k;
    }
    return NULL;
}

static void on_barrier(void *ctx)
{
    struct saving *w = ctx;
    struct service *s = w->service;

    for (size_t i = 0; i < w->count; i++) {
        struct part *p = &w->parts[i];
        struct keeper *k = p->is_watch ? find_keeper(s, p->name) : NULL;
        if (k) {
            keeper_ask(k, &p->ask);
        } else if (p->is_watch) { /* gone since: the configuration was loaded anew */
            error_set(&p->error, ERR_NOTFOUND, "no watch '%s'", p->name);
            part_saved(p, ERR_NOTFOUND, NULL, &p->error);
        } else {
            p->job = (struct job){
                .rank = JOB_SAVE, .pulse = path_pulse, .run = run_path, .done = on_path_saved};
            jobs_push(s->asked, &p->job);
        }
    }
    service_rearm(s);
}

static json_t *progress_line(void *ctx)
{
    struct saving *w = ctx;
    uint64_t files = 0, bytes = 0, files_total = 0, bytes_total = 0;

    for (size_t i = 0; i < w->count; i++) {
        struct save_progress *p = &w->parts[i].ask.progress;
        files += atomic_load(&p->files_seen);
        bytes += atomic_load(&p->bytes_read);
        files_total += atomic_load(&p->files_expected);
        bytes_total += atomic_load(&p->bytes_expected);
    }
    return json_pack("{s:s,s:I,s:I,s:I,s:I}", "type", "progress", "files", (json_int_t)files,
                     "bytes", (json_int_t)bytes, "files_total", (json_int_t)files_total,
                     "bytes_total", (json_int_t)bytes_total);
}

static bool add_part(struct saving *w, struct keeper *k, char *name, char *path)
{
    struct part *p = &w->parts[w->count++];

    p->saving = w;
    p->is_watch = k != NULL;
    p->name = name;
    p->path = path;
    p->ask.name = w->name;
    p->ask.note = w->note;
    p->ask.moved = w->moved;
    p->ask.whole = w->moved || w->safety; /* nothing that undo needs hangs on an event */
    p->ask.kind = w->safety ? SNAPSHOT_SAFETY : SNAPSHOT_MANUAL;
    p->ask.accept = w->accept;
    p->ask.done = on_asked;
    return p->name != NULL;
}

static int no_memory(struct error *e)
{
    return error_sys(e, ENOMEM, "cannot save");
}

static int add_watches(struct saving *w, const json_t *names, struct error *e)
{
    struct keeper *k;
    size_t i;
    json_t *name;

    if (!json_is_array(names)) {
        LIST_FOREACH(k, &w->service->keepers, link)
        {
            if (k->root && !add_part(w, k, strdup(k->spec.name), NULL))
                return no_memory(e);
        }
        return w->count > 0 ? 0 : error_set(e, ERR_NOTFOUND, "no watch is configured");
    }
    json_array_foreach(names, i, name)
    {
        const char *text = json_string_value(name);
        if (!text)
            return error_set(e, ERR_USAGE, "a watch's name must be a text");
        k = find_keeper(w->service, text);
        if (!k)
            return error_set(e, ERR_NOTFOUND,
                             "the service watches no '%s'; to save a folder all the same, name it: "
                             "%s=PATH",
                             text, text);
        if (!add_part(w, k, strdup(text), NULL))
            return no_memory(e);
    }
    return 0;
}

static int add_path(struct saving *w, const json_t *item, struct error *e)
{
    const char *name = request_text(item, "name");
    const char *path = request_text(item, "path");
    struct buffer arg = BUFFER_INIT;
    char *own_name = NULL, *own_path = NULL;

    if (!path || *path != '/')
        return error_set(e, ERR_USAGE, "a path to save must be absolute");
    buffer_printf(&arg, "%s%s%s", name ? name : "", name ? "=" : "", path);
    int rc = buffer_ok(&arg) ? config_split_watch(buffer_cstr(&arg), &own_name, &own_path, e)
                             : no_memory(e);
    buffer_release(&arg);
    if (rc != 0)
        return rc;
    struct keeper *k = find_keeper(w->service, own_name);
    if (k && strcmp(k->spec.root, own_path) != 0)
        k = NULL;
    return add_part(w, k, own_name, own_path) ? 0 : no_memory(e);
}

static int add_paths(struct saving *w, const json_t *paths, struct error *e)
{
    size_t i;
    json_t *item;

    json_array_foreach(paths, i, item)
    {
        int rc = add_path(w, item, e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int check(const struct saving *w, enum control_right right, const json_t *request,
                 struct error *e)
{
    if (!w->service->config->enabled)
        return error_set(e, ERR_REFUSED, "saving is switched off (WATCHKEEP_ENABLED=false)");
    if (w->safety && right < CONTROL_ALL)
        return error_set(e, ERR_DENIED,
                         "not permitted: only root and the repository's owner restore in place");
    if (json_is_array(json_object_get(request, "paths")) && right < CONTROL_ALL)
        return error_set(e, ERR_DENIED,
                         "not permitted: only root and the repository's owner save other paths");
    if (w->name && !parse_name_ok(w->name))
        return error_set(e, ERR_USAGE, "'%s' cannot be a snapshot's name", w->name);
    return 0;
}

static int take_request(struct saving *w, enum control_right right, const json_t *request,
                        struct error *e)
{
    const json_t *paths = json_object_get(request, "paths");
    const json_t *watches = json_object_get(request, "watches");
    const char *name = request_text(request, "name");
    const char *note = request_text(request, "note");
    size_t max = 1 + json_array_size(paths) + json_array_size(watches);
    const struct keeper *k;

    LIST_FOREACH(k, &w->service->keepers, link)
    max++;
    w->name = name ? strdup(name) : NULL;
    w->note = note ? strdup(note) : NULL;
    w->moved = json_is_true(json_object_get(request, "moved"));
    w->accept = json_is_true(json_object_get(request, "accept"));
    w->safety = json_is_true(json_object_get(request, "safety"));
    w->parts = calloc(max, sizeof(*w->parts));
    if (!w->parts || (name && !w->name) || (note && !w->note))
        return no_memory(e);
    int rc = check(w, right, request, e);
    if (rc == 0 && json_is_array(paths))
        rc = add_paths(w, paths, e);
    if (rc == 0 && (!json_is_array(paths) || json_is_array(watches)))
        rc = add_watches(w, watches, e);
    if (rc == 0 && w->count == 0)
        rc = error_set(e, ERR_USAGE, "nothing to save was named");
    return rc;
}

void request_save(struct service *s, struct peer *peer, enum control_right right,
                  const json_t *request)
{
    struct error e = ERROR_INIT;
    struct saving *w = calloc(1, sizeof(*w));

    if (!w) {
        peer_fail(peer, ERR_FAILED, "out of memory");
        return;
    }
    w->service = s;
    w->peer = peer;
    w->config = s->config;
    if (take_request(w, right, request, &e) != 0) {
        request_failed(peer, &e);
        saving_free(w);
        return;
    }
    w->open = w->count;
    w->progress.peer = peer;
    w->progress.line = progress_line;
    w->progress.ctx = w;
    request_progress_start(s, &w->progress, json_is_true(json_object_get(request, "progress")));
    for (size_t i = 0; i < w->count; i++) {
        struct keeper *k = w->parts[i].is_watch ? find_keeper(s, w->parts[i].name) : NULL;
        if (k)
            watch_tree_poll(k->root);
    }
    w->barrier.passed = on_barrier;
    w->barrier.ctx = w;
    watch_tree_barrier(s->tree, &w->barrier);
}
