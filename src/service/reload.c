#include "base/log.h"
#include "service/keeper.h"
#include "service/policy.h"
#include "service/problems.h"
#include "service/supervisor.h"
#include "service/systemd.h"
#include "service/timed.h"

#include <string.h>

#include "base/banned.h"

static void tell_fixed(void *ctx, const char *what)
{
    log_warn("%s has changed in the configuration: it takes effect when the service is restarted",
             what);
}

/* Stop what is configured no more, or captures something else now; tune the rest. */
static void apply_to_old(struct service *s, const struct config *c)
{
    struct keeper *k, *next;

    for (k = LIST_FIRST(&s->keepers); k; k = next) {
        next = LIST_NEXT(k, link);
        if (!k->root)
            continue; /* retired before */
        const struct watch_config *w = c->enabled ? config_watch(c, k->spec.name) : NULL;
        if (!w) {
            log_info("%s: watched no more; its snapshots are kept", k->spec.name);
            keeper_retire(k, false);
        } else if (keeper_differs(k, w)) {
            log_info("%s: its path or rules have changed", k->spec.name);
            keeper_retire(k, true);
        } else {
            keeper_tune(k, w);
        }
    }
}

static bool is_kept(const struct service *s, const char *name)
{
    const struct keeper *k;

    LIST_FOREACH(k, &s->keepers, link)
    {
        if (k->root && strcmp(k->spec.name, name) == 0)
            return true;
    }
    return false;
}

static int add_new(struct service *s, struct error *e)
{
    int rc = 0;

    for (size_t i = 0; s->config->enabled && i < s->config->watch_count; i++) {
        struct error own = ERROR_INIT;
        struct keeper *k;
        const struct watch_config *w = &s->config->watches[i];
        if (is_kept(s, w->name))
            continue;
        if (keeper_new(s, w, &k, &own) != 0) {
            log_error("%s: cannot be watched: %s", w->name, own.message);
            rc = own.code;
            *e = own;
        }
    }
    return rc;
}

/* What is open stays what it is. */
static void keep_string(char **running, char **fresh)
{
    char *other = *fresh;

    *fresh = *running;
    *running = other;
}

static int apply(struct service *s, struct error *e)
{
    struct config *fresh = s->opt->reload
                               ? s->opt->reload(s->opt->ctx, e)
                               : (error_set(e, ERR_FAILED, "there is nothing to load anew"), NULL);

    int rc;

    if (!fresh)
        return e->code ? e->code : error_set(e, ERR_FAILED, "the configuration cannot be read");
    config_fixed_changes(s->config, fresh, tell_fixed, NULL);
    keep_string(&s->config->repository, &fresh->repository);
    keep_string(&s->config->socket, &fresh->socket);
    apply_to_old(s, fresh);
    service_set_config(s, fresh);
    policy_min_free(fresh, s->repo);
    log_setup(fresh->log_level, fresh->log_format);
    rc = add_new(s, e);
    timed_configure(s);
    problems_configure(s);
    return rc;
}

int service_reload(struct service *s, struct error *e)
{
    systemd_reloading();
    int rc = apply(s, e);
    if (rc == 0) {
        s->config_bad_since = (struct wall_time){0};
        log_info("configuration loaded");
    } else {
        s->config_error = *e;
        if (s->config_bad_since.s == 0)
            s->config_bad_since = clock_wall();
        log_error("the configuration was not loaded: %s", e->message);
    }
    systemd_notify("READY=1");
    service_problems_changed(s);
    timed_look(s);
    service_rearm(s);
    return rc;
}
