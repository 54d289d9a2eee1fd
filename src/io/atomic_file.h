/* atomic_file.h - replace a small file so that a reader, or a crash, sees the old or the new one.
 *
 * Temporary in the same folder, write, flush, rename, flush the folder; the failed step is named in
 * the error, the temporary is removed. A crash may leave one: ATOMIC_TEMP_PREFIX and 16 hex digits.
 * When only the last step failed, the new file is in place but may not survive a power loss. */
#ifndef WK_IO_ATOMIC_FILE_H
#define WK_IO_ATOMIC_FILE_H

#include "base/buffer.h"
#include "base/error.h"

#include <stddef.h>
#include <sys/types.h>

#define ATOMIC_TEMP_PREFIX ".wk-tmp-"

/* name is a single name in dirfd (an ordinary descriptor, not O_PATH). mode 0 means 0600; the umask
 * applies. */
int atomic_file_write(int dirfd, const char *name, const void *p, size_t n, mode_t mode,
                      struct error *e);

/* Whole content of a small file, at most max bytes (ERR_DAMAGED beyond). Appends to out. */
int small_file_read(int dirfd, const char *name, size_t max, struct buffer *out, struct error *e);

#endif
