"""`[alert] command`: who is told of what, until somebody has taken it, and what it may never hold up."""
import ctypes
import datetime
import http.server
import json
import os
import signal
import subprocess
import threading
import time

import wk
from test_timed import Service


def program(folder, text):
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "program.sh")
    wk.write(path, "#!/bin/sh\n" + text)
    os.chmod(path, 0o755)
    return path


def with_alerts(scratch, **retry):
    """A service that stands still, with the program that keeps what it is given."""
    s = Service(scratch, start=False)
    s.sections["alert"] = {"command": s.alert_command()}
    s.sections["retry"] = retry or {"delay": "1s"}
    s.write_config()
    return s


def away(s, name=".away"):
    os.rename(s.root, s.root + name)


def back(s, name=".away"):
    os.rename(s.root + name, s.root)


def words(s):
    return [(t["event"], t["code"]) for t in s.told()]


def is_as_documented(scratch):
    page = os.path.join(os.environ["WK_SOURCE"], "src", "cli", "CONTRACT.md")
    with open(page) as f:
        text = f.read().split("\n### alert\n")[1].split("```json\n")[1].split("\n```")[0]
    s = with_alerts(scratch)
    s.start()
    away(s)
    told = wk.until(s.told, "the alert that the folder is gone")
    assert sorted(told[0]) == sorted(json.loads(text)), told
    assert told[0]["code"] == "missing" and told[0]["event"] == "problem", told
    back(s)
    told = wk.until(lambda: len(s.told()) > 1 and s.told(), "that it is back")
    assert told[1]["event"] == "recovered" and told[1]["code"] == "missing", told
    s.stop()

def tried_again(scratch):
    """What nobody took is tried again, in order, and its failure is told until one was taken."""
    s = with_alerts(scratch, attempts="100", delay="1s")
    wk.write(s.breaker, "")
    s.start()
    away(s)
    wk.until(lambda: "alert-failed" in s.codes(), "the problem")
    assert "exit code 3" in s.cli("status", code=7).out
    back(s)
    s.save()
    os.remove(s.breaker)
    wk.until(lambda: s.codes() == [], "all to be well")
    wk.until(lambda: len(s.told()) == 2, "both to be told")
    assert words(s) == [("problem", "missing"), ("recovered", "missing")], s.told()
    s.stop()


def given_up_until_the_next(scratch):
    """After its last try it is told once something else can be, and only once."""
    s = with_alerts(scratch, attempts="1")
    s.watches["two"] = {"path": os.path.join(scratch, "two")}
    os.mkdir(s.watches["two"]["path"])
    s.write_config()
    wk.write(s.breaker, "")
    s.start()
    away(s)
    wk.until(lambda: "alert-failed" in s.codes(), "the problem")
    os.remove(s.breaker)
    os.rename(os.path.join(scratch, "two"), os.path.join(scratch, "three"))
    wk.until(lambda: len(s.told()) >= 2, "both to be told")
    assert sorted(t["watch"] for t in s.told()) == ["bot", "two"], s.told()
    wk.until(lambda: "alert-failed" not in s.codes(), "its failure to be over")
    s.stop()


def told_after_a_restart(scratch):
    """A restart tells what nobody took, and nothing twice."""
    s = with_alerts(scratch, attempts="1")
    wk.write(s.breaker, "")
    s.start()
    away(s)
    wk.until(lambda: "alert-failed" in s.codes(), "the problem")
    s.stop()
    os.remove(s.breaker)
    s.start()
    wk.until(s.told, "the alert")
    s.stop()
    s.start()
    back(s)
    wk.until(lambda: len(s.told()) > 1, "that it is over")
    assert words(s) == [("problem", "missing"), ("recovered", "missing")], s.told()
    s.stop()


def cannot_be_started(scratch):
    s = with_alerts(scratch)
    s.sections["alert"]["command"] = os.path.join(scratch, "not-there")
    s.write_config()
    wk.wk("-r", s.repo, "init")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # some starters of services leave it so
    try:
        s.start(wait=False)
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    wk.until(s.ready, "the service to answer")
    away(s)
    wk.until(lambda: "alert-failed" in s.codes(), "the problem")
    out = s.cli("status", code=7).out
    assert "not-there' cannot be started: No such file" in out, out
    # Another program is tried at once.
    s.set("alert", command=s.alert_command())
    wk.until(lambda: words(s) == [("problem", "missing")], "the alert")
    wk.until(lambda: s.codes() == ["missing"], "its failure to be over")
    s.stop()


