"""The disk with the data is gone for a month: every timed job comes to its time each day, nothing
that was kept goes, and it is told all the time. Then it is back."""
import os
import subprocess

import wk
from procedure import Service, put

DAYS = 30


def tmpfs(root):
    if subprocess.run(["mount", "-t", "tmpfs", "none", root]).returncode:
        wk.skip("cannot mount a tmpfs here")


def make(scratch, root):
    return Service(scratch, "data", root, {
        "archive": {"at": "03:00", "keep_days": "off", "keep_last": 1},
        "retention": {"prune_at": "04:00", "keep_days": "off", "keep_daily": "off",
                      "keep_monthly": "off", "keep_last": 1},
        "verify": {"at": "05:00", "sample": "50%"}}, watch={"interval": "1h"})


def kept(s):
    return [x["id"] for x in s.snapshots()], [x["name"] for x in s.archives()]


def a_month(s, root, codes):
    """Each day all jobs, a rescan an hour, and a look by a person."""
    before = kept(s)
    made, pruned = s.done("archive"), s.done("prune")
    assert len(before[0]) >= 3 and len(before[1]) >= 3, before
    for day in range(DAYS):
        for hour in (0, 1, 2):
            s.clock.wait("%02d:30:00" % hour)
            assert set(codes) <= set(s.codes()), (day, s.status())
        s.clock.wait("03:00:01")
        s.status()
        s.at("04:00:01", "prune")
        s.at("05:00:01", "verify")
        r = s.cli("--json", "status", code=7).json
        assert set(codes) <= {p["code"] for p in r["problems"]} and not r["ok"], r
        assert kept(s) == before, "day %d" % day
    s.cli("prune", code=5)
    assert s.done("prune") == pruned + DAYS
    assert kept(s) == before and s.done("archive") == made, "of nothing no archive is made"


def not_mounted(scratch):
    wk.need_root()
    root = os.path.join(scratch, "mnt")
    os.mkdir(root)
    tmpfs(root)
    mounted = True
    try:
        put(os.path.join(root, "a.json"), "{}")
        s = make(scratch, root)
        for i in range(5):
            put(os.path.join(root, "a.json"), '{"n": %d}' % i)
            s.night()
        state = wk.tree(root)
        good = [x["id"] for x in s.snapshots() if x["good"]]
        assert len(good) >= 3, s.snapshots()
        subprocess.run(["umount", "-l", root], check=True)
        mounted = False
        wk.until(lambda: s.status()["watches"][0]["state"] == "missing", "it to be missed")
        s.at("04:00:01", "prune")
        assert "frozen" in s.codes(), s.status()
        s.at("05:00:01", "verify")
        s.clock.wait("23:00:00")
        a_month(s, root, ["missing", "frozen"])
        assert s.status()["watches"][0]["state"] == "missing"
        assert [x["id"] for x in s.snapshots() if x["good"]] == good
        wk.same(state, wk.restored(s.repo, "latest", scratch))
        # Also a service that begins while it is gone.
        before = kept(s)
        s.stop()
        s.start()
        assert "missing" in s.codes() and kept(s) == before
        tmpfs(root)
        mounted = True
        made = s.done("archive")
        put(os.path.join(root, "a.json"), '{"n": 5}')
        wk.until(lambda: s.status()["ok"], "all to be well when the disk is back")
        wk.until(lambda: s.done("archive") == made + 1, "the archive that was missed, once")
        s.night()
        assert s.done("archive") == made + 2
        assert len(s.snapshots()) < len(before[0]) + 2, "pruning goes on"
        s.stop()
    finally:
        if mounted:
            subprocess.run(["umount", "-l", root], check=True)


wk.main(not_mounted)
