/* policy.h - what the settings say of keeping, in the terms of keep/. */
#ifndef WK_SERVICE_POLICY_H
#define WK_SERVICE_POLICY_H

#include "config/config.h"
#include "keep/prune.h"

/* Of one watch: its own sections where they say something, else the plain ones. ERR_NOTFOUND (no
 * details): it is not configured, though others are. */
int policy_of(const struct config *c, const char *watch, struct prune_policy *out);

/* Of the repository, by the plain section; 0: off. */
uint64_t policy_max_size(const struct config *c);

/* How much space of the repository's file system is left to others: bytes, or hundredths of it. */
void policy_left_free(const struct config *c, uint64_t *bytes, unsigned *percent);
/* Tell the writer's handle how much space saves leave to others. */
void policy_min_free(const struct config *c, struct repo *r);

#endif
