/* Folders wait on a stack, not in recursion, and are opened from their parent's descriptor. A
 * folder is listed whole and its names merged with the catalog's rows before any below it is
 * entered. What cannot be listed is no deletion: its rows stay, and it is flagged. */
#include "snapshot/save_state.h"

#include "base/log.h"
#include "io/safe_path.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/banned.h"

enum {
    LISTING_LEN = 64 * 1024,
    AHEAD_MIN = 16,    /* folders that wait, for threads to be worth it */
    AHEAD_MAX = 32,    /* folders that other threads list meanwhile */
    LOOKED_MAX = 1024, /* names of one that they look at */
};

/* ---- folders and visits ---- */

struct folder *folder_new(const char *path, uint64_t node, struct dir_handle *dir, bool in_server)
{
    struct folder *f = calloc(1, sizeof(*f));

    if (f && !(f->path = strdup(path))) {
        free(f);
        f = NULL;
    }
    if (!f) {
        dir_handle_drop(dir);
        return NULL;
    }
    f->refs = 1;
    f->node = node;
    f->dir = dir;
    f->in_server = in_server;
    return f;
}

void folder_drop(struct folder *f)
{
    if (!f || --f->refs > 0)
        return;
    dir_handle_drop(f->dir);
    free(f->path);
    free(f);
}

const char *save_path(struct save *s, const char *folder, const char *name)
{
    buffer_clear(&s->path);
    if (*folder) {
        buffer_append_str(&s->path, folder);
        buffer_append(&s->path, "/", 1);
    }
    buffer_append(&s->path, name, strlen(name) + 1);
    return buffer_ok(&s->path) ? (const char *)s->path.data : NULL;
}

int walk_push(struct save *s, const struct visit *v, const char *name, struct error *e)
{
    size_t name_len = strlen(name) + 1;
    struct visit *copy = malloc(sizeof(*copy) + v->meta_len + v->sig_len + name_len);

    if (!copy)
        return save_no_memory(e);
    *copy = *v;
    copy->meta = (uint8_t *)(copy + 1);
    copy->sig = copy->meta + v->meta_len;
    copy->name = (char *)copy->sig + v->sig_len;
    if (v->meta_len)
        memcpy(copy->meta, v->meta, v->meta_len);
    if (v->sig_len)
        memcpy(copy->sig, v->sig, v->sig_len);
    memcpy(copy->name, name, name_len);
    if (copy->in)
        copy->in->refs++;
    copy->ahead = NULL;
    copy->next = s->stack;
    s->stack = copy;
    return 0;
}

static void visit_free(struct visit *v)
{
    folder_drop(v->in);
    free(v);
}

/* ---- names of a folder ---- */

struct list_entry {
    const char *name;
    uint32_t base; /* index + 1 of the entry this may be a side file of */
    bool sides;    /* has such */
    bool database; /* and is one */
};

struct looked {
    int sys; /* errno, 0 = st is what it is */
    struct stat st;
};

struct listing {
    bool done;             /* ahead of its turn: the folder's own stat and all names */
    struct stat st;        /* of the folder, from before it was read */
    struct wall_time at;   /* of that */
    struct looked *looked; /* what each name was after that, or NULL */
    struct buffer names;   /* NUL-terminated, end to end */
    struct list_entry *v;
    uint32_t count;
    const char *server; /* reason, or NULL */
    bool ignore_file;
};

static void listing_release(struct listing *l)
{
    buffer_release(&l->names);
    free(l->looked);
    free(l->v);
    *l = (struct listing){.names = BUFFER_INIT};
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct list_entry *)a)->name, ((const struct list_entry *)b)->name);
}

