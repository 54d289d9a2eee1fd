/* policy.h - what the settings say of keeping, in the terms of keep/. */
#ifndef WK_SERVICE_POLICY_H
#define WK_SERVICE_POLICY_H

#include "config/config.h"
#include "keep/prune.h"

/* Of one watch: its own sections where they say something, else the plain ones. ERR_NOTFOUND (no
 * details): it is not configured, though others are. */
int policy_of(const struct config *c, const char *watch, struct prune_policy *out);

/* Bytes of the file system (of that size) that saves leave free. */
uint64_t policy_min_free(const struct config *c, uint64_t file_system_bytes);

#endif
