"""Four procedures that people had for their apps, done whole with our commands: hourly states and
dated daily folders of a bot, backups of one database restored by id, packed and checked backups of
a trading app, the last 30 of a site with a target that fails and a disk that fills."""
import json
import os
import re
import shutil
import sqlite3
import subprocess
import tarfile

import wk

SIZE = 16 if wk.SANITIZED else 100  # MB of the large restore


def put(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    wk.write(path, text)


def service(scratch, name, root, sections=None, watch=None, **more):
    return wk.Service(scratch, {name: dict({"path": root, "settle": "50ms"}, **watch or {})},
                      sections=sections, **more)


def database(path, rows):
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE IF NOT EXISTS trades(id INTEGER PRIMARY KEY, symbol TEXT)")
    db.executemany("INSERT INTO trades(symbol) VALUES(?)", [("S%d" % i,) for i in range(rows)])
    db.commit()
    db.close()


def rows(path):
    db = sqlite3.connect(path)
    count = db.execute("SELECT count(*) FROM trades").fetchone()[0]
    db.close()
    return count


def archives(s):
    return s.cli("--json", "list", "--archives").json["archives"]


def bot_with_daily_folders(scratch):
    """Hourly saves, a folder a day with metadata in it, old folders removed, one copied back."""
    root, place = os.path.join(scratch, "data"), os.path.join(scratch, "backups")
    put(os.path.join(root, "users.json"), json.dumps({"1": {"coins": 5}}))
    put(os.path.join(root, "guilds", "10.json"), json.dumps({"prefix": "!"}))
    s = service(scratch, "bot", root, {"archive": {"format": "directory", "path": place,
                                                   "at": "off", "keep_days": 14}},
                {"interval": "1h"})
    s.due("archive")
    wk.until(lambda: archives(s), "the daily archive")
    found = archives(s)[0]
    assert re.fullmatch(r"backup_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", found["name"]), found
    folder = os.path.join(place, "bot", "automatic", found["name"])
    assert found["path"] == folder and found["format"] == "directory", found
    with open(os.path.join(folder, "metadata.json")) as f:
        meta = json.load(f)
    assert meta["file_count"] == 2 and meta["watch"] == "bot", meta
    assert sorted(x["path"] for x in meta["files_backed_up"]) == ["guilds/10.json", "users.json"]
    wk.until(lambda: archives(s)[0]["verified"], "it to be read back")
    assert "2" in s.cli("list").out and "startup" in s.cli("list").out
    # The next day; the old one is kept by its age, and the floor keeps three whatever is set.
    assert "within 14 days" in s.cli("prune", "--dry-run").out, s.cli("prune", "--dry-run").out
    # The bot ruins its file; yesterday's folder is copied back by plain cp.
    wk.replace(os.path.join(root, "users.json"), "{}")
    s.save()
    os.remove(os.path.join(folder, "metadata.json"))
    subprocess.run(["cp", "-a", folder + "/.", root], check=True)
    s.save()
    with open(os.path.join(root, "users.json")) as f:
        assert json.load(f) == {"1": {"coins": 5}}
    assert len(s.cli("--json", "history", os.path.join(root, "users.json")).json["versions"]) == 3
    s.stop()


def database_by_id(scratch):
    """Backups of one database, in use all the time: listed, restored by latest, name and id."""
    root = os.path.join(scratch, "instance")
    os.mkdir(root)
    path = os.path.join(root, "app.sqlite3")
    database(path, 10)
    s = service(scratch, "site", root)
    assert s.save("--name", "before-migration", "--note", "0042")["current"]
    database(path, 20)
    second = s.save()["current"]
    database(path, 30)
    s.save()
    listed = s.snapshots()
    named = next(x for x in listed if x["name"])
    assert named["name"] == "before-migration" and named["note"] == "0042" and named["pinned"]
    assert named["files"] == 1 and named["bytes"] > 0 and named["time"] and named["kind"], named
    assert rows(path) == 60
    for which, count in (("before-migration", 10), (str(second), 30), ("latest", 60)):
        # Asked for first, and nothing is touched without the confirmation.
        if count != rows(path):
            before = rows(path)
            s.cli("restore", which, "--in-place", code=5)
            assert rows(path) == before
            s.cli("restore", which, "--in-place", "--confirm")
            assert rows(path) == count, which
            s.cli("undo", "--confirm")
            assert rows(path) == before
        to = os.path.join(scratch, "out-" + which)
        s.cli("restore", which, "--to", to)
        assert rows(os.path.join(to, "app.sqlite3")) == count, which
    s.stop()


def trading_app(scratch):
    """Packed archives, by themselves and by name; checked in every way there is; first in first
    out, but never fewer than three."""
    root, place = os.path.join(scratch, "trading"), os.path.join(scratch, "archive")
    os.mkdir(root)
    database(os.path.join(root, "trading.db"), 100)
    s = service(scratch, "trading", root,
                {"archive": {"path": place, "at": "off", "keep_last": 1, "keep_days": "off"}})
    s.due("archive")
    wk.until(lambda: archives(s), "the archive")
    s.set("archive", at="off")
    s.cli("archive", "--name", "before-release", "--meta", "version=2.1")
    by_name = next(x for x in archives(s) if x["kind"] == "manual")
    subprocess.run(["gzip", "-t", by_name["path"]], check=True)
    with tarfile.open(by_name["path"]) as t:
        member = [n for n in t.getnames() if n.endswith("metadata.json")][0]
        meta = json.load(t.extractfile(member))
    assert meta["app"] == {"version": "2.1"}, meta
    found = meta["databases"][0]
    assert (found["path"], found["tables"], found["rows"]) == ("trading.db", 1, 100), found
    assert found["integrity"] == "ok", found
    s.cli("verify", by_name["path"])
    with open(by_name["path"], "r+b") as f:
        f.seek(os.path.getsize(by_name["path"]) // 2)
        byte = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte[0] ^ 1]))
    s.cli("verify", by_name["path"], code=4)
    for i in range(4):
        database(os.path.join(root, "trading.db"), 1)
        s.cli("archive", "trading")
    automatic = [x["name"] for x in archives(s) if x["kind"] == "automatic"]
    assert len(automatic) == 5, automatic
    s.cli("prune")
    left = [x["name"] for x in archives(s) if x["kind"] == "automatic"]
    assert left == automatic[-3:], (left, automatic)
    assert any(x["kind"] == "manual" for x in archives(s)), "the named one stays"
    to = os.path.join(scratch, "out")
    s.cli("restore", left[-1], "--to", to)
    assert rows(os.path.join(to, "trading.db")) == 104
    s.stop()


