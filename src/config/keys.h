/* keys.h - the one table of settings: section, key, type, bounds, default, and what it is for.
 *
 * Everything about a setting that can be said in data is said here once: the parser, the bounds,
 * `config show`, the environment's names and the reload all read this table. */
#ifndef WK_CONFIG_KEYS_H
#define WK_CONFIG_KEYS_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum value_type {
    VALUE_TEXT,     /* anything up to max bytes, may be empty */
    VALUE_PATH,     /* an absolute path, cleaned, or empty where the default is */
    VALUE_DURATION, /* milliseconds in min..max */
    VALUE_COUNT,    /* min..max */
    VALUE_CHOICE,   /* one of `choices`, separated by '|' */
    VALUE_PATTERNS, /* gitignore patterns separated by blanks; repeating the key adds */
    VALUE_SIZE,     /* "5G" */
    VALUE_SHARE,    /* "5%" or a size */
    VALUE_PERCENT,  /* "5%" */
    VALUE_CALENDAR, /* what base/calendar_rule.h takes */
};

enum key_flag {
    KEY_OFF = 1 << 0,      /* "off" is a value */
    KEY_RELOAD = 1 << 1,   /* a reload brings it into effect; else a restart does */
    KEY_REQUIRED = 1 << 2, /* no default: the section must give it */
};

struct config_key {
    const char *section, *key;
    enum value_type type;
    uint64_t min, max;
    const char *fallback; /* the default as text */
    const char *choices;  /* VALUE_CHOICE */
    unsigned flags;
    const char *help;
};

extern const struct config_key config_keys[];
extern const size_t config_key_count;

/* Whether a section of that first word exists, and whether it takes ("watch bot") or may take a
 * name. */
enum section_naming { SECTION_UNKNOWN, SECTION_PLAIN, SECTION_NAMED, SECTION_EITHER };
enum section_naming config_section_naming(const char *word);

/* NULL when there is no such key in that section (its first word). */
const struct config_key *config_key_find(const char *section, const char *key);

/* Check value against type and bounds; *out (malloc'ed) is the value as it shall be kept: paths
 * cleaned, the rest as written. ERR_USAGE says what is expected. */
int config_key_check(const struct config_key *k, const char *value, char **out, struct error *e);

/* The value of a checked duration, count, percent: milliseconds, a number, or CONFIG_OFF. */
uint64_t config_key_number(const struct config_key *k, const char *checked);

/* The path without "//", "/./", "/.." and a trailing slash; relative ones are put behind the
 * working folder. Malloc'ed; NULL with errno on failure. */
char *config_clean_path(const char *path);

#endif
