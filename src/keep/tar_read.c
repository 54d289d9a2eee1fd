#include "keep/tar_read.h"

#include "base/text.h"
#include "keep/tar_header.h"
#include "keep/tar_write.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum {
    PATH_BYTES_MAX = 64 * 1024,
};
static const uint64_t EXTENDED_MAX = 8 * 1024 * 1024, SIZE_LIMIT = INT64_MAX;

struct tar_reader {
    tar_source source;
    void *ctx;
    const uint8_t *p; /* the span at hand */
    size_t left;
    bool ended;          /* the source has */
    uint64_t content;    /* of the entry, not yet given */
    uint64_t padding;    /* behind it */
    uint64_t offset;     /* in the stream, for messages */
    struct buffer extra; /* the extended header: its records point into it */
    struct buffer path, link;
    struct buffer xattr_names;
    struct tar_entry entry;
    struct node_xattr *xattrs;
    struct node_extent *extents;
};

/* What an extended header said of the next entry. */
struct said {
    const char *path, *link; /* NULL: nothing */
    size_t path_len, link_len;
    bool has_size, has_uid, has_gid, has_mtime, sparse, metadata;
    bool has_real;
    uint64_t size, uid, gid, real;
    int64_t mtime_s;
    uint32_t mtime_ns;
    const char *real_name;
    size_t real_name_len;
    uint64_t major, minor;
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

static int damaged(const struct tar_reader *r, const char *what, struct error *e)
{
    return error_set(e, ERR_DAMAGED, "not a tar archive, or damaged, before byte %llu of it: %s",
                     (unsigned long long)r->offset, what);
}

int tar_reader_open(tar_source source, void *ctx, struct tar_reader **out, struct error *e)
{
    *out = calloc(1, sizeof(**out));
    if (!*out)
        return no_memory(e);
    (*out)->source = source;
    (*out)->ctx = ctx;
    return 0;
}

static void forget_entry(struct tar_reader *r)
{
    free(r->xattrs);
    free(r->extents);
    r->xattrs = NULL;
    r->extents = NULL;
    buffer_clear(&r->extra);
    buffer_clear(&r->path);
    buffer_clear(&r->link);
    buffer_clear(&r->xattr_names);
    r->entry = (struct tar_entry){0};
}

void tar_reader_close(struct tar_reader *r)
{
    if (!r)
        return;
    forget_entry(r);
    buffer_release(&r->extra);
    buffer_release(&r->path);
    buffer_release(&r->link);
    buffer_release(&r->xattr_names);
    free(r);
}

/* ---- bytes ---- */

static int more(struct tar_reader *r, struct error *e)
{
    int rc = 0;

    while (rc == 0 && r->left == 0 && !r->ended) {
        rc = r->source(r->ctx, &r->p, &r->left, e);
        r->ended = rc == 0 && r->left == 0;
    }
    return rc;
}

/* Up to n bytes of the span at hand. */
static int span(struct tar_reader *r, uint64_t n, const uint8_t **p, size_t *len, struct error *e)
{
    int rc = more(r, e);

    if (rc == 0 && r->ended)
        rc = damaged(r, "it ends early", e);
    if (rc != 0)
        return rc;
    *p = r->p;
    *len = n < r->left ? (size_t)n : r->left;
    r->p += *len;
    r->left -= *len;
    r->offset += *len;
    return 0;
}

static int take(struct tar_reader *r, uint8_t *to, size_t n, struct error *e)
{
    const uint8_t *p;
    size_t len;
    int rc = 0;

    while (rc == 0 && n > 0) {
        rc = span(r, n, &p, &len, e);
        if (rc == 0) {
            memcpy(to, p, len);
            to += len;
            n -= len;
        }
    }
    return rc;
}

static int skip(struct tar_reader *r, uint64_t n, struct error *e)
{
    const uint8_t *p;
    size_t len;
    int rc = 0;

    for (; rc == 0 && n > 0; n -= len)
        rc = span(r, n, &p, &len, e);
    return rc;
}

static uint64_t padding_of(uint64_t size)
{
    return (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
}

/* ---- numbers of a plain header ---- */

/* Octal digits between blanks, or (GNU) base 256 with the top bit set. */
static bool number(const uint8_t *h, size_t at, size_t n, uint64_t *v)
{
    size_t i = at, end = at + n;

    *v = 0;
    if (h[at] & 0x80) {
        if (h[at] != 0x80)
            return false; /* negative, or beyond anything */
        for (i = at + 1; i < end; i++) {
            if (*v >> 56)
                return false;
            *v = *v << 8 | h[i];
        }
        return true;
    }
    while (i < end && h[i] == ' ')
        i++;
    for (; i < end && h[i] >= '0' && h[i] <= '7'; i++)
        *v = *v << 3 | (uint64_t)(h[i] - '0'); /* at most 12 digits */
    return i == end || h[i] == ' ' || h[i] == 0;
}

static bool sum_matches(const uint8_t *h)
{
    uint64_t wanted, sum = 0;

    for (size_t i = 0; i < TAR_BLOCK; i++)
        sum += i >= SUM_AT && i < SUM_AT + 8 ? ' ' : h[i];
    return number(h, SUM_AT, 8, &wanted) && wanted == sum;
}

static bool all_zero(const uint8_t *h)
{
    for (size_t i = 0; i < TAR_BLOCK; i++) {
        if (h[i])
            return false;
    }
    return true;
}

/* ---- records of an extended header ---- */

static bool digits(const char *p, size_t n, uint64_t *v)
{
    *v = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9' || *v > (SIZE_LIMIT - 9) / 10)
            return false;
        *v = *v * 10 + (uint64_t)(p[i] - '0');
    }
    return n > 0;
}

/* "[-]seconds[.fraction]". */
static bool take_mtime(const char *p, size_t n, struct said *s)
{
    bool minus = n > 0 && *p == '-';
    const char *begin = p + minus;
    const char *dot = memchr(begin, '.', n - minus);
    size_t whole = dot ? (size_t)(dot - begin) : n - minus;
    uint64_t sec;
    uint32_t ns = 0, unit = 100000000;

    if (!digits(begin, whole, &sec) || sec > INT64_MAX / 2)
        return false;
    for (const char *c = dot ? dot + 1 : p + n; c < p + n; c++, unit /= 10) {
        if (*c < '0' || *c > '9')
            return false;
        ns += (uint32_t)(*c - '0') * unit;
    }
    s->mtime_s = minus ? -(int64_t)sec : (int64_t)sec;
    s->mtime_ns = ns;
    if (minus && ns) {
        s->mtime_s--;
        s->mtime_ns = 1000000000 - ns;
    }
    s->has_mtime = true;
    return true;
}

/* The attribute's name without '%25' and '%3D', NUL behind it, in place of what stood there. */
static bool decode_key(struct buffer *names, const char *p, size_t n)
{
    size_t start = names->len;

    for (size_t i = 0; i < n; i++) {
        char c = p[i];
        if (c == '%' && n - i >= 3 && memcmp(p + i, "%25", 3) == 0)
            i += 2;
        else if (c == '%' && n - i >= 3 && memcmp(p + i, "%3D", 3) == 0)
            c = '=', i += 2;
        if (c == 0)
            return false;
        buffer_append(names, &c, 1);
    }
    buffer_append(names, "", 1);
    return names->len - start > 1 && names->len - start <= NAME_LEN_MAX + 1;
}

/* The name's place in xattr_names goes into `name` until all are there. */
static bool take_xattr(struct tar_reader *r, const char *key, size_t key_len, const char *p,
                       size_t n)
{
    uint32_t count = r->entry.node.xattr_count;

    if (count == NODE_XATTRS_MAX || n > UINT16_MAX + 1u)
        return false;
    if (!r->xattrs)
        r->xattrs = calloc(NODE_XATTRS_MAX, sizeof(*r->xattrs));
    size_t at = r->xattr_names.len;
    if (!r->xattrs || !decode_key(&r->xattr_names, key, key_len))
        return false;
    r->xattrs[count] = (struct node_xattr){
        .name = (const char *)(uintptr_t)at, .value = (const uint8_t *)p, .len = (uint32_t)n};
    r->entry.node.xattr_count++;
    return true;
}

static bool is_key(const char *key, size_t len, const char *text)
{
    return strlen(text) == len && memcmp(key, text, len) == 0;
}

/* False: it is wrong. What is not known is passed over. */
static bool take_record(struct tar_reader *r, struct said *s, const char *key, size_t key_len,
                        const char *p, size_t n)
{
    static const char xattr[] = "SCHILY.xattr.";
    const size_t xattr_len = sizeof(xattr) - 1;

    if (key_len > xattr_len && memcmp(key, xattr, xattr_len) == 0)
        return take_xattr(r, key + xattr_len, key_len - xattr_len, p, n);
    if (is_key(key, key_len, "path"))
        return s->path = p, s->path_len = n, true;
    if (is_key(key, key_len, "linkpath"))
        return s->link = p, s->link_len = n, true;
    if (is_key(key, key_len, "size"))
        return s->has_size = digits(p, n, &s->size);
    if (is_key(key, key_len, "uid"))
        return s->has_uid = digits(p, n, &s->uid);
    if (is_key(key, key_len, "gid"))
        return s->has_gid = digits(p, n, &s->gid);
    if (is_key(key, key_len, "mtime"))
        return take_mtime(p, n, s);
    if (is_key(key, key_len, "comment"))
        return s->metadata = is_key(p, n, TAR_METADATA_COMMENT), true;
    if (is_key(key, key_len, "GNU.sparse.major"))
        return s->sparse = digits(p, n, &s->major);
    if (is_key(key, key_len, "GNU.sparse.minor"))
        return digits(p, n, &s->minor);
    if (is_key(key, key_len, "GNU.sparse.realsize"))
        return s->has_real = digits(p, n, &s->real);
    if (is_key(key, key_len, "GNU.sparse.name"))
        return s->real_name = p, s->real_name_len = n, true;
    return true;
}

/* "LEN KEY=VALUE\n" after each other. */
static int take_records(struct tar_reader *r, struct said *s, struct error *e)
{
    const char *p = (const char *)r->extra.data;
    size_t left = r->extra.len;

    while (left > 0) {
        const char *blank = memchr(p, ' ', left < 12 ? left : 12);
        uint64_t len = 0;
        if (!blank || !digits(p, (size_t)(blank - p), &len) || len > left ||
            len < (size_t)(blank - p) + 4 || p[len - 1] != '\n')
            return damaged(r, "an extended header is wrong", e);
        const char *key = blank + 1, *end = p + len - 1;
        const char *equals = memchr(key, '=', (size_t)(end - key));
        if (!equals ||
            !take_record(r, s, key, (size_t)(equals - key), equals + 1, (size_t)(end - equals - 1)))
            return damaged(r, "an extended header is wrong", e);
        p += len;
        left -= (size_t)len;
    }
    return 0;
}

static int read_extended(struct tar_reader *r, struct said *s, uint64_t size, struct error *e)
{
    if (size > EXTENDED_MAX || r->extra.len > 0)
        return damaged(r, "an extended header is too long", e);
    uint8_t *to = buffer_grow(&r->extra, (size_t)size);
    int rc = to ? take(r, to, (size_t)size, e) : no_memory(e);
    if (rc == 0)
        rc = skip(r, padding_of(size), e);
    return rc == 0 ? take_records(r, s, e) : rc;
}

/* GNU: the name of the next entry as content of one of its own. */
static int read_long_name(struct tar_reader *r, uint64_t size, struct buffer *out, struct error *e)
{
    if (size > PATH_BYTES_MAX)
        return damaged(r, "a name is too long", e);
    buffer_clear(out);
    uint8_t *to = buffer_grow(out, (size_t)size);
    int rc = to ? take(r, to, (size_t)size, e) : no_memory(e);
    if (rc == 0)
        rc = skip(r, padding_of(size), e);
    while (rc == 0 && out->len > 0 && out->data[out->len - 1] == 0)
        out->len--;
    return rc;
}

/* ---- names ---- */

static int bad_path(const char *path, size_t n, struct error *e)
{
    char quoted[300];
    char *text = strndup(path, n);

    error_set(e, ERR_REFUSED, "the archive has an entry '%s', which cannot be a path in it",
              text ? text_escape(text, quoted, sizeof(quoted)) : "");
    free(text);
    return e->code;
}

/* Plain parts, each a name, into out with a NUL behind. */
static int clean_path(const char *p, size_t n, struct buffer *out, struct error *e)
{
    size_t at = 0;

    if (n == 0 || n > PATH_BYTES_MAX || *p == '/' || memchr(p, 0, n))
        return bad_path(p, n, e);
    while (at < n) {
        const char *slash = memchr(p + at, '/', n - at);
        size_t len = slash ? (size_t)(slash - p) - at : n - at;
        bool nothing = len == 0 || (len == 1 && p[at] == '.');
        if (!nothing && !node_name_ok(p + at, len))
            return bad_path(p, n, e);
        if (!nothing && out->len > 0)
            buffer_append(out, "/", 1);
        if (!nothing)
            buffer_append(out, p + at, len);
        at += len + 1;
    }
    if (out->len == 0)
        return bad_path(p, n, e);
    buffer_append(out, "", 1);
    return buffer_ok(out) ? 0 : no_memory(e);
}

static size_t field_len(const uint8_t *h, size_t at, size_t cap)
{
    return strnlen((const char *)h + at, cap);
}

static int set_path(struct tar_reader *r, const uint8_t *h, const struct said *s,
                    const struct buffer *long_name, struct error *e)
{
    char both[PREFIX_CAP + NAME_CAP + 2];
    const char *name = (const char *)h + NAME_AT;
    size_t n = field_len(h, NAME_AT, NAME_CAP);
    size_t prefix = field_len(h, PREFIX_AT, PREFIX_CAP);

    if (s->real_name)
        return clean_path(s->real_name, s->real_name_len, &r->path, e);
    if (s->path)
        return clean_path(s->path, s->path_len, &r->path, e);
    if (long_name->len > 0)
        return clean_path((const char *)long_name->data, long_name->len, &r->path, e);
    if (memcmp(h + MAGIC_AT, "ustar", 6) != 0 || prefix == 0)
        return clean_path(name, n, &r->path, e);
    memcpy(both, h + PREFIX_AT, prefix);
    both[prefix] = '/';
    memcpy(both + prefix + 1, name, n);
    return clean_path(both, prefix + 1 + n, &r->path, e);
}

static int set_link(struct tar_reader *r, const uint8_t *h, const struct said *s,
                    const struct buffer *long_link, bool hard, struct error *e)
{
    const char *p = (const char *)h + LINK_AT;
    size_t n = field_len(h, LINK_AT, NAME_CAP);

    if (s->link) {
        p = s->link;
        n = s->link_len;
    } else if (long_link->len > 0) {
        p = (const char *)long_link->data;
        n = long_link->len;
    }
    if (hard) {
        int rc = clean_path(p, n, &r->link, e);
        r->entry.link = (const char *)r->link.data;
        return rc;
    }
    if (n == 0 || n > 4095 || memchr(p, 0, n))
        return damaged(r, "a symbolic link leads nowhere", e);
    buffer_append(&r->link, p, n);
    buffer_append(&r->link, "", 1);
    r->entry.node.target = (const char *)r->link.data;
    r->entry.node.target_len = (uint32_t)n;
    return buffer_ok(&r->link) ? 0 : no_memory(e);
}

/* ---- sparse files ---- */

/* A decimal number and its line break, from blocks of the content. */
static int map_number(struct tar_reader *r, uint64_t *v, struct error *e)
{
    uint8_t c;
    char text[24];
    size_t n = 0;
    int rc = 0;

    while (rc == 0) {
        if (r->content == 0 || n == sizeof(text))
            return damaged(r, "the map of a sparse file is wrong", e);
        rc = take(r, &c, 1, e);
        r->content--;
        if (rc == 0 && c == '\n')
            break;
        text[n++] = (char)c;
    }
    if (rc == 0 && !digits(text, n, v))
        rc = damaged(r, "the map of a sparse file is wrong", e);
    return rc;
}

static int add_run(struct tar_reader *r, uint64_t off, uint64_t len, uint64_t *end, struct error *e)
{
    struct node *n = &r->entry.node;

    if (off < *end || off > n->size || len > n->size - off)
        return damaged(r, "the map of a sparse file is wrong", e);
    *end = off + len;
    if (len > 0)
        r->extents[n->extent_count++] = (struct node_extent){off, len};
    return 0;
}

static int read_map(struct tar_reader *r, struct error *e)
{
    uint64_t count, off, len, before = r->content, end = 0, sum = 0;
    int rc = map_number(r, &count, e);

    if (rc == 0 && count > NODE_EXTENTS_MAX + 1)
        rc = damaged(r, "the map of a sparse file is too long", e);
    if (rc != 0)
        return rc;
    r->extents = calloc((size_t)count + 1, sizeof(*r->extents));
    if (!r->extents)
        return no_memory(e);
    for (uint64_t i = 0; rc == 0 && i < count; i++) {
        rc = map_number(r, &off, e);
        if (rc == 0)
            rc = map_number(r, &len, e);
        if (rc == 0)
            rc = add_run(r, off, len, &end, e);
        sum += len;
    }
    uint64_t pad = padding_of(before - r->content);
    if (rc == 0 && pad > r->content)
        rc = damaged(r, "the map of a sparse file is wrong", e);
    if (rc == 0)
        rc = skip(r, pad, e);
    if (rc != 0)
        return rc;
    r->content -= pad;
    if (r->content != sum || r->entry.node.extent_count > NODE_EXTENTS_MAX)
        return damaged(r, "the map of a sparse file is wrong", e);
    r->entry.node.extents = r->extents;
    return 0;
}

/* ---- an entry ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct node_xattr *)a)->name, ((const struct node_xattr *)b)->name);
}

/* Places become names; sorted, each name once. */
static int finish_xattrs(struct tar_reader *r, struct error *e)
{
    struct node *n = &r->entry.node;
    uint32_t kept = 0;

    if (!buffer_ok(&r->xattr_names))
        return no_memory(e);
    for (uint32_t i = 0; i < n->xattr_count; i++)
        r->xattrs[i].name = (const char *)r->xattr_names.data + (uintptr_t)r->xattrs[i].name;
    if (n->xattr_count > 0)
        qsort(r->xattrs, n->xattr_count, sizeof(*r->xattrs), by_name);
    for (uint32_t i = 0; i < n->xattr_count; i++) {
        if (kept == 0 || strcmp(r->xattrs[kept - 1].name, r->xattrs[i].name) != 0)
            r->xattrs[kept++] = r->xattrs[i];
    }
    n->xattr_count = kept;
    n->xattrs = r->xattrs;
    return 0;
}

static uint8_t type_of(char flag)
{
    switch (flag) {
    case 0:
    case '0':
    case '1': /* a hard link: what it is stands with its first name */
    case '7':
        return NODE_FILE;
    case '2':
        return NODE_SYMLINK;
    case '3':
        return NODE_CHAR_DEVICE;
    case '4':
        return NODE_BLOCK_DEVICE;
    case '5':
        return NODE_FOLDER;
    case '6':
        return NODE_FIFO;
    default:
        return 0;
    }
}

static int set_numbers(struct tar_reader *r, const uint8_t *h, const struct said *s,
                       struct error *e)
{
    struct node *n = &r->entry.node;
    uint64_t mode, uid, gid, mtime, major = 0, minor = 0;

