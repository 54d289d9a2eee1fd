#include "config/keys.h"

#include "base/calendar_rule.h"
#include "base/parse.h"
#include "base/pattern.h"
#include "base/text.h"
#include "config/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum { PATH_TEXT_MAX = 32768, COUNT_MAX = 1000000 };
static const uint64_t SECOND = 1000, HOUR = 3600000, DAY = 86400000;

#define LIVE KEY_RELOAD
#define FIXED 0 /* a restart brings it into effect */
#define DAYS_365 (UINT64_C(365) * 86400000)

/* clang-format off */
const struct config_key config_keys[] = {
    {"service", "repository", VALUE_PATH, 0, 0, "", NULL, FIXED, "where the snapshots are kept"},
    {"service", "socket", VALUE_PATH, 0, 0, "", NULL, FIXED, "control socket of the service"},
    {"service", "group", VALUE_TEXT, 0, 32, "", NULL, FIXED, "its members may look, save and archive through the socket"},
    {"service", "log_level", VALUE_CHOICE, 0, 0, "info", "error|warn|info|debug", LIVE, "what is logged"},
    {"service", "log_format", VALUE_CHOICE, 0, 0, "text", "text|json", LIVE, "how it is logged"},
    {"service", "codec", VALUE_CHOICE, 0, 0, "zstd", "zstd|zlib|none", FIXED, "compression in the packs"},
    {"service", "min_free", VALUE_SHARE, 0, 0, "5%", NULL, KEY_OFF | LIVE, "free space of the repository's file system below which saves stop"},

    {"watch", "path", VALUE_PATH, 0, 0, "", NULL, LIVE | KEY_REQUIRED, "the folder to watch"},
    {"watch", "include", VALUE_PATTERNS, 0, 0, "", NULL, LIVE, "what to keep; empty: everything"},
    {"watch", "exclude", VALUE_PATTERNS, 0, 0, "", NULL, LIVE, "what to leave out"},
    {"watch", "settle", VALUE_DURATION, 1, 86400000, "200ms", NULL, LIVE, "quiet time before a save"},
    {"watch", "max_delay", VALUE_DURATION, 10, 604800000, "5s", NULL, LIVE, "a file that never rests is saved at least this often"},
    {"watch", "interval", VALUE_DURATION, 1000, DAYS_365, "1h", NULL, LIVE | KEY_OFF, "time between rescans of everything"},
    {"watch", "sqlite", VALUE_CHOICE, 0, 0, "auto", "auto|off", LIVE, "save SQLite databases as one committed state"},

    {"archive", "at", VALUE_CALENDAR, 0, 0, "03:00", NULL, LIVE | KEY_OFF, "when archives are written"},
    {"archive", "format", VALUE_CHOICE, 0, 0, "tar.gz", "tar.gz|directory", LIVE, "what an archive is"},
    {"archive", "path", VALUE_PATH, 0, 0, "", NULL, LIVE, "where archives are written"},
    {"archive", "level", VALUE_COUNT, 1, 12, "6", NULL, LIVE, "compression of archives; up to 9 packs about as well as gzip there"},
    {"archive", "keep_days", VALUE_COUNT, 1, 36500, "30", NULL, KEY_OFF | LIVE, "archives of the last N days are kept"},
    {"archive", "keep_last", VALUE_COUNT, 1, COUNT_MAX, "off", NULL, KEY_OFF | LIVE, "the last N archives are kept"},

    {"retention", "prune_at", VALUE_CALENDAR, 0, 0, "04:00", NULL, LIVE | KEY_OFF, "when retention is applied"},
    {"retention", "keep_min", VALUE_COUNT, 3, COUNT_MAX, "3", NULL, LIVE, "never fewer good snapshots than this"},
    {"retention", "keep_days", VALUE_COUNT, 1, 36500, "7", NULL, KEY_OFF | LIVE, "every snapshot of the last N days"},
    {"retention", "keep_last", VALUE_COUNT, 1, COUNT_MAX, "off", NULL, KEY_OFF | LIVE, "the last N snapshots"},
    {"retention", "keep_hourly", VALUE_COUNT, 1, COUNT_MAX, "off", NULL, KEY_OFF | LIVE, "the newest good one of each of the last N hours that have one"},
    {"retention", "keep_daily", VALUE_COUNT, 1, COUNT_MAX, "30", NULL, KEY_OFF | LIVE, "the same for days"},
    {"retention", "keep_weekly", VALUE_COUNT, 1, COUNT_MAX, "off", NULL, KEY_OFF | LIVE, "the same for weeks"},
    {"retention", "keep_monthly", VALUE_COUNT, 1, COUNT_MAX, "12", NULL, KEY_OFF | LIVE, "the same for months"},
    {"retention", "keep_yearly", VALUE_COUNT, 1, COUNT_MAX, "off", NULL, KEY_OFF | LIVE, "the same for years"},
    {"retention", "max_size", VALUE_SIZE, 0, 0, "off", NULL, KEY_OFF | LIVE, "beyond it the oldest go, down to keep_min"},

    {"verify", "at", VALUE_CALENDAR, 0, 0, "05:00", NULL, LIVE | KEY_OFF, "when stored bytes are read back"},
    {"verify", "sample", VALUE_PERCENT, 1, 100, "5%", NULL, LIVE, "share of the stored bytes in one run"},
    {"verify", "restore_test", VALUE_CHOICE, 0, 0, "latest", "latest|archive|off", LIVE, "what is restored for a test"},

    {"retry", "attempts", VALUE_COUNT, 1, 100, "3", NULL, LIVE, "how often a failed job is tried"},
    {"retry", "delay", VALUE_DURATION, 1000, 86400000, "60s", NULL, LIVE, "time between two attempts"},

    {"alert", "command", VALUE_PATH, 0, 0, "", NULL, LIVE, "program that is given each event as JSON"},
    {"alert", "max_age", VALUE_DURATION, 60000, DAYS_365, "2d", NULL, LIVE | KEY_OFF, "time without a completed check of a watch"},
};
/* clang-format on */
const size_t config_key_count = sizeof(config_keys) / sizeof(config_keys[0]);

