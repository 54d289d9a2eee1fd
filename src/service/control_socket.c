#include "service/control_socket.h"

#include "io/safe_path.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

enum { BACKLOG = 128, GROUP_BYTES = 16 * 1024 };

int control_address(const char *path, struct sockaddr_un *addr, struct error *e)
{
    size_t n = strlen(path);

    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (n >= sizeof(addr->sun_path))
        return error_set(e, ERR_USAGE,
                         "the socket path '%s' is longer than the %zu bytes that a socket may have",
                         path, sizeof(addr->sun_path) - 1);
    memcpy(addr->sun_path, path, n + 1);
    return 0;
}

static int find_group(struct control_socket *s, const char *name, struct error *e)
{
    struct group entry, *found = NULL;
    char *text;

    s->has_group = false;
    if (!name || !*name)
        return 0;
    text = malloc(GROUP_BYTES);
    int sys = text ? getgrnam_r(name, &entry, text, GROUP_BYTES, &found) : ENOMEM;
    if (found) {
        s->group = found->gr_gid;
        s->has_group = true;
    }
    free(text);
    return found ? 0
                 : error_set(e, ERR_USAGE, "there is no group '%s'%s%s", name, sys ? ": " : "",
                             sys ? strerror(sys) : "");
}

/* Open the socket's folder, making it (and only it; then its parents as root makes them). */
static int open_folder(const char *path, bool shared, struct error *e)
{
    char *folder = strdup(path);
    char *slash = folder ? strrchr(folder, '/') : NULL;

    if (!slash) {
        free(folder);
        return error_set(e, ERR_USAGE, "the socket path '%s' is not absolute", path);
    }
    *(slash == folder ? slash + 1 : slash) = 0;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        int rc = make_dirs(folder, shared ? 0755 : 0700, e);
        fd = rc == 0 ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : rc;
        if (rc == 0 && fd < 0)
            fd = error_sys(e, errno, "cannot open '%s'", folder);
    } else if (fd < 0) {
        fd = error_sys(e, errno, "cannot open '%s'", folder);
    }
    free(folder);
    return fd;
}

/* Is there a socket that nobody serves? Then remove it. The folder is locked meanwhile, so that
 * two that start at once do not remove each other's. */
static int clear_stale(const struct control_socket *s, struct error *e)
{
    struct stat st;

    if (lstat(s->addr.sun_path, &st) != 0)
        return errno == ENOENT ? 0 : error_sys(e, errno, "cannot look at '%s'", s->addr.sun_path);
    if (!S_ISSOCK(st.st_mode))
        return error_set(e, ERR_REFUSED, "'%s' is there and is no socket", s->addr.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_sys(e, errno, "cannot make a socket");
    int rc = connect(fd, (const struct sockaddr *)&s->addr, sizeof(s->addr));
    int sys = rc == 0 ? 0 : errno;
    close(fd);
    if (sys == ENOENT)
        return 0;
    if (sys != ECONNREFUSED)
        return error_set(
            e, ERR_BUSY,
            "a service is already running on '%s'; give this one another socket: 'socket' in "
            "[service], or WATCHKEEP_SERVICE_SOCKET",
            s->addr.sun_path);
    if (unlink(s->addr.sun_path) != 0 && errno != ENOENT)
        return error_sys(e, errno, "cannot remove the stale socket '%s'", s->addr.sun_path);
    return 0;
}

/* The file is made with no rights for others, then given those it shall have. */
static int bind_socket(struct control_socket *s, struct error *e)
{
    const char *path = s->addr.sun_path;
    struct stat st;
    mode_t before = umask(0177);
    int rc = bind(s->fd, (const struct sockaddr *)&s->addr, sizeof(s->addr));
    int sys = errno;

    umask(before);
    if (rc != 0)
        return error_sys(e, sys, "cannot make the socket '%s'", path);
    if (lstat(path, &st) != 0)
        return error_sys(e, errno, "cannot look at '%s'", path);
    s->dev = st.st_dev;
    s->ino = st.st_ino;
    if (s->has_group && lchown(path, (uid_t)-1, s->group) != 0)
        return error_sys(e, errno, "cannot give the socket '%s' to its group", path);
    if (s->has_group && chmod(path, 0660) != 0)
        return error_sys(e, errno, "cannot set the mode of the socket '%s'", path);
    if (listen(s->fd, BACKLOG) != 0)
        return error_sys(e, errno, "cannot listen on '%s'", path);
    return 0;
}

int control_socket_make(struct control_socket *s, const char *path, const char *group, uid_t owner,
                        struct error *e)
{
    *s = (struct control_socket){.fd = -1, .owner = owner};
    int rc = control_address(path, &s->addr, e);
    if (rc == 0)
        rc = find_group(s, group, e);
    if (rc != 0)
        return rc;
    int folder = open_folder(path, s->has_group || geteuid() == 0, e);
    if (folder < 0)
        return folder;
    flock(folder, LOCK_EX);
    rc = clear_stale(s, e);
    if (rc == 0) {
        s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        rc = s->fd >= 0 ? bind_socket(s, e) : error_sys(e, errno, "cannot make a socket");
    }
    close(folder);
    if (rc != 0) {
        control_socket_remove(s);
        control_socket_release(s);
    }
    return rc;
}

void control_socket_remove(struct control_socket *s)
{
    struct stat st;

    if (s->ino && lstat(s->addr.sun_path, &st) == 0 && st.st_dev == s->dev && st.st_ino == s->ino)
        unlink(s->addr.sun_path);
    s->ino = 0;
}

void control_socket_release(struct control_socket *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

/* Supplementary groups of the peer as they were when it connected. */
static bool peer_in_group(int fd, gid_t group)
{
    gid_t few[NGROUPS_MAX > 1024 ? 1024 : NGROUPS_MAX];
    gid_t *groups = few;
    socklen_t len = sizeof(few);
    bool in = false;

    int rc = getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, few, &len);
    if (rc != 0 && errno == ERANGE) {
        groups = malloc(len);
        rc = groups ? getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) : -1;
    }
    for (size_t i = 0; rc == 0 && i < len / sizeof(gid_t); i++)
        in = in || groups[i] == group;
    if (groups != few)
        free(groups);
    return in;
}

enum control_right control_socket_right(const struct control_socket *s, int fd)
{
    struct ucred who;
    socklen_t len = sizeof(who);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) != 0)
        return CONTROL_NONE;
    if (who.uid == 0 || who.uid == s->owner || who.uid == geteuid())
        return CONTROL_ALL;
    if (s->has_group && (who.gid == s->group || peer_in_group(fd, s->group)))
        return CONTROL_LOOK_AND_SAVE;
    return CONTROL_NONE;
}
