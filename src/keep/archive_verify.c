/* Reading an archive back: every regular file's SHA-256 against what its metadata says, in the
 * order of both, and every database opened and counted again. A tree that was restored from it has
 * an order of its own: its files are looked up. */
#include "keep/archive_private.h"

#include "base/text.h"
#include "capture/scratch_file.h"
#include "io/fileops.h"
#include "io/safe_path.h"
#include "keep/archive_read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

static const uint64_t META_MAX = UINT64_C(1024) * 1024 * 1024;

struct named { /* a file of the metadata */
    char *key;
    const char *line;
    size_t len;
    bool seen;
};

struct checking {
    const struct archive_item *item;
    struct sqlite_helper *helper;
    const atomic_bool *cancel;
    struct archive_check *out;
    const char *tree;   /* restored from it, to be read in its place; or NULL */
    char *folder;       /* that the archive, or the tree, lies in */
    struct buffer text; /* of the metadata */
    struct archive_expected files, databases; /* both in the order of the archive's entries */
    struct named *index;                      /* of a tree: its files, sorted */
    size_t index_len, index_seen;
    bool metadata_seen;
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

void archive_check_release(struct archive_check *c)
{
    free(c->first);
    memset(c, 0, sizeof(*c));
}

/* Something is not as it was written. */
static void found(struct checking *c, const char *path, const char *what)
{
    char quoted[300];

    if (c->out->errors++ == 0)
        c->out->first =
            *path ? text_format("'%s': %s", text_escape(path, quoted, sizeof(quoted)), what)
                  : strdup(what);
}

/* ---- where the metadata comes from ---- */

static int take_content(struct archive_reader *r, uint64_t len, struct buffer *out, struct error *e)
{
    const uint8_t *p;
    size_t n = 1;
    int rc = 0;

    if (len > META_MAX)
        return error_set(e, ERR_DAMAGED, "its metadata is too long");
    while (rc == 0 && n > 0) {
        rc = archive_reader_data(r, &p, &n, e);
        if (rc == 0)
            buffer_append(out, p, n);
    }
    return rc == 0 && !buffer_ok(out) ? no_memory(e) : rc;
}

/* That in the archive itself, by reading it from its beginning. */
static int load_inner(const struct archive_item *item, struct buffer *text, struct error *e)
{
    const struct archive_entry *entry;
    struct archive_reader *r;
    int rc = archive_reader_open(item->path, false, &r, e);

    if (rc != 0)
        return rc;
    while ((rc = archive_reader_next(r, &entry, e)) == 1) {
        if (entry->metadata) {
            rc = take_content(r, entry->content, text, e);
            break;
        }
    }
    archive_reader_close(r);
    if (rc < 0)
        return rc;
    if (text->len == 0)
        return error_set(e, ERR_DAMAGED, "it has no metadata");
    return 0;
}

static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
}

int archive_meta_find(const struct archive_item *item, struct buffer *out, struct error *e)
{
    char *folder = folder_of(item->path);
    int dir = folder ? long_path_open(folder, O_RDONLY | O_DIRECTORY, e) : no_memory(e);

    free(folder);
    if (dir < 0)
        return dir;
    int rc = archive_meta_load(dir, item->name, out, e);
    close(dir);
    if (rc == ERR_NOTFOUND) {
        error_clear(e);
        rc = load_inner(item, out, e);
    }
    return rc;
}

static int load_text(struct checking *c, struct error *e)
{
    int rc = archive_meta_find(c->item, &c->text, e);

    if (rc == 0 && !archive_expect_files(&c->files, &c->text))
        rc = error_set(e, ERR_DAMAGED, "its metadata is not that of an archive");
    if (rc == 0 && !archive_expect_databases(&c->databases, &c->text))
        rc = error_set(e, ERR_DAMAGED, "its metadata is not that of an archive");
    return rc;
}

/* ---- what the metadata says of a file ---- */

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct named *)a)->key, ((const struct named *)b)->key);
}

static int index_files(struct checking *c, struct error *e)
{
    struct archive_expected look = c->files;
    const char *line;
    size_t len, cap = 0;

    while (archive_expect_next(&look, &line, &len)) {
        if (c->index_len == cap) {
            cap = cap ? 2 * cap : 256;
            struct named *more = reallocarray(c->index, cap, sizeof(*more));
            if (!more)
                return no_memory(e);
            c->index = more;
        }
        struct named *n = &c->index[c->index_len];
        *n = (struct named){.key = archive_expect_key(line, len), .line = line, .len = len};
        if (!n->key)
            return no_memory(e);
        c->index_len++;
    }
    if (c->index_len > 0)
        qsort(c->index, c->index_len, sizeof(*c->index), by_key);
    return 0;
}

static void index_release(struct checking *c)
{
    for (size_t i = 0; i < c->index_len; i++)
        free(c->index[i].key);
    free(c->index);
}

