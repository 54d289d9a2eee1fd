#include "snapshot/test_folder.h"

#include "base/text.h"
#include "io/safe_path.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/banned.h"

static const char prefix[] = "restore-test-";

/* A test that runs holds a lock on its folder. */
static bool is_left(int dir, const char *name)
{
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        return false;
    bool left = flock(fd, LOCK_EX | LOCK_NB) == 0;
    close(fd);
    return left;
}

static void remove_left(int dir)
{
    struct error ignored = ERROR_INIT;
    int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = copy < 0 ? NULL : fdopendir(copy);
    struct dirent *entry;

    if (!d && copy >= 0)
        close(copy);
    while (d && (entry = readdir(d)) != NULL) {
        if (strncmp(entry->d_name, prefix, sizeof(prefix) - 1) == 0 && is_left(dir, entry->d_name))
            remove_tree(dir, entry->d_name, &ignored);
    }
    if (d)
        closedir(d);
}

static int check_room(int dir, const char *folder, uint64_t bytes, struct error *e)
{
    struct statvfs fs;
    uint64_t need = bytes + bytes / 20;
    char size[16];

    if (fstatvfs(dir, &fs) != 0)
        return error_sys(e, errno, "cannot test a restore in '%s'", folder);
    if ((uint64_t)fs.f_bavail * fs.f_frsize >= need)
        return 0;
    text_size(need, size, sizeof(size));
    return error_set(e, ERR_NOSPACE, "no room to test a restore: '%s' has less than %s free",
                     folder, size);
}

static int make_own(struct test_folder *t, const char *folder, struct error *e)
{
    if (!mkdtemp(t->own) || (t->lock = open(t->own, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0 ||
        flock(t->lock, LOCK_EX | LOCK_NB) != 0)
        return error_sys(e, errno, "cannot make a folder in '%s'", folder);
    t->target = text_format("%s/tree", t->own);
    return t->target ? 0 : error_sys(e, ENOMEM, "cannot test a restore");
}

int test_folder_open(struct test_folder *t, const char *folder, uint64_t bytes, struct error *e)
{
    *t = (struct test_folder){.dir = -1, .lock = -1};
    t->own = text_format("%s/%sXXXXXX", folder, prefix);
    int rc = t->own ? make_dirs(folder, 0700, e) : error_sys(e, ENOMEM, "cannot test a restore");
    if (rc == 0 && (t->dir = long_path_open(folder, O_RDONLY | O_DIRECTORY, e)) < 0)
        rc = t->dir;
    if (rc == 0) {
        remove_left(t->dir);
        rc = check_room(t->dir, folder, bytes, e);
    }
    return rc == 0 ? make_own(t, folder, e) : rc;
}

void test_folder_close(struct test_folder *t)
{
    struct error ignored = ERROR_INIT;

    if (t->lock >= 0) {
        remove_tree(t->dir, strrchr(t->own, '/') + 1, &ignored);
        close(t->lock);
    }
    if (t->dir >= 0)
        close(t->dir);
    free(t->target);
    free(t->own);
    *t = (struct test_folder){.dir = -1, .lock = -1};
}
