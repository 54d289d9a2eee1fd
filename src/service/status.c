#include "service/status.h"

#include "base/buffer.h"
#include "base/text.h"
#include "keep/archive.h"
#include "service/checked.h"
#include "service/keeper.h"
#include "service/policy.h"
#include "service/problems.h"
#include "service/timed.h"
#include "snapshot/freeze.h"
#include "snapshot/report.h"
#include "snapshot/restore_record.h"
#include "snapshot/selector.h"
#include "snapshot/spoilt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/banned.h"

#define NS_A_SECOND UINT64_C(1000000000)

/* An unsaved change that is older than this many times max_delay is a problem. */
enum { LAG_FACTOR = 10, LAG_MIN_MS = 60000, FULL_PERCENT = 80, CHANCE_MS = 3600000 };

static json_t *time_or_null(struct wall_time t)
{
    return t.s == 0 && t.ns == 0 ? json_null() : report_time(t);
}

void status_problem(json_t *doc, const char *code, const char *watch, struct wall_time since,
                    const char *message, const char *what_to_do)
{
    json_t *problem = json_object();
    struct buffer what = BUFFER_INIT;

    for (const char *at = what_to_do; *at; at++)
        buffer_append(&what, *at == '@' ? watch : at, *at == '@' ? strlen(watch) : 1);
    json_object_set_new(problem, "code", json_string(code));
    json_object_set_new(problem, "watch", report_text(watch));
    json_object_set_new(problem, "since", time_or_null(since));
    json_object_set_new(problem, "message", report_text(message));
    json_object_set_new(problem, "do", report_text(buffer_cstr(&what)));
    json_array_append_new(json_object_get(doc, "problems"), problem);
    buffer_release(&what);
}

static bool has_problem(const json_t *doc, const char *code, const char *watch)
{
    size_t i;
    json_t *p;

    json_array_foreach(json_object_get(doc, "problems"), i, p)
    {
        const char *of = json_string_value(json_object_get(p, "watch"));
        if (strcmp(json_string_value(json_object_get(p, "code")), code) == 0 &&
            (of && watch ? strcmp(of, watch) == 0 : !of && !watch))
            return true;
    }
    return false;
}

void status_job_problem(json_t *doc, const char *job, const char *watch, struct wall_time since,
                        const char *why)
{
    char code[64], message[sizeof(((struct error *)0)->message) + 64];
    const char *what = "it is tried again at its next time; the log tells more";

    snprintf(code, sizeof(code), "%s-failed", job);
    snprintf(message, sizeof(message), "%s failed: %s", job, why);
    if (strcmp(job, "archive") == 0)
        what = "it is tried again at its next time, or now: watchkeep archive @";
    else if (strcmp(job, "prune") == 0)
        what = "it is tried again at its next time, or now: watchkeep prune";
    else if (strcmp(job, "verify") == 0)
        what = "it is tried again at its next time, or now: watchkeep verify, which tells more";
    if (!has_problem(doc, code, watch))
        status_problem(doc, code, watch, since, message, what);
}

void status_finish(json_t *doc)
{
    bool ok = json_array_size(json_object_get(doc, "problems")) == 0;

    json_object_set_new(doc, "ok", json_boolean(ok));
}

/* ---- the loop's half ---- */

static const char *state_word(const struct keeper *k)
{
    enum watch_state state = watch_root_state(k->root);

    if (state == WATCH_MISSING || k->since[PROBLEM_VACANT].s)
        return "missing";
    if (keeper_scanning(k))
        return "scanning";
    if (state == WATCH_POLLING)
        return "polling";
    return state == WATCH_DEGRADED ? "degraded" : "watching";
}

