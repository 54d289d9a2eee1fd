"""Bad input: the exit code of the contract, a clear message, nothing lost."""
import fcntl
import os
import shutil
import socket
import subprocess
import termios

import wk


def ready(scratch):
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    wk.write(os.path.join(root, "a"), "a")
    wk.wk("-r", repo, "init")
    wk.wk("-r", repo, "save", root)
    return root, repo


def clear(r, *words):
    assert r.err.strip(), "no message: %r" % r
    assert r.err[0].islower() or r.err.startswith("watchkeep:"), r
    for w in words:
        assert w in r.err, "%r does not say %r" % (r, w)


def command_lines(scratch):
    root, repo = ready(scratch)
    missing = os.path.join(scratch, "missing")
    clear(wk.wk("-r", repo, "save", "--nonsense", root, code=2), "nonsense")
    clear(wk.wk("-r", repo, "nonsense", code=2), "nonsense")
    clear(wk.wk("-r", repo, "--nonsense", "list", code=2), "nonsense", "watchkeep --help")
    clear(wk.wk("-r", repo, "list", "--rec", "1", code=2), "'--rec'", "watchkeep list --help")
    clear(wk.wk("-r", repo, "save", missing, code=6), missing)
    clear(wk.wk("-r", repo, "save", "", code=2), "'' names neither a watch nor a folder")
    clear(wk.wk("-r", repo, "-w", "", "save", code=2), "'-w' names no watch")
    clear(wk.wk("-c", "", "list", code=2), "'-c' names no file")
    assert wk.wk("-r", repo, "--json", "heal", "data").summary["snapshot"] is None
    clear(wk.wk("-r", repo, "save", "nosuchwatch", code=6), "nosuchwatch")
    other = os.path.join(scratch, "x", "data")
    os.makedirs(other)
    clear(wk.wk("-r", repo, "save", root, other, code=2), "NAME=")
    clear(wk.wk("-r", repo, "save", other, code=None), "data")
    inside = os.path.join(repo, "inside")
    os.mkdir(inside)
    clear(wk.wk("-r", repo, "save", inside, code=2), "repository")
    os.rmdir(inside)
    clear(wk.wk("-r", missing, "list", code=10), missing)
    clear(wk.wk("-r", root, "list", code=10), root)
    clear(wk.wk("-r", repo, "restore", "99", "--to", missing, code=6), "99")
    clear(wk.wk("-r", repo, "restore", "latest:nope", "--to", missing, code=6), "nope")
    clear(wk.wk("-r", repo, "restore", "latest", "--to", root, code=5))
    clear(wk.wk("-r", repo, "restore", "latest", "--to", os.path.join(root, "sub"), code=5))
    full = os.path.join(scratch, "full")
    os.mkdir(full)
    wk.write(os.path.join(full, "mine"), "mine")
    clear(wk.wk("-r", repo, "restore", "latest", "--to", full, code=5), "--overwrite")
    assert os.listdir(full) == ["mine"]
    wk.wk("-r", repo, "restore", "latest", "--to", full, "--overwrite")
    assert sorted(os.listdir(full)) == ["a", "mine"]
    clear(wk.wk("-r", repo, "save", root, "--name", "42", code=2), "42")
    clear(wk.wk("-r", repo, "save", root, "--name", "a/b", code=2))
    clear(wk.wk("-r", repo, "cat", "latest", code=None))
    clear(wk.wk("-r", repo, "diff", "1", code=2))
    clear(wk.wk("-r", repo, "status", "x", code=2), "one too many: watchkeep status\n")
    clear(wk.wk("-r", repo, "save", os.path.join(root, "a"), code=6), "/data/a' is not a folder")
    clear(wk.wk("-r", full, "init", code=5), "'%s'" % full, "it holds '")
    clear(wk.wk("-r", repo, "list", "--since", "someday", code=2), "someday")
    j = wk.wk("-r", repo, "--json", "restore", "99", "--to", missing, code=6)
    assert '"type"' in j.err and '"code"' in j.err, j
    assert not os.path.exists(missing)
    assert len(wk.wk("-r", repo, "--json", "list").json["snapshots"]) == 1
    with open("/dev/full", "w") as full_device:
        p = subprocess.run([wk.BIN, "-r", repo, "list"], stdout=full_device,
                           stderr=subprocess.PIPE, env=wk.environment())
        assert p.returncode == 1 and p.stderr, p
    p = subprocess.run(["sh", "-c", '"$0" -r "$1" --json save "$2" <&- >&- 2>&-', wk.BIN, repo,
                        root], env=wk.environment())
    assert p.returncode == 1, p
    wk.wk("-r", repo, "verify")


