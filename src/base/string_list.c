#include "base/string_list.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

bool string_list_add(char ***list, const char *s, size_t n)
{
    size_t count = 0;
    char *copy = strndup(s, n);

    while (*list && (*list)[count])
        count++;
    char **grown = copy ? realloc(*list, (count + 2) * sizeof(*grown)) : NULL;
    if (!grown) {
        free(copy);
        return false;
    }
    grown[count] = copy;
    grown[count + 1] = NULL;
    *list = grown;
    return true;
}

bool string_list_add_all(char ***list, char *const *from)
{
    for (; from && *from; from++) {
        if (!string_list_add(list, *from, strlen(*from)))
            return false;
    }
    return true;
}

void string_list_free(char **list)
{
    for (char **s = list; s && *s; s++)
        free(*s);
    free(list);
}
