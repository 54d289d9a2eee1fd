/* parse.h - what people type: sizes, durations, times, numbers, names. Pure functions.
 *
 * Each returns 0 or ERR_USAGE with a message that quotes the text and says what is expected. */
#ifndef WK_BASE_PARSE_H
#define WK_BASE_PARSE_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

/* "123", "64K", "20M", "5G", "1T" (also KiB/MiB spelling); bytes, binary units. */
int parse_size(const char *s, uint64_t *bytes, struct error *e);

/* "200ms", "5s", "10m", "1h", "7d", "2w"; a bare number is seconds. Result in milliseconds. */
int parse_duration(const char *s, uint64_t *ms, struct error *e);

/* A whole non-negative decimal number. */
int parse_u64(const char *s, uint64_t *v, struct error *e);

/* A point in time: RFC 3339 ("2026-11-21T14:30:00Z", "+01:00"), "2026-11-21", "2026-11-21 14:30",
 * "2026-11-21 14:30:05" (local time), "now", "today", "yesterday", "5 minutes ago", "-2h".
 * Relative forms count from now_s. Result: seconds since the epoch. */
int parse_time(const char *s, int64_t now_s, int64_t *t, struct error *e);

/* The longest prefix of s that parse_time accepts and that ends at the end or before a ':' that
 * begins a path; *used is its length. */
int parse_time_prefix(const char *s, int64_t now_s, int64_t *t, size_t *used, struct error *e);

/* Snapshot and archive names: [A-Za-z0-9][A-Za-z0-9._-]{0,63}, not all digits, not a reserved
 * word (latest, good, all, none, now). */
bool parse_name_ok(const char *s);

#endif
