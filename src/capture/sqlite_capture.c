#include "capture/sqlite_capture.h"

#include "base/text.h"
#include "capture/database_header.h"
#include "capture/helper_process.h"
#include "capture/scratch_file.h"
#include "io/fileops.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum {
    GRACE_MS = 10000,
    COPY_BYTES_PER_MS = 8 * 1024, /* what the slowest disk worth its name can do */
};

struct sqlite_helper {
    pthread_mutex_t lock; /* one request at a time */
    char *program;        /* as given, or NULL: look at the first use */
    unsigned grace_ms;
    struct helper_process process;
};

bool sqlite_side_name(const char *name, size_t *base_len)
{
    static const char *const suffixes[] = {"-wal", "-shm", "-journal"};
    size_t n = strlen(name);

    for (size_t i = 0; i < sizeof(suffixes) / sizeof(*suffixes); i++) {
        size_t len = strlen(suffixes[i]);
        if (n > len && strcmp(name + n - len, suffixes[i]) == 0) {
            *base_len = n - len;
            return true;
        }
    }
    return false;
}

struct sqlite_helper *sqlite_helper_new(const char *program)
{
    struct sqlite_helper *h = calloc(1, sizeof(*h));

    if (!h)
        return NULL;
    if (program && !(h->program = text_format("%s", program))) {
        free(h);
        return NULL;
    }
    pthread_mutex_init(&h->lock, NULL);
    h->grace_ms = GRACE_MS;
    helper_process_init(&h->process);
    return h;
}

void sqlite_helper_free(struct sqlite_helper *h)
{
    if (!h)
        return;
    helper_process_end(&h->process);
    pthread_mutex_destroy(&h->lock);
    free(h->program);
    free(h);
}

void sqlite_helper_grace(struct sqlite_helper *h, unsigned ms)
{
    h->grace_ms = ms;
}

pid_t sqlite_helper_pid(struct sqlite_helper *h)
{
    return atomic_load(&h->process.pid);
}

/* ---- which program ---- */

static char *if_runs(char *path)
{
    if (path && access(path, X_OK) == 0)
        return path;
    free(path);
    return NULL;
}

static char *find_program(void)
{
    char self[PATH_MAX];
    const char *env = secure_getenv("WATCHKEEP_HELPER");
    char *found = NULL;

    if (env && *env)
        return text_format("%s", env);
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char *slash = n > 0 ? memrchr(self, '/', (size_t)n) : NULL;
    if (slash) {
        *slash = 0;
        found = if_runs(text_format("%s/%s", self, HELPER_NAME));
        if (!found)
            found = if_runs(text_format("%s/../libexec/watchkeep/%s", self, HELPER_NAME));
    }
    return found ? found : if_runs(text_format("%s/%s", WK_LIBEXECDIR, HELPER_NAME));
}

/* ---- asking ---- */

static uint64_t len_of(const char *path, const char *suffix)
{
    struct stat st;
    char *name = text_format("%s%s", path, suffix);
    uint64_t len = name && stat(name, &st) == 0 ? (uint64_t)st.st_size : 0;

    free(name);
    return len;
}

/* How long an answer may take: by stat alone, no file of the source is opened here. */
static uint64_t limit_for(const struct sqlite_helper *h, const struct helper_request *q)
{
    uint64_t bytes = len_of(q->path, "") + len_of(q->path, "-wal") + len_of(q->path, "-journal");

    return q->deadline_ms + h->grace_ms + bytes / COPY_BYTES_PER_MS;
}

/* One request and its reply; an error of the helper becomes the caller's, about `path`. */
static int ask(struct sqlite_helper *h, const struct helper_request *q, const char *what,
               struct helper_reply *reply, struct error *e)
{
    char quoted[512];

    if (!h->program && !(h->program = find_program()))
        return error_set(e, ERR_FAILED, "cannot find the program '%s'", HELPER_NAME);
    int rc = helper_process_ask(&h->process, h->program, q, limit_for(h, q), reply, e);
    if (rc == 0 && reply->code != 0) {
        rc = error_set(e, reply->code, "cannot %s the database '%s': %s", what,
                       text_escape(q->path, quoted, sizeof(quoted)), reply->message);
        e->sys = reply->sys;
    }
    if (rc != 0)
        error_path(e, q->path);
    return rc;
}

/* ---- the image ---- */

/* Proven by its own header before it is called good. */
static int take_image(struct scratch_file *s, const char *receipt, struct sqlite_image *out,
                      struct error *e)
{
    uint8_t header[DATABASE_HEADER_LEN] = {0};
    uint64_t image_len = 0;
    size_t got;
    off_t len = lseek(s->fd, 0, SEEK_END);
    int rc = len < 0 ? error_sys(e, errno, "cannot measure the captured image") : 0;

    if (rc == 0)
        rc = file_read_some(s->fd, header, sizeof(header), 0, &got, e);
    if (rc == 0)
        rc = database_header_check(header, (uint64_t)len, &out->page_size, &image_len, e);
    if (rc == 0 && image_len != (uint64_t)len)
        rc = error_set(e, ERR_FAILED, "the captured image is longer than its header says");
    if (rc == 0 && lseek(s->fd, 0, SEEK_SET) != 0)
        rc = error_sys(e, errno, "cannot rewind the captured image");
    if (rc != 0)
        return rc;
    out->len = image_len;
    snprintf(out->receipt, sizeof(out->receipt), "%s", receipt);
    out->fd = s->fd;
    s->fd = -1;
    return 0;
}

int sqlite_capture(struct sqlite_helper *h, const char *path, const char *scratch_dir,
                   unsigned deadline_ms, struct sqlite_image *out, struct error *e)
{
    struct scratch_file scratch;
    struct helper_reply reply;

    *out = (struct sqlite_image){.fd = -1};
    int rc = scratch_file_open(&scratch, scratch_dir, e);
    if (rc != 0)
        return rc;
    struct helper_request q = {HELPER_CAPTURE, deadline_ms, path, scratch.path};
    pthread_mutex_lock(&h->lock);
    rc = ask(h, &q, "capture", &reply, e);
    if (rc == 0)
        rc = take_image(&scratch, reply.result, out, e);
    pthread_mutex_unlock(&h->lock);
    scratch_file_close(&scratch);
    return rc;
}

void sqlite_image_release(struct sqlite_image *i)
{
    if (i->fd >= 0)
        close(i->fd);
    i->fd = -1;
}

int sqlite_check(struct sqlite_helper *h, const char *path, bool *ok, char detail[512],
                 struct error *e)
{
    struct helper_reply reply;
    char real[PATH_MAX];

    *ok = false;
    detail[0] = 0;
    if (!realpath(path, real)) {
        error_sys(e, errno, "cannot find the database to check");
        return error_path(e, path);
    }
    struct helper_request q = {HELPER_CHECK, 0, real, ""};
    pthread_mutex_lock(&h->lock);
    int rc = ask(h, &q, "check", &reply, e);
    if (rc == 0) {
        *ok = reply.ok;
        snprintf(detail, 512, "%s", reply.result);
    }
    pthread_mutex_unlock(&h->lock);
    return rc;
}
