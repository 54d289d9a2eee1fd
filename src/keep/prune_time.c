/* The trusted time of a prune: the state of age.h is a note in the catalog, a cache. Without it the
 * newest snapshot's label bounds what is believed at once. */
#include "keep/prune_private.h"

#include "base/clock.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/banned.h"

static const char note_key[] = "age";

static void read_boot_id(uint8_t *id)
{
    unsigned byte;
    char text[64] = "";
    size_t n = 0;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

    if (fd >= 0 && read(fd, text, sizeof(text) - 1) < 0)
        text[0] = 0;
    if (fd >= 0)
        close(fd);
    for (const char *at = text; *at && n < 16; at += 2) {
        at += *at == '-';
        if (sscanf(at, "%2x", &byte) != 1)
            break;
        id[n++] = (uint8_t)byte;
    }
}

struct age_reading prune_clocks(void)
{
    struct age_reading now = {.wall = clock_wall().s};
    struct timespec ts;

    clock_gettime(CLOCK_BOOTTIME, &ts);
    now.boot = ts.tv_sec;
    read_boot_id(now.boot_id);
    return now;
}

static int visit_newest(void *ctx, const struct snapshot_row *row)
{
    *(int64_t *)ctx = row->commit.time.s;
    return 1;
}

static int load(struct pruning *p, struct age_state *state, int64_t *newest, struct error *e)
{
    struct buffer note = BUFFER_INIT;
    struct catalog *c;

    int rc = repo_catalog_open(p->q->repo, &c, e);
    if (rc != 0)
        return rc;
    rc = catalog_note_get(c, note_key, &note, e);
    if (rc == 0)
        rc = age_decode(note.data, note.len, state, e);
    if (rc == ERR_NOTFOUND || rc == ERR_DAMAGED) {
        error_clear(e);
        rc = 0;
    }
    buffer_release(&note);
    if (rc == 0)
        rc = catalog_snapshots(c, 0, 1, UINT64_MAX, true, visit_newest, newest, e);
    repo_catalog_close(p->q->repo, c);
    return rc < 0 ? rc : 0;
}

int prune_time(struct pruning *p, struct error *e)
{
    struct age_reading now = p->q->clocks ? *p->q->clocks : prune_clocks();
    struct buffer note = BUFFER_INIT;
    struct age_state state = {0};
    int64_t newest = 0;

    int rc = load(p, &state, &newest, e);
    if (rc != 0)
        return rc;
    p->now = age_look(&state, &now, newest);
    if (p->q->dry_run)
        return 0;
    age_encode(&state, &note);
    rc = buffer_ok(&note) ? repo_note_put(p->q->repo, note_key, note.data, note.len, e)
                          : prune_no_memory(e);
    buffer_release(&note);
    return rc;
}
