/* A block body, expanded with and without a base. */
#include "fuzz.h"
#include "store/block.h"

#include <stdlib.h>

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char base[] = "the quick brown fox jumps over the lazy dog";
    struct error e = ERROR_INIT;
    struct block b;

    if (block_decode(data, size, &b, &e) < 0)
        return 0;
    uint8_t *raw = malloc(b.raw_len);
    if (raw) {
        block_expand(&b, base, sizeof(base) - 1, raw, &e);
        if (block_expand(&b, NULL, 0, raw, &e) == 0)
            block_name(&b, raw);
    }
    free(raw);
    block_release(&b);
    return 0;
}