static struct named *look_up(const struct checking *c, const char *path)
{
    struct named wanted = {.key = archive_path_key(path)};
    struct named *n = NULL;

    if (wanted.key && c->index_len > 0)
        n = bsearch(&wanted, c->index, c->index_len, sizeof(*c->index), by_key);
    free(wanted.key);
    return n;
}

/* The line of this file; false: it is none that the metadata names here. */
static bool line_for(struct checking *c, const char *path, const char **line, size_t *len)
{
    if (!c->tree)
        return archive_expect_next(&c->files, line, len);
    struct named *n = look_up(c, path);
    if (!n || n->seen)
        return false;
    n->seen = true;
    c->index_seen++;
    *line = n->line;
    *len = n->len;
    return true;
}

static bool is_named(const struct checking *c, const char *path)
{
    struct archive_expected look = c->files;
    const char *line;
    size_t len;

    if (c->tree)
        return look_up(c, path) != NULL;
    return archive_expect_next(&look, &line, &len) && archive_expect_is(line, len, path);
}

static bool files_are_missing(const struct checking *c)
{
    struct archive_expected look = c->files;
    const char *line;
    size_t len;

    return c->tree ? c->index_seen < c->index_len : archive_expect_next(&look, &line, &len);
}

static bool databases_are_missing(const struct checking *c)
{
    struct archive_expected look = c->databases;
    const char *line;
    uint64_t count = 0;
    size_t len;

    while (archive_expect_next(&look, &line, &len))
        count++;
    return c->tree ? c->out->databases < count : count > 0;
}

/* ---- a file ---- */

struct copy { /* of a database, so that it can be opened */
    struct scratch_file file;
    bool made;
    uint64_t extent, in_extent, pos;
};

static int copy_add(struct copy *k, const struct node *n, const uint8_t *p, uint64_t len,
                    struct error *e)
{
    int rc = 0;

    while (rc == 0 && len > 0) {
        uint64_t now = len, at = k->pos;
        if (n->extent_count > 0) {
            const struct node_extent *x = &n->extents[k->extent];
            at = x->off + k->in_extent;
            now = len < x->len - k->in_extent ? len : x->len - k->in_extent;
            k->in_extent += now;
            if (k->in_extent == x->len) {
                k->extent++;
                k->in_extent = 0;
            }
        }
        rc = file_write_all(k->file.fd, p, (size_t)now, at, e);
        p += now;
        len -= now;
        k->pos += now;
    }
    return rc;
}

/* The scratch folder: beside the archive, or where that may not be written, the system's. */
static int copy_open(struct checking *c, struct copy *k, struct error *e)
{
    const char *tmp = getenv("TMPDIR");

    k->made = scratch_file_open(&k->file, c->folder, e) == 0;
    if (!k->made) {
        error_clear(e);
        k->made = scratch_file_open(&k->file, tmp && *tmp == '/' ? tmp : "/tmp", e) == 0;
    }
    return k->made ? 0 : e->code;
}

static int open_database(struct checking *c, struct copy *k, const char *path, const char *line,
                         size_t len, struct error *e)
{
    char detail[512];
    bool ok;

    c->out->databases++;
    int rc = sqlite_check(c->helper, k->file.path, &ok, detail, e);
    if (rc == 0 && !archive_expect_database(line, len, path, detail))
        found(c, path, "the database does not hold what it held");
    return rc;
}

static int hash_entry(struct checking *c, struct archive_reader *r, const struct archive_entry *x,
                      struct copy *k, struct hash *sum, struct error *e)
{
    struct archive_hasher h = {0};
    const uint8_t *p;
    size_t n = 1;

    int rc = archive_hash_begin(&h, x->node, e);
    while (rc == 0 && n > 0) {
        if (c->cancel && atomic_load_explicit(c->cancel, memory_order_relaxed))
            rc = error_set(e, ERR_CANCELLED, "interrupted");
        if (rc == 0)
            rc = archive_reader_data(r, &p, &n, e);
        if (rc == 0)
            rc = archive_hash_add(&h, p, n, e);
        if (rc == 0 && k->made)
            rc = copy_add(k, x->node, p, n, e);
    }
    if (rc == 0)
        rc = archive_hash_end(&h, sum, e);
    archive_hash_release(&h);
    return rc;
}

/* Whether the next database named is the one of that path. */
static bool next_database(struct checking *c, const char *path, const char **line, size_t *len)
{
    struct archive_expected look = c->databases;
    bool is = false;

    while (!is && archive_expect_next(&look, line, len)) {
        is = archive_expect_is(*line, *len, path);
        if (!c->tree)
            break;
    }
    if (is && !c->tree)
        c->databases = look;
    return is;
}

