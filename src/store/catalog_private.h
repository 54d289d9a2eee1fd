/* catalog_private.h - what the files of the catalog share; nobody else includes it.
 *
 * catalog_open.c   connection, schema, statements, state
 * catalog_read.c   watches, snapshots, caches, marks, notes
 * catalog_tree.c   names and nodes at a snapshot
 * catalog_apply.c  commits, marks, prunes -> rows
 * catalog_bulk.c   many new rows at once
 * catalog_rows.c   rows -> checkpoint rows, and back
 * catalog_chunks.c chunk places and reference counts
 *
 * Every prepared statement stands in CATALOG_STATEMENTS and is made once a connection. Visitors run
 * on statements of their own, so that a callback may read the same catalog. */
#ifndef WK_STORE_CATALOG_PRIVATE_H
#define WK_STORE_CATALOG_PRIVATE_H

#include "store/catalog.h"
#include "store/catalog_write.h"
#include "store/id_map.h"

#include <sqlite3.h>

/* Of a node, at a snapshot. Without being told, the planner reads every row of the watch. */
#define NAMES_OF_NODE                                                                     \
    "SELECT parent,name FROM names INDEXED BY names_node WHERE watch=?1 AND node=?2 AND " \
    "from_<=?3 UNION ALL SELECT parent,name FROM old_names INDEXED BY old_names_node "    \
    "WHERE watch=?1 AND node=?2 AND to_>?3 AND from_<=?3"
#define WATCH_COLUMNS "id,serial,name,root,rules,last,next_node,files,bytes,incomplete,sum,frozen"
#define PACK_COLUMNS "id,kind,len,fence,sealed,sha256,gone"
#define SNAPSHOT_COLUMNS \
    "s.body,s.watch,w.name,s.name,s.note,s.verified_s,s.verified_ns,s.damaged,s.pinned,s.whole"
#define SNAPSHOT_FROM " FROM snapshots s LEFT JOIN watches w ON w.serial=s.watch "

