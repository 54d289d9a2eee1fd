#include "service/remember.h"

#include "base/text.h"
#include "io/atomic_file.h"
#include "io/safe_path.h"
#include "store/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

#define ROOT_STATE "/var/lib/watchkeep-state"

enum { ID_DIGITS = 32, NAME_BYTES = 16, RECORD_MAX = 8192 };

char *remember_folder(void)
{
    const char *given = getenv("STATE_DIRECTORY"); /* systemd.exec(5): may be several, with ':' */
    const char *xdg = getenv("XDG_STATE_HOME");
    const char *home = getenv("HOME");

    if (given && *given == '/')
        return strndup(given, strcspn(given, ":"));
    if (geteuid() == 0)
        return strdup(ROOT_STATE);
    if (xdg && *xdg == '/')
        return text_format("%s/watchkeep-state", xdg);
    return home && *home == '/' ? text_format("%s/.local/state/watchkeep-state", home) : NULL;
}

/* Open the folder, making it where asked, and name the file. */
static int open_folder(const char *repo_path, bool make, char name[2 * NAME_BYTES + 1],
                       struct error *e)
{
    struct hash hash;
    char *folder = remember_folder();

    if (!folder)
        return error_set(e, ERR_NOTFOUND, "there is no folder for the state");
    hash_sha256(repo_path, strlen(repo_path), &hash);
    text_hex(hash.b, NAME_BYTES, name);
    int rc = make ? make_dirs(folder, 0700, e) : 0;
    if (rc == 0)
        rc = long_path_open(folder, O_RDONLY | O_DIRECTORY, e);
    free(folder);
    return rc;
}

int remember_get(const char *repo_path, uint8_t id[16], struct error *e)
{
    char name[2 * NAME_BYTES + 1];
    struct buffer text = BUFFER_INIT;
    int dir = open_folder(repo_path, false, name, e);

    if (dir < 0)
        return dir;
    int rc = small_file_read(dir, name, RECORD_MAX, &text, e);
    close(dir);
    if (rc == 0) {
        char *line = strndup(buffer_cstr(&text), ID_DIGITS);
        if (!line || !text_unhex(line, id, 16))
            rc = error_set(e, ERR_NOTFOUND, "what is remembered of '%s' cannot be read", repo_path);
        free(line);
    }
    buffer_release(&text);
    return rc;
}

int remember_put(const char *repo_path, const uint8_t id[16], struct error *e)
{
    char name[2 * NAME_BYTES + 1], hex[ID_DIGITS + 1];
    struct buffer text = BUFFER_INIT;
    int dir = open_folder(repo_path, true, name, e);

    if (dir < 0)
        return dir;
    text_hex(id, 16, hex);
    buffer_printf(&text, "%s\n%s\n", hex, repo_path);
    int rc = buffer_ok(&text) ? atomic_file_write(dir, name, text.data, text.len, 0600, e)
                              : error_sys(e, ENOMEM, "cannot remember the repository");
    close(dir);
    buffer_release(&text);
    return rc;
}
