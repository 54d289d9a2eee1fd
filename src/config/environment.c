#include "config/environment.h"

#include "base/text.h"
#include "config/values.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

#define PREFIX "WATCHKEEP_"
enum { VARIABLE_MAX = 160 };

/* Short names for containers; with `words` the value is a yes or no that stands for one of two. */
static const struct alias {
    const char *name, *section, *key;
    const char *yes, *no;
} aliases[] = {
    {PREFIX "REPO", "service", "repository", NULL, NULL},
    {PREFIX "INTERVAL", "watch", "interval", NULL, NULL},
    {PREFIX "RETENTION_DAYS", "retention", "keep_days", NULL, NULL},
    {PREFIX "COMPRESSION", "archive", "format", "tar.gz", "directory"},
};

static const char *const others[] = {PREFIX "CONFIG", PREFIX "PATHS", PREFIX "ENABLED",
                                     PREFIX "HELPER"};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const char *given(const char *name)
{
    const char *value = getenv(name);

    return value && *value ? value : NULL;
}

static bool yes_or_no(const char *s, bool *yes)
{
    static const char *const words[][2] = {
        {"false", "true"}, {"0", "1"}, {"no", "yes"}, {"off", "on"}};

    for (size_t i = 0; i < COUNT(words); i++) {
        for (int j = 0; j < 2; j++) {
            if (strcasecmp(s, words[i][j]) == 0) {
                *yes = j == 1;
                return true;
            }
        }
    }
    return false;
}

/* "watch my-bot", "settle" -> WATCHKEEP_WATCH_MY_BOT_SETTLE */
static void variable_name(const char *section, const char *key, char *out)
{
    int len = snprintf(out, VARIABLE_MAX, PREFIX "%s_%s", section, key);

    for (int i = 0; i < len && i < VARIABLE_MAX - 1; i++)
        out[i] = isalnum((unsigned char)out[i]) ? (char)toupper((unsigned char)out[i]) : '_';
}

/* Checked whether or not anything takes it: a value that is wrong must not wait for the day on
 * which a watch comes that does. *out: malloc'ed. */
static int take(const struct config_key *k, const char *name, const char *text, char **out,
                struct error *e)
{
    bool relative = k->type == VALUE_PATH && *text && *text != '/';
    char *absolute = relative ? config_clean_path(text) : NULL;
    struct error why = ERROR_INIT;

    *out = NULL;
    if (relative && !absolute)
        return error_sys(e, errno, "%s: cannot find '%s'", name, text);
    int rc = config_key_check(k, absolute ? absolute : text, out, &why);
    free(absolute);
    return rc == 0 ? 0 : error_set(e, rc, "%s: %s", name, why.message);
}

static int set(struct config *c, const struct config_key *k, const char *section, const char *name,
               const char *checked, struct error *e)
{
    const struct config_value *v = values_find(c, section, k->key);
    char origin[VARIABLE_MAX + 16];
    struct value_source from = {.level = LEVEL_ENVIRONMENT, .origin = origin};

    if (v && v->level == LEVEL_ENVIRONMENT)
        return 0; /* a name that says more was there before */
    snprintf(origin, sizeof(origin), "environment %s", name);
    return values_set(c, k, section, checked, &from, e);
}

