"""The packs are the truth: catalog gone, read-only copies, full disks, copies made while saving."""
import os
import shutil
import subprocess
import time

import wk


def make(scratch, repo):
    root = os.path.join(scratch, "data")
    os.makedirs(os.path.join(root, "sub"))
    states = {}
    wk.wk("-r", repo, "init")
    for i in range(12):
        wk.replace(os.path.join(root, "a.json"), '{"i": %d}' % i)
        wk.write(os.path.join(root, "sub", "f%d" % i), os.urandom(20000))
        if i == 5:
            os.rename(os.path.join(root, "sub"), os.path.join(root, "renamed"))
            os.mkdir(os.path.join(root, "sub"))
            os.link(os.path.join(root, "a.json"), os.path.join(root, "hard"))
        if i == 7:
            os.remove(os.path.join(root, "renamed", "f2"))
            wk.write(os.path.join(root, "big"), os.urandom(3 << 20))
        wk.wk("-r", repo, "save", root, "--name", "n%d" % i, "--note", "note %d é" % i)
        states["n%d" % i] = wk.tree(root)
        if i == 8:
            wk.wk("-r", repo, "verify")
    other = os.path.join(scratch, "other")
    os.mkdir(other)
    wk.write(os.path.join(other, "x"), "x")
    wk.wk("-r", repo, "save", other)
    return root, states


def views(repo, upto=None):
    """What the reading commands say; with upto, of the snapshots up to that number only."""
    listed = wk.wk("-r", repo, "--json", "list", "--all")
    if upto:
        return [s for s in listed.json["snapshots"] if s["id"] <= upto] + [
            wk.wk("-r", repo, "--json", *a).out for i in range(12)
            for a in (["show", "n%d" % i], ["ls", "n%d" % i], ["diff", "n0", "n%d" % i])]
    out = [listed.out]
    for i in range(12):
        out.append(wk.wk("-r", repo, "--json", "show", "n%d" % i).out)
        out.append(wk.wk("-r", repo, "--json", "ls", "n%d" % i).out)
    for path in ("a.json", "renamed/f1", "big"):
        out.append(wk.wk("-r", repo, "-w", "data", "--json", "history", path).out)
    out.append(wk.wk("-r", repo, "--json", "diff", "n2", "n9").out)
    return out


def check(repo, states, scratch):
    for name, state in states.items():
        wk.same(state, wk.restored(repo, name, scratch), name)


def catalog_comes_back(scratch):
    repo = os.path.join(scratch, "repo")
    root, states = make(scratch, repo)
    before = views(repo)

    def drop():
        for n in os.listdir(repo):
            if n.startswith("catalog.db"):
                os.remove(os.path.join(repo, n))
    drop()
    r = wk.wk("-r", repo, "list")
    assert "n11" in r.out and r.err, "a reader without a catalog says so: %r" % r
    assert not os.path.exists(os.path.join(repo, "catalog.db")), "a reader wrote the catalog"
    check(repo, {"n3": states["n3"]}, scratch)
    wk.wk("-r", repo, "rebuild")
    assert views(repo) == before
    check(repo, states, scratch)
    upto = wk.wk("-r", repo, "--json", "list").json["snapshots"][-1]["id"]
    before = views(repo, upto)
    drop()
    wk.write(os.path.join(root, "more"), "more")
    wk.wk("-r", repo, "save", "data")  # the writer makes it by itself
    assert views(repo, upto) == before
    for damage in (b"", b"\0" * 4096, os.urandom(100000)):
        wk.write(os.path.join(repo, "catalog.db"), damage)
        assert wk.wk("-r", repo, "cat", "n3:a.json").out == '{"i": 3}'
        wk.write(os.path.join(root, "more"), os.urandom(10))
        wk.wk("-r", repo, "save", "data")
        assert views(repo, upto) == before
    # An older catalog is brought up to date.
    old = os.path.join(scratch, "old.db")
    shutil.copy(os.path.join(repo, "catalog.db"), old)
    wk.write(os.path.join(root, "more"), "even more")
    last = wk.wk("-r", repo, "--json", "save", "data").summary["snapshot"]
    now = wk.wk("-r", repo, "--json", "list", "--all").out
    shutil.copy(old, os.path.join(repo, "catalog.db"))
    assert wk.wk("-r", repo, "--json", "list", "--all").out == now
    wk.write(os.path.join(root, "more"), "yet more")
    assert wk.wk("-r", repo, "--json", "save", "data").summary["snapshot"] > last


