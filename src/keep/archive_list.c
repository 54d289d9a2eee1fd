#include "keep/archive_private.h"

#include "base/text.h"
#include "io/safe_path.h"

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

int archive_item_look(int dir, const char *folder, const char *file, struct archive_item *item,
                      struct error *e)
{
    struct error why = ERROR_INIT;
    struct stat st;

    *item = (struct archive_item){0};
    item->name = archive_of(dir, file, &item->format, &st);
    if (!item->name)
        return error_set(e, ERR_NOTFOUND, "'%s' is not the name of an archive", file);
    item->path = text_format("%s/%s", folder, file);
    if (!item->path)
        return no_memory(e);
    item->time = (struct wall_time){st.st_mtim.tv_sec, (uint32_t)st.st_mtim.tv_nsec};
    item->utc_offset = clock_utc_offset(item->time.s);
    if (archive_meta_read(dir, item->name, item, &why) != 0 && why.code != ERR_NOTFOUND &&
        why.code != ERR_DAMAGED) {
        *e = why;
        return why.code;
    }
    if (S_ISREG(st.st_mode))
        item->stored_bytes = (uint64_t)st.st_size;
    return 0;
}

static int add_item(struct items *all, int dir, const char *folder, const char *file,
                    const char *watch, bool manual, struct error *e)
{
    struct archive_item *item = new_item(all);

    if (!item)
        return no_memory(e);
    int rc = archive_item_look(dir, folder, file, item, e);
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
