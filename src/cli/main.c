/* Where the program begins and ends: the only place that turns an error into text and an exit. */
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/output.h"

#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

static const struct command *const commands[] = {
    &command_init,    &command_run,     &command_save,
    &command_archive, &command_list,    &command_show,
    &command_ls,      &command_cat,     &command_diff,
    &command_history, &command_restore, &command_undo,
    &command_heal,    &command_verify,  &command_pin,
    &command_unpin,   &command_prune,   &command_status,
    &command_config,  &command_rebuild, NULL};

int cli_config(struct cli *cli, struct error *e)
{
    struct config_flags flags = {.file = cli->config_file, .repository = cli->repository};

    return cli->config ? 0 : config_load(&flags, &cli->config, e);
}

/* A file opened later must not become our standard output; nor does one that is closed take what is
 * written to it. */
static void hold_standard_descriptors(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDONLY);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd > STDERR_FILENO)
        close(fd);
}

/* Broken pipes and file size limits are errors of the call that meets them. */
static void ignore_signals(void)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};

    sigemptyset(&ignore.sa_mask);
    sigaction(SIGPIPE, &ignore, NULL);
    sigaction(SIGXFSZ, &ignore, NULL);
}

/* Widths of characters need some UTF-8 locale; the language stays the user's own. */
static void set_locale(void)
{
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8");
}

/* A wrong command line may be told before "--json" on it was reached. */
static bool asks_for_json(int argc, char *const *argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--json") == 0)
            return true;
    }
    return false;
}

static int finish(struct cli *cli, int code, struct error *e)
{
    struct error writing = ERROR_INIT;

    if (code < 0) {
        if (e->sys != EPIPE) /* who does not read on knows it */
            out_error(cli, e);
        code = error_exit_code(code);
        if (code == 130 && interrupt_exit_code())
            code = interrupt_exit_code();
    }
    if (cli->command && cli->command->lines)
        out_failed_summary(cli, code);
    if (out_finish(&writing) != 0) {
        if (e->code != ERR_FAILED && writing.sys != EPIPE)
            out_error(cli, &writing);
        code = error_worse_exit(code, 1);
    }
    return code;
}

/* A command that the catalog failed is run once more without it: nothing of an answer is written
 * before all of it is there, but for content, which goes on where it stopped. */
static int run_command(struct cli *cli, struct error *e)
{
    int rc = cli->command->run(cli, e);

    if (rc != ERR_CATALOG)
        return rc;
    error_clear(e);
    cli->distrust = true;
    return cli->command->run(cli, e);
}

static int run(struct cli *cli, int argc, char **argv, struct error *e)
{
    int what;

    cli->json = asks_for_json(argc, argv);
    what = options_parse(cli, commands, argc, argv, e);
    switch (what) {
    case OPTIONS_RUN:
        log_setup(cli->verbose > 1 ? LOG_LEVEL_DEBUG
                  : cli->verbose   ? LOG_LEVEL_INFO
                                   : LOG_LEVEL_WARN,
                  LOG_FORMAT_TEXT);
        return run_command(cli, e);
    case OPTIONS_HELP:
        options_help(commands, cli->command);
        cli->command = NULL;
        return 0;
    case OPTIONS_VERSION:
        printf("watchkeep %s\n", WK_VERSION);
        cli->command = NULL;
        return 0;
    default:
        return what;
    }
}

int main(int argc, char **argv)
{
    struct cli cli = {0};
    struct error e = ERROR_INIT;
    int code;

    hold_standard_descriptors();
    ignore_signals();
    set_locale();
    code = run(&cli, argc, argv, &e);
    code = finish(&cli, code, &e);
    config_free(cli.config);
    return code;
}