static int check_file(struct checking *c, struct archive_reader *r, const struct archive_entry *x,
                      const char *line, size_t len, struct error *e)
{
    struct hash wanted, sum;
    struct copy k = {0};
    const char *database;
    size_t database_len;
    uint64_t bytes;
    int rc = 0;

    if (!archive_expect_file(line, len, x->path, &bytes, &wanted)) {
        found(c, x->path, "it stands where the metadata names another file");
        return 0;
    }
    if (x->link)
        return 0;
    bool is_database = c->helper && next_database(c, x->path, &database, &database_len);
    if (is_database)
        rc = copy_open(c, &k, e);
    if (rc == 0)
        rc = hash_entry(c, r, x, &k, &sum, e);
    if (rc == 0 && (bytes != x->node->size || !hash_equal(&sum, &wanted)))
        found(c, x->path, "its content is not what it was");
    if (rc == 0 && is_database && ftruncate(k.file.fd, (off_t)x->node->size) != 0)
        rc = error_sys(e, errno, "cannot write a scratch file");
    if (rc == 0 && is_database)
        rc = open_database(c, &k, x->path, database, database_len, e);
    if (k.made)
        scratch_file_close(&k.file);
    return rc;
}

/* ---- all of it ---- */

static int check_entry(struct checking *c, struct archive_reader *r, const struct archive_entry *x,
                       struct error *e)
{
    const char *line;
    size_t len;

    if (x->metadata) {
        c->metadata_seen = true;
        return 0;
    }
    if (x->node->type != NODE_FILE && !x->link)
        return 0;
    if (x->link && !is_named(c, x->path)) /* of a link or the like: those are not listed */
        return 0;
    if (!line_for(c, x->path, &line, &len)) {
        found(c, x->path, "it is not in the metadata");
        return 0;
    }
    c->out->files++;
    c->out->bytes += x->link ? 0 : x->node->size;
    return check_file(c, r, x, line, len, e);
}

/* What was read up to damage is compared; the damage itself counts as one error. */
static int check_all(struct checking *c, struct error *e)
{
    const struct archive_entry *x;
    struct archive_reader *r;

    int rc = c->tree ? archive_reader_open_tree(c->tree, &r, e)
                     : archive_reader_open(c->item->path, true, &r, e);
    while (rc == 0 && c->out->errors == 0) {
        rc = archive_reader_next(r, &x, e);
        if (rc <= 0)
            break;
        rc = check_entry(c, r, x, e);
    }
    archive_reader_close(r);
    if (rc == 0 && c->out->errors == 0 && files_are_missing(c))
        found(c, "", "files that the metadata names are missing");
    if (rc == 0 && c->out->errors == 0 && c->helper && databases_are_missing(c))
        found(c, "", "databases that the metadata names are missing");
    if (rc == 0 && c->out->errors == 0 && !c->tree && !c->metadata_seen)
        found(c, "", "it has no metadata");
    return rc;
}

static int record(struct checking *c, struct error *e)
{
    struct archive_verdict v = {.damaged = c->out->errors > 0,
                                .stored_bytes = c->item->stored_bytes,
                                .seconds = c->item->seconds};
    int dir = long_path_open(c->folder, O_RDONLY | O_DIRECTORY, e);

    if (dir < 0)
        return dir;
    if (!v.damaged)
        v.verified = clock_wall();
    int rc = archive_meta_record(dir, c->item->name, &v, e);
    close(dir);
    c->out->recorded = rc == 0;
    return rc;
}

static int run(struct checking *c, bool do_record, struct error *e)
{
    int rc = load_text(c, e);

    if (rc == 0 && c->tree)
        rc = index_files(c, e);
    if (rc == 0)
        rc = check_all(c, e);
    if (rc == ERR_DAMAGED || rc == ERR_REFUSED) {
        found(c, e->path, e->message);
        error_clear(e);
        rc = 0;
    }
    buffer_release(&c->text);
    return rc == 0 && do_record && c->item->told ? record(c, e) : rc;
}

static int verify(struct checking *c, bool do_record, struct error *e)
{
    memset(c->out, 0, sizeof(*c->out));
    c->folder = folder_of(c->tree ? c->tree : c->item->path);
    int rc = c->folder ? run(c, do_record, e) : no_memory(e);
    free(c->folder);
    index_release(c);
    buffer_release(&c->text);
    return rc;
}

int archive_verify(const struct archive_item *item, bool do_record, struct sqlite_helper *helper,
                   const atomic_bool *cancel, struct archive_check *out, struct error *e)
{
    struct checking c = {.item = item, .helper = helper, .cancel = cancel, .out = out};

    return verify(&c, do_record, e);
}

int archive_verify_tree(const struct archive_item *item, const char *tree,
                        struct sqlite_helper *helper, const atomic_bool *cancel,
                        struct archive_check *out, struct error *e)
{
    struct checking c = {
        .item = item, .tree = tree, .helper = helper, .cancel = cancel, .out = out};

    return verify(&c, false, e);
}
