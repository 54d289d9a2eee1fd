#include "base/buffer.h"
#include "capture/file_read.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "base/banned.h"

enum {
    LIST_MAX = 65536,  /* XATTR_LIST_MAX */
    VALUE_MAX = 65536, /* XATTR_SIZE_MAX */
    TOTAL_MAX = 2 * 1024 * 1024,
};

/* What the calls need: a descriptor, or a path through the folder's descriptor. */
struct subject {
    int fd;
    char path[32 + NAME_LEN_MAX + 1];
};

static ssize_t list(const struct subject *s, char *p, size_t n)
{
    return s->fd >= 0 ? flistxattr(s->fd, p, n) : llistxattr(s->path, p, n);
}

static ssize_t get(const struct subject *s, const char *name, void *p, size_t n)
{
    return s->fd >= 0 ? fgetxattr(s->fd, name, p, n) : lgetxattr(s->path, name, p, n);
}

/* The names into names (LIST_MAX bytes): their length, or a negative errno. */
static ssize_t list_names(const struct subject *s, char *names)
{
    ssize_t n = list(s, names, LIST_MAX);

    if (n < 0)
        return errno == EOPNOTSUPP ? 0 : -errno;
    return n;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct node_xattr *)a)->name, ((const struct node_xattr *)b)->name);
}

struct found { /* offsets into bytes, which moves while it grows */
    size_t name_off, value_off;
    uint32_t len;
};

/* Append one attribute to bytes; false when it cannot be had. One that is gone again is fine. */
static bool take(const struct subject *s, const char *name, struct buffer *bytes,
                 struct buffer *table)
{
    size_t name_len = strlen(name) + 1;
    struct found x = {.name_off = bytes->len, .value_off = bytes->len + name_len};

    if (bytes->len + name_len + VALUE_MAX > TOTAL_MAX ||
        table->len / sizeof(x) >= NODE_XATTRS_MAX || !buffer_reserve(bytes, name_len + VALUE_MAX))
        return false;
    ssize_t n = get(s, name, bytes->data + x.value_off, VALUE_MAX);
    if (n < 0)
        return errno == ENODATA;
    buffer_append(bytes, name, name_len);
    bytes->len += (size_t)n;
    x.len = (uint32_t)n;
    buffer_append(table, &x, sizeof(x));
    return true;
}

/* One allocation: the table, then the bytes. */
static struct node_xattr *pack(const struct buffer *bytes, const struct buffer *table,
                               uint32_t count)
{
    struct node_xattr *v = malloc(count * sizeof(*v) + bytes->len);
    if (!v)
        return NULL;
    uint8_t *at = (uint8_t *)(v + count);
    memcpy(at, bytes->data, bytes->len);
    for (uint32_t i = 0; i < count; i++) {
        struct found x;
        memcpy(&x, table->data + i * sizeof(x), sizeof(x));
        v[i] = (struct node_xattr){(const char *)at + x.name_off, at + x.value_off, x.len};
    }
    qsort(v, count, sizeof(*v), by_name);
    return v;
}

static int read_all(const struct subject *s, const char *names, size_t len,
                    struct node_xattr **xattrs, uint32_t *count, struct error *e)
{
    struct buffer bytes = BUFFER_INIT, table = BUFFER_INIT;
    bool all = true;
    int rc = 0;

    for (size_t at = 0; at < len; at += strlen(names + at) + 1)
        all &= take(s, names + at, &bytes, &table);
    *count = (uint32_t)(table.len / sizeof(struct found));
    if (*count > 0)
        *xattrs = pack(&bytes, &table, *count);
    if (!buffer_ok(&bytes) || !buffer_ok(&table) || (*count > 0 && !*xattrs)) {
        *count = 0;
        xattrs_free(*xattrs);
        *xattrs = NULL;
        rc = error_sys(e, ENOMEM, "cannot read extended attributes");
    } else if (!all) {
        rc = error_set(e, ERR_INCOMPLETE, "some extended attributes cannot be read");
    }
    buffer_release(&bytes);
    buffer_release(&table);
    return rc;
}

int xattrs_read(int fd, int dirfd, const char *name, struct node_xattr **xattrs, uint32_t *count,
                struct error *e)
{
    struct subject s = {.fd = fd};
    struct buffer path = BUFFER_INIT;
    ssize_t len = 0;
    char few[1024];
    int rc = 0;

    *xattrs = NULL;
    *count = 0;
    if (fd < 0) {
        buffer_printf(&path, "/proc/self/fd/%d/%s", dirfd, name);
        if (!buffer_ok(&path) || path.len >= sizeof(s.path)) {
            buffer_release(&path);
            return error_set(e, ERR_INCOMPLETE, "extended attributes cannot be read");
        }
        memcpy(s.path, path.data, path.len);
        buffer_release(&path);
    }
    /* Most things have none, or one short name. */
    len = list(&s, few, sizeof(few));
    if (len == 0 || (len < 0 && errno == EOPNOTSUPP))
        return 0;
    if (len > 0)
        return read_all(&s, few, (size_t)len, xattrs, count, e);
    char *names = malloc(LIST_MAX);
    if (!names)
        return error_sys(e, ENOMEM, "cannot read extended attributes");
    len = list_names(&s, names);
    if (len < 0)
        rc = error_set(e, ERR_INCOMPLETE, "extended attributes cannot be read");
    else if (len > 0)
        rc = read_all(&s, names, (size_t)len, xattrs, count, e);
    free(names);
    return rc;
}

void xattrs_free(struct node_xattr *xattrs)
{
    free(xattrs);
}
