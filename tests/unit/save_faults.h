/* save_faults.h - saves, one of them given up, and a drop, under faults: what must hold afterwards.
 */
#ifndef WK_TESTS_SAVE_FAULTS_H
#define WK_TESTS_SAVE_FAULTS_H

#include "fault_fixture.h"

#define LARGE (SMALL_SAVE_MAX + 20000u)

static inline void try_save(struct repo *r, struct fault_run *o, const char *watch,
                            const char *name, const struct model_tree *tree)
{
    struct error e = ERROR_INIT;

    o->tried++;
    if (save_named(r, &o->model, watch, name, tree, &e) < 0)
        o->failed++;
}

static inline void try_two_at_once(struct repo *r, struct fault_run *o)
{
    struct model_tree a = *last_tree(&o->model, "app");
    struct error e = ERROR_INIT;
    struct txn *given_up, *t;
    uint64_t number;

    tree_set(&a, "both", 41, LARGE);
    if (begin_save(r, "given-up", &given_up, &e) < 0)
        return;
    put_changes(given_up, &(struct model_tree){.count = 0}, &a, &e);
    if (begin_save(r, "app", &t, &e) == 0) {
        o->tried++;
        int rc = put_changes(t, last_tree(&o->model, "app"), &a, &e);
        if (rc < 0) {
            txn_abort(t);
        } else {
            rc = end_save(t, NULL, &a, &number, &e);
            if (rc == 0)
                model_add(&o->model, "app", number, &a);
        }
        o->failed += rc < 0;
    }
    txn_abort(given_up);
}

static inline void try_drop(struct repo *r, struct fault_run *o)
{
    struct error e = ERROR_INIT;
    uint64_t number = o->model.snapshots[0].number;

    o->drop_tried = true;
    if (repo_drop(r, &number, 1, &e) == 0)
        o->dropped = true;
}

static inline void run_saves(struct fault_run *o)
{
    struct error e = ERROR_INIT;
    struct model_tree a = *last_tree(&o->model, "app"), b = *last_tree(&o->model, "photos");
    struct repo *r;

    if (open_repo(o->path, REPO_WRITE, NULL, &r, &e) < 0)
        return;
    o->opened = true;
    tree_set(&a, "one", 51, 3000);
    try_save(r, o, "app", "named", &a);
    tree_set(&b, "large", 53, LARGE);
    tree_remove(&b, "photo.jpg");
    try_save(r, o, "photos", NULL, &b);
    try_drop(r, o);
    try_two_at_once(r, o);
    repo_idle(r, &e);
    a = *last_tree(&o->model, "app");
    tree_set(&a, "two", 52, 9000);
    try_save(r, o, "app", NULL, &a);
    repo_close(r);
}

static inline void check_saves(struct fault_run *o)
{
    struct error e = ERROR_INIT;
    struct snapshot_row row;
    struct repo *r;
    bool exact = o->mode == MODE_FAIL || !o->hit;

    /* A reader comes first: it finds the same without changing anything. */
    OK(open_repo(o->path, REPO_READ, NULL, &r, &e), e);
    o->model.snapshots[0].dropped = o->drop_tried;
    check_model(r, &o->model);
    repo_close(r);
    OK(open_repo(o->path, REPO_WRITE, NULL, &r, &e), e);
    check_model(r, &o->model);
    size_t listed = check_all_listed(r);
    bool first_is_there =
        catalog_snapshot(repo_catalog(r), o->model.snapshots[0].number, &row, &e) == 0;
    if (first_is_there)
        snapshot_row_release(&row);
    assert_false(first_is_there && o->dropped);
    size_t acknowledged = o->model.count - 1 + first_is_there;
    if (exact)
        assert_int_equal(listed, acknowledged);
    assert_true(listed >= acknowledged && listed <= acknowledged + 1);
    check_refs(r);
    uint64_t newest = o->model.snapshots[o->model.count - 1].number;
    struct model_tree c = {.count = 0};
    tree_set(&c, "later", 61, LARGE);
    OK(save(r, &o->model, "third", &c, &e), e);
    assert_true(o->model.snapshots[o->model.count - 1].number > newest);
    check_model(r, &o->model);
    check_rebuilt_after_fault(r, o->path);
    assert_int_equal(check_all_listed(r), listed + 1);
    repo_close(r);
}

static inline int saves_setup(void **state)
{
    struct model_tree a = {.count = 0}, p = {.count = 0};
    struct error e = ERROR_INIT;
    struct fault_base *b;
    struct repo *r;

    if (fault_base_begin(state, &b, &r) != 0)
        return -1;
    tree_set(&a, "zero", 2, 5000);
    OK(save(r, &b->model, "app", &a, &e), e);
    tree_set(&a, "zero", 4, 5100);
    OK(save(r, &b->model, "app", &a, &e), e);
    tree_set(&p, "photo.jpg", 5, LARGE);
    OK(save(r, &b->model, "photos", &p, &e), e);
    repo_close(r);
    return 0;
}

static const struct fault_plan saves = {run_saves, check_saves, 30, 7};

#endif
