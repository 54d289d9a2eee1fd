/* commit.h - the bodies of the log's small records: commit, mark, prune, compaction, fence, seal,
 * and the operations inside file lists and checkpoints (FORMAT.md).
 *
 * Encoders append to a buffer and mark it failed when something is beyond its bound. Decoders take
 * (buffer, length), bound everything, and leave strings in one allocation owned by the struct
 * (release it; after a failed decode there is nothing to release). Optional fields are {u16 tag,
 * u16 0, u32 len, bytes}; an unknown tag with the high bit clear is skipped, with it set it is
 * refused (ERR_NOREPO, as all that a newer version must have written). */
#ifndef WK_STORE_COMMIT_H
#define WK_STORE_COMMIT_H

#include "base/buffer.h"
#include "base/clock.h"
#include "base/error.h"
#include "store/hash.h"

#include <stdbool.h>
#include <stdint.h>

#define WATCH_ID_LEN 16

enum snapshot_kind {
    SNAPSHOT_CHANGE = 1,
    SNAPSHOT_INTERVAL = 2,
    SNAPSHOT_MANUAL = 3,
    SNAPSHOT_STARTUP = 4,
    SNAPSHOT_SHUTDOWN = 5,
    SNAPSHOT_SAFETY = 6,
};
const char *snapshot_kind_word(int kind); /* "change", ... or "unknown" */

enum commit_flag {
    COMMIT_INCOMPLETE = 1 << 0, /* some source was not read whole (incomplete_count > 0) */
    COMMIT_UNSOUND = 1 << 1,    /* something an earlier sound snapshot held is unreadable in it */
    COMMIT_SUSPECT = 1 << 2,    /* the root was suddenly almost empty, and still is */
    COMMIT_RULES = 1 << 3,      /* first snapshot under changed rules */
};

struct pack_need { /* bytes of a pack that must exist for the commit to be whole */
    uint64_t pack_id, len;
};

struct commit {
    uint64_t number; /* of the snapshot; unique in the repository, only grows */
    uint64_t parent; /* the watch's snapshot before it, 0 = none */
    uint8_t watch_id[WATCH_ID_LEN];
    uint8_t host_id[16];
    struct wall_time time;
    int32_t utc_offset;
    uint8_t kind;
    uint32_t flags;
    uint64_t files, folders, bytes; /* totals in the snapshot */
    uint64_t files_new, files_changed, files_removed;
    uint64_t files_excluded; /* optional: left out by changed rules */
    uint64_t bytes_read, bytes_stored;
    uint64_t duration_ns;
    uint64_t incomplete_count;
    uint64_t next_node;              /* the watch's node allocator after this snapshot */
    uint64_t list_first, list_count; /* sequence of its first file-list record, how many */
    struct hash chain;    /* SHA-256 of the body of the commit before, zero for the first */
    struct state_sum sum; /* over the watch's open rows after this snapshot */
    /* optional; NULL or 0 = as in the watch's commit before */
    const char *watch_name, *root, *rules;
    const char *name, *note, *gap, *version;
    uint32_t need_count;
    struct pack_need *needs;
    uint64_t trusted_files; /* of a suspect one: files in the last one before it that was not */
    uint64_t spoilt;        /* nodes in it that are NODE_SPOILT */
    uint64_t declassed;     /* files that with it stopped being text, JSON or SQLite */
    /* A short file list that has no record of its own: its packed part. The catalog leaves it out
     * of what it keeps. Borrowed when encoding. */
    const void *list;
    uint32_t list_len; /* 0 = none */
    void *owned;       /* decoder's allocation */
};
#define COMMIT_LIST_MAX (64 * 1024)
void commit_encode(const struct commit *c, struct buffer *out);
int commit_decode(const void *p, size_t n, struct commit *c, struct error *e);
void commit_release(struct commit *c);

