/* rules.h - which paths of a watch are captured: include, exclude, .watchkeepignore, our own.
 *
 * The same object serves scan and events. A path is out when it or a parent is excluded (exclude
 * patterns of the watch, then those of each .watchkeepignore on the way, the deeper file later),
 * or is one of own_paths by (device, inode), or the scratch folder of a restore; a file must match
 * `include` when there is one (or lie in a folder that does). .watchkeepignore files themselves are
 * captured. Loaded ignore files are cached by signature. Any thread (locks itself). */
#ifndef WK_SNAPSHOT_RULES_H
#define WK_SNAPSHOT_RULES_H

#include "base/error.h"
#include "snapshot/watch_spec.h"

#include <stdbool.h>
#include <sys/stat.h>

struct rules;

/* ERR_USAGE for a pattern that cannot be used. The spec's strings are copied. */
int rules_new(const struct watch_spec *spec, struct rules **out, struct error *e);
void rules_free(struct rules *r);

/* In or out? path is relative to the root ("" is the root: in). st may be NULL when the caller
 * knows only the kind. *why (may be NULL) gets a static or rules-owned text: the pattern that
 * decided (valid until the rules change). dirfd of the root is used to read ignore files; -1: by
 * those that are known. */
bool rules_want(struct rules *r, int rootfd, const char *path, bool is_dir, const struct stat *st,
                const char **why);
/* Whether the ignore file of this folder (path, "" = root) changed since it was loaded; drops it
 * from the cache. The caller then rescans that folder. */
void rules_forget(struct rules *r, const char *folder);

/* ---- for the walk, which sees every folder before what is in it ---- */

/* Look anew at which objects own_paths lead to. At the start of each walk. */
void rules_look(struct rules *r);
/* The walk is in this folder (path; dirfd) and finds this ignore file there, NULL: none. True: not
 * what was known of it before, or nothing was known. */
bool rules_see(struct rules *r, int dirfd, const char *folder, const struct stat *ignore_file);
/* Where a walk begins below the root: look at the ignore files of this folder and of those above
 * that are not known yet. What is not there any more has none. */
void rules_see_above(struct rules *r, int rootfd, const char *folder);
/* As rules_want, for an entry of a folder that is in, when all folders above were seen. */
bool rules_want_in(struct rules *r, const char *path, bool is_dir, const struct stat *st);

/* The rules as text, for the commit record: one "include P" / "exclude P" line each, and a line
 * RULES_SQLITE_OFF where databases are taken as plain files. Owned by r. */
const char *rules_text(const struct rules *r);
#define RULES_SQLITE_OFF "sqlite off"
/* Whether such a text, or NULL, has that line. */
bool rules_text_sqlite_off(const char *text);

/* ---- for a snapshot, whose ignore files are not in any folder ---- */

/* From such a text, or NULL: no rules. */
int rules_from_text(const char *text, struct rules **out, struct error *e);
/* Is it known whether this folder (path, "" = root) has an ignore file? */
bool rules_knows(struct rules *r, const char *folder);
/* It has this one; len 0: none. Then rules_want with rootfd -1 goes by what was taught. ERR_FAILED
 * without memory. */
int rules_teach(struct rules *r, const char *folder, const char *text, size_t len, struct error *e);

#define IGNORE_FILE_NAME ".watchkeepignore"

/* What begins so is the scratch folder of a restore, and is out at every depth. */
#define RESTORE_SCRATCH_PREFIX ".watchkeep-restore-"

#endif
