/* world_fixture.h - a repository in a folder of its own, and the model of what it holds. */
#ifndef WK_TESTS_WORLD_FIXTURE_H
#define WK_TESTS_WORLD_FIXTURE_H

#include "repo_fixture.h"

struct world {
    struct scratch *scratch;
    char path[128];    /* of the repository */
    struct repo *repo; /* or NULL */
    struct model model;
    struct notices notices; /* since it was opened */
};

/* As cmocka's setup: it is made, and not open. */
static inline int world_make(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct error e = ERROR_INIT;

    if (!w || scratch_setup((void **)&w->scratch) != 0)
        return -1;
    snprintf(w->path, sizeof(w->path), "%s/repo", w->scratch->path);
    OK(repo_init(w->path, &e), e);
    *state = w;
    return 0;
}

static inline void world_reopen(struct world *w, enum repo_mode mode)
{
    struct error e = ERROR_INIT;

    repo_close(w->repo);
    w->repo = NULL;
    w->notices = (struct notices){0};
    OK(open_repo(w->path, mode, &w->notices, &w->repo, &e), e);
}

/* The same, open to write. */
static inline int world_open(void **state)
{
    if (world_make(state) != 0)
        return -1;
    world_reopen(*state, REPO_WRITE);
    return 0;
}

static inline int world_end(void **state)
{
    struct world *w = *state;

    repo_close(w->repo);
    int rc = scratch_teardown((void **)&w->scratch);
    free(w);
    return rc;
}

static inline void must_save(struct world *w, const char *watch, const struct model_tree *tree)
{
    struct error e = ERROR_INIT;

    OK(save(w->repo, &w->model, watch, tree, &e), e);
}

static inline void must_drop(struct world *w, const uint64_t *numbers, uint32_t count)
{
    struct error e = ERROR_INIT;

    OK(repo_drop(w->repo, numbers, count, &e), e);
    for (size_t i = 0; i < w->model.count; i++)
        for (uint32_t n = 0; n < count; n++)
            w->model.snapshots[i].dropped |= w->model.snapshots[i].number == numbers[n];
}

#endif
