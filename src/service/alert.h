/* alert.h - `[alert] command`: a program that is given one event as JSON on its standard input
 * (alert_program.h), in a thread of its own, so that nothing waits for it.
 *
 * One at a time, in order; one that takes longer than 30 s is killed. Exit 0: told. One that failed
 * is tried again after a pause, before any other; after its last try it is given up, and the owner
 * may send it again. Loop thread only. */
#ifndef WK_SERVICE_ALERT_H
#define WK_SERVICE_ALERT_H

#include "base/clock.h"
#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <uv.h>

struct alert;

/* An event is told, or given up: borrowed. */
typedef void (*alert_ended)(void *ctx, const char *key, const json_t *event, bool told);
/* NULL on no memory. */
struct alert *alert_new(uv_loop_t *loop, alert_ended ended, void *ctx);
/* Which program from now on; "" or NULL: none, and what waits is dropped without a call. Another
 * program is tried at once. */
void alert_command(struct alert *a, const char *command);
/* How often it is tried in all, and how far apart. */
void alert_retries(struct alert *a, unsigned attempts, uint64_t delay_ms);
bool alert_wanted(const struct alert *a);
/* The reference is taken; NULL counts as lack of memory. Of more than 100 that wait the oldest are
 * given up. */
void alert_send(struct alert *a, const char *key, json_t *event);
/* One of that key waits, or is at work. */
bool alert_holds(const struct alert *a, const char *key);
/* Why one could not be told, and since when none was; NULL: the last one was, or there was none. */
const char *alert_failure(const struct alert *a, struct wall_time *since);
/* A program at work has some seconds to end; what waits is dropped. The loop then has handles to
 * close. NULL is fine. */
void alert_close(struct alert *a);

#endif