def quick(s):
    """Saves are not held up, which would be for the 30 s that the program has."""
    for i in range(10):
        wk.replace(os.path.join(s.root, "a.json"), '{"n": %d}' % i)
        begun = time.monotonic()
        assert s.save("bot")["exit"] == 0
        took = time.monotonic() - begun
        assert took < 20, took


def space_is_told(scratch):
    """From 80 % on, of the file system and of max_size, and when there is room again; by itself,
    soon after a save."""
    disk = os.path.join(scratch, "disk")
    os.mkdir(disk)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", disk]).returncode:
        wk.skip("cannot mount a tmpfs here")
    try:
        s = with_alerts(scratch)
        s.repo = s.settings["repository"] = os.path.join(disk, "repo")
        s.write_config()
        s.start()
        with open(os.path.join(disk, "others"), "wb") as f:
            os.posix_fallocate(f.fileno(), 0, 54 << 20)
        wk.replace(os.path.join(s.root, "a.json"), '{"n": 2}')
        wk.until(lambda: words(s) == [("problem", "space")], "the file system's state", 180)
        assert "% full" in s.told()[0]["message"], s.told()
        os.remove(os.path.join(disk, "others"))
        wk.replace(os.path.join(s.root, "a.json"), '{"n": 3}')
        wk.until(lambda: words(s)[1:] == [("recovered", "space")], "that there is room")
        wk.write(os.path.join(s.root, "big"), os.urandom(1 << 20))
        s.save()
        s.set("retention", max_size="1200K")
        wk.until(lambda: words(s)[2:] == [("problem", "space")], "that max_size is near")
        assert "1.2 MiB of max_size" in s.told()[2]["message"], s.told()
        s.set("retention", max_size="10M")
        wk.until(lambda: words(s)[3:] == [("recovered", "space")], "that there is room")
        s.stop()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def own_mounts():
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        return None
    if libc.unshare(0x20000) != 0 or subprocess.run(["mount", "--make-rprivate", "/"]).returncode:
        return None
    return libc


def silent_folder(libc, path):
    """A mount whose server never answers: whoever looks into it waits until killed."""
    os.mkdir(path)
    server = os.open("/dev/fuse", os.O_RDWR)
    options = "fd=%d,rootmode=40000,user_id=0,group_id=0" % server
    if libc.mount(b"silent", path.encode(), b"fuse", 0, options.encode()) != 0:
        wk.skip("FUSE cannot be mounted")
    return server


def frozen_folder(path):
    """Who writes there waits, and cannot be killed."""
    os.mkdir(path)
    with open(path + ".img", "wb") as f:
        f.truncate(16 << 20)
    for command in (["mkfs.ext4", "-q", path + ".img"], ["mount", "-o", "loop", path + ".img", path],
                    ["fsfreeze", "-f", path]):
        if subprocess.run(command).returncode:
            wk.skip("no disk that can be frozen")


def thaw(path):
    subprocess.run(["fsfreeze", "-u", path])
    subprocess.run(["umount", "-l", path], check=True)


def with_program(scratch, command):
    """A service with many alerts to tell."""
    os.makedirs(scratch, exist_ok=True)
    s = with_alerts(scratch, delay="1s")
    s.sections["alert"]["command"] = command
    for i in range(20):
        s.watches["gone%d" % i] = {"path": os.path.join(scratch, "gone%d" % i)}
    s.write_config()
    return s.start()


def told_failure(s):
    return [p["message"] for p in s.status()["problems"] if p["code"] == "alert-failed"]


def waits(service):
    wk.until(lambda: wk.children(service.pid()), "the program to be at work")
    quick(service)
    return wk.until(lambda: told_failure(service), "the time-out", 90, pace=0.3)[0]


def ended(pid):
    try:
        with open("/proc/%s/status" % pid) as f:
            return "\nState:\tZ" in f.read()
    except OSError:
        return True