/* Append all names: 0, or an errno. */
static int read_names(int fd, struct listing *l)
{
    char *buf = malloc(LISTING_LEN);
    ssize_t n = 0;
    int sys = buf ? 0 : ENOMEM;

    while (sys == 0 && (n = syscall(SYS_getdents64, fd, buf, LISTING_LEN)) > 0) {
        for (ssize_t at = 0; at < n;) {
            const struct dirent64 *d = (const struct dirent64 *)(buf + at);
            if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0) {
                buffer_append(&l->names, d->d_name, strlen(d->d_name) + 1);
                l->count++;
            }
            at += d->d_reclen;
        }
    }
    if (n < 0)
        sys = errno;
    free(buf);
    return sys == 0 && !buffer_ok(&l->names) ? ENOMEM : sys;
}

const char *server_marker(const char *name)
{
    static const struct {
        const char *name, *reason;
    } markers[] = {
        {"PG_VERSION", "inside a PostgreSQL data folder: dump the database instead"},
        {"ibdata1", "inside a MySQL data folder: dump the database instead"},
        {"mysql.ibd", "inside a MySQL data folder: dump the database instead"},
        {"WiredTiger", "inside a MongoDB data folder: dump the database instead"},
    };

    for (size_t i = 0; i < sizeof(markers) / sizeof(markers[0]); i++) {
        if (strcmp(name, markers[i].name) == 0)
            return markers[i].reason;
    }
    return NULL;
}

