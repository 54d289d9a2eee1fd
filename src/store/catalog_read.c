/* Watches, snapshots, caches, marks and notes as they stand. */
#include "store/catalog_private.h"

#include "store/record.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static char *column_string(sqlite3_stmt *s, int i)
{
    const char *p = (const char *)sqlite3_column_text(s, i);

    return strdup(p ? p : "");
}

/* Append to a malloc'ed array; false on no memory. */
static bool array_room(void **array, size_t count, size_t *cap, size_t item)
{
    if (count < *cap)
        return true;
    size_t want = *cap ? *cap * 2 : 16;
    void *p = realloc(*array, want * item);
    if (!p)
        return false;
    *array = p;
    *cap = want;
    return true;
}

/* ---- watches ---- */

void watch_row_release(struct watch_row *w)
{
    free(w->name);
    free(w->root);
    free(w->rules);
    memset(w, 0, sizeof(*w));
}

int cat_watch_from(struct catalog *c, sqlite3_stmt *s, struct watch_row *w, struct error *e)
{
    memset(w, 0, sizeof(*w));
    if (sqlite3_column_bytes(s, 0) != WATCH_ID_LEN ||
        sqlite3_column_bytes(s, 10) != (int)sizeof(w->sum.b))
        return error_set(e, ERR_CATALOG, "catalog: a watch's row is damaged");
    memcpy(w->id, sqlite3_column_blob(s, 0), WATCH_ID_LEN);
    w->serial = sqlite3_column_int64(s, 1);
    w->name = column_string(s, 2);
    w->root = column_string(s, 3);
    w->rules = column_string(s, 4);
    w->last = (uint64_t)sqlite3_column_int64(s, 5);
    w->next_node = (uint64_t)sqlite3_column_int64(s, 6);
    w->files = (uint64_t)sqlite3_column_int64(s, 7);
    w->bytes = (uint64_t)sqlite3_column_int64(s, 8);
    w->incomplete_count = (uint64_t)sqlite3_column_int64(s, 9);
    memcpy(w->sum.b, sqlite3_column_blob(s, 10), sizeof(w->sum.b));
    w->frozen = (unsigned)sqlite3_column_int(s, 11);
    if (w->name && w->root && w->rules)
        return 0;
    watch_row_release(w);
    return cat_no_memory(e);
}

static int watch_found(struct catalog *c, sqlite3_stmt *s, struct watch_row *w, struct error *e)
{
    int rc = s ? cat_step(c, s, e) : e->code;

    if (rc <= 0)
        return rc < 0 ? rc : ERR_NOTFOUND;
    rc = cat_watch_from(c, s, w, e);
    sqlite3_reset(s);
    return rc;
}

int catalog_watch_by_name(struct catalog *c, const char *name, struct watch_row *w, struct error *e)
{
    int rc = watch_found(c, cat_bind(c, e, CAT_WATCH_BY_NAME, "t", name), w, e);

    return rc == ERR_NOTFOUND ? error_set(e, rc, "no watch '%s' in the repository", name) : rc;
}

int catalog_watch_by_id(struct catalog *c, const uint8_t *id, struct watch_row *w, struct error *e)
{
    int rc = watch_found(c, cat_bind(c, e, CAT_WATCH_BY_ID, "b", id, (size_t)WATCH_ID_LEN), w, e);

    return rc == ERR_NOTFOUND ? error_set(e, rc, "no such watch in the repository") : rc;
}

int catalog_watches(struct catalog *c, struct watch_row **rows, size_t *count, struct error *e)
{
    struct watch_row *list = NULL;
    size_t cap = 0;
    int rc;

    *count = 0;
    sqlite3_stmt *s = cat_prepare(c, "SELECT " WATCH_COLUMNS " FROM watches ORDER BY name", e);
    if (!s)
        return e->code;
    while ((rc = cat_step(c, s, e)) == 1) {
        if (!array_room((void **)&list, *count, &cap, sizeof(*list)))
            rc = cat_no_memory(e);
        else
            rc = cat_watch_from(c, s, &list[*count], e);
        if (rc < 0)
            break;
        ++*count;
    }
    sqlite3_finalize(s);
    if (rc < 0) {
        while (*count > 0)
            watch_row_release(&list[--*count]);
        free(list);
        list = NULL;
    }
    *rows = list;
    return rc;
}

