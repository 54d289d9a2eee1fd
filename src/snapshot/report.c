#include "snapshot/report.h"

#include "base/text.h"
#include "snapshot/selector.h"
#include "snapshot/spoilt.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

/* A finished object, or NULL when any value of it could not be made. */
static json_t *finished(json_t *obj, bool ok)
{
    if (ok)
        return obj;
    json_decref(obj);
    return NULL;
}

/* ---- values ---- */

static json_t *number(uint64_t v)
{
    return json_integer(v > INT64_MAX ? INT64_MAX : (json_int_t)v);
}

json_t *report_text(const char *s)
{
    if (!s)
        return json_null();
    size_t n = strlen(s);
    if (text_utf8_ok(s, n))
        return json_stringn(s, n);
    char *lossy = text_lossy_utf8(s, n);
    json_t *out = lossy ? json_string(lossy) : NULL;
    free(lossy);
    return out;
}

static json_t *text_or_null(const char *s)
{
    return report_text(s && *s ? s : NULL);
}

json_t *report_time(struct wall_time t)
{
    char text[40];

    time_rfc3339(t, text, sizeof(text));
    return json_string(text);
}

static json_t *time_or_null(struct wall_time t)
{
    return t.s == 0 && t.ns == 0 ? json_null() : report_time(t);
}

/* Seconds to the millionth: more digits are noise. */
static json_t *seconds(double s)
{
    return json_real((double)(int64_t)(s * 1e6 + 0.5) / 1e6);
}

static bool set(json_t *obj, const char *key, json_t *value)
{
    return json_object_set_new(obj, key, value) == 0;
}

static bool set_path(json_t *obj, const char *key, const char *bytes)
{
    size_t n = strlen(bytes);
    char name[64];

    if (!set(obj, key, report_text(bytes)))
        return false;
    if (text_utf8_ok(bytes, n))
        return true;
    char *b64 = text_base64(bytes, n);
    snprintf(name, sizeof(name), "%s_b64", key);
    bool ok = b64 && set(obj, name, json_string(b64));
    free(b64);
    return ok;
}

void report_path(json_t *obj, const char *key, const char *bytes)
{
    set_path(obj, key, bytes);
}

/* ---- snapshots ---- */

static json_t *good_value(const struct snapshot_row *s)
{
    switch (snapshot_good(s)) {
    case SNAPSHOT_GOOD:
        return json_true();
    case SNAPSHOT_NOT_GOOD:
        return json_false();
    case SNAPSHOT_GOOD_UNKNOWN:
        break;
    }
    return json_null();
}

json_t *report_snapshot(const struct snapshot_row *s)
{
    const struct commit *c = &s->commit;
    json_t *o = json_object();
    bool ok = o != NULL;

    ok = ok && set(o, "id", number(c->number));
    ok = ok && set(o, "watch", report_text(s->watch_name));
    ok = ok && set(o, "time", report_time(c->time));
    ok = ok && set(o, "kind", json_string(snapshot_kind_word(c->kind)));
    ok = ok && set(o, "name", text_or_null(c->name));
    ok = ok && set(o, "note", text_or_null(c->note));
    ok = ok && set(o, "files", number(c->files));
    ok = ok && set(o, "bytes", number(c->bytes));
    ok = ok && set(o, "changed", number(c->files_new + c->files_changed + c->files_removed));
    ok = ok && set(o, "stored_bytes", number(c->bytes_stored));
    ok = ok && set(o, "seconds", seconds((double)c->duration_ns / 1e9));
    ok = ok && set(o, "complete", json_boolean(!(c->flags & COMMIT_INCOMPLETE)));
    ok = ok && set(o, "verified", time_or_null(s->verified));
    ok = ok && set(o, "damaged", json_boolean(s->damaged || !s->whole));
    ok = ok && set(o, "good", good_value(s));
    ok = ok && set(o, "spoilt", number(c->spoilt));
    ok = ok && set(o, "suspect", json_boolean((c->flags & COMMIT_SUSPECT) != 0));
    ok = ok && set(o, "pinned", json_boolean(s->pinned));
    return finished(o, ok);
}

struct listing {
    const struct list_filter *filter;
    json_t *snapshots;
    bool failed;
};

static int list_one(void *ctx, const struct snapshot_row *s)
{
    struct listing *l = ctx;
    const struct list_filter *f = l->filter;

    if ((f->has_since && s->commit.time.s < f->since) ||
        (f->has_until && s->commit.time.s > f->until))
        return 0;
    if (json_array_append_new(l->snapshots, report_snapshot(s)) != 0) {
        l->failed = true;
        return 1;
    }
    return f->recent > 0 && json_array_size(l->snapshots) >= f->recent;
}

