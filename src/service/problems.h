/* problems.h - have somebody told of what is wrong: each problem of `status` is an event for
 * `[alert] command` when it is first seen, and once more when it is gone (used in src/service
 * only).
 *
 * It looks when something may have changed, a second later, in a thread, and at most every few
 * seconds. What was told is noted in the catalog, so that a restart tells nothing twice and still
 * tells that something is well again. Loop thread only. */
#ifndef WK_SERVICE_PROBLEMS_H
#define WK_SERVICE_PROBLEMS_H

#include "service/supervisor.h"

#include <jansson.h>

int problems_open(struct service *s, struct error *e);
void problems_close(struct service *s); /* nothing is at work; NULL is fine */
/* The settings of s->config are in force from now on. */
void problems_configure(struct service *s);
/* Something was told that may be over by now. */
bool problems_told(const struct service *s);
uint64_t
problems_deadline(const struct service *s); /* of the next problems_look, UINT64_MAX: none */
void problems_look(struct service *s, uint64_t now_ns);
/* That alerts cannot be told is a problem too. */
void problems_status(struct service *s, json_t *doc);

#endif
