/* control.h - the control socket's server: who may ask, requests in, replies out (protocol.h).
 *
 * Knows lines and rights, not commands. Loop thread only. */
#ifndef WK_SERVICE_CONTROL_H
#define WK_SERVICE_CONTROL_H

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>
#include <sys/un.h>
#include <uv.h>

struct control;
struct peer;

enum control_right { /* each holds those before it */
                     CONTROL_NONE,
                     CONTROL_LOOK_AND_SAVE, /* the configured group */
                     CONTROL_ALL,           /* root, the repository's owner, our own user */
};

struct control_options {
    const char *path;
    const char *group; /* "" or NULL: none */
    uid_t owner;       /* of the repository */
    /* One whole request, borrowed. The peer stays valid until peer_end, also when the other side
     * has gone. A peer with no right at all never gets here. */
    void (*request)(void *ctx, struct peer *peer, enum control_right right, const json_t *request);
    /* Whether the work gets on: while it does not, peers that wait are told nothing. NULL: it does.
     */
    bool (*working)(void *ctx);
    void *ctx;
};

/* Fill *addr; ERR_USAGE when the path does not fit into a socket address. */
int control_address(const char *path, struct sockaddr_un *addr, struct error *e);

/* Make the socket (its folder too, where it is missing), remove a stale one, listen.
 * ERR_BUSY: a service is running there; ERR_USAGE: path or group cannot be; ERR_DENIED; ... */
int control_open(uv_loop_t *loop, const struct control_options *opt, struct control **out,
                 struct error *e);
/* Take no more connections. Those that have asked are answered. */
void control_stop(struct control *c);
/* Remove the socket and drop every peer. Freed when the loop has closed its handles; no peer may
 * be used any more. NULL is fine. */
void control_close(struct control *c);

/* Send a line: takes the reference; NULL is told as lack of memory, one longer than 64 MiB as such.
 * What is sent to a peer that has
 * gone, or that does not read, is dropped. */
void peer_line(struct peer *p, json_t *line);
/* The last line has been sent: close when it has been read. The peer is invalid after this. */
void peer_end(struct peer *p);
/* peer_line with an error object, then peer_end. */
void peer_fail(struct peer *p, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
