"""A small save through the service: exactly one fdatasync before it is acknowledged, also of one that
comes after the store has tidied up."""
import collections
import os
import re

import wk

SAVES = 200
APART = 5  # of them, at the end
MET = 5  # so many may meet the store tidying up, which another thread does


def one_flush(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    trace = os.path.join(scratch, "trace")
    s = wk.Service(scratch, {"data": {"path": root, "settle": "1h", "max_delay": "2h"}},
                   wrapper=["strace", "-f", "-qq", "-tt", "-s", "300", "-o", trace, "-e",
                            "trace=fdatasync,fsync,sync_file_range,syncfs,sendto,sendmsg,write,"
                            "writev,read,recvfrom,recvmsg,msync"])
    before_all = open(trace, errors="replace").read().count("\n")
    catalog = os.path.join(s.repo, "catalog.db")
    tidied = 0
    for i in range(SAVES):
        wk.replace(os.path.join(root, "a.json"), '{"i": %d}' % i)
        if i >= SAVES - APART:
            # Its WAL has gone back into the catalog, and a new one has begun.
            wk.until(lambda: tidied < os.stat(catalog).st_mtime_ns <=
                     os.stat(catalog + "-wal").st_mtime_ns, "the idle checkpoint")
        tidied = os.stat(catalog).st_mtime_ns
        assert s.save("data")["snapshot"], i
    s.stop()
    flushes, waiting = collections.Counter(), False  # by thread
    counts = []
    for line in open(trace, errors="replace").read().split("\n")[before_all:]:
        if re.search(r'(read|recv\w*)\(.*\\"command\\": ?\\"save\\"', line) or \
                re.search(r'(read|recv\w*) resumed.*\\"command\\": ?\\"save\\"', line):
            flushes, waiting = collections.Counter(), True
        elif re.search(r"\b(fdatasync|fsync|syncfs|msync)\(", line):
            flushes[line.split()[0]] += 1
            assert "fdatasync" in line or not waiting, "another flush than fdatasync: " + line
        elif waiting and re.search(r'(write|writev|sendto|sendmsg)\(.*\\"type\\": ?\\"summary\\"',
                                   line):
            counts.append(sorted(flushes.values()))
            waiting = False
    assert len(counts) == SAVES, "saw %d of %d saves in the trace" % (len(counts), SAVES)
    wrong = [c for c in counts if 1 not in c]
    assert not wrong, "flushes before the acknowledgement: %s" % wrong
    met = [c for c in counts if c != [1]]
    assert len(met) <= MET, "other threads flush before the acknowledgement: %s" % met


wk.main(one_flush)
