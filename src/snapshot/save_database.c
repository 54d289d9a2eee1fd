/* A database is stored as one committed state. One that was closed cleanly (in WAL mode, with no
 * side file there) is nobody's at the moment and is read like any file; every other goes through
 * the helper, which asks SQLite. Both give page-aligned chunks of one length. */
#include "snapshot/save_file.h"

#include "base/text.h"
#include "capture/database_header.h"
#include "store/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum { DEADLINE_MS = 5000 };

/* ---- side files ---- */

static bool look_at(int dirfd, const char *name, const char *suffix, struct wall_time at,
                    struct database_sides *out, uint8_t bytes[SIGNATURE_MAX])
{
    struct buffer b = BUFFER_INIT;
    struct signature s = {0};
    struct stat st;

    buffer_printf(&b, "%s%s", name, suffix);
    bool there = buffer_ok(&b) && b.len <= NAME_LEN_MAX &&
                 fstatat(dirfd, buffer_cstr(&b), &st, AT_SYMLINK_NOFOLLOW) == 0;
    buffer_release(&b);
    if (there) {
        signature_of(&st, &s);
        out->racy |= signature_is_racy(&s, at);
        s.dev = 0; /* means nothing after the next start */
    }
    signature_encode(&s, &(struct signature){0}, bytes);
    return there;
}

void database_sides_look(int dirfd, const char *name, struct wall_time at,
                         struct database_sides *out)
{
    uint8_t bytes[2 * SIGNATURE_MAX] = {0};

    *out = (struct database_sides){0};
    out->wal = look_at(dirfd, name, "-wal", at, out, bytes);
    out->journal = look_at(dirfd, name, "-journal", at, out, bytes + SIGNATURE_MAX);
    if (out->wal || out->journal)
        out->hash = hash_guard(bytes, sizeof(bytes), 0) | 1;
}

/* ---- content ---- */

struct image { /* what is to be stored */
    struct stream stream;
    uint32_t page_size;
    const char *receipt;
};

static int store_image(struct save_worker *w, struct file_job *j, struct image *i,
                       const struct signature *s, int fd, struct error *e)
{
    int rc = stream_store(w, j, &i->stream, i->page_size, e);
    if (rc < 0)
        return rc;
    file_job_set_stat(j, s);
    j->n.size = i->stream.len;
    j->n.flags |= NODE_SQLITE;
    file_job_set_class(j, CONTENT_SQLITE);
    if (i->receipt && !(j->text = strdup(i->receipt)))
        return error_sys(e, ENOMEM, "cannot save a database");
    j->n.receipt = j->text;
    return file_job_set_xattrs(j, fd, e);
}

static int finish(struct save_worker *w, struct file_job *j, const struct signature *s,
                  struct error *e)
{
    file_job_cache(j, s);
    file_job_cache_hashes(j);
    int rc = file_job_fold(w, j, e);
    return rc < 0 ? rc : file_job_compare(j, e);
}

/* ---- closed cleanly ---- */

struct header {
    uint32_t page_size; /* 0: no page size at all */
    bool wal;
    bool whole; /* the file is as long as its header says */
};

static struct header read_header(struct file_read *f)
{
    uint8_t p[DATABASE_HEADER_LEN];
    struct header h = {0};
    struct error e = ERROR_INIT;
    uint64_t image_len = 0;
    size_t got = 0;

    if (file_read_at(f, p, sizeof(p), 0, &got, &e) < 0 || got < sizeof(p))
        return h;
    h.whole = database_header_check(p, f->len, &h.page_size, &image_len, &e) == 0;
    h.wal = database_header_is_wal(p);
    return h;
}

bool database_header(int dirfd, const char *name)
{
    struct file_read f;
    struct error e = ERROR_INIT;

    if (file_read_open(&f, dirfd, name, false, &e) < 0)
        return false;
    bool yes = file_read_is_database(&f) && read_header(&f).page_size != 0;
    file_read_close(&f);
    return yes;
}

bool database_side_file(int dirfd, const char *name)
{
    size_t base_len;

    if (!sqlite_side_name(name, &base_len))
        return false;
    char *base = strndup(name, base_len);
    bool yes = base && database_header(dirfd, base);
    free(base);
    return yes;
}

/* 1: somebody came while it was read. */
static int store_closed(struct save_worker *w, struct file_job *j, struct file_read *f,
                        const struct signature *s, uint32_t page_size, struct error *e)
{
    struct image i = {.stream = {.fd = f->fd, .len = f->len}, .page_size = page_size};
    struct database_sides sides;

    int rc = store_image(w, j, &i, s, f->fd, e);
    if (rc < 0 && i.stream.read_failed)
        return file_job_unread(j, NODE_SQLITE, "cannot be read: Input/output error", e);
    if (rc < 0)
        return rc;
    database_sides_look(j->dir->fd, j->name, clock_wall(), &sides);
    if (i.stream.ended_early || file_read_check(f) != FILE_STABLE || sides.wal || sides.journal)
        return 1;
    return finish(w, j, s, e);
}

