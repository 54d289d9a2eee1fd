#include "cli/commands.h"
#include "cli/output.h"
#include "cli/reach.h"

#include "keep/pin.h"
#include "snapshot/report.h"

#include <string.h>

#include "base/banned.h"

static bool pins(const struct cli *cli)
{
    return strcmp(cli->command->name, "pin") == 0;
}

static int pin_here(struct cli *cli, json_t **doc, struct error *e)
{
    struct repo *r = NULL;
    struct snapshot_row row;
    int rc = reach_write(cli, (unsigned)cli->wait_ms, &r, e);

    if (rc == 0)
        rc = pin_snapshot(r, r, cli->operands[0], cli->watch, pins(cli), &row, e);
    if (rc == 0) {
        *doc = report_pinned(&row, pins(cli));
        snapshot_row_release(&row);
    }
    repo_close(r);
    return rc;
}

static void tell(const struct cli *cli, const json_t *doc)
{
    printf("snapshot %llu of '%s' %s %s\n", (unsigned long long)json_count(doc, "snapshot"),
           json_text(doc, "watch"), json_flag(doc, "changed") ? "is now" : "was already",
           pins(cli) ? "pinned: it is never pruned" : "unpinned: it is pruned when its time comes");
}

static int run(struct cli *cli, struct error *e)
{
    json_t *request = json_pack("{s:s,s:o,s:s?}", "command", cli->command->name, "snapshot",
                                report_text(cli->operands[0]), "watch", cli->watch);
    json_t *doc = NULL;
    bool answered;
    int rc = reach_ask(cli, request, &doc, &answered, e);

    json_decref(request);
    if (!answered) {
        error_clear(e);
        rc = pin_here(cli, &doc, e);
    }
    if (rc != 0)
        return rc;
    if (cli->json)
        return out_json(cli, doc, e);
    if (!cli->quiet)
        tell(cli, doc);
    json_decref(doc);
    return 0;
}

const struct command command_pin = {
    .name = "pin",
    .operands = "SNAPSHOT",
    .summary = "keep a snapshot for ever",
    .min_operands = 1,
    .max_operands = 1,
    .about = "A pinned snapshot is never pruned. What is saved with a name is pinned by that.",
    .run = run,
};

const struct command command_unpin = {
    .name = "unpin",
    .operands = "SNAPSHOT",
    .summary = "let a pinned or named snapshot be pruned when its time comes",
    .min_operands = 1,
    .max_operands = 1,
    .run = run,
};
