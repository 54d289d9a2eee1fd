/* program.h - run the program `watchkeep` as a child and read what it prints. */
#ifndef WK_LIB_PROGRAM_H
#define WK_LIB_PROGRAM_H

#include "base/error.h"

/* One line of its stdout (from_stderr 0) or stderr, without the newline. */
typedef void (*program_line)(void *ctx, int from_stderr, const char *line, size_t len);

/* args: the arguments behind the program's name, NULL-terminated. Returns when the child has closed
 * both streams and ended. *exit_code is -1 where it cannot be known (the caller's program ignores
 * SIGCHLD). ERR_FAILED: there is no such program, or it was killed. */
int program_run(const char *const *args, program_line line, void *ctx, int *exit_code,
                struct error *e);

#endif
