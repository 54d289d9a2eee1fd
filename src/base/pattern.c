/* Why it is never slow: the elements of a pattern match independently of where they stand, so after
 * a mismatch only the last star needs another try, never an earlier one. Both levels use that: '*'
 * over the bytes of a name, '**' over the names of a path. The cost is at most |pattern| * |path|.
 */
#include "base/pattern.h"

#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { PATTERN_MAX = 4096 };

struct rule {
    char *base;     /* without a slash at its end; "" is the root */
    char *text;     /* the parts, each NUL-terminated */
    size_t parts;   /* how many */
    bool negated;   /* began with '!' */
    bool dir_only;  /* ended with '/' */
    bool any_depth; /* had no other slash: its one part stands for the last name of a path */
};

struct pattern_list {
    struct rule *rules;
    size_t count;
    size_t cap;
};

struct pattern_list *pattern_list_new(void)
{
    return calloc(1, sizeof(struct pattern_list));
}

void pattern_list_free(struct pattern_list *l)
{
    if (!l)
        return;
    for (size_t i = 0; i < l->count; i++) {
        free(l->rules[i].base);
        free(l->rules[i].text);
    }
    free(l->rules);
    free(l);
}

bool pattern_list_empty(const struct pattern_list *l)
{
    return l->count == 0;
}

/* ---- one character class ---- */

struct class_name {
    const char *name;
    int (*is)(int c);
};

static bool in_named_class(const char *name, size_t len, uint8_t c)
{
    static const struct class_name names[] = {
        {"alnum", isalnum}, {"alpha", isalpha}, {"blank", isblank}, {"cntrl", iscntrl},
        {"digit", isdigit}, {"graph", isgraph}, {"lower", islower}, {"print", isprint},
        {"punct", ispunct}, {"space", isspace}, {"upper", isupper}, {"xdigit", isxdigit}};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strlen(names[i].name) == len && memcmp(names[i].name, name, len) == 0)
            return c < 0x80 && names[i].is(c);
    }
    return false;
}

/* Length of NAME where "[:NAME:]" begins s, else 0. */
static size_t named_class_len(const char *s)
{
    if (s[0] != '[' || s[1] != ':')
        return 0;
    size_t n = strspn(s + 2, "abcdefghijklmnopqrstuvwxyz");
    return s[2 + n] == ':' && s[3 + n] == ']' ? n : 0;
}

/* One plain or escaped character of a class; false at the pattern's end. */
static bool class_char(const char **p, uint8_t *c)
{
    if (**p == '\\')
        ++*p;
    if (!**p)
        return false;
    *c = (uint8_t)(*p)[0];
    ++*p;
    return true;
}

/* *p stands behind '['. Moves it behind ']' and tells whether c is in the class; *closed is false
 * for a class without an end, which matches nothing. */
static bool class_has(const char **p, uint8_t c, bool *closed)
{
    bool inverted = **p == '!' || **p == '^';
    bool found = false;
    bool first = true;

    *closed = false;
    *p += inverted;
    while (**p != ']' || first) {
        uint8_t low, high;
        first = false;
        size_t name_len = named_class_len(*p);
        if (name_len > 0) {
            found |= in_named_class(*p + 2, name_len, c);
            *p += name_len + 4;
            continue;
        }
        if (!class_char(p, &low))
            return false;
        high = low;
        if (**p == '-' && (*p)[1] && (*p)[1] != ']') {
            ++*p;
            if (!class_char(p, &high))
                return false;
        }
        found |= c == low || (low < c && c <= high); /* git takes the a of [a-Z] too */
    }
    ++*p;
    *closed = true;
    return found != inverted;
}

/* ---- one name against one part ---- */

/* Match one element of the part that is no star, and move past it. */
static bool match_one(const char **p, uint8_t c)
{
    const char *at = *p;
    bool hit;

    switch (*at) {
    case 0:
        return false;
    case '?':
        at++;
        hit = true;
        break;
    case '[': {
        bool closed;
        at++;
        hit = class_has(&at, c, &closed);
        hit = hit && closed;
        break;
    }
    case '\\':
        at++;
        hit = *at && (uint8_t)*at == c;
        at++;
        break;
    default:
        hit = (uint8_t)*at == c;
        at++;
    }
    if (hit)
        *p = at;
    return hit;
}

static bool match_name(const char *p, const char *name, size_t n)
{
    const char *star = NULL; /* the part behind the last star */
    size_t taken = 0;        /* where that star ends */
    size_t i = 0;

    while (i < n) {
        if (*p == '*') {
            while (*p == '*')
                p++;
            if (!*p)
                return true;
            star = p;
            taken = i;
        } else if (match_one(&p, (uint8_t)name[i])) {
            i++;
        } else if (star) {
            p = star;
            i = ++taken;
        } else {
            return false;
        }
    }
    while (*p == '*')
        p++;
    return !*p;
}

/* ---- a path against the parts ---- */

static const char *next_name(const char *name)
{
    const char *slash = strchr(name, '/');

    return slash ? slash + 1 : NULL;
}

