/* The worker thread of the service: whether a job gets on. */
#include "base/clock.h"
#include "service/jobs.h"

#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define SECOND UINT64_C(1000000000)

struct held_job {
    struct job job; /* first */
    sem_t begun, go_on;
    atomic_uint_least64_t done_so_far;
    bool done;
};

static void run(struct job *job)
{
    struct held_job *h = (struct held_job *)job;

    sem_post(&h->begun);
    sem_wait(&h->go_on);
}

static uint64_t pulse(struct job *job)
{
    return atomic_load(&((struct held_job *)job)->done_so_far);
}

static void on_done(struct job *job)
{
    ((struct held_job *)job)->done = true;
}

static void hold(struct jobs *j, struct held_job *h)
{
    *h = (struct held_job){.job = {.pulse = pulse, .run = run, .done = on_done}};
    sem_init(&h->begun, 0, 0);
    sem_init(&h->go_on, 0, 0);
    jobs_push(j, &h->job);
    sem_wait(&h->begun);
}

static void let_go(uv_loop_t *loop, struct held_job *h)
{
    sem_post(&h->go_on);
    while (!h->done)
        uv_run(loop, UV_RUN_ONCE);
    sem_destroy(&h->begun);
    sem_destroy(&h->go_on);
}

/* A thread that waits uses no time, but it may have some left to use before it does. */
static uint64_t until_it_waits(struct jobs *j, uint64_t now)
{
    while (jobs_silent_ms(j, now) == 0)
        now += SECOND;
    return now;
}

static void a_job_that_waits_is_silent_until_it_gets_on(void **state)
{
    struct error e = ERROR_INIT;
    struct held_job h;
    struct jobs *j;
    uv_loop_t loop;
    uint64_t now = clock_mono_ns();

    uv_loop_init(&loop);
    assert_int_equal(jobs_open(&loop, false, &j, &e), 0);
    assert_true(jobs_silent_ms(j, now) == JOBS_NONE_AT_WORK);
    hold(j, &h);
    assert_int_equal(jobs_silent_ms(j, now), 0);
    now = until_it_waits(j, now);
    assert_true(jobs_silent_ms(j, now + 400 * SECOND) >= 400000);
    atomic_store(&h.done_so_far, 1);
    assert_int_equal(jobs_silent_ms(j, now + 500 * SECOND), 0);
    let_go(&loop, &h);
    assert_true(jobs_silent_ms(j, now + 600 * SECOND) == JOBS_NONE_AT_WORK);
    hold(j, &h); /* another job begins anew, however long the thread had nothing to do */
    assert_int_equal(jobs_silent_ms(j, now + 9000 * SECOND), 0);
    let_go(&loop, &h);
    jobs_close(j);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_that_waits_is_silent_until_it_gets_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
