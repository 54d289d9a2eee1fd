"""What the watcher must not miss: overflow, folders made with content, moves, replaced roots."""
import contextlib
import os
import shutil
import signal
import sqlite3
import time

import wk


def service(scratch, **settings):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    wk.write(os.path.join(root, "a"), "a")
    watch = {"path": root, "settle": "50ms"}
    watch.update(settings)
    return root, wk.Service(scratch, {"data": watch})


def matches(s, root, scratch, what):
    wk.until(lambda: not wk.differences(wk.tree(root, times=False),
                                        wk.restored(s.repo, "latest", scratch, times=False)), what)


def overflow(scratch):
    """More than the queue takes, whose limit is everybody's: it is not made less for this."""
    with open("/proc/sys/fs/inotify/max_queued_events") as f:
        limit = int(f.read())
    root, s = service(scratch)
    os.kill(s.pid(), signal.SIGSTOP)
    for i in range(limit + 1):
        os.chmod((root, os.path.join(root, "a"))[i % 2], 0o755)
    for i in range(500):  # of these nothing is told
        wk.write(os.path.join(root, "f%d" % i), str(i))
    os.kill(s.pid(), signal.SIGCONT)
    matches(s, root, scratch, "all changes after a queue overflow")
    assert s.status()["service"]["overflows"] > 0, s.status()
    s.stop()


def folders_with_content(scratch):
    root, s = service(scratch)
    for i in range(100):
        os.makedirs(os.path.join(root, "m%d" % i, "b", "c"))
        wk.write(os.path.join(root, "m%d" % i, "b", "c", "f"), str(i))
    outside = os.path.join(scratch, "outside")
    os.makedirs(os.path.join(outside, "x", "y"))
    wk.write(os.path.join(outside, "x", "y", "z"), "z")
    os.rename(outside, os.path.join(root, "inside"))
    assert s.save("data")["exit"] == 0
    wk.same(wk.tree(root), wk.restored(s.repo, "latest", scratch))
    # The folders that came are watched too.
    wk.write(os.path.join(root, "inside", "x", "y", "later"), "later")
    wk.write(os.path.join(root, "m7", "b", "c", "later"), "later")
    matches(s, root, scratch, "changes inside folders that came later")
    os.rename(os.path.join(root, "inside"), os.path.join(root, "m8", "moved"))
    wk.write(os.path.join(root, "m8", "moved", "x", "y", "again"), "again")
    matches(s, root, scratch, "a change inside a moved folder")
    os.rename(os.path.join(root, "m8"), os.path.join(scratch, "gone"))
    matches(s, root, scratch, "a folder moved out")
    count = len(s.snapshots())
    wk.write(os.path.join(scratch, "gone", "x"), "not ours any more")
    assert s.save("data")["snapshot"] is None
    assert len(s.snapshots()) == count
    s.stop()


def renames_against_a_model(scratch):
    import random
    root, s = service(scratch, settle="5ms")
    names = ["p", "q", "r", "s"]
    for i in range(300):
        a = os.path.join(root, random.choice(names))
        b = os.path.join(root, *random.sample(names, random.choice([1, 2])))
        try:
            k = random.randrange(5)
            if k == 0:
                os.mkdir(b)
            elif k == 1:
                wk.write(os.path.join(a, "f%d" % random.randrange(5)), str(i))
            elif k == 2:
                shutil.rmtree(b)
            else:
                os.rename(a, b)
        except OSError:
            pass
        if i % 50 == 49:
            s.save("data")
            wk.same(wk.tree(root, times=False),
                    wk.restored(s.repo, "latest", scratch, times=False), "after %d" % i)
    s.stop()


