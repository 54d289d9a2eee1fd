#include "keep/tar_write.h"

#include "keep/tar_header.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/banned.h"

enum { SHORT_DIGITS = SHORT_LEN - 1, LONG_DIGITS = LONG_LEN - 1 };
static const uint64_t SHORT_MAX = 07777777, LONG_MAX_ = 077777777777;

bool tar_can_hold(const struct node *n)
{
    return n->type != NODE_SOCKET;
}

uint64_t tar_content_len(const struct node *n)
{
    uint64_t sum = 0;

    if (n->type != NODE_FILE)
        return 0;
    if (n->extent_count == 0)
        return n->ref_count > 0 ? n->size : 0;
    for (uint32_t i = 0; i < n->extent_count; i++)
        sum += n->extents[i].len;
    return sum;
}

/* Holes, so that the content is shorter than the file. */
static bool is_sparse(const struct node *n)
{
    return n->type == NODE_FILE && (n->extent_count > 0 || (n->ref_count == 0 && n->size > 0));
}

/* ---- the plain header ---- */

/* How much of a name that is too long for its field stands in the prefix, up to a slash that is in
 * neither; 0: none, or it does not fit so either. */
static size_t prefix_len(const char *name)
{
    size_t n = strlen(name), at = n < PREFIX_CAP + 2 ? n - 2 : PREFIX_CAP;

    if (n <= NAME_CAP)
        return 0;
    while (at > 0 && name[at] != '/')
        at--;
    return n - at - 1 <= NAME_CAP ? at : 0;
}

static void put_octal(uint8_t *h, size_t at, int digits, uint64_t v)
{
    for (int i = digits - 1; i >= 0; i--, v >>= 3)
        h[at + (size_t)i] = (uint8_t)('0' + (v & 7));
    h[at + (size_t)digits] = 0;
}

/* A number that does not fit stands in the extended header alone. */
static uint64_t or_zero(uint64_t v, uint64_t max)
{
    return v <= max ? v : 0;
}

static void put_name(uint8_t *h, size_t at, const char *name)
{
    size_t n = strlen(name);

    memcpy(h + at, name, n < NAME_CAP ? n : NAME_CAP);
}

static void put_sum(uint8_t *h)
{
    unsigned sum = 0;

    memset(h + SUM_AT, ' ', 8);
    for (size_t i = 0; i < TAR_BLOCK; i++)
        sum += h[i];
    put_octal(h, SUM_AT, 6, sum);
}

static uint8_t *new_header(struct buffer *out, const char *name, char type, uint64_t size)
{
    uint8_t *h = buffer_grow(out, TAR_BLOCK);

    if (!h)
        return NULL;
    memset(h, 0, TAR_BLOCK);
    put_name(h, NAME_AT, name);
    put_octal(h, SIZE_AT, LONG_DIGITS, or_zero(size, LONG_MAX_));
    h[TYPE_AT] = (uint8_t)type;
    memcpy(h + MAGIC_AT,
           "ustar\0"
           "00",
           8);
    return h;
}

static char type_of(const struct tar_member *m)
{
    if (m->link)
        return '1';
    switch (m->node->type) {
    case NODE_FOLDER:
        return '5';
    case NODE_SYMLINK:
        return '2';
    case NODE_FIFO:
        return '6';
    case NODE_CHAR_DEVICE:
        return '3';
    case NODE_BLOCK_DEVICE:
        return '4';
    default:
        return '0';
    }
}

static const char *link_of(const struct tar_member *m)
{
    if (m->link)
        return m->link;
    return m->node->type == NODE_SYMLINK && m->node->target ? m->node->target : "";
}

/* ---- records of the extended header: "LEN KEY=VALUE\n", LEN counting itself ---- */

static size_t digits_of(size_t n)
{
    size_t d = 1;

    while (n >= 10) {
        n /= 10;
        d++;
    }
    return d;
}

