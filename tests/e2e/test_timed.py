"""Timed jobs of the service: when they run, and what is told of them."""
import datetime
import json
import os
import sqlite3

import wk


class Service(wk.Service):
    """One watch, clocks that the test moves, and an alert program of our own."""

    def __init__(self, scratch, sections=None, start=True):
        self.clock = wk.Clock(scratch)
        self.root = os.path.join(scratch, "data")
        self.told_file = os.path.join(scratch, "told")
        self.breaker = os.path.join(scratch, "alert-is-broken")
        os.mkdir(self.root)
        wk.write(os.path.join(self.root, "a.json"), '{"n": 1}')
        super().__init__(scratch, {"bot": {"path": self.root, "settle": "50ms"}}, start=start,
                         sections=sections)

    def due(self, section, key="at", **more):
        """Have the job run at a time of its own, and let it come."""
        self.set_hour(section, key, **more)
        self.clock.wait(3601)

    def set_hour(self, section, key="at", **more):
        """It is to run in an hour."""
        at = self.clock.now() + datetime.timedelta(hours=1)
        self.set(section, **{key: at.strftime("%H:%M:%S")}, **more)

    def alert_command(self):
        """A program that keeps what it is given, unless it is told to fail."""
        path = os.path.join(self.dir, "alert.py")
        wk.write(path, "#!/usr/bin/env python3\nimport os, sys\nif os.path.exists(%r):\n"
                 "    sys.exit(3)\ntext = sys.stdin.read()\n"
                 "open(%r, 'a').write(text + '\\n')\n" % (self.breaker, self.told_file))
        os.chmod(path, 0o755)
        return path

    def told(self):
        if not os.path.exists(self.told_file):
            return []
        with open(self.told_file) as f:
            return [json.loads(line) for line in f.read().splitlines()]


def verified_by_itself(scratch):
    """What a save added is read back within minutes, without anybody asking."""
    s = Service(scratch)
    s.clock.wait(600)
    wk.until(lambda: s.snapshots()[-1]["verified"], "the snapshot to be verified")
    assert s.snapshots()[-1]["good"] is True
    wk.replace(os.path.join(s.root, "a.json"), '{"n": 2}')
    s.save()
    s.clock.wait(600)
    wk.until(lambda: all(x["verified"] for x in s.snapshots()), "the second one too")
    s.stop()


def verify_at_its_time(scratch):
    """The nightly verification reads its share and restores the latest for a test."""
    s = Service(scratch, {"verify": {"at": "off", "sample": "100%"}})
    s.due("verify")
    wk.until(lambda: "verify done" in s.log_text(), "the verification and its test of a restore")
    status = s.status()
    assert 0 < status["repository"]["restore_seconds"] < 60, status
    assert status["problems"] == [], status
    assert "a restore of all takes" in s.cli("status").out, s.cli("status").out
    state = os.path.join(scratch, "state")
    assert not [n for n in os.listdir(state) if n.startswith("restore-test")], os.listdir(state)
    # Its state survives a restart and the loss of the catalog: nothing is run twice.
    s.stop()
    for name in os.listdir(s.repo):
        if name.startswith("catalog.db"):
            os.remove(os.path.join(s.repo, name))
    s.start()
    assert s.status()["repository"]["restore_seconds"] == status["repository"]["restore_seconds"]
    s.save()
    assert s.log_text().count("verify done") == 1, s.log_text()
    s.stop()


