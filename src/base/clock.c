#include "base/clock.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#include "base/banned.h"

static bool faked;
static struct wall_time fake;

struct wall_time clock_wall(void)
{
    struct timespec ts;

    if (faked)
        return fake;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (struct wall_time){.s = ts.tv_sec, .ns = (uint32_t)ts.tv_nsec};
}

uint64_t clock_mono_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t clock_boot_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_BOOTTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* localtime_r alone may keep a zone that the administrator has changed since. */
static bool local_parts(int64_t s, struct tm *tm)
{
    /* The C library has a lock of its own, which sanitizers do not see. */
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    time_t t = (time_t)s;

    pthread_mutex_lock(&lock);
    tzset();
    bool ok = localtime_r(&t, tm) != NULL;
    pthread_mutex_unlock(&lock);
    return ok;
}

int32_t clock_utc_offset(int64_t s)
{
    struct tm tm;

    return local_parts(s, &tm) ? (int32_t)tm.tm_gmtoff : 0;
}

void clock_fake(const struct wall_time *t)
{
    faked = t != NULL;
    if (t)
        fake = *t;
}

void time_rfc3339(struct wall_time t, char *out, size_t cap)
{
    struct tm tm;
    time_t s = (time_t)t.s;

    if (!gmtime_r(&s, &tm)) {
        snprintf(out, cap, "?");
        return;
    }
    snprintf(out, cap, "%04ld-%02d-%02dT%02d:%02d:%02d.%06uZ", tm.tm_year + 1900L, tm.tm_mon + 1,
             tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, t.ns / 1000);
}

void time_local(int64_t s, char *out, size_t cap)
{
    struct tm tm;

    if (!local_parts(s, &tm)) {
        snprintf(out, cap, "?");
        return;
    }
    snprintf(out, cap, "%04ld-%02d-%02d %02d:%02d:%02d", tm.tm_year + 1900L, tm.tm_mon + 1,
             tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
}
