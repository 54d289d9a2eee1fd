/* The text of metadata.json and NAME.json. It is valid JSON whose first keys are small, one a line,
 * and whose two long lists come last, an entry a line: so the head can be read and replaced without
 * the rest, however many files there are. No line break stands inside a JSON text, hence the mark
 * below cannot be met in one. */
#include "keep/archive_private.h"

#include "base/parse.h"
#include "base/text.h"
#include "capture/scratch_file.h"
#include "io/atomic_file.h"
#include "io/fileops.h"
#include "snapshot/report.h"
#include "snapshot/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

#define TAIL_MARK "\n \"databases\": ["
#define FILES_MARK "\n \"files_backed_up\": ["
#define META_SUFFIX ".json"

enum { HEAD_MAX = 256 * 1024, LEFT_OUT_MAX = 1000, INSIDE_TRIES = 16 };
static const size_t META_MAX = (size_t)1024 * 1024 * 1024;

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

const char *archive_format_word(enum archive_format f)
{
    return f == ARCHIVE_DIRECTORY ? "directory" : "tar.gz";
}

void archive_meta_release(struct archive_meta *m)
{
    for (size_t i = 0; i < m->left_out_count; i++) {
        free(m->left_out[i].path);
        free(m->left_out[i].reason);
    }
    free(m->left_out);
    free(m->root);
    buffer_release(&m->entries);
    buffer_release(&m->databases);
    buffer_release(&m->counted);
    archive_tail_release(&m->tail);
}

/* ---- gathering ---- */

/* One line of a list; takes the reference. */
static void put_entry(struct buffer *list, json_t *entry)
{
    char *text = entry ? json_dumps(entry, JSON_COMPACT) : NULL;

    if (!text)
        list->failed = true;
    else
        buffer_printf(list, "%s\n  %s", list->len > 0 ? "," : "", text);
    free(text);
    json_decref(entry);
}

/* Whether a JSON text holds it as it is. */
static bool is_plain(const char *path)
{
    for (const char *c = path; *c; c++)
        if (*c < ' ' || *c > '~' || *c == '"' || *c == '\\')
            return false;
    return true;
}

/* There are as many of these as files, and most paths are plain: no object is made of those. */
void archive_meta_file(struct archive_meta *m, const char *path, uint64_t size,
                       const struct hash *sha256)
{
    char hex[2 * HASH_LEN + 1];

    m->files++;
    m->bytes += size;
    text_hex(sha256->b, HASH_LEN, hex);
    if (is_plain(path)) {
        buffer_printf(&m->entries,
                      "%s\n  {\"path\":\"%s\",\"bytes\":%" PRIu64 ",\"sha256\":\"%s\"}",
                      m->entries.len > 0 ? "," : "", path, size, hex);
        return;
    }
    json_t *o = json_object();
    if (o) {
        report_path(o, "path", path);
        json_object_set_new(o, "bytes", json_integer((json_int_t)size));
        json_object_set_new(o, "sha256", json_string(hex));
    }
    put_entry(&m->entries, o);
}

int archive_meta_left_out(struct archive_meta *m, const char *path, const char *reason,
                          struct error *e)
{
    m->left_out_total++;
    if (m->left_out_count == LEFT_OUT_MAX)
        return 0;
    if (!m->left_out)
        m->left_out = calloc(LEFT_OUT_MAX, sizeof(*m->left_out));
    if (!m->left_out)
        return no_memory(e);
    struct archive_left_out *l = &m->left_out[m->left_out_count];
    *l = (struct archive_left_out){strdup(path), strdup(reason)};
    m->left_out_count++;
    return l->path && l->reason ? 0 : no_memory(e);
}

/* ---- databases ---- */

static json_t *database_entry(const char *path, const char *detail)
{
    json_t *told = json_loads(detail, 0, NULL);
    json_t *o = json_object();

    if (o && told) {
        report_path(o, "path", path);
        json_object_set(o, "tables", json_object_get(told, "tables"));
        json_object_set(o, "rows", json_object_get(told, "rows"));
        json_object_set(o, "integrity", json_object_get(told, "integrity"));
    }
    json_decref(told);
    return o;
}

void archive_meta_database(struct archive_meta *m, const char *path, uint64_t size)
{
    buffer_append(&m->databases, path, strlen(path) + 1);
    m->database_max = size > m->database_max ? size : m->database_max;
}

