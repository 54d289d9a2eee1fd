/* A worker of a restore: takes batches, writes what is in them beneath the tree. Order for each:
 * data, owner, user xattrs, mode, other xattrs (ACLs, capabilities), times. Setting the owner takes
 * set-id bits and capabilities away, a mode without w may forbid user xattrs, and the mode rewrites
 * an ACL's mask: hence the order. Nothing of a file is kept unless all of its content was there. */
#include "snapshot/restore_job.h"

#include "base/text.h"
#include "capture/file_read.h"
#include "io/fileops.h"
#include "io/safe_path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/banned.h"

#define SET_ID_BITS (S_ISUID | S_ISGID)

enum {
    FOLDERS_AT_ONCE = 64,
    ROOM_BLOCKS = 16, /* with so many free no disk is full */
};

/* ---- metadata ---- */

/* What is set of one thing. */
struct setting {
    struct restore_job *job;
    const struct restore_subject *subject;
    const struct node *node;
    int fd;           /* of it, or of its folder */
    const char *name; /* in that, or NULL */
    int sys;          /* 0, or an errno: the target fails */
};

/* An attribute that is too large for the file system fails as if the disk were full. */
static bool has_room(int fd)
{
    struct statvfs v;

    return fstatvfs(fd, &v) == 0 && (geteuid() == 0 ? v.f_bfree : v.f_bavail) >= ROOM_BLOCKS;
}

/* What may not be set, or not there, is told; a target that fails ends everything. */
static void not_set(struct setting *x, enum restore_warning kind, int sys)
{
    bool too_large = kind == WARN_XATTR && sys == ENOSPC && has_room(x->fd);

    if (!restore_fatal(sys) || too_large)
        restore_warn(x->job, kind, x->subject->path, sys);
    else if (x->sys == 0)
        x->sys = sys;
}

static void set_xattrs(struct setting *x, bool user)
{
    const struct node *n = x->node;

    for (uint32_t i = 0; i < n->xattr_count; i++) {
        const struct node_xattr *a = &n->xattrs[i];
        if ((strncmp(a->name, "user.", 5) == 0) == user &&
            fileops->set_xattr(x->fd, x->name, a->name, a->value, a->len) != 0)
            not_set(x, WARN_XATTR, errno);
    }
}

/* Whether owner and group are as saved now. */
static bool set_owner(struct setting *x)
{
    const struct node *n = x->node;

    if (fileops->set_owner(x->fd, x->name, n->uid, n->gid) == 0)
        return true;
    not_set(x, WARN_OWNER, errno);
    /* A group of ours may be given by anybody. */
    fileops->set_owner(x->fd, x->name, (uid_t)-1, n->gid);
    return false;
}

static void set_mode(struct setting *x, bool owner_set)
{
    mode_t mode = x->node->mode & 07777;

    if (!owner_set && (mode & SET_ID_BITS)) {
        mode &= (mode_t)~SET_ID_BITS;
        restore_warn(x->job, WARN_SETUID, x->subject->path, 0);
    }
    if (fileops->set_mode(x->fd, x->name, mode) != 0)
        not_set(x, WARN_MODE, errno);
}

static void set_times(struct setting *x)
{
    const struct timespec times[2] = {
        {.tv_nsec = UTIME_OMIT},
        {.tv_sec = (time_t)x->node->mtime_s, .tv_nsec = (long)x->node->mtime_ns},
    };

    if (fileops->set_times(x->fd, x->name, times) != 0)
        not_set(x, WARN_TIMES, errno);
}

/* What stands there already is not set again: a look is cheaper than a change. */
int restore_metadata(struct restore_job *j, const struct restore_subject *s, const struct node *n,
                     struct error *e)
{
    struct setting x = {.job = j,
                        .subject = s,
                        .node = n,
                        .fd = s->fd >= 0 ? s->fd : s->dir,
                        .name = s->fd >= 0 ? NULL : s->name};
    struct stat st = {.st_uid = (uid_t)-1};
    bool known = s->fd >= 0 && fstat(s->fd, &st) == 0;
    bool owner_set = (known && st.st_uid == n->uid && st.st_gid == n->gid) || set_owner(&x);

