#include "capture/signature.h"

#include "base/bytes.h"
#include "base/safety.h"

#include "base/banned.h"

enum {
    VERSION = 3 << 6,
    VERSION_MASK = 3 << 6,
    RACY = 1 << 0,
    AS_WRITTEN = 1 << 1, /* ctime is mtime, as a write leaves them */
    PLAIN = 1 << 2,      /* one link, no live database */
    LIKE_INO = 1 << 3,
    LIKE_SIZE = 1 << 4,
    LIKE_REST = 1 << 5, /* type and mode, owner, mtime */
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

static bool rest_is_like(const struct signature *s, const struct signature *like)
{
    return s->mode == like->mode && s->uid == like->uid && s->gid == like->gid &&
           s->mtime_s == like->mtime_s && s->mtime_ns == like->mtime_ns;
}

/* u8 version and flags; varint dev. Then, unless a flag says that they are like those given: varint
 * ino; varint size; varints mode, uid, gid, mtime as svarint s, u32 ns. Unless PLAIN varints nlink,
 * wal. Unless AS_WRITTEN ctime as mtime is, its seconds as what they are ahead of that. */
size_t signature_encode(const struct signature *s, const struct signature *like,
                        uint8_t out[SIGNATURE_MAX])
{
    bool as_written = s->ctime_s == s->mtime_s && s->ctime_ns == s->mtime_ns;
    bool plain = s->nlink == 1 && s->wal == 0;
    bool rest = rest_is_like(s, like);
    uint8_t *p = out;

    *p++ = (uint8_t)(VERSION | (s->racy ? RACY : 0) | (as_written ? AS_WRITTEN : 0) |
                     (plain ? PLAIN : 0) | (s->ino == like->ino ? LIKE_INO : 0) |
                     (s->size == like->size ? LIKE_SIZE : 0) | (rest ? LIKE_REST : 0));
    p += store_varint(p, s->dev);
    if (s->ino != like->ino)
        p += store_varint(p, s->ino);
    if (s->size != like->size)
        p += store_varint(p, s->size);
    if (!rest) {
        p += store_varint(p, s->mode);
        p += store_varint(p, s->uid);
        p += store_varint(p, s->gid);
        p += store_varint(p, zigzag(s->mtime_s));
        store_u32(p, s->mtime_ns);
        p += 4;
    }
    if (!plain) {
        p += store_varint(p, s->nlink);
        p += store_varint(p, s->wal);
    }
    if (!as_written) {
        p += store_varint(p, zigzag((int64_t)((uint64_t)s->ctime_s - (uint64_t)s->mtime_s)));
        store_u32(p, s->ctime_ns);
        p += 4;
    }
    return (size_t)(p - out);
}

size_t signature_decode(const uint8_t *p, size_t n, const struct signature *like,
                        struct signature *s)
{
    struct reader r = reader_of(p, n);
    uint8_t flags = take_u8(&r);

    *s = *like;
    s->racy = flags & RACY;
    s->dev = take_varint(&r);
    if (!(flags & LIKE_INO))
        s->ino = take_varint(&r);
    if (!(flags & LIKE_SIZE))
        s->size = take_varint(&r);
    if (!(flags & LIKE_REST)) {
        s->mode = (uint32_t)take_varint(&r);
        s->uid = (uint32_t)take_varint(&r);
        s->gid = (uint32_t)take_varint(&r);
        s->mtime_s = unzigzag(take_varint(&r));
        s->mtime_ns = take_u32(&r);
    }
    s->nlink = flags & PLAIN ? 1 : (uint32_t)take_varint(&r);
    s->wal = flags & PLAIN ? 0 : take_varint(&r);
    s->ctime_s = s->mtime_s;
    s->ctime_ns = s->mtime_ns;
    if (!(flags & AS_WRITTEN)) {
        s->ctime_s = (int64_t)((uint64_t)s->mtime_s + (uint64_t)unzigzag(take_varint(&r)));
        s->ctime_ns = take_u32(&r);
    }
    return r.bad || (flags & VERSION_MASK) != VERSION ? 0 : n - r.left;
}
