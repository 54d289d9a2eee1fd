/* ini_file.h - read one INI file, line by line, through libinih.
 *
 * libinih cuts long lines and long section names without a word, and takes an indented line for
 * more of the value above it. So the lines are read, bounded and freed of their indent here before
 * the library sees them, and the section is taken from the whole line. */
#ifndef WK_CONFIG_INI_FILE_H
#define WK_CONFIG_INI_FILE_H

#include "base/error.h"

#define INI_LINE_MAX 199 /* bytes without the line's end; the library holds no more */
#define INI_FILE_MAX (1024 * 1024)

struct ini_sink {
    /* A section begins; and one setting of it. Both return 0 or a negative code with *e. */
    int (*section)(void *ctx, const char *section, int line, struct error *e);
    int (*setting)(void *ctx, const char *section, const char *key, const char *value, int line,
                   struct error *e);
    void *ctx;
};

/* Parse n bytes of text; file is for messages. ERR_USAGE "file:line: ..." on the first error, also
 * in front of what the sink says with ERR_USAGE. */
int ini_text_read(const char *file, const char *text, size_t n, const struct ini_sink *sink,
                  struct error *e);

/* The same for a file. A missing one is ERR_NOTFOUND; a pipe that nobody writes into for two
 * seconds ERR_USAGE. */
int ini_file_read(const char *file, const struct ini_sink *sink, struct error *e);

#endif