static void save_problem(json_t *doc, const struct keeper *k)
{
    const char *code = "save-failed";
    const char *what =
        "it is tried again by itself; watchkeep save @ tries now and tells more, as does the log";

    if (k->failure.code == ERR_NOSPACE) {
        code = "no-space";
        what = "make room on the repository's file system; saving resumes by itself";
    } else if (k->failure.code == ERR_REFUSED) {
        what = "if the folder was moved on purpose: watchkeep save @ --moved";
    } else if (k->failure.code == ERR_NOREPO) {
        what = "mount its disk, or bring it back; saving resumes by itself";
    } else if (k->failure.code == ERR_DENIED) {
        code = "denied";
        what = "let the service's user read the folder and write the repository; saving resumes by "
               "itself";
    }
    status_problem(doc, code, k->spec.name, k->since[PROBLEM_SAVE], k->failure.message, what);
}

static void lag_problem(json_t *doc, const struct keeper *k, uint64_t lag_ms)
{
    char message[128];
    uint64_t limit = k->max_delay_ms * LAG_FACTOR;
    struct wall_time since = clock_wall();

    if (lag_ms <= (limit > LAG_MIN_MS ? limit : LAG_MIN_MS))
        return;
    since.s -= (int64_t)(lag_ms / 1000);
    snprintf(message, sizeof(message), "a change has been waiting for %llu seconds to be saved",
             (unsigned long long)lag_ms / 1000);
    status_problem(doc, "lag", k->spec.name, since, message,
                   "a long save is at work (see the log), or the disk is slow; watchkeep save @ "
                   "waits until it is saved");
}

/* ---- for how long a watch may go unchecked ---- */

/* By the boot clock: a wall clock that is set makes nothing old. */
static uint64_t ran_ms(const struct keeper *k)
{
    uint64_t now = clock_boot_ns();

    return now > k->checked_ns ? (now - k->checked_ns) / 1000000 : 0;
}

/* What passed before this run counts as soon as a check has failed, or there was time for one: a
 * machine that was off for long checks first. */
static bool had_its_chance(const struct keeper *k)
{
    return k->failures > 0 || k->since[PROBLEM_MISSING].s || k->since[PROBLEM_VACANT].s ||
           ran_ms(k) > CHANCE_MS;
}

static uint64_t unchecked_ms(const struct keeper *k)
{
    return ran_ms(k) + (had_its_chance(k) ? k->unchecked_ms : 0);
}

static uint64_t max_age_ms(const struct service *s)
{
    return config_number(s->config, "alert", NULL, "max_age");
}

int64_t status_max_age_at(const struct service *s)
{
    uint64_t max = max_age_ms(s);
    int64_t at = INT64_MAX, now = clock_wall().s;
    const struct keeper *k;

    if (max == CONFIG_OFF)
        return at;
    LIST_FOREACH(k, &s->keepers, link)
    {
        uint64_t left = max - unchecked_ms(k);
        if (!k->root || unchecked_ms(k) > max)
            continue;
        if (!had_its_chance(k) && k->unchecked_ms > 0 && left > CHANCE_MS - ran_ms(k))
            left = CHANCE_MS - ran_ms(k);
        int64_t due = now + (int64_t)(left / 1000) + 1;
        at = due < at ? due : at;
    }
    return at;
}

static void age_problem(json_t *doc, const struct keeper *k)
{
    char message[128];
    uint64_t max = max_age_ms(k->service);
    uint64_t minutes = unchecked_ms(k) / 60000;

    if (max == CONFIG_OFF || unchecked_ms(k) <= max)
        return;
    snprintf(message, sizeof(message), "no check of the folder was completed for %llu %s",
             (unsigned long long)(minutes >= 120 ? minutes / 60 : minutes),
             minutes >= 120 ? "hours" : "minutes");
    status_problem(doc, "unchecked", k->spec.name,
                   (struct wall_time){.s = checked_last(k->service, k->spec.name)}, message,
                   "the other problems and the log say why; watchkeep save @ checks it now");
}

