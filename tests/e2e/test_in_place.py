"""Restores over the live data, and taking them back."""
import glob
import os
import signal
import sqlite3
import subprocess
import sys

import wk


def make(scratch):
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    wk.wk("-r", repo, "init")
    return root, repo


def put(root, path, text):
    full = os.path.join(root, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    wk.write(full, text)


def odd_tree(root):
    put(root, "settings.json", '{"a": 1}')
    put(root, "sub/deep/one.txt", "one")
    put(root, "sub/two.txt", "two")
    put(root, "was_file", "file")
    put(root, "was_folder/x/y", "inside")
    os.symlink("settings.json", os.path.join(root, "was_link"))
    put(root, "linked", "same inode")
    os.link(os.path.join(root, "linked"), os.path.join(root, "sub", "linked too"))
    with open(os.path.join(root, "sparse"), "wb") as f:
        f.seek(5 << 20)
        f.write(b"end")
    os.setxattr(os.path.join(root, "settings.json"), "user.who", b"me")
    os.mkdir(os.path.join(root, "closed"))
    put(root, "closed/in", "in")
    os.chmod(os.path.join(root, "closed"), 0o555)
    os.mkdir(os.path.join(root, "empty"), 0o700)
    os.mkfifo(os.path.join(root, "pipe"))


def change(root):
    put(root, "settings.json", "")
    os.chmod(os.path.join(root, "settings.json"), 0o600)
    os.chmod(os.path.join(root, "closed"), 0o755)
    put(root, "closed/in", "another")
    os.chmod(os.path.join(root, "closed"), 0o500)
    wk.remove(os.path.join(root, "sub", "deep"))
    os.remove(os.path.join(root, "was_file"))
    put(root, "was_file/now/a", "folder")
    wk.remove(os.path.join(root, "was_folder"))
    wk.write(os.path.join(root, "was_folder"), "now a file")
    os.remove(os.path.join(root, "was_link"))
    put(root, "was_link/a", "now a folder")
    os.remove(os.path.join(root, "sub", "linked too"))
    put(root, "sub/linked too", "same inode")
    put(root, "added/by the app", "new")
    os.rmdir(os.path.join(root, "empty"))
    os.symlink("nowhere", os.path.join(root, "empty"))


def there_and_back(scratch):
    root, repo = make(scratch)
    odd_tree(root)
    wk.wk("-r", repo, "save", root, "--name", "good-one")
    first = wk.tree(root)
    change(root)
    second = wk.tree(root)

    r = wk.wk("-r", repo, "--json", "restore", "good-one", "--in-place", "--delete", code=5)
    told = {(x["change"], x["path"]) for x in r.lines[:-1]}
    for what in (("replace", "settings.json"), ("add", "sub/deep"), ("remove", "added/by the app"),
                 ("remove", "was_link/a"), ("replace", "was_folder")):
        assert what in told, (what, told)
    wk.same(second, wk.tree(root), "nothing was confirmed")
    assert [s["kind"] for s in wk.wk("-r", repo, "--json", "list").json["snapshots"]] == ["manual"]

    r = wk.wk("-r", repo, "--json", "restore", "good-one", "--in-place", "--delete", "--confirm")
    wk.same(first, wk.tree(root), "restored")
    assert r.summary["in_place"] and r.summary["safety"] == 2, r
    snapshots = wk.wk("-r", repo, "--json", "list", "--all").json["snapshots"]
    assert [(s["kind"], s["pinned"]) for s in snapshots][-1] == ("safety", True), snapshots
    # What is as it is to be is not written again.
    inode = os.stat(os.path.join(root, "sub", "two.txt")).st_ino
    r = wk.wk("-r", repo, "--json", "restore", "good-one", "--in-place", "--delete", "--confirm")
    assert r.summary["replaced"] == r.summary["added"] == r.summary["files"] == 0, r
    assert os.stat(os.path.join(root, "sub", "two.txt")).st_ino == inode
    wk.same(first, wk.tree(root), "restored once more")

    assert "confirm" in wk.wk("-r", repo, "undo", code=5).err
    wk.same(first, wk.tree(root), "undo was not confirmed")
    wk.wk("-r", repo, "undo", "--confirm")
    wk.same(second, wk.tree(root), "taken back")
    wk.wk("-r", repo, "undo", "--confirm")
    wk.same(first, wk.tree(root), "the undo taken back")
    assert not [n for n in os.listdir(root) if n.startswith(".watchkeep")]


def what_others_made_stays(scratch):
    root, repo = make(scratch)
    odd_tree(root)
    wk.wk("-r", repo, "save", root, "--name", "one")
    os.remove(os.path.join(root, "sub", "two.txt"))
    put(root, "newer", "made after the snapshot")
    before = wk.tree(root, times=False)
    wk.wk("-r", repo, "restore", "one", "--in-place", "--confirm")
    assert os.path.exists(os.path.join(root, "newer")), "without --delete nothing is removed"
    put(root, "since", "made after the restore")
    wk.wk("-r", repo, "undo", "--confirm")
    assert os.path.exists(os.path.join(root, "since")), "undo removes what the restore added alone"
    os.remove(os.path.join(root, "since"))
    wk.same(before, wk.tree(root, times=False), "taken back")


def a_part(scratch):
    root, repo = make(scratch)
    odd_tree(root)
    wk.wk("-r", repo, "save", root)
    first = wk.tree(root)
    put(root, "settings.json", "stays")
    wk.remove(os.path.join(root, "sub"))
    before = wk.tree(root)
    wk.wk("-r", repo, "restore", "1:sub/deep", "--in-place", "--confirm")
    after = wk.tree(root)
    for path in (b"sub", b"sub/deep", b"sub/deep/one.txt"):
        assert after[path] == first[path] or path == b"sub", (path, after[path])
    assert b"sub/two.txt" not in after
    assert after[b"settings.json"] == before[b"settings.json"]
    assert after[b""]["mode"] == before[b""]["mode"]
    wk.wk("-r", repo, "undo", "--confirm")
    wk.same(before, wk.tree(root), "a part taken back")
    # A folder named with --to that is the place itself.
    r = wk.wk("-r", repo, "restore", "1:sub", "--to", os.path.join(root, "sub"), code=5)
    assert "--confirm" in r.err, r
    wk.wk("-r", repo, "restore", "1:sub", "--to", os.path.join(root, "sub"), "--confirm")
    assert wk.tree(root)[b"sub/two.txt"] == first[b"sub/two.txt"]
    for where in (root + "/sub/deep", scratch, os.path.join(repo, "x")):
        wk.wk("-r", repo, "restore", "1", "--to", where, "--overwrite", code=5)
    assert "is not in snapshot 1" in wk.wk("-r", repo, "restore", "1:nothing", "--in-place",
                                           "--confirm", code=6).err


def folders_on_the_way_keep_theirs(scratch):
    """What only lies on the way to what is restored has the owner, the attributes and the mode that it
    had, and not those of the snapshot."""
    root, repo = make(scratch)
    way = os.path.join(root, "way")
    put(root, "way/part/one.txt", "1")
    wk.wk("-r", repo, "save", root)
    wk.remove(os.path.join(way, "part"))
    os.setxattr(way, "user.new", b"1")
    os.chmod(way, 0o711)
    if os.geteuid() == 0:
        os.chown(way, 1234, 1235)
    os.utime(way, (1000, 1000))
    before = wk.tree(root)
    wk.wk("-r", repo, "restore", "1:way/part", "--in-place", "--confirm")
    after = wk.tree(root)
    assert b"way/part/one.txt" in after and after[b"way"] == before[b"way"], after
    wk.wk("-r", repo, "undo", "--confirm")
    wk.same(before, wk.tree(root), "taken back")


def a_part_below_a_file(scratch):
    """A file that makes way for the folder of what is restored comes back, and what is told before is
    what is done."""
    root, repo = make(scratch)
    put(root, "sub/deep/one.txt", "1")
    put(root, "sub/two.txt", "2")
    wk.wk("-r", repo, "save", root)
    wk.remove(os.path.join(root, "sub"))
    put(root, "sub", "a file now")
    before = wk.tree(root)
    wk.wk("-r", repo, "restore", "1:sub/deep", "--in-place", "--confirm")
    assert sorted(os.listdir(os.path.join(root, "sub"))) == ["deep"]
    put(root, "sub/deep/later", "made since")
    told = [(x["change"], x["path"]) for x in wk.wk("-r", repo, "--json", "undo", code=5).lines[:-1]]
    assert sorted(told) == [("remove", "sub"), ("remove", "sub/deep"), ("remove", "sub/deep/later"),
                            ("remove", "sub/deep/one.txt"), ("replace", "sub")], told
    wk.wk("-r", repo, "undo", "--confirm")
    wk.same(before, wk.tree(root), "the file is back")
    wk.wk("-r", repo, "undo", "--confirm")
    assert open(os.path.join(root, "sub/deep/later")).read() == "made since"


def left_out(scratch):
    """What the rules leave out, today's or those of the snapshot, is nobody's business."""
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    s = wk.Service(scratch, {"data": {"path": root, "exclude": ["*.tmp", "cache/"]}}, start=False)
    wk.wk("-r", s.repo, "init")
    put(root, "a", "1")
    put(root, "was_file", "1")
    put(root, "logs/today", "1")
    put(root, "cache/big", "1")
    s.cli("save")
    put(root, "a", "2")
    os.remove(os.path.join(root, "was_file"))
    put(root, "was_file/own.tmp", "not saved by anybody")
    put(root, "x.tmp", "not saved")
    put(root, "cache/big", "2")
    put(root, "sub/y.tmp", "not saved")
    put(root, "sub/saved", "saved")
    put(root, "logs/today", "2")
    s.watches["data"]["exclude"] = ["*.tmp", "logs/"]
    s.write_config()  # cache/ is captured now, logs/ no longer
    r = s.cli("--json", "restore", "1", "--in-place", "--delete", "--confirm", code=None)
    assert r.code == 5, r
    assert "was_file" in r.err and "was not saved" in r.err, r

    def text(path):
        return open(os.path.join(root, path)).read()
    assert text("a") == "1"
    assert text("x.tmp") == text("sub/y.tmp") == "not saved"
    assert text("was_file/own.tmp") == "not saved by anybody"
    assert not os.path.exists(os.path.join(root, "sub/saved"))
    assert text("cache/big") == "2", "the snapshot's rules left it out"
    assert text("logs/today") == "2", "today's rules leave it out"
    assert r.summary["left_out"] == 1, r
    s.cli("undo", "--confirm")
    assert text("a") == "2" and text("sub/saved") == "saved"
    assert text("x.tmp") == text("sub/y.tmp") == "not saved"
    assert text("was_file/own.tmp") == "not saved by anybody"
    assert text("cache/big") == text("logs/today") == "2"


WRITER = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("PRAGMA journal_mode=WAL")
db.execute("PRAGMA wal_autocheckpoint=0")
db.execute("CREATE TABLE IF NOT EXISTS t(x)")
for i in range(int(sys.argv[2]), int(sys.argv[3])):
    db.execute("INSERT INTO t VALUES(?)", (i,))
    db.commit()
if len(sys.argv) > 4:
    print("open", flush=True)
    sys.stdin.read()
os.kill(os.getpid(), 9)
"""


def rows(path):
    # Of a copy, so that the side files stay as they are.
    copy = os.path.join(os.path.dirname(os.path.dirname(path)), "copy")
    for end in ("", "-wal", "-journal"):
        if os.path.exists(path + end):
            wk.write(copy + end, open(path + end, "rb").read())
    db = sqlite3.connect(copy)
    try:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [r[0] for r in db.execute("SELECT x FROM t ORDER BY x")]
    finally:
        db.close()
        for end in ("", "-wal", "-shm", "-journal"):
            if os.path.exists(copy + end):
                os.remove(copy + end)


def database(scratch):
    root, repo = make(scratch)
    path = os.path.join(root, "app.db")
    other = os.path.join(root, "other.db")
    subprocess.run([sys.executable, "-c", WRITER, path, "0", "20"])
    wk.wk("-r", repo, "save", root)
    assert os.path.exists(path + "-wal"), "it looks alive"
    subprocess.run([sys.executable, "-c", WRITER, path, "20", "50"])
    subprocess.run([sys.executable, "-c", WRITER, other, "0", "5"])
    assert os.path.getsize(path + "-wal") > 0
    wk.wk("-r", repo, "restore", "1", "--in-place", "--delete", "--confirm")
    assert sorted(os.listdir(root)) == ["app.db"], os.listdir(root)
    assert rows(path) == list(range(20))
    # Stale side files beside it: of another life of that name.
    wk.write(path + "-journal", b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"stale" * 300)
    wk.write(path + "-wal", b"stale" * 1000)
    wk.wk("-r", repo, "undo", "--confirm")
    assert rows(path) == list(range(50))
    assert rows(other) == list(range(5))
    assert sorted(os.listdir(root)) == ["app.db", "other.db"], os.listdir(root)
    # A stale journal beside a name that the database is only coming back to.
    os.remove(path)
    wk.write(path + "-wal", b"stale" * 1000)
    before = wk.tree(root)
    wk.wk("-r", repo, "restore", "1:app.db", "--in-place", "--confirm")
    assert rows(path) == list(range(20))
    wk.wk("-r", repo, "undo", "--confirm")
    wk.same(before, wk.tree(root), "the stale file is back, the database gone")


def metadata_alone(scratch):
    """Content that is as it is to be is not written again: owner, mode, attributes, lists of who may
    and times come and go where the file stands."""
    root, repo = make(scratch)
    path = os.path.join(root, "app.db")
    subprocess.run([sys.executable, "-c", WRITER, path, "0", "20"])
    for name in ("listed", "capable", "plain", "given", "untouched"):
        put(root, name, "content of " + name)
    mine = os.geteuid() == 0
    acl = subprocess.run(["setfacl", "-m", "u:1234:rw,g:1235:r", os.path.join(root, "listed")],
                         capture_output=True).returncode == 0
    os.setxattr(os.path.join(root, "plain"), "user.old", b"1")
    os.mkdir(os.path.join(root, "folder"))
    if mine:
        os.setxattr(os.path.join(root, "capable"), "security.capability",
                    b"\x01\0\0\x02\0\x04" + b"\0" * 14)
        os.chown(os.path.join(root, "given"), 1234, 1235)
        os.chmod(os.path.join(root, "given"), 0o6750)
    wk.wk("-r", repo, "save", root)
    first = wk.tree(root)
    inodes = {n: os.stat(os.path.join(root, n)).st_ino for n in os.listdir(root)}
    os.chmod(path, 0o600)
    if acl:
        subprocess.run(["setfacl", "-b", os.path.join(root, "listed")], check=True)
    os.chmod(os.path.join(root, "listed"), 0o604)
    os.removexattr(os.path.join(root, "plain"), "user.old")
    os.setxattr(os.path.join(root, "plain"), "user.new", b"2")
    os.setxattr(os.path.join(root, "folder"), "user.new", b"2")
    os.utime(os.path.join(root, "plain"), (1000, 1000))
    if mine:
        os.removexattr(os.path.join(root, "capable"), "security.capability")
        os.chown(os.path.join(root, "given"), 0, 0)
        os.chown(os.path.join(root, "capable"), 1234, 1235)
    else:
        os.chmod(os.path.join(root, "given"), 0o600)
        os.chmod(os.path.join(root, "capable"), 0o600)
    second = wk.tree(root)
    told = {(x["change"], x["path"]) for x in
            wk.wk("-r", repo, "--json", "restore", "1", "--in-place", code=5).lines[:-1]}
    assert ("metadata", "listed") in told and ("metadata", "given") in told, told
    r = wk.wk("-r", repo, "--json", "restore", "1", "--in-place", "--confirm")
    assert (r.summary["metadata"], r.summary["replaced"], r.summary["files"]) == (6, 0, 0), r
    wk.same(first, wk.tree(root), "restored")
    assert rows(path) == list(range(20)) and os.path.exists(path + "-wal"), "side files stay"
    wk.wk("-r", repo, "undo", "--confirm")
    wk.same(second, wk.tree(root), "taken back")
    assert inodes == {n: os.stat(os.path.join(root, n)).st_ino for n in os.listdir(root)}


def in_use(scratch):
    root, repo = make(scratch)
    path = os.path.join(root, "app.db")
    subprocess.run([sys.executable, "-c", WRITER, path, "0", "5"])
    put(root, "a", "1")
    wk.wk("-r", repo, "save", root)
    put(root, "a", "2")
    p = subprocess.Popen([sys.executable, "-c", WRITER, path, "5", "9", "wait"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    p.stdout.readline()
    r = wk.wk("-r", repo, "restore", "1", "--in-place", "--confirm", code=5)
    assert str(p.pid) in r.err and "python" in r.err and "app.db" in r.err, r
    assert open(os.path.join(root, "a")).read() == "2"
    assert len(wk.wk("-r", repo, "--json", "list", "--all").json["snapshots"]) == 1
    wk.wk("-r", repo, "restore", "1:a", "--in-place", "--confirm", "--force")
    assert open(os.path.join(root, "a")).read() == "1"
    p.kill()
    p.communicate()
    # Somebody who stands there counts too, but not the shell that gives the command.
    p = subprocess.Popen(["sleep", "1000"], cwd=root)
    wk.until(lambda: os.readlink("/proc/%d/cwd" % p.pid) == root and
             open("/proc/%d/comm" % p.pid).read() == "sleep\n", "sleep to stand there")
    r = wk.wk("-r", repo, "undo", "--confirm", code=5)
    assert "%d (sleep)" % p.pid in r.err, r
    p.kill()
    p.wait()
    wk.wk("-r", repo, "undo", "--confirm", cwd=root)
    assert open(os.path.join(root, "a")).read() == "2"


MAPPER = """
import ctypes, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
assert libc.mmap(None, 1, 1, 1, fd, 0) != ctypes.c_void_p(-1).value
os.close(fd)
print("mapped", flush=True)
sys.stdin.read()
"""


def in_use_otherwise(scratch):
    """Mapped, and opened by another name, as in a container."""
    wk.need_root()
    root, repo = make(scratch)
    path = os.path.join(root, "sub", "a")
    put(root, "sub/a", "1")
    wk.wk("-r", repo, "save", root)
    put(root, "sub/a", "2")
    p = subprocess.Popen([sys.executable, "-c", MAPPER, path], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE)
    p.stdout.readline()
    r = wk.wk("-r", repo, "restore", "1", "--in-place", "--confirm", code=5)
    assert "process %d" % p.pid in r.err and "mapped" in r.err, r
    p.kill()
    p.communicate()
    other = os.path.join(scratch, "other")
    os.mkdir(other)
    subprocess.run(["mount", "--bind", os.path.join(root, "sub"), other], check=True)
    try:
        with open(os.path.join(other, "a")) as f:
            p = subprocess.Popen(["sleep", "1000"], stdin=f)
        r = wk.wk("-r", repo, "restore", "1", "--in-place", "--confirm", code=5)
        assert "process %d (sleep)" % p.pid in r.err and "sub/a" not in r.err, r
        p.kill()
        p.wait()
    finally:
        subprocess.run(["umount", other], check=True)
    wk.wk("-r", repo, "restore", "1", "--in-place", "--confirm")
    assert open(path).read() == "1"


def with_the_service(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    odd_tree(root)
    os.remove(os.path.join(root, "pipe"))
    s = wk.Service(scratch, {"data": {"path": root, "settle": "50ms"}})
    s.save("--name", "first")
    first = wk.tree(root)
    change(root)
    second = wk.tree(root)
    s.save()
    known = len(s.snapshots())
    s.cli("restore", "first", "--in-place", "--delete", "--confirm")
    wk.same(first, wk.tree(root), "restored")
    wk.until(lambda: len(s.snapshots()) > known + 1, "the snapshot that follows")
    # A barrier: everything that was reported by now has been looked at.
    assert s.save()["snapshot"] is None
    kinds = [x["kind"] for x in s.snapshots()]
    assert kinds[known:] == ["safety", "change"], kinds
    s.cli("undo", "--confirm")
    wk.same(second, wk.tree(root), "taken back")
    s.save()
    kinds = [x["kind"] for x in s.snapshots()][known + 2:]
    assert kinds[0] == "safety" and len(kinds) == 2, kinds
    pinned = [x["id"] for x in s.snapshots() if x["pinned"] and x["kind"] == "safety"]
    assert len(pinned) == 2, pinned
    put(root, "settings.json", "again")
    s.cli("restore", "first", "--in-place", "--confirm")
    now = [x["id"] for x in s.snapshots() if x["pinned"] and x["kind"] == "safety"]
    assert now == [pinned[1], now[1]] and now[1] > pinned[1], (pinned, now)
    s.stop()


def two_at_once(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    for i in range(700):
        wk.write(os.path.join(root, "f%d" % i), os.urandom(2000))
    s = wk.Service(scratch, {"data": {"path": root}})
    s.save("--name", "one")
    one = wk.tree(root)
    for i in range(700):
        wk.write(os.path.join(root, "f%d" % i), "two")
    restore = ["restore", "one", "--in-place", "--confirm"]
    while True:
        p = subprocess.Popen([wk.BIN, "-c", s.conf, *restore], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, env=wk.environment())
        written = os.path.join(root, ".watchkeep-restore-*", "new", "*")
        wk.until(lambda: p.poll() is not None or glob.glob(written), "it to write", pace=0)
        p.send_signal(signal.SIGSTOP)
        if p.poll() is None and glob.glob(written):
            break
        p.send_signal(signal.SIGCONT)
        p.wait(wk.PATIENCE)
        s.cli("undo", "--confirm")
    r = s.cli(*restore, "--force", code=11)
    assert "another restore in place" in r.err, r
    p.send_signal(signal.SIGCONT)
    assert p.wait(wk.PATIENCE) == 0
    wk.same(one, wk.tree(root), "the first was left alone")
    s.stop()


def nothing_to_undo(scratch):
    root, repo = make(scratch)
    put(root, "a", "1")
    assert "nothing" in wk.wk("-r", repo, "undo", "--confirm", code=6).err
    wk.wk("-r", repo, "save", root)
    r = wk.wk("-r", repo, "undo", "--confirm", code=6)
    assert "nothing to undo" in r.err, r
    wk.wk("-r", repo, "-w", "nobody", "undo", "--confirm", code=6)
    wk.remove(root)
    r = wk.wk("-r", repo, "restore", "1", "--in-place", "--confirm", code=6)
    assert "is not there" in r.err, r
    assert not os.path.exists(root), "a root that is gone may be one that is not mounted"
    wk.wk("-r", repo, "restore", "1", "--in-place", "--to", "x", code=2)
    wk.wk("-r", repo, "restore", "1", "--to", os.path.join(scratch, "x"), "--confirm", code=2)


def immutable(scratch):
    wk.need_root()
    root, repo = make(scratch)
    put(root, "a", "1")
    put(root, "fixed", "1")
    wk.wk("-r", repo, "save", root)
    put(root, "a", "2")
    put(root, "fixed", "2")
    put(root, "more", "2")
    if subprocess.run(["chattr", "+i", os.path.join(root, "fixed")], capture_output=True).returncode:
        wk.skip("no immutable files here")
    try:
        r = wk.wk("-r", repo, "restore", "1", "--in-place", "--confirm", code=12)
    finally:
        subprocess.run(["chattr", "-i", os.path.join(root, "fixed")])
    assert "'fixed'" in r.err and "chattr -i" in r.err, r
    assert open(os.path.join(root, "a")).read() == "1", "the rest is restored"
    wk.wk("-r", repo, "restore", "1", "--in-place", "--confirm")
    assert open(os.path.join(root, "fixed")).read() == "1"


def not_root(scratch):
    """What may be done is done, the rest is told."""
    wk.need_root()
    os.chmod(scratch, 0o755)
    mine = os.path.join(scratch, "mine")
    os.mkdir(mine)
    root, repo = make(mine)
    put(root, "ours", "1")
    put(root, "closed/in", "1")
    put(root, "closed/gone", "1")
    put(root, "read only", "1")
    os.setxattr(os.path.join(root, "read only"), "user.who", b"me")
    os.chmod(os.path.join(root, "read only"), 0o400)
    wk.remove(repo)
    for at, _, names in os.walk(mine):
        os.chown(at, 65534, 65534)
        for name in names:
            os.chown(os.path.join(at, name), 65534, 65534)
    os.chown(os.path.join(root, "ours"), 0, 0)
    os.chmod(os.path.join(root, "closed"), 0o555)

    def nobody():
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    def as_nobody(*args, code=0):
        return wk.wk("-r", repo, *args, preexec=nobody, code=code)
    as_nobody("init")
    as_nobody("save", root)
    first = wk.tree(root)
    os.remove(os.path.join(root, "ours"))
    os.remove(os.path.join(root, "read only"))
    os.chmod(os.path.join(root, "closed"), 0o755)
    put(root, "closed/in", "2")
    os.remove(os.path.join(root, "closed", "gone"))
    os.chmod(os.path.join(root, "closed"), 0o555)
    second = wk.tree(root)
    r = as_nobody("restore", "1", "--in-place", "--delete", "--confirm")
    assert "owner could not be set" in r.err and "'ours'" in r.err, r
    now = wk.tree(root)
    assert now.pop(b"ours")["owner"] == (65534, 65534)
    assert first.pop(b"ours")["owner"] == (0, 0)
    wk.same(first, now, "the rest, in a folder that may not be written too")
    as_nobody("undo", "--confirm")
    wk.same(second, wk.tree(root), "taken back")
    # What may not be read is neither replaced nor said to be as it was.
    put(root, "secret", "not for everybody")
    os.chmod(os.path.join(root, "secret"), 0o600)
    third = wk.tree(root)
    assert "'%s/secret'" % os.path.basename(root) in as_nobody("save", root, code=3).err
    r = as_nobody("restore", "latest", "--in-place", "--confirm", code=5)
    assert "'secret'" in r.err and "nothing was changed" in r.out and "is as in" not in r.out, r
    wk.same(third, wk.tree(root))


def what_is_told(scratch):
    """Of a broken state that is being taken back nobody is asked to say that it is right."""
    root, repo = make(scratch)
    put(root, "settings.json", '{"a": [1, 2, 3]}')
    for i in range(20):
        put(root, "more/%d" % i, "x")
    wk.wk("-r", repo, "save", root)
    put(root, "settings.json", "")
    wk.remove(os.path.join(root, "more"))
    r = wk.wk("-r", repo, "save", root)
    assert "data/settings.json' is empty" in r.err and "--accept" in r.err, r
    r = wk.wk("-r", repo, "restore", "1", "--in-place", "--confirm")
    assert r.err == "", r
    r = wk.wk("-r", repo, "undo", code=5)
    assert "takes back the restore of snapshot 1 and goes back to snapshot 3\n" in r.err, r
    wk.wk("-r", repo, "undo", "--confirm")
    r = wk.wk("-r", repo, "undo", code=5)
    assert "takes back the undo (a restore of snapshot 3) and goes back to snapshot 4\n" in r.err, r


def healed(scratch):
    root, repo = make(scratch)
    put(root, "settings.json", '{"a": [1, 2, 3], "b": null}')
    put(root, "sub/users.json", '[{"name": "x"}]')
    put(root, "sub/other.json", '{"kept": "as the app left it"}')
    put(root, "log.txt", "line\n")
    put(root, "gone.txt", "plain")
    path = os.path.join(root, "app.db")
    subprocess.run([sys.executable, "-c", WRITER, path, "0", "20"])
    r = wk.wk("-r", repo, "heal", "data", "--confirm", code=6)
    assert "data" in r.err, r
    wk.wk("-r", repo, "save", root)
    r = wk.wk("-r", repo, "heal", "data", "--confirm")
    assert "nothing to heal from" in r.err, "none is verified yet: no reason to stop an app"
    wk.wk("-r", repo, "verify")
    good = wk.tree(root, ignore=(b"app.db", b"app.db-wal", b"app.db-shm"))
    assert "nothing to heal" in wk.wk("-r", repo, "heal", "data").out
    assert "nothing to heal" in wk.wk("-r", repo, "heal", "data", "--confirm").out
    assert len(wk.wk("-r", repo, "--json", "list", "--all").json["snapshots"]) == 1

    put(root, "settings.json", "")
    put(root, "sub/users.json", '[{"name": "x"')
    put(root, "sub/other.json", '{"another": "state, and whole"}')
    put(root, "log.txt", "")
    os.remove(os.path.join(root, "gone.txt"))
    wk.write(path, b"SQLite format 3\0" + b"\x10\0\1\1\0" + b"torn" * 100)
    wk.wk("-r", repo, "save", root, "--name", "broken")
    broken = wk.tree(root)
    r = wk.wk("-r", repo, "heal", "data", code=5)
    assert sorted(r.out.split("\n")) == ["", "broken   app.db", "broken   sub/users.json",
                                         "empty    settings.json"], r
    wk.same(broken, wk.tree(root), "not confirmed")
    r = wk.wk("-r", repo, "--json", "heal", "data", "--confirm")
    assert r.summary["replaced"] == 3 and r.summary["added"] == 0, r
    assert open(os.path.join(root, "settings.json")).read() == '{"a": [1, 2, 3], "b": null}'
    assert rows(path) == list(range(20))
    now = wk.tree(root)
    for same in (b"settings.json", b"sub/users.json"):
        assert now[same] == good[same], same
    for left in (b"sub/other.json", b"log.txt", b"sub"):
        assert now[left] == broken[left], left
    assert b"gone.txt" not in now
    # What was broken is kept, and what the app did since is not undone with it.
    safety = str(r.summary["safety"])
    assert wk.wk("-r", repo, "cat", safety + ":sub/users.json").out == '[{"name": "x"'
    put(root, "log.txt", "written since")
    wk.wk("-r", repo, "heal", "data", "--confirm", "--missing")
    assert open(os.path.join(root, "gone.txt")).read() == "plain"
    wk.wk("-r", repo, "undo", "--confirm")
    assert not os.path.exists(os.path.join(root, "gone.txt"))
    assert open(os.path.join(root, "log.txt")).read() == "written since"
    assert open(os.path.join(root, "settings.json")).read() == '{"a": [1, 2, 3], "b": null}'


if __name__ == "__main__":
    wk.main(there_and_back, what_others_made_stays, a_part, folders_on_the_way_keep_theirs,
        a_part_below_a_file, left_out, database, metadata_alone, in_use, in_use_otherwise,
        with_the_service, two_at_once, nothing_to_undo, immutable, not_root, what_is_told, healed)
