/* pattern.h - gitignore patterns, as a pure function over paths.
 *
 * Source of the semantics: gitignore(5). '*' and '?' do not cross '/', '**' does, a trailing '/'
 * binds to folders, a '/' elsewhere anchors to the base, '!' turns a match back, the last matching
 * pattern decides. Names are bytes. */
#ifndef WK_BASE_PATTERN_H
#define WK_BASE_PATTERN_H

#include "base/error.h"

#include <stdbool.h>

struct pattern_list;

enum pattern_verdict { PATTERN_NONE, PATTERN_MATCH, PATTERN_NEGATED };

struct pattern_list *pattern_list_new(void); /* NULL on no memory */
void pattern_list_free(struct pattern_list *l);

/* One pattern; blank and comment lines are accepted and ignored. base is the folder the pattern
 * counts from, relative to the root, "" for the root. ERR_USAGE for one longer than 4096 bytes. */
int pattern_list_add(struct pattern_list *l, const char *base, const char *pattern,
                     struct error *e);

/* Match path (relative to the root, no leading slash) alone, not its parents. */
enum pattern_verdict pattern_list_match(const struct pattern_list *l, const char *path,
                                        bool is_dir);

bool pattern_list_empty(const struct pattern_list *l);

#endif
