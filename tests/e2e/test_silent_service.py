"""A service that is there but does not answer: nobody waits for ever, and what can be read is read."""
import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time

import wk


@contextlib.contextmanager
def stopped(service):
    os.kill(service.pid(), signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(service.pid(), signal.SIGCONT)


def start(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    wk.write(os.path.join(root, "a"), "1")
    return root, wk.Service(scratch, {"data": {"path": root, "settle": "50ms"}})


def who_asks_is_told(scratch):
    root, s = start(scratch)
    with stopped(s):
        for args in (["save", "data"], ["save", root], ["verify"], ["rebuild"]):
            r = s.cli("--wait", "1s", *args, code=11, timeout=wk.PATIENCE)
            assert "process %d" % s.pid() in r.err and "has not answered" in r.err, r
        r = s.cli("--wait", "1s", "--json", "save", "data", code=11)
        assert r.summary["exit"] == 11 and json.loads(r.err.splitlines()[-1])["code"] == 11, r
    assert s.save("data")["exit"] == 0
    s.stop()


def reading_goes_on(scratch):
    root, s = start(scratch)
    wk.write(os.path.join(root, "a"), "22")
    s.save("data", "--name", "second")
    with stopped(s):
        for args in (["list"], ["show", "latest"], ["ls", "latest"], ["cat", "latest:a"],
                     ["diff", "1", "second"], ["history", "a"],
                     ["restore", "latest", "--to", os.path.join(scratch, "back")]):
            s.cli(*args, timeout=wk.PATIENCE)
    s.stop()


def status_tells(scratch):
    root, s = start(scratch)
    with stopped(s):
        r = s.cli("--wait", "1s", "--json", "status", code=7, timeout=wk.PATIENCE)
        assert r.json["service"]["running"] and r.json["service"]["pid"] == s.pid(), r
        assert r.json["service"]["since"] is None
        problem = r.json["problems"][0]
        assert problem["code"] == "not-answering" and str(s.pid()) in problem["do"], r
        assert r.json["watches"][0]["snapshots"] == 1, r
        assert "does not answer" in s.cli("--wait", "1s", "status", code=7).out
        s.cli("status", code=7, timeout=wk.PATIENCE)
    wk.until(lambda: s.cli("status", code=None).code == 0, "the service to answer again")
    s.stop()


def ends_while_it_is_asked(scratch):
    """Then it does not run, and `status` says how things stand all the same."""
    root, s = start(scratch)
    with stopped(s):
        asking = subprocess.Popen([wk.BIN, "-c", s.conf, "--json", "status"], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  env=wk.environment())
        wk.until(lambda: wk.waits_on_socket(asking.pid), "the command to wait for its answer")
        s.kill()
        out, err = asking.communicate(timeout=wk.PATIENCE)
        s.start()
    assert asking.returncode == 8 and not err, (asking.returncode, out, err)
    told = json.loads(out)
    assert not told["service"]["running"] and told["watches"][0]["snapshots"] == 1, told
    s.stop()


def a_long_save_is_not_cut_off(scratch):
    """The service answers while it works, however much longer than --wait that takes."""
    root, s = start(scratch)
    s.stop()
    block = os.urandom(1 << 20)
    with open(os.path.join(root, "big"), "wb") as f:
        for _ in range(64):
            f.write(block)
    s.wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pread64,read",
                 "-e", "inject=pread64:delay_enter=100000"]
    s.start(wait=False)
    wk.until(lambda: s.cli("--json", "status", code=None).code in (0, 7), "the service to answer")
    begin = time.monotonic()
    r = s.cli("--wait", "2s", "--json", "save", "data")
    assert r.summary["exit"] == 0, r
    assert time.monotonic() - begin > 2.5, "the save was too quick to show anything"
    assert wk.wk("-r", s.repo, "--json", "ls", "latest").out.count('"big"') == 1
    s.stop()


def the_service_manager_hears_of_it(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    wk.write(os.path.join(root, "a"), "1")
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(os.path.join(scratch, "notify"))
    heard = []

    def listen():
        """All the time: a socket that is full takes nothing more."""
        while True:
            heard.extend(manager.recv(4096).decode().splitlines())
    threading.Thread(target=listen, daemon=True).start()

    def hear(what):
        wk.until(lambda: what in heard, what)
        heard.clear()
    env = wk.environment(STATE_DIRECTORY=os.path.join(scratch, "state"), WATCHDOG_USEC="400000",
                         NOTIFY_SOCKET=os.path.join(scratch, "notify"))
    s = wk.Service(scratch, {"data": {"path": root, "settle": "50ms"}}, env=env)
    hear("READY=1")
    for _ in range(3):
        hear("WATCHDOG=1")
    for i in range(20): # events and saves do not keep it from answering
        wk.write(os.path.join(root, "a"), str(i))
        s.save("data")
    hear("WATCHDOG=1")
    s.stop()
    hear("STOPPING=1")


def a_reload_waits_for_no_catalog(scratch):
    """While the catalog is made anew, which may take long, the service goes on hearing."""
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    s = wk.Service(scratch, {"data": {"path": root, "settle": "50ms"}},
                   wrapper=["strace", "-f", "-qq", "-o", "/dev/null", "-P", "catalog.db", "-e",
                            "inject=unlinkat:delay_exit=10000000"])
    catalog = os.path.join(s.repo, "catalog.db")
    rebuild = subprocess.Popen([wk.BIN, "-c", s.conf, "rebuild"], env=wk.environment())
    wk.until(lambda: not os.path.exists(catalog), "the catalog to be made anew")
    s.set("archive", at="03:00", path=os.path.join(scratch, "archives"))
    assert rebuild.poll() is None, "the reload has waited for it, or it was too quick to show that"
    assert rebuild.wait(wk.PATIENCE) == 0
    wk.until(lambda: s.status()["watches"][0]["next_archive"], "the new job to be known")
    s.stop()


wk.main(a_reload_waits_for_no_catalog, the_service_manager_hears_of_it, who_asks_is_told,
        reading_goes_on, status_tells, ends_while_it_is_asked, a_long_save_is_not_cut_off)
