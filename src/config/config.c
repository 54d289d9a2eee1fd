/* The steps of a load: the files' values, the names of the watches, the environment's and the
 * flags' values over them, defaults for the rest, and then the typed settings from the values. */
#include "config/config.h"

#include "base/string_list.h"
#include "base/text.h"
#include "config/environment.h"
#include "config/ini_file.h"
#include "config/places.h"
#include "config/values.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { WATCH_NAME_MAX = 64 };

struct section {
    char *name, *origin;
};

struct loader {
    struct config *c;
    const char *file;
    unsigned file_number;
    struct section *sections; /* as they stand in the files */
    size_t section_count;
    bool lenient;
};

static int no_memory(struct error *e)
{
    return error_sys(e, ENOMEM, "cannot load the configuration");
}

/* ---- names and paths of watches ---- */

static bool watch_name_ok(const char *s)
{
    size_t n = strlen(s);

    if (n == 0 || n > WATCH_NAME_MAX || *s == '-' || strpbrk(s, " /=:[]") || strcmp(s, ".") == 0 ||
        strcmp(s, "..") == 0)
        return false;
    for (size_t len; n > 0; s += len, n -= len) {
        len = text_utf8_char(s, n);
        if (len == 0 || !text_printable(s, len))
            return false;
    }
    return true;
}

