#include "service/service.h"

#include "base/log.h"
#include "service/checked.h"
#include "service/keeper.h"
#include "service/place.h"
#include "service/problems.h"
#include "service/supervisor.h"
#include "service/systemd.h"
#include "service/timed.h"
#include "snapshot/verify.h"

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

#define MS UINT64_C(1000000)
#define IDLE_AFTER_NS (1000 * MS)

#define USES_AT_MOST 256 /* of the store before it tidies up between two saves */

enum { MORE_TIME_EVERY_MS = 5000, MORE_TIME_US = 30000000, SILENT_MAX_MS = 300000 };

/* ---- idle work ---- */

static void run_idle(struct job *job)
{
    struct service *s = (struct service *)((char *)job - offsetof(struct service, idle_job));
    struct error e = ERROR_INIT;

    if (repo_idle(s->repo, &e) != 0)
        log_warn("tidying up the repository: %s", e.message);
    malloc_trim(0); /* what a large save needed */
}

/* ---- what was stored is read back within minutes ---- */

#define NEW_AFTER_NS (20000 * MS)
#define NEW_AT_LATEST_NS (120000 * MS)
#define NEW_BYTES (UINT64_C(1) << 30) /* at once, so that a stop loses little of it */

static int verify_what_is_new(struct service *s, struct repo *r, bool *all, struct error *e)
{
    struct verify_result result = {0};
    const struct verify_part part = {.repo = r, .record_in = s->repo, .cancel = &s->cancel_verify};

    int rc = verify_new(&part, NEW_BYTES, &result, all, e);
    if (rc == 0 && result.errors > 0)
        log_error("verification found damage (%" PRIu64 " errors): watchkeep verify tells more",
                  result.errors);
    verify_result_release(&result);
    return rc;
}

static void run_new(struct job *job)
{
    struct service *s = (struct service *)((char *)job - offsetof(struct service, new_job));
    const struct repo_options opt = {0};
    struct error e = ERROR_INIT;
    struct repo *r = NULL;
    bool all = false;

    pthread_rwlock_rdlock(&s->store_lock);
    int rc = repo_open(repo_path(s->repo), REPO_READ, &opt, &r, &e);
    while (rc == 0 && !all && !atomic_load(&s->cancel_verify))
        rc = verify_what_is_new(s, r, &all, &e);
    if (r)
        repo_close(r);
    pthread_rwlock_unlock(&s->store_lock);
    if (rc != 0 && rc != ERR_CANCELLED)
        log_warn("reading back what was stored: %s", e.message);
    malloc_trim(0);
}

static void on_new_done(struct job *job)
{
    struct service *s = (struct service *)((char *)job - offsetof(struct service, new_job));

    s->verifying_new = false;
    service_problems_changed(s);
    service_stop_on(s);
    service_rearm(s);
}

static void verify_new_if_due(struct service *s, uint64_t now)
{
    if (now < s->new_at || s->verifying_new || s->stopping)
        return;
    s->new_at = s->new_since = UINT64_MAX;
    s->verifying_new = true;
    s->new_job = (struct job){.rank = JOB_VERIFY, .run = run_new, .done = on_new_done};
    jobs_push(s->background, &s->new_job);
}

static void something_is_new(struct service *s)
{
    uint64_t now = clock_mono_ns();

    if (s->new_since == UINT64_MAX)
        s->new_since = now;
    s->new_at = now + NEW_AFTER_NS;
    if (s->new_at > s->new_since + NEW_AT_LATEST_NS)
        s->new_at = s->new_since + NEW_AT_LATEST_NS;
}

/* ---- upkeep: in the background, beside saves ---- */

static void tell_upkeep(const struct upkeep_result *done)
{
    if (done->checkpoint_bytes > 0)
        log_info("the log was folded into a checkpoint of %" PRIu64 " bytes",
                 done->checkpoint_bytes);
    if (done->packs_emptied > 0)
        log_info("%" PRIu64 " packs were emptied, %" PRIu64 " bytes of them live on",
                 done->packs_emptied, done->bytes_moved);
    if (done->packs_removed > 0)
        log_info("%" PRIu64 " packs of %" PRIu64 " bytes were removed", done->packs_removed,
                 done->bytes_removed);
}

