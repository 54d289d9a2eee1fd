"""The log is folded and emptied in idle time; what was saved comes back, with and without a catalog,
and readers in other processes go on meanwhile."""
import os

import wk

ROUNDS = 12


def change(root, i):
    wk.replace(os.path.join(root, "noise"), os.urandom(600000))
    wk.replace(os.path.join(root, "state.json"), '{"round": %d}' % i)


def marks(line):
    return line in ("catalog.db", "catalog.db-wal", "catalog.db-shm")


def without_catalog(repo):
    for name in os.listdir(repo):
        if marks(name):
            os.remove(os.path.join(repo, name))


def check(repo, states, scratch):
    for i, state in enumerate(states):
        wk.same(state, wk.restored(repo, "round-%d" % i, scratch), "round %d" % i)
    assert wk.wk("-r", repo, "--json", "verify", "--full").summary["errors"] == 0


def service_folds_the_log(scratch):
    root = os.path.join(scratch, "data")
    os.makedirs(root)
    s = wk.Service(scratch, {"data": {"path": root, "settle": "50ms"}})
    states = []
    for i in range(ROUNDS):
        change(root, i)
        assert s.save("data", "--name", "round-%d" % i)["exit"] == 0
        states.append(wk.tree(root))
        # what readers ask for meanwhile is there, each time
        names = [x["name"] for x in s.snapshots()]
        assert all("round-%d" % n in names for n in range(i + 1)), names
        wk.same(states[i // 2], wk.restored(s.repo, "round-%d" % (i // 2), scratch))
        if i == ROUNDS // 2:
            wk.until(lambda: "folded into a checkpoint" in s.log_text(), "the log is folded")
    wk.until(lambda: "were emptied" in s.log_text(), "log packs are emptied")
    s.stop()
    check(s.repo, states, scratch)
    without_catalog(s.repo)
    check(s.repo, states, scratch)  # in memory
    s.start()
    check(s.repo, states, scratch)
    change(root, ROUNDS)
    assert s.save("data", "--name", "round-%d" % ROUNDS)["exit"] == 0
    states.append(wk.tree(root))
    s.stop()
    check(s.repo, states, scratch)


def a_direct_save_does_it_when_due(scratch):
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.makedirs(root)
    wk.wk("-r", repo, "init")
    states = []
    for i in range(ROUNDS):
        change(root, i)
        wk.wk("-r", repo, "save", root, "--name", "round-%d" % i)
        states.append(wk.tree(root))
    logs = [x for x in os.listdir(os.path.join(repo, "packs")) if x.startswith("0-log-")]
    assert len(logs) > 2, logs  # two copies of a checkpoint, and the log after them
    assert any(x.startswith("1-data-") for x in os.listdir(os.path.join(repo, "packs")))
    without_catalog(repo)
    check(repo, states, scratch)


def a_first_save_is_not_told_twice(scratch):
    """A checkpoint of it would say again, in two copies, all that its lists say."""
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    for i in range(50):
        os.makedirs(os.path.join(root, str(i)))
        for j in range(1000):
            wk.write(os.path.join(root, str(i), str(j)), "%d %d" % (i, j))
    wk.wk("-r", repo, "init")
    wk.wk("-r", repo, "save", root)
    logs = [x for x in wk.packs(repo) if x.startswith("0-log-")]
    sizes = [os.path.getsize(os.path.join(repo, "packs", x)) for x in logs]
    assert len(logs) == 1 and sizes[0] > 2 << 20, sizes
    without_catalog(repo)
    assert wk.wk("-r", repo, "cat", "latest:49/999").out == "49 999"


wk.main(service_folds_the_log, a_direct_save_does_it_when_due, a_first_save_is_not_told_twice)
