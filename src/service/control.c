#include "service/control.h"

#include "base/buffer.h"
#include "base/log.h"
#include "base/safety.h"
#include "io/safe_path.h"
#include "service/control_socket.h"
#include "service/protocol.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/banned.h"

enum {
    PEERS_MAX = 64,
    REQUESTS_MAX = 256, /* also of peers that have gone and whose request is still worked on */
    QUEUED_MAX = 64 * 1024 * 1024, /* bytes that a peer may leave unread; of one line */
    ACCEPTS_A_TURN = 16,
    READ_BYTES = 4096,
};

enum peer_state { PEER_ASKING, PEER_SERVED, PEER_ENDING, PEER_CLOSED };

struct peer {
    TAILQ_ENTRY(peer) link; /* oldest first */
    struct control *control;
    int fd;
    uv_poll_t poll;   /* libuv's streams would close the descriptor behind a sanitizer's back */
    uv_timer_t timer; /* for the request, then for what is not read */
    uv_timer_t beat;  /* while the request is worked on */
    enum peer_state state;
    enum control_right right;
    bool held;   /* the owner of the request has yet to call peer_end */
    bool closed; /* its handles are being closed */
    unsigned handles;
    size_t unread; /* of the reply, when the timer last looked */
    struct buffer request;
    struct buffer reply; /* not sent yet from `sent` on */
    size_t sent;
};

struct control {
    uv_poll_t poll;
    int fd;
    struct control_options opt;
    struct control_socket socket;
    TAILQ_HEAD(, peer) peers;
    size_t count;
    bool polling; /* the listening handle is open */
    bool closing;
    unsigned handles;
};

static void control_unref(struct control *c)
{
    if (!c->closing || c->count > 0 || c->handles > 0)
        return;
    control_socket_release(&c->socket);
    free(c);
}

/* ---- the end of a peer ---- */

static void peer_free(struct peer *p)
{
    struct control *c = p->control;

    if (p->handles > 0 || p->held)
        return;
    TAILQ_REMOVE(&c->peers, p, link);
    c->count--;
    buffer_release(&p->request);
    buffer_release(&p->reply);
    free(p);
    control_unref(c);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct peer *p = handle->data;

    if (--p->handles == 0)
        close(p->fd);
    peer_free(p);
}

static void peer_close(struct peer *p)
{
    if (p->closed)
        return;
    p->closed = true;
    p->state = PEER_CLOSED;
    uv_close((uv_handle_t *)&p->poll, on_handle_closed);
    uv_close((uv_handle_t *)&p->timer, on_handle_closed);
    uv_close((uv_handle_t *)&p->beat, on_handle_closed);
}

/* ---- replies ---- */

static size_t unsent(const struct peer *p)
{
    return p->reply.len - p->sent;
}

/* Does the other side read at all? */
static void on_stalled(uv_timer_t *timer)
{
    struct peer *p = timer->data;

    if (unsent(p) > 0 && unsent(p) >= p->unread) {
        log_debug("a peer of the control socket does not read: dropped");
        peer_close(p);
        return;
    }
    p->unread = unsent(p);
    if (p->unread == 0)
        uv_timer_stop(timer);
}

static void on_ready(uv_poll_t *poll, int status, int events);

/* Wait for what this state waits for. */
static void wait_for_peer(struct peer *p)
{
    int events = (p->state == PEER_ASKING ? UV_READABLE : 0) | (unsent(p) > 0 ? UV_WRITABLE : 0);

    if (p->closed)
        return;
    if (events)
        uv_poll_start(&p->poll, events, on_ready);
    else
        uv_poll_stop(&p->poll);
    if (unsent(p) > 0 && !uv_is_active((uv_handle_t *)&p->timer)) {
        p->unread = unsent(p);
        uv_timer_start(&p->timer, on_stalled, PROTOCOL_STALL_MS, PROTOCOL_STALL_MS);
    }
}

/* Send what the socket takes now. */
static void push(struct peer *p)
{
    while (!p->closed && unsent(p) > 0) {
        ssize_t n = send(p->fd, p->reply.data + p->sent, unsent(p), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0)
            p->sent += (size_t)n;
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR)
            peer_close(p);
    }
    if (unsent(p) == 0) {
        buffer_clear(&p->reply);
        p->sent = 0;
        if (p->state == PEER_ENDING)
            peer_close(p);
    }
    wait_for_peer(p);
}