static const char *next_part(const char *part)
{
    return part + strlen(part) + 1;
}

static bool match_parts(const struct rule *r, const char *path)
{
    const char *part = r->text;
    const char *star_part = NULL;
    const char *star_name = NULL;
    size_t left = r->parts;
    size_t star_left = 0;

    while (path) {
        if (left > 0 && strcmp(part, "**") == 0) {
            if (left == 1)
                return true; /* at the end it stands for one name or more */
            part = star_part = next_part(part);
            left = star_left = left - 1;
            star_name = path;
        } else if (left > 0 && match_name(part, path, strcspn(path, "/"))) {
            part = next_part(part);
            left--;
            path = next_name(path);
        } else if (star_part) {
            part = star_part;
            left = star_left;
            path = star_name = next_name(star_name);
        } else {
            return false;
        }
    }
    return left == 0;
}

static bool rule_matches(const struct rule *r, const char *path, bool is_dir)
{
    size_t base_len = strlen(r->base);

    if (r->dir_only && !is_dir)
        return false;
    if (base_len > 0) {
        if (strncmp(path, r->base, base_len) != 0 || path[base_len] != '/')
            return false;
        path += base_len + 1;
    }
    if (!r->any_depth)
        return match_parts(r, path);
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    return match_name(r->text, name, strlen(name));
}

enum pattern_verdict pattern_list_match(const struct pattern_list *l, const char *path, bool is_dir)
{
    for (size_t i = l->count; i-- > 0;) {
        const struct rule *r = &l->rules[i];
        if (rule_matches(r, path, is_dir))
            return r->negated ? PATTERN_NEGATED : PATTERN_MATCH;
    }
    return PATTERN_NONE;
}

/* ---- reading a pattern ---- */

/* Length without the line's end and without spaces that no backslash keeps. */
static size_t trimmed_len(const char *s)
{
    size_t end = 0;
    size_t i = 0;

    while (s[i] && s[i] != '\n' && !(s[i] == '\r' && (!s[i + 1] || s[i + 1] == '\n'))) {
        bool space = s[i] == ' ';
        i += s[i] == '\\' && s[i + 1] ? 2 : 1;
        if (!space)
            end = i;
    }
    return end;
}

/* Length of the class that begins at s, or 1 when it has no end and '[' is just a character. */
static size_t class_len(const char *s)
{
    const char *at = s + 1;
    bool closed;

    class_has(&at, 0, &closed);
    return closed ? (size_t)(at - s) : 1;
}

/* Cut text (n bytes, changed in place) at its slashes; returns the number of parts. */
static size_t split(char *text)
{
    size_t parts = 1;
    char *to = text;

    for (const char *from = text; *from;) {
        size_t n = *from == '[' ? class_len(from) : 1;
        if (*from == '\\' && from[1])
            n = 2;
        if (*from == '/' || (n == 2 && *from == '\\' && from[1] == '/')) {
            *to++ = 0;
            parts++;
        } else {
            memmove(to, from, n);
            to += n;
        }
        from += n;
    }
    *to = 0;
    return parts;
}

/* Read the pattern's n bytes; false on no memory. r->text stays NULL when it says nothing. */
static bool read_rule(struct rule *r, const char *s, size_t n)
{
    if (n > 0 && *s == '!') {
        r->negated = true;
        s++;
        n--;
    }
    if (n > 0 && s[n - 1] == '/') {
        r->dir_only = true;
        n--;
    }
    if (n == 0)
        return true;
    bool anchored = *s == '/';
    s += anchored;
    n -= anchored;
    r->text = strndup(s, n);
    if (!r->text)
        return false;
    r->any_depth = !anchored && !strchr(r->text, '/');
    r->parts = split(r->text);
    return true;
}

static char *copy_base(const char *base)
{
    size_t n = strlen(base);

    while (n > 0 && base[n - 1] == '/')
        n--;
    return strndup(base, n);
}

static bool make_room(struct pattern_list *l)
{
    if (l->count < l->cap)
        return true;
    size_t cap = l->cap ? 2 * l->cap : 8;
    struct rule *rules = reallocarray(l->rules, cap, sizeof(*rules));
    if (!rules)
        return false;
    l->rules = rules;
    l->cap = cap;
    return true;
}

int pattern_list_add(struct pattern_list *l, const char *base, const char *pattern, struct error *e)
{
    struct rule r = {0};
    size_t n = trimmed_len(pattern);

    if (n > PATTERN_MAX)
        return error_set(e, ERR_USAGE, "a pattern of %zu bytes is longer than %d", n, PATTERN_MAX);
    if (n == 0 || *pattern == '#')
        return 0;
    if (!read_rule(&r, pattern, n))
        goto no_memory;
    if (!r.text)
        return 0;
    r.base = copy_base(base);
    if (!r.base || !make_room(l))
        goto no_memory;
    l->rules[l->count++] = r;
    return 0;

no_memory:
    free(r.base);
    free(r.text);
    return error_set(e, ERR_FAILED, "no memory for a pattern");
}
