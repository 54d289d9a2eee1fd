/* Where a restore goes, and how it gets there.
 *
 * A target that is missing or empty is replaced by one rename of a scratch folder that stood beside
 * it. Where that cannot be (the target holds things, is a mount point, the root of something or our
 * own working folder, is reached by a link, or its parent may not be written), the scratch folder
 * stands inside the target and its entries are moved one by one (restore_merge.c).
 *
 * A scratch folder is locked (flock) while it is in use, so that one left by a killed restore is
 * known and removed by the next. One that holds what had to make way is never removed unasked. */
#include "snapshot/restore_job.h"
#include "snapshot/rules.h"

#include "base/log.h"
#include "base/random.h"
#include "base/text.h"
#include "io/fileops.h"
#include "io/safe_path.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

#define SCRATCH_PREFIX RESTORE_SCRATCH_PREFIX
#define SCRATCH_INSIDE ".in" /* ends the name of one that stands inside its target */
#define SCRATCH_LIVE ".live" /* the same of a restore in place: what made way in it was saved */
#define SCRATCH_NEW "new"
#define SCRATCH_OLD "old"

enum { QUOTE_MAX = 256, SCRATCH_TRIES = 16, SCRATCH_DIGITS = 12 };

static int fail(struct error *e, int sys, const char *what, const char *path)
{
    char quoted[QUOTE_MAX];

    error_sys(e, sys, "cannot %s '%s'", what, text_escape(path, quoted, sizeof(quoted)));
    return error_path(e, path);
}

static int refuse(struct error *e, const char *path, const char *why)
{
    char quoted[QUOTE_MAX];

    error_set(e, ERR_REFUSED, "target '%s' %s", text_escape(path, quoted, sizeof(quoted)), why);
    return error_path(e, path);
}

/* ---- scratch folders ---- */

static bool is_scratch_name(const char *name, bool *inside)
{
    size_t n = strlen(SCRATCH_PREFIX);

    if (strncmp(name, SCRATCH_PREFIX, n) != 0 ||
        strspn(name + n, "0123456789abcdef") != SCRATCH_DIGITS)
        return false;
    *inside = strcmp(name + n + SCRATCH_DIGITS, SCRATCH_INSIDE) == 0;
    return *inside || name[n + SCRATCH_DIGITS] == 0 ||
           strcmp(name + n + SCRATCH_DIGITS, SCRATCH_LIVE) == 0;
}

static bool folder_empty(int dirfd, const char *name)
{
    int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    bool empty = true;

    if (!d) {
        if (fd >= 0)
            close(fd);
        return fd < 0 && errno == ENOENT;
    }
    while (empty && (entry = readdir(d)) != NULL)
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    closedir(d);
    return empty;
}

/* Remove a scratch folder that nobody uses. */
static void remove_stale(int dirfd, const char *name, bool inside)
{
    struct error e = ERROR_INIT;
    struct stat st;

    int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return;
    if (fstat(fd, &st) == 0 && st.st_uid == geteuid() && flock(fd, LOCK_EX | LOCK_NB) == 0) {
        if (inside && !folder_empty(fd, SCRATCH_OLD))
            log_warn("'%s' is left from a restore that was cut off and holds what stood there"
                     " before; look at it, then remove it",
                     name);
        else
            remove_tree(dirfd, name, &e);
    }
    close(fd);
}

void restore_target_clear(int dirfd)
{
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    bool inside;

    if (!d) {
        if (fd >= 0)
            close(fd);
        return;
    }
    while ((entry = readdir(d)) != NULL) {
        if (is_scratch_name(entry->d_name, &inside))
            remove_stale(dirfd, entry->d_name, inside);
    }
    closedir(d);
}

/* Nothing inherited from the folder it stands in may colour what is made in it. */
static void make_plain(int fd)
{
    struct stat st;

    fileops->remove_xattr(fd, "system.posix_acl_default");
    fileops->remove_xattr(fd, "system.posix_acl_access");
    if (fstat(fd, &st) == 0 && st.st_gid != getegid() &&
        fileops->set_owner(fd, NULL, (uid_t)-1, getegid()) != 0)
        log_debug("scratch folder keeps the group of its parent");
    fileops->set_mode(fd, NULL, 0700);
}

/* Open and lock a folder just made; -1 when somebody who removes stale ones was faster. */
static int scratch_lock(int dirfd, const char *name)
{
    struct stat st;

    int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    bool taken = flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (taken || fstat(fd, &st) != 0 || st.st_nlink == 0) {
        close(fd);
        return -1;
    }
    make_plain(fd);
    return fd;
}

/* Make a scratch folder in dirfd. 0 or an errno. */
static int scratch_make(struct restore_target *t, int dirfd)
{
    uint8_t bytes[SCRATCH_DIGITS / 2];
    char digits[SCRATCH_DIGITS + 1];

    for (int i = 0; i < SCRATCH_TRIES; i++) {
        random_bytes(bytes, sizeof(bytes));
        text_hex(bytes, sizeof(bytes), digits);
        snprintf(t->scratch_name, sizeof(t->scratch_name), SCRATCH_PREFIX "%s%s", digits,
                 t->live     ? SCRATCH_LIVE
                 : t->inside ? SCRATCH_INSIDE
                             : "");
        if (fileops->mkdirat(dirfd, t->scratch_name, 0700) != 0) {
            if (errno == EEXIST)
                continue;
            return errno;
        }
        t->scratch = scratch_lock(dirfd, t->scratch_name);
        if (t->scratch >= 0)
            return 0;
    }
    return EEXIST;
}