static void send_text(struct peer *p, const char *text)
{
    size_t n = strlen(text);

    if (unsent(p) > QUEUED_MAX - n) {
        log_warn("replies on the control socket are not read: the peer is dropped");
        peer_close(p);
        return;
    }
    if (p->sent > p->reply.len / 2) { /* what was sent need not be kept */
        memmove(p->reply.data, p->reply.data + p->sent, unsent(p));
        p->reply.len -= p->sent;
        p->sent = 0;
    }
    buffer_append(&p->reply, text, n);
    buffer_append(&p->reply, "\n", 1);
    if (buffer_ok(&p->reply))
        push(p);
    else
        peer_close(p);
}

/* The line, or what is wrong with it. */
static char *line_text(const json_t *line)
{
    char *text = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;

    if (!text)
        return strdup("{\"type\":\"error\",\"code\":1,\"message\":\"out of memory\"}");
    if (strlen(text) <= QUEUED_MAX)
        return text;
    free(text);
    return strdup(
        "{\"type\":\"error\",\"code\":1,\"message\":\"the answer is longer than the 64 MiB "
        "that the service gives at once: ask for less, as with --recent N\"}");
}

void peer_line(struct peer *p, json_t *line)
{
    char *text = p->state != PEER_CLOSED ? line_text(line) : NULL;

    json_decref(line);
    if (text)
        send_text(p, text);
    else
        peer_close(p);
    free(text);
}

void peer_end(struct peer *p)
{
    p->held = false;
    if (p->state == PEER_CLOSED) {
        peer_free(p);
        return;
    }
    p->state = PEER_ENDING;
    uv_timer_stop(&p->beat);
    push(p);
}

void peer_fail(struct peer *p, int code, const char *fmt, ...)
{
    char message[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(message, sizeof(message), fmt, ap);
    va_end(ap);
    peer_line(p, json_pack("{s:s,s:i,s:s}", "type", "error", "code", error_exit_code(code),
                           "message", message));
    peer_end(p);
}

/* ---- requests ---- */

/* A sign of life for who waits. What it has not read yet will do as one. */
static void on_beat(uv_timer_t *timer)
{
    struct peer *p = timer->data;
    struct control *c = p->control;

    if (unsent(p) == 0 && (!c->opt.working || c->opt.working(c->opt.ctx)))
        send_text(p, "{\"type\":\"working\"}");
}

static void serve(struct peer *p, size_t len)
{
    struct control *c = p->control;

    p->state = PEER_SERVED;
    p->held = true;
    uv_timer_stop(&p->timer);
    uv_timer_start(&p->beat, on_beat, PROTOCOL_WORKING_MS, PROTOCOL_WORKING_MS);
    json_t *request = json_loadb((const char *)p->request.data, len, JSON_REJECT_DUPLICATES, NULL);
    if (SAFETY(PEER, p->right == CONTROL_NONE))
        peer_fail(p, ERR_DENIED, "not permitted: ask root, the repository's owner or the group");
    else if (!json_is_object(request))
        peer_fail(p, ERR_USAGE, "the request is no JSON object");
    else
        c->opt.request(c->opt.ctx, p, p->right, request);
    json_decref(request);
}

/* Some of the request has come. */
static void take(struct peer *p, const char *bytes, size_t n)
{
    size_t before = p->request.len;

    buffer_append(&p->request, bytes, n);
    const uint8_t *end = NULL;
    if (buffer_ok(&p->request))
        end = memchr(p->request.data + before, '\n', n);
    if (end) {
        serve(p, (size_t)(end - p->request.data));
    } else if (!buffer_ok(&p->request) || p->request.len > PROTOCOL_REQUEST_MAX) {
        p->state = PEER_SERVED;
        p->held = true;
        peer_fail(p, ERR_USAGE, "the request is too long");
    }
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
    struct peer *p = poll->data;
    char input[READ_BYTES];

    if (status < 0) {
        peer_close(p);
        return;
    }
    if ((events & UV_READABLE) && p->state == PEER_ASKING) {
        ssize_t n = recv(p->fd, input, sizeof(input), MSG_DONTWAIT);
        if (n > 0)
            take(p, input, (size_t)n);
        else if (n == 0 || (errno != EAGAIN && errno != EINTR))
            peer_close(p); /* gone before the line was whole */
    }
    push(p);
}

static void on_too_slow(uv_timer_t *timer)
{
    peer_close(timer->data);
}

/* ---- connections ---- */

/* The oldest peer that has not asked yet makes room for a new one. */
static bool make_room(struct control *c)
{
    struct peer *p;

    TAILQ_FOREACH(p, &c->peers, link)
    {
        if (p->state == PEER_ASKING) {
            peer_close(p);
            return true;
        }
    }
    return false;
}

static size_t peers_open(const struct control *c)
{
    const struct peer *p;
    size_t n = 0;

    TAILQ_FOREACH(p, &c->peers, link)
    n += !p->closed;
    return n;
}

static void welcome(struct control *c, int fd)
{
    struct peer *p = calloc(1, sizeof(*p));

    if (!p) {
        close(fd);
        return;
    }
    p->control = c;
    p->fd = fd;
    p->right = control_socket_right(&c->socket, fd);
    if (uv_poll_init(c->poll.loop, &p->poll, fd) != 0) {
        close(fd);
        free(p);
        return;
    }
    uv_timer_init(c->poll.loop, &p->timer);
    uv_timer_init(c->poll.loop, &p->beat);
    p->poll.data = p->timer.data = p->beat.data = p;
    p->handles = 3;
    TAILQ_INSERT_TAIL(&c->peers, p, link);
    c->count++;
    uv_timer_start(&p->timer, on_too_slow, PROTOCOL_REQUEST_MS, 0);
    wait_for_peer(p);
}

static void refuse(int fd)
{
    static const char text[] =
        "{\"type\":\"error\",\"code\":11,\"message\":\"the service has too many connections\"}\n";

    (void)send(fd, text, sizeof(text) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(fd);
}

static void on_connection(uv_poll_t *poll, int status, int events)
{
    struct control *c = poll->data;

    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        int fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE) && make_room(c))
            return; /* its descriptor is free in the next turn */
        if (fd < 0)
            return;
        if ((peers_open(c) >= PEERS_MAX && !make_room(c)) || c->count >= REQUESTS_MAX)
            refuse(fd);
        else
            welcome(c, fd);
    }
}

