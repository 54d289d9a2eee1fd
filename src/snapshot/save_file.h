/* save_file.h - the workers' side of a save: one file read whole, cut, hashed and stored.
 *
 * Used by the files of the save only. A job belongs to the scanning thread before it is pushed and
 * after it is done, in between to the worker. */
#ifndef WK_SNAPSHOT_SAVE_FILE_H
#define WK_SNAPSHOT_SAVE_FILE_H

#include "capture/file_read.h"
#include "capture/signature.h"
#include "snapshot/content_class.h"
#include "snapshot/save.h"
#include "snapshot/save_cut.h"
#include "snapshot/task_pool.h"

#include <stdatomic.h>

#define SMALL_FILE_MAX (512 * 1024)     /* longer ones are streamed, piece by piece */
#define BLOCK_RAW_LEN (2 * 1024 * 1024) /* small files are packed together up to this length */
#define CACHED_CHUNKS_MAX 65536         /* fast hashes kept of one file */
#define UNHASHED_MAX 8192               /* a file of one chunk up to here has none kept */
#define DELTA_LEN_MIN 4096              /* shorter ones alone only where few files change */
#define DELTA_MISSES_MAX 4              /* chunks of a file one after the other, no deltas */

/* A folder's descriptor, shared by the jobs in it. Any thread. */
struct dir_handle {
    int fd;
    atomic_int refs;
    atomic_int *open_dirs; /* the save's count of them */
};
struct dir_handle *dir_handle_new(int fd, atomic_int *open_dirs); /* takes the fd; NULL closes it */
struct dir_handle *dir_handle_ref(struct dir_handle *d);
void dir_handle_drop(struct dir_handle *d); /* NULL is fine */

enum file_outcome {
    FILE_VANISHED, /* no regular file there any more */
    FILE_SAME,     /* what the catalog has */
    FILE_TIMES,    /* but for its times */
    FILE_DIFFERS,  /* a new version, or a new file */
};

struct file_job {
    struct file_job *next;
    /* in */
    struct dir_handle *dir;
    char *name, *path; /* beneath the root; in the job's own allocation */
    uint64_t parent, node;
    bool put_name; /* the name is not in the catalog, or leads elsewhere in it */
    bool linked;   /* st_nlink > 1 */
    bool flush;
    struct signature seen;   /* by lstat */
    const uint8_t *old_meta; /* of the node's version so far, or NULL; own allocation */
    uint32_t old_meta_len;
    const uint8_t *old_cache;
    uint32_t old_cache_len;
    /* out */
    enum file_outcome outcome;
    struct node n; /* borrows from what follows */
    struct signature signature;
    struct buffer hashes; /* fast ones, to be kept behind the signature */
    bool look_again;      /* it kept changing, or its signature is racy */
    struct chunk_ref *refs;
    struct fast_hash *fast;
    uint32_t ref_count, ref_cap;
    struct node_xattr *xattrs;
    struct node_extent *extents;
    struct node old; /* decoded old_meta, when has_old */
    bool has_old;
    struct known_chunks known; /* of the old version */
    atomic_uint misses;        /* chunks in a row that were no worthwhile deltas */
    char *text;                /* reason or receipt */
};

/* Strings and old versions are copied. NULL on no memory. */
struct file_job *file_job_new(struct dir_handle *dir, const char *path, uint64_t parent,
                              uint64_t node, const void *old_meta, uint32_t old_meta_len,
                              const void *old_cache, uint32_t old_cache_len);
void file_job_free(struct file_job *j);

/* What all workers of a save share. */
struct save_work {
    const struct save_request *req;
    struct txn *txn;
    const uint8_t *secret;
    char *scratch; /* folder for captured databases */
    struct task_pool pool;
    atomic_bool failed; /* set after error; the rest of the work is not done any more */
    pthread_mutex_t error_lock;
    struct error error;
    atomic_uint_least64_t bytes_read;
};
void save_work_fail(struct save_work *w, const struct error *e); /* the first one counts */
/* ERR_CANCELLED, or what failed elsewhere. */
int save_work_check(struct save_work *w, struct error *e);
void save_work_read(struct save_work *w, uint64_t bytes); /* count them */

/* What one thread has for itself. */
struct save_worker {
    struct save_work *work;
    uint8_t *raw; /* claimed chunks of small files, waiting for their block, and the file after */
    uint32_t raw_len;
    struct block_chunk *chunks;
    uint32_t chunk_count, chunk_cap;
    struct chunk_source *source; /* opened on first use */
    bool few;                    /* files are in the batch: each may have blocks of its own */
};
void save_worker_release(struct save_worker *w);