int cat_watch_put(struct catalog *c, const struct watch_row *w, bool is_new, struct error *e)
{
    return cat_run(c, e, is_new ? CAT_WATCH_INSERT : CAT_WATCH_UPDATE, "bitttiiiiibi", w->id,
                   (size_t)WATCH_ID_LEN, w->serial, w->name, w->root, w->rules, (int64_t)w->last,
                   (int64_t)w->next_node, (int64_t)w->files, (int64_t)w->bytes,
                   (int64_t)w->incomplete_count, w->sum.b, sizeof(w->sum.b), (int64_t)w->frozen);
}

/* ---- snapshots ---- */

void snapshot_row_release(struct snapshot_row *s)
{
    commit_release(&s->commit);
    free(s->watch_name);
    memset(s, 0, sizeof(*s));
}

/* Watch name, name and note live in one allocation that begins with the watch name. */
static int snapshot_strings(sqlite3_stmt *s, struct snapshot_row *row, struct error *e)
{
    const char *texts[3];
    char *at[3] = {NULL, NULL, NULL};
    size_t lens[3], total = 0;

    for (int i = 0; i < 3; i++) {
        texts[i] = (const char *)sqlite3_column_text(s, 2 + i);
        lens[i] = texts[i] ? strlen(texts[i]) : 0;
        total += lens[i] + 1;
    }
    char *p = malloc(total);
    if (!p)
        return cat_no_memory(e);
    for (int i = 0; i < 3; i++) {
        at[i] = p;
        memcpy(p, texts[i] ? texts[i] : "", lens[i]);
        p[lens[i]] = '\0';
        p += lens[i] + 1;
    }
    row->watch_name = at[0];
    row->commit.name = texts[1] ? at[1] : NULL;
    row->commit.note = texts[2] ? at[2] : NULL;
    return 0;
}

static int snapshot_from(sqlite3_stmt *s, struct snapshot_row *row, struct error *e)
{
    memset(row, 0, sizeof(*row));
    int rc = commit_decode(sqlite3_column_blob(s, 0), (size_t)sqlite3_column_bytes(s, 0),
                           &row->commit, e);
    if (rc < 0)
        return rc;
    row->watch_serial = sqlite3_column_int64(s, 1);
    row->verified.s = sqlite3_column_int64(s, 5);
    row->verified.ns = (uint32_t)sqlite3_column_int64(s, 6);
    row->damaged = sqlite3_column_int(s, 7) != 0;
    row->pinned = sqlite3_column_int(s, 8) != 0;
    row->whole = sqlite3_column_int(s, 9) != 0;
    rc = snapshot_strings(s, row, e);
    if (rc < 0)
        snapshot_row_release(row);
    return rc;
}

int catalog_snapshot(struct catalog *c, uint64_t number, struct snapshot_row *row, struct error *e)
{
    sqlite3_stmt *s = cat_bind(c, e, CAT_SNAPSHOT, "i", (int64_t)number);
    int rc = s ? cat_step(c, s, e) : e->code;

    if (rc < 0)
        return rc;
    if (rc == 0)
        return error_set(e, ERR_NOTFOUND, "no snapshot %llu", (unsigned long long)number);
    rc = snapshot_from(s, row, e);
    sqlite3_reset(s);
    return rc;
}

int catalog_snapshot_by_name(struct catalog *c, const char *name, const char *watch,
                             struct snapshot_row *row, struct error *e)
{
    sqlite3_stmt *s = cat_prepare(
        c, "SELECT s.number" SNAPSHOT_FROM "WHERE s.name=?1 AND (?2 IS NULL OR w.name=?2) LIMIT 2",
        e);
    uint64_t number = 0;
    int found = 0, rc;

