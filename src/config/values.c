#include "config/values.h"

#include "base/string_list.h"
#include "base/text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

struct config_value *values_find(const struct config *c, const char *section, const char *key)
{
    for (size_t i = 0; i < c->value_count; i++) {
        struct config_value *v = &c->values[i];
        if (strcmp(v->key->key, key) == 0 && strcmp(v->section, section) == 0)
            return v;
    }
    return NULL;
}

const char *values_text(const struct config *c, const char *section, const char *key)
{
    const struct config_value *v = values_find(c, section, key);

    return v ? v->text : "";
}

uint64_t values_number(const struct config *c, const char *section, const char *key)
{
    const struct config_value *v = values_find(c, section, key);

    return v ? config_key_number(v->key, v->text) : CONFIG_OFF;
}

static struct config_value *new_value(struct config *c, const struct config_key *k,
                                      const char *section)
{
    struct config_value *all = realloc(c->values, (c->value_count + 1) * sizeof(*all));

    if (!all)
        return NULL;
    c->values = all;
    struct config_value *v = &all[c->value_count];
    *v = (struct config_value){.key = k, .section = strdup(section)};
    if (!v->section)
        return NULL;
    c->value_count++;
    return v;
}

static bool replace(char **where, char *text)
{
    if (!text)
        return false;
    free(*where);
    *where = text;
    return true;
}

/* More patterns for a value of the same level, or a new text and origin. */
static bool put_text(struct config_value *v, const char *text, const struct value_source *from)
{
    bool more = v->text && v->key->type == VALUE_PATTERNS && v->level == from->level;

    if (more)
        return replace(&v->text, text_format("%s %s", v->text, text));
    v->level = from->level;
    v->file = from->file;
    return replace(&v->text, strdup(text)) && replace(&v->origin, strdup(from->origin));
}

int values_set(struct config *c, const struct config_key *k, const char *section, const char *text,
               const struct value_source *from, struct error *e)
{
    struct config_value *v = values_find(c, section, k->key);
    char *checked = NULL;
    int rc;

    if (v && v->level > from->level)
        return 0;
    if (v && v->level == from->level && v->file == from->file && k->type != VALUE_PATTERNS)
        return error_set(e, ERR_USAGE, "'%s' was given before (%s)", k->key, v->origin);
    rc = config_key_check(k, text, &checked, e);
    if (rc != 0)
        return rc;
    if (!v)
        v = new_value(c, k, section);
    if (!v || !put_text(v, checked, from))
        rc = error_sys(e, ENOMEM, "cannot keep a setting");
    free(checked);
    return rc;
}

static size_t section_order(const struct config_key *k)
{
    size_t i = 0;

    while (strcmp(config_keys[i].section, k->section) != 0)
        i++;
    return i;
}

static int by_table(const void *a, const void *b)
{
    const struct config_value *x = a, *y = b;
    size_t i = section_order(x->key), j = section_order(y->key);

    if (i != j)
        return i < j ? -1 : 1;
    int names = strcmp(x->section, y->section);
    if (names != 0)
        return names;
    return x->key < y->key ? -1 : x->key > y->key;
}

void values_sort(struct config *c)
{
    if (c->value_count > 0)
        qsort(c->values, c->value_count, sizeof(*c->values), by_table);
}

static void release(struct config_value *v)
{
    free(v->section);
    free(v->text);
    free(v->origin);
}

void values_drop(struct config *c, const char *section)
{
    size_t kept = 0;

    for (size_t i = 0; i < c->value_count; i++) {
        if (strcmp(c->values[i].section, section) == 0)
            release(&c->values[i]);
        else
            c->values[kept++] = c->values[i];
    }
    c->value_count = kept;
}

void values_free(struct config *c)
{
    for (size_t i = 0; i < c->value_count; i++)
        release(&c->values[i]);
    free(c->values);
    c->values = NULL;
    c->value_count = 0;
}

const char *section_split(const char *section, char *word)
{
    size_t len = strcspn(section, " \t");
    size_t kept = len < SECTION_WORD_MAX ? len : 0; /* no section has a longer word */

    memcpy(word, section, kept);
    word[kept] = 0;
    return section + len + strspn(section + len, " \t");
}

char **values_patterns(const char *text, bool *failed)
{
    char **list = NULL;

    for (const char *at = text + strspn(text, " \t"); *at; at += strspn(at, " \t")) {
        const char *end = at;
        while (*end && *end != ' ' && *end != '\t')
            end += *end == '\\' && end[1] ? 2 : 1;
        if (!string_list_add(&list, at, (size_t)(end - at))) {
            *failed = true;
            break;
        }
        at = end;
    }
    return list;
}
