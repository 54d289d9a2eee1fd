/* The queue of alerts: what is told, what is given up, and in which order. */
#include "base/text.h"
#include "io/fileops.h"
#include "service/alert.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "scratch.h"

#include "base/banned.h"

struct world {
    struct scratch *scratch;
    uv_loop_t loop;
    struct alert *alert;
    char told[2000], given_up[2000]; /* keys */
};

static void on_ended(void *ctx, const char *key, const json_t *event, bool told)
{
    struct world *w = ctx;
    char *list = told ? w->told : w->given_up;
    size_t len = strlen(list);

    assert_string_equal(json_string_value(json_object_get(event, "of")), key);
    snprintf(list + len, sizeof(w->told) - len, "%s ", key);
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));

    if (!w || scratch_setup((void **)&w->scratch) != 0 || uv_loop_init(&w->loop) != 0)
        return -1;
    w->alert = alert_new(&w->loop, on_ended, w);
    *state = w;
    return w->alert ? 0 : -1;
}

static int teardown(void **state)
{
    struct world *w = *state;

    alert_close(w->alert);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    int rc = uv_loop_close(&w->loop) | scratch_teardown((void **)&w->scratch);
    free(w);
    return rc;
}

/* A script of that name is the program from now on. */
static void use(struct world *w, const char *name, const char *script)
{
    struct error e = ERROR_INIT;
    char *path = text_format("%s/%s", w->scratch->path, name);
    int fd = openat(w->scratch->fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);

    assert_int_equal(file_write_all(fd, script, strlen(script), 0, &e), 0);
    close(fd);
    alert_command(w->alert, path);
    free(path);
}

static void give(struct world *w, const char *key)
{
    alert_send(w->alert, key, json_pack("{s:s}", "of", key));
}

static void run_until_quiet(struct world *w, const char *last)
{
    while (alert_holds(w->alert, last))
        uv_run(&w->loop, UV_RUN_ONCE);
}

static void one_after_the_other(void **state)
{
    struct world *w = *state;
    struct wall_time since;

    alert_retries(w->alert, 2, 1);
    give(w, "nobody"); /* to give it to */
    use(w, "picky", "#!/bin/sh\ngrep -q '\"of\":\"[a-y]\"'\n");
    give(w, "a");
    give(w, "z");
    give(w, "b");
    assert_true(alert_holds(w->alert, "a") && alert_holds(w->alert, "z"));
    assert_false(alert_holds(w->alert, "nobody"));
    run_until_quiet(w, "z");
    assert_string_equal(w->told, "a ");
    assert_string_equal(w->given_up, "z ");
    assert_non_null(strstr(alert_failure(w->alert, &since), "exit code 1"));
    run_until_quiet(w, "b");
    assert_string_equal(w->told, "a b ");
    assert_null(alert_failure(w->alert, &since));
}

static void another_program(void **state)
{
    struct world *w = *state;

    alert_retries(w->alert, 2, 3600000);
    use(w, "fails", "#!/bin/sh\nexit 1\n");
    give(w, "a");
    struct wall_time since;
    while (!alert_failure(w->alert, &since))
        uv_run(&w->loop, UV_RUN_ONCE);
    assert_true(alert_holds(w->alert, "a")); /* for an hour */
    use(w, "takes", "#!/bin/sh\nexit 0\n");
    run_until_quiet(w, "a");
    assert_string_equal(w->told, "a ");
    give(w, "b");
    give(w, "c");
    alert_command(w->alert, NULL);
    assert_false(alert_wanted(w->alert) || alert_holds(w->alert, "c"));
    run_until_quiet(w, "b");
    assert_string_equal(w->told, "a ");
    assert_string_equal(w->given_up, "");
}

static void too_many(void **state)
{
    struct world *w = *state;
    char key[16];

    alert_retries(w->alert, 1, 1);
    use(w, "long", "#!/bin/sh\nsleep 1000\n");
    for (int i = 0; i < 103; i++) {
        snprintf(key, sizeof(key), "%d", i);
        give(w, key);
    }
    /* The first is at work. */
    assert_string_equal(w->given_up, "1 2 3 ");
    assert_true(alert_holds(w->alert, "0") && alert_holds(w->alert, "102"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_after_the_other, setup, teardown),
        cmocka_unit_test_setup_teardown(another_program, setup, teardown),
        cmocka_unit_test_setup_teardown(too_many, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