    if (!s)
        return e->code;
    sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 2, watch, -1, SQLITE_STATIC);
    while ((rc = cat_step(c, s, e)) == 1) {
        number = (uint64_t)sqlite3_column_int64(s, 0);
        found++;
    }
    sqlite3_finalize(s);
    if (rc < 0)
        return rc;
    if (found == 0)
        return error_set(e, ERR_NOTFOUND, "no snapshot named '%s'", name);
    if (found > 1)
        return error_set(e, ERR_USAGE, "several watches have a snapshot named '%s'", name);
    return catalog_snapshot(c, number, row, e);
}

int catalog_name_taken(struct catalog *c, int64_t watch, const char *name, uint64_t *number,
                       struct error *e)
{
    int64_t v = 0;
    int rc = cat_number(c, e, &v, CAT_NAME_TAKEN, "ti", name, watch);

    *number = rc == 0 ? (uint64_t)v : 0;
    return rc == ERR_NOTFOUND ? 0 : rc;
}

static const char *snapshots_sql(bool one_watch, bool newest_first)
{
    if (one_watch)
        return newest_first
                   ? "SELECT " SNAPSHOT_COLUMNS SNAPSHOT_FROM "WHERE s.number BETWEEN ?1 AND ?2 "
                     "AND s.watch=?3 ORDER BY s.number DESC"
                   : "SELECT " SNAPSHOT_COLUMNS SNAPSHOT_FROM "WHERE s.number BETWEEN ?1 AND ?2 "
                     "AND s.watch=?3 ORDER BY s.number";
    return newest_first ? "SELECT " SNAPSHOT_COLUMNS SNAPSHOT_FROM
                          "WHERE s.number BETWEEN ?1 AND ?2 ORDER BY s.number DESC"
                        : "SELECT " SNAPSHOT_COLUMNS SNAPSHOT_FROM
                          "WHERE s.number BETWEEN ?1 AND ?2 ORDER BY s.number";
}

static int64_t bounded(uint64_t v)
{
    return v > INT64_MAX ? INT64_MAX : (int64_t)v;
}

int catalog_snapshots(struct catalog *c, int64_t watch, uint64_t from, uint64_t to,
                      bool newest_first, snapshot_visit visit, void *ctx, struct error *e)
{
    struct snapshot_row row;
    int rc;

    sqlite3_stmt *s = cat_prepare(c, snapshots_sql(watch != 0, newest_first), e);
    if (!s)
        return e->code;
    sqlite3_bind_int64(s, 1, bounded(from));
    sqlite3_bind_int64(s, 2, bounded(to));
    if (watch != 0)
        sqlite3_bind_int64(s, 3, watch);
    while ((rc = cat_step(c, s, e)) == 1) {
        rc = snapshot_from(s, &row, e);
        if (rc < 0)
            break;
        rc = visit(ctx, &row);
        snapshot_row_release(&row);
        if (rc != 0)
            break;
    }
    sqlite3_finalize(s);
    return rc;
}

/* ---- caches ---- */

int catalog_cache_get(struct catalog *c, int64_t watch, uint64_t node, uint64_t *ino,
                      struct buffer *signature, struct error *e)
{
    sqlite3_stmt *s = cat_bind(c, e, CAT_CACHE_GET, "i", cat_node_id(watch, node));
    int rc = s ? cat_step(c, s, e) : e->code;

    if (rc < 0)
        return rc;
    if (rc == 0)
        return error_set(e, ERR_NOTFOUND, "no signature is kept of node %llu",
                         (unsigned long long)node);
    *ino = (uint64_t)sqlite3_column_int64(s, 0);
    buffer_append(signature, sqlite3_column_blob(s, 1), (size_t)sqlite3_column_bytes(s, 1));
    sqlite3_reset(s);
    return buffer_ok(signature) ? 0 : cat_no_memory(e);
}

