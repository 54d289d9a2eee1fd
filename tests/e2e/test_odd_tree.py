"""A tree of odd things saves and restores with no difference, as root and not."""
import os
import socket
import stat

import wk


def make(root, as_root):
    os.mkdir(root)
    base = os.fsencode(root)

    def put(name, data=b"x", mode=None):
        path = base + b"/" + name
        with open(path, "wb") as f:
            f.write(data)
        if mode is not None:
            os.chmod(path, mode)
        return path
    put(b"new\nline")
    put(b"tab\tand\x01control")
    put(b"not \xff\xfe utf-8")
    put(b"n" * 255)
    put("é".encode() * 127)
    put(b"-rf")
    put(b" leading and trailing ")
    put(b"back\\slash")
    put("e\u0301".encode())
    put("\u00e9".encode())
    put(b"*?[a]")
    put(b"empty", b"")
    put(b"one byte", b"1")
    for size in (4095, 4096, 65535, 65536, 65537, 300001):
        put(b"size%d" % size, os.urandom(size))
    put(b"zeros", b"\0" * 200000)
    with open(base + b"/sparse", "wb") as f:
        f.truncate(1 << 32)
        f.seek(5 << 20)
        f.write(b"middle")
        f.seek(3 << 30)
        f.write(b"far")
    with open(base + b"/all hole", "wb") as f:
        f.truncate(10 << 20)
    with open(base + b"/small hole", "wb") as f:
        f.truncate(30000)
    hard = put(b"hard1", b"hard" * 100)
    os.mkdir(base + b"/hardfolder")
    os.link(hard, base + b"/hardfolder/hard2")
    os.link(hard, base + b"/hard3")
    os.symlink(b"hard1", base + b"/link")
    os.symlink(b"loop2", base + b"/loop1")
    os.symlink(b"loop1", base + b"/loop2")
    os.symlink(b"/etc/passwd", base + b"/outside")
    os.symlink(b"t" * 4095, base + b"/long target")
    os.symlink(b".", base + b"/self")
    os.mkdir(base + b"/empty folder")
    os.mkdir(base + b"/no rights", 0o700)
    for mode in (0o400, 0o777, 0o4755, 0o2755, 0o1777) + ((0o000,) if as_root else ()):
        put(b"mode%o" % mode, b"m", mode)
        os.mkdir(base + b"/dmode%o" % mode)
        os.chmod(base + b"/dmode%o" % mode, mode | (0 if as_root else 0o700))
    put(b"old")
    os.utime(base + b"/old", ns=(-86400 * 10**9 * 365 * 20 + 5, -86400 * 10**9 * 365 * 20 + 5))
    put(b"epoch")
    os.utime(base + b"/epoch", ns=(0, 0))
    put(b"nanoseconds")
    os.utime(base + b"/nanoseconds", ns=(1, 1234567890123456789))
    x = put(b"xattrs")
    os.setxattr(x, b"user.note", b"a value\0with zero")
    os.setxattr(x, b"user.empty", b"")
    os.setxattr(x, b"user.big", os.urandom(2000))
    os.setxattr(base + b"/empty folder", b"user.folder", b"yes")
    os.mkfifo(base + b"/fifo")
    s = socket.socket(socket.AF_UNIX)
    here = os.open(root, os.O_RDONLY)
    s.bind("/proc/self/fd/%d/socket" % here)
    s.close()
    put(b"notreally.db", b"not a database")
    put(b"header.db", b"SQLite format 3\0")
    put(b"half.db", b"SQLite format 3\0" + os.urandom(5000))
    if as_root:
        os.mknod(base + b"/chardev", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.mknod(base + b"/blockdev", stat.S_IFBLK | 0o600, os.makedev(7, 200))
        os.chown(base + b"/one byte", 12345, 54321)
        os.lchown(base + b"/link", 1, 2)
        os.setxattr(base + b"/one byte", b"trusted.t", b"t")
        # version 2 capability: cap_net_raw, permitted and effective
        os.setxattr(base + b"/mode777", b"security.capability",
                    bytes.fromhex("0100000200200000000000000000000000000000"))
        acl = bytes.fromhex("02000000" "01000700ffffffff" "0200040001000000" "04000500ffffffff"
                            "10000500ffffffff" "20000500ffffffff")
        os.setxattr(base + b"/size4096", b"system.posix_acl_access", acl)
    # Longer than PATH_MAX: only reachable step by step.
    fd = os.open(root, os.O_RDONLY)
    for i in range(40):
        name = "d%02d" % i + "x" * 120
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
        if i % 10 == 9:
            f = os.open("file", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd)
            os.write(f, b"deep %d" % i)
            os.close(f)
    os.symlink("../file", "deep link", dir_fd=fd)
    os.close(fd)
    os.close(here)
    os.utime(root, ns=(10**18, 10**18 + 1))


def odd(scratch):
    as_root = os.geteuid() == 0
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    make(root, as_root)
    before = wk.tree(root)
    wk.wk("-r", repo, "init")
    r = wk.wk("-r", repo, "--json", "save", root)
    assert r.summary["incomplete"] == [], r
    wk.same(before, wk.tree(root), "saving changed the source")
    back, where = wk.restored(repo, "latest", scratch, keep=True)
    wk.same(before, back, "restore")
    for name in ("all hole", "small hole"):
        assert os.stat(os.path.join(where, name)).st_blocks == 0, name
        size = os.stat(os.path.join(root, name)).st_size
        assert wk.wk("-r", repo, "cat", "latest:" + name, binary=True).out == b"\0" * size
    wk.remove(where)
    again = wk.wk("-r", repo, "--json", "save", root).summary
    assert again["snapshot"] is None, again
    listed = wk.wk("-r", repo, "--json", "ls", "latest").out
    assert "path_b64" in listed
    wk.wk("-r", repo, "ls", "latest")
    size = sum(len(p) for p in wk.packs(repo).values())
    assert size < 3 << 20, "holes were stored: %d bytes" % size
    for name in os.listdir(scratch):
        if name.startswith("back-"):
            wk.remove(os.path.join(scratch, name))


def odd_unprivileged(scratch):
    """The same as an ordinary user."""
    if os.geteuid() != 0:
        wk.skip("covered by the run above")
    os.chmod(scratch, 0o777)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            inner = os.path.join(scratch, "inner")
            os.mkdir(inner)
            odd(inner)
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0, "failed as an ordinary user"


wk.main(odd, odd_unprivileged)
