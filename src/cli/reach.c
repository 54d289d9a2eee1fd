#include "cli/reach.h"

#include "cli/interrupt.h"
#include "cli/output.h"
#include "config/config.h"
#include "service/policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/banned.h"

#define SYSTEM_SOCKET "/run/watchkeep/control.sock"

bool take_error_line(const json_t *line, struct error *e)
{
    int code = (int)json_count(line, "code");

    if (strcmp(json_text(line, "type"), "error") != 0)
        return false;
    error_set(e, code > 0 ? -code : ERR_FAILED, "%s", json_text(line, "message"));
    error_path(e, json_text(line, "path"));
    return true;
}

int reach_place(struct cli *cli, const char **path, struct error *e)
{
    int rc = cli_config(cli, e);

    if (rc == 0)
        *path = cli->config->repository;
    return rc;
}

static void notice(void *ctx, const char *text)
{
    out_note(ctx, "%s", text);
}

static enum codec codec_of(const struct config *c)
{
    if (strcmp(c->codec, "none") == 0)
        return CODEC_STORED;
    return strcmp(c->codec, "zlib") == 0 ? CODEC_DEFLATE : CODEC_ZSTD;
}

/* Errors of the disk do not go away by trying again. */
static int tell_refused(bool rebuilding, struct error *e)
{
    const struct error why = *e;

    if (why.sys != EIO)
        return why.code;
    return error_set(e, why.code, "%s: copy the repository to a sound disk (ddrescue)%s",
                     why.message,
                     rebuilding ? ""
                                : ", or go on without what of data packs cannot be read: "
                                  "watchkeep rebuild");
}

static int open_repository(struct cli *cli, enum repo_mode mode, unsigned wait_ms, bool past_unread,
                           struct repo **out, struct error *e)
{
    const char *path;
    struct stat st;
    int rc = reach_place(cli, &path, e);

    if (rc != 0)
        return rc;
    struct repo_options opt = {.wait_ms = wait_ms,
                               .codec = codec_of(cli->config),
                               .reserve = mode == REPO_WRITE,
                               .distrust = cli->distrust,
                               .past_unread = past_unread,
                               .notice = notice,
                               .ctx = cli};
    rc = repo_open(path, mode, &opt, out, e);
    if (rc == 0 && mode == REPO_WRITE)
        policy_min_free(cli->config, *out);
    if (rc != 0 && stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
        return error_set(e, ERR_NOREPO, "'%s' is a file, no repository: name a folder", path);
    if ((rc == ERR_NOREPO || rc == ERR_NOTFOUND) && !repo_exists(path))
        return error_set(e, ERR_NOREPO, "no repository at '%s': make one with: watchkeep init%s%s",
                         path, cli->repository ? " -r " : "",
                         cli->repository ? cli->repository : "");
    return rc == 0 ? 0 : tell_refused(past_unread, e);
}

int reach_read(struct cli *cli, struct repo **out, struct error *e)
{
    return open_repository(cli, REPO_READ, 0, false, out, e);
}

int reach_write(struct cli *cli, unsigned wait_ms, struct repo **out, struct error *e)
{
    return open_repository(cli, REPO_WRITE, wait_ms, false, out, e);
}

int reach_rebuild(struct cli *cli, struct repo **out, struct error *e)
{
    return open_repository(cli, REPO_WRITE, (unsigned)cli->wait_ms, true, out, e);
}

struct asked {
    json_t *doc;
    struct error error; /* what the service said was wrong */
};

/* A summary behind an error, or behind the document, only ends the answer. */
static int keep_line(void *ctx, const json_t *line, struct error *e)
{
    struct asked *a = ctx;

    if (take_error_line(line, &a->error) || a->error.code || a->doc)
        return 0;
    a->doc = json_deep_copy(line);
    return a->doc ? 0 : error_set(e, ERR_FAILED, "no memory for the service's answer");
}

static int take_answer(struct asked *a, int rc, json_t **doc, struct error *e)
{
    *doc = NULL;
    if (rc == 0 && a->error.code) {
        *e = a->error;
        rc = e->code;
    }
    if (rc == 0)
        *doc = a->doc;
    else
        json_decref(a->doc);
    return rc;
}

static int ask(const struct cli *cli, const char *socket, json_t *request, json_t **doc,
               struct error *e)
{
    struct asked a = {.error = ERROR_INIT};
    int rc = client_request(socket, request, cli->wait_ms, keep_line, &a, e);

    return take_answer(&a, rc, doc, e);
}

/* Does what listens there serve this repository? */
static bool serves(const struct cli *cli, const char *socket, const char *repository)
{
    struct error ignored = ERROR_INIT;
    json_t *request = json_pack("{s:s}", "command", "status");
    json_t *status = NULL;
    int rc = ask(cli, socket, request, &status, &ignored);
    bool same = rc == 0 &&
                strcmp(json_text(json_object_get(status, "repository"), "path"), repository) == 0;

    json_decref(status);
    json_decref(request);
    return same;
}

char *reach_service(struct cli *cli)
{
    struct error ignored = ERROR_INIT;
    const char *repository;
    char *socket = NULL;

    if (reach_place(cli, &repository, &ignored) != 0)
        return NULL;
    if (repo_exists(repository))
        return client_socket_of(repository);
    if (serves(cli, cli->config->socket, repository))
        socket = strdup(cli->config->socket);
    else if (serves(cli, SYSTEM_SOCKET, repository))
        socket = strdup(SYSTEM_SOCKET);
    return socket;
}

int reach_document(struct cli *cli, json_t *request, json_t **doc, struct error *e)
{
    bool answered;

    return reach_ask(cli, request, doc, &answered, e);
}

int reach_ask(struct cli *cli, json_t *request, json_t **doc, bool *answered, struct error *e)
{
    struct asked a = {.error = ERROR_INIT};
    char *socket = reach_service(cli);
    int rc = !request ? error_set(e, ERR_FAILED, "no memory for the request")
             : socket ? client_request(socket, request, cli->wait_ms, keep_line, &a, e)
                      : error_set(e, ERR_NOTFOUND, "the service does not run");

    free(socket);
    *answered = !request || a.doc || a.error.code || (rc != 0 && rc != ERR_NOTFOUND);
    return take_answer(&a, rc, doc, e);
}

int reach_fallback(struct cli *cli, int rc, json_t *request, json_t **doc, struct error *e)
{
    char *socket = rc == ERR_DENIED ? reach_service(cli) : NULL;

    if (!socket)
        return rc;
    error_clear(e);
    rc = ask(cli, socket, request, doc, e);
    free(socket);
    return rc;
}