def one_that_cannot_be_opened(scratch):
    """Who needs the catalog names it and what to do; that it can be read and written is not guessed
    at, but `rebuild` puts it out of the way."""
    repo = os.path.join(scratch, "repo")
    root, states = make(scratch, repo)
    before = views(repo)
    catalog = os.path.join(repo, "catalog.db")
    os.rename(catalog, catalog + ".away")
    os.mkdir(catalog)  # which stops root too
    wk.write(os.path.join(catalog, "kept"), "somebody's")
    wk.write(os.path.join(root, "more"), "more")
    r = wk.wk("-r", repo, "save", "data", code=12)
    assert catalog in r.err and "watchkeep rebuild" in r.err, r
    assert os.path.isdir(catalog)
    wk.wk("-r", repo, "rebuild")
    assert views(repo) == before
    check(repo, {"n3": states["n3"]}, scratch)
    wk.wk("-r", repo, "save", "data")
    aside = [n for n in os.listdir(repo) if n.startswith("catalog.db.damaged-")]
    assert len(aside) == 1 and os.listdir(os.path.join(repo, aside[0])) == ["kept"], aside


def readers_need_nothing(scratch):
    wk.need_root()
    repo = os.path.join(scratch, "repo")
    _, states = make(scratch, repo)
    before = views(repo)

    def mounted(options, kind, fill):
        where = os.path.join(scratch, "mnt")
        os.makedirs(where, exist_ok=True)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", where]).returncode:
            wk.skip("cannot mount a tmpfs here")
        try:
            copy = os.path.join(where, "repo")
            fill(copy)
            if options:
                subprocess.run(["mount", "-o", options, where], check=True)
            else:
                with open(os.path.join(where, "fill"), "wb", buffering=0) as f:
                    try:
                        while True:
                            f.write(b"\0" * 65536)
                    except OSError:
                        pass
            assert views(copy) == before, kind
            check(copy, {k: states[k] for k in ("n0", "n7", "n11")}, scratch)
            assert wk.wk("-r", copy, "--json", "verify").summary["errors"] == 0, kind
        finally:
            subprocess.run(["umount", where], check=True)

    def whole(copy):
        shutil.copytree(repo, copy)

    def bare(copy):
        os.mkdir(copy, 0o700)
        shutil.copytree(os.path.join(repo, "packs"), os.path.join(copy, "packs"))
        shutil.copy(os.path.join(repo, "format"), copy)
    mounted("remount,ro", "read-only", whole)
    mounted("remount,ro", "read-only without catalog", bare)
    mounted(None, "full disk", whole)
    mounted(None, "full disk without catalog", bare)


def copied_while_saving(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    wk.write(os.path.join(root, "a.json"), "0")
    s = wk.Service(scratch, {"data": {"path": root, "settle": "1ms"}})
    states = {}
    for k in range(8):
        copy = os.path.join(scratch, "copy%d" % k)
        os.mkdir(copy)
        p = subprocess.Popen(["rsync", "-a", os.path.join(s.repo, "packs"),
                              os.path.join(s.repo, "format"), copy])
        for i in range(10):
            wk.replace(os.path.join(root, "a.json"), '{"k": %d, "i": %d}' % (k, i))
            wk.write(os.path.join(root, "b%d" % i), os.urandom(50000))
            name = "c%d-%d" % (k, i)
            s.save("data", "--name", name)
            states[name] = wk.tree(root)
        # 24: a file vanished or changed while it was copied, which is what this is about.
        assert p.wait() in (0, 24)
        subprocess.run(["rsync", "-a", os.path.join(s.repo, "format"), copy], check=True)
        names = [x["name"] for x in wk.wk("-r", copy, "--json", "list", "--all").json["snapshots"]
                 if x["name"]]
        assert wk.wk("-r", copy, "--json", "verify").summary["errors"] == 0
        for name in names[-3:]:
            wk.same(states[name], wk.restored(copy, name, scratch), name)
        for j in range(k):
            assert "c%d-9" % j in names, "a snapshot from before the copy is missing in it"
        # It can be written to as well.
        assert wk.wk("-r", copy, "--json", "save", root).summary["exit"] == 0
    s.stop()


wk.main(catalog_comes_back, one_that_cannot_be_opened, readers_need_nothing, copied_while_saving)
