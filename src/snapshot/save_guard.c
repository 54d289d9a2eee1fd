/* Before a commit in which most of a watch's files are gone: pruning stops first, so that no crash
 * leaves the one without the other. What may be going away file by file is looked at over an hour,
 * by how many files there are; what one save finds gone, also where others came in its place. */
#include "snapshot/freeze.h"
#include "snapshot/save_state.h"
#include "snapshot/spoilt.h"

#include "base/text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum { WINDOW_S = 3600, WINDOW_MAX = 256, GONE_MIN = 100, SCRAMBLED_MIN = 2 };

struct past {
    int64_t now;
    unsigned seen;
    uint64_t last_files; /* in the newest snapshot */
    uint64_t most;       /* files in any of the last hour's, and in the one before them */
    uint64_t most_in;    /* the newest that had so many */
    uint64_t declassed;  /* files that in the last hour stopped being what they were */
    uint64_t whole_in;   /* the last snapshot before that */
};

static int look_back(void *ctx, const struct snapshot_row *row)
{
    struct past *p = ctx;

    if (p->seen++ == 0)
        p->last_files = row->commit.files;
    if (row->commit.files > p->most) {
        p->most = row->commit.files;
        p->most_in = row->commit.number;
    }
    p->whole_in = row->commit.number;
    if (p->now - row->commit.time.s <= WINDOW_S)
        p->declassed += row->commit.declassed;
    return p->now - row->commit.time.s > WINDOW_S || (row->commit.flags & COMMIT_RULES) ||
           p->seen == WINDOW_MAX;
}

static bool most_of(const struct save *s, uint64_t gone, uint64_t files)
{
    return gone > files / 2 && (gone >= GONE_MIN || s->databases_removed > 0);
}

static bool is_empty(int dirfd)
{
    const struct dirent *d;
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    bool empty = dir != NULL;

    errno = 0;
    while (empty && (d = readdir(dir)))
        empty = strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0;
    empty &= errno == 0;
    if (dir)
        closedir(dir);
    else if (fd >= 0)
        close(fd);
    return empty;
}

int guard_vacant(struct save *s, struct error *e)
{
    uint64_t files = txn_watch_row(s->txn)->files;
    char shown[300];

    if (s->fresh || !s->root_replaced || files == 0 || s->req->accept || s->req->watch->moved ||
        !is_empty(s->rootfd))
        return 0;
    text_escape(s->req->watch->root, shown, sizeof(shown));
    return error_set(e, ERR_NOTFOUND,
                     "root '%s' is another folder than before, and empty: it had %" PRIu64
                     " files (not mounted?)",
                     shown, files);
}

static bool files_are_back(struct save *s, const struct watch_row *before, enum freeze_cause cause)
{
    struct error ignored = ERROR_INIT;
    struct catalog *c = NULL;
    struct watch_row w;
    bool back = false;

    if (repo_catalog_open(s->req->repo, &c, &ignored) < 0)
        return false;
    if (catalog_watch_by_id(c, before->id, &w, &ignored) == 0) {
        back = (w.frozen & cause) && freeze_files_back(c, &w, cause, &ignored) == 1;
        watch_row_release(&w);
    }
    repo_catalog_close(s->req->repo, c);
    return back;
}

void guard_refilled(struct save *s, const struct watch_row *before)
{
    const struct save_result *r = s->res;
    struct error ignored = ERROR_INIT;

    if ((before->frozen & FREEZE_MISSING) && r->files > 0)
        freeze_lift(s->req->repo, before->id, FREEZE_MISSING, &ignored);
    if ((before->frozen & FREEZE_EMPTIED) && r->files_new > 0 &&
        files_are_back(s, before, FREEZE_EMPTIED))
        freeze_lift(s->req->repo, before->id, FREEZE_EMPTIED, &ignored);
    if ((before->frozen & FREEZE_SCRAMBLED) && r->files_new + r->files_changed > 0 &&
        files_are_back(s, before, FREEZE_SCRAMBLED))
        freeze_lift(s->req->repo, before->id, FREEZE_SCRAMBLED, &ignored);
}

/* What malware that encrypts leaves: files that are there, and are no longer what they were. One
 * alone is an accident. */
int guard_scrambled(struct save *s, const struct commit *c, struct error *e)
{
    const struct watch_row *w = txn_watch_row(s->txn);
    struct past p = {.now = c->time.s};
    uint64_t left = 0;

    if (s->req->accept && (w->frozen & FREEZE_SCRAMBLED))
        return freeze_lift(s->req->repo, w->id, FREEZE_SCRAMBLED, e);
    if (s->fresh || s->req->accept || (w->frozen & FREEZE_SCRAMBLED) || c->declassed == 0)
        return 0;
    int rc = catalog_snapshots(s->cat, s->watch, 1, UINT64_MAX, true, look_back, &p, e);
    if (rc < 0 || p.declassed + c->declassed < SCRAMBLED_MIN)
        return rc < 0 ? rc : 0;
    rc = spoilt_count_classed(s->cat, s->watch, &left, e);
    if (rc < 0)
        return rc;
    uint64_t all = left + p.declassed, gone = p.declassed + c->declassed;
    if (gone <= all / 2)
        return 0;
    return freeze_set(s->req->repo, w->id, FREEZE_SCRAMBLED, p.whole_in, e,
                      "%" PRIu64 " of %" PRIu64
                      " text, JSON and SQLite files are no longer such since snapshot %" PRIu64,
                      gone, all, p.whole_in);
}

int guard_emptied(struct save *s, const struct commit *c, bool suspect, struct error *e)
{
    const struct watch_row *w = txn_watch_row(s->txn);
    struct past p = {.now = c->time.s};

    if (s->req->accept && (w->frozen & FREEZE_EMPTIED))
        return freeze_lift(s->req->repo, w->id, FREEZE_EMPTIED, e);
    if (s->fresh || s->rules_changed || s->req->accept || (w->frozen & FREEZE_EMPTIED) ||
        c->files_removed == 0)
        return 0;
    int rc = catalog_snapshots(s->cat, s->watch, 1, UINT64_MAX, true, look_back, &p, e);
    if (rc < 0)
        return rc;
    uint64_t fewer = p.most > c->files ? p.most - c->files : 0;
    if (suspect || most_of(s, fewer, p.most))
        return freeze_set(s->req->repo, w->id, FREEZE_EMPTIED, p.most_in, e,
                          "%" PRIu64 " of %" PRIu64 " files are gone since snapshot %" PRIu64,
                          fewer, p.most, p.most_in);
    if (most_of(s, c->files_removed, p.last_files))
        return freeze_set(s->req->repo, w->id, FREEZE_EMPTIED, w->last, e,
                          "%" PRIu64 " of %" PRIu64 " files of snapshot %" PRIu64
                          " went at once, though others came",
                          c->files_removed, p.last_files, w->last);
    return 0;
}
