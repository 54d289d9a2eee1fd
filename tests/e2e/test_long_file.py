"""A long file is written by several workers at once: it comes back whole, holes and all, or not at
all."""
import os

import wk

MIB = 1 << 20


def make(scratch):
    """100 MiB of content: without holes, and with; beside them what must not suffer."""
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    piece = os.urandom(256 << 10)
    with open(os.path.join(root, "plain"), "wb") as f:
        for i in range(400):
            f.write(b"%08d" % i + piece[8:])
    piece = os.urandom(256 << 10)  # they have no content in common that could be damaged in both
    with open(os.path.join(root, "sparse"), "wb") as f:
        for i in range(100):
            f.seek(i * 3 * MIB + 5000)
            f.write(b"%08d" % i + 4 * piece)
        f.truncate(400 * MIB + 1)
    os.setxattr(os.path.join(root, "plain"), b"user.note", b"kept")
    os.chmod(os.path.join(root, "plain"), 0o4710)
    os.chmod(os.path.join(root, "sparse"), 0o400)
    for i in range(50):
        wk.write(os.path.join(root, "small%d" % i), os.urandom(3000))
    os.link(os.path.join(root, "plain"), os.path.join(root, "second name"))
    for name in os.listdir(root):
        os.utime(os.path.join(root, name), (1, 1234567890.5))
    wk.wk("-r", repo, "init")
    wk.wk("-r", repo, "save", root)
    return root, repo


def whole(scratch):
    root, repo = make(scratch)
    back, target = wk.restored(repo, "latest", scratch, keep=True)
    wk.same(wk.tree(root), back)
    held = os.stat(os.path.join(target, "sparse")).st_blocks * 512
    assert held < 130 * MIB, "the holes were filled: %d MiB" % (held // MIB)
    one = os.path.join(scratch, "one")
    wk.wk("-r", repo, "restore", "latest:sparse", "--to", one)
    assert wk.tree(one)[b"sparse"] == wk.tree(root)[b"sparse"]


def damaged(scratch):
    """One flipped bit in the middle: both names of the file are missing, and nothing else."""
    root, repo = make(scratch)
    files = {b"plain": [b"plain", b"second name"], b"sparse": [b"sparse"]}
    state = wk.tree(root)
    hit = set()
    for name, content in wk.packs(repo).items():
        if not name.startswith("1-data"):
            continue
        path = os.path.join(repo, "packs", name)
        for at in range(len(content) // 6, len(content), len(content) // 3):
            bad = bytearray(content)
            bad[at] ^= 1
            wk.write(path, bytes(bad))
            target = os.path.join(scratch, "back")
            r = wk.wk("-r", repo, "restore", "latest", "--to", target, code=None)
            got = wk.tree(target)
            lost = set(state) - set(got)
            if r.code == 0:
                assert not lost
            else:
                assert r.code == 4, r
                assert lost in [set(f) for f in files.values()] or all(
                    p.startswith(b"small") for p in lost), lost
                hit |= lost
            for p in got:
                if p and got[p].get("sha256"):
                    assert got[p]["sha256"] == state[p]["sha256"], p
            wk.remove(target)
        wk.write(path, content)
    assert b"plain" in hit or b"sparse" in hit, "no long file was hit: %r" % hit


wk.main(whole, damaged)
