/* What is told about loaded settings: their values, each with its origin, what means nothing. */
#include "config/config.h"

#include "base/text.h"
#include "config/environment.h"
#include "config/values.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

void config_show(const struct config *c, config_visit visit, void *ctx)
{
    for (size_t i = 0; i < c->value_count; i++) {
        const struct config_value *v = &c->values[i];
        visit(ctx, v->section, v->key->key, v->text, v->origin);
    }
    if (!c->enabled)
        visit(ctx, "service", "enabled", "false", "environment WATCHKEEP_ENABLED");
}

const char *config_origin(const struct config *c, const char *section, const char *key)
{
    const struct config_value *v = values_find(c, section, key);

    return v ? v->origin : NULL;
}

struct teller {
    void (*warn)(void *ctx, const char *text);
    void *ctx;
};

static void warn_variable(void *ctx, const char *name)
{
    struct teller *t = ctx;
    char text[256];

    snprintf(text, sizeof(text), "environment variable '%s' means nothing here", name);
    t->warn(t->ctx, text);
}

void config_warnings(const struct config *c, void (*warn)(void *ctx, const char *text), void *ctx)
{
    struct teller t = {warn, ctx};

    for (char **note = c->notes; note && *note; note++)
        warn(ctx, *note);
    environment_unknown(c, warn_variable, &t);
}

void config_fixed_changes(const struct config *old_, const struct config *new_,
                          void (*tell)(void *ctx, const char *what), void *ctx)
{
    char what[512];

    for (size_t i = 0; i < new_->value_count; i++) {
        const struct config_value *v = &new_->values[i];
        const struct config_value *was = values_find(old_, v->section, v->key->key);
        if ((v->key->flags & KEY_RELOAD) || !was || strcmp(was->text, v->text) == 0)
            continue;
        snprintf(what, sizeof(what), "[%s] %s", v->section, v->key->key);
        tell(ctx, what);
    }
}

static const struct config_value *value_for(const struct config *c, const char *section,
                                            const char *watch, const char *key)
{
    char *own = watch ? text_format("%s %s", section, watch) : NULL;
    const struct config_value *v = own ? values_find(c, own, key) : NULL;

    free(own);
    return v && v->level != LEVEL_DEFAULT ? v : values_find(c, section, key);
}

const char *config_text(const struct config *c, const char *section, const char *watch,
                        const char *key)
{
    const struct config_value *v = value_for(c, section, watch, key);

    return v ? v->text : "";
}

uint64_t config_number(const struct config *c, const char *section, const char *watch,
                       const char *key)
{
    const struct config_value *v = value_for(c, section, watch, key);

    return v ? config_key_number(v->key, v->text) : CONFIG_OFF;
}
