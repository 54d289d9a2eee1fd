#include "store/pack.h"

#include "base/bytes.h"
#include "base/safety.h"
#include "io/fileops.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

#define WALK_WINDOW (1024u * 1024)
#define SECTOR 4096u /* what the page cache reads at least */

static const struct {
    uint8_t kind;
    const char *prefix;
} name_kinds[] = {{PACK_LOG, "0-log-"}, {PACK_DATA, "1-data-"}};
static const char name_suffix[] = ".wkp";
enum { NAME_KINDS = sizeof(name_kinds) / sizeof(name_kinds[0]), NAME_DIGITS = 16 };

void pack_file_name(uint8_t kind, uint64_t id, char out[40])
{
    const char *prefix = name_kinds[kind == PACK_DATA].prefix;

    snprintf(out, 40, "%s%016" PRIx64 "%s", prefix, id, name_suffix);
}

static bool parse_digits(const char *s, uint64_t *v)
{
    *v = 0;
    for (int i = 0; i < NAME_DIGITS; i++) {
        if (s[i] >= '0' && s[i] <= '9')
            *v = *v << 4 | (uint64_t)(s[i] - '0');
        else if (s[i] >= 'a' && s[i] <= 'f')
            *v = *v << 4 | (uint64_t)(s[i] - 'a' + 10);
        else
            return false;
    }
    return true;
}

bool pack_file_parse(const char *name, uint8_t *kind, uint64_t *id)
{
    for (int i = 0; i < NAME_KINDS; i++) {
        size_t n = strlen(name_kinds[i].prefix);
        if (strncmp(name, name_kinds[i].prefix, n) != 0)
            continue;
        *kind = name_kinds[i].kind;
        return parse_digits(name + n, id) && strcmp(name + n + NAME_DIGITS, name_suffix) == 0;
    }
    return false;
}

static struct pack *pack_new(uint8_t kind, uint64_t id, int fd)
{
    struct pack *p = calloc(1, sizeof(*p));

    if (p)
        *p = (struct pack){.id = id, .kind = kind, .fd = fd};
    return p;
}

/* Header and folder entry on the disk before anything relies on the pack. */
static int write_header(struct pack *p, int packs_dir, const struct pack_header *h, struct error *e)
{
    uint8_t header[PACK_HEADER_LEN];

    pack_header_encode(h, header);
    int rc = file_write_all(p->fd, header, sizeof(header), 0, e);
    if (rc < 0)
        return rc;
    p->len = PACK_HEADER_LEN;
    rc = pack_flush(p, e);
    return rc < 0 ? rc : SAFETY(PACK_FOLDER_FLUSH, dir_sync(packs_dir, e));
}