static int bad_name(const char *name, const char *remedy, struct error *e)
{
    char quoted[300];

    return error_set(e, ERR_USAGE,
                     "'%s' cannot be the name of a watch (1 to 64 bytes of printable text without "
                     "blanks and / = : [ ])%s",
                     text_escape(name, quoted, sizeof(quoted)), remedy);
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

int config_split_watch(const char *arg, char **name, char **path, struct error *e)
{
    size_t len = strcspn(arg, "/=");
    bool named = arg[len] == '=';
    const char *given = named ? arg + len + 1 : arg;
    char quoted[300];
    int rc = 0;

    *name = *path = NULL;
    if (!*given)
        return error_set(e, ERR_USAGE, "'%s' names no folder",
                         text_escape(arg, quoted, sizeof(quoted)));
    *path = config_clean_path(given);
    if (*path)
        *name = named ? strndup(arg, len) : strdup(last_part(*path));
    if (!*name)
        rc = no_memory(e);
    else if (!watch_name_ok(*name))
        rc = bad_name(*name, named ? "" : ": write NAME=PATH", e);
    if (rc == 0)
        return 0;
    free(*name);
    free(*path);
    *name = *path = NULL;
    return rc;
}

/* ---- files ---- */

static int add_section(struct loader *l, const char *section, int line, struct error *e)
{
    char word[SECTION_WORD_MAX];
    const char *name = section_split(section, word);
    enum section_naming naming = config_section_naming(word);

    if (naming == SECTION_UNKNOWN || (naming == SECTION_PLAIN && *name))
        return error_set(e, ERR_USAGE, "unknown section '[%s]'", section);
    if (naming == SECTION_NAMED && !*name)
        return error_set(e, ERR_USAGE, "the section needs a name: '[%s NAME]'", word);
    if (*name && !watch_name_ok(name))
        return bad_name(name, "", e);
    struct section *all = realloc(l->sections, (l->section_count + 1) * sizeof(*all));
    if (!all)
        return no_memory(e);
    l->sections = all;
    struct section *s = &all[l->section_count++];
    s->name = *name ? text_format("%s %s", word, name) : strdup(word);
    s->origin = text_format("%s:%d", l->file, line);
    return s->name && s->origin ? 0 : no_memory(e);
}

static int unknown_key(const char *section, const char *word, const char *key, struct error *e)
{
    char known[400] = "";
    char quoted[100];
    size_t len = 0;

    for (size_t i = 0; i < config_key_count && len < sizeof(known); i++) {
        if (strcmp(config_keys[i].section, word) == 0)
            len += (size_t)snprintf(known + len, sizeof(known) - len, "%s%s", len ? ", " : "",
                                    config_keys[i].key);
    }
    return error_set(e, ERR_USAGE, "unknown key '%s' in [%s] (there are: %s)",
                     text_escape(key, quoted, sizeof(quoted)), section, known);
}

static int add_setting(struct loader *l, const char *section, const char *key, const char *value,
                       int line, struct error *e)
{
    char word[SECTION_WORD_MAX];
    struct error why = ERROR_INIT;

    section_split(section, word);
    if (l->section_count == 0)
        return error_set(e, ERR_USAGE, "'%s' stands before any section", key);
    const char *full = l->sections[l->section_count - 1].name;
    const struct config_key *k = config_key_find(word, key);
    if (!k)
        return unknown_key(full, word, key, e);
    char *origin = text_format("%s:%d", l->file, line);
    if (!origin)
        return no_memory(e);
    struct value_source from = {LEVEL_FILE, l->file_number, origin};
    int rc = values_set(l->c, k, full, value, &from, &why);
    free(origin);
    return rc == 0 ? 0 : error_set(e, rc, "%s: %s", key, why.message);
}

static int pass_over(const struct loader *l, int rc, struct error *e)
{
    if (rc != ERR_USAGE || !l->lenient)
        return rc;
    error_clear(e);
    return 0;
}

static int take_section(void *ctx, const char *section, int line, struct error *e)
{
    struct loader *l = ctx;

    return pass_over(l, add_section(l, section, line, e), e);
}

static int take_setting(void *ctx, const char *section, const char *key, const char *value,
                        int line, struct error *e)
{
    struct loader *l = ctx;

    /* After a section that was passed over its settings are none of the one before. */
    if (l->lenient && strncmp(section, "service", sizeof("service")) != 0)
        return 0;
    return pass_over(l, add_setting(l, section, key, value, line, e), e);
}

static int read_file(struct loader *l, const char *file, struct error *e)
{
    struct ini_sink sink = {take_section, take_setting, l};

    l->file = file;
    l->file_number++;
    return pass_over(l, ini_file_read(file, &sink, e), e);
}

static int is_conf(const struct dirent *d)
{
    size_t len = strlen(d->d_name);

    return d->d_name[0] != '.' && len > 5 && strcmp(d->d_name + len - 5, ".conf") == 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* conf.d beside the file; none there is no error. */
static int read_drop_ins(struct loader *l, const char *file, struct error *e)
{
    char *folder = text_format("%.*s/conf.d", (int)(strrchr(file, '/') - file), file);
    struct dirent **names = NULL;
    int rc = folder ? 0 : no_memory(e);
    int n = folder ? scandir(folder, &names, is_conf, by_bytes) : 0;

    if (n < 0 && errno != ENOENT && errno != ENOTDIR)
        rc = error_sys(e, errno, "cannot read '%s'", folder);
    for (int i = 0; i < n; i++) {
        char *path = rc == 0 ? text_format("%s/%s", folder, names[i]->d_name) : NULL;
        if (rc == 0)
            rc = path ? read_file(l, path, e) : no_memory(e);
        free(path);
        free(names[i]);
    }
    free(names);
    free(folder);
    return rc;
}

static int read_files(struct loader *l, const char *named, struct error *e)
{
    char *file = named ? config_clean_path(named) : config_default_file();
    int rc;

    if (!file)
        return named ? no_memory(e) : 0;
    rc = read_file(l, file, e);
    if (rc == 0) {
        l->c->file = strdup(file);
        if (!l->c->file)
            rc = no_memory(e);
    } else if (rc == ERR_NOTFOUND && named) {
        rc = e->code = ERR_USAGE;
    } else if (rc == ERR_NOTFOUND) {
        error_clear(e);
        rc = 0;
    }
    if (rc == 0)
        rc = read_drop_ins(l, file, e);
    free(file);
    return rc;
}

/* ---- which watches there are ---- */

const struct watch_config *config_watch(const struct config *c, const char *name)
{
    for (size_t i = 0; i < c->watch_count; i++) {
        if (strcmp(c->watches[i].name, name) == 0)
            return &c->watches[i];
    }
    return NULL;
}

static int add_watch(struct config *c, const char *name, struct error *e)
{
    struct watch_config *all = realloc(c->watches, (c->watch_count + 1) * sizeof(*all));

    if (!all)
        return no_memory(e);
    c->watches = all;
    all[c->watch_count] = (struct watch_config){.name = strdup(name)};
    return all[c->watch_count++].name ? 0 : no_memory(e);
}

static int add_path(struct config *c, const char *arg, enum value_level level, const char *origin,
                    struct error *e)
{
    struct value_source from = {.level = level, .origin = origin};
    char *name = NULL, *path = NULL, *section = NULL;
    int rc = config_split_watch(arg, &name, &path, e);

    if (rc == 0 && config_watch(c, name))
        rc = error_set(e, ERR_USAGE,
                       "two watches would be named '%s': give one of them another name with "
                       "NAME=PATH",
                       name);
    if (rc == 0)
        rc = add_watch(c, name, e);
    if (rc == 0) {
        section = text_format("watch %s", name);
        rc = section ? values_set(c, config_key_find("watch", "path"), section, path, &from, e)
                     : no_memory(e);
    }
    free(section);
    free(name);
    free(path);
    return rc;
}

/* WATCHKEEP_PATHS: [NAME=]PATH separated by ':'. */
static int add_paths_variable(struct config *c, const char *paths, struct error *e)
{
    static const char origin[] = "environment WATCHKEEP_PATHS";
    struct error why = ERROR_INIT;

    for (const char *at = paths; *at; at += *at == ':') {
        size_t len = strcspn(at, ":");
        char *arg = strndup(at, len);
        int rc = arg ? 0 : no_memory(&why);
        if (rc == 0 && len > 0)
            rc = add_path(c, arg, LEVEL_ENVIRONMENT, origin, &why);
        free(arg);
        if (rc != 0)
            return error_set(e, rc, "WATCHKEEP_PATHS: %s", why.message);
        at += len;
    }
    return 0;
}

/* Watches of the files, unless others were named: then a note for each that is left out. */
static int take_sections(struct loader *l, bool named_elsewhere, const char *by, struct error *e)
{
    char word[SECTION_WORD_MAX];

    if (l->lenient)
        return 0;

    for (size_t i = 0; i < l->section_count; i++) {
        const char *name = section_split(l->sections[i].name, word);
        if (strcmp(word, "watch") != 0 || config_watch(l->c, name))
            continue;
        if (!named_elsewhere) {
            int rc = add_watch(l->c, name, e);
            if (rc != 0)
                return rc;
            continue;
        }
        char *note =
            text_format("watch '%s' (%s) is left out: %s", name, l->sections[i].origin, by);
        bool kept = note && string_list_add(&l->c->notes, note, strlen(note));
        free(note);
        if (!kept)
            return no_memory(e);
        values_drop(l->c, l->sections[i].name);
    }
    return 0;
}

static int take_watches(struct loader *l, const struct config_flags *flags, struct error *e)
{
    const char *variable = getenv("WATCHKEEP_PATHS");
    int rc = 0;

    if (flags->paths && *flags->paths) {
        for (const char *const *p = flags->paths; rc == 0 && *p; p++)
            rc = add_path(l->c, *p, LEVEL_FLAG, "flag", e);
        return rc == 0 ? take_sections(l, true, "the command line names the watches", e) : rc;
    }
    if (variable && *variable) {
        rc = add_paths_variable(l->c, variable, e);
        return rc == 0 ? take_sections(l, true, "WATCHKEEP_PATHS names the watches", e) : rc;
    }
    return take_sections(l, false, NULL, e);
}

/* ---- defaults ---- */

static char *default_text(const struct config *c, const struct config_key *k)
{
    const struct config_value *repository = values_find(c, "service", "repository");
    const char *place = repository ? repository->text : "";

    if (strcmp(k->section, "service") == 0 && strcmp(k->key, "repository") == 0)
        return place_repository();
    if (strcmp(k->section, "service") == 0 && strcmp(k->key, "socket") == 0)
        return config_default_socket(place, repository && repository->level <= LEVEL_FILE);
    if (strcmp(k->section, "archive") == 0 && strcmp(k->key, "path") == 0)
        return text_format("%s/archives", place);
    return strdup(k->fallback);
}

static int set_default(struct config *c, const struct config_key *k, const char *section,
                       struct error *e)
{
    struct value_source from = {.level = LEVEL_DEFAULT, .origin = "default"};
    const struct config_value *v = values_find(c, section, k->key);
    int rc;

    if (v && (*v->text || k->type != VALUE_PATH))
        return 0;
    char *text = default_text(c, k);
    if (!text)
        return error_set(e, ERR_USAGE,
                         "no place for the repository is known (HOME is not set): give one with -r "
                         "or WATCHKEEP_REPO");
    from.level = v ? v->level : LEVEL_DEFAULT; /* "socket =" means the default, given in a file */
    from.file = v ? v->file + 1 : 0;
    rc = values_set(c, k, section, text, &from, e);
    free(text);
    return rc;
}

static int set_defaults(struct config *c, struct error *e)
{
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *k = &config_keys[i];
        int rc = 0;
        if (strcmp(k->section, "watch") != 0) {
            rc = set_default(c, k, k->section, e);
        } else if (!(k->flags & KEY_REQUIRED)) {
            for (size_t j = 0; rc == 0 && j < c->watch_count; j++) {
                char *section = text_format("watch %s", c->watches[j].name);
                rc = section ? set_default(c, k, section, e) : no_memory(e);
                free(section);
            }
        }
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* ---- what only holds between settings ---- */

/* "file:line: " of a value that stands in a file, else "". */
static const char *place_of(const struct config_value *v, char *out, size_t cap)
{
    if (v && v->level == LEVEL_FILE)
        snprintf(out, cap, "%s: ", v->origin);
    else if (v && v->level == LEVEL_ENVIRONMENT)
        snprintf(out, cap, "%s: ", v->origin + strlen("environment "));
    else
        out[0] = 0;
    return out;
}

static int check_watch(const struct config *c, const struct watch_config *w, const char *section,
                       struct error *e)
{
    const struct config_value *delay = values_find(c, section, "max_delay");
    char place[512];

    if (place_inside(w->path, c->repository))
        return error_set(e, ERR_USAGE, "%swatch '%s' lies inside the repository '%s'",
                         place_of(values_find(c, section, "path"), place, sizeof(place)), w->name,
                         c->repository);
    if (w->max_delay_ms < w->settle_ms) {
        if (delay->level == LEVEL_DEFAULT)
            delay = values_find(c, section, "settle");
        return error_set(e, ERR_USAGE, "%smax_delay is shorter than settle in watch '%s'",
                         place_of(delay, place, sizeof(place)), w->name);
    }
    return 0;
}

/* A policy in which no rule keeps anything would drop all that the floor does not hold. */
static int check_retention(const struct config *c, const struct section *s, struct error *e)
{
    static const char *const rules[] = {"keep_days",   "keep_last",    "keep_hourly", "keep_daily",
                                        "keep_weekly", "keep_monthly", "keep_yearly"};
    const char *section = s ? s->name : "retention";

    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        const struct config_value *v = values_find(c, section, rules[i]);
        if (!v)
            v = values_find(c, "retention", rules[i]);
        if (v && strcmp(v->text, "off") != 0)
            return 0;
    }
    return error_set(e, ERR_USAGE,
                     "%s%sin [%s] no rule keeps anything: set one of keep_days, "
                     "keep_last, keep_hourly ... keep_yearly",
                     s ? s->origin : "", s ? ": " : "", section);
}

static int check_sections(const struct loader *l, struct error *e)
{
    const struct section *plain = NULL;
    char word[SECTION_WORD_MAX];

    for (size_t i = 0; i < l->section_count; i++) {
        const struct section *s = &l->sections[i];
        const char *name = section_split(s->name, word);
        bool retention = strcmp(word, "retention") == 0;
        bool known = strcmp(word, "watch") == 0 || config_watch(l->c, name);
        for (size_t j = 0; !known && j < l->section_count; j++)
            known = strncmp(l->sections[j].name, "watch ", 6) == 0 &&
                    strcmp(l->sections[j].name + 6, name) == 0;
        if (*name && !known)
            return error_set(e, ERR_USAGE, "%s: there is no watch '%s'", s->origin, name);
        int rc = retention && *name ? check_retention(l->c, s, e) : 0;
        if (rc != 0)
            return rc;
        if (retention && !*name)
            plain = s;
    }
    return check_retention(l->c, plain, e);
}

/* ---- the typed settings ---- */

static int build_watch(const struct loader *l, struct watch_config *w, struct error *e)
{
    const struct config *c = l->c;
    char *section = text_format("watch %s", w->name);
    bool failed = !section;
    int rc = 0;

    if (failed)
        return no_memory(e);
    for (size_t i = 0; i < l->section_count; i++) {
        if (!values_find(c, section, "path") && strcmp(l->sections[i].name, section) == 0) {
            rc = error_set(e, ERR_USAGE, "%s: watch '%s' has no path", l->sections[i].origin,
                           w->name);
            goto out;
        }
    }
    w->path = strdup(values_text(c, section, "path"));
    w->include = values_patterns(values_text(c, section, "include"), &failed);
    w->exclude = values_patterns(values_text(c, section, "exclude"), &failed);
    w->settle_ms = values_number(c, section, "settle");
    w->max_delay_ms = values_number(c, section, "max_delay");
    w->interval_ms = values_number(c, section, "interval");
    w->sqlite = strcmp(values_text(c, section, "sqlite"), "off") != 0;
    rc = failed || !w->path ? no_memory(e) : check_watch(c, w, section, e);
out:
    free(section);
    return rc;
}

static int build(const struct loader *l, struct error *e)
{
    struct config *c = l->c;
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    int rc = 0;

    c->repository = strdup(values_text(c, "service", "repository"));
    c->socket = strdup(values_text(c, "service", "socket"));
    c->group = strdup(values_text(c, "service", "group"));
    c->codec = strdup(values_text(c, "service", "codec"));
    c->min_free = strdup(values_text(c, "service", "min_free"));
    c->archives = strdup(values_text(c, "archive", "path"));
    if (!c->repository || !c->socket || !c->group || !c->codec || !c->min_free || !c->archives)
        return no_memory(e);
    for (unsigned i = 0; i < 4; i++) {
        if (strcmp(values_text(c, "service", "log_level"), levels[i]) == 0)
            c->log_level = (enum log_level)i;
    }
    c->log_format = strcmp(values_text(c, "service", "log_format"), "json") == 0 ? LOG_FORMAT_JSON
                                                                                 : LOG_FORMAT_TEXT;
    for (size_t i = 0; rc == 0 && i < c->watch_count; i++)
        rc = build_watch(l, &c->watches[i], e);
    return rc == 0 && !l->lenient ? check_sections(l, e) : rc;
}

static int set_flag_repository(struct config *c, const char *repository, struct error *e)
{
    struct value_source from = {.level = LEVEL_FLAG, .origin = "flag"};
    char *path = config_clean_path(repository);
    int rc =
        path ? values_set(c, config_key_find("service", "repository"), "service", path, &from, e)
             : no_memory(e);

    free(path);
    return rc;
}

static int load(struct loader *l, const struct config_flags *flags, struct error *e)
{
    const char *variable = getenv("WATCHKEEP_CONFIG");
    const char *file = flags->file ? flags->file : variable && *variable ? variable : NULL;
    int rc = read_files(l, file, e);

    if (rc == 0)
        rc = take_watches(l, flags, e);
    if (rc == 0)
        rc = environment_apply(l->c, e);
    if (rc == 0 && flags->repository)
        rc = set_flag_repository(l->c, flags->repository, e);
    if (rc == 0)
        rc = set_defaults(l->c, e);
    if (rc == 0)
        rc = build(l, e);
    if (rc == 0)
        values_sort(l->c);
    return rc;
}

int config_load(const struct config_flags *flags, struct config **out, struct error *e)
{
    struct loader l = {.c = calloc(1, sizeof(struct config)), .lenient = flags->lenient};
    int rc = l.c ? 0 : no_memory(e);

    *out = NULL;
    if (rc == 0) {
        l.c->enabled = true;
        rc = load(&l, flags, e);
    }
    for (size_t i = 0; i < l.section_count; i++) {
        free(l.sections[i].name);
        free(l.sections[i].origin);
    }
    free(l.sections);
    if (rc == 0)
        *out = l.c;
    else
        config_free(l.c);
    return rc;
}

void config_free(struct config *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->watch_count; i++) {
        free(c->watches[i].name);
        free(c->watches[i].path);
        string_list_free(c->watches[i].include);
        string_list_free(c->watches[i].exclude);
    }
    free(c->watches);
    values_free(c);
    string_list_free(c->notes);
    free(c->repository);
    free(c->socket);
    free(c->group);
    free(c->codec);
    free(c->min_free);
    free(c->archives);
    free(c->file);
    free(c);
}
