/* alert.h - `[alert] command`: a program that is given one event as JSON on its standard input.
 *
 * It runs without a shell and without arguments, in a session of its own, with our environment and
 * our standard error; its output is thrown away. One at a time, in order; one that takes longer
 * than 30 s is killed with all it has started. Exit 0: told. Nothing waits for it. Loop thread
 * only.
 */
#ifndef WK_SERVICE_ALERT_H
#define WK_SERVICE_ALERT_H

#include "base/clock.h"
#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <uv.h>

struct alert;

/* ended (may be NULL) is called after each command. NULL on no memory. */
struct alert *alert_new(uv_loop_t *loop, void (*ended)(void *ctx), void *ctx);
/* Which program from now on; "" or NULL: none, and what waits is dropped. */
void alert_command(struct alert *a, const char *command);
bool alert_wanted(const struct alert *a);
/* The reference is taken; NULL counts as lack of memory. Of more than 100 that wait the oldest are
 * dropped. */
void alert_send(struct alert *a, json_t *event);
/* Why the last one could not be told, and since when they cannot; NULL: it was, or there was none.
 */
const char *alert_failure(const struct alert *a, struct wall_time *since);
/* A command at work is killed. Freed when the loop has closed its handles; NULL is fine. */
void alert_close(struct alert *a);

#endif