enum mark_type {
    MARK_VERIFIED = 1, /* snapshots[] were verified at time */
    MARK_DAMAGED = 2,  /* snapshots[] need a chunk that is lost */
    MARK_NAME = 3,     /* text = new name ("" takes it away) */
    MARK_NOTE = 4,
    MARK_PIN = 5,
    MARK_UNPIN = 6,
    MARK_FREEZE = 7,  /* text = "cause: reason"; watch_id or zero for all */
    MARK_THAW = 8,    /* text = the cause that is gone; NULL: all of them */
    MARK_GAP = 9,     /* text: events of the watch may have been missed, until rescanned */
    MARK_EVENT = 10,  /* text: JSON of an event kept for status; the newest MARK_EVENTS_KEPT hold */
    MARK_COUNTS = 11, /* text: JSON of counts found by a later check (tables, rows) */
    MARK_SAFETY = 12, /* snapshots[0] is the safety snapshot of an in-place restore; text: plan */
    MARK_UNDO = 13,
    MARK_REPAIRED = 14, /* snapshots[] are whole again: the lost chunks were stored anew */
    MARK_STATE = 15, /* text: a key, a blank, a value; only the last of each key and watch holds */
};
#define MARK_EVENTS_KEPT 1000

/* Why nothing of a watch is pruned: the word that a freeze mark's text begins with. */
enum freeze_cause {
    FREEZE_MISSING = 1 << 0,   /* "missing": its root is gone or replaced */
    FREEZE_EMPTIED = 1 << 1,   /* "emptied": most of its files went at once */
    FREEZE_SCRAMBLED = 1 << 2, /* "scrambled": most files are no longer what they were */
    FREEZE_DAMAGED = 1 << 3,   /* "damaged": verification found damage */
    FREEZE_OTHER = 1 << 7,     /* any other word */
};
const char *freeze_word(enum freeze_cause cause);
/* What the text of a freeze or thaw begins with; NULL or "": all of them. */
unsigned freeze_causes(const char *text);

struct mark {
    uint8_t type;
    uint8_t watch_id[WATCH_ID_LEN]; /* zero where it does not matter */
    struct wall_time time;
    const char *text; /* or NULL */
    uint32_t count;
    uint64_t *snapshots;
    void *owned;
};
void mark_encode(const struct mark *m, struct buffer *out);
int mark_decode(const void *p, size_t n, struct mark *m, struct error *e);
void mark_release(struct mark *m);

/* A file list: snapshot number, watch id, then operations, packed by a codec. */
enum op_type { OP_NAME_PUT = 1, OP_NAME_REMOVE = 2, OP_NODE_PUT = 3, OP_NODE_REMOVE = 4 };
struct op {
    uint8_t type;
    uint64_t parent;  /* name ops */
    const char *name; /* not NUL-terminated */
    uint8_t name_len;
    uint64_t node;       /* all but OP_NAME_REMOVE */
    const uint8_t *meta; /* OP_NODE_PUT: encoded node */
    uint32_t meta_len;
};
void op_encode(const struct op *op, struct buffer *out);
/* Take the next op from a raw list; 1 = got one, 0 = end, negative = damaged. Borrowed pointers. */
struct reader;
int op_decode(struct reader *r, struct op *op, struct error *e);

int file_list_encode(uint64_t number, const uint8_t *watch_id, const void *ops, size_t len,
                     int codec, struct buffer *out);
/* Expands the operations into *ops. */
int file_list_decode(const void *p, size_t n, uint64_t *number, uint8_t *watch_id,
                     struct buffer *ops, struct error *e);
#define FILE_LIST_RAW_MAX (8u * 1024 * 1024)
/* The packed part alone, as it stands in a commit; after all other lists of that snapshot. c
 * borrows out's bytes. */
int commit_list_encode(struct commit *c, const void *ops, size_t len, int codec,
                       struct buffer *out);
int commit_list_decode(const struct commit *c, struct buffer *ops, struct error *e); /* all parse */

struct fence {
    uint64_t pack_id, len; /* what lies behind len in that pack does not exist */
};
void fence_encode(const struct fence *f, struct buffer *out);
int fence_decode(const void *p, size_t n, struct fence *f, struct error *e);

