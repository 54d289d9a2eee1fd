/* report.h - results as JSON documents and lines (jansson), the same from the service and the CLI.
 *
 * Keys are those of src/cli/CONTRACT.md. Each function returns a new reference, or NULL on no
 * memory. Paths that are not UTF-8 stand as "path" (readable) and "path_b64". */
#ifndef WK_SNAPSHOT_REPORT_H
#define WK_SNAPSHOT_REPORT_H

#include "snapshot/compare.h"
#include "snapshot/restore.h"
#include "snapshot/save.h"
#include "snapshot/tree.h"
#include "snapshot/verify.h"

#include <jansson.h>

struct list_filter {
    const char *watch; /* or NULL */
    uint64_t recent;   /* 0 = all */
    bool has_since, has_until;
    int64_t since, until; /* seconds */
};
/* {"schema":1,"snapshots":[...],"events":[as report_events]} newest last. */
int report_list(struct repo *r, const struct list_filter *f, json_t **out, struct error *e);
/* [{"time","watch","event":"job-failed",...}] newest last: of the marks, what happened. */
int report_events(struct catalog *c, const struct list_filter *f, json_t **out, struct error *e);
json_t *report_snapshot(const struct snapshot_row *s);
/* show: {"schema":1, the keys of report_snapshot, "parent":41|null,"root":"...","host":"<hex>",
 * "version":"...","utc_offset":3600,"folders":9,"files_new":1,"files_changed":1,"files_removed":0,
 * "bytes_read":10,"sound":true,"whole":true,"rules_changed":false,"incomplete":0,"gap":null,
 * "incomplete_paths":[{"path","reason"}],"spoilt_paths":[{"path","reason"}],"compared_with":41|null,"changes":[as
 * report_diff_entry], "changes_more":false}; at most 1000 paths of either kind, at most max
 * changes, against the newest kept snapshot of the watch before it (null: there is none). */
int report_show(struct repo *r, const struct snapshot_row *s, size_t max, json_t **out,
                struct error *e);
/* ls: {"path":"a/b","type":"file","size":5,"mode":"0644","uid":0,"gid":0,"mtime":"...",
 * "target":"..." (links), "flags":["sqlite"], "reason":"..." (incomplete)}. NULL on no memory or
 * when meta does not decode. */
json_t *report_ls_entry(const char *path, const void *meta, size_t len);
/* diff: {"change":"added|removed|excluded|changed|metadata|moved","path":"...","old_path":"..."
 * (moved), "type":"file","old_size":1,"size":2}; old_size is null for added, size for removed and
 * excluded. */
json_t *report_diff_entry(const struct diff_entry *d);
/* history: the keys of report_ls_entry plus "id" (newest snapshot that holds it), "from" (first),
 * "to" (first that does not, or null) and "time". */
json_t *report_history_entry(const struct history_entry *h);
const char *report_type_word(int node_type);   /* "file", "folder", "symlink", ... */
const char *report_change_word(int diff_kind); /* "added", ... */
json_t *report_time(struct wall_time t);       /* RFC 3339 UTC */
json_t *report_text(const char *s);            /* readable UTF-8; null for NULL */
/* Set "path" (and "path_b64" when needed) in obj; key is normally "path". */
void report_path(json_t *obj, const char *key, const char *bytes);

/* "type":"saved": the keys of the summary plus "watch"; code is what save_run returned. */
json_t *report_saved(const char *watch, const struct save_result *s, int code);
json_t *report_save_summary(const struct save_result *s, const char *gap, int exit_code);
json_t *report_restore_summary(uint64_t snapshot, const struct restore_result *r, int exit_code);
json_t *report_verify_summary(const struct verify_result *r, int exit_code);
/* {"schema":1,"snapshot":42,"watch":"bot","pinned":true,"changed":true} of a snapshot as it was
 * before it was to be pinned or not. */
json_t *report_pinned(const struct snapshot_row *before, bool pinned);
json_t *report_error(const struct error *e); /* {"type":"error",...} */

#endif
