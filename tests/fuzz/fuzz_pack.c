/* A pack file: its header, and the walk over its records. The pack's id is taken from the header's
 * place, whether or not the header is sound, so that records behind a damaged one are reached. */
#include "base/bytes.h"
#include "fuzz.h"
#include "store/pack.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/banned.h"

static int visit(void *ctx, uint64_t from, uint64_t to, const struct record_header *h,
                 const uint8_t *body)
{
    uint64_t *end = ctx;

    if (to < *end || to <= from) /* never backwards, never nothing */
        abort();
    *end = to;
    return h && h->body_len > 0 && body[h->body_len - 1] == 0xfe ? 1 : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error e = ERROR_INIT;
    struct pack_header h;
    struct pack p = {.id = size >= 64 ? load_u64(data + 56) : 0, .len = size};
    uint64_t end = 0;

    pack_header_decode(data, size, &h, true, &e);
    p.fd = memfd_create("pack", MFD_CLOEXEC);
    if (p.fd >= 0 && write(p.fd, data, size) == (ssize_t)size)
        pack_walk(&p, 0, UINT64_MAX, visit, &end, NULL, &e);
    close(p.fd);
    return 0;
}
