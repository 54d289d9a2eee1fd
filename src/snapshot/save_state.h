/* save_state.h - what the scanning thread of one save holds, and how its files call each other.
 *
 * save.c        begin, walk, finish, commit
 * save_walk.c   folders: list, merge with the catalog's rows, descend
 * save_dirty.c  a dirty set: only the entries it names
 * save_entry.c  one entry: in or out, which node it is, changed or not
 * save_names.c  names that come, go and move; what is removed at the end
 * save_version.c new versions of nodes; times that wait; totals
 * save_spoilt.c files that were whole and are not
 * save_batch.c  jobs to the workers and back, in order
 * save_file.c, save_stream.c, save_database.c  the workers' side (save_file.h)
 *
 * The catalog shows the state before the save throughout. Only the scanning thread calls txn_*, but
 * for claims and blocks. */
#ifndef WK_SNAPSHOT_SAVE_STATE_H
#define WK_SNAPSHOT_SAVE_STATE_H

#include "snapshot/pair_map.h"
#include "snapshot/save_file.h"

#define OPEN_DIRS_MAX 100 /* above, folders are opened again when their turn comes */

/* What the catalog has under a name or of a node; sig_len 0: nothing cached. */
struct known {
    uint64_t node;
    const uint8_t *meta, *sig;
    uint32_t meta_len, sig_len;
    uint64_t ino; /* as cached */
};

struct folder { /* one that is being looked at, or has children that wait */
    unsigned refs;
    uint64_t node;
    char *path;             /* beneath the root, "" = the root */
    struct dir_handle *dir; /* NULL: open it by its path */
    bool in_server;         /* it or one above is a database server's data folder */
    bool rules_seen;        /* its ignore file and those above are known */
};

struct ahead;

struct visit { /* a folder whose turn will come */
    struct visit *next;
    struct ahead *ahead; /* another thread lists it, or NULL */
    struct folder *in;   /* NULL for the root */
    uint64_t node;
    bool is_new;   /* the catalog has nothing below it */
    bool put_name; /* when it could be opened */
    bool list;     /* else only its own metadata */
    uint32_t meta_len, sig_len;
    uint8_t *meta, *sig; /* behind the struct, and the name */
    uint64_t ino;        /* as cached */
    char *name;
};

/* What became of a node in this save, where later entries have to know. */
enum fate { FATE_OTHER_INODE = 1, FATE_MOVED = 2, FATE_DEAD = 3 };

struct gone {
    uint64_t parent, node, size;
    uint8_t type, flags;
    bool name_removed; /* already */
    char *name;
};

struct waiting_times { /* of a node of which nothing else changed */
    uint64_t node;     /* 0: no longer */
    int64_t mtime_s;
    uint32_t mtime_ns;
    bool now; /* found in this save; else only the catalog's cache has it */
};

struct other_name { /* a further name of a node whose job was begun under another; put at the end */
    uint64_t node, parent;
    char *path;
};

struct batch;

struct save {
    const struct save_request *req;
    struct save_result *res;
    struct save_work work;
    struct txn *txn;
    struct catalog *cat;
    int64_t watch;
    int rootfd;
    struct stat root_st;
    bool fresh;         /* no snapshot yet */
    bool root_replaced; /* the root is another folder than at the last save */
    bool rules_changed; /* the watch's rules, or an ignore file */
    bool rehash;        /* trust no signature */
    bool must_commit;   /* whatever is found */
    bool dev_moved;     /* device numbers differ from those cached: a new start, the same disk */
    uint64_t old_dev, new_dev;

    /* names */
    struct pair_map links;   /* (dev, ino) of what has several names -> node */
    struct pair_map bound;   /* node -> inode, where the cache does not tell */
    struct pair_map fate;    /* node -> enum fate */
    struct pair_map removed; /* (parent, hash of name): no longer there */
    struct pair_map gained;  /* node -> names won or lost so far, int64 */
    struct pair_map lost;    /* folder nodes that left with unsaved changes below them */
    uint8_t *looked;         /* a bit for each node that was there before: met in this save */
    uint64_t looked_nodes;
    uint64_t name_seed;
    struct gone *gone;
    size_t gone_count, gone_cap;
    struct other_name *other_names;
    size_t other_count, other_cap;

    /* versions */
    struct pair_map times_at; /* node -> index in times + 1 */
    struct waiting_times *times;
    size_t times_count, times_cap;
    /* node -> flags after this save, where incomplete or spoilt has changed or still holds */
    struct pair_map incomplete;
    int64_t files, folders, bytes, incomplete_count, spoilt; /* differences */
    uint64_t databases_removed;
    uint64_t declassed;
    uint64_t week_ago; /* number of the snapshot that held seven days ago, once looked for */
    bool week_known;

    /* the walk */
    struct visit *stack;
    struct buffer path, meta, sig, cached;
    atomic_int open_dirs;
    const char **flush; /* sorted paths to flush before reading */
    size_t flush_count;
    bool listed; /* the last entry checked is a folder that will be listed */

    /* batches */
    struct save_worker workers[TASK_POOL_MAX + 1]; /* 0: the scanning thread's own */
    unsigned worker_count;
    struct batch *filling, *flight, **flight_end;
    unsigned in_flight, pushed;
    bool inline_only; /* no thread could be started */

