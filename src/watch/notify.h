/* notify.h - one inotify instance on the loop: reading its events, and the barrier.
 *
 * libuv's own fs events hide IN_CLOSE_WRITE, rename cookies and IN_Q_OVERFLOW, so the descriptor is
 * ours, under uv_poll_t. It is read until it is empty, with a bound for each turn of the loop.
 * Loop thread only. Facts: inotify(7). */
#ifndef WK_WATCH_NOTIFY_H
#define WK_WATCH_NOTIFY_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/inotify.h>
#include <uv.h>

struct notify;

struct notify_event {
    int wd;
    uint32_t mask, cookie;
    const char *name; /* of the entry in the folder, "" when the event is about the folder */
};

/* In order of firing. */
struct notify_calls {
    void (*event)(void *ctx, const struct notify_event *event);
    void (*overflow)(void *ctx);         /* the queue was full: any event may be lost */
    void (*turn)(void *ctx, bool empty); /* after the events of one turn; is the queue empty now? */
};

/* ERR_FAILED when there are no instances left (fs.inotify.max_user_instances), ... */
int notify_open(uv_loop_t *loop, const struct notify_calls *calls, void *ctx, struct notify **out,
                struct error *e);
/* Freed when the loop has closed its handle. Barriers that wait are forgotten. NULL is fine. */
void notify_close(struct notify *n);

/* Watch the folder that fd is open on (an O_PATH descriptor will do). The watch descriptor, or a
 * negative errno. A folder that is watched already gives the same descriptor again. */
int notify_add(struct notify *n, int fd, uint32_t mask);
/* Watch what stands at a path, a symbolic link itself too, in addition to what is asked of it. */
int notify_add_entry(struct notify *n, const char *path, uint32_t mask);
void notify_remove(struct notify *n, int wd);

/* Read and deliver what is queued now, up to the bound of one turn. True: the queue is empty. */
bool notify_read(struct notify *n);
/* All of it, and a turn. */
void notify_drain(struct notify *n);
/* False: events are queued, as at the call before, and none has been read in between. */
bool notify_gets_on(struct notify *n);

/* ---- the barrier ----
 * A file is made in a folder of ours that the same instance watches. When its event is read, every
 * event from before has been delivered. */
struct notify_barrier {
    void (*passed)(void *ctx);
    void *ctx;
    uint64_t number; /* ours */
    struct notify_barrier *next;
};

/* Use this existing, private folder. */
int notify_barrier_folder(struct notify *n, const char *path, struct error *e);
/* passed fires once, from the loop, never from within this call; after an overflow too. When this
 * fails it never does. *b stays the caller's and must live until then. */
int notify_barrier_start(struct notify *n, struct notify_barrier *b, struct error *e);

#endif
