/* safety.h - the steps that nothing may leave out, each with a number and a name.
 *
 * Each stands in the code as SAFETY(NAME, step), which is `step` and nothing more. A build with
 * -DWK_WITHOUT=<number> leaves that one out, so that tests/without.py can show that the tests
 * notice: the flush is not done, the lock not taken, the difference not seen. A step is an
 * expression that is 0 (false) when it is done and nothing is wrong. */
#ifndef WK_BASE_SAFETY_H
#define WK_BASE_SAFETY_H

#define SAFETY_STEPS(X)                                                                  \
    X(1, PACK_FLUSH, "packs are flushed before what they hold is acknowledged")          \
    X(2, PACK_FOLDER_FLUSH, "a new pack's name is flushed before anything relies on it") \
    X(3, TAIL_FLUSH, "what the last writer left is flushed before it is believed")       \
    X(4, ATOMIC_FLUSH, "a replaced file is flushed before it gets its name")             \
    X(5, ATOMIC_FOLDER_FLUSH, "the folder of a replaced file is flushed")                \
    X(6, BROKEN_PACK, "a pack whose write or flush failed takes no more")                \
    X(7, DATA_BEFORE_COMMIT, "data packs are flushed before the commit that needs them") \
    X(8, WRITER_LOCK, "one writer at a time")                                            \
    X(9, LEASE, "a reader's lease on its snapshot")                                      \
    X(10, RECORD_HEADER_SUM, "the checksum of a record's header")                        \
    X(11, RECORD_BODY_SUM, "the checksum of a record's body")                            \
    X(12, CHUNK_HASH, "the SHA-256 of every chunk that is read")                         \
    X(13, PACK_OWNER, "a pack belongs to this repository")                               \
    X(14, COMMIT_CHAIN, "each commit follows the one before")                            \
    X(15, STATE_SUM, "a replayed commit gives the state that was committed")             \
    X(16, STABLE_READ, "a file is looked at again after it was read")                    \
    X(17, RACY_STAMP, "a time stamp as young as the reading is not believed")            \
    X(18, BENEATH, "a restore stays beneath its target")                                 \
    X(19, RESTORE_FLUSH, "a restore is flushed before it is shown")                      \
    X(20, PEER, "the socket serves only whom the peer's credentials allow")              \
    X(21, DATABASE_HEADER, "a captured database is checked before it is called saved")   \
    X(22, ROOT_GONE, "a root that is gone makes no snapshot")                            \
    X(23, FENCE, "a new log begins with the fences that are due")                        \
    X(24, LOST_NUMBERS, "numbers in a torn tail are used up")                            \
    X(25, VERIFY_HASH, "the SHA-256 of every chunk that is verified")                    \
    X(26, CATALOG_SUM, "the checksum of each page of the catalog")                       \
    X(27, CATALOG_FLUSH, "after a lost flush of the catalog no other is believed")

enum safety_step {
#define X(number, name, what) SAFETY_##name = number,
    SAFETY_STEPS(X)
#undef X
};

#ifdef WK_WITHOUT
#define SAFETY(name, step) (SAFETY_##name == WK_WITHOUT ? 0 : (step))
#else
#define SAFETY(name, step) (step)
#endif

#endif
