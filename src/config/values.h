/* values.h - the settings as they were given: each with the level it came from and its origin.
 *
 * A higher level replaces a lower one; within the files a later one replaces an earlier one, but
 * one file may give a setting only once (patterns add up instead). */
#ifndef WK_CONFIG_VALUES_H
#define WK_CONFIG_VALUES_H

#include "config/config.h"
#include "config/keys.h"

enum value_level { LEVEL_DEFAULT, LEVEL_FILE, LEVEL_ENVIRONMENT, LEVEL_FLAG };

struct config_value {
    const struct config_key *key;
    char *section; /* with its name: "watch bot" */
    char *text;
    char *origin; /* "default", "file:line", "environment NAME", "flag" */
    enum value_level level;
    unsigned file; /* which of the files, for LEVEL_FILE */
};

struct value_source {
    enum value_level level;
    unsigned file;
    const char *origin;
};

/* Check and keep a value. ERR_USAGE says what is wrong with it. */
int values_set(struct config *c, const struct config_key *k, const char *section, const char *text,
               const struct value_source *from, struct error *e);

struct config_value *values_find(const struct config *c, const char *section, const char *key);

/* The value's text, "" when it is not there. */
const char *values_text(const struct config *c, const char *section, const char *key);
uint64_t values_number(const struct config *c, const char *section, const char *key);

/* Forget all values of a section. */
void values_drop(struct config *c, const char *section);

/* In the order of the table, sections of one kind by name. */
void values_sort(struct config *c);
void values_free(struct config *c);

/* The first word of a section, and what follows it ("" when nothing does). word has room for
 * SECTION_WORD_MAX bytes. */
#define SECTION_WORD_MAX 16
const char *section_split(const char *section, char *word);

/* Patterns of a value as a NULL-terminated list of strings; NULL for none (or no memory: *failed).
 * A backslash keeps a blank inside a pattern. */
char **values_patterns(const char *text, bool *failed);

#endif
