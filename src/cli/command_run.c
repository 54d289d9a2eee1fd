#include "cli/commands.h"
#include "cli/output.h"
#include "cli/snapshot_text.h"

#include "base/clock.h"
#include "base/log.h"
#include "service/service.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

static struct config_flags flags_of(const struct cli *cli)
{
    return (struct config_flags){
        .file = cli->config_file,
        .repository = cli->repository,
        .paths = cli->operand_count ? (const char *const *)cli->operands : NULL,
    };
}

/* -v over the configuration; in a terminal's foreground the snapshots themselves are the news. */
static void set_log_level(const struct cli *cli, struct config *c)
{
    const char *origin = config_origin(c, "service", "log_level");

    if (cli->verbose)
        c->log_level = cli->verbose > 1 ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO;
    else if (cli->quiet)
        c->log_level = LOG_LEVEL_ERROR;
    else if (cli->operand_count && origin && strcmp(origin, "default") == 0)
        c->log_level = LOG_LEVEL_WARN;
}

static struct config *load(const struct cli *cli, struct error *e)
{
    struct config_flags flags = flags_of(cli);
    struct config *c = NULL;

    if (config_load(&flags, &c, e) == 0)
        set_log_level(cli, c);
    return c;
}

static struct config *reload(void *ctx, struct error *e)
{
    return load(ctx, e);
}

/* The command as people may paste it: by name where it was called by name. */
static void program_text(char *out, size_t cap)
{
    ssize_t n =
        strchr(program_invocation_name, '/') ? readlink("/proc/self/exe", out, cap - 1) : -1;

    if (n > 0)
        out[n] = 0;
    else
        snprintf(out, cap, "watchkeep");
}

static void tell_watches(void *ctx, const struct config *c)
{
    struct error ignored = ERROR_INIT;
    char program[4096];

    program_text(program, sizeof(program));
    printf("repository '%s'\n", c->repository);
    for (size_t i = 0; i < c->watch_count; i++) {
        const struct watch_config *w = &c->watches[i];
        printf("watching '%s' as '%s'\n"
               "  its snapshots:  %s -r '%s' list %s\n"
               "  bring it back:  %s -r '%s' -w %s restore latest --to '%s-restored'\n",
               w->path, w->name, program, c->repository, w->name, program, c->repository, w->name,
               strcmp(w->path, "/") == 0 ? "/root" : w->path);
    }
    out_finish(&ignored); /* the service goes on without anybody who reads */
}

static void saved(void *ctx, const char *watch, const char *json)
{
    struct cli *cli = ctx;
    json_t *line = json_loads(json, 0, NULL);
    struct error ignored = ERROR_INIT;
    char time[32];

    if (cli->json) {
        out_json(cli, line, &ignored);
        out_finish(&ignored);
        return;
    }
    time_local(clock_wall().s, time, sizeof(time));
    printf("%s  ", time);
    print_saved(cli, line, watch);
    out_finish(&ignored);
    json_decref(line);
}

static void warn(void *ctx, const char *text)
{
    log_warn("%s", text);
}

/* A folder named on the command line must be there now; a configured one may come later. */
static int check_folders(const struct cli *cli, const struct config *c, struct error *e)
{
    for (size_t i = 0; cli->operand_count > 0 && i < c->watch_count; i++) {
        const char *path = c->watches[i].path;
        struct stat st;
        if (stat(path, &st) != 0)
            return error_sys(e, errno, "cannot watch '%s'", path);
        if (!S_ISDIR(st.st_mode))
            return error_sys(e, ENOTDIR, "cannot watch '%s'", path);
        if (access(path, R_OK | X_OK) != 0)
            return error_sys(e, errno, "cannot watch '%s'", path);
    }
    return 0;
}

/* config is taken over. */
static int serve(struct cli *cli, struct config *c, struct error *e)
{
    const char *paths = getenv("WATCHKEEP_PATHS");
    bool tell = cli->operand_count > 0 && !cli->quiet;
    struct service_options opt = {
        .config = c,
        .reload = reload,
        .started = tell && !cli->json ? tell_watches : NULL,
        .saved = tell ? saved : NULL,
        .ctx = cli,
        .may_init = cli->operand_count > 0 || (paths && *paths),
    };

    log_setup(c->log_level, c->log_format);
    config_warnings(c, warn, NULL);
    return service_run(&opt, e);
}

static int run(struct cli *cli, struct error *e)
{
    struct config *c = load(cli, e);

    if (!c)
        return e->code;
    int rc = check_folders(cli, c, e);
    if (rc == 0 && c->watch_count == 0)
        rc =
            error_set(e, ERR_USAGE, "nothing to watch: name a folder, or configure a [watch NAME]");
    if (rc == 0)
        return serve(cli, c, e);
    config_free(c);
    return rc;
}

const struct command command_run = {
    .name = "run",
    .operands = "[[NAME=]PATH...]",
    .summary = "the service, in the foreground",
    .max_operands = -1,
    .about =
        "With PATHs it watches those, needs no configuration file, and tells each snapshot as\n"
        "it is made. SIGTERM and SIGINT save what is unsaved and end it; SIGHUP reads the\n"
        "configuration again.",
    .run = run,
};
