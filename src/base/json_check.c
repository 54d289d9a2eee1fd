#include "base/json_check.h"

#include <string.h>

#include "base/banned.h"

enum state {
    BEGIN, /* nothing but blanks yet */
    VALUE,
    FIRST_ITEM, /* a value or ']' */
    FIRST_KEY,  /* a name or '}' */
    KEY,
    COLON,
    AFTER, /* a value is over */
    STRING,
    ESCAPE,
    HEX,
    WORD,  /* the rest of true, NaN, ... */
    MINUS, /* of a number: what came last */
    ZERO,
    DIGITS,
    POINT,
    FRACTION,
    EXPONENT,
    SIGN,
    POWER,
    MARK, /* the rest of a byte-order mark */
    BAD,  /* from here on nothing changes any more */
    TOO_DEEP,
};

void json_check_init(struct json_check *c)
{
    *c = (struct json_check){.state = BEGIN};
}

static bool blank(uint8_t b)
{
    return b == ' ' || b == '\n' || b == '\r' || b == '\t';
}

static bool digit(uint8_t b)
{
    return b >= '0' && b <= '9';
}

static bool in_object(const struct json_check *c)
{
    return c->objects[(c->depth - 1) / 64] >> (c->depth - 1) % 64 & 1;
}

static enum state open_one(struct json_check *c, bool object)
{
    if (c->depth == JSON_DEPTH_MAX)
        return TOO_DEEP;
    uint64_t bit = UINT64_C(1) << c->depth % 64;
    uint64_t *word = &c->objects[c->depth / 64];
    *word = object ? *word | bit : *word & ~bit;
    c->depth++;
    return object ? FIRST_KEY : FIRST_ITEM;
}

static enum state close_one(struct json_check *c, bool object)
{
    if (c->depth == 0 || in_object(c) != object)
        return BAD;
    c->depth--;
    return AFTER;
}

static enum state word(struct json_check *c, const char *rest)
{
    c->rest = rest;
    return WORD;
}

static enum state string(struct json_check *c, bool key)
{
    c->key = key;
    return STRING;
}

static enum state value(struct json_check *c, uint8_t b)
{
    switch (b) {
    case '{':
        return open_one(c, true);
    case '[':
        return open_one(c, false);
    case '"':
        return string(c, false);
    case 't':
        return word(c, "rue");
    case 'f':
        return word(c, "alse");
    case 'n':
        return word(c, "ull");
    case 'N':
        return word(c, "aN");
    case 'I':
        return word(c, "nfinity");
    case '-':
        return MINUS;
    case '0':
        return ZERO;
    default:
        return digit(b) ? DIGITS : BAD;
    }
}

static enum state begin(struct json_check *c, uint8_t b)
{
    if (b == 0xef) {
        c->rest = "\xbb\xbf";
        return MARK;
    }
    c->first = b;
    return value(c, b);
}

static enum state after(struct json_check *c, uint8_t b)
{
    if (b == '}' || b == ']')
        return close_one(c, b == '}');
    if (b != ',' || c->depth == 0)
        return BAD;
    return in_object(c) ? KEY : VALUE;
}

/* Inside a number; what ends it belongs to what comes after. */
static enum state number(struct json_check *c, uint8_t b)
{
    switch (c->state) {
    case MINUS:
        if (b == 'I')
            return word(c, "nfinity");
        return b == '0' ? ZERO : digit(b) ? DIGITS : BAD;
    case POINT:
        return digit(b) ? FRACTION : BAD;
    case EXPONENT:
        return b == '+' || b == '-' ? SIGN : digit(b) ? POWER : BAD;
    case SIGN:
        return digit(b) ? POWER : BAD;
    default:
        break;
    }
    if (digit(b) && c->state != ZERO)
        return c->state;
    if (b == '.' && (c->state == ZERO || c->state == DIGITS))
        return POINT;
    if ((b == 'e' || b == 'E') && c->state != POWER)
        return EXPONENT;
    return blank(b) ? AFTER : after(c, b);
}

static enum state escape(struct json_check *c, uint8_t b)
{
    if (b == 'u') {
        c->hex = 4;
        return HEX;
    }
    return b && strchr("\"\\/bfnrt", b) ? STRING : BAD;
}

static enum state hex(struct json_check *c, uint8_t b)
{
    if (!digit(b) && !(b >= 'a' && b <= 'f') && !(b >= 'A' && b <= 'F'))
        return BAD;
    return --c->hex > 0 ? HEX : STRING;
}

static enum state rest_of(struct json_check *c, uint8_t b, enum state then)
{
    enum state same = c->state;

    if ((uint8_t)*c->rest != b)
        return BAD;
    c->rest++;
    return *c->rest ? same : then;
}

static enum state step(struct json_check *c, uint8_t b)
{
    switch ((enum state)c->state) {
    case BEGIN:
        return begin(c, b);
    case VALUE:
        return value(c, b);
    case FIRST_ITEM:
        return b == ']' ? close_one(c, false) : value(c, b);
    case FIRST_KEY:
        return b == '"' ? string(c, true) : b == '}' ? close_one(c, true) : BAD;
    case KEY:
        return b == '"' ? string(c, true) : BAD;
    case COLON:
        return b == ':' ? VALUE : BAD;
    case AFTER:
        return after(c, b);
    case ESCAPE:
        return escape(c, b);
    case HEX:
        return hex(c, b);
    case WORD:
        return rest_of(c, b, AFTER);
    case MARK:
        return rest_of(c, b, BEGIN);
    case STRING:
    case BAD:
    case TOO_DEEP:
        return c->state;
    default:
        return number(c, b);
    }
}

/* Whether none of eight bytes ends a string or may not stand in one. */
static bool plain(const uint8_t *p)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones << 7;
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    uint64_t quote = v ^ ones * '"', slash = v ^ ones * '\\';
    return (((v - ones * ' ') & ~v) | ((quote - ones) & ~quote) | ((slash - ones) & ~slash)) & tops
               ? false
               : true;
}

/* Up to what ends the string, or may not stand in it. */
static const uint8_t *through_string(struct json_check *c, const uint8_t *p, const uint8_t *end)
{
    while (end - p >= 8 && plain(p))
        p += 8;
    while (p < end && *p >= ' ' && *p != '"' && *p != '\\')
        p++;
    if (p == end)
        return p;
    c->state = *p == '\\' ? ESCAPE : *p != '"' ? BAD : c->key ? COLON : AFTER;
    return p + 1;
}

void json_check_feed(struct json_check *c, const void *bytes, size_t n)
{
    const uint8_t *p = bytes, *end = p + n;

    while (p < end) {
        if (c->state == STRING) {
            p = through_string(c, p, end);
            continue;
        }
        if (c->state <= AFTER) {
            while (blank(*p)) {
                if (++p == end)
                    return;
            }
        } else if (c->state == DIGITS || c->state == FRACTION) {
            while (digit(*p)) {
                if (++p == end)
                    return;
            }
        } else if (c->state >= BAD) {
            return;
        }
        c->state = (uint8_t)step(c, *p++);
    }
}

enum json_verdict json_check_end(const struct json_check *c)
{
    if (c->state == TOO_DEEP)
        return JSON_UNKNOWN;
    bool value_over = c->state == AFTER || c->state == ZERO || c->state == DIGITS ||
                      c->state == FRACTION || c->state == POWER;
    return value_over && c->depth == 0 ? JSON_WHOLE : JSON_NOT;
}
