#include "store/record.h"

#include "base/bytes.h"
#include "base/safety.h"
#include "store/hash.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/banned.h"

#define RECORD_MAGIC UINT32_C(0x31524b57) /* "WKR1" */
#define ID_SHA256 1

static const uint8_t pack_magic[8] = {'W', 'K', 'P', 'A', 'C', 'K', '\r', '\n'};

/* Byte offsets of the pack header. */
enum {
    PH_MAGIC = 0,
    PH_VERSION = 8,
    PH_LENGTH = 12,
    PH_INCOMPAT = 16,
    PH_RO_COMPAT = 24,
    PH_COMPAT = 32,
    PH_REPO_ID = 40,
    PH_PACK_ID = 56,
    PH_KIND = 64,
    PH_ID_ALGORITHM = 65,
    PH_KEY_ID = 68,
    PH_CREATED_S = 72,
    PH_CREATED_NS = 80,
    PH_GUARD = 120,
};
_Static_assert(PH_GUARD + 8 == PACK_HEADER_LEN, "the guard ends the pack header");

/* Byte offsets of the record header. */
enum {
    RH_MAGIC = 0,
    RH_TYPE = 4,
    RH_MUST_KNOW = 5,
    RH_SEQUENCE = 8,
    RH_BODY_LEN = 16,
    RH_BODY_GUARD = 24,
    RH_GUARD = 32,
};
_Static_assert(RH_GUARD + 8 == RECORD_HEADER_LEN, "the guard ends the record header");
_Static_assert(RECORD_HEADER_LEN % RECORD_ALIGN == 0, "bodies are aligned too");

void pack_header_encode(const struct pack_header *h, uint8_t out[PACK_HEADER_LEN])
{
    memset(out, 0, PACK_HEADER_LEN);
    memcpy(out + PH_MAGIC, pack_magic, sizeof(pack_magic));
    store_u32(out + PH_VERSION, h->version);
    store_u32(out + PH_LENGTH, PACK_HEADER_LEN);
    store_u64(out + PH_INCOMPAT, h->incompat);
    store_u64(out + PH_RO_COMPAT, h->ro_compat);
    store_u64(out + PH_COMPAT, h->compat);
    memcpy(out + PH_REPO_ID, h->repo_id, sizeof(h->repo_id));
    store_u64(out + PH_PACK_ID, h->pack_id);
    out[PH_KIND] = h->kind;
    out[PH_ID_ALGORITHM] = h->id_algorithm;
    store_u32(out + PH_KEY_ID, h->key_id);
    store_u64(out + PH_CREATED_S, (uint64_t)h->created_s);
    store_u32(out + PH_CREATED_NS, h->created_ns);
    store_u64(out + PH_GUARD, hash_guard(out, PH_GUARD, 0));
}

static void pack_header_load(const uint8_t *b, struct pack_header *h)
{
    h->version = load_u32(b + PH_VERSION);
    h->incompat = load_u64(b + PH_INCOMPAT);
    h->ro_compat = load_u64(b + PH_RO_COMPAT);
    h->compat = load_u64(b + PH_COMPAT);
    memcpy(h->repo_id, b + PH_REPO_ID, sizeof(h->repo_id));
    h->pack_id = load_u64(b + PH_PACK_ID);
    h->kind = b[PH_KIND];
    h->id_algorithm = b[PH_ID_ALGORITHM];
    h->key_id = load_u32(b + PH_KEY_ID);
    h->created_s = (int64_t)load_u64(b + PH_CREATED_S);
    h->created_ns = load_u32(b + PH_CREATED_NS);
}

/* Whether this program may use what the header describes. */
static int pack_header_usable(const struct pack_header *h, uint32_t header_len, bool for_writing,
                              struct error *e)
{
    static const char newer[] = "a newer watchkeep is needed than this one (" WK_VERSION ")";

    if (h->version != FORMAT_VERSION)
        return error_set(e, ERR_NOREPO, "pack %016" PRIx64 " has format %" PRIu32 ": %s",
                         h->pack_id, h->version, newer);
    if (h->incompat & ~FEATURES_INCOMPAT)
        return error_set(e, ERR_NOREPO,
                         "pack %016" PRIx64 " needs incompat features %#" PRIx64 ": %s", h->pack_id,
                         h->incompat & ~FEATURES_INCOMPAT, newer);
    if (for_writing && (h->ro_compat & ~FEATURES_RO_COMPAT))
        return error_set(e, ERR_NOREPO,
                         "pack %016" PRIx64 " can only be read, for its ro-compat "
                         "features %#" PRIx64 ": %s",
                         h->pack_id, h->ro_compat & ~FEATURES_RO_COMPAT, newer);
    if (header_len != PACK_HEADER_LEN)
        return error_set(e, ERR_NOREPO, "pack %016" PRIx64 " has a header of %" PRIu32 " bytes: %s",
                         h->pack_id, header_len, newer);
    if (h->kind != PACK_LOG && h->kind != PACK_DATA)
        return error_set(e, ERR_NOREPO, "pack %016" PRIx64 " is of unknown kind %u: %s", h->pack_id,
                         h->kind, newer);
    if (h->id_algorithm != ID_SHA256)
        return error_set(e, ERR_NOREPO, "pack %016" PRIx64 " has unknown id algorithm %u: %s",
                         h->pack_id, h->id_algorithm, newer);
    if (h->key_id != 0)
        return error_set(e, ERR_NOREPO, "pack %016" PRIx64 " is encrypted with key %" PRIu32 ": %s",
                         h->pack_id, h->key_id, newer);
    return 0;
}