/* ---- live ---- */

static char *absolute_path(const struct save_work *w, const struct file_job *j)
{
    return text_format("%s/%s", w->req->watch->root, j->path);
}

static int capture(struct save_worker *w, struct file_job *j, struct sqlite_image *image,
                   struct error *e)
{
    struct save_work *work = w->work;
    char *path = absolute_path(work, j);
    int rc;

    if (!path)
        return error_sys(e, ENOMEM, "cannot save a database");
    if (!work->req->helper || !work->scratch)
        rc = error_set(e, ERR_FAILED, "there is no capture helper");
    else
        rc = sqlite_capture(work->req->helper, path, work->scratch, DEADLINE_MS, image, e);
    free(path);
    return rc;
}

static const char *const as_it_is = "; stored as it is";

/* Nothing better is known: neither a good state from before nor one that SQLite gives. */
static bool is_best_known(struct file_job *j)
{
    if (!file_job_load_old(j) || j->old.ref_count == 0)
        return true;
    return j->old.flags & NODE_UNREAD && j->old.reason && strstr(j->old.reason, as_it_is);
}

/* Malformed from the start: its bytes are kept all the same, and said to be no sound database. */
static int store_malformed(struct save_worker *w, struct file_job *j, struct file_read *f,
                           const struct signature *s, struct error *e)
{
    struct image i = {.stream = {.fd = f->fd, .len = f->len}};
    char *reason = text_format("cannot be captured: %.200s%s", e->message, as_it_is);

    error_clear(e);
    if (!reason)
        return error_sys(e, ENOMEM, "cannot save a database");
    int rc = store_image(w, j, &i, s, f->fd, e);
    free(j->text);
    j->text = reason;
    j->n.flags |= NODE_UNREAD;
    file_job_set_class(j, CONTENT_SQLITE_BROKEN);
    j->n.reason = reason;
    if (i.stream.read_failed)
        return file_job_unread(j, NODE_SQLITE, "cannot be read: Input/output error", e);
    j->n.size = f->len;
    if (i.stream.ended_early || file_read_check(f) != FILE_STABLE)
        j->look_again = true;
    return rc < 0 ? rc : finish(w, j, s, e);
}

/* The last version stays, with the reason. What is wrong on our side ends the save. */
static int not_captured(struct file_job *j, struct error *e)
{
    char reason[256];
    struct buffer b = BUFFER_INIT;

    if (e->code == ERR_NOSPACE || e->code == ERR_CANCELLED)
        return e->code;
    buffer_printf(&b, "cannot be captured: %.200s", e->message);
    const char *text = buffer_cstr(&b);
    size_t n = strnlen(text, sizeof(reason) - 1);
    memcpy(reason, text, n);
    reason[n] = 0;
    buffer_release(&b);
    error_clear(e);
    return file_job_unread(j, NODE_SQLITE, reason, e);
}

static int store_live(struct save_worker *w, struct file_job *j, struct file_read *f,
                      const struct signature *s, struct error *e)
{
    struct sqlite_image image = {.fd = -1};
    int rc = capture(w, j, &image, e);

    if (rc == ERR_USAGE) { /* no database after all */
        error_clear(e);
        return 1;
    }
    if (rc == ERR_NOTFOUND) {
        error_clear(e);
        j->outcome = FILE_VANISHED;
        j->look_again = true;
        return 0;
    }
    if (rc == ERR_DAMAGED && is_best_known(j))
        return store_malformed(w, j, f, s, e);
    if (rc < 0)
        return not_captured(j, e);
    struct image i = {.stream = {.fd = image.fd, .len = image.len},
                      .page_size = image.page_size,
                      .receipt = image.receipt};
    rc = store_image(w, j, &i, s, f->fd, e);
    if (rc == 0 && i.stream.ended_early)
        rc = error_set(e, ERR_FAILED, "a captured database is shorter than it was");
    sqlite_image_release(&image);
    return rc < 0 ? rc : finish(w, j, s, e);
}

int database_store(struct save_worker *w, struct file_job *j, struct file_read *f,
                   struct wall_time at, struct error *e)
{
    struct database_sides sides;
    struct signature s = f->before;
    struct header h = read_header(f);
    int rc = 1;

    if (h.page_size == 0)
        return 1;
    database_sides_look(j->dir->fd, j->name, at, &sides);
    s.wal = sides.hash;
    s.racy = sides.racy || signature_is_racy(&s, at);
    if (h.wal && h.whole && !sides.wal && !sides.journal && f->st.st_nlink == 1)
        rc = store_closed(w, j, f, &s, h.page_size, e);
    if (rc != 1)
        return rc;
    file_job_forget(j);
    return store_live(w, j, f, &s, e);
}
