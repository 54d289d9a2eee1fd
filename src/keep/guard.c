#include "keep/guard.h"

#include "base/text.h"
#include "io/safe_path.h"
#include "snapshot/freeze.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

/* ---- the root ---- */

static int visit_trusted(void *ctx, const struct snapshot_row *row)
{
    struct commit *found = ctx;

    if (row->commit.flags & COMMIT_SUSPECT)
        return 0;
    *found = (struct commit){.number = row->commit.number, .files = row->commit.files};
    return 1;
}

/* 1: nothing is in it, 0: something is, or it cannot be told. */
static bool is_empty(int fd)
{
    const struct dirent *d;
    bool empty = true;
    DIR *dir = fdopendir(fd);

    if (!dir) {
        close(fd);
        return false;
    }
    errno = 0;
    while (empty && (d = readdir(dir)))
        empty = strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0;
    empty &= errno == 0;
    closedir(dir);
    return empty;
}

int guard_root(struct catalog *c, const struct watch_row *w, char *text, size_t cap,
               struct error *e)
{
    struct error why = ERROR_INIT;
    struct commit newest = {0};
    char quoted[200];
    int fd = long_path_open(w->root, O_RDONLY | O_DIRECTORY | O_NONBLOCK, &why);

    text_escape(w->root, quoted, sizeof(quoted));
    if (fd < 0 && (why.sys == ENOENT || why.sys == ENOTDIR)) {
        snprintf(text, cap, "there is no folder '%s'", quoted);
        return 1;
    }
    if (fd < 0 || !is_empty(fd))
        return 0;
    int rc = catalog_snapshots(c, w->serial, 1, UINT64_MAX, true, visit_trusted, &newest, e);
    if (rc < 0)
        return rc;
    if (newest.files > 0)
        snprintf(text, cap,
                 "'%s' is empty, and snapshot %" PRIu64 " has %" PRIu64 " files (not mounted?)",
                 quoted, newest.number, newest.files);
    return newest.files > 0;
}

static int set(struct repo *r, bool dry, struct watch_row *w, enum freeze_cause cause,
               const char *text, struct error *e)
{
    int rc = dry || (w->frozen & cause) ? 0 : freeze_set(r, w->id, cause, 0, e, "%s", text);

    w->frozen |= cause;
    return rc;
}

static int lift(struct repo *r, bool dry, struct watch_row *w, unsigned causes, struct error *e)
{
    int rc = dry ? 0 : freeze_lift(r, w->id, causes, e);

    w->frozen &= causes ? ~causes : 0;
    return rc;
}

static int look_at_root(struct repo *r, struct catalog *c, bool dry, struct watch_row *w,
                        struct error *e)
{
    char text[400];
    int missing = guard_root(c, w, text, sizeof(text), e);

    if (missing < 0)
        return missing;
    if (missing)
        return set(r, dry, w, FREEZE_MISSING, text, e);
    return w->frozen & FREEZE_MISSING ? lift(r, dry, w, FREEZE_MISSING, e) : 0;
}

static int look_for_files(struct repo *r, struct catalog *c, bool dry, struct watch_row *w,
                          enum freeze_cause cause, struct error *e)
{
    int back = w->frozen & cause ? freeze_files_back(c, w, cause, e) : 0;

    return back == 1 ? lift(r, dry, w, cause, e) : back;
}

/* ---- damage ---- */

static int look_for_damage(struct repo *r, struct catalog *c, bool dry, struct watch_row *w,
                           struct error *e)
{
    int left = freeze_damage_left(c, w, e);

    return left != 0 ? (left < 0 ? left : 0) : lift(r, dry, w, FREEZE_DAMAGED, e);
}

int guard_look(struct repo *r, struct catalog *c, bool thaw, bool dry, struct watch_row *w,
               struct error *e)
{
    if (thaw)
        return w->frozen ? lift(r, dry, w, 0, e) : 0;
    int rc = look_at_root(r, c, dry, w, e);
    if (rc == 0)
        rc = look_for_files(r, c, dry, w, FREEZE_EMPTIED, e);
    if (rc == 0)
        rc = look_for_files(r, c, dry, w, FREEZE_SCRAMBLED, e);
    if (rc == 0 && (w->frozen & FREEZE_DAMAGED))
        rc = look_for_damage(r, c, dry, w, e);
    return rc;
}
