/* event_text.h - events of status and list, as people read them. */
#ifndef WK_CLI_EVENT_TEXT_H
#define WK_CLI_EVENT_TEXT_H

#include <jansson.h>
#include <stddef.h>

/* The newest `max` of the array, a line each, with a heading after an empty line; nothing where
 * there are none. */
void print_events(const json_t *events, size_t max);

#endif
