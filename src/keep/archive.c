#include "keep/archive.h"

#include "base/text.h"
#include "io/fileops.h"
#include "keep/archive_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

void archive_item_release(struct archive_item *i)
{
    free(i->path);
    free(i->name);
    free(i->watch);
    free(i->host);
    free(i->root);
    memset(i, 0, sizeof(*i));
}

void archive_result_release(struct archive_result *r)
{
    for (size_t i = 0; i < r->left_out_count; i++) {
        free(r->left_out[i].path);
        free(r->left_out[i].reason);
    }
    free(r->left_out);
    archive_item_release(&r->item);
    memset(r, 0, sizeof(*r));
}

/* ---- what is refused ---- */

static int check_snapshot(const struct archive_order *o, struct error *e)
{
    const struct snapshot_row *s = o->snapshot;
    uint64_t n = s->commit.number;

    if (s->damaged || !s->whole)
        return error_set(e, ERR_DAMAGED,
                         "snapshot %" PRIu64 " is damaged: no archive is made of it; "
                         "'watchkeep verify' tells what is lost",
                         n);
    if ((s->commit.flags & COMMIT_SUSPECT) && !o->named)
        return error_set(e, ERR_REFUSED,
                         "snapshot %" PRIu64 " is suspect: hardly a file was left in the folder of "
                         "watch '%s'",
                         n, s->watch_name);
    return 0;
}

/* ---- writing ---- */

/* What the metadata is called: what the root does not have already. */
static int choose_inside(struct repo *r, const struct archive_order *o,
                         char inside[ARCHIVE_INSIDE_MAX], struct error *e)
{
    const struct snapshot_row *s = o->snapshot;
    struct catalog *c;
    uint64_t node;
    int rc = repo_catalog_open(r, &c, e);

    if (rc != 0)
        return rc;
    for (unsigned i = 0; rc == 0; i++) {
        if (!archive_inside_name(i, inside)) {
            rc = error_set(e, ERR_REFUSED, "every name for the metadata is taken, up to '%s'",
                           inside);
            break;
        }
        rc = catalog_lookup(c, s->watch_serial, NODE_ROOT, inside, strlen(inside),
                            (int64_t)s->commit.number, &node, e);
    }
    repo_catalog_close(r, c);
    if (rc != ERR_NOTFOUND)
        return rc;
    error_clear(e);
    return 0;
}

/* A commit has it only where it is another than before. */
static int find_root(struct repo *r, const struct commit *commit, char **root, struct error *e)
{
    struct watch_row row = {0};
    struct catalog *c;
    int rc = repo_catalog_open(r, &c, e);

    if (rc != 0)
        return rc;
    if (!commit->root)
        rc = catalog_watch_by_id(c, commit->watch_id, &row, e);
    if (rc == 0) {
        *root = strdup(commit->root ? commit->root : row.root);
        rc = *root ? 0 : no_memory(e);
    }
    watch_row_release(&row);
    repo_catalog_close(r, c);
    return rc;
}

static int flush_archive(struct archive_place *p, struct error *e)
{
    int rc =
        p->format == ARCHIVE_DIRECTORY ? fileops->syncfs(p->lock) : fileops->fdatasync(p->lock);

    return rc == 0 ? 0 : error_sys(e, errno, "cannot flush the archive in '%s'", p->folder);
}

