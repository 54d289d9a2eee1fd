/* restore_job.h - what the files of restore share; nobody else includes it.
 *
 * restore.c         the order of the whole, problems and warnings
 * restore_plan.c    the walk: folders are made, files go in batches to the workers, hard links
 * restore_write.c   a worker: links, devices; metadata of everything; folders at the end
 * restore_content.c files, a long one by several workers
 * restore_target.c  the target, the scratch folder, putting in place
 * restore_given.c   a tree that somebody else reads (restore_given.h)
 * restore_merge.c   putting in place over what stands there
 *
 * A restore in place (restore_live.h) goes the same way; restore_plan_live.h tells its files.
 *
 * The tree is written beneath `tree`, a folder of ours that nobody else may enter. */
#ifndef WK_SNAPSHOT_RESTORE_JOB_H
#define WK_SNAPSHOT_RESTORE_JOB_H

#include "base/buffer.h"
#include "snapshot/restore.h"
#include "store/node.h"
#include "store/repository.h"

#include <pthread.h>
#include <sys/stat.h>
#include <sys/types.h>

struct restore_folder {
    struct restore_folder *parent; /* NULL: the top */
    struct restore_folder *before; /* the folder made before this one */
    uint8_t *meta;                 /* NULL: leave it as it is */
    uint32_t meta_len;
    bool done;   /* it has its metadata, or is to keep what it has */
    bool made;   /* it stands in the tree */
    char name[]; /* "" for the top */
};

/* A long file. Every worker that has a part of it writes through the same descriptor; whoever is
 * last ends it. From `fd` on under the job's lock. */
struct restore_split {
    struct restore_folder *folder;
    uint8_t *meta;
    uint32_t meta_len;
    struct restore_split *next; /* of all; freed with the job */
    int fd;                     /* -1: not made, or closed */
    bool made;
    unsigned left;    /* parts not yet done */
    uint64_t written; /* bytes of the stream */
    int code;         /* 0, or why the file is given up */
    struct error why;
    char name[];
};

struct restore_item { /* anything but a folder */
    struct restore_folder *folder;
    size_t name, meta; /* offsets in batch.bytes; name is NUL-terminated */
    uint32_t meta_len;
    struct restore_split *split; /* not NULL: from..to of its stream; the two above are not used */
    uint64_t from, to;
    struct storage_order stored; /* of the beginning of its content; see restore_write.c */
};

struct restore_batch { /* neighbours in the walk: likely neighbours in the packs */
    struct restore_batch *next;
    struct restore_item *items;
    size_t count;
    uint64_t content;
    struct buffer bytes;
};

enum restore_warning {
    WARN_OWNER,
    WARN_SETUID,
    WARN_XATTR,
    WARN_MODE,
    WARN_TIMES,
    WARN_DEVICE,
    WARN_CHANGING,
    WARN_SERVER_DATA,
    WARN_UNREAD,
    WARN_KINDS
};

struct live_plan;
struct restore_target;

struct restore_job {
    const struct restore_request *req;
    struct live_plan *live; /* NULL: not in place */
    struct restore_result *result;
    uint64_t begun;            /* clock_mono_ns */
    int tree;                  /* where the tree is written */
    atomic_bool target_failed; /* it ended because of the target, not of the repository */
    bool single;               /* the path is no folder: it stands alone in the top folder */
    struct restore_folder *top, *last; /* `last` begins the list: deepest first */
    char **databases;                  /* paths below the top; sorted by restore_merge */
    size_t database_count, database_cap;
    struct restore_split *splits;
    struct buffer repeated;             /* node ids (u64) with a further name, see restore_plan.c */
    atomic_uint_least64_t files, bytes; /* written */

    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t more, room;
    struct restore_batch *queue, **queue_end;
    size_t queued, queue_max;
    size_t waiting;  /* workers that have nothing to do */
    bool closed;     /* no batch will follow */
    atomic_int code; /* 0, or why everything stops; read it anywhere */
    struct error why;
    int worst; /* the first in order of precedence of what problems there were */
    struct {
        uint64_t count;
        char *first;
    } warnings[WARN_KINDS];
};

/* A descriptor (O_PATH) of the folder looked at last. */
struct restore_dir {
    const struct restore_folder *folder;
    int fd;
};
#define RESTORE_DIR_INIT \
    {                    \
        NULL, -1         \
    }

/* ---- restore.c ---- */

/* Run `work` with a job made ready, under a lease of the snapshot; result is filled. */
int restore_job_run(const struct restore_request *req, struct live_plan *live,
                    struct restore_result *result,
                    int (*work)(struct restore_job *j, struct error *e), struct error *e);
/* Everything that is to be written stands beneath j->tree afterwards. */
int restore_write_tree(struct restore_job *j, struct error *e);
int restore_flush(int fd, struct error *e);
/* Say where it was to go, and what helps. */
void restore_tell_target(const struct restore_job *j, const struct restore_target *t,
                         struct error *e);

/* ---- the same; any thread ---- */