def last_thirty(scratch):
    """Thirty are kept; a target that fails is tried three times, a minute apart unless the settings
    say otherwise; a disk 80 % full is told; a large tree comes back."""
    root, target = os.path.join(scratch, "media"), os.path.join(scratch, "target")
    put(os.path.join(root, "site.json"), '{"n": 0}')
    s = service(scratch, "site", root,
                {"retention": {"keep_days": "off", "keep_daily": "off", "keep_monthly": "off",
                               "keep_last": 30, "prune_at": "off"}})
    default = {(v["section"], v["key"]): v["value"]
               for v in s.cli("--json", "config", "show").json["values"]}
    assert default["retry", "attempts"] == "3" and default["retry", "delay"] == "60s", default
    for i in range(1, 37):
        wk.replace(os.path.join(root, "site.json"), '{"n": %d}' % i)
        s.save()
    assert s.cli("verify").code == 0
    number = s.snapshots()[-1]["id"]
    s.cli("prune")
    kept = s.snapshots()
    assert [x["id"] for x in kept] == list(range(number - 29, number + 1)), kept
    # The target is no folder.
    wk.write(target, "")
    s.set("retry", attempts=3, delay="1s")
    s.due("archive", path=target)
    wk.until(lambda: "archive-failed" in s.codes(), "the third try to fail")
    tries = [e["attempt"] for e in s.status()["events"] if e["event"] == "job-failed"]
    assert tries == [1, 2, 3], tries
    os.remove(target)
    s.cli("archive", "site")
    wk.until(lambda: s.codes() == [], "all to be well")
    # A restore of what a real site holds.
    with open(os.path.join(root, "video"), "wb") as f:
        for _ in range(SIZE):
            f.write(os.urandom(1 << 20))
    s.save()
    to = os.path.join(scratch, "out")
    r = s.cli("--json", "restore", "latest", "--to", to).summary
    assert r["bytes"] >= SIZE << 20 and r["seconds"] < 600, r
    wk.same(wk.tree(root), wk.tree(to))
    s.stop()


def a_disk_that_fills(scratch):
    at = os.path.join(scratch, "disk")
    os.mkdir(at)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "none", at]).returncode:
        wk.skip("cannot mount a tmpfs here")
    try:
        root = os.path.join(scratch, "data")
        put(os.path.join(root, "a.json"), "{}")
        s = service(scratch, "app", root, repo=os.path.join(at, "repo"))
        assert s.codes() == [], s.status()
        wk.write(os.path.join(at, "others"), "")
        with open(os.path.join(at, "others"), "r+b") as f:
            os.posix_fallocate(f.fileno(), 0, int(shutil.disk_usage(at).total * 0.85)
                               - shutil.disk_usage(at).used)
        wk.until(lambda: "space" in s.codes(), "the disk's state to be told")
        assert s.cli("status", code=7).out.count("full") >= 1, s.cli("status", code=7).out
        wk.replace(os.path.join(root, "a.json"), '{"n": 1}')
        assert s.save()["snapshot"], "there is room enough for a save"
        s.stop()
    finally:
        subprocess.run(["umount", at], check=True)


wk.main(bot_with_daily_folders, database_by_id, trading_app, last_thirty, a_disk_that_fills)