def nobody_takes_the_output(scratch):
    root, repo = ready(scratch)
    wk.write(os.path.join(root, "b"), "b")
    wk.wk("-r", repo, "save", root)
    full = os.open("/dev/full", os.O_WRONLY)
    reader, unread = os.pipe()
    os.close(reader)
    for args in (["list"], ["ls", "latest"], ["cat", "latest:a"], ["show", "latest"],
                 ["diff", "1", "2"], ["history", "a"], ["status"], ["config", "show"],
                 ["save", root], ["verify"], ["--help"], ["--version"], ["--json", "list"],
                 ["--json", "save", root]):
        for out, told in ((full, "No space left"), (None, "Bad file descriptor"), (unread, None)):
            p = subprocess.run([wk.BIN, "-r", repo, *args], stdout=out, stderr=subprocess.PIPE,
                               preexec_fn=None if out else lambda: os.close(1), text=True,
                               env=wk.environment())
            assert p.returncode == 1, (args, told, p)
            assert told in p.stderr if told else p.stderr == "", (args, told, p)


def a_second_service(scratch):
    """It says what it would need, and promises nothing that it does not do."""
    root, repo = ready(scratch)
    s = wk.Service(scratch, {"data": {"path": root}}, repo=repo)
    env = dict(s.environment(), WATCHKEEP_SERVICE_SOCKET=s.socket)
    r = wk.wk("-r", repo, "run", root, code=11, env=env)
    clear(r, "already running", repo)
    assert r.out == "", r
    r = wk.wk("-r", repo + "2", "run", root, code=11, env=env)
    clear(r, "already running", "WATCHKEEP_SERVICE_SOCKET")
    assert r.out == "", r
    clear(s.cli("save", "other", code=6), "'other'", "other=PATH")
    s.stop()
    clear(s.cli("save", "other", code=6), "'other'", "./other")


def unreadable(scratch):
    wk.need_root()
    root, repo = ready(scratch)
    os.chmod(scratch, 0o755)
    os.chmod(root, 0o700)

    def nobody():
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    mine = os.path.join(scratch, "mine")
    os.mkdir(mine)
    os.chown(mine, 65534, 65534)
    wk.wk("-r", mine, "init", preexec=nobody)
    clear(wk.wk("-r", mine, "save", root, code=12, preexec=nobody), root)
    clear(wk.wk("-r", repo, "list", code=12, preexec=nobody), repo)


def repositories(scratch):
    root, repo = ready(scratch)
    fmt = os.path.join(repo, "format")
    text = open(fmt).read()
    for change in (text.replace("version 1", "version 2"), text.replace("incompat 0", "incompat 1")
                   if "incompat 0" in text else text.replace("version 1", "version 9")):
        wk.write(fmt, change)
        clear(wk.wk("-r", repo, "list", code=10), "this watchkeep (")
        clear(wk.wk("-r", repo, "save", root, code=10))
    wk.write(fmt, "garbage")
    clear(wk.wk("-r", repo, "list", code=10))
    wk.write(fmt, text)
    wk.wk("-r", repo, "list")
    # A file where a folder should be: told as that, without advice that cannot help.
    file = os.path.join(root, "a")
    for command in (["save", root], ["list"], ["verify"], ["status"], ["rebuild"]):
        r = wk.wk("-r", file, *command, code=10)
        clear(r, "'%s' is a file" % file, "name a folder")
        assert "init" not in r.err, r
    for place in (file, os.path.join(file, "deeper")):
        clear(wk.wk("-r", place, "init", code=5), "cannot make a repository at '%s'" % place, "a file")
    assert open(file).read() == "a"
    # A repository that was there and is not mounted now is not made anew by the service.
    s = wk.Service(scratch, {"data": {"path": root}}, repo=repo)
    s.stop()
    os.rename(repo, repo + "-away")
    os.mkdir(repo)
    r = wk.wk("-c", s.conf, "run", code=10, env=s.environment())
    clear(r, "not mounted", "watchkeep -r '%s' init" % repo)
    assert os.listdir(repo) == []
    os.rmdir(repo)
    clear(wk.wk("-c", s.conf, "run", code=10, env=s.environment()), repo)
    os.rename(repo + "-away", repo)
    s.start()
    s.stop()


