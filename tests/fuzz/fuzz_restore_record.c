/* The record of a restore in place; what was read is written and read again. */
#include "fuzz.h"
#include "snapshot/restore_record.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error e = ERROR_INIT;
    struct restore_record r, again;
    char *text = strndup((const char *)data, size), *out = NULL;

    if (text && restore_record_parse(text, &r, &e) == 0) {
        if (restore_record_text(&r, &out, &e) == 0) {
            if (restore_record_parse(out, &again, &e) != 0 || strcmp(again.path, r.path) != 0)
                abort();
            restore_record_release(&again);
        }
        restore_record_release(&r);
    }
    free(out);
    free(text);
    return 0;
}