static int count_database(struct archive_meta *m, struct repo *r, const char *scratch,
                          const char *path, struct error *e)
{
    char detail[512] = "{}";
    struct scratch_file f;
    bool ok;

    int rc = scratch_file_open(&f, scratch, e);
    if (rc != 0)
        return rc;
    rc = restore_cat(r, m->order->snapshot, path, f.fd, NULL, e);
    if (rc == 0)
        rc = sqlite_check(m->order->helper, f.path, &ok, detail, e);
    scratch_file_close(&f);
    if (rc == 0)
        put_entry(&m->counted, database_entry(path, detail));
    return rc;
}

int archive_meta_databases(struct archive_meta *m, struct repo *r, const char *scratch,
                           struct error *e)
{
    int rc = buffer_ok(&m->databases) ? 0 : no_memory(e);

    for (size_t at = 0; rc == 0 && m->order->helper && at < m->databases.len;) {
        const char *path = (const char *)m->databases.data + at;
        rc = count_database(m, r, scratch, path, e);
        at += strlen(path) + 1;
    }
    return rc;
}

/* ---- the text ---- */

static json_t *app_of(const char *const *meta)
{
    json_t *app = json_object();

    for (; meta && *meta; meta++) {
        const char *value = strchr(*meta, '=');
        char *key = value ? strndup(*meta, (size_t)(value - *meta)) : NULL;
        if (key)
            json_object_set_new(app, key, report_text(value + 1));
        free(key);
    }
    return app;
}

static void set(json_t *o, const char *key, json_t *value)
{
    json_object_set_new(o, key, value);
}

/* "+01:00" and the like. */
static json_t *zone_of(int32_t offset)
{
    int32_t minutes = (offset < 0 ? -offset : offset) / 60;
    char text[16];

    snprintf(text, sizeof(text), "%c%02d:%02d", offset < 0 ? '-' : '+', minutes / 60, minutes % 60);
    return json_string(text);
}