static int reverse(json_t *array)
{
    size_t n = json_array_size(array);

    for (size_t i = 0; i + 1 < n - i; i++) {
        json_t *a = json_incref(json_array_get(array, i));
        json_t *b = json_incref(json_array_get(array, n - 1 - i));
        int rc = json_array_set_new(array, i, b);
        if (json_array_set_new(array, n - 1 - i, a) != 0 || rc != 0)
            return -1;
    }
    return 0;
}

static int serial_of(struct catalog *c, const char *watch, int64_t *serial, struct error *e)
{
    struct watch_row row;

    *serial = 0;
    if (!watch)
        return 0;
    int rc = catalog_watch_by_name(c, watch, &row, e);
    if (rc != 0)
        return rc;
    *serial = row.serial;
    watch_row_release(&row);
    return 0;
}

int report_list(struct repo *r, const struct list_filter *f, json_t **out, struct error *e)
{
    struct listing l = {.filter = f, .snapshots = json_array()};
    int64_t serial;

    *out = NULL;
    int rc = serial_of(repo_catalog(r), f->watch, &serial, e);
    if (rc == 0 && !l.snapshots)
        rc = no_memory(e);
    if (rc == 0)
        rc = catalog_snapshots(repo_catalog(r), serial, 1, UINT64_MAX, f->recent > 0, list_one, &l,
                               e);
    if (rc >= 0 && (l.failed || (f->recent > 0 && reverse(l.snapshots) != 0)))
        rc = no_memory(e);
    if (rc < 0) {
        json_decref(l.snapshots);
        return rc;
    }
    json_t *events = NULL;
    rc = report_events(repo_catalog(r), f, &events, e);
    if (rc < 0) {
        json_decref(l.snapshots);
        return rc;
    }
    *out = json_pack("{s:i,s:o,s:o}", "schema", 1, "snapshots", l.snapshots, "events", events);
    return *out ? 0 : no_memory(e);
}

/* ---- show ---- */

#define LIST_FULL 2 /* a visit ends the walk; 1 is TREE_SKIP */
enum { INCOMPLETE_MAX = 1000 };

static bool append_reason(json_t *array, const char *path, const char *reason)
{
    json_t *o = json_object();
    bool ok = o && set_path(o, "path", path) && set(o, "reason", report_text(reason));

    return json_array_append_new(array, finished(o, ok)) == 0;
}

struct flagged { /* arrays of {path, reason} */
    json_t *incomplete, *spoilt;
};

static bool list_flagged(const struct flagged *l, const char *path, const struct node *n)
{
    bool ok = true;

    if (n->flags & NODE_INCOMPLETE && json_array_size(l->incomplete) < INCOMPLETE_MAX)
        ok = append_reason(l->incomplete, path, n->reason ? n->reason : "");
    if (n->flags & NODE_SPOILT && json_array_size(l->spoilt) < INCOMPLETE_MAX)
        ok = append_reason(l->spoilt, path, spoilt_reason(n->flags, n->size)) && ok;
    return ok;
}

static int add_flagged(void *ctx, const struct tree_entry *t, struct error *e)
{
    const struct flagged *l = ctx;
    struct node_brief brief;
    struct node n;
    int rc = node_brief_decode(t->meta, t->meta_len, &brief, e);

    if (rc != 0 || !(brief.flags & (NODE_INCOMPLETE | NODE_SPOILT)))
        return rc;
    if (json_array_size(l->incomplete) >= INCOMPLETE_MAX &&
        json_array_size(l->spoilt) >= INCOMPLETE_MAX)
        return LIST_FULL;
    rc = node_decode(t->meta, t->meta_len, &n, e);
    if (rc != 0)
        return rc;
    if (!list_flagged(l, t->path, &n))
        rc = no_memory(e);
    node_release(&n);
    return rc;
}

/* What is not whole in it, and what makes it not good, and why. */
static int set_flagged(json_t *o, struct repo *r, const struct snapshot_row *s, struct error *e)
{
    struct flagged l = {.incomplete = json_array(), .spoilt = json_array()};
    bool ok = set(o, "incomplete_paths", l.incomplete);

    if (!set(o, "spoilt_paths", l.spoilt) || !ok)
        return no_memory(e);
    if (!(s->commit.flags & COMMIT_INCOMPLETE) && s->commit.spoilt == 0)
        return 0;
    int rc = tree_walk(repo_catalog(r), s->watch_serial, (int64_t)s->commit.number, "", UINT_MAX,
                       add_flagged, &l, e);
    return rc < 0 ? rc : 0;
}

