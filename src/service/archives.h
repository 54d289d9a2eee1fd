/* archives.h - archives as the configuration says: where they lie, and how a watch's are written.
 *
 * Used by the service and, without one, by the command line. */
#ifndef WK_SERVICE_ARCHIVES_H
#define WK_SERVICE_ARCHIVES_H

#include "config/config.h"
#include "keep/archive.h"

#include <jansson.h>

/* Fill what the configuration decides: folder, format, level. */
void archives_order(const struct config *c, const char *watch, struct archive_order *o);

/* All archives of a watch (NULL: of all), wherever the configuration puts them; as archive_list. */
int archives_each(const struct config *c, const char *watch, archive_visit visit, void *ctx,
                  struct error *e);

struct archives_filter {
    const char *watch; /* or NULL */
    uint64_t recent;   /* 0 = all */
    bool has_since, has_until;
    int64_t since, until; /* seconds */
};
/* {"schema":1,"archives":[...]} newest last. */
int archives_report(const struct config *c, const struct archives_filter *f, json_t **out,
                    struct error *e);

#endif