def archives_come_back(scratch):
    """With restore_test = archive the newest one is unpacked, compared, its databases opened, and
    all that removed again; a damaged one of one watch leaves out no other."""
    s = Service(scratch, {"verify": {"at": "off", "restore_test": "archive"}}, start=False)
    for name in ("other", "third"):
        s.watches[name] = {"path": os.path.join(scratch, name)}
        os.mkdir(s.watches[name]["path"])
        wk.write(os.path.join(scratch, name, "a"), name * 1000)
    s.write_config()
    with sqlite3.connect(os.path.join(s.root, "app.db")) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE t(x)")
        db.executemany("INSERT INTO t VALUES(?)", [(i,) for i in range(1000)])
    db.close()
    wk.write(os.path.join(s.root, "metadata.json"), '{"of": "the app"}')
    os.link(os.path.join(s.root, "a.json"), os.path.join(s.root, "again"))
    os.symlink("a.json", os.path.join(s.root, "link"))
    with open(os.path.join(s.root, "holes"), "wb") as f:
        f.truncate(1 << 22)
        f.seek(1 << 21)
        f.write(b"data")
    wk.write(os.path.join(os.fsencode(s.root), b"odd\xff\nname"), "x")
    s.start()
    state = os.path.join(scratch, "state")
    os.makedirs(os.path.join(state, "restore-test-killed", "tree"))
    s.cli("archive")
    s.due("verify")
    wk.until(lambda: s.status()["repository"]["restore_seconds"] is not None,
             "the test of a restore")
    wk.until(lambda: "verify done" in s.log_text(), "its end")
    assert s.status()["problems"] == [], s.status()
    assert s.log_text().count("came back") == 3, s.log_text()
    assert not [n for n in os.listdir(state) if n.startswith("restore-test")], os.listdir(state)
    damaged = s.cli("--json", "list", "other", "--archives").json["archives"][0]["path"]
    with open(damaged, "r+b") as f:
        f.seek(100)
        f.write(b"damage")
    s.due("verify")
    wk.until(lambda: s.log_text().count("came back") == 5, "the others")
    wk.until(lambda: [e for e in s.status()["events"] if e["event"] == "job-failed"], "the failure")
    event = s.status()["events"][-1]
    assert event["job"] == "verify" and damaged in event["message"], event
    assert not [n for n in os.listdir(state) if n.startswith("restore-test")], os.listdir(state)
    assert s.cli("--json", "list", "other", "--archives").json["archives"][0]["damaged"]
    # A watch that is none any more takes no time.
    before = s.status()["repository"]["restore_seconds"]
    del s.watches["third"]
    s.set("verify", at="off")
    assert 0 < s.status()["repository"]["restore_seconds"] < before, (before, s.status())
    s.stop()


def missed_run_is_made_up(scratch):
    """A slot that passed while the service was off is run once at the start."""
    s = Service(scratch, {"verify": {"at": "off"}})
    at = s.clock.now() + datetime.timedelta(hours=1)
    s.set("verify", at=at.strftime("%H:%M:%S"))
    s.stop()
    s.clock.wait(7200)
    s.start()
    wk.until(lambda: "verify done" in s.log_text(), "the run that was missed")
    s.stop()
    s.start()
    s.save()
    assert s.log_text().count("verify done") == 1, s.log_text()
    s.stop()


def tries_fail(s, count):
    """Three tries, a minute apart; so many there were in all then."""
    for n in (count - 2, count - 1, count):
        wk.until(lambda: len([e for e in s.status()["events"] if e["event"] == "job-failed"]) >= n,
                 "try %d to fail" % n)
        if n < count:
            s.clock.wait(61)
    wk.until(lambda: "archive-failed" in s.codes(), "the last try to fail")


def an_archive_that_fails(scratch):
    """Three tries, events for each, exit 7, one alert; well again: another one."""
    s = Service(scratch, start=False)
    target = os.path.join(scratch, "archives")
    wk.write(target, "no folder")
    s.sections.update({"archive": {"at": "off", "path": target},
                       "alert": {"command": s.alert_command()}})
    s.write_config()
    s.start()
    s.due("archive")
    tries_fail(s, 3)
    events = [e for e in s.status()["events"] if e["event"] == "job-failed"]
    assert [e["attempt"] for e in events] == [1, 2, 3], events
    assert [e["last"] for e in events] == [False, False, True], events
    assert all(e["job"] == "archive" and e["watch"] == "bot" and target in e["message"]
               for e in events), events
    r = s.cli("status", code=7)
    assert "archive failed" in r.out and "watchkeep archive bot" in r.out, r.out
    assert "archive failed (try 3)" in s.cli("list").out, s.cli("list").out
    assert [e["attempt"] for e in s.cli("--json", "list").json["events"]] == [1, 2, 3]
    wk.until(s.told, "the alert")
    # A restart tries what is owed, and tells nothing twice.
    s.stop()
    r = s.cli("status", code=8)
    assert "archive failed" in r.out, r.out
    s.start()
    tries_fail(s, 6)
    wk.until(lambda: "archive-failed" in s.codes(), "the problem again")
    # Another time makes nothing well; working again at that time does.
    os.remove(target)
    s.set_hour("archive")
    assert "archive-failed" in s.codes()
    s.clock.wait(3601)
    wk.until(lambda: "archive-failed" not in s.codes(), "the archive")
    assert s.status()["watches"][0]["last_archive"], s.status()
    told = wk.until(lambda: len(s.told()) >= 2 and s.told(), "the recovery to be told")
    assert [t["event"] for t in told] == ["problem", "recovered"], told
    assert all(t["code"] == "archive-failed" and t["watch"] == "bot" for t in told), told
    status = s.status()
    assert status["repository"]["archives"] == 1 and status["watches"][0]["last_archive"], status
    assert status["watches"][0]["next_archive"] > status["watches"][0]["last_archive"], status
    assert s.cli("status").code == 0
    s.stop()


