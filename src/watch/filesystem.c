#include "watch/filesystem.h"

#include "watch/name_hash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/banned.h"

/* statfs(2) and linux/magic.h; those that no header names are here by number. */
static const struct {
    uint32_t type;
    const char *name;
} remote[] = {
    {0x6969, "NFS"},
    {0xff534d42, "CIFS"},
    {0xfe534d42, "SMB"},
    {0x517b, "SMB"},
    {0x65735546, "FUSE"},
    {0x01021997, "9p"},
    {0x00c36400, "Ceph"},
    {0x5346414f, "AFS"},
    {0x6b414653, "AFS"},
    {0x73757245, "Coda"},
    {0x0bd00bd0, "Lustre"},
    {0x01161970, "GFS2"},
    {0x7461636f, "OCFS2"},
    {0x47504653, "GPFS"},
    {0x19830326, "BeeGFS"},
    {0x786f4256, "VirtualBox shared folder"},
    {0xaad7aaea, "PanFS"},
    {0x7c7c6673, "Parallels shared folder"},
    {0xbacbacbc, "VMware shared folder"},
};

const char *filesystem_remote(int fd)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) != 0)
        return NULL;
    for (size_t i = 0; i < sizeof(remote) / sizeof(remote[0]); i++) {
        if (remote[i].type == (uint32_t)fs.f_type)
            return remote[i].name;
    }
    return NULL;
}

/* ---- mounts: proc(5), the mountinfo file raises POLLPRI when the table changes ---- */

struct mounts {
    uv_poll_t poll;
    int fd;
    void (*changed)(void *ctx);
    void *ctx;
};

static void on_changed(uv_poll_t *poll, int status, int events)
{
    struct mounts *m = poll->data;

    m->changed(m->ctx);
}

int mounts_open(uv_loop_t *loop, void (*changed)(void *ctx), void *ctx, struct mounts **out,
                struct error *e)
{
    struct mounts *m = calloc(1, sizeof(*m));

    if (!m)
        return error_sys(e, ENOMEM, "cannot watch the mounts");
    m->changed = changed;
    m->ctx = ctx;
    m->fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    int rc = m->fd < 0 ? -errno : uv_poll_init(loop, &m->poll, m->fd);
    if (rc != 0) {
        if (m->fd >= 0)
            close(m->fd);
        free(m);
        return error_sys(e, -rc, "cannot watch the mounts");
    }
    m->poll.data = m;
    rc = uv_poll_start(&m->poll, UV_PRIORITIZED, on_changed);
    if (rc != 0) {
        mounts_close(m);
        return error_sys(e, -rc, "cannot watch the mounts");
    }
    *out = m;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct mounts *m = handle->data;

    close(m->fd);
    free(m);
}

void mounts_close(struct mounts *m)
{
    if (m)
        uv_close((uv_handle_t *)&m->poll, on_closed);
}

/* Is a the same as b, or a folder above it? */
static bool at_or_above(const char *a, const char *b)
{
    size_t n = strlen(a);

    if (n == 1)
        return true; /* "/" */
    return strncmp(a, b, n) == 0 && (b[n] == 0 || b[n] == '/');
}

/* Undo the \ooo of mountinfo, in place. */
static void unescape(char *s)
{
    char *to = s;

    for (; *s; s++, to++) {
        if (s[0] == '\\' && s[1] && s[2] && s[3]) {
            *to = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
            s += 3;
        } else {
            *to = *s;
        }
    }
    *to = 0;
}

uint64_t mounts_around(const char *path)
{
    FILE *f = fopen("/proc/self/mountinfo", "re");
    char *line = NULL;
    size_t cap = 0;
    uint64_t sum = 0;

    if (!f)
        return 0;
    while (getline(&line, &cap, f) > 0) {
        uint64_t number = strtoull(line, NULL, 10);
        char *at = line;
        for (int skip = 0; skip < 4 && at; skip++) {
            at = strchr(at, ' ');
            at = at ? at + 1 : NULL;
        }
        char *end = at ? strchr(at, ' ') : NULL;
        if (!end)
            continue;
        *end = 0;
        unescape(at);
        if (at_or_above(at, path) || at_or_above(path, at))
            sum += name_hash(at, number);
    }
    free(line);
    fclose(f);
    return sum;
}
