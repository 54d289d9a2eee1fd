#include "cli/output.h"

#include "base/clock.h"
#include "base/parse.h"
#include "base/text.h"
#include "cli/interrupt.h"
#include "snapshot/report.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum { JSON_FLAGS = JSON_COMPACT | JSON_REAL_PRECISION(9) };

static int no_memory(struct error *e)
{
    return error_sys(e, ENOMEM, "cannot write the result");
}

int out_json(struct cli *cli, json_t *doc, struct error *e)
{
    char *text = doc ? json_dumps(doc, JSON_FLAGS) : NULL;

    if (doc && strcmp(json_text(doc, "type"), "summary") == 0)
        cli->summary_out = true;
    json_decref(doc);
    if (!text)
        return no_memory(e);
    printf("%s\n", text);
    free(text);
    if (cli->command->lines)
        return out_finish(e);
    return 0;
}

int out_document(struct cli *cli, json_t *doc, out_print print, struct error *e)
{
    if (cli->json)
        return out_json(cli, doc, e);
    int rc = print(cli, doc, e);
    json_decref(doc);
    return rc;
}

void out_failed_summary(struct cli *cli, int exit_code)
{
    struct error ignored = ERROR_INIT;

    if (cli->json && !cli->summary_out)
        out_json(cli, json_pack("{s:s,s:i}", "type", "summary", "exit", exit_code), &ignored);
}

static void error_line(json_t *line)
{
    char *text = line ? json_dumps(line, JSON_FLAGS) : NULL;

    if (text)
        fprintf(stderr, "%s\n", text);
    free(text);
    json_decref(line);
}

/* With the code that the program ends with: which signal it was, no error knows. */
static json_t *error_report(const struct error *e)
{
    json_t *line = report_error(e);

    if (line && e->code == ERR_CANCELLED && interrupt_exit_code())
        json_object_set_new(line, "code", json_integer(interrupt_exit_code()));
    return line;
}

void out_error(const struct cli *cli, const struct error *e)
{
    if (cli->json)
        error_line(error_report(e));
    else
        fprintf(stderr, "%swatchkeep:%s %s\n", out_paint(cli, stderr, PAINT_RED),
                out_paint(cli, stderr, PAINT_NONE), e->message);
}

void out_note(const struct cli *cli, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (cli->quiet)
        return;
    if (cli->json)
        error_line(json_pack("{s:s,s:s}", "type", "note", "message", text));
    else
        fprintf(stderr, "%s\n", text);
}

int out_finish(struct error *e)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    int sys = errno ? errno : EIO;
    clearerr(stdout);
    error_sys(e, sys, "cannot write to standard output");
    return e->code = ERR_FAILED; /* whatever keeps it: not the repository's lack of space */
}

bool out_colored(const struct cli *cli, FILE *f)
{
    const char *no_color = getenv("NO_COLOR");
    const char *term = getenv("TERM");

    if (cli->color != COLOR_AUTO)
        return cli->color == COLOR_ALWAYS;
    return isatty(fileno(f)) && !(no_color && *no_color) && term && strcmp(term, "dumb") != 0;
}

const char *out_paint(const struct cli *cli, FILE *f, enum paint p)
{
    static const char *const codes[] = {"\033[0m",  "\033[1m",  "\033[31m",
                                        "\033[32m", "\033[33m", "\033[2m"};

    return out_colored(cli, f) ? codes[p] : "";
}

const char *json_text(const json_t *obj, const char *key)
{
    const char *s = json_string_value(json_object_get(obj, key));

    return s ? s : "";
}

uint64_t json_count(const json_t *obj, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(obj, key));
}

bool json_flag(const json_t *obj, const char *key)
{
    return json_is_true(json_object_get(obj, key));
}

const char *json_local_time(const json_t *obj, const char *key, char *out, size_t cap)
{
    struct error ignored = ERROR_INIT;
    int64_t t;

    if (parse_time(json_text(obj, key), 0, &t, &ignored) == 0)
        time_local(t, out, cap);
    else
        snprintf(out, cap, "-");
    return out;
}

const char *size_text(uint64_t bytes, char *out, size_t cap)
{
    text_size(bytes, out, cap);
    return out;
}
