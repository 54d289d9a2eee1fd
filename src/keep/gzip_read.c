/* A member that tells its length is handed whole to a thread; what comes out is given on in order.
 * Anything else is unpacked here, piece by piece. A member of ours holds at most
 * GZIP_MEMBER_RAW_MAX, which bounds the memory whatever a file claims. */
#include "keep/gzip.h"

#include "base/bytes.h"
#include "io/fileops.h"

#include <fcntl.h>
#include <stdlib.h>
#include <zlib.h>

#include "base/banned.h"

enum { IN_BYTES = 256 * 1024, OUT_BYTES = 256 * 1024 };

struct gzip_reader {
    int fd;
    bool past_cache;
    uint64_t offset; /* of what is read next */
    uint8_t *in, *out;
    z_stream z;
    bool z_made, inside, ended;
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

int gzip_reader_open(int fd, bool past_cache, unsigned threads, struct gzip_reader **out,
                     struct error *e)
{
    struct gzip_reader *r = calloc(1, sizeof(*r));

    *out = NULL;
    if (!r)
        return no_memory(e);
    r->fd = fd;
    r->past_cache = past_cache;
    r->in = malloc(IN_BYTES);
    r->out = malloc(OUT_BYTES);
    r->z_made = r->in && r->out && inflateInit2(&r->z, 16 + MAX_WBITS) == Z_OK;
    if (!r->z_made) {
        gzip_reader_close(r);
        return no_memory(e);
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
    if (r->z_made)
        inflateEnd(&r->z);
    free(r->in);
    free(r->out);
    free(r);
}

/* More input; *got 0 at the end of the file. */
static int fill(struct gzip_reader *r, size_t *got, struct error *e)
{
    int rc = file_read_some(r->fd, r->in, IN_BYTES, r->offset, got, e);

    if (rc != 0)
        return rc;
    if (r->past_cache)
        posix_fadvise(r->fd, (off_t)r->offset, (off_t)*got, POSIX_FADV_DONTNEED);
    r->offset += *got;
    r->z.next_in = r->in;
    r->z.avail_in = (unsigned)*got;
    return 0;
}

static int damaged(struct gzip_reader *r, const char *what, struct error *e)
{
    return error_set(e, ERR_DAMAGED, "not gzip, or damaged, before byte %llu: %s",
                     (unsigned long long)r->offset, what);
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

int gzip_reader_next(struct gzip_reader *r, const uint8_t **p, size_t *len, struct error *e)
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
