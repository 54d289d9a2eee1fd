/* A file list: the body, then its operations and their nodes; a body of another kind of bytes is
 * taken as raw operations too. */
#include "base/bytes.h"
#include "fuzz.h"
#include "store/commit.h"
#include "store/node.h"

#include "base/banned.h"

static void try_ops(const uint8_t *p, size_t n, struct error *e)
{
    struct reader r = reader_of(p, n);
    struct op op;
    struct node node;

    while (op_decode(&r, &op, e) == 1)
        if (op.type == OP_NODE_PUT && node_decode(op.meta, op.meta_len, &node, e) == 0)
            node_release(&node);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error e = ERROR_INIT;
    struct buffer ops = BUFFER_INIT;
    uint8_t watch_id[WATCH_ID_LEN];
    uint64_t number;

    if (file_list_decode(data, size, &number, watch_id, &ops, &e) == 0)
        try_ops(ops.data, ops.len, &e);
    else
        try_ops(data, size, &e);
    buffer_release(&ops);
    return 0;
}
