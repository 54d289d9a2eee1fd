/* catalog.h - the index over the packs: an SQLite database that can be made again from them.
 *
 * Rows of names and nodes carry [from, to) over snapshot numbers of their watch; open rows have
 * to = CATALOG_OPEN and are the watch's present state. Only three things live in the catalog alone,
 * all caches: stat signatures with fast hashes, the secret of the fast hashes, verify's position.
 *
 * One connection in a process writes (the repository's writer); any thread may have its own reading
 * connection. A struct catalog serves one thread at a time, but for the calls marked "any thread".
 * Any SQLite I/O error or corruption is ERR_CATALOG: the repository then sets the file aside and
 * makes the catalog anew; it is never retried. */
#ifndef WK_STORE_CATALOG_H
#define WK_STORE_CATALOG_H

#include "base/buffer.h"
#include "base/error.h"
#include "store/commit.h"
#include "store/node.h"

#include <stdbool.h>
#include <stdint.h>

#define CATALOG_OPEN INT64_MAX /* "to" of rows that hold now; as a snapshot: the present state */

struct catalog;

/* ---- watches and snapshots ---- */

struct watch_row {
    uint8_t id[WATCH_ID_LEN];
    int64_t serial;            /* the catalog's small number for it */
    char *name, *root, *rules; /* owned by the row */
    uint64_t last;             /* newest snapshot number, 0 = none */
    uint64_t next_node;
    uint64_t files, bytes, incomplete_count;
    struct state_sum sum;
    unsigned frozen; /* enum freeze_cause bits: while any is set nothing of it is pruned */
};
int catalog_watch_by_name(struct catalog *c, const char *name, struct watch_row *w,
                          struct error *e); /* ERR_NOTFOUND */
int catalog_watch_by_id(struct catalog *c, const uint8_t *id, struct watch_row *w, struct error *e);
/* All, by name; *rows is a malloc'ed array: release each, then free. */
int catalog_watches(struct catalog *c, struct watch_row **rows, size_t *count, struct error *e);
void watch_row_release(struct watch_row *w);

struct snapshot_row {
    struct commit commit; /* as decoded from its record; name, note as marks left them */
    int64_t watch_serial;
    char *watch_name;
    struct wall_time verified; /* s = 0, ns = 0: never */
    bool damaged, pinned;
    bool whole; /* state sum after replay equals the commit's */
};
int catalog_snapshot(struct catalog *c, uint64_t number, struct snapshot_row *s,
                     struct error *e); /* ERR_NOTFOUND */
int catalog_snapshot_by_name(struct catalog *c, const char *name, const char *watch_or_null,
                             struct snapshot_row *s, struct error *e); /* ERR_USAGE when several */
void snapshot_row_release(struct snapshot_row *s);

/* Visit snapshots of a watch (serial 0: all) in falling (newest first) or rising order of number,
 * with from <= number <= to. A non-zero return of visit stops and is returned. */
typedef int (*snapshot_visit)(void *ctx, const struct snapshot_row *s);
int catalog_snapshots(struct catalog *c, int64_t watch_serial, uint64_t from, uint64_t to,
                      bool newest_first, snapshot_visit visit, void *ctx, struct error *e);

/* ---- the tree at a snapshot ----
 * `at` is a snapshot number of that watch, or CATALOG_OPEN. */

struct name_row {
    const char *name; /* NUL-terminated, valid until the next step */
    uint8_t name_len;
    uint64_t node;
    const uint8_t *meta; /* encoded node */
    uint32_t meta_len;
    const uint8_t *signature; /* cache, or NULL (only at CATALOG_OPEN) */
    uint32_t signature_len;
    uint64_t ino; /* of the cache's row */
};
/* Children of a folder by name in byte order. Iterate: open, step until 0, close. Several may be
 * open at once on one catalog (nested walks). */
struct name_iter;
int catalog_children(struct catalog *c, int64_t watch, uint64_t parent, int64_t at,
                     struct name_iter **it, struct error *e);
int name_iter_step(struct name_iter *it, struct name_row *row, struct error *e); /* 1, 0, <0 */
void name_iter_close(struct name_iter *it);

/* One name; *node is set, and *since, unless it is NULL, to the snapshot from which on the name has
 * led there without a change. ERR_NOTFOUND. */
int catalog_lookup_since(struct catalog *c, int64_t watch, uint64_t parent, const char *name,
                         size_t name_len, int64_t at, uint64_t *node, uint64_t *since,
                         struct error *e);
