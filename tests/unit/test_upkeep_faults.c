/* Upkeep that breaks off at any operation on files loses nothing: seals, checkpoint, compaction,
 * drop and removal, failing once, for good, killed, and with the power cut. */
#include "fault_fixture.h"

#include "base/banned.h"

/* A history that leaves something to do for each part: blocks in the log and in data packs, dead
 * and alive, a checkpoint that is there already, a data pack that has ended. */
static int setup(void **state)
{
    struct model_tree a = {.count = 0}, p = {.count = 0};
    struct error e = ERROR_INIT;
    struct fault_base *b;
    struct repo *r;

    if (fault_base_begin(state, &b, &r) != 0)
        return -1;
    tree_set(&a, "zero", 3, 5000);
    OK(save(r, &b->model, "app", &a, &e), e);
    tree_set(&p, "photo.jpg", 5, LARGE);
    tree_set(&p, "small", 8, 3000);
    OK(save(r, &b->model, "photos", &p, &e), e);
    OK(repo_upkeep(r, &everything, NULL, &e), e);
    tree_set(&a, "zero", 7, 5100);
    OK(save(r, &b->model, "app", &a, &e), e);
    tree_set(&p, "photo.jpg", 9, LARGE);
    OK(save(r, &b->model, "photos", &p, &e), e);
    tree_set(&a, "one", 11, 6000);
    OK(save(r, &b->model, "app", &a, &e), e);
    repo_close(r);
    return 0;
}

static void run(struct fault_run *o)
{
    const uint64_t doomed[] = {1, 2};
    struct error e = ERROR_INIT;
    struct model_tree a = *last_tree(&o->model, "app");
    struct repo *r;

    if (open_repo(o->path, REPO_WRITE, NULL, &r, &e) < 0)
        return;
    o->opened = true;
    o->drop_tried = true;
    o->dropped = repo_drop(r, doomed, 2, &e) == 0;
    o->failed += !o->dropped;
    o->failed += repo_upkeep(r, &everything, NULL, &e) < 0;
    tree_set(&a, "two", 51, 3000);
    o->failed += save(r, &o->model, "app", &a, &e) < 0;
    o->failed += repo_upkeep(r, &everything, NULL, &e) < 0;
    repo_close(r);
}

static void check_rebuild(struct repo *r, const char *path)
{
    size_t listed = check_all_listed(r);

    check_refs(r);
    check_rebuilt_after_fault(r, path);
    assert_int_equal(check_all_listed(r), listed);
}

static void check_after(struct fault_run *o)
{
    struct error e = ERROR_INIT;
    struct snapshot_row row;
    struct repo *r;

    OK(open_repo(o->path, REPO_READ, NULL, &r, &e), e);
    for (size_t i = 0; i < 2; i++) {
        bool there = catalog_snapshot(repo_catalog(r), i + 1, &row, &e) == 0;
        if (there)
            snapshot_row_release(&row);
        assert_false(there && o->dropped);
        assert_true(there || o->drop_tried);
        o->model.snapshots[i].dropped = !there;
    }
    check_model(r, &o->model);
    check_refs(r);
    repo_close(r);
    OK(open_repo(o->path, REPO_WRITE, NULL, &r, &e), e);
    check_model(r, &o->model);
    if (o->at % 4 == 0) /* it costs most of the time */
        check_rebuild(r, o->path);
    /* What was broken off is done now, and nothing is left over. */
    OK(repo_upkeep(r, &everything, NULL, &e), e);
    OK(repo_upkeep(r, &everything, NULL, &e), e);
    check_model(r, &o->model);
    check_rebuild(r, o->path);
    uint64_t newest = o->model.snapshots[o->model.count - 1].number;
    struct model_tree c = {.count = 0};
    tree_set(&c, "later", 61, LARGE);
    OK(save(r, &o->model, "third", &c, &e), e);
    assert_true(o->model.snapshots[o->model.count - 1].number > newest);
    check_model(r, &o->model);
    check_rebuild(r, o->path);
    repo_close(r);
}

static const struct fault_plan upkeeps = {run, check_after, 60, 11};

USUAL_FAULTS(upkeeps)

int main(void)
{
    const struct CMUnitTest tests[] = {USUAL_FAULT_TESTS};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
