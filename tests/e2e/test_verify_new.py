"""Verifying a snapshot costs what was stored since the last verification of everything; --full reads
all it needs again."""
import os
import shutil

import wk


def make(scratch):
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    wk.write(os.path.join(root, "large"), os.urandom(4 << 20))
    for i in range(20):
        wk.write(os.path.join(root, "f%d" % i), os.urandom(3000))
    wk.wk("-r", repo, "init")
    wk.wk("-r", repo, "save", root)
    return root, repo


def verify(repo, *args, code=0):
    return wk.wk("-r", repo, "--json", "verify", *args, code=code).summary


def only_what_is_new(scratch):
    root, repo = make(scratch)
    size = sum(os.path.getsize(os.path.join(root, n)) for n in os.listdir(root))
    assert verify(repo, "latest")["bytes"] >= size, "nothing was verified before: all is read"
    assert verify(repo)["bytes"] >= size
    assert verify(repo, "latest")["bytes"] == 0, "all of it was read back"
    wk.write(os.path.join(root, "f3"), os.urandom(3000))
    wk.wk("-r", repo, "save", root)
    r = verify(repo, "latest")
    assert 3000 <= r["bytes"] < 10000, r
    assert r["recorded"] and wk.wk("-r", repo, "--json", "show", "latest").json["verified"]
    assert verify(repo, "latest", "--full")["bytes"] >= size, "--full reads all it needs"
    assert verify(repo, "--full")["bytes"] >= size
    shutil.rmtree(os.path.join(repo, "scratch"), ignore_errors=True)
    for n in os.listdir(repo):
        if n.startswith("catalog"):
            os.remove(os.path.join(repo, n))
    assert verify(repo, "latest")["bytes"] >= size, "what is not remembered is read"


def damage_is_not_skipped(scratch):
    root, repo = make(scratch)
    verify(repo)
    wk.write(os.path.join(root, "new"), os.urandom(3000))
    wk.wk("-r", repo, "save", root)
    data = [n for n in wk.packs(repo) if n.startswith("1-data")][0]
    sound = wk.packs(repo)[data]
    bad = bytearray(sound)
    bad[len(bad) // 2] ^= 4

    def copy_with(content):
        copy = os.path.join(scratch, "copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(repo, copy)
        wk.write(os.path.join(copy, "packs", data), content)
        return copy

    short = copy_with(sound[:len(sound) // 2])
    assert verify(short, "latest", code=4)["errors"], "it is shorter than what was verified"
    flipped = copy_with(bytes(bad))
    assert verify(flipped, "--full", "latest", code=4)["damaged"]
    flipped = copy_with(bytes(bad))
    assert verify(flipped, code=4)["damaged"]
    assert verify(flipped, "latest", code=4)["errors"], "a pack that had a fault is read again"


wk.main(only_what_is_new, damage_is_not_skipped)
