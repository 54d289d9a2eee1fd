/* helper_process.h - one capture helper as a child process: start it, ask it, end it.
 *
 * Not thread safe; the caller locks. */
#ifndef WK_CAPTURE_HELPER_PROCESS_H
#define WK_CAPTURE_HELPER_PROCESS_H

#include "base/error.h"
#include "capture/helper_protocol.h"

#include <sys/types.h>

struct helper_process {
    _Atomic pid_t pid; /* 0: none; may be read by any thread */
    int pidfd, sock;
    uint8_t message[HELPER_MESSAGE_MAX]; /* the last reply's bytes */
};

void helper_process_init(struct helper_process *p);
/* Kill and reap; nothing when none runs. */
void helper_process_end(struct helper_process *p);

/* Ask, starting `program` when no helper runs (or the one there was has died meanwhile). The
 * reply's texts live until the next call. ERR_FAILED when the helper cannot be started, died, or
 * was silent for limit_ms; it is then ended, and the next call starts another. The reply's own code
 * is the caller's to look at. */
int helper_process_ask(struct helper_process *p, const char *program,
                       const struct helper_request *q, uint64_t limit_ms,
                       struct helper_reply *reply, struct error *e);

/* Grows while some helper that is waited for gets on with a long request. Any thread. */
uint64_t helper_process_beats(void);

#endif
