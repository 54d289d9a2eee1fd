/* clock.h - the two clocks, and time as text.
 *
 * Order never comes from the wall clock; it is a label. Tests set it with clock_fake. */
#ifndef WK_BASE_CLOCK_H
#define WK_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

struct wall_time {
    int64_t s;   /* seconds since the epoch, may be negative */
    uint32_t ns; /* 0..999999999 */
};

struct wall_time clock_wall(void);
uint64_t clock_mono_ns(void);               /* CLOCK_MONOTONIC */
uint64_t clock_boot_ns(void);               /* CLOCK_BOOTTIME: goes on while the machine sleeps */
int32_t clock_utc_offset(int64_t s);        /* local zone at that moment, seconds east of UTC */
void clock_fake(const struct wall_time *t); /* NULL: the real one again */

/* "2026-11-21T03:00:00.123456Z"; 32 bytes are enough. */
void time_rfc3339(struct wall_time t, char *out, size_t cap);
/* "2026-11-21 04:00:00" in local time; 24 bytes are enough. */
void time_local(int64_t s, char *out, size_t cap);

#endif
