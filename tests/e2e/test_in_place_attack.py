"""Restores in place that are killed at any moment, and under the hands of somebody who swaps folders,
links and files in the target meanwhile. WK_SECONDS: how long the latter goes on (4)."""
import glob
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

import wk

SECONDS = float(os.environ.get("WK_SECONDS", "4"))
KILLS = int(os.environ.get("WK_KILLS", "15"))


def fill(root, word, files):
    for i in range(files):
        folder = os.path.join(root, "d%d" % (i % 7), "e%d" % (i % 3))
        os.makedirs(folder, exist_ok=True)
        wk.write(os.path.join(folder, "f%d" % i), "%s %d " % (word, i) * 50)


def make(scratch, files):
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    wk.wk("-r", repo, "init")
    fill(root, "one", files)
    wk.write(os.path.join(root, "only one"), "1")
    wk.wk("-r", repo, "save", root, "--name", "one")
    one = wk.tree(root)
    fill(root, "two", files)
    os.remove(os.path.join(root, "only one"))
    wk.write(os.path.join(root, "only two"), "2")
    wk.remove(os.path.join(root, "d6"))
    wk.write(os.path.join(root, "d6"), "a file now")
    wk.wk("-r", repo, "save", root, "--name", "two")
    return root, repo, one, wk.tree(root)


def cut(repo, *args, took):
    """Run it and kill it somewhere on its way; whether it was, and how long it ran."""
    begun = time.monotonic()
    p = subprocess.Popen([wk.BIN, "-r", repo, *args], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, env=wk.environment())
    try:
        p.wait(random.random() * took * 1.1)
    except subprocess.TimeoutExpired:
        p.kill()
    p.wait()
    return p.returncode == -signal.SIGKILL, time.monotonic() - begun


def no_halves(root, one, two):
    for path, what in wk.tree(root).items():
        if "sha256" in what and not path.startswith(b".watchkeep-restore-"):
            assert what in (one.get(path), two.get(path)), "half of something: %r" % path


def scratch_folders(root):
    return glob.glob(os.path.join(root, ".watchkeep-*"))


def killed(scratch):
    memory = tempfile.mkdtemp(dir="/dev/shm") if os.access("/dev/shm", os.W_OK) else scratch
    try:
        kill_them(memory)
    finally:
        if memory != scratch:
            wk.remove(memory)


def kill_them(scratch):
    root, repo, one, two = make(scratch, 200)
    restore = ["restore", "one", "--in-place", "--delete", "--confirm"]
    undo = ["undo", "--confirm"]
    begun = time.monotonic()
    wk.wk("-r", repo, *restore)
    took = time.monotonic() - begun
    wk.same(one, wk.tree(root), "restored")
    wk.wk("-r", repo, *undo)
    wk.same(two, wk.tree(root), "taken back")
    kills = begun_ones = i = 0
    while i < KILLS or kills <= KILLS // 3 or begun_ones == 0:
        i += 1
        assert i < 20 * KILLS, (kills, begun_ones)
        was, ran = cut(repo, *restore, took=took)
        took = took if was else 0.7 * took + 0.3 * ran
        kills += was
        no_halves(root, one, two)
        assert len(scratch_folders(root)) <= 1, "they pile up"
        half = wk.differences(two, wk.tree(root))
        begun_ones += was and bool(half)
        if i % 3 == 0:
            wk.wk("-r", repo, *restore)
            wk.same(one, wk.tree(root), "finished")
        if i % 3 == 1 and (not was or half):
            was, _ = cut(repo, *undo, took=took)
            kills += was
            no_halves(root, one, two)
        # Where the restore had not begun, undo may know of nothing, or of the last undo.
        wk.wk("-r", repo, "restore", "two", "--in-place", "--delete", "--confirm")
        wk.same(two, wk.tree(root), "put back")
        assert not scratch_folders(root)

    # The state that somebody wants back is the one before the first change.
    def cut_on_the_way():
        nonlocal took
        for _ in range(300):
            was, ran = cut(repo, *restore, took=took)
            took = took if was else 0.7 * took + 0.3 * ran
            if was and wk.differences(two, wk.tree(root)) and \
                    wk.differences(one, wk.tree(root)) and "cut off" in wk.wk("-r", repo, "undo",
                                                                             code=5).err:
                return
            wk.wk("-r", repo, "restore", "two", "--in-place", "--delete", "--confirm")
        raise AssertionError("no restore was cut off on its way")

    cut_on_the_way()
    wk.wk("-r", repo, "restore", "one:d1/e1", "--in-place", "--confirm")
    wk.wk("-r", repo, "undo", "--confirm")
    wk.same(two, wk.tree(root), "taken back with one of a part that followed")
    cut_on_the_way()

    def problems():
        return [p["code"] for p in wk.wk("-r", repo, "--json", "status", code=8).json["problems"]]
    assert "restore" in problems()
    wk.wk("-r", repo, *restore)
    wk.same(one, wk.tree(root), "finished by giving it again")
    assert "restore" not in problems()
    wk.wk("-r", repo, *undo)
    wk.same(two, wk.tree(root), "taken back to before the one that was cut off")
    for name, tree in (("one", one), ("two", two)):
        wk.same(tree, wk.restored(repo, name, scratch), name)
    assert wk.wk("-r", repo, "--json", "verify").summary["errors"] == 0


