#include "base/calendar_rule.h"

#include "base/parse.h"
#include "base/text.h"

#include <string.h>
#include <strings.h>

#include "base/banned.h"

/* No text of a rule is longer; a longer one is not even looked at. */
enum { RULE_TEXT_MAX = 256, NAME_LEN = 3, SUNDAY_AGAIN = 7 };

static const char month_names[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
static const char day_names[] = "SunMonTueWedThuFriSat";

struct field {
    unsigned min, max;
    const char *names; /* of min, min + 1, ... or NULL */
};

static const struct field minute = {0, 59, NULL}, hour = {0, 23, NULL}, day = {1, 31, NULL},
                          month = {1, 12, month_names}, weekday = {0, SUNDAY_AGAIN, day_names};

static bool take_char(const char **s, char c)
{
    if (**s != c)
        return false;
    ++*s;
    return true;
}

/* A number of at most three digits. */
static bool take_number(const char **s, unsigned *n)
{
    const char *begin = *s;

    for (*n = 0; **s >= '0' && **s <= '9' && *s - begin < 3; ++*s)
        *n = *n * 10 + (unsigned)(**s - '0');
    return *s > begin && !(**s >= '0' && **s <= '9');
}

/* A number of the field or one of its names. */
static bool take_value(const char **s, const struct field *f, unsigned *n)
{
    for (unsigned i = 0; f->names && f->names[i * NAME_LEN]; i++) {
        if (strncasecmp(*s, f->names + i * NAME_LEN, NAME_LEN) == 0) {
            *s += NAME_LEN;
            *n = f->min + i;
            return true;
        }
    }
    return take_number(s, n) && *n >= f->min && *n <= f->max;
}

/* "*", "5", "1-5", "*" "/n", "1-9/2" and cron's "5/2", which runs to the field's end. */
static bool take_range(const char **s, const struct field *f, uint64_t *set)
{
    unsigned lo = f->min, hi = f->max, step = 1;

    if (!take_char(s, '*')) {
        if (!take_value(s, f, &lo))
            return false;
        hi = **s == '/' ? f->max : lo;
        if (take_char(s, '-') && !take_value(s, f, &hi))
            return false;
        /* Saturday to Sunday is a range too. */
        if (f == &weekday && hi == 0 && lo > 0)
            hi = SUNDAY_AGAIN;
    }
    if (take_char(s, '/') && !take_number(s, &step))
        return false;
    if (lo > hi || step < 1 || step > f->max)
        return false;
    for (unsigned i = lo; i <= hi; i += step)
        *set |= UINT64_C(1) << i;
    return true;
}

/* Ranges separated by commas, up to a blank or the end; *s moves past the blanks. */
static bool take_field(const char **s, const struct field *f, uint64_t *set)
{
    *set = 0;
    do {
        if (!take_range(s, f, set))
            return false;
    } while (take_char(s, ','));
    size_t blanks = strspn(*s, " \t");
    *s += blanks;
    return blanks > 0 || !**s;
}

static bool possible(const struct calendar *c)
{
    static const unsigned longest[] = {0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    if (c->either_day)
        return true;
    for (unsigned m = 1; m <= 12; m++) {
        uint64_t days = (UINT64_C(2) << longest[m]) - 2;
        if (c->months >> m & 1 && c->days & days)
            return true;
    }
    return false;
}

static bool cron_line(const char *s, struct calendar *c)
{
    uint64_t minutes, hours, days, months, weekdays;

    if (!take_field(&s, &minute, &minutes) || !take_field(&s, &hour, &hours))
        return false;
    bool every_day = *s == '*';
    if (!take_field(&s, &day, &days) || !take_field(&s, &month, &months))
        return false;
    bool every_weekday = *s == '*';
    if (!take_field(&s, &weekday, &weekdays) || *s)
        return false;
    *c = (struct calendar){
        .minutes = minutes,
        .hours = (uint32_t)hours,
        .days = (uint32_t)days,
        .months = (uint16_t)months,
        .weekdays = (uint8_t)((weekdays | weekdays >> SUNDAY_AGAIN) & 0x7f),
        .either_day = !every_day && !every_weekday,
    };
    return true;
}

/* Exactly two digits below `limit`. */
static bool take_two(const char **s, unsigned limit, unsigned *n)
{
    const char *begin = *s;

    return take_number(s, n) && *s - begin == 2 && *n < limit;
}

/* "03:00" or "03:00:30", on the given days of the week. */
static bool time_of_day(const char *s, uint8_t weekdays, struct calendar *c)
{
    unsigned h, m, second = 0;

    if (!take_two(&s, 24, &h) || !take_char(&s, ':') || !take_two(&s, 60, &m))
        return false;
    if (take_char(&s, ':') && !take_two(&s, 60, &second))
        return false;
    *c = (struct calendar){
        .minutes = UINT64_C(1) << m,
        .hours = UINT32_C(1) << h,
        .days = UINT32_MAX - 1,
        .months = 0x1ffe,
        .weekdays = weekdays,
        .second = (uint8_t)second,
    };
    return !*s;
}

static bool weekly(const char *s, struct calendar *c)
{
    unsigned d;
    bool named = *s < '0' || *s > '9';

    if (!named || !take_value(&s, &weekday, &d) || (*s != ' ' && *s != '\t'))
        return false;
    return time_of_day(s + strspn(s, " \t"), (uint8_t)(1u << d), c);
}

/* A duration with its unit, so that a stray number is no interval. */
static bool interval(const char *s, struct calendar *c)
{
    const uint64_t least = 60 * 1000, most = UINT64_C(366) * 86400 * 1000;
    struct error ignored = ERROR_INIT;
    size_t len = strlen(s);
    uint64_t ms;

    if (len == 0 || (s[len - 1] >= '0' && s[len - 1] <= '9') ||
        parse_duration(s, &ms, &ignored) != 0 || ms < least || ms > most || ms % 1000 != 0)
        return false;
    *c = (struct calendar){.interval = (int64_t)(ms / 1000)};
    return true;
}

int calendar_parse(const char *text, struct calendar *out, struct error *e)
{
    struct calendar c;
    char quoted[96];

    text_escape(text, quoted, sizeof(quoted));
    if (strnlen(text, RULE_TEXT_MAX + 1) > RULE_TEXT_MAX ||
        !(time_of_day(text, 0x7f, &c) || weekly(text, &c) || interval(text, &c) ||
          cron_line(text, &c)))
        return error_set(
            e, ERR_USAGE,
            "'%s' is not a time of day (like 03:00, 'Sun 01:00', cron's five fields, or an "
            "interval like 6h)",
            quoted);
    if (c.interval == 0 && !possible(&c))
        return error_set(e, ERR_USAGE, "'%s' is a day that no year has", quoted);
    *out = c;
    return 0;
}
