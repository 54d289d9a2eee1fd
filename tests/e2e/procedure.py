"""What the procedures share: a service whose clocks the test moves, and what people look at."""
import datetime
import os
import sqlite3

import wk


def put(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    wk.replace(path, text)


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


class Service(wk.Service):
    """One app's folder, its archives in a folder beside it, and days that pass when told to."""

    def __init__(self, scratch, name, root, sections, start="2031-03-01 12:00:00", zone="UTC",
                 watch=None, **more):
        self.clock = wk.Clock(scratch, start, zone)
        self.name, self.root = name, root
        super().__init__(scratch, {name: dict({"path": root, "settle": "20ms"}, **watch or {})},
                         sections=sections, **more)

    def archives(self, kind=None):
        return [x for x in self.cli("--json", "list", "--archives").json["archives"]
                if kind in (None, x["kind"])]

    def done(self, job):
        """How often a timed job of this watch was done; `verify` is of all."""
        return self.log_text().count("%s: %s done" % ("info" if job == "verify" else self.name, job))

    def at(self, time, job):
        """The clock comes to that time of day, and the job is done."""
        before = self.done(job)
        self.clock.wait(time)
        wk.until(lambda: self.done(job) > before, "%s at %s" % (job, time))

    def night(self, archive="03:00:01", prune="04:00:01"):
        """From noon to noon: an archive is made and read back, and old ones go."""
        self.save()
        self.at(archive, "archive")
        self.at(prune, "prune")
        if self.sections.get("verify", {}).get("at") != "off":
            self.at("05:00:01", "verify")
        self.clock.wait("12:00:00")

    def same_listing(self, some):
        """The table that people see has what the JSON says: name, kind, files, size, and date."""
        out = self.cli("list", "--archives").out.splitlines()
        for a in some:
            line = [x for x in out if a["name"] in x.split()]
            assert len(line) == 1, (a, out)
            at = datetime.datetime.fromisoformat(a["time"].replace("Z", "+00:00")).astimezone()
            for part in (a["kind"], str(a["files"]), at.strftime("%Y-%m-%d %H:%M:%S")):
                assert part in line[0], (part, line)
            assert any(unit in line[0] for unit in (" B", "KiB", "MiB")), line

    def restored_after_a_crash(self, check):
        """Nobody saves what the app left when it died: the latest state comes back, once confirmed;
        what it left can still be had."""
        before = wk.tree(self.root)
        self.cli("restore", "latest", "--in-place", code=5)
        wk.same(before, wk.tree(self.root), "without --confirm")
        self.cli("restore", "latest", "--in-place", "--confirm")
        check()
        self.cli("undo", "--confirm")
        wk.same(before, wk.tree(self.root), "undo")
        self.cli("restore", "latest", "--in-place", "--confirm")
        check()

    def restored_by(self, which, check):
        """Refused without the word, done with it, and taken back by undo."""
        before = wk.tree(self.root)
        self.cli("restore", which, "--in-place", code=5)
        wk.same(before, wk.tree(self.root), "without --confirm")
        self.cli("restore", which, "--in-place", "--confirm")
        check()
        self.cli("undo", "--confirm")
        wk.same(before, wk.tree(self.root), "undo")
