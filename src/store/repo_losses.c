/* What the catalog knew, and the packs hold no more.
 *
 * A log that lost its end looks like the log of an earlier day, and is as good as that. Only a
 * catalog that knew more can tell: before it is made anew it is asked which packs were longer and
 * which snapshots there were. What is gone then is told by verify, and kept in the log as an event.
 */
#include "store/repo_private.h"

#include "base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/banned.h"

enum { NUMBERS_SHOWN = 20, NUMBERS_MARKED = 10000 };

void repo_losses_free(struct repo *r)
{
    free(r->losses);
    free(r->gone);
    r->losses = NULL;
    r->gone = NULL;
    r->loss_count = r->gone_count = 0;
}

/* ---- before ---- */

static int add_loss(struct repo *r, uint64_t id, uint8_t kind, uint64_t was)
{
    struct pack_file f = {.size = 0};
    bool there = repo_file_known(r, id, &f);

    bool unlike = there && repo_file_is_another(r, &f);

    if (id == 0 || (there && !unlike && f.size >= was))
        return 0;
    for (size_t i = 0; i < r->loss_count; i++)
        if (r->losses[i].pack_id == id)
            return 0;
    struct loss *list = realloc(r->losses, (r->loss_count + 1) * sizeof(*list));
    if (!list)
        return ERR_FAILED;
    r->losses = list;
    list[r->loss_count++] = (struct loss){
        .pack_id = id, .kind = kind, .was = was, .is = f.size, .missing = !there, .unlike = unlike};
    return 0;
}

static int note_packs(struct repo *r, struct error *e)
{
    struct catalog_position at;
    struct catalog_pack *rows;
    size_t count;

    int rc = catalog_position(r->writer, &at, e);
    if (rc == 0)
        rc = add_loss(r, at.log_pack, PACK_LOG, at.log_offset);
    if (rc == 0)
        rc = catalog_packs(r->writer, &rows, &count, e);
    if (rc < 0)
        return rc;
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = rows[i].gone ? 0 : add_loss(r, rows[i].id, rows[i].kind, catalog_pack_end(&rows[i]));
    free(rows);
    return rc;
}

static int note_snapshot(void *ctx, const struct snapshot_row *s)
{
    struct repo *r = ctx;

    if (r->gone_count % 1024 == 0) {
        uint64_t *list = realloc(r->gone, (r->gone_count + 1024) * sizeof(*list));
        if (!list)
            return ERR_FAILED;
        r->gone = list;
    }
    r->gone[r->gone_count++] = s->commit.number;
    return 0;
}

void repo_losses_note(struct repo *r)
{
    struct error ignored = ERROR_INIT;

    repo_losses_free(r);
    if (!r->writer || note_packs(r, &ignored) < 0 || r->loss_count == 0 ||
        catalog_snapshots(r->writer, 0, 1, UINT64_MAX, false, note_snapshot, r, &ignored) < 0)
        repo_losses_free(r);
}

/* ---- after ---- */

static void keep_gone(struct repo *r)
{
    size_t kept = 0;

    for (size_t i = 0; i < r->gone_count; i++) {
        struct error ignored = ERROR_INIT;
        struct snapshot_row row;
        int rc = catalog_snapshot(r->writer, r->gone[i], &row, &ignored);
        if (rc == 0)
            snapshot_row_release(&row);
        else if (rc == ERR_NOTFOUND)
            r->gone[kept++] = r->gone[i];
    }
    r->gone_count = kept;
}

/* The catalog goes on naming packs that are missing. Of data packs it knows no blocks any more. */
static int put_missing(struct repo *r, struct error *e)
{
    int rc = catalog_begin(r->writer, e);

    if (rc < 0)
        return rc;
    for (size_t i = 0; rc == 0 && i < r->loss_count; i++) {
        const struct loss *l = &r->losses[i];
        const struct catalog_pack row = {
            .id = l->pack_id, .kind = l->kind, .len = l->kind == PACK_LOG ? l->was : 0};
        if (l->missing)
            rc = catalog_pack_put(r->writer, &row, e);
    }
    if (rc == 0)
        return catalog_commit(r->writer, e);
    catalog_rollback(r->writer);
    return rc;
}

static void mark_event(struct repo *r)
{
    struct error ignored = ERROR_INIT;
    struct buffer text = BUFFER_INIT;
    char name[40];
    struct mark m = {.type = MARK_EVENT, .time = clock_wall(), .snapshots = r->gone};

    m.count = (uint32_t)(r->gone_count < NUMBERS_MARKED ? r->gone_count : NUMBERS_MARKED);
    buffer_append_str(&text, "{\"event\":\"lost\",\"packs\":[");
    for (size_t i = 0; i < r->loss_count; i++) {
        const struct loss *l = &r->losses[i];
        pack_file_name(l->kind, l->pack_id, name);
        buffer_printf(&text, "%s{\"pack\":\"%s\",\"bytes\":%" PRIu64 ",\"left\":%" PRIu64 "}",
                      i ? "," : "", name, l->was, l->is);
    }
    buffer_append_str(&text, "]}");
    m.text = buffer_cstr(&text);
    if (buffer_ok(&text))
        repo_mark(r, &m, &ignored); /* a full disk must not keep anybody from opening it */
    buffer_release(&text);
}

void repo_losses_settle(struct repo *r)
{
    struct error ignored = ERROR_INIT;

    if (r->loss_count == 0)
        return;
    keep_gone(r);
    put_missing(r, &ignored);
    mark_event(r);
}

/* ---- told ---- */

/* "3-5, 9" */
static void put_numbers(const struct repo *r, struct buffer *out)
{
    unsigned shown = 0;

    for (size_t i = 0, end; i < r->gone_count; i = end) {
        for (end = i + 1; end < r->gone_count && r->gone[end] == r->gone[end - 1] + 1;)
            end++;
        if (shown++ == NUMBERS_SHOWN) {
            buffer_append_str(out, ", ...");
            return;
        }
        buffer_printf(out, "%s%" PRIu64, i ? ", " : "", r->gone[i]);
        if (end > i + 1)
            buffer_printf(out, "-%" PRIu64, r->gone[end - 1]);
    }
}

void repo_losses_tell(struct repo *r, void (*tell)(void *ctx, uint64_t pack_id, const char *text),
                      void *ctx)
{
    for (size_t i = 0; i < r->loss_count; i++) {
        const struct loss *l = &r->losses[i];
        struct buffer text = BUFFER_INIT;
        if (l->missing)
            buffer_append_str(&text, "the pack is missing");
        else if (l->unlike)
            buffer_append_str(&text, "the pack is not the one it was");
        else
            buffer_printf(&text, "the pack has %" PRIu64 " bytes of %" PRIu64, l->is, l->was);
        if (r->gone_count > 0 && l->kind == PACK_LOG) {
            buffer_append_str(&text, "; with the end of the log these snapshots are gone: ");
            put_numbers(r, &text);
        }
        tell(ctx, l->pack_id, buffer_cstr(&text));
        buffer_release(&text);
    }
}

bool repo_loss_known(const struct repo *r, uint64_t pack_id)
{
    for (size_t i = 0; i < r->loss_count; i++)
        if (r->losses[i].pack_id == pack_id)
            return true;
    return false;
}
