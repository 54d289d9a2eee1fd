/* specs.h - what a save is told of a watch, built from the configuration or from what the
 * repository has on record. */
#ifndef WK_SERVICE_SPECS_H
#define WK_SERVICE_SPECS_H

#include "config/config.h"
#include "snapshot/watch_spec.h"
#include "store/catalog.h"

struct watch_spec_owned {
    struct watch_spec spec; /* points into what follows */
    char *name, *root;
    char **include, **exclude, **own_paths;
};

/* From a configured watch. Our own paths are the repository, the folder of the archives and the
 * control socket, so that a watch that holds them leaves them out. 0 or ERR_FAILED (no memory);
 * release it in every case. */
int specs_build(const struct watch_config *w, const struct config *c, struct watch_spec_owned *out,
                struct error *e);

/* From a watch that the repository knows but the configuration does not: its recorded root and
 * rules. */
int specs_from_row(const struct watch_row *row, const struct config *c,
                   struct watch_spec_owned *out, struct error *e);

void specs_release(struct watch_spec_owned *s);

#endif
