/* Removing, in a restore in place, and what must stay. Whatever goes was found in base just before,
 * and is looked at once more: what is not as it was saved is somebody's newer work. */
#include "snapshot/restore_plan_live.h"

#include "base/text.h"
#include "io/fileops.h"
#include "io/safe_path.h"
#include "snapshot/save_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

/* ---- what may go ---- */

static bool as_saved(const struct node *n, const struct stat *st)
{
    if (node_format_of(n->type) != (st->st_mode & S_IFMT) ||
        n->flags & (NODE_UNREAD | NODE_CHANGING))
        return false;
    if (n->type != NODE_FILE || n->flags & NODE_SQLITE)
        return true;
    return n->size == (uint64_t)st->st_size && n->mtime_s == st->st_mtim.tv_sec &&
           n->mtime_ns == (uint32_t)st->st_mtim.tv_nsec;
}

/* The node that a snapshot of the live data has at a path below the root. */
static int node_of(struct live_plan *p, const struct snapshot_row *s, const char *path,
                   struct node *n, struct error *e)
{
    int64_t at = (int64_t)s->commit.number;
    struct buffer meta = BUFFER_INIT;
    uint64_t node;
    int rc = tree_find(p->cat, s->watch_serial, at, path, &node, e);

    if (rc == 0)
        rc = catalog_node(p->cat, s->watch_serial, node, at, &meta, e);
    if (rc == 0)
        rc = node_decode(meta.data, meta.len, n, e);
    buffer_release(&meta);
    return rc;
}

int live_base_node(struct live_plan *p, const char *path, struct node *n, struct error *e)
{
    path = live_at(p, p->into, path);
    return path ? node_of(p, p->req->base, path, n, e) : no_memory(e);
}

int live_may_go(struct live_plan *p, const char *path, const struct stat *st, struct error *e)
{
    const struct snapshot_row *base = p->req->base;
    struct node n;

    if (p->req->force)
        return 0;
    int rc = live_base_node(p, path, &n, e);
    if (rc == ERR_NOTFOUND)
        return error_set(e, ERR_REFUSED, "what stands there is not in safety snapshot %llu",
                         (unsigned long long)base->commit.number);
    if (rc != 0)
        return rc;
    if (!as_saved(&n, st))
        rc = error_set(e, ERR_REFUSED, "it changed since it was saved, just before the restore");
    node_release(&n);
    return rc;
}

int live_failed(struct restore_job *j, const char *path, struct error *e)
{
    const char *at = live_at(j->live, j->live->into, path);

    path = at ? at : path;
    if (restore_fatal(e->sys) || e->code == ERR_CATALOG)
        return restore_target_failed(j, path, e);
    restore_problem(j, path, e);
    error_clear(e);
    return 0;
}

const char *live_hint(int dirfd, const char *name, int sys)
{
    struct statx x;
    const uint64_t fixed = STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND;

    if (sys != EPERM)
        return NULL;
    if (statx(dirfd, name, AT_SYMLINK_NOFOLLOW, STATX_INO, &x) == 0 && (x.stx_attributes & fixed))
        return "it is immutable or append-only: chattr -i -a on it, then restore again";
    if (statx(dirfd, "", AT_EMPTY_PATH, STATX_INO, &x) == 0 && (x.stx_attributes & fixed))
        return "its folder is immutable or append-only: chattr -i -a on it, then restore again";
    return NULL;
}

/* ---- folders on the way ---- */

/* How the folder looked before a run that was cut off in it. */
static void look_before(struct live_plan *p, const char *path, bool of_root, struct live_kept *k)
{
    const char *at = of_root ? path : live_at(p, p->into, path);
    struct error ignored = ERROR_INIT;
    struct node n;

    if (!at || !p->req->before || node_of(p, p->req->before, at, &n, &ignored) != 0)
        return;
    if (n.type == NODE_FOLDER) {
        k->mode = n.mode;
        k->mtime = (struct timespec){.tv_sec = (time_t)n.mtime_s, .tv_nsec = (long)n.mtime_ns};
    }
    node_release(&n);
}

static int keep(struct live_plan *p, const char *path, bool of_root, const struct stat *st,
                struct error *e)
{
    for (size_t i = 0; i < p->kept_count; i++) {
        if (p->kept[i].of_root == of_root && strcmp(p->kept[i].path, path) == 0)
            return 0;
    }
    if (p->kept_count == p->kept_cap) {
        size_t cap = p->kept_cap ? 2 * p->kept_cap : 8;
        struct live_kept *v = reallocarray(p->kept, cap, sizeof(*v));
        if (!v)
            return no_memory(e);
        p->kept = v;
        p->kept_cap = cap;
    }
    p->kept[p->kept_count] =
        (struct live_kept){strdup(path), of_root, st->st_mode & 07777, st->st_mtim};
    if (!p->kept[p->kept_count].path)
        return no_memory(e);
    look_before(p, path, of_root, &p->kept[p->kept_count++]);
    return 0;
}

