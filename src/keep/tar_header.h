/* tar_header.h - where things stand in the 512 bytes of a ustar header (POSIX.1-2001, pax);
 * tar_read.c and tar_write.c only. */
#ifndef WK_KEEP_TAR_HEADER_H
#define WK_KEEP_TAR_HEADER_H

enum tar_header {
    NAME_AT = 0,
    NAME_CAP = 100,
    MODE_AT = 100,
    UID_AT = 108,
    GID_AT = 116,
    SIZE_AT = 124,
    MTIME_AT = 136,
    SUM_AT = 148,
    TYPE_AT = 156,
    LINK_AT = 157,
    MAGIC_AT = 257,
    MAJOR_AT = 329,
    MINOR_AT = 337,
    PREFIX_AT = 345,
    PREFIX_CAP = 155,
    SHORT_LEN = 8, /* digits of a number, and what ends them */
    LONG_LEN = 12,
};

#endif
