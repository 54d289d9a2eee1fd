/* commit_private.h - what the encoders of record bodies share (commit.c, commit_list.c); nobody
 * else includes it. */
#ifndef WK_STORE_COMMIT_PRIVATE_H
#define WK_STORE_COMMIT_PRIVATE_H

#include "base/buffer.h"
#include "base/bytes.h"
#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

/* A packed part (FORMAT.md), to the end of the body. */
int body_put_packed(const void *p, size_t len, size_t max, int codec, struct buffer *out);
int body_take_packed(struct reader *r, size_t max, const char *what, struct buffer *raw,
                     struct error *e);

#endif
