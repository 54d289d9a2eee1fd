/* One list chunk. */
#include "fuzz.h"
#include "store/chunk_list.h"

#include <stdlib.h>

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error e = ERROR_INIT;
    struct chunk_ref *refs;
    uint32_t count;

    if (chunk_list_decode(data, size, &refs, &count, &e) == 0)
        free(refs);
    return 0;
}