static void keeper_problems(json_t *doc, const struct keeper *k, uint64_t lag_ms)
{
    char message[128];

    if (k->since[PROBLEM_MISSING].s)
        status_problem(doc, "missing", k->spec.name, k->since[PROBLEM_MISSING],
                       watch_root_problem(k->root), STATUS_DO_MISSING);
    else if (k->since[PROBLEM_VACANT].s)
        status_problem(doc, "missing", k->spec.name, k->since[PROBLEM_VACANT], k->failure.message,
                       STATUS_DO_MISSING);
    if (k->since[PROBLEM_POLLED].s)
        status_problem(doc, watch_root_state(k->root) == WATCH_POLLING ? "polling" : "degraded",
                       k->spec.name, k->since[PROBLEM_POLLED], watch_root_problem(k->root),
                       watch_tree_blind(k->service->tree)
                           ? "sysctl -w fs.inotify.max_user_instances=1024 (and the same line in "
                             "/etc/sysctl.d), then restart the service"
                           : "sysctl -w fs.inotify.max_user_watches=1048576 (and the same line in "
                             "/etc/sysctl.d); the service takes it up by itself");
    if (k->since[PROBLEM_SAVE].s)
        save_problem(doc, k);
    if (k->since[PROBLEM_INCOMPLETE].s) {
        snprintf(message, sizeof(message), "%llu %s could not be read whole",
                 (unsigned long long)k->incomplete, k->incomplete == 1 ? "file" : "files");
        status_problem(doc, "incomplete", k->spec.name, k->since[PROBLEM_INCOMPLETE], message,
                       "which, and why: watchkeep -w @ show latest");
    }
    lag_problem(doc, k, lag_ms);
    age_problem(doc, k);
}

static json_t *watch_object(const char *name, const char *root, const char *state)
{
    static const char *const unknown[] = {"snapshots",     "verified",     "good",
                                          "last_snapshot", "last_change",  "last_checked",
                                          "lag_ms",        "next_archive", "last_archive"};
    json_t *o = json_object();

    json_object_set_new(o, "name", report_text(name));
    report_path(o, "root", root);
    json_object_set_new(o, "state", json_string(state));
    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++)
        json_object_set_new(o, unknown[i], json_null());
    json_object_set_new(o, "snapshots", json_integer(0));
    json_object_set_new(o, "verified", json_integer(0));
    json_object_set_new(o, "good", json_integer(0));
    json_object_set_new(o, "lag_ms", json_integer(0));
    return o;
}

static void add_keeper(json_t *doc, const struct keeper *k)
{
    uint64_t lag_ms = keeper_lag_ms(k, clock_mono_ns());
    json_t *o = watch_object(k->spec.name, k->spec.root, state_word(k));

    json_object_set_new(o, "last_change", time_or_null(k->last_change));
    json_object_set_new(o, "last_checked", time_or_null(k->last_checked));
    json_object_set_new(o, "lag_ms", json_integer((json_int_t)lag_ms));
    status_archives_in(o, config_text(k->service->config, "archive", k->spec.name, "path"));
    json_object_set_new(o, "next_archive",
                        time_or_null(timed_next(k->service, TIMED_ARCHIVE, k->spec.name)));
    json_array_append_new(json_object_get(doc, "watches"), o);
    keeper_problems(doc, k, lag_ms);
}

static json_t *service_object(const struct service *s)
{
    json_t *o = json_object();

    json_object_set_new(o, "running", json_true());
    json_object_set_new(o, "pid", json_integer(getpid()));
    json_object_set_new(o, "since", report_time(s->since));
    json_object_set_new(o, "version", json_string(WK_VERSION));
    json_object_set_new(o, "folders_watched",
                        json_integer((json_int_t)watch_tree_folders(s->tree)));
    json_object_set_new(o, "overflows", json_integer((json_int_t)watch_tree_overflows(s->tree)));
    return o;
}

static json_t *repository_object(const char *path)
{
    static const char *const unknown[] = {"id",           "bytes",          "free_bytes",
                                          "free_percent", "snapshots",      "archives",
                                          "last_verify",  "restore_seconds"};
    json_t *o = json_object();

    report_path(o, "path", path);
    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++)
        json_object_set_new(o, unknown[i], json_null());
    json_object_set_new(o, "archives", json_integer(0));
    return o;
}