def holds_up_nothing(scratch):
    """A program that reads nothing and never ends is killed after 30 s with what it has started.
    Saves go on, and many alerts wait. So it is where the disk that it lies on does not answer, and
    where it waits for one so that it cannot be killed: then no other is started."""
    pids = os.path.join(scratch, "pids")
    hanging = with_program(os.path.join(scratch, "a"),
                           program(scratch, "sleep 1000 &\necho $$ $! > %s\nwait\n" % pids))
    libc = own_mounts()
    if not libc:
        assert "did not end within 30 s and was killed" in waits(hanging)
        hanging.stop()
        wk.skip("needs root, /dev/fuse and a mount namespace for disks that hang")
    silent, frozen = os.path.join(scratch, "silent"), os.path.join(scratch, "frozen")
    server = silent_folder(libc, silent)
    frozen_folder(frozen)
    try:
        unread = with_program(os.path.join(scratch, "b"), os.path.join(silent, "program"))
        writing = with_program(os.path.join(scratch, "c"),
                               program(frozen + ".d", "echo x > %s/file\n" % frozen))
        for s in (hanging, unread):
            assert "did not end within 30 s and was killed" in waits(s), told_failure(s)
        wk.until(lambda: all(map(ended, open(pids).read().split())), "its processes to be gone")
        waits(writing)  # which tells that for a second only, until it tries again
        assert "did not end within 30 s and cannot be killed" in writing.log_text()
        wk.until(lambda: "cannot be killed yet" in told_failure(writing)[0], "the next try",
                 pace=0.3)
        assert len(wk.children(writing.pid())) == 1
        for s in (hanging, unread, writing):
            s.stop()
    finally:
        thaw(frozen)
        os.close(server)
        subprocess.run(["umount", "-l", silent], check=True)


def forget(s):
    """What is in the catalog alone."""
    s.kill()
    for name in os.listdir(s.repo):
        if name.startswith("catalog.db"):
            os.remove(os.path.join(s.repo, name))


def unchecked_for_too_long(scratch):
    """Counted over restarts, however the service ended: from the last check, or where there never
    was one, from when the watch was new; where that is not known any more, from the newest
    snapshot."""
    both = []
    for name in ("known", "forgotten"):
        os.mkdir(os.path.join(scratch, name))
        s = with_alerts(os.path.join(scratch, name))
        s.sections["alert"]["max_age"] = "60s"
        both.append(s)
    known, forgotten = both
    known.watches["never"] = {"path": os.path.join(scratch, "never")}
    begun = time.monotonic()
    for s in both:
        s.write_config()
        s.start()
        away(s)
    for at, ends in ((20, (known.kill, forgotten.stop)),
                     (45, (known.stop, lambda: forget(forgotten)))):
        wk.until(lambda: time.monotonic() > begun + at, "the time to pass", pace=0.2)
        for s, end in zip(both, ends):
            end()
            s.start()

    def told(s):
        return {t["watch"]: t for t in s.told() if t["code"] == "unchecked"}
    wk.until(lambda: sorted(told(known)) == ["bot", "never"] and told(forgotten), "the alerts", 120)
    for s in both:
        since = datetime.datetime.fromisoformat(s.status()["service"]["since"])
        for t in told(s).values():
            at = datetime.datetime.fromisoformat(t["time"])
            assert (at - since).total_seconds() < 50, (t, since)
            assert datetime.datetime.fromisoformat(t["since"]) < since, (t, since)
    os.mkdir(known.watches["never"]["path"])
    for s in both:
        back(s)
        wk.until(lambda: words(s).count(("recovered", "unchecked")) == len(told(s)),
                 "that they were checked")
        assert s.codes() == [], s.status()
        s.stop()


def to_a_webhook(scratch):
    """The program that conf/ ships posts what Discord takes, and says when it could not."""
    got, answers = [], [204, 500]

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(answers[min(len(got), len(answers)) - 1])
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    secret = os.path.join(scratch, "url")
    wk.write(secret, "http://127.0.0.1:%d/api/webhooks/1/secret\n" % server.server_port)
    s = with_alerts(scratch, attempts="1")
    s.sections["alert"] = {"command": os.path.join(os.environ["WK_SOURCE"], "conf",
                                                   "alert-discord.py")}
    s.write_config()
    s.env = wk.environment(STATE_DIRECTORY=os.path.join(scratch, "state"),
                           DISCORD_WEBHOOK_URL_FILE=secret)
    s.start()
    os.rename(s.root, s.root + "@everyone")
    path, kind, body = wk.until(lambda: got and got[0], "the post")
    assert path == "/api/webhooks/1/secret" and kind == "application/json", (path, kind)
    assert "**bot**" in body["content"] and len(body["content"]) <= 2000, body
    assert "@everyone" not in body["content"] and body["allowed_mentions"] == {"parse": []}, body
    os.rename(s.root + "@everyone", s.root)
    wk.until(lambda: "alert-failed" in s.codes(), "the failure of the second one")
    assert "over" in got[1][2]["content"], got
    assert "answered 500" in s.log_text() and "secret" not in s.log_text(), s.log_text()
    s.stop()
    server.shutdown()


wk.main(is_as_documented, tried_again, given_up_until_the_next, told_after_a_restart,
        cannot_be_started, unchecked_for_too_long, to_a_webhook, space_is_told, holds_up_nothing)
