/* Gear hash: h = (h << 1) + gear[byte], so that a byte has left the hash after 64 steps. A cut is
 * wanted where the top bits of h are zero; the hash of every place a cut may stand at covers
 * exactly the 64 bytes before it, so that two streams that agree there are cut alike. Before the
 * average length is reached 2 bits more are asked for, after it 2 fewer ("normalised chunking,
 * level 2"). */
#include "store/chunker.h"

#include <stdbool.h>

#include "base/banned.h"

#define KIB ((size_t)1024)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

enum { GEAR_WINDOW = 64, NORMALISATION = 2, LANE = 512, UNROLL = 4 };

/* SplitMix64 from the seed 0x776b676561723031; test_store_chunker derives it again. */
static const uint64_t gear[256] = {
    UINT64_C(0x438e900a03b6ca82), UINT64_C(0x1ef4f0c99ec78779), UINT64_C(0xdadf1239ca845e85),
    UINT64_C(0x605b9cbbecff6773), UINT64_C(0xc04183fd308efa93), UINT64_C(0x12e7db4d2d6dbc64),
    UINT64_C(0x0e8eba7ab3957b04), UINT64_C(0xc57ace62af2bed60), UINT64_C(0xfb05da154155d8e1),
    UINT64_C(0xfaf2c220bd56f5cd), UINT64_C(0xaf889eadfe0bafd6), UINT64_C(0x414f3d4f008b9269),
    UINT64_C(0x6b5c373121f22b89), UINT64_C(0x6fa20dc38eb029f4), UINT64_C(0xf80f04b94f5dc460),
    UINT64_C(0xbb6febab17ecd387), UINT64_C(0x4f12d9ceb1b2ed74), UINT64_C(0x0e712bfefd6a8c1a),
    UINT64_C(0x1ce04c3b428f7f75), UINT64_C(0x343c3b70e7239c3e), UINT64_C(0xa63068586053d7bf),
    UINT64_C(0x570664fdf9613681), UINT64_C(0x8e26330b9160562a), UINT64_C(0x08cf9a16a87c6a67),
    UINT64_C(0x7d0fc0fe2bab1828), UINT64_C(0xfd362928c52c05c2), UINT64_C(0x828bf66bd8c53113),
    UINT64_C(0x18da82776eb13731), UINT64_C(0x93137d25f647219a), UINT64_C(0x783b54f872090989),
    UINT64_C(0xb53be06d0cc37b4e), UINT64_C(0x8337ebd7d2fa2bd1), UINT64_C(0x3d76ddf8f39d485c),
    UINT64_C(0xfb91b7143ccd659d), UINT64_C(0x15dd51a29a37fd31), UINT64_C(0x7ae6536e550a4ad1),
    UINT64_C(0xf546ca8e3005dc42), UINT64_C(0xe4f07ede993dc2d1), UINT64_C(0x3d224042855b03db),
    UINT64_C(0x75530c17dc7f38c6), UINT64_C(0xd7ade24b54d71122), UINT64_C(0x40f99bcb7ce97a56),
    UINT64_C(0xd70815407370fb8d), UINT64_C(0xe605a1095521065f), UINT64_C(0x870d64803a919367),
    UINT64_C(0xf4eb436e3482826e), UINT64_C(0x68f525f885d8f599), UINT64_C(0x2b5cc1a7b4954834),
    UINT64_C(0xd9634b1ca40a6146), UINT64_C(0x2f15cd12ceb6a7bb), UINT64_C(0xa393802d31277ac2),
    UINT64_C(0x07590cb0979e747f), UINT64_C(0xc67ed70ccdf74dba), UINT64_C(0x9a79b84fc8009502),
    UINT64_C(0x49995d9d7a165d54), UINT64_C(0x3b2b82618b47e6ad), UINT64_C(0x1d3b5e1171da4c21),
    UINT64_C(0x5277c1d034e2666f), UINT64_C(0xce5a9d30b3459b4a), UINT64_C(0xbf562ca0acbb1899),
    UINT64_C(0x0f464473fb149d92), UINT64_C(0xfc7b3c868be81ba8), UINT64_C(0x78cd6de4aad80400),
    UINT64_C(0xdde634296f6ec92c), UINT64_C(0x85919d2724b0e689), UINT64_C(0xe1f19fc12caf751b),
    UINT64_C(0xcfe152c54a5f7b2b), UINT64_C(0xb2b73f6945304814), UINT64_C(0xd461d0c5e4aac47e),
    UINT64_C(0xac31c96920572cfc), UINT64_C(0xcbe4c345cb1163c2), UINT64_C(0xafc87e96647615f0),
    UINT64_C(0x6e1ce617eabb84f3), UINT64_C(0x08d355f0dab60c2b), UINT64_C(0x357f9b57d1730a15),
    UINT64_C(0xbe4498fe501a75d8), UINT64_C(0x3526c6ec62baf74a), UINT64_C(0xef252e3554674db3),
    UINT64_C(0xa1cd1f796f491812), UINT64_C(0x8ad23fdec861b67a), UINT64_C(0x0bf3ea27d2daab7c),
    UINT64_C(0x24ff15ec754aa55e), UINT64_C(0xf66b8ba6f226d171), UINT64_C(0xbc35b010b28427c5),
    UINT64_C(0x9d04d817bb86b0b0), UINT64_C(0xc60c41c88b9f9f88), UINT64_C(0xcf9bf91dc76fb041),
    UINT64_C(0x3fe5cd59f8150de1), UINT64_C(0x2eb2b3d2624f2468), UINT64_C(0x21164b8f05e5dc97),
    UINT64_C(0x6ad0bc6aeca4d5cf), UINT64_C(0x7bb7e4948eafbfe0), UINT64_C(0x0952d9da55ff5a86),
    UINT64_C(0x9d2c0dbf81d53b1f), UINT64_C(0x6083dda64d26c743), UINT64_C(0xe9929f001c748e25),
    UINT64_C(0xc02bc1c9f0405a8c), UINT64_C(0xa024b23d9eb63a75), UINT64_C(0x89f1234cac14718d),
    UINT64_C(0xe56aafdabe6802a5), UINT64_C(0x4be83a1793022525), UINT64_C(0xd2697a76bf8693e3),
    UINT64_C(0x6a4e5212dc4c8935), UINT64_C(0xdf2cbd7462081a33), UINT64_C(0x8034425a10a263a8),
    UINT64_C(0xfed5dc4796d0190e), UINT64_C(0xa6cbf84066661521), UINT64_C(0x19c77b0f1262d46d),
    UINT64_C(0x757ec7aa18e20259), UINT64_C(0x5abf88bd2daf0f5a), UINT64_C(0x1f2c310922c07b43),
    UINT64_C(0x215d16f76465e288), UINT64_C(0x1293322f3f92417d), UINT64_C(0x0ab2ea3daaacb3e1),
    UINT64_C(0xd8ea4de40b821984), UINT64_C(0xe073b14e7003329a), UINT64_C(0x5409d40c02710481),
    UINT64_C(0x48eff79d8eb36c61), UINT64_C(0x0c0321a06185cdcd), UINT64_C(0xac49857cc996e6f9),
    UINT64_C(0xe3920734774a2f22), UINT64_C(0x3360eac152cf8416), UINT64_C(0x8b738c02359079ac),
    UINT64_C(0xc66afcdac1291c85), UINT64_C(0x8ffe2141ccbfe006), UINT64_C(0x60e63d79af7fadae),
    UINT64_C(0x48d04238e32b8dc8), UINT64_C(0x4855c14d11b5ff4a), UINT64_C(0x68f3a02d158cea44),
    UINT64_C(0x1fdf5b1040d49717), UINT64_C(0xa843c381ce149fc2), UINT64_C(0x136d36051b3e6489),
    UINT64_C(0xd65e4927e30a00eb), UINT64_C(0x7c0b8ddbb7af15a1), UINT64_C(0x7d46405905ede8d5),
    UINT64_C(0x0b3c80744ef51dec), UINT64_C(0xe675443d8736f26b), UINT64_C(0xe6eb94a8ea3b7646),
    UINT64_C(0x94ec09bcd0a34e2e), UINT64_C(0x851e3be7b700a60e), UINT64_C(0x47c5faf39a62034f),
    UINT64_C(0x19c8dbd3f0672d65), UINT64_C(0x73b5761b3dd95d5d), UINT64_C(0x66ce391f3df8c926),
    UINT64_C(0x6097c29f531bbadf), UINT64_C(0xfc5c3a9e730cf081), UINT64_C(0x01897873f993507c),
    UINT64_C(0x17b34eb8cffb6823), UINT64_C(0x4adc48e80906f312), UINT64_C(0x1f27e7a00df5d918),
    UINT64_C(0xb021b780e599d851), UINT64_C(0xd89a58510c868a81), UINT64_C(0xd58a6fb4f00b1979),
    UINT64_C(0x3bfc0249e2793ce6), UINT64_C(0xdbdc8e2d14aab044), UINT64_C(0xd1e3d58213f42b33),
    UINT64_C(0xfb5c2a2d03213b93), UINT64_C(0xfbc42ad2a7a59f86), UINT64_C(0x210d19c31b3ebd9f),
    UINT64_C(0xea8b4b5b258347b8), UINT64_C(0x871de44972299cc1), UINT64_C(0xe68e46dea488a3dd),
    UINT64_C(0xe420cbb6c1b368f6), UINT64_C(0xa77706ced99802b4), UINT64_C(0x93cb33c752123661),
    UINT64_C(0x447d4f398f943056), UINT64_C(0x7f1d3700726f8fa5), UINT64_C(0xa299953c30e54ff6),
    UINT64_C(0xf9a9bb039fb97fcc), UINT64_C(0xd62582f14676ce9c), UINT64_C(0xde541e8c7368d774),
    UINT64_C(0x0d4f7d3541572db8), UINT64_C(0x62b037d8e705f6d4), UINT64_C(0x63a104c6894f4bb3),
    UINT64_C(0x83c52afbcd2af002), UINT64_C(0x70e457957085f0e7), UINT64_C(0x0b9ae73560c64d1e),
    UINT64_C(0x5d4420a842c32ecd), UINT64_C(0xf150874258d531da), UINT64_C(0x329c412b08a1aadf),
    UINT64_C(0x9e0ba6ec47ebc286), UINT64_C(0x68b0145bebd4014a), UINT64_C(0x4ac9525150f10a25),
    UINT64_C(0xd850c4a08a7ef027), UINT64_C(0x22048f777e3f9e06), UINT64_C(0x58266169f43736f2),
    UINT64_C(0xfbcf413520269d1d), UINT64_C(0x82cff7b31e2d5329), UINT64_C(0xa67aa3cb9b7b5116),
    UINT64_C(0xf2e836c00dfd75db), UINT64_C(0xe2d6f433d1d98d7a), UINT64_C(0x11001b948913c6f8),
    UINT64_C(0x205ccd8203ac00d3), UINT64_C(0x3357bc213b48f1e5), UINT64_C(0x5ec56b072d87154c),
    UINT64_C(0xc8087bfd30d8beb7), UINT64_C(0xf2865856c66e1d0e), UINT64_C(0xb346549c4bce9528),
    UINT64_C(0x63814aae68633795), UINT64_C(0xe16c2e01042cc352), UINT64_C(0x116ac27a6da83687),
    UINT64_C(0x143ed2dab5944b42), UINT64_C(0x85d110672a510425), UINT64_C(0x175083b7256f5b4c),
    UINT64_C(0xeed62193c23d2951), UINT64_C(0x294d43a71649bdc7), UINT64_C(0xc4f1fa9efec0672f),
    UINT64_C(0x460c0d75ff2af348), UINT64_C(0xad1f7ffb5103ae54), UINT64_C(0x896b1601d5f16117),
    UINT64_C(0x8ad4dc67f369cc11), UINT64_C(0x084c1922b38049ef), UINT64_C(0x65a376e857f316cd),
    UINT64_C(0xb0964e0895b242e7), UINT64_C(0x0fe53160dabdaecf), UINT64_C(0x07a636882e6d4256),
    UINT64_C(0x85d988dfbbba5444), UINT64_C(0xe6deee3e13d354e5), UINT64_C(0x8c4ec5e1d6850a49),
    UINT64_C(0xfb44a98cab630546), UINT64_C(0xcd6a3a01f3a8e3bd), UINT64_C(0xbfb60846723d5fc8),
    UINT64_C(0x79c5f3ef35b65465), UINT64_C(0xd0e89225ec61cf08), UINT64_C(0xb427055e68d95ab0),
    UINT64_C(0xcc69d42bbdad4ee4), UINT64_C(0xdd3ff165a970cb2e), UINT64_C(0xed004d152e0a6bf9),
    UINT64_C(0x86bdc19483faf675), UINT64_C(0x4ae9a35ebe8dc277), UINT64_C(0x2ad2d2e43e71a0bb),
    UINT64_C(0x3b569620173edafd), UINT64_C(0x2d1e751156e9eb8c), UINT64_C(0x0d15dd36b09cefd3),
    UINT64_C(0xc7b5cf3497ce826b), UINT64_C(0x09ee3fd462413fe5), UINT64_C(0xc01e7e6e0b908ea4),
    UINT64_C(0xd340fad0c3e7367f), UINT64_C(0x307c4ce2d6b69893), UINT64_C(0x5de9318d78b05ff8),
    UINT64_C(0x07fdf8887c28decd), UINT64_C(0xf4dff9af91d280f1), UINT64_C(0x4577040f09eb883d),
    UINT64_C(0xfcd54ccdae765648), UINT64_C(0xb1cb7256beade8ff), UINT64_C(0xc42313923b725002),
    UINT64_C(0x3c6f70064440e6dc), UINT64_C(0x540eb02433ecb5cb), UINT64_C(0xc3a9727ee0a6d986),
    UINT64_C(0xff30d2cecf2ace57), UINT64_C(0x28654cda83e22eb0), UINT64_C(0x868a5f0707c1c726),
    UINT64_C(0x50bac8de4a294b6e), UINT64_C(0xf4b72632faff909e), UINT64_C(0xf870dca13cf48eb3),
    UINT64_C(0x9b4033c6de6adbc3),
};

