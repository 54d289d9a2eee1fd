/* commit_private.h - what the encoders of record bodies share (commit.c, commit_list.c,
 * commit_rows.c); nobody else includes it. A put marks the buffer failed beyond a bound, a take
 * marks the reader bad. */
#ifndef WK_STORE_COMMIT_PRIVATE_H
#define WK_STORE_COMMIT_PRIVATE_H

#include "base/buffer.h"
#include "base/bytes.h"
#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

int body_damaged(const char *what, struct error *e); /* ERR_DAMAGED */
void body_take_copy(struct reader *r, void *to, size_t n);
/* u32 length and bytes. */
void body_put_bytes(struct buffer *out, const void *p, uint32_t len, uint32_t max);
void body_take_sized(struct reader *r, const uint8_t **p, uint32_t *len, uint32_t max);
/* u8 length and a name that can stand in a folder. */
void body_put_name(struct buffer *out, const char *name, uint8_t len);
void body_take_name(struct reader *r, const char **name, uint8_t *len);
/* A packed part (FORMAT.md), to the end of the body. */
int body_put_packed(const void *p, size_t len, size_t max, int codec, struct buffer *out);
int body_take_packed(struct reader *r, size_t max, const char *what, struct buffer *raw,
                     struct error *e);

#endif