#define CATALOG_STATEMENTS(X)                                                                      \
    X(BEGIN_READ, "BEGIN")                                                                         \
    X(BEGIN_WRITE, "BEGIN IMMEDIATE")                                                              \
    X(COMMIT, "COMMIT")                                                                            \
    X(ROLLBACK, "ROLLBACK")                                                                        \
    X(STATE_GET,                                                                                   \
      "SELECT log_pack,log_offset,sequence,next_number,chain,commit_pack,"                         \
      "commit_offset,chunk_count,uncounted,next_pack,folded_pack,folded_bytes FROM state")         \
    X(STATE_TOUCH, "UPDATE state SET one=one")                                                     \
    X(STATE_PUT, "UPDATE state SET log_pack=?1,log_offset=?2,sequence=?3,next_number=?4,chain=?5," \
                 "commit_pack=?6,commit_offset=?7,chunk_count=?8,uncounted=?9,next_pack=?10,"      \
                 "folded_pack=?11,folded_bytes=?12")                                               \
    X(META_GET, "SELECT value FROM meta WHERE key=?1")                                             \
    X(META_PUT, "INSERT OR REPLACE INTO meta(key,value) VALUES(?1,?2)")                            \
    X(WATCH_BY_NAME, "SELECT " WATCH_COLUMNS " FROM watches WHERE name=?1")                        \
    X(WATCH_BY_ID, "SELECT " WATCH_COLUMNS " FROM watches WHERE id=?1")                            \
    X(WATCH_SERIAL, "SELECT coalesce(max(serial),0)+1 FROM watches")                               \
    X(WATCH_INSERT, "INSERT INTO watches(" WATCH_COLUMNS ") VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,"    \
                    "?10,?11,?12)")                                                                \
    X(WATCH_UPDATE, "UPDATE watches SET name=?3,root=?4,rules=?5,last=?6,next_node=?7,files=?8,"   \
                    "bytes=?9,incomplete=?10,sum=?11,frozen=?12 WHERE id=?1 AND serial=?2")        \
    X(WATCH_LAST, "UPDATE watches SET last=(SELECT coalesce(max(number),0) FROM snapshots WHERE "  \
                  "watch=?1) WHERE serial=?1")                                                     \
    X(FREEZE, "UPDATE watches SET frozen=(frozen|?2)&~?3 WHERE id=?1")                             \
    X(FREEZE_ALL, "UPDATE watches SET frozen=(frozen|?1)&~?2")                                     \
    X(SNAPSHOT, "SELECT " SNAPSHOT_COLUMNS SNAPSHOT_FROM "WHERE s.number=?1")                      \
    X(SNAPSHOT_WATCH, "SELECT watch FROM snapshots WHERE number=?1")                               \
    X(SNAPSHOT_INSERT,                                                                             \
      "INSERT OR REPLACE INTO snapshots(number,watch,body,time_s,kind,flags,name,note,verified_s," \
      "verified_ns,damaged,pinned,whole) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,0,0,0,?7 IS NOT NULL,?9)") \
    X(SNAPSHOT_LOAD,                                                                               \
      "INSERT OR REPLACE INTO "                                                                    \
      "snapshots(number,watch,body,time_s,kind,flags,name,note,verified_s,verified_ns,damaged,"    \
      "pinned,whole) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13)")                          \
    X(SNAPSHOT_DELETE, "DELETE FROM snapshots WHERE number=?1")                                    \
    X(SNAPSHOT_BEFORE, "SELECT coalesce(max(number),0) FROM snapshots WHERE watch=?1 AND "         \
                       "number<?2")                                                                \
    X(SNAPSHOT_AFTER,                                                                              \
      "SELECT coalesce(min(number),0) FROM snapshots WHERE watch=?1 AND number>?2")                \
    X(SNAPSHOT_VERIFIED,                                                                           \
      "UPDATE snapshots SET verified_s=?2,verified_ns=?3,damaged=0 WHERE number=?1")               \
    X(SNAPSHOT_DAMAGED,                                                                            \
      "UPDATE snapshots SET damaged=?2,verified_s=0,verified_ns=0 WHERE number=?1")                \
    X(SNAPSHOT_NAME,                                                                               \
      "UPDATE snapshots SET name=?2,pinned=pinned OR ?2 IS NOT NULL WHERE number=?1")              \
    X(SNAPSHOT_NOTE, "UPDATE snapshots SET note=?2 WHERE number=?1")                               \
    X(SNAPSHOT_PIN, "UPDATE snapshots SET pinned=?2 WHERE number=?1")                              \
    X(NAME_TAKEN, "SELECT number FROM snapshots WHERE name=?1 AND watch=?2")                       \
    X(LOOKUP_OPEN, "SELECT node,from_ FROM names WHERE watch=?1 AND parent=?2 AND name=?3")        \
    X(LOOKUP_CLOSED,                                                                               \
      "SELECT node,from_ FROM old_names WHERE watch=?1 AND parent=?2 AND to_>?3 AND "              \
      "name=?4 AND from_<=?3 LIMIT 1")                                                             \
    X(NAME_INSERT, "INSERT INTO names(watch,parent,name,from_,node) VALUES(?1,?2,?3,?4,?5)")       \
    X(NAME_DELETE, "DELETE FROM names WHERE watch=?1 AND parent=?2 AND name=?3")                   \
    X(NAME_ROW,                                                                                    \
      "INSERT OR REPLACE INTO names(watch,parent,name,from_,node) VALUES(?1,?2,?3,?4,?5)")         \
    X(OLD_NAME_ROW, "INSERT OR REPLACE INTO old_names(watch,parent,to_,name,from_,node) "          \
                    "VALUES(?1,?2,?3,?4,?5,?6)")                                                   \
    X(NAME_DROP, "DELETE FROM old_names WHERE watch=?1 AND to_>?2 AND to_<=?3 AND from_>?4")       \
    X(NODE_NAME, "SELECT parent,name FROM (" NAMES_OF_NODE ") ORDER BY parent,name LIMIT 1")       \
    X(NODE_NAMES, "SELECT count(*) FROM (" NAMES_OF_NODE ")")                                      \
    X(NODE_OPEN, "SELECT from_,meta FROM nodes WHERE id=?1")                                       \
    X(NODE_CLOSED, "SELECT from_,meta FROM old_nodes WHERE watch=?1 AND node=?2 AND to_>?3 "       \
                   "ORDER BY to_ LIMIT 1")                                                         \
    X(NODE_INSERT, "INSERT INTO nodes(id,from_,incomplete,meta) VALUES(?1,?2,?3,?4)")              \
    X(NODE_ROW, "INSERT OR REPLACE INTO nodes(id,from_,incomplete,meta) VALUES(?1,?2,?3,?4)")      \
    X(OLD_NODE_ROW, "INSERT OR REPLACE INTO old_nodes(watch,node,to_,from_,meta) "                 \
                    "VALUES(?1,?2,?3,?4,?5)")                                                      \
    X(NODE_DELETE, "DELETE FROM nodes WHERE id=?1")                                                \
    X(NODE_DROP, "DELETE FROM old_nodes WHERE watch=?1 AND to_>?2 AND to_<=?3 AND from_>?4")       \
    X(CACHE_GET, "SELECT ino,sig FROM cache WHERE id=?1")                                          \
    X(CACHE_PUT, "INSERT OR REPLACE INTO cache(id,ino,pending,sig) VALUES(?1,?2,?3,?4)")           \
    X(CACHE_DELETE, "DELETE FROM cache WHERE id=?1")                                               \
    X(CACHE_BY_INO,                                                                                \
      "SELECT id FROM cache INDEXED BY cache_ino WHERE ino=?1 AND id>=?2 AND id<=?3 "              \
      "LIMIT ?4")                                                                                  \
    X(CACHE_PENDING, "SELECT id FROM cache INDEXED BY cache_pending WHERE pending AND id>=?1 AND " \
                     "id<=?2")                                                                     \
    X(CHUNK, "SELECT pack,offset,raw_off,raw_len,refs FROM chunks WHERE id=?1")                    \
    X(CHUNK_INSERT, "INSERT OR IGNORE INTO chunks(id,pack,offset,raw_off,raw_len,refs) "           \
                    "VALUES(?1,?2,?3,?4,?5,?6)")                                                   \
    X(CHUNK_PLACE, "UPDATE chunks SET pack=?2,offset=?3,raw_off=?4,raw_len=?5,refs=?6 "            \
                   "WHERE id=?1")                                                                  \
    X(CHUNK_COUNT, "UPDATE chunks SET refs=max(0,refs+?2) WHERE id=?1")                            \
    X(CHUNK_REFS, "UPDATE chunks SET refs=?2 WHERE id=?1")                                         \
    X(CHUNK_LOST, "UPDATE chunks SET pack=0,offset=0 WHERE id=?1")                                 \
    X(CHUNKS_DEAD, "DELETE FROM chunks WHERE pack=?1 AND refs=0")                                  \
    X(CHUNK_DEAD, "DELETE FROM chunks WHERE id=?1 AND pack=?2 AND refs=0")                         \
    X(CHUNKS_GONE, "UPDATE chunks SET pack=0,offset=0 WHERE pack=?1")                              \
    X(LIST_GET, "SELECT refs,counted FROM lists WHERE id=?1 AND depth=?2")                         \
    X(LIST_PUT, "INSERT OR REPLACE INTO lists(id,depth,refs,counted) VALUES(?1,?2,?3,?4)")         \
    X(LIST_DELETE, "DELETE FROM lists WHERE id=?1 AND depth=?2")                                   \
    X(DELTA_PUT, "INSERT OR IGNORE INTO deltas(pack,offset,base,rank,depth) "                      \
                 "VALUES(?1,?2,?3,?4,?5)")                                                         \
    X(DELTA_GET, "SELECT base,rank,depth FROM deltas WHERE pack=?1 AND offset=?2")                 \
    X(DELTAS_GONE, "DELETE FROM deltas WHERE pack=?1")                                             \
    X(CHUNKS_CUT, "DELETE FROM chunks WHERE pack=?1 AND offset>=?2 AND refs=0")                    \
    X(CHUNKS_BEHIND, "SELECT count(*) FROM chunks WHERE pack=?1 AND offset>=?2 AND refs>0")        \
    X(DELTAS_CUT, "DELETE FROM deltas WHERE pack=?1 AND offset>=?2")                               \
    X(MARK_PUT, "INSERT OR REPLACE INTO marks(sequence,type,body) VALUES(?1,?2,?3)")               \
    X(MARK_DROP, "DELETE FROM marks WHERE sequence=?1")                                            \
    X(MARK_DROP_OLD, "DELETE FROM marks WHERE type=?1 AND sequence<=(SELECT sequence FROM marks "  \
                     "WHERE type=?1 ORDER BY sequence DESC LIMIT 1 OFFSET ?2)")                    \
    X(PACK_PUT, "INSERT OR REPLACE INTO packs(" PACK_COLUMNS ") VALUES(?1,?2,?3,?4,?5,?6,?7)")     \
    X(PACK_GET, "SELECT " PACK_COLUMNS " FROM packs WHERE id=?1")                                  \
    X(PACK_DELETE, "DELETE FROM packs WHERE id=?1")

