/* handle.h - what is behind a wk_handle. */
#ifndef WK_LIB_HANDLE_H
#define WK_LIB_HANDLE_H

#include "base/error.h"
#include "store/repository.h"
#include "watchkeep.h"

struct wk_handle {
    char *path;        /* of the repository, absolute */
    struct error last; /* of the last call */
};

/* Every public call begins and ends with these: the error is cleared; a result becomes the handle's
 * (a code without words gets some). handle_end returns rc. */
struct error *handle_begin(struct wk_handle *h);
int handle_end(struct wk_handle *h, int rc);

/* path made absolute by the working folder, links left alone. Caller frees; NULL: *e says why. */
char *path_absolute(const char *path, struct error *e);

/* The repository for reading, for the length of one call. */
int handle_repo(struct wk_handle *h, struct repo **out, struct error *e);

/* A caller's struct of an older version is shorter: copy in what there is of it (the rest of `to`
 * keeps its defaults), or out what there is room for. Each begins with its size_t size. */
void struct_take(void *to, size_t to_size, const void *from);
void struct_give(void *to, const void *from, size_t from_size);

#endif
