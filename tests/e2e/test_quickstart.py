"""The README's first command: packages, build, service on a demo app; its own words are followed."""
import os
import re
import signal
import sqlite3
import subprocess
import time

import wk

QUICKSTART = os.path.join(os.environ["WK_SOURCE"], "conf", "quickstart.sh")


def start(scratch, *args):
    out = os.path.join(scratch, "output")
    env = wk.environment(TMPDIR=scratch, XDG_STATE_HOME=os.path.join(scratch, "state"),
                         HOME=scratch)
    env.pop("WATCHKEEP_CONFIG")
    p = subprocess.Popen(["sh", QUICKSTART, *args], stdout=open(out, "wb"),
                         stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env, cwd=scratch,
                         start_new_session=True)
    wk._children.append(p)
    return p, lambda: open(out, errors="replace").read()


def shell(command):
    r = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=wk.environment())
    assert r.returncode == 0, (command, r)
    return r.stdout


def ended(p, text):
    p.send_signal(signal.SIGINT)
    assert p.wait(wk.PATIENCE) == 0, text()
    last = text().strip().split("\n")[-1]
    assert "ends with the terminal" in last and "--install" in last, last


def printed(text, word):
    """The command that quickstart printed for list, restore, ..."""
    found = [line.strip() for line in text.split("\n") if re.search(r"watchkeep\b.* %s\b" % word, line)]
    assert found, "no %s command in:\n%s" % (word, text)
    command = found[-1]
    return command[command.index("/"):] if not command.startswith("/") else command


def demo(scratch):
    p, text = start(scratch)
    wk.until(lambda: len(re.findall(r"snapshot \d+", text())) >= 4 or
             (p.poll() is not None and text()), "four snapshots of the demo app", 600)
    assert p.poll() is None, text()
    listed = shell(printed(text(), "list"))
    assert len(listed.strip().split("\n")) >= 4, listed
    restore = printed(text(), "restore")
    target = re.search(r"--to '?([^' ]+)", restore).group(1)
    shell(restore)
    names = os.listdir(target)
    databases = [n for n in names if open(os.path.join(target, n), "rb").read(15) ==
                 b"SQLite format 3"]
    assert databases and any(n.endswith(".json") for n in names), names
    db = sqlite3.connect(os.path.join(target, databases[0]))
    assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    db.close()
    wk.remove(target)
    ended(p, text)


def folder(scratch):
    data = os.path.join(scratch, "my data")
    os.mkdir(data)
    wk.write(os.path.join(data, "a.json"), "1")
    p, text = start(scratch, data)
    wk.until(lambda: re.search(r"snapshot \d+", text()) or p.poll() is not None,
             "the first snapshot", 600)
    seen = len(re.findall(r"snapshot \d+", text()))
    wk.replace(os.path.join(data, "a.json"), "2")
    wk.until(lambda: len(re.findall(r"snapshot \d+", text())) > seen, "the change's snapshot")
    ended(p, text)
    assert subprocess.run(["sh", QUICKSTART, os.path.join(scratch, "nowhere")],
                          capture_output=True).returncode != 0


wk.main(demo, folder)
