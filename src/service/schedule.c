#include "service/schedule.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

struct schedule {
    struct schedule_clock clock;
    struct schedule_calls calls;
    LIST_HEAD(, timed) jobs; /* by kind */
    unsigned attempts;
    uint64_t delay_ms;
};

const char *timed_word(enum timed_kind kind)
{
    static const char *const words[TIMED_KINDS] = {"archive", "verify", "prune"};

    return words[kind];
}

struct schedule *schedule_new(const struct schedule_clock *clock,
                              const struct schedule_calls *calls)
{
    struct schedule *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->clock = *clock;
    s->calls = *calls;
    s->attempts = 1;
    LIST_INIT(&s->jobs);
    return s;
}

static void free_job(struct timed *t)
{
    LIST_REMOVE(t, link);
    free(t->watch);
    free(t->text);
    free(t);
}

void schedule_free(struct schedule *s)
{
    if (!s)
        return;
    while (!LIST_EMPTY(&s->jobs))
        free_job(LIST_FIRST(&s->jobs));
    free(s);
}

void schedule_retries(struct schedule *s, unsigned attempts, uint64_t delay_ms)
{
    s->attempts = attempts;
    s->delay_ms = delay_ms;
}

static int64_t wall(const struct schedule *s)
{
    return s->clock.wall_s(s->clock.ctx);
}

static uint64_t boot(const struct schedule *s)
{
    return s->clock.boot_ms(s->clock.ctx);
}

/* ---- which jobs there are ---- */

