#include "base/parse.h"

#include "base/text.h"

#include <ctype.h>
#include <limits.h>
#include <string.h>
#include <time.h>

#include "base/banned.h"

/* No text of a time is longer; a longer one is not even looked at. */
enum { TIME_TEXT_MAX = 48, QUOTE_MAX = 96 };

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

static int refuse(struct error *e, const char *s, const char *expected)
{
    char quoted[QUOTE_MAX];

    return error_set(e, ERR_USAGE, "'%s' is not %s", text_escape(s, quoted, sizeof(quoted)),
                     expected);
}

/* Decimal digits at *s; false when there are none or the number does not fit. */
static bool take_number(const char **s, uint64_t *v)
{
    uint64_t n = 0;

    if (!digit(**s))
        return false;
    for (; digit(**s); ++*s) {
        unsigned d = (unsigned)(**s - '0');
        if (n > (UINT64_MAX - d) / 10)
            return false;
        n = n * 10 + d;
    }
    *v = n;
    return true;
}

int parse_u64(const char *s, uint64_t *v, struct error *e)
{
    const char *at = s;
    uint64_t n;

    if (!take_number(&at, &n) || *at)
        return refuse(e, s, "a whole number");
    *v = n;
    return 0;
}

int parse_size(const char *s, uint64_t *bytes, struct error *e)
{
    static const char units[] = "KMGTPE";
    const char *at = s;
    const char *unit;
    uint64_t n;
    unsigned shift = 0;

    if (!take_number(&at, &n))
        return refuse(e, s, "a size (like 64K, 20M, 5G)");
    if (*at && (unit = strchr(units, toupper((unsigned char)*at))) != NULL) {
        shift = 10 * (unsigned)(unit - units + 1);
        at++;
        if (strcmp(at, "iB") == 0)
            at += 2;
    }
    if (*at)
        return refuse(e, s, "a size (like 64K, 20M, 5G)");
    if (n > UINT64_MAX >> shift)
        return refuse(e, s, "a size that fits in 64 bits");
    *bytes = n << shift;
    return 0;
}

static uint64_t unit_ms(const char *unit)
{
    static const struct {
        const char *name;
        uint64_t ms;
    } units[] = {{"ms", 1},       {"s", 1000},      {"", 1000},       {"m", 60000},
                 {"h", 3600000u}, {"d", 86400000u}, {"w", 604800000u}};

    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(units[i].name, unit) == 0)
            return units[i].ms;
    }
    return 0;
}

int parse_duration(const char *s, uint64_t *ms, struct error *e)
{
    const char *at = s;
    uint64_t n;

    if (!take_number(&at, &n) || unit_ms(at) == 0)
        return refuse(e, s, "a duration (like 200ms, 5s, 10m, 1h, 7d, 2w)");
    if (n > UINT64_MAX / unit_ms(at))
        return refuse(e, s, "a duration that fits in 64 bits");
    *ms = n * unit_ms(at);
    return 0;
}

/* Exactly n digits with a value in min..max. */
static bool take_field(const char **s, int n, int min, int max, int *v)
{
    int value = 0;

    for (int i = 0; i < n; i++, ++*s) {
        if (!digit(**s))
            return false;
        value = value * 10 + (**s - '0');
    }
    *v = value;
    return value >= min && value <= max;
}

static bool take_char(const char **s, char c)
{
    if (**s != c)
        return false;
    ++*s;
    return true;
}

static int days_of_month(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

    return month == 2 && leap ? 29 : days[month - 1];
}

static bool take_date(const char **s, struct tm *tm)
{
    int year, month, day;

    if (!take_field(s, 4, 0, 9999, &year) || !take_char(s, '-') ||
        !take_field(s, 2, 1, 12, &month) || !take_char(s, '-') ||
        !take_field(s, 2, 1, days_of_month(year, month), &day))
        return false;
    tm->tm_year = year - 1900;
    tm->tm_mon = month - 1;
    tm->tm_mday = day;
    return true;
}

/* "14:30", "14:30:05" or "14:30:05.123"; 60 is the leap second. */
static bool take_clock(const char **s, struct tm *tm)
{
    if (!take_field(s, 2, 0, 23, &tm->tm_hour) || !take_char(s, ':') ||
        !take_field(s, 2, 0, 59, &tm->tm_min))
        return false;
    if (!take_char(s, ':'))
        return true;
    if (!take_field(s, 2, 0, 60, &tm->tm_sec))
        return false;
    if (take_char(s, '.')) {
        if (!digit(**s))
            return false;
        while (digit(**s))
            ++*s;
    }
    return true;
}

/* "Z" or "+01:00"; *east is in seconds. */
static bool take_zone(const char **s, int *east)
{
    int sign = **s == '-' ? -1 : 1;
    int hours, minutes;

    *east = 0;
    if (take_char(s, 'Z') || take_char(s, 'z'))
        return true;
    if (!take_char(s, '+') && !take_char(s, '-'))
        return false;
    if (!take_field(s, 2, 0, 23, &hours) || !take_char(s, ':') ||
        !take_field(s, 2, 0, 59, &minutes))
        return false;
    *east = sign * (hours * 3600 + minutes * 60);
    return true;
}