int catalog_cache_by_ino(struct catalog *c, int64_t watch, uint64_t ino, uint64_t *nodes,
                         size_t max, size_t *count, struct error *e)
{
    int rc;

    *count = 0;
    sqlite3_stmt *s = cat_bind(c, e, CAT_CACHE_BY_INO, "iiii", (int64_t)ino, cat_node_id(watch, 0),
                               cat_node_id(watch, NODE_NUMBER_MAX), (int64_t)max);
    if (!s)
        return e->code;
    while ((rc = cat_step(c, s, e)) == 1 && *count < max)
        nodes[(*count)++] = cat_node_of(sqlite3_column_int64(s, 0));
    sqlite3_reset(s);
    return rc < 0 ? rc : 0;
}

int catalog_cache_pending(struct catalog *c, int64_t watch, uint64_t **nodes, size_t *count,
                          struct error *e)
{
    uint64_t *list = NULL;
    size_t cap = 0;
    int rc;

    *count = 0;
    *nodes = NULL;
    sqlite3_stmt *s = cat_bind(c, e, CAT_CACHE_PENDING, "ii", cat_node_id(watch, 0),
                               cat_node_id(watch, NODE_NUMBER_MAX));
    if (!s)
        return e->code;
    while ((rc = cat_step(c, s, e)) == 1) {
        if (!array_room((void **)&list, *count, &cap, sizeof(*list))) {
            rc = cat_no_memory(e);
            break;
        }
        list[(*count)++] = cat_node_of(sqlite3_column_int64(s, 0));
    }
    sqlite3_reset(s);
    if (rc < 0) {
        free(list);
        *count = 0;
        return rc;
    }
    *nodes = list;
    return 0;
}

int catalog_cache_put(struct catalog *c, int64_t watch, uint64_t node, const struct cache_key *key,
                      const void *signature, size_t len, struct error *e)
{
    return cat_run(c, e, CAT_CACHE_PUT, "iiib", cat_node_id(watch, node), (int64_t)key->ino,
                   (int64_t)key->pending, signature, len);
}

/* ---- notes ---- */

#define NOTE_PREFIX "note."

static bool note_key(const char *key, char out[128])
{
    size_t n = strlen(key);

    if (n + sizeof(NOTE_PREFIX) > 128)
        return false;
    memcpy(out, NOTE_PREFIX, sizeof(NOTE_PREFIX) - 1);
    memcpy(out + sizeof(NOTE_PREFIX) - 1, key, n + 1);
    return true;
}

int catalog_note_get(struct catalog *c, const char *key, struct buffer *value, struct error *e)
{
    char full[128];

    if (!note_key(key, full))
        return error_set(e, ERR_FAILED, "the key of a note is too long");
    sqlite3_stmt *s = cat_bind(c, e, CAT_META_GET, "t", full);
    int rc = s ? cat_step(c, s, e) : e->code;
    if (rc < 0)
        return rc;
    if (rc == 0)
        return error_set(e, ERR_NOTFOUND, "no note '%s' is kept", key);
    buffer_append(value, sqlite3_column_blob(s, 0), (size_t)sqlite3_column_bytes(s, 0));
    sqlite3_reset(s);
    return buffer_ok(value) ? 0 : cat_no_memory(e);
}

int catalog_note_put(struct catalog *c, const char *key, const void *value, size_t len,
                     struct error *e)
{
    char full[128];

    if (!note_key(key, full))
        return error_set(e, ERR_FAILED, "the key of a note is too long");
    return cat_run(c, e, CAT_META_PUT, "tb", full, value, len);
}

/* ---- marks ---- */