static json_t *left_out_of(const struct archive_meta *m)
{
    json_t *list = json_array();

    for (size_t i = 0; i < m->left_out_count; i++) {
        json_t *o = json_object();
        report_path(o, "path", m->left_out[i].path);
        set(o, "reason", report_text(m->left_out[i].reason));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *head_of(const struct archive_meta *m)
{
    const struct commit *c = &m->order->snapshot->commit;
    char local[32], host[256] = "";
    int32_t offset = clock_utc_offset(m->time.s);
    json_t *o = json_object();

    if (!o)
        return NULL;
    time_local(m->time.s, local, sizeof(local));
    gethostname(host, sizeof(host) - 1);
    set(o, "schema", json_integer(1));
    set(o, "archive", json_string(m->name));
    set(o, "backup_date", json_string(local));
    set(o, "created_utc", report_time(m->time));
    set(o, "zone", zone_of(offset));
    set(o, "utc_offset", json_integer(offset));
    set(o, "host", report_text(host));
    set(o, "watch", report_text(m->order->snapshot->watch_name));
    set(o, "repository", json_string(m->repository));
    set(o, "snapshot", json_integer((json_int_t)c->number));
    set(o, "snapshot_time", report_time(c->time));
    set(o, "root", report_text(m->root));
    set(o, "kind", json_string(m->order->name ? "manual" : "automatic"));
    set(o, "format", json_string(archive_format_word(m->order->format)));
    set(o, "metadata", json_string(m->inside));
    set(o, "complete", json_boolean(c->incomplete_count == 0 && !(c->flags & COMMIT_INCOMPLETE)));
    set(o, "suspect", json_boolean(c->flags & COMMIT_SUSPECT));
    set(o, "file_count", json_integer((json_int_t)m->files));
    set(o, "total_bytes", json_integer((json_int_t)m->bytes));
    set(o, "left_out_count", json_integer((json_int_t)m->left_out_total));
    set(o, "left_out", left_out_of(m));
    set(o, "app", app_of(m->order->meta));
    set(o, "watchkeep_version", json_string(WK_VERSION));
    return o;
}

/* An object's lines without the brace that ends it. */
static void put_head(struct buffer *out, const json_t *head)
{
    char *text = json_dumps(head, JSON_INDENT(1));
    size_t n = text ? strlen(text) : 0;

    if (n < 3)
        out->failed = true;
    else
        buffer_append(out, text, n - 2); /* "\n}" */
    free(text);
}

/* What a text begins with, in place of its first `old` bytes. There is one copy of a text, however
 * long it is. */
static bool replace_head(struct buffer *text, size_t old, const struct buffer *head)
{
    size_t more = head->len > old ? head->len - old : 0, rest = text->len - old;

    if (!buffer_ok(head) || !buffer_reserve(text, more))
        return false;
    memmove(text->data + head->len, text->data + old, rest);
    memcpy(text->data, head->data, head->len);
    text->len = head->len + rest;
    return true;
}

int archive_meta_text(struct archive_meta *m, struct buffer *out, struct error *e)
{
    struct buffer begin = BUFFER_INIT;
    json_t *head = head_of(m);

    if (head)
        put_head(&begin, head);
    buffer_append_str(&begin, "," TAIL_MARK);
    buffer_append(&begin, m->counted.data, m->counted.len);
    buffer_append_str(&begin, "\n ]," FILES_MARK);
    buffer_append_str(&m->entries, "\n ]\n}\n");
    bool ok = head && buffer_ok(&m->counted) && replace_head(&m->entries, 0, &begin);
    *out = m->entries;
    m->entries = (struct buffer)BUFFER_INIT;
    json_decref(head);
    buffer_release(&begin);
    return ok ? 0 : no_memory(e);
}

/* ---- reading ---- */

/* The head of a text as an object, and where the rest begins; NULL when it is not of ours. */
static json_t *parse_head(const struct buffer *text, size_t *rest)
{
    size_t look = text->len < HEAD_MAX ? text->len : HEAD_MAX;
    const uint8_t *mark =
        text->data ? memmem(text->data, look, TAIL_MARK, strlen(TAIL_MARK)) : NULL;
    struct buffer head = BUFFER_INIT;
    json_t *o = NULL;

    if (!mark || mark == text->data || mark[-1] != ',')
        return NULL;
    buffer_append(&head, text->data, (size_t)(mark - text->data) - 1);
    buffer_append_str(&head, "\n}");
    if (buffer_ok(&head))
        o = json_loadb((const char *)head.data, head.len, JSON_REJECT_DUPLICATES, NULL);
    buffer_release(&head);
    *rest = (size_t)(mark - text->data);
    return o;
}

json_t *archive_meta_head(const struct buffer *text)
{
    size_t rest;

    return parse_head(text, &rest);
}

static char *meta_name(const char *name)
{
    return text_format("%s" META_SUFFIX, name);
}

static int not_ours(const char *name, struct error *e)
{
    char quoted[200];

    return error_set(e, ERR_DAMAGED, "'%s" META_SUFFIX "' is not the metadata of an archive",
                     text_escape(name, quoted, sizeof(quoted)));
}

/* What a file begins with: enough for the head. */
static int read_head(int dir, const char *file, struct buffer *out, struct error *e)
{
    size_t got = 0;
    int fd = openat(dir, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0)
        return error_sys(e, errno, "cannot open '%s'", file);
    uint8_t *to = buffer_grow(out, HEAD_MAX);
    int rc = to ? file_read_some(fd, to, HEAD_MAX, 0, &got, e) : no_memory(e);
    out->len = got;
    close(fd);
    return rc;
}

static int read_text(int dir, const char *name, size_t max, struct buffer *out, struct error *e)
{
    char *file = meta_name(name);
    int rc = !file             ? no_memory(e)
             : max == HEAD_MAX ? read_head(dir, file, out, e)
                               : small_file_read(dir, file, max, out, e);

    free(file);
    return rc;
}

static uint64_t count_of(const json_t *o, const char *key)
{
    json_int_t v = json_integer_value(json_object_get(o, key));

    return v > 0 ? (uint64_t)v : 0;
}

/* As report_time writes it; what parse_time takes is whole seconds. */
static struct wall_time time_of(const json_t *o, const char *key)
{
    const char *text = json_string_value(json_object_get(o, key));
    const char *at = text ? strchr(text, '.') : NULL;
    struct error ignored = ERROR_INIT;
    struct wall_time t = {0};

    if (!text || parse_time(text, 0, &t.s, &ignored) != 0)
        return (struct wall_time){0};
    for (uint32_t unit = 100000000; at && unit > 0 && *++at >= '0' && *at <= '9'; unit /= 10)
        t.ns += (uint32_t)(*at - '0') * unit;
    return t;
}

static char *text_of(const json_t *o, const char *key)
{
    const char *text = json_string_value(json_object_get(o, key));

    return strdup(text ? text : "");
}

static void take_head(struct archive_item *item, const json_t *o)
{
    free(item->watch);
    item->watch = text_of(o, "watch");
    free(item->host);
    item->host = text_of(o, "host");
    free(item->root);
    item->root = text_of(o, "root");
    const char *kind = json_string_value(json_object_get(o, "kind"));
    item->manual = kind && strcmp(kind, "manual") == 0;
    const char *repository = json_string_value(json_object_get(o, "repository"));
    snprintf(item->repository, sizeof(item->repository), "%s", repository ? repository : "");
    item->snapshot = count_of(o, "snapshot");
    item->files = count_of(o, "file_count");
    item->bytes = count_of(o, "total_bytes");
    item->stored_bytes = count_of(o, "stored_bytes");
    item->seconds = json_number_value(json_object_get(o, "seconds"));
    item->time = time_of(o, "created_utc");
    item->utc_offset = (int32_t)json_integer_value(json_object_get(o, "utc_offset"));
    item->verified = time_of(o, "verified");
    item->damaged = json_is_true(json_object_get(o, "damaged"));
    item->complete = json_is_true(json_object_get(o, "complete"));
    item->suspect = json_is_true(json_object_get(o, "suspect"));
}

int archive_meta_take(struct archive_item *item, const struct buffer *text, struct error *e)
{
    size_t rest;
    json_t *o = parse_head(text, &rest);

    if (!o)
        return not_ours(item->name, e);
    uint64_t stored = item->stored_bytes;
    take_head(item, o);
    item->stored_bytes = stored ? stored : item->stored_bytes;
    json_decref(o);
    return item->watch && item->host && item->root ? 0 : no_memory(e);
}

int archive_meta_read(int dir, const char *name, struct archive_item *item, struct error *e)
{
    struct buffer text = BUFFER_INIT;
    size_t rest;

    int rc = read_text(dir, name, HEAD_MAX, &text, e);
    json_t *o = rc == 0 ? parse_head(&text, &rest) : NULL;
    buffer_release(&text);
    if (rc != 0)
        return rc;
    if (!o || !json_is_string(json_object_get(o, "archive")) ||
        !json_is_string(json_object_get(o, "watchkeep_version"))) {
        json_decref(o);
        return not_ours(name, e);
    }
    take_head(item, o);
    item->told = true;
    json_decref(o);
    return item->watch && item->host && item->root ? 0 : no_memory(e);
}

/* The object's keys that a text begins with tell that it is the metadata of `archive`, called file.
 */
static bool names_itself(const json_t *o, const char *file, const char *archive)
{
    const char *inside = json_string_value(json_object_get(o, "metadata"));
    const char *name = json_string_value(json_object_get(o, "archive"));

    return inside && name && strcmp(inside, file) == 0 && (!archive || strcmp(name, archive) == 0);
}

static bool is_metadata(int dir, const char *file, const char *archive)
{
    struct buffer text = BUFFER_INIT;
    struct error ignored = ERROR_INIT;
    size_t rest;
    json_t *o = NULL;

    if (read_head(dir, file, &text, &ignored) == 0)
        o = parse_head(&text, &rest);
    bool is = o && names_itself(o, file, archive);
    json_decref(o);
    buffer_release(&text);
    return is;
}

/* The names that archive.c chooses from. */
bool archive_inside_name(unsigned i, char inside[ARCHIVE_INSIDE_MAX])
{
    if (i == 0)
        snprintf(inside, ARCHIVE_INSIDE_MAX, "metadata.json");
    else if (i == 1)
        snprintf(inside, ARCHIVE_INSIDE_MAX, "metadata.watchkeep.json");
    else
        snprintf(inside, ARCHIVE_INSIDE_MAX, "metadata.watchkeep-%u.json", i);
    return i < INSIDE_TRIES;
}

void archive_meta_inside(int dir, const char *path, char inside[ARCHIVE_INSIDE_MAX])
{
    size_t len = strlen(path);
    const char *slash;

    while (len > 0 && path[len - 1] == '/')
        len--;
    slash = memrchr(path, '/', len);
    const char *begin = slash ? slash + 1 : path;
    char *archive = strndup(begin, len - (size_t)(begin - path));
    char *found = NULL;

    for (unsigned i = 0; archive_inside_name(i, inside); i++) {
        if (is_metadata(dir, inside, archive)) {
            free(archive);
            free(found);
            return;
        }
        if (is_metadata(dir, inside, NULL)) { /* of an archive that was renamed */
            free(found);
            found = strdup(inside);
        }
    }
    snprintf(inside, ARCHIVE_INSIDE_MAX, "%s", found ? found : "");
    free(archive);
    free(found);
}

/* ---- what a text names ---- */

static bool expect_list(struct archive_expected *x, const struct buffer *text, const char *mark)
{
    const uint8_t *at = text->data ? memmem(text->data, text->len, mark, strlen(mark)) : NULL;

    *x = (struct archive_expected){.text = text};
    if (at)
        x->at = (size_t)(at - text->data) + strlen(mark);
    return at != NULL;
}

bool archive_expect_files(struct archive_expected *x, const struct buffer *text)
{
    return expect_list(x, text, FILES_MARK);
}

bool archive_expect_databases(struct archive_expected *x, const struct buffer *text)
{
    return expect_list(x, text, TAIL_MARK);
}

bool archive_expect_next(struct archive_expected *x, const char **line, size_t *len)
{
    const char *data = (const char *)x->text->data;
    const char *begin = data + x->at;
    size_t left = x->text->len - x->at;

    if (left < 4 || memcmp(begin, "\n  {", 4) != 0)
        return false;
    const char *end = memchr(begin + 1, '\n', left - 1);
    if (!end)
        return false;
    x->at = (size_t)(end - data);
    *line = begin + 3;
    *len = (size_t)(end - begin) - 3;
    if ((*line)[*len - 1] == ',')
        --*len;
    return true;
}

static char *key_of(const json_t *o)
{
    const char *path = json_string_value(json_object_get(o, "path"));
    const char *exact = json_string_value(json_object_get(o, "path_b64"));

    return text_format("%s/%s", exact ? exact : "", path ? path : "");
}

/* The line as an object that names this path, or NULL. */
static json_t *line_of(const char *line, size_t len, const char *path)
{
    json_t *o = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL);
    json_t *wanted = json_object();

    if (wanted)
        report_path(wanted, "path", path);
    const json_t *exact = json_object_get(wanted, "path_b64");
    bool same = json_equal(json_object_get(o, "path"), json_object_get(wanted, "path")) &&
                (!exact || json_equal(json_object_get(o, "path_b64"), exact));
    json_decref(wanted);
    if (same)
        return o;
    json_decref(o);
    return NULL;
}

char *archive_expect_key(const char *line, size_t len)
{
    json_t *o = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL);
    char *key = key_of(o);

    json_decref(o);
    return key;
}

