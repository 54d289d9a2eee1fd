#include "cli/archive_source.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/reach.h"

#include "base/text.h"
#include "keep/archive_read.h"
#include "service/proof.h"
#include "snapshot/report.h"
#include "snapshot/selector.h"
#include "snapshot/verify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { QUICK, FULL, RESTORE_TEST };
static const struct command_flag flags[] = {
    {"quick", 0, NULL, "lengths, framing and order of all records"},
    {"full", 0, NULL,
     "every stored byte, read from the disk; of snapshots also what was verified before"},
    {"restore-test", 0, NULL,
     "restore into a scratch folder and compare; without snapshots the latest of every watch"},
    {NULL, 0, NULL, NULL},
};

/* ---- telling ---- */

static void print_damage(const json_t *d)
{
    const json_t *all = json_object_get(d, "snapshots");
    bool named = json_is_string(json_object_get(d, "pack")) ||
                 json_is_string(json_object_get(d, "path")) || json_array_size(all) > 0;
    char path[4200];
    size_t i;
    json_t *n;

    printf(json_is_true(json_object_get(d, "unreadable")) ? "unreadable:" : "damaged:");
    if (json_is_string(json_object_get(d, "pack")))
        printf(" pack '%s'", json_text(d, "pack"));
    if (json_is_string(json_object_get(d, "path")))
        printf(" path '%s'", text_escape(json_text(d, "path"), path, sizeof(path)));
    if (json_array_size(all) > 0)
        printf(" snapshots");
    json_array_foreach(all, i, n)
        printf("%s %llu", i ? "," : "", (unsigned long long)json_integer_value(n));
    printf("%s %s\n", named ? ":" : "", json_text(d, "reason"));
}

/* Records of the log that no snapshot is missing: marks, and what newer ones stand for. */
static bool is_in_log_alone(const json_t *damaged)
{
    static const char log[] = "0-log-";
    size_t i;
    json_t *d;

    json_array_foreach(damaged, i, d)
    {
        if (json_array_size(json_object_get(d, "snapshots")) > 0 ||
            !json_is_string(json_object_get(d, "pack")) ||
            strncmp(json_text(d, "pack"), log, sizeof(log) - 1) != 0)
            return false;
    }
    return json_array_size(damaged) > 0;
}

static void advise(struct cli *cli, const json_t *summary)
{
    if (is_in_log_alone(json_object_get(summary, "damaged")))
        out_note(cli,
                 "no snapshot that is listed needs what is damaged: it goes with its pack, by "
                 "itself, when a checkpoint stands for the log and little of the pack is needed; "
                 "until then it is told, and the catalog has what it said (a pin, an event) unless "
                 "it is made anew: do not rebuild without bringing the pack back from a copy");
}

static int tell(struct cli *cli, const json_t *summary, struct error *e)
{
    uint64_t errors = json_count(summary, "errors");
    uint64_t snapshots = json_count(summary, "snapshots");
    char size[24];
    size_t i;
    json_t *d;

    if (cli->json) {
        int rc = out_json(cli, json_deep_copy(summary), e);
        if (rc != 0)
            return rc;
    } else {
        json_array_foreach(json_object_get(summary, "damaged"), i, d) print_damage(d);
        advise(cli, summary);
        if (!cli->quiet && errors == 0 && cli->given[RESTORE_TEST])
            printf("%llu %s came back as saved: %s restored (%.3f s)\n",
                   (unsigned long long)snapshots, snapshots == 1 ? "snapshot" : "snapshots",
                   size_text(json_count(summary, "bytes"), size, sizeof(size)),
                   json_number_value(json_object_get(summary, "seconds")));
        else if (!cli->quiet && errors == 0)
            printf("no damage: %llu %s, %llu chunks, %s read (%.3f s)\n",
                   (unsigned long long)snapshots, snapshots == 1 ? "snapshot" : "snapshots",
                   (unsigned long long)json_count(summary, "chunks"),
                   size_text(json_count(summary, "bytes"), size, sizeof(size)),
                   json_number_value(json_object_get(summary, "seconds")));
    }
    if (errors == 0)
        return (int)json_integer_value(json_object_get(summary, "exit"));
    return error_set(e, ERR_DAMAGED, "verification found damage (%llu %s)",
                     (unsigned long long)errors, errors == 1 ? "error" : "errors");
}

/* ---- through the service ---- */

struct through {
    struct cli *cli;
    struct verify_progress progress;
    json_t *summary;
    bool answered;
};

static int take_line(void *ctx, const json_t *line, struct error *e)
{
    struct through *t = ctx;
    const char *type = json_text(line, "type");

    t->answered = true;
    if (strcmp(type, "progress") == 0) {
        t->progress.bytes_done = json_count(line, "bytes");
        t->progress.bytes_total = json_count(line, "bytes_total");
    } else if (take_error_line(line, e)) {
        return e->code;
    } else if (strcmp(type, "summary") == 0) {
        json_decref(t->summary);
        t->summary = json_deep_copy(line);
    }
    return 0;
}

static void read_progress(void *ctx, struct progress_view *v)
{
    struct verify_progress *p = ctx;

    v->bytes = p->bytes_done;
    v->bytes_total = p->bytes_total;
}

static const char *level_word(const struct cli *cli)
{
    if (cli->given[RESTORE_TEST])
        return "restore-test";
    return cli->given[QUICK] ? "quick" : cli->given[FULL] ? "full" : "new";
}

