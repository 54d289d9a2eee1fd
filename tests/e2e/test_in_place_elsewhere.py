"""restore --to a folder in live data where the content did not stand: it follows the rules of a restore
in place, and undo takes it back."""
import os
import sqlite3
import subprocess

import wk


def put(root, path, text):
    full = os.path.join(root, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    wk.write(full, text)


def text(root, path):
    with open(os.path.join(root, path)) as f:
        return f.read()


def make(scratch):
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    put(root, "sub/a", "a of sub")
    put(root, "sub/deep/b", "b of sub")
    put(root, "sub/same", "the same")
    os.link(os.path.join(root, "sub", "a"), os.path.join(root, "sub", "deep", "a too"))
    os.symlink("a", os.path.join(root, "sub", "link"))
    os.chmod(os.path.join(root, "sub"), 0o750)
    put(root, "other/a", "a of other")
    put(root, "other/mine", "mine")
    put(root, "other/same", "the same")
    os.utime(os.path.join(root, "sub", "same"), (1000, 1000))
    os.utime(os.path.join(root, "other", "same"), (1000, 1000))
    put(root, "single", "one file")
    os.chmod(os.path.join(root, "other"), 0o711)
    os.utime(root, (2000, 2000))
    wk.wk("-r", repo, "init")
    wk.wk("-r", repo, "save", root, "--name", "one")
    return root, repo


def below(tree, folder):
    n = len(folder) + 1
    return {p[n:]: {k: v for k, v in d.items() if k != "same as"} for p, d in tree.items()
            if p.startswith(folder + b"/")}


def into_a_folder_that_is_there(scratch):
    root, repo = make(scratch)
    before, other = wk.tree(root), os.path.join(root, "other")
    r = wk.wk("-r", repo, "--json", "restore", "one:sub", "--to", other, code=5)
    told = {(x["change"], x["path"]) for x in r.lines[:-1]}
    assert told == {("replace", "other/a"), ("add", "other/deep"), ("add", "other/deep/a too"),
                    ("add", "other/deep/b"), ("add", "other/link")}, told
    wk.same(before, wk.tree(root), "nothing was confirmed")
    inode = os.stat(os.path.join(other, "same")).st_ino
    r = wk.wk("-r", repo, "--json", "restore", "one:sub", "--to", other, "--confirm")
    assert r.summary["in_place"] and r.summary["removed"] == 0, r
    now = wk.tree(root)
    for path, what in below(before, b"sub").items():
        assert below(now, b"other")[path] == what, path
    assert os.stat(os.path.join(other, "same")).st_ino == inode, "what is the same is not written"
    assert os.path.samefile(os.path.join(other, "a"), os.path.join(other, "deep", "a too"))
    assert text(other, "mine") == "mine"
    assert now[b"other"] == before[b"other"], "a folder that is there keeps its own metadata"
    assert now[b""] == before[b""] and below(now, b"sub") == below(before, b"sub")
    assert wk.wk("-r", repo, "--json", "list", "--all").json["snapshots"][-1]["kind"] == "safety"
    wk.wk("-r", repo, "undo", "--confirm")
    wk.same(before, wk.tree(root), "taken back")
    wk.wk("-r", repo, "undo", "--confirm")
    wk.same(now, wk.tree(root), "the undo taken back")
    wk.wk("-r", repo, "undo", "--confirm")
    r = wk.wk("-r", repo, "--json", "restore", "one:sub", "--to", other, "--delete", "--confirm")
    assert not os.path.exists(os.path.join(other, "mine"))
    assert below(wk.tree(root), b"other") == below(before, b"sub")
    wk.wk("-r", repo, "undo", "--confirm")
    wk.same(before, wk.tree(root), "taken back again")


def into_one_that_is_made(scratch):
    root, repo = make(scratch)
    before = wk.tree(root)
    wk.wk("-r", repo, "restore", "one:sub", "--to", os.path.join(root, "new", "way", "here"),
          "--confirm")
    now = wk.tree(root)
    assert below(now, b"new/way/here") == below(before, b"sub")
    assert now[b"new/way/here"] == before[b"sub"], "one that is made gets that of what is restored"
    put(root, "new/since", "by the app")
    wk.wk("-r", repo, "undo", "--confirm")
    assert text(root, "new/since") == "by the app" and os.listdir(os.path.join(root, "new")) == ["since"]
    wk.remove(os.path.join(root, "new"))
    os.utime(root, (2000, 2000))
    wk.same(before, wk.tree(root), "taken back")
    wk.wk("-r", repo, "restore", "one:sub/a", "--to", os.path.join(root, "new"), "--confirm")
    assert os.listdir(os.path.join(root, "new")) == ["a"] and text(root, "new/a") == "a of sub"
    wk.wk("-r", repo, "undo", "--confirm")
    wk.same(before, wk.tree(root), "one file taken back")


def one_file_and_the_root(scratch):
    root, repo = make(scratch)
    before = wk.tree(root)
    wk.wk("-r", repo, "restore", "one:single", "--to", os.path.join(root, "sub", "deep"),
          "--confirm")
    assert text(root, "sub/deep/single") == "one file"
    put(root, "sub/deep/since", "stays")
    wk.wk("-r", repo, "undo", "--confirm")
    assert text(root, "sub/deep/since") == "stays"
    os.remove(os.path.join(root, "sub", "deep", "since"))
    os.utime(os.path.join(root, "sub", "deep"), ns=(0, before[b"sub/deep"]["mtime"]))
    wk.same(before, wk.tree(root), "taken back")
    # A folder's content straight into the root.
    wk.wk("-r", repo, "restore", "one:sub", "--to", root, "--confirm")
    now = wk.tree(root)
    assert text(root, "deep/b") == "b of sub" and text(root, "single") == "one file"
    assert now[b""] == before[b""] and now[b"sub"] == before[b"sub"]
    wk.wk("-r", repo, "undo", "--confirm")
    wk.same(before, wk.tree(root), "out of the root again")
    # All of it below itself, over something of another kind.
    put(root, "other/sub", "a file")
    second = wk.tree(root)
    wk.wk("-r", repo, "restore", "one", "--to", os.path.join(root, "other"), "--confirm")
    assert text(root, "other/sub/deep/b") == "b of sub" and text(root, "other/other/a") == "a of other"
    wk.wk("-r", repo, "undo", "--confirm")
    wk.same(second, wk.tree(root), "and back")
    r = wk.wk("-r", repo, "restore", "one:sub", "--to", os.path.join(root, "other", "a"), "--confirm",
              code=5)
    assert wk.tree(root) == second, r


def killed_on_its_way(scratch):
    """Given again it is finished, and what undo looks at is not more than what was made."""
    root, repo = make(scratch)
    before = wk.tree(root)
    new = os.path.join(root, "new", "way", "here")
    command = ["restore", "one:sub", "--to", new, "--confirm"]
    for again in (True, False):
        r = subprocess.run(["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=syncfs", "-e",
                            "inject=syncfs:signal=KILL:when=2", wk.BIN, "-r", repo, *command],
                           capture_output=True, env=wk.environment())
        assert r.returncode != 0 and os.path.exists(os.path.join(new, "a")), r
        assert "cut off" in wk.wk("-r", repo, "undo", code=5).err
        if again:
            wk.wk("-r", repo, *command)
            assert below(wk.tree(root), b"new/way/here") == below(before, b"sub")
            put(root, "sub/a", "written since")
        wk.wk("-r", repo, "undo", "--confirm")
        if again:
            assert text(root, "sub/a") == "written since"
            put(root, "sub/a", "a of sub")
            os.utime(os.path.join(root, "sub", "a"), ns=(0, before[b"sub/a"]["mtime"]))
        os.utime(root, (2000, 2000))
        wk.same(before, wk.tree(root), "taken back")


def what_is_left_out(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    s = wk.Service(scratch, {"data": {"path": root}}, start=False)
    wk.wk("-r", s.repo, "init")
    put(root, "sub/x.tmp", "saved once")
    put(root, "sub/y", "y")
    put(root, "cache/in/z", "z")
    s.cli("save")
    s.watches["data"]["exclude"] = ["*.tmp", "cache/"]
    s.write_config()
    put(root, "there/x.tmp", "nobody's")
    put(root, "there/more.tmp", "nobody's")
    put(root, "there/gone", "saved")
    s.cli("restore", "1:sub", "--to", os.path.join(root, "there"), "--delete", "--confirm")
    assert sorted(os.listdir(os.path.join(root, "there"))) == ["more.tmp", "x.tmp", "y"]
    assert text(root, "there/x.tmp") == "nobody's"
    s.cli("undo", "--confirm")
    assert sorted(os.listdir(os.path.join(root, "there"))) == ["gone", "more.tmp", "x.tmp"]
    for where in ("cache", "cache/in", "cache/new"):
        r = s.cli("restore", "1:sub", "--to", os.path.join(root, where), "--confirm", code=5)
        assert "leave 'cache" in r.err and "another folder" in r.err, r
    r = s.cli("restore", "1:cache/in/z", "--in-place", code=5)
    assert "leave 'cache/in/z' out" in r.err, r
    r = s.cli("restore", "1:cache/in/none", "--in-place", code=6)
    assert "'cache/in/none' is not in snapshot 1" in r.err, r
    assert os.listdir(os.path.join(root, "cache")) == ["in"]


def in_use(scratch):
    root, repo = make(scratch)
    before = wk.tree(root)
    with open(os.path.join(root, "single")) as f:
        p = subprocess.Popen(["sleep", "1000"], stdin=f)
    try:
        r = wk.wk("-r", repo, "restore", "one:sub", "--to", os.path.join(root, "new"), "--confirm",
                  code=5)
        assert "process %d" % p.pid in r.err, r
    finally:
        p.kill()
        p.wait()
    wk.same(before, wk.tree(root), "refused")


def of_another_watch(scratch):
    """The live data of the other one is saved before, and taken back."""
    one, two, repo = (os.path.join(scratch, n) for n in ("one", "two", "repo"))
    put(one, "a", "one")
    put(two, "in/a", "two")
    wk.wk("-r", repo, "init")
    wk.wk("-r", repo, "save", one)
    wk.wk("-r", repo, "save", two)
    before = wk.tree(two)
    wk.wk("-r", repo, "restore", "1", "--to", os.path.join(two, "in"), code=5)
    wk.wk("-r", repo, "restore", "1", "--to", os.path.join(two, "in"), "--confirm")
    assert text(two, "in/a") == "one"
    last = wk.wk("-r", repo, "--json", "list", "--all").json["snapshots"][-1]
    assert (last["watch"], last["kind"]) == ("two", "safety"), last
    wk.wk("-r", repo, "-w", "one", "undo", code=6)
    wk.wk("-r", repo, "undo", "--confirm")
    wk.same(before, wk.tree(two), "taken back")


def with_the_service(scratch):
    """It makes the safety snapshot of the watch whose data it is, keeps the record, and saves what came."""
    one, two = os.path.join(scratch, "one"), os.path.join(scratch, "two")
    put(one, "a", "one")
    put(two, "in/a", "two")
    s = wk.Service(scratch, {"one": {"path": one, "settle": "50ms"},
                             "two": {"path": two, "settle": "50ms"}})
    s.save("one", "--name", "first")
    s.save("two")
    before, known = wk.tree(two), len(s.snapshots())
    s.cli("-w", "one", "restore", "first", "--to", os.path.join(two, "new"), "--confirm")
    assert text(two, "new/a") == "one"
    wk.until(lambda: len(s.snapshots()) > known + 1, "the snapshot that follows")
    assert s.save("two")["snapshot"] is None
    assert [(x["watch"], x["kind"]) for x in s.snapshots()[known:]] == [("two", "safety"),
                                                                       ("two", "change")]
    s.cli("undo", "--confirm")
    wk.same(before, wk.tree(two), "taken back")
    s.stop()


def around_a_root(scratch):
    outer = os.path.join(scratch, "srv")
    root, repo = os.path.join(outer, "app"), os.path.join(scratch, "repo")
    put(root, "app", "named as the root's folder")
    put(root, "conf", "a file")
    put(root, "sub/x", "x")
    wk.wk("-r", repo, "init")
    wk.wk("-r", repo, "save", root)
    before = wk.tree(outer)
    for what in ("1", "1:sub", "1:app"):
        for more in ([], ["--overwrite"], ["--overwrite", "--confirm", "--force"]):
            r = wk.wk("-r", repo, "restore", what, "--to", outer, *more, code=5)
            assert "holds the root of watch 'app'" in r.err and "--in-place" in r.err, r
    wk.wk("-r", repo, "restore", "1", "--to", os.path.join(repo, "x"), code=5)
    wk.same(before, wk.tree(outer), "refused")
    # One file whose name is not on the way to the root reaches nothing.
    wk.wk("-r", repo, "restore", "1:conf", "--to", outer, "--overwrite")
    assert text(outer, "conf") == "a file"
    wk.same(below(before, b"app"), below(wk.tree(outer), b"app"))


def database(scratch):
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.makedirs(os.path.join(root, "copy"))

    def fill(path, count):
        db = sqlite3.connect(os.path.join(root, path))
        db.execute("CREATE TABLE IF NOT EXISTS t(x)")
        db.executemany("INSERT INTO t VALUES(?)", [(i,) for i in range(count)])
        db.commit()
        db.close()

    def rows(path):
        db = sqlite3.connect(os.path.join(root, path))
        n = db.execute("SELECT count(*) FROM t").fetchone()[0]
        db.close()
        return n
    fill("app.db", 10)
    fill("copy/app.db", 300)
    wk.wk("-r", repo, "init")
    wk.wk("-r", repo, "save", root)
    wk.write(os.path.join(root, "copy", "app.db-wal"), b"stale" * 1000)
    wk.wk("-r", repo, "restore", "1:app.db", "--to", os.path.join(root, "copy"), "--confirm")
    assert os.listdir(os.path.join(root, "copy")) == ["app.db"]
    assert rows("copy/app.db") == 10
    wk.wk("-r", repo, "undo", "--confirm")
    assert rows("copy/app.db") == 300 and rows("app.db") == 10


if __name__ == "__main__":
    wk.main(into_a_folder_that_is_there, into_one_that_is_made, one_file_and_the_root,
            killed_on_its_way, what_is_left_out, in_use, of_another_watch, with_the_service,
            around_a_root, database)
