/* scratch_file.h - a file with a short life in a folder of ours, that SQLite can open by name.
 *
 * The holder keeps a lock on it (one byte far behind SQLite's own), so that what a killed process
 * left can be told from what is in use. */
#ifndef WK_CAPTURE_SCRATCH_FILE_H
#define WK_CAPTURE_SCRATCH_FILE_H

#include "base/error.h"

#include <limits.h>

#define SCRATCH_PREFIX ".capture-"

struct scratch_file {
    int dirfd, fd;       /* fd: open for reading and writing, or -1 */
    char name[48];       /* in dirfd */
    char path[PATH_MAX]; /* absolute */
};

/* Make an empty file, mode 0600, in the folder dir; first remove what killed ones left there. */
int scratch_file_open(struct scratch_file *s, const char *dir, struct error *e);
/* Remove the names of the file and of its side files, and close what is still open. A caller that
 * wants to keep the descriptor takes it and leaves -1. */
void scratch_file_close(struct scratch_file *s);

#endif
