/* snapshot_text.h - snapshots and saves, given as JSON, told to people. */
#ifndef WK_CLI_SNAPSHOT_TEXT_H
#define WK_CLI_SNAPSHOT_TEXT_H

#include "cli/output.h"

/* One line on stdout about a "saved" line or a save's summary: the snapshot made, or the one that
 * holds the state already. watch may be NULL where it is not known. */
void print_saved(const struct cli *cli, const json_t *saved, const char *watch);

/* On stderr: each file that is not whole in the snapshot, and what may have been missed. */
void tell_not_whole(const struct cli *cli, const json_t *saved, const char *watch);
/* The same, and what keeps the snapshot from being `latest` or `good`, with what to do about it. */
void tell_incomplete(const struct cli *cli, const json_t *saved, const char *watch);

/* "incomplete, damaged, suspect, not good, pinned" as far as it holds. */
void snapshot_flags(const json_t *snapshot, char *out, size_t cap);

#endif