static struct chunker pages(uint64_t total_len, uint32_t page_size)
{
    size_t len = total_len <= 4 * GIB ? 16 * KIB : total_len <= 32 * GIB ? 32 * KIB : 64 * KIB;

    if (len < page_size)
        len = page_size;
    return (struct chunker){len, len, len};
}

struct chunker chunker_for(uint64_t total_len, uint32_t page_size)
{
    if (page_size != 0)
        return pages(total_len, page_size);
    if (total_len <= CHUNK_WHOLE_MAX)
        return (struct chunker){CHUNK_WHOLE_MAX, CHUNK_WHOLE_MAX, CHUNK_WHOLE_MAX};
    size_t scale = total_len < 256 * MIB ? 1 : total_len < 4 * GIB ? 4 : 16;
    return (struct chunker){8 * KIB * scale, 32 * KIB * scale, 256 * KIB * scale};
}

/* The top bits of the hash that have to be zero for a cut; avg is a power of two. */
static uint64_t mask_of(size_t avg, int more)
{
    int bits = more;

    while (avg > 1) {
        avg /= 2;
        bits++;
    }
    return ~UINT64_C(0) << (64 - bits);
}

/* Roll from *at to end; true when a cut stands at *at. */
static bool roll(const uint8_t *p, size_t *at, size_t end, uint64_t mask, uint64_t *hash)
{
    uint64_t h = *hash;
    size_t i = *at;

    while (i < end) {
        h = (h << 1) + gear[p[i++]];
        if (!(h & mask)) {
            *at = i;
            return true;
        }
    }
    *hash = h;
    *at = i;
    return false;
}

