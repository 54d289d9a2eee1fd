/* The configuration: what is taken, what is refused and where, what wins over what. */
#include "base/random.h"
#include "base/text.h"
#include "config/config.h"
#include "config/ini_file.h"
#include "config/keys.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/banned.h"

static char folder[64];

static void write_file(const char *name, const void *text, size_t n)
{
    char *path = text_format("%s/%s", folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, n), (ssize_t)n);
    close(fd);
    free(path);
}

static void write_text(const char *name, const char *text)
{
    write_file(name, text, strlen(text));
}

static int load_with(const char *repository, const char *const *paths, struct config **c,
                     struct error *e)
{
    char *file = text_format("%s/w.conf", folder);
    struct config_flags flags = {.file = file, .repository = repository, .paths = paths};
    int rc;

    error_clear(e);
    rc = config_load(&flags, c, e);
    free(file);
    return rc;
}

static struct config *load_text(const char *text)
{
    struct error e = ERROR_INIT;
    struct config *c = NULL;

    write_text("w.conf", text);
    if (load_with(NULL, NULL, &c, &e) != 0)
        fail_msg("%s", e.message);
    return c;
}

/* The message of a load that must fail, after "FOLDER/w.conf:". */
static void assert_refused(const char *text, const char *expected)
{
    struct error e = ERROR_INIT;
    struct config *c = NULL;
    size_t len = strlen(folder);

    write_text("w.conf", text);
    assert_int_equal(load_with(NULL, NULL, &c, &e), ERR_USAGE);
    assert_null(c);
    assert_memory_equal(e.message, folder, len);
    if (strncmp(e.message + len, "/w.conf:", 8) != 0 ||
        strncmp(e.message + len + 8, expected, strlen(expected)) != 0)
        fail_msg("got: %s, not: %s", e.message, expected);
}

static int set_up(void **state)
{
    snprintf(folder, sizeof(folder), "/tmp/wk-test-config-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    static const char *const names[] = {"w.conf", "conf.d/20.conf", "conf.d/10.conf", "conf.d"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char *path = text_format("%s/%s", folder, names[i]);
        remove(path);
        free(path);
    }
    return rmdir(folder);
}

static void everything_is_read(void **state)
{
    struct config *c = load_text("[service]\n"
                                 "repository = /srv/repo//x/\n"
                                 "socket=/run/x.sock\n"
                                 "group = staff\n"
                                 "log_level = debug ; talk\n"
                                 "log_format = json\n"
                                 "codec = zlib\n"
                                 "\n"
                                 "# a bot\n"
                                 "[watch bot]\n"
                                 "path = /srv/./bot/../bot/data/\n"
                                 "  include = *.json *.db\n"
                                 "\tinclude = a\\ b\n"
                                 "exclude = cache/\n"
                                 "settle = 50ms\n"
                                 "max_delay = 2\n"
                                 "interval = off\n"
                                 "sqlite = off\n"
                                 "[watch my-notes]\n"
                                 "path = /srv/notes\n");
    const struct watch_config *w = config_watch(c, "bot");

    assert_string_equal(c->repository, "/srv/repo/x");
    assert_string_equal(c->socket, "/run/x.sock");
    assert_string_equal(c->group, "staff");
    assert_int_equal(c->log_level, LOG_LEVEL_DEBUG);
    assert_int_equal(c->log_format, LOG_FORMAT_JSON);
    assert_string_equal(c->codec, "zlib");
    assert_true(c->enabled);
    assert_int_equal(c->watch_count, 2);
    assert_string_equal(w->path, "/srv/bot/data");
    assert_string_equal(w->include[0], "*.json");
    assert_string_equal(w->include[1], "*.db");
    assert_string_equal(w->include[2], "a\\ b");
    assert_null(w->include[3]);
    assert_string_equal(w->exclude[0], "cache/");
    assert_int_equal(w->settle_ms, 50);
    assert_int_equal(w->max_delay_ms, 2000);
    assert_true(w->interval_ms == CONFIG_OFF);
    assert_false(w->sqlite);
    assert_string_equal(config_watch(c, "my-notes")->path, "/srv/notes");
    assert_null(config_watch(c, "other"));
    config_free(c);
}

static void defaults_hold(void **state)
{
    struct config *c = load_text("[service]\nrepository = /r\n[watch a]\npath = /a\n");

    assert_int_equal(c->watches[0].settle_ms, 200);
    assert_int_equal(c->watches[0].max_delay_ms, 5000);
    assert_int_equal(c->watches[0].interval_ms, 3600000);
    assert_true(c->watches[0].sqlite);
    assert_null(c->watches[0].include);
    assert_int_equal(c->log_level, LOG_LEVEL_INFO);
    assert_string_equal(c->codec, "zstd");
    assert_string_equal(c->archives, "/r/archives");
    assert_string_equal(c->group, "");
    config_free(c);
}

