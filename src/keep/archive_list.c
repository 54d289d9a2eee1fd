#include "keep/archive_private.h"

#include "base/text.h"
#include "io/safe_path.h"
#include "keep/archive_read.h"
#include "snapshot/selector.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

struct items {
    struct archive_item *list;
    size_t count, cap;
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

static struct archive_item *new_item(struct items *all)
{
    if (all->count == all->cap) {
        size_t cap = all->cap ? 2 * all->cap : 32;
        struct archive_item *list = reallocarray(all->list, cap, sizeof(*list));
        if (!list)
            return NULL;
        all->list = list;
        all->cap = cap;
    }
    struct archive_item *item = &all->list[all->count++];
    *item = (struct archive_item){0};
    return item;
}

/* The name of an archive that a folder's entry is; NULL: it is none. The caller frees it. */
static char *archive_of(int dir, const char *file, enum archive_format *format, struct stat *st)
{
    size_t n = strlen(file), suffix = strlen(ARCHIVE_TAR_SUFFIX);

    if (strncmp(file, "backup_", 7) != 0 || fstatat(dir, file, st, AT_SYMLINK_NOFOLLOW) != 0)
        return NULL;
    if (S_ISDIR(st->st_mode)) {
        *format = ARCHIVE_DIRECTORY;
        return strdup(file);
    }
    if (!S_ISREG(st->st_mode) || n <= suffix || strcmp(file + n - suffix, ARCHIVE_TAR_SUFFIX) != 0)
        return NULL;
    *format = ARCHIVE_TAR_GZ;
    return strndup(file, n - suffix);
}

/* item->name and format are set. */
static int fill_item(int dir, const char *folder, const char *file, const struct stat *st,
                     struct archive_item *item, struct error *e)
{
    struct error why = ERROR_INIT;

    item->path = text_format("%s/%s", folder, file);
    if (!item->path)
        return no_memory(e);
    item->time = (struct wall_time){st->st_mtim.tv_sec, (uint32_t)st->st_mtim.tv_nsec};
    item->utc_offset = clock_utc_offset(item->time.s);
    if (archive_meta_read(dir, item->name, item, &why) != 0 && why.code != ERR_NOTFOUND &&
        why.code != ERR_DAMAGED) {
        *e = why;
        return why.code;
    }
    if (S_ISREG(st->st_mode))
        item->stored_bytes = (uint64_t)st->st_size;
    return 0;
}

static int look_item(int dir, const char *folder, const char *file, struct archive_item *item,
                     struct error *e)
{
    struct stat st;

    *item = (struct archive_item){0};
    item->name = archive_of(dir, file, &item->format, &st);
    if (!item->name)
        return error_set(e, ERR_NOTFOUND, "'%s' is not the name of an archive", file);
    return fill_item(dir, folder, file, &st, item, e);
}

/* Whatever somebody named: it may have another name by now. */
static int any_item(int dir, const char *folder, const char *file, const struct stat *st,
                    struct archive_item *item, struct error *e)
{
    size_t n = strlen(file), suffix = strlen(ARCHIVE_TAR_SUFFIX);
    bool tar = n > suffix && strcmp(file + n - suffix, ARCHIVE_TAR_SUFFIX) == 0;

    item->format = S_ISDIR(st->st_mode) ? ARCHIVE_DIRECTORY : ARCHIVE_TAR_GZ;
    item->name = strndup(file, tar && S_ISREG(st->st_mode) ? n - suffix : n);
    return item->name ? fill_item(dir, folder, file, st, item, e) : no_memory(e);
}

static int add_item(struct items *all, int dir, const char *folder, const char *file,
                    const char *watch, bool manual, struct error *e)
{
    struct archive_item *item = new_item(all);

    if (!item)
        return no_memory(e);
    int rc = look_item(dir, folder, file, item, e);
    if (rc == ERR_NOTFOUND) {
        error_clear(e);
        archive_item_release(item);
        all->count--;
        return 0;
    }
    free(item->watch);
    item->watch = strdup(watch); /* the folder says whose it is */
    item->manual = manual;
    return rc != 0 ? rc : item->watch ? 0 : no_memory(e);
}

/* Open a folder to list it; *d NULL when it is not there or no folder. */
static int open_list(const char *path, DIR **d, struct error *e)
{
    int fd = long_path_open(path, O_RDONLY | O_DIRECTORY, e);

    *d = NULL;
    if (fd < 0 && (e->sys == ENOENT || e->sys == ENOTDIR)) {
        error_clear(e);
        return 0;
    }
    if (fd < 0)
        return fd;
    *d = fdopendir(fd);
    if (*d)
        return 0;
    int rc = error_sys(e, errno, "cannot list '%s'", path);
    close(fd);
    return rc;
}

static int gather_kind(struct items *all, const char *folder, const char *watch, bool manual,
                       struct error *e)
{
    char *path = text_format("%s/%s/%s", folder, watch, manual ? "manual" : "automatic");
    const struct dirent *entry;
    DIR *d = NULL;
    int rc = path ? open_list(path, &d, e) : no_memory(e);

