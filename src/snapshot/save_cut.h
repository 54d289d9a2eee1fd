/* save_cut.h - where a file is cut, and from which chunk of its last version each chunk comes.
 *
 * A file without a last version is cut by the chunker alone. Where there is one, its cuts are kept
 * as long as its chunks stand at their places: what is rewritten in place gives a chunk that
 * replaces exactly one, and the rest is known by its hash without looking for cuts. Where nothing
 * stands at its place any more (bytes came or went), the chunker cuts until a chunk is met again.
 * Equal bytes after equal versions are cut alike. Used by the workers of a save only. */
#ifndef WK_SNAPSHOT_SAVE_CUT_H
#define WK_SNAPSHOT_SAVE_CUT_H

#include "store/chunker.h"
#include "store/hash.h"
#include "store/node.h"

#include <stdbool.h>

#define KNOWN_CHUNKS_MAX 262144 /* of one file; a longer one is cut without its last version */

/* The chunks of a file's last version. */
struct known_chunk {
    struct chunk_ref ref;
    uint64_t off;          /* in the content */
    struct fast_hash fast; /* when hashed */
};
struct known_list { /* a list chunk of it */
    struct chunk_ref ref;
    uint64_t off;
    unsigned level;
};
struct known_chunks {
    struct known_chunk *v; /* in order of the content */
    uint32_t count, cap;
    uint32_t *sorted; /* numbers of v by what they are looked for: fast hash, else id */
    bool hashed;
    uint64_t len; /* of the content */
    struct known_list *lists;
    uint32_t list_count, list_cap;
};
/* Append; false: no memory, or too many. */
bool known_chunks_add(struct known_chunks *k, const struct chunk_ref *ref);
bool known_chunks_add_list(struct known_chunks *k, unsigned level, uint64_t off,
                           const struct chunk_ref *ref);
/* All are there; fast (may be NULL) holds count hashes. False: no memory. */
bool known_chunks_ready(struct known_chunks *k, const uint8_t *fast);
void known_chunks_release(struct known_chunks *k);
/* The list chunk of that level that covers most of [off, off + len), or NULL. */
const struct hash *known_chunks_list(const struct known_chunks *k, unsigned level, uint64_t off,
                                     uint64_t len);

struct cut {
    uint32_t len;
    uint32_t old; /* number + 1 of the known chunk that it is or replaces; 0 = none */
    bool same;    /* it is */
    bool has_fast, has_id;
    struct fast_hash fast;
    struct hash id;
};

struct cutter {
    struct chunker chunker;
    const struct known_chunks *known; /* may be NULL */
    const uint8_t *secret;
    uint64_t off;  /* where the next chunk begins */
    int64_t shift; /* what stands at off stood at off + shift */
    uint32_t next; /* while aligned: the known chunk that is expected at off */
    bool aligned;
    size_t longest; /* chunk that may come; give cutter_cut room for two */
};
/* len: of the whole content; page_size as in chunker_for. */
void cutter_init(struct cutter *c, uint64_t len, uint32_t page_size, const struct known_chunks *k,
                 const uint8_t *secret);
/* Cut what p holds into at most cap chunks; what is too short to decide about stays. at_end:
 * nothing follows. Returns the bytes cut; *count is set. */
size_t cutter_cut(struct cutter *c, const uint8_t *p, size_t have, bool at_end, struct cut *cuts,
                  uint32_t cap, uint32_t *count);

#endif