# It goes through no link itself: what is changed outside is none of its doing.
ATTACKER = """
import os, random, sys
root, outside = sys.argv[1:]
away = os.open(os.path.join(os.path.dirname(root), "away"), os.O_RDONLY)
top = os.open(root, os.O_RDONLY)
def enter(fd, name):
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
def attempt(f, *args, **kw):
    try:
        f(*args, **kw)
    except OSError:
        pass
def swap(n):
    d, e = "d%d" % random.randrange(7), "e%d" % random.randrange(3)
    deep = random.random() < 0.5
    at = enter(top, d) if deep else os.dup(top)
    name, where = (e, d + "/" + e) if deep else (d, d)
    there = "x%d" % random.randrange(n)
    try:
        kind = random.randrange(5)
        if kind == 0:    # a folder goes, and a link to outside stands in its place
            attempt(os.rename, name, "x%d" % n, src_dir_fd=at, dst_dir_fd=away)
            attempt(os.symlink, os.path.join(outside, where), name, dir_fd=at)
        elif kind == 1:  # and the other way round
            attempt(os.unlink, name, dir_fd=at)
            attempt(os.rename, there, name, src_dir_fd=away, dst_dir_fd=at)
        elif kind == 4:  # the scratch folder is swapped too
            for s in os.listdir(top):
                if s.startswith(".watchkeep-"):
                    attempt(os.rename, s, "s%d" % n, src_dir_fd=top, dst_dir_fd=away)
                    attempt(os.symlink, outside, s, dir_fd=top)
        else:            # a file is another name of one outside, or a link to it
            folder = enter(at, name)
            f = "f%d" % random.randrange(60)
            attempt(os.unlink, f, dir_fd=folder)
            if kind == 2:
                attempt(os.link, os.path.join(outside, where, f), f, dst_dir_fd=folder)
            else:
                attempt(os.symlink, os.path.join(outside, where, f), f, dir_fd=folder)
            os.close(folder)
    finally:
        os.close(at)
print("at it", flush=True)
n = 0
while True:
    n += 1
    attempt(swap, n)
"""


def seen_from_outside(folder):
    """Without what only tells that a file has one name more."""
    return {p: {k: v for k, v in d.items() if k != "same as"} for p, d in wk.tree(folder).items()}


def hostile(scratch):
    root, repo, one, two = make(scratch, 60)
    outside = os.path.join(scratch, "outside")
    os.mkdir(outside)
    fill(outside, "not yours", 60)
    os.makedirs(os.path.join(scratch, "away"))
    for name in ("new", "old"):  # as in a scratch folder
        os.makedirs(os.path.join(outside, name, "d1"))
        wk.write(os.path.join(outside, name, "d1", "kept"), "not yours")
    before = seen_from_outside(outside)
    links = {p: os.stat(os.path.join(os.fsencode(outside), p)).st_ctime_ns
             for p in before if "sha256" not in before[p]}
    p = subprocess.Popen([sys.executable, "-c", ATTACKER, root, outside], stdout=subprocess.PIPE)
    p.stdout.readline()
    runs = 0
    end = time.monotonic() + SECONDS
    try:
        while time.monotonic() < end or runs <= 3:
            for args in (["restore", "one", "--in-place", "--delete", "--confirm", "--force"],
                         ["undo", "--confirm", "--force"],
                         ["restore", "two", "--in-place", "--confirm"]):
                r = wk.wk("-r", repo, *args, code=None)
                assert r.code >= 0 and r.code < 128, r
                runs += 1
    finally:
        p.kill()
        p.wait()
    wk.same(before, seen_from_outside(outside), "outside, after %d restores" % runs)
    for path, ctime in links.items():
        assert os.stat(os.path.join(os.fsencode(outside), path)).st_ctime_ns == ctime, path
    # Left to itself it comes back.
    for d in os.listdir(root):
        if d.startswith(".watchkeep-") and os.path.islink(os.path.join(root, d)):
            os.remove(os.path.join(root, d))
    wk.wk("-r", repo, "restore", "one", "--in-place", "--delete", "--confirm")
    wk.same(one, wk.tree(root), "restored at last")


if __name__ == "__main__":
    wk.main(killed, hostile)
