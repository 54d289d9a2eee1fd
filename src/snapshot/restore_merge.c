/* Putting a tree in place over what stands there, one rename an entry.
 *
 * A folder goes into a folder by its entries. Anything else takes the place of what has its name:
 * by plain rename where neither is a folder, else by an exchange, so that at no moment the name is
 * gone. What had to make way is left in the scratch folder, which is removed at the end. The side
 * files of a database are moved away before its new content comes: they belong to the old one. */
#include "snapshot/restore_plan_live.h"

#include "base/text.h"
#include "io/fileops.h"
#include "io/safe_path.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

struct merge {
    struct restore_job *job;
    struct restore_target *target;
    char **pending; /* folders that stand on both sides, below the top */
    size_t count, cap;
    unsigned moved;   /* names used in the folder of what made way */
    bool placed;      /* the entry at hand stands */
    bool foreign;     /* in place: the folder at hand lies on another file system */
    int into;         /* where all of it goes */
    int from, to;     /* the folder at hand, on both sides */
    const char *path; /* of it */
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static char *join(const char *path, const char *name)
{
    return *path ? text_format("%s/%s", path, name) : strdup(name);
}

/* ---- lists ---- */

static int add_text(char ***list, size_t *count, size_t *cap, char *text, struct error *e)
{
    if (!text)
        return no_memory(e);
    if (*count == *cap) {
        size_t more = *cap ? 2 * *cap : 64;
        char **grown = reallocarray(*list, more, sizeof(char *));
        if (!grown) {
            free(text);
            return no_memory(e);
        }
        *list = grown;
        *cap = more;
    }
    (*list)[(*count)++] = text;
    return 0;
}

static void free_texts(char **list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(list[i]);
    free(list);
}

/* Names in a folder, sorted: a database comes before its side files. */
static int read_names(int fd, char ***names, size_t *count, struct error *e)
{
    size_t cap = 0;
    int rc = 0;
    const struct dirent *entry;

    *names = NULL;
    *count = 0;
    int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = own >= 0 ? fdopendir(own) : NULL;
    if (!d) {
        rc = error_sys(e, errno, "cannot list what was restored");
        if (own >= 0)
            close(own);
        return rc;
    }
    while (rc == 0 && (entry = readdir(d)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            rc = add_text(names, count, &cap, strdup(entry->d_name), e);
    }
    closedir(d);
    if (rc == 0 && *count > 0)
        qsort(*names, *count, sizeof(char *), by_text);
    return rc;
}

/* ---- one entry ---- */

/* An entry that cannot be put in place is a problem of its own; a full disk ends everything. */
static int failed_at(struct merge *m, const char *path, struct error *e)
{
    if (m->job->live)
        return live_failed(m->job, path, e);
    if (restore_fatal(e->sys))
        return restore_target_failed(m->job, path, e);
    restore_problem(m->job, path, e);
    error_clear(e);
    return 0;
}

static int entry_failed(struct merge *m, const char *name, struct error *e)
{
    char *path = join(m->path, name);
    int rc = path ? failed_at(m, path, e) : no_memory(e);

    free(path);
    return rc;
}

static int on_another(struct error *e)
{
    return error_set(e, ERR_REFUSED, "its folder is on another file system than the target");
}

static int cannot_place(const struct merge *m, const char *name, int sys, struct error *e)
{
    const char *hint = live_hint(m->to, name, sys);

    if (sys == EXDEV)
        return on_another(e);
    if (!hint)
        return error_sys(e, sys, "cannot put it in place");
    error_set(e, ERR_DENIED, "cannot put it in place: %s", hint);
    e->sys = sys;
    return e->code;
}

/* Move a name of the target out of the way. 0 or an errno. */
static int move_aside(struct merge *m, const char *name, char aside[24])
{
    if (m->target->aside < 0)
        return EEXIST;
    snprintf(aside, 24, "%u", m->moved++); /* nobody but us is in there */
    return fileops->renameat2(m->to, name, m->target->aside, aside, 0) == 0 ? 0 : errno;
}

/* A folder in the way of something else, or the reverse. 0 or an errno. */
static int swap(struct merge *m, const char *name)
{
    char aside[24];

    if (fileops->renameat2(m->from, name, m->to, name, RENAME_EXCHANGE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return errno;
    /* This file system knows no exchange. */
    int sys = move_aside(m, name, aside);
    if (sys != 0)
        return sys;
    if (fileops->renameat2(m->from, name, m->to, name, 0) == 0)
        return 0;
    sys = errno;
    fileops->renameat2(m->target->aside, aside, m->to, name, 0);
    return sys;
}

static bool is_database(const struct merge *m, const char *name)
{
    const struct restore_job *j = m->job;

    if (j->database_count == 0)
        return false;
    char *path = join(m->path, name);
    bool found = path && bsearch(&path, j->databases, j->database_count, sizeof(char *), by_text);
    free(path);
    return found;
}

enum { SIDES = 3 };
static const char *const side_ends[SIDES] = {"-wal", "-journal", "-shm"};

struct sides { /* where the side files of a database went, "" = there was none */
    char aside[SIDES][24];
};

/* False when the name would be too long to be one. */
static bool side_name(const char *name, size_t i, char side[NAME_MAX + 16])
{
    snprintf(side, NAME_MAX + 16, "%s%s", name, side_ends[i]);
    return strlen(side) <= NAME_MAX;
}

static int move_side_files(struct merge *m, const char *name, struct sides *s, struct error *e)
{
    char side[NAME_MAX + 16];
    bool any = false;

    for (size_t i = 0; i < SIDES; i++) {
        struct stat st;
        if (!side_name(name, i, side) || fstatat(m->to, side, &st, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        int sys = move_aside(m, side, s->aside[i]);
        if (sys != 0) {
            s->aside[i][0] = 0;
            return error_sys(e, sys, "cannot move '%s' of the old database away", side_ends[i]);
        }
        any = true;
    }
    return any ? dir_sync(m->to, e) : 0;
}

/* The old database stays, so they belong to it again. */
static void return_side_files(struct merge *m, const char *name, const struct sides *s)
{
    char side[NAME_MAX + 16];

    for (size_t i = 0; i < SIDES; i++) {
        if (s->aside[i][0] && side_name(name, i, side))
            fileops->renameat2(m->target->aside, s->aside[i], m->to, side, 0);
    }
}

/* Something stands there already. */
static int replace(struct merge *m, const char *name, const struct stat *from,
                   const struct stat *to, struct error *e)
{
    int sys;

    if (S_ISDIR(from->st_mode) && S_ISDIR(to->st_mode))
        return add_text(&m->pending, &m->count, &m->cap, join(m->path, name), e);
    if (!m->job->req->overwrite) {
        error_set(e, ERR_REFUSED, "something appeared there while the restore ran");
        return entry_failed(m, name, e);
    }
    if (!S_ISDIR(from->st_mode) && !S_ISDIR(to->st_mode))
        sys = fileops->renameat2(m->from, name, m->to, name, 0) == 0 ? 0 : errno;
    else
        sys = swap(m, name);
    m->placed = sys == 0;
    if (sys == 0)
        return 0;
    cannot_place(m, name, sys, e);
    return entry_failed(m, name, e);
}

/* 0 or an errno; EEXIST when the name is taken. */
static int place_new(struct merge *m, const char *name)
{
    struct stat st;

    if (fileops->renameat2(m->from, name, m->to, name, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return errno;
    if (fstatat(m->to, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return EEXIST;
    return fileops->renameat2(m->from, name, m->to, name, 0) == 0 ? 0 : errno;
}

/* In place: whether what stands there may make way. */
static int check_live(struct merge *m, const char *name, struct error *e)
{
    struct stat from, to;

    if (fstatat(m->from, name, &from, AT_SYMLINK_NOFOLLOW) != 0 ||
        fstatat(m->to, name, &to, AT_SYMLINK_NOFOLLOW) != 0)
        return m->foreign ? on_another(e) : 0;
    if (S_ISDIR(from.st_mode) && S_ISDIR(to.st_mode))
        return 0;
    if (m->foreign)
        return on_another(e);
    if (S_ISDIR(to.st_mode))
        return error_set(e, ERR_REFUSED,
                         "a folder stands there that holds what was not saved; move it away");
    char *path = join(m->path, name);
    int rc = path ? live_may_go(m->job->live, path, &to, e) : no_memory(e);
    free(path);
    return rc;
}

static int place_over(struct merge *m, const char *name, struct error *e)
{
    struct stat from, to;

    int sys = m->foreign ? EEXIST : place_new(m, name);
    if (sys == EEXIST) {
        if (fstatat(m->from, name, &from, AT_SYMLINK_NOFOLLOW) != 0 ||
            fstatat(m->to, name, &to, AT_SYMLINK_NOFOLLOW) != 0)
            sys = errno;
        else
            return replace(m, name, &from, &to, e);
    }
    m->placed = sys == 0;
    if (sys == 0)
        return 0;
    cannot_place(m, name, sys, e);
    return entry_failed(m, name, e);
}

static int place_entry(struct merge *m, const char *name, struct error *e)
{
    struct sides sides = {0};
    int rc = m->job->live ? check_live(m, name, e) : 0;

    if (rc != 0)
        return entry_failed(m, name, e);
    m->placed = false;
    if (!is_database(m, name))
        return place_over(m, name, e);
    rc = move_side_files(m, name, &sides, e);
    rc = rc == 0 ? place_over(m, name, e) : entry_failed(m, name, e);
    if (!m->placed)
        return_side_files(m, name, &sides);
    return rc;
}

/* ---- folders ---- */

/* Where it may not, the change itself says so. */
void restore_let_write(int fd, const struct stat *st)
{
    if ((st->st_mode & 0300) != 0300 && st->st_uid == geteuid() &&
        fileops->set_mode(fd, NULL, (st->st_mode & 07777) | 0300) != 0)
        errno = 0;
}

/* One that is not written to as it is gets the mode of what is restored in the end. */
static void open_up(int fd)
{
    struct stat st;

    if (fstat(fd, &st) == 0)
        restore_let_write(fd, &st);
}

static int open_both(struct merge *m, struct error *e)
{
    const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;

    m->from = safe_open(m->target->tree, m->path, flags, 0, e);
    if (m->from < 0)
        return m->from;
    m->to = safe_open(m->into, m->path, flags, 0, e);
    if (m->to >= 0)
        return 0;
    close(m->from);
    return m->to;
}

static int merge_folder(struct merge *m, struct error *e)
{
    char **names = NULL;
    size_t count = 0;

    int rc = open_both(m, e);
    if (rc != 0)
        return restore_fatal(e->sys) ? rc : failed_at(m, m->path, e);
    m->foreign = m->job->live && !restore_same_mount(m->target->folder, m->to);
    if (m->job->live && !m->foreign)
        rc = live_enter(m->job->live, m->path, m->to, e);
    else if (!m->job->live && *m->path)
        open_up(m->to);
    if (rc == 0)
        rc = read_names(m->from, &names, &count, e);
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = place_entry(m, names[i], e);
    if (rc == 0)
        rc = dir_sync(m->to, e);
    free_texts(names, count);
    close(m->from);
    close(m->to);
    return rc;
}

int restore_merge(struct restore_job *j, struct restore_target *t, struct error *e)
{
    struct merge m = {.job = j, .target = t, .from = -1, .to = -1};

    m.into = t->into >= 0 ? t->into : t->folder;

    if (j->database_count > 0)
        qsort(j->databases, j->database_count, sizeof(char *), by_text);
    int rc = add_text(&m.pending, &m.count, &m.cap, strdup(""), e);
    while (rc == 0 && m.count > 0) {
        char *path = m.pending[--m.count];
        m.path = path;
        rc = merge_folder(&m, e);
        free(path);
    }
    free_texts(m.pending, m.count);
    return rc;
}
