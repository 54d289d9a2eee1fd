#include "watch/alarm.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/banned.h"

#define NS_A_S UINT64_C(1000000000)
/* The end of the year 9999. A timer that is not set does not tell when the clock is. */
#define FAR_AWAY_S INT64_C(253402300799)

struct alarm {
    uv_poll_t poll;
    int fd;
    enum alarm_clock clock;
    bool armed;
    uint64_t at;
    void (*fire)(void *ctx);
    void *ctx;
};

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct alarm *a = poll->data;
    uint64_t count;

    /* ECANCELED: the clock was set. Anything else: the alarm was set anew meanwhile. */
    if (read(a->fd, &count, sizeof(count)) != (ssize_t)sizeof(count) && errno != ECANCELED)
        return;
    a->armed = false;
    a->fire(a->ctx);
}

static int start(uv_loop_t *loop, struct alarm *a, struct error *e)
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
        alarm_close(a);
        return error_sys(e, -rc, "cannot wait for a timer");
    }
    alarm_set(a, ALARM_NEVER);
    return 0;
}

int alarm_open(uv_loop_t *loop, enum alarm_clock clock, void (*fire)(void *ctx), void *ctx,
               struct alarm **out, struct error *e)
{
    struct alarm *a = calloc(1, sizeof(*a));

    *out = NULL;
    if (!a)
        return error_sys(e, ENOMEM, "cannot make a timer");
    a->clock = clock;
    a->fire = fire;
    a->ctx = ctx;
    a->fd = timerfd_create(clock == ALARM_WALL ? CLOCK_REALTIME : CLOCK_MONOTONIC,
                           TFD_NONBLOCK | TFD_CLOEXEC);
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

uint64_t alarm_wall_ns(int64_t s)
{
    return s < 0 ? 0 : (uint64_t)s < ALARM_NEVER / NS_A_S ? (uint64_t)s * NS_A_S : ALARM_NEVER;
}

void alarm_set(struct alarm *a, uint64_t at_ns)
{
    struct itimerspec when = {0};
    int flags = TFD_TIMER_ABSTIME;

    if (a->armed && at_ns == a->at)
        return;
    a->at = at_ns;
    a->armed = true;
    if (at_ns != ALARM_NEVER) {
        /* Zero would disarm it. */
        uint64_t ns = at_ns ? at_ns : 1;
        when.it_value.tv_sec = (time_t)(ns / NS_A_S);
        when.it_value.tv_nsec = (long)(ns % NS_A_S);
    } else if (a->clock == ALARM_WALL) {
        when.it_value.tv_sec = (time_t)FAR_AWAY_S;
    }
    if (a->clock == ALARM_WALL)
        flags |= TFD_TIMER_CANCEL_ON_SET;
    /* ECANCELED: the clock was set since the last look; it is armed all the same. */
    timerfd_settime(a->fd, flags, &when, NULL);
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
