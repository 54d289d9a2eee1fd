/* A part of a checkpoint: the body, then its rows and what they hold; a body of another kind of
 * bytes is taken as raw rows too. */
#include "base/bytes.h"
#include "fuzz.h"
#include "store/commit.h"
#include "store/node.h"

#include "base/banned.h"

static void try_row(const struct row *row, struct error *e)
{
    struct commit commit;
    struct mark mark;
    struct node node;

    if (row->type == ROW_SNAPSHOT && commit_decode(row->bytes, row->len, &commit, e) == 0)
        commit_release(&commit);
    if (row->type == ROW_MARK && mark_decode(row->bytes, row->len, &mark, e) == 0)
        mark_release(&mark);
    if (row->type == ROW_NODE && node_decode(row->bytes, row->len, &node, e) == 0)
        node_release(&node);
}

static void try_rows(const uint8_t *p, size_t n, struct error *e)
{
    struct reader r = reader_of(p, n);
    struct row row;

    while (row_decode(&r, &row, e) == 1)
        try_row(&row, e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error e = ERROR_INIT;
    struct checkpoint_part part;
    struct buffer rows = BUFFER_INIT;

    if (checkpoint_decode(data, size, &part, &rows, &e) == 0)
        try_rows(rows.data, rows.len, &e);
    else
        try_rows(data, size, &e);
    buffer_release(&rows);
    return 0;
}
