/* database_header.h - the first 100 bytes of an SQLite database (file format, section 1.3). Pure.
 */
#ifndef WK_CAPTURE_DATABASE_HEADER_H
#define WK_CAPTURE_DATABASE_HEADER_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define DATABASE_HEADER_LEN 100

/* Check a header against the length of its file. *image_len is pages times page size: at
 * most file_len, but for ERR_DAMAGED: the file is shorter than its header says. ERR_USAGE: no such
 * header, nothing is set. */
int database_header_check(const uint8_t header[DATABASE_HEADER_LEN], uint64_t file_len,
                          uint32_t *page_size, uint64_t *image_len, struct error *e);

/* Whether the header says write-ahead logging. */
bool database_header_is_wal(const uint8_t header[DATABASE_HEADER_LEN]);

#endif