static void put_record(struct buffer *x, const char *key, const void *value, size_t n)
{
    size_t body = 1 + strlen(key) + 1 + n + 1;
    size_t len = body + digits_of(body);

    if (digits_of(len) + body != len)
        len++;
    buffer_printf(x, "%zu %s=", len, key);
    buffer_append(x, value, n);
    buffer_append(x, "\n", 1);
}

static void put_text(struct buffer *x, const char *key, const char *value)
{
    put_record(x, key, value, strlen(value));
}

static void put_number(struct buffer *x, const char *key, uint64_t v)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRIu64, v);
    put_text(x, key, text);
}

static void put_mtime(struct buffer *x, const struct node *n)
{
    /* Before the epoch the fraction counts the other way: -1.5 is s = -2, ns = 500000000. */
    bool minus = n->mtime_s < 0 && n->mtime_ns > 0;
    uint64_t s = n->mtime_s < 0 ? 0 - (uint64_t)n->mtime_s - (minus ? 1 : 0) : (uint64_t)n->mtime_s;
    uint32_t ns = minus ? 1000000000 - n->mtime_ns : n->mtime_ns;
    char text[48];

    if (ns)
        snprintf(text, sizeof(text), "%s%" PRIu64 ".%09u", n->mtime_s < 0 ? "-" : "", s, ns);
    else
        snprintf(text, sizeof(text), "%s%" PRIu64, n->mtime_s < 0 ? "-" : "", s);
    put_text(x, "mtime", text);
}

/* '=' would end the key, '%' is how it is written. */
static void put_xattr(struct buffer *x, const struct node_xattr *a)
{
    struct buffer key = BUFFER_INIT;

    buffer_append_str(&key, "SCHILY.xattr.");
    for (const char *p = a->name; *p; p++) {
        if (*p == '%' || *p == '=')
            buffer_append_str(&key, *p == '%' ? "%25" : "%3D");
        else
            buffer_append(&key, p, 1);
    }
    const char *text = buffer_cstr(&key);
    if (buffer_ok(&key))
        put_record(x, text, a->value, a->len);
    else
        x->failed = true;
    buffer_release(&key);
}

/* ---- sparse files: a map, then the data ---- */

static void put_map(struct buffer *map, const struct node *n)
{
    uint64_t end = 0;

    if (n->extent_count > 0)
        end = n->extents[n->extent_count - 1].off + n->extents[n->extent_count - 1].len;
    buffer_printf(map, "%" PRIu32 "\n", n->extent_count + (end < n->size));
    for (uint32_t i = 0; i < n->extent_count; i++)
        buffer_printf(map, "%" PRIu64 "\n%" PRIu64 "\n", n->extents[i].off, n->extents[i].len);
    if (end < n->size)
        buffer_printf(map, "%" PRIu64 "\n0\n", n->size);
    tar_put_padding(map->len, map);
}

/* The name that a program without a notion of sparse files gives what it finds. */
static void put_sparse_name(struct buffer *out, const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t folder = slash ? (size_t)(slash - path) + 1 : 0;

    buffer_append(out, path, folder);
    buffer_append_str(out, "GNUSparseFile.0/");
    buffer_append_str(out, path + folder);
}

static void put_sparse_records(struct buffer *x, const struct tar_member *m)
{
    put_text(x, "GNU.sparse.major", "1");
    put_text(x, "GNU.sparse.minor", "0");
    put_text(x, "GNU.sparse.name", m->path);
    put_number(x, "GNU.sparse.realsize", m->node->size);
}

/* ---- a member ---- */

