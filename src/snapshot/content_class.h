/* content_class.h - what a file's content is, found while it is read (enum content_class of
 * store/node.h). Bounded memory, one pass.
 *
 * - JSON by name and first byte: a name that ends in ".json" (in any case) and content whose first
 *   byte that is no blank is '{' or '['; it is whole when all of it is one JSON text. Where the
 *   version before was JSON the first byte need not be right: empty, blank, overwritten is broken.
 * - SQLite by its header (and then captured by the helper, or here checked by the length that the
 *   header says). Where the version before was one, what has no such header is broken.
 * - Text: valid UTF-8 without control characters in its first 4 KiB. An empty file is no text. */
#ifndef WK_SNAPSHOT_CONTENT_CLASS_H
#define WK_SNAPSHOT_CONTENT_CLASS_H

#include "base/json_check.h"
#include "capture/database_header.h"
#include "store/node.h"

#include <stdbool.h>

struct content_look {
    bool json; /* by its name */
    bool begun;
    bool text;
    bool database;
    uint8_t header[DATABASE_HEADER_LEN]; /* when database */
    struct json_check check;
};

void content_look_begin(struct content_look *l, const char *name);
/* In order; the first piece holds the first 4 KiB where there are so many. */
void content_look_feed(struct content_look *l, const void *p, size_t n);
/* len: of the file; before: of the version before, CONTENT_OTHER where there is none. */
enum content_class content_look_end(const struct content_look *l, uint64_t len,
                                    enum content_class before);

#endif
