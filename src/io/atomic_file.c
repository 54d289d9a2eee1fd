#include "io/atomic_file.h"

#include "base/random.h"
#include "base/safety.h"
#include "base/text.h"
#include "io/fileops.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "base/banned.h"

enum { QUOTE_MAX = 300, TEMP_DIGITS = 16 };

static int step_failed(struct error *e, int sys, const char *step, const char *name)
{
    char quoted[QUOTE_MAX];

    error_sys(e, sys, "cannot %s '%s'", step, text_escape(name, quoted, sizeof(quoted)));
    return error_path(e, name);
}

static int create_temp(int dirfd, const char *name, mode_t mode, char temp[64], struct error *e)
{
    uint8_t id[TEMP_DIGITS / 2];
    int fd;

    do {
        random_bytes(id, sizeof(id));
        memcpy(temp, ATOMIC_TEMP_PREFIX, sizeof(ATOMIC_TEMP_PREFIX));
        text_hex(id, sizeof(id), temp + sizeof(ATOMIC_TEMP_PREFIX) - 1);
        fd = fileops->openat(dirfd, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW,
                             mode ? mode : 0600);
    } while (fd < 0 && (errno == EEXIST || errno == EINTR));
    if (fd < 0)
        return step_failed(e, errno, "create a temporary file for", name);
    return fd;
}

/* Write, flush and close fd, whatever fails. */
static int fill_temp(int fd, const char *name, const void *p, size_t n, struct error *e)
{
    int rc = file_write_all(fd, p, n, 0, e);

    if (rc != 0)
        step_failed(e, e->sys, "write the new", name);
    else if (SAFETY(ATOMIC_FLUSH, fileops->fdatasync(fd)) != 0)
        rc = step_failed(e, errno, "flush the new", name);
    if (fileops->close(fd) != 0 && rc == 0)
        rc = step_failed(e, errno, "close the new", name);
    return rc;
}

int atomic_file_write(int dirfd, const char *name, const void *p, size_t n, mode_t mode,
                      struct error *e)
{
    char temp[64];

    if (!*name || strchr(name, '/'))
        return step_failed(e, EINVAL, "replace", name);
    int fd = create_temp(dirfd, name, mode, temp, e);
    if (fd < 0)
        return fd;
    int rc = fill_temp(fd, name, p, n, e);
    if (rc == 0 && fileops->renameat2(dirfd, temp, dirfd, name, 0) != 0)
        rc = step_failed(e, errno, "rename the new", name);
    if (rc != 0) {
        fileops->unlinkat(dirfd, temp, 0);
        return rc;
    }
    rc = SAFETY(ATOMIC_FOLDER_FLUSH, dir_sync(dirfd, e));
    return rc == 0 ? 0 : step_failed(e, e->sys, "flush the folder of", name);
}

int small_file_read(int dirfd, const char *name, size_t max, struct buffer *out, struct error *e)
{
    size_t start = out->len;
    size_t want = max < 4096 ? max + 1 : 4096;
    size_t have = 0;
    int rc = 0;

    int fd = fileops->openat(dirfd, name, O_RDONLY | O_NOCTTY, 0);
    if (fd < 0)
        return step_failed(e, errno, "open", name);
    for (;;) {
        size_t got;
        uint8_t *to = buffer_grow(out, want);
        if (!to) {
            rc = step_failed(e, ENOMEM, "read", name);
            break;
        }
        rc = file_read_some(fd, to, want, have, &got, e);
        if (rc != 0) {
            rc = step_failed(e, e->sys, "read", name);
            break;
        }
        have += got;
        out->len = start + have;
        if (have > max) {
            char quoted[QUOTE_MAX];
            error_set(e, ERR_DAMAGED, "'%s' is longer than %zu bytes",
                      text_escape(name, quoted, sizeof(quoted)), max);
            rc = error_path(e, name);
            break;
        }
        if (got < want)
            break;
        want = max - have < have ? max - have + 1 : have;
    }
    fileops->close(fd);
    if (rc != 0)
        out->len = start;
    return rc;
}
