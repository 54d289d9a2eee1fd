"""The everyday path without a service, what makes no snapshot, and the service's life cycle."""
import os
import signal
import sqlite3
import subprocess

import wk


def save_list_restore(scratch):
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.makedirs(os.path.join(root, "sub"))
    wk.write(os.path.join(root, "a.json"), '{"a": 1}')
    wk.write(os.path.join(root, "sub", "b.txt"), "b" * 100000)
    wk.wk("-r", repo, "init")
    assert "already" in (lambda r: r.out + r.err)(wk.wk("-r", repo, "init"))
    first = wk.wk("-r", repo, "--json", "save", root, "--name", "first", "--note", "a note").summary
    assert first["snapshot"] and first["files_new"] == 2 and first["exit"] == 0
    state1 = wk.tree(root)
    wk.write(os.path.join(root, "a.json"), '{"a": 2}')
    os.remove(os.path.join(root, "sub", "b.txt"))
    second = wk.wk("-r", repo, "--json", "save", root).summary
    assert second["files_changed"] == 1 and second["files_removed"] == 1, second
    state2 = wk.tree(root)
    wk.same(state1, wk.restored(repo, "first", scratch))
    wk.same(state2, wk.restored(repo, "latest", scratch))
    wk.same(state1, wk.restored(repo, "latest~1", scratch))
    assert wk.wk("-r", repo, "cat", "first:a.json").out == '{"a": 1}'
    snaps = wk.wk("-r", repo, "--json", "list").json["snapshots"]
    assert [s["name"] for s in snaps] == ["first", None]
    assert snaps[0]["note"] == "a note" and snaps[0]["complete"] and not snaps[0]["damaged"]
    assert snaps[0]["verified"] is None
    assert wk.wk("-r", repo, "--json", "verify").summary["errors"] == 0
    assert all(s["verified"] for s in wk.wk("-r", repo, "--json", "list").json["snapshots"])
    d = wk.wk("-r", repo, "--json", "diff", "first", "latest").out
    assert "a.json" in d and "sub/b.txt" in d
    h = wk.wk("-r", repo, "--json", "history", "a.json").out
    assert h.count('"size"') == 2 or h.count('"snapshot"') >= 2, h
    one = os.path.join(scratch, "one")
    wk.wk("-r", repo, "restore", "first:sub/b.txt", "--to", one)
    assert os.listdir(one) == ["b.txt"]
    assert "'first'" in wk.wk("-r", repo, "save", root, "--name", "first", code=5).err


