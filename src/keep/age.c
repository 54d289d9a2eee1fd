#include "keep/age.h"

#include "base/bytes.h"

#include <string.h>

#include "base/banned.h"

/* A clock that is slewed may differ by 500 ppm; one that is set at times, by a little. */
enum { SLACK_S = 120, SLACK_SHARE = 1000, STATE_LEN = 48 };

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static bool same_boot(const struct age_reading *a, const struct age_reading *b)
{
    return memcmp(a->boot_id, b->boot_id, sizeof(a->boot_id)) == 0 && b->boot >= a->boot;
}

/* Overflow is no matter: a wall clock beyond all years is ahead or behind by more than a day. */
static int64_t passed(int64_t from, int64_t to)
{
    int64_t d;

    if (__builtin_sub_overflow(to, from, &d))
        return to < from ? INT64_MIN / 4 : INT64_MAX / 4;
    return d < INT64_MIN / 4 ? INT64_MIN / 4 : d > INT64_MAX / 4 ? INT64_MAX / 4 : d;
}

static void first_look(struct age_state *s, const struct age_reading *now, int64_t newest)
{
    bool near = newest == 0 || passed(newest, now->wall) <= AGE_DOUBT_S;

    s->trusted = near ? now->wall : newest;
    s->agreed = near ? AGE_DOUBT_S : 0;
}

static void move_on(struct age_state *s, const struct age_reading *now)
{
    bool same = same_boot(&s->last, now);
    int64_t ran = same ? now->boot - s->last.boot : later(now->boot, 0);
    int64_t off = passed(s->last.wall, now->wall) - ran; /* what only the wall clock knows of */
    bool agree = same && off <= SLACK_S + ran / SLACK_SHARE && -off <= SLACK_S + ran / SLACK_SHARE;

    if (off > AGE_DOUBT_S || -off > AGE_DOUBT_S)
        s->agreed = 0;
    else if (!agree && s->agreed >= AGE_DOUBT_S)
        s->agreed = 0;
    else
        s->agreed = s->agreed + ran < AGE_DOUBT_S ? s->agreed + ran : AGE_DOUBT_S;
    s->trusted += ran;
}

int64_t age_look(struct age_state *s, const struct age_reading *now, int64_t newest)
{
    bool first = s->last.wall == 0 && s->last.boot == 0;

    if (first)
        first_look(s, now, newest);
    else
        move_on(s, now);
    if (s->agreed >= AGE_DOUBT_S || s->trusted > now->wall)
        s->trusted = now->wall;
    s->last = *now;
    return s->trusted;
}

void age_encode(const struct age_state *s, struct buffer *out)
{
    put_u64(out, (uint64_t)s->last.wall);
    put_u64(out, (uint64_t)s->last.boot);
    buffer_append(out, s->last.boot_id, sizeof(s->last.boot_id));
    put_u64(out, (uint64_t)s->trusted);
    put_u64(out, (uint64_t)s->agreed);
}

int age_decode(const void *p, size_t len, struct age_state *s, struct error *e)
{
    const uint8_t *at = p;

    if (len != STATE_LEN)
        return error_set(e, ERR_DAMAGED, "the state of the trusted time has %zu bytes", len);
    s->last.wall = (int64_t)load_u64(at);
    s->last.boot = (int64_t)load_u64(at + 8);
    memcpy(s->last.boot_id, at + 16, sizeof(s->last.boot_id));
    s->trusted = (int64_t)load_u64(at + 32);
    s->agreed = (int64_t)load_u64(at + 40);
    return 0;
}
