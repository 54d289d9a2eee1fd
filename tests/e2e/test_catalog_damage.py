"""The catalog is an index: whatever happens to its bytes, no command is the worse for it."""
import os
import random
import shutil

import wk

PAGE = 4096


def make(scratch):
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.makedirs(os.path.join(root, "sub"))
    for i in range(150):
        wk.write(os.path.join(root, "sub" if i % 3 else "", "file%d" % i), os.urandom(50 + 7 * i))
    wk.write(os.path.join(root, "large"), os.urandom(3 << 20))
    wk.wk("-r", repo, "init")
    states = []
    for i in range(3):
        wk.write(os.path.join(root, "change"), "%d" % i)
        wk.write(os.path.join(root, "sub", "new%d" % i), os.urandom(900))
        if i == 1:
            os.remove(os.path.join(root, "file3"))
        wk.wk("-r", repo, "save", root, "--name", "n%d" % i)
        states.append(wk.tree(root))
    wk.wk("-r", repo, "verify")
    assert os.listdir(repo).count("catalog.db-wal") == 0, "the catalog is in one file"
    return root, repo, states


READING = (["list", "--all"], ["show", "n1"], ["ls", "n2"], ["diff", "n0", "n2"],
           ["history", "change"])


def answers(repo):
    out = []
    for words in READING:
        for flags in ([], ["--json"]):
            out.append(wk.wk("-r", repo, *flags, *words).out)
    out.append(wk.wk("-r", repo, "cat", "n2:large", binary=True).out)
    return out


def every_page(scratch):
    root, repo, states = make(scratch)
    path = os.path.join(repo, "catalog.db")
    sound = open(path, "rb").read()
    right = answers(repo)
    noticed = 0
    for number, at in enumerate(range(0, len(sound), PAGE)):
        bad = bytearray(sound)
        how = number % 3
        if how == 0:
            bad[at:at + PAGE] = bytes(PAGE)
        elif how == 1:
            bad[at:at + PAGE] = os.urandom(PAGE)
        else:
            bad[at + random.randrange(PAGE)] ^= 1 << random.randrange(8)
        wk.write(path, bytes(bad))
        where = "byte %d of %d, way %d" % (at, len(bad), how)
        assert answers(repo) == right, where
        wk.same(states[1], wk.restored(repo, "n1", scratch), where)
        assert open(path, "rb").read() == bytes(bad), "a reader wrote"
        # A writer finds the damage while it saves, and none is left when all was verified.
        copy = os.path.join(scratch, "copy")
        shutil.copytree(repo, copy, ignore=shutil.ignore_patterns("reserve"))
        wk.write(os.path.join(root, "change"), "after damage at %d" % at)
        r = wk.wk("-r", copy, "--json", "save", root, "--name", "after")
        assert r.summary["snapshot"] and not r.summary["incomplete"], (where, r)
        wk.same(wk.tree(root), wk.restored(copy, "after", scratch), where)
        wk.remove(copy)
        shutil.copytree(repo, copy, ignore=shutil.ignore_patterns("reserve"))
        v = wk.wk("-r", copy, "--json", "verify")
        assert v.summary["errors"] == 0 and v.summary["snapshots"] == 3, (where, v)
        noticed += "catalog" in v.err
        wk.same(states[1], wk.restored(copy, "n1", scratch), where)
        assert not wk.wk("-r", copy, "list").err, "verify left a damaged catalog: " + where
        wk.remove(copy)
    assert noticed > 3 * number // 4, "damage was hardly ever noticed"


def beneath_the_service(scratch):
    """The file changes beneath a service that has it open."""
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    for i in range(150):
        wk.write(os.path.join(root, "file%d" % i), os.urandom(400))
    s = wk.Service(scratch, {"data": {"path": root, "settle": "1ms"}})
    s.save("data", "--name", "first")
    s.stop()
    s.start()
    path = os.path.join(s.repo, "catalog.db")
    with open(path, "r+b") as f:
        size = os.fstat(f.fileno()).st_size
        f.write(os.urandom(size))
    wk.write(os.path.join(root, "file7"), "changed")
    assert s.save("data", "--name", "second")["snapshot"]
    wk.same(wk.tree(root), wk.restored(s.repo, "second", scratch), "second")
    v = s.cli("--json", "verify")
    assert v.summary["errors"] == 0, v
    names = [x["name"] for x in s.snapshots() if x["name"]]
    assert names == ["first", "second"], names
    s.stop()
    assert not wk.wk("-r", s.repo, "list").err


wk.main(every_page, beneath_the_service)
