/* An encoded node. What decodes must encode again, and to something equal. */
#include "fuzz.h"
#include "store/node.h"

#include <stdlib.h>

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error e = ERROR_INIT;
    struct node_brief brief;
    struct node n;

    node_brief_decode(data, size, &brief, &e);
    node_equal_but_times(data, size / 2, data + size / 2, size - size / 2);
    if (node_decode(data, size, &n, &e) < 0)
        return 0;
    struct buffer again = BUFFER_INIT;
    struct node twin;
    node_encode(&n, &again);
    if (!buffer_ok(&again) || node_decode(again.data, again.len, &twin, &e) < 0)
        abort();
    node_release(&twin);
    buffer_release(&again);
    node_release(&n);
    return 0;
}
