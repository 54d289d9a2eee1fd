/* status.h - the document of `status`, in two halves: what the service knows, put together in the
 * loop, and what the repository says, added by a thread that may wait. Keys: src/cli/CONTRACT.md.
 */
#ifndef WK_SERVICE_STATUS_H
#define WK_SERVICE_STATUS_H

#include "base/clock.h"
#include "base/error.h"

#include <jansson.h>

struct catalog;
struct config;
struct service;

/* The loop's half; NULL on no memory. */
json_t *status_live(struct service *s);

/* Add what the repository at path says: its own object, and counts and the last snapshot of each
 * watch in the document. What is wrong by these settings becomes a problem. Any thread, with its
 * own handle. 0, or ERR_FAILED without memory. */
int status_add_repository(json_t *doc, const char *repo_path, const struct config *c,
                          struct error *e);

/* Add {"code","watch","since","message","do"}; watch may be NULL, since.s == 0: not known. A '@' in
 * what_to_do stands for the watch's name. */
void status_problem(json_t *doc, const char *code, const char *watch, struct wall_time since,
                    const char *message, const char *what_to_do);
/* A timed job that failed and has not succeeded since ("archive-failed"); told once. watch may be
 * NULL. */
void status_job_problem(json_t *doc, const char *job, const char *watch, struct wall_time since,
                        const char *why);
/* The folder of the watch's archives, which status_add_repository looks into. */
void status_archives_in(json_t *watch, const char *folder);
/* status_events.c: what the marks say. */
int status_add_events(json_t *doc, struct catalog *catalog, const struct config *c,
                      struct error *e);
/* The wall clock's second at which a watch will have been unchecked for [alert] max_age, INT64_MAX:
 * none. */
int64_t status_max_age_at(const struct service *s);
#define STATUS_DO_MISSING                                                                      \
    "bring the folder back, what is stored stands until then; if it has moved for good: give " \
    "its new path to the watch, then watchkeep save @ --moved"
/* Set "ok": nothing is wrong. The last call. */
void status_finish(json_t *doc);

#endif
