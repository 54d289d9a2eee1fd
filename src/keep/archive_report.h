/* archive_report.h - archives as JSON (jansson), the same from the service and the command line.
 *
 * Keys are those of src/cli/CONTRACT.md. Each function returns a new reference, NULL on no memory.
 */
#ifndef WK_KEEP_ARCHIVE_REPORT_H
#define WK_KEEP_ARCHIVE_REPORT_H

#include "keep/archive.h"

#include <jansson.h>

/* An entry of `list --archives`. What only NAME.json tells is null where that is missing. */
json_t *archive_report_item(const struct archive_item *item);

/* show: the keys of archive_report_item, "schema":1, and what its metadata tells besides: app,
 * host, zone, root, snapshot_time, left_out, watchkeep_version, databases. */
int archive_report_show(struct archive_item *item, json_t **out, struct error *e);

/* A line for an archive just written: "type":"archived", the keys of archive_report_item,
 * "left_out":[{"path","reason"}], "exit". */
json_t *archive_report_written(const struct archive_result *r, int exit_code);

/* The last line: "type":"summary","archives":N,"files","bytes","stored_bytes","seconds","exit",
 * the sums of archived lines (an array). */
json_t *archive_report_summary(const json_t *lines, int exit_code);

#endif
