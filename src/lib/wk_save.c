/* wk_save.c - saving happens elsewhere: in the service, or in a child process. See watchkeep.h. */
#include "lib/handle.h"
#include "lib/program.h"

#include "base/text.h"
#include "service/client.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { SERVICE_WAIT_MS = 30000 };

/* What the service or the program has said. */
struct answer {
    wk_save_result result;
    bool done; /* the summary was there */
    int code;  /* its exit as a code */
    struct error error;
};

/* "NAME=PATH", a path, or the name of a watch: *name or *path may stay NULL. Caller frees. */
static int split(const char *watch, char **name, char **path, struct error *e)
{
    const char *slash = strchr(watch, '/');
    const char *equal = strchr(watch, '=');
    const char *at = watch;

    *name = *path = NULL;
    if (equal && slash && slash < equal)
        equal = NULL;
    if (equal)
        at = equal + 1;
    if (!equal && !slash)
        *name = text_format("%s", watch);
    else if (!(*path = path_absolute(at, e)))
        return e->code;
    if (equal)
        *name = text_format("%.*s", (int)(equal - watch), watch);
    return *name || *path ? 0 : error_set(e, ERR_FAILED, "out of memory");
}

static uint64_t count_of(const json_t *o, const char *key)
{
    json_int_t v = json_integer_value(json_object_get(o, key));

    return v > 0 ? (uint64_t)v : 0;
}

static void take_summary(struct answer *a, const json_t *o)
{
    wk_save_result *r = &a->result;

    a->done = true;
    a->code = -(int)json_integer_value(json_object_get(o, "exit"));
    r->snapshot = count_of(o, "snapshot");
    r->current = count_of(o, "current");
    r->files_new = count_of(o, "files_new");
    r->files_changed = count_of(o, "files_changed");
    r->files_removed = count_of(o, "files_removed");
    r->files_unchanged = count_of(o, "files_unchanged");
    r->bytes_read = count_of(o, "bytes_read");
    r->bytes_stored = count_of(o, "bytes_stored");
    r->incomplete = json_array_size(json_object_get(o, "incomplete"));
    r->seconds = json_number_value(json_object_get(o, "seconds"));
}

static void take_document(struct answer *a, const json_t *o)
{
    const char *type = json_string_value(json_object_get(o, "type"));
    const char *message = json_string_value(json_object_get(o, "message"));
    const char *path = json_string_value(json_object_get(o, "path"));
    json_int_t code = json_integer_value(json_object_get(o, "code"));

    if (type && strcmp(type, "summary") == 0) {
        take_summary(a, o);
    } else if (type && strcmp(type, "error") == 0) {
        error_set(&a->error, code > 0 && code < 256 ? -(int)code : ERR_FAILED, "%s",
                  message ? message : "failed");
        if (path)
            error_path(&a->error, path);
    }
}

/* The answer as a result: what the summary says, in the words of the last error line. */
static int conclude(const struct answer *a, int exit_code, struct error *e)
{
    int code = a->done ? a->code : a->error.code;

    if (code == 0 && !a->done)
        code = exit_code > 0 ? -exit_code : ERR_FAILED;
    if (code == 0)
        return 0;
    if (*a->error.message)
        *e = a->error;
    else if (code == ERR_INCOMPLETE)
        error_set(e, code, "%llu files could not be read whole",
                  (unsigned long long)a->result.incomplete);
    else
        error_set(e, code, "the save gave no result (exit %d)", exit_code);
    e->code = code;
    return code;
}

/* ---- through the service ---- */

static int take_reply(void *ctx, const json_t *line, struct error *e)
{
    take_document(ctx, line);
    return 0;
}

static json_t *request_of(const char *name, const char *path, const wk_save_options *o)
{
    json_t *r = json_pack("{s:s,s:s?,s:s?,s:b}", "command", "save", "name", o->name, "note",
                          o->note, "progress", 0);

    if (r && path)
        json_object_set_new(r, "paths", json_pack("[{s:s?,s:s}]", "name", name, "path", path));
    else if (r)
        json_object_set_new(r, "watches", json_pack("[s]", name));
    return r;
}

/* ERR_NOTFOUND and no answer: there is no service. */
static int save_by_service(struct wk_handle *h, const char *name, const char *path,
                           const wk_save_options *o, struct answer *a, struct error *e)
{
    char *socket = client_socket_of(h->path);
    json_t *request;
    int rc;

    if (!socket)
        return ERR_NOTFOUND;
    if (!(request = request_of(name, path, o)))
        rc = error_set(e, ERR_USAGE, "name, note and watch must be UTF-8");
    else
        rc = client_request(socket, request, SERVICE_WAIT_MS, take_reply, a, e);
    json_decref(request);
    free(socket);
    return rc;
}

/* ---- through the program ---- */

static void take_line(void *ctx, int from_stderr, const char *line, size_t len)
{
    struct answer *a = ctx;
    json_t *o = json_loadb(line, len, 0, NULL);

    if (o)
        take_document(a, o);
    else if (from_stderr && len > 0 && !*a->error.message)
        error_set(&a->error, ERR_FAILED, "%.*s", (int)(len < 500 ? len : 500), line);
    json_decref(o);
}

static int save_by_program(struct wk_handle *h, const char *name, const char *path,
                           const wk_save_options *o, struct answer *a, int *exit_code,
                           struct error *e)
{
    char *operand =
        path && name ? text_format("%s=%s", name, path) : text_format("%s", path ? path : name);
    const char *args[16] = {"-r", h->path, "--json", "--no-progress", "save"};
    int n = 5;

    if (!operand)
        return error_set(e, ERR_FAILED, "out of memory");
    if (o->name) {
        args[n++] = "--name";
        args[n++] = o->name;
    }
    if (o->note) {
        args[n++] = "--note";
        args[n++] = o->note;
    }
    args[n++] = "--";
    args[n++] = operand;
    int rc = program_run(args, take_line, a, exit_code, e);
    free(operand);
    return rc;
}

int wk_save(wk_handle *handle, const char *watch, const wk_save_options *options,
            wk_save_result *result)
{
    wk_save_options o = WK_SAVE_OPTIONS_INIT;
    struct answer a = {.result = WK_SAVE_RESULT_INIT, .error = ERROR_INIT};
    struct error *e = handle_begin(handle);
    char *name = NULL, *path = NULL;
    int exit_code = -1;

    struct_take(&o, sizeof(o), options);
    int rc = watch && *watch ? split(watch, &name, &path, e)
                             : error_set(e, ERR_USAGE, "no watch is given");
    if (rc == 0) {
        rc = save_by_service(handle, name, path, &o, &a, e);
        if (rc == ERR_NOTFOUND && !a.done && !*a.error.message) {
            error_clear(e);
            rc = save_by_program(handle, name, path, &o, &a, &exit_code, e);
        }
    }
    if (rc == 0)
        rc = conclude(&a, exit_code, e);
    struct_give(result, &a.result, sizeof(a.result));
    free(name);
    free(path);
    return handle_end(handle, rc);
}
