/* alert_program.h - run a program that is given a text on its standard input, and wait for it, but
 * not for long.
 *
 * No shell, no arguments, no search along PATH. It runs in a session of its own, with our
 * environment and our standard error; its output is thrown away, and no descriptor of ours is
 * passed on. The text lies in memory: one that does not read it holds up nobody. What is waited for
 * ends at the limit whatever the program does, also where the disk it lies on does not answer. */
#ifndef WK_SERVICE_ALERT_PROGRAM_H
#define WK_SERVICE_ALERT_PROGRAM_H

#include "base/error.h"

#include <stdint.h>

struct alert_program {
    const char *path; /* absolute */
    uint64_t limit_ms;
    int stop; /* a descriptor that is readable once it has to end within seconds, or -1 */
    int left; /* -1 at first; ours: one that could not be killed yet */
};

/* 0: it ended with exit code 0. ERR_CANCELLED: stopped. Else how it failed; beyond the limit it
 * was killed with all that is in its session. One that the kernel cannot kill yet (it waits for a
 * disk) is left alone, and no other is started while it is there. In a thread that may wait. */
int alert_program_run(struct alert_program *p, const char *text, struct error *e);
/* Forget what is left. */
void alert_program_release(struct alert_program *p);

#endif
