#include "capture/signature.h"

#include "base/bytes.h"

#include "base/banned.h"

enum {
    VERSION = 1,
    RACY = 1 << 0,
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
    return ahead_ns >= -grain_ns;
}

/* 0 u32 version, 4 u32 flags, 8 dev, 16 ino, 24 size, 32 mtime, 40 ctime (s), 48 mtime, 52 ctime
 * (ns), 56 mode, 60 uid, 64 gid, 68 nlink, 72 wal, 80 zero */
void signature_encode(const struct signature *s, uint8_t out[SIGNATURE_LEN])
{
    store_u32(out, VERSION);
    store_u32(out + 4, s->racy ? RACY : 0);
    store_u64(out + 8, s->dev);
    store_u64(out + 16, s->ino);
    store_u64(out + 24, s->size);
    store_u64(out + 32, (uint64_t)s->mtime_s);
    store_u64(out + 40, (uint64_t)s->ctime_s);
    store_u32(out + 48, s->mtime_ns);
    store_u32(out + 52, s->ctime_ns);
    store_u32(out + 56, s->mode);
    store_u32(out + 60, s->uid);
    store_u32(out + 64, s->gid);
    store_u32(out + 68, s->nlink);
    store_u64(out + 72, s->wal);
    store_u64(out + 80, 0);
}

bool signature_decode(const uint8_t *p, size_t n, struct signature *s)
{
    if (n < SIGNATURE_LEN || load_u32(p) != VERSION)
        return false;
    *s = (struct signature){
        .racy = load_u32(p + 4) & RACY,
        .dev = load_u64(p + 8),
        .ino = load_u64(p + 16),
        .size = load_u64(p + 24),
        .mtime_s = (int64_t)load_u64(p + 32),
        .ctime_s = (int64_t)load_u64(p + 40),
        .mtime_ns = load_u32(p + 48),
        .ctime_ns = load_u32(p + 52),
        .mode = load_u32(p + 56),
        .uid = load_u32(p + 60),
        .gid = load_u32(p + 64),
        .nlink = load_u32(p + 68),
        .wal = load_u64(p + 72),
    };
    return true;
}
