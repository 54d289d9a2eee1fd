#include "watch/alarm.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/banned.h"

struct alarm {
    uv_poll_t poll;
    int fd;
    uint64_t at;
    void (*fire)(void *ctx);
    void *ctx;
};

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct alarm *a = poll->data;
    uint64_t count;

    if (read(a->fd, &count, sizeof(count)) != (ssize_t)sizeof(count))
        return; /* set anew meanwhile */
    a->at = ALARM_NEVER;
    a->fire(a->ctx);
}

int alarm_open(uv_loop_t *loop, void (*fire)(void *ctx), void *ctx, struct alarm **out,
               struct error *e)
{
    struct alarm *a = calloc(1, sizeof(*a));

    if (!a)
        return error_sys(e, ENOMEM, "cannot make a timer");
    a->at = ALARM_NEVER;
    a->fire = fire;
    a->ctx = ctx;
    a->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (a->fd < 0) {
        int rc = error_sys(e, errno, "cannot make a timer");
        free(a);
        return rc;
    }
    int rc = uv_poll_init(loop, &a->poll, a->fd);
    if (rc != 0) {
        close(a->fd);
        free(a);
        return error_sys(e, -rc, "cannot wait for a timer");
    }
    a->poll.data = a;
    rc = uv_poll_start(&a->poll, UV_READABLE, on_readable);
    if (rc != 0) {
        alarm_close(a);
        return error_sys(e, -rc, "cannot wait for a timer");
    }
    *out = a;
    return 0;
}

void alarm_set(struct alarm *a, uint64_t at_ns)
{
    struct itimerspec when = {0};

    if (at_ns == a->at)
        return;
    a->at = at_ns;
    if (at_ns != ALARM_NEVER) {
        /* Zero would disarm it. */
        uint64_t ns = at_ns ? at_ns : 1;
        when.it_value.tv_sec = (time_t)(ns / 1000000000u);
        when.it_value.tv_nsec = (long)(ns % 1000000000u);
    }
    timerfd_settime(a->fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static void on_closed(uv_handle_t *handle)
{
    struct alarm *a = handle->data;

    close(a->fd);
    free(a);
}

void alarm_close(struct alarm *a)
{
    if (!a)
        return;
    uv_close((uv_handle_t *)&a->poll, on_closed);
}
