#include "service/wall_alarm.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/banned.h"

/* A timer that is not set does not tell when the clock is. */
static const int64_t far_away = INT64_C(253402300799);

struct wall_alarm {
    uv_poll_t poll;
    int fd;
    bool armed;
    int64_t at;
    void (*fire)(void *ctx);
    void *ctx;
};

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct wall_alarm *a = poll->data;
    uint64_t count;

    /* ECANCELED: the clock was set. */
    if (read(a->fd, &count, sizeof(count)) != (ssize_t)sizeof(count) && errno != ECANCELED)
        return;
    a->armed = false;
    a->fire(a->ctx);
}

static int start(uv_loop_t *loop, struct wall_alarm *a, struct error *e)
{
    int rc = uv_poll_init(loop, &a->poll, a->fd);

    if (rc != 0) {
        close(a->fd);
        free(a);
        return error_sys(e, -rc, "cannot wait for a timer");
    }
    a->poll.data = a;
    rc = uv_poll_start(&a->poll, UV_READABLE, on_readable);
    if (rc != 0) {
        wall_alarm_close(a);
        return error_sys(e, -rc, "cannot wait for a timer");
    }
    wall_alarm_set(a, WALL_NEVER);
    return 0;
}

int wall_alarm_open(uv_loop_t *loop, void (*fire)(void *ctx), void *ctx, struct wall_alarm **out,
                    struct error *e)
{
    struct wall_alarm *a = calloc(1, sizeof(*a));

    *out = NULL;
    if (!a)
        return error_sys(e, ENOMEM, "cannot make a timer");
    a->fire = fire;
    a->ctx = ctx;
    a->fd = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    if (a->fd < 0) {
        int rc = error_sys(e, errno, "cannot make a timer");
        free(a);
        return rc;
    }
    int rc = start(loop, a, e);
    if (rc == 0)
        *out = a;
    return rc;
}

void wall_alarm_set(struct wall_alarm *a, int64_t at_s)
{
    struct itimerspec when = {0};

    if (at_s > far_away)
        at_s = far_away;
    if (at_s < 1)
        at_s = 1; /* zero would disarm it */
    if (a->armed && at_s == a->at)
        return;
    a->at = at_s;
    a->armed = true;
    when.it_value.tv_sec = (time_t)at_s;
    /* ECANCELED: the clock was set since the last look; it is armed all the same. */
    timerfd_settime(a->fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &when, NULL);
}

static void on_closed(uv_handle_t *handle)
{
    struct wall_alarm *a = handle->data;

    close(a->fd);
    free(a);
}

void wall_alarm_close(struct wall_alarm *a)
{
    if (!a)
        return;
    uv_close((uv_handle_t *)&a->poll, on_closed);
}
