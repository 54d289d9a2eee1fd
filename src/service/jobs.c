#include "service/jobs.h"

#include "capture/helper_process.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/banned.h"

struct jobs {
    uv_async_t finished_signal;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct job *waiting;  /* by rank */
    struct job *finished; /* oldest first */
    struct job **finished_last;
    bool background;
    bool ending;
    size_t open; /* loop thread: pushed and not yet told as done */
    struct job *at_work;
    /* What jobs_silent_ms saw: of this job, that it moved last at this time. */
    uint64_t begun, seen_begun, seen_pulse, moved_ns;
};

static void add_finished(struct jobs *j, struct job *job)
{
    job->next = NULL;
    *j->finished_last = job;
    j->finished_last = &job->next;
}

/* For this thread alone, and for the workers it starts. There is no header for ioprio_set(2). */
static void be_modest(void)
{
    enum { IOPRIO_WHO_PROCESS = 1, IOPRIO_BEST_EFFORT_LOWEST = 2 << 13 | 7, NICE = 10 };

    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
    (void)syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, gettid(), IOPRIO_BEST_EFFORT_LOWEST);
}

static void *work(void *arg)
{
    struct jobs *j = arg;

    if (j->background)
        be_modest();
    pthread_mutex_lock(&j->lock);
    for (;;) {
        while (!j->ending && !j->waiting)
            pthread_cond_wait(&j->changed, &j->lock);
        if (j->ending)
            break;
        struct job *job = j->waiting;
        j->waiting = job->next;
        j->at_work = job;
        j->begun++;
        pthread_mutex_unlock(&j->lock);
        job->run(job);
        pthread_mutex_lock(&j->lock);
        j->at_work = NULL;
        add_finished(j, job);
        uv_async_send(&j->finished_signal);
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

static void on_finished(uv_async_t *signal)
{
    struct jobs *j = signal->data;

    pthread_mutex_lock(&j->lock);
    struct job *job = j->finished;
    j->finished = NULL;
    j->finished_last = &j->finished;
    pthread_mutex_unlock(&j->lock);
    while (job) {
        struct job *next = job->next;
        j->open--;
        job->done(job);
        job = next;
    }
}

static void on_closed(uv_handle_t *handle)
{
    struct jobs *j = handle->data;

    pthread_cond_destroy(&j->changed);
    pthread_mutex_destroy(&j->lock);
    free(j);
}

/* Signals are the loop's. */
static int start_thread(struct jobs *j)
{
    sigset_t all, old;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&j->thread, NULL, work, j);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

int jobs_open(uv_loop_t *loop, bool background, struct jobs **out, struct error *e)
{
    struct jobs *j = calloc(1, sizeof(*j));

    if (!j)
        return error_sys(e, ENOMEM, "cannot start the worker");
    j->finished_last = &j->finished;
    j->background = background;
    int rc = uv_async_init(loop, &j->finished_signal, on_finished);
    if (rc != 0) {
        free(j);
        return error_sys(e, -rc, "cannot start the worker");
    }
    j->finished_signal.data = j;
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->changed, NULL);
    rc = start_thread(j);
    if (rc != 0) {
        uv_close((uv_handle_t *)&j->finished_signal, on_closed);
        return error_sys(e, rc, "cannot start the worker");
    }
    *out = j;
    return 0;
}

void jobs_push(struct jobs *j, struct job *job)
{
    j->open++;
    pthread_mutex_lock(&j->lock);
    struct job **at = &j->waiting;
    while (*at && (*at)->rank <= job->rank)
        at = &(*at)->next;
    job->next = *at;
    *at = job;
    pthread_cond_signal(&j->changed);
    pthread_mutex_unlock(&j->lock);
}

bool jobs_quiet(const struct jobs *j)
{
    return j->open == 0;
}

static uint64_t thread_time_ms(const struct jobs *j)
{
    struct timespec t = {0};
    clockid_t clock;

    if (pthread_getcpuclockid(j->thread, &clock) == 0)
        clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

uint64_t jobs_silent_ms(struct jobs *j, uint64_t now_ns)
{
    uint64_t silent = JOBS_NONE_AT_WORK;

    pthread_mutex_lock(&j->lock);
    if (j->at_work) {
        uint64_t pulse = thread_time_ms(j) + helper_process_beats();
        if (j->at_work->pulse)
            pulse += j->at_work->pulse(j->at_work);
        if (j->begun != j->seen_begun || pulse != j->seen_pulse) {
            j->seen_begun = j->begun;
            j->seen_pulse = pulse;
            j->moved_ns = now_ns;
        }
        silent = now_ns > j->moved_ns ? (now_ns - j->moved_ns) / 1000000 : 0;
    }
    pthread_mutex_unlock(&j->lock);
    return silent;
}

void jobs_close(struct jobs *j)
{
    if (!j)
        return;
    pthread_mutex_lock(&j->lock);
    j->ending = true;
    pthread_cond_signal(&j->changed);
    pthread_mutex_unlock(&j->lock);
    pthread_join(j->thread, NULL);
    uv_close((uv_handle_t *)&j->finished_signal, on_closed);
}
