/* The reader of archives, over any bytes. */
#include "fuzz.h"
#include "keep/tar_read.h"

#include <stdlib.h>

#include "base/banned.h"

struct input {
    const uint8_t *p;
    size_t left;
};

/* In short pieces, so that everything is met across a border too. */
static int next_bytes(void *ctx, const uint8_t **p, size_t *len, struct error *e)
{
    struct input *in = ctx;

    *p = in->p;
    *len = in->left < 700 ? in->left : 700;
    in->p += *len;
    in->left -= *len;
    return 0;
}

static void use(const struct tar_entry *t)
{
    struct buffer meta = BUFFER_INIT;
    struct node n = t->node;

    if (t->path[0] == '/' || t->path[0] == 0 || (t->link && t->link[0] == '/'))
        abort();
    n.extents = NULL;
    n.extent_count = 0;
    node_encode(&n, &meta);
    buffer_release(&meta);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct error e = ERROR_INIT;
    const struct tar_entry *t;
    struct tar_reader *r;

    if (tar_reader_open(next_bytes, &in, &r, &e) != 0)
        return 0;
    while (tar_reader_next(r, &t, &e) == 1) {
        const uint8_t *p;
        size_t len = 1;
        uint64_t sum = 0;
        use(t);
        while (len > 0 && tar_reader_data(r, &p, &len, &e) == 0)
            sum += len;
        if (sum > t->content)
            abort();
    }
    tar_reader_close(r);
    return 0;
}