static void run_upkeep(struct job *job)
{
    struct service *s = (struct service *)((char *)job - offsetof(struct service, upkeep_job));
    bool short_of_space = repo_free_missing(s->repo) > 0;
    const struct upkeep u = {.keep_s = short_of_space ? 0 : UPKEEP_KEEP_S,
                             .pressed = short_of_space,
                             .cancel = &s->cancel_verify};
    struct upkeep_result done;
    struct error e = ERROR_INIT;

    pthread_rwlock_rdlock(&s->store_lock);
    int rc = repo_upkeep(s->repo, &u, &done, &e);
    pthread_rwlock_unlock(&s->store_lock);
    if (rc != 0 && rc != ERR_CANCELLED)
        log_warn("putting the packs in order: %s", e.message);
    tell_upkeep(&done);
    malloc_trim(0);
}

static void on_upkeep_done(struct job *job)
{
    struct service *s = (struct service *)((char *)job - offsetof(struct service, upkeep_job));

    s->keeping_up = false;
    service_stop_on(s);
    service_rearm(s);
}

static void begin_upkeep(struct service *s)
{
    if (s->stopping || s->keeping_up)
        return;
    s->keeping_up = true;
    s->upkeep_job = (struct job){.rank = JOB_IDLE, .run = run_upkeep, .done = on_upkeep_done};
    jobs_push(s->background, &s->upkeep_job);
}

static void on_idle_done(struct job *job)
{
    struct service *s = (struct service *)((char *)job - offsetof(struct service, idle_job));

    s->idling = false;
    service_make_room(s, false);
    begin_upkeep(s);
    service_stop_on(s);
    service_rearm(s);
}

enum { THREADS = 4 };

static struct jobs **thread_at(struct service *s, int i)
{
    struct jobs **const all[THREADS] = {&s->jobs, &s->asked, &s->scans, &s->background};

    return all[i];
}

bool service_quiet(struct service *s)
{
    bool quiet = true;

    for (int i = 0; i < THREADS; i++)
        quiet &= jobs_quiet(*thread_at(s, i));
    return quiet;
}

void service_store_used(struct service *s)
{
    uint64_t now = clock_mono_ns();

    something_is_new(s);
    s->idle_at = ++s->store_uses < USES_AT_MOST ? now + IDLE_AFTER_NS : now;
}

static void idle_if_due(struct service *s, uint64_t now)
{
    if (now < s->idle_at || s->idling || s->stopping)
        return;
    if (!service_quiet(s) && s->store_uses < USES_AT_MOST) {
        s->idle_at = now + IDLE_AFTER_NS;
        return;
    }
    s->idle_at = UINT64_MAX;
    s->store_uses = 0;
    s->idling = true;
    s->idle_job = (struct job){.rank = JOB_IDLE, .run = run_idle, .done = on_idle_done};
    jobs_push(s->jobs, &s->idle_job);
}

/* ---- configurations ---- */

static void free_old_configs(struct service *s)
{
    while (s->old_config_count > 0)
        config_free(s->old_configs[--s->old_config_count]);
    free(s->old_configs);
    s->old_configs = NULL;
}

void service_set_config(struct service *s, struct config *fresh)
{
    struct config **list =
        reallocarray(s->old_configs, s->old_config_count + 1, sizeof(struct config *));

    if (list) { /* else it is lost, which harms nobody */
        s->old_configs = list;
        list[s->old_config_count++] = s->config;
    }
    s->config = fresh;
}

/* ---- turns ---- */

static void drop_gone(struct service *s)
{
    struct keeper *k, *next;

    for (k = LIST_FIRST(&s->keepers); k; k = next) {
        next = LIST_NEXT(k, link);
        if (keeper_gone(k))
            keeper_free(k);
    }
}

