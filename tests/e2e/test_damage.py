"""A flipped bit anywhere in a pack is named, and costs only what it touched."""
import os
import random
import shutil
import subprocess

import wk

CHUNK_MIN = 8 << 10  # of a large file's chunks but its last


def make(scratch):
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    wk.wk("-r", repo, "init")
    states = []
    for i in range(3):
        wk.write(os.path.join(root, "change.json"), '{"i": %d, "x": "%s"}' % (i, os.urandom(300).hex()))
        wk.write(os.path.join(root, "only%d" % i), os.urandom(700))
        wk.write(os.path.join(root, "large"), os.urandom(2 << 20)) if i == 1 else None
        wk.wk("-r", repo, "save", root)
        states.append(wk.tree(root))
    wk.wk("-r", repo, "verify")
    return root, repo, states


def flipped(scratch):
    root, repo, states = make(scratch)
    original = wk.packs(repo)
    ids = [s["id"] for s in wk.wk("-r", repo, "--json", "list", "--all").json["snapshots"]]
    total = sum(len(p) for p in original.values())
    told_paths = 0
    places = []
    for name, data in original.items():
        # Dense where the structure is, sparse in the large payload.
        n = 250 if len(data) < 100000 else 120
        places += [(name, random.randrange(len(data))) for _ in range(n)]
        places += [(name, i) for i in range(0, 176, 4)]
    for name, at in places:
        path = os.path.join(repo, "packs", name)
        bad = bytearray(original[name])
        bad[at] ^= 1 << random.randrange(8)
        wk.write(path, bytes(bad))
        copy = os.path.join(scratch, "copy")
        shutil.copytree(repo, copy, ignore=shutil.ignore_patterns("reserve"))
        r = wk.wk("-r", copy, "--json", "verify", code=None)
        where = "%s byte %d of %d" % (name, at, len(bad))
        assert r.code == 4, "not noticed: %s: %r" % (where, r)
        assert r.summary["errors"] > 0
        assert name in r.out, "%s is not named: %r" % (where, r)
        damaged = r.summary["damaged"]
        hurt = {s for d in damaged for s in d.get("snapshots", [d["snapshot"]]) if s}
        files = {d["path"] for d in damaged if d.get("path")}
        told_paths += bool(files)
        for k, number in enumerate(ids):
            target = os.path.join(scratch, "t")
            back = wk.wk("-r", copy, "restore", str(number), "--to", target, code=None)
            got = wk.tree(target, times=False) if os.path.isdir(target) else {}
            if back.code == 0:
                wk.same(states[k], wk.tree(target), "%s, snapshot %d said to be fine"
                        % (where, number))
            else:
                assert number in hurt or not damaged, (where, number, hurt, back)
                for p, d in got.items():
                    if d.get("sha256"):
                        assert states[k].get(p, {}).get("sha256") == d["sha256"], \
                            "%s: wrong content under %r" % (where, p)
                if files:
                    lost = {os.fsencode(f) for f in files}
                    missing = set(states[k]) - set(got)
                    assert missing <= lost, "%s: more is missing than is damaged: %r" % (
                        where, missing - lost)
            wk.remove(target)
        wk.remove(copy)
        wk.write(path, original[name])
    assert told_paths > len(places) // 4, "content damage was hardly ever named by path"
    assert wk.wk("-r", repo, "--json", "verify").summary["errors"] == 0