def deep_tree_renamed_all_the_time(scratch):
    """Hundreds of levels whose topmost folder never keeps its name: saves go on, and the service
    ends when told to."""
    root, s = service(scratch, settle="20ms", max_delay="100ms")
    fd = os.open(root, os.O_RDONLY)
    for i in range(800):
        name = "top0" if i == 0 else "d"
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
        if i % 100 == 50:
            os.close(os.open("f", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
    count = len(s.snapshots())
    begun = time.monotonic()
    i = 0
    while time.monotonic() < begun + 5 or len(s.snapshots()) < count + 3:
        assert time.monotonic() < begun + wk.PATIENCE, "no saves while folders are renamed"
        for _ in range(100):
            i += 1
            os.rename(os.path.join(root, "top%d" % (i - 1)), os.path.join(root, "top%d" % i))
            f = os.open("g%d" % (i % 7), os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd)
            os.write(f, b"%d" % i)
            os.close(f)
    os.close(fd)
    s.stop()
    wk.same(wk.tree(root, times=False), wk.restored(s.repo, "latest", scratch, times=False))


def replaced_root(scratch):
    root, s = service(scratch)
    count = len(s.snapshots())
    os.rename(root, root + "-old")
    os.mkdir(root)
    wk.write(os.path.join(root, "a"), "of the new folder")
    matches(s, root, scratch, "the folder that took the root's place")
    wk.write(os.path.join(root, "b"), "later")
    matches(s, root, scratch, "a change in the new root")
    assert len(s.snapshots()) > count
    s.stop()


def missed_changes_are_found_by_the_interval(scratch):
    """A store through a shared mapping raises no event; the timed rescan sees its stamps."""
    import mmap
    root, s = service(scratch, interval="1s")
    path = os.path.join(root, "mapped")
    wk.write(path, "0" * 8192)
    matches(s, root, scratch, "the file itself")
    s.save("data")  # nothing that was told of it is still to be looked at
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 8192) as m:
        m[0:4] = b"mmap"
        m.flush()
        matches(s, root, scratch, "a store through a mapping")
    os.close(fd)
    last = [x for x in s.snapshots()][-1]
    assert last["kind"] == "interval", last
    s.stop()


def database_whose_rules_leave_its_side_files_out(scratch):
    root, s = service(scratch, include="*.db")
    db = sqlite3.connect(os.path.join(root, "app.db"))
    db.execute("pragma journal_mode = wal")
    db.execute("pragma wal_autocheckpoint = 0")
    db.execute("create table t(x)")
    for i in range(3):
        db.execute("insert into t values (?)", (i,))
        db.commit()  # the WAL alone is written

        def saved():
            copy = os.path.join(scratch, "copy.db")
            out = s.cli("-w", "data", "cat", "latest:app.db", binary=True, code=None)
            wk.write(copy, out.out)
            if out.code != 0:
                return False
            with contextlib.closing(sqlite3.connect(copy)) as c:
                return c.execute("select name from sqlite_master").fetchall() and \
                    c.execute("select count(*) from t").fetchone()[0] == i + 1
        wk.until(saved, "row %d in a snapshot" % i)
    assert [e["path"] for e in s.cli("--json", "ls", "latest").json["entries"]] == ["app.db"]
    db.close()
    s.stop()


def several_watches(scratch):
    one, two = os.path.join(scratch, "one"), os.path.join(scratch, "one", "nested")
    os.makedirs(two)
    wk.write(os.path.join(two, "f"), "1")
    s = wk.Service(scratch, {"one": {"path": one, "settle": "50ms"},
                             "two": {"path": two, "settle": "50ms"}})
    wk.write(os.path.join(two, "f"), "2")
    lines = s.cli("--json", "save", "one", "two").lines
    assert [x["type"] for x in lines] == ["saved", "saved", "summary"], lines
    assert s.cli("-w", "one", "cat", "latest:nested/f").out == "2"
    assert s.cli("-w", "two", "cat", "latest:f").out == "2"
    assert s.cli("restore", "latest", "--to", os.path.join(scratch, "t"), code=2).err
    s.stop()


wk.main(overflow, folders_with_content, renames_against_a_model,
        deep_tree_renamed_all_the_time, replaced_root,
        missed_changes_are_found_by_the_interval,
        database_whose_rules_leave_its_side_files_out, several_watches)
