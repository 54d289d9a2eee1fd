"""What moves away while it is used: the root for good, the root for a while, the repository."""
import os
import shutil
import sqlite3
import subprocess

import wk


def a_root_that_moved_goes_on_with_its_history(scratch):
    """Also where nothing in it has changed; the refusal names the very command."""
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    there = os.path.join(scratch, "other place")
    os.makedirs(os.path.join(root, "sub"))
    wk.write(os.path.join(root, "a"), "1")
    wk.write(os.path.join(root, "sub", "b"), "2")
    wk.wk("-r", repo, "init")
    wk.wk("-r", repo, "save", root)
    state = wk.tree(root)
    os.rename(root, there)
    r = wk.wk("-r", repo, "save", "data=" + there, code=5)
    command = r.err.split("if it has moved here: watchkeep ")[1].strip()
    assert command == "save data='%s' --moved" % there, r
    p = subprocess.run(["sh", "-c", '"$0" -r "$1" --json ' + command, wk.BIN, repo],
                       stdout=subprocess.PIPE, env=wk.environment(), text=True, check=True)
    assert '"files_new":0,"files_changed":0,"files_removed":0' in p.stdout, p
    # From now on it is known there, also where it is only named, and after a rebuild.
    for _ in range(2):
        assert wk.wk("-r", repo, "--json", "save", "data").summary["exit"] == 0
        assert wk.wk("-r", repo, "--json", "show", "latest").json["root"] == there
        wk.same(state, wk.restored(repo, "latest", scratch))
        assert wk.wk("-r", repo, "history", os.path.join(there, "a")).out.count("\n") == 2
        wk.wk("-r", repo, "rebuild")
    wk.wk("-r", repo, "verify")


def saved(service, watch, number):
    """By this command, or just before it by the service itself."""
    assert service.save(watch)["snapshot"] in (number, None)
    assert [x["id"] for x in service.snapshots()][-1] == number, service.snapshots()


def emptied(path):
    shutil.rmtree(path, ignore_errors=True)
    return not os.path.exists(path)


def a_repository_that_moves_away_leaves_nothing_behind(scratch):
    """Where it stood there may be a bare mount point: nothing is made there."""
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    db = sqlite3.connect(os.path.join(root, "app.sqlite"), isolation_level=None)
    db.execute("pragma journal_mode=wal")
    db.execute("create table t(v text)")
    s = wk.Service(scratch, {"data": {"path": root, "settle": "50ms"}})
    wk.until(lambda: emptied(os.path.join(s.repo, "scratch")), "nobody to write to scratch")
    away = s.repo + "-away"
    os.rename(s.repo, away)
    os.mkdir(s.repo)
    db.execute("insert into t values ('while it was away')")
    wk.write(os.path.join(root, "a"), "1")
    wk.until(lambda: "data: snapshot 2" in s.log_text() or "cannot save" in s.log_text(),
             "the service to try a save")
    assert os.listdir(s.repo) == [], os.listdir(s.repo)
    os.rmdir(s.repo)
    status = s.cli("status", code=7).out
    assert "repository  %s: cannot be read" % s.repo in status, status
    os.rename(away, s.repo)
    assert s.save("data")["exit"] == 0
    _, back = wk.restored(s.repo, "latest", scratch, keep=True)
    copy = sqlite3.connect(os.path.join(back, "app.sqlite"))
    assert copy.execute("select v from t").fetchall() == [("while it was away",)]
    copy.close()
    db.close()
    s.stop()
    wk.wk("-r", s.repo, "verify")


def a_repository_that_is_gone_is_told(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    wk.write(os.path.join(root, "a"), "1")
    s = wk.Service(scratch, {"data": {"path": root, "settle": "1h", "max_delay": "2h"}})
    s.cli("rebuild")  # so that files of it have to be opened anew
    os.rename(s.repo, s.repo + "-away")
    wk.write(os.path.join(root, "a"), "2")
    r = s.cli("save", "data", code=10)
    assert "'%s' is not there (not mounted?)" % s.repo in r.err, r
    os.rename(s.repo + "-away", s.repo)
    saved(s, "data", 2)
    s.stop()


def a_save_right_after_the_root_was_replaced(scratch):
    """Before the watches of the new folder stand: what it holds is saved, the old folder is not."""
    root, repo = os.path.join(scratch, "src"), os.path.join(scratch, "repo")
    s = None
    for turn in range(10):
        if s is None:
            os.mkdir(root)
            wk.write(os.path.join(root, "f1"), "1")
            s = wk.Service(scratch, {"app": {"path": root, "settle": "1h", "max_delay": "2h"}})
        os.rename(root, root + "-away%d" % turn)
        os.mkdir(root)
        wk.write(os.path.join(root, "imp%d" % turn), "imp")
        r = s.cli("--json", "save", "app", code=None)
        assert r.code == 0, r
        assert s.cli("ls", "latest").out == "imp%d\n" % turn
    s.stop()


def a_root_replaced_by_an_almost_empty_one(scratch):
    """What it holds is saved, but told as suspect and never taken for latest."""
    root = os.path.join(scratch, "src")
    os.mkdir(root)
    for i in range(60):
        wk.write(os.path.join(root, "f%d" % i), "x%d" % i)
    s = wk.Service(scratch, {"app": {"path": root, "settle": "1h", "max_delay": "2h"}})
    os.rename(root, root + "-away")
    os.mkdir(root)
    wk.write(os.path.join(root, "imp"), "imp")
    r = s.cli("save", "app")
    told = "hardly a file is left in app: snapshot 2 is suspect"
    assert told in r.err or "snapshot 2 holds it" in r.out, r  # saved by itself meanwhile
    assert s.cli("ls", "2").out == "imp\n"
    assert s.cli("ls", "latest").out.count("\n") == 60
    wk.write(os.path.join(root, "imp"), "imp2")
    saved(s, "app", 3)
    s.stop()


wk.main(a_root_that_moved_goes_on_with_its_history,
        a_repository_that_moves_away_leaves_nothing_behind,
        a_repository_that_is_gone_is_told, a_save_right_after_the_root_was_replaced,
        a_root_replaced_by_an_almost_empty_one)
