/* prune_work.h - one prune as the settings want it, told as JSON: what the service and the command
 * both run. */
#ifndef WK_SERVICE_PRUNE_WORK_H
#define WK_SERVICE_PRUNE_WORK_H

#include "config/config.h"
#include "keep/prune.h"

#include <jansson.h>

struct prune_order {
    const struct config *config;
    struct repo *repo, *reader; /* as in struct prune_request */
    const char *watch;
    bool dry_run, thaw, pressed;
    uint64_t room;
    const struct age_reading *clocks;
    const atomic_bool *cancel;
};

/* *lines: an array of {"type":"decision",...}, and behind them {"type":"summary",...,"exit":N};
 * NULL on no memory. 0, ERR_REFUSED when pruning of some watch is frozen, or what failed. */
int prune_work(const struct prune_order *o, json_t **lines, struct error *e);

#endif
