/* Making a repository: its folder, the `format` file, the first pack.
 *
 * `format` is written last, so that a folder without it is none: a crash before leaves only what
 * the next init clears away. */
#include "store/repo_private.h"

#include "base/parse.h"
#include "base/random.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/fileops.h"
#include "io/safe_path.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

#define FORMAT_TITLE "watchkeep repository\n"

enum { FORMAT_MAX = 4096 };

/* ---- the format file ---- */

/* A line "word value"; NULL when it is another one. */
static const char *value_of(const char *line, const char *word)
{
    size_t n = strlen(word);

    return strncmp(line, word, n) == 0 && line[n] == ' ' ? line + n + 1 : NULL;
}

static int check_version(const char *value, struct error *e)
{
    char known[16];

    snprintf(known, sizeof(known), "%d", FORMAT_VERSION);
    if (strcmp(value, known) == 0)
        return 0;
    return error_set(e, ERR_NOREPO,
                     "the repository is of format %.20s, this watchkeep (" WK_VERSION ") knows %d",
                     value, FORMAT_VERSION);
}

static int check_features(const char *value, uint64_t known, struct error *e)
{
    uint64_t bits;

    int rc = parse_u64(value, &bits, e);
    if (rc == 0 && (bits & ~known) == 0)
        return 0;
    return error_set(e, ERR_NOREPO,
                     "the repository uses features (%.20s) that this watchkeep (" WK_VERSION
                     ") does not know",
                     value);
}

struct format {
    uint8_t *id;
    bool has_version, has_id, writing;
};

static int parse_line(const char *line, struct format *f, struct error *e)
{
    const char *value;

    if ((value = value_of(line, "version"))) {
        f->has_version = true;
        return check_version(value, e);
    }
    if ((value = value_of(line, "incompat")))
        return check_features(value, FEATURES_INCOMPAT, e);
    if ((value = value_of(line, "ro-compat")) && f->writing)
        return check_features(value, FEATURES_RO_COMPAT, e);
    if ((value = value_of(line, "id")))
        f->has_id = strlen(value) == 32 && text_unhex(value, f->id, 16);
    return 0;
}

static int parse_format(char *text, bool writing, uint8_t id[16], struct error *e)
{
    struct format f = {.id = id, .writing = writing};
    char *save = NULL;
    int rc = 0;

    if (strncmp(text, FORMAT_TITLE, sizeof(FORMAT_TITLE) - 1) != 0)
        return error_set(e, ERR_NOREPO, "not a watchkeep repository");
    for (char *line = strtok_r(text, "\n", &save); rc == 0 && line;
         line = strtok_r(NULL, "\n", &save))
        rc = parse_line(line, &f, e);
    if (rc == 0 && (!f.has_id || !f.has_version))
        rc = error_set(e, ERR_NOREPO, "the repository's format file is damaged");
    return rc;
}

int repo_format_read(int dirfd, bool writing, uint8_t id[16], struct error *e)
{
    struct buffer text = BUFFER_INIT;

    int rc = small_file_read(dirfd, FORMAT_FILE, FORMAT_MAX, &text, e);
    if (rc == ERR_NOTFOUND)
        rc = error_set(e, ERR_NOREPO, "no repository there");
    else if (rc == ERR_DAMAGED)
        rc = error_set(e, ERR_NOREPO, "the repository's format file is damaged");
    buffer_append(&text, "", 1);
    if (rc == 0)
        rc = buffer_ok(&text) ? parse_format((char *)text.data, writing, id, e) : repo_no_memory(e);
    buffer_release(&text);
    return rc;
}

static int write_format(int dirfd, const uint8_t id[16], struct error *e)
{
    char hex[33], text[256];

    text_hex(id, 16, hex);
    int n = snprintf(text, sizeof(text),
                     FORMAT_TITLE "version %d\nid %s\nincompat %" PRIu64 "\nro-compat %" PRIu64
                                  "\ncompat 0\n",
                     FORMAT_VERSION, hex, FEATURES_INCOMPAT, FEATURES_RO_COMPAT);
    return atomic_file_write(dirfd, FORMAT_FILE, text, (size_t)n, 0600, e);
}

bool repo_exists(const char *path)
{
    char *file = text_format("%s/" FORMAT_FILE, path);
    bool there = file && access(file, F_OK) == 0;

    free(file);
    return there;
}

/* ---- init ---- */

/* What a broken-off init of ours may have left, and what mkfs does. */
static bool is_leftover(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, PACKS_DIR) == 0 ||
           strcmp(name, LOCK_FILE) == 0 || strcmp(name, "lost+found") == 0 ||
           strncmp(name, ATOMIC_TEMP_PREFIX, sizeof(ATOMIC_TEMP_PREFIX) - 1) == 0;
}

