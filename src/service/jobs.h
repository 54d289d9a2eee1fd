/* jobs.h - a thread that does the work of the store, in order of rank.
 *
 * The loop thread only hands over. The service has one for what is short, and others for what takes
 * long (whole scans, verification), so that a small save never waits for them. A job is its owner's
 * memory from jobs_push until its `done` was called. */
#ifndef WK_SERVICE_JOBS_H
#define WK_SERVICE_JOBS_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

enum job_rank { /* lower goes first; equal ranks in order of arrival */
                JOB_SAVE,
                JOB_SCAN, /* saves of a whole tree */
                JOB_ARCHIVE,
                JOB_VERIFY,
                JOB_PRUNE,
                JOB_REBUILD,
                JOB_IDLE,
};

struct job {
    enum job_rank rank;
    /* A number that moves while the work gets on, beside the thread's own time; any thread, only
     * while it runs. NULL: that time alone tells. */
    uint64_t (*pulse)(struct job *job);
    void (*run)(struct job *job);  /* in the worker */
    void (*done)(struct job *job); /* in the loop, afterwards; may free the job */
    struct job *next;              /* ours */
};

struct jobs;
/* background: at lower priority for processor and disk. */
int jobs_open(uv_loop_t *loop, bool background, struct jobs **out, struct error *e);
void jobs_push(struct jobs *j, struct job *job);
/* Neither a job at work, nor waiting, nor one whose `done` is to come. */
bool jobs_quiet(const struct jobs *j);
#define JOBS_NONE_AT_WORK UINT64_MAX
/* For how long the job at work has not got on, as far as earlier calls can tell. A
 * thread that computes, or a job whose pulse moves, gets on, and so does all while a capture helper
 * computes; one that waits for a lock or for a disk does not. Loop thread. */
uint64_t jobs_silent_ms(struct jobs *j, uint64_t now_ns);
/* Wait for the job at work; jobs that wait are dropped without a call. The loop then has a handle
 * to close. NULL is fine. */
void jobs_close(struct jobs *j);

#endif