/* path names something that will not be there, and why. */
void restore_problem(struct restore_job *j, const char *path, const struct error *why);
/* Something could not be set; all of a kind make one line. sys is an errno or 0. */
void restore_warn(struct restore_job *j, enum restore_warning kind, const char *path, int sys);
/* Everything stops. The first reason stays. Returns its code. */
int restore_fail(struct restore_job *j, const struct error *why);
/* 0, or the code of why everything stops, the caller's wish included. */
int restore_stopped(struct restore_job *j);
/* Whether it makes no sense to go on with other files after this errno. */
bool restore_fatal(int sys);
/* The target ended everything: the message names the entry it happened at. Returns e's code. */
int restore_target_failed(struct restore_job *j, const char *path, struct error *e);

/* Path below the top, NUL-terminated; name may be NULL. NULL on no memory. */
const char *restore_path(const struct restore_folder *f, const char *name, struct buffer *out);
/* Descriptor of a folder in the tree, borrowed from d, or a negative code. */
int restore_dir_open(int tree, struct restore_dir *d, const struct restore_folder *f,
                     struct error *e);
void restore_dir_close(struct restore_dir *d);

/* ---- restore_plan.c ---- */

/* Walk the selection: make folders, queue everything else. */
int restore_plan(struct restore_job *j, struct error *e);
/* Give hard-linked files their further names; after all workers are done. */
int restore_links(struct restore_job *j, struct error *e);
void restore_batch_free(struct restore_batch *b);

/* ---- restore_write.c ---- */

struct restore_worker {
    struct restore_job *job;
    struct chunk_source *source;
    struct restore_dir dir;
    struct buffer path; /* of the entry at hand, as people know it */
};

void *restore_work(void *job); /* thread: batches until the queue is closed and empty */
/* Owner, xattrs, mode and times of all folders beneath root; of those that then cannot be entered
 * any more, last and deepest first. */
int restore_folders(struct restore_job *j, int root, struct error *e);

/* What is given its metadata: by descriptor, or, for what cannot be opened, by folder and name. */
struct restore_subject {
    int fd;  /* -1: the other two */
    int dir; /* O_PATH */
    const char *name;
    const char *path; /* for messages */
};
/* What may not be set makes a warning; an error says that the target fails. */
int restore_metadata(struct restore_job *j, const struct restore_subject *s, const struct node *n,
                     struct error *e);
bool restore_has_xattr(const struct node *n, const char *name);
/* Anything but a file or folder: 0, or an errno. */
int restore_make_special(const struct node *n, int dir, const char *name);
/* Warnings of what was saved with a flaw. */
void restore_tell_flags(struct restore_job *j, const struct node *n, const char *path);

/* ---- restore_content.c ---- */

uint64_t restore_stream_len(const struct node *n);
/* Make a file beneath the tree, to be written. A descriptor, or a code. */
int restore_create(int dir, const char *name, const struct node *n, struct error *e);
/* A file from its first byte to its last; nothing is left of one that fails. */
int restore_file(struct restore_worker *w, const struct node *n, int dir, const char *name,
                 struct error *e);
/* One part of a long file. *last: no part is left; the result is then that of the file, else 0. */
int restore_part(struct restore_worker *w, const struct restore_item *item, const struct node *n,
                 int dir, bool *last, struct error *e);
void restore_split_free(struct restore_split *s);

/* ---- restore.c: the order of the whole, for restore_given.c too ---- */

void restore_job_init(struct restore_job *j, const struct restore_request *req,
                      struct restore_result *result);
/* The work ended with rc: the result is filled, warnings are told, *j is released. rc, or where
 * that is 0 the code and message of what problems there were. */
int restore_job_end(struct restore_job *j, int rc, struct error *e);
/* The target is opened, `write` puts everything beneath j->tree, folders get their metadata, all is
 * flushed and put in place. j->single is set. */
int restore_into_target(struct restore_job *j,
                        int (*write)(struct restore_job *j, const void *ctx, struct error *e),
                        const void *ctx, struct error *e);

/* ---- restore_target.c ---- */

struct restore_target {
    int parent;  /* the folder that holds the target */
    char *name;  /* the target in it */
    int folder;  /* the target itself, or -1 when it is missing */
    int into;    /* live: a folder made in it, which the tree goes to; -1: that is `folder` */
    bool inside; /* scratch stands inside the target, and the tree in it in SCRATCH_NEW */
    bool live;   /* scratch stands in the live data: restore_live.h */
    bool made;   /* the target was made by us */
    int scratch; /* -1: none */
    char scratch_name[48];
    int tree, aside; /* in it; aside holds what had to make way, -1: nothing may */
    bool placed;
};

int restore_target_open(const struct restore_request *req, bool single, struct restore_target *t,
                        struct error *e);
/* The same for a folder of live data, which is open; `path` is for messages. */
int restore_target_live(int folder, const char *path, struct restore_target *t, struct error *e);
/* Whether two folders (any descriptors) are such that a rename can go from one to the other. */
bool restore_same_mount(int a, int b);
/* Remove what killed restores left in a folder. */
void restore_target_clear(int dirfd);
/* Put the finished tree in place. */
int restore_target_place(struct restore_job *j, struct restore_target *t, struct error *e);
/* Remove the scratch folder; on failure (before place) also a target that was made. */
void restore_target_close(struct restore_target *t);

/* ---- restore_merge.c ---- */

/* Move everything in t->tree to t->folder. */
int restore_merge(struct restore_job *j, struct restore_target *t, struct error *e);
/* Let the owner, if that is us, write into the folder. */
void restore_let_write(int fd, const struct stat *st);

#endif