static int write_meta(struct archive_place *p, const struct buffer *text, struct error *e)
{
    int fd = fileops->openat(p->dir, p->temp_meta, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    int rc;

    if (fd < 0)
        return error_sys(e, errno, "cannot make the metadata of the archive in '%s'", p->folder);
    p->meta_made = true;
    rc = file_write_all(fd, text->data, text->len, 0, e);
    if (rc == 0 && fileops->fdatasync(fd) != 0)
        rc = error_sys(e, errno, "cannot flush the metadata of the archive");
    if (fileops->close(fd) != 0 && rc == 0)
        rc = error_sys(e, errno, "cannot write the metadata of the archive");
    return rc;
}

/* Everything, up to the flush of both files. */
static int write_all(struct repo *r, struct archive_meta *m, struct archive_place *p,
                     uint64_t *stored, struct error *e)
{
    struct buffer text = BUFFER_INIT;
    bool tar = p->format == ARCHIVE_TAR_GZ;

    int rc = tar ? archive_tar_write(r, m, p->lock, stored, e)
                 : archive_folder_write(r, m, p, stored, e);
    if (rc == 0) /* each is copied to be opened; so it is when the archive is read back */
        rc = archive_room(m->order, p->lock, m->database_max, e);
    if (rc == 0)
        rc = archive_meta_databases(m, r, p->folder, e);
    if (rc == 0)
        rc = archive_meta_text(m, &text, e);
    if (rc == 0)
        rc = tar ? archive_tar_finish(m, &text, p->lock, stored, e)
                 : archive_folder_finish(m, p, &text, e);
    if (rc == 0)
        rc = write_meta(p, &text, e);
    if (rc == 0)
        rc = flush_archive(p, e);
    buffer_release(&text);
    return rc;
}

/* Which of the disks it was that failed. */
static int name_place(const struct archive_place *p, int rc, struct error *e)
{
    char what[sizeof(e->message)], quoted[300];
    int sys = e->sys;

    if (rc == 0 || sys == 0 || e->path[0] || strstr(e->message, p->folder))
        return rc;
    snprintf(what, sizeof(what), "%s", e->message);
    error_set(e, rc, "cannot write an archive in '%s': %s",
              text_escape(p->folder, quoted, sizeof(quoted)), what);
    e->sys = sys;
    return rc;
}

static void take_left_out(struct archive_meta *m, struct archive_result *result)
{
    result->left_out = m->left_out;
    result->left_out_count = m->left_out_count;
    m->left_out = NULL;
    m->left_out_count = 0;
}

/* The item, as it stands after publishing. */
static int fill_item(const struct archive_meta *m, const struct archive_place *p,
                     struct archive_item *item, struct error *e)
{
    const struct commit *c = &m->order->snapshot->commit;

    *item = (struct archive_item){
        .path = text_format("%s/%s%s", p->folder, p->name,
                            p->format == ARCHIVE_TAR_GZ ? ARCHIVE_TAR_SUFFIX : ""),
        .name = strdup(p->name),
        .watch = strdup(m->order->snapshot->watch_name),
        .manual = m->order->name != NULL,
        .format = p->format,
        .snapshot = c->number,
        .files = m->files,
        .bytes = m->bytes,
        .time = m->time,
        .utc_offset = clock_utc_offset(m->time.s),
        .complete = c->incomplete_count == 0 && !(c->flags & COMMIT_INCOMPLETE),
        .suspect = (c->flags & COMMIT_SUSPECT) != 0,
        .told = true,
    };
    memcpy(item->repository, m->repository, sizeof(item->repository));
    return item->path && item->name && item->watch ? 0 : no_memory(e);
}

static int write_under_lease(struct repo *r, const struct archive_order *o,
                             struct archive_result *result, struct error *e)
{
    struct archive_meta m = {.order = o, .time = clock_wall()};
    struct archive_place p = {.dir = -1, .lock = -1};
    uint64_t begun = clock_mono_ns(), stored = 0;
    char inside[ARCHIVE_INSIDE_MAX];

    int rc = choose_inside(r, o, inside, e);
    if (rc == 0)
        rc = find_root(r, &o->snapshot->commit, &m.root, e);
    if (rc == 0)
        rc = archive_place_open(o, m.time, &p, e);
    text_hex(repo_id(r), 16, m.repository);
    m.name = p.name;
    m.inside = inside;
    if (rc == 0)
        rc = name_place(&p, write_all(r, &m, &p, &stored, e), e);
    if (rc == 0) {
        rc = archive_place_publish(&p, e);
        if (p.published) {
            struct error ignored = ERROR_INIT;
            int filled = fill_item(&m, &p, &result->item, rc == 0 ? e : &ignored);
            rc = rc != 0 ? rc : filled;
        }
    }
    if (rc == 0) {
        struct archive_verdict v = {.stored_bytes = stored,
                                    .seconds = (double)(clock_mono_ns() - begun) / 1e9};
        result->item.stored_bytes = stored;
        result->item.seconds = v.seconds;
        rc = archive_meta_record(p.dir, p.name, &v, e);
    }
    take_left_out(&m, result);
    archive_place_close(&p);
    archive_meta_release(&m);
    return rc;
}

/* From the disk, and not from what was in memory: only then it is called verified. */
static int read_back(const struct archive_order *o, struct archive_item *item, struct error *e)
{
    struct archive_check check;
    int rc = archive_verify(item, true, o->helper, o->cancel, &check, e);

    if (rc == 0 && check.errors > 0) {
        item->damaged = true;
        rc = error_set(e, ERR_DAMAGED, "archive '%s' does not read back as it was written: %s",
                       item->name, check.first ? check.first : "");
    } else if (rc == 0) {
        item->verified = clock_wall();
    }
    archive_check_release(&check);
    return rc;
}

int archive_write(struct repo *r, const struct archive_order *o, struct archive_result *result,
                  struct error *e)
{
    uint64_t number = o->snapshot->commit.number;
    struct catalog_try tried = repo_catalog_try(r);

    memset(result, 0, sizeof(*result));
    int rc = check_snapshot(o, e);
    if (rc == 0)
        rc = repo_lease(r, number, e);
    if (rc != 0)
        return rc;
    if (o->progress) {
        atomic_store(&o->progress->files_total, o->snapshot->commit.files);
        atomic_store(&o->progress->bytes_total, o->snapshot->commit.bytes);
    }
    while (rc = write_under_lease(r, o, result, e), repo_catalog_replaced(r, rc, &tried)) {
        archive_result_release(result);
        error_clear(e);
    }
    repo_lease_end(r, number);
    return rc == 0 ? read_back(o, &result->item, e) : rc;
}