/* Configured, but switched off. */
static void add_disabled(json_t *doc, const struct service *s)
{
    for (size_t i = 0; i < s->config->watch_count; i++) {
        const struct watch_config *w = &s->config->watches[i];
        json_array_append_new(json_object_get(doc, "watches"),
                              watch_object(w->name, w->path, "frozen"));
    }
    status_problem(doc, "disabled", NULL, s->since, "saving is switched off",
                   "set WATCHKEEP_ENABLED=true");
}

json_t *status_live(struct service *s)
{
    struct keeper *k;
    json_t *doc = json_object();

    json_object_set_new(doc, "schema", json_integer(1));
    json_object_set_new(doc, "ok", json_false());
    json_object_set_new(doc, "service", service_object(s));
    json_object_set_new(doc, "watches", json_array());
    json_object_set_new(doc, "repository", repository_object(s->config->repository));
    json_object_set_new(doc, "problems", json_array());
    json_object_set_new(doc, "events", json_array());
    if (!s->config->enabled)
        add_disabled(doc, s);
    LIST_FOREACH(k, &s->keepers, link)
    {
        if (k->root)
            add_keeper(doc, k);
    }
    timed_status(s, doc);
    problems_status(s, doc);
    if (s->config_bad_since.s)
        status_problem(
            doc, "config", NULL, s->config_bad_since, s->config_error.message,
            "the settings from before are in force; mend the file (watchkeep config check), "
            "then systemctl reload watchkeep, or kill -HUP");
    return doc;
}

/* ---- the repository's half ---- */

static const char folder_key[] = "archives_in"; /* not shown */

void status_archives_in(json_t *watch, const char *folder)
{
    json_object_set_new(watch, folder_key, json_stringn_nocheck(folder, strlen(folder)));
}

struct archives {
    uint64_t count;
    struct wall_time last;
};

static int count_archive(void *ctx, const struct archive_item *item, struct error *e)
{
    struct archives *a = ctx;

    a->count++;
    a->last = item->time;
    return 0;
}

static void add_archives(json_t *doc)
{
    json_t *repository = json_object_get(doc, "repository"), *watch;
    uint64_t all = 0;
    size_t i;

    json_array_foreach(json_object_get(doc, "watches"), i, watch)
    {
        const char *folder = json_string_value(json_object_get(watch, folder_key));
        const char *name = json_string_value(json_object_get(watch, "name"));
        struct archives a = {0};
        struct error ignored = ERROR_INIT; /* the next archive tells */
        if (folder && name && archive_list(folder, name, count_archive, &a, &ignored) == 0) {
            json_object_set_new(watch, "last_archive", time_or_null(a.last));
            all += a.count;
        }
        json_object_del(watch, folder_key);
    }
    json_object_set_new(repository, "archives", json_integer((json_int_t)all));
}

struct count {
    uint64_t snapshots, verified, good;
    struct wall_time last, last_verify;
    uint64_t newest_spoilt;
    bool newest_damaged, newest_suspect;
};

static int count_one(void *ctx, const struct snapshot_row *row)
{
    struct count *c = ctx;

    if (c->snapshots++ == 0) {
        c->last = row->commit.time;
        c->newest_spoilt = row->commit.spoilt;
        c->newest_damaged = row->damaged;
        c->newest_suspect = (row->commit.flags & COMMIT_SUSPECT) != 0;
    }
    c->verified += row->verified.s != 0;
    c->good += snapshot_good(row) == SNAPSHOT_GOOD;
    if (row->verified.s > c->last_verify.s)
        c->last_verify = row->verified;
    return 0;
}

static json_t *find_watch(json_t *doc, const char *name)
{
    size_t i;
    json_t *o;

    json_array_foreach(json_object_get(doc, "watches"), i, o)
    {
        const char *at = json_string_value(json_object_get(o, "name"));
        if (at && strcmp(at, name) == 0)
            return o;
    }
    return NULL;
}

/* A folder that is missing stays that in `state`; the problem is told besides. */
static int add_frozen(json_t *doc, struct catalog *c, const struct watch_row *row, json_t *o,
                      struct error *e)
{
    struct freeze_reason why;
    char message[600];
    int rc = freeze_why(c, row, ~0u, &why, e);