static int take_number(void *ctx, const struct snapshot_row *s)
{
    *(uint64_t *)ctx = s->commit.number;
    return 1;
}

struct change_list {
    json_t *array;
    size_t max;
};

static int add_change(void *ctx, const struct diff_entry *d, struct error *e)
{
    struct change_list *l = ctx;

    if (json_array_size(l->array) >= l->max)
        return LIST_FULL;
    return json_array_append_new(l->array, report_diff_entry(d)) == 0 ? 0 : no_memory(e);
}

/* Changes since the snapshot before, into o; a first snapshot shows none. */
static int set_changes(json_t *o, struct repo *r, const struct snapshot_row *s, size_t max,
                       struct error *e)
{
    struct change_list list = {.array = json_array(), .max = max};
    struct snapshot_row before;
    uint64_t number_before = 0;

    if (!list.array || !set(o, "compared_with", json_null()) || !set(o, "changes", list.array) ||
        !set(o, "changes_more", json_false()))
        return no_memory(e);
    int rc = catalog_snapshots(repo_catalog(r), s->watch_serial, 1, s->commit.number - 1, true,
                               take_number, &number_before, e);
    if (rc < 0 || number_before == 0)
        return rc < 0 ? rc : 0;
    rc = catalog_snapshot(repo_catalog(r), number_before, &before, e);
    if (rc != 0)
        return rc;
    rc = diff_run(r, &before, s, "", add_change, &list, e);
    snapshot_row_release(&before);
    if (rc < 0)
        return rc;
    if (!set(o, "compared_with", number(number_before)) ||
        !set(o, "changes_more", json_boolean(rc == LIST_FULL)))
        return no_memory(e);
    return 0;
}

static bool set_details(json_t *o, const struct commit *c, const struct snapshot_row *s,
                        const char *root)
{
    char host[2 * sizeof(c->host_id) + 1];

    text_hex(c->host_id, sizeof(c->host_id), host);
    return set(o, "schema", json_integer(1)) &&
           set(o, "parent", c->parent ? number(c->parent) : json_null()) &&
           set_path(o, "root", root) && set(o, "host", json_string(host)) &&
           set(o, "version", text_or_null(c->version)) &&
           set(o, "utc_offset", json_integer(c->utc_offset)) &&
           set(o, "folders", number(c->folders)) && set(o, "files_new", number(c->files_new)) &&
           set(o, "files_changed", number(c->files_changed)) &&
           set(o, "files_removed", number(c->files_removed)) &&
           set(o, "files_excluded", number(c->files_excluded)) &&
           set(o, "bytes_read", number(c->bytes_read)) &&
           set(o, "sound", json_boolean(!(c->flags & COMMIT_UNSOUND))) &&
           set(o, "whole", json_boolean(s->whole)) &&
           set(o, "rules_changed", json_boolean((c->flags & COMMIT_RULES) != 0)) &&
           set(o, "incomplete", number(c->incomplete_count)) && set(o, "gap", text_or_null(c->gap));
}

int report_show(struct repo *r, const struct snapshot_row *s, size_t max, json_t **out,
                struct error *e)
{
    struct watch_row watch;

    *out = NULL;
    int rc = catalog_watch_by_id(repo_catalog(r), s->commit.watch_id, &watch, e);
    if (rc != 0)
        return rc;
    json_t *o = report_snapshot(s);
    const char *root = s->commit.root ? s->commit.root : watch.root;
    if (!o || !set_details(o, &s->commit, s, root ? root : ""))
        rc = no_memory(e);
    watch_row_release(&watch);
    if (rc == 0)
        rc = set_flagged(o, r, s, e);
    if (rc == 0)
        rc = set_changes(o, r, s, max, e);
    if (rc == 0)
        *out = o;
    else
        json_decref(o);
    return rc;
}

/* ---- entries of trees, differences, versions ---- */

const char *report_type_word(int node_type)
{
    static const char *const words[] = {
        [NODE_FILE] = "file",
        [NODE_FOLDER] = "folder",
        [NODE_SYMLINK] = "symlink",
        [NODE_FIFO] = "fifo",
        [NODE_SOCKET] = "socket",
        [NODE_CHAR_DEVICE] = "char-device",
        [NODE_BLOCK_DEVICE] = "block-device",
    };
    int count = (int)(sizeof(words) / sizeof(words[0]));

    return node_type >= NODE_FILE && node_type < count ? words[node_type] : "unknown";
}

