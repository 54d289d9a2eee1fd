"""Restores that are killed, have no room, or are asked for what is not whole any more."""
import glob
import os
import signal
import subprocess

import wk


def make(scratch, files=1):
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    wk.wk("-r", repo, "init")
    for i in range(files):
        wk.write(os.path.join(root, "f%04d" % i), os.urandom(3000))
    wk.wk("-r", repo, "save", root)
    return root, repo


def scratch_folders(place):
    return glob.glob(os.path.join(place, ".watchkeep-restore-*"))


def half_way(repo, place, target):
    """A restore that is stopped while its files are being written."""
    while True:
        p = subprocess.Popen([wk.BIN, "-r", repo, "restore", "1", "--to", target],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             env=wk.environment())
        written = os.path.join(place, ".watchkeep-restore-*", "*")
        wk.until(lambda: p.poll() is not None or glob.glob(written), "the restore to write", pace=0)
        p.send_signal(signal.SIGSTOP)
        if p.poll() is None and scratch_folders(place) and not os.path.exists(target):
            return p, scratch_folders(place)[0]
        p.send_signal(signal.SIGCONT)
        p.wait(wk.PATIENCE)
        wk.remove(target)


def killed(scratch):
    root, repo = make(scratch, 3000)
    place = os.path.join(scratch, "place")
    os.mkdir(place)
    p, left = half_way(repo, place, os.path.join(place, "one"))
    # It is only slow: nobody touches what it writes.
    r = wk.wk("-r", repo, "restore", "1", "--to", os.path.join(place, "two"))
    assert not r.err, r
    assert os.path.isdir(left)
    os.kill(p.pid, signal.SIGCONT)
    assert p.wait(wk.PATIENCE) == 0
    wk.same(wk.tree(root), wk.tree(os.path.join(place, "one")))
    assert not scratch_folders(place)
    wk.remove(os.path.join(place, "one"))

    p, left = half_way(repo, place, os.path.join(place, "one"))
    p.kill()
    p.wait(wk.PATIENCE)
    assert os.path.isdir(left)
    assert not os.path.exists(os.path.join(place, "one"))
    # It is dead: the next one in that place clears up.
    r = wk.wk("-r", repo, "restore", "1", "--to", os.path.join(place, "three"))
    assert len(r.err.splitlines()) <= 1, r
    assert not scratch_folders(place)
    wk.same(wk.tree(root), wk.tree(os.path.join(place, "three")))


def full_target(scratch):
    wk.need_root()
    root, repo = make(scratch, 300)
    wk.write(os.path.join(root, "large"), os.urandom(12 << 20))
    wk.wk("-r", repo, "save", root)
    where = os.path.join(scratch, "mnt")
    os.mkdir(where)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", where]).returncode:
        wk.skip("cannot mount a tmpfs here")
    try:
        target = os.path.join(where, "target")
        r = wk.wk("-r", repo, "--json", "restore", "latest", "--to", target, code=13)
        assert r.summary["exit"] == 13
        for what in ("'large'", target, "nothing was put in place", "make room"):
            assert what in r.err, (what, r)
        assert os.listdir(where) == []
        # Over what stands there: that is still whole.
        os.mkdir(target)
        wk.write(os.path.join(target, "f0000"), "mine")
        r = wk.wk("-r", repo, "restore", "latest", "--to", target, "--overwrite", code=13)
        assert os.listdir(target) == ["f0000"], os.listdir(target)
        assert open(os.path.join(target, "f0000")).read() == "mine"
        subprocess.run(["mount", "-o", "remount,size=64m", where], check=True)
        wk.wk("-r", repo, "restore", "latest", "--to", target, "--overwrite")
        wk.same(wk.tree(root), wk.tree(target))
        subprocess.run(["mount", "-o", "remount,ro", where], check=True)
        r = wk.wk("-r", repo, "restore", "latest", "--to", os.path.join(where, "ro"), code=12)
        for what in (os.path.join(where, "ro"), "nothing was put in place", "may only be read"):
            assert what in r.err, (what, r)
    finally:
        subprocess.run(["umount", where], check=True)


def damage_file_list(repo, number):
    """Turn a bit in the file list of this snapshot (FORMAT.md, 4.2 and 8)."""
    for name, data in wk.packs(repo).items():
        at = 128
        while data[at:at + 4] == b"WKR1":
            length = int.from_bytes(data[at + 16:at + 20], "little")
            body = at + 40
            if data[at + 4] == 2 and int.from_bytes(data[body:body + 8], "little") == number:
                bad = bytearray(data)
                bad[body + length - 1] ^= 1
                wk.write(os.path.join(repo, "packs", name), bytes(bad))
                return
            at = body + (length + 7) // 8 * 8
    raise AssertionError("no file list of snapshot %d" % number)


def not_whole(scratch):
    root, repo = make(scratch, 5)
    one = wk.tree(root)
    for _ in range(2500):  # a short list would stand in the commit itself
        wk.write(os.path.join(root, os.urandom(20).hex()), "of the second snapshot")
    wk.wk("-r", repo, "save", root)
    damage_file_list(repo, 2)
    for f in glob.glob(os.path.join(repo, "catalog.db*")):
        os.remove(f)
    wk.wk("-r", repo, "rebuild", code=None)
    assert wk.wk("-r", repo, "--json", "show", "2").json["whole"] is False
    target = os.path.join(scratch, "back")
    r = wk.wk("-r", repo, "--json", "restore", "2", "--to", target, code=4)
    assert r.summary["exit"] == 4 and r.summary["snapshot"] == 2, r
    assert "not whole" in r.err, r
    # What is there is right, and only what was lost is missing.
    got = wk.tree(target, times=False)
    for path, d in one.items():
        if path:
            assert got[path]["sha256"] == d["sha256"], path
    # Also a single file: whether it is the one of that snapshot cannot be known.
    wk.wk("-r", repo, "restore", "2:f0001", "--to", os.path.join(scratch, "f"), code=4)
    wk.same(one, wk.restored(repo, "1", scratch))
    # What its list does not have any more may have been there.
    before = wk.tree(root)
    r = wk.wk("-r", repo, "restore", "2", "--in-place", "--delete", "--confirm", code=4)
    assert "not whole" in r.err and "without --delete" in r.err, r
    wk.same(before, wk.tree(root))


wk.main(killed, full_target, not_whole)
