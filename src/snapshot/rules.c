#include "snapshot/rules.h"

#include "base/buffer.h"
#include "base/log.h"
#include "base/pattern.h"
#include "base/text.h"
#include "capture/signature.h"
#include "capture/sqlite_capture.h"
#include "io/atomic_file.h"
#include "io/safe_path.h"
#include "store/hash.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum {
    IGNORE_FILE_MAX = 1024 * 1024,
    EMPTY_BYTES_MAX = 4 * 1024 * 1024, /* what may be remembered of folders without one */
};

/* One rule a list, so that the one that decides can be named. */
struct pattern {
    char *text;
    struct pattern_list *rule;
};

struct patterns {
    struct pattern *v;
    size_t count, cap;
};

struct own { /* something of ours */
    char *path;
    char *rel; /* beneath the root, or NULL */
    bool known;
    dev_t dev;
    ino_t ino;
};

/* What is known of a folder's ignore file; without one the list is empty. */
struct ignore {
    struct ignore *next; /* in its bucket */
    struct patterns patterns;
    struct signature signature;
    bool exists;
    size_t len; /* of folder */
    char folder[];
};

struct rules {
    pthread_mutex_t lock;
    struct patterns include, exclude;
    struct own *own;
    size_t own_count;
    struct ignore **buckets;
    size_t bucket_count, ignore_count;
    size_t with_patterns;        /* ignore files that say something */
    size_t empty_bytes;          /* of the names of folders that have none */
    const struct ignore **above; /* of the path at hand: those that say something, highest first */
    size_t above_count, above_cap;
    struct buffer text;
};

/* ---- lists of patterns ---- */

static void patterns_release(struct patterns *l)
{
    for (size_t i = 0; i < l->count; i++) {
        free(l->v[i].text);
        pattern_list_free(l->v[i].rule);
    }
    free(l->v);
    *l = (struct patterns){0};
}

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "no memory for the rules of a watch");
}

static int patterns_add(struct patterns *l, const char *base, const char *text, struct error *e)
{
    struct pattern p = {strdup(text), pattern_list_new()};
    int rc = 0;

    if (!p.text || !p.rule)
        rc = no_memory(e);
    else
        rc = pattern_list_add(p.rule, base, text, e);
    if (rc == 0 && l->count == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 8;
        struct pattern *v = reallocarray(l->v, cap, sizeof(*v));
        if (!v) {
            rc = no_memory(e);
        } else {
            l->v = v;
            l->cap = cap;
        }
    }
    if (rc < 0 || pattern_list_empty(p.rule)) { /* a comment is no rule */
        free(p.text);
        pattern_list_free(p.rule);
        return rc;
    }
    l->v[l->count++] = p;
    return 0;
}

/* The last pattern that says something. */
static enum pattern_verdict patterns_match(const struct patterns *l, const char *path, bool is_dir,
                                           const char **why)
{
    for (size_t i = l->count; i-- > 0;) {
        enum pattern_verdict v = pattern_list_match(l->v[i].rule, path, is_dir);
        if (v != PATTERN_NONE) {
            *why = l->v[i].text;
            return v;
        }
    }
    return PATTERN_NONE;
}

/* ---- making and freeing ---- */

static int add_list(struct rules *r, struct patterns *l, const char *word, const char *const *from,
                    struct error *e)
{
    for (; from && *from; from++) {
        int rc = patterns_add(l, "", *from, e);
        if (rc < 0)
            return rc;
        buffer_printf(&r->text, "%s %s\n", word, *from);
    }
    return 0;
}

/* Where path lies beneath root by their names, or NULL. */
static char *beneath_root(const char *root, const char *path)
{
    size_t n = strlen(root);

    while (n > 0 && root[n - 1] == '/')
        n--;
    if (strncmp(path, root, n) != 0 || path[n] != '/')
        return NULL;
    while (path[n] == '/')
        n++;
    char *rel = strdup(path + n);
    for (n = rel ? strlen(rel) : 0; n > 0 && rel[n - 1] == '/';)
        rel[--n] = 0;
    if (rel && !*rel) { /* the root itself: identity has to tell */
        free(rel);
        return NULL;
    }
    return rel;
}

