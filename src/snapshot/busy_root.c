#include "snapshot/busy_root.h"

#include "base/text.h"
#include "io/safe_path.h"
#include "snapshot/pair_map.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/banned.h"

enum { LISTED_MAX = 16, ANCESTORS_MAX = 64 };

struct looking {
    char *root;            /* as the kernel names it */
    struct pair_map files; /* device and inode of everything beneath it */
    struct busy_root *out;
    pid_t except;
    pid_t above[ANCESTORS_MAX]; /* ourselves first */
    size_t above_count;
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

/* ---- what is beneath the root ---- */

struct walk {
    char **pending;
    size_t count, cap;
};

static int push(struct walk *w, char *path, struct error *e)
{
    if (path && w->count == w->cap) {
        size_t cap = w->cap ? 2 * w->cap : 64;
        char **v = reallocarray(w->pending, cap, sizeof(char *));
        if (!v) {
            free(path);
            return no_memory(e);
        }
        w->pending = v;
        w->cap = cap;
    }
    if (!path)
        return no_memory(e);
    w->pending[w->count++] = path;
    return 0;
}

static int note_folder(struct looking *l, struct walk *w, int rootfd, const char *folder,
                       struct error *e)
{
    const struct dirent *entry;
    struct stat st;
    int rc = 0;

    int fd = safe_open(rootfd, folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, e);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        if (fd >= 0)
            close(fd);
        error_clear(e);
        return 0;
    }
    while (rc == 0 && (entry = readdir(d)) != NULL) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
            fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        if (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode))
            rc = pair_map_put(&l->files, st.st_dev, st.st_ino, 1) ? 0 : no_memory(e);
        if (rc == 0 && S_ISDIR(st.st_mode))
            rc = push(w, *folder ? text_format("%s/%s", folder, name) : strdup(name), e);
    }
    closedir(d);
    return rc;
}

static int note_files(struct looking *l, const char *root, struct error *e)
{
    struct walk w = {0};
    struct stat st;

    int fd = long_path_open(root, O_RDONLY | O_DIRECTORY, e);
    if (fd < 0)
        return fd;
    int rc = fstat(fd, &st) == 0 && !pair_map_put(&l->files, st.st_dev, st.st_ino, 1)
                 ? no_memory(e)
                 : push(&w, strdup(""), e);
    while (rc == 0 && w.count > 0) {
        char *folder = w.pending[--w.count];
        rc = note_folder(l, &w, fd, folder, e);
        free(folder);
    }
    while (w.count > 0)
        free(w.pending[--w.count]);
    free(w.pending);
    close(fd);
    return rc;
}

/* ---- a process ---- */

static bool is_beneath(const struct looking *l, const char *path)
{
    size_t n = strlen(l->root);

    return strncmp(path, l->root, n) == 0 && (path[n] == '/' || path[n] == 0 || n == 1);
}

static void found(struct looking *l, pid_t pid, const char *path, const char *how)
{
    struct busy_root *out = l->out;
    char file[64], command[32] = "?";

    out->total++;
    if (out->count == LISTED_MAX)
        return;
    struct busy_process *b = &out->list[out->count++];
    b->pid = pid;
    b->how = how;
    text_escape(path, b->path, sizeof(b->path));
    snprintf(file, sizeof(file), "/proc/%d/comm", (int)pid);
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, command, sizeof(command) - 1) : -1;
    if (fd >= 0)
        close(fd);
    if (n > 0)
        command[n - (command[n - 1] == '\n')] = 0;
    text_escape(command, b->command, sizeof(b->command));
}

/* A link of /proc that leads to something beneath the root. */
static bool link_hits(struct looking *l, const char *link, bool folder, char path[PATH_MAX])
{
    struct stat st;

    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n < 0)
        return false;
    path[n] = 0;
    if (path[0] != '/' || stat(link, &st) != 0)
        return false; /* a pipe, a socket, ... */
    if (folder ? !S_ISDIR(st.st_mode) : !S_ISREG(st.st_mode))
        return false;
    return is_beneath(l, path) || pair_map_get(&l->files, st.st_dev, st.st_ino);
}

