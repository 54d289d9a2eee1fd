/* requests.h - one request on the control socket while it is worked on (requests*.c only).
 *
 * requests.c tells the commands apart and answers those that only read, in the loop's threads with
 * handles of their own; request_save.c saves; request_store.c verifies, rebuilds and pins,
 * request_prune.c prunes, request_archive.c archives, as jobs; request_record.c keeps the record of
 * a restore in place. */
#ifndef WK_SERVICE_REQUESTS_H
#define WK_SERVICE_REQUESTS_H

#include "service/supervisor.h"

#include <jansson.h>

/* Each takes the peer over and answers it, then or later. */
void request_save(struct service *s, struct peer *peer, enum control_right right,
                  const json_t *request);
void request_verify(struct service *s, struct peer *peer, const json_t *request);
void request_archive(struct service *s, struct peer *peer, const json_t *request);
void request_rebuild(struct service *s, struct peer *peer);
void request_record(struct service *s, struct peer *peer, const json_t *request);
void request_pin(struct service *s, struct peer *peer, const json_t *request); /* and unpin */
void request_prune(struct service *s, struct peer *peer, const json_t *request);

/* A text of the request, NULL where it is absent or null. */
const char *request_text(const json_t *request, const char *key);
/* A whole number >= 0, or what is given for absent. */
uint64_t request_number(const json_t *request, const char *key, uint64_t absent);

/* An error line, then a summary with its exit code; ends the peer. */
void request_failed(struct peer *peer, const struct error *e);
/* {"type":"summary","exit":0}; ends the peer. */
void request_done(struct peer *peer);

/* Lines of progress while something is at work. */
struct request_progress {
    uv_timer_t timer;
    struct peer *peer;
    json_t *(*line)(void *ctx); /* NULL: nothing to tell now */
    void *ctx;
    void (*closed)(void *ctx);
};
/* Also where no progress is wanted (then nothing is told): request_progress_end always frees. */
void request_progress_start(struct service *s, struct request_progress *p, bool wanted);
/* closed fires from the loop; only then may the memory go. */
void request_progress_end(struct request_progress *p, void (*closed)(void *ctx));

#endif