char *archive_path_key(const char *path)
{
    json_t *o = json_object();

    if (o)
        report_path(o, "path", path);
    char *key = key_of(o);
    json_decref(o);
    return key;
}

bool archive_expect_file(const char *line, size_t len, const char *path, uint64_t *bytes,
                         struct hash *sha256)
{
    json_t *o = line_of(line, len, path);
    const char *hex = json_string_value(json_object_get(o, "sha256"));
    bool is = hex && text_unhex(hex, sha256->b, HASH_LEN);

    *bytes = count_of(o, "bytes");
    json_decref(o);
    return is;
}

bool archive_expect_is(const char *line, size_t len, const char *path)
{
    json_t *o = line_of(line, len, path);

    json_decref(o);
    return o != NULL;
}

static bool is_sound(const json_t *o)
{
    const char *integrity = json_string_value(json_object_get(o, "integrity"));

    return integrity && strcmp(integrity, "ok") == 0;
}

/* What was not sound, or needs its app, another SQLite may find other words for. */
bool archive_expect_database(const char *line, size_t len, const char *path, const char *detail)
{
    json_t *o = line_of(line, len, path);
    json_t *now = database_entry(path, detail);
    bool same = o && now && (!is_sound(o) || json_equal(o, now));

    json_decref(o);
    json_decref(now);
    return same;
}

