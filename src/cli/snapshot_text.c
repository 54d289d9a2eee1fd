#include "cli/snapshot_text.h"

#include "base/text.h"

#include <string.h>

#include "base/banned.h"

enum { SPOILT_TOLD = 10 };

static void counts_text(const json_t *saved, char *out, size_t cap)
{
    static const char *const keys[] = {"files_new", "files_changed", "files_removed",
                                       "files_excluded"};
    static const char *const words[] = {"new", "changed", "removed", "excluded"};
    size_t len = 0;

    out[0] = 0;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        uint64_t n = json_count(saved, keys[i]);
        if (n > 0 && len < cap)
            len += (size_t)snprintf(out + len, cap - len, "%s%llu %s", len ? ", " : "",
                                    (unsigned long long)n, words[i]);
    }
    if (len == 0)
        snprintf(out, cap, "no file changed");
}

void print_saved(const struct cli *cli, const json_t *saved, const char *watch)
{
    char counts[128], read[24], stored[24], name[300];
    bool made = json_is_integer(json_object_get(saved, "snapshot"));
    uint64_t current = json_count(saved, "current");

    text_escape(watch ? watch : "", name, sizeof(name));
    if (made) {
        counts_text(saved, counts, sizeof(counts));
        printf("%ssnapshot %llu%s%s%s: %s (%s read, %s stored, %.3f s)\n",
               out_paint(cli, stdout, PAINT_GREEN),
               (unsigned long long)json_count(saved, "snapshot"),
               out_paint(cli, stdout, PAINT_NONE), watch ? " of " : "", name, counts,
               size_text(json_count(saved, "bytes_read"), read, sizeof(read)),
               size_text(json_count(saved, "bytes_stored"), stored, sizeof(stored)),
               json_number_value(json_object_get(saved, "seconds")));
    } else if (current > 0) {
        printf("nothing changed%s%s: snapshot %llu holds it\n", watch ? " in " : "", name,
               (unsigned long long)current);
    } else {
        printf("nothing changed%s%s\n", watch ? " in " : "", name);
    }
}

static void tell_spoilt(const struct cli *cli, const json_t *saved, const char *watch)
{
    const json_t *list = json_object_get(saved, "spoilt");
    size_t count = json_array_size(list), i;
    json_t *entry;
    char path[4200];

    json_array_foreach(list, i, entry)
    {
        if (i == SPOILT_TOLD && count > SPOILT_TOLD + 1) {
            out_note(cli, "... and %zu more", count - i);
            break;
        }
        text_escape(json_text(entry, "path"), path, sizeof(path));
        out_note(cli, "not good: '%s%s%s' %s", watch ? watch : "", watch ? "/" : "", path,
                 json_text(entry, "reason"));
    }
    if (count > 0)
        out_note(cli, "'good' stays a snapshot before; if that is right: watchkeep save --accept");
}

void tell_not_whole(const struct cli *cli, const json_t *saved, const char *watch)
{
    const json_t *gap = json_object_get(saved, "gap");
    size_t i;
    json_t *entry;
    char path[4200];

    json_array_foreach(json_object_get(saved, "incomplete"), i, entry)
    {
        text_escape(json_text(entry, "path"), path, sizeof(path));
        fprintf(stderr, "not whole: '%s%s%s': %s\n", watch ? watch : "", watch ? "/" : "", path,
                json_text(entry, "reason"));
    }
    if (json_is_string(gap))
        out_note(cli, "changes may have been missed: %s", json_string_value(gap));
}

void tell_incomplete(const struct cli *cli, const json_t *saved, const char *watch)
{
    tell_not_whole(cli, saved, watch);
    if (json_flag(saved, "suspect") && json_is_integer(json_object_get(saved, "snapshot")))
        out_note(cli,
                 "hardly a file is left%s%s: snapshot %llu is suspect, and 'latest' stays the one "
                 "before; if that is right: watchkeep save --accept",
                 watch ? " in " : "", watch ? watch : "",
                 (unsigned long long)json_count(saved, "snapshot"));
    tell_spoilt(cli, saved, watch);
}

void snapshot_flags(const json_t *snapshot, char *out, size_t cap)
{
    const struct {
        bool holds;
        const char *word;
    } flags[] = {
        {json_is_false(json_object_get(snapshot, "complete")), "incomplete"},
        {json_flag(snapshot, "damaged"), "damaged"},
        {json_flag(snapshot, "suspect"), "suspect"},
        {json_is_false(json_object_get(snapshot, "good")), "not good"},
        {json_flag(snapshot, "pinned"), "pinned"},
    };
    size_t len = 0;

    out[0] = 0;
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        if (flags[i].holds && len < cap)
            len += (size_t)snprintf(out + len, cap - len, "%s%s", len ? ", " : "", flags[i].word);
    }
}