/* Index + 1 of the name of n bytes, 0 = none. */
static uint32_t find_name(const struct listing *l, const char *name, size_t n)
{
    uint32_t low = 0, high = l->count;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        int d = strncmp(name, l->v[mid].name, n);
        if (d == 0 && l->v[mid].name[n])
            d = -1;
        if (d == 0)
            return mid + 1;
        if (d < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return 0;
}

static void mark_names(const struct save *s, struct listing *l)
{
    for (uint32_t i = 0; i < l->count; i++) {
        struct list_entry *x = &l->v[i];
        size_t base_len;
        if (!l->server)
            l->server = server_marker(x->name);
        l->ignore_file |= strcmp(x->name, IGNORE_FILE_NAME) == 0;
        if (!s->req->watch->sqlite || !sqlite_side_name(x->name, &base_len))
            continue;
        x->base = find_name(l, x->name, base_len);
        if (x->base)
            l->v[x->base - 1].sides = true;
    }
}

/* A name that is made anew while the folder is read may come twice. */
static void drop_doubles(struct listing *l)
{
    uint32_t to = 0;

    for (uint32_t i = 0; i < l->count; i++) {
        if (to == 0 || strcmp(l->v[to - 1].name, l->v[i].name) != 0)
            l->v[to++] = l->v[i];
    }
    l->count = to;
}

static int list_folder(const struct save *s, int fd, struct listing *l)
{
    int sys = read_names(fd, l);

    if (sys != 0)
        return sys;
    l->v = calloc(l->count ? l->count : 1, sizeof(*l->v));
    if (!l->v)
        return ENOMEM;
    const char *at = (const char *)l->names.data;
    for (uint32_t i = 0; i < l->count; i++, at += strlen(at) + 1)
        l->v[i].name = at;
    qsort(l->v, l->count, sizeof(*l->v), by_name);
    drop_doubles(l);
    mark_names(s, l);
    return 0;
}

/* ---- ahead of the walk ----
 *
 * Where nothing changed a save is system calls: the threads make them for the folders whose turn
 * comes next. What was seen so is as good as what the walk would see, since it is no older than the
 * save; a signature is told racy by the time it was taken at. */

struct ahead {
    struct task task;
    const struct save *s;
    struct dir_handle *in;
    const char *name; /* the visit's */
    int fd;           /* of the folder; -1: it did not open, or could not be listed */
    struct listing l;
};

static void look_at_names(int fd, struct listing *l)
{
    l->looked = l->count <= LOOKED_MAX ? calloc(l->count, sizeof(*l->looked)) : NULL;
    for (uint32_t i = 0; l->looked && i < l->count; i++) {
        struct looked *x = &l->looked[i];
        x->sys = fstatat(fd, l->v[i].name, &x->st, AT_SYMLINK_NOFOLLOW) < 0 ? errno : 0;
    }
}

static void ahead_run(struct task *t, void *worker)
{
    struct ahead *a = (struct ahead *)((char *)t - offsetof(struct ahead, task));
    struct listing *l = &a->l;

    a->fd = openat(a->in->fd, a->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (a->fd < 0)
        return;
    l->at = clock_wall();
    l->done = fstat(a->fd, &l->st) == 0 && list_folder(a->s, a->fd, l) == 0;
    if (l->done) {
        look_at_names(a->fd, l);
        return;
    }
    listing_release(l);
    close(a->fd);
    a->fd = -1;
}

static bool ahead_done(void *ctx)
{
    return ((struct ahead *)ctx)->task.done;
}

static void begin_ahead(struct save *s, struct visit *v)
{
    struct ahead *a = malloc(sizeof(*a));

    if (!a)
        return;
    *a = (struct ahead){.s = s, .in = dir_handle_ref(v->in->dir), .name = v->name, .fd = -1};
    a->l.names = (struct buffer)BUFFER_INIT;
    a->task.run = ahead_run;
    v->ahead = a;
    task_pool_push(&s->work.pool, &a->task, true);
}

static bool can_be_ahead(const struct visit *v)
{
    return v->list && !v->is_new && v->in && v->in->dir;
}

/* Worth it when many folders wait; the first save's threads have enough to do. The folders are
 * given out many at once, so that a thread is woken for several. */
static void look_ahead(struct save *s)
{
    unsigned count = 0, begun = 0;

    if (s->fresh || s->stack->ahead)
        return;
    for (const struct visit *v = s->stack; v && count < AHEAD_MAX; v = v->next, count++)
        begun += v->ahead != NULL;
    if (count < AHEAD_MIN || begun > AHEAD_MAX / 2 || !batch_threads(s))
        return;
    /* The first one is the walk's own. */
    for (struct visit *v = s->stack->next; count > 1; v = v->next, count--) {
        if (!v->ahead && can_be_ahead(v))
            begin_ahead(s, v);
    }
}

/* What was looked up for the visit: its descriptor, or -1 when there is nothing. */
static int take_ahead(struct save *s, struct visit *v, struct listing *l)
{
    struct ahead *a = v->ahead;

    if (!a)
        return -1;
    task_pool_wait(&s->work.pool, ahead_done, a, &s->workers[0]);
    v->ahead = NULL;
    int fd = a->fd;
    *l = a->l;
    dir_handle_drop(a->in);
    free(a);
    return fd;
}

/* ---- merging with the catalog ---- */

struct merge {
    struct save *s;
    struct folder *f;
    struct listing *l;
    int failed; /* errno of an entry that could not be looked at, 0 = none */
};

/* Is it a database, so that its side files are part of it? */
static bool is_database(const struct merge *m, const struct list_entry *x, const struct stat *st,
                        const struct known *row)
{
    struct signature cached, now;
    struct node_brief b;
    struct error e = ERROR_INIT;

    if (!x->sides || !S_ISREG(st->st_mode))
        return false;
    if (!m->s->rehash && entry_signature(m->s, row, &cached) &&
        node_brief_decode(row->meta, row->meta_len, &b, &e) == 0) {
        signature_of(st, &now);
        now.wal = cached.wal;
        if (signature_same(&cached, &now) && !(b.flags & NODE_INCOMPLETE))
            return b.flags & NODE_SQLITE;
    }
    return database_header(m->f->dir->fd, x->name);
}

/* 0, or an errno. Links and other special things are described by this very look, so that it is
 * made now. */
static int look_at_entry(const struct merge *m, const struct list_entry *x, struct stat *st)
{
    const struct looked *ahead = m->l->looked ? &m->l->looked[x - m->l->v] : NULL;

    if (ahead && ahead->sys == 0 && (S_ISREG(ahead->st.st_mode) || S_ISDIR(ahead->st.st_mode))) {
        *st = ahead->st;
        return 0;
    }
    return fstatat(m->f->dir->fd, x->name, st, AT_SYMLINK_NOFOLLOW) < 0 ? errno : 0;
}

static int merge_entry(struct merge *m, struct list_entry *x, const struct known *row,
                       struct error *e)
{
    struct stat st;
    int sys = look_at_entry(m, x, &st);

    if (sys == ENOENT)
        return entry_check(m->s, m->f, x->name, NULL, row, 0, false, e);
    if (sys != 0) {
        m->failed = sys;
        return 0;
    }
    /* A folder or link by that name is nothing of SQLite's. */
    if (x->base && m->l->v[x->base - 1].database && S_ISREG(st.st_mode))
        return entry_check(m->s, m->f, x->name, NULL, row, 0, false, e);
    x->database = is_database(m, x, &st, row);
    return entry_check(m->s, m->f, x->name, &st, row, DIRTY_ENTRY | DIRTY_TREE, x->database, e);
}

static struct known known_of(const struct name_row *row)
{
    return (struct known){.node = row->node,
                          .meta = row->meta,
                          .meta_len = row->meta_len,
                          .sig = row->signature,
                          .sig_len = row->signature ? row->signature_len : 0,
                          .ino = row->ino};
}

static int merge_rows(struct merge *m, struct name_iter *it, uint32_t *i, struct error *e)
{
    struct name_row row;
    int rc;

    while ((rc = name_iter_step(it, &row, e)) == 1) {
        const struct known k = known_of(&row);
        int d = -1;
        rc = 0;
        while (rc == 0 && *i < m->l->count && (d = strcmp(m->l->v[*i].name, row.name)) < 0)
            rc = merge_entry(m, &m->l->v[(*i)++], NULL, e);
        if (rc == 0 && *i < m->l->count && d == 0)
            rc = merge_entry(m, &m->l->v[(*i)++], &k, e);
        else if (rc == 0)
            rc = entry_check(m->s, m->f, row.name, NULL, &k, 0, false, e);
        if (rc == 0)
            rc = save_work_check(&m->s->work, e);
        if (rc < 0)
            break;
    }
    return rc;
}

static int merge_folder(struct merge *m, bool is_new, struct error *e)
{
    struct name_iter *it = NULL;
    uint32_t i = 0;
    int rc = 0;

    if (!is_new && !m->s->fresh) {
        rc = catalog_children(m->s->cat, m->s->watch, m->f->node, CATALOG_OPEN, &it, e);
        if (rc == 0)
            rc = merge_rows(m, it, &i, e);
        name_iter_close(it);
    }
    for (; rc == 0 && i < m->l->count; i++) {
        rc = merge_entry(m, &m->l->v[i], NULL, e);
        if (rc == 0)
            rc = save_work_check(&m->s->work, e);
    }
    return rc;
}

/* ---- one folder ---- */

/* It opened: what it is told to be now. */
struct look {
    struct stat st;
    struct wall_time at; /* of st */
    int unread;          /* errno, 0 = it could be listed */
    const char *server;  /* reason, or NULL */
};

static int store_folder(struct save *s, const struct visit *v, int fd, const struct look *k,
                        struct error *e)
{
    const struct known old = {v->node, v->meta, v->sig, v->meta_len, v->sig_len, v->ino};
    struct signature now, cached;
    struct node_brief b = {0};
    struct error ignored = ERROR_INIT;
    struct node n = {.type = NODE_FOLDER,
                     .mode = (uint16_t)(k->st.st_mode & 07777),
                     .uid = k->st.st_uid,
                     .gid = k->st.st_gid};
    char reason[128] = "cannot be read: ";
    struct node_xattr *xattrs = NULL;
    struct node last = {0};
    int rc = 0;

    signature_of(&k->st, &now);
    n.mtime_s = now.mtime_s;
    n.mtime_ns = now.mtime_ns;
    if (k->unread) {
        const char *text = strerrordesc_np(k->unread);
        n.flags |= NODE_UNREAD;
        memccpy(reason + strlen(reason), text ? text : "unknown error", 0, 64);
        n.reason = reason;
    } else if (k->server) {
        n.flags |= NODE_SERVER_DATA;
        n.reason = k->server;
    }
    if (v->meta_len && node_brief_decode(v->meta, v->meta_len, &b, e) < 0)
        return e->code;
    if (v->meta_len && b.flags == n.flags && !k->unread && !s->rehash &&
        entry_signature(s, &old, &cached) && !cached.racy && signature_same(&cached, &now))
        return 0;
    now.racy = k->unread || signature_is_racy(&now, k->at);
    if (fd >= 0) {
        rc = xattrs_read(fd, -1, NULL, &xattrs, &n.xattr_count, &ignored);
        n.xattrs = xattrs;
    } else if (v->meta_len && node_decode(v->meta, v->meta_len, &last, &ignored) == 0) {
        n.xattrs = last.xattrs;
        n.xattr_count = last.xattr_count;
    }
    if (rc == ERR_INCOMPLETE)
        log_warn("'%s': %s", v->name, ignored.message);
    if (rc < 0 && rc != ERR_INCOMPLETE)
        rc = save_no_memory(e);
    else
        rc = version_compare(s, v->node, &n, v->meta_len ? &old : NULL, &now, e);
    xattrs_free(xattrs);
    node_release(&last);
    return rc;
}

static int open_folder(struct save *s, const struct visit *v)
{
    const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    struct error e = ERROR_INIT;

    if (!v->in) {
        int fd = openat(s->rootfd, ".", flags);
        return fd < 0 ? -errno : fd;
    }
    if (v->in->dir) {
        int fd = openat(v->in->dir->fd, v->name, flags);
        return fd < 0 ? -errno : fd;
    }
    const char *path = save_path(s, v->in->path, v->name);
    int fd = path ? safe_open(s->rootfd, path, flags, 0, &e) : -1;
    if (!path)
        return -ENOMEM;
    return fd >= 0 ? fd : fd == ERR_REFUSED ? -ELOOP : -(e.sys ? e.sys : EIO);
}

static int put_folder_name(struct save *s, const struct visit *v, struct error *e)
{
    if (!v->put_name)
        return 0;
    return names_put(s, v->in->node, v->name, v->node, NODE_FOLDER, v->is_new, e);
}

static int folder_gone(struct save *s, const struct visit *v, struct error *e)
{
    const struct known row = {v->node, v->meta, v->sig, v->meta_len, v->sig_len, v->ino};

    if (!v->in)
        return error_set(e, ERR_NOTFOUND, "root '%s' is not there", s->req->watch->root);
    return v->put_name || !v->meta_len ? 0 : names_gone(s, v->in->node, v->name, &row, e);
}

static int folder_shut(struct save *s, const struct visit *v, int sys, struct error *e)
{
    struct look k = {.unread = sys};

    if (sys == ENOENT || sys == ENOTDIR || sys == ELOOP)
        return folder_gone(s, v, e);
    if (sys == EMFILE || sys == ENFILE || sys == ENOMEM || !v->in)
        return error_sys(e, sys, "cannot open folder '%s'", v->in ? v->name : s->req->watch->root);
    const char *path = save_path(s, v->in->path, v->name);
    if (!path)
        return save_no_memory(e);
    struct error none = ERROR_INIT;
    int rc = safe_stat(s->rootfd, path, &k.st, &none);
    if (rc < 0)
        return rc == ERR_NOTFOUND ? folder_gone(s, v, e)
                                  : error_sys(e, sys, "cannot look at '%s'", path);
    rc = put_folder_name(s, v, e);
    return rc < 0 ? rc : store_folder(s, v, -1, &k, e);
}

static void see_rules(struct save *s, struct folder *f, const struct listing *l)
{
    struct stat st;
    bool there =
        l->ignore_file && fstatat(f->dir->fd, IGNORE_FILE_NAME, &st, AT_SYMLINK_NOFOLLOW) == 0;

    rules_see(s->req->rules, f->dir->fd, f->path, there ? &st : NULL);
    f->rules_seen = true;
}

static int list_and_merge(struct save *s, const struct visit *v, struct folder *f,
                          struct listing *l, struct look *k, struct error *e)
{
    struct merge m = {.s = s, .f = f, .l = l};
    int sys = l->done ? 0 : list_folder(s, f->dir->fd, l);
    int rc = 0;

    if (sys == ENOMEM) {
        rc = save_no_memory(e);
    } else if (sys != 0) {
        k->unread = sys;
    } else {
        see_rules(s, f, l);
        if (!f->in_server)
            k->server = l->server;
        f->in_server |= k->server != NULL;
        rc = merge_folder(&m, v->is_new, e);
        k->unread = m.failed;
    }
    return rc;
}

/* A folder that is not listed keeps what was said of it. */
static int keep_server_flag(const struct visit *v, struct look *k, struct node *old,
                            struct error *e)
{
    int rc = v->meta_len ? node_decode(v->meta, v->meta_len, old, e) : 0;

    if (rc == 0 && old->flags & NODE_SERVER_DATA)
        k->server = old->reason ? old->reason : "a database server's data folder";
    return rc;
}

static int visit_open(struct save *s, const struct visit *v, struct folder *f, struct listing *l,
                      struct error *e)
{
    struct look k = {.at = clock_wall()};
    struct node old = {0};
    int rc = 0;

    if (l->done) {
        k.at = l->at;
        k.st = l->st;
    } else if (fstat(f->dir->fd, &k.st) < 0) {
        return error_sys(e, errno, "cannot stat folder '%s'", f->path);
    }
    if (v->list)
        rc = list_and_merge(s, v, f, l, &k, e);
    else
        rc = keep_server_flag(v, &k, &old, e);
    if (rc == 0 && k.unread == ENOENT) {
        rc = folder_gone(s, v, e); /* removed while it was open */
    } else if (rc == 0 && k.unread && !v->in) {
        rc = error_sys(e, k.unread, "cannot list root '%s'", s->req->watch->root);
    } else if (rc == 0) {
        rc = put_folder_name(s, v, e);
        if (rc == 0)
            rc = store_folder(s, v, f->dir->fd, &k, e);
    }
    node_release(&old);
    return rc;
}

/* What was pushed above `below` comes out in the order it went in. */
static void turn_over(struct save *s, struct visit *below)
{
    struct visit *turned = below, *next;

    for (struct visit *v = s->stack; v != below; v = next) {
        next = v->next;
        v->next = turned;
        turned = v;
    }
    s->stack = turned;
}

/* fd: of the folder, taken over; -1: it is opened now. */
static int visit_run(struct save *s, const struct visit *v, int fd, struct listing *l,
                     struct error *e)
{
    struct visit *below = s->stack;

    if (fd < 0)
        fd = open_folder(s, v);
    if (fd < 0)
        return folder_shut(s, v, -fd, e);
    struct dir_handle *dir = dir_handle_new(fd, &s->open_dirs);
    const char *path = v->in ? save_path(s, v->in->path, v->name) : "";
    if (!dir || !path) {
        dir_handle_drop(dir);
        return save_no_memory(e);
    }
    struct folder *f = folder_new(path, v->node, dir, v->in && v->in->in_server);
    if (!f)
        return save_no_memory(e);
    int rc = visit_open(s, v, f, l, e);
    turn_over(s, below);
    if (atomic_load(&s->open_dirs) > OPEN_DIRS_MAX) { /* its folders are opened by their paths */
        dir_handle_drop(f->dir);
        f->dir = NULL;
    }
    folder_drop(f);
    return rc;
}

int walk_run(struct save *s, struct error *e)
{
    int rc = 0;

    while (s->stack) {
        struct visit *v = s->stack;
        struct listing l = {.names = BUFFER_INIT};
        if (rc == 0)
            look_ahead(s);
        s->stack = v->next;
        int fd = take_ahead(s, v, &l);
        if (rc == 0)
            rc = save_work_check(&s->work, e);
        if (rc == 0)
            rc = visit_run(s, v, fd, &l, e);
        else if (fd >= 0)
            close(fd);
        listing_release(&l);
        visit_free(v);
    }
    return rc;
}