    if (!number(h, MODE_AT, SHORT_LEN, &mode) || !number(h, UID_AT, SHORT_LEN, &uid) ||
        !number(h, GID_AT, SHORT_LEN, &gid) || !number(h, MTIME_AT, LONG_LEN, &mtime))
        return damaged(r, "a number in a header is wrong", e);
    if ((n->type == NODE_CHAR_DEVICE || n->type == NODE_BLOCK_DEVICE) &&
        (!number(h, MAJOR_AT, SHORT_LEN, &major) || !number(h, MINOR_AT, SHORT_LEN, &minor) ||
         major > UINT32_MAX || minor > UINT32_MAX))
        return damaged(r, "a number in a header is wrong", e);
    uid = s->has_uid ? s->uid : uid;
    gid = s->has_gid ? s->gid : gid;
    if (uid > UINT32_MAX || gid > UINT32_MAX || mtime > INT64_MAX / 2)
        return damaged(r, "a number in a header is too large", e);
    n->mode = (uint16_t)(mode & 07777);
    n->uid = (uint32_t)uid;
    n->gid = (uint32_t)gid;
    n->mtime_s = s->has_mtime ? s->mtime_s : (int64_t)mtime;
    n->mtime_ns = s->has_mtime ? s->mtime_ns : 0;
    n->rdev = major << 32 | minor;
    return 0;
}

static int set_content(struct tar_reader *r, const struct said *s, uint64_t size, struct error *e)
{
    struct node *n = &r->entry.node;
    bool file = n->type == NODE_FILE && !r->entry.link;

    if (!file && size > 0 && n->type != NODE_FOLDER)
        size = 0; /* as tar does: no content, whatever it says */
    r->content = file ? size : 0;
    r->padding = padding_of(size) + (file ? 0 : size); /* a folder's: passed over */
    if (!file)
        return 0;
    n->size = size;
    if (s->sparse) {
        if (s->major != 1 || s->minor != 0 || !s->has_real)
            return damaged(r, "a sparse file of a form that is not known", e);
        n->size = s->real;
        int rc = read_map(r, e);
        if (rc != 0)
            return rc;
    }
    r->entry.content = r->content;
    return 0;
}

static int set_entry(struct tar_reader *r, const uint8_t *h, const struct said *s, uint64_t size,
                     const struct buffer *long_name, const struct buffer *long_link,
                     struct error *e)
{
    char flag = (char)h[TYPE_AT];
    struct node *n = &r->entry.node;