int pack_create(int packs_dir, const struct pack_header *h, struct pack **out, struct error *e)
{
    char name[40];

    *out = NULL;
    pack_file_name(h->kind, h->pack_id, name);
    int fd =
        fileops->openat(packs_dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_sys(e, errno, "cannot create pack '%s'", name);
    struct pack *p = pack_new(h->kind, h->pack_id, fd);
    if (!p) {
        fileops->close(fd);
        fileops->unlinkat(packs_dir, name, 0);
        return error_set(e, ERR_FAILED, "out of memory");
    }
    p->created_s = h->created_s;
    int rc = write_header(p, packs_dir, h, e);
    if (rc < 0) {
        pack_close(p);
        fileops->unlinkat(packs_dir, name, 0);
        return rc;
    }
    *out = p;
    return 0;
}

static int wrong_pack(const char *name, const struct pack_header *h, struct error *e)
{
    char real[40];

    pack_file_name(h->kind, h->pack_id, real);
    return error_set(e, ERR_DAMAGED, "pack '%s' is '%s' by its header", name, real);
}

/* The disk does not answer: of which pack is said here. Returns the code. */
static int cannot_read(const struct pack *p, uint64_t offset, struct error *e)
{
    static const char *const kinds[] = {[PACK_LOG] = "log", [PACK_DATA] = "data"};

    if (e->sys == 0)
        return e->code;
    return error_sys(e, e->sys, "cannot read %s pack %016" PRIx64 " at byte %" PRIu64,
                     kinds[p->kind], p->id, offset);
}

/* The header says what the name says, and the repository is ours. To read a data pack it can be
 * done without where the disk does not give it: every record tells which pack it belongs to and
 * where it stands there, every chunk is checked. */
static int check_header(struct pack *p, const char *name, const uint8_t repo_id[16],
                        bool for_writing, struct error *e)
{
    uint8_t header[PACK_HEADER_LEN];
    struct pack_header h;
    size_t got;

    int rc = file_read_some(p->fd, header, sizeof(header), 0, &got, e);
    if (rc < 0 && e->sys == EIO && p->kind == PACK_DATA && !for_writing) {
        error_clear(e);
        return 0;
    }
    if (rc < 0)
        return cannot_read(p, 0, e);
    rc = pack_header_decode(header, got, &h, for_writing, e);
    if (rc < 0)
        return rc;
    if (h.pack_id != p->id || h.kind != p->kind)
        return wrong_pack(name, &h, e);
    if (SAFETY(PACK_OWNER, memcmp(h.repo_id, repo_id, sizeof(h.repo_id))) != 0)
        return error_set(e, ERR_DAMAGED, "pack '%s' belongs to another repository", name);
    p->created_s = h.created_s;
    return 0;
}

static int check_file(struct pack *p, const char *name, struct error *e)
{
    struct stat st;

    if (fstat(p->fd, &st) < 0)
        return error_sys(e, errno, "cannot look at pack '%s'", name);
    if (!S_ISREG(st.st_mode))
        return error_set(e, ERR_DAMAGED, "pack '%s' is not a regular file", name);
    p->len = (uint64_t)st.st_size;
    return 0;
}

int pack_open(int packs_dir, uint8_t kind, uint64_t id, const uint8_t repo_id[16], bool for_writing,
              struct pack **out, struct error *e)
{
    char name[40];

    *out = NULL;
    pack_file_name(kind, id, name);
    int flags = (for_writing ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    int fd = fileops->openat(packs_dir, name, flags, 0);
    if (fd < 0)
        return error_sys(e, errno, "cannot open pack '%s'", name);
    struct pack *p = pack_new(kind, id, fd);
    if (!p) {
        fileops->close(fd);
        return error_set(e, ERR_FAILED, "out of memory");
    }
    int rc = check_file(p, name, e);
    if (rc == 0)
        rc = check_header(p, name, repo_id, for_writing, e);
    if (rc < 0) {
        pack_close(p);
        return rc;
    }
    *out = p;
    return 0;
}

void pack_close(struct pack *p)
{
    if (!p)
        return;
    /* What counts was flushed before, so that an error here loses nothing. */
    fileops->close(p->fd);
    free(p);
}

static int refuse_broken(const struct pack *p, struct error *e)
{
    return error_set(e, ERR_FAILED,
                     "pack %016" PRIx64 " takes no more writes: an earlier one failed", p->id);
}

int pack_append(struct pack *p, const void *bytes, size_t n, struct error *e)
{
    if (SAFETY(BROKEN_PACK, p->broken))
        return refuse_broken(p, e);
    if (p->len % RECORD_ALIGN != 0 || n % RECORD_ALIGN != 0)
        return error_set(e, ERR_FAILED, "records for pack %016" PRIx64 " are not aligned", p->id);
    int rc = file_write_all(p->fd, bytes, n, p->len, e);
    if (rc < 0) {
        p->broken = true;
        return rc;
    }
    __atomic_store_n(&p->len, p->len + n, __ATOMIC_RELEASE);
    return 0;
}

int pack_flush(struct pack *p, struct error *e)
{
    if (SAFETY(BROKEN_PACK, p->broken))
        return refuse_broken(p, e);
    uint64_t len = p->len;
    if (SAFETY(PACK_FLUSH, fileops->fdatasync(p->fd)) < 0) {
        /* A second flush may succeed with the data lost: never try. */
        p->broken = true;
        return error_sys(e, errno, "cannot flush pack %016" PRIx64, p->id);
    }
    p->flushed = len;
    return 0;
}

/* ---- reading one record ---- */

static int check_span(const struct pack *p, uint64_t offset, uint64_t end, uint64_t span,
                      struct error *e)
{
    if (offset > end || span > end - offset)
        return error_set(e, ERR_DAMAGED, "record at %" PRIu64 " of pack %016" PRIx64 " is cut off",
                         offset, p->id);
    return 0;
}

int pack_read(const struct pack *p, uint64_t offset, struct record_header *h, struct buffer *body,
              struct error *e)
{
    uint8_t header[RECORD_HEADER_LEN];
    uint64_t end = __atomic_load_n(&p->len, __ATOMIC_ACQUIRE);

    if (offset >= end)
        return error_set(e, ERR_NOTFOUND, "pack %016" PRIx64 " ends before %" PRIu64, p->id,
                         offset);
    if (offset < PACK_HEADER_LEN || offset % RECORD_ALIGN != 0)
        return error_set(e, ERR_DAMAGED, "no record can stand at %" PRIu64, offset);
    int rc = check_span(p, offset, end, RECORD_HEADER_LEN, e);
    if (rc == 0 && file_read_all(p->fd, header, sizeof(header), offset, e) < 0)
        rc = cannot_read(p, offset, e);
    if (rc == 0)
        rc = record_header_decode(header, p->id, offset, h, e);
    if (rc == 0)
        rc = check_span(p, offset, end, record_span(h->body_len), e);
    if (rc < 0)
        return rc;
    size_t before = body->len;
    uint8_t *to = buffer_grow(body, h->body_len);
    if (!to)
        return error_set(e, ERR_FAILED, "out of memory");
    if (file_read_all(p->fd, to, h->body_len, offset + RECORD_HEADER_LEN, e) < 0)
        rc = cannot_read(p, offset, e);
    if (rc == 0 && !record_body_ok(h, p->id, offset, to))
        rc = error_set(e, ERR_DAMAGED,
                       "record at %" PRIu64 " of pack %016" PRIx64 " does not match its checksum",
                       offset, p->id);
    if (rc < 0)
        body->len = before;
    return rc;
}

/* ---- walking ---- */

/* A piece of the pack in memory; moves forward. */
struct window {
    const struct pack *pack;
    uint64_t end;  /* of what may be read */
    uint64_t from; /* offset of the first byte held */
    struct buffer held;
};

/* Sector by sector: in place of what the disk refuses to read stand zeros, which are no record. */
static void read_past_unread(const struct pack *p, uint8_t *to, size_t n, uint64_t offset)
{
    for (size_t at = 0, len; at < n; at += len) {
        struct error ignored = ERROR_INIT;
        len = (size_t)(SECTOR - (offset + at) % SECTOR);
        if (len > n - at)
            len = n - at;
        if (file_read_all(p->fd, to + at, len, offset + at, &ignored) == 0)
            continue;
        memset(to + at, 0, len);
        if (p->unread->bytes == 0)
            p->unread->from = offset + at;
        if (offset + at >= p->unread->from + p->unread->bytes)
            p->unread->bytes += len;
    }
}

/* Bytes at offset, which the caller knows to lie before w->end; NULL with *e set on failure. Where
 * the writer has cut the file off meanwhile w->end moves there, and zeros stand for what is gone.
 */
static const uint8_t *window_at(struct window *w, uint64_t offset, size_t n, struct error *e)
{
    size_t got;

    if (offset >= w->from && offset + n <= w->from + w->held.len)
        return w->held.data + (offset - w->from);
    size_t want = n > WALK_WINDOW ? n : WALK_WINDOW;
    if (want > w->end - offset)
        want = (size_t)(w->end - offset);
    buffer_clear(&w->held);
    uint8_t *to = buffer_grow(&w->held, want);
    if (!to) {
        error_set(e, ERR_FAILED, "out of memory");
        return NULL;
    }
    w->from = offset;
    if (file_read_some(w->pack->fd, to, want, offset, &got, e) == 0) {
        memset(to + got, 0, want - got);
        if (got < want)
            w->end = offset + got;
        return to;
    }
    if (w->pack->unread) {
        error_clear(e);
        read_past_unread(w->pack, to, want, offset);
        return to;
    }
    buffer_clear(&w->held);
    cannot_read(w->pack, offset, e);
    return NULL;
}

enum found { FOUND_DAMAGE = 0, FOUND_RECORD = 1 };

/* Look for a header at offset whose record ends before w->end: FOUND_RECORD, FOUND_DAMAGE, or a
 * negative code (the disk does not answer, or a newer version wrote it). Damage is what the bytes
 * say, never a failed read: a reader must not take an EIO for the end of a log. */
static int header_at(struct window *w, uint64_t offset, struct record_header *h, struct error *e)
{
    if (w->end - offset < RECORD_HEADER_LEN)
        return FOUND_DAMAGE;
    const uint8_t *b = window_at(w, offset, RECORD_HEADER_LEN, e);
    if (!b)
        return e->code;
    struct error why = ERROR_INIT;
    int rc = record_header_decode(b, w->pack->id, offset, h, &why);
    if (rc == ERR_DAMAGED)
        return FOUND_DAMAGE;
    if (rc < 0) {
        *e = why;
        return rc;
    }
    return record_span(h->body_len) <= w->end - offset ? FOUND_RECORD : FOUND_DAMAGE;
}

/* Offset of the next header after damage that began before offset, or the end. */
static int next_header(struct window *w, uint64_t offset, uint64_t *found, struct error *e)
{
    struct record_header h;

    for (; offset < w->end; offset += RECORD_ALIGN) {
        int rc = header_at(w, offset, &h, e);
        if (rc < 0)
            return rc;
        if (rc == FOUND_RECORD)
            break;
    }
    *found = offset < w->end ? offset : w->end;
    return 0;
}

struct walk {
    struct window window;
    pack_visit visit;
    void *ctx;
    uint64_t tail;
};

static int visit_damage(struct walk *k, uint64_t from, uint64_t to)
{
    return k->visit(k->ctx, from, to, NULL, NULL);
}

static int visit_record(struct walk *k, uint64_t offset, const struct record_header *h,
                        struct error *e)
{
    uint64_t next = offset + record_span(h->body_len);
    const uint8_t *b = window_at(&k->window, offset, (size_t)(next - offset), e);

    if (!b)
        return e->code;
    const uint8_t *body = b + RECORD_HEADER_LEN;
    if (!record_body_ok(h, k->window.pack->id, offset, body))
        return visit_damage(k, offset, next < k->window.end ? next : k->window.end);
    k->tail = next;
    if (h->type < RECORD_TYPE_SKIP) {
        int rc = k->visit(k->ctx, offset, next, h, body);
        if (rc != 0)
            return rc;
    }
    for (uint64_t at = offset + RECORD_HEADER_LEN + h->body_len; at < next; at++)
        if (b[at - offset] != 0)
            return visit_damage(k, at, next);
    return 0;
}

static int walk_from(struct walk *k, uint64_t offset, struct error *e)
{
    struct record_header h;
    uint64_t next;
    int rc = 0;

    while (rc == 0 && offset < k->window.end) {
        int found = header_at(&k->window, offset, &h, e);
        if (found < 0)
            return found;
        if (found == FOUND_RECORD) {
            next = offset + record_span(h.body_len);
            rc = visit_record(k, offset, &h, e);
        } else if (offset >= k->window.end) {
            break;
        } else {
            rc = next_header(&k->window, offset + RECORD_ALIGN, &next, e);
            if (rc == 0)
                rc = visit_damage(k, offset, next);
        }
        offset = next;
    }
    return rc;
}

int pack_walk(const struct pack *p, uint64_t offset, uint64_t end, pack_visit visit, void *ctx,
              uint64_t *tail, struct error *e)
{
    uint64_t len = __atomic_load_n(&p->len, __ATOMIC_ACQUIRE);
    struct walk k = {.window = {.pack = p, .end = end < len ? end : len, .held = BUFFER_INIT},
                     .visit = visit,
                     .ctx = ctx};

    if (offset < PACK_HEADER_LEN)
        offset = PACK_HEADER_LEN;
    offset = (offset + RECORD_ALIGN - 1) / RECORD_ALIGN * RECORD_ALIGN;
    k.tail = offset;
    int rc = walk_from(&k, offset, e);
    if (tail)
        *tail = k.tail;
    buffer_release(&k.window.held);
    return rc;
}