void service_rearm(struct service *s)
{
    const struct keeper *k;
    uint64_t at = watch_tree_deadline(s->tree);

    if (s->ending)
        return;
    drop_gone(s);
    if (s->old_config_count > 0 && s->reads == 0 && service_quiet(s))
        free_old_configs(s);
    LIST_FOREACH(k, &s->keepers, link)
    {
        uint64_t due = keeper_deadline(k);
        at = due < at ? due : at;
    }
    if (!s->idling && !s->stopping && s->idle_at < at)
        at = s->idle_at;
    if (!s->verifying_new && s->new_at < at)
        at = s->new_at;
    uint64_t look = problems_deadline(s);
    alarm_set(s->alarm, look < at ? look : at);
    timed_rearm(s);
}

static void close_turn(struct service *s)
{
    struct keeper *k;

    LIST_FOREACH(k, &s->keepers, link)
    keeper_turn(k);
}

/* One warning for each lasting flood of events. */
static void tell_overflow(struct service *s)
{
    static const uint64_t pause_ns = 60000 * MS;
    uint64_t now = clock_mono_ns();

    if (watch_tree_overflows(s->tree) == s->overflows_told)
        return;
    if (s->overflow_quiet_until < now)
        log_warn("the kernel's queue of events was full: every watch is scanned anew (raise "
                 "fs.inotify.max_queued_events if this happens often)");
    s->overflow_quiet_until = now + pause_ns;
    s->overflows_told = watch_tree_overflows(s->tree);
}

static void on_turn(void *ctx)
{
    struct service *s = ctx;

    tell_overflow(s);
    close_turn(s);
    if (s->watching && !s->stopping)
        service_rearm(s);
}

static void on_alarm(void *ctx)
{
    struct service *s = ctx;
    uint64_t now = clock_mono_ns();
    struct keeper *k;

    watch_tree_tick(s->tree, now);
    LIST_FOREACH(k, &s->keepers, link)
    keeper_pump(k, now);
    idle_if_due(s, now);
    verify_new_if_due(s, now);
    problems_look(s, now);
    close_turn(s);
    service_rearm(s);
}

static void on_mounts(void *ctx)
{
    struct service *s = ctx;
    struct keeper *k;

    LIST_FOREACH(k, &s->keepers, link)
    keeper_mounts_changed(k);
    close_turn(s);
    service_rearm(s);
}

/* ---- the service manager ---- */

/* A job may wait for one of another thread; a flush of a slow disk may take minutes. */
bool service_gets_on(struct service *s)
{
    uint64_t now = clock_mono_ns();
    uint64_t silent = JOBS_NONE_AT_WORK;

    for (int i = 0; i < THREADS; i++) {
        struct jobs *j = *thread_at(s, i);
        uint64_t ms = j ? jobs_silent_ms(j, now) : JOBS_NONE_AT_WORK;
        silent = ms < silent ? ms : silent;
    }
    return silent == JOBS_NONE_AT_WORK || silent < SILENT_MAX_MS;
}

static void on_manager(uv_timer_t *timer)
{
    struct service *s = timer->data;
    bool answers = service_gets_on(s) && (!s->tree || watch_tree_gets_on(s->tree));

    if (!answers && !s->silent_told)
        log_error("no event was read, or no job has got on, for a long time: the service manager "
                  "is no longer told that all is well");
    s->silent_told = !answers;

    if (!s->ready || s->stopping)
        systemd_notify("EXTEND_TIMEOUT_USEC=%d", MORE_TIME_US);
    if (systemd_watchdog_us() > 0 && answers)
        systemd_notify("WATCHDOG=1");
}

/* The timer runs only while somebody wants to hear of us. */
static void set_manager_timer(struct service *s)
{
    uint64_t every = systemd_watchdog_us() / 2000;

    if ((!s->ready || s->stopping) && (every == 0 || every > MORE_TIME_EVERY_MS))
        every = MORE_TIME_EVERY_MS;
    if (every > 0 && systemd_listens())
        uv_timer_start(&s->manager, on_manager, every, every);
    else
        uv_timer_stop(&s->manager);
}