static int look_at_folder(int fd, struct stat *st, struct error *e)
{
    return fstat(fd, st) == 0 ? 0 : error_sys(e, errno, "cannot look at its folder");
}

int live_enter(struct live_plan *p, const char *path, int fd, struct error *e)
{
    struct stat st;
    int rc = look_at_folder(fd, &st, e);

    if (rc == 0 && live_where(p, path) == LIVE_BEFORE)
        rc = keep(p, path, false, &st, e);
    if (rc == 0)
        restore_let_write(fd, &st);
    return rc;
}

int live_enter_above(struct live_plan *p, const char *path, int fd, struct error *e)
{
    struct stat st;
    int rc = look_at_folder(fd, &st, e);

    if (rc == 0)
        rc = keep(p, path, true, &st, e);
    if (rc == 0)
        restore_let_write(fd, &st);
    return rc;
}

int live_mend(struct live_plan *p, const char *path, struct error *e)
{
    struct error ignored = ERROR_INIT;
    struct live_kept k = {0};
    struct stat st;

    if (!p->req->before || p->place < 0 || safe_stat(p->place, path, &st, &ignored) != 0)
        return 0;
    k.mode = st.st_mode & 07777;
    k.mtime = st.st_mtim;
    look_before(p, path, false, &k);
    bool same = k.mode == (st.st_mode & 07777) && k.mtime.tv_sec == st.st_mtim.tv_sec &&
                k.mtime.tv_nsec == st.st_mtim.tv_nsec;
    return same ? 0 : keep(p, path, false, &st, e);
}

/* Another's folder stands as the kernel left it; but a target that fails is told. */
static int give_back(int fd, const struct live_kept *k, struct error *e)
{
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, k->mtime};

    if (fileops->set_mode(fd, NULL, k->mode) == 0 && fileops->set_times(fd, NULL, times) == 0)
        return 0;
    return restore_fatal(errno) ? error_sys(e, errno, "cannot set the metadata of a folder") : 0;
}

int live_leave(struct live_plan *p, int place, struct error *e)
{
    struct error why = ERROR_INIT;
    int rc = 0;

    for (size_t i = p->kept_count; i-- > 0;) {
        const struct live_kept *k = &p->kept[i];
        int fd = safe_open(k->of_root ? p->rootfd : place, k->path,
                           O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK, 0, &why);
        if (fd < 0)
            continue; /* it went itself */
        if (give_back(fd, k, &why) != 0 && rc == 0) {
            *e = why;
            rc = error_path(e, k->path);
        }
        close(fd);
    }
    return rc;
}

/* ---- a folder to be made ---- */

/* Open the folder `name` in the one at `path`, made where it is missing. */
static int enter_or_make(struct live_plan *p, int above, const char *path, const char *name,
                         struct error *e)
{
    const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;
    int fd = safe_open(above, name, flags, 0, e);

    if (fd >= 0 || e->sys != ENOENT)
        return fd;
    error_clear(e);
    int rc = live_enter_above(p, path, above, e);
    if (rc != 0)
        return rc;
    if (fileops->mkdirat(above, name, 0777) != 0)
        return error_sys(e, errno, "cannot make the folder '%s'", name);
    return safe_open(above, name, flags, 0, e);
}

int live_make_place(struct live_plan *p, struct error *e)
{
    char *path = strdup(p->into), *name = path;
    int fd = path ? safe_open(p->rootfd, "", O_RDONLY | O_DIRECTORY, 0, e) : no_memory(e);

    while (fd >= 0 && *name) {
        char *end = name + strcspn(name, "/"), slash = *end;
        *end = 0;
        char *folder = name > path ? strndup(path, (size_t)(name - path) - 1) : strdup("");
        int next = folder ? enter_or_make(p, fd, folder, name, e) : no_memory(e);
        free(folder);
        close(fd);
        fd = next;
        *end = slash;
        name = end + (*end != 0);
    }
    free(path);
    return fd;
}

/* ---- a folder where a file is to come ---- */

static int known(struct live_plan *p, const char *path, struct error *e)
{
    const struct snapshot_row *base = p->req->base;
    uint64_t node;

    path = live_at(p, p->into, path);
    if (!path)
        return no_memory(e);
    int rc = tree_find(p->cat, base->watch_serial, (int64_t)base->commit.number, path, &node, e);

    if (rc == ERR_NOTFOUND) {
        error_clear(e);
        return 0;
    }
    return rc == 0 ? 1 : rc;
}

