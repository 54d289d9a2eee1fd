/* The control socket: who is let in, what is answered, and that nobody can hold it up. A client of
 * client.h runs in a thread against a server in this one. */
#include "io/lock.h"
#include "scratch.h"
#include "service/client.h"
#include "service/control.h"
#include "service/protocol.h"

#include <errno.h>
#include <grp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

enum { WAIT_MS = 120000, LINES = 3, BIG = 200000, HUGE_TEXT = 65 * 1024 * 1024 };

struct fixture {
    struct scratch *scratch;
    uv_loop_t loop;
    uv_timer_t limit;
    struct control *control;
    char path[128];
    enum control_right right; /* of the last request */
    unsigned requests;
    struct peer *held; /* a peer that is answered later */
    bool hold;
    uint64_t wait_ms; /* of the clients, 0: long */
    bool stuck;       /* the work does not get on */
};

static json_t *huge_text(void)
{
    char *text = malloc(HUGE_TEXT);

    memset(text, 'x', HUGE_TEXT);
    json_t *string = json_stringn(text, HUGE_TEXT);
    free(text);
    return string;
}

static void on_request(void *ctx, struct peer *peer, enum control_right right,
                       const json_t *request)
{
    struct fixture *f = ctx;
    const char *command = json_string_value(json_object_get(request, "command"));

    f->requests++;
    f->right = right;
    if (f->hold) {
        f->held = peer;
        return;
    }
    if (command && strcmp(command, "huge") == 0) {
        peer_line(peer, json_pack("{s:s,s:o}", "type", "summary", "text", huge_text()));
        peer_end(peer);
        return;
    }
    if (command && strcmp(command, "fail") == 0) {
        peer_fail(peer, ERR_NOTFOUND, "no '%s'", "such thing");
        return;
    }
    for (int i = 0; i < LINES; i++)
        peer_line(peer, json_pack("{s:s,s:i}", "type", "progress", "i", i));
    if (command && strcmp(command, "big") == 0) {
        char *text = malloc(BIG + 1);
        memset(text, 'x', BIG);
        text[BIG] = 0;
        for (int i = 0; i < 20; i++)
            peer_line(peer, json_pack("{s:s,s:s}", "type", "progress", "text", text));
        free(text);
    }
    peer_line(peer, json_pack("{s:s,s:i}", "type", "summary", "exit", 0));
    peer_end(peer);
}

static bool on_working(void *ctx)
{
    return !((struct fixture *)ctx)->stuck;
}

static void on_limit(uv_timer_t *timer)
{
    fail_msg("waited too long");
}

