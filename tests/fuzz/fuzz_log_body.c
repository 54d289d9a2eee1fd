/* The bodies of the log's small records; the first byte is the record type. */
#include "fuzz.h"
#include "store/commit.h"
#include "store/record.h"

#include "base/banned.h"

static void try_commit(const uint8_t *p, size_t n, struct error *e)
{
    struct commit c;

    if (commit_decode(p, n, &c, e) == 0) {
        struct buffer ops = BUFFER_INIT;
        if (c.list_len > 0)
            commit_list_decode(&c, &ops, e);
        buffer_release(&ops);
        commit_release(&c);
    }
}

static void try_mark(const uint8_t *p, size_t n, struct error *e)
{
    struct mark m;

    if (mark_decode(p, n, &m, e) == 0)
        mark_release(&m);
}

static void try_lists(const uint8_t *p, size_t n, struct error *e)
{
    struct prune prune;
    struct compaction compaction;

    if (prune_decode(p, n, &prune, e) == 0)
        prune_release(&prune);
    if (compaction_decode(p, n, &compaction, e) == 0)
        compaction_release(&compaction);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error e = ERROR_INIT;
    struct fence fence;
    struct seal seal;

    if (size == 0)
        return 0;
    switch (data[0]) {
    case RECORD_COMMIT:
        try_commit(data + 1, size - 1, &e);
        break;
    case RECORD_MARK:
        try_mark(data + 1, size - 1, &e);
        break;
    case RECORD_FENCE:
        fence_decode(data + 1, size - 1, &fence, &e);
        break;
    case RECORD_SEAL:
        seal_decode(data + 1, size - 1, &seal, &e);
        break;
    default:
        try_lists(data + 1, size - 1, &e);
    }
    return 0;
}