static int add_own(struct rules *r, const struct watch_spec *spec, struct error *e)
{
    size_t n = 0;

    while (spec->own_paths && spec->own_paths[n])
        n++;
    if (n == 0)
        return 0;
    r->own = calloc(n, sizeof(*r->own));
    if (!r->own)
        return no_memory(e);
    for (; r->own_count < n; r->own_count++) {
        struct own *o = &r->own[r->own_count];
        o->path = strdup(spec->own_paths[r->own_count]);
        if (!o->path)
            return no_memory(e);
        o->rel = beneath_root(spec->root, o->path);
    }
    return 0;
}

int rules_new(const struct watch_spec *spec, struct rules **out, struct error *e)
{
    struct rules *r = calloc(1, sizeof(*r));
    int rc = r ? 0 : no_memory(e);

    *out = NULL;
    if (rc < 0)
        return rc;
    pthread_mutex_init(&r->lock, NULL);
    rc = add_list(r, &r->include, "include", spec->include, e);
    if (rc == 0)
        rc = add_list(r, &r->exclude, "exclude", spec->exclude, e);
    if (rc == 0)
        rc = add_own(r, spec, e);
    if (!spec->sqlite)
        buffer_append_str(&r->text, RULES_SQLITE_OFF "\n");
    buffer_cstr(&r->text);
    if (rc == 0 && !buffer_ok(&r->text))
        rc = no_memory(e);
    if (rc < 0) {
        rules_free(r);
        return rc;
    }
    rules_look(r);
    *out = r;
    return 0;
}

static void ignore_free(struct ignore *g)
{
    patterns_release(&g->patterns);
    free(g);
}

void rules_free(struct rules *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < r->bucket_count; i++) {
        struct ignore *next;
        for (struct ignore *g = r->buckets[i]; g; g = next) {
            next = g->next;
            ignore_free(g);
        }
    }
    for (size_t i = 0; i < r->own_count; i++) {
        free(r->own[i].path);
        free(r->own[i].rel);
    }
    free(r->own);
    free(r->above);
    free(r->buckets);
    patterns_release(&r->include);
    patterns_release(&r->exclude);
    buffer_release(&r->text);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

const char *rules_text(const struct rules *r)
{
    return r->text.len > 0 ? (const char *)r->text.data : "";
}

bool rules_text_sqlite_off(const char *text)
{
    static const char line[] = RULES_SQLITE_OFF "\n";
    const char *at = text ? strstr(text, line) : NULL;

    while (at && at != text && at[-1] != '\n')
        at = strstr(at + 1, line);
    return at != NULL;
}

void rules_look(struct rules *r)
{
    pthread_mutex_lock(&r->lock);
    for (size_t i = 0; i < r->own_count; i++) {
        struct stat st;
        r->own[i].known = stat(r->own[i].path, &st) == 0;
        if (r->own[i].known) {
            r->own[i].dev = st.st_dev;
            r->own[i].ino = st.st_ino;
        }
    }
    pthread_mutex_unlock(&r->lock);
}

/* ---- ignore files, by folder ---- */

static struct ignore **slot(struct rules *r, const char *folder, size_t n)
{
    struct ignore **at = &r->buckets[hash_guard(folder, n, 0) & (r->bucket_count - 1)];

    while (*at && !(strncmp((*at)->folder, folder, n) == 0 && !(*at)->folder[n]))
        at = &(*at)->next;
    return at;
}

static struct ignore *find(struct rules *r, const char *folder, size_t n)
{
    return r->bucket_count ? *slot(r, folder, n) : NULL;
}

static void drop(struct rules *r, struct ignore **at)
{
    struct ignore *g = *at;

    *at = g->next;
    r->ignore_count--;
    r->with_patterns -= g->patterns.count > 0;
    r->empty_bytes -= g->exists ? 0 : g->len;
    ignore_free(g);
}

static void forget(struct rules *r, const char *folder, size_t n)
{
    struct ignore **at = r->bucket_count ? slot(r, folder, n) : NULL;

    if (at && *at)
        drop(r, at);
}

/* Folders without an ignore file are looked at again when they are asked about. */
static void forget_empty(struct rules *r)
{
    for (size_t i = 0; i < r->bucket_count; i++) {
        struct ignore **at = &r->buckets[i];
        while (*at) {
            if ((*at)->exists)
                at = &(*at)->next;
            else
                drop(r, at);
        }
    }
}

