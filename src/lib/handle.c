#include "lib/handle.h"

#include "base/text.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

_Static_assert((int)WK_FAILED == ERR_FAILED && (int)WK_USAGE == ERR_USAGE &&
                   (int)WK_INCOMPLETE == ERR_INCOMPLETE && (int)WK_DAMAGED == ERR_DAMAGED &&
                   (int)WK_REFUSED == ERR_REFUSED && (int)WK_NOTFOUND == ERR_NOTFOUND &&
                   (int)WK_NOREPO == ERR_NOREPO && (int)WK_BUSY == ERR_BUSY &&
                   (int)WK_DENIED == ERR_DENIED && (int)WK_NOSPACE == ERR_NOSPACE &&
                   (int)WK_CANCELLED == ERR_CANCELLED,
               "the public codes are the program's");

const char *wk_version(void)
{
    return WK_VERSION;
}

struct error *handle_begin(struct wk_handle *h)
{
    error_clear(&h->last);
    return &h->last;
}

int handle_end(struct wk_handle *h, int rc)
{
    if (rc == ERR_CATALOG)
        rc = ERR_DAMAGED;
    if (rc == 0)
        error_clear(&h->last);
    else if (!*h->last.message)
        error_set(&h->last, rc < 0 ? rc : ERR_FAILED, "%s", error_word(rc));
    h->last.code = rc;
    return rc;
}

void struct_take(void *to, size_t to_size, const void *from)
{
    size_t n;

    if (!from)
        return;
    memcpy(&n, from, sizeof(n));
    memcpy(to, from, n < to_size ? n : to_size);
}

void struct_give(void *to, const void *from, size_t from_size)
{
    size_t n;

    if (!to)
        return;
    memcpy(&n, to, sizeof(n));
    memcpy(to, from, n < from_size ? n : from_size);
    memcpy(to, &n, sizeof(n));
}

int handle_repo(struct wk_handle *h, struct repo **out, struct error *e)
{
    return repo_open(h->path, REPO_READ, &(struct repo_options){.codec = CODEC_ZSTD}, out, e);
}

char *path_absolute(const char *path, struct error *e)
{
    char here[PATH_MAX];
    char *result = NULL;

    if (*path == '/')
        result = text_format("%s", path);
    else if (getcwd(here, sizeof(here)))
        result = text_format("%s/%s", here, path);
    if (!result)
        error_sys(e, errno, "cannot tell where '%s' is", path);
    return result;
}

int wk_open(const char *repository, unsigned flags, wk_handle **handle)
{
    struct wk_handle *h = *handle = calloc(1, sizeof(*h));

    if (!h)
        return WK_FAILED;
    struct error *e = handle_begin(h);
    if (!repository || !*repository || (flags & ~(unsigned)WK_CREATE))
        return handle_end(h,
                          error_set(e, ERR_USAGE, "no repository, or an unknown flag, is given"));
    h->path = path_absolute(repository, e);
    if (!h->path)
        return handle_end(h, e->code);
    int rc = 0;
    if (flags & WK_CREATE)
        rc = repo_init(h->path, e);
    else if (!repo_exists(h->path))
        rc = error_set(e, ERR_NOREPO, "there is no repository in '%s'", repository);
    return handle_end(h, rc < 0 ? rc : 0);
}

void wk_close(wk_handle *handle)
{
    if (handle)
        free(handle->path);
    free(handle);
}

const char *wk_error(const wk_handle *handle)
{
    return handle ? handle->last.message : "out of memory";
}

int wk_error_code(const wk_handle *handle)
{
    return handle ? handle->last.code : WK_FAILED;
}
