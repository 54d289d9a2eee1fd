/* threads_fixture.h - where threads are that a test drives: at a lock, or asleep. */
#ifndef WK_TESTS_THREADS_FIXTURE_H
#define WK_TESTS_THREADS_FIXTURE_H

#include "store/repo_private.h"

#include <stdio.h>
#include <string.h>
#include <sys/types.h>

/* By this thread or another: what is done now may take any of the handle's locks. */
static inline bool nothing_is_locked(struct repo *r)
{
    pthread_mutex_t *const locks[] = {&r->write_lock, &r->pool_lock, &r->packs_lock};
    size_t taken = 0;

    while (taken < 3 && pthread_mutex_trylock(locks[taken]) == 0)
        taken++;
    for (size_t i = taken; i > 0; i--)
        pthread_mutex_unlock(locks[i - 1]);
    return taken == 3;
}

/* A thread of this process; 0: it has not begun. */
static inline bool is_asleep(pid_t thread)
{
    char path[64], text[256];

    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", thread);
    FILE *f = thread ? fopen(path, "re") : NULL;
    bool asleep = f && fgets(text, sizeof(text), f) && strstr(text, ") S ");
    if (f)
        fclose(f);
    return asleep;
}

#endif
