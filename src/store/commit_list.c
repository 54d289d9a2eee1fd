/* The file list that rides in a commit: it is taken whole or not at all. */
#include "store/commit.h"

#include "store/commit_private.h"

#include "base/banned.h"

int commit_list_encode(struct commit *c, const void *ops, size_t len, int codec, struct buffer *out)
{
    int rc = body_put_packed(ops, len, FILE_LIST_RAW_MAX, codec, out);

    c->list = out->data;
    c->list_len = (uint32_t)out->len;
    return rc;
}

int commit_list_decode(const struct commit *c, struct buffer *ops, struct error *e)
{
    struct reader r = reader_of(c->list, c->list_len);
    size_t before = ops->len;
    struct op op;

    int rc = body_take_packed(&r, FILE_LIST_RAW_MAX, "the file list in a commit", ops, e);
    if (rc < 0)
        return rc;
    r = reader_of(ops->data + before, ops->len - before);
    while ((rc = op_decode(&r, &op, e)) == 1)
        ;
    if (rc < 0)
        ops->len = before;
    return rc;
}
