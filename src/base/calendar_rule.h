/* calendar_rule.h - when a timed job runs, as people write it. Pure.
 *
 *   03:00  03:00:30         daily at that local time
 *   Sun 01:00               weekly; three letters, in any case
 *   30 2 * * mon-fri        cron's five fields: minute, hour, day of the month, month, day of the
 *                           week; lists, ranges, steps, names of months and days; Sunday is 0 or 7
 *   6h  90m  1d             an interval of 1 m to 366 d: its multiples since 1970-01-01T00:00Z
 *
 * As in cron a day matches when the month does and both day fields do; but where neither day field
 * begins with '*', one of the two is enough. What these mean in time is keep/calendar.h's. */
#ifndef WK_BASE_CALENDAR_RULE_H
#define WK_BASE_CALENDAR_RULE_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct calendar {
    int64_t interval; /* seconds; 0: the sets below */
    uint64_t minutes; /* bit 0..59 */
    uint32_t hours;   /* bit 0..23 */
    uint32_t days;    /* bit 1..31 */
    uint16_t months;  /* bit 1..12 */
    uint8_t weekdays; /* bit 0 (Sunday)..6 */
    uint8_t second;   /* of the minute */
    bool either_day;  /* one of days and weekdays is enough */
};

/* ERR_USAGE for anything else, and for a rule that no day of any year fulfils (30 February). */
int calendar_parse(const char *text, struct calendar *out, struct error *e);

#endif