static void mistakes_are_named_with_their_line(void **state)
{
    assert_refused("[service]\nrepo = /x\n", "2: unknown key 'repo' in [service]");
    assert_refused("\n\n[sevice]\n", "3: unknown section '[sevice]'");
    assert_refused("[service x]\n", "1: unknown section '[service x]'");
    assert_refused("[watch]\npath = /x\n", "1: the section needs a name");
    assert_refused("[watch a/b]\npath = /x\n", "1: 'a/b' cannot be the name of a watch");
    assert_refused("[watch a b]\npath = /x\n", "1: 'a b' cannot be the name of a watch");
    assert_refused("path = /x\n", "1: 'path' stands before any section");
    assert_refused("[watch a]\n\njust words\n", "3: neither");
    assert_refused("[watch a\npath = /x\n", "1: neither");
    assert_refused("[watch a]\nsettle = 50ms\n", "1: watch 'a' has no path");
    assert_refused("[watch a]\npath = data\n", "2: path: 'data' is not an absolute path");
    assert_refused("[watch a]\npath =\n", "2: path: '' is not an absolute path");
    assert_refused("[watch a]\npath = /x\npath = /y\n", "3: path: 'path' was given before");
    assert_refused("[watch a]\npath = /x\nsettle = soon\n", "3: settle: 'soon' is not a duration");
    assert_refused("[watch a]\npath = /x\nsettle = 0\n",
                   "3: settle: '0' is out of bounds (1ms to 1d)");
    assert_refused("[watch a]\npath = /x\nsettle = 9s\n", "3: max_delay is shorter than settle");
    assert_refused("[watch a]\npath = /x\ninterval = 5ms\n", "3: interval: '5ms' is out of bounds");
    assert_refused("[service]\ncodec = lz4\n", "2: codec: 'lz4' is not zstd|zlib|none");
    assert_refused("[service]\nmin_free = lots\n", "2: min_free: ");
    assert_refused("[retention]\nkeep_min = 2\n", "2: keep_min: '2' is out of bounds (3 to");
    assert_refused("[retention]\nkeep_min = -1\n", "2: keep_min: ");
    assert_refused("[retention]\nkeep_min = off\n", "2: keep_min: ");
    assert_refused("[archive]\nat = 25:00\n", "2: at: '25:00' is not a time of day");
    assert_refused("[verify]\nat = 0 0 30 2 *\n", "2: at: '0 0 30 2 *' is a day that no year has");
    assert_refused("[archive]\nat = 61 * * * *\n", "2: at: ");
    assert_refused("[archive]\nlevel = 13\n", "2: level: '13' is out of bounds (1 to 12)");
    assert_refused("[verify]\nsample = 101%\n", "2: sample: ");
    assert_refused("[retention gone]\nkeep_days = 1\n", "1: there is no watch 'gone'");
    assert_refused("[service]\nrepository = /r\n[watch a]\npath = /r/sub\n",
                   "4: watch 'a' lies inside the repository '/r'");
    assert_refused("[service]\nrepository = /r\n[watch a]\npath = /r\n",
                   "4: watch 'a' lies inside the repository '/r'");
}

static void a_policy_that_keeps_nothing_is_refused(void **state)
{
    assert_refused("[retention]\nkeep_days = off\nkeep_daily = off\nkeep_monthly = off\n",
                   "1: in [retention] no rule keeps anything");
    assert_refused("[watch a]\npath = /a\n[retention]\nkeep_daily = off\nkeep_monthly = off\n"
                   "[retention a]\nkeep_days = off\n",
                   "6: in [retention a] no rule keeps anything");
    config_free(load_text("[retention]\nkeep_days = off\nkeep_daily = off\nkeep_monthly = off\n"
                          "keep_last = 5\n"));
}

static void all_keys_of_later_sections_are_taken(void **state)
{
    struct config *c = load_text(
        "[service]\nmin_free = 2G\n"
        "[watch a]\npath = /a\n[watch b]\npath = /b\n"
        "[archive]\nat = Sun 01:00\nformat = directory\npath = /arch\nlevel = 1\n"
        "keep_days = off\nkeep_last = 9\n"
        "[archive a]\nat = */5 0-6,12 * 1-12/2 7\n[archive b]\nat = 6h\n"
        "[retention]\nprune_at = 04:00:30\nkeep_min = 10\nkeep_days = 1\nkeep_last = 2\n"
        "keep_hourly = 3\nkeep_daily = 4\nkeep_weekly = 5\nkeep_monthly = 6\nkeep_yearly = 7\n"
        "max_size = 20G\n"
        "[retention a]\nprune_at = 30 2 * * mon-fri\n"
        "[verify]\nat = off\nsample = 100%\nrestore_test = archive\n"
        "[retry]\nattempts = 5\ndelay = 10m\n"
        "[alert]\ncommand = /bin/true\nmax_age = off\n");

    assert_string_equal(c->archives, "/arch");
    config_free(c);
}

