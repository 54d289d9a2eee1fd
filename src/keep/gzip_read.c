/* A member that tells its length is read whole and handed to a thread; what comes out is given on
 * in order. From the first member that does not (of another gzip, or where an archive is cut off)
 * everything is unpacked here, piece by piece. A member of ours holds at most GZIP_MEMBER_RAW_MAX,
 * which bounds the memory whatever a file claims. */
#include "keep/gzip.h"

#include "base/bytes.h"
#include "io/fileops.h"
#include "snapshot/task_pool.h"

#include <fcntl.h>
#include <stdlib.h>
#include <zlib.h>

#include "base/banned.h"

enum {
    IN_BYTES = 256 * 1024,
    OUT_BYTES = 256 * 1024,
    HEADER_LEN = 20,
    TRAILER_LEN = 8,
    THREADS_MAX = 4,
    SLOTS_MORE = 1, /* than threads: the next one is read while all are at work */
};
/* What does not compress grows by five bytes a block of deflate. */
static const size_t MEMBER_MAX = GZIP_MEMBER_RAW_MAX + GZIP_MEMBER_RAW_MAX / 16;

struct member {
    struct task task; /* first */
    struct member *next;
    uint8_t *in, *out;
    size_t in_len, in_cap, out_len, out_cap;
    bool failed;
};

struct gzip_reader {
    int fd;
    bool past_cache;
    uint64_t offset; /* of what is read next */

    struct task_pool pool;
    unsigned threads, slots, queued;
    struct member *oldest, **newest; /* at work, in order */
    struct member *given;            /* lent to the caller */
    struct member *spare;
    bool in_pieces; /* from here on */

