/* Where an archive is written, and how it gets its name.
 *
 * While it is written it is called ".watchkeep-NAME-<8 hex digits>" and locked (flock), so that
 * what a killed run left can be told from what is in use, and two runs never choose one name. Its
 * metadata, ".json" behind that, goes with it. Choosing a name, clearing up and the two renames of
 * publishing hold a lock on the folder itself. NAME.json gets its name first: one without an
 * archive, from a run killed in between or a removal cut off, is removed by the next run. */
#include "keep/archive_private.h"

#include "base/random.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/fileops.h"
#include "io/safe_path.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/banned.h"

#define TEMP_PREFIX ".watchkeep-"
#define META_SUFFIX ".json"

enum { TEMP_DIGITS = 8, TRIES_MAX = 9999 };

static int fail(struct error *e, int sys, const char *what, const char *path)
{
    char quoted[300];

    error_sys(e, sys, "cannot %s '%s'", what, text_escape(path, quoted, sizeof(quoted)));
    return error_path(e, path);
}

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);

    return n >= k && strcmp(s + n - k, end) == 0;
}

static bool there(int dir, const char *name, const char *suffix)
{
    struct stat st;
    char *full = text_format("%s%s", name, suffix);
    bool is = !full || fstatat(dir, full, &st, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT;

    free(full);
    return is;
}

/* ---- what killed runs left ---- */

/* Visit the folder's names. */
static int each_name(int dir, int (*visit)(void *ctx, const char *name), void *ctx)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    int rc = 0;

    if (!d) {
        if (fd >= 0)
            close(fd);
        return 0;
    }
    while (rc == 0 && (entry = readdir(d)) != NULL)
        rc = visit(ctx, entry->d_name);
    closedir(d);
    return rc;
}

/* Whether somebody works on the temporary; a missing one is nobody's. A shared lock: over NFS the
 * other one needs the right to write. */
static bool in_use(int dir, const char *temp)
{
    int fd = openat(dir, temp, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0)
        return errno != ENOENT;
    bool locked = flock(fd, LOCK_SH | LOCK_NB) != 0;
    close(fd);
    return locked;
}

static bool temp_in_use(int dir, const char *name)
{
    if (!ends_with(name, META_SUFFIX))
        return in_use(dir, name);
    char *base = strndup(name, strlen(name) - strlen(META_SUFFIX));
    bool used = !base || in_use(dir, base);
    free(base);
    return used;
}

static void remove_orphan(int dir, const char *name)
{
    struct archive_item item = {0};
    struct error ignored = ERROR_INIT;
    char *base = strndup(name, strlen(name) - strlen(META_SUFFIX));

    if (base && !there(dir, base, "") && !there(dir, base, ARCHIVE_TAR_SUFFIX) &&
        archive_meta_read(dir, base, &item, &ignored) == 0)
        fileops->unlinkat(dir, name, 0);
    archive_item_release(&item);
    free(base);
}

static int clear_name(void *ctx, const char *name)
{
    const int *dir = ctx;
    struct error ignored = ERROR_INIT;

    if (strncmp(name, ATOMIC_TEMP_PREFIX, strlen(ATOMIC_TEMP_PREFIX)) == 0) {
        fileops->unlinkat(*dir, name, 0); /* whoever makes such holds the lock that we hold */
    } else if (strncmp(name, TEMP_PREFIX, strlen(TEMP_PREFIX)) == 0) {
        if (!temp_in_use(*dir, name))
            remove_tree(*dir, name, &ignored);
    } else if (strncmp(name, "backup_", 7) == 0 && ends_with(name, META_SUFFIX)) {
        remove_orphan(*dir, name);
    }
    return 0;
}

/* ---- names ---- */

static int is_temp_of(void *ctx, const char *name)
{
    const char *wanted = ctx;
    size_t n = strlen(wanted);

    return strncmp(name, TEMP_PREFIX, strlen(TEMP_PREFIX)) == 0 &&
           strncmp(name + strlen(TEMP_PREFIX), wanted, n) == 0 &&
           name[strlen(TEMP_PREFIX) + n] == '-' &&
           strlen(name + strlen(TEMP_PREFIX) + n + 1) == TEMP_DIGITS;
}

bool archive_name_taken(int dir, const char *name)
{
    union {
        const char *in;
        void *out;
    } ctx = {.in = name};

    return there(dir, name, "") || there(dir, name, ARCHIVE_TAR_SUFFIX) ||
           there(dir, name, META_SUFFIX) || each_name(dir, is_temp_of, ctx.out) != 0;
}

