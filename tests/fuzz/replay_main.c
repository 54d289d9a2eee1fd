/* Runs a fuzz target without an engine: each file given, or each file of a folder given, as it is,
 * cut at every length, and with every single bit flipped. Every input stands in memory of its exact
 * size, so that a sanitizer sees a read one byte beyond. */
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

enum { NEIGHBOURS_MAX = 4096 }; /* longer files are only replayed as they are */

static void run(const uint8_t *bytes, size_t n)
{
    uint8_t *exact = malloc(n ? n : 1);

    if (!exact)
        abort();
    memcpy(exact, bytes, n);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
}

static void run_with_neighbours(uint8_t *bytes, size_t n)
{
    run(bytes, n);
    if (n > NEIGHBOURS_MAX)
        return;
    for (size_t cut = 0; cut < n; cut++)
        run(bytes, cut);
    for (size_t bit = 0; bit < n * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        run(bytes, n);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static int replay_file(int dirfd, const char *name)
{
    struct stat st;
    int rc = -1;
    uint8_t *bytes = NULL;
    int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) < 0)
        goto out;
    bytes = malloc((size_t)st.st_size + 1);
    if (!bytes || read(fd, bytes, (size_t)st.st_size) != st.st_size)
        goto out;
    run_with_neighbours(bytes, (size_t)st.st_size);
    rc = 0;
out:
    if (rc < 0)
        fprintf(stderr, "cannot replay '%s': %s\n", name, strerror(errno));
    free(bytes);
    if (fd >= 0)
        close(fd);
    return rc;
}

/* Number of files replayed, negative on failure. */
static int replay_folder(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *entry;
    int count = 0;

    if (!d) {
        fprintf(stderr, "cannot open '%s': %s\n", path, strerror(errno));
        return -1;
    }
    while (count >= 0 && (entry = readdir(d)) != NULL)
        if (entry->d_name[0] != '.')
            count = replay_file(dirfd(d), entry->d_name) < 0 ? -1 : count + 1;
    closedir(d);
    return count;
}

int main(int argc, char **argv)
{
    int total = 0;

    for (int i = 1; i < argc; i++) {
        struct stat st;
        int n;
        if (stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode))
            n = replay_folder(argv[i]);
        else
            n = replay_file(AT_FDCWD, argv[i]) < 0 ? -1 : 1;
        if (n < 0)
            return 1;
        total += n;
    }
    printf("%d files replayed\n", total);
    return total > 0 ? 0 : 1; /* a corpus that is not there tests nothing */
}
