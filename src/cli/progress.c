#include "cli/progress.h"

#include "base/clock.h"
#include "base/text.h"
#include "cli/table.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/banned.h"

enum { TICK_MS = 100, QUIET_MS = 300, BAR = 24, LINE_MAX_WIDTH = 200 };

struct progress {
    const struct cli *cli;
    const char *verb;
    void (*read)(void *ctx, struct progress_view *v);
    void *ctx;
    uint64_t begin_ns;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t stop;
    bool stopping, drawn;
};

bool progress_wanted(const struct cli *cli)
{
    return !cli->json && !cli->quiet && !cli->no_progress && isatty(STDERR_FILENO);
}

static void bar_text(double done, char *out)
{
    int full = (int)(done * BAR);

    for (int i = 0; i < BAR; i++)
        out[i] = i < full ? '=' : i == full ? '>' : ' ';
    out[BAR] = 0;
}

static void time_left(double done, double seconds, char *out, size_t cap)
{
    double left = done > 0.01 ? seconds / done - seconds : 0;
    unsigned s = left < 86400 ? (unsigned)left : 86400;

    if (done <= 0.01 || seconds < 1)
        snprintf(out, cap, "   ");
    else if (s >= 3600)
        snprintf(out, cap, "%u:%02u:%02u left", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(out, cap, "%u:%02u left", s / 60, s % 60);
}

static void line_text(const struct progress *p, const struct progress_view *v, char *out,
                      size_t cap)
{
    double seconds = (double)(clock_mono_ns() - p->begin_ns) / 1e9;
    double done = v->bytes_total   ? (double)v->bytes / (double)v->bytes_total
                  : v->files_total ? (double)v->files / (double)v->files_total
                                   : -1;
    char bar[BAR + 1], left[32], size[24], files[40] = "";

    text_size(v->bytes, size, sizeof(size));
    if (v->files > 0)
        snprintf(files, sizeof(files), "%llu files  ", (unsigned long long)v->files);
    if (done < 0) {
        snprintf(out, cap, "%s  %s%s", p->verb, files, size);
        return;
    }
    done = done > 1 ? 1 : done;
    bar_text(done, bar);
    time_left(done, seconds, left, sizeof(left));
    snprintf(out, cap, "%s [%s] %3d %%  %s%s  %s", p->verb, bar, (int)(done * 100), files, size,
             left);
}

static void draw(struct progress *p)
{
    struct progress_view v = {0};
    struct winsize w = {0};
    char line[LINE_MAX_WIDTH];
    size_t width = 80;

    if (clock_mono_ns() - p->begin_ns < QUIET_MS * UINT64_C(1000000))
        return;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 1)
        width = w.ws_col;
    p->read(p->ctx, &v);
    line_text(p, &v, line, sizeof(line));
    if (strlen(line) >= width)
        line[width - 1] = 0;
    fprintf(stderr, "\r%s\033[K", line);
    p->drawn = true;
}

static void *run(void *arg)
{
    struct progress *p = arg;
    struct timespec at;

    pthread_mutex_lock(&p->lock);
    while (!p->stopping) {
        clock_gettime(CLOCK_MONOTONIC, &at);
        at.tv_nsec += TICK_MS * 1000000L;
        at.tv_sec += at.tv_nsec / 1000000000L;
        at.tv_nsec %= 1000000000L;
        pthread_cond_timedwait(&p->stop, &p->lock, &at);
        if (!p->stopping)
            draw(p);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void free_progress(struct progress *p)
{
    pthread_cond_destroy(&p->stop);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

struct progress *progress_start(const struct cli *cli, const char *verb,
                                void (*read)(void *ctx, struct progress_view *v), void *ctx)
{
    struct progress *p = progress_wanted(cli) ? calloc(1, sizeof(*p)) : NULL;
    pthread_condattr_t attr;

    if (!p)
        return NULL;
    p->cli = cli;
    p->verb = verb;
    p->read = read;
    p->ctx = ctx;
    p->begin_ns = clock_mono_ns();
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->stop, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&p->thread, NULL, run, p) == 0)
        return p;
    free_progress(p);
    return NULL;
}

void progress_stop(struct progress *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_cond_signal(&p->stop);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    if (p->drawn)
        fprintf(stderr, "\r\033[K");
    free_progress(p);
}
