/* table.h - aligned columns for people, by the width that characters have on a terminal.
 *
 * Running out of memory is remembered and told by table_print. */
#ifndef WK_CLI_TABLE_H
#define WK_CLI_TABLE_H

#include "cli/output.h"

struct table;

/* columns: one letter each, 'l' for left, 'r' for right aligned. heads: their titles, or NULL for
 * none. NULL on no memory (which the other calls bear). */
struct table *table_new(const char *columns, const char *const *heads);
void table_free(struct table *t);

/* The next cell; text is escaped for a line. A row ends when all columns are filled. */
void table_cell(struct table *t, enum paint paint, const char *text);
void table_cellf(struct table *t, enum paint paint, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Print it on stdout; 0 or ERR_FAILED. A column that is empty in every row is left out. */
int table_print(const struct table *t, const struct cli *cli, struct error *e);

/* Columns that a text takes on a terminal. */
size_t display_width(const char *text);

#endif
