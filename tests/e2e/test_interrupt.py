"""Ctrl-C, SIGTERM and a closed terminal end a command cleanly: the code of the contract, nothing left."""
import json
import os
import signal
import subprocess

import wk

SIGNALS = ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143))


def ready(scratch):
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    for i in range(40):
        wk.write(os.path.join(root, "f%d" % i), os.urandom(1 << 18))
    wk.wk("-r", repo, "init")
    return root, repo


def below(folder):
    return sorted(os.path.join(p, f) for p, _, files in os.walk(folder) for f in files)


def slowly(scratch, call, *args, **more):
    """The command, each of its calls of that name held up; returned when it has made some."""
    log = os.path.join(scratch, "calls")
    wk.write(log, "")
    p = subprocess.Popen(["strace", "-f", "-qq", "-o", log, "-e", "trace=" + call,
                          "-e", "inject=%s:delay_enter=100000" % call, wk.BIN, *args],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         env=wk.environment(), text=True, **more)
    wk.until(lambda: open(log).read().count(call + "(") >= 3, "the command to be at work")
    return p


def end(p, *signals):
    child = int(open("/proc/%d/task/%d/children" % (p.pid, p.pid)).read().split()[0])
    for s in signals:
        os.kill(child, s)
    out, err = p.communicate(timeout=wk.PATIENCE)
    return p.returncode, out, err


def a_save(scratch):
    root, repo = ready(scratch)
    empty = below(os.path.join(repo, "scratch"))
    for s, code in SIGNALS:
        got = end(slowly(scratch, "pread64", "-r", repo, "save", root), s)
        assert got[0] == code, (s, got)
        assert "interrupted" in got[2], got
        assert wk.wk("-r", repo, "--json", "list").json["snapshots"] == []
        assert below(os.path.join(repo, "scratch")) == empty
    assert wk.wk("-r", repo, "--json", "save", root).summary["files_new"] == 40
    wk.wk("-r", repo, "verify")


def a_restore(scratch):
    root, repo = ready(scratch)
    wk.wk("-r", repo, "save", root)
    around = os.path.join(scratch, "around")
    os.mkdir(around)
    for s, code in SIGNALS:
        got = end(slowly(scratch, "pwrite64", "-r", repo, "restore", "latest", "--to",
                         os.path.join(around, "back")), s)
        assert got[0] == code, (s, got)
        assert os.listdir(around) == [], os.listdir(around)


def as_json(scratch):
    """The error, the summary and the exit code say the same."""
    root, repo = ready(scratch)
    for s, code in SIGNALS:
        got = end(slowly(scratch, "pread64", "-r", repo, "--json", "save", root), s)
        said = [json.loads(line) for line in got[2].splitlines()]
        assert [e["code"] for e in said if e["type"] == "error"] == [code], (s, got)
        assert json.loads(got[1].splitlines()[-1])["exit"] == got[0] == code, (s, got)


def a_hangup_told_twice(scratch):
    """By the kernel and by the shell: that is no sign of impatience."""
    root, repo = ready(scratch)
    wk.wk("-r", repo, "save", root)
    around = os.path.join(scratch, "around")
    os.mkdir(around)
    got = end(slowly(scratch, "pwrite64", "-r", repo, "restore", "latest", "--to",
                     os.path.join(around, "back")), signal.SIGHUP, signal.SIGHUP, signal.SIGHUP)
    assert got[0] == 143 and os.listdir(around) == [], (got, os.listdir(around))


def under_nohup(scratch):
    root, repo = ready(scratch)
    p = slowly(scratch, "pread64", "-r", repo, "save", root,
               preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert end(p, signal.SIGHUP)[0] == 0
    assert len(wk.wk("-r", repo, "--json", "list").json["snapshots"]) == 1


wk.main(a_save, as_json, a_restore, a_hangup_told_twice, under_nohup)
