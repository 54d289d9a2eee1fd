/* kept_note.h - a JSON object of the loop's that survives a restart as a note in the catalog, where
 * a loss of it does no harm (used in src/service only).
 *
 * Written by a job of the store's thread; what has changed meanwhile is written after it. Loop
 * thread only. */
#ifndef WK_SERVICE_KEPT_NOTE_H
#define WK_SERVICE_KEPT_NOTE_H

#include "service/supervisor.h"

#include <jansson.h>

struct kept_note {
    struct service *service;
    const char *key; /* of the note; a literal */
    json_t *value;
    bool writing, changed; /* since what is written, or being written */
    struct job job;
    char *text; /* its */
};

/* value: an empty object. ERR_FAILED: no memory. */
int kept_note_open(struct kept_note *n, struct service *s, const char *key, struct error *e);
/* What the last run left, a new reference; NULL: nothing that can be read. Any thread, its own
 * handle. */
json_t *kept_note_read(struct catalog *c, const char *key);
/* The value has changed. now: write it; else the next time, or at the end. */
void kept_note_changed(struct kept_note *n, bool now);
/* No job is at work: write what is not. */
void kept_note_close(struct kept_note *n);

#endif
