"""A service that is never idle for a second still brings its catalog's WAL back into the file."""
import os

import wk

FIRST, ALL = 250, 800


def busy_wal_stays_small(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    s = wk.Service(scratch, {"data": {"path": root, "settle": "1ms"}})
    wal = os.path.join(s.repo, "catalog.db-wal")
    log = open(s.log, errors="replace")
    log.read()
    largest, largest_first = 0, 0
    for i in range(ALL):
        wk.replace(os.path.join(root, "%d.json" % (i % 50)), '{"i": %d}' % i)
        wk.until(lambda: "snapshot " in log.read(), "snapshot %d" % i)
        largest = max(largest, os.path.getsize(wal))
        if i == FIRST:
            largest_first = largest
    assert largest < 2 * largest_first, "WAL of %d bytes after %d saves, %d after %d" % (
        largest, ALL, largest_first, FIRST)
    s.stop()


wk.main(busy_wal_stays_small)