enum section_naming config_section_naming(const char *word)
{
    if (strcmp(word, "watch") == 0)
        return SECTION_NAMED;
    if (strcmp(word, "archive") == 0 || strcmp(word, "retention") == 0)
        return SECTION_EITHER;
    for (size_t i = 0; i < config_key_count; i++) {
        if (strcmp(config_keys[i].section, word) == 0)
            return SECTION_PLAIN;
    }
    return SECTION_UNKNOWN;
}

const struct config_key *config_key_find(const char *section, const char *key)
{
    for (size_t i = 0; i < config_key_count; i++) {
        if (strcmp(config_keys[i].section, section) == 0 && strcmp(config_keys[i].key, key) == 0)
            return &config_keys[i];
    }
    return NULL;
}

char *config_clean_path(const char *path)
{
    char *cwd = path[0] == '/' ? strdup("") : getcwd(NULL, 0);
    char *joined = cwd ? text_format("%s/%s", cwd, path) : NULL;
    char *out = joined;

    free(cwd);
    if (!joined)
        return NULL;
    for (const char *in = joined; *in;) {
        size_t len = strcspn(in, "/");
        if (len == 2 && memcmp(in, "..", 2) == 0) {
            while (out > joined && *--out != '/')
                continue;
        } else if (len > 0 && !(len == 1 && *in == '.')) {
            *out++ = '/';
            memmove(out, in, len);
            out += len;
        }
        in += len;
        while (*in == '/')
            in++;
    }
    if (out == joined)
        *out++ = '/';
    *out = 0;
    return joined;
}

/* Take "N%" with N in 1..100. */
static bool percent(const char *s, uint64_t *n)
{
    char digits[4];
    struct error ignored = ERROR_INIT;
    size_t len = strlen(s);

    if (len < 2 || len > 4 || s[len - 1] != '%')
        return false;
    memcpy(digits, s, len - 1);
    digits[len - 1] = 0;
    return parse_u64(digits, n, &ignored) == 0 && *n >= 1 && *n <= 100;
}

static bool choice(const char *choices, const char *s)
{
    size_t len = strlen(s);

    for (const char *at = choices; *at; at += strcspn(at, "|"), at += *at == '|') {
        if (strcspn(at, "|") == len && memcmp(at, s, len) == 0)
            return true;
    }
    return false;
}

static int expected(const char *value, const char *what, struct error *e)
{
    char quoted[96];

    return error_set(e, ERR_USAGE, "'%s' is not %s", text_escape(value, quoted, sizeof(quoted)),
                     what);
}

