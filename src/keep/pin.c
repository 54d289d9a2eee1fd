#include "keep/pin.h"

#include "base/clock.h"
#include "snapshot/selector.h"

#include <string.h>

#include "base/banned.h"

int pin_snapshot(struct repo *reader, struct repo *writer, const char *text, const char *watch,
                 bool pin, struct snapshot_row *row, struct error *e)
{
    int rc = selector_resolve(reader, text, watch, row, NULL, e);

    if (rc != 0 || row->pinned == pin)
        return rc;
    struct mark m = {.type = pin ? MARK_PIN : MARK_UNPIN,
                     .time = clock_wall(),
                     .count = 1,
                     .snapshots = &row->commit.number};
    memcpy(m.watch_id, row->commit.watch_id, WATCH_ID_LEN);
    rc = repo_mark(writer, &m, e);
    if (rc != 0)
        snapshot_row_release(row);
    return rc;
}