    set_xattrs(&x, true);
    if (n->type != NODE_SYMLINK &&
        (!known || (n->mode & SET_ID_BITS) || (st.st_mode & 07777) != (n->mode & 07777)))
        set_mode(&x, owner_set);
    set_xattrs(&x, false);
    set_times(&x);
    return x.sys == 0 ? 0 : error_sys(e, x.sys, "cannot set its metadata");
}

/* ---- everything else ---- */

static dev_t device_of(const struct node *n)
{
    return makedev((unsigned)(n->rdev >> 32), (unsigned)n->rdev);
}

/* 0 made, or an errno. */
int restore_make_special(const struct node *n, int dir, const char *name)
{
    switch (n->type) {
    case NODE_SYMLINK:
        return n->target && fileops->symlinkat(n->target, dir, name) == 0 ? 0
               : n->target                                                ? errno
                                                                          : EINVAL;
    case NODE_FIFO:
        return fileops->mknodat(dir, name, S_IFIFO | 0600, 0) == 0 ? 0 : errno;
    case NODE_SOCKET:
        return fileops->mknodat(dir, name, S_IFSOCK | 0600, 0) == 0 ? 0 : errno;
    case NODE_CHAR_DEVICE:
        return fileops->mknodat(dir, name, S_IFCHR | 0600, device_of(n)) == 0 ? 0 : errno;
    case NODE_BLOCK_DEVICE:
        return fileops->mknodat(dir, name, S_IFBLK | 0600, device_of(n)) == 0 ? 0 : errno;
    default:
        return EINVAL;
    }
}

static int write_special(struct restore_worker *w, const struct node *n, int dir, const char *name,
                         bool *done, struct error *e)
{
    bool device = n->type == NODE_CHAR_DEVICE || n->type == NODE_BLOCK_DEVICE;
    struct restore_subject s = {
        .fd = -1, .dir = dir, .name = name, .path = (const char *)w->path.data};

    int sys = restore_make_special(n, dir, name);
    if (device && sys == EPERM) {
        restore_warn(w->job, WARN_DEVICE, s.path, 0);
        *done = false;
        return 0;
    }
    if (sys != 0)
        return error_sys(e, sys, "cannot make it");
    return restore_metadata(w->job, &s, n, e);
}

/* ---- the worker ---- */

/* The path in the snapshot, for messages. */
static const char *shown_path(struct restore_worker *w, const struct restore_folder *f,
                              const char *name)
{
    const char *prefix = w->job->req->path ? w->job->req->path : "";
    struct buffer below = BUFFER_INIT;

    buffer_clear(&w->path);
    buffer_append_str(&w->path, prefix);
    if (!w->job->single && restore_path(f, name, &below)) {
        if (*prefix && below.data[0])
            buffer_append(&w->path, "/", 1);
        buffer_append_str(&w->path, (const char *)below.data);
    }
    buffer_release(&below);
    return buffer_cstr(&w->path);
}

void restore_tell_flags(struct restore_job *j, const struct node *n, const char *path)
{
    if (n->flags & NODE_CHANGING)
        restore_warn(j, WARN_CHANGING, path, 0);
    if (n->flags & NODE_SERVER_DATA)
        restore_warn(j, WARN_SERVER_DATA, path, 0);
    if (n->flags & NODE_UNREAD)
        restore_warn(j, WARN_UNREAD, path, 0);
}

/* done: there is something to count, or a problem to tell. */
static int write_node(struct restore_worker *w, const struct restore_item *item, const char *name,
                      const void *meta, bool *done, struct error *e)
{
    struct node n;

    *done = true;
    int rc = node_decode(meta, item->meta_len, &n, e);
    if (rc != 0)
        return rc;
    int dir = restore_dir_open(w->job->tree, &w->dir, item->folder, e);
    if (item->split)
        rc = restore_part(w, item, &n, dir, done, e);
    else if (dir < 0)
        rc = dir;
    else if (n.type == NODE_FILE)
        rc = restore_file(w, &n, dir, name, e);
    else
        rc = write_special(w, &n, dir, name, done, e);
    if (rc == 0 && *done)
        restore_tell_flags(w->job, &n, (const char *)w->path.data);
    node_release(&n);
    return rc;
}

