#include "snapshot/task_pool.h"

#include <stdatomic.h>
#include <unistd.h>

#include "base/banned.h"

static void list_init(struct task_list *l)
{
    l->first = NULL;
    l->end = &l->first;
}

static void append(struct task_list *l, struct task *t)
{
    t->next = NULL;
    *l->end = t;
    l->end = &t->next;
}

static struct task *take(struct task_list *l)
{
    struct task *t = l->first;

    if (t) {
        l->first = t->next;
        if (!l->first)
            l->end = &l->first;
    }
    return t;
}

unsigned task_threads(unsigned wanted, unsigned most)
{
    static atomic_long processors; /* asking costs the system three calls */
    long n = wanted ? (long)wanted : atomic_load_explicit(&processors, memory_order_relaxed);

    if (n == 0) {
        n = sysconf(_SC_NPROCESSORS_ONLN);
        atomic_store_explicit(&processors, n, memory_order_relaxed);
    }
    return n < 1 ? 1 : n > (long)most ? most : (unsigned)n;
}

void task_pool_init(struct task_pool *p)
{
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->done, NULL);
    list_init(&p->urgent);
    list_init(&p->others);
    p->count = 0;
    p->stop = false;
}

void task_pool_release(struct task_pool *p)
{
    task_pool_stop(p);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
}

/* With the lock held; it is given back meanwhile. */
static void run(struct task_pool *p, struct task *t, void *worker)
{
    pthread_mutex_unlock(&p->lock);
    t->run(t, worker);
    pthread_mutex_lock(&p->lock);
    t->done = true;
    pthread_cond_broadcast(&p->done);
}

static void *thread_main(void *arg)
{
    struct task_thread *self = arg;
    struct task_pool *p = self->pool;

    pthread_mutex_lock(&p->lock);
    for (;;) {
        struct task *t = take(&p->urgent);
        if (!t)
            t = take(&p->others);
        if (t)
            run(p, t, self->worker);
        else if (p->stop)
            break;
        else
            pthread_cond_wait(&p->work, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

int task_pool_start(struct task_pool *p, void *worker, struct error *e)
{
    unsigned i = p->count;

    if (i == TASK_POOL_MAX)
        return error_set(e, ERR_FAILED, "too many worker threads");
    p->context[i] = (struct task_thread){p, worker};
    int sys = pthread_create(&p->threads[i], NULL, thread_main, &p->context[i]);
    if (sys != 0)
        return error_sys(e, sys, "cannot start a thread");
    p->count++;
    return 0;
}

void task_pool_stop(struct task_pool *p)
{
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->count; i++)
        pthread_join(p->threads[i], NULL);
    p->count = 0;
    p->stop = false;
}

void task_pool_push(struct task_pool *p, struct task *t, bool urgent)
{
    t->done = false;
    pthread_mutex_lock(&p->lock);
    append(urgent ? &p->urgent : &p->others, t);
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
    /* Whoever waits may want to help. */
    if (urgent)
        pthread_cond_broadcast(&p->done);
}

void task_pool_wait(struct task_pool *p, bool (*ready)(void *ctx), void *ctx, void *worker)
{
    pthread_mutex_lock(&p->lock);
    while (!ready(ctx)) {
        struct task *t = worker ? take(&p->urgent) : NULL;
        if (t)
            run(p, t, worker);
        else
            pthread_cond_wait(&p->done, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
}
