/* config.h - settings: one table of keys drives parse, bounds, defaults, origins and reload.
 *
 * Order: flag, environment (WATCHKEEP_<SECTION>_<KEY>), file, default. Files: as `-c` or
 * WATCHKEEP_CONFIG name one, else /etc/watchkeep/watchkeep.conf for root or
 * $XDG_CONFIG_HOME/watchkeep/watchkeep.conf; and conf.d/ *.conf beside it in name order. Unknown
 * sections and keys, values out of bounds, and lines too long are errors "file:line: ...". */
#ifndef WK_CONFIG_CONFIG_H
#define WK_CONFIG_CONFIG_H

#include "base/error.h"
#include "base/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONFIG_OFF UINT64_MAX /* a duration or count that is "off" */

struct watch_config {
    char *name, *path;
    char **include, **exclude;                     /* NULL-terminated, or NULL */
    uint64_t settle_ms, max_delay_ms, interval_ms; /* interval may be CONFIG_OFF */
    bool sqlite;
};

struct config {
    char *repository, *socket, *group; /* group "" = none */
    enum log_level log_level;
    enum log_format log_format;
    char *codec;    /* "zstd" | "zlib" | "none" */
    char *archives; /* folder of the archives */
    char *min_free; /* as written */
    bool enabled;   /* WATCHKEEP_ENABLED */
    struct watch_config *watches;
    size_t watch_count;
    char *file;                  /* the file that was read, or NULL */
    struct config_value *values; /* every key with its origin, for `config show` (config.c) */
    size_t value_count;
    char **notes; /* what config_warnings tells besides, NULL-terminated, or NULL */
};

struct config_flags { /* what the command line gave; NULL = not given */
    const char *file, *repository;
    const char *const *paths; /* `run [NAME=]PATH...`, NULL-terminated, or NULL */
    bool lenient; /* pass over what the files have wrong, and take no watches from them */
};

/* Read everything. ERR_USAGE with "file:line: ..." on the first error. A file that was named and is
 * not there is an error; a default one is not. Where flags or WATCHKEEP_PATHS name the watches,
 * those of the file are left out, but for the rules of a section of the same name. */
int config_load(const struct config_flags *flags, struct config **out, struct error *e);
void config_free(struct config *c);

/* Split "[NAME=]PATH" into a watch name (last part of the path unless given) and an absolute,
 * lexically clean path. Caller frees both. ERR_USAGE for names or paths that cannot be. */
int config_split_watch(const char *arg, char **name, char **path, struct error *e);

/* The file that is read when none is named; malloc'ed, NULL when there is no home to look in. */
char *config_default_file(void);

/* Where a service of that repository listens unless told otherwise: by its place, where the place
 * came from a flag or the environment, so that two services do not meet; NULL on no memory. */
char *config_default_socket(const char *repository, bool from_file);

/* NULL when there is none of that name. */
const struct watch_config *config_watch(const struct config *c, const char *name);

/* A setting as it holds for a watch: that of [section WATCH] where it was given, else that of
 * [section]; watch may be NULL. "" when there is none of that name; borrowed. */
const char *config_text(const struct config *c, const char *section, const char *watch,
                        const char *key);
/* The same as a number: milliseconds, a count, a share in percent, or CONFIG_OFF. */
uint64_t config_number(const struct config *c, const char *section, const char *watch,
                       const char *key);

/* Each effective value: section, key, value text, origin ("default", "file:line", "environment
 * NAME", "flag"). */
typedef void (*config_visit)(void *ctx, const char *section, const char *key, const char *value,
                             const char *origin);
void config_show(const struct config *c, config_visit visit, void *ctx);

/* What was given and means nothing (one line each). */
void config_warnings(const struct config *c, void (*warn)(void *ctx, const char *text), void *ctx);

/* "file:line" of a setting, or where else it came from; NULL when there is no such setting. */
const char *config_origin(const struct config *c, const char *section, const char *key);

/* Settings that differ but that a reload cannot change (one "[service] socket" each). */
void config_fixed_changes(const struct config *old_, const struct config *new_,
                          void (*tell)(void *ctx, const char *what), void *ctx);

#endif