static bool same_watch(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

struct timed *schedule_find(struct schedule *s, enum timed_kind kind, const char *watch)
{
    struct timed *t;

    LIST_FOREACH(t, &s->jobs, link)
    {
        if (t->kind == kind && !t->gone && same_watch(t->watch, watch))
            return t;
    }
    return NULL;
}

struct timed *schedule_first(struct schedule *s)
{
    return LIST_FIRST(&s->jobs);
}

static void insert(struct schedule *s, struct timed *t)
{
    struct timed *at, *before = NULL;

    LIST_FOREACH(at, &s->jobs, link)
    {
        if (at->kind <= t->kind)
            before = at;
    }
    if (before)
        LIST_INSERT_AFTER(before, t, link);
    else
        LIST_INSERT_HEAD(&s->jobs, t, link);
}

static int add(struct schedule *s, enum timed_kind kind, const char *watch, const char *text,
               const struct calendar *rule, struct error *e)
{
    struct timed *t = calloc(1, sizeof(*t));

    if (!t)
        return error_sys(e, ENOMEM, "cannot set up a timed job");
    t->kind = kind;
    t->rule = *rule;
    t->text = strdup(text);
    t->watch = watch ? strdup(watch) : NULL;
    t->next = INT64_MAX;
    insert(s, t);
    if (t->text && (!watch || t->watch))
        return 0;
    free_job(t);
    return error_sys(e, ENOMEM, "cannot set up a timed job");
}

static void drop(struct timed *t)
{
    if (!t)
        return;
    t->gone = true;
    if (!t->running)
        free_job(t);
}

int schedule_set(struct schedule *s, enum timed_kind kind, const char *watch, const char *rule,
                 struct error *e)
{
    struct timed *t = schedule_find(s, kind, watch);
    struct calendar parsed;

    if (!rule || strcmp(rule, "off") == 0) {
        drop(t);
        return 0;
    }
    int rc = calendar_parse(rule, &parsed, e);
    if (rc != 0)
        return rc;
    if (!t)
        return add(s, kind, watch, rule, &parsed, e);
    if (strcmp(t->text, rule) == 0)
        return 0;
    char *text = strdup(rule);
    if (!text)
        return error_sys(e, ENOMEM, "cannot set up a timed job");
    free(t->text);
    t->text = text;
    t->rule = parsed;
    if (t->known && t->done < wall(s)) {
        t->done = wall(s);
        if (s->calls.moved)
            s->calls.moved(s->calls.ctx, t);
    }
    t->next = t->known ? INT64_MIN : INT64_MAX;
    return 0;
}

/* By which a slot is known again. An interval knows no local time. */
static int64_t local_of(const struct schedule *s, const struct timed *t, int64_t slot)
{
    const struct zone *z = s->clock.zone;

    return t->rule.interval > 0 ? slot : slot + z->offset_at(z->context, slot);
}

/* A clock that was wrong for a while, and then is set right, or a zone further west, shows local
 * times of before anew. */
static void has_run(struct timed *t, int64_t local)
{
    memmove(t->ran, t->ran + 1, sizeof(t->ran) - sizeof(t->ran[0]));
    t->ran[TIMED_RAN - 1] = local;
}

static bool did_run(const struct timed *t, int64_t local)
{
    bool did = false;

    for (int i = 0; i < TIMED_RAN; i++)
        did = did || t->ran[i] == local;
    return did;
}

static void now_known(struct timed *t, int64_t done)
{
    t->known = true;
    t->done = done;
    t->next = INT64_MIN;
}

void schedule_known_since(struct schedule *s, struct timed *t, int64_t since)
{
    if (!t->known)
        now_known(t, since);
}

bool schedule_known(struct schedule *s, struct timed *t, const char *state)
{
    char *end;

    errno = 0;
    int64_t done = strtoll(state, &end, 10);
    if (end == state || errno != 0)
        return false;
    if (t->known)
        return true;
    now_known(t, done);
    for (const char *at = end; *at == ' '; at = end) {
        int64_t local = strtoll(at, &end, 10);
        if (end == at)
            break;
        has_run(t, local);
    }
    return true;
}

void timed_state(const struct timed *t, bool with_slot, char out[TIMED_STATE_MAX])
{
    size_t at = (size_t)snprintf(out, TIMED_STATE_MAX, "%" PRId64, with_slot ? t->slot : t->done);

    for (int i = with_slot; i < TIMED_RAN; i++)
        at += (size_t)snprintf(out + at, TIMED_STATE_MAX - at, " %" PRId64, t->ran[i]);
    if (with_slot)
        snprintf(out + at, TIMED_STATE_MAX - at, " %" PRId64, t->local);
}

/* ---- what is due ---- */

static void begin(struct schedule *s, struct timed *t, int64_t slot)
{
    t->slot = slot;
    t->local = local_of(s, t, slot);
    t->attempt++;
    t->running = true;
    if (s->calls.begin(s->calls.ctx, t))
        return;
    t->running = false;
    t->attempt--;
}

static void look(struct schedule *s, struct timed *t)
{
    struct calendar_decision d;
    struct error ignored = ERROR_INIT;
    int64_t now = wall(s);

    if (!t->known || t->running || t->gone)
        return;
    if (t->attempt > 0 && boot(s) < t->retry_at)
        return;
    if (calendar_decide(&t->rule, s->clock.zone, t->done, now, &d, &ignored) != 0) {
        t->next = now + 86400; /* a clock that shows an impossible year */
        return;
    }
    t->next = d.next;
    if (d.due && !did_run(t, local_of(s, t, d.slot))) {
        begin(s, t, d.slot);
        return;
    }
    t->attempt = 0;
    if (d.slot != t->done) {
        t->done = d.slot;
        if (s->calls.moved)
            s->calls.moved(s->calls.ctx, t);
    }
}

void schedule_tick(struct schedule *s)
{
    struct timed *t, *next;

    for (t = LIST_FIRST(&s->jobs); t; t = next) {
        next = LIST_NEXT(t, link);
        look(s, t);
    }
}

bool schedule_last_attempt(const struct schedule *s, const struct timed *t)
{
    return t->attempt >= s->attempts;
}

static void succeeded(struct timed *t)
{
    t->done = t->slot;
    has_run(t, t->local);
    t->attempt = 0;
    t->failed = t->given_up = false;
}

static bool failed(struct schedule *s, struct timed *t, const struct error *why)
{
    if (!t->failed)
        t->failed_since = wall(s);
    t->failed = true;
    t->failure = *why;
    if (!schedule_last_attempt(s, t)) {
        t->retry_at = boot(s) + s->delay_ms;
        return true;
    }
    t->done = t->slot;
    t->attempt = 0;
    t->given_up = true;
    return false;
}

bool schedule_ended(struct schedule *s, struct timed *t, int rc, const struct error *why)
{
    bool again = false;

    t->running = false;
    if (t->gone) {
        free_job(t);
        return false;
    }
    if (rc == 0)
        succeeded(t);
    else if (rc == ERR_CANCELLED)
        t->attempt--;
    else
        again = failed(s, t, why);
    return again;
}

bool schedule_settled(struct timed *t)
{
    if (!t->failed || t->running)
        return false;
    succeeded(t);
    return true;
}

int64_t schedule_due(const struct schedule *s)
{
    int64_t at = INT64_MAX, now = wall(s);
    uint64_t mono = boot(s);
    const struct timed *t;

    LIST_FOREACH(t, &s->jobs, link)
    {
        int64_t due = t->next;
        if (!t->known || t->running || t->gone)
            continue;
        if (t->attempt > 0)
            due = mono < t->retry_at ? now + (int64_t)((t->retry_at - mono + 999) / 1000) : now;
        at = due < at ? due : at;
    }
    return at;
}

bool schedule_next(const struct schedule *s, const struct timed *t, int64_t *at)
{
    struct error ignored = ERROR_INIT;

    return t->known && calendar_next(&t->rule, s->clock.zone, wall(s), at, &ignored) == 0;
}
