/* A rule for a timed job. What is taken has a next instant, after the one given. */
#include "base/calendar_rule.h"
#include "fuzz.h"
#include "keep/calendar.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const int64_t after = 1795000000;
    struct error e = ERROR_INIT;
    struct calendar c;
    int64_t next;
    char *text = malloc(size + 1);

    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = 0;
    if (calendar_parse(text, &c, &e) == 0 &&
        (calendar_next(&c, &zone_utc, after, &next, &e) != 0 || next <= after))
        abort();
    free(text);
    return 0;
}
