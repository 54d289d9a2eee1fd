"""kill -9 of the service and of `save` at random moments: what was acknowledged stays.

WK_KILLS=N makes N kills of each kind.
"""
import os
import random
import signal
import subprocess
import time

import wk

KILLS = int(os.environ.get("WK_KILLS", "100"))  # of each kind
SERIES = 250  # at most so many kills in one repository


def check(repo, acknowledged, scratch, thorough):
    listed = {s["name"]: s for s in wk.wk("-r", repo, "--json", "list", "--all").json["snapshots"]
              if s["name"]}
    for name in acknowledged:
        assert name in listed, "acknowledged %s is not listed" % name
    sample = list(acknowledged) if thorough else list(acknowledged)[-2:]
    for name in sample:
        wk.same(acknowledged[name], wk.restored(repo, name, scratch), name)


def grow(root, i):
    wk.replace(os.path.join(root, "state.json"), '{"i": %d}' % i)
    wk.write(os.path.join(root, "blob"), os.urandom(random.choice([10, 5000, 300000, 3000000])))
    if random.random() < 0.3:
        wk.write(os.path.join(root, "f%d" % random.randrange(20)), os.urandom(2000))


def in_series(scratch, kind):
    kills = acknowledged = 0
    begun = time.monotonic()
    for done in range(0, KILLS, SERIES):
        folder = os.path.join(scratch, "series%d" % done)
        os.mkdir(folder)
        here = min(KILLS - done, SERIES)
        acknowledged += kind(folder, here)
        kills += here
        wk.remove(folder)
    print("%s: %d kills, %d acknowledged, 0 lost; %.0f s" % (kind.__name__, kills, acknowledged,
                                                            time.monotonic() - begun))


def killed_saves(scratch, kills):
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    wk.wk("-r", repo, "init")
    acknowledged, killed = {}, 0
    i = 0
    took = wk.PATIENCE  # the first is let through
    while killed < kills:
        i += 1
        grow(root, i)
        name = "s%d" % i
        begun = time.monotonic()
        p = subprocess.Popen([wk.BIN, "-r", repo, "--json", "save", root, "--name", name],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=wk.environment())
        try:
            p.wait(random.random() * took * 1.2 if acknowledged else took)
        except subprocess.TimeoutExpired:
            p.kill()
        out = p.communicate()[0]
        if p.returncode == -signal.SIGKILL:
            killed += 1
            took *= 1.02  # the machine may be slower now
        else:
            ran = time.monotonic() - begun
            took = 0.8 * took + 0.2 * ran if acknowledged else ran
        if b'"summary"' in out and b'"exit":0' in out.replace(b" ", b""):
            acknowledged[name] = wk.tree(root)
        check(repo, acknowledged, scratch, False)
    check(repo, acknowledged, scratch, True)
    assert wk.wk("-r", repo, "--json", "verify").summary["errors"] == 0
    assert len(acknowledged) > 3, "too few saves came through to say anything"
    return len(acknowledged)


def killed_services(scratch, kills):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    wk.write(os.path.join(root, "a"), "a")
    s = wk.Service(scratch, {"data": {"path": root, "settle": "1ms"}}, start=False)
    acknowledged = {}
    for i in range(kills):
        s.start(wait=True)
        # Saves come from events and from commands; the kill falls somewhere among them.
        for k in range(random.randrange(3)):
            grow(root, i)
            name = "k%d-%d" % (i, k)
            r = s.cli("--json", "save", "data", "--name", name, code=None)
            assert r.code == 0, r
            acknowledged[name] = wk.tree(root)
        grow(root, i)
        p = subprocess.Popen([wk.BIN, "-c", s.conf, "--json", "save", "data"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             env=wk.environment())
        end = time.monotonic() + random.random() * 0.03
        while time.monotonic() < end:
            pass
        s.kill()
        p.wait(wk.PATIENCE)
        check(s.repo, acknowledged, scratch, False)
    s.start()
    s.stop()
    check(s.repo, acknowledged, scratch, True)
    assert wk.wk("-r", s.repo, "--json", "verify").summary["errors"] == 0
    return len(acknowledged)


def kill_save(scratch):
    in_series(scratch, killed_saves)


def kill_service(scratch):
    in_series(scratch, killed_services)


wk.main(kill_save, kill_service)
