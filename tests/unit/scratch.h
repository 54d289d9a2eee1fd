/* scratch.h - a folder of its own for each test, removed at its end. */
#ifndef WK_TESTS_SCRATCH_H
#define WK_TESTS_SCRATCH_H

#include "io/safe_path.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

struct scratch {
    char path[64];
    int fd;
};

/* As cmocka's setup and teardown; *state is the struct scratch. */
static inline int scratch_setup(void **state)
{
    struct scratch *s = malloc(sizeof(*s));

    if (!s)
        return -1;
    *s = (struct scratch){.path = "/tmp/wk-unit-XXXXXX", .fd = -1};
    *state = s;
    if (!mkdtemp(s->path))
        return -1;
    s->fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return s->fd < 0 ? -1 : 0;
}

static inline int scratch_teardown(void **state)
{
    struct scratch *s = *state;
    struct error e = ERROR_INIT;
    int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    int rc = root < 0 ? -1 : remove_tree(root, s->path + 1, &e);
    close(root);
    close(s->fd);
    free(s);
    return rc == 0 ? 0 : -1;
}

#endif