    if (rc == 0 && d) {
        while (rc == 0 && (entry = readdir(d)) != NULL)
            rc = add_item(all, dirfd(d), path, entry->d_name, watch, manual, e);
        closedir(d);
    }
    free(path);
    return rc;
}

static int gather_watch(struct items *all, const char *folder, const char *watch, struct error *e)
{
    int rc = gather_kind(all, folder, watch, false, e);

    return rc == 0 ? gather_kind(all, folder, watch, true, e) : rc;
}

static int gather(struct items *all, const char *folder, const char *watch, struct error *e)
{
    const struct dirent *entry;
    DIR *d = NULL;
    int rc = 0;

    if (watch)
        return strchr(watch, '/') || *watch == '.' ? 0 : gather_watch(all, folder, watch, e);
    rc = open_list(folder, &d, e);
    if (rc != 0 || !d)
        return rc;
    while (rc == 0 && (entry = readdir(d)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            rc = gather_watch(all, folder, entry->d_name, e);
    }
    closedir(d);
    return rc;
}

static int by_time(const void *a, const void *b)
{
    const struct archive_item *x = a, *y = b;

    if (x->time.s != y->time.s)
        return x->time.s < y->time.s ? -1 : 1;
    if (x->time.ns != y->time.ns)
        return x->time.ns < y->time.ns ? -1 : 1;
    int order = strcmp(x->name, y->name);
    return order ? order : strcmp(x->watch, y->watch);
}

int archive_list(const char *folder, const char *watch, archive_visit visit, void *ctx,
                 struct error *e)
{
    struct items all = {0};

    int rc = gather(&all, folder, watch, e);
    if (rc == 0 && all.count > 0)
        qsort(all.list, all.count, sizeof(*all.list), by_time);
    for (size_t i = 0; rc == 0 && i < all.count; i++)
        rc = visit(ctx, &all.list[i], e);
    for (size_t i = 0; i < all.count; i++)
        archive_item_release(&all.list[i]);
    free(all.list);
    return rc;
}

/* ---- an archive where a snapshot is asked for ---- */

/* "DIR/FILE" as an item; ERR_NOTFOUND. */
static int resolve_path(const char *text, struct archive_item *item, struct error *e)
{
    size_t len = strlen(text);
    char quoted[300];
    int rc = 0;

    while (len > 1 && text[len - 1] == '/')
        len--;
    const char *slash = memrchr(text, '/', len);
    char *folder = strndup(text, (size_t)(slash - text));
    char *file = strndup(slash + 1, len - (size_t)(slash - text) - 1);
    struct stat st;
    *item = (struct archive_item){0};
    int dir = -1;
    if (!folder || !file)
        rc = no_memory(e);
    else if ((dir = long_path_open(*folder ? folder : "/", O_RDONLY | O_DIRECTORY, e)) < 0)
        rc = dir;
    else if (fstatat(dir, file, &st, 0) != 0)
        rc = error_sys(e, errno, "cannot open '%s'", text_escape(text, quoted, sizeof(quoted)));
    else
        rc = any_item(dir, folder, file, &st, item, e);
    if (dir >= 0)
        close(dir);
    free(folder);
    free(file);
    return rc;
}

struct wanted {
    const char *name;
    struct archive_item found;
    unsigned count;
};

/* The item goes over to the caller; what it was is left empty. */
static int take_wanted(void *ctx, const struct archive_item *item, struct error *e)
{
    struct wanted *w = ctx;

    if (strcmp(item->name, w->name) != 0 || w->count++ > 0)
        return 0;
    w->found = *item;
    w->found.path = strdup(item->path);
    w->found.name = strdup(item->name);
    w->found.watch = item->watch ? strdup(item->watch) : NULL;
    w->found.host = w->found.root = NULL;
    return w->found.path && w->found.name ? 0 : no_memory(e);
}

static int resolve_name(const char *name, const char *folder, const char *watch,
                        struct archive_item *item, struct error *e)
{
    struct wanted w = {.name = name};
    char quoted[200];

    int rc = archive_list(folder, watch, take_wanted, &w, e);
    if (rc == 0 && w.count == 0)
        rc = error_set(e, ERR_NOTFOUND, "no archive '%s'",
                       text_escape(name, quoted, sizeof(quoted)));
    if (rc == 0 && w.count > 1)
        rc = error_set(e, ERR_USAGE, "several watches have an archive '%s': tell which with -w",
                       text_escape(name, quoted, sizeof(quoted)));
    *item = w.found;
    return rc;
}

bool archive_is_meant(const char *text)
{
    const char *slash = strchr(text, '/');
    const char *colon = strchr(text, ':');

    return strncmp(text, "backup_", strlen("backup_")) == 0 || (slash && (!colon || slash < colon));
}

int archive_resolve(const char *text, const char *folder, const char *watch,
                    struct archive_item *item, char **path, struct error *e)
{
    const char *slash = strchr(text, '/');
    const char *colon = strchr(text, ':');
    bool is_path = slash && (!colon || slash < colon);
    int rc = ERR_NOTFOUND;

    *item = (struct archive_item){0};
    *path = NULL;
    /* A path may hold colons: the longest that is there. */
    for (const char *end = text + strlen(text); end && rc == ERR_NOTFOUND;
         end = is_path ? memrchr(text, ':', (size_t)(end - text)) : NULL) {
        const char *stop = is_path ? end : colon ? colon : end;
        char *name = strndup(text, (size_t)(stop - text));
        archive_item_release(item);
        error_clear(e);
        rc = !name || (is_path && !strchr(name, '/')) ? ERR_NOTFOUND
             : is_path                                ? resolve_path(name, item, e)
                                                      : resolve_name(name, folder, watch, item, e);
        free(name);
        if (rc == 0 && *stop == ':')
            rc = selector_path(stop + 1, path, e);
    }
    if (rc == ERR_NOTFOUND && !e->code)
        error_set(e, ERR_NOTFOUND, "no archive of that name");
    return rc;
}
