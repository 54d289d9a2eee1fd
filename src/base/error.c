#include "base/error.h"

#include "base/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/banned.h"

/* Shorten s to at most max bytes without cutting a character in two. */
static void cut(char *s, size_t max)
{
    if (strlen(s) <= max)
        return;
    while (max > 0 && ((unsigned char)s[max] & 0xc0) == 0x80)
        max--;
    s[max] = 0;
}

/* The arguments may lie in *e itself (a message wrapped into a longer one), so *e is written only
 * when all is formatted. One byte more than fits, so that cut sees where the next begins. */
static void __attribute__((format(printf, 4, 0)))
fill(struct error *e, int code, int sys, const char *fmt, va_list ap)
{
    char text[sizeof(e->message) + 1];
    char reason[160] = "";

    if (vsnprintf(text, sizeof(text), fmt, ap) < 0)
        text[0] = 0;
    if (sys != 0) {
        char word[128];
        snprintf(reason, sizeof(reason), ": %s", strerror_r(sys, word, sizeof(word)));
    }
    size_t tail = strlen(reason);
    cut(text, sizeof(e->message) - 1 - tail);
    size_t head = strlen(text);
    memcpy(e->message, text, head);
    memcpy(e->message + head, reason, tail + 1);
    e->code = code;
    e->sys = sys;
    e->path[0] = 0;
}

int error_set(struct error *e, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fill(e, code, 0, fmt, ap);
    va_end(ap);
    return code;
}

static int code_of_errno(int sys)
{
    switch (sys) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return ERR_NOSPACE;
    case EACCES:
    case EPERM:
    case EROFS:
        return ERR_DENIED;
    case ENOENT:
    case ENOTDIR:
        return ERR_NOTFOUND;
    default:
        return ERR_FAILED;
    }
}

int error_sys(struct error *e, int sys, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fill(e, code_of_errno(sys), sys, fmt, ap);
    va_end(ap);
    return e->code;
}

int error_path(struct error *e, const char *path)
{
    text_escape(path, e->path, sizeof(e->path));
    return e->code;
}

static const struct {
    int code;
    const char *word;
} codes[] = {
#define X(name, code, word) {code, word},
    ERROR_CODES(X)
#undef X
};

const char *error_word(int code)
{
    if (code == ERR_OK)
        return "ok";
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        if (codes[i].code == code)
            return codes[i].word;
    }
    return error_word(ERR_FAILED);
}

int error_exit_code(int code)
{
    if (code == ERR_OK)
        return 0;
    if (code == ERR_CATALOG)
        code = ERR_DAMAGED;
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        if (codes[i].code == code)
            return -code;
    }
    return 1;
}

void error_clear(struct error *e)
{
    e->code = ERR_OK;
    e->sys = 0;
    e->message[0] = 0;
    e->path[0] = 0;
}

int error_worse_exit(int a, int b)
{
    static const int order[] = {130, 143, 1, 13, 12, 4, 5, 6, 11, 2, 10, 3};

    for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
        if (a == order[i] || b == order[i])
            return order[i];
    }
    return a ? a : b;
}