/* ---- beginning and end ---- */

void service_ready_on(struct service *s)
{
    struct keeper *k;

    if (s->ready || s->stopping || !s->watching)
        return;
    LIST_FOREACH(k, &s->keepers, link)
    {
        if (k->root && !k->stood)
            return;
    }
    s->ready = true;
    systemd_notify("READY=1\nSTATUS=watching %zu folders", watch_tree_folders(s->tree));
    log_info("ready: %zu folders are watched", watch_tree_folders(s->tree));
    set_manager_timer(s);
    LIST_FOREACH(k, &s->keepers, link)
    keeper_pump(k, clock_mono_ns());
    service_problems_changed(s);
    timed_look(s);
    service_rearm(s);
}

void service_stop_on(struct service *s)
{
    if (!s->stopping || s->ending || !service_quiet(s) || s->reads > 0)
        return;
    s->ending = true;
    uv_stop(&s->loop);
}

static void stop_at_once(struct service *s)
{
    struct keeper *k;

    log_warn("stopping at once");
    atomic_store(&s->cancel, true);
    LIST_FOREACH(k, &s->keepers, link)
    {
        if (k->job)
            atomic_store(&k->job->cancel, true);
    }
}

void service_stop(struct service *s)
{
    struct keeper *k;

    if (s->stopping) {
        stop_at_once(s);
        return;
    }
    log_info("stopping");
    s->stopping = true;
    atomic_store(&s->cancel_verify, true);
    systemd_notify("STOPPING=1\nEXTEND_TIMEOUT_USEC=%d", MORE_TIME_US);
    set_manager_timer(s);
    control_stop(s->control);
    watch_tree_drain(s->tree);
    LIST_FOREACH(k, &s->keepers, link)
    keeper_stop(k);
    close_turn(s);
    service_stop_on(s);
}

static void on_signal(uv_signal_t *signal, int number)
{
    struct service *s = signal->data;

    if (number != SIGHUP) {
        service_stop(s);
    } else if (!s->stopping) {
        struct error e = ERROR_INIT; /* the reload has told it */
        (void)service_reload(s, &e);
    }
}

static void open_signal(struct service *s, uv_signal_t *handle, int number)
{
    uv_signal_init(&s->loop, handle);
    handle->data = s;
    uv_signal_start(handle, on_signal, number);
}