    n->type = type_of(flag);
    if (!n->type)
        return damaged(r, "an entry of a kind that is not known", e);
    int rc = set_path(r, h, s, long_name, e);
    r->entry.path = (const char *)r->path.data;
    if (rc == 0 && (flag == '1' || flag == '2'))
        rc = set_link(r, h, s, long_link, flag == '1', e);
    if (rc == 0)
        rc = set_numbers(r, h, s, e);
    if (rc == 0)
        rc = finish_xattrs(r, e);
    if (rc == 0)
        rc = set_content(r, s, s->has_size ? s->size : size, e);
    r->entry.metadata = s->metadata;
    return rc;
}

/* Two blocks of zeros, and what may follow them, end it. */
static int finish(struct tar_reader *r, struct error *e)
{
    int rc = 0;

    while (rc == 0 && !r->ended) {
        r->left = 0;
        rc = more(r, e);
    }
    return rc;
}

/* 1: h is the header of an entry; what stands before it has been taken into s. */
static int read_headers(struct tar_reader *r, uint8_t h[TAR_BLOCK], struct said *s, uint64_t *size,
                        struct buffer *long_name, struct buffer *long_link, struct error *e)
{
    for (;;) {
        int rc = take(r, h, TAR_BLOCK, e);
        if (rc != 0)
            return rc;
        if (all_zero(h))
            return finish(r, e);
        if (!sum_matches(h) || !number(h, SIZE_AT, LONG_LEN, size) || *size > SIZE_LIMIT)
            return damaged(r, "a header is wrong", e);
        switch (h[TYPE_AT]) {
        case 'x':
            rc = read_extended(r, s, *size, e);
            break;
        case 'g':
            rc = skip(r, *size + padding_of(*size), e);
            break;
        case 'L':
            rc = read_long_name(r, *size, long_name, e);
            break;
        case 'K':
            rc = read_long_name(r, *size, long_link, e);
            break;
        default:
            return 1;
        }
        if (rc != 0)
            return rc;
    }
}

int tar_reader_next(struct tar_reader *r, const struct tar_entry **out, struct error *e)
{
    struct buffer long_name = BUFFER_INIT, long_link = BUFFER_INIT;
    uint8_t h[TAR_BLOCK];
    struct said s = {0};
    uint64_t size = 0;

    int rc = skip(r, r->content, e);
    if (rc == 0)
        rc = skip(r, r->padding, e);
    r->content = r->padding = 0;
    forget_entry(r);
    if (rc == 0)
        rc = read_headers(r, h, &s, &size, &long_name, &long_link, e);
    if (rc == 1) {
        rc = set_entry(r, h, &s, size, &long_name, &long_link, e);
        rc = rc == 0 ? 1 : rc;
    }
    buffer_release(&long_name);
    buffer_release(&long_link);
    *out = &r->entry;
    return rc;
}

int tar_reader_data(struct tar_reader *r, const uint8_t **p, size_t *len, struct error *e)
{
    *len = 0;
    if (r->content == 0)
        return 0;
    int rc = span(r, r->content, p, len, e);
    r->content -= *len;
    return rc;
}