const char *report_change_word(int diff_kind)
{
    static const char *const words[] = {
        [DIFF_ADDED] = "added",       [DIFF_REMOVED] = "removed", [DIFF_CHANGED] = "changed",
        [DIFF_METADATA] = "metadata", [DIFF_MOVED] = "moved",     [DIFF_EXCLUDED] = "excluded",
    };
    int count = (int)(sizeof(words) / sizeof(words[0]));

    return diff_kind >= 0 && diff_kind < count ? words[diff_kind] : "unknown";
}

static json_t *flag_words(unsigned flags)
{
    static const struct {
        unsigned flag;
        const char *word;
    } words[] = {{NODE_SQLITE, "sqlite"},
                 {NODE_CHANGING, "changing"},
                 {NODE_UNREAD, "unread"},
                 {NODE_SERVER_DATA, "server-data"}};
    json_t *array = json_array();

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if ((flags & words[i].flag) &&
            json_array_append_new(array, json_string(words[i].word)) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static bool set_node(json_t *o, const struct node *n)
{
    struct wall_time mtime = {.s = n->mtime_s, .ns = n->mtime_ns};
    char mode[8];

    snprintf(mode, sizeof(mode), "%04o", n->mode & 07777u);
    return set(o, "type", json_string(report_type_word(n->type))) &&
           set(o, "size", number(n->size)) && set(o, "mode", json_string(mode)) &&
           set(o, "uid", number(n->uid)) && set(o, "gid", number(n->gid)) &&
           set(o, "mtime", report_time(mtime)) && set(o, "flags", flag_words(n->flags)) &&
           (!n->target || set_path(o, "target", n->target)) &&
           (!n->reason || set(o, "reason", report_text(n->reason)));
}

json_t *report_ls_entry(const char *path, const void *meta, size_t len)
{
    struct error ignored = ERROR_INIT;
    struct node n;

    if (node_decode(meta, len, &n, &ignored) != 0)
        return NULL;
    json_t *o = json_object();
    bool ok = o && set_path(o, "path", path) && set_node(o, &n);
    node_release(&n);
    return finished(o, ok);
}

json_t *report_diff_entry(const struct diff_entry *d)
{
    json_t *o = json_object();
    bool ok = o && set(o, "change", json_string(report_change_word(d->kind))) &&
              set_path(o, "path", d->path);

    if (d->old_path)
        ok = ok && set_path(o, "old_path", d->old_path);
    ok = ok && set(o, "type", json_string(report_type_word(d->type)));
    ok = ok && set(o, "old_size", d->kind == DIFF_ADDED ? json_null() : number(d->old_size));
    ok = ok && set(o, "size",
                   d->kind == DIFF_REMOVED || d->kind == DIFF_EXCLUDED ? json_null()
                                                                       : number(d->new_size));
    return finished(o, ok);
}

json_t *report_history_entry(const struct history_entry *h)
{
    json_t *o = report_ls_entry(h->path, h->meta, h->meta_len);
    bool ok = o && set(o, "id", number(h->newest)) && set(o, "from", number(h->from)) &&
              set(o, "to", h->to == CATALOG_OPEN ? json_null() : json_integer(h->to)) &&
              set(o, "time", report_time(h->time));

    return finished(o, ok);
}

/* ---- results ---- */

static json_t *path_list(const struct incomplete_path *list, size_t count)
{
    json_t *array = json_array();
    bool ok = array != NULL;

    for (size_t i = 0; ok && i < count; i++)
        ok = append_reason(array, list[i].path, list[i].reason);
    return finished(array, ok);
}

static bool set_saved(json_t *o, const struct save_result *s)
{
    return set(o, "snapshot", s->snapshot ? number(s->snapshot) : json_null()) &&
           set(o, "current", s->current ? number(s->current) : json_null()) &&
           set(o, "files_new", number(s->files_new)) &&
           set(o, "files_changed", number(s->files_changed)) &&
           set(o, "files_removed", number(s->files_removed)) &&
           set(o, "files_excluded", number(s->files_excluded)) &&
           set(o, "files_unchanged", number(s->files_unchanged)) &&
           set(o, "bytes_read", number(s->bytes_read)) &&
           set(o, "bytes_stored", number(s->bytes_stored)) &&
           set(o, "seconds", seconds(s->seconds)) &&
           set(o, "incomplete", path_list(s->incomplete, s->incomplete_count)) &&
           set(o, "spoilt", path_list(s->spoilt, s->spoilt_count));
}

json_t *report_saved(const char *watch, const struct save_result *s, int code)
{
    int exit_code = code == 0 && s->incomplete_total > 0 ? -ERR_INCOMPLETE : error_exit_code(code);
    json_t *o = json_object();
    bool ok = o && set(o, "type", json_string("saved")) && set(o, "watch", report_text(watch)) &&
              set_saved(o, s) && set(o, "suspect", json_boolean(s->suspect)) &&
              set(o, "exit", json_integer(exit_code));

    return finished(o, ok);
}

json_t *report_save_summary(const struct save_result *s, const char *gap, int exit_code)
{
    json_t *o = json_object();
    bool ok = o && set(o, "type", json_string("summary")) && set_saved(o, s) &&
              set(o, "gap", text_or_null(gap)) && set(o, "suspect", json_boolean(s->suspect)) &&
              set(o, "exit", json_integer(exit_code));

    return finished(o, ok);
}

static json_t *problem_list(const struct restore_result *r)
{
    json_t *array = json_array();
    bool ok = array != NULL;

    for (size_t i = 0; ok && i < r->problem_count; i++)
        ok = append_reason(array, r->problems[i].path, r->problems[i].reason);
    return finished(array, ok);
}

static json_t *warning_list(const struct restore_result *r)
{
    json_t *array = json_array();
    bool ok = array != NULL;

    for (size_t i = 0; ok && i < r->warning_count; i++)
        ok = json_array_append_new(array, report_text(r->warnings[i])) == 0;
    return finished(array, ok);
}

json_t *report_restore_summary(uint64_t snapshot, const struct restore_result *r, int exit_code)
{
    json_t *o = json_object();
    bool ok = o && set(o, "type", json_string("summary")) && set(o, "snapshot", number(snapshot)) &&
              set(o, "files", number(r->files)) && set(o, "bytes", number(r->bytes)) &&
              set(o, "seconds", seconds(r->seconds)) && set(o, "skipped", number(r->skipped)) &&
              set(o, "problems", problem_list(r)) && set(o, "warnings", warning_list(r)) &&
              set(o, "exit", json_integer(exit_code));

    return finished(o, ok);
}

static json_t *damage_entry(const struct verify_damage *d)
{
    json_t *o = json_object();
    json_t *all = json_array();
    bool ok = o && all && set(o, "snapshot", d->snapshot ? number(d->snapshot) : json_null());

    if (d->path)
        ok = ok && set_path(o, "path", d->path);
    else
        ok = ok && set(o, "path", json_null());
    ok = ok && set(o, "pack", report_text(d->pack)) && set(o, "reason", report_text(d->reason)) &&
         set(o, "unreadable", json_boolean(d->unread));
    for (size_t i = 0; ok && i < d->snapshot_count; i++)
        ok = json_array_append_new(all, number(d->snapshots[i])) == 0;
    ok = ok && json_object_set(o, "snapshots", all) == 0;
    json_decref(all);
    return finished(o, ok);
}

json_t *report_verify_summary(const struct verify_result *r, int exit_code)
{
    json_t *o = json_object();
    json_t *damaged = json_array();
    bool ok = o && damaged && set(o, "type", json_string("summary")) &&
              set(o, "snapshots", number(r->snapshots)) && set(o, "chunks", number(r->chunks)) &&
              set(o, "bytes", number(r->bytes)) && set(o, "errors", number(r->errors));

    for (size_t i = 0; ok && i < r->damaged_count; i++)
        ok = json_array_append_new(damaged, damage_entry(&r->damaged[i])) == 0;
    ok = ok && json_object_set(o, "damaged", damaged) == 0 &&
         set(o, "recorded", json_boolean(r->recorded)) && set(o, "seconds", seconds(r->seconds)) &&
         set(o, "exit", json_integer(exit_code));
    json_decref(damaged);
    return finished(o, ok);
}

json_t *report_pinned(const struct snapshot_row *before, bool pinned)
{
    json_t *o = json_object();
    bool ok = o != NULL;

    ok = ok && set(o, "schema", json_integer(1));
    ok = ok && set(o, "snapshot", number(before->commit.number));
    ok = ok && set(o, "watch", report_text(before->watch_name));
    ok = ok && set(o, "pinned", json_boolean(pinned));
    ok = ok && set(o, "changed", json_boolean(before->pinned != pinned));
    return finished(o, ok);
}

json_t *report_error(const struct error *e)
{
    json_t *o = json_object();
    bool ok = o && set(o, "type", json_string("error")) &&
              set(o, "code", json_integer(error_exit_code(e->code))) &&
              set(o, "error", json_string(error_word(e->code))) &&
              set(o, "message", report_text(e->message)) && set(o, "path", text_or_null(e->path));

    return finished(o, ok);
}