static void write_item(struct restore_worker *w, const struct restore_batch *b,
                       const struct restore_item *item)
{
    struct restore_job *j = w->job;
    struct error e = ERROR_INIT;
    const char *name = item->split ? item->split->name : (const char *)b->bytes.data + item->name;
    const void *meta = item->split ? item->split->meta : b->bytes.data + item->meta;
    bool done;

    const char *path = shown_path(w, item->folder, name);
    int rc = write_node(w, item, name, meta, &done, &e);
    if (rc == 0) {
        if (done)
            atomic_fetch_add_explicit(&j->files, 1, memory_order_relaxed);
    } else if (restore_stopped(j) == 0) {
        if (e.code == ERR_CATALOG) {
            restore_fail(j, &e);
        } else if (restore_fatal(e.sys) && e.code != ERR_DAMAGED) {
            restore_target_failed(j, path, &e);
            restore_fail(j, &e);
        } else {
            restore_problem(j, path, &e);
        }
    }
    if (j->req->progress && (done || !item->split))
        atomic_fetch_add(&j->req->progress->files_done, 1);
}

static struct restore_batch *next_batch(struct restore_job *j)
{
    struct restore_batch *b = NULL;

    pthread_mutex_lock(&j->lock);
    j->waiting++;
    while (!j->queue && !j->closed && j->code == 0)
        pthread_cond_wait(&j->more, &j->lock);
    j->waiting--;
    if (j->code == 0 && j->queue) {
        b = j->queue;
        j->queue = b->next;
        if (!j->queue)
            j->queue_end = &j->queue;
        j->queued--;
        pthread_cond_signal(&j->room);
    }
    pthread_mutex_unlock(&j->lock);
    return b;
}

static int by_storage(const void *a, const void *b)
{
    const struct storage_order *x = &((const struct restore_item *)a)->stored;
    const struct storage_order *y = &((const struct restore_item *)b)->stored;

    if (x->pack_id != y->pack_id)
        return x->pack_id < y->pack_id ? -1 : 1;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->raw_off < y->raw_off ? -1 : x->raw_off > y->raw_off;
}

/* Several workers packed the files when they were saved, so that neighbours in the walk lie in
 * several blocks by turns: in the order of storage each block is expanded once. */
static void order_batch(struct restore_worker *w, struct restore_batch *b)
{
    struct error ignored = ERROR_INIT;
    struct node n;

    for (size_t i = 0; i < b->count; i++) {
        struct restore_item *item = &b->items[i];
        if (item->split ||
            node_decode(b->bytes.data + item->meta, item->meta_len, &n, &ignored) != 0)
            continue; /* told when it is written */
        if (n.ref_count > 0)
            chunk_source_order(w->source, &n.refs[0].id, &item->stored);
        node_release(&n);
    }
    qsort(b->items, b->count, sizeof(*b->items), by_storage);
}

void *restore_work(void *job)
{
    struct restore_worker w = {.job = job, .dir = RESTORE_DIR_INIT};
    struct error e = ERROR_INIT;
    struct restore_batch *b;

    if (chunk_source_open(w.job->req->repo, &w.source, &e) != 0) {
        restore_fail(w.job, &e);
        return NULL;
    }
    while ((b = next_batch(w.job)) != NULL) {
        order_batch(&w, b);
        for (size_t i = 0; i < b->count && restore_stopped(w.job) == 0; i++)
            write_item(&w, b, &b->items[i]);
        restore_batch_free(b);
    }
    chunk_source_close(w.source);
    restore_dir_close(&w.dir);
    buffer_release(&w.path);
    return NULL;
}

/* ---- folders, at the end ---- */

bool restore_has_xattr(const struct node *n, const char *name)
{
    for (uint32_t i = 0; i < n->xattr_count; i++) {
        if (strcmp(n->xattrs[i].name, name) == 0)
            return true;
    }
    return false;
}

/* A folder that stood there before keeps nothing of its own that decides who may do what. */
static void drop_stale_acls(int fd, const struct node *n)
{
    static const char *const acls[] = {"system.posix_acl_access", "system.posix_acl_default"};

    for (size_t i = 0; i < sizeof(acls) / sizeof(acls[0]); i++) {
        if (!restore_has_xattr(n, acls[i]))
            fileops->remove_xattr(fd, acls[i]); /* mostly there is none */
    }
}

