/* What a file's content is. Pieces make no difference, and what jansson takes is whole JSON. */
#include "fuzz.h"
#include "snapshot/content_class.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static enum content_class class_of(const uint8_t *p, size_t n, size_t first,
                                   enum content_class before)
{
    struct content_look l;

    content_look_begin(&l, "a.json");
    content_look_feed(&l, p, first);
    for (size_t at = first; at < n; at++)
        content_look_feed(&l, p + at, 1);
    return content_look_end(&l, n, before);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_error_t ignored;
    struct json_check c;
    json_t *j = json_loadb((const char *)data, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &ignored);

    json_check_init(&c);
    json_check_feed(&c, data, size);
    /* A NUL behind the text is the end to jansson. */
    if (j && json_check_end(&c) == JSON_NOT && !memchr(data, 0, size))
        abort();
    json_decref(j);
    for (enum content_class before = CONTENT_OTHER; before <= CONTENT_SQLITE_BROKEN; before++) {
        size_t head = size < 4096 ? size : 4096;
        if (class_of(data, size, size, before) != class_of(data, size, head, before))
            abort();
    }
    return 0;
}
