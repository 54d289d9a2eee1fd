#include "cli/commands.h"
#include "cli/output.h"
#include "cli/reach.h"

#include "base/banned.h"

/* So that the first reader finds one. */
static int make_catalog(struct cli *cli, struct error *e)
{
    struct repo *r = NULL;
    int rc = reach_write(cli, (unsigned)cli->wait_ms, &r, e);

    repo_close(r);
    return rc;
}

static int run(struct cli *cli, struct error *e)
{
    const char *path;
    int rc = reach_place(cli, &path, e);
    int made = rc == 0 ? repo_init(path, e) : rc;

    if (made < 0)
        return made;
    rc = made == 0 ? make_catalog(cli, e) : 0;
    if (rc != 0)
        return rc;
    if (cli->json)
        return out_json(
            cli, json_pack("{s:i,s:s,s:b}", "schema", 1, "repository", path, "created", made == 0),
            e);
    if (!cli->quiet)
        printf(made == 0 ? "made a repository at '%s'\n"
                         : "there is a repository at '%s' already\n",
               path);
    return 0;
}

const struct command command_init = {
    .name = "init",
    .operands = "",
    .summary = "make a repository",
    .about = "On an existing one it says so and does nothing.",
    .run = run,
};