static void long_lines_and_nul_bytes_are_refused(void **state)
{
    char text[600] = "[service]\n";
    struct error e = ERROR_INIT;
    struct config *c;
    size_t head = strlen(text);

    memset(text + head, 'x', 199);
    memcpy(text + head, "; ", 2);
    memcpy(text + head + 199, "\ncodec = none\n", 15);
    c = load_text(text);
    assert_string_equal(c->codec, "none");
    config_free(c);
    text[head + 199] = 'x';
    memcpy(text + head + 200, "\ncodec = none\n", 15);
    assert_refused(text, "2: the line is longer than 199 bytes");

    write_file("w.conf", "[service]\ncodec = no\0ne\n", 24);
    assert_int_equal(load_with(NULL, NULL, &c, &e), ERR_USAGE);
    assert_non_null(strstr(e.message, "w.conf:2: the line holds a NUL byte"));
}

static void long_watch_names_are_whole(void **state)
{
    struct config *c =
        load_text("[watch abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz01]\n"
                  "path = /a\n");

    assert_string_equal(c->watches[0].name,
                        "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz01");
    config_free(c);
}

static void drop_ins_come_after_the_file_by_name(void **state)
{
    char *dir = text_format("%s/conf.d", folder);
    struct config *c;

    assert_int_equal(mkdir(dir, 0700), 0);
    write_text("conf.d/20.conf", "[watch b]\npath = /b2\n[watch a]\nexclude = y\n");
    write_text("conf.d/10.conf", "[watch b]\npath = /b1\n");
    c = load_text("[watch a]\npath = /a\nexclude = x\n");
    assert_string_equal(config_watch(c, "b")->path, "/b2");
    assert_string_equal(config_watch(c, "a")->exclude[0], "x");
    assert_string_equal(config_watch(c, "a")->exclude[1], "y");
    config_free(c);
    free(dir);
}

static const char *origin_of(const struct config *c, const char *section, const char *key)
{
    const char *origin = config_origin(c, section, key);

    return origin ? origin : "none";
}

static void flags_win_over_environment_over_file(void **state)
{
    const char *text = "[service]\nrepository = /file\n[watch a-b]\npath = /a\nsettle = 1s\n"
                       "[watch c]\npath = /c\n";
    struct error e = ERROR_INIT;
    struct config *c;

    setenv("WATCHKEEP_REPO", "/env", 1);
    setenv("WATCHKEEP_WATCH_SETTLE", "3s", 1);
    setenv("WATCHKEEP_WATCH_A_B_SETTLE", "2s", 1);
    setenv("WATCHKEEP_INTERVAL", "10m", 1);
    setenv("WATCHKEEP_ENABLED", "false", 1);
    setenv("WATCHKEEP_COMPRESSION", "no", 1);
    setenv("WATCHKEEP_RETENTION_DAYS", "9", 1);
    c = load_text(text);
    assert_string_equal(c->repository, "/env");
    assert_string_equal(origin_of(c, "service", "repository"), "environment WATCHKEEP_REPO");
    assert_int_equal(config_watch(c, "a-b")->settle_ms, 2000);
    assert_int_equal(config_watch(c, "c")->settle_ms, 3000);
    assert_int_equal(config_watch(c, "c")->interval_ms, 600000);
    assert_string_equal(origin_of(c, "watch c", "interval"), "environment WATCHKEEP_INTERVAL");
    assert_string_equal(origin_of(c, "archive", "format"), "environment WATCHKEEP_COMPRESSION");
    assert_string_equal(origin_of(c, "service", "codec"), "default");
    assert_false(c->enabled);
    config_free(c);
    assert_int_equal(load_with("/flag", NULL, &c, &e), 0);
    assert_string_equal(c->repository, "/flag");
    config_free(c);
    setenv("WATCHKEEP_WATCH_SETTLE", "never", 1);
    assert_int_equal(load_with(NULL, NULL, &c, &e), ERR_USAGE);
    assert_non_null(strstr(e.message, "WATCHKEEP_WATCH_SETTLE: 'never' is not a duration"));
    unsetenv("WATCHKEEP_REPO");
    unsetenv("WATCHKEEP_WATCH_SETTLE");
    unsetenv("WATCHKEEP_WATCH_A_B_SETTLE");
    unsetenv("WATCHKEEP_INTERVAL");
    unsetenv("WATCHKEEP_ENABLED");
    unsetenv("WATCHKEEP_COMPRESSION");
    unsetenv("WATCHKEEP_RETENTION_DAYS");
}

