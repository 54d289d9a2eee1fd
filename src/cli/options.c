#include "cli/options.h"

#include "base/parse.h"
#include "base/text.h"

#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/banned.h"

enum { WAIT_MS = 30000, LONG_FLAGS_MAX = 32, OWN_BASE = 1000 };

static const struct command_flag global_flags[] = {
    {"config", 'c', "FILE", "the configuration file"},
    {"repository", 'r', "REPO", "the repository"},
    {"watch", 'w', "WATCH", "which watch is meant"},
    {"json", 0, NULL, "output for programs"},
    {"quiet", 'q', NULL, "only errors"},
    {"verbose", 'v', NULL, "say more; twice: still more"},
    {"no-progress", 0, NULL, "no progress bar"},
    {"color", 0, "auto|always|never", "colour (default: auto)"},
    {"wait", 0, "TIME", "how long to wait for a busy repository or a silent service (30s)"},
    {"version", 0, NULL, "the version"},
    {"help", 'h', NULL, "this help"},
    {NULL, 0, NULL, NULL},
};

enum global {
    FLAG_CONFIG,
    FLAG_REPOSITORY,
    FLAG_WATCH,
    FLAG_JSON,
    FLAG_QUIET,
    FLAG_VERBOSE,
    FLAG_NO_PROGRESS,
    FLAG_COLOR,
    FLAG_WAIT,
    FLAG_VERSION,
    FLAG_HELP
};

struct parser {
    struct cli *cli;
    struct option longs[LONG_FLAGS_MAX];
    char shorts[2 * LONG_FLAGS_MAX + 3];
    size_t count;
    bool help, version;
};

static void add_flag(struct parser *p, const struct command_flag *f, int id)
{
    size_t len = strlen(p->shorts);

    p->longs[p->count++] =
        (struct option){f->name, f->value ? required_argument : no_argument, NULL, id};
    p->longs[p->count] = (struct option){0};
    if (f->letter)
        snprintf(p->shorts + len, sizeof(p->shorts) - len, "%c%s", f->letter, f->value ? ":" : "");
}

/* mode: "+" stops at the first operand, "" lets flags and operands mix. */
static void set_up(struct parser *p, const char *mode, const struct command *command)
{
    p->count = 0;
    snprintf(p->shorts, sizeof(p->shorts), "%s:", mode);
    for (int i = 0; global_flags[i].name; i++)
        add_flag(p, &global_flags[i], i);
    for (int i = 0; command && command->flags && command->flags[i].name; i++)
        add_flag(p, &command->flags[i], OWN_BASE + i);
}

static int set_color(struct cli *cli, const char *value, struct error *e)
{
    static const char *const modes[] = {"auto", "always", "never"};
    char quoted[64];

    for (int i = 0; i < 3; i++) {
        if (strcmp(value, modes[i]) == 0) {
            cli->color = (enum color_mode)i;
            return 0;
        }
    }
    return error_set(e, ERR_USAGE, "'%s' is not auto, always or never",
                     text_escape(value, quoted, sizeof(quoted)));
}

static int set_global(struct parser *p, int id, struct error *e)
{
    struct cli *cli = p->cli;

    switch ((enum global)id) {
    case FLAG_CONFIG:
        if (!*optarg)
            return error_set(e, ERR_USAGE, "'-c' names no file");
        cli->config_file = optarg;
        break;
    case FLAG_REPOSITORY:
        if (!*optarg)
            return error_set(e, ERR_USAGE, "'-r' names no repository");
        cli->repository = optarg;
        break;
    case FLAG_WATCH:
        if (!*optarg)
            return error_set(e, ERR_USAGE, "'-w' names no watch");
        cli->watch = optarg;
        break;
    case FLAG_JSON:
        cli->json = true;
        break;
    case FLAG_QUIET:
        cli->quiet = true;
        break;
    case FLAG_VERBOSE:
        cli->verbose++;
        break;
    case FLAG_NO_PROGRESS:
        cli->no_progress = true;
        break;
    case FLAG_COLOR:
        return set_color(cli, optarg, e);
    case FLAG_WAIT:
        return parse_duration(optarg, &cli->wait_ms, e);
    case FLAG_VERSION:
        p->version = true;
        break;
    case FLAG_HELP:
        p->help = true;
        break;
    }
    return 0;
}

