"""200 rounds of everyday changes through the service; every state comes back exactly."""
import os
import random
import shutil

import wk

ROUNDS = 25 if wk.SANITIZED else 200


def one_round(root, i):
    wk.replace(os.path.join(root, "state.json"), '{"round": %d, "pad": "%s"}' % (i, "x" * (i % 700)))
    with open(os.path.join(root, "events.log"), "a") as f:
        f.write("round %d\n" % i)
    folder = os.path.join(root, "new-%d" % i, "deep")
    os.makedirs(folder)
    for k in range(3):
        wk.write(os.path.join(folder, "f%d" % k), "%d %d %d" % (i, k, random.random() * 1e9))
    if i > 0:
        os.remove(os.path.join(root, "victims", "v%d" % (i - 1)))
        was = "moving-%d" % (i - 1)
    else:
        was = "moving"
    os.rename(os.path.join(root, was), os.path.join(root, "moving-%d" % i))
    if i % 3 == 2:
        shutil.rmtree(os.path.join(root, "new-%d" % (i - 2)))
    if i % 5 == 0:
        os.chmod(os.path.join(root, "events.log"), 0o600 + (i % 2) * 0o44)
    if i % 7 == 0:
        os.utime(os.path.join(root, "fixed"), ns=(i * 10**9, i * 10**9 + 123456789))


def rounds(scratch):
    root = os.path.join(scratch, "data")
    os.makedirs(os.path.join(root, "moving", "inner"))
    os.makedirs(os.path.join(root, "victims"))
    for i in range(ROUNDS):
        wk.write(os.path.join(root, "victims", "v%d" % i), "victim %d" % i)
    for i in range(20):
        wk.write(os.path.join(root, "moving", "inner", "m%d" % i), os.urandom(100))
    wk.write(os.path.join(root, "fixed"), "touched now and then")
    s = wk.Service(scratch, {"data": {"path": root, "settle": "50ms"}})
    states = []
    for i in range(ROUNDS):
        one_round(root, i)
        summary = s.save("data", "--name", "round-%d" % i)
        assert summary["exit"] == 0 and summary["snapshot"] is not None, summary
        assert summary["gap"] is None, summary
        states.append(wk.tree(root))
    listed = {x["name"]: x for x in s.snapshots()}
    for i, state in enumerate(states):
        assert listed["round-%d" % i]["complete"], listed["round-%d" % i]
        wk.same(state, wk.restored(s.repo, "round-%d" % i, scratch), "round %d" % i)
    s.stop()
    assert wk.wk("-r", s.repo, "--json", "verify").summary["errors"] == 0


def settled_by_itself(scratch):
    """Without any save command the present state is saved soon after the last change."""
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    wk.write(os.path.join(root, "a.json"), "{}")
    s = wk.Service(scratch, {"data": {"path": root, "settle": "50ms"}})
    before = len(s.snapshots())
    for i in range(5):
        wk.replace(os.path.join(root, "a.json"), '{"i": %d}' % i)
        want = b'{"i": %d}' % i

        def held():
            r = wk.wk("-r", s.repo, "cat", "latest:a.json", code=None, binary=True)
            return r.code == 0 and r.out == want
        wk.until(held, "state %d to be saved" % i)
    assert len(s.snapshots()) >= before + 5
    wk.same(wk.tree(root, times=False), wk.restored(s.repo, "latest", scratch, times=False))
    s.stop()


def busy_file_is_saved(scratch):
    """A file that is never quiet is saved at max_delay."""
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    path = os.path.join(root, "busy.log")
    wk.write(path, "start\n")
    s = wk.Service(scratch, {"data": {"path": root, "settle": "400ms", "max_delay": "500ms"}})
    first = s.snapshots()[-1]["id"]
    with open(path, "a", buffering=1) as f:
        def saved():
            f.write("tick\n")
            return s.snapshots()[-1]["id"] > first
        wk.until(saved, "a busy file to be saved")
    s.stop()


wk.main(rounds, settled_by_itself, busy_file_is_saved)