int pack_header_decode(const void *p, size_t n, struct pack_header *h, bool for_writing,
                       struct error *e)
{
    const uint8_t *b = p;

    memset(h, 0, sizeof(*h));
    if (n < PACK_HEADER_LEN)
        return error_set(e, ERR_DAMAGED, "pack is shorter than its header");
    if (memcmp(b + PH_MAGIC, pack_magic, sizeof(pack_magic)) != 0)
        return error_set(e, ERR_DAMAGED, "not a pack: its first bytes are wrong");
    if (load_u64(b + PH_GUARD) != hash_guard(b, PH_GUARD, 0))
        return error_set(e, ERR_DAMAGED, "pack header does not match its checksum");
    pack_header_load(b, h);
    if (h->created_ns > 999999999)
        return error_set(e, ERR_DAMAGED, "pack header holds an impossible time");
    return pack_header_usable(h, load_u32(b + PH_LENGTH), for_writing, e);
}

/* The finisher of SplitMix64 over pack id and offset: near pairs give far seeds. */
static uint64_t guard_seed(uint64_t pack_id, uint64_t offset)
{
    uint64_t z = pack_id * UINT64_C(0x9e3779b97f4a7c15) + offset;

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t record_span(uint32_t body_len)
{
    uint64_t n = (uint64_t)RECORD_HEADER_LEN + body_len;

    return (n + RECORD_ALIGN - 1) / RECORD_ALIGN * RECORD_ALIGN;
}

/* The header in front of a body that stands behind it. */
static void put_header(uint8_t *b, uint8_t type, uint64_t sequence, uint64_t pack_id,
                       uint64_t offset, size_t body_len)
{
    uint64_t seed = guard_seed(pack_id, offset);

    memset(b, 0, RECORD_HEADER_LEN);
    store_u32(b + RH_MAGIC, RECORD_MAGIC);
    b[RH_TYPE] = type;
    store_u64(b + RH_SEQUENCE, sequence);
    store_u32(b + RH_BODY_LEN, (uint32_t)body_len);
    store_u64(b + RH_BODY_GUARD, hash_guard(b + RECORD_HEADER_LEN, body_len, seed));
    store_u64(b + RH_GUARD, hash_guard(b, RH_GUARD, seed));
}

void record_encode(uint8_t type, uint64_t sequence, uint64_t pack_id, uint64_t offset,
                   const void *body, size_t body_len, struct buffer *out)
{
    assert(offset % RECORD_ALIGN == 0);
    if (body_len > RECORD_BODY_MAX) {
        out->failed = true;
        return;
    }
    size_t span = (size_t)record_span((uint32_t)body_len);
    uint8_t *b = buffer_grow(out, span);
    if (!b)
        return;
    if (body_len > 0)
        memcpy(b + RECORD_HEADER_LEN, body, body_len);
    memset(b + RECORD_HEADER_LEN + body_len, 0, span - RECORD_HEADER_LEN - body_len);
    put_header(b, type, sequence, pack_id, offset, body_len);
}

void record_finish(uint8_t type, uint64_t sequence, uint64_t pack_id, uint64_t offset,
                   struct buffer *record)
{
    static const uint8_t padding[RECORD_ALIGN];

    assert(offset % RECORD_ALIGN == 0 && record->len >= RECORD_HEADER_LEN);
    size_t body_len = record->len - RECORD_HEADER_LEN;
    if (body_len > RECORD_BODY_MAX) {
        record->failed = true;
        return;
    }
    buffer_append(record, padding, (size_t)record_span((uint32_t)body_len) - record->len);
    if (buffer_ok(record))
        put_header(record->data, type, sequence, pack_id, offset, body_len);
}

int record_header_decode(const void *p, uint64_t pack_id, uint64_t offset, struct record_header *h,
                         struct error *e)
{
    const uint8_t *b = p;

    memset(h, 0, sizeof(*h));
    if (load_u32(b + RH_MAGIC) != RECORD_MAGIC)
        return error_set(e, ERR_DAMAGED, "no record at %" PRIu64 " of pack %016" PRIx64, offset,
                         pack_id);
    if (SAFETY(RECORD_HEADER_SUM,
               load_u64(b + RH_GUARD) != hash_guard(b, RH_GUARD, guard_seed(pack_id, offset))))
        return error_set(e, ERR_DAMAGED,
                         "record header at %" PRIu64 " of pack %016" PRIx64
                         " does not match its checksum",
                         offset, pack_id);
    h->type = b[RH_TYPE];
    h->sequence = load_u64(b + RH_SEQUENCE);
    h->body_len = load_u32(b + RH_BODY_LEN);
    h->body_guard = load_u64(b + RH_BODY_GUARD);
    if (h->body_len > RECORD_BODY_MAX)
        return error_set(e, ERR_DAMAGED,
                         "record at %" PRIu64 " of pack %016" PRIx64 " is longer than any may be",
                         offset, pack_id);
    bool known = h->type >= RECORD_BLOCK && h->type <= RECORD_SEAL;
    if ((!known && h->type < RECORD_TYPE_SKIP) || b[RH_MUST_KNOW] != 0)
        return error_set(e, ERR_NOREPO,
                         "record of type %u, flags %#x at %" PRIu64 " of pack %016" PRIx64
                         " is unknown to this watchkeep (" WK_VERSION ")",
                         h->type, b[RH_MUST_KNOW], offset, pack_id);
    return 0;
}

bool record_body_ok(const struct record_header *h, uint64_t pack_id, uint64_t offset,
                    const void *body)
{
    return !SAFETY(RECORD_BODY_SUM,
                   hash_guard(body, h->body_len, guard_seed(pack_id, offset)) != h->body_guard);
}