/* The setting for one watch, or for all that no variable of their own names. */
static int set_watches(struct config *c, const struct config_key *k, const char *only,
                       const char *name, const char *checked, struct error *e)
{
    for (size_t i = 0; i < c->watch_count; i++) {
        char *section = text_format("watch %s", c->watches[i].name);
        int rc = !section ? error_sys(e, ENOMEM, "cannot keep a setting") : 0;
        if (rc == 0 && (!only || strcmp(only, c->watches[i].name) == 0))
            rc = set(c, k, section, name, checked, e);
        free(section);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* only: of a key of watches, the one that the variable names, or NULL. */
static int apply(struct config *c, const struct config_key *k, const char *only, const char *name,
                 const char *text, struct error *e)
{
    char *checked;
    int rc = take(k, name, text, &checked, e);

    if (rc == 0)
        rc = strcmp(k->section, "watch") == 0 ? set_watches(c, k, only, name, checked, e)
                                              : set(c, k, k->section, name, checked, e);
    free(checked);
    return rc;
}

static int apply_to_each_watch(struct config *c, const struct config_key *k, struct error *e)
{
    char section[SECTION_WORD_MAX + 256], name[VARIABLE_MAX];

    for (size_t i = 0; i < c->watch_count; i++) {
        const char *watch = c->watches[i].name;
        snprintf(section, sizeof(section), "watch %s", watch);
        variable_name(section, k->key, name);
        int rc = given(name) ? apply(c, k, watch, name, given(name), e) : 0;
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int apply_alias(struct config *c, const struct alias *a, struct error *e)
{
    const struct config_key *k = config_key_find(a->section, a->key);
    const char *text = given(a->name);
    bool yes;

    if (!text)
        return 0;
    if (a->yes) {
        if (!yes_or_no(text, &yes))
            return error_set(e, ERR_USAGE, "%s: '%s' is neither true nor false", a->name, text);
        text = yes ? a->yes : a->no;
    }
    return apply(c, k, NULL, a->name, text, e);
}

/* WATCHKEEP_WATCH_PATH would put all watches on one folder. */
static bool one_for_all(const struct config_key *k)
{
    return !(k->flags & KEY_REQUIRED);
}

static int apply_key(struct config *c, const struct config_key *k, struct error *e)
{
    bool watch = strcmp(k->section, "watch") == 0;
    char name[VARIABLE_MAX];
    int rc = watch ? apply_to_each_watch(c, k, e) : 0;

    variable_name(k->section, k->key, name);
    if (rc != 0 || !given(name) || !one_for_all(k))
        return rc;
    return apply(c, k, NULL, name, given(name), e);
}

int environment_apply(struct config *c, struct error *e)
{
    const char *enabled = given(PREFIX "ENABLED");
    int rc = 0;

    if (enabled && !yes_or_no(enabled, &c->enabled))
        return error_set(e, ERR_USAGE, PREFIX "ENABLED: '%s' is neither true nor false", enabled);
    for (size_t i = 0; rc == 0 && i < COUNT(aliases); i++)
        rc = apply_alias(c, &aliases[i], e);
    for (size_t i = 0; rc == 0 && i < config_key_count; i++)
        rc = apply_key(c, &config_keys[i], e);
    return rc;
}

static bool names_a_key(const struct config *c, const char *variable)
{
    char section[SECTION_WORD_MAX + 256], name[VARIABLE_MAX];

    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *k = &config_keys[i];
        variable_name(k->section, k->key, name);
        if (strcmp(name, variable) == 0 && one_for_all(k))
            return true;
        if (strcmp(k->section, "watch") != 0)
            continue;
        for (size_t j = 0; j < c->watch_count; j++) {
            snprintf(section, sizeof(section), "watch %s", c->watches[j].name);
            variable_name(section, k->key, name);
            if (strcmp(name, variable) == 0)
                return true;
        }
    }
    return false;
}

static bool known(const struct config *c, const char *variable)
{
    for (size_t i = 0; i < COUNT(aliases); i++) {
        if (strcmp(aliases[i].name, variable) == 0)
            return true;
    }
    for (size_t i = 0; i < COUNT(others); i++) {
        if (strcmp(others[i], variable) == 0)
            return true;
    }
    return names_a_key(c, variable);
}

void environment_unknown(const struct config *c, void (*tell)(void *ctx, const char *name),
                         void *ctx)
{
    for (char **at = environ; at && *at; at++) {
        size_t len = strcspn(*at, "=");
        char name[VARIABLE_MAX];
        if (strncmp(*at, PREFIX, sizeof(PREFIX) - 1) != 0 || len >= sizeof(name))
            continue;
        memcpy(name, *at, len);
        name[len] = 0;
        if (!known(c, name))
            tell(ctx, name);
    }
}
