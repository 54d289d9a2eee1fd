#include "cli/commands.h"
#include "cli/output.h"
#include "cli/table.h"

#include "base/text.h"
#include "config/places.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/banned.h"

/* ---- show ---- */

static void show_row(void *ctx, const char *section, const char *key, const char *value,
                     const char *origin)
{
    char bracketed[300];

    snprintf(bracketed, sizeof(bracketed), "[%s]", section);
    table_cell(ctx, PAINT_NONE, bracketed);
    table_cell(ctx, PAINT_NONE, key);
    table_cell(ctx, PAINT_NONE, value);
    table_cell(ctx, PAINT_DIM, origin);
}

static void show_value(void *ctx, const char *section, const char *key, const char *value,
                       const char *origin)
{
    char *text = text_lossy_utf8(value, strlen(value));

    json_array_append_new(ctx, json_pack("{s:s,s:s,s:s*,s:s}", "section", section, "key", key,
                                         "value", text, "origin", origin));
    free(text);
}

static int show(struct cli *cli, struct error *e)
{
    static const char *const heads[] = {"SECTION", "KEY", "VALUE", "FROM"};
    const struct config *c = cli->config;

    if (cli->json) {
        json_t *values = json_array();
        config_show(c, show_value, values);
        return out_json(
            cli, json_pack("{s:i,s:s?,s:o}", "schema", 1, "file", c->file, "values", values), e);
    }
    struct table *t = table_new("llll", heads);
    config_show(c, show_row, t);
    int rc = table_print(t, cli, e);
    table_free(t);
    return rc;
}

/* ---- check ---- */

static int check_root(const struct config *c, const struct watch_config *w, struct error *e)
{
    char *section = text_format("watch %s", w->name);
    const char *origin = section ? config_origin(c, section, "path") : NULL;
    struct stat st;
    int rc = 0;

    if (stat(w->path, &st) != 0)
        rc = error_set(e, ERR_USAGE, "%s: path: there is no '%s'", origin ? origin : "", w->path);
    else if (!S_ISDIR(st.st_mode))
        rc = error_set(e, ERR_USAGE, "%s: path: '%s' is no folder", origin ? origin : "", w->path);
    free(section);
    return rc;
}

static void tell_own(const struct cli *cli, const struct watch_config *w, const char *what,
                     const char *path)
{
    if (place_inside(path, w->path))
        out_note(cli, "watch '%s' leaves out %s in it: '%s'", w->name, what, path);
}

static void warn(void *ctx, const char *text)
{
    out_note(ctx, "%s", text);
}

static int check(struct cli *cli, struct error *e)
{
    const struct config *c = cli->config;

    for (size_t i = 0; i < c->watch_count; i++) {
        int rc = check_root(c, &c->watches[i], e);
        if (rc != 0)
            return rc;
    }
    config_warnings(c, warn, cli);
    for (size_t i = 0; i < c->watch_count; i++) {
        const struct watch_config *w = &c->watches[i];
        tell_own(cli, w, "the repository", c->repository);
        if (!place_inside(c->archives, c->repository))
            tell_own(cli, w, "the archives", c->archives);
        if (!place_inside(c->socket, c->repository))
            tell_own(cli, w, "the socket", c->socket);
    }
    if (cli->json)
        return out_json(cli,
                        json_pack("{s:i,s:b,s:s?,s:I}", "schema", 1, "ok", true, "file", c->file,
                                  "watches", (json_int_t)c->watch_count),
                        e);
    if (!cli->quiet && c->file)
        printf("'%s' is good: %zu %s\n", c->file, c->watch_count,
               c->watch_count == 1 ? "watch" : "watches");
    else if (!cli->quiet)
        printf("there is no configuration file; the defaults and the environment are good\n");
    return 0;
}

static int run(struct cli *cli, struct error *e)
{
    const char *what = cli->operands[0];
    char quoted[100];

    if (strcmp(what, "check") != 0 && strcmp(what, "show") != 0)
        return error_set(e, ERR_USAGE, "unknown command 'config %s': there are check and show",
                         text_escape(what, quoted, sizeof(quoted)));
    int rc = cli_config(cli, e);
    if (rc != 0)
        return rc;
    return *what == 'c' ? check(cli, e) : show(cli, e);
}

const struct command command_config = {
    .name = "config",
    .operands = "check|show",
    .summary = "check the configuration, or show every value and where it comes from",
    .min_operands = 1,
    .max_operands = 1,
    .run = run,
};