def configuration(scratch):
    root, repo = ready(scratch)
    conf = os.path.join(scratch, "c.conf")

    def bad(text, *words, line=None):
        wk.write(conf, text)
        for command in (["config", "check"], ["run"]):
            r = wk.wk("-c", conf, *command, code=2)
            clear(r, *words)
            if line:
                assert "%s:%d:" % (conf, line) in r.err, r
    good = "[service]\nrepository = %s\n[watch data]\npath = %s\n" % (repo, root)
    wk.write(conf, good)
    wk.wk("-c", conf, "config", "check")
    assert repo in wk.wk("-c", conf, "config", "show").out
    bad(good + "nonsense = 1\n", "nonsense", line=5)
    bad("[nonsense]\n" + good, "nonsense")
    bad(good + "settle = soon\n", "soon", line=5)
    bad(good + "exclude = " + "x" * 500 + "\n", line=5)
    bad("garbage\n" + good, line=1)
    bad("[watch data]\npath = relative\n", line=2)
    bad(good + "[retention]\nkeep_min = 2\n", "keep_min", line=6)
    bad(good + "[watch bad name]\npath = /tmp\n")
    bad("[service]\nrepository = %s\n[watch r]\npath = %s/packs\n" % (repo, repo), "repository")
    clear(wk.wk("-c", os.path.join(scratch, "none.conf"), "config", "check", code=2), "none.conf")
    wk.write(conf, good)
    for name, value in (("INTERVAL", "zz"), ("RETENTION_DAYS", "week"), ("WATCH_SETTLE", "soon")):
        for file in (conf, "/dev/null"):
            env = wk.environment(**{"WATCHKEEP_" + name: value})
            for command in (["config", "check"], ["run"], ["-r", repo, "list"]):
                clear(wk.wk("-c", file, *command, env=env, code=2), "WATCHKEEP_" + name, value)


def no_configuration_file(scratch):
    """A folder that is named as one, or stands among them."""
    root, repo = ready(scratch)
    said = "'%s' is a folder, not a configuration file" % root
    for command in (["config", "check"], ["run"], ["list"], ["-r", repo, "list"]):
        clear(wk.wk("-c", root, *command, code=2), said)
        clear(wk.wk(*command, env=wk.environment(WATCHKEEP_CONFIG=root), code=2), said)
    conf = os.path.join(scratch, "c.conf")
    wk.write(conf, "[service]\nrepository = %s\n" % repo)
    os.makedirs(os.path.join(scratch, "conf.d", "x.conf"))
    clear(wk.wk("-c", conf, "config", "check", code=2), "conf.d/x.conf' is a folder")


def configuration_from_a_pipe(scratch):
    """As `-c <(...)` gives it; one that nobody writes into is no empty configuration."""
    root, repo = ready(scratch)
    pipe = os.path.join(scratch, "c.conf")
    os.mkfifo(pipe)
    for command in (["config", "check"], ["run"], ["-r", repo, "list"]):
        clear(wk.wk("-c", pipe, *command, code=2, timeout=wk.PATIENCE), "'%s' gives nothing" % pipe)
    # A slow writer is waited for: each part comes when the one before is read and nothing else is done.
    out, into = os.pipe()
    p = subprocess.Popen([wk.BIN, "-c", "/dev/stdin", "config", "show"], stdin=out, stdout=subprocess.PIPE,
                         text=True, env=wk.environment())

    def waits():
        unread = fcntl.ioctl(out, termios.FIONREAD, bytes(4))
        return not any(unread) and open("/proc/%d/stat" % p.pid).read().rsplit(")", 1)[1].split()[0] == "S"
    for part in ("[service]\n", "repository = %s\n" % repo):
        wk.until(waits, "it waits for more")
        os.write(into, part.encode())
    wk.until(waits, "it has read all")
    os.close(into)
    os.close(out)
    assert repo in p.communicate(timeout=wk.PATIENCE)[0] and p.returncode == 0


