/* alarm.h - one moment of a clock on the loop, to the nanosecond (a timerfd under uv_poll: libuv's
 * own timers count milliseconds, and know nothing of the wall clock). Loop thread only. */
#ifndef WK_WATCH_ALARM_H
#define WK_WATCH_ALARM_H

#include "base/error.h"

#include <stdint.h>
#include <uv.h>

#define ALARM_NEVER UINT64_MAX

enum alarm_clock {
    ALARM_MONO, /* clock_mono_ns: fires once for each setting */
    ALARM_WALL, /* clock_wall: also fires for a moment that passed while the machine slept, and
                   whenever the clock is set to another time, ALARM_NEVER or not; what it rings for
                   then has to be set anew */
};

struct alarm;

/* fire is called at or after the moment that was set. */
int alarm_open(uv_loop_t *loop, enum alarm_clock clock, void (*fire)(void *ctx), void *ctx,
               struct alarm **out, struct error *e);
/* Set the moment on the alarm's clock, in place of the one before; one that has passed is now.
 * ALARM_NEVER: none. The same moment again costs nothing. */
void alarm_set(struct alarm *a, uint64_t at_ns);
void alarm_close(struct alarm *a); /* freed when the loop has closed its handle; NULL is fine */

/* A moment of the wall clock for alarm_set: before 1970 is long ago, after 2500 never. */
uint64_t alarm_wall_ns(int64_t s);

#endif
