/* restore.h - bring a snapshot, or a path in it, back into a folder.
 *
 * Everything is written under a temporary sibling folder on worker threads, one syncfs, then put
 * in place by rename; with overwrite, entries replace what stands there one rename each. Nothing
 * is opened outside the target, no link is followed, nothing half-written has a final name. Order:
 * data, owner, user xattrs, mode, ACLs, capabilities, times; folders' modes and times last. */
#ifndef WK_SNAPSHOT_RESTORE_H
#define WK_SNAPSHOT_RESTORE_H

#include "base/error.h"
#include "store/repository.h"

#include <stdatomic.h>

struct restore_progress {
    atomic_uint_least64_t files_total, files_done, bytes_total, bytes_done;
};

struct restore_request {
    struct repo *repo;
    const struct snapshot_row *snapshot;
    const char *path;   /* inside the snapshot, "" or NULL = all of it. A single file or link is put
                           into the target under its own name */
    const char *target; /* folder; made (with parents) when missing */
    bool overwrite;     /* the target may hold things */
    unsigned workers;   /* 0 = processors, at most 4 */
    struct restore_progress *progress;
    const atomic_bool *cancel;
};

struct restore_problem {
    char *path, *reason;
};
struct restore_result {
    bool finished;         /* the tree was put in place, but for what problems name */
    uint64_t files, bytes; /* written; 0 when not finished */
    double seconds;
    struct restore_problem *problems; /* files that could not be restored, at most 1000 */
    size_t problem_count;
    uint64_t skipped; /* how many are not there because of problems */
    char **warnings;  /* what could not be set (owner without root, ...), at most 100 */
    size_t warning_count;
};

/* 0; ERR_DAMAGED: some content is damaged or lost: those files are not there (named in problems),
 * the rest is; ERR_INCOMPLETE: the same for what could not be read when it was saved; another code
 * when finished: entries that could not be made or put in place, the rest is there. When not
 * finished nothing was put in place (or all of it, and then could not be flushed), or with
 * overwrite only a part: ERR_REFUSED: target not empty; ERR_NOTFOUND: no such path; ERR_NOSPACE;
 * ERR_CANCELLED; ... The metadata of a folder restored goes to the target itself. */
int restore_run(const struct restore_request *req, struct restore_result *result, struct error *e);
void restore_result_release(struct restore_result *r);

/* Write one file's content to fd (for cat). *given (NULL: 0) is how many of its bytes are there
 * already, and grows: a second call goes on where the first one stopped. */
int restore_cat(struct repo *r, const struct snapshot_row *s, const char *path, int fd,
                uint64_t *given, struct error *e);

#endif