static bool grow(struct rules *r)
{
    size_t count = r->bucket_count ? 4 * r->bucket_count : 16;
    struct ignore **old = r->buckets;
    size_t old_count = r->bucket_count;
    struct ignore **v = calloc(count, sizeof(struct ignore *));

    if (!v)
        return false;
    r->buckets = v;
    r->bucket_count = count;
    for (size_t i = 0; i < old_count; i++) {
        struct ignore *next;
        for (struct ignore *g = old[i]; g; g = next) {
            next = g->next;
            struct ignore **at = slot(r, g->folder, g->len);
            g->next = *at;
            *at = g;
        }
    }
    free(old);
    return true;
}

/* The lines of an ignore file (text is used up); what cannot be used is said and left out. */
static void take_patterns(struct ignore *g, struct buffer *text)
{
    struct error e = ERROR_INIT;
    char *save = NULL;

    buffer_append(text, "", 1);
    for (char *line = buffer_ok(text) ? strtok_r((char *)text->data, "\n", &save) : NULL; line;
         line = strtok_r(NULL, "\n", &save)) {
        if (patterns_add(&g->patterns, g->folder, line, &e) < 0)
            log_warn("ignore file in '%s': %s", g->folder, e.message);
    }
}

/* Those of the ignore file that stands in dirfd. */
static void read_patterns(struct ignore *g, int dirfd)
{
    struct buffer b = BUFFER_INIT;
    struct error e = ERROR_INIT;

    if (small_file_read(dirfd, IGNORE_FILE_NAME, IGNORE_FILE_MAX, &b, &e) < 0)
        log_warn("ignore file in '%s': %s", g->folder, e.message);
    else
        take_patterns(g, &b);
    buffer_release(&b);
}

/* NULL on no memory. To be filled, then kept. */
static struct ignore *ignore_new(struct rules *r, const char *folder, size_t n)
{
    if (r->ignore_count >= 2 * r->bucket_count && !grow(r) && r->bucket_count == 0)
        return NULL;
    struct ignore *g = calloc(1, sizeof(*g) + n + 1);
    if (!g)
        return NULL;
    memcpy(g->folder, folder, n);
    g->len = n;
    return g;
}

static struct ignore *keep(struct rules *r, struct ignore *g)
{
    struct ignore **at = slot(r, g->folder, g->len);

    g->next = *at;
    *at = g;
    r->ignore_count++;
    r->with_patterns += g->patterns.count > 0;
    r->empty_bytes += g->exists ? 0 : g->len;
    return g;
}

/* Keep what is known of a folder; NULL on no memory (then nothing is kept). */
static struct ignore *learn(struct rules *r, const char *folder, size_t n, int dirfd,
                            const struct stat *st)
{
    struct ignore *g = ignore_new(r, folder, n);

    if (!g)
        return NULL;
    if (st && S_ISREG(st->st_mode)) {
        g->exists = true;
        signature_of(st, &g->signature);
        read_patterns(g, dirfd);
    }
    return keep(r, g);
}

/* Go and look whether the folder has an ignore file. */
static struct ignore *load(struct rules *r, int rootfd, const char *folder, size_t n)
{
    struct error e = ERROR_INIT;
    struct stat st;
    char *path = strndup(folder, n);
    int fd = path ? safe_open(rootfd, path, O_RDONLY | O_DIRECTORY, 0, &e) : -1;
    struct ignore *g = NULL;

    free(path);
    if (fd < 0)
        return NULL;
    bool there = fstatat(fd, IGNORE_FILE_NAME, &st, AT_SYMLINK_NOFOLLOW) == 0;
    g = learn(r, folder, n, fd, there ? &st : NULL);
    close(fd);
    return g;
}

void rules_forget(struct rules *r, const char *folder)
{
    pthread_mutex_lock(&r->lock);
    forget(r, folder, strlen(folder));
    pthread_mutex_unlock(&r->lock);
}

bool rules_see(struct rules *r, int dirfd, const char *folder, const struct stat *ignore_file)
{
    size_t n = strlen(folder);
    struct signature now = {0};
    bool news = false;

    if (ignore_file && !S_ISREG(ignore_file->st_mode))
        ignore_file = NULL;
    if (ignore_file)
        signature_of(ignore_file, &now);
    pthread_mutex_lock(&r->lock);
    struct ignore *g = find(r, folder, n);
    /* Most folders have none, and need not be remembered for that. */
    if (g ? g->exists != !!ignore_file || (ignore_file && !signature_same(&g->signature, &now))
          : !!ignore_file) {
        news = true;
        forget(r, folder, n);
        if (ignore_file)
            learn(r, folder, n, dirfd, ignore_file);
    }
    pthread_mutex_unlock(&r->lock);
    return news;
}