/* Whether or not anything takes it: who set it believes it counts. */
static void wrong_variables_are_refused(void **state)
{
    static const char *const wrong[][3] = {
        {"WATCHKEEP_INTERVAL", "zz", "WATCHKEEP_INTERVAL: 'zz' is not a duration"},
        {"WATCHKEEP_WATCH_SETTLE", "0", "WATCHKEEP_WATCH_SETTLE: '0' is out of bounds"},
        {"WATCHKEEP_WATCH_SQLITE", "yes", "WATCHKEEP_WATCH_SQLITE: 'yes' is "},
        {"WATCHKEEP_RETENTION_DAYS", "week", "WATCHKEEP_RETENTION_DAYS: 'week' is "},
        {"WATCHKEEP_COMPRESSION", "gz", "WATCHKEEP_COMPRESSION: 'gz' is neither true nor false"},
        {"WATCHKEEP_ENABLED", "maybe", "WATCHKEEP_ENABLED: 'maybe' is neither true nor false"},
        {"WATCHKEEP_PATHS", "/a/x:/b/x", "WATCHKEEP_PATHS: two watches would be named 'x'"},
    };
    struct error e = ERROR_INIT;
    struct config *c = NULL;

    write_text("w.conf", "");
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        setenv(wrong[i][0], wrong[i][1], 1);
        assert_int_equal(load_with(NULL, NULL, &c, &e), ERR_USAGE);
        if (strncmp(e.message, wrong[i][2], strlen(wrong[i][2])) != 0)
            fail_msg("got: %s, not: %s", e.message, wrong[i][2]);
        unsetenv(wrong[i][0]);
    }
    /* Neither does another variable that is put before it make it right. */
    write_text("w.conf", "[watch a]\npath = /a\n");
    setenv("WATCHKEEP_WATCH_A_INTERVAL", "2h", 1);
    setenv("WATCHKEEP_WATCH_INTERVAL", "zz", 1);
    setenv("WATCHKEEP_INTERVAL", "1h", 1);
    assert_int_equal(load_with(NULL, NULL, &c, &e), ERR_USAGE);
    assert_non_null(strstr(e.message, "WATCHKEEP_WATCH_INTERVAL: 'zz'"));
    unsetenv("WATCHKEEP_WATCH_INTERVAL");
    assert_int_equal(load_with(NULL, NULL, &c, &e), 0);
    config_free(c);
    unsetenv("WATCHKEEP_WATCH_A_INTERVAL");
    unsetenv("WATCHKEEP_INTERVAL");
}

static void named_paths_replace_the_watches(void **state)
{
    const char *paths[] = {"/x/data", "other=/y/data", "a=/elsewhere", NULL};
    const char *twice[] = {"/x/data", "/y/data", NULL};
    struct error e = ERROR_INIT;
    struct config *c;

    write_text("w.conf", "[watch a]\npath = /a\nexclude = z\n[watch b]\npath = /b\n");
    assert_int_equal(load_with(NULL, paths, &c, &e), 0);
    assert_int_equal(c->watch_count, 3);
    assert_string_equal(config_watch(c, "data")->path, "/x/data");
    assert_string_equal(config_watch(c, "other")->path, "/y/data");
    assert_string_equal(config_watch(c, "a")->path, "/elsewhere");
    assert_string_equal(config_watch(c, "a")->exclude[0], "z");
    assert_null(config_watch(c, "b"));
    assert_non_null(strstr(c->notes[0], "watch 'b'"));
    config_free(c);
    assert_int_equal(load_with(NULL, twice, &c, &e), ERR_USAGE);
    assert_non_null(strstr(e.message, "'data'"));
    assert_non_null(strstr(e.message, "NAME=PATH"));

    setenv("WATCHKEEP_PATHS", "/p/one:two=/p/x", 1);
    assert_int_equal(load_with(NULL, NULL, &c, &e), 0);
    assert_int_equal(c->watch_count, 2);
    assert_string_equal(config_watch(c, "two")->path, "/p/x");
    config_free(c);
    unsetenv("WATCHKEEP_PATHS");
}

