#include "cli/event_text.h"

#include "cli/output.h"
#include "cli/table.h"

#include <stdio.h>
#include <string.h>

#include "base/banned.h"

static void print_event(const json_t *event)
{
    const char *what = json_text(event, "event"), *watch = json_text(event, "watch");
    char time[32];

    printf("  %s  %s%s", json_local_time(event, "time", time, sizeof(time)), watch,
           *watch ? ": " : "");
    if (strcmp(what, "job-failed") == 0)
        printf("%s failed (try %llu): %s\n", json_text(event, "job"),
               (unsigned long long)json_count(event, "attempt"), json_text(event, "message"));
    else if (strcmp(what, "lost") == 0)
        printf("packs were lost or cut: %zu\n", json_array_size(json_object_get(event, "packs")));
    else
        printf("%s %s\n", what, json_text(event, "message"));
}

void print_events(const json_t *events, size_t max)
{
    size_t count = json_array_size(events);

    if (count == 0)
        return;
    printf("\nevents:\n");
    for (size_t i = count > max ? count - max : 0; i < count; i++)
        print_event(json_array_get(events, i));
}