static int unknown_flag(const struct cli *cli, const char *dash, const char *flag, struct error *e)
{
    const char *command = cli->command ? cli->command->name : "";

    return error_set(e, ERR_USAGE, "unknown flag '%s%s': see watchkeep %s%s--help", dash, flag,
                     command, *command ? " " : "");
}

static int refused(const struct cli *cli, char *const *argv, int result, struct error *e)
{
    char quoted[200], letter[2] = {(char)optopt, 0};
    const char *token = optind > 0 ? argv[optind - 1] : "";
    bool is_long = optopt == 0 || optopt >= OWN_BASE || strncmp(token, "--", 2) == 0;

    text_escape(is_long ? token : letter, quoted, sizeof(quoted));
    if (result == ':')
        return error_set(e, ERR_USAGE, "flag '%s%s' needs a value", is_long ? "" : "-", quoted);
    if (is_long && strchr(token, '=') && optopt != 0)
        return error_set(e, ERR_USAGE, "flag '%s' takes no value", quoted);
    return unknown_flag(cli, is_long ? "" : "-", quoted, e);
}

/* getopt_long takes any beginning of a flag's name; ours are to be written out, so that a new flag
 * never changes what an old script means. */
static bool written_out(const char *name, char *const *argv)
{
    size_t len = strlen(name);

    for (int i = optind - 1; i >= optind - 2 && i >= 0; i--) {
        const char *token = argv[i];
        if (strncmp(token, "--", 2) == 0 && strncmp(token + 2, name, len) == 0 &&
            (token[2 + len] == 0 || token[2 + len] == '='))
            return true;
    }
    return false;
}

/* What getopt_long gave -> a global flag's number, or OWN_BASE and more for the command's own. */
static int flag_number(const struct cli *cli, int given)
{
    const struct command_flag *own = cli->command ? cli->command->flags : NULL;

    if (given <= FLAG_HELP || given >= OWN_BASE)
        return given;
    for (int i = 0; global_flags[i].name; i++) {
        if (global_flags[i].letter == given)
            return i;
    }
    for (int i = 0; own && own[i].name; i++) {
        if (own[i].letter == given)
            return OWN_BASE + i;
    }
    return given;
}

static int take_own(struct cli *cli, int own, struct error *e)
{
    const struct command_flag *f = &cli->command->flags[own];
    size_t n = 0;

    cli->given[own] = optarg ? optarg : "";
    if (!cli->command->repeats || strcmp(cli->command->repeats, f->name) != 0)
        return 0;
    while (cli->repeated[n])
        n++;
    if (n == REPEATED_MAX)
        return error_set(e, ERR_USAGE, "'--%s' is given more than %d times", f->name, REPEATED_MAX);
    cli->repeated[n] = cli->given[own];
    return 0;
}

