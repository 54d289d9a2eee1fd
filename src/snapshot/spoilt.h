/* spoilt.h - what is told of a file that was whole and is not, and how many there could be.
 *
 * Which they are is decided when they are saved (save_spoilt.c). */
#ifndef WK_SNAPSHOT_SPOILT_H
#define WK_SNAPSHOT_SPOILT_H

#include "store/catalog.h"

/* Why, of a NODE_SPOILT file: "is empty", "is broken", "is less than half of what it was". */
const char *spoilt_reason(uint8_t flags, uint64_t size);

/* How many files of a watch are text, JSON or SQLite now: what commit.declassed is a part of. Reads
 * every open row. */
int spoilt_count_classed(struct catalog *c, int64_t watch, uint64_t *count, struct error *e);

/* The path of one file that is spoilt now, and why ("" and "": none is). */
int spoilt_first(struct catalog *c, int64_t watch, struct buffer *path, const char **reason,
                 struct error *e);

#endif
