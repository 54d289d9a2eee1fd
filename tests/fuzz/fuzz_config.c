/* A configuration file: its lines, and the values of the keys there are. */
#include "base/string_list.h"
#include "config/ini_file.h"
#include "config/keys.h"
#include "config/values.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static int take_section(void *ctx, const char *section, int line, struct error *e)
{
    return strlen(section) > INI_LINE_MAX ? (abort(), 0) : 0;
}

static int take_setting(void *ctx, const char *section, const char *key, const char *value,
                        int line, struct error *e)
{
    char word[SECTION_WORD_MAX];
    bool failed = false;
    char *kept;

    section_split(section, word);
    const struct config_key *k = config_key_find(word, key);
    if (!k || config_key_check(k, value, &kept, e) != 0)
        return 0;
    if (k->type == VALUE_COUNT || k->type == VALUE_DURATION)
        config_key_number(k, kept);
    string_list_free(values_patterns(kept, &failed));
    free(kept);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ini_sink sink = {take_section, take_setting, NULL};
    struct error e = ERROR_INIT;

    ini_text_read("fuzzed", (const char *)data, size, &sink, &e);
    return 0;
}
