/* filesystem.h - what kind of file system a folder lies on, and when the table of mounts changes.
 */
#ifndef WK_WATCH_FILESYSTEM_H
#define WK_WATCH_FILESYSTEM_H

#include "base/error.h"

#include <uv.h>

/* The name of the network or FUSE file system that fd lies on, where changes made by others raise
 * no events; NULL for a local one. */
const char *filesystem_remote(int fd);

/* changed fires in the loop after something was mounted or unmounted anywhere. Freed when the loop
 * has closed its handle. */
struct mounts;
int mounts_open(uv_loop_t *loop, void (*changed)(void *ctx), void *ctx, struct mounts **out,
                struct error *e);
void mounts_close(struct mounts *m); /* NULL is fine */

/* A number that changes with the mounts at, above and below an absolute path. */
uint64_t mounts_around(const char *path);

#endif