static json_t *request_of(const struct cli *cli)
{
    json_t *snapshots = json_array();

    for (int i = 0; i < cli->operand_count; i++)
        json_array_append_new(snapshots, report_text(cli->operands[i]));
    return json_pack("{s:s,s:s,s:o,s:s?,s:b}", "command", "verify", "level", level_word(cli),
                     "snapshots", snapshots, "watch", cli->watch, "progress", progress_wanted(cli));
}

/* *answered: something listened there. */
static int verify_there(struct cli *cli, const char *socket, bool *answered, struct error *e)
{
    struct through t = {.cli = cli};
    json_t *request = request_of(cli);
    int rc;

    interrupt_watch();
    interrupt_at_once(true, cli->json, NULL);
    struct progress *bar = progress_start(cli, "verifying", read_progress, &t.progress);
    rc = request ? client_request(socket, request, cli->wait_ms, take_line, &t, e)
                 : error_sys(e, ENOMEM, "cannot ask the service");
    progress_stop(bar);
    interrupt_at_once(false, false, NULL);
    json_decref(request);
    if (rc == 0)
        rc = t.summary ? tell(cli, t.summary, e)
                       : error_set(e, ERR_FAILED, "the service gave no answer");
    json_decref(t.summary);
    *answered = rc != ERR_NOTFOUND || t.answered;
    return rc;
}

/* ---- here ---- */

/* For writing, so that the result can be recorded; else for reading. */
static int open_to_verify(struct cli *cli, struct repo **r, bool *record, struct error *e)
{
    struct error why = ERROR_INIT;
    int rc = reach_write(cli, 0, r, &why);

    *record = rc == 0;
    if (rc == 0)
        return 0;
    rc = reach_read(cli, r, e);
    if (rc == 0)
        out_note(cli, "the result will not be recorded: %s", why.message);
    return rc;
}

static int resolve_all(const struct cli *cli, struct repo *r, uint64_t **numbers, struct error *e)
{
    int rc = 0;

    *numbers = calloc((size_t)cli->operand_count + 1, sizeof(**numbers));
    if (!*numbers)
        return error_sys(e, ENOMEM, "cannot verify");
    for (int i = 0; rc == 0 && i < cli->operand_count; i++) {
        struct snapshot_row s = {0};
        rc = selector_resolve(r, cli->operands[i], cli->watch, &s, NULL, e);
        (*numbers)[i] = s.commit.number;
        snapshot_row_release(&s);
    }
    return rc;
}

static int verify_with(struct cli *cli, struct repo *r, bool record, struct error *e)
{
    struct verify_progress progress = {0};
    struct verify_result result = {0};
    uint64_t *numbers = NULL;
    int rc = resolve_all(cli, r, &numbers, e);

    if (rc == 0 && cli->given[RESTORE_TEST]) {
        const struct proof_request proof = {.reader = r,
                                            .writer = record ? r : NULL,
                                            .watch = cli->watch,
                                            .snapshots = numbers,
                                            .count = (size_t)cli->operand_count,
                                            .cancel = interrupt_watch()};
        rc = proof_restore_all(&proof, &result, e);
    } else if (rc == 0) {
        struct verify_request request = {
            .repo = r,
            .level = cli->given[QUICK] ? VERIFY_QUICK : VERIFY_FULL,
            .snapshots = cli->operand_count ? numbers : NULL,
            .count = (size_t)cli->operand_count,
            .again = cli->given[FULL],
            .record = record,
            .progress = &progress,
            .cancel = interrupt_watch(),
        };
        struct progress *bar = progress_start(cli, "verifying", read_progress, &progress);
        rc = verify_run(&request, &result, e);
        progress_stop(bar);
    }
    if (rc == 0) {
        json_t *summary = report_verify_summary(&result, result.errors ? 4 : 0);
        rc = summary ? tell(cli, summary, e) : error_sys(e, ENOMEM, "cannot tell the result");
        json_decref(summary);
    }
    verify_result_release(&result);
    free(numbers);
    return rc;
}

static int verify_here(struct cli *cli, struct error *e)
{
    struct repo *r = NULL;
    bool record;
    int rc = open_to_verify(cli, &r, &record, e);

    if (rc == 0)
        rc = verify_with(cli, r, record, e);
    repo_close(r);
    return rc;
}

static int run(struct cli *cli, struct error *e)
{
    bool answered = false;
    int rc;

    if ((cli->given[QUICK] != NULL) + (cli->given[FULL] != NULL) +
            (cli->given[RESTORE_TEST] != NULL) >
        1)
        return error_set(e, ERR_USAGE,
                         "'--quick', '--full' and '--restore-test' exclude each "
                         "other");
    rc = cli_config(cli, e);
    if (rc == 0 && cli->operand_count > 0 && archive_is_meant(cli->operands[0]))
        return archive_verify_operands(cli, e);
    if (rc != 0)
        return rc;
    char *socket = reach_service(cli);
    if (socket)
        rc = verify_there(cli, socket, &answered, e);
    free(socket);
    if (answered)
        return rc;
    error_clear(e);
    return verify_here(cli, e);
}

const struct command command_verify = {
    .name = "verify",
    .operands = "[SNAPSHOT...]",
    .summary = "read back what is stored and name what is damaged",
    .max_operands = -1,
    .flags = flags,
    .lines = true,
    .run = run,
};