    uint8_t *in, *out;
    z_stream z;
    bool z_made, inside, ended;
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

static int damaged(struct gzip_reader *r, const char *what, struct error *e)
{
    return error_set(e, ERR_DAMAGED, "not gzip, or damaged, before byte %llu: %s",
                     (unsigned long long)r->offset, what);
}

/* ---- whole members ---- */

static void inflate_member(struct task *t, void *worker)
{
    struct member *m = (struct member *)t;
    z_stream z = {.next_in = m->in,
                  .avail_in = (unsigned)m->in_len,
                  .next_out = m->out,
                  .avail_out = (unsigned)m->out_len};

    m->failed = true;
    if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
        return;
    m->failed = inflate(&z, Z_FINISH) != Z_STREAM_END || z.avail_in != 0 || z.avail_out != 0;
    inflateEnd(&z);
}

static void members_free(struct member *m)
{
    while (m) {
        struct member *next = m->next;
        free(m->in);
        free(m->out);
        free(m);
        m = next;
    }
}

static bool room(uint8_t **p, size_t *cap, size_t want)
{
    if (*p && *cap >= want)
        return true;
    free(*p);
    *p = malloc(want);
    *cap = *p ? want : 0;
    return *p != NULL;
}

/* The length that a header of ours tells, 0 for any other. */
static size_t told_len(const uint8_t h[HEADER_LEN])
{
    static const uint8_t begin[] = {0x1f, 0x8b, 8, 4};
    static const uint8_t extra[] = {8, 0, 'W', 'K', 4, 0};

    if (memcmp(h, begin, sizeof(begin)) != 0 || memcmp(h + 10, extra, sizeof(extra)) != 0)
        return 0;
    size_t len = load_u32(h + 16);
    return len >= HEADER_LEN + TRAILER_LEN && len <= MEMBER_MAX ? len : 0;
}

static int read_past(struct gzip_reader *r, void *p, size_t n, size_t *got, struct error *e)
{
    int rc = file_read_some(r->fd, p, n, r->offset, got, e);

    if (rc == 0 && r->past_cache)
        posix_fadvise(r->fd, (off_t)r->offset, (off_t)*got, POSIX_FADV_DONTNEED);
    return rc;
}

/* The next member goes to a thread; in_pieces is set where it cannot. */
static int queue_member(struct gzip_reader *r, struct error *e)
{
    uint8_t h[HEADER_LEN];
    size_t got;
    int rc = file_read_some(r->fd, h, sizeof(h), r->offset, &got, e);
    size_t len = rc == 0 && got == sizeof(h) ? told_len(h) : 0;

    r->in_pieces = len == 0;
    if (rc != 0 || r->in_pieces)
        return rc;
    struct member *m = r->spare ? r->spare : calloc(1, sizeof(*m));
    if (!m)
        return no_memory(e);
    r->spare = r->spare ? r->spare->next : NULL;
    m->next = r->spare;
    r->spare = m; /* until it is at work */
    rc = room(&m->in, &m->in_cap, len) ? read_past(r, m->in, len, &got, e) : no_memory(e);
    if (rc != 0)
        return rc;
    m->in_len = len;
    m->out_len = got == len ? load_u32(m->in + len - 4) : 0;
    if (got < len || m->out_len > GZIP_MEMBER_RAW_MAX) {
        r->in_pieces = true;
        return 0;
    }
    if (!room(&m->out, &m->out_cap, m->out_len ? m->out_len : 1))
        return no_memory(e);
    r->spare = m->next;
    m->next = NULL;
    m->task.run = inflate_member;
    *r->newest = m;
    r->newest = &m->next;
    r->queued++;
    r->offset += len;
    task_pool_push(&r->pool, &m->task, false);
    return 0;
}

static bool oldest_done(void *ctx)
{
    return ((struct gzip_reader *)ctx)->oldest->task.done;
}

/* What the oldest member holds, if there is one: *len 0 then means none. */
static int take_member(struct gzip_reader *r, const uint8_t **p, size_t *len, struct error *e)
{
    int rc = 0;

    *len = 0;
    if (r->given) {
        r->given->next = r->spare;
        r->spare = r->given;
        r->given = NULL;
    }
    while (rc == 0 && *len == 0) {
        while (rc == 0 && !r->in_pieces && r->queued < r->slots)
            rc = queue_member(r, e);
        if (rc != 0 || !r->oldest)
            return rc;
        task_pool_wait(&r->pool, oldest_done, r, NULL);
        struct member *m = r->oldest;
        r->oldest = m->next;
        if (!r->oldest)
            r->newest = &r->oldest;
        r->queued--;
        if (r->given) { /* it was empty */
            r->given->next = r->spare;
            r->spare = r->given;
        }
        r->given = m;
        if (m->failed)
            rc = damaged(r, "a part does not unpack to what it was", e);
        *p = m->out;
        *len = m->out_len;
    }
    return rc;
}

/* ---- piece by piece ---- */

/* More input; *got 0 at the end of the file. */
static int fill(struct gzip_reader *r, size_t *got, struct error *e)
{
    int rc = read_past(r, r->in, IN_BYTES, got, e);

    if (rc != 0)
        return rc;
    r->offset += *got;
    r->z.next_in = r->in;
    r->z.avail_in = (unsigned)*got;
    return 0;
}

/* One call of zlib. */
static int step(struct gzip_reader *r, struct error *e)
{
    int rc = inflate(&r->z, Z_NO_FLUSH);

    r->inside = true;
    if (rc == Z_STREAM_END) {
        r->inside = false;
        return inflateReset(&r->z) == Z_OK ? 0 : no_memory(e);
    }
    if (rc == Z_MEM_ERROR)
        return no_memory(e);
    return rc == Z_OK || rc == Z_BUF_ERROR ? 0 : damaged(r, r->z.msg ? r->z.msg : "bad data", e);
}

static int take_piece(struct gzip_reader *r, const uint8_t **p, size_t *len, struct error *e)
{
    int rc = 0;

    r->z.next_out = r->out;
    r->z.avail_out = OUT_BYTES;
    while (rc == 0 && !r->ended && r->z.avail_out == OUT_BYTES) {
        size_t got = r->z.avail_in;
        if (got == 0)
            rc = fill(r, &got, e);
        if (rc == 0 && got == 0) {
            r->ended = true;
            if (r->inside || r->offset == 0)
                rc = damaged(r, "it ends early", e);
        } else if (rc == 0) {
            rc = step(r, e);
        }
    }
    *p = r->out;
    *len = OUT_BYTES - r->z.avail_out;
    return rc;
}

/* ---- both ---- */

int gzip_reader_open(int fd, bool past_cache, unsigned threads, struct gzip_reader **out,
                     struct error *e)
{
    struct gzip_reader *r = calloc(1, sizeof(*r));
    int rc = 0;

    *out = NULL;
    if (!r)
        return no_memory(e);
    r->fd = fd;
    r->past_cache = past_cache;
    r->newest = &r->oldest;
    r->in_pieces = threads == 0;
    task_pool_init(&r->pool);
    r->in = malloc(IN_BYTES);
    r->out = malloc(OUT_BYTES);
    r->z_made = r->in && r->out && inflateInit2(&r->z, 16 + MAX_WBITS) == Z_OK;
    if (!r->z_made)
        rc = no_memory(e);
    r->threads = threads < THREADS_MAX ? threads : THREADS_MAX;
    r->slots = r->threads + SLOTS_MORE;
    for (unsigned i = 0; rc == 0 && i < r->threads; i++)
        rc = task_pool_start(&r->pool, NULL, e);
    if (rc != 0) {
        gzip_reader_close(r);
        return rc;
    }
    if (past_cache)
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    *out = r;
    return 0;
}

void gzip_reader_close(struct gzip_reader *r)
{
    if (!r)
        return;
    task_pool_release(&r->pool);
    members_free(r->oldest);
    members_free(r->spare);
    if (r->given) {
        r->given->next = NULL;
        members_free(r->given);
    }
    if (r->z_made)
        inflateEnd(&r->z);
    free(r->in);
    free(r->out);
    free(r);
}

int gzip_reader_next(struct gzip_reader *r, const uint8_t **p, size_t *len, struct error *e)
{
    int rc = take_member(r, p, len, e);

    return rc != 0 || *len > 0 || !r->in_pieces ? rc : take_piece(r, p, len, e);
}