static int choose_name(const struct archive_order *o, struct wall_time now, struct archive_place *p,
                       struct error *e)
{
    char first[ARCHIVE_NAME_MAX - 8];

    if (o->name) {
        snprintf(first, sizeof(first), "backup_%s", o->name);
        if (archive_name_taken(p->dir, first))
            return error_set(e, ERR_REFUSED, "there is an archive '%s' of watch '%s' already",
                             o->name, o->snapshot->watch_name);
    } else {
        char local[32];
        time_local(now.s, local, sizeof(local));
        for (char *c = local; *c; c++)
            *c = *c == ' ' ? '_' : *c == ':' ? '-' : *c;
        snprintf(first, sizeof(first), "backup_%s", local);
    }
    snprintf(p->name, sizeof(p->name), "%s", first);
    for (unsigned i = 2; archive_name_taken(p->dir, p->name); i++) {
        if (i > TRIES_MAX)
            return error_set(e, ERR_REFUSED, "too many archives are called '%s'", first);
        snprintf(p->name, sizeof(p->name), "%s-%u", first, i);
    }
    return 0;
}

/* ---- the temporary ---- */

static int make_temp(struct archive_place *p, struct error *e)
{
    uint8_t id[TEMP_DIGITS / 2];
    char digits[TEMP_DIGITS + 1];

    random_bytes(id, sizeof(id));
    text_hex(id, sizeof(id), digits);
    snprintf(p->temp, sizeof(p->temp), TEMP_PREFIX "%s-%s", p->name, digits);
    snprintf(p->temp_meta, sizeof(p->temp_meta), "%s" META_SUFFIX, p->temp);
    if (p->format == ARCHIVE_DIRECTORY) {
        if (fileops->mkdirat(p->dir, p->temp, 0700) != 0)
            return fail(e, errno, "make an archive in", p->folder);
        p->made = true;
        p->lock = openat(p->dir, p->temp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    } else {
        p->lock = fileops->openat(p->dir, p->temp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
        p->made = p->lock >= 0;
    }
    if (p->lock < 0 || flock(p->lock, LOCK_EX | LOCK_NB) != 0)
        return fail(e, errno, "make an archive in", p->folder);
    return 0;
}

/* The new folders survive a power cut too. */
static int flush_parents(const struct archive_place *p, struct error *e)
{
    static const char *const up[] = {".", "..", "../.."};
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < sizeof(up) / sizeof(up[0]); i++) {
        int fd = openat(p->dir, up[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
            return fail(e, errno, "open the folder of", p->folder);
        rc = dir_sync(fd, e);
        close(fd);
    }
    return rc;
}

static int open_folder(const struct archive_order *o, struct archive_place *p, struct error *e)
{
    const char *watch = o->snapshot->watch_name;

    if (strchr(watch, '/') || strcmp(watch, ".") == 0 || strcmp(watch, "..") == 0)
        return error_set(e, ERR_USAGE, "watch '%s' cannot be the name of a folder of archives",
                         watch);
    p->folder = text_format("%s/%s/%s", o->folder, watch, o->name ? "manual" : "automatic");
    if (!p->folder)
        return no_memory(e);
    int rc = make_dirs(p->folder, 0700, e);
    if (rc != 0)
        return rc;
    p->dir = long_path_open(p->folder, O_RDONLY | O_DIRECTORY, e);
    return p->dir < 0 ? p->dir : flush_parents(p, e);
}

int archive_folder_lock(int dir, struct error *e)
{
    int rc;

    do
        rc = flock(dir, LOCK_EX);
    while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : error_sys(e, errno, "cannot lock the folder of archives");
}

void archive_folder_unlock(int dir)
{
    flock(dir, LOCK_UN);
}

int archive_place_open(const struct archive_order *o, struct wall_time now, struct archive_place *p,
                       struct error *e)
{
    *p = (struct archive_place){.dir = -1, .lock = -1, .format = o->format};
    int rc = open_folder(o, p, e);

    if (rc == 0)
        rc = archive_folder_lock(p->dir, e);
    if (rc != 0)
        return rc;
    each_name(p->dir, clear_name, &p->dir);
    rc = choose_name(o, now, p, e);
    if (rc == 0)
        rc = make_temp(p, e);
    archive_folder_unlock(p->dir);
    return rc;
}

int archive_room(const struct archive_order *o, int fd, uint64_t bytes, struct error *e)
{
    char left[24], kept[24], quoted[300];
    struct statvfs fs;

    if (o->leave_free == 0 || fstatvfs(fd, &fs) != 0 || fs.f_blocks == 0)
        return 0;
    uint64_t available = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (available >= o->leave_free + bytes)
        return 0;
    text_size(available, left, sizeof(left));
    text_size(o->leave_free, kept, sizeof(kept));
    return error_set(
        e, ERR_NOSPACE,
        "only %s are free on the file system of '%s'; %s are left to others (min_free)", left,
        text_escape(o->folder, quoted, sizeof(quoted)), kept);
}

/* ---- putting in place ---- */

/* 0 or an errno. */
static int rename_new(int dir, const char *from, const char *to)
{
    struct stat st;

    if (fileops->renameat2(dir, from, dir, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return errno;
    /* This file system knows no NOREPLACE; the folder is locked against others of us. */
    if (fstatat(dir, to, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return EEXIST;
    return fileops->renameat2(dir, from, dir, to, 0) == 0 ? 0 : errno;
}

static int publish(struct archive_place *p, struct error *e)
{
    char meta[ARCHIVE_NAME_MAX + 16], final[ARCHIVE_NAME_MAX + 16], from[ARCHIVE_TEMP_MAX + 8];

    snprintf(from, sizeof(from), "%s%s", p->temp,
             p->format == ARCHIVE_DIRECTORY ? "/" ARCHIVE_TREE : "");
    snprintf(meta, sizeof(meta), "%s" META_SUFFIX, p->name);
    snprintf(final, sizeof(final), "%s%s", p->name,
             p->format == ARCHIVE_TAR_GZ ? ARCHIVE_TAR_SUFFIX : "");
    int sys = rename_new(p->dir, p->temp_meta, meta);
    if (sys == 0) {
        p->meta_made = false;
        sys = rename_new(p->dir, from, final);
        if (sys != 0)
            fileops->unlinkat(p->dir, meta, 0);
    }
    if (sys == EEXIST || sys == ENOTEMPTY)
        return error_set(e, ERR_REFUSED, "'%s' appeared in '%s' while the archive was written",
                         p->name, p->folder);
    if (sys != 0)
        return fail(e, sys, "put an archive in place in", p->folder);
    p->published = true;
    p->made = p->format == ARCHIVE_DIRECTORY; /* what it stood in is left */
    return dir_sync(p->dir, e);
}

int archive_place_publish(struct archive_place *p, struct error *e)
{
    int rc = archive_folder_lock(p->dir, e);

    if (rc != 0)
        return rc;
    rc = publish(p, e);
    archive_folder_unlock(p->dir);
    return rc;
}

void archive_place_close(struct archive_place *p)
{
    struct error ignored = ERROR_INIT;

    if (p->meta_made)
        fileops->unlinkat(p->dir, p->temp_meta, 0);
    if (p->made)
        remove_tree(p->dir, p->temp, &ignored);
    if (p->lock >= 0)
        close(p->lock);
    if (p->dir >= 0)
        close(p->dir);
    free(p->folder);
    *p = (struct archive_place){.dir = -1, .lock = -1};
}

/* ---- removing ---- */

int archive_remove(const struct archive_item *item, struct error *e)
{
    char temp[ARCHIVE_TEMP_MAX];
    uint8_t id[TEMP_DIGITS / 2];
    char digits[TEMP_DIGITS + 1];
    const char *slash = strrchr(item->path, '/');
    char *folder = slash ? strndup(item->path, (size_t)(slash - item->path) + 1) : strdup(".");
    char *meta = text_format("%s" META_SUFFIX, item->name);
    const char *file = slash ? slash + 1 : item->path;
    int rc = folder && meta ? 0 : no_memory(e);
    int dir = -1;

    if (rc == 0) {
        dir = long_path_open(folder, O_RDONLY | O_DIRECTORY, e);
        rc = dir < 0 ? dir : 0;
    }
    if (rc == 0) {
        random_bytes(id, sizeof(id));
        text_hex(id, sizeof(id), digits);
        snprintf(temp, sizeof(temp), TEMP_PREFIX "%.*s-%s", ARCHIVE_NAME_MAX - 1, item->name,
                 digits);
        /* Half a folder must not stand under the name of an archive. */
        int sys = rename_new(dir, file, temp);
        if (sys != 0 && sys != ENOENT)
            rc = fail(e, sys, "remove the archive", item->path);
    }
    if (rc == 0)
        rc = dir_sync(dir, e);
    if (rc == 0)
        rc = remove_tree(dir, temp, e);
    if (rc == 0 && fileops->unlinkat(dir, meta, 0) != 0 && errno != ENOENT)
        rc = fail(e, errno, "remove the metadata of", item->path);
    if (rc == 0)
        rc = dir_sync(dir, e);
    if (dir >= 0)
        close(dir);
    free(folder);
    free(meta);
    return rc;
}
