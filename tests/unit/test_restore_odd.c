/* A restore of a bit of everything (links of both kinds, pipes, holes, attributes, closed folders)
 * into a folder, with a fault at every operation: anew all of it comes or nothing, over what stands
 * there each name is the old or the new, and a second try brings everything. */
#include "base/log.h"
#include "io/fileops.h"
#include "snapshot/restore.h"
#include "states_fixture.h"

#include "base/banned.h"

struct odd {
    struct states states;
    char aside[96], target[112];
};

static int setup(void **state)
{
    struct odd *o = calloc(1, sizeof(*o));
    struct states *s = &o->states;

    assert_non_null(o);
    assert_int_equal(memory_place(&s->place), 0);
    saver_open(&s->saver, s->place, "repo");
    make_one(s->place);
    s->one = save_all(&s->saver);
    s->disk_one = dump_state(s->place);
    make_two(s->place);
    s->two = save_all(&s->saver);
    s->disk_two = dump_state(s->place);
    snprintf(o->aside, sizeof(o->aside), "%s/aside", s->place->dir);
    snprintf(o->target, sizeof(o->target), "%s/out", o->aside);
    SYS(mkdir(o->aside, 0755));
    *state = o;
    return 0;
}

static int teardown(void **state)
{
    struct odd *o = *state;
    struct place *p = o->states.place;

    faults_off();
    free(o->states.disk_one);
    free(o->states.disk_two);
    saver_close(&o->states.saver);
    free(o);
    return place_teardown((void **)&p);
}

/* The target as a place; false: it is not there. */
static bool open_target(const struct odd *o, struct place *p)
{
    memset(p, 0, sizeof(*p));
    p->rootfd = open(o->target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return p->rootfd >= 0;
}

static size_t entries_aside(const struct odd *o)
{
    const struct dirent *entry;
    DIR *d = opendir(o->aside);
    size_t n = 0;

    while (d && (entry = readdir(d)) != NULL)
        n += entry->d_name[0] != '.' || strlen(entry->d_name) > 2;
    closedir(d);
    return n;
}

static void remove_target(const struct odd *o)
{
    struct error e = ERROR_INIT;
    int fd = open(o->aside, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    MUST(remove_tree(fd, "out", &e), e);
    close(fd);
}

struct fault_at {
    enum mode mode;
    int error;
    unsigned at;
};

static int restore(struct odd *o, uint64_t number, bool overwrite, const struct fault_at *f,
                   struct restore_result *result)
{
    struct error e = ERROR_INIT;
    struct snapshot_row row;

    get_row(&o->states, number, &row);
    const struct restore_request req = {.repo = o->states.saver.repo,
                                        .snapshot = &row,
                                        .target = o->target,
                                        .overwrite = overwrite,
                                        .workers = 1};
    if (f)
        faults_on(OF_CHANGES | OF_CLOSES, f->mode, f->error, f->at);
    int rc = restore_run(&req, result, &e);
    faults_off();
    if (f && f->mode == MODE_CUT) {
        int fd = open(o->aside, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (lose_unflushed(fd) > 0)
            assert_true(fault.hit); /* what is called restored is flushed */
        close(fd);
    }
    if (rc != 0 && !f)
        print_error("restore: %d %s\n", rc, e.message);
    snapshot_row_release(&row);
    return rc;
}

/* What only a caller without rights, or a file system without attributes, meets may be told; what a
 * failing disk took may not. */
static bool may_be_told(const struct fault_at *f)
{
    return f->error == EPERM || f->error == ENOSPC;
}

/* With a fault; false when nothing was hit any more. */
static bool anew(struct odd *o, const struct fault_at *f)
{
    struct restore_result result;
    struct place out;

    int rc = restore(o, o->states.two, false, f, &result);
    bool hit = fault.hit;
    bool told = may_be_told(f) && (result.warning_count > 0 || result.skipped > 0);
    assert_true(hit || (rc == 0 && result.finished));
    if (open_target(o, &out)) {
        if (told)
            assert_no_half(&o->states, &out, true);
        else
            assert_state(&out, o->states.disk_two);
        close(out.rootfd);
    } else {
        assert_false(result.finished);
    }
    restore_result_release(&result);
    assert_int_equal(restore(o, o->states.two, true, NULL, &result), 0);
    restore_result_release(&result);
    assert_true(open_target(o, &out));
    assert_state(&out, o->states.disk_two);
    close(out.rootfd);
    assert_int_equal(entries_aside(o), 1);
    remove_target(o);
    return hit;
}

/* The folder holds the one state, or both; what follows is put over it. */
static bool over(struct odd *o, const struct fault_at *f)
{
    const struct states *s = &o->states;
    bool to_one = f->at % 2;
    uint64_t to = to_one ? s->one : s->two;
    struct restore_result result;
    struct place out;

    assert_true(open_target(o, &out));
    int rc = restore(o, to, true, f, &result);
    bool hit = fault.hit;
    assert_true(hit || (rc == 0 && result.finished));
    assert_no_half(s, &out, may_be_told(f) && (result.warning_count > 0 || result.skipped > 0));
    restore_result_release(&result);
    assert_int_equal(restore(o, to, true, NULL, &result), 0);
    restore_result_release(&result);
    assert_no_half(s, &out, false);
    assert_has(&out, to_one ? s->disk_one : s->disk_two);
    close(out.rootfd);
    assert_int_equal(entries_aside(o), 1);
    return hit;
}

static void everywhere(struct odd *o, bool (*run)(struct odd *o, const struct fault_at *f),
                       enum mode mode, int error)
{
    const char *sanitized = getenv("WK_SANITIZE");
    unsigned step = sanitized && *sanitized ? 7 : 1; /* a sanitizer run takes a sample */
    struct fault_at f = {mode, error, 1};

    while (run(o, &f))
        f.at += step;
    assert_true(f.at > 60);
}

static void in_every_mode(struct odd *o, bool (*run)(struct odd *o, const struct fault_at *f))
{
    everywhere(o, run, MODE_FAIL, EIO);
    everywhere(o, run, MODE_FAIL, ENOSPC);
    everywhere(o, run, MODE_FAIL, EPERM);
    everywhere(o, run, MODE_STICKY, EIO);
    everywhere(o, run, MODE_STICKY, ENOSPC);
    everywhere(o, run, MODE_KILL, EIO);
    everywhere(o, run, MODE_CUT, EIO);
}

static void all_or_nothing(void **state)
{
    in_every_mode(*state, anew);
}

static void old_or_new(void **state)
{
    struct odd *o = *state;
    struct restore_result result;

    assert_int_equal(restore(o, o->states.two, false, NULL, &result), 0);
    restore_result_release(&result);
    in_every_mode(o, over);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(all_or_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(old_or_new, setup, teardown),
    };

    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT); /* what could not be cleared away is warned of */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
