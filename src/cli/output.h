/* output.h - what the program says: results on stdout, everything else on stderr.
 *
 * With --json results are JSON documents or lines, and notes and errors are JSON lines too. */
#ifndef WK_CLI_OUTPUT_H
#define WK_CLI_OUTPUT_H

#include "cli/cli.h"

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

/* One JSON document or line on stdout; a line is flushed at once. Takes the reference; NULL is no
 * memory. A line with "type":"summary" is remembered as the last. */
int out_json(struct cli *cli, json_t *doc, struct error *e);
/* A document as JSON where that was asked for, else by `print`. Takes the reference. */
typedef int (*out_print)(struct cli *cli, const json_t *doc, struct error *e);
int out_document(struct cli *cli, json_t *doc, out_print print, struct error *e);

/* The summary of a command that failed before it had one. */
void out_failed_summary(struct cli *cli, int exit_code);

void out_error(const struct cli *cli, const struct error *e);
/* Something worth knowing that is no error; silent with --quiet. */
void out_note(const struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Flush stdout and say whether all of it was written: 0 or ERR_FAILED. e->sys is EPIPE where nobody
 * reads any more. */
int out_finish(struct error *e);

enum paint { PAINT_NONE, PAINT_BOLD, PAINT_RED, PAINT_GREEN, PAINT_YELLOW, PAINT_DIM };
bool out_colored(const struct cli *cli, FILE *f);
/* Escape sequence that begins a colour (PAINT_NONE: ends it), "" when f has none. */
const char *out_paint(const struct cli *cli, FILE *f, enum paint p);

/* ---- JSON values for people ---- */
const char *json_text(const json_t *obj, const char *key); /* "" when not there or null */
uint64_t json_count(const json_t *obj, const char *key);   /* 0 when not there or null */
bool json_flag(const json_t *obj, const char *key);
/* "2026-11-21 04:00:00" in local time of an RFC 3339 text, "-" for none; cap >= 24. */
const char *json_local_time(const json_t *obj, const char *key, char *out, size_t cap);
const char *size_text(uint64_t bytes, char *out, size_t cap);

#endif