enum catalog_stmt {
#define X(name, sql) CAT_##name,
    CATALOG_STATEMENTS(X)
#undef X
        CAT_COUNT
};

/* A chunk that the open write transaction placed or referenced; folded into rows in order of id. */
struct pending_chunk {
    struct hash id;
    uint64_t pack, offset;
    uint32_t raw_off, raw_len;
    int64_t delta;
    bool placed, replace;
};

enum catalog_bulk { BULK_NAMES, BULK_NODES, BULK_CACHE, BULK_CHUNKS, BULK_COUNT };
enum { BULK_ROWS = 16 };

struct waiting_op { /* points into the operations given */
    struct op op;
    const uint8_t *raw;
    size_t len;
};

/* The commit being applied. */
struct apply {
    bool active, is_new;
    bool empty; /* the watch has no open rows: nothing to look up */
    struct waiting_op names[BULK_ROWS], nodes[BULK_ROWS]; /* to be inserted together */
    int name_count, node_count;
    uint64_t number;
    uint64_t kept; /* newest kept snapshot of the watch, 0 = none */
    struct watch_row watch;
};

/* A watch while the rows of a checkpoint are taken in. */
struct load_watch {
    uint8_t id[WATCH_ID_LEN];
    int64_t serial;
    struct state_sum want, sum;
};
struct load {
    struct load_watch *watches;
    size_t count, last; /* last: the one found last */
};

