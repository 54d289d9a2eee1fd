/* place.h - the repository of the service: made where that is right, opened, and remembered. */
#ifndef WK_SERVICE_PLACE_H
#define WK_SERVICE_PLACE_H

#include "config/config.h"
#include "store/repository.h"

#include <stdbool.h>

/* Open it for writing. Where there is none it is made; without may_init not where one was before
 * (ERR_NOREPO: not mounted?). ERR_BUSY: another service
 * has it. ERR_USAGE: a watch lies in it. */
int place_open(const struct config *c, bool may_init, struct repo **out, struct error *e);

/* Does its path not lead to it any more (unmounted, moved)? Any thread. */
bool place_lost(const struct repo *r);

/* Note in `lock` where the service listens; NULL: it does no more. */
int place_note_socket(struct repo *r, const char *socket_path, struct error *e);

/* The folder for barriers in it, made. Malloc'ed; NULL: *e says why. */
char *place_barrier_folder(struct repo *r, struct error *e);

#endif
