/* archive.h - self-contained copies of snapshots, that need neither this program nor a repository.
 *
 * <archives>/WATCH/automatic/backup_YYYY-MM-DD_HH-MM-SS.tar.gz and <archives>/WATCH/manual/
 * backup_NAME.tar.gz, or a folder of that name (format `directory`). Everything in it stands under
 * one top folder of that name; metadata.json stands there too (metadata.watchkeep.json where the
 * root has one of its own). A copy with the result of the last check stands beside it as NAME.json:
 * what lists, prunes and verifies archives reads that file; without it the archive still opens.
 *
 * Written from a committed snapshot under a lease, under a temporary name, flushed, then renamed,
 * NAME.json first; an existing archive is never replaced. Then it is read back from the disk
 * through zlib, each file's SHA-256 compared, databases opened and counted; only then NAME.json
 * says `verified`. A temporary that a killed run left is known by its lock and removed by the next
 * run. All calls: any thread; several processes may write into one folder at once. */
#ifndef WK_KEEP_ARCHIVE_H
#define WK_KEEP_ARCHIVE_H

#include "base/clock.h"
#include "base/error.h"
#include "capture/sqlite_capture.h"
#include "store/repository.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum archive_format { ARCHIVE_TAR_GZ, ARCHIVE_DIRECTORY };
const char *archive_format_word(enum archive_format f); /* "tar.gz", "directory" */

/* ---- writing ---- */

struct archive_progress {
    atomic_uint_least64_t files_total, files, bytes_total, bytes; /* written so far */
};

struct archive_order {
    const struct snapshot_row *snapshot;
    bool named;         /* somebody named this very snapshot: also a suspect one */
    const char *folder; /* of all archives, absolute; made when missing */
    const char *name;   /* a manual one: NAME; NULL: an automatic one, named by the time */
    enum archive_format format;
    unsigned level;          /* 1..12 */
    uint64_t leave_free;     /* bytes of the folder's file system, to others; 0: none */
    const char *const *meta; /* "KEY=VALUE" for `app`, ended by NULL, or NULL */
    struct sqlite_helper *helper;
    unsigned workers;                  /* 0 = processors, at least 2, at most 4 */
    struct archive_progress *progress; /* or NULL */
    const atomic_bool *cancel;         /* or NULL */
};

enum { ARCHIVE_REPOSITORY_MAX = 33 };
struct archive_item {
    char *path; /* of the archive: file or folder */
    char *name; /* backup_..., without ".tar.gz" */
    char *watch;
    bool manual;
    enum archive_format format;
    char repository[ARCHIVE_REPOSITORY_MAX]; /* its id in hex, "": unknown; snapshots count there */
    char *host, *root;                       /* where it was made, and of what; "": unknown */
    uint64_t snapshot, files, bytes, stored_bytes;
    double seconds;
    struct wall_time time;     /* when it was written */
    int32_t utc_offset;        /* of the place it was written at, then: its local day */
    struct wall_time verified; /* s = 0: never, or not since damage was found */
    bool damaged;              /* the last check found damage */
    bool complete, suspect;    /* of the snapshot */
    bool told;                 /* NAME.json is there and readable: else only path, name, watch,
                                  manual, format, stored_bytes and (of the file) time are known */
};
void archive_item_release(struct archive_item *i);

struct archive_left_out {
    char *path, *reason;
};
struct archive_result {
    struct archive_item item;
    struct archive_left_out *left_out; /* sockets, files never read: at most 1000 */
    size_t left_out_count;
};

/* 0: written, read back and verified. ERR_REFUSED: the name is taken, or the snapshot is suspect
 * and was not named; ERR_DAMAGED: the snapshot is known to be damaged, or damage was met while it
 * was read: nothing is left; or the archive does not read back as it was written: it stays, and
 * NAME.json says so (result->item is filled). ERR_NOSPACE; ERR_CANCELLED; ...: nothing under a
 * final name, or (result->item filled) a whole one that was not verified yet. */
int archive_write(struct repo *r, const struct archive_order *o, struct archive_result *result,
                  struct error *e);
void archive_result_release(struct archive_result *r);

/* ---- the folder ---- */

/* All archives of a watch (NULL: of all), oldest first, by time and name. A folder that is not
 * there holds none. Non-zero from visit stops and is returned. Needs no repository. */
typedef int (*archive_visit)(void *ctx, const struct archive_item *item, struct error *e);
int archive_list(const char *folder, const char *watch, archive_visit visit, void *ctx,
                 struct error *e);

/* Remove it, NAME.json last, so that a removal that was cut off is found again and ended by the
 * next. A missing one is fine. */
int archive_remove(const struct archive_item *item, struct error *e);

/* ---- reading back ---- */

struct archive_check {
    uint64_t files, bytes, errors;
    uint64_t databases;
    char *first; /* what is wrong first, or NULL */
    bool recorded;
};
/* Read all of it from the disk and compare with its own metadata: 0 also when damage was found (see
 * errors). record: NAME.json is told the result. helper: NULL, databases are not opened. */
int archive_verify(const struct archive_item *item, bool record, struct sqlite_helper *helper,
                   const atomic_bool *cancel, struct archive_check *out, struct error *e);
/* The same of a tree that was restored from it, against the archive's metadata. */
int archive_verify_tree(const struct archive_item *item, const char *tree,
                        struct sqlite_helper *helper, const atomic_bool *cancel,
                        struct archive_check *out, struct error *e);
void archive_check_release(struct archive_check *c);

#endif
