"""A trading app's database and settings, as people kept them: packed copies by themselves and by
name; each tested (does it unpack, open, hold its tables and rows); first in, first out, but never
fewer than three."""
import json
import os
import re
import sqlite3
import subprocess
import tarfile

import wk
from procedure import Service, database, put, rows


def make(scratch, prune_at, **archive):
    root, place = os.path.join(scratch, "trading"), os.path.join(scratch, "archive")
    put(os.path.join(root, "config", "pairs.json"), '["BTC", "ETH"]')
    database(os.path.join(root, "trading.db"), 100)
    return root, place, Service(
        scratch, "trading", root,
        {"archive": dict({"path": place, "at": "00:30", "keep_last": 1, "keep_days": "off"},
                         **archive),
         "retention": {"prune_at": prune_at, "keep_days": "off", "keep_daily": "off",
                       "keep_monthly": "off", "keep_last": 1},
         "verify": {"at": "05:00", "restore_test": "archive"}})


def every_six_hours(scratch):
    """Three days, an archive every six hours; whatever the rules say, three stay, and what has a
    name besides. The nightly test unpacks the newest."""
    root, place, s = make(scratch, "6h", at="0 */6 * * *")
    made = []
    for i in range(12):
        database(os.path.join(root, "trading.db"), 1)
        s.save()
        if i == 4:
            s.cli("archive", "--name", "before-release", "--meta", "version=2.1")
            made.append("backup_before-release")
        pruned = s.done("prune")
        s.at("%02d:00:01" % ((18 + 6 * i) % 24), "archive")
        wk.until(lambda: s.done("prune") > pruned, "the prune after it")
        made.append(s.archives("automatic")[-1]["name"])
        assert re.match(r"backup_2031-03-0\d_%02d-00-" % ((18 + 6 * i) % 24), made[-1]), made
        left = [x["name"] for x in s.archives()]
        assert left[-3:] == made[-3:] and len(left) <= 6, (left, made)
        # The newest of each of the last three days is never among those that go.
        days = sorted({n[7:17] for n in made if n[7:11] == "2031"})[-3:]
        for day in days:
            assert [n for n in made if n[7:17] == day][-1] in left, (day, left, made)
    assert len(set(made)) == 13
    wk.until(lambda: s.log_text().count("as it was written") >= 3, "the nightly tests")
    assert [x["name"] for x in s.archives("manual")] == ["backup_before-release"]
    s.same_listing(s.archives())
    s.stop()


def tested_in_every_way(scratch):
    """What the metadata says of the database is so; a flipped bit is found, told, and such an
    archive never counts among the three."""
    root, place, s = make(scratch, "11:00")
    s.cli("archive", "--name", "before-release", "--meta", "version=2.1")
    by_name = s.archives("manual")[0]
    subprocess.run(["gzip", "-t", by_name["path"]], check=True)
    to = os.path.join(scratch, "unpacked")
    os.mkdir(to)
    subprocess.run(["tar", "-C", to, "-xzf", by_name["path"]], check=True)
    db = sqlite3.connect(os.path.join(to, by_name["name"], "trading.db"))
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    tables = [r[0] for r in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    count = sum(db.execute("SELECT count(*) FROM %s" % t).fetchone()[0] for t in tables)
    db.close()
    with tarfile.open(by_name["path"]) as t:
        meta = json.load(t.extractfile(by_name["name"] + "/metadata.json"))
    assert meta["app"] == {"version": "2.1"} and meta["kind"] == "manual", meta
    assert meta["databases"] == [{"path": "trading.db", "tables": len(tables), "rows": count,
                                  "integrity": "ok"}], (meta, tables, count)
    s.cli("verify", by_name["path"])
    # Seven nights; then the newest two are damaged, before the nightly test.
    def night():
        database(os.path.join(root, "trading.db"), 1)
        s.save()
        s.at("00:30:01", "archive")
    for i in range(6):
        night()
        pruned = s.done("prune")
        s.clock.wait("12:00:00")
        wk.until(lambda: s.done("prune") > pruned, "old ones to go")
    assert len(s.archives("automatic")) == 3, s.archives()
    night()
    bad = s.archives("automatic")[-2:]
    for x in bad:
        with open(x["path"], "r+b") as f:
            f.seek(x["stored_bytes"] // 2)
            some = f.read(64)  # more than a gzip header, in which not every bit says something
            f.seek(-len(some), os.SEEK_CUR)
            f.write(bytes(b ^ 1 for b in some))
    # One is found by hand; the newest by the nightly test, which tells of it.
    s.cli("verify", bad[0]["name"], code=4)
    s.clock.wait("05:00:01")
    wk.until(lambda: "verify failed (try 1" in s.log_text(), "the nightly test to find it")
    s.clock.wait(61)
    wk.until(lambda: "verify failed (try 2" in s.log_text(), "the second try")
    s.clock.wait(61)
    wk.until(lambda: "verify-failed" in s.codes(), "it to be told")
    assert bad[1]["name"] in s.cli("status", code=7).out
    assert [x["name"] for x in s.archives() if x["damaged"]] == [x["name"] for x in bad]
    s.clock.wait("12:00:00")
    # What is damaged never counts: the sound ones of before stay until three newer ones are there.
    sound = [x["name"] for x in s.archives() if not x["damaged"]]
    assert len(sound) == 3 and s.done("archive") == 7, sound
    for i in range(3):
        night()
        s.cli("prune")
        left = [x["name"] for x in s.archives() if x["verified"]]
        sound.append(s.archives("automatic")[-1]["name"])
        assert [n for n in left if n in sound[-3:]] == sound[-3:], (left, sound)
        s.clock.wait("12:00:00")
    wk.until(lambda: s.codes() == [], "the next night's test to find all well")
    assert s.archives("manual"), "the named one stays"
    os.remove(os.path.join(root, "config", "pairs.json"))
    s.save()

    def check():
        with open(os.path.join(root, "config", "pairs.json")) as f:
            assert f.read() == '["BTC", "ETH"]'
    s.restored_by("latest~1", check)
    to = os.path.join(scratch, "out")
    s.cli("restore", sound[-1], "--to", to)
    assert rows(os.path.join(to, "trading.db")) == 110, rows(os.path.join(to, "trading.db"))
    s.stop()


wk.main(every_six_hours, tested_in_every_way)
