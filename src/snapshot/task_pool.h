/* task_pool.h - a few threads that run tasks, the urgent ones first, each kind in order.
 *
 * A task is part of a larger struct of its owner, who keeps it until it is done. Who waits may help
 * with urgent tasks, so that a task may wait for others it has pushed. */
#ifndef WK_SNAPSHOT_TASK_POOL_H
#define WK_SNAPSHOT_TASK_POOL_H

#include "base/error.h"

#include <pthread.h>
#include <stdbool.h>

struct task {
    void (*run)(struct task *t, void *worker); /* worker: what the thread was started with */
    struct task *next;
    bool done; /* read it in `ready` of task_pool_wait only */
};

struct task_list {
    struct task *first, **end;
};

#define TASK_POOL_MAX 16

struct task_pool {
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    struct task_list urgent, others;
    pthread_t threads[TASK_POOL_MAX];
    struct task_thread {
        struct task_pool *pool;
        void *worker;
    } context[TASK_POOL_MAX];
    unsigned count; /* of threads */
    bool stop;
};

/* How many threads: as many as wanted or, for 0, as there are processors; 1..most. */
unsigned task_threads(unsigned wanted, unsigned most);

void task_pool_init(struct task_pool *p);
/* Start one more thread; fails with ERR_FAILED. */
int task_pool_start(struct task_pool *p, void *worker, struct error *e);
/* Let the threads finish what is queued and end. */
void task_pool_stop(struct task_pool *p);
void task_pool_release(struct task_pool *p);

void task_pool_push(struct task_pool *p, struct task *t, bool urgent);
/* Until ready(ctx), which is called under the pool's lock after each task that was done. With a
 * worker the waiting thread runs urgent tasks meanwhile; NULL: it only waits. */
void task_pool_wait(struct task_pool *p, bool (*ready)(void *ctx), void *ctx, void *worker);

#endif