    if (rc < 0)
        return rc;
    if (strcmp(json_string_value(json_object_get(o, "state")), "missing") != 0)
        json_object_set_new(o, "state", json_string("frozen"));
    snprintf(message, sizeof(message), "nothing of this watch is pruned: %s", why.text);
    status_problem(doc, "frozen", row->name, why.since, message,
                   "it goes on by itself when the cause is gone; if all is right: watchkeep -w @ "
                   "prune --thaw");
    return 0;
}

/* One of the files is named. */
static int add_spoilt(json_t *doc, struct catalog *c, const struct watch_row *row, uint64_t count,
                      struct error *e)
{
    struct buffer path = BUFFER_INIT;
    const char *reason = "";
    char quoted[256], others[64] = "";
    int rc = count > 0 ? spoilt_first(c, row->serial, &path, &reason, e) : 0;

    if (rc == 0 && *reason) {
        if (count > 1)
            snprintf(others, sizeof(others), ", and so on, %llu files in all",
                     (unsigned long long)count);
        char *message =
            text_format("the newest snapshot of this watch is not good: '%s' %s%s",
                        text_escape(buffer_cstr(&path), quoted, sizeof(quoted)), reason, others);
        status_problem(doc, "spoilt", row->name, (struct wall_time){0},
                       message ? message : "a file is spoilt",
                       "bring it back (watchkeep heal @, or restore good), or if it is right: "
                       "watchkeep save @ --accept");
        free(message);
    }
    buffer_release(&path);
    return rc == ERR_NOTFOUND ? 0 : rc;
}

/* It may still be at work: who reads this knows. */
static int add_cut_off(json_t *doc, struct catalog *c, const struct watch_row *row, struct error *e)
{
    struct restore_record rec;
    char message[200];
    int rc = restore_record_last(c, row->id, &rec, e);

    if (rc == 0 && !rec.done) {
        snprintf(message, sizeof(message),
                 "%s of snapshot %llu over the folder has begun and not ended",
                 rec.undo ? "an undo, the restore" : "a restore", (unsigned long long)rec.restored);
        status_problem(doc, "restore", row->name, rec.time, message,
                       "if it is not at work any more: watchkeep -w @ undo --confirm, or give the "
                       "same command again");
    }
    if (rc == 0)
        restore_record_release(&rec);
    if (rc != ERR_NOTFOUND)
        return rc;
    error_clear(e);
    return 0;
}

static int add_row(json_t *doc, struct catalog *c, const struct watch_row *row, struct count *all,
                   struct error *e)
{
    struct count count = {0};
    int rc = catalog_snapshots(c, row->serial, 1, UINT64_MAX, true, count_one, &count, e);
    json_t *o = find_watch(doc, row->name);

    if (rc < 0)
        return rc;
    all->snapshots += count.snapshots;
    if (count.last_verify.s > all->last_verify.s)
        all->last_verify = count.last_verify;
    if (!o)
        return 0; /* no longer configured: it keeps what it has */
    json_object_set_new(o, "snapshots", json_integer((json_int_t)count.snapshots));
    json_object_set_new(o, "verified", json_integer((json_int_t)count.verified));
    json_object_set_new(o, "good", json_integer((json_int_t)count.good));
    json_object_set_new(o, "last_snapshot", time_or_null(count.last));
    if (row->frozen && (rc = add_frozen(doc, c, row, o, e)) < 0)
        return rc;
    if (count.newest_damaged)
        status_problem(doc, "damaged", row->name, (struct wall_time){0},
                       "the newest snapshot of this watch is damaged",
                       "watchkeep verify names the files; watchkeep save @ stores again what is "
                       "still in the folder; where a pack was brought back from a copy: watchkeep "
                       "rebuild, watchkeep verify");
    if (count.newest_suspect)
        status_problem(doc, "suspect", row->name, (struct wall_time){0},
                       "the folder was almost empty at the newest snapshot, which is not taken for "
                       "latest",
                       "bring back what is missing, or if it is right: watchkeep save @ --accept");
    rc = add_cut_off(doc, c, row, e);
    return rc == 0 ? add_spoilt(doc, c, row, count.newest_spoilt, e) : rc;
}

