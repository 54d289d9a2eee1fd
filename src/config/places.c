#include "config/places.h"

#include "base/text.h"
#include "config/config.h"

#include <pwd.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

#define SYSTEM_REPOSITORY "/var/lib/watchkeep"
#define SYSTEM_RUN "/run/watchkeep"
#define SYSTEM_CONFIG "/etc/watchkeep"
#define SOCKET_NAME "control.sock"

/* $variable/watchkeep when that is an absolute path, else ~/below/watchkeep. */
static char *user_folder(const char *variable, const char *below)
{
    const char *base = getenv(variable);
    const char *home = getenv("HOME");

    if (base && *base == '/')
        return text_format("%s/watchkeep", base);
    if (!home || *home != '/') {
        const struct passwd *me = getpwuid(geteuid());
        home = me ? me->pw_dir : NULL;
    }
    return home && *home == '/' ? text_format("%s/%s/watchkeep", home, below) : NULL;
}

char *place_repository(void)
{
    return geteuid() == 0 ? strdup(SYSTEM_REPOSITORY)
                          : user_folder("XDG_STATE_HOME", ".local/state");
}

char *config_default_file(void)
{
    char *folder =
        geteuid() == 0 ? strdup(SYSTEM_CONFIG) : user_folder("XDG_CONFIG_HOME", ".config");
    char *file = folder ? text_format("%s/watchkeep.conf", folder) : NULL;

    free(folder);
    return file;
}

/* FNV-1a: only to tell places apart. */
static uint32_t place_number(const char *path)
{
    uint32_t h = 2166136261u;

    for (; *path; path++)
        h = (h ^ (uint8_t)*path) * 16777619u;
    return h;
}

char *config_default_socket(const char *repository, bool from_file)
{
    const char *run = getenv("XDG_RUNTIME_DIR");
    char *usual = place_repository();
    bool known = from_file || (usual && strcmp(usual, repository) == 0);
    char *folder;
    char *socket = NULL;

    free(usual);
    if (geteuid() == 0)
        folder = strdup(SYSTEM_RUN);
    else if (run && *run == '/')
        folder = text_format("%s/watchkeep", run);
    else
        return text_format("%s/" SOCKET_NAME, repository);
    if (folder)
        socket = known ? text_format("%s/" SOCKET_NAME, folder)
                       : text_format("%s/control-%08x.sock", folder, place_number(repository));
    free(folder);
    return socket;
}

static bool below(const char *path, const char *folder)
{
    size_t len = strlen(folder);

    while (len > 0 && folder[len - 1] == '/')
        len--;
    return strncmp(path, folder, len) == 0 && (path[len] == '/' || path[len] == 0);
}

/* Where path leads, with its longest part that exists resolved; malloc'ed, NULL on no memory. */
static char *resolve(const char *path)
{
    char *head = strdup(path);
    char *out = NULL;

    for (size_t len = strlen(path); head && !out;) {
        head[len] = 0;
        char *real = realpath(len > 0 ? head : "/", NULL);
        if (real)
            out = text_format("%s%s", strcmp(real, "/") == 0 ? "" : real, path + len);
        free(real);
        if (len == 0)
            break;
        while (len > 0 && path[--len] != '/')
            continue;
    }
    free(head);
    return out;
}

bool place_inside(const char *path, const char *folder)
{
    char *real_path = resolve(path);
    char *real_folder = resolve(folder);
    bool inside = below(real_path ? real_path : path, real_folder ? real_folder : folder);

    free(real_path);
    free(real_folder);
    return inside;
}

char *place_below(const char *path, const char *folder)
{
    char *real_path = resolve(path);
    char *real_folder = resolve(folder);
    size_t len = real_folder ? strlen(real_folder) : 0;
    char *out = NULL;

    if (real_path && real_folder && below(real_path, real_folder))
        out = strdup(real_path + len + (real_path[len] == '/'));
    free(real_path);
    free(real_folder);
    return out;
}
