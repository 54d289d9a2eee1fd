/* watch_spec.h - what a save needs to know of a watch: its name, root and rules. */
#ifndef WK_SNAPSHOT_WATCH_SPEC_H
#define WK_SNAPSHOT_WATCH_SPEC_H

#include <stdbool.h>
#include <stddef.h>

struct watch_spec {
    const char *name;
    const char *root;           /* absolute */
    const char *const *include; /* gitignore patterns; NULL-terminated list or NULL = everything */
    const char *const *exclude;
    bool sqlite; /* treat databases as databases (config `sqlite = auto`) */
    bool moved;  /* `save --moved`: the root may differ from the recorded one */
    /* Folders of ours inside the root, excluded by identity: repository, archives, scratch.
     * NULL-terminated absolute paths, or NULL. */
    const char *const *own_paths;
};

#endif