def two_at_once(scratch):
    root, repo = ready(scratch)
    s = wk.Service(scratch, {"data": {"path": root}}, repo=repo)
    clear(wk.wk("-c", s.conf, "run", code=11, env=s.environment()))
    other = wk.Service(os.path.join(scratch), {"data": {"path": root}}, start=False,
                       repo=os.path.join(scratch, "repo2"))
    wk.wk("-r", other.repo, "init")
    clear(wk.wk("-c", other.conf, "run", code=11, env=s.environment()), "control.sock")
    assert s.process.poll() is None
    s.stop()
    # A stale socket of a killed service is no hindrance.
    stale = socket.socket(socket.AF_UNIX)
    if os.path.exists(s.socket):
        os.remove(s.socket)
    stale.bind(s.socket)
    stale.close()
    s.repo = repo
    s.settings["repository"] = repo
    s.write_config()
    s.start()
    s.stop()


def disk_full(scratch):
    wk.need_root()
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    wk.write(os.path.join(root, "a"), os.urandom(100000))
    where = os.path.join(scratch, "mnt")
    os.mkdir(where)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", where]).returncode:
        wk.skip("cannot mount a tmpfs here")
    try:
        repo = os.path.join(where, "repo")
        wk.wk("-r", repo, "init")
        wk.wk("-r", repo, "save", root, "--name", "before")
        state = wk.tree(root)
        wk.write(os.path.join(root, "big"), os.urandom(20 << 20))
        r = wk.wk("-r", repo, "--json", "save", root, "--name", "toobig", code=13)
        assert r.err
        names = [x["name"] for x in wk.wk("-r", repo, "--json", "list").json["snapshots"]]
        assert names == ["before"], names
        wk.same(state, wk.restored(repo, "before", scratch))
        wk.wk("-r", repo, "verify")
        os.remove(os.path.join(root, "big"))
        subprocess.run(["mount", "-o", "remount,size=64m", where], check=True)
        wk.write(os.path.join(root, "b"), os.urandom(1 << 20))
        wk.wk("-r", repo, "save", root, "--name", "after")
        wk.same(wk.tree(root), wk.restored(repo, "after", scratch))
        assert wk.wk("-r", repo, "--json", "verify").summary["errors"] == 0
    finally:
        subprocess.run(["umount", where], check=True)


def inside_itself(scratch):
    """Repository, archives and socket inside the watch are excluded by themselves."""
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    wk.write(os.path.join(root, "a"), "a")
    s = wk.Service(scratch, {"data": {"path": root, "settle": "20ms"}},
                   repo=os.path.join(root, "backup"), socket=os.path.join(root, "wk.sock"))
    r = s.cli("config", "check")
    assert "backup" in r.out + r.err, "config check does not tell of the repository inside: %r" % r
    for i in range(10):
        wk.write(os.path.join(root, "a"), str(i))
        s.save("data")
        assert wk.wk("-r", s.repo, "cat", "latest:a").out == str(i)
    count = len(s.snapshots())
    for _ in range(20):
        assert s.save("data")["snapshot"] is None
    assert len(s.snapshots()) == count, "it saves itself"
    t = wk.restored(s.repo, "latest", scratch)
    assert set(t) == {b"", b"a"}, set(t)
    s.stop()


wk.main(command_lines, nobody_takes_the_output, a_second_service, unreadable, repositories, configuration,
        no_configuration_file, configuration_from_a_pipe, two_at_once, disk_full, inside_itself)
