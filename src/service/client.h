/* client.h - talk to a running service over its control socket (blocking; used by the CLI and the
 * library). */
#ifndef WK_SERVICE_CLIENT_H
#define WK_SERVICE_CLIENT_H

#include "base/error.h"

#include <jansson.h>

/* The socket path noted in the repository's `lock` while a service holds it; malloc'ed, or NULL. */
char *client_socket_of(const char *repo_path);

/* Send the request and give each reply line to `line`. 0, ERR_NOTFOUND: nothing listens there;
 * ERR_DENIED; ERR_FAILED: the service went away before its last line; or what line returned. */
typedef int (*client_line)(void *ctx, const json_t *line, struct error *e);
int client_request(const char *socket_path, const json_t *request, client_line line, void *ctx,
                   struct error *e);

#endif
