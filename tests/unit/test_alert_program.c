/* Running the program of an alert: how it ended, what it is given, and that nothing waits for it.
 */
#include "base/clock.h"
#include "base/text.h"
#include "io/fileops.h"
#include "service/alert_program.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include <cmocka.h>

#include "scratch.h"

#include "base/banned.h"

static struct error last;
static uint64_t took_ms;

static void put(const struct scratch *s, const char *name, const char *text, mode_t mode)
{
    int fd = openat(s->fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

    assert_true(fd >= 0);
    assert_int_equal(file_write_all(fd, text, strlen(text), 0, &last), 0);
    close(fd);
}

/* Run a script of that text. */
static int run_with(const struct scratch *s, const char *script, const char *text,
                    uint64_t limit_ms, int stop)
{
    char *path = text_format("%s/program", s->path);
    struct alert_program p = {.path = path, .limit_ms = limit_ms, .stop = stop, .left = -1};

    put(s, "program", script, 0755);
    error_clear(&last);
    uint64_t begun = clock_mono_ns();
    int rc = alert_program_run(&p, text, &last);
    took_ms = (clock_mono_ns() - begun) / 1000000;
    assert_int_equal(p.left, -1);
    alert_program_release(&p);
    free(path);
    return rc;
}

static int run(const struct scratch *s, const char *script, const char *text)
{
    return run_with(s, script, text, 60000, -1);
}

static void assert_said(const char *what)
{
    if (!strstr(last.message, what))
        fail_msg("'%s' is not in '%s'", what, last.message);
}

static void how_it_ends(void **state)
{
    const struct scratch *s = *state;

    assert_int_equal(run(s, "#!/bin/sh\nexit 0\n", "{}"), 0);
    assert_int_equal(run(s, "#!/bin/sh\nexit 3\n", "{}"), ERR_FAILED);
    assert_said("/program' ended with exit code 3");
    assert_int_equal(run(s, "#!/bin/sh\nexit 127\n", "{}"), ERR_FAILED);
    assert_said("ended with exit code 127");
    assert_int_equal(run(s, "#!/bin/sh\nkill -9 $$\n", "{}"), ERR_FAILED);
    assert_said("was ended by signal 9");
}

static void what_cannot_be_started(void **state)
{
    const struct scratch *s = *state;
    char *path = text_format("%s/no", s->path);
    struct alert_program p = {.path = path, .limit_ms = 60000, .stop = -1, .left = -1};

    assert_int_equal(alert_program_run(&p, "{}", &last), ERR_NOTFOUND);
    assert_said("/no' cannot be started: No such file");
    put(s, "no", "#!/bin/sh\n", 0644);
    assert_int_equal(alert_program_run(&p, "{}", &last), ERR_DENIED);
    assert_said("cannot be started: Permission denied");
    assert_int_equal(run(s, "exit 0\n", "{}"), ERR_FAILED); /* there is no shell */
    assert_said("cannot be started: Exec format error");
    free(path);
}

/* By the shell alone: while it starts another program it has all signals blocked for a moment. */
static const char signals_as_usual[] = "#!/bin/sh\n"
                                       "[ -e /proc/$$/fd/77 ] && exit 4\n"
                                       "seen=\n"
                                       "while read -r name value; do\n"
                                       "  case $name$value in\n"
                                       "  SigIgn:*[1-9a-f]*) exit 5 ;;\n"
                                       "  SigBlk:*[1-9a-f]*) exit 6 ;;\n"
                                       "  SigIgn:* | SigBlk:*) seen=$seen. ;;\n"
                                       "  esac\n"
                                       "done </proc/$$/status\n"
                                       "[ $seen = .. ] || exit 7\n"
                                       "echo \"$0\" $#\n";

/* All of the text, nothing else of ours, and signals as they are usually. */
static void what_it_is_given(void **state)
{
    const struct scratch *s = *state;
    char *script = text_format("#!/bin/sh\ncat > %s/got\n", s->path);
    size_t len = 1000000;
    char *text = malloc(len + 1), *got = malloc(len);

    assert_non_null(text);
    memset(text, 'x', len);
    text[len] = 0;
    assert_int_equal(run(s, script, text), 0);
    int fd = openat(s->fd, "got", O_RDONLY | O_CLOEXEC);
    assert_int_equal(file_read_all(fd, got, len, 0, &last), 0);
    assert_memory_equal(got, text, len);
    close(fd);
    assert_int_equal(run(s, "#!/bin/sh\nexit 0\n", text), 0); /* and none of it read */
    free(script);
    free(text);
    free(got);

    struct sigaction old, ignore = {.sa_handler = SIG_IGN};
    int ours = dup2(s->fd, 77);
    sigaction(SIGPIPE, &ignore, &old);
    assert_int_equal(run(s, signals_as_usual, "{}"), 0);
    sigaction(SIGPIPE, &old, NULL);
    close(ours);
}

static bool runs(const struct scratch *s, const char *name)
{
    char text[16] = "", state[64] = "";
    size_t got;
    int fd = openat(s->fd, name, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(file_read_some(fd, text, sizeof(text) - 1, 0, &got, &last), 0);
    close(fd);
    text[strcspn(text, "\n")] = 0;
    char *path = text_format("/proc/%s/stat", text);
    FILE *f = fopen(path, "re");
    free(path);
    if (!f)
        return false;
    got = fread(state, 1, sizeof(state) - 1, f);
    fclose(f);
    const char *end = strrchr(state, ')');
    return end && end[1] && end[2] != 'Z' && end[2] != 'X';
}

/* With all that it has started. */
static void killed_at_the_limit(void **state)
{
    const struct scratch *s = *state;
    char *script = text_format("#!/bin/sh\nsleep 1000 &\necho $! > %s/child\necho $$ > %s/self\n"
                               "wait\n",
                               s->path, s->path);

    assert_int_equal(run_with(s, script, "{}", 5000, -1), ERR_FAILED);
    assert_said("did not end within 5 s and was killed");
    assert_true(took_ms >= 5000);
    assert_false(runs(s, "self"));
    for (int i = 0; i < 1000 && runs(s, "child"); i++)
        usleep(10000);
    assert_false(runs(s, "child"));
    free(script);
}

static void stopped(void **state)
{
    const struct scratch *s = *state;
    int stop = eventfd(1, EFD_CLOEXEC);

    /* What is about to end may do so. */
    assert_int_equal(run_with(s, "#!/bin/sh\nexit 0\n", "{}", 60000, stop), 0);
    assert_int_equal(run_with(s, "#!/bin/sh\nsleep 1000\n", "{}", 60000, stop), ERR_CANCELLED);
    assert_true(took_ms < 60000);
    close(stop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(how_it_ends, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(what_cannot_be_started, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(what_it_is_given, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(killed_at_the_limit, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(stopped, scratch_setup, scratch_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
