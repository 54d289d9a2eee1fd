"""One database in use all the time, as people kept it: a copy every night, listed with its number,
its date and its size, and put back by number or as the latest once that is confirmed."""
import datetime
import os
import sqlite3

import wk
from procedure import Service, database, rows

FILE = "app.sqlite3"


def make(scratch):
    root = os.path.join(scratch, "instance")
    os.mkdir(root)
    database(os.path.join(root, FILE), 10)
    return root, Service(scratch, "app", root, {
        "archive": {"at": "Sun 02:00", "keep_days": "off", "keep_last": 4},
        "retention": {"prune_at": "04:00", "keep_days": "off", "keep_daily": 5,
                      "keep_monthly": "off"}})


def a_copy_every_night(scratch):
    """Ten days with a writer that never closes it: the last state of each of the last five days is
    kept, and every Sunday's archive."""
    root, s = make(scratch)
    path = os.path.join(root, FILE)
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode=WAL")
    ends = {}
    for day in range(1, 11):  # the 2nd and the 9th of March 2031 are Sundays
        for i in range(3):
            writer.execute("INSERT INTO trades(symbol) VALUES(?)", ("D%d-%d" % (day, i),))
            writer.commit()
            s.save()
        ends[day] = rows(path)
        if day in (1, 8):
            s.at("02:00:01", "archive")
        s.at("04:00:01", "prune")
        s.clock.wait("12:00:00")
    assert s.done("archive") == 2, "weekly"
    weekly = s.archives()
    assert [x["name"][:17] for x in weekly] == ["backup_2031-03-02", "backup_2031-03-09"], weekly
    s.same_listing(weekly)
    days = {}
    for x in s.snapshots():
        days.setdefault(x["time"][:10], []).append(x)
    assert set(days) >= {"2031-03-%02d" % d for d in range(6, 11)}, sorted(days)
    assert "2031-03-04" not in days and "2031-03-02" not in days, sorted(days)
    for d in range(6, 11):
        last = days["2031-03-%02d" % d][-1]
        to = os.path.join(scratch, "day%d" % d)
        s.cli("restore", str(last["id"]), "--to", to)
        assert rows(os.path.join(to, FILE)) == ends[d], (d, last)
    to = os.path.join(scratch, "weekly")
    s.cli("restore", weekly[0]["name"], "--to", to)
    assert rows(os.path.join(to, FILE)) == ends[1]
    writer.close()
    s.stop()


def restored_by_number(scratch):
    """Listed, then restored by name, by number and as the latest; never without the word."""
    root, s = make(scratch)
    path = os.path.join(root, FILE)
    assert s.save("--name", "before-migration", "--note", "0042")["current"]
    s.clock.wait(3600)
    database(path, 20)
    second = s.save()["current"]
    s.clock.wait(3600)
    database(path, 30)
    s.save()
    listed = s.snapshots()
    named = next(x for x in listed if x["name"])
    assert named["name"] == "before-migration" and named["note"] == "0042" and named["pinned"]
    out = s.cli("list").out.splitlines()
    for x in listed:
        line = [n for n in out if n.split()[:1] == [str(x["id"])]]
        at = datetime.datetime.fromtimestamp(wk.seconds_of(x["time"])).strftime("%Y-%m-%d %H:%M")
        assert len(line) == 1 and at in line[0] and x["kind"] in line[0], (x, out)
        assert x["files"] == 1 and x["bytes"] > 4096 and "KiB" in line[0], (x, line)
    assert rows(path) == 60
    database(path, 1)  # not saved yet: the restore does it first
    for which, count in (("before-migration", 10), (str(second), 30)):
        def check():
            assert rows(path) == count, (which, rows(path))
        s.restored_by(which, check)
        assert rows(path) == 61
        to = os.path.join(scratch, "out-" + which)
        s.cli("restore", which, "--to", to)
        assert rows(os.path.join(to, FILE)) == count, which
    # The latest, when rows were removed; and the last good one, when the file is ruined.
    saved = s.save()["current"]
    db = sqlite3.connect(path)
    db.execute("DELETE FROM trades")
    db.commit()
    db.close()
    s.cli("restore", "latest~1", "--in-place", code=5)
    assert rows(path) == 0
    s.clock.wait(600)  # in idle time what was saved is verified
    wk.until(lambda: next(x for x in s.snapshots() if x["id"] == saved)["good"], "it to be good")
    wk.write(path, b"no database at all" * 100)
    ruined = s.save()["current"]
    assert next(x for x in s.snapshots() if x["id"] == ruined)["spoilt"] == 1
    r = s.cli("restore", "latest", "--in-place", code=5)
    assert "good" in r.err, r
    s.cli("restore", str(saved), "--in-place", "--confirm")
    assert rows(path) == 61
    s.save()
    database(path, 1)
    s.save()

    def check():
        assert rows(path) == 61
    s.restored_by("latest~1", check)
    s.cli("restore", "999", "--in-place", "--confirm", code=6)
    last = rows(path)
    s.stop()
    db = sqlite3.connect(path)
    db.execute("DROP TABLE trades")
    db.commit()
    db.close()

    def check_last():
        assert rows(path) == last
    s.restored_after_a_crash(check_last)


wk.main(a_copy_every_night, restored_by_number)