/* ---- of a snapshot ---- */

static int take_line(struct rules *r, const char *line, size_t len, struct error *e)
{
    static const char include[] = "include ", exclude[] = "exclude ";
    const size_t word = sizeof(include) - 1;
    bool is_include = len > word && memcmp(line, include, word) == 0;
    int rc = 0;

    if (!is_include && !(len > word && memcmp(line, exclude, word) == 0))
        return 0;
    char *pattern = strndup(line + word, len - word);
    if (!pattern)
        return no_memory(e);
    rc = patterns_add(is_include ? &r->include : &r->exclude, "", pattern, e);
    free(pattern);
    return rc;
}

int rules_from_text(const char *text, struct rules **out, struct error *e)
{
    struct rules *r = calloc(1, sizeof(*r));
    int rc = r ? 0 : no_memory(e);

    *out = NULL;
    if (rc < 0)
        return rc;
    pthread_mutex_init(&r->lock, NULL);
    for (const char *line = text ? text : ""; rc == 0 && *line; line += *line == '\n') {
        size_t len = strcspn(line, "\n");
        rc = take_line(r, line, len, e);
        line += len;
    }
    if (rc == 0)
        *out = r;
    else
        rules_free(r);
    return rc;
}

bool rules_knows(struct rules *r, const char *folder)
{
    pthread_mutex_lock(&r->lock);
    bool known = find(r, folder, strlen(folder)) != NULL;
    pthread_mutex_unlock(&r->lock);
    return known;
}

int rules_teach(struct rules *r, const char *folder, const char *text, size_t len, struct error *e)
{
    struct buffer b = BUFFER_INIT;

    pthread_mutex_lock(&r->lock);
    forget(r, folder, strlen(folder));
    struct ignore *g = ignore_new(r, folder, strlen(folder));
    if (g) {
        g->exists = len > 0;
        buffer_append(&b, text, len);
        take_patterns(g, &b);
        keep(r, g);
    }
    pthread_mutex_unlock(&r->lock);
    buffer_release(&b);
    return g ? 0 : no_memory(e);
}

/* ---- in or out ---- */

static const char *const is_ours = "watchkeep's own";
static const char *const not_included = "matches no include pattern";

static bool own_by_name(const struct rules *r, const char *path)
{
    for (size_t i = 0; i < r->own_count; i++) {
        if (r->own[i].rel && strcmp(r->own[i].rel, path) == 0)
            return true;
    }
    return false;
}

static bool own_by_identity(const struct rules *r, const struct stat *st)
{
    for (size_t i = 0; i < r->own_count; i++) {
        const struct own *o = &r->own[i];
        if (o->known && st->st_ino == o->ino && st->st_dev == o->dev)
            return true;
    }
    return false;
}

static bool is_scratch(const char *path, bool is_dir)
{
    const char *slash = strrchr(path, '/');

    return is_dir && strncmp(slash ? slash + 1 : path, RESTORE_SCRATCH_PREFIX,
                             sizeof(RESTORE_SCRATCH_PREFIX) - 1) == 0;
}

static bool is_ignore_file(const char *path, bool is_dir)
{
    const char *slash = strrchr(path, '/');

    return !is_dir && strcmp(slash ? slash + 1 : path, IGNORE_FILE_NAME) == 0;
}

static bool note_above(struct rules *r, const struct ignore *g)
{
    if (r->above_count == r->above_cap) {
        size_t cap = r->above_cap ? 2 * r->above_cap : 16;
        const struct ignore **v = reallocarray(r->above, cap, sizeof(*v));
        if (!v)
            return false;
        r->above = v;
        r->above_cap = cap;
    }
    r->above[r->above_count++] = g;
    return true;
}

/* Fill r->above for the path. rootfd -1: nothing is looked for on the disk. Below a folder that is
 * not there, as in a tree that was renamed meanwhile, nothing needs to be looked for. */
