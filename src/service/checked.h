/* checked.h - when each watch was last checked whole, also before this run: what `[alert] max_age`
 * counts from (used in src/service only).
 *
 * Kept as a note in the catalog: when a watch is new, after its first check of a run, then at most
 * once an hour, and at the end. Where the note is lost, the time of the newest snapshot stands for
 * it. Loop thread only. */
#ifndef WK_SERVICE_CHECKED_H
#define WK_SERVICE_CHECKED_H

#include "service/supervisor.h"

/* Before the keepers. A note that cannot be read is none. */
int checked_open(struct service *s, struct error *e);
void checked_close(struct service *s); /* no job at work; NULL is fine */
/* The wall clock's second of its last check; of one that never had any, when it was first asked
 * for. Never in the future. */
int64_t checked_last(struct service *s, const char *watch);
/* A check has been completed now; first: of this run. */
void checked_now(struct service *s, const char *watch, bool first);

#endif