struct catalog {
    sqlite3 *db;
    enum catalog_mode mode;
    char *repo_path;
    char *uri; /* as given to SQLite */
    uint8_t repo_id[16];
    uint8_t secret[FAST_SECRET_LEN];
    sqlite3_stmt *stmts[CAT_COUNT], *bulk[BULK_COUNT];
    int bulk_at; /* columns bound */
    struct name_iter *idle_iters;
    bool in_read;
    bool failed; /* it has answered ERR_CATALOG */

    /* writing */
    bool in_write;
    bool wal_begun;      /* by a checkpoint, ... */
    int changes_by_then; /* ... when the connection had changed so many rows */
    bool keep_wal;       /* leave the -wal alone when closing */
    struct catalog_position position;
    uint64_t chunk_count, uncounted;
    struct id_map pending; /* struct pending_chunk */
    bool gather_many;
    struct apply apply;
    struct load load;
    catalog_list_reader read_list;
    void *read_list_ctx;
};

/* *e from an SQLite result code; returns the code. */
int cat_error(struct catalog *c, int rc, const char *what, struct error *e);
int cat_no_memory(struct error *e);

/* The statement, reset and bound: 'i' int64_t, 'b' (const void *, size_t), 't' const char * or
 * NULL. Bound memory must live until the statement was stepped to its end. NULL on error. */
