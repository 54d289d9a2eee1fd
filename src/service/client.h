/* client.h - talk to a running service over its control socket (blocking; used by the CLI and the
 * library). */
#ifndef WK_SERVICE_CLIENT_H
#define WK_SERVICE_CLIENT_H

#include "base/error.h"

#include <jansson.h>
#include <stdint.h>

/* The socket path noted in the repository's `lock` while a service holds it; malloc'ed, or NULL. */
char *client_socket_of(const char *repo_path);

/* Send the request and give each reply line to `line`. wait_ms (taken as 2000 at least): how long
 * the service may be silent, in taking the connection and the request, and before each further sign
 * of life; work that gets on is never cut off. 0, ERR_NOTFOUND: nothing listens there; ERR_BUSY: it
 * was silent for longer; ERR_DENIED; ERR_FAILED: the service went away before its last line; or
 * what line returned. */
typedef int (*client_line)(void *ctx, const json_t *line, struct error *e);
int client_request(const char *socket_path, const json_t *request, uint64_t wait_ms,
                   client_line line, void *ctx, struct error *e);

/* The process that listens there; 0: none, or it takes no connection. */
int client_process(const char *socket_path);

#endif
