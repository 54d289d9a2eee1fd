/* pack.h - pack files: create, append, read, walk.
 *
 * Packs lie in `packs/` as "0-log-%016x.wkp" and "1-data-%016x.wkp": a copy made in name order has
 * every log pack before the data packs that its commits need. A pack is append-only; a failed
 * write or flush ends its use (repository.h makes the fence). Not thread safe, but for reads. */
#ifndef WK_STORE_PACK_H
#define WK_STORE_PACK_H

#include "store/record.h"

#include <sys/types.h>

#define PACK_SEAL_LEN (64u * 1024 * 1024)

/* What a walk could not read: its first byte, and how many there were in all. */
struct pack_unread {
    uint64_t from, bytes;
};

struct pack {
    uint64_t id;
    uint8_t kind;
    int fd;
    uint64_t len;     /* bytes that count: end of the last whole record written */
    uint64_t flushed; /* of those, known to be on the disk */
    bool broken;      /* a write or flush failed: read only from now on */
    int64_t created_s;
    struct pack_unread *unread; /* the opener's; NULL: a walk ends where the disk refuses to read */
};

void pack_file_name(uint8_t kind, uint64_t id, char out[40]);
bool pack_file_parse(const char *name, uint8_t *kind, uint64_t *id);

/* Make a new pack: header written, file and folder flushed. */
int pack_create(int packs_dir, const struct pack_header *h, struct pack **out, struct error *e);
/* Open an existing one and check its header; len is the file's length, to be bounded by a walk. A
 * data pack is opened for reading also where the disk refuses to read the header: created_s is 0.
 */
int pack_open(int packs_dir, uint8_t kind, uint64_t id, const uint8_t repo_id[16], bool for_writing,
              struct pack **out, struct error *e);
void pack_close(struct pack *p);

/* Append ready-made record bytes (from record_encode at offset p->len): one pwrite. */
int pack_append(struct pack *p, const void *bytes, size_t n, struct error *e);
int pack_flush(struct pack *p, struct error *e); /* one fdatasync */

/* Read the record at offset: header checked, body appended to out and its guard checked. Any
 * thread. ERR_DAMAGED for what does not match, ERR_NOTFOUND at or past the end. */
int pack_read(const struct pack *p, uint64_t offset, struct record_header *h, struct buffer *body,
              struct error *e);

/* Walk records from offset on. The callback gets damage too (h == NULL: from..to does not parse;
 * the walk goes on at the next sound record). Return non-zero from it to stop with that value.
 * end: where the walk has to stop (a fence), or UINT64_MAX. *tail (may be NULL) gets the end of the
 * last sound record, or offset when there is none. A read that the disk refuses ends the walk with
 * an error: it is not damage. Where the writer has cut the file off meanwhile, it ends there. With
 * p->unread the walk goes on behind sectors that cannot be read, counts them there, and shows them
 * as damage. Records of types that may be skipped are not shown. Padding that is not zero is shown
 * as damage of itself, after its record. */
typedef int (*pack_visit)(void *ctx, uint64_t from, uint64_t to, const struct record_header *h,
                          const uint8_t *body);
int pack_walk(const struct pack *p, uint64_t offset, uint64_t end, pack_visit visit, void *ctx,
              uint64_t *tail, struct error *e);

#endif
