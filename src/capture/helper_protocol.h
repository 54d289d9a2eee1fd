/* helper_protocol.h - what is spoken between a process and its capture helper.
 *
 * A SOCK_SEQPACKET pair; the helper's end is descriptor HELPER_FD. One request message, one reply
 * message, and so on; the helper ends when the other end is closed. Integers are little-endian, a
 * text is u16 length (with its NUL), bytes, NUL:
 *
 *   request   u8 version, u8 op, u32 deadline_ms, text path, text scratch
 *   reply     u8 version, i32 code, i32 errno, u8 ok, text message, text result
 *
 * Both sides refuse what does not decode to its last byte. */
#ifndef WK_CAPTURE_HELPER_PROTOCOL_H
#define WK_CAPTURE_HELPER_PROTOCOL_H

#include "base/buffer.h"

#include <stdbool.h>
#include <stdint.h>

#define HELPER_NAME "watchkeep-capture"
#define HELPER_FD 3
#define HELPER_VERSION 1
#define HELPER_MESSAGE_MAX 16384

enum helper_op {
    HELPER_CAPTURE =
        1,            /* path: the source; scratch: an empty file of ours that becomes the image */
    HELPER_CHECK = 2, /* path: a database of ours; scratch: "" */
};

struct helper_request {
    uint8_t op;
    uint32_t deadline_ms;
    const char *path, *scratch; /* decoded: borrowed from the message */
};

struct helper_reply {
    int code, sys;
    bool ok;             /* HELPER_CHECK: the database is sound */
    const char *message; /* of the error, "" for none */
    const char *result;  /* the receipt, or the detail of a check */
};

void helper_request_encode(const struct helper_request *r, struct buffer *out);
bool helper_request_decode(const void *p, size_t n, struct helper_request *r);
void helper_reply_encode(const struct helper_reply *r, struct buffer *out);
bool helper_reply_decode(const void *p, size_t n, struct helper_reply *r);

#endif
