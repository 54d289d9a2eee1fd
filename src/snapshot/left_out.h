/* left_out.h - whether the rules under which a snapshot was made leave a path out: what is not in
 * it for that reason was not removed. Those rules are on record with the commits, and in the ignore
 * files that the snapshot holds. */
#ifndef WK_SNAPSHOT_LEFT_OUT_H
#define WK_SNAPSHOT_LEFT_OUT_H

#include "base/error.h"
#include "store/repository.h"

#include <stdbool.h>

struct left_out;

/* r and s stay the caller's and must live as long. */
int left_out_open(struct repo *r, const struct snapshot_row *s, struct left_out **out,
                  struct error *e);
/* 1: left out, 0: it would have been captured, or an error. */
int left_out_is(struct left_out *l, const char *path, bool is_dir, struct error *e);
void left_out_close(struct left_out *l); /* NULL is fine */

#endif