static void on_listen_closed(uv_handle_t *handle)
{
    struct control *c = handle->data;

    c->handles--;
    control_unref(c);
}

int control_open(uv_loop_t *loop, const struct control_options *opt, struct control **out,
                 struct error *e)
{
    struct control *c = calloc(1, sizeof(*c));

    if (!c)
        return error_sys(e, ENOMEM, "cannot make the control socket");
    c->opt = *opt;
    TAILQ_INIT(&c->peers);
    int rc = control_socket_make(&c->socket, opt->path, opt->group, opt->owner, e);
    if (rc != 0) {
        free(c);
        return rc;
    }
    c->fd = c->socket.fd;
    int sys = uv_poll_init(loop, &c->poll, c->fd);
    if (sys != 0) {
        control_socket_release(&c->socket);
        free(c);
        return error_sys(e, -sys, "cannot wait for connections");
    }
    c->poll.data = c;
    c->handles = 1;
    c->polling = true;
    uv_poll_start(&c->poll, UV_READABLE, on_connection);
    *out = c;
    return 0;
}

void control_stop(struct control *c)
{
    struct peer *p, *next;

    if (!c || !c->polling)
        return;
    c->polling = false;
    uv_close((uv_handle_t *)&c->poll, on_listen_closed);
    for (p = TAILQ_FIRST(&c->peers); p; p = next) {
        next = TAILQ_NEXT(p, link);
        if (p->state == PEER_ASKING)
            peer_close(p);
    }
}

void control_close(struct control *c)
{
    struct peer *p, *next;

    if (!c)
        return;
    control_stop(c);
    control_socket_remove(&c->socket);
    c->closing = true;
    c->handles++; /* it stays while we walk */
    for (p = TAILQ_FIRST(&c->peers); p; p = next) {
        next = TAILQ_NEXT(p, link);
        p->held = false;
        if (!p->closed)
            peer_close(p);
        else if (p->handles == 0)
            peer_free(p);
    }
    c->handles--;
    control_unref(c);
}