/* The hash of the window that ends at p. */
static uint64_t hash_before(const uint8_t *p)
{
    uint64_t h = 0;

    for (int i = -GEAR_WINDOW; i < 0; i++)
        h = (h << 1) + gear[p[i]];
    return h;
}

/* Whether a cut stands in the two lanes from p on; *hash is that before them, then behind them.
 * Neither lane waits for the other, so that the processor rolls both at once. */
static bool lanes_have_cut(const uint8_t *p, uint64_t mask, uint64_t *hash)
{
    uint64_t a = *hash;
    uint64_t b = hash_before(p + LANE);

    for (const uint8_t *end = p + LANE; p < end; p += UNROLL) {
#pragma GCC unroll 4
        for (int i = 0; i < UNROLL; i++) {
            a = (a << 1) + gear[p[i]];
            b = (b << 1) + gear[p[LANE + i]];
            if (!(a & mask) || !(b & mask))
                return true;
        }
    }
    *hash = b;
    return false;
}

/* As roll; where the lanes found a cut it is looked for again, the first one counts. */
static bool roll_lanes(const uint8_t *p, size_t *at, size_t end, uint64_t mask, uint64_t *hash)
{
    uint64_t before = *hash;

    while (end - *at >= 2 * LANE && !lanes_have_cut(p + *at, mask, hash)) {
        before = *hash;
        *at += 2 * LANE;
    }
    *hash = before;
    return roll(p, at, end, mask, hash);
}

size_t chunker_next(const struct chunker *c, const uint8_t *p, size_t n, int at_end)
{
    size_t end = n < c->max ? n : c->max;

    if (c->min < c->max && end > c->min) {
        size_t avg = c->avg < end ? c->avg : end;
        size_t at = c->min;
        uint64_t h = hash_before(p + at);
        if (roll_lanes(p, &at, avg, mask_of(c->avg, NORMALISATION), &h) ||
            roll_lanes(p, &at, end, mask_of(c->avg, -NORMALISATION), &h))
            return at;
    }
    return end == c->max || at_end ? end : 0;
}