static void duration_text(uint64_t ms, char *out, size_t cap)
{
    const char *unit = "ms";
    uint64_t n = ms;

    if (ms % DAY == 0) {
        n = ms / DAY;
        unit = "d";
    } else if (ms % HOUR == 0) {
        n = ms / HOUR;
        unit = "h";
    } else if (ms % SECOND == 0) {
        n = ms / SECOND;
        unit = "s";
    }
    snprintf(out, cap, "%llu%s", (unsigned long long)n, unit);
}

static int check_number(const struct config_key *k, const char *value, struct error *e)
{
    char lo[24], hi[24], quoted[96];
    uint64_t n;
    int rc = k->type == VALUE_DURATION ? parse_duration(value, &n, e) : parse_u64(value, &n, e);

    if (rc != 0 || (n >= k->min && n <= k->max))
        return rc;
    if (k->type == VALUE_DURATION) {
        duration_text(k->min, lo, sizeof(lo));
        duration_text(k->max, hi, sizeof(hi));
    } else {
        snprintf(lo, sizeof(lo), "%llu", (unsigned long long)k->min);
        snprintf(hi, sizeof(hi), "%llu", (unsigned long long)k->max);
    }
    return error_set(e, ERR_USAGE, "'%s' is out of bounds (%s to %s%s)",
                     text_escape(value, quoted, sizeof(quoted)), lo, hi,
                     k->flags & KEY_OFF ? ", or off" : "");
}

static int check_patterns(const char *value, struct error *e)
{
    struct pattern_list *l = pattern_list_new();
    int rc = l ? pattern_list_add(l, "", value, e) : error_sys(e, ENOMEM, "cannot read patterns");

    pattern_list_free(l);
    return rc;
}

static int check_path(const struct config_key *k, const char *value, char **out, struct error *e)
{
    if (!*value && !(k->flags & KEY_REQUIRED))
        return 0;
    if (*value != '/')
        return expected(value, "an absolute path", e);
    if (strlen(value) > PATH_TEXT_MAX)
        return error_set(e, ERR_USAGE, "the path is longer than %d bytes", PATH_TEXT_MAX);
    free(*out);
    *out = config_clean_path(value);
    return *out ? 0 : error_sys(e, errno, "cannot read '%s'", value);
}

static int check_type(const struct config_key *k, const char *value, char **out, struct error *e)
{
    struct calendar rule;
    uint64_t n;

    switch (k->type) {
    case VALUE_TEXT:
        return strlen(value) <= k->max
                   ? 0
                   : error_set(e, ERR_USAGE, "longer than %llu bytes", (unsigned long long)k->max);
    case VALUE_PATH:
        return check_path(k, value, out, e);
    case VALUE_DURATION:
    case VALUE_COUNT:
        return check_number(k, value, e);
    case VALUE_CHOICE:
        return choice(k->choices, value) ? 0 : expected(value, k->choices, e);
    case VALUE_PATTERNS:
        return check_patterns(value, e);
    case VALUE_SIZE:
        return parse_size(value, &n, e);
    case VALUE_SHARE:
        return percent(value, &n) ? 0 : parse_size(value, &n, e);
    case VALUE_PERCENT:
        return percent(value, &n) ? 0 : expected(value, "a share from 1% to 100%", e);
    case VALUE_CALENDAR:
        return calendar_parse(value, &rule, e);
    }
    return 0;
}

int config_key_check(const struct config_key *k, const char *value, char **out, struct error *e)
{
    int rc;

    *out = strdup(value);
    if (!*out)
        return error_sys(e, ENOMEM, "cannot keep a setting");
    if ((k->flags & KEY_OFF) && strcmp(value, "off") == 0)
        return 0;
    rc = check_type(k, value, out, e);
    if (rc != 0) {
        free(*out);
        *out = NULL;
    }
    return rc;
}

uint64_t config_key_number(const struct config_key *k, const char *checked)
{
    struct error ignored = ERROR_INIT;
    uint64_t n = CONFIG_OFF;

    if (strcmp(checked, "off") == 0)
        return CONFIG_OFF;
    if (k->type == VALUE_DURATION)
        parse_duration(checked, &n, &ignored);
    else if (k->type == VALUE_PERCENT)
        percent(checked, &n);
    else
        parse_u64(checked, &n, &ignored);
    return n;
}
