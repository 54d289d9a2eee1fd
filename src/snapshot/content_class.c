#include "snapshot/content_class.h"

#include "base/text.h"
#include "capture/file_read.h"

#include <string.h>
#include <strings.h>

#include "base/banned.h"

enum { TEXT_LOOKED_AT = 4096 };

static bool is_json_name(const char *name)
{
    static const char suffix[] = ".json";
    size_t n = strlen(name), m = sizeof(suffix) - 1;

    return n > m && strcasecmp(name + n - m, suffix) == 0;
}

void content_look_begin(struct content_look *l, const char *name)
{
    l->json = is_json_name(name);
    l->begun = l->text = l->database = false;
    if (l->json)
        json_check_init(&l->check);
}

/* A character cut by the end of what is looked at is none of the text's faults. */
static size_t without_cut_char(const uint8_t *p, size_t n)
{
    size_t back = 1;

    while (back < 4 && back < n && (p[n - back] & 0xc0) == 0x80)
        back++;
    return p[n - back] >= 0xc0 ? n - back : n;
}

/* Written so that compilers take many bytes at once. */
static bool looks_like_text(const uint8_t *p, size_t n)
{
    uint8_t control = 0, high = 0;

    if (n > TEXT_LOOKED_AT)
        n = TEXT_LOOKED_AT;
    for (size_t i = 0; i < n; i++) {
        uint8_t b = p[i];
        high |= b;
        control |= (uint8_t)((b < ' ') & (b != '\t') & (b != '\n') & (b != '\r') & (b != '\f') &
                             (b != '\b') & (b != 0x1b));
    }
    if (control || high < 0x80)
        return !control;
    return text_utf8_ok((const char *)p, n == TEXT_LOOKED_AT ? without_cut_char(p, n) : n);
}

static bool begins_as_json(const struct content_look *l)
{
    return l->json && (l->check.first == '{' || l->check.first == '[');
}

void content_look_feed(struct content_look *l, const void *p, size_t n)
{
    if (n == 0)
        return;
    if (l->json)
        json_check_feed(&l->check, p, n);
    if (!l->begun) {
        l->begun = true;
        l->text = !begins_as_json(l) && looks_like_text(p, n);
        l->database = n >= sizeof(l->header) && file_begins_as_database(p, n);
        if (l->database)
            memcpy(l->header, p, sizeof(l->header));
    }
}

static enum content_class database_class(const struct content_look *l, uint64_t len)
{
    struct error ignored = ERROR_INIT;
    uint32_t page_size;
    uint64_t image_len;
    int rc = database_header_check(l->header, len, &page_size, &image_len, &ignored);

    return rc == 0 ? CONTENT_SQLITE : CONTENT_SQLITE_BROKEN;
}

enum content_class content_look_end(const struct content_look *l, uint64_t len,
                                    enum content_class before)
{
    bool was_json = before == CONTENT_JSON || before == CONTENT_JSON_BROKEN;

    if (l->database)
        return database_class(l, len);
    if (before == CONTENT_SQLITE || before == CONTENT_SQLITE_BROKEN)
        return CONTENT_SQLITE_BROKEN;
    if (l->json && (was_json || begins_as_json(l))) {
        switch (json_check_end(&l->check)) {
        case JSON_WHOLE:
            return CONTENT_JSON;
        case JSON_NOT:
            return CONTENT_JSON_BROKEN;
        case JSON_UNKNOWN:
            break;
        }
    }
    return l->text ? CONTENT_TEXT : CONTENT_OTHER;
}
