/* A restore in place of a file whose content is as it is to be: only its metadata is set. That
 * takes several steps; broken off between them, the next run finds neither the old nor the new and
 * sets the new, and undo the old. Meanwhile nobody may do with the file what neither allows. */
#include "snapshot/restore_plan_live.h"

#include "io/fileops.h"
#include "io/safe_path.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

static bool is_acl(const char *name)
{
    return strncmp(name, "system.posix_acl_", strlen("system.posix_acl_")) == 0;
}

static bool any_acl(const struct node *n)
{
    for (uint32_t i = 0; i < n->xattr_count; i++) {
        if (is_acl(n->xattrs[i].name))
            return true;
    }
    return false;
}

/* Another owner, or another list of who may, comes only when nobody else may; and attributes only
 * to a file that its owner may write. */
static int close_to_others(int fd, const struct node *old, const struct node *n,
                           const struct stat *st, struct error *e)
{
    bool owner = st->st_uid != n->uid || st->st_gid != n->gid || any_acl(old) || any_acl(n);
    bool closed = !(st->st_mode & S_IWUSR) && (old->xattr_count > 0 || n->xattr_count > 0);

    if (!owner && !closed)
        return 0;
    if (fileops->set_mode(fd, NULL, S_IRUSR | S_IWUSR) == 0 || !restore_fatal(errno))
        return 0;
    return error_sys(e, errno, "cannot set its metadata");
}

static int drop_xattrs(int fd, const struct node *old, const struct node *n, struct error *e)
{
    for (uint32_t i = 0; i < old->xattr_count; i++) {
        const char *name = old->xattrs[i].name;
        if (!restore_has_xattr(n, name) && fileops->remove_xattr(fd, name) != 0 &&
            restore_fatal(errno))
            return error_sys(e, errno, "cannot set its metadata");
    }
    return 0;
}

static int target_node(const struct live_plan *p, uint64_t node, struct node *n, struct error *e)
{
    const struct snapshot_row *s = p->req->snapshot;
    struct buffer meta = BUFFER_INIT;
    int rc = catalog_node(p->cat, s->watch_serial, node, (int64_t)s->commit.number, &meta, e);

    if (rc == 0)
        rc = node_decode(meta.data, meta.len, n, e);
    buffer_release(&meta);
    return rc;
}

static int set_all(struct restore_job *j, const struct live_setting *x, int fd,
                   const struct stat *st, struct error *e)
{
    struct restore_subject s = {.fd = fd, .path = x->path};
    struct node old, n;

    int rc = live_base_node(j->live, x->path, &old, e);
    if (rc != 0)
        return rc;
    rc = target_node(j->live, x->node, &n, e);
    if (rc == 0) {
        rc = close_to_others(fd, &old, &n, st, e);
        if (rc == 0)
            rc = drop_xattrs(fd, &old, &n, e);
        if (rc == 0)
            rc = restore_metadata(j, &s, &n, e);
        node_release(&n);
    }
    node_release(&old);
    return rc;
}

/* It is the file that was saved, of this file system, and nobody else's too. */
static int check(struct restore_job *j, const struct live_setting *x, int place, int fd,
                 struct stat *st, struct error *e)
{
    if (fstat(fd, st) != 0)
        return error_sys(e, errno, "cannot look at it");
    if (!S_ISREG(st->st_mode) || st->st_nlink != 1)
        return error_set(e, ERR_REFUSED, "it changed since it was saved, just before the restore");
    if (!restore_same_mount(place, fd))
        return error_set(e, ERR_REFUSED, "its folder is on another file system than the target");
    return live_may_go(j->live, x->path, st, e);
}

static int set_one(struct restore_job *j, const struct live_setting *x, int place, struct error *e)
{
    struct stat st;
    int fd = safe_open(place, x->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, e);

    if (fd < 0)
        return fd;
    int rc = check(j, x, place, fd, &st, e);
    if (rc == 0)
        rc = set_all(j, x, fd, &st, e);
    close(fd);
    return rc;
}

int live_set(struct restore_job *j, int place, struct error *e)
{
    struct live_plan *p = j->live;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < p->setting_count; i++) {
        rc = set_one(j, &p->settings[i], place, e);
        if (rc != 0)
            rc = live_failed(j, p->settings[i].path, e);
    }
    return rc;
}
