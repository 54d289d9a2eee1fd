"""A save that takes long holds up no small save of another watch."""
import os
import sqlite3
import subprocess

import wk

DATABASES = 12  # each keeps the save until the helper's time is up


def slow_tree(path):
    """A folder whose save is under way for a minute: its databases wait for a helper that is deaf."""
    os.makedirs(path)
    for i in range(DATABASES):
        db = sqlite3.connect(os.path.join(path, "%02d.db" % i))
        db.execute("CREATE TABLE t(x)")
        db.commit()
        db.close()
    return path


def start(scratch, watches):
    helper = os.path.join(scratch, "deaf-helper")
    wk.write(helper, b"#!/bin/sh\nwhile read -r line; do :; done <&3\n")
    os.chmod(helper, 0o755)
    env = wk.environment(XDG_STATE_HOME=os.path.join(scratch, "state"), WATCHKEEP_HELPER=helper)
    s = wk.Service(scratch, {name: {"path": path, "settle": "20ms", "interval": "off"}
                             for name, path in watches.items()}, env=env, start=False)
    return s.start(wait=False)


def saved(s, watch):
    return [x["id"] for x in s.snapshots() if x["watch"] == watch]


def small_saves(s, path, slow):
    """Changes of the small watch are snapshots while the other's first save goes on."""
    wk.until(lambda: saved(s, "small"), "the small watch's first snapshot")
    for i in range(3):
        before = len(saved(s, "small"))
        wk.replace(os.path.join(path, "state.json"), b'{"n": %d}' % i)
        wk.until(lambda: len(saved(s, "small")) > before, "change %d to be saved" % i)
    assert not saved(s, slow), "the slow save ended too early to show anything"


def test_first_saves_of_other_watches(scratch):
    small = os.path.join(scratch, "small")
    os.makedirs(small)
    wk.write(os.path.join(small, "state.json"), b"{}")
    slow = slow_tree(os.path.join(scratch, "slow"))
    for order in ("slow", "small"), ("small", "slow"):
        place = os.path.join(scratch, "-".join(order))
        os.makedirs(place)
        s = start(place, {name: slow if name == "slow" else small for name in order})
        small_saves(s, small, "slow")
        s.kill()


def test_a_save_that_was_asked_for(scratch):
    small = os.path.join(scratch, "small")
    os.makedirs(small)
    wk.write(os.path.join(small, "state.json"), b"{}")
    slow = slow_tree(os.path.join(scratch, "slow"))
    s = start(scratch, {"small": small})
    wk.until(lambda: saved(s, "small"), "the small watch's first snapshot")
    asked = subprocess.Popen([wk.BIN, "-c", s.conf, "-q", "save", "asked=" + slow],
                             stdin=subprocess.DEVNULL, env=s.environment())
    try:
        wk.until(lambda: helper_runs(s), "the asked save to be at work")
        small_saves(s, small, "asked")
        assert asked.poll() is None, "the asked save ended too early to show anything"
    finally:
        asked.kill()
        asked.wait()
        s.kill()


def helper_runs(s):
    """The service has started the deaf helper, which it does for the first database."""
    return wk.children(s.pid())


wk.main(test_first_saves_of_other_watches, test_a_save_that_was_asked_for)
