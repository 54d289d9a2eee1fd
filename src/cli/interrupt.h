/* interrupt.h - SIGINT, SIGTERM and SIGHUP for commands that have something to undo first. */
#ifndef WK_CLI_INTERRUPT_H
#define WK_CLI_INTERRUPT_H

#include <stdatomic.h>
#include <stdbool.h>

/* From now on the first signal sets the flag and the second ends the program. SIGHUP counts as
 * SIGTERM, but only once. */
const atomic_bool *interrupt_watch(void);

/* While we only wait for the service: a signal ends the program at once, with the summary line
 * when `json`. still: what the service goes on with, told on stderr; static text or NULL. */
void interrupt_at_once(bool at_once, bool json, const char *still);

/* 130 or 143 once a signal came, else 0. */
int interrupt_exit_code(void);

#endif