def killed_before_it_was_read_back(s):
    """The archive that is due stands under its name, nothing more: it is long enough for the kill to
    come while it is read back."""
    folder = os.path.join(s.repo, "archives", "bot", "automatic")

    def stands():
        return os.path.isdir(folder) and [n for n in os.listdir(folder) if n.startswith("backup_")]
    wk.write(os.path.join(s.root, "large"), os.urandom(24 << 20))
    while True:
        s.due("archive")
        wk.until(stands, "an archive", pace=0)
        s.kill()
        made = archives(s)
        if len(made) == 1 and not made[0]["verified"]:
            return made[0]["path"]
        wk.remove(folder)
        s.start()


def archives(s):
    return s.cli("--json", "list", "bot", "--archives").json["archives"]


def what_a_try_wrote_is_not_written_again(scratch):
    s = Service(scratch, {"archive": {"at": "off"}})
    path = killed_before_it_was_read_back(s)
    done = s.log_text().count("archive done")
    s.start()
    wk.until(lambda: archives(s)[0]["verified"], "it to be read back")
    wk.until(lambda: s.log_text().count("archive done") > done, "the job's end")
    assert [a["path"] for a in archives(s)] == [path], archives(s)
    s.stop()


def a_damaged_one_gives_way(scratch):
    """As soon as another one stands in its place."""
    s = Service(scratch, {"archive": {"at": "off"}})
    path = killed_before_it_was_read_back(s)
    with open(path, "r+b") as f:
        f.seek(100)
        f.write(b"damage")
    done = s.log_text().count("archive done")
    s.start()
    wk.until(lambda: s.log_text().count("archive done") > done, "another one")
    assert len(archives(s)) == 1 and archives(s)[0]["verified"], archives(s)
    assert archives(s)[0]["path"] != path and s.codes() == [], s.status()
    s.stop()


def an_archive_by_hand_settles_it(scratch):
    """What a failed job owes is done by the command that status names."""
    s = Service(scratch, {"retry": {"attempts": "1"}}, start=False)
    target = os.path.join(scratch, "archives")
    wk.write(target, "no folder")
    s.sections["archive"] = {"at": "off", "path": target}
    s.write_config()
    s.start()
    s.due("archive")
    wk.until(lambda: "archive-failed" in s.codes(), "the archive to fail")
    s.cli("archive", "bot", code=None)
    assert "archive-failed" in s.codes()
    os.remove(target)
    s.cli("archive", "bot")
    wk.until(lambda: s.codes() == [], "all to be well")
    s.stop()
    s.start()
    s.save()
    assert s.codes() == [] and s.status()["repository"]["archives"] == 1, s.status()
    s.stop()


def what_is_no_job_any_more(scratch):
    """One that failed and then is switched off, or whose watch is gone, is no problem."""
    s = Service(scratch, {"retry": {"attempts": "1"}}, start=False)
    s.watches["other"] = {"path": os.path.join(scratch, "other")}
    os.mkdir(s.watches["other"]["path"])
    wk.write(os.path.join(scratch, "other", "a"), "a")
    target = os.path.join(scratch, "archives")
    wk.write(target, "no folder")
    s.sections["archive"] = {"at": "off", "path": target}
    s.write_config()
    s.start()
    s.due("archive")
    wk.until(lambda: s.codes() == ["archive-failed"] * 2, "both archives to fail")
    s.set("archive bot", at="off")
    assert [p["watch"] for p in s.status()["problems"]] == ["other"], s.status()
    del s.watches["other"]
    s.write_config()
    s.set("archive bot", at="off")
    wk.until(lambda: s.codes() == [], "all to be well")
    s.stop()
    assert [p["code"] for p in s.status()["problems"]] == ["not-running"], s.status()
    # Failures are still told as what they were.
    assert len(s.cli("--json", "list").json["events"]) == 2
    del s.sections["archive bot"]
    s.write_config()
    assert "archive-failed" in s.codes(), s.status()