int catalog_lookup(struct catalog *c, int64_t watch, uint64_t parent, const char *name,
                   size_t name_len, int64_t at, uint64_t *node, struct error *e);
/* Encoded version of a node at a snapshot, appended to meta. ERR_NOTFOUND. */
int catalog_node(struct catalog *c, int64_t watch, uint64_t node, int64_t at, struct buffer *meta,
                 struct error *e);
/* Where a node stands now or stood: one of its names (the first by parent, name). */
int catalog_node_name(struct catalog *c, int64_t watch, uint64_t node, int64_t at, uint64_t *parent,
                      struct buffer *name, struct error *e);
/* Path from the root ("" for the root), NUL-terminated into out. */
int catalog_node_path(struct catalog *c, int64_t watch, uint64_t node, int64_t at,
                      struct buffer *out, struct error *e);
int catalog_node_names(struct catalog *c, int64_t watch, uint64_t node, int64_t at, size_t *count,
                       struct error *e);

/* Every name of a node at a snapshot, by parent, name (name is not NUL-terminated). */
typedef int (*link_visit)(void *ctx, uint64_t parent, const char *name, size_t len);
int catalog_links(struct catalog *c, int64_t watch, uint64_t node, int64_t at, link_visit visit,
                  void *ctx, struct error *e);

/* Every version of a node, oldest first: [from, to) and encoded node. */
typedef int (*version_visit)(void *ctx, uint64_t from, int64_t to, const void *meta, size_t len);
int catalog_versions(struct catalog *c, int64_t watch, uint64_t node, version_visit visit,
                     void *ctx, struct error *e);

/* Every open row that is incomplete or spoilt, with its node id. */
typedef int (*node_visit)(void *ctx, uint64_t node, int64_t from, int64_t to, const void *meta,
                          size_t len);
int catalog_incomplete(struct catalog *c, int64_t watch, node_visit visit, void *ctx,
                       struct error *e);
/* Every node row of a watch, open or not (damage reports, audits). */
int catalog_nodes(struct catalog *c, int64_t watch, node_visit visit, void *ctx, struct error *e);

/* ---- caches ---- */

struct cache_key { /* what the scan looks a thing up by besides its name */
    uint64_t ino;
    bool pending; /* its times changed without anything else; they ride in the next snapshot */
};
/* The bytes are appended; *ino. ERR_NOTFOUND. A version that takes a node's place takes its row
 * away: what stands here belongs to the node as it is now. */
int catalog_cache_get(struct catalog *c, int64_t watch, uint64_t node, uint64_t *ino,
                      struct buffer *signature, struct error *e);
/* Node ids of things with this inode number, at most max; *count of them. */
int catalog_cache_by_ino(struct catalog *c, int64_t watch, uint64_t ino, uint64_t *nodes,
                         size_t max, size_t *count, struct error *e);
/* Node ids whose times are pending. Caller frees. */
int catalog_cache_pending(struct catalog *c, int64_t watch, uint64_t **nodes, size_t *count,
                          struct error *e);
const uint8_t *catalog_fast_secret(struct catalog *c); /* FAST_SECRET_LEN bytes; any thread */

/* ---- chunks ---- */

struct chunk_place {
    uint64_t pack_id, offset; /* of the block record */
    uint32_t raw_off, raw_len;
    uint64_t refs;
};
int catalog_chunk(struct catalog *c, const struct hash *id, struct chunk_place *p,
                  struct error *e); /* ERR_NOTFOUND */
typedef int (*chunk_visit)(void *ctx, const struct hash *id, const struct chunk_place *p);
int catalog_chunks(struct catalog *c, chunk_visit visit, void *ctx, struct error *e);
uint64_t catalog_chunk_count(struct catalog *c);

/* ---- marks kept as they came (gaps, events, counts, freezes) ---- */
typedef int (*mark_visit)(void *ctx, uint64_t sequence, const struct mark *m);
int catalog_marks(struct catalog *c, mark_visit visit, void *ctx, struct error *e);

/* Verify's position and the like: small named values, caches only. */
int catalog_note_get(struct catalog *c, const char *key, struct buffer *value, struct error *e);
/* Notes of how far packs were read, {u64 pack, u64 bytes} each: a pack that is cut is lowered in
 * them, since what it gets later was not read. */
#define CATALOG_VERIFIED "verified"
#define CATALOG_VERIFY_BAD "verify bad"
enum { CATALOG_READ_LEN = 16 };

/* A reading transaction on this connection: everything read between is one state. */
int catalog_read_begin(struct catalog *c, struct error *e);
void catalog_read_end(struct catalog *c);

#endif