static void look_above(struct rules *r, int rootfd, const char *path)
{
    const char *slash = path - 1;

    r->above_count = 0;
    if (r->empty_bytes > EMPTY_BYTES_MAX)
        forget_empty(r);
    for (size_t n = 0; slash && (rootfd >= 0 || r->with_patterns > 0);) {
        const struct ignore *g = find(r, path, n);
        if (!g && rootfd >= 0) {
            g = load(r, rootfd, path, n);
            rootfd = g ? rootfd : -1;
        }
        if (g && g->patterns.count > 0 && !note_above(r, g))
            break;
        slash = strchr(slash + 1, '/');
        n = slash ? (size_t)(slash - path) : 0;
    }
}

/* By the ignore files above it, the deepest first, then by the watch's own. */
static bool excluded(const struct rules *r, const char *path, bool is_dir, const char **why)
{
    size_t n = strlen(path);

    for (size_t i = r->above_count; i-- > 0;) {
        const struct ignore *g = r->above[i];
        if (g->len >= n || (g->len > 0 && path[g->len] != '/'))
            continue; /* further down the way to another */
        enum pattern_verdict v = patterns_match(&g->patterns, path, is_dir, why);
        if (v != PATTERN_NONE)
            return v == PATTERN_MATCH;
    }
    return patterns_match(&r->exclude, path, is_dir, why) == PATTERN_MATCH;
}

/* A file has to match `include` itself or lie in a folder that does. prefix is scratch. */
static bool included(const struct rules *r, const char *path, bool is_dir, const char **why)
{
    struct buffer prefix = BUFFER_INIT;
    bool in = r->include.count == 0 || is_dir || is_ignore_file(path, is_dir) ||
              patterns_match(&r->include, path, is_dir, why) == PATTERN_MATCH;

    if (in)
        return true;
    buffer_append_str(&prefix, path);
    buffer_append(&prefix, "", 1);
    for (char *at = buffer_ok(&prefix) ? (char *)prefix.data : NULL; !in && at;) {
        char *slash = strchr(at, '/');
        if (!slash)
            break;
        *slash = 0;
        in = patterns_match(&r->include, (const char *)prefix.data, true, why) == PATTERN_MATCH;
        *slash = '/';
        at = slash + 1;
    }
    buffer_release(&prefix);
    if (!in)
        *why = not_included;
    return in;
}

/* One level, after look_above: nothing is asked about the folders above. */
static bool want_one(const struct rules *r, const char *path, bool is_dir, const struct stat *st,
                     const char **why)
{
    if (own_by_name(r, path) || is_scratch(path, is_dir) || (st && own_by_identity(r, st))) {
        *why = is_ours;
        return false;
    }
    return is_ignore_file(path, is_dir) || !excluded(r, path, is_dir, why);
}

void rules_see_above(struct rules *r, int rootfd, const char *folder)
{
    char *below = text_format("%s/x", folder);

    pthread_mutex_lock(&r->lock);
    look_above(r, rootfd, below && *folder ? below : "x");
    pthread_mutex_unlock(&r->lock);
    free(below);
}

bool rules_want_in(struct rules *r, const char *path, bool is_dir, const struct stat *st)
{
    const char *why = NULL;

    pthread_mutex_lock(&r->lock);
    look_above(r, -1, path);
    bool in = want_one(r, path, is_dir, st, &why) && included(r, path, is_dir, &why);
    pthread_mutex_unlock(&r->lock);
    return in;
}

static bool want_locked(struct rules *r, int rootfd, const char *path, bool is_dir,
                        const struct stat *st, const char **why)
{
    char *parent = strdup(path);
    bool in = true;

    look_above(r, rootfd, path);
    for (char *slash = parent ? strchr(parent, '/') : NULL; in && slash;
         slash = strchr(slash + 1, '/')) {
        *slash = 0;
        in = want_one(r, parent, true, NULL, why);
        *slash = '/';
    }
    free(parent);
    return in && want_one(r, path, is_dir, st, why) && included(r, path, is_dir, why);
}

bool rules_want(struct rules *r, int rootfd, const char *path, bool is_dir, const struct stat *st,
                const char **why)
{
    const char *decided = NULL;

    if (!*path)
        return true;
    pthread_mutex_lock(&r->lock);
    bool in = want_locked(r, rootfd, path, is_dir, st, &decided);
    pthread_mutex_unlock(&r->lock);
    if (why)
        *why = decided;
    return in;
}
