"""A bot's JSON files, as people kept them: a look every hour, a dated folder with metadata every
day at three, folders older than a week removed, and yesterday's copied back by plain cp."""
import json
import os
import re
import subprocess

import wk
from procedure import Service, put

DAYS = 7


def make(scratch, **more):
    root, place = os.path.join(scratch, "data"), os.path.join(scratch, "backups")
    put(os.path.join(root, "users.json"), json.dumps({"1": {"coins": 0}}))
    put(os.path.join(root, "guilds", "10.json"), json.dumps({"prefix": "!"}))
    return root, place, Service(
        scratch, "bot", root,
        {"archive": {"format": "directory", "path": place, "at": "03:00", "keep_days": DAYS},
         "retention": {"prune_at": "04:00", "keep_days": DAYS}},
        watch={"interval": "1h"}, **more)


def coins(folder):
    with open(os.path.join(folder, "users.json")) as f:
        return json.load(f)["1"]["coins"]


def every_hour(scratch):
    """A look at all of it an hour apart: what changed is a snapshot, what did not is none."""
    root, place, s = make(scratch, start="2031-03-01 06:00:00")
    for hour in range(1, 7):
        before = s.status()["watches"][0]["last_checked"]
        s.clock.wait(3601)
        wk.until(lambda: wk.seconds_of(s.status()["watches"][0]["last_checked"]) >=
                 wk.seconds_of(before) + 3600, "the look of this hour")
        if hour % 2:
            put(os.path.join(root, "users.json"), json.dumps({"1": {"coins": hour}}))
            wk.until(lambda: len(s.snapshots()) == 1 + (hour + 1) // 2, "what changed to be saved")
    assert len(s.snapshots()) == 4, s.snapshots()
    at = [wk.seconds_of(x["time"]) for x in s.snapshots()]
    assert all(7200 <= b - a < 7300 for a, b in zip(at[1:], at[2:])), s.snapshots()
    s.stop()


def a_folder_a_day(scratch):
    """Twelve days: each has its folder, at its hour, with what the bot had then; the last seven
    days and what has a name are there at the end."""
    root, place, s = make(scratch)
    for day in range(2, 14):
        put(os.path.join(root, "users.json"), json.dumps({"1": {"coins": day}}))
        if day == 4:
            s.cli("archive", "bot", "--name", "before-update", "--meta", "release=2.0")
        s.night()
        found = s.archives("automatic")[-1]
        assert re.fullmatch(r"backup_2031-03-%02d_03-00-\d\d" % day, found["name"]), found
        folder = os.path.join(place, "bot", "automatic", found["name"])
        assert found["path"] == folder and found["format"] == "directory" and found["verified"]
        assert coins(folder) == day, "the folder of that day has that day's state"
        with open(os.path.join(folder, "metadata.json")) as f:
            meta = json.load(f)
        assert meta["backup_date"].startswith("2031-03-%02d 03:00:" % day), meta
        assert meta["file_count"] == 2 and meta["watch"] == "bot" and meta["zone"] == "+00:00"
        assert sorted(x["path"] for x in meta["files_backed_up"]) == ["guilds/10.json",
                                                                      "users.json"]
    # At four on the 13th the folders from before four on the 6th are older than seven days.
    days = [int(x["name"][15:17]) for x in s.archives("automatic")]
    assert days == list(range(7, 14)), days
    on_disk = sorted(n for n in os.listdir(os.path.join(place, "bot", "automatic"))
                     if not n.endswith(".json"))
    assert on_disk == [x["name"] for x in s.archives("automatic")], on_disk
    named = s.archives("manual")
    assert [x["name"] for x in named] == ["backup_before-update"], "what has a name stays"
    assert coins(named[0]["path"]) == 4
    s.same_listing(s.archives())
    s.stop()


def never_fewer_than_three(scratch):
    """The bot's host was off for a month: its last folders are there, however old."""
    root, place, s = make(scratch)
    for day in range(5):
        put(os.path.join(root, "users.json"), json.dumps({"1": {"coins": day}}))
        s.night()
    five = [x["name"] for x in s.archives()]
    assert len(five) == 5
    pruned = s.done("prune")
    s.stop()
    s.clock.wait(40 * 86400)
    s.start()
    # Made up once, and not for each day; with the new one, two of the old make three.
    wk.until(lambda: s.done("prune") > pruned, "the runs that were missed")
    names = [x["name"] for x in s.archives()]
    assert s.done("archive") == 6 and names[:-1] == five[-2:], names
    s.night()
    s.night()
    names = [x["name"] for x in s.archives()]
    assert len(names) == 3 and s.done("archive") == 8 and not set(five) & set(names), names
    s.stop()


def a_repository_begun_anew(scratch):
    """The disk of the repository is lost, that of the folders is not: the new repository counts its
    snapshots from one, and the old folders are still the older ones."""
    root, place, s = make(scratch)
    for day in range(9):
        for i in range(4):
            put(os.path.join(root, "users.json"), json.dumps({"1": {"coins": day, "i": i}}))
            s.save()
        s.night()
    old = [x["name"] for x in s.archives()]
    assert len(old) == DAYS and s.archives()[-1]["snapshot"] > 30, s.archives()
    s.stop()
    wk.remove(s.repo)
    s.start()
    new = []
    for day in range(DAYS + 3):
        put(os.path.join(root, "users.json"), json.dumps({"1": {"coins": 100 + day}}))
        s.night()
        new.append(s.archives()[-1]["name"])
        left = [x["name"] for x in s.archives()]
        assert left == (old + new)[-DAYS:], (day, left, old, new)
    assert s.archives()[-1]["snapshot"] < 30, s.archives()
    s.stop()


def copied_back(scratch):
    """The bot ruins its file: told, and taken from yesterday's folder in every way there is."""
    root, place, s = make(scratch)
    put(os.path.join(root, "users.json"), json.dumps({"1": {"coins": 5}}))
    s.cli("save", "bot", "--name", "five", "--note", "by hand")
    s.night()
    folder = s.archives()[0]
    wk.until(lambda: s.snapshots()[-1]["good"], "the snapshot to be verified and good", 150)
    put(os.path.join(root, "users.json"), "")
    number = s.save()["current"]
    five = next(x for x in s.snapshots() if x["name"] == "five")
    assert (five["kind"], five["note"], five["files"], five["pinned"]) == (
        "manual", "by hand", 2, True), five
    out = s.cli("list").out
    assert "five" in out and "manual" in out and "2031-03-01 12:00" in out, out
    assert next(x for x in s.snapshots() if x["id"] == number)["spoilt"] == 1
    for which in ("five", str(five["id"]), "good", folder["name"]):
        def check():
            assert coins(root) == 5, which
        if which == folder["name"]:  # a folder of its own, and from there by hand
            to = os.path.join(scratch, "out")
            s.cli("restore", which, "--to", to)
            assert coins(to) == 5
        else:
            s.restored_by(which, check)
    # Plain cp, as the written procedure has it.
    subprocess.run(["cp", "-a", folder["path"] + "/.", root], check=True)
    os.remove(os.path.join(root, "metadata.json"))
    assert coins(root) == 5
    s.save()
    versions = s.cli("--json", "history", os.path.join(root, "users.json")).json["versions"]
    assert len(versions) >= 3, versions
    assert s.cli("cat", "latest:users.json").out == '{"1": {"coins": 5}}'
    put(os.path.join(root, "users.json"), "{}")
    s.save()
    s.restored_by("latest~1", check)
    put(os.path.join(root, "users.json"), '{"1": {"coins": 5}}')
    s.stop()
    wk.remove(os.path.join(root, "guilds"))
    put(os.path.join(root, "users.json"), "")

    def check_all():
        assert coins(root) == 5 and os.path.exists(os.path.join(root, "guilds", "10.json"))
    s.restored_after_a_crash(check_all)


wk.main(every_hour, a_folder_a_day, never_fewer_than_three,
        a_repository_begun_anew, copied_back)
