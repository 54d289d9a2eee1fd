#include "cli/save_target.h"

#include "cli/reach.h"
#include "config/places.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/banned.h"

static bool is_path(const char *arg)
{
    return strpbrk(arg, "/=") || strcmp(arg, ".") == 0 || strcmp(arg, "..") == 0;
}

/* Certainly not: the repository could be read and has no such watch. */
static bool not_on_record(struct cli *cli, const char *name)
{
    struct error why = ERROR_INIT;
    struct watch_row row = {0};
    struct repo *r = NULL;
    bool readable = reach_read(cli, &r, &why) == 0;
    int rc = readable ? catalog_watch_by_name(repo_catalog(r), name, &row, &why) : 0;

    if (readable && rc == 0)
        watch_row_release(&row);
    repo_close(r);
    return rc == ERR_NOTFOUND;
}

static bool is_folder(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int add(struct save_targets *t, char *name, char *path, struct error *e)
{
    for (size_t i = 0; i < t->count; i++) {
        if (strcmp(t->list[i].name, name) != 0)
            continue;
        error_set(e, ERR_USAGE,
                  "two watches would be named '%s': give one of them another name with NAME=PATH",
                  name);
        goto failed;
    }
    struct save_target *grown = realloc(t->list, (t->count + 1) * sizeof(*grown));
    if (!grown) {
        error_sys(e, ENOMEM, "cannot save");
        goto failed;
    }
    t->list = grown;
    grown[t->count++] = (struct save_target){name, path};
    return 0;

failed:
    free(name);
    free(path);
    return e->code;
}

static int take(struct cli *cli, struct save_targets *t, const char *arg, struct error *e)
{
    char *name, *path;

    if (!*arg)
        return error_set(e, ERR_USAGE, "'' names neither a watch nor a folder");
    bool is_name = !is_path(arg) &&
                   (config_watch(cli->config, arg) || !is_folder(arg) || !not_on_record(cli, arg));
    if (is_name) {
        name = strdup(arg);
        return name ? add(t, name, NULL, e) : error_sys(e, ENOMEM, "cannot save");
    }
    int rc = config_split_watch(arg, &name, &path, e);
    if (rc != 0)
        return rc;
    if (place_inside(path, cli->config->repository)) {
        rc = error_set(e, ERR_USAGE, "'%s' lies inside the repository '%s'", path,
                       cli->config->repository);
        free(name);
        free(path);
        return rc;
    }
    return add(t, name, path, e);
}

int save_targets_take(struct cli *cli, struct save_targets *out, struct error *e)
{
    int rc = cli_config(cli, e);

    *out = (struct save_targets){0};
    if (rc == 0 && cli->watch && cli->operand_count == 0)
        rc = take(cli, out, cli->watch, e);
    else if (rc == 0 && cli->watch)
        rc = error_set(e, ERR_USAGE, "'-w' and further watches exclude each other");
    for (int i = 0; rc == 0 && i < cli->operand_count; i++)
        rc = take(cli, out, cli->operands[i], e);
    return rc;
}

void save_targets_release(struct save_targets *t)
{
    for (size_t i = 0; i < t->count; i++) {
        free(t->list[i].name);
        free(t->list[i].path);
    }
    free(t->list);
    *t = (struct save_targets){0};
}