static int add_rows(json_t *doc, struct repo *r, struct count *all, struct error *e)
{
    struct watch_row *rows = NULL;
    size_t count = 0;
    int rc = catalog_watches(repo_catalog(r), &rows, &count, e);

    for (size_t i = 0; i < count; i++) {
        if (rc == 0)
            rc = add_row(doc, repo_catalog(r), &rows[i], all, e);
        watch_row_release(&rows[i]);
    }
    free(rows);
    return rc;
}

/* Told in time: saves stop later, at min_free. */
static void nearly_full(json_t *doc, const struct statvfs *fs)
{
    uint64_t used = fs->f_blocks - fs->f_bfree;
    uint64_t percent = used + fs->f_bavail > 0 ? used * 100 / (used + fs->f_bavail) : 0;
    char message[96];

    if (percent < FULL_PERCENT)
        return;
    snprintf(message, sizeof(message), "the repository's file system is %d %% full", (int)percent);
    status_problem(doc, "space", NULL, (struct wall_time){0}, message,
                   "make room there, or keep less ([retention]); below min_free saves stop");
}

static void nearly_too_large(json_t *doc, uint64_t bytes, uint64_t max_size)
{
    char message[128], size[24], limit[24];

    if (max_size == 0 || bytes < max_size / 100 * FULL_PERCENT)
        return;
    text_size(bytes, size, sizeof(size));
    text_size(max_size, limit, sizeof(limit));
    snprintf(message, sizeof(message), "the repository has %s of the %s of max_size", size, limit);
    status_problem(doc, "space", NULL, (struct wall_time){0}, message,
                   "beyond it the oldest snapshots are pruned, down to the floor: raise max_size "
                   "or keep less ([retention])");
}

static void add_space(json_t *doc, json_t *o, const char *path)
{
    struct statvfs fs;

    if (statvfs(path, &fs) != 0 || fs.f_blocks == 0)
        return;
    uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    uint64_t total = (uint64_t)fs.f_blocks * fs.f_frsize;
    json_object_set_new(o, "free_bytes", json_integer((json_int_t)free_bytes));
    json_object_set_new(o, "free_percent", json_real((double)(free_bytes * 1000 / total) / 10));
    nearly_full(doc, &fs);
}

static int add_opened(json_t *doc, struct repo *r, const struct config *c, struct error *e)
{
    uint64_t bytes = repo_bytes(r);
    json_t *o = json_object_get(doc, "repository");
    struct count all = {0};
    char id[33];
    int rc = add_rows(doc, r, &all, e);

    if (rc == 0)
        rc = status_add_events(doc, repo_catalog(r), c, e);
    text_hex(repo_id(r), 16, id);
    json_object_set_new(o, "id", json_string(id));
    json_object_set_new(o, "bytes", json_integer((json_int_t)bytes));
    nearly_too_large(doc, bytes, policy_max_size(c));
    json_object_set_new(o, "snapshots", json_integer((json_int_t)all.snapshots));
    json_object_set_new(o, "last_verify", time_or_null(all.last_verify));
    return rc;
}

int status_add_repository(json_t *doc, const char *repo_path, const struct config *c,
                          struct error *e)
{
    struct repo_options opt = {0};
    struct repo *r = NULL;

    if (!doc)
        return error_sys(e, ENOMEM, "cannot tell the status");
    add_space(doc, json_object_get(doc, "repository"), repo_path);
    add_archives(doc);
    int rc = repo_open(repo_path, REPO_READ, &opt, &r, e);
    if (rc == 0) {
        rc = add_opened(doc, r, c, e);
        repo_close(r);
    }
    if (rc != 0)
        status_problem(doc, "repository", NULL, (struct wall_time){0}, e->message,
                       "see that its disk is mounted and can be read; watchkeep verify tells more");
    return 0;
}
