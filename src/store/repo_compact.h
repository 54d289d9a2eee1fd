/* repo_compact.h - the state of one compaction, shared by repo_compact.c and repo_move.c; nobody
 * else includes it. */
#ifndef WK_STORE_REPO_COMPACT_H
#define WK_STORE_REPO_COMPACT_H

#include "store/repo_private.h"

struct old_pack {
    uint64_t id;
    uint8_t kind;
    uint64_t end;
    uint64_t live; /* raw bytes of chunks that the catalog knows to live there */
    bool stays;    /* it is not emptied: it is not worth it, or something in it cannot be read */
    bool settled;  /* the former */
};

struct old_chunk {
    struct hash id;
    uint64_t pack_id;
    uint64_t refs; /* when it was doomed */
    uint32_t raw_off, raw_len;
    bool mine;  /* it is this place that the catalog names */
    bool live;  /* needed by more than deltas that are dead */
    bool stays; /* its pack does */
};

struct old_block {
    size_t pack; /* index */
    uint64_t offset;
    size_t first, count; /* chunks */
    uint32_t raw_len, stored;
    bool has_base, live, whole; /* whole: every chunk in it lives */
    struct hash base;
};

struct let_go { /* references that dead deltas let go of */
    struct hash id;
    uint64_t count;
};

struct moved_block {
    uint64_t pack_id, offset;
    uint32_t count;
    struct block_chunk *chunks;
};

struct compacting {
    struct repo *repo;
    const struct upkeep *upkeep;
    struct error *e;
    bool eager;                  /* also what does not pay: it was asked for, or space is short */
    uint64_t below;              /* packs from this id on are too new */
    struct catalog *state;       /* as it was when the packs were doomed */
    unsigned generation;         /* of the catalog then */
    struct chunk_source *source; /* over it */
    struct pack_use *uses;
    size_t use_count;
    struct old_pack *packs; /* newest first */
    size_t pack_count;
    struct old_block *blocks;
    size_t block_count, block_cap;
    struct old_chunk *chunks;
    size_t chunk_count, chunk_cap;
    struct id_map let_go;

    struct block_chunk *pending; /* chunks of the block being gathered, over raw */
    size_t pending_count, pending_cap;
    struct buffer raw;
    uint64_t unindexed; /* bytes put since they were last indexed */
    struct moved_block *moved;
    size_t moved_count, moved_cap;
    struct pack_need *needs;
    size_t need_count;
    uint64_t bytes_moved;
    bool forgetting; /* rows of dead chunks go from now on */
};

/* What lives in the packs. A pack whose living chunks are not all found gets `stays`. */
int compact_survey(struct compacting *k);
/* It is put into data packs, flushed and indexed. */
int compact_move(struct compacting *k);
/* Every block that was moved is read from the disk and expanded; hashes are compared. */
int compact_read_back(struct compacting *k);

#endif