static void paths_are_split_and_cleaned(void **state)
{
    static const struct {
        const char *arg, *name, *path;
    } good[] = {{"/a/b/", "b", "/a/b"},
                {"n=/a//b/./c", "n", "/a/b/c"},
                {"/a/b=c", "b=c", NULL},
                {"/a/../../b", "b", "/b"},
                {"x=/", "x", "/"},
                {"n=/a/x y", "n", "/a/x y"},
                {"/d/2024", "2024", "/d/2024"}};
    static const char *const bad[] = {"", "n=", "=/a", "/", "-n=/a", "a:b=/c", "/a/x y"};
    char *name, *path;
    struct error e = ERROR_INIT;

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        int rc = config_split_watch(good[i].arg, &name, &path, &e);
        if (!good[i].path) {
            assert_int_equal(rc, ERR_USAGE);
            continue;
        }
        assert_int_equal(rc, 0);
        assert_string_equal(name, good[i].name);
        assert_string_equal(path, good[i].path);
        free(name);
        free(path);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(config_split_watch(bad[i], &name, &path, &e), ERR_USAGE);
        assert_null(name);
    }
    assert_int_equal(config_split_watch("./sub", &name, &path, &e), 0);
    assert_int_equal(path[0], '/');
    assert_string_equal(name, "sub");
    free(name);
    free(path);
}

static void files_that_cannot_be_read(void **state)
{
    struct error e = ERROR_INIT;
    struct config *c;
    struct config_flags flags = {.file = "/nonexistent/w.conf"};

    assert_int_equal(config_load(&flags, &c, &e), ERR_USAGE);
    flags.file = folder;
    assert_true(config_load(&flags, &c, &e) < 0);
    flags.file = "/dev/zero";
    assert_int_equal(config_load(&flags, &c, &e), ERR_USAGE);
}

static void collect(void *ctx, const char *what)
{
    char *all = ctx;
    size_t len = strlen(all);

    snprintf(all + len, 200 - len, "%s;", what);
}

static void what_a_reload_cannot_change_is_told(void **state)
{
    struct config *a = load_text("[service]\nrepository = /r\nsocket = /s\n[watch a]\npath = /a\n");
    struct config *b = load_text("[service]\nrepository = /r\nsocket = /t\nlog_level = debug\n"
                                 "[watch a]\npath = /b\n");
    char all[200] = "";

    config_fixed_changes(a, b, collect, all);
    assert_string_equal(all, "[service] socket;");
    config_free(a);
    config_free(b);
}

static int any_section(void *ctx, const char *section, int line, struct error *e)
{
    return 0;
}

static int any_setting(void *ctx, const char *section, const char *key, const char *value, int line,
                       struct error *e)
{
    assert_non_null(key);
    assert_non_null(value);
    assert_true(strlen(value) <= INI_LINE_MAX);
    return 0;
}

/* Whatever stands in a file, reading it ends with settings or with a message. */
static void random_bytes_do_no_harm(void **state)
{
    static const char likely[] = "[]=;#\n \t\r\"\\:watchpeibosrc/\xff";
    struct ini_sink sink = {any_section, any_setting, NULL};
    uint8_t noise[400];
    struct error e = ERROR_INIT;
    struct config *c;

    for (int i = 0; i < 3000; i++) {
        random_bytes(noise, sizeof(noise));
        for (size_t j = 0; i % 2 == 0 && j < sizeof(noise); j++)
            noise[j] = (uint8_t)likely[noise[j] % (sizeof(likely) - 1)];
        size_t n = (noise[0] << 8 | noise[1]) % sizeof(noise);
        ini_text_read("f", (const char *)noise, n, &sink, &e);
        if (i % 20 != 0)
            continue;
        write_file("w.conf", noise, n);
        if (load_with(NULL, NULL, &c, &e) == 0)
            config_free(c);
        else
            assert_true(*e.message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(everything_is_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(defaults_hold, set_up, tear_down),
        cmocka_unit_test_setup_teardown(mistakes_are_named_with_their_line, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_policy_that_keeps_nothing_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(all_keys_of_later_sections_are_taken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(long_lines_and_nul_bytes_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(long_watch_names_are_whole, set_up, tear_down),
        cmocka_unit_test_setup_teardown(drop_ins_come_after_the_file_by_name, set_up, tear_down),
        cmocka_unit_test_setup_teardown(flags_win_over_environment_over_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(wrong_variables_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(named_paths_replace_the_watches, set_up, tear_down),
        cmocka_unit_test_setup_teardown(paths_are_split_and_cleaned, set_up, tear_down),
        cmocka_unit_test_setup_teardown(files_that_cannot_be_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_a_reload_cannot_change_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(random_bytes_do_no_harm, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
