#include "io/safe_path.h"

#include "base/buffer.h"
#include "base/safety.h"
#include "base/text.h"
#include "io/fileops.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum {
    PIECE_MAX = PATH_MAX - 1, /* without the NUL */
    QUOTE_MAX = 512,
    RACE_TRIES = 16,
    RESCAN_TRIES = 8,
    LIST_BYTES = 32768,
};

static const uint64_t beneath =
    SAFETY(BENEATH, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);

static int path_failed(struct error *e, int sys, const char *what, const char *path)
{
    char quoted[QUOTE_MAX];

    text_escape(path, quoted, sizeof(quoted));
    if (sys == ELOOP)
        error_set(e, ERR_REFUSED, "cannot %s '%s': a symbolic link is in the way", what, quoted);
    else if (sys == EXDEV)
        error_set(e, ERR_REFUSED, "cannot %s '%s': it leads out of its folder", what, quoted);
    else
        error_sys(e, sys, "cannot %s '%s'", what, quoted);
    e->sys = sys;
    return error_path(e, path);
}

/* ---- walking a path of any length ---- */

/* Open one piece; resolve 0 is the plain way, links followed. Returns an fd or -errno. */
static int open_piece(int dirfd, const char *piece, int flags, mode_t mode, uint64_t resolve)
{
    bool creates = (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;
    struct open_how how = {
        .flags = (uint64_t)(unsigned)flags, .mode = creates ? mode : 0, .resolve = resolve};
    int races = 0;

    for (;;) {
        int fd = resolve ? fileops->openat2(dirfd, piece, &how) : openat(dirfd, piece, flags, mode);
        if (fd >= 0)
            return fd;
        /* EAGAIN: a rename elsewhere raced with a ".." in the piece. */
        if (errno != EINTR && !(errno == EAGAIN && resolve && ++races < RACE_TRIES))
            return -errno;
    }
}

/* Where to cut so that the first piece fits: the index of a slash, or 0. */
static size_t cut_at(const char *path)
{
    size_t i = PIECE_MAX;

    while (i > 0 && path[i] != '/')
        i--;
    return i;
}

/* Open the n bytes of path. Returns an fd or -errno. */
static int walk(int basefd, const char *path, size_t n, int flags, mode_t mode, uint64_t resolve)
{
    char piece[PATH_MAX];
    int dir = basefd;
    int fd;

    while (n > PIECE_MAX) {
        size_t cut = cut_at(path);
        fd = -ENAMETOOLONG;
        if (cut > 0) {
            memcpy(piece, path, cut);
            piece[cut] = 0;
            fd = open_piece(dir, piece, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, resolve);
        }
        if (dir != basefd)
            close(dir);
        if (fd < 0)
            return fd;
        dir = fd;
        while (cut < n && path[cut] == '/')
            cut++;
        path += cut;
        n -= cut;
    }
    memcpy(piece, path, n);
    piece[n] = 0;
    fd = open_piece(dir, n ? piece : ".", flags | O_CLOEXEC, mode, resolve);
    if (dir != basefd)
        close(dir);
    return fd;
}

int safe_open(int basefd, const char *rel, int flags, mode_t mode, struct error *e)
{
    int fd = walk(basefd, rel, strlen(rel), flags, mode, beneath);

    return fd >= 0 ? fd : path_failed(e, -fd, "open", rel);
}

int safe_open_parent(int basefd, const char *rel, const char **name, struct error *e)
{
    char quoted[QUOTE_MAX];
    const char *slash = strrchr(rel, '/');
    const char *last = slash ? slash + 1 : rel;

    if (!*last || strcmp(last, ".") == 0 || strcmp(last, "..") == 0) {
        error_set(e, ERR_USAGE, "'%s' does not end in a name",
                  text_escape(rel, quoted, sizeof(quoted)));
        return error_path(e, rel);
    }
    /* The slash stays, so that an absolute path is refused, not taken for a name in base. */
    int fd = walk(basefd, rel, (size_t)(last - rel), O_PATH | O_DIRECTORY, 0, beneath);
    if (fd < 0)
        return path_failed(e, -fd, "open the folder of", rel);
    *name = last;
    return fd;
}

int safe_stat(int basefd, const char *rel, struct stat *st, struct error *e)
{
    int rc = 0;
    int fd = walk(basefd, rel, strlen(rel), O_PATH | O_NOFOLLOW, 0, beneath);

    if (fd < 0)
        return path_failed(e, -fd, "look at", rel);
    if (fstat(fd, st) != 0)
        rc = path_failed(e, errno, "look at", rel);
    close(fd);
    return rc;
}

int long_path_open(const char *path, int flags, struct error *e)
{
    int fd = *path ? walk(AT_FDCWD, path, strlen(path), flags, 0600, 0) : -ENOENT;

    return fd >= 0 ? fd : path_failed(e, -fd, "open", path);
}

/* ---- making folders ---- */

/* Open the folder name in dirfd, making it where it is missing. Returns an fd or -errno. */
static int enter_or_make(int dirfd, const char *name, mode_t mode)
{
    int flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    int fd = open_piece(dirfd, name, flags, 0, 0);

    if (fd != -ENOENT)
        return fd;
    if (fileops->mkdirat(dirfd, name, mode) != 0 && errno != EEXIST)
        return -errno;
    return open_piece(dirfd, name, flags, 0, 0);
}

int make_dirs(const char *path, mode_t mode, struct error *e)
{
    char name[NAME_MAX + 1];
    const char *at = path;
    int dir =
        *path == '/' ? open_piece(AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0, 0) : AT_FDCWD;

    if (!*path)
        return path_failed(e, ENOENT, "make the folder", path);
    for (;;) {
        at += strspn(at, "/");
        if (!*at || (dir < 0 && dir != AT_FDCWD))
            break;
        size_t n = strcspn(at, "/");
        int next = -ENAMETOOLONG;
        if (n <= NAME_MAX) {
            memcpy(name, at, n);
            name[n] = 0;
            next = enter_or_make(dir, name, mode);
        }
        if (dir >= 0)
            close(dir);
        dir = next;
        at += n;
    }
    if (dir >= 0)
        close(dir);
    else if (dir != AT_FDCWD)
        return path_failed(e, -dir, "make the folder", path);
    return 0;
}

/* ---- removing a tree ----
 *
 * The walk holds one open folder, the current one, and a stack with what is known of those above.
 * Going up opens ".." and checks that it is the folder it came from, so that a tree moved meanwhile
 * cannot lead it astray. */

struct level {
    char *name;         /* in the folder above */
    struct buffer subs; /* folders found in it, each NUL-terminated */
    size_t next;        /* the first of them not yet removed */
    dev_t dev;
    ino_t ino;
    unsigned rescans;
};

struct removal {
    int topfd; /* holds the tree; the caller's */
    int fd;    /* the current folder */
    struct level *levels;
    size_t depth;
    size_t cap;
};

/* The kernel's record, see getdents64(2). */
static int remove_entry(struct removal *r, struct level *level, const struct dirent64 *entry)
{
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
        return 0;
    if (entry->d_type != DT_DIR) {
        if (fileops->unlinkat(r->fd, entry->d_name, 0) == 0 || errno == ENOENT)
            return 0;
        if (errno != EISDIR)
            return -errno;
    }
    buffer_append(&level->subs, entry->d_name, strlen(entry->d_name) + 1);
    return buffer_ok(&level->subs) ? 0 : -ENOMEM;
}

/* Remove what is no folder from the current one and note its folders. */
static int remove_entries(struct removal *r, struct level *level)
{
    _Alignas(struct dirent64) char list[LIST_BYTES];

    for (;;) {
        ssize_t n = getdents64(r->fd, list, sizeof(list));
        if (n <= 0)
            return n < 0 ? -errno : 0;
        for (ssize_t at = 0; at < n;) {
            const struct dirent64 *entry = (const void *)(list + at);
            int rc = remove_entry(r, level, entry);
            if (rc != 0)
                return rc;
            at += entry->d_reclen;
        }
    }
}

static struct level *push(struct removal *r, const char *name)
{
    if (r->depth == r->cap) {
        size_t cap = r->cap ? 2 * r->cap : 16;
        struct level *levels = reallocarray(r->levels, cap, sizeof(*levels));
        if (!levels)
            return NULL;
        r->levels = levels;
        r->cap = cap;
    }
    struct level *level = &r->levels[r->depth];
    *level = (struct level){.name = strdup(name)};
    if (!level->name)
        return NULL;
    r->depth++;
    return level;
}

static void pop(struct removal *r)
{
    struct level *level = &r->levels[--r->depth];

    free(level->name);
    buffer_release(&level->subs);
}

static int open_folder(int dirfd, const char *name)
{
    int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    uint64_t resolve = beneath | RESOLVE_NO_XDEV;
    int fd = open_piece(dirfd, name, flags, 0, resolve);

    if (fd == -EACCES && fileops->set_mode(dirfd, name, 0700) == 0)
        fd = open_piece(dirfd, name, flags, 0, resolve);
    return fd;
}

/* Go down into name, a folder in dirfd, and clear it. */
static int enter(struct removal *r, int dirfd, const char *name, unsigned rescans)
{
    struct stat st;

    int fd = open_folder(dirfd, name);
    if (fd < 0)
        return fd;
    struct level *level = push(r, name);
    if (r->fd != r->topfd)
        close(r->fd);
    r->fd = fd;
    if (!level)
        return -ENOMEM;
    if (fstat(fd, &st) != 0)
        return -errno;
    level->dev = st.st_dev;
    level->ino = st.st_ino;
    level->rescans = rescans;
    if ((st.st_mode & 0700) != 0700)
        fileops->set_mode(fd, NULL, 0700); /* where it may not, the removal below says so */
    return remove_entries(r, level);
}

/* Go up to the folder above the current one. */
static int leave(struct removal *r)
{
    struct stat st;
    int up = r->topfd;
    int rc = 0;

    if (r->depth > 1) {
        const struct level *above = &r->levels[r->depth - 2];
        up = open_piece(r->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, 0);
        if (up < 0)
            return up;
        if (fstat(up, &st) != 0)
            rc = -errno;
        else if (st.st_dev != above->dev || st.st_ino != above->ino)
            rc = -ESTALE;
    }
    if (r->fd != r->topfd)
        close(r->fd);
    r->fd = up;
    return rc;
}

/* The current folder has no folders left: go up and remove it. Somebody may have put something into
 * it meanwhile, or the file system may have hidden an entry while others went; look again. */
static int finish(struct removal *r)
{
    struct level *level = &r->levels[r->depth - 1];
    int rc = leave(r);

    if (rc != 0)
        return rc;
    char *name = level->name;
    unsigned rescans = level->rescans;
    level->name = NULL;
    pop(r);
    if (fileops->unlinkat(r->fd, name, AT_REMOVEDIR) != 0 && errno != ENOENT) {
        rc = -errno;
        if (rc == -ENOTEMPTY && rescans < RESCAN_TRIES)
            rc = enter(r, r->fd, name, rescans + 1);
    }
    free(name);
    return rc;
}

static int remove_folder(int dirfd, const char *name)
{
    struct removal r = {.topfd = dirfd, .fd = dirfd};
    int rc = enter(&r, dirfd, name, 0);

    while (rc == 0 && r.depth > 0) {
        struct level *level = &r.levels[r.depth - 1];
        if (level->next == level->subs.len) {
            rc = finish(&r);
            continue;
        }
        const char *sub = (const char *)level->subs.data + level->next;
        level->next += strlen(sub) + 1;
        rc = enter(&r, r.fd, sub, 0);
        if (rc == -ENOENT)
            rc = 0;
    }
    while (r.depth > 0)
        pop(&r);
    if (r.fd != r.topfd)
        close(r.fd);
    free(r.levels);
    return rc;
}

int remove_tree(int dirfd, const char *name, struct error *e)
{
    const char *last;
    int rc = 0;

    int parent = safe_open_parent(dirfd, name, &last, e);
    if (parent < 0)
        return e->sys == ENOENT ? 0 : parent;
    if (fileops->unlinkat(parent, last, 0) != 0) {
        rc = -errno;
        if (rc == -EISDIR)
            rc = remove_folder(parent, last);
    }
    close(parent);
    return rc == 0 || rc == -ENOENT ? 0 : path_failed(e, -rc, "remove", name);
}
