"""Timed jobs of the service: when they run, what is told of them, and who is told."""
import datetime
import json
import os
import stat
import time

import wk


def soon(seconds=3):
    """A time of day in so many seconds, and never one that another day has to wait for."""
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return at.strftime("%H:%M:%S")


class Service(wk.Service):
    """With further sections: {"verify": {"at": ...}}."""

    def __init__(self, scratch, sections=None, start=True):
        self.sections = sections or {}
        self.root = os.path.join(scratch, "data")
        self.told_file = os.path.join(scratch, "told")
        self.breaker = os.path.join(scratch, "alert-is-broken")
        os.mkdir(self.root)
        wk.write(os.path.join(self.root, "a.json"), '{"n": 1}')
        super().__init__(scratch, {"bot": {"path": self.root, "settle": "50ms"}}, start=start)

    def write_config(self):
        super().write_config()
        with open(self.conf, "a") as f:
            for section, settings in self.sections.items():
                f.write("[%s]\n" % section)
                for k, v in settings.items():
                    f.write("%s = %s\n" % (k, v))

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

    def codes(self):
        return [p["code"] for p in self.status()["problems"]]

    def set(self, section, **settings):
        self.sections.setdefault(section, {}).update(settings)
        self.write_config()
        wk.wk("-c", self.conf, "config", "check")
        os.kill(self.pid(), 1)


def verified_by_itself(scratch):
    """What a save added is read back within minutes, without anybody asking."""
    s = Service(scratch)
    wk.until(lambda: s.snapshots()[-1]["verified"], "the snapshot to be verified", 150)
    assert s.snapshots()[-1]["good"] is True
    wk.replace(os.path.join(s.root, "a.json"), '{"n": 2}')
    s.save()
    wk.until(lambda: all(x["verified"] for x in s.snapshots()), "the second one too", 150)
    s.stop()


def verify_at_its_time(scratch):
    """The nightly verification reads its share and restores the latest for a test."""
    s = Service(scratch, {"verify": {"at": soon(4), "sample": "100%"}})
    wk.until(lambda: s.status()["repository"]["restore_seconds"] is not None,
             "the test of a restore")
    status = s.status()
    assert 0 < status["repository"]["restore_seconds"] < 60, status
    assert status["problems"] == [], status
    assert "restore" in s.cli("status").out, s.cli("status").out
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


def missed_run_is_made_up(scratch):
    """A slot that passed while the service was off is run once at the start."""
    at = soon(6)
    s = Service(scratch, {"verify": {"at": at}})
    s.stop()
    slot = datetime.datetime.combine(datetime.date.today(), datetime.time.fromisoformat(at))
    wk.until(lambda: datetime.datetime.utcnow() > slot, "the time to pass", pace=0.2)
    s.start()
    wk.until(lambda: "verify done" in s.log_text(), "the run that was missed")
    s.stop()
    s.start()
    s.save()
    assert s.log_text().count("verify done") == 1, s.log_text()
    s.stop()


if __name__ == "__main__":
    wk.main(verify_at_its_time, missed_run_is_made_up, verified_by_itself)
