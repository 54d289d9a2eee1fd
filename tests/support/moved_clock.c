/* Clocks that a test moves, for a second program of the product's own objects.
 *
 * The linker gives every call of clock_gettime, timerfd_create and timerfd_settime in those objects
 * to the functions here (--wrap); nothing in the product knows of it. How far each clock is ahead
 * of the machine's stands in the file that WK_MOVED_CLOCK names: three 64-bit numbers of
 * nanoseconds, for CLOCK_REALTIME, CLOCK_BOOTTIME and CLOCK_MONOTONIC. The test changes them in
 * place. Within milliseconds every timer follows, and one that is to tell when the clock was set
 * (TFD_TIMER_CANCEL_ON_SET) rings, as the kernel has it. Between two moves time passes as
 * everywhere. Without the variable the clocks are the machine's. */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { WALL, BOOT, MONO, CLOCKS };
enum { TIMERS = 256, PACE_NS = 3000000 };
#define NS_A_S INT64_C(1000000000)

int __real_clock_gettime(clockid_t id, struct timespec *now);
int __real_timerfd_create(int id, int flags);
int __real_timerfd_settime(int fd, int flags, const struct itimerspec *when,
                           struct itimerspec *old);
int __wrap_clock_gettime(clockid_t id, struct timespec *now);
int __wrap_timerfd_create(int id, int flags);
int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *when,
                           struct itimerspec *old);

static _Atomic int64_t *shared; /* CLOCKS of them; NULL: the machine's clocks */

static struct timer { /* by its descriptor */
    bool used;
    int clock, flags;
    struct itimerspec when; /* as asked for */
} timers[TIMERS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int clock_of(clockid_t id)
{
    return id == CLOCK_REALTIME    ? WALL
           : id == CLOCK_BOOTTIME  ? BOOT
           : id == CLOCK_MONOTONIC ? MONO
                                   : CLOCKS;
}

static int64_t ahead(int clock)
{
    return shared && clock < CLOCKS ? atomic_load(&shared[clock]) : 0;
}

static int64_t ns_of(const struct timespec *t)
{
    return t->tv_sec > INT64_MAX / NS_A_S - 1 ? INT64_MAX : t->tv_sec * NS_A_S + t->tv_nsec;
}

int __wrap_clock_gettime(clockid_t id, struct timespec *now)
{
    int64_t more = ahead(clock_of(id));
    int rc = __real_clock_gettime(id, now);

    if (rc == 0 && more != 0) {
        int64_t ns = ns_of(now) + more;
        now->tv_sec = (time_t)(ns / NS_A_S);
        now->tv_nsec = (long)(ns % NS_A_S);
    }
    return rc;
}

int __wrap_timerfd_create(int id, int flags)
{
    int fd = __real_timerfd_create(id, flags);

    if (fd >= TIMERS) {
        fprintf(stderr, "moved_clock: a descriptor of %d\n", fd);
        abort();
    }
    if (fd >= 0) {
        pthread_mutex_lock(&lock);
        timers[fd] = (struct timer){.used = true, .clock = clock_of(id)};
        pthread_mutex_unlock(&lock);
    }
    return fd;
}

/* now: whatever it was set to. */
static int arm(int fd, const struct timer *t, bool now)
{
    struct itimerspec when = t->when;
    int64_t ns = ns_of(&when.it_value);

    if (ns > 0 && ns < INT64_MAX && (t->flags & TFD_TIMER_ABSTIME)) {
        ns -= ahead(t->clock);
        ns = ns > 0 ? ns : 1; /* zero would disarm it */
        when.it_value.tv_sec = (time_t)(ns / NS_A_S);
        when.it_value.tv_nsec = (long)(ns % NS_A_S);
    }
    if (now)
        when.it_value = (struct timespec){.tv_nsec = 1};
    return __real_timerfd_settime(fd, t->flags, &when, NULL);
}

int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *when, struct itimerspec *old)
{
    pthread_mutex_lock(&lock);
    timers[fd].flags = flags;
    timers[fd].when = *when;
    int rc = arm(fd, &timers[fd], false);
    pthread_mutex_unlock(&lock);
    return rc;
}

static void follow(const bool moved[CLOCKS])
{
    pthread_mutex_lock(&lock);
    for (int fd = 0; fd < TIMERS; fd++) {
        const struct timer *t = &timers[fd];
        if (t->used && t->clock < CLOCKS && moved[t->clock])
            arm(fd, t, t->flags & TFD_TIMER_CANCEL_ON_SET);
    }
    pthread_mutex_unlock(&lock);
}

static void *watch(void *ctx)
{
    int64_t seen[CLOCKS] = {0};

    for (;;) {
        bool moved[CLOCKS], any = false;
        for (int i = 0; i < CLOCKS; i++) {
            int64_t at = ahead(i);
            moved[i] = at != seen[i];
            any = any || moved[i];
            seen[i] = at;
        }
        if (any)
            follow(moved);
        nanosleep(&(struct timespec){.tv_nsec = PACE_NS}, NULL);
    }
    return NULL;
}

static void __attribute__((constructor)) begin(void)
{
    const char *path = getenv("WK_MOVED_CLOCK");
    pthread_t thread;

    if (!path)
        return;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *at =
        fd < 0 ? MAP_FAILED : mmap(NULL, CLOCKS * sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        fprintf(stderr, "moved_clock: cannot read '%s'\n", path);
        abort();
    }
    close(fd);
    shared = at;
    if (pthread_create(&thread, NULL, watch, NULL) != 0)
        abort();
    pthread_detach(thread);
}
