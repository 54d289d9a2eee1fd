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


def moved(repo):
    """Something was moved out of the log."""
    return any(x.startswith("1-data-") for x in wk.packs(repo))


def service_folds_the_log(scratch):
    root = os.path.join(scratch, "data")
    os.makedirs(root)
    s = wk.Service(scratch, {"data": {"path": root, "settle": "50ms"}},
                   sections={"retention": {"keep_days": "off", "keep_daily": "off",
                                           "keep_monthly": "off", "keep_last": "3"}})
    states = []
    for i in range(ROUNDS):
        change(root, i)
        assert s.save("data")["exit"] == 0
        wk.replace(os.path.join(root, "noise"), os.urandom(50))
        assert s.save("data", "--name", "round-%d" % i)["exit"] == 0
        states.append(wk.tree(root))
        # what readers ask for meanwhile is there, each time
        names = [x["name"] for x in s.snapshots()]
        assert all("round-%d" % n in names for n in range(i + 1)), names
        wk.same(states[i // 2], wk.restored(s.repo, "round-%d" % (i // 2), scratch))
        if i == ROUNDS // 2:
            wk.until(lambda: "folded into a checkpoint" in s.log_text(), "the log is folded")
    assert not moved(s.repo)  # all that the log holds is needed
    wk.wk("-r", s.repo, "prune")
    assert moved(s.repo)
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
    assert not moved(repo)
    without_catalog(repo)
    check(repo, states, scratch)


wk.main(service_folds_the_log, a_direct_save_does_it_when_due)
