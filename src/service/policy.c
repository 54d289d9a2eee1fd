#include "service/policy.h"

#include "base/parse.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* 0: off. */
static uint32_t count_of(const struct config *c, const char *word, const char *watch,
                         const char *key)
{
    uint64_t n = config_number(c, word, watch, key);

    if (n == CONFIG_OFF)
        return 0;
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

static uint64_t size_of(const char *text)
{
    struct error ignored = ERROR_INIT;
    uint64_t n = 0;

    return strcmp(text, "off") != 0 && parse_size(text, &n, &ignored) == 0 ? n : 0;
}

int policy_of(const struct config *c, const char *watch, struct prune_policy *out)
{
    static const char kept[] = "retention", archived[] = "archive";

    if (c->watch_count > 0 && !config_watch(c, watch))
        return ERR_NOTFOUND;
    *out = (struct prune_policy){
        .snapshots = {.keep_min = count_of(c, kept, watch, "keep_min"),
                      .keep_days = count_of(c, kept, watch, "keep_days"),
                      .keep_last = count_of(c, kept, watch, "keep_last"),
                      .keep_hourly = count_of(c, kept, watch, "keep_hourly"),
                      .keep_daily = count_of(c, kept, watch, "keep_daily"),
                      .keep_weekly = count_of(c, kept, watch, "keep_weekly"),
                      .keep_monthly = count_of(c, kept, watch, "keep_monthly"),
                      .keep_yearly = count_of(c, kept, watch, "keep_yearly")},
        .archives = {.keep_days = count_of(c, archived, watch, "keep_days"),
                     .keep_last = count_of(c, archived, watch, "keep_last")},
        .max_size = size_of(config_text(c, kept, watch, "max_size")),
    };
    return 0;
}

uint64_t policy_max_size(const struct config *c)
{
    return size_of(config_text(c, "retention", NULL, "max_size"));
}

void policy_left_free(const struct config *c, uint64_t *bytes, unsigned *percent)
{
    size_t len = strlen(c->min_free);
    bool share = len > 1 && c->min_free[len - 1] == '%';

    *percent = share ? (unsigned)strtoul(c->min_free, NULL, 10) : 0;
    *bytes = share ? 0 : size_of(c->min_free);
}

void policy_min_free(const struct config *c, struct repo *r)
{
    unsigned percent;
    uint64_t bytes;

    policy_left_free(c, &bytes, &percent);
    repo_min_free(r, bytes, percent);
}