int catalog_marks(struct catalog *c, mark_visit visit, void *ctx, struct error *e)
{
    struct mark m;
    int rc;

    sqlite3_stmt *s = cat_prepare(c, "SELECT sequence,body FROM marks ORDER BY sequence", e);
    if (!s)
        return e->code;
    while ((rc = cat_step(c, s, e)) == 1) {
        rc = mark_decode(sqlite3_column_blob(s, 1), (size_t)sqlite3_column_bytes(s, 1), &m, e);
        if (rc < 0)
            break;
        rc = visit(ctx, (uint64_t)sqlite3_column_int64(s, 0), &m);
        mark_release(&m);
        if (rc != 0)
            break;
    }
    sqlite3_finalize(s);
    return rc;
}

/* ---- packs ---- */

void cat_pack_from(sqlite3_stmt *s, struct catalog_pack *p)
{
    *p = (struct catalog_pack){.id = (uint64_t)sqlite3_column_int64(s, 0),
                               .kind = (uint8_t)sqlite3_column_int(s, 1),
                               .len = (uint64_t)sqlite3_column_int64(s, 2),
                               .fence = (uint64_t)sqlite3_column_int64(s, 3),
                               .sealed = sqlite3_column_int(s, 4) != 0,
                               .gone = sqlite3_column_int64(s, 6)};
    if (sqlite3_column_bytes(s, 5) == HASH_LEN)
        memcpy(p->sha256.b, sqlite3_column_blob(s, 5), HASH_LEN);
}

int catalog_pack(struct catalog *c, uint64_t id, struct catalog_pack *p, struct error *e)
{
    sqlite3_stmt *s = cat_bind(c, e, CAT_PACK_GET, "i", (int64_t)id);
    int rc = s ? cat_step(c, s, e) : e->code;

    if (rc < 0)
        return rc;
    if (rc == 0)
        return error_set(e, ERR_NOTFOUND, "the catalog knows no pack %016llx",
                         (unsigned long long)id);
    cat_pack_from(s, p);
    sqlite3_reset(s);
    return 0;
}

uint64_t catalog_pack_end(const struct catalog_pack *p)
{
    bool cut = p->kind == PACK_DATA && p->len < p->fence;

    return p->fence && !cut ? p->fence : p->len;
}

int catalog_pack_put(struct catalog *c, const struct catalog_pack *p, struct error *e)
{
    if (c->position.next_pack <= p->id)
        c->position.next_pack = p->id + 1;
    return cat_run(c, e, CAT_PACK_PUT, "iiiiibi", (int64_t)p->id, (int64_t)p->kind, (int64_t)p->len,
                   (int64_t)p->fence, (int64_t)p->sealed, p->sha256.b, (size_t)HASH_LEN, p->gone);
}

int catalog_packs(struct catalog *c, struct catalog_pack **rows, size_t *count, struct error *e)
{
    struct catalog_pack *list = NULL;
    size_t cap = 0;
    int rc;

    *count = 0;
    *rows = NULL;
    sqlite3_stmt *s = cat_prepare(c, "SELECT " PACK_COLUMNS " FROM packs ORDER BY id", e);
    if (!s)
        return e->code;
    while ((rc = cat_step(c, s, e)) == 1) {
        if (!array_room((void **)&list, *count, &cap, sizeof(*list))) {
            rc = cat_no_memory(e);
            break;
        }
        cat_pack_from(s, &list[(*count)++]);
    }
    sqlite3_finalize(s);
    if (rc < 0) {
        free(list);
        *count = 0;
        return rc;
    }
    *rows = list;
    return 0;
}

/* ---- whether it reads whole ---- */

int catalog_check(struct catalog *c, struct error *e)
{
    sqlite3_stmt *s = cat_prepare(c, "PRAGMA quick_check(1)", e);
    int rc = s ? cat_step(c, s, e) : e->code;

    if (rc == 1 && strcmp((const char *)sqlite3_column_text(s, 0), "ok") != 0)
        rc = error_set(e, ERR_CATALOG, "catalog: %s", (const char *)sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
    return rc < 0 ? rc : 0;
}
