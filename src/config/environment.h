/* environment.h - settings from WATCHKEEP_... variables. An empty variable counts as not given. */
#ifndef WK_CONFIG_ENVIRONMENT_H
#define WK_CONFIG_ENVIRONMENT_H

#include "config/config.h"

/* Put every setting that a variable gives over those of the files. The watches must be known. */
int environment_apply(struct config *c, struct error *e);

/* Visit each variable that begins with WATCHKEEP_ and means nothing. */
void environment_unknown(const struct config *c, void (*tell)(void *ctx, const char *name),
                         void *ctx);

#endif
