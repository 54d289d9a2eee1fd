/* age.h - what time it is, as far as it may make anything old (pure; no clock is read here).
 *
 * The wall clock can be set to anything. The boot clock (CLOCK_BOOTTIME) cannot be set, goes on
 * while the machine sleeps, but begins at 0 with each boot. The trusted time moves on by what both
 * agree on; what the wall clock alone says to have passed, by a jump or while the machine was off,
 * counts after both have agreed for a day. So no jump makes anything old at once, and a clock that
 * was put right is believed a day later.
 *
 * - The wall clock jumps forward: the trusted time goes on by the boot clock.
 * - It goes back: the trusted time goes back with it. Nothing is older by that.
 * - Another boot: what passed since it began counts, the rest waits for its day. Gaps of less than
 *   a day do not begin that day anew: a machine that is off every night gets there as well. */
#ifndef WK_KEEP_AGE_H
#define WK_KEEP_AGE_H

#include "base/buffer.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AGE_DOUBT_S 86400

struct age_reading { /* both clocks at one moment */
    int64_t wall;    /* seconds since the epoch */
    int64_t boot;    /* seconds since the machine began */
    uint8_t boot_id[16];
};

struct age_state { /* kept from one look to the next; all zeros: none yet */
    struct age_reading last;
    int64_t trusted;
    int64_t agreed; /* seconds for which the clocks have agreed since the last jump */
};

/* The trusted time at `now`; *state moves on. newest: time of the newest snapshot, which a first
 * look does not go beyond by more than a day; 0 = there is none. */
int64_t age_look(struct age_state *state, const struct age_reading *now, int64_t newest);

/* 48 bytes. ERR_DAMAGED when it is not that. */
void age_encode(const struct age_state *state, struct buffer *out);
int age_decode(const void *p, size_t len, struct age_state *state, struct error *e);

#endif
