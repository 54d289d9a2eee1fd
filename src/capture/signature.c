#include "capture/signature.h"

#include "base/bytes.h"
#include "base/safety.h"

#include "base/banned.h"

enum {
    VERSION = 2 << 4,
    VERSION_MASK = 0xf0,
    RACY = 1 << 0,
    AS_WRITTEN = 1 << 1, /* ctime is mtime, as a write leaves them */
    GRAIN_NS = 10 * 1000 * 1000,
    COARSE_S = 2,
    /* Stamps further ahead than this come from a clock that was set back; a change now would get
     * others. Below it they may come from a server whose clock is ahead of ours. */
    AHEAD_S = 600,
};

void signature_of(const struct stat *st, struct signature *s)
{
    *s = (struct signature){
        .dev = st->st_dev,
        .ino = st->st_ino,
        .size = (uint64_t)st->st_size,
        .mtime_s = st->st_mtim.tv_sec,
        .ctime_s = st->st_ctim.tv_sec,
        .mtime_ns = (uint32_t)st->st_mtim.tv_nsec,
        .ctime_ns = (uint32_t)st->st_ctim.tv_nsec,
        .mode = st->st_mode,
        .uid = st->st_uid,
        .gid = st->st_gid,
        .nlink = (uint32_t)st->st_nlink,
    };
}

bool signature_same(const struct signature *a, const struct signature *b)
{
    return a->ctime_ns == b->ctime_ns && a->ctime_s == b->ctime_s && a->mtime_ns == b->mtime_ns &&
           a->mtime_s == b->mtime_s && a->size == b->size && a->ino == b->ino && a->dev == b->dev &&
           a->mode == b->mode && a->uid == b->uid && a->gid == b->gid && a->nlink == b->nlink &&
           a->wal == b->wal;
}

bool signature_is_racy(const struct signature *s, struct wall_time read_at)
{
    bool coarse = s->mtime_ns == 0 && s->ctime_ns == 0;
    int64_t ahead_s = s->ctime_s - read_at.s;
    int64_t grain_ns = coarse ? COARSE_S * INT64_C(1000000000) : GRAIN_NS;

    if (ahead_s > AHEAD_S)
        return false;
    if (ahead_s < -COARSE_S - 1)
        return false;
    int64_t ahead_ns = ahead_s * INT64_C(1000000000) + s->ctime_ns - read_at.ns;
    return SAFETY(RACY_STAMP, ahead_ns >= -grain_ns);
}

/* u8 version and flags; varints dev, ino, size, mode, uid, gid, nlink, wal; mtime as varint s, u32
 * ns; unless AS_WRITTEN ctime the same way, its seconds as what they are ahead of mtime. */
size_t signature_encode(const struct signature *s, uint8_t out[SIGNATURE_MAX])
{
    const uint64_t v[] = {s->dev, s->ino,   s->size, s->mode,           s->uid,
                          s->gid, s->nlink, s->wal,  zigzag(s->mtime_s)};
    bool as_written = s->ctime_s == s->mtime_s && s->ctime_ns == s->mtime_ns;
    uint8_t *p = out;

    *p++ = (uint8_t)(VERSION | (s->racy ? RACY : 0) | (as_written ? AS_WRITTEN : 0));
    for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++)
        p += store_varint(p, v[i]);
    store_u32(p, s->mtime_ns);
    p += 4;
    if (!as_written) {
        p += store_varint(p, zigzag((int64_t)((uint64_t)s->ctime_s - (uint64_t)s->mtime_s)));
        store_u32(p, s->ctime_ns);
        p += 4;
    }
    return (size_t)(p - out);
}

size_t signature_decode(const uint8_t *p, size_t n, struct signature *s)
{
    struct reader r = reader_of(p, n);
    uint8_t flags = take_u8(&r);

    *s = (struct signature){.racy = flags & RACY};
    s->dev = take_varint(&r);
    s->ino = take_varint(&r);
    s->size = take_varint(&r);
    s->mode = (uint32_t)take_varint(&r);
    s->uid = (uint32_t)take_varint(&r);
    s->gid = (uint32_t)take_varint(&r);
    s->nlink = (uint32_t)take_varint(&r);
    s->wal = take_varint(&r);
    s->ctime_s = s->mtime_s = unzigzag(take_varint(&r));
    s->ctime_ns = s->mtime_ns = take_u32(&r);
    if (!(flags & AS_WRITTEN)) {
        s->ctime_s = (int64_t)((uint64_t)s->mtime_s + (uint64_t)unzigzag(take_varint(&r)));
        s->ctime_ns = take_u32(&r);
    }
    return r.bad || (flags & VERSION_MASK) != VERSION ? 0 : n - r.left;
}
