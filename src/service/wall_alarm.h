/* wall_alarm.h - one moment of the wall clock on the loop: a timerfd that also fires when the clock
 * is set, and when a moment passed while the machine slept. Loop thread only. */
#ifndef WK_SERVICE_WALL_ALARM_H
#define WK_SERVICE_WALL_ALARM_H

#include "base/error.h"

#include <stdint.h>
#include <uv.h>

#define WALL_NEVER INT64_MAX

struct wall_alarm;

/* fire is called at or after the moment that was set, and whenever the clock was set to another
 * time; the moment then has to be set anew. */
int wall_alarm_open(uv_loop_t *loop, void (*fire)(void *ctx), void *ctx, struct wall_alarm **out,
                    struct error *e);
/* Seconds since 1970 UTC, in place of the moment before. WALL_NEVER: none, but the clock is still
 * looked after. The same moment again costs nothing. */
void wall_alarm_set(struct wall_alarm *a, int64_t at_s);
void wall_alarm_close(struct wall_alarm *a); /* freed when the loop closed it; NULL is fine */

#endif
