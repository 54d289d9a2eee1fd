"""Packs that are missing, cut off, swapped, doubled or another repository's: named exactly, with and
without a catalog that remembers them, and no more is lost than was in them."""
import os
import shutil

import wk

FIRST, SECOND = {"a0", "b0", "a1", "b1"}, {"a2", "b2", "a3", "b3"}


class Made:
    """Two log packs and two data packs: a torn tail ends the first of each kind after two saves."""

    def __init__(self, scratch, name):
        self.scratch = scratch
        self.repo, self.root = os.path.join(scratch, name), os.path.join(scratch, name + "-data")
        os.mkdir(self.root)
        wk.wk("-r", self.repo, "init")
        self.states = {}
        self.third = 0  # how long the second data pack was with the third save alone
        for i in range(4):
            if i == 2:
                for pack in wk.packs(self.repo):
                    with open(self.path(pack), "ab") as f:
                        f.write(b"torn tail")
            wk.write(os.path.join(self.root, "a%d" % i), os.urandom(1100 << 10))
            wk.write(os.path.join(self.root, "b%d" % i), os.urandom(700))
            number = wk.wk("-r", self.repo, "--json", "save", self.root).summary["snapshot"]
            self.states[number] = wk.tree(self.root)
            if i == 2:
                self.third = len(wk.packs(self.repo)[max(wk.packs(self.repo))])
        self.numbers = sorted(self.states)
        names = sorted(wk.packs(self.repo))
        self.logs = [n for n in names if n.startswith("0-log")]
        self.data = [n for n in names if n.startswith("1-data")]
        assert len(self.logs) == 2 and len(self.data) == 2, names
        assert wk.wk("-r", self.repo, "--json", "verify", "--full").summary["errors"] == 0

    def path(self, pack, repo=None):
        return os.path.join(repo or self.repo, "packs", pack)

    def cases(self, change):
        """A copy that was changed, with its catalog and without."""
        for catalog in (True, False):
            copy = os.path.join(self.scratch, "copy")
            shutil.copytree(self.repo, copy)
            if not catalog:
                for n in os.listdir(copy):
                    if n.startswith("catalog"):
                        os.remove(os.path.join(copy, n))
            change(copy)
            yield copy, catalog
            wk.remove(copy)


def told(repo):
    """What verify names: packs, files, snapshots."""
    r = wk.wk("-r", repo, "--json", "verify", "--full", code=4).summary
    assert r["errors"] > 0
    damaged = r["damaged"]
    return ({d["pack"] for d in damaged if d.get("pack")},
            {d["path"] for d in damaged if d.get("path")},
            {s for d in damaged for s in d.get("snapshots", []) if s},
            " ".join(d["reason"] for d in damaged))


def others_are_whole(made, repo, lost, numbers):
    """Every file but those named comes back, as it was."""
    for number in numbers:
        target = os.path.join(made.scratch, "back")
        wk.wk("-r", repo, "restore", str(number), "--to", target, code=None)
        got = wk.tree(target, times=False)
        for path, d in made.states[number].items():
            if path and path.decode() not in lost:
                assert got[path]["sha256"] == d["sha256"], path
        assert not set(got) & {p.encode() for p in lost}, "a lost file was restored"
        wk.remove(target)


def data_lost(made, change, pack, files, *reason):
    for repo, catalog in made.cases(change):
        packs, paths, _, reasons = told(repo)
        assert packs == {pack}, (packs, catalog)
        assert paths == files, (paths, catalog)
        assert any(r in reasons for r in reason), reasons
        others_are_whole(made, repo, files, made.numbers)
        assert told(repo)[:2] == (packs, paths), "told only once"


def log_lost(made, change, pack, reason, remembered):
    """The first log pack: the catalog still knows its snapshots, the packs alone do not."""
    for repo, catalog in made.cases(change):
        packs, _, snapshots, reasons = told(repo)
        if catalog:
            assert packs == {pack}, packs
            assert snapshots == set(made.numbers[:2]), snapshots
            assert reason in reasons, reasons
            if remembered:
                others_are_whole(made, repo, (), made.numbers[2:])
        else:
            assert any(p.endswith(pack[-20:]) for p in packs), packs
            assert snapshots == set(made.numbers[2:]), "they stand on what is lost"


