#include "service/specs.h"

#include "base/string_list.h"
#include "snapshot/rules.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static bool add_own_path(struct watch_spec_owned *s, const char *path)
{
    return string_list_add(&s->own_paths, path, strlen(path));
}

/* The archives of any watch may lie in this one. */
static bool add_own_paths(const struct config *c, struct watch_spec_owned *s)
{
    bool ok = add_own_path(s, c->repository) && add_own_path(s, c->archives) &&
              add_own_path(s, c->socket);

    for (size_t i = 0; ok && i < c->watch_count; i++) {
        const char *path = config_text(c, "archive", c->watches[i].name, "path");
        if (strcmp(path, c->archives) != 0)
            ok = add_own_path(s, path);
    }
    return ok;
}

static int finish(struct watch_spec_owned *s, bool sqlite, bool kept, struct error *e)
{
    s->spec = (struct watch_spec){
        .name = s->name,
        .root = s->root,
        .include = (const char *const *)s->include,
        .exclude = (const char *const *)s->exclude,
        .sqlite = sqlite,
        .own_paths = (const char *const *)s->own_paths,
    };
    return kept && s->name && s->root ? 0 : error_sys(e, ENOMEM, "cannot set up a watch");
}

int specs_build(const struct watch_config *w, const struct config *c, struct watch_spec_owned *out,
                struct error *e)
{
    *out = (struct watch_spec_owned){.name = strdup(w->name), .root = strdup(w->path)};
    bool kept = string_list_add_all(&out->include, w->include) &&
                string_list_add_all(&out->exclude, w->exclude) && add_own_paths(c, out);
    return finish(out, w->sqlite, kept, e);
}

/* Of rules as rules_text writes them: a line "include P" or "exclude P" each. */
static bool take_rules(const char *text, struct watch_spec_owned *s)
{
    static const char include[] = "include ", exclude[] = "exclude ";
    const size_t word = sizeof(include) - 1;
    bool kept = true;

    for (const char *line = text ? text : ""; kept && *line; line += *line == '\n') {
        size_t len = strcspn(line, "\n");
        if (len > word && memcmp(line, include, word) == 0)
            kept = string_list_add(&s->include, line + word, len - word);
        else if (len > word && memcmp(line, exclude, word) == 0)
            kept = string_list_add(&s->exclude, line + word, len - word);
        line += len;
    }
    return kept;
}

int specs_from_row(const struct watch_row *row, const struct config *c,
                   struct watch_spec_owned *out, struct error *e)
{
    *out = (struct watch_spec_owned){.name = strdup(row->name), .root = strdup(row->root)};
    bool kept = take_rules(row->rules, out) && add_own_paths(c, out);
    return finish(out, !rules_text_sqlite_off(row->rules), kept, e);
}

void specs_release(struct watch_spec_owned *s)
{
    free(s->name);
    free(s->root);
    string_list_free(s->include);
    string_list_free(s->exclude);
    string_list_free(s->own_paths);
    *s = (struct watch_spec_owned){0};
}
