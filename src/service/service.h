/* service.h - `watchkeep run`: the loop, its watches, jobs and control socket. */
#ifndef WK_SERVICE_SERVICE_H
#define WK_SERVICE_SERVICE_H

#include "base/error.h"
#include "config/config.h"

struct service_options {
    struct config *config; /* taken over */
    /* Load the configuration again (SIGHUP, reload); NULL result: keep the old, *e says why. */
    struct config *(*reload)(void *ctx, struct error *e);
    /* Once repository and socket are ours; or NULL. */
    void (*started)(void *ctx, const struct config *c);
    /* After each snapshot, in the loop thread: one "saved" line as JSON (quickstart prints it). */
    void (*saved)(void *ctx, const char *watch, const char *json);
    void *ctx;
    bool may_init; /* make the repository also where one was before and is gone */
};

/* Runs until SIGTERM or SIGINT. 0 with all saved; ERR_CANCELLED when a second signal cut the last
 * save short; ERR_BUSY: another service has the repository or the socket; ERR_NOREPO; ... */
int service_run(struct service_options *opt, struct error *e);

#endif