def lost_chunk_is_stored_again(scratch):
    root, repo, states = make(scratch)
    data = [n for n in wk.packs(repo) if "data" in n]
    assert data, "the large file went to a data pack"
    path = os.path.join(repo, "packs", data[0])
    content = bytearray(wk.packs(repo)[data[0]])
    content[len(content) // 2] ^= 1
    wk.write(path, bytes(content))
    r = wk.wk("-r", repo, "--json", "verify", code=4)
    assert any(d.get("path") == "large" for d in r.summary["damaged"]), r
    assert wk.wk("-r", repo, "--json", "list").json["snapshots"][-1]["damaged"]
    assert wk.wk("-r", repo, "restore", "latest", "--to", os.path.join(scratch, "t"),
                 code=4).err.count("large") >= 1
    # As `status` advises. The file looks as it did: nothing but the damage says to read it.
    r = wk.wk("-r", repo, "--json", "status", code=None)
    assert "save data stores again" in [p for p in r.json["problems"] if p["code"] == "damaged"][0]["do"]
    saved = wk.wk("-r", repo, "--json", "save", root).summary["snapshot"]
    wk.same(wk.tree(root), wk.restored(repo, saved, scratch))
    assert wk.wk("-r", repo, "--json", "save", root).summary["snapshot"] is None
    assert not any(d["path"] == "large" for d in wk.wk("-r", repo, "--json", "verify", code=None)
                   .summary["damaged"])
    assert not any(s["damaged"] for s in wk.wk("-r", repo, "--json", "list").json["snapshots"])
    # And pruning goes on: nobody waits for the next prune to find that out.
    assert not {"damaged", "frozen"} & {p["code"] for p in wk.wk("-r", repo, "--json", "status", code=None)
                                        .json["problems"]}


def stored_again_by_the_service(scratch):
    """Its next save, of whatever changed, reads all that stands there; the one after that does not."""
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    wk.write(os.path.join(root, "large"), os.urandom(2 << 20))
    wk.write(os.path.join(root, "small"), "0")
    s = wk.Service(scratch, {"data": {"path": root, "settle": "1ms"}})
    name = [n for n in wk.packs(s.repo) if "data" in n][0]
    with open(os.path.join(s.repo, "packs", name), "r+b") as f:
        f.seek(1 << 20)
        f.write(b"damage")
    s.cli("verify", "--full", code=4)
    before = len(s.snapshots())

    def saved(n):
        wk.write(os.path.join(root, "small"), str(n))
        wk.until(lambda: len(s.snapshots()) == before + n, "snapshot %d" % n)
    saved(1)
    stored = s.snapshots()[-1]["stored_bytes"]
    assert stored > CHUNK_MIN, stored  # what was lost of it
    wk.same(wk.tree(root), wk.restored(s.repo, "latest", scratch))
    assert not any(d["path"] for d in s.cli("--json", "verify", code=None).summary["damaged"])
    assert not any(x["damaged"] for x in s.snapshots())
    saved(2)
    s.stop()


def a_pack_brought_back(scratch):
    """What was found damaged is whole again, from a copy of the repository: `status` tells the way."""
    root, repo, states = make(scratch)
    name = [n for n in wk.packs(repo) if "data" in n][0]
    path, whole = os.path.join(repo, "packs", name), wk.packs(repo)[name]
    wk.write(path, whole[:len(whole) // 2] + b"damage" + whole[len(whole) // 2 + 6:])
    assert "do not rebuild" not in wk.wk("-r", repo, "verify", code=4).err
    wk.write(path, whole)
    r = wk.wk("-r", repo, "--json", "status", code=None)
    do = [p for p in r.json["problems"] if p["code"] == "damaged"][0]["do"]
    assert do.endswith(": watchkeep rebuild, watchkeep verify"), do
    wk.wk("-r", repo, "rebuild")
    wk.wk("-r", repo, "verify")
    wk.same(states[-1], wk.restored(repo, "latest", scratch))
    r = wk.wk("-r", repo, "--json", "status", code=None)
    assert not {"damaged", "frozen"} & {p["code"] for p in r.json["problems"]}, r


def unreadable(repo, pack, *args):
    """The command, while the disk gives nothing of that pack."""
    r = subprocess.run(["strace", "-f", "-qq", "-o", "/dev/null",
                        "-P", os.path.join(os.path.realpath(repo), "packs", pack),
                        "-e", "trace=pread64", "-e", "inject=pread64:error=EIO",
                        wk.BIN, "-r", repo, *args], capture_output=True, text=True,
                       stdin=subprocess.DEVNULL, env=wk.environment())
    return wk.Result(r.returncode, r.stdout, r.stderr)


def disk_does_not_answer(scratch):
    root, repo, states = make(scratch)
    log, data = sorted(wk.packs(repo))[0], [n for n in wk.packs(repo) if "data" in n][0]
    target = os.path.join(scratch, "t")
    # With a catalog what stands elsewhere is read, and saved.
    r = unreadable(repo, data, "restore", "latest", "--to", target)
    assert r.code != 0 and "'large': cannot read data pack " in r.err, r
    assert set(wk.tree(target)) == set(states[-1]) - {b"large", b"only1"}, r
    wk.remove(target)
    wk.write(os.path.join(root, "more"), os.urandom(1 << 20))
    r = unreadable(repo, data, "save", root, "--name", "more")
    assert r.code == 0, r
    states.append(wk.tree(root))
    wk.same(states[-1], wk.restored(repo, "more", scratch))
    # Without one nobody takes for lost what may only be a cable; the way out is told.
    for f in os.listdir(repo):
        if f.startswith("catalog"):
            os.remove(os.path.join(repo, f))
    for pack, kind in ((log, "log"), (data, "data")):
        for args in (["list"], ["save", root]):
            r = unreadable(repo, pack, *args)
            assert r.code == 1 and "cannot read %s pack " % kind in r.err, r
            assert "ddrescue" in r.err and "watchkeep rebuild\n" in r.err, r
    r = unreadable(repo, log, "rebuild")
    assert r.code == 1 and "ddrescue" in r.err and "watchkeep rebuild" not in r.err, r
    r = unreadable(repo, data, "rebuild")
    assert r.code == 4 and "without" in r.err, r
    assert wk.wk("-r", repo, "cat", "latest:only0", binary=True).out == open(
        os.path.join(root, "only0"), "rb").read()
    os.utime(os.path.join(root, "large"))
    wk.wk("-r", repo, "save", root, "--name", "again")
    wk.same(wk.tree(root), wk.restored(repo, "again", scratch))
    # The disk answers again.
    wk.wk("-r", repo, "rebuild")
    for i, state in enumerate(states):
        wk.same(state, wk.restored(repo, i + 1, scratch))
    assert wk.wk("-r", repo, "--json", "verify").summary["errors"] == 0
    r = wk.wk("-r", os.path.join(scratch, "none"), "list", code=10)
    assert "ddrescue" not in r.err, r


def a_mark_of_the_log(scratch):
    """No snapshot is missing anything: `verify` says what becomes of it, and what keeps what it
    said."""
    root, repo, states = make(scratch)
    wk.wk("-r", repo, "pin", "1")
    name = [n for n in wk.packs(repo) if n.startswith("0-")][-1]
    with open(os.path.join(repo, "packs", name), "r+b") as f:
        f.seek(f.read().rindex(b"WKR1") + 44)
        f.write(b"\xff\xff\xff\xff")
    r = wk.wk("-r", repo, "verify", code=4)
    assert "no snapshot that is listed needs" in r.err and "do not rebuild" in r.err, r
    assert wk.wk("-r", repo, "--json", "list").json["snapshots"][0]["pinned"]
    wk.same(states[-1], wk.restored(repo, "latest", scratch))


wk.main(a_mark_of_the_log, flipped, lost_chunk_is_stored_again, stored_again_by_the_service,
        a_pack_brought_back, disk_does_not_answer)