/* Do one job. What cannot be read is flagged in its node; an error ends the save. */
int file_job_run(struct save_worker *w, struct file_job *j, struct error *e);
/* Store what waits for its block. */
int save_worker_flush(struct save_worker *w, struct error *e);

/* ---- between save_file.c, save_stream.c and save_database.c ---- */

/* Bytes that are read once, front to back: a file's data runs, or a captured image. */
struct stream {
    int fd;
    const struct node_extent *runs; /* run_count 0: one run of len bytes */
    uint32_t run_count;
    uint64_t len;
    uint32_t run; /* position */
    uint64_t in_run;
    bool ended_early;
    bool read_failed;          /* the error is one of the source */
    struct content_look *look; /* shown every byte, or NULL */
};
/* The chunks of the job's last version into j->known; none when they cannot be had. */
void file_job_load_known(struct save_worker *w, struct file_job *j);

/* Append a chunk to the job's list; false on no memory. */
bool file_job_add_chunk(struct file_job *j, const struct chunk_ref *ref,
                        const struct fast_hash *fast);
/* Identity of a chunk that was cut from j's file: what the cut tells, else by SHA-256; then claim
 * it. 1: this caller has to put it. */
int chunk_identify(struct save_work *w, const struct cut *cut, const uint8_t *p,
                   struct chunk_ref *ref, struct fast_hash *fast, struct error *e);
/* A chunk to put that replaces one of the last version gets a block of its own, a delta where that
 * pays. 1: put; 0: it is the caller's to put together with others. */
int chunk_put_alone(struct save_worker *w, struct file_job *j, const struct cut *cut,
                    const struct chunk_ref *ref, const uint8_t *p, struct error *e);
/* Cut, hash and store all of s, adding to the job's chunks. */
int stream_store(struct save_worker *w, struct file_job *j, struct stream *s, uint32_t page_size,
                 struct error *e);
/* Whether a second pass finds the same chunks. s: at its beginning. */
int stream_same(struct save_worker *w, const struct file_job *j, struct stream *s, bool *same,
                struct error *e);
/* Long lists of chunks become list chunks; sets depth, ref_count and refs of j->n. */
int file_job_fold(struct save_worker *w, struct file_job *j, struct error *e);

/* What is told of a file besides its content. */
void file_job_set_stat(struct file_job *j, const struct signature *s);
int file_job_set_xattrs(struct file_job *j, int fd, struct error *e);
/* What its content is; spoilt stays what was, until save_spoilt.c has looked at it. */
void file_job_set_class(struct file_job *j, enum content_class class);
/* Of its last version; CONTENT_OTHER where there is none. */
enum content_class file_job_old_class(struct file_job *j);
/* It could not be read: its last version stays, flagged. */
int file_job_unread(struct file_job *j, uint8_t flags, const char *reason, struct error *e);
/* Encode and compare with the old version. */
int file_job_compare(struct file_job *j, struct error *e);
/* For the catalog's cache; the fast hashes before the list is folded. */
void file_job_cache(struct file_job *j, const struct signature *s);
void file_job_cache_hashes(struct file_job *j);
/* Decode the old version into j->old; false: there is none. */
bool file_job_load_old(struct file_job *j);
/* Drop what was read so far. */
void file_job_forget(struct file_job *j);

/* The side files of the database `name`: a hash of what tells that they changed, 0 = none there;
 * racy as in signature_is_racy. */
struct database_sides {
    bool wal, journal;
    uint64_t hash;
    bool racy;
};
void database_sides_look(int dirfd, const char *name, struct wall_time at,
                         struct database_sides *out);
/* f begins as a database does. Takes over from file_job_run (f stays the caller's). 1: it is to be
 * taken as a plain file. */
int database_store(struct save_worker *w, struct file_job *j, struct file_read *f,
                   struct wall_time at, struct error *e);
/* Whether the file begins as a database does. */
bool database_header(int dirfd, const char *name);
/* Whether name is that of a side file (-wal, -shm, -journal) of a database that stands beside it.
 */
bool database_side_file(int dirfd, const char *name);

/* How often a file that changes is read again, with a pause before each. */
#define FILE_TRIES 6
void file_pause(unsigned tries);
unsigned file_tries(uint64_t len);

#endif