struct seal {
    uint64_t len; /* bytes of the pack before the seal record */
    uint64_t records;
    struct hash sha256; /* of those bytes, zero when not computed */
};
void seal_encode(const struct seal *s, struct buffer *out);
int seal_decode(const void *p, size_t n, struct seal *s, struct error *e);

struct prune {
    struct wall_time time;
    uint32_t count;
    uint64_t *snapshots; /* that are dropped */
    void *owned;
};
void prune_encode(const struct prune *p, struct buffer *out);
int prune_decode(const void *p, size_t n, struct prune *out, struct error *e);
void prune_release(struct prune *p);

struct compaction { /* the packs named are gone; what lived in them stands in other packs */
    struct wall_time time;
    uint32_t count;
    uint64_t *packs;
    uint32_t need_count; /* packs that must be there for it to hold, and how much of each */
    struct pack_need *needs;
    void *owned;
};
void compaction_encode(const struct compaction *c, struct buffer *out);
int compaction_decode(const void *p, size_t n, struct compaction *out, struct error *e);
void compaction_release(struct compaction *c);

/* Checkpoint: a part of all that must survive, as rows packed by a codec. Rows stand in order of
 * their types as listed, but for the numbers. */
#define CHECKPOINT_RAW_MAX (8u * 1024 * 1024)
enum row_type {
    ROW_PACK = 5,     /* id, kind, length, fence, when it went, SHA-256 when sealed */
    ROW_WATCH = 6,    /* a watch as it stands */
    ROW_SNAPSHOT = 1, /* the commit of a live snapshot, and what marks said of it since */
    ROW_NAME = 2,     /* watch, parent, name, from, to, node */
    ROW_NODE = 3,     /* watch, node, from, to, meta */
    ROW_MARK = 4,     /* sequence, encoded mark */
};
struct checkpoint_part {
    uint64_t id;          /* the same for all parts of one checkpoint */
    uint32_t part;        /* from 0 */
    uint32_t parts;       /* in the last one: how many; 0 before */
    uint64_t covers;      /* sequence of the last log record folded in */
    uint64_t next_number; /* lowest snapshot number never used */
    uint64_t next_pack;   /* lowest pack id never used */
    struct hash chain;    /* hash of the last commit folded in */
};
int checkpoint_encode(const struct checkpoint_part *c, const void *rows, size_t len, int codec,
                      struct buffer *out);
int checkpoint_decode(const void *p, size_t n, struct checkpoint_part *c, struct buffer *rows,
                      struct error *e);
/* What it is a part of, without its rows. */
int checkpoint_part_decode(const void *p, size_t n, struct checkpoint_part *c, struct error *e);

enum { ROW_TEXTS = 3 };
struct row_text { /* not NUL-terminated; holds no NUL */
    const char *p;
    uint32_t len;
};
struct row {
    uint8_t type;
    uint8_t watch_id[WATCH_ID_LEN];
    uint64_t parent, node, from, to; /* node of ROW_WATCH: its next node */
    const char *name;
    uint8_t name_len;
    const uint8_t *bytes; /* commit, mark or meta */
    uint32_t len;
    uint64_t sequence;                /* ROW_MARK */
    struct row_text texts[ROW_TEXTS]; /* snapshot: name, note; watch: name, root, rules */
    bool damaged, pinned, whole;      /* ROW_SNAPSHOT */
    struct wall_time time;            /* ROW_SNAPSHOT: verified, zeros: never */
    uint64_t serial, last, files, total_bytes, incomplete; /* ROW_WATCH */
    struct state_sum sum;
    uint8_t frozen;                         /* enum freeze_cause bits */
    uint64_t pack_id, pack_len, pack_fence; /* ROW_PACK; fence 0: none */
    int64_t pack_gone;                      /* when a compaction took its place, 0: it lives */
    uint8_t pack_kind;
    struct hash sha256;
};
void row_encode(const struct row *r, struct buffer *out);
int row_decode(struct reader *r, struct row *row, struct error *e); /* as op_decode */

#endif
