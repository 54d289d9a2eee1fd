#include "service/place.h"

#include "base/log.h"
#include "base/text.h"
#include "io/fileops.h"
#include "io/safe_path.h"
#include "service/client.h"
#include "service/policy.h"
#include "service/remember.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/banned.h"

/* Somebody may be saving from the command line, or the service before us may be closing. */
enum { WAIT_MS = 30000 };

static void notice(void *ctx, const char *text)
{
    log_info("repository: %s", text);
}

static int refuse_lost(const struct config *c, struct error *e)
{
    error_set(
        e, ERR_NOREPO,
        "repository '%s' is not there (not mounted?); if it is gone for good, make a new one: "
        "watchkeep -r '%s' init",
        c->repository, c->repository);
    return error_path(e, c->repository);
}

static int make(const struct config *c, bool may_init, struct error *e)
{
    struct error ignored = ERROR_INIT;
    uint8_t id[16];

    if (!may_init && remember_get(c->repository, id, &ignored) == 0)
        return refuse_lost(c, e);
    int rc = repo_init(c->repository, e);
    if (rc < 0)
        return rc;
    log_info("repository '%s' made", c->repository);
    return 0;
}

static void remember(const struct repo *r)
{
    struct error e = ERROR_INIT;
    uint8_t id[16];

    if (remember_get(repo_path(r), id, &e) == 0) {
        if (memcmp(id, repo_id(r), sizeof(id)) == 0)
            return;
        log_warn("repository '%s' is another one than the last time", repo_path(r));
    }
    error_clear(&e);
    if (remember_put(repo_path(r), repo_id(r), &e) != 0)
        log_warn("which repository is at '%s' cannot be remembered: %s", repo_path(r), e.message);
}

/* Is the folder `inner` the folder `outer` or beneath it? */
static bool lies_in(const char *inner, const char *outer)
{
    char *a = realpath(inner, NULL);
    char *b = realpath(outer, NULL);
    size_t n = b ? strlen(b) : 0;
    bool in = a && b && strncmp(a, b, n) == 0 && (a[n] == 0 || a[n] == '/');

    free(a);
    free(b);
    return in;
}

static int check_watches(const struct config *c, struct error *e)
{
    for (size_t i = 0; i < c->watch_count; i++) {
        const struct watch_config *w = &c->watches[i];
        if (lies_in(w->path, c->repository)) {
            error_set(e, ERR_USAGE, "the watch '%s' lies in the repository '%s'", w->name,
                      c->repository);
            return error_path(e, w->path);
        }
    }
    return 0;
}

int place_open(const struct config *c, bool may_init, struct repo **out, struct error *e)
{
    int codec = codec_by_name(c->codec);
    struct repo_options opt = {.wait_ms = WAIT_MS,
                               .codec = codec < 0 ? CODEC_ZSTD : (enum codec)codec,
                               .reserve = true,
                               .notice = notice};
    int rc = repo_exists(c->repository) ? 0 : make(c, may_init, e);

    if (rc == 0)
        rc = check_watches(c, e);
    if (rc != 0)
        return rc;
    char *socket = client_socket_of(c->repository);
    if (socket) {
        rc = error_set(e, ERR_BUSY, "a service is already running for '%s' (socket '%s')",
                       c->repository, socket);
        free(socket);
        return rc;
    }
    rc = repo_open(c->repository, REPO_WRITE, &opt, out, e);
    if (rc == 0) {
        policy_min_free(c, *out);
        remember(*out);
    }
    return rc;
}

bool place_lost(const struct repo *r)
{
    struct stat opened, there;

    return fstat(repo_dirfd(r), &opened) == 0 &&
           (stat(repo_path(r), &there) != 0 || opened.st_dev != there.st_dev ||
            opened.st_ino != there.st_ino);
}

int place_note_socket(struct repo *r, const char *socket_path, struct error *e)
{
    int fd = repo_lock_fd(r);
    size_t n = socket_path ? strlen(socket_path) : 0;

    if (fd < 0)
        return 0;
    if (fileops->ftruncate(fd, 0) != 0)
        return error_sys(e, errno, "cannot write '%s/lock'", repo_path(r));
    return n > 0 ? file_write_all(fd, socket_path, n, 0, e) : 0;
}

char *place_barrier_folder(struct repo *r, struct error *e)
{
    char *path = text_format("%s/scratch/barrier", repo_path(r));

    if (!path) {
        error_sys(e, ENOMEM, "cannot make a folder for barriers");
        return NULL;
    }
    if (make_dirs(path, 0700, e) == 0)
        return path;
    free(path);
    return NULL;
}
