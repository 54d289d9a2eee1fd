#include "snapshot/left_out.h"

#include "base/text.h"
#include "snapshot/restore.h"
#include "snapshot/rules.h"
#include "snapshot/tree.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/banned.h"

enum { IGNORE_FILE_MAX = 1024 * 1024 };

struct left_out {
    struct repo *repo;
    const struct snapshot_row *snapshot;
    struct rules *rules;
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

struct on_record {
    char *text;
    bool found;
};

static int take_rules(void *ctx, const struct snapshot_row *s)
{
    struct on_record *r = ctx;

    if (!s->commit.rules)
        return 0; /* as in the one before */
    r->text = strdup(s->commit.rules);
    r->found = true;
    return 1;
}

/* In force at the snapshot: of the newest commit up to it that has some, else as they are now. */
static int rules_at(struct repo *r, const struct snapshot_row *s, char **text, struct error *e)
{
    struct on_record on = {0};
    struct watch_row watch;
    int rc = catalog_snapshots(repo_catalog(r), s->watch_serial, 1, s->commit.number, true,
                               take_rules, &on, e);

    if (rc >= 0 && !on.found) {
        rc = catalog_watch_by_id(repo_catalog(r), s->commit.watch_id, &watch, e);
        if (rc == 0) {
            on.text = strdup(watch.rules ? watch.rules : "");
            watch_row_release(&watch);
        }
    }
    *text = on.text;
    if (rc >= 0 && !on.text)
        rc = no_memory(e);
    return rc < 0 ? rc : 0;
}

int left_out_open(struct repo *r, const struct snapshot_row *s, struct left_out **out,
                  struct error *e)
{
    struct left_out *l = calloc(1, sizeof(*l));
    char *text = NULL;
    int rc = l ? rules_at(r, s, &text, e) : no_memory(e);

    if (rc == 0)
        rc = rules_from_text(text, &l->rules, e);
    free(text);
    if (rc < 0) {
        free(l);
        return rc;
    }
    l->repo = r;
    l->snapshot = s;
    *out = l;
    return 0;
}

void left_out_close(struct left_out *l)
{
    if (l)
        rules_free(l->rules);
    free(l);
}

/* The content of a file in the snapshot; one that cannot be read says nothing. */
static char *content(struct left_out *l, const char *path, size_t *len)
{
    struct error ignored = ERROR_INIT;
    int fd = memfd_create("ignore-file", MFD_CLOEXEC);
    char *text = NULL;

    *len = 0;
    if (fd >= 0 && restore_cat(l->repo, l->snapshot, path, fd, NULL, &ignored) == 0) {
        off_t size = lseek(fd, 0, SEEK_END);
        text = size > 0 && size <= IGNORE_FILE_MAX ? malloc((size_t)size) : NULL;
        ssize_t got = text ? pread(fd, text, (size_t)size, 0) : -1;
        *len = got > 0 ? (size_t)got : 0;
    }
    if (fd >= 0)
        close(fd);
    return text;
}

/* Tell the rules of the ignore file that a folder has in the snapshot. */
static int learn(struct left_out *l, const char *folder, struct error *e)
{
    char *path = text_format("%s%s%s", folder, *folder ? "/" : "", IGNORE_FILE_NAME);
    char *text = NULL;
    uint64_t node;
    size_t len = 0;

    if (!path)
        return no_memory(e);
    int rc = tree_find(repo_catalog(l->repo), l->snapshot->watch_serial,
                       (int64_t)l->snapshot->commit.number, path, &node, e);
    if (rc == 0)
        text = content(l, path, &len);
    if (rc == ERR_NOTFOUND) {
        error_clear(e);
        rc = 0;
    }
    if (rc == 0)
        rc = rules_teach(l->rules, folder, text ? text : "", len, e);
    free(text);
    free(path);
    return rc;
}

int left_out_is(struct left_out *l, const char *path, bool is_dir, struct error *e)
{
    char *folder = strdup(path);
    int rc = folder ? 0 : no_memory(e);

    for (char *slash; rc == 0 && *folder;) {
        slash = strrchr(folder, '/');
        *(slash ? slash : folder) = 0;
        if (!rules_knows(l->rules, folder))
            rc = learn(l, folder, e);
    }
    free(folder);
    return rc < 0 ? rc : !rules_want(l->rules, -1, path, is_dir, NULL, NULL);
}