int archive_meta_load(int dir, const char *name, struct buffer *out, struct error *e)
{
    return read_text(dir, name, META_MAX, out, e);
}

/* ---- the verdict ---- */

int archive_meta_record(int dir, const char *name, const struct archive_verdict *v, struct error *e)
{
    struct buffer text = BUFFER_INIT, head = BUFFER_INIT;
    char *file = meta_name(name);
    json_t *o = NULL;
    size_t rest = 0;

    int rc = file ? archive_folder_lock(dir, e) : no_memory(e);
    if (rc != 0) {
        free(file);
        return rc;
    }
    rc = read_text(dir, name, META_MAX, &text, e);
    if (rc == 0 && !(o = parse_head(&text, &rest)))
        rc = not_ours(name, e);
    if (rc == 0) {
        set(o, "stored_bytes", json_integer((json_int_t)v->stored_bytes));
        set(o, "seconds", json_real(v->seconds));
        set(o, "verified", v->verified.s ? report_time(v->verified) : json_null());
        set(o, "damaged", json_boolean(v->damaged));
        put_head(&head, o);
        buffer_append_str(&head, ",");
        rc = replace_head(&text, rest, &head)
                 ? atomic_file_write(dir, file, text.data, text.len, 0600, e)
                 : no_memory(e);
    }
    archive_folder_unlock(dir);
    json_decref(o);
    free(file);
    buffer_release(&text);
    buffer_release(&head);
    return rc;
}