/* Local wall-clock parts to seconds; the zone's rule of that day decides about summer time. */
static int64_t local_seconds(struct tm tm)
{
    tm.tm_isdst = -1;
    return (int64_t)mktime(&tm);
}

static bool absolute_time(const char *s, int64_t *t)
{
    struct tm tm = {0};
    int east;

    if (!take_date(&s, &tm))
        return false;
    if (!*s) {
        *t = local_seconds(tm);
        return true;
    }
    if (!take_char(&s, 'T') && !take_char(&s, 't') && !take_char(&s, ' '))
        return false;
    if (!take_clock(&s, &tm))
        return false;
    if (!*s) {
        *t = local_seconds(tm);
        return true;
    }
    if (!take_zone(&s, &east) || *s)
        return false;
    *t = (int64_t)timegm(&tm) - east;
    return true;
}

/* Local parts of now, days back, at 00:00 when midnight. */
static bool days_before(int64_t now_s, int days, bool midnight, int64_t *t)
{
    time_t now = (time_t)now_s;
    struct tm tm;

    tzset();
    if (!localtime_r(&now, &tm))
        return false;
    tm.tm_mday -= days;
    if (midnight)
        tm.tm_hour = tm.tm_min = tm.tm_sec = 0;
    *t = local_seconds(tm);
    return true;
}

/* Seconds, minutes and hours are exact; a day back is the same time on the day before, also across
 * a change of summer time. */
static bool before_now(int64_t now_s, uint64_t n, char unit, int64_t *t)
{
    static const char names[] = "smhdw";
    static const unsigned seconds[] = {1, 60, 3600, 86400, 604800};
    const uint64_t limit = UINT64_C(10000) * 366 * 86400;
    size_t i = (size_t)(strchr(names, unit) - names);

    if (n > limit / seconds[i])
        return false;
    if (seconds[i] >= 86400)
        return days_before(now_s, (int)(n * (seconds[i] / 86400)), false, t);
    return !__builtin_sub_overflow(now_s, (int64_t)(n * seconds[i]), t);
}

/* "-2h" */
static bool short_relative(const char *s, int64_t now_s, int64_t *t)
{
    uint64_t n;

    if (!take_char(&s, '-') || !take_number(&s, &n) || !*s || !strchr("smhdw", *s) || s[1])
        return false;
    return before_now(now_s, n, *s, t);
}

/* "5 minutes ago" */
static bool long_relative(const char *s, int64_t now_s, int64_t *t)
{
    static const char *const units[] = {"second", "minute", "hour", "day", "week"};
    uint64_t n;

    if (!take_number(&s, &n) || !take_char(&s, ' '))
        return false;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        size_t len = strlen(units[i]);
        if (strncmp(s, units[i], len) != 0)
            continue;
        s += len;
        take_char(&s, 's');
        return strcmp(s, " ago") == 0 && before_now(now_s, n, *units[i], t);
    }
    return false;
}

static bool any_time(const char *s, int64_t now_s, int64_t *t)
{
    if (strcmp(s, "now") == 0) {
        *t = now_s;
        return true;
    }
    if (strcmp(s, "today") == 0)
        return days_before(now_s, 0, true, t);
    if (strcmp(s, "yesterday") == 0)
        return days_before(now_s, 1, true, t);
    return absolute_time(s, t) || short_relative(s, now_s, t) || long_relative(s, now_s, t);
}

static int not_a_time(struct error *e, const char *s)
{
    return refuse(e, s,
                  "a time (like 2026-11-21, '2026-11-21 14:30', 2026-11-21T14:30:00Z, yesterday, "
                  "-2h, '5 minutes ago')");
}

int parse_time(const char *s, int64_t now_s, int64_t *t, struct error *e)
{
    int64_t found;

    if (strlen(s) > TIME_TEXT_MAX || !any_time(s, now_s, &found))
        return not_a_time(e, s);
    *t = found;
    return 0;
}

int parse_time_prefix(const char *s, int64_t now_s, int64_t *t, size_t *used, struct error *e)
{
    char text[TIME_TEXT_MAX + 1];
    int64_t found;

    for (size_t n = strnlen(s, TIME_TEXT_MAX); n > 0; n--) {
        if (s[n] && s[n] != ':')
            continue;
        memcpy(text, s, n);
        text[n] = 0;
        if (any_time(text, now_s, &found)) {
            *t = found;
            *used = n;
            return 0;
        }
    }
    return not_a_time(e, s);
}

static bool name_char(char c)
{
    return digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool parse_name_ok(const char *s)
{
    static const char *const reserved[] = {"latest", "good", "all", "none", "now"};
    bool all_digits = true;
    size_t n = 0;

    for (; s[n]; n++) {
        if (n == 64 || !(name_char(s[n]) || (n > 0 && strchr("._-", s[n]))))
            return false;
        all_digits = all_digits && digit(s[n]);
    }
    for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++) {
        if (strcmp(s, reserved[i]) == 0)
            return false;
    }
    return !all_digits; /* holds for "" too */
}
