"""Readers beside many saves: they find a state that was, and nothing to complain about."""
import os
import subprocess
import threading

import wk


def lists_beside_saves(scratch):
    """Also without a service, where each save opens and closes the catalog."""
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    wk.wk("-r", repo, "init")
    wk.write(os.path.join(root, "a"), "0")
    wk.wk("-r", repo, "save", root)
    wrong, done = [], threading.Event()

    def read():
        seen = 0
        while not done.is_set():
            r = wk.wk("-r", repo, "--json", "list", "--all", code=None)
            count = len(r.json["snapshots"]) if r.code == 0 else -1
            if r.code or r.err or count < seen:
                wrong.append((seen, count, r.err))
            seen = max(seen, count)
    readers = [threading.Thread(target=read) for _ in range(3)]
    for t in readers:
        t.start()
    for i in range(150):
        wk.write(os.path.join(root, "a"), "%d" % i)
        subprocess.run([wk.BIN, "-r", repo, "-q", "save", root], check=True, env=wk.environment())
    done.set()
    for t in readers:
        t.join()
    assert not wrong, "%d of the lists: %r" % (len(wrong), wrong[:5])


def lists_beside_the_service(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    wk.write(os.path.join(root, "a"), "0")
    s = wk.Service(scratch, {"data": {"path": root, "settle": "1ms"}})
    stop = threading.Event()

    def change():
        i = 0
        while not stop.is_set():
            i += 1
            wk.replace(os.path.join(root, "a"), "%d" % i)
            stop.wait(0.001)
    writer = threading.Thread(target=change)
    writer.start()
    try:
        for _ in range(300):
            r = wk.wk("-r", s.repo, "list", "--recent", "3")
            assert not r.err, r
    finally:
        stop.set()
        writer.join()
    assert len(s.snapshots()) > 20
    s.stop()


wk.main(lists_beside_saves, lists_beside_the_service)
