/* string_list.h - NULL-terminated arrays of strings, each string and the array malloc'ed.
 *
 * NULL is an empty list. */
#ifndef WK_BASE_STRING_LIST_H
#define WK_BASE_STRING_LIST_H

#include <stdbool.h>
#include <stddef.h>

/* Add a copy of the n bytes at s; false on no memory, the list stays as it was. */
bool string_list_add(char ***list, const char *s, size_t n);
/* Add copies of all of another list. */
bool string_list_add_all(char ***list, char *const *from);
void string_list_free(char **list);

#endif