static bool has_open(struct looking *l, pid_t pid)
{
    const struct dirent *entry;
    char folder[64], link[PATH_MAX + 64], path[PATH_MAX];
    bool hit = false;

    snprintf(folder, sizeof(folder), "/proc/%d/fd", (int)pid);
    DIR *d = opendir(folder);
    if (!d) {
        l->out->hidden += errno == EACCES || errno == EPERM;
        return false;
    }
    while (!hit && (entry = readdir(d)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(link, sizeof(link), "%s/%s", folder, entry->d_name);
        hit = link_hits(l, link, false, path);
    }
    closedir(d);
    if (hit)
        found(l, pid, path, "has it open");
    return hit;
}

/* "start-end perms offset major:minor inode path" */
static bool map_hits(const struct looking *l, char *line, const char **path)
{
    unsigned major, minor;
    unsigned long long inode;
    int at = 0;

    if (sscanf(line, "%*s %*s %*s %x:%x %llu %n", &major, &minor, &inode, &at) < 3 || inode == 0)
        return false;
    line[strcspn(line, "\n")] = 0;
    *path = line + at;
    return is_beneath(l, *path) || pair_map_get(&l->files, makedev(major, minor), inode);
}

static bool has_mapped(struct looking *l, pid_t pid)
{
    char file[64], *line = NULL;
    const char *path = "";
    size_t cap = 0;
    bool hit = false;

    snprintf(file, sizeof(file), "/proc/%d/maps", (int)pid);
    FILE *f = fopen(file, "re");
    if (!f)
        return false;
    while (!hit && getline(&line, &cap, f) > 0)
        hit = map_hits(l, line, &path);
    fclose(f);
    if (hit)
        found(l, pid, path, "has it mapped");
    free(line);
    return hit;
}

static bool is_above(const struct looking *l, pid_t pid)
{
    for (size_t i = 0; i < l->above_count; i++) {
        if (l->above[i] == pid)
            return true;
    }
    return false;
}

static void stands_there(struct looking *l, pid_t pid)
{
    char link[64], path[PATH_MAX];

    if (is_above(l, pid))
        return;
    snprintf(link, sizeof(link), "/proc/%d/cwd", (int)pid);
    if (link_hits(l, link, true, path))
        found(l, pid, path, "works in it");
}

static pid_t parent_of(pid_t pid)
{
    char file[64], text[512];
    int parent = 0;

    snprintf(file, sizeof(file), "/proc/%d/stat", (int)pid);
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return 0;
    text[n] = 0;
    const char *end = strrchr(text, ')'); /* the command before it may hold anything */
    return end && sscanf(end, ") %*c %d", &parent) == 1 ? parent : 0;
}

static void look_at(struct looking *l, pid_t pid)
{
    if (pid == getpid() || (l->except && (pid == l->except || parent_of(pid) == l->except)))
        return;
    if (!has_open(l, pid) && !has_mapped(l, pid))
        stands_there(l, pid);
}

/* ---- all of them ---- */

static int look_at_all(struct looking *l, struct error *e)
{
    const struct dirent *entry;
    DIR *d = opendir("/proc");

    if (!d)
        return error_sys(e, errno, "cannot look which processes there are");
    while ((entry = readdir(d)) != NULL) {
        char *end;
        long pid = strtol(entry->d_name, &end, 10);
        if (pid > 0 && pid <= INT_MAX && *end == 0)
            look_at(l, (pid_t)pid);
    }
    closedir(d);
    return 0;
}

int busy_root_look(const char *root, pid_t except, struct busy_root *out, struct error *e)
{
    struct looking l = {.out = out, .except = except};
    int rc = 0;

    *out = (struct busy_root){.list = calloc(LISTED_MAX, sizeof(*out->list))};
    l.root = realpath(root, NULL);
    if (!out->list || (!l.root && !(l.root = strdup(root))))
        rc = no_memory(e);
    for (pid_t pid = getpid(); pid > 0 && l.above_count < ANCESTORS_MAX; pid = parent_of(pid))
        l.above[l.above_count++] = pid;
    if (rc == 0)
        rc = note_files(&l, root, e);
    if (rc == 0)
        rc = look_at_all(&l, e);
    pair_map_release(&l.files);
    free(l.root);
    return rc;
}

void busy_root_release(struct busy_root *b)
{
    free(b->list);
    *b = (struct busy_root){0};
}