static void put_records(struct buffer *x, const struct tar_member *m, const char *name,
                        uint64_t size)
{
    const struct node *n = m->node;

    if (m->comment)
        put_text(x, "comment", m->comment);
    if (strlen(name) > NAME_CAP && prefix_len(name) == 0)
        put_text(x, "path", name);
    if (strlen(link_of(m)) > NAME_CAP)
        put_text(x, "linkpath", link_of(m));
    if (size > LONG_MAX_)
        put_number(x, "size", size);
    if (n->uid > SHORT_MAX)
        put_number(x, "uid", n->uid);
    if (n->gid > SHORT_MAX)
        put_number(x, "gid", n->gid);
    if (n->mtime_ns || n->mtime_s < 0 || (uint64_t)n->mtime_s > LONG_MAX_)
        put_mtime(x, n);
    for (uint32_t i = 0; !m->link && i < n->xattr_count; i++)
        put_xattr(x, &n->xattrs[i]);
}

static void put_extended(struct buffer *out, const struct buffer *x)
{
    uint8_t *h = new_header(out, "././@PaxHeader", 'x', x->len);

    if (!h)
        return;
    put_octal(h, MODE_AT, SHORT_DIGITS, 0644);
    put_octal(h, UID_AT, SHORT_DIGITS, 0);
    put_octal(h, GID_AT, SHORT_DIGITS, 0);
    put_octal(h, MTIME_AT, LONG_DIGITS, 0);
    put_sum(h);
    buffer_append(out, x->data, x->len);
    tar_put_padding(x->len, out);
}

static void put_plain(struct buffer *out, const struct tar_member *m, const char *name,
                      uint64_t size)
{
    const struct node *n = m->node;
    size_t prefix = prefix_len(name);
    uint8_t *h = new_header(out, prefix ? name + prefix + 1 : name, type_of(m), size);

    if (!h)
        return;
    memcpy(h + PREFIX_AT, name, prefix);
    put_name(h, LINK_AT, link_of(m));
    put_octal(h, MODE_AT, SHORT_DIGITS, n->mode & 07777);
    put_octal(h, UID_AT, SHORT_DIGITS, or_zero(n->uid, SHORT_MAX));
    put_octal(h, GID_AT, SHORT_DIGITS, or_zero(n->gid, SHORT_MAX));
    put_octal(h, MTIME_AT, LONG_DIGITS,
              n->mtime_s < 0 ? 0 : or_zero((uint64_t)n->mtime_s, LONG_MAX_));
    put_octal(h, MAJOR_AT, SHORT_DIGITS, or_zero(n->rdev >> 32, SHORT_MAX));
    put_octal(h, MINOR_AT, SHORT_DIGITS, or_zero(n->rdev & UINT32_MAX, SHORT_MAX));
    put_sum(h);
}

void tar_put_header(const struct tar_member *m, struct buffer *out)
{
    struct buffer x = BUFFER_INIT, map = BUFFER_INIT, name = BUFFER_INIT;
    bool sparse = !m->link && is_sparse(m->node);
    uint64_t size = m->link ? 0 : tar_content_len(m->node);

    if (sparse) {
        put_map(&map, m->node);
        put_sparse_name(&name, m->path);
        put_sparse_records(&x, m);
        size += map.len;
    } else {
        buffer_append_str(&name, m->path);
        if (m->node->type == NODE_FOLDER)
            buffer_append(&name, "/", 1);
    }
    const char *text = buffer_cstr(&name);
    put_records(&x, m, text, size);
    if (x.len > 0)
        put_extended(out, &x);
    put_plain(out, m, text, size);
    buffer_append(out, map.data, map.len);
    if (!buffer_ok(&x) || !buffer_ok(&map) || !buffer_ok(&name))
        out->failed = true;
    buffer_release(&x);
    buffer_release(&map);
    buffer_release(&name);
}

void tar_put_padding(uint64_t len, struct buffer *out)
{
    size_t left = (TAR_BLOCK - len % TAR_BLOCK) % TAR_BLOCK;
    uint8_t *to = left ? buffer_grow(out, left) : NULL;

    if (to)
        memset(to, 0, left);
}

void tar_put_end(struct buffer *out)
{
    uint8_t *to = buffer_grow(out, 2 * (size_t)TAR_BLOCK);

    if (to)
        memset(to, 0, 2 * (size_t)TAR_BLOCK);
}