static int take_flags(struct parser *p, int argc, char **argv, struct error *e)
{
    char quoted[200];
    int given, index = -1;

    optind = 0;
    opterr = 0;
    while ((given = getopt_long(argc, argv, p->shorts, p->longs, &index)) != -1) {
        if (given == '?' || given == ':')
            return refused(p->cli, argv, given, e);
        if (index >= 0 && !written_out(p->longs[index].name, argv)) {
            const char *token = argv[optind - (optarg == argv[optind - 1] ? 2 : 1)];
            return unknown_flag(p->cli, "", text_escape(token, quoted, sizeof(quoted)), e);
        }
        index = -1;
        int number = flag_number(p->cli, given);
        int rc =
            number >= OWN_BASE ? take_own(p->cli, number - OWN_BASE, e) : set_global(p, number, e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static const struct command *find_command(const struct command *const *commands, const char *name)
{
    for (; *commands; commands++) {
        if (strcmp((*commands)->name, name) == 0)
            return *commands;
    }
    return NULL;
}

static int unknown_command(const char *name, struct error *e)
{
    char quoted[100];

    return error_set(e, ERR_USAGE, "unknown command '%s': see watchkeep --help",
                     text_escape(name, quoted, sizeof(quoted)));
}

static int check_operands(const struct cli *cli, struct error *e)
{
    const struct command *c = cli->command;
    char quoted[200];

    if (cli->operand_count < c->min_operands)
        return error_set(e, ERR_USAGE, "'%s' needs more: watchkeep %s %s", c->name, c->name,
                         c->operands);
    if (c->max_operands >= 0 && cli->operand_count > c->max_operands)
        return error_set(e, ERR_USAGE, "'%s' is one too many: watchkeep %s%s%s",
                         text_escape(cli->operands[c->max_operands], quoted, sizeof(quoted)),
                         c->name, *c->operands ? " " : "", c->operands);
    return 0;
}

/* `help COMMAND` is `COMMAND --help`. */
static int take_help(struct parser *p, const struct command *const *commands, int argc, char **argv,
                     struct error *e)
{
    if (argc > 1 && *argv[1] != '-') {
        p->cli->command = find_command(commands, argv[1]);
        if (!p->cli->command)
            return unknown_command(argv[1], e);
    }
    return OPTIONS_HELP;
}

int options_parse(struct cli *cli, const struct command *const *commands, int argc, char **argv,
                  struct error *e)
{
    struct parser p = {.cli = cli};
    int rc;

    cli->wait_ms = WAIT_MS;
    set_up(&p, "+", NULL);
    rc = take_flags(&p, argc, argv, e);
    if (rc != 0)
        return rc;
    if (p.version || p.help)
        return p.version ? OPTIONS_VERSION : OPTIONS_HELP;
    argc -= optind;
    argv += optind;
    if (argc == 0)
        return error_set(e, ERR_USAGE, "no command given: see watchkeep --help");
    if (strcmp(argv[0], "help") == 0)
        return take_help(&p, commands, argc, argv, e);
    cli->command = find_command(commands, argv[0]);
    if (!cli->command)
        return unknown_command(argv[0], e);
    set_up(&p, "", cli->command);
    rc = take_flags(&p, argc, argv, e);
    if (rc != 0)
        return rc;
    cli->operand_count = argc - optind;
    cli->operands = argv + optind;
    if (p.version || p.help)
        return p.version ? OPTIONS_VERSION : OPTIONS_HELP;
    return check_operands(cli, e);
}

static void print_flags(const struct command_flag *flags)
{
    for (const struct command_flag *f = flags; f && f->name; f++) {
        char left[64], letter[8] = "    ";
        if (f->letter)
            snprintf(letter, sizeof(letter), "-%c, ", f->letter);
        snprintf(left, sizeof(left), "%s--%s%s%s", letter, f->name, f->value ? " " : "",
                 f->value ? f->value : "");
        printf("  %-32s  %s\n", left, f->help);
    }
}

void options_help(const struct command *const *commands, const struct command *command)
{
    if (command) {
        printf("usage: watchkeep [flags] %s%s%s\n\n%s\n", command->name,
               *command->operands ? " " : "", command->operands, command->summary);
        if (command->about)
            printf("\n%s\n", command->about);
        if (command->flags)
            printf("\nflags:\n");
        print_flags(command->flags);
        printf("\nflags of all commands:\n");
        print_flags(global_flags);
        return;
    }
    printf("usage: watchkeep [flags] COMMAND ...\n\n"
           "Keeps every saved state of the folders it watches, and brings any of them back.\n\n"
           "commands:\n");
    for (; *commands; commands++)
        printf("  %-10s %s\n", (*commands)->name, (*commands)->summary);
    printf("\nflags, before or after the command:\n");
    print_flags(global_flags);
    printf("\n'watchkeep help COMMAND' tells more. A SNAPSHOT is a number, a name, latest,\n"
           "latest~N, good, good~N or @TIME.\n");
}
