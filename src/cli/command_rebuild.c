#include "cli/commands.h"
#include "cli/output.h"
#include "cli/reach.h"

#include "base/banned.h"

static int rebuild_here(struct cli *cli, struct error *e)
{
    struct repo *r = NULL;
    int rc = reach_rebuild(cli, &r, e);

    if (rc == 0)
        rc = repo_rebuild(r, e);
    repo_close(r);
    return rc;
}

static int run(struct cli *cli, struct error *e)
{
    json_t *request = json_pack("{s:s}", "command", "rebuild");
    json_t *doc = NULL;
    int rc =
        request ? reach_document(cli, request, &doc, e) : error_set(e, ERR_FAILED, "no memory");

    json_decref(request);
    json_decref(doc);
    if (rc == ERR_NOTFOUND) {
        error_clear(e);
        rc = rebuild_here(cli, e);
    }
    if (rc != 0)
        return rc;
    if (cli->json)
        return out_json(cli, json_pack("{s:i,s:b}", "schema", 1, "rebuilt", true), e);
    if (!cli->quiet)
        printf("the catalog is made anew\n");
    return 0;
}

const struct command command_rebuild = {
    .name = "rebuild",
    .operands = "",
    .summary = "make the catalog anew from the packs",
    .run = run,
};