static int open_part(struct restore_target *t, const char *name, int *fd, struct error *e)
{
    if (fileops->mkdirat(t->scratch, name, 0700) != 0)
        return fail(e, errno, "make a folder in", t->scratch_name);
    *fd = safe_open(t->scratch, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, e);
    return *fd < 0 ? *fd : 0;
}

static int scratch_inside(struct restore_target *t, const char *target, struct error *e)
{
    t->inside = true;
    int sys = scratch_make(t, t->folder);
    if (sys != 0)
        return fail(e, sys, "write to target", target);
    int rc = open_part(t, SCRATCH_NEW, &t->tree, e);
    return rc != 0 ? rc : open_part(t, SCRATCH_OLD, &t->aside, e);
}

static int scratch_beside(struct restore_target *t)
{
    t->inside = false;
    int sys = scratch_make(t, t->parent);
    if (sys == 0)
        t->tree = t->scratch;
    return sys;
}

/* ---- the target ---- */

/* "a/b/" -> "a" and "b". The caller frees both. */
static int split(const char *target, char **parent, char **name, struct error *e)
{
    size_t len = strlen(target);

    while (len > 1 && target[len - 1] == '/')
        len--;
    size_t at = len;
    while (at > 0 && target[at - 1] != '/')
        at--;
    size_t up = at;
    while (up > 1 && target[up - 1] == '/')
        up--;
    *parent = up > 0 ? strndup(target, up) : strdup(".");
    *name = strndup(target + at, len - at);
    if (*parent && *name)
        return 0;
    free(*parent);
    free(*name);
    *parent = *name = NULL;
    return error_set(e, ERR_FAILED, "out of memory");
}