DIR *repo_dir_open(int dirfd, const char *name, struct error *e)
{
    int fd = fileops->openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW, 0);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);

    if (!dir) {
        error_sys(e, errno, "cannot list '%s'", name);
        if (fd >= 0)
            fileops->close(fd);
    }
    return dir;
}

static int refuse_strangers(int dirfd, struct error *e)
{
    char name[300];
    struct dirent *entry;
    int rc = 0;

    DIR *dir = repo_dir_open(dirfd, ".", e);
    if (!dir)
        return e->code;
    while (rc == 0 && (entry = readdir(dir)))
        if (!is_leftover(entry->d_name))
            rc = error_set(e, ERR_REFUSED, "the folder is not empty: it holds '%s'",
                           text_escape(entry->d_name, name, sizeof(name)));
    closedir(dir);
    return rc;
}

/* Packs without a format file are a repository that lost it, unless they are empty. */
static int clear_packs(int packs_fd, struct error *e)
{
    struct dirent *entry;
    struct stat st;
    uint64_t id;
    uint8_t kind;
    int rc = 0;

    DIR *dir = repo_dir_open(packs_fd, ".", e);
    if (!dir)
        return e->code;
    while (rc == 0 && (entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        if (!pack_file_parse(entry->d_name, &kind, &id) ||
            fstatat(packs_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
            st.st_size > PACK_HEADER_LEN)
            rc = error_set(e, ERR_REFUSED, "its packs are not empty: is its 'format' file lost?");
        else if (fileops->unlinkat(packs_fd, entry->d_name, 0) < 0)
            rc = error_sys(e, errno, "cannot remove '%s'", entry->d_name);
    }
    closedir(dir);
    return rc;
}

static int first_pack(int packs_fd, const uint8_t id[16], struct error *e)
{
    struct wall_time now = clock_wall();
    struct pack *p = NULL;
    struct pack_header h = {.version = FORMAT_VERSION,
                            .pack_id = 1,
                            .kind = PACK_LOG,
                            .id_algorithm = 1,
                            .created_s = now.s,
                            .created_ns = now.ns};

    memcpy(h.repo_id, id, 16);
    int rc = pack_create(packs_fd, &h, &p, e);
    pack_close(p);
    return rc;
}

static int fill_folder(int dirfd, struct error *e)
{
    uint8_t id[16];

    int rc = refuse_strangers(dirfd, e);
    if (rc < 0)
        return rc;
    if (fileops->mkdirat(dirfd, PACKS_DIR, 0700) < 0 && errno != EEXIST)
        return error_sys(e, errno, "cannot make the folder of packs");
    int packs_fd =
        fileops->openat(dirfd, PACKS_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW, 0);
    if (packs_fd < 0)
        return error_sys(e, errno, "cannot open the folder of packs");
    random_bytes(id, sizeof(id));
    rc = clear_packs(packs_fd, e);
    if (rc == 0)
        rc = first_pack(packs_fd, id, e);
    fileops->close(packs_fd);
    return rc == 0 ? write_format(dirfd, id, e) : rc;
}

/* The folder's own entry, where its parent can be opened at all. */
static int flush_parent(int dirfd, struct error *e)
{
    int fd = fileops->openat(dirfd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);

    if (fd < 0)
        return 0;
    int rc = dir_sync(fd, e);
    fileops->close(fd);
    return rc;
}

int repo_folder_open(const char *path, struct error *e)
{
    int fd = fileops->openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);

    if (fd < 0)
        error_sys(e, errno, "cannot open the repository '%s'", path);
    return fd;
}

/* What is wrong was found inside the folder; this says which one. */
static void cannot_init(const char *path, struct error *e)
{
    const int sys = e->sys;
    char shown[512];

    error_set(e, e->code, "cannot make a repository in '%s': %s",
              text_escape(path, shown, sizeof(shown)), e->message);
    e->sys = sys;
}

int repo_init(const char *path, struct error *e)
{
    uint8_t id[16];
    struct stat st;

    bool made = stat(path, &st) < 0 && errno == ENOENT;
    int rc = make_dirs(path, 0700, e);
    if (rc < 0 && e->sys == ENOTDIR) {
        char shown[512];
        return error_set(e, ERR_REFUSED,
                         "cannot make a repository at '%s': there is a file where a folder has to "
                         "be",
                         text_escape(path, shown, sizeof(shown)));
    }
    if (rc < 0)
        return rc;
    int dirfd = repo_folder_open(path, e);
    if (dirfd < 0)
        return e->code;
    if (fstatat(dirfd, FORMAT_FILE, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        rc = repo_format_read(dirfd, true, id, e);
        fileops->close(dirfd);
        return rc < 0 ? rc : 1;
    }
    rc = fill_folder(dirfd, e);
    if (rc < 0)
        cannot_init(path, e);
    if (rc == 0 && made)
        rc = flush_parent(dirfd, e);
    fileops->close(dirfd);
    return rc;
}
