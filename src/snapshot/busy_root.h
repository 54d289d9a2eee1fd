/* busy_root.h - which processes work with files beneath a folder.
 *
 * By /proc: open and mapped files, and where a process stands. A file counts by its path, or by
 * device and inode, so that one opened in a container under another name is found too. What may not
 * be looked at is counted. */
#ifndef WK_SNAPSHOT_BUSY_ROOT_H
#define WK_SNAPSHOT_BUSY_ROOT_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct busy_process {
    pid_t pid;
    char command[32]; /* printable */
    char path[512];   /* printable: the first file found */
    const char *how;  /* "has it open", "has it mapped", "works in it" */
};

struct busy_root {
    struct busy_process *list; /* at most 16 */
    size_t count;
    size_t total;
    size_t hidden; /* processes that could not be looked at */
};

/* `except`: a process that does not count, with its children (the service); 0: none. We and the
 * shells above us do not count for where they stand. */
int busy_root_look(const char *root, pid_t except, struct busy_root *out, struct error *e);
void busy_root_release(struct busy_root *b);

#endif