def failures_of_every_kind(scratch):
    """Verifying and pruning too: status says what is wrong, list when it was, by watch."""
    s = Service(scratch, {"retry": {"attempts": "1"}}, start=False)
    s.watches["other"] = {"path": os.path.join(scratch, "other")}
    os.mkdir(s.watches["other"]["path"])
    wk.write(os.path.join(scratch, "other", "a"), os.urandom(100000))
    s.write_config()
    s.start()
    away = os.path.join(scratch, "format")
    os.rename(os.path.join(s.repo, "format"), away)
    s.due("retention bot", "prune_at")
    wk.until(lambda: "prune failed" in s.log_text(), "pruning to fail")
    os.rename(away, os.path.join(s.repo, "format"))
    assert "prune-failed" in s.codes()
    name, content = max(wk.packs(s.repo).items(), key=lambda x: len(x[1]))
    with open(os.path.join(s.repo, "packs", name), "r+b") as f:
        f.seek(len(content) // 2)
        f.write(bytes(b ^ 1 for b in content[len(content) // 2:][:64]))
    s.due("verify", sample="100%")
    wk.until(lambda: "verify-failed" in s.codes(), "verification to fail")
    out = s.cli("status", code=7).out
    assert "bot: prune failed" in out and "verification found damage" in out, out
    events = s.cli("--json", "list").json["events"]
    assert [(e["job"], e["watch"], e["last"]) for e in events] == [
        ("prune", "bot", True), ("verify", None, True)], events
    out = s.cli("list").out
    assert "bot: prune failed (try 1)" in out and "verify failed (try 1)" in out, out
    assert "prune failed" not in s.cli("list", "other").out
    s.due("retention bot", "prune_at")
    wk.until(lambda: "prune-failed" not in s.codes(), "pruning to work again")
    s.stop()


def reload_changes_the_times(scratch):
    s = Service(scratch, {"archive": {"at": "off"}, "verify": {"at": "off"}})
    assert s.status()["watches"][0]["next_archive"] is None
    s.due("archive")
    wk.until(lambda: s.status()["repository"]["archives"] == 1, "the archive")
    s.set("archive bot", at="off")
    wk.until(lambda: s.status()["watches"][0]["next_archive"] is None, "it to be off for bot")
    s.stop()


def prune_at_its_time(scratch):
    """What no rule keeps goes; a folder that is gone freezes it, which is told, until it is back."""
    s = Service(scratch, {"retention": {"prune_at": "off", "keep_days": "off", "keep_daily": "off",
                                        "keep_monthly": "off", "keep_last": "4"}}, start=False)
    s.sections["alert"] = {"command": s.alert_command()}
    s.write_config()
    s.start()
    for i in range(8):
        wk.replace(os.path.join(s.root, "a.json"), '{"n": %d}' % i)
        s.save()
    assert len(s.snapshots()) >= 8
    s.due("retention", "prune_at")
    wk.until(lambda: len(s.snapshots()) == 4, "the older ones to go")
    assert s.codes() == [], s.status()
    os.rename(s.root, s.root + ".away")
    wk.until(lambda: "missing" in s.codes(), "the folder to be missed")
    s.due("retention", "prune_at", keep_last="3")
    wk.until(lambda: "frozen" in s.codes(), "pruning to freeze")
    wk.until(lambda: "frozen" in [t["code"] for t in s.told()], "the freeze to be told")
    assert len(s.snapshots()) == 4
    os.rename(s.root + ".away", s.root)
    s.save()
    s.due("retention", "prune_at")
    wk.until(lambda: len(s.snapshots()) == 3, "pruning to go on")
    wk.until(lambda: ("recovered", "frozen") in [(t["event"], t["code"]) for t in s.told()],
             "its end to be told")
    s.stop()


def restore_test_on_request(scratch):
    """Through the service and without it; what does not come back is damage, exit 4."""
    s = Service(scratch)
    r = s.cli("--json", "verify", "--restore-test").summary
    assert r["snapshots"] == 1 and r["bytes"] == 8 and r["recorded"] and r["exit"] == 0, r
    assert s.status()["repository"]["restore_seconds"] is not None
    s.stop()
    assert "came back" in s.cli("verify", "--restore-test", "1").out
    s.cli("verify", "--restore-test", "9", code=6)
    s.cli("verify", "--restore-test", "--quick", code=2)
    for name, data in wk.packs(s.repo).items():
        at = data.find(b'{"n": 1}')
        if at >= 0:
            with open(os.path.join(s.repo, "packs", name), "r+b") as f:
                f.seek(at + 3)
                f.write(b"m")
            break
    else:
        raise AssertionError("the content stands in no pack as it is")
    r = s.cli("--json", "verify", "--restore-test", code=4).summary
    assert r["errors"] == 1 and r["damaged"][0]["path"] == "a.json", r
    assert not [n for n in os.listdir(os.path.join(scratch, "state"))
                if n.startswith("restore-test")]


if __name__ == "__main__":
    wk.main(verify_at_its_time, archives_come_back, missed_run_is_made_up, verified_by_itself, an_archive_that_fails,
            what_a_try_wrote_is_not_written_again, a_damaged_one_gives_way,
            an_archive_by_hand_settles_it, failures_of_every_kind,
            what_is_no_job_any_more, reload_changes_the_times, restore_test_on_request,
            prune_at_its_time)
