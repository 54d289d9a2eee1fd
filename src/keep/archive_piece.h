/* archive_piece.h - a piece of the tar stream, between the thread that walks the tree and a worker.
 *
 * The walk fills a piece with items. A worker lays them out as tar members, brings their content
 * from the packs, checks and hashes it, and packs all of it as gzip members. A sorted piece has its
 * folders first, in the order of the walk, and behind them the files by kind: names of one suffix
 * together, and among these equal names and equal contents. Deflate sees no further than 32 KiB
 * back, and so finds more alike; the packs are read in their own order all the same. */
#ifndef WK_KEEP_ARCHIVE_PIECE_H
#define WK_KEEP_ARCHIVE_PIECE_H

#include "keep/archive_private.h"
#include "keep/gzip.h"
#include "snapshot/task_pool.h"
#include "store/repository.h"

#define PIECE_BYTES_MIN (4u * 1024 * 1024) /* content of a piece, about */
#define PIECE_BYTES_MAX (8u * 1024 * 1024)
#define PIECE_LONG (2u * 1024 * 1024) /* a longer file has pieces of its own, */
#define PIECE_PART (4u * 1024 * 1024) /* each with so much of it, about */
#define PIECE_ITEMS 16384u

struct piece_item {
    size_t path, meta, link; /* offsets in piece.bytes; link 0: none */
    uint32_t meta_len;
    uint64_t from, to;  /* of the stream */
    bool first, last;   /* with the header; with the padding, and the file is whole */
    struct hash sha256; /* of a file that lies whole in this piece */
    bool hashed;
    size_t at;                   /* of its content, in piece.raw */
    struct storage_order stored; /* of its content, in the packs */
};

struct piece_worker { /* of one thread */
    struct chunk_source *source;
    struct gzip_packer *packer;
    struct buffer raw; /* memory for the next piece */
};

struct piece {
    struct task task; /* first */
    struct piece *next;
    bool sorted;
    const atomic_bool *cancel; /* or NULL */
    size_t top;                /* where a path begins below the top folder */
    struct piece_item *items;
    uint32_t *order;           /* of the items in the stream, once it is made */
    struct piece_item **reads; /* in the order of the packs, once piece_order_reads was called */
    size_t count;
    uint64_t content; /* as planned */
    struct buffer bytes;
    struct buffer raw; /* there from then on only when the last item is a part of a long file */
    struct buffer packed;
    size_t part_at; /* where in raw the content of that part begins */
    int rc;
    struct error error;
};

/* NULL on no memory. */
struct piece *piece_new(void);
void piece_free(struct piece *p);
/* As new, with the memory that it has. */
void piece_reset(struct piece *p);
/* Append an item: it has the path below `top`, and link below it too, or NULL. The piece has room
 * (count < PIECE_ITEMS). A part of a file is the last item, and the piece is not sorted. */
struct piece_item *piece_add(struct piece *p, const char *top, const char *path, const char *link,
                             const void *meta, uint32_t meta_len);
/* Its bytes were written: their memory goes. */
void piece_drop_bytes(struct piece *p);
/* What has no content comes first, as it was added. */
void piece_order_reads(struct piece *p);
const char *piece_path(const struct piece *p, const struct piece_item *item);
/* task.run of a piece; worker: a struct piece_worker. Sets rc, error, packed, order, hashes. */
void piece_run(struct task *t, void *worker);
bool piece_is_part(const struct piece_item *item);

/* Messages name the file. */
int archive_named(struct error *e, const char *path);

#endif