static bool plain_name(const char *name)
{
    return *name && strcmp(name, "/") != 0 && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static bool is_mount_point(int fd)
{
    struct statx x;

    return statx(fd, "", AT_EMPTY_PATH, STATX_INO, &x) == 0 &&
           (x.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

bool restore_same_mount(int a, int b)
{
    struct statx x, y;

    if (statx(a, "", AT_EMPTY_PATH, STATX_INO | STATX_MNT_ID, &x) != 0 ||
        statx(b, "", AT_EMPTY_PATH, STATX_INO | STATX_MNT_ID, &y) != 0)
        return false;
    if (x.stx_mask & y.stx_mask & STATX_MNT_ID && x.stx_mnt_id != y.stx_mnt_id)
        return false;
    return x.stx_dev_major == y.stx_dev_major && x.stx_dev_minor == y.stx_dev_minor;
}

/* Whether the empty target can make way for a folder renamed over it. */
static bool can_replace(const struct restore_target *t)
{
    struct stat target, named, parent, here;

    if (t->parent < 0 || !plain_name(t->name) || fstat(t->folder, &target) != 0 ||
        fstatat(t->parent, t->name, &named, AT_SYMLINK_NOFOLLOW) != 0 ||
        fstat(t->parent, &parent) != 0)
        return false;
    if (named.st_dev != target.st_dev || named.st_ino != target.st_ino ||
        parent.st_dev != target.st_dev || is_mount_point(t->folder))
        return false;
    /* Whoever stands in it would be left in a folder that is gone. */
    return stat(".", &here) != 0 || here.st_dev != target.st_dev || here.st_ino != target.st_ino;
}

static int open_existing(const struct restore_request *req, bool single, struct restore_target *t,
                         struct error *e)
{
    restore_target_clear(t->folder);
    if (t->parent >= 0)
        restore_target_clear(t->parent);
    bool empty = folder_empty(t->folder, ".");
    if (!empty && !req->overwrite)
        return refuse(e, req->target, "is not empty; give --overwrite to restore over it");
    if (empty && !single && can_replace(t) && scratch_beside(t) == 0)
        return 0;
    return scratch_inside(t, req->target, e);
}

static int open_missing(const struct restore_request *req, bool single, struct restore_target *t,
                        struct error *e)
{
    struct stat st;

    if (!plain_name(t->name))
        return refuse(e, req->target, "is missing, and does not end in a name to make it by");
    if (fstatat(t->parent, t->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return refuse(e, req->target, "is a link that leads nowhere");
    restore_target_clear(t->parent);
    if (!single) {
        int sys = scratch_beside(t);
        return sys == 0 ? 0 : fail(e, sys, "make target", req->target);
    }
    if (fileops->mkdirat(t->parent, t->name, 0777) != 0)
        return fail(e, errno, "make target", req->target);
    t->made = true;
    t->folder = safe_open(t->parent, t->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, e);
    return t->folder < 0 ? t->folder : scratch_inside(t, req->target, e);
}

static int open_parent(const struct restore_request *req, struct restore_target *t, struct error *e)
{
    char *parent;
    bool missing = t->folder < 0;

    int rc = split(req->target, &parent, &t->name, e);
    if (rc != 0)
        return rc;
    if (missing)
        rc = make_dirs(parent, 0777, e);
    if (rc == 0) {
        t->parent = long_path_open(parent, O_RDONLY | O_DIRECTORY, e);
        /* Of an existing target the parent is wanted, not needed. */
        rc = t->parent < 0 && missing ? t->parent : 0;
    }
    free(parent);
    return rc;
}

int restore_target_open(const struct restore_request *req, bool single, struct restore_target *t,
                        struct error *e)
{
    *t = (struct restore_target){
        .parent = -1, .folder = -1, .into = -1, .scratch = -1, .tree = -1, .aside = -1};

    if (!req->target || !*req->target)
        return error_set(e, ERR_USAGE, "no target folder was given");
    t->folder = long_path_open(req->target, O_RDONLY | O_DIRECTORY, e);
    if (t->folder < 0 && e->sys == ENOTDIR)
        return refuse(e, req->target, "is not a folder");
    if (t->folder < 0 && e->sys != ENOENT)
        return t->folder;
    error_clear(e);
    int rc = open_parent(req, t, e);
    if (rc != 0)
        return rc;
    return t->folder >= 0 ? open_existing(req, single, t, e) : open_missing(req, single, t, e);
}

/* Whether another restore in place is at work in this root: its scratch folder is locked. */
static bool other_at_work(const struct restore_target *t)
{
    int fd = openat(t->folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    bool inside, found = false;

    if (!d) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    while (!found && (entry = readdir(d)) != NULL) {
        const char *name = entry->d_name;
        if (!is_scratch_name(name, &inside) || strcmp(name, t->scratch_name) == 0 ||
            !strstr(name, SCRATCH_LIVE))
            continue;
        int other = openat(t->folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        found = other >= 0 && flock(other, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
        if (other >= 0)
            close(other);
    }
    closedir(d);
    return found;
}

int restore_target_live(int folder, const char *path, struct restore_target *t, struct error *e)
{
    *t = (struct restore_target){.parent = -1,
                                 .folder = -1,
                                 .into = -1,
                                 .scratch = -1,
                                 .tree = -1,
                                 .aside = -1,
                                 .live = true};
    t->folder = safe_open(folder, "", O_RDONLY | O_DIRECTORY, 0, e);
    if (t->folder < 0)
        return t->folder;
    restore_target_clear(t->folder);
    int rc = scratch_inside(t, path, e);
    /* After ours stands, so that of two that begin at once one sees the other. */
    if (rc == 0 && other_at_work(t))
        rc = error_set(e, ERR_BUSY, "another restore in place is at work there");
    return rc;
}

/* ---- putting in place ---- */

static int rename_new(struct restore_target *t)
{
    struct stat st;

    if (fileops->renameat2(t->parent, t->scratch_name, t->parent, t->name, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return errno;
    /* This file system knows no NOREPLACE. */
    if (fstatat(t->parent, t->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return EEXIST;
    return fileops->renameat2(t->parent, t->scratch_name, t->parent, t->name, 0) == 0 ? 0 : errno;
}

/* The tree stands under the target's name now. */
static int placed(struct restore_target *t, struct error *e)
{
    t->placed = true;
    if (t->tree == t->scratch)
        t->tree = -1;
    close(t->scratch);
    t->scratch = -1;
    return dir_sync(t->parent, e);
}

int restore_target_place(struct restore_job *j, struct restore_target *t, struct error *e)
{
    int sys;

    if (t->inside) {
        t->placed = true;
        return restore_merge(j, t, e);
    }
    if (t->folder < 0) {
        sys = rename_new(t);
        if (sys == EEXIST || sys == ENOTEMPTY)
            return refuse(e, j->req->target, "appeared while the restore ran");
        return sys == 0 ? placed(t, e) : fail(e, sys, "put in place target", j->req->target);
    }
    sys = fileops->renameat2(t->parent, t->scratch_name, t->parent, t->name, 0) == 0 ? 0 : errno;
    if (sys == 0)
        return placed(t, e);
    if (sys == ENOTEMPTY || sys == EEXIST)
        return refuse(e, j->req->target, "was filled by somebody while the restore ran");
    /* A mount point after all, or somebody's root: fill it instead. */
    t->placed = true;
    return restore_merge(j, t, e);
}

void restore_target_close(struct restore_target *t)
{
    struct error ignored = ERROR_INIT;

    if (t->tree >= 0 && t->tree != t->scratch)
        close(t->tree);
    if (t->aside >= 0)
        close(t->aside);
    if (t->scratch >= 0) {
        if (remove_tree(t->inside ? t->folder : t->parent, t->scratch_name, &ignored) != 0)
            log_warn("%s", ignored.message);
        close(t->scratch);
    }
    if (t->made && !t->placed)
        fileops->unlinkat(t->parent, t->name, AT_REMOVEDIR);
    t->tree = t->aside = t->scratch = -1;
    t->made = false;
}
