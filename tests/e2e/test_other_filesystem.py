"""Restores in place of a tree in which other file systems are mounted: what lies there is named and
stays as it is, the rest is restored and can be taken back."""
import ctypes
import os
import subprocess

import wk

NEW_USER, NEW_MOUNTS = 0x10000000, 0x20000
libc = ctypes.CDLL(None, use_errno=True)


def own_mounts():
    """As root, or as root of a namespace of our own."""
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(NEW_MOUNTS if uid == 0 else NEW_MOUNTS | NEW_USER) != 0:
        wk.skip("no mount namespace of our own: %s" % os.strerror(ctypes.get_errno()))
    if uid != 0:
        wk.write("/proc/self/setgroups", "deny")
        wk.write("/proc/self/uid_map", "0 %d 1" % uid)
        wk.write("/proc/self/gid_map", "0 %d 1" % gid)
    mount("--make-rprivate", "/")


def mount(*args):
    r = subprocess.run(["mount", *args], capture_output=True, text=True)
    if r.returncode:
        wk.skip("cannot mount: %s" % r.stderr.strip())


def put(root, path, text):
    wk.write(os.path.join(root, path), text)


def text(root, path):
    with open(os.path.join(root, path)) as f:
        return f.read()


def make(scratch):
    """mem: another file system; bound: the same one, but mounted apart."""
    root, repo, other = (os.path.join(scratch, n) for n in ("data", "repo", "other"))
    for folder in (root, other, os.path.join(root, "mem"), os.path.join(root, "bound")):
        os.mkdir(folder)
    mount("-t", "tmpfs", "none", os.path.join(root, "mem"))
    mount("--bind", other, os.path.join(root, "bound"))
    os.mkdir(os.path.join(root, "mem", "deep"))
    for path in ("a", "mem/deep/f", "mem/gone", "bound/g"):
        put(root, path, "one")
    wk.wk("-r", repo, "init")
    wk.wk("-r", repo, "save", root, "--name", "one")
    for path in ("a", "mem/deep/f", "mem/deep/new", "bound/g", "bound/new", "new"):
        put(root, path, "two, and more")
    os.remove(os.path.join(root, "mem", "gone"))
    return root, repo


def end(root):
    for name in ("mem", "bound"):
        subprocess.run(["umount", os.path.join(root, name)], check=True)


def named_and_left(scratch):
    root, repo = make(scratch)
    try:
        two = wk.tree(root)
        r = wk.wk("-r", repo, "--json", "restore", "one", "--in-place", "--delete", "--confirm",
                  code=5)
        told = {p["path"]: p["reason"] for p in r.summary["problems"]}
        assert set(told) == {"mem/deep/f", "mem/gone", "mem/deep/new", "bound/g", "bound/new"}, told
        assert all("another file system" in why for why in told.values()), told
        assert text(root, "a") == "one" and not os.path.exists(os.path.join(root, "new"))
        now = wk.tree(root)
        for path in two:
            if path.startswith((b"mem/", b"bound/")):
                assert now.get(path) == two[path], (path, now.get(path), two[path])
        assert b"mem/gone" not in now
        wk.wk("-r", repo, "undo", "--confirm")
        wk.same(two, wk.tree(root), "taken back")
        # What it names is to be had elsewhere.
        back = os.path.join(scratch, "back")
        wk.wk("-r", repo, "restore", "one:mem", "--to", back)
        assert text(back, "gone") == text(back, "deep/f") == "one"
    finally:
        end(root)


if __name__ == "__main__":
    own_mounts()
    wk.main(named_and_left)