static void on_handle(uv_handle_t *handle, void *arg)
{
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static int open_watching(struct service *s, struct error *e)
{
    struct error own = ERROR_INIT;
    int rc = 0;

    s->helper = sqlite_helper_new(NULL);
    if (!s->helper)
        rc = error_sys(e, ENOMEM, "cannot set up the capture of databases");
    if (rc == 0)
        rc = alarm_open(&s->loop, ALARM_MONO, on_alarm, s, &s->alarm, e);
    if (rc == 0)
        rc = watch_tree_open(&s->loop, on_turn, s, &s->tree, e);
    if (rc != 0)
        return rc;
    if (mounts_open(&s->loop, on_mounts, s, &s->mounts, &own) != 0)
        log_warn("%s", own.message);
    char *folder = place_barrier_folder(s->repo, &own);
    if (!folder || watch_tree_barrier_folder(s->tree, folder, &own) != 0)
        log_warn("%s", own.message); /* barriers do without it */
    free(folder);
    return 0;
}

static int open_keepers(struct service *s, struct error *e)
{
    struct keeper *k;

    for (size_t i = 0; s->config->enabled && i < s->config->watch_count; i++) {
        int rc = keeper_new(s, &s->config->watches[i], &k, e);
        if (rc != 0)
            return rc;
    }
    if (!s->config->enabled)
        log_warn("saving is switched off (WATCHKEEP_ENABLED=false): nothing is saved");
    s->watching = true;
    return 0;
}

static bool gets_on(void *service)
{
    return service_gets_on(service);
}

static int open_control(struct service *s, struct error *e)
{
    struct stat st;
    struct control_options opt = {.path = s->config->socket,
                                  .group = s->config->group,
                                  .owner = geteuid(),
                                  .request = requests_serve,
                                  .working = gets_on,
                                  .ctx = s};

    if (fstat(repo_dirfd(s->repo), &st) == 0)
        opt.owner = st.st_uid;
    int rc = control_open(&s->loop, &opt, &s->control, e);
    return rc == 0 ? place_note_socket(s->repo, s->config->socket, e) : rc;
}

static int open_all(struct service *s, struct error *e)
{
    int rc = place_open(s->config, s->opt->may_init, &s->repo, e);

    /* Before any thread is started: making it changes the umask. */
    if (rc == 0)
        rc = open_control(s, e);
    for (int i = 0; rc == 0 && i < THREADS; i++) {
        struct jobs **at = thread_at(s, i);
        rc = jobs_open(&s->loop, at == &s->scans || at == &s->background, at, e);
    }
    if (rc == 0)
        rc = open_watching(s, e);
    if (rc == 0)
        rc = problems_open(s, e);
    if (rc == 0)
        rc = timed_open(s, e);
    if (rc == 0)
        rc = checked_open(s, e);
    if (rc == 0)
        rc = open_keepers(s, e);
    return rc;
}

static void close_all(struct service *s)
{
    struct error ignored = ERROR_INIT;

    s->ending = true;
    for (int i = 0; i < THREADS; i++)
        jobs_close(*thread_at(s, i));
    while (!LIST_EMPTY(&s->keepers))
        keeper_free(LIST_FIRST(&s->keepers));
    timed_close(s);
    problems_close(s);
    checked_close(s);
    watch_tree_close(s->tree);
    mounts_close(s->mounts);
    alarm_close(s->alarm);
    control_close(s->control);
    sqlite_helper_free(s->helper);
    uv_close((uv_handle_t *)&s->terminate, NULL);
    uv_close((uv_handle_t *)&s->interrupt, NULL);
    uv_close((uv_handle_t *)&s->hangup, NULL);
    uv_close((uv_handle_t *)&s->manager, NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    uv_walk(&s->loop, on_handle, NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    uv_loop_close(&s->loop);
    if (s->repo) {
        (void)place_note_socket(s->repo, NULL, &ignored);
        repo_close(s->repo);
    }
    free_old_configs(s);
    config_free(s->config);
}

int service_run(struct service_options *opt, struct error *e)
{
    struct service *s = calloc(1, sizeof(*s));

    if (!s || uv_loop_init(&s->loop) != 0) {
        free(s);
        config_free(opt->config);
        return error_sys(e, ENOMEM, "cannot start the service");
    }
    s->opt = opt;
    s->config = opt->config;
    opt->config = NULL;
    s->error = e;
    s->since = clock_wall();
    s->idle_at = s->new_at = s->new_since = UINT64_MAX;
    LIST_INIT(&s->keepers);
    pthread_rwlock_init(&s->store_lock, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    /* Where who started us ignored it, how a child ended would be lost. */
    signal(SIGCHLD, SIG_DFL);
    log_setup(s->config->log_level, s->config->log_format);
    open_signal(s, &s->terminate, SIGTERM);
    open_signal(s, &s->interrupt, SIGINT);
    open_signal(s, &s->hangup, SIGHUP);
    uv_timer_init(&s->loop, &s->manager);
    s->manager.data = s;
    set_manager_timer(s);
    int rc = open_all(s, e);
    if (rc == 0 && opt->started)
        opt->started(opt->ctx, s->config);
    if (rc == 0) {
        service_ready_on(s);
        service_rearm(s);
        uv_run(&s->loop, UV_RUN_DEFAULT);
        rc = s->result;
        log_info("stopped");
    }
    close_all(s);
    pthread_rwlock_destroy(&s->store_lock);
    free(s);
    return rc;
}