    char **retry;
    size_t retry_count, retry_cap;
};

/* ---- save_walk.c ---- */
int walk_push(struct save *s, const struct visit *v, const char *name, struct error *e);
int walk_run(struct save *s, struct error *e); /* until the stack is empty */
struct folder *folder_new(const char *path, uint64_t node, struct dir_handle *dir, bool in_server);
void folder_drop(struct folder *f); /* NULL is fine */
/* path/name into s->path. */
const char *save_path(struct save *s, const char *folder, const char *name);
/* The reason when a name marks its folder as a database server's, or NULL. */
const char *server_marker(const char *name);

/* ---- save_dirty.c ---- */
int dirty_run(struct save *s, const struct dirty_set *set, struct error *e);

/* ---- save_entry.c ---- */
/* st NULL: there is nothing. row NULL: nothing known. how: enum dirty_how; without DIRTY_TREE a
 * known folder is not listed. sides: side files of a database may be there. */
int entry_check(struct save *s, struct folder *f, const char *name, const struct stat *st,
                const struct known *row, unsigned how, bool sides, struct error *e);
/* What the row of a node says of its signature, which is kept as what differs from it. */
struct signature entry_like(const struct node_brief *b, uint64_t ino);
/* Cached signature of a row, as of this start. False: none. */
bool entry_signature(const struct save *s, const struct known *row, struct signature *out);

/* ---- save_names.c ---- */
int names_put(struct save *s, uint64_t parent, const char *name, uint64_t node, uint8_t type,
              bool new_node, struct error *e);
/* The name will lead elsewhere. */
int names_displace(struct save *s, uint64_t parent, const char *name, const struct known *row,
                   struct error *e);
int names_move(struct save *s, uint64_t node, uint8_t type, uint64_t parent, const char *name,
               struct error *e);
/* The name leads nowhere; done at the end, unless the node turns out to have moved. */
int names_gone(struct save *s, uint64_t parent, const char *name, const struct known *row,
               struct error *e);
bool names_removed(const struct save *s, uint64_t parent, const char *name);
/* How many names the node has by now. */
int names_count(struct save *s, uint64_t node, int64_t *count, struct error *e);
int names_finish(struct save *s, struct error *e);
/* A further name of a file that is read under another one; put when that one was there. */
int names_other(struct save *s, uint64_t node, uint64_t parent, const char *path, struct error *e);
bool names_take_other(struct save *s, uint64_t node,
                      struct other_name *out); /* caller frees path */
/* Nothing was found under the inode's first name: no further name may join the node. */
void names_unbind(struct save *s, const struct signature *sig, uint64_t node);

/* ---- save_version.c ---- */
/* A version that was compared: put it where it differs (then n is judged), keep its signature and
 * the fast hashes behind it. */
int version_take(struct save *s, uint64_t node, struct node *n, enum file_outcome outcome,
                 const uint8_t *old_meta, uint32_t old_meta_len, const struct signature *sig,
                 const struct buffer *hashes, struct error *e);
/* As version_take for what is no file: n is compared here. */
int version_compare(struct save *s, uint64_t node, struct node *n, const struct known *old,
                    const struct signature *sig, struct error *e);
int version_remove(struct save *s, uint64_t node, uint8_t type, uint8_t flags, uint64_t size,
                   struct error *e);
int version_begin(struct save *s, struct error *e);     /* load the times that wait */
int version_put_times(struct save *s, struct error *e); /* before a commit */
int version_unsound(struct save *s, bool *unsound, struct error *e);

/* ---- save_spoilt.c ---- */
/* A version of a file that differs from `old` (NULL: a new file): decide whether it is spoilt. */
int spoilt_judge(struct save *s, uint64_t node, struct node *n, const struct node_brief *old,
                 struct error *e);
/* Those that nothing has changed of: seven days later, or when the save was told that it is right,
 * they are no longer spoilt. `before`: how many the snapshot before holds. */
int spoilt_pardon(struct save *s, uint64_t before, struct error *e);

/* ---- save_batch.c ---- */
int batch_add(struct save *s, struct file_job *j, struct error *e); /* takes the job */
int batch_drain(struct save *s, struct error *e);
/* Start the threads, if that is not done; false: there are none to be had. */
bool batch_threads(struct save *s);
void batch_release(struct save *s); /* waits for the threads */
int save_retry(struct save *s, const char *path, struct error *e);

/* ---- save_guard.c ---- */
/* ERR_NOTFOUND: another folder stands where the root was, with nothing in it (a disk that is not
 * mounted); it is nobody's state. */
int guard_vacant(struct save *s, struct error *e);
/* Before the commit of c: freeze pruning when most files went at once. */
int guard_emptied(struct save *s, const struct commit *c, bool suspect, struct error *e);
/* The same when most files are no longer text, JSON or SQLite. */
int guard_scrambled(struct save *s, const struct commit *c, struct error *e);
/* After the save, `before` it: lift that freeze when the files are back, and that of a missing
 * root.
 */
void guard_refilled(struct save *s, const struct watch_row *before);

int save_no_memory(struct error *e);

#endif
