/* error.h - the one way a function says that it failed.
 *
 * A function that can fail returns int: 0, or a negative code from ERROR_CODES. The caller gives a
 * struct error (never NULL); it is filled where the fault is found, passed up unchanged, and
 * printed once, at the top. A function returns an error or logs it, never both.
 * Codes above -100 are the negated exit codes of the program, where they have one. */
#ifndef WK_BASE_ERROR_H
#define WK_BASE_ERROR_H

#include <stddef.h>

/*         name           code  word for JSON and logs */
#define ERROR_CODES(X)                                                                            \
    X(ERR_FAILED, -1, "failed")           /* anything without a code of its own */                \
    X(ERR_USAGE, -2, "usage")             /* wrong flag, argument or configuration */             \
    X(ERR_INCOMPLETE, -3, "incomplete")   /* done, but something could not be read */             \
    X(ERR_DAMAGED, -4, "damaged")         /* bytes that do not match their hash or framing */     \
    X(ERR_REFUSED, -5, "refused")         /* a guard says no */                                   \
    X(ERR_NOTFOUND, -6, "not-found")      /* no such snapshot, path, watch, record */             \
    X(ERR_NOREPO, -10, "no-repository")   /* none there, or one this version cannot use */        \
    X(ERR_BUSY, -11, "busy")              /* somebody else holds it */                            \
    X(ERR_DENIED, -12, "denied")          /* EACCES, EPERM, not the owner */                      \
    X(ERR_NOSPACE, -13, "no-space")       /* ENOSPC, EDQUOT, EFBIG by limit */                    \
    X(ERR_CATALOG, -101, "catalog")       /* the index failed: it is made anew, then try again */ \
    X(ERR_CANCELLED, -130, "interrupted") /* the caller asked to stop */

enum error_code {
    ERR_OK = 0,
#define X(name, code, word) name = code,
    ERROR_CODES(X)
#undef X
};

struct error {
    int code;          /* the code that was returned */
    int sys;           /* errno behind it, or 0 */
    char message[768]; /* lower case, no full stop, subjects in 'quotes', printable UTF-8 */
    char path[1024];   /* subject path for JSON, printable, or "" */
};

#define ERROR_INIT   \
    {                \
        0, 0, "", "" \
    }

/* Fill *e and return code (which must be negative). */
int error_set(struct error *e, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Fill *e from an errno: the message is "<formatted>: <strerror>", the code follows from sys
 * (ENOSPC, EDQUOT, EFBIG -> ERR_NOSPACE; EACCES, EPERM, EROFS -> ERR_DENIED; ENOENT, ENOTDIR ->
 * ERR_NOTFOUND; else ERR_FAILED). Returns that code. */
int error_sys(struct error *e, int sys, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Remember the path an error is about (escaped for print); returns e->code. */
int error_path(struct error *e, const char *path);

/* The word of a code, "ok" for 0. */
const char *error_word(int code);

/* The exit code of the program for a result: 0 for 0, else -code where that is one, else 1. */
int error_exit_code(int code);

/* Of two exit codes the one that matters more, for commands that did several things. */
int error_worse_exit(int a, int b);

void error_clear(struct error *e);

#endif
