/* helper_main.c - watchkeep-capture: opens databases so that nobody else has to.
 *
 * Started by sqlite_capture.c with its end of the pair as HELPER_FD. It holds nothing open between
 * requests. Signals of a terminal or a service manager are for the parent: this process ends when
 * the parent's end of the pair is closed, whatever it is doing then. */
#include "base/buffer.h"
#include "base/error.h"
#include "capture/helper_capture.h"
#include "capture/helper_protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

/* PR_SET_PDEATHSIG would fire when the *thread* that started us ends; a hangup cannot lie. */
static void *end_with_parent(void *unused)
{
    struct pollfd p = {.fd = HELPER_FD, .events = POLLRDHUP};

    while (poll(&p, 1, -1) <= 0 || !(p.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)))
        ;
    _exit(0);
}

static void serve(const struct helper_request *q, struct buffer *out)
{
    char text[DETAIL_MAX > RECEIPT_MAX ? DETAIL_MAX : RECEIPT_MAX] = "";
    struct error e = ERROR_INIT;
    bool ok = false;
    int rc;

    switch (q->op) {
    case HELPER_CAPTURE:
        rc = helper_capture(q->path, q->scratch, q->deadline_ms, text, &e);
        break;
    case HELPER_CHECK:
        rc = helper_check(q->path, &ok, text, &e);
        break;
    default:
        rc = error_set(&e, ERR_FAILED, "the capture helper does not know operation %u", q->op);
    }
    helper_reply_encode(
        &(struct helper_reply){
            .code = rc, .sys = e.sys, .ok = ok, .message = e.message, .result = text},
        out);
}

static int serve_all(void)
{
    static uint8_t message[HELPER_MESSAGE_MAX];
    struct buffer out = BUFFER_INIT;
    struct helper_request q;

    for (;;) {
        ssize_t n = recv(HELPER_FD, message, sizeof(message), MSG_TRUNC);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        if ((size_t)n > sizeof(message) || !helper_request_decode(message, (size_t)n, &q))
            break;
        buffer_clear(&out);
        serve(&q, &out);
        if (!buffer_ok(&out) || send(HELPER_FD, out.data, out.len, MSG_NOSIGNAL) < 0)
            break;
    }
    buffer_release(&out);
    return 0;
}

static void ignore_signals(void)
{
    static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGXFSZ, SIGTSTP};

    for (size_t i = 0; i < sizeof(ignored) / sizeof(*ignored); i++)
        signal(ignored[i], SIG_IGN);
}

int main(int argc, char **argv)
{
    struct error e = ERROR_INIT;
    struct stat st;
    pthread_t thread;

    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("%s %s\n", HELPER_NAME, WK_VERSION);
        return 0;
    }
    if (argc != 1 || fstat(HELPER_FD, &st) != 0 || !S_ISSOCK(st.st_mode)) {
        fprintf(stderr, "%s is started by watchkeep, not by hand\n", HELPER_NAME);
        return 2;
    }
    ignore_signals();
    umask(077);
    if (fcntl(HELPER_FD, F_SETFD, FD_CLOEXEC) != 0 || helper_setup(&e) != 0 ||
        pthread_create(&thread, NULL, end_with_parent, NULL) != 0) {
        fprintf(stderr, "%s: %s\n", HELPER_NAME, *e.message ? e.message : "cannot start");
        return 1;
    }
    return serve_all();
}