static int open_server(struct fixture *f, const char *group, struct error *e)
{
    struct control_options opt = {.path = f->path,
                                  .group = group,
                                  .owner = geteuid(),
                                  .request = on_request,
                                  .working = on_working,
                                  .ctx = f};

    return control_open(&f->loop, &opt, &f->control, e);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    void *scratch;

    if (!f || scratch_setup(&scratch) != 0)
        return -1;
    f->scratch = scratch;
    signal(SIGPIPE, SIG_IGN);
    snprintf(f->path, sizeof(f->path), "%s/run/control.sock", f->scratch->path);
    uv_loop_init(&f->loop);
    uv_timer_init(&f->loop, &f->limit);
    uv_timer_start(&f->limit, on_limit, WAIT_MS, 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    void *scratch = f->scratch;

    control_close(f->control);
    uv_close((uv_handle_t *)&f->limit, NULL);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    int rc = uv_loop_close(&f->loop);
    free(f);
    return scratch_teardown(&scratch) == 0 && rc == 0 ? 0 : -1;
}

static void must_open(struct fixture *f)
{
    struct error e = ERROR_INIT;

    if (open_server(f, NULL, &e) != 0)
        fail_msg("%s", e.message);
}

/* ---- a client in a thread ---- */

struct call {
    struct fixture *f;
    pthread_t thread;
    uv_async_t done_signal;
    const char *command;
    bool done;
    uint64_t wait_ms;
    int rc;
    struct error error;
    unsigned lines;
    char last[64];
    int code;
};

static int on_line(void *ctx, const json_t *line, struct error *e)
{
    struct call *c = ctx;
    const char *type = json_string_value(json_object_get(line, "type"));

    c->lines++;
    snprintf(c->last, sizeof(c->last), "%s", type ? type : "");
    c->code = (int)json_integer_value(json_object_get(line, "code"));
    return 0;
}

static void *call_in_thread(void *ctx)
{
    struct call *c = ctx;
    json_t *request = json_pack("{s:s}", "command", c->command);

    c->rc = client_request(c->f->path, request, c->wait_ms, on_line, c, &c->error);
    json_decref(request);
    uv_async_send(&c->done_signal);
    return NULL;
}

static void on_call_done(uv_async_t *signal)
{
    struct call *c = signal->data;

    c->done = true;
    uv_close((uv_handle_t *)signal, NULL);
}

static void start_call(struct fixture *f, struct call *c, const char *command)
{
    *c = (struct call){.f = f, .command = command, .wait_ms = f->wait_ms ? f->wait_ms : WAIT_MS};
    uv_async_init(&f->loop, &c->done_signal, on_call_done);
    c->done_signal.data = c;
    assert_int_equal(pthread_create(&c->thread, NULL, call_in_thread, c), 0);
}

static void finish_call(struct call *c)
{
    while (!c->done)
        uv_run(&c->f->loop, UV_RUN_ONCE);
    pthread_join(c->thread, NULL);
}

static void call(struct fixture *f, struct call *c, const char *command)
{
    start_call(f, c, command);
    finish_call(c);
}

/* ---- a raw client, in this thread ---- */

static int raw(const struct fixture *f)
{
    struct sockaddr_un addr;
    struct error e = ERROR_INIT;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(control_address(f->path, &addr, &e), 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

/* Run the loop until the other side has closed; what it had said is in text. */
static size_t read_all(struct fixture *f, int fd, char *text, size_t cap)
{
    size_t n = 0;

    for (;;) {
        ssize_t got = recv(fd, text + n, cap - 1 - n, MSG_DONTWAIT);
        if (got > 0)
            n += (size_t)got;
        else if (got == 0 || errno == ECONNRESET)
            break;
        else
            uv_run(&f->loop, UV_RUN_NOWAIT);
    }
    text[n] = 0;
    close(fd);
    return n;
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* ---- tests ---- */

static void requests_are_answered_line_by_line(void **state)
{
    struct fixture *f = *state;
    struct call c;

    must_open(f);
    call(f, &c, "anything");
    assert_int_equal(c.rc, 0);
    assert_int_equal(c.lines, LINES + 1);
    assert_string_equal(c.last, "summary");
    assert_int_equal(f->right, CONTROL_ALL);
    call(f, &c, "fail");
    assert_int_equal(c.rc, 0);
    assert_string_equal(c.last, "error");
    assert_int_equal(c.code, 6);
    call(f, &c, "big");
    assert_int_equal(c.rc, 0);
    assert_int_equal(c.lines, LINES + 21);
    call(f, &c, "huge");
    assert_int_equal(c.rc, 0);
    assert_string_equal(c.last, "error");
    assert_int_equal(c.code, 1);
}

static void a_service_that_goes_away_is_an_error(void **state)
{
    struct fixture *f = *state;
    struct call c;

    must_open(f);
    f->hold = true;
    start_call(f, &c, "save");
    while (!f->held)
        uv_run(&f->loop, UV_RUN_ONCE);
    peer_line(f->held, json_pack("{s:s}", "type", "progress"));
    control_close(f->control);
    f->control = NULL;
    finish_call(&c);
    assert_int_equal(c.rc, ERR_FAILED);
    assert_non_null(strstr(c.error.message, "went away"));
    call(f, &c, "save");
    assert_int_equal(c.rc, ERR_NOTFOUND);
}

/* ---- how long a client waits ---- */

enum { SHORT_WAIT_MS = 2000 };

/* Serve for so long, or until the call is done. */
static void serve_for(struct fixture *f, const struct call *c, uint64_t ms)
{
    uint64_t end = uv_hrtime() + ms * 1000000;

    while (!c->done && uv_hrtime() < end)
        uv_run(&f->loop, UV_RUN_ONCE);
}

static void work_that_gets_on_is_not_cut_off(void **state)
{
    struct fixture *f = *state;
    struct call c;

    must_open(f);
    f->hold = true;
    f->wait_ms = SHORT_WAIT_MS;
    start_call(f, &c, "save");
    serve_for(f, &c, SHORT_WAIT_MS + SHORT_WAIT_MS / 2);
    assert_false(c.done);
    assert_int_equal(c.lines, 0); /* signs of life are no news */
    peer_line(f->held, json_pack("{s:s,s:i}", "type", "summary", "exit", 0));
    peer_end(f->held);
    finish_call(&c);
    assert_int_equal(c.rc, 0);
    assert_int_equal(c.lines, 1);
}

static void work_that_is_stuck_is_given_up(void **state)
{
    struct fixture *f = *state;
    struct call c;

    must_open(f);
    f->hold = f->stuck = true;
    f->wait_ms = SHORT_WAIT_MS;
    start_call(f, &c, "save");
    finish_call(&c);
    assert_int_equal(c.rc, ERR_BUSY);
    assert_non_null(strstr(c.error.message, "has not answered"));
    peer_end(f->held);
}

/* Nobody takes the connection: more of them wait than the kernel keeps. */
static void a_service_that_does_not_listen_is_given_up(void **state)
{
    struct fixture *f = *state;
    struct error e = ERROR_INIT;
    struct sockaddr_un addr;
    int fds[1024];
    size_t n = 0;
    bool full = false;

    must_open(f);
    assert_int_equal(control_address(f->path, &addr, &e), 0);
    while (!full && n < 1024) {
        fds[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        assert_true(fds[n] >= 0);
        full = connect(fds[n++], (const struct sockaddr *)&addr, sizeof(addr)) != 0;
    }
    assert_true(full);
    assert_int_equal(client_process(f->path), 0);
    json_t *request = json_pack("{s:s}", "command", "status");
    assert_int_equal(client_request(f->path, request, 0, NULL, NULL, &e), ERR_BUSY);
    json_decref(request);
    while (n > 0)
        close(fds[--n]);
}

static void the_socket_is_private_and_goes_with_the_service(void **state)
{
    struct fixture *f = *state;
    struct stat st;

    must_open(f);
    assert_int_equal(lstat(f->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    control_close(f->control);
    f->control = NULL;
    assert_int_equal(lstat(f->path, &st), -1);
    assert_int_equal(errno, ENOENT);
}

static void a_stale_socket_is_replaced_and_a_live_one_is_not(void **state)
{
    struct fixture *f = *state;
    struct fixture second = *f;
    struct error e = ERROR_INIT;
    struct sockaddr_un addr;
    struct call c;
    struct stat st;

    /* Left by a service that was killed. */
    snprintf(f->path, sizeof(f->path), "%s/control.sock", f->scratch->path);
    assert_int_equal(control_address(f->path, &addr, &e), 0);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    close(fd);
    must_open(f);
    call(f, &c, "anything");
    assert_int_equal(c.rc, 0);
    memcpy(second.path, f->path, sizeof(f->path));
    assert_int_equal(open_server(&second, NULL, &e), ERR_BUSY);
    assert_non_null(strstr(e.message, "already running"));
    assert_int_equal(lstat(f->path, &st), 0);
    call(f, &c, "anything");
    assert_int_equal(c.rc, 0);
    /* What is no socket is not ours to remove. */
    snprintf(second.path, sizeof(second.path), "%s/file", f->scratch->path);
    close(open(second.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    assert_int_equal(open_server(&second, NULL, &e), ERR_REFUSED);
    assert_int_equal(lstat(second.path, &st), 0);
}

static void what_cannot_be_is_refused_with_a_reason(void **state)
{
    struct fixture *f = *state;
    struct error e = ERROR_INIT;

    assert_int_equal(open_server(f, "no-such-group-at-all", &e), ERR_USAGE);
    memset(f->path, 'x', sizeof(f->path) - 1);
    f->path[0] = '/';
    f->path[sizeof(f->path) - 1] = 0;
    assert_int_equal(open_server(f, NULL, &e), ERR_USAGE);
    assert_non_null(strstr(e.message, "longer than"));
}

static void bad_requests_are_refused(void **state)
{
    static const char *const bad[] = {"\n",         "{}{}\n",  "[]\n",
                                      "nonsense\n", "\"x\"\n", "{\"a\":1,\"a\":2}\n",
                                      "\xff\xfe\n", "{\"a\"\n"};
    struct fixture *f = *state;
    char text[4096];

    must_open(f);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        int fd = raw(f);
        say(fd, bad[i]);
        read_all(f, fd, text, sizeof(text));
        assert_non_null(strstr(text, "\"code\":2"));
    }
    assert_int_equal(f->requests, 0);
    /* Deep nesting is a parser's matter, not the stack's. */
    char *deep = malloc(60001);
    memset(deep, '[', 60000);
    deep[59999] = '\n';
    deep[60000] = 0;
    int fd = raw(f);
    say(fd, deep);
    free(deep);
    read_all(f, fd, text, sizeof(text));
    assert_non_null(strstr(text, "\"code\":2"));
}

static void a_request_is_bounded(void **state)
{
    struct fixture *f = *state;
    char text[4096], piece[4096];
    size_t sent = 0;

    must_open(f);
    memset(piece, ' ', sizeof(piece));
    int fd = raw(f);
    while (sent < 100u * 1024 * 1024) { /* the server closes long before */
        ssize_t n = send(fd, piece, sizeof(piece), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            sent += (size_t)n;
        else if (errno == EAGAIN)
            uv_run(&f->loop, UV_RUN_NOWAIT);
        else
            break;
        uv_run(&f->loop, UV_RUN_NOWAIT);
    }
    assert_true(sent < 1024 * 1024);
    read_all(f, fd, text, sizeof(text));
    assert_int_equal(f->requests, 0);
}

static void a_half_closed_peer_is_answered(void **state)
{
    struct fixture *f = *state;
    char text[4096];

    must_open(f);
    int fd = raw(f);
    say(fd, "{\"command\":\"x\"}\n");
    shutdown(fd, SHUT_WR);
    read_all(f, fd, text, sizeof(text));
    assert_non_null(strstr(text, "summary"));
    /* Closed before the line was whole: nothing was asked. */
    fd = raw(f);
    say(fd, "{\"command\":\"x\"}");
    shutdown(fd, SHUT_WR);
    assert_int_equal(read_all(f, fd, text, sizeof(text)), 0);
    assert_int_equal(f->requests, 1);
}

static void a_peer_that_has_gone_harms_nobody(void **state)
{
    struct fixture *f = *state;
    struct call c;

    must_open(f);
    f->hold = true;
    int fd = raw(f);
    say(fd, "{\"command\":\"x\"}\n");
    while (!f->held)
        uv_run(&f->loop, UV_RUN_ONCE);
    close(fd);
    for (int i = 0; i < 10; i++) {
        peer_line(f->held, json_pack("{s:s}", "type", "progress"));
        uv_run(&f->loop, UV_RUN_NOWAIT);
    }
    peer_end(f->held);
    f->hold = false;
    call(f, &c, "anything");
    assert_int_equal(c.rc, 0);
}

static void silent_peers_do_not_keep_others_out(void **state)
{
    struct fixture *f = *state;
    int fds[300];
    struct call c;

    must_open(f);
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        fds[i] = raw(f);
        say(fds[i], "{");
        uv_run(&f->loop, UV_RUN_NOWAIT);
    }
    call(f, &c, "anything");
    assert_int_equal(c.rc, 0);
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        close(fds[i]);
}

static void too_many_at_work_are_told_so(void **state)
{
    struct fixture *f = *state;
    int fds[64];
    struct call c;

    must_open(f);
    f->hold = true;
    for (unsigned i = 0; i < 64; i++) {
        fds[i] = raw(f);
        say(fds[i], "{\"command\":\"x\"}\n");
        while (f->requests <= i)
            uv_run(&f->loop, UV_RUN_ONCE);
    }
    call(f, &c, "one more");
    assert_int_equal(c.code, 11);
    for (unsigned i = 0; i < 64; i++)
        close(fds[i]);
}

/* ---- rights: a child with other ids asks ---- */

/* Its answer, or "" when it could not even connect. */
static void ask_as(struct fixture *f, uid_t uid, gid_t gid, gid_t extra, char *text, size_t cap)
{
    int out[2];
    size_t n = 0;

    assert_int_equal(pipe(out), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char answer[1024];
        struct sockaddr_un addr;
        struct error e = ERROR_INIT;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (setgroups(extra ? 1 : 0, &extra) != 0 || setgid(gid) != 0 || setuid(uid) != 0)
            _exit(2);
        control_address(f->path, &addr, &e);
        if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) != 0)
            _exit(0);
        (void)!write(fd, "{\"command\":\"x\"}\n", 16);
        ssize_t got;
        while ((got = read(fd, answer, sizeof(answer))) > 0)
            (void)!write(out[1], answer, (size_t)got);
        _exit(0);
    }
    close(out[1]);
    int flags = fcntl(out[0], F_GETFL);
    fcntl(out[0], F_SETFL, flags | O_NONBLOCK);
    for (;;) {
        ssize_t got = read(out[0], text + n, cap - 1 - n);
        if (got == 0)
            break;
        if (got > 0)
            n += (size_t)got;
        else
            uv_run(&f->loop, UV_RUN_NOWAIT);
    }
    text[n] = 0;
    close(out[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void credentials_decide(void **state)
{
    static const uid_t stranger = 65501;
    struct fixture *f = *state;
    const struct group *group = getgrgid(12) ? getgrgid(12) : getgrgid(4);
    struct error e = ERROR_INIT;
    struct stat st;
    char text[4096];

    if (geteuid() != 0 || !group)
        skip();
    gid_t gid = group->gr_gid;
    assert_int_equal(chmod(f->scratch->path, 0755), 0);
    assert_int_equal(open_server(f, group->gr_name, &e), 0);
    assert_int_equal(lstat(f->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0660);
    assert_int_equal(st.st_gid, gid);
    /* Members, by their main or a further group. */
    ask_as(f, stranger, gid, 0, text, sizeof(text));
    assert_non_null(strstr(text, "summary"));
    assert_int_equal(f->right, CONTROL_LOOK_AND_SAVE);
    ask_as(f, stranger, stranger, gid, text, sizeof(text));
    assert_non_null(strstr(text, "summary"));
    assert_int_equal(f->right, CONTROL_LOOK_AND_SAVE);
    /* Others do not get through the mode of the file, */
    unsigned before = f->requests;
    ask_as(f, stranger, stranger, 0, text, sizeof(text));
    assert_string_equal(text, "");
    /* and where they do, not through the check. */
    assert_int_equal(chmod(f->path, 0666), 0);
    ask_as(f, stranger, stranger, 0, text, sizeof(text));
    assert_non_null(strstr(text, "\"code\":12"));
    assert_int_equal(f->requests, before);
    ask_as(f, 0, 0, 0, text, sizeof(text));
    assert_int_equal(f->right, CONTROL_ALL);
}

/* ---- finding the service ---- */

static void the_lock_names_the_socket_while_it_is_held(void **state)
{
    struct fixture *f = *state;
    struct error e = ERROR_INIT;

    assert_null(client_socket_of(f->scratch->path));
    int fd = openat(f->scratch->fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, "/some/where.sock", 16), 16);
    assert_null(client_socket_of(f->scratch->path)); /* nobody holds it */
    assert_int_equal(lock_take(fd, LOCK_WRITER, true, 0, &e), 0);
    char *path = client_socket_of(f->scratch->path);
    assert_string_equal(path, "/some/where.sock");
    free(path);
    assert_int_equal(ftruncate(fd, 0), 0); /* held by somebody who is no service */
    assert_null(client_socket_of(f->scratch->path));
    close(fd);
}

int main(void)
{
#define CONTROL(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CONTROL(requests_are_answered_line_by_line),
        CONTROL(a_service_that_goes_away_is_an_error),
        CONTROL(work_that_gets_on_is_not_cut_off),
        CONTROL(work_that_is_stuck_is_given_up),
        CONTROL(a_service_that_does_not_listen_is_given_up),
        CONTROL(the_socket_is_private_and_goes_with_the_service),
        CONTROL(a_stale_socket_is_replaced_and_a_live_one_is_not),
        CONTROL(what_cannot_be_is_refused_with_a_reason),
        CONTROL(bad_requests_are_refused),
        CONTROL(a_request_is_bounded),
        CONTROL(a_half_closed_peer_is_answered),
        CONTROL(a_peer_that_has_gone_harms_nobody),
        CONTROL(silent_peers_do_not_keep_others_out),
        CONTROL(too_many_at_work_are_told_so),
        CONTROL(credentials_decide),
        CONTROL(the_lock_names_the_socket_while_it_is_held),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
