#include "capture/scratch_file.h"

#include "base/random.h"
#include "base/text.h"
#include "io/lock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

enum { ID_BYTES = 8, NAME_LEN = sizeof(SCRATCH_PREFIX) - 1 + 2 * ID_BYTES };

static const uint64_t lock_byte = UINT64_C(1) << 48;

/* The main file goes last: as long as it is there, what belongs to it is found again. */
static void remove_names(int dirfd, const char *name)
{
    static const char *const suffixes[] = {"-wal", "-shm", "-journal", ""};
    char side[NAME_MAX + 16];

    for (size_t i = 0; i < sizeof(suffixes) / sizeof(*suffixes); i++) {
        snprintf(side, sizeof(side), "%s%s", name, suffixes[i]);
        unlinkat(dirfd, side, 0);
    }
}

static bool is_scratch_name(const char *name)
{
    uint8_t id[ID_BYTES];

    return strncmp(name, SCRATCH_PREFIX, sizeof(SCRATCH_PREFIX) - 1) == 0 &&
           text_unhex(name + sizeof(SCRATCH_PREFIX) - 1, id, sizeof(id));
}

static void remove_if_left(int dirfd, const char *name)
{
    struct error ignored = ERROR_INIT;
    int fd = openat(dirfd, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0)
        return;
    if (lock_take(fd, lock_byte, true, 0, &ignored) == 0)
        remove_names(dirfd, name);
    close(fd);
}

static void remove_leftovers(int dirfd)
{
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

    if (!d) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (struct dirent *entry; (entry = readdir(d));)
        if (is_scratch_name(entry->d_name))
            remove_if_left(dirfd, entry->d_name);
    closedir(d);
}

/* 1: somebody took it for a leftover between creation and lock. */
static int make_locked(struct scratch_file *s, struct error *e)
{
    uint8_t id[ID_BYTES];
    struct stat st;

    random_bytes(id, sizeof(id));
    memcpy(s->name, SCRATCH_PREFIX, sizeof(SCRATCH_PREFIX));
    text_hex(id, sizeof(id), s->name + sizeof(SCRATCH_PREFIX) - 1);
    s->fd = openat(s->dirfd, s->name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (s->fd < 0)
        return errno == EEXIST ? 1 : error_sys(e, errno, "cannot make a scratch file");
    int rc = lock_take(s->fd, lock_byte, true, 0, e);
    if (rc != 0 && rc != ERR_BUSY)
        return rc;
    if (rc == 0 && fstat(s->fd, &st) == 0 && st.st_nlink > 0)
        return 0;
    error_clear(e);
    close(s->fd);
    s->fd = -1;
    return 1;
}

int scratch_file_open(struct scratch_file *s, const char *dir, struct error *e)
{
    char real[PATH_MAX];
    int rc = 0;

    *s = (struct scratch_file){.dirfd = -1, .fd = -1};
    if (!realpath(dir, real))
        rc = error_sys(e, errno, "cannot find the scratch folder");
    if (rc == 0 && (s->dirfd = open(real, O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
        rc = error_sys(e, errno, "cannot open the scratch folder");
    if (rc == 0) {
        remove_leftovers(s->dirfd);
        while ((rc = make_locked(s, e)) == 1)
            ;
    }
    if (rc == 0) {
        int n = snprintf(s->path, sizeof(s->path), "%s/%s", strcmp(real, "/") == 0 ? "" : real,
                         s->name);
        if (n < 0 || (size_t)n >= sizeof(s->path))
            rc = error_sys(e, ENAMETOOLONG, "the scratch folder's path is too long");
    }
    if (rc != 0) {
        error_path(e, dir);
        scratch_file_close(s);
    }
    return rc;
}

void scratch_file_close(struct scratch_file *s)
{
    if (*s->name && s->dirfd >= 0)
        remove_names(s->dirfd, s->name);
    if (s->fd >= 0)
        close(s->fd);
    if (s->dirfd >= 0)
        close(s->dirfd);
    s->fd = s->dirfd = -1;
    s->name[0] = 0;
}
