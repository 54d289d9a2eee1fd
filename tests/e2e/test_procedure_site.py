"""A site's database and uploads, as people kept them: an archive every night, the last 30 kept,
three tries a minute apart, a warning before the disk is full, and all of it back within seconds."""
import os
import re
import shutil

import wk
from procedure import Service, database, put, rows

SIZE = 16 if wk.SANITIZED else 100  # MB of the large restore


def make(scratch, **more):
    root, target = os.path.join(scratch, "instance"), os.path.join(scratch, "target")
    put(os.path.join(root, "uploads", "logo.svg"), "<svg/>")
    database(os.path.join(root, "site.sqlite3"), 10)
    return root, target, Service(
        scratch, "site", root,
        {"archive": {"path": target, "at": "02:30", "keep_days": "off", "keep_last": 30},
         "retention": {"prune_at": "04:00", "keep_days": "off", "keep_daily": "off",
                       "keep_monthly": "off", "keep_last": 30},
         "verify": {"at": "off"}}, **more)


def nightly(s):
    # The night of the summer time does not have that hour: right after it, then.
    s.night("03:00:01" if str(s.clock.now().date()) == "2031-03-29" else "02:30:01")


def thirty_are_kept(scratch):
    """34 nights by the clock, in the week of the summer time too."""
    root, target, s = make(scratch, zone="Europe/Berlin", start="2031-03-05 12:00:00")
    first = s.clock.now().date()
    for i in range(34):
        database(os.path.join(root, "site.sqlite3"), 1)
        nightly(s)
    days = [x["name"] for x in s.archives("automatic")]
    assert len(days) == 30 and s.done("archive") == 34, (len(days), s.done("archive"))
    for i, name in enumerate(days):
        date = str(first.fromordinal(first.toordinal() + 5 + i))
        hour = "03-00" if date == "2031-03-30" else "02-30"
        assert re.fullmatch("backup_%s_%s-\\d\\d" % (date, hour), name), (name, date)
    # On the disk too, each with its own words beside it.
    on_disk = sorted(os.listdir(os.path.join(target, "site", "automatic")))
    assert on_disk == sorted(n + end for n in days for end in (".json", ".tar.gz")), on_disk
    s.same_listing(s.archives())
    assert all(x["verified"] and x["files"] == 2 for x in s.archives())
    kept = [x["id"] for x in s.snapshots()]
    assert kept == list(range(kept[-1] - 29, kept[-1] + 1)) and kept[-1] == 35, kept
    oldest = os.path.join(scratch, "oldest")
    s.cli("restore", days[0], "--to", oldest)
    assert rows(os.path.join(oldest, "site.sqlite3")) == 15 and rows(
        os.path.join(root, "site.sqlite3")) == 44
    s.stop()


def a_target_that_fails(scratch):
    """Three tries, a minute apart, told; the next night it is well again."""
    root, target, s = make(scratch)
    default = {(v["section"], v["key"]): v["value"]
               for v in s.cli("--json", "config", "show").json["values"]}
    assert default["retry", "attempts"] == "3" and default["retry", "delay"] == "60s", default
    nightly(s)
    os.rename(target, target + ".away")
    wk.write(target, "no folder")
    s.clock.wait("02:30:01")

    def tries():
        return [e for e in s.status()["events"] if e["event"] == "job-failed"]
    for n in (1, 2, 3):
        wk.until(lambda: len(tries()) == n, "try %d to fail" % n)
        if n < 3:
            assert "archive-failed" not in s.codes(), "one try more is to come"
            # Not a second too early: nothing is tried after half a minute.
            s.clock.wait(30)
            assert s.save() and len(tries()) == n, tries()
            s.clock.wait(31)
    told = tries()
    assert [(e["job"], e["watch"], e["attempt"], e["last"]) for e in told] == [
        ("archive", "site", 1, False), ("archive", "site", 2, False), ("archive", "site", 3, True)]
    at = [wk.seconds_of(e["time"]) for e in told]
    assert all(60 <= b - a < 90 for a, b in zip(at, at[1:])), told
    assert all(target in e["message"] for e in told), told
    r = s.cli("status", code=7)
    assert "archive failed" in r.out and "watchkeep archive site" in r.out, r
    assert "archive failed (try 3)" in s.cli("list").out
    # No fourth, whatever time passes before the next night.
    s.clock.wait("23:00:00")
    s.save()
    assert len(tries()) == 3 and s.done("archive") == 1
    os.remove(target)
    os.rename(target + ".away", target)
    nightly(s)
    assert s.codes() == [] and len(s.archives()) == 2, s.status()
    # By hand the same: one that fails says so, forced and named ones are made at once.
    s.cli("archive", "site")
    s.cli("archive", "site", "--name", "before-migration")
    assert [x["kind"] for x in s.archives()] == ["automatic"] * 3 + ["manual"]
    s.same_listing(s.archives())
    s.stop()


def a_disk_that_fills(scratch):
    at = os.path.join(scratch, "disk")
    with wk.small_disk(at, 128 << 20):
        root, target, s = make(scratch, repo=os.path.join(at, "repo"))
        assert s.codes() == [], s.status()
        wk.write(os.path.join(at, "others"), "")
        with open(os.path.join(at, "others"), "r+b") as f:
            os.posix_fallocate(f.fileno(), 0, int(shutil.disk_usage(at).total * 0.85)
                               - shutil.disk_usage(at).used)
        wk.until(lambda: "space" in s.codes(), "the disk's state to be told")
        r = s.cli("status", code=7)
        assert re.search(r"8[45] % full|1[56] % (is )?free", r.out), r
        database(os.path.join(root, "site.sqlite3"), 1)
        assert s.save()["current"], "there is room enough for a save"
        os.remove(os.path.join(at, "others"))
        wk.until(lambda: s.codes() == [], "that there is room again")
        s.stop()


def all_of_it_back(scratch):
    """A restore of what a real site holds, from its snapshot and from its archive."""
    root, target, s = make(scratch)
    with open(os.path.join(root, "uploads", "video"), "wb") as f:
        for _ in range(SIZE):
            f.write(os.urandom(1 << 20))
    nightly(s)
    for which in ("latest", s.archives()[0]["name"]):
        to = os.path.join(scratch, "out")
        r = s.cli("--json", "restore", which, "--to", to).summary
        assert r["bytes"] >= SIZE << 20 and r["seconds"] < (600 if wk.SANITIZED else 60), r
        here, there = wk.tree(root), wk.tree(to)
        if which != "latest":  # the database was captured, not copied
            here.pop(b"site.sqlite3"), there.pop(b"site.sqlite3")
        wk.same(here, there, which)
        wk.remove(to)
    s.stop()


wk.main(thirty_are_kept, a_target_that_fails, a_disk_that_fills, all_of_it_back)
