"""What keeps and brings back, broken off: archive, prune with its compaction, restore in place and
undo, each cut somewhere on its way by whatever `breaker` does, and what must hold then.

breaker(command, seconds) starts the command, breaks it off after so long, and returns its exit code
and output where it had ended before, else None and nothing. Afterwards everything can be used again.
"""
import ctypes
import gzip
import os
import random
import shutil
import tarfile
import time

import wk

libc = ctypes.CDLL(None, use_errno=True)


def without_scratch(tree):
    return {p: d for p, d in tree.items() if not p.startswith(b".watchkeep-restore-")}


class Keeping:
    """A watched folder, its repository and its archives, all below `place`; what is restored for a
    look goes below `memory`."""

    def __init__(self, place, memory, breaker):
        self.place, self.memory, self.breaker = place, memory, breaker
        self.root, self.repo = os.path.join(place, "data"), os.path.join(place, "repo")
        self.archives = os.path.join(place, "archives")
        self.confs = {f: os.path.join(memory, f + ".conf") for f in ("tar.gz", "directory")}
        self.conf = self.confs["tar.gz"]
        self.trees = {}  # by number of snapshot
        self.acknowledged = set()  # names of archives
        self.read = set()  # archives that were read back already
        self.took, self.count, self.names = {}, 0, 0
        self.broken = dict.fromkeys(("archive", "prune", "restore", "undo"), 0)
        self.runs = dict.fromkeys(self.broken, 0)
        os.mkdir(self.root)
        for form, conf in self.confs.items():
            wk.write(conf, "[service]\nrepository = %s\nsocket = %s/socket\n[watch data]\npath = %s\n"
                     "[archive]\npath = %s\nformat = %s\nkeep_days = off\nkeep_last = 1\n"
                     "[retention]\nkeep_days = off\nkeep_daily = off\nkeep_monthly = off\n"
                     "keep_last = 1\n" % (self.repo, memory, self.root, self.archives, form))
        self.wk("init")
        for i in range(60):
            folder = os.path.join(self.root, "d%d" % (i % 5))
            os.makedirs(folder, exist_ok=True)
            wk.write(os.path.join(folder, "f%d" % i), "%d " % i * 200)
        os.link(os.path.join(self.root, "d0", "f0"), os.path.join(self.root, "linked"))
        os.mkfifo(os.path.join(self.root, "pipe"))

    def wk(self, *args, **kw):
        return wk.wk("-c", self.conf, *args, **kw)

    # ---- doing ----

    def change(self):
        self.count += 1
        wk.write(os.path.join(self.root, "large"), os.urandom(random.randrange(1 << 19, 1 << 21)))
        for _ in range(12):
            i = random.randrange(60)
            wk.replace(os.path.join(self.root, "d%d" % (i % 5), "f%d" % i),
                       "%d %d " % (self.count, i) * random.randrange(1, 400))
        name = "was%d" % (self.count % 3)
        path = os.path.join(self.root, name)
        if os.path.isdir(path):
            shutil.rmtree(path)
            wk.write(path, "a file: %d" % self.count)
        else:
            if os.path.exists(path):
                os.remove(path)
            os.mkdir(path)
            wk.write(os.path.join(path, "in"), "a folder: %d" % self.count)

    def save(self):
        number = self.wk("--json", "save", "data").summary["current"]
        self.trees[number] = wk.tree(self.root)
        return number

    def whole(self, kind, *args):
        begun = time.monotonic()
        r = self.wk("--json", kind, *args)
        took = time.monotonic() - begun
        self.took[kind] = (self.took.get(kind, took) + took) / 2
        return r

    def attempt(self, kind, *args):
        """Whether it had ended well before it could be broken off, and its output then."""
        self.flush()
        self.runs[kind] += 1
        code, out = self.breaker([wk.BIN, "-c", self.conf, "--json", kind, *map(str, args)],
                                 random.random() * self.took.get(kind, 0.1) * 1.1)
        self.broken[kind] += code is None
        assert code in (None, 0), "%s: exit %r: %s" % (kind, code, out)
        return code == 0, out

    def flush(self):
        """What the app wrote is its own business."""
        fd = os.open(self.place, os.O_RDONLY)
        libc.syncfs(fd)
        os.close(fd)

    # ---- archives ----

    def listed_archives(self):
        return {a["name"]: a for a in self.wk("--json", "list", "--archives").json["archives"]}

    def check_archives(self):
        listed = self.listed_archives()
        for name in self.acknowledged:
            assert name in listed, "the acknowledged archive %s is lost" % name
        for folder, folders, files in os.walk(os.path.join(self.archives, "data")):
            if os.path.basename(folder) not in ("automatic", "manual"):
                folders[:] = [] if folder != os.path.join(self.archives, "data") else folders
                continue
            for name in folders + files:
                bare = name[:-7] if name.endswith(".tar.gz") else name
                assert name.startswith(".") or name.endswith(".json") or bare in listed, name
        for name, archive in listed.items():
            if name in self.read:
                continue
            r = self.wk("--json", "verify", name)
            assert r.summary["errors"] == 0, r
            if archive["format"] == "tar.gz":
                with gzip.open(archive["path"]) as plain, tarfile.open(fileobj=plain) as t:
                    assert sum(1 for _ in t) > 60
            self.read.add(name)

    def archive(self):
        self.conf = self.confs[random.choice(list(self.confs))]
        self.change()
        self.names += 1
        name = ["--name", "a%d" % self.names] if random.random() < 0.3 else []
        done, _ = self.attempt("archive", "data", *name)
        if done and name:
            self.acknowledged.add("backup_" + name[1])
        self.check_archives()
        if name and "backup_" + name[1] in self.listed_archives():
            self.wk("archive", "data", *name, code=5)
            self.acknowledged.add("backup_" + name[1])
        else:
            self.acknowledged.add(self.whole("archive", "data", *name).lines[0]["name"])
        self.check_archives()
        folder = os.path.join(self.archives, "data", "manual" if name else "automatic")
        left = [n for n in os.listdir(folder) if n.startswith(".")]
        assert not left or name, left

    # ---- prune ----

    def snapshots(self):
        return {s["id"]: s for s in self.wk("--json", "list", "--all").json["snapshots"]}

    def check_snapshots(self, before, may_go):
        now = self.snapshots()
        lost = set(before) - set(now) - may_go
        assert not lost, "snapshots that no prune was to drop are lost: %r" % lost
        good = [i for i in sorted(before) if before[i]["good"]][-3:]
        assert set(good) <= set(now), (good, sorted(now))
        known = [i for i in sorted(now) if i in self.trees]
        for i in {*known[-2:], *random.sample(known, min(2, len(known)))}:
            wk.same(self.trees[i], wk.restored(self.repo, i, self.memory), "snapshot %d" % i)
        r = self.wk("--json", "verify", code=None)
        assert r.code == 0 and r.summary["errors"] == 0, r
        return now

    def prune(self):
        for _ in range(4):
            self.change()
            self.save()
        self.wk("verify")
        before = self.snapshots()
        assert sum(bool(s["good"]) for s in before.values()) >= 3, before
        plan = self.wk("--json", "prune", "--dry-run").lines[:-1]
        drops = {d["id"] for d in plan if not d["keep"] and d["id"]}
        assert drops, plan
        self.acknowledged -= {d["archive"] for d in plan if not d["keep"]}
        done, _ = self.attempt("prune")
        now = self.check_snapshots(before, drops)
        assert not done or not drops & set(now), (drops, sorted(now))
        self.check_archives()
        self.whole("prune")
        assert set(self.check_snapshots(before, drops)) == set(before) - drops
        self.check_archives()
        assert set(self.listed_archives()) == self.acknowledged | {
            d["archive"] for d in plan if d["keep"] and d["archive"]}

    # ---- restore in place and undo ----

    def no_halves(self, one, two):
        for path, what in without_scratch(wk.tree(self.root)).items():
            if "sha256" not in what:
                continue
            a, b = one.get(path), two.get(path)
            if a and b and a.get("sha256") == b.get("sha256"):
                a, b = ({"sha256": x["sha256"]} for x in (a, b))
                what = {"sha256": what["sha256"]}
            else:  # of two names of a file the one may stand already
                a, b, what = ({k: v for k, v in (x or {}).items() if k != "same as"}
                              for x in (a, b, what))
            assert what in (a, b), "half of something: %r: %r" % (path, what)

    def cut_off(self):
        return "cut off" in self.wk("undo", code=None).err

    def differ(self, tree):
        """A scratch folder that was left tells by the time of the root that it came."""
        now = wk.tree(self.root)
        now[b""]["mtime"] = tree[b""]["mtime"]
        return wk.differences(tree, now)

    def is_as(self, tree):
        return all(".watchkeep-restore-" in d for d in self.differ(tree))

    def assert_is(self, tree, what):
        found = self.differ(tree)
        assert not found, "%s: %s" % (what, "\n".join(found[:5]))

    def restore(self):
        self.change()  # as times alone make no snapshot
        one = self.save()
        self.change()
        self.change()
        os.chmod(os.path.join(self.root, "d1", "f1"), 0o640 if self.count % 4 else 0o600)
        two = self.save()
        self.one, self.two = self.trees[one], self.trees[two]
        command = [str(one), "--in-place", "--delete", "--confirm"]
        done, _ = self.attempt("restore", *command)
        self.no_halves(self.one, self.two)
        if self.cut_off() and not done:
            if random.random() < 0.5:
                self.whole("restore", *command)
                self.assert_is(self.one, "finished by giving it again")
            else:
                self.whole("undo", "--confirm")
                self.assert_is(self.two, "taken back")
        else:
            assert self.is_as(self.one) or (not done and self.is_as(self.two)), \
                self.differ(self.one)[:5]
        if self.differ(self.one):
            self.whole("restore", *command)
        self.assert_is(self.one, "restored in the end")

    def undo(self):
        """Of the last restore."""
        self.restore()
        done, _ = self.attempt("undo", "--confirm")
        self.no_halves(self.one, self.two)
        if self.cut_off() and not done:
            self.whole("undo", "--confirm")
        elif not done and self.is_as(self.one):
            self.whole("undo", "--confirm")
        self.assert_is(self.two, "taken back in the end")

    # ---- all of it ----

    def rounds(self, count):
        """Every kind `count` times, in any order."""
        for kind in self.broken:  # how long each takes
            if kind == "archive":
                self.acknowledged.add(self.whole(kind, "data").lines[0]["name"])
            elif kind == "prune":
                self.save()
                self.whole(kind)
            elif kind == "restore":
                self.change()
                self.whole(kind, "latest", "--in-place", "--delete", "--confirm")
            else:
                self.whole(kind, "--confirm")
        kinds = [k for k in self.broken for _ in range(count)]
        random.shuffle(kinds)
        for kind in kinds:
            getattr(self, kind)()
        self.wk("rebuild")
        self.check_snapshots(self.snapshots(), set())
        return "; ".join("%s: %d of %d broken off" % (k, self.broken[k], self.runs[k])
                         for k in self.broken)