def nothing_changed_costs_nothing(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    path = os.path.join(root, "a.json")
    wk.write(path, '{"a": 1}')
    s = wk.Service(scratch, {"data": {"path": root, "settle": "1h", "max_delay": "2h"}})
    packs, count = wk.packs(s.repo), len(s.snapshots())
    content = b'{"a": 1}'
    for change in (lambda: wk.write(path, content), lambda: wk.replace(path, content),
                   lambda: os.utime(path), lambda: os.utime(path, ns=(5, 5)),
                   lambda: os.utime(root)):
        change()
        summary = s.save("data")
        assert summary["snapshot"] is None, summary
        assert summary["current"] is not None
        assert len(s.snapshots()) == count
        assert wk.packs(s.repo) == packs, "the packs grew"
    # The times are not lost: they ride in the next snapshot.
    wk.write(os.path.join(root, "b"), "b")
    assert s.save("data")["snapshot"]
    wk.same(wk.tree(root), wk.restored(s.repo, "latest", scratch))
    # And a named save always takes them.
    os.utime(path, ns=(7, 7))
    assert s.save("data", "--name", "named")["snapshot"]
    wk.same(wk.tree(root), wk.restored(s.repo, "named", scratch))
    os.chmod(path, 0o640)
    assert s.save("data")["snapshot"], "a change of mode is a change"
    s.stop()


def live_database(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    db = sqlite3.connect(os.path.join(root, "app.sqlite"), isolation_level=None)
    db.execute("pragma journal_mode=wal")
    db.execute("create table t(i integer primary key, v text)")
    s = wk.Service(scratch, {"data": {"path": root, "settle": "50ms"}})
    for i in range(5):
        db.execute("begin")
        for k in range(20):
            db.execute("insert into t(v) values (?)", ("row %d %d" % (i, k),))
        db.execute("commit")
        db.execute("begin immediate")
        db.execute("insert into t(v) values ('not committed')")
        summary = s.save("data")
        assert summary["exit"] == 0, summary
        db.execute("rollback")
        _, back = wk.restored(s.repo, "latest", scratch, keep=True)
        assert os.listdir(back) == ["app.sqlite"], os.listdir(back)
        copy = sqlite3.connect(os.path.join(back, "app.sqlite"))
        assert copy.execute("pragma integrity_check").fetchone() == ("ok",)
        assert copy.execute("select count(*) from t").fetchone() == (20 * (i + 1),)
        copy.close()
    db.close()
    s.stop()


def stop_saves_what_is_dirty(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    wk.write(os.path.join(root, "a"), "1")
    s = wk.Service(scratch, {"data": {"path": root, "settle": "1h", "max_delay": "2h"}})
    wk.write(os.path.join(root, "a"), "2")
    s.stop()
    last = s.snapshots()[-1]
    assert last["kind"] == "shutdown", last
    wk.same(wk.tree(root), wk.restored(s.repo, "latest", scratch))
    wk.write(os.path.join(root, "while-off"), "3")
    s.start()
    last = s.snapshots()[-1]
    assert last["kind"] == "startup", last
    wk.same(wk.tree(root), wk.restored(s.repo, "latest", scratch))
    s.stop()
    count = len(s.snapshots())
    s.start()
    s.stop(signal.SIGINT)
    assert len(s.snapshots()) == count, "a restart without changes made a snapshot"


def vanished_root_is_no_change(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    wk.write(os.path.join(root, "a"), "1")
    s = wk.Service(scratch, {"data": {"path": root, "settle": "50ms"}})
    state = wk.tree(root)
    count = len(s.snapshots())
    os.rename(root, root + "-away")
    wk.until(lambda: s.status()["watches"][0]["state"] == "missing", "status to say missing")
    st = wk.wk("-c", s.conf, "--json", "status", code=7)
    assert not st.json["ok"] and st.json["problems"], st
    assert s.cli("--json", "save", "data", code=None).code not in (0, 3)
    assert len(s.snapshots()) == count
    os.rename(root + "-away", root)
    wk.write(os.path.join(root, "b"), "2")
    wk.until(lambda: len(s.snapshots()) > count, "the watch to be taken up again")
    wk.until(lambda: s.status()["watches"][0]["state"] == "watching", "status to say watching")
    wk.same(state, wk.restored(s.repo, str(s.snapshots()[count - 1]["id"]), scratch))
    s.stop()


def almost_empty_is_never_latest(scratch):
    """By hand and through the service, until the user says that it is right."""
    for through_service in (False, True):
        place = os.path.join(scratch, "service" if through_service else "hand")
        root, repo = os.path.join(place, "data"), os.path.join(place, "repo")
        os.makedirs(root)
        for i in range(20):
            wk.write(os.path.join(root, "f%d" % i), str(i))
        full = wk.tree(root)
        if through_service:
            s = wk.Service(place, {"data": {"path": root, "settle": "1h", "max_delay": "1h"}})

            def save(*args):
                return s.cli("--json", "save", "data", *args)
        else:
            wk.wk("-r", repo, "init")

            def save(*args):
                return wk.wk("-r", repo, "--json", "save", root, *args)
        save()
        for name in os.listdir(root):
            os.remove(os.path.join(root, name))
        for i in range(3):
            wk.write(os.path.join(root, "app.log"), "line %d" % i)
            r = save("--name", "empty%d" % i)
            assert r.summary["suspect"] and "--accept" in r.err, r
            wk.same(full, wk.restored(repo, "latest", place))
        flags = {x["name"]: x["suspect"]
                 for x in wk.wk("-r", repo, "--json", "list", "--all").json["snapshots"]}
        assert all(flags["empty%d" % i] for i in range(3)), flags
        if through_service:
            problems = s.status()["problems"]
            assert [p["code"] for p in problems] == ["frozen", "suspect"], problems
        r = save("--accept")
        assert r.summary["snapshot"] and not r.summary["suspect"] and not r.err, r
        wk.same(wk.tree(root), wk.restored(repo, "latest", place))
        if through_service:
            assert s.status()["problems"] == []
            s.stop()


def interrupted_save_goes_on_in_the_service(scratch):
    """Ctrl-C ends the command that waits; it says that the service saves all the same."""
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    wk.write(os.path.join(root, "a"), "1")
    s = wk.Service(scratch, {"data": {"path": root, "settle": "1h", "max_delay": "1h"}})
    for flags in ([], ["--json"]):
        wk.write(os.path.join(root, "a"), "%d" % len(flags))
        count = len(s.snapshots())
        os.kill(s.pid(), signal.SIGSTOP)
        p = subprocess.Popen([wk.BIN, "-c", s.conf, *flags, "save", "data"], env=wk.environment(),
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wk.until(lambda: wk.waits_on_socket(p.pid), "the command to wait")
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=wk.PATIENCE)
        os.kill(s.pid(), signal.SIGCONT)
        assert p.returncode == 130, (p.returncode, err)
        assert "the service goes on with the save" in err, err
        if flags:
            assert out.endswith('"exit":130}\n'), out
        wk.until(lambda: len(s.snapshots()) > count, "the service to finish the save")
    s.stop()


def reload_applies_or_keeps(scratch):
    one, two = os.path.join(scratch, "one"), os.path.join(scratch, "two")
    os.mkdir(one)
    os.mkdir(two)
    wk.write(os.path.join(one, "a"), "1")
    wk.write(os.path.join(two, "b"), "2")
    s = wk.Service(scratch, {"one": {"path": one, "settle": "50ms"}})
    s.watches["two"] = {"path": two, "settle": "50ms"}
    s.write_config()
    os.kill(s.pid(), signal.SIGHUP)
    wk.until(lambda: {x["watch"] for x in s.snapshots()} == {"one", "two"}, "the new watch")
    with open(s.conf, "a") as f:
        f.write("[service]\nnonsense = 1\n")
    os.kill(s.pid(), signal.SIGHUP)
    wk.until(lambda: s.status()["problems"], "status to tell of the bad file")
    wk.write(os.path.join(two, "c"), "3")
    assert wk.wk("-r", s.repo, "--json", "save", "two").summary["exit"] == 0
    assert wk.wk("-r", s.repo, "-w", "two", "cat", "latest:c").out == "3"
    s.stop()


def rules_hold_for_scan_and_events(scratch):
    root = os.path.join(scratch, "data")
    os.makedirs(os.path.join(root, "cache"))
    os.makedirs(os.path.join(root, "sub"))
    wk.write(os.path.join(root, "cache", "x"), "x")
    wk.write(os.path.join(root, "a.tmp"), "x")
    wk.write(os.path.join(root, "keep.json"), "{}")
    wk.write(os.path.join(root, "sub", ".watchkeepignore"), "secret*\n!secret-not\n")
    wk.write(os.path.join(root, "sub", "secret1"), "x")
    wk.write(os.path.join(root, "sub", "secret-not"), "x")
    s = wk.Service(scratch, {"data": {"path": root, "settle": "1h", "max_delay": "2h",
                                      "exclude": ["cache/", "*.tmp"]}})
    want = {b"", b"keep.json", b"sub", b"sub/.watchkeepignore", b"sub/secret-not"}
    assert set(wk.restored(s.repo, "latest", scratch)) == want
    count = len(s.snapshots())
    wk.write(os.path.join(root, "cache", "y"), "x")
    wk.write(os.path.join(root, "b.tmp"), "x")
    wk.write(os.path.join(root, "sub", "secret2"), "x")
    assert s.save("data")["snapshot"] is None
    assert len(s.snapshots()) == count
    wk.write(os.path.join(root, "sub", ".watchkeepignore"), "nothing\n")
    assert s.save("data")["snapshot"]
    assert set(wk.restored(s.repo, "latest", scratch)) == want | {b"sub/secret1", b"sub/secret2"}
    s.stop()


def a_change_of_rules_is_no_deletion(scratch):
    root = os.path.join(scratch, "data")
    os.makedirs(os.path.join(root, "cache", "deep"))
    os.makedirs(os.path.join(root, "sub"))
    for name in ("keep", "gone", "a.tmp", "cache/x", "cache/deep/y", "sub/b.tmp", "sub/secret"):
        wk.write(os.path.join(root, name), name)
    s = wk.Service(scratch, {"data": {"path": root, "settle": "50ms"}})
    s.stop()
    s.watches["data"]["exclude"] = ["cache/", "*.tmp"]
    s.write_config()
    os.remove(os.path.join(root, "gone"))
    r = wk.wk("-c", s.conf, "save")
    assert "1 removed, 4 excluded" in r.out, r
    want = {"gone": "removed", "a.tmp": "excluded", "cache": "excluded", "cache/x": "excluded",
            "cache/deep": "excluded", "cache/deep/y": "excluded", "sub/b.tmp": "excluded"}

    def told(doc):
        return {c["path"]: c["change"] for c in doc["changes"]}
    show = s.cli("--json", "show", "latest").json
    assert told(show) == want and show["rules_changed"], show
    assert (show["files_removed"], show["files_excluded"]) == (1, 4), show
    assert told(s.cli("--json", "diff", "1", "2").json) == want
    assert told(s.cli("--json", "diff", "2", "1").json) == {p: "added" for p in want}
    assert "X  cache/x" in s.cli("diff", "1", "2").out.splitlines()
    # An ignore file is a rule as well; what goes afterwards is removed all the same.
    wk.write(os.path.join(root, "sub", ".watchkeepignore"), "secret\n")
    summary = s.save("data")
    assert (summary["files_removed"], summary["files_excluded"]) == (0, 1), summary
    want = {"sub/secret": "excluded", "sub/.watchkeepignore": "added"}
    assert told(s.cli("--json", "show", "latest").json) == want
    os.remove(os.path.join(root, "keep"))
    summary = s.save("data")
    assert (summary["files_removed"], summary["files_excluded"]) == (1, 0), summary
    assert told(s.cli("--json", "show", "latest").json) == {"keep": "removed"}
    want = dict(want, keep="removed", gone="removed", **{"a.tmp": "excluded"})
    across = told(s.cli("--json", "diff", "1", "latest").json)
    assert {p: across[p] for p in want} == want, across
    wk.wk("-r", s.repo, "rebuild")
    assert s.cli("--json", "show", "2").json["files_excluded"] == 4


def a_change_of_sqlite_is_one_of_rules(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    db = sqlite3.connect(os.path.join(root, "app.sqlite"), isolation_level=None)
    db.execute("pragma journal_mode=wal")
    db.execute("create table t(v text)")
    s = wk.Service(scratch, {"data": {"path": root, "settle": "50ms"}})

    def entries():
        found = wk.wk("-r", s.repo, "--json", "ls", "latest").json["entries"]
        return {e["path"]: "sqlite" in e["flags"] for e in found if e["path"]}
    as_database = {"app.sqlite": True}
    as_files = {"app.sqlite": False, "app.sqlite-wal": False, "app.sqlite-shm": False}
    assert entries() == as_database
    for setting, want in (("off", as_files), ("auto", as_database)):
        s.watches["data"]["sqlite"] = setting
        s.write_config()
        os.kill(s.pid(), signal.SIGHUP)
        wk.until(lambda: entries() == want, "the capture with sqlite = %s" % setting)
        shown = wk.wk("-r", s.repo, "--json", "show", "latest").json
        assert shown["rules_changed"], shown
    s.stop()
    for setting, want in (("off", as_files), ("auto", as_database)):
        s.watches["data"]["sqlite"] = setting
        s.write_config()
        s.start()
        assert entries() == want, entries()
        s.stop()
    db.close()


def unreadable_is_no_deletion(scratch):
    wk.need_root()
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.makedirs(os.path.join(root, "folder"))
    wk.write(os.path.join(root, "folder", "inside"), "inside")
    wk.write(os.path.join(root, "secret"), "secret")
    wk.write(os.path.join(root, "open"), "open")
    os.chmod(scratch, 0o755)
    for p, _, files in os.walk(root):
        os.chown(p, 65534, 65534)
        for f in files:
            os.chown(os.path.join(p, f), 65534, 65534)
    os.mkdir(repo)
    os.chown(repo, 65534, 65534)

    def nobody():
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    wk.wk("-r", repo, "init", preexec=nobody)
    r = wk.wk("-r", repo, "--json", "save", root, preexec=nobody)
    os.chmod(os.path.join(root, "secret"), 0)
    os.chmod(os.path.join(root, "folder"), 0)
    wk.write(os.path.join(root, "open"), "changed")
    r = wk.wk("-r", repo, "--json", "save", root, code=3, preexec=nobody)
    assert {i["path"] for i in r.summary["incomplete"]} == {"secret", "folder"}, r
    t = wk.restored(repo, "latest", scratch)
    assert b"folder/inside" in t and t[b"secret"]["size"] == 6
    assert not wk.wk("-r", repo, "--json", "list").json["snapshots"][-1]["complete"]
    ls = wk.wk("-r", repo, "ls", "latest").out.splitlines()
    assert "secret  (not whole: cannot be read: Permission denied)" in ls and "open" in ls, ls
    assert [x for x in ls if x.startswith("folder/  (not whole: ")], ls
    assert "(not whole: " in wk.wk("-r", repo, "-v", "ls", "latest:secret").out
    show = wk.wk("-r", repo, "show", "latest").out
    assert "  'secret': cannot be read: Permission denied" in show, show
    named = wk.wk("-r", repo, "--json", "show", "latest").json["incomplete_paths"]
    assert [x["path"] for x in named] == ["folder", "secret"], named
    os.chmod(os.path.join(root, "secret"), 0o600)
    os.chmod(os.path.join(root, "folder"), 0o700)
    r = wk.wk("-r", repo, "--json", "save", root, preexec=nobody)
    assert r.summary["incomplete"] == [] and r.summary["snapshot"]


wk.main(save_list_restore, nothing_changed_costs_nothing, live_database, stop_saves_what_is_dirty,
        vanished_root_is_no_change, almost_empty_is_never_latest,
        interrupted_save_goes_on_in_the_service, reload_applies_or_keeps,
        rules_hold_for_scan_and_events, unreadable_is_no_deletion,
        a_change_of_rules_is_no_deletion, a_change_of_sqlite_is_one_of_rules)
