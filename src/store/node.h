/* node.h - one version of one file-system object: what a restore needs besides its names.
 *
 * The encoded form stands in file-list records and in the catalog alike (FORMAT.md, "node"). A
 * node may have several names (hard links). Content is a list of chunk references; a long list is
 * itself stored as chunks, in a tree (chunk_list.h), so that versions share it. */
#ifndef WK_STORE_NODE_H
#define WK_STORE_NODE_H

#include "base/buffer.h"
#include "base/error.h"
#include "store/hash.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define NODE_ROOT 1 /* node id of a watch's root folder */
#define NODE_NUMBER_MAX ((UINT64_C(1) << 40) - 1)
#define NODE_INLINE_REFS 32 /* more references than this go to list chunks */
#define NODE_ENCODED_MAX (4 * 1024 * 1024)
#define NODE_XATTRS_MAX 1024
#define NODE_EXTENTS_MAX 65536
#define NAME_LEN_MAX 255

enum node_type {
    NODE_FILE = 1,
    NODE_FOLDER = 2,
    NODE_SYMLINK = 3,
    NODE_FIFO = 4,
    NODE_SOCKET = 5,
    NODE_CHAR_DEVICE = 6,
    NODE_BLOCK_DEVICE = 7,
};

enum node_flag {
    NODE_SQLITE = 1 << 0,   /* a database, captured as one committed state */
    NODE_CHANGING = 1 << 1, /* kept changing while it was read: content may be torn */
    NODE_UNREAD = 1 << 2, /* could not be read: content is that of the last good version, if any */
    NODE_SERVER_DATA = 1 << 3, /* inside a database server's data folder: not a consistent copy */
};
#define NODE_INCOMPLETE (NODE_CHANGING | NODE_UNREAD | NODE_SERVER_DATA)
/* Empty, broken or much too short, though it was whole before: the snapshot is not good. */
#define NODE_SPOILT (1 << 7)

/* What a file's content is; bits 4 to 6 of the flags. */
enum content_class {
    CONTENT_OTHER = 0,
    CONTENT_TEXT = 1,
    CONTENT_JSON = 2,
    CONTENT_JSON_BROKEN = 3, /* or empty */
    CONTENT_SQLITE = 4,
    CONTENT_SQLITE_BROKEN = 5, /* or empty */
};
#define NODE_CLASS_SHIFT 4
#define NODE_CLASS_MASK (7 << NODE_CLASS_SHIFT)

static inline enum content_class node_class(uint8_t flags)
{
    return (enum content_class)((flags & NODE_CLASS_MASK) >> NODE_CLASS_SHIFT);
}

static inline uint8_t node_with_class(uint8_t flags, enum content_class class)
{
    return (uint8_t)((flags & ~NODE_CLASS_MASK) | (unsigned)class << NODE_CLASS_SHIFT);
}

/* The node type of a file's st_mode. */
uint8_t node_type_of(mode_t mode);
/* The other way round: the type's bits of st_mode. */
mode_t node_format_of(uint8_t type);

struct chunk_ref {
    struct hash id;
    uint64_t len; /* raw bytes of content under it */
};

struct node_xattr {
    const char *name; /* NUL-terminated, as the kernel gives it ("user.x", "security.capability") */
    const uint8_t *value;
    uint32_t len;
};

struct node_extent { /* a run of data in a sparse file; outside all runs the file is a hole */
    uint64_t off, len;
};

struct node {
    uint8_t type;
    uint8_t flags;
    uint16_t mode; /* 07777 */
    uint32_t uid, gid;
    int64_t mtime_s;
    uint32_t mtime_ns;
    uint64_t size; /* logical size of a file; 0 for others */
    uint64_t rdev; /* devices: major << 32 | minor */
    uint8_t depth; /* 0: refs are data chunks; n: refs are list chunks n levels up */
    uint32_t ref_count;
    struct chunk_ref *refs; /* in order; the stream is the data runs laid end to end */
    const char *target;     /* symlink target or NULL; target_len bytes, NUL-terminated */
    uint32_t target_len;
    uint32_t xattr_count;
    struct node_xattr *xattrs; /* sorted by name */
    uint32_t extent_count;     /* 0: one run, the whole file; without content: none, all hole */
    struct node_extent *extents;
    const char *reason;  /* why incomplete, or NULL */
    const char *receipt; /* how a database was captured (JSON text), or NULL */
    void *owned;         /* the decoder's allocation */
};

/* Marks out failed when n is not as described above (too many references, xattrs out of order,
 * extents beyond size, ...) or longer than NODE_ENCODED_MAX: what is encoded can be decoded. */
void node_encode(const struct node *n, struct buffer *out);

/* Decode; pointers go into one allocation owned by *n: release with node_release. Every length and
 * count is bounded; ERR_DAMAGED otherwise. Unknown may-skip fields are skipped. */
int node_decode(const void *p, size_t len, struct node *n, struct error *e);
void node_release(struct node *n);

/* Only what list and scan need, straight from the encoded form. */
struct node_brief {
    uint8_t type, flags;
    uint16_t mode;
    uint32_t uid, gid;
    int64_t mtime_s;
    uint32_t mtime_ns;
    uint64_t size;
};
int node_brief_decode(const void *p, size_t len, struct node_brief *b, struct error *e);

/* Equal but for mtime and receipt? (A touch alone is no change.) Both encoded. */
bool node_equal_but_times(const void *a, size_t alen, const void *b, size_t blen);

/* Whether name may stand in a repository: 1..255 bytes, no '/', no NUL, not "." or "..". */
bool node_name_ok(const char *name, size_t len);

#endif
