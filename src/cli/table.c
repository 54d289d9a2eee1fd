#include "cli/table.h"

#include "base/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include "base/banned.h"

enum { COLUMNS_MAX = 16, CELL_MAX = 4200 };

struct cell {
    char *text;
    enum paint paint;
};

struct table {
    const char *columns;
    size_t width; /* number of columns */
    struct cell *cells;
    size_t count, cap;
    bool has_heads, failed;
};

static uint32_t code_point(const char *s, size_t len)
{
    static const uint8_t first_bits[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    uint32_t c = (uint8_t)*s & first_bits[len];

    for (size_t i = 1; i < len; i++)
        c = c << 6 | ((uint8_t)s[i] & 0x3f);
    return c;
}

size_t display_width(const char *text)
{
    size_t n = strlen(text), width = 0;

    while (n > 0) {
        size_t len = text_utf8_char(text, n);
        int columns = len > 0 ? wcwidth((wchar_t)code_point(text, len)) : 1;
        width += columns >= 0 ? (size_t)columns : 1;
        len += len == 0;
        text += len;
        n -= len;
    }
    return width;
}

struct table *table_new(const char *columns, const char *const *heads)
{
    struct table *t = calloc(1, sizeof(*t));

    if (!t)
        return NULL;
    t->columns = columns;
    t->width = strlen(columns);
    for (size_t i = 0; heads && i < t->width; i++)
        table_cell(t, PAINT_BOLD, heads[i]);
    t->has_heads = heads != NULL;
    return t;
}

void table_free(struct table *t)
{
    for (size_t i = 0; t && i < t->count; i++)
        free(t->cells[i].text);
    if (t)
        free(t->cells);
    free(t);
}

void table_cell(struct table *t, enum paint paint, const char *text)
{
    char line[CELL_MAX];

    if (!t)
        return;
    if (t->count == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 64;
        struct cell *grown = realloc(t->cells, cap * sizeof(*grown));
        if (!grown) {
            t->failed = true;
            return;
        }
        t->cells = grown;
        t->cap = cap;
    }
    char *copy = strdup(text_escape(text, line, sizeof(line)));
    if (copy)
        t->cells[t->count++] = (struct cell){copy, paint};
    else
        t->failed = true;
}

void table_cellf(struct table *t, enum paint paint, const char *fmt, ...)
{
    char text[CELL_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    table_cell(t, paint, text);
}

/* Width of each column; 0 for one that is empty in every row below the heads. */
static void measure(const struct table *t, size_t widths[COLUMNS_MAX])
{
    bool filled[COLUMNS_MAX] = {false};

    memset(widths, 0, COLUMNS_MAX * sizeof(*widths));
    for (size_t i = 0; i < t->count; i++) {
        size_t column = i % t->width;
        size_t width = display_width(t->cells[i].text);
        widths[column] = width > widths[column] ? width : widths[column];
        if (width > 0 && (i >= t->width || !t->has_heads))
            filled[column] = true;
    }
    for (size_t column = 0; column < t->width; column++) {
        if (!filled[column])
            widths[column] = 0;
    }
}

static void print_cell(const struct cli *cli, const struct cell *c, size_t pad, bool right,
                       bool last)
{
    if (right)
        printf("%*s", (int)pad, "");
    if (c->paint != PAINT_NONE)
        printf("%s%s%s", out_paint(cli, stdout, c->paint), c->text,
               out_paint(cli, stdout, PAINT_NONE));
    else
        printf("%s", c->text);
    if (!right && !last)
        printf("%*s", (int)pad, "");
}

static void print_row(const struct table *t, const struct cli *cli, const struct cell *row,
                      const size_t *widths)
{
    size_t last = t->width;
    const char *gap = "";

    while (last > 0 && (widths[last - 1] == 0 || !*row[last - 1].text))
        last--;
    for (size_t i = 0; i < last; i++) {
        if (widths[i] == 0)
            continue;
        printf("%s", gap);
        gap = "  ";
        print_cell(cli, &row[i], widths[i] - display_width(row[i].text), t->columns[i] == 'r',
                   i + 1 == last);
    }
    printf("\n");
}

int table_print(const struct table *t, const struct cli *cli, struct error *e)
{
    size_t widths[COLUMNS_MAX];

    if (!t || t->failed)
        return error_sys(e, ENOMEM, "cannot print a table");
    measure(t, widths);
    if (t->has_heads && t->count <= t->width)
        return 0;
    for (size_t i = 0; i + t->width <= t->count; i += t->width)
        print_row(t, cli, t->cells + i, widths);
    return 0;
}
