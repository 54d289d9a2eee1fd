/* control_socket.h - the control socket as a file, and what a peer's credentials allow (used by
 * control.c only). */
#ifndef WK_SERVICE_CONTROL_SOCKET_H
#define WK_SERVICE_CONTROL_SOCKET_H

#include "service/control.h"

#include <stdbool.h>

struct control_socket {
    int fd; /* listening */
    struct sockaddr_un addr;
    dev_t dev; /* of the file, so that nobody else's is removed */
    ino_t ino;
    uid_t owner;
    bool has_group;
    gid_t group;
};

/* As control_open. */
int control_socket_make(struct control_socket *s, const char *path, const char *group, uid_t owner,
                        struct error *e);
/* What the process at the other end of fd may do. */
enum control_right control_socket_right(const struct control_socket *s, int fd);
void control_socket_remove(struct control_socket *s);  /* the file, while it is ours */
void control_socket_release(struct control_socket *s); /* the descriptor */

#endif
