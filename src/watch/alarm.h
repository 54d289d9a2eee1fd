/* alarm.h - one moment on the loop, to the nanosecond (a timerfd under uv_poll: libuv's own timers
 * count milliseconds). Loop thread only. */
#ifndef WK_WATCH_ALARM_H
#define WK_WATCH_ALARM_H

#include "base/error.h"

#include <stdint.h>
#include <uv.h>

#define ALARM_NEVER UINT64_MAX

struct alarm;

/* fire is called at or after the moment that was set, once for each setting. */
int alarm_open(uv_loop_t *loop, void (*fire)(void *ctx), void *ctx, struct alarm **out,
               struct error *e);
/* Set the moment on clock_mono_ns's clock, in place of the one before. ALARM_NEVER: none. The same
 * moment again costs nothing. */
void alarm_set(struct alarm *a, uint64_t at_ns);
void alarm_close(struct alarm *a); /* freed when the loop has closed its handle; NULL is fine */

#endif
