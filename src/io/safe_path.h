/* safe_path.h - opening things beneath a folder without ever following a link out of it.
 *
 * openat2(2) with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS. Paths may be
 * longer than PATH_MAX: they are walked in pieces. rel is relative, "" or "." is base itself.
 * A link or a ".." that leads out is ERR_REFUSED; errors carry the path. */
#ifndef WK_IO_SAFE_PATH_H
#define WK_IO_SAFE_PATH_H

#include "base/error.h"

#include <sys/stat.h>
#include <sys/types.h>

/* Open beneath basefd; returns an fd (O_CLOEXEC always set) or a negative code. */
int safe_open(int basefd, const char *rel, int flags, mode_t mode, struct error *e);

/* Open the parent folder of rel (O_PATH|O_DIRECTORY); *name points into rel at the last part.
 * ERR_USAGE when that is empty, "." or "..". */
int safe_open_parent(int basefd, const char *rel, const char **name, struct error *e);

/* lstat beneath basefd. */
int safe_stat(int basefd, const char *rel, struct stat *st, struct error *e);

/* Open any absolute or relative path, also one longer than PATH_MAX (links are followed). The
 * result is an fd (O_CLOEXEC always set) or a negative code; with O_CREAT the mode is 0600. */
int long_path_open(const char *path, int flags, struct error *e);

/* Make a folder and its missing parents; an existing folder is fine. */
int make_dirs(const char *path, mode_t mode, struct error *e);

/* Remove a tree (or a file) beneath dirfd without following links; a missing one is fine. Folders
 * of ours that may not be written are made so. Uses one descriptor whatever the depth; a folder of
 * another file system mounted in the tree is an error. */
int remove_tree(int dirfd, const char *name, struct error *e);

#endif
