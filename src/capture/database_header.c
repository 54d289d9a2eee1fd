#include "capture/database_header.h"

#include <string.h>

#include "base/banned.h"

/* Offsets in the database header (SQLite file format, section 1.3), big-endian. */
enum {
    AT_PAGE_SIZE = 16,
    AT_WRITE_VERSION = 18,
    AT_READ_VERSION = 19,
    AT_RESERVED = 20, /* bytes of each page */
    AT_FRACTIONS = 21,
    AT_CHANGES = 24,
    AT_PAGES = 28,
    AT_VALID_FOR = 92
};

enum { VERSION_MAX = 2, USABLE_MIN = 480 };

static const uint8_t fractions[3] = {64, 32, 32};
static const char magic[16] = "SQLite format 3";

static uint32_t load_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

int database_header_check(const uint8_t header[DATABASE_HEADER_LEN], uint64_t file_len,
                          uint32_t *page_size, uint64_t *image_len, struct error *e)
{
    uint32_t size = (uint32_t)header[AT_PAGE_SIZE] << 8 | header[AT_PAGE_SIZE + 1];

    if (size == 1)
        size = 65536;
    /* What SQLite itself asks for; it takes anything else for no database. */
    if (memcmp(header, magic, sizeof(magic)) != 0 || size < 512 || (size & (size - 1)) != 0 ||
        size - header[AT_RESERVED] < USABLE_MIN || header[AT_READ_VERSION] > VERSION_MAX ||
        memcmp(header + AT_FRACTIONS, fractions, sizeof(fractions)) != 0)
        return error_set(e, ERR_USAGE, "not an SQLite database");
    *page_size = size;
    /* Writers before 3.7.0 left the count alone: then the length decides, as in SQLite itself. */
    uint64_t pages = load_be32(header + AT_PAGES);
    if (pages == 0 || memcmp(header + AT_CHANGES, header + AT_VALID_FOR, 4) != 0)
        pages = file_len / size;
    *image_len = pages * size;
    if (pages == 0 || *image_len > file_len)
        return error_set(e, ERR_DAMAGED,
                         "the header tells of %llu pages of %u bytes, the file has %llu bytes",
                         (unsigned long long)pages, (unsigned)size, (unsigned long long)file_len);
    return 0;
}

bool database_header_is_wal(const uint8_t header[DATABASE_HEADER_LEN])
{
    return header[AT_WRITE_VERSION] == 2;
}