sqlite3_stmt *cat_bind(struct catalog *c, struct error *e, enum catalog_stmt id, const char *fmt,
                       ...);
/* One outside the table; finalize it. */
sqlite3_stmt *cat_prepare(struct catalog *c, const char *sql, struct error *e);
int cat_step(struct catalog *c, sqlite3_stmt *s, struct error *e); /* 1 row, 0 end, <0 */
/* Bind and run to the end. */
int cat_run(struct catalog *c, struct error *e, enum catalog_stmt id, const char *fmt, ...);
/* Bind, take the first column of the first row; ERR_NOTFOUND when there is none (no message). */
int cat_number(struct catalog *c, struct error *e, int64_t *v, enum catalog_stmt id,
               const char *fmt, ...);
int cat_exec(struct catalog *c, const char *sql, struct error *e);

/* BULK_ROWS rows in one statement: begin, their columns one after the other, end. The result of end
 * is how many rows went in before one that stood there already (all: BULK_ROWS), or negative. Bound
 * memory must live until then. */
int cat_bulk_begin(struct catalog *c, enum catalog_bulk which, struct error *e);
void cat_bulk_int(struct catalog *c, enum catalog_bulk which, int64_t v);
void cat_bulk_blob(struct catalog *c, enum catalog_bulk which, const void *p, size_t n);
int cat_bulk_end(struct catalog *c, enum catalog_bulk which, struct error *e);
void cat_bulk_free(struct catalog *c);

int cat_apply_op(struct catalog *c, const struct op *op, const uint8_t *raw, size_t len,
                 struct error *e);
/* Puts while the watch is empty; flushed before anything else is applied, and while what the
 * operations point to still stands. */
int cat_apply_later(struct catalog *c, const struct op *op, const uint8_t *raw, size_t len,
                    struct error *e);
int cat_apply_flush(struct catalog *c, struct error *e);
bool cat_node_incomplete(const void *meta, size_t len);

int cat_state_load(struct catalog *c, struct error *e);
int cat_flush_chunks(struct catalog *c, struct error *e); /* pending chunks -> rows */
/* Found or added, after room was made where too many wait; valid until the next one. NULL: *e. */
struct pending_chunk *cat_pending_put(struct catalog *c, const struct hash *id, struct error *e);
int cat_pending_add(struct catalog *c, const struct hash *id, int64_t delta, struct error *e);
/* References of an encoded node, list chunks' children included. sign is 1 or -1. */
int cat_node_refs(struct catalog *c, const void *meta, size_t len, int sign, struct error *e);
void cat_iters_free(struct catalog *c);
int cat_watch_from(struct catalog *c, sqlite3_stmt *s, struct watch_row *w, struct error *e);
void cat_load_release(struct catalog *c);
void cat_pack_from(sqlite3_stmt *s, struct catalog_pack *p); /* PACK_COLUMNS */
int cat_watch_put(struct catalog *c, const struct watch_row *w, bool is_new, struct error *e);

/* Nodes of all watches in one order: the key of open rows and of the cache. SQLite keeps small
 * numbers in few bytes, hence the first watch has the smallest. */
static inline int64_t cat_node_id(int64_t watch, uint64_t node)
{
    return (watch - 1) * (int64_t)(NODE_NUMBER_MAX + 1) + (int64_t)node;
}

static inline uint64_t cat_node_of(int64_t id)
{
    return (uint64_t)id & NODE_NUMBER_MAX;
}

/* The number to compare intervals with: to_ > it and from_ <= it. */
static inline int64_t cat_at(int64_t at)
{
    return at >= CATALOG_OPEN ? CATALOG_OPEN - 1 : at;
}

#endif