def log_end_lost(made, change, reason, all_of_it=True):
    """The last log pack: only the catalog knows that there was more."""
    copy = os.path.join(made.scratch, "copy")
    shutil.copytree(made.repo, copy)
    change(copy)
    packs, _, snapshots, reasons = told(copy)
    assert packs == {made.logs[1]}, packs
    assert reason in reasons, reasons
    gone = " gone: %d-%d" % tuple(made.numbers[2:])
    if all_of_it:
        assert snapshots == set(made.numbers[2:]) or reasons.endswith(gone), (snapshots, reasons)
    else:
        assert "gone" not in reasons, reasons
    others_are_whole(made, copy, (), made.numbers[:2] if all_of_it else made.numbers)
    # What is saved from now on is whole, under numbers never used before.
    wk.write(os.path.join(made.root, "new"), os.urandom(10))
    number = wk.wk("-r", copy, "--json", "save", made.root).summary["snapshot"]
    assert number > made.numbers[-1]
    wk.same(wk.tree(made.root), wk.restored(copy, str(number), made.scratch))
    wk.remove(copy)


def missing(scratch):
    made = Made(scratch, "repo")
    for pack, files in zip(made.data, (FIRST, SECOND)):
        data_lost(made, lambda r: os.remove(made.path(pack, r)), pack, files, "missing")
    log_lost(made, lambda r: os.remove(made.path(made.logs[0], r)), made.logs[0], "missing", True)
    log_end_lost(made, lambda r: os.remove(made.path(made.logs[1], r)), "missing")


def truncated(scratch):
    made = Made(scratch, "repo")
    for pack, files in zip(made.data, (FIRST, SECOND)):
        for left in (40, 0):
            data_lost(made, lambda r: os.truncate(made.path(pack, r), left), pack, files, "shorter",
                      "has 0 bytes of the")
    within = (made.third + os.path.getsize(made.path(made.data[1]))) // 2
    for repo, _ in made.cases(lambda r: os.truncate(made.path(made.data[1], r), within)):
        packs, paths, _, reasons = told(repo)
        assert packs == {made.data[1]} and "a3" in paths <= {"a3", "b3"}, (packs, paths)
        others_are_whole(made, repo, paths, made.numbers)
    for left in (50, 0):
        log_lost(made, lambda r: os.truncate(made.path(made.logs[0], r), left), made.logs[0],
                 "shorter", True)
    size = os.path.getsize(made.path(made.logs[1]))
    for left in (size - 1, 129):  # the last record is verify's mark
        log_end_lost(made, lambda r: os.truncate(made.path(made.logs[1], r), left),
                     "has %d bytes of %d" % (left, size), left < 200)


def foreign(scratch):
    made, other = Made(scratch, "repo"), Made(scratch, "other")

    def put(pack):
        return lambda r: shutil.copy(other.path(pack), made.path(pack, r))
    for pack, files in zip(made.data, (FIRST, SECOND)):
        data_lost(made, put(pack), pack, files, "another repository")
    log_lost(made, put(made.logs[0]), made.logs[0], "another repository", True)
    log_end_lost(made, put(made.logs[1]), "another repository")


def swapped(scratch):
    made = Made(scratch, "repo")

    def swap(a, b):
        def change(r):
            os.rename(made.path(a, r), made.path("aside", r))
            os.rename(made.path(b, r), made.path(a, r))
            os.rename(made.path("aside", r), made.path(b, r))
        return change
    for repo, _ in made.cases(swap(*made.data)):
        packs, paths, _, reasons = told(repo)
        assert packs == set(made.data) and paths == FIRST | SECOND, (packs, paths)
        assert "'%s' is '%s'" % tuple(made.data) in reasons, reasons
        swap(*made.data)(repo)
        wk.wk("-r", repo, "rebuild")
        assert wk.wk("-r", repo, "--json", "verify", "--full").summary["errors"] == 0, "put right"
        others_are_whole(made, repo, (), made.numbers)
    for repo, _ in made.cases(swap(*made.logs)):
        packs, _, _, reasons = told(repo)
        assert packs == set(made.logs), packs
        assert "'%s' is '%s'" % tuple(made.logs) in reasons, reasons


def doubled(scratch):
    made = Made(scratch, "repo")
    for pack in made.logs + made.data:
        kind = "1-data" if pack.startswith("0-log") else "0-log"
        for name in (kind + pack[-21:], pack[:-21] + "-00000000000000ff.wkp"):
            for repo, _ in made.cases(lambda r: shutil.copy(made.path(pack), made.path(name, r))):
                packs, paths, snapshots, reasons = told(repo)
                assert packs <= {pack, name} and not paths and not snapshots, (packs, paths)
                assert "'%s' is '%s'" % (name, pack) in reasons, reasons
                others_are_whole(made, repo, (), made.numbers)
                os.remove(made.path(name, repo))
                assert wk.wk("-r", repo, "--json", "verify", "--full").summary["errors"] == 0
                wk.wk("-r", repo, "rebuild")
                assert wk.wk("-r", repo, "--json", "verify", "--full").summary["errors"] == 0
                others_are_whole(made, repo, (), made.numbers)


wk.main(missing, truncated, foreign, swapped, doubled)