/* Whether everything in the folder was saved: 1, 0 or an error. */
static int all_known(struct live_plan *p, int rootfd, const char *folder, struct error *e)
{
    const struct dirent *entry;
    int yes = 1;

    int fd = safe_open(rootfd, folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, e);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        if (fd >= 0)
            close(fd);
        error_clear(e);
        return 0;
    }
    while (yes == 1 && (entry = readdir(d)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            (p->req->sqlite && database_side_file(fd, entry->d_name)))
            continue;
        char *path = text_format("%s/%s", folder, entry->d_name);
        yes = path ? known(p, path, e) : no_memory(e);
        free(path);
    }
    closedir(d);
    return yes;
}

/* ---- removing ---- */

static int cannot_remove(int dirfd, const char *name, int sys, struct error *e)
{
    const char *hint = live_hint(dirfd, name, sys);

    error_sys(e, sys, "cannot remove it");
    if (hint) {
        error_set(e, ERR_DENIED, "cannot remove it: %s", hint);
        e->sys = sys;
    }
    return e->code;
}

static void remove_sides(int dirfd, const char *name)
{
    static const char *const ends[] = {"-wal", "-journal", "-shm"};
    char side[NAME_MAX + 16];

    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        snprintf(side, sizeof(side), "%s%s", name, ends[i]);
        if (strlen(side) <= NAME_MAX)
            fileops->unlinkat(dirfd, side, 0); /* mostly there is none */
    }
}

static int remove_in(struct restore_job *j, const struct live_removal *r, int dirfd,
                     const char *name, struct error *e)
{
    struct live_plan *p = j->live;
    struct stat st;

    if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? 0 : cannot_remove(dirfd, name, errno, e);
    int rc = live_may_go(p, r->path, &st, e);
    if (rc != 0)
        return rc;
    if (fileops->unlinkat(dirfd, name, r->dir ? AT_REMOVEDIR : 0) != 0) {
        /* It holds what the rules leave out, or what stays for another reason. */
        if (r->dir && (errno == ENOTEMPTY || errno == EEXIST))
            return 0;
        return errno == ENOENT ? 0 : cannot_remove(dirfd, name, errno, e);
    }
    if (r->database)
        remove_sides(dirfd, name);
    return 0;
}

static int remove_one(struct restore_job *j, int rootfd, const struct live_removal *r,
                      struct error *e)
{
    char *folder = strdup(r->path);
    const char *name;
    int rc = folder ? 0 : no_memory(e);

    if (rc != 0)
        return rc;
    char *slash = strrchr(folder, '/');
    *(slash ? slash : folder) = 0;
    int dirfd = safe_open_parent(rootfd, r->path, &name, e);
    if (dirfd >= 0 && !restore_same_mount(rootfd, dirfd)) {
        rc = error_set(e, ERR_REFUSED,
                       "it is not removed, as it lies on another file system than the target and "
                       "could not be brought back");
        close(dirfd);
    } else if (dirfd >= 0) {
        rc = live_enter(j->live, folder, dirfd, e);
        if (rc == 0)
            rc = remove_in(j, r, dirfd, name, e);
        close(dirfd);
    } else if (e->code == ERR_NOTFOUND) {
        error_clear(e); /* gone with its folder */
    } else {
        rc = dirfd;
    }
    free(folder);
    return rc == 0 ? 0 : live_failed(j, r->path, e);
}

static bool lies_in(const char *path, const char *folder)
{
    size_t n = strlen(folder);

    return strncmp(path, folder, n) == 0 && (path[n] == 0 || path[n] == '/');
}

/* The removals from..*end are one folder with all in it. Whether it may go as a whole. */
static int may_clear(struct restore_job *j, int rootfd, size_t from, size_t *end, struct error *e)
{
    struct live_plan *p = j->live;
    size_t i = from;
    int yes = 1;

    for (; i < p->removal_count && p->removals[i].cleared &&
           lies_in(p->removals[i].path, p->removals[from].path);
         i++) {
        if (yes == 1 && p->removals[i].dir)
            yes = all_known(p, rootfd, p->removals[i].path, e);
    }
    *end = i;
    return yes;
}

/* Deepest first. */
static int remove_range(struct restore_job *j, int rootfd, size_t from, size_t to, struct error *e)
{
    int rc = 0;

    for (size_t i = to; rc == 0 && i > from; i--)
        rc = remove_one(j, rootfd, &j->live->removals[i - 1], e);
    return rc;
}

int live_remove(struct restore_job *j, int rootfd, struct error *e)
{
    const struct live_plan *p = j->live;
    size_t end;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < p->removal_count; i = end) {
        if (p->removals[i].cleared) {
            int yes = may_clear(j, rootfd, i, &end, e);
            /* What is not cleared stands in the way, which the placing tells. */
            rc = yes < 0 ? yes : yes ? remove_range(j, rootfd, i, end, e) : 0;
            continue;
        }
        for (end = i + 1; end < p->removal_count && !p->removals[end].cleared;)
            end++;
        rc = remove_range(j, rootfd, i, end, e);
    }
    return rc;
}