/* In place what stood there is saved: a folder gets the attributes that it had, and no other. */
static int drop_other_xattrs(int fd, const struct node *n, struct error *e)
{
    struct error ignored = ERROR_INIT;
    struct node_xattr *there = NULL;
    uint32_t count = 0;
    int rc = 0;

    xattrs_read(fd, -1, "", &there, &count, &ignored); /* as many as can be had */
    for (uint32_t i = 0; i < count && rc == 0; i++) {
        const char *name = there[i].name;
        if (!restore_has_xattr(n, name) && fileops->remove_xattr(fd, name) != 0 &&
            restore_fatal(errno))
            rc = error_sys(e, errno, "cannot set the metadata of a folder");
    }
    xattrs_free(there);
    return rc;
}

static int set_folder(struct restore_worker *w, const struct restore_folder *f, int root,
                      bool merged, struct error *e)
{
    struct buffer below = BUFFER_INIT;
    struct node n;
    int fd;

    int rc = node_decode(f->meta, f->meta_len, &n, e);
    if (rc != 0)
        return rc;
    if (restore_path(f, NULL, &below))
        fd = safe_open(root, (const char *)below.data, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, e);
    else
        fd = error_set(e, ERR_FAILED, "out of memory");
    buffer_release(&below);
    if (fd >= 0 && w->job->live && !restore_same_mount(root, fd)) {
        close(fd); /* what lies on another file system is not restored in place */
    } else if (fd >= 0) {
        struct restore_subject s = {.fd = fd, .path = (const char *)w->path.data};
        if (w->job->live)
            rc = drop_other_xattrs(fd, &n, e);
        else if (merged)
            drop_stale_acls(fd, &n);
        if (rc == 0)
            rc = restore_metadata(w->job, &s, &n, e);
        restore_tell_flags(w->job, &n, s.path);
        close(fd);
    }
    node_release(&n);
    return fd < 0 ? fd : rc;
}

/* Whether what is beneath the folder can still be reached when its owner and mode are set. */
static bool stays_open(const struct restore_folder *f)
{
    struct error ignored = ERROR_INIT;
    struct node_brief n;

    return node_brief_decode(f->meta, f->meta_len, &n, &ignored) == 0 &&
           (n.mode & S_IRWXU) == S_IRWXU && n.uid == geteuid();
}

struct folder_pass {
    struct restore_job *job;
    int root;
    struct restore_folder *next; /* under the job's lock */
};

/* The next folders of the list, at most FOLDERS_AT_ONCE; *end stands behind them. */
static struct restore_folder *take_folders(struct folder_pass *p, struct restore_folder **end)
{
    pthread_mutex_lock(&p->job->lock);
    struct restore_folder *first = p->next;
    struct restore_folder *at = first;
    for (int i = 0; at && i < FOLDERS_AT_ONCE; i++)
        at = at->before;
    p->next = at;
    pthread_mutex_unlock(&p->job->lock);
    *end = at;
    return first;
}

static void finish_folder(struct restore_worker *w, const struct restore_folder *f, int root)
{
    struct error e = ERROR_INIT;

    const char *path = shown_path(w, f, NULL);
    if (set_folder(w, f, root, root != w->job->tree, &e) == 0)
        return;
    if (restore_fatal(e.sys)) {
        restore_target_failed(w->job, path, &e);
        restore_fail(w->job, &e);
    } else {
        restore_warn(w->job, WARN_MODE, path, e.sys);
    }
}

/* Thread: of those whose order does not matter. */
static void *finish_open_folders(void *pass)
{
    struct folder_pass *p = pass;
    struct restore_worker w = {.job = p->job, .dir = RESTORE_DIR_INIT};
    struct restore_folder *f, *end;

    while ((f = take_folders(p, &end)) != NULL) {
        for (; f != end; f = f->before) {
            if (!f->meta || f->done || !stays_open(f))
                continue;
            finish_folder(&w, f, p->root);
            f->done = true;
        }
    }
    buffer_release(&w.path);
    return NULL;
}

int restore_folders(struct restore_job *j, int root, struct error *e)
{
    struct folder_pass pass = {.job = j, .root = root, .next = j->last};
    struct restore_worker w = {.job = j, .dir = RESTORE_DIR_INIT};
    pthread_t helper;

    bool helped = pthread_create(&helper, NULL, finish_open_folders, &pass) == 0;
    finish_open_folders(&pass);
    if (helped)
        pthread_join(helper, NULL);
    for (const struct restore_folder *f = j->last; f; f = f->before) {
        if (f->meta && !f->done)
            finish_folder(&w, f, root);
    }
    buffer_release(&w.path);
    if (j->code != 0)
        *e = j->why;
    return j->code;
}
