#include "keep/pin.h"

#include "base/clock.h"
#include "snapshot/selector.h"

#include <pthread.h>
#include <string.h>

#include "base/banned.h"

static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;

void pin_hold(void)
{
    pthread_mutex_lock(&held);
}

void pin_release(void)
{
    pthread_mutex_unlock(&held);
}

static int mark(struct repo *writer, const struct snapshot_row *row, bool pin, struct error *e)
{
    uint64_t number = row->commit.number;
    struct mark m = {.type = pin ? MARK_PIN : MARK_UNPIN,
                     .time = clock_wall(),
                     .count = 1,
                     .snapshots = &number};

    memcpy(m.watch_id, row->commit.watch_id, WATCH_ID_LEN);
    return repo_mark(writer, &m, e);
}

/* By number again: it may have been dropped since it was looked up. */
static int mark_if_there(struct repo *writer, const struct snapshot_row *row, bool pin,
                         struct error *e)
{
    struct snapshot_row again;
    struct catalog *c;

    int rc = repo_catalog_open(writer, &c, e);
    if (rc != 0)
        return rc;
    rc = catalog_snapshot(c, row->commit.number, &again, e);
    if (rc == 0)
        snapshot_row_release(&again);
    repo_catalog_close(writer, c);
    return rc == 0 ? mark(writer, row, pin, e) : rc;
}

int pin_snapshot(struct repo *reader, struct repo *writer, const char *text, const char *watch,
                 bool pin, struct snapshot_row *row, struct error *e)
{
    int rc = selector_resolve(reader, text, watch, row, NULL, e);

    if (rc != 0 || row->pinned == pin)
        return rc;
    pin_hold();
    rc = mark_if_there(writer, row, pin, e);
    pin_release();
    if (rc != 0)
        snapshot_row_release(row);
    return rc;
}
