"""What the end-to-end tests share: running the program, waiting for conditions, comparing trees.

Every test works in a scratch folder of its own, which is removed when it passes and kept (and
named) when it fails. Standard library only.
"""
import contextlib
import atexit
import datetime
import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback

BIN = os.environ.get("WK_BIN") or sys.exit("WK_BIN is not set; run through ctest")
SANITIZED = bool(os.environ.get("WK_SANITIZE"))
PATIENCE = 300 if SANITIZED else 180  # seconds, for what takes moments on an idle machine

# Whoever starts the tests may ignore these, as nohup does; the programs would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
# A zone in which it is about noon: no test meets the jobs of the night, or midnight, by chance.
NOON = "WKT%+d" % (time.gmtime().tm_hour - 12)


def _open_to_all():
    """Root's tests run the program as other users too, who cannot reach a build under /root: then
    the program and its helper are copied to where everybody can."""
    global BIN
    helper = os.environ.get("WATCHKEEP_HELPER")
    up = os.path.dirname(os.path.realpath(BIN))
    while up != "/" and os.stat(up).st_mode & stat.S_IXOTH:
        up = os.path.dirname(up)
    if os.geteuid() != 0 or up == "/":
        return
    to = tempfile.mkdtemp(prefix="wk-bin-")
    atexit.register(shutil.rmtree, to, ignore_errors=True)
    os.chmod(to, 0o755)
    BIN = shutil.copy(BIN, to)
    if helper:
        os.environ["WATCHKEEP_HELPER"] = shutil.copy(helper, to)


_open_to_all()
_children = []


@atexit.register
def _end_children():
    for p in _children:
        if p.poll() is None:
            p.kill()


def skip(reason):
    print("SKIP:", reason)
    sys.exit(77)


def need_root():
    if os.geteuid() != 0:
        skip("needs root")


@contextlib.contextmanager
def small_disk(at, size):
    """A file system of its own in a new folder."""
    need_root()
    os.mkdir(at)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%d" % size, "none", at]).returncode:
        skip("cannot mount a tmpfs here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", at], check=True)


def environment(**more):
    env = {k: v for k, v in os.environ.items() if not k.startswith("WATCHKEEP_")
           or k == "WATCHKEEP_HELPER"}
    env["WATCHKEEP_CONFIG"] = "/dev/null"
    env["TZ"] = os.environ.get("WK_ZONE", NOON)
    env.update({k: v for k, v in more.items() if v is not None})
    return env


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def summary(self):
        last = self.lines[-1]
        assert last.get("type") == "summary", "last line is no summary: %r" % self.out[-500:]
        return last

    def __repr__(self):
        return "exit %d\nstdout: %s\nstderr: %s" % (self.code, self.out[-3000:], self.err[-3000:])


def wk(*args, code=0, env=None, stdin=None, preexec=None, cwd=None, binary=False, timeout=None):
    """Run watchkeep; code None accepts any exit code."""
    r = subprocess.run([BIN, *[str(a) if not isinstance(a, bytes) else a for a in args]],
                       stdin=stdin or subprocess.DEVNULL, capture_output=True,
                       env=env or environment(), preexec_fn=preexec, cwd=cwd,
                       timeout=timeout or 2 * PATIENCE)
    out = r.stdout if binary else r.stdout.decode("utf-8", "surrogateescape")
    result = Result(r.returncode, out, r.stderr.decode("utf-8", "replace"))
    if code is not None and r.returncode != code:
        raise AssertionError("watchkeep %s: expected exit %d, got %r" % (args, code, result))
    for marker in ("AddressSanitizer", "ThreadSanitizer", "runtime error:", "LeakSanitizer"):
        if marker in result.err:
            raise AssertionError("sanitizer: %r" % result)
    return result


def until(condition, what, patience=PATIENCE, pace=0.01):
    """Wait until condition() is true; its value is returned. It is asked every `pace` seconds."""
    end = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError("waited %d s in vain for: %s" % (patience, what))
        time.sleep(pace)


class Clock:
    """Clocks that the test moves: the wall clock of the service and of the commands, and with it
    the clocks that count what has passed. From then on the programs are those of
    support/moved_clock.c. It begins in the future, where no file's time stamp is ahead of it."""

    def __init__(self, scratch, start="2031-03-01 12:00:00", zone="UTC"):
        global BIN
        BIN = os.environ.get("WK_MOVED_CLOCK_BIN") or sys.exit("run through ctest")
        os.environ["TZ"] = os.environ["WK_ZONE"] = zone
        time.tzset()
        path = os.path.join(scratch, "clocks")
        write(path, bytes(24))
        with open(path, "r+b") as f:
            self.ahead = memoryview(mmap.mmap(f.fileno(), 24)).cast("q")  # wall, boot, monotonic
        os.environ["WK_MOVED_CLOCK"] = path
        self.to(start)

    def now(self):
        """Local time of the programs, whose zone is TZ's."""
        return datetime.datetime.fromtimestamp(time.time() + self.ahead[0] / 1e9)

    def to(self, when):
        """The wall clock is set to a local time; nothing else passes."""
        if isinstance(when, str):
            when = datetime.datetime.fromisoformat(when)
        self.ahead[0] = int((when.timestamp() - time.time()) * 1e9)

    def wait(self, until):
        """Time passes until a local time: a moment, "HH:MM:SS" of this day or the next, or so many
        seconds."""
        now = self.now()
        if isinstance(until, str):
            at = datetime.time.fromisoformat(until)
            until = datetime.datetime.combine(now, at)
            if until <= now:
                until += datetime.timedelta(days=1)
        if isinstance(until, datetime.datetime):
            until = until.timestamp() - now.timestamp()
        assert until >= 0, until
        for i in (2, 1, 0):
            self.ahead[i] += int(until * 1e9)


class Service:
    """`watchkeep run` over a configuration file written from keyword settings."""

    def __init__(self, scratch, watches, repo=None, wrapper=None, service=None, env=None, start=True,
                 user=None, socket=None, sections=None):
        self.dir = scratch
        self.repo = repo or os.path.join(scratch, "repo")
        self.socket = socket or os.path.join(scratch, "control.sock")
        self.conf = os.path.join(scratch, "watchkeep.conf")
        self.log = os.path.join(scratch, "service.log")
        self.wrapper = wrapper or []
        self.settings = dict(repository=self.repo, socket=self.socket, log_level="debug")
        self.settings.update(service or {})
        self.watches = watches
        self.sections = sections or {}  # further ones: {"verify": {"at": ...}}
        self.env = env
        self.user = user
        self.process = None
        self.write_config()
        if start:
            self.start()

    def write_config(self):
        with open(self.conf, "w") as f:
            f.write("[service]\n")
            for k, v in self.settings.items():
                f.write("%s = %s\n" % (k, v))
            for name, settings in self.watches.items():
                f.write("[watch %s]\n" % name)
                for k, v in settings.items():
                    for one in v if isinstance(v, list) else [v]:
                        f.write("%s = %s\n" % (k, one))
            for section, settings in self.sections.items():
                f.write("[%s]\n" % section)
                for k, v in settings.items():
                    f.write("%s = %s\n" % (k, v))

    def set(self, section, **settings):
        """Settings of a further section, in force when this returns."""
        self.sections.setdefault(section, {}).update(settings)
        self.write_config()
        loaded = self.log_text().count("configuration loaded")
        os.kill(self.pid(), signal.SIGHUP)
        until(lambda: self.log_text().count("configuration loaded") > loaded, "the reload")

    def codes(self):
        return [p["code"] for p in self.status()["problems"]]

    def environment(self):
        return self.env or environment(XDG_STATE_HOME=os.path.join(self.dir, "state"),
                                       STATE_DIRECTORY=os.path.join(self.dir, "state"))

    def start(self, wait=True, init=True):
        if init and not os.path.exists(os.path.join(self.repo, "format")):
            wk("-r", self.repo, "init")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([*self.wrapper, BIN, "-c", self.conf, "run"],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=self.environment())
        _children.append(self.process)
        if wait:
            until(self.ready, "the service to answer", PATIENCE)
        return self

    def ready(self):
        if self.process.poll() is not None:
            raise AssertionError("the service ended: %s" % self.log_text()[-3000:])
        r = wk("-c", self.conf, "--json", "status", code=None)
        if r.code not in (0, 7):
            return False
        return all(w["state"] != "scanning" and (w["last_checked"] or w["state"] == "missing")
                   for w in r.json["watches"])

    def status(self):
        return wk("-c", self.conf, "--json", "status", code=None).json

    def save(self, *args, code=0):
        return wk("-c", self.conf, "--json", "save", *args, code=code).summary

    def cli(self, *args, **kw):
        return wk("-c", self.conf, *args, **kw)

    def snapshots(self, *args):
        return wk("-r", self.repo, "--json", "list", "--all", *args).json["snapshots"]

    def stop(self, sig=signal.SIGTERM, code=0):
        pid = self.pid()
        os.kill(pid, sig)
        got = self.process.wait(PATIENCE)
        if code is not None and got != code:
            raise AssertionError("service ended with %r: %s" % (got, self.log_text()[-3000:]))
        text = self.log_text()
        for marker in ("AddressSanitizer", "ThreadSanitizer", "runtime error:", "LeakSanitizer"):
            if marker in text:
                raise AssertionError("sanitizer: %s" % text[-5000:])

    def pid(self):
        """Of the service itself, also beneath a wrapper such as strace."""
        if not self.wrapper:
            return self.process.pid
        children = "/proc/%d/task/%d/children" % (self.process.pid, self.process.pid)
        return int(open(children).read().split()[0])

    def kill(self):
        os.kill(self.pid(), signal.SIGKILL)
        self.process.wait(PATIENCE)

    def log_text(self):
        with open(self.log, errors="replace") as f:
            return f.read()


# ---- processes ----

def children(pid):
    """The processes that any thread of this one has started."""
    out = []
    for task in os.listdir("/proc/%d/task" % pid):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            with open("/proc/%d/task/%s/children" % (pid, task)) as f:
                out += map(int, f.read().split())
    return out


def waits_on_socket(pid):
    """It sleeps with a socket open: the request is sent, the answer is to come."""
    of = "/proc/%d/" % pid
    try:
        with open(of + "stat") as f:
            asleep = f.read().rpartition(")")[2].split()[0] == "S"
        return asleep and any(os.readlink(of + "fd/" + fd).startswith("socket:")
                              for fd in os.listdir(of + "fd"))
    except OSError:  # one that it has closed meanwhile
        return False


# ---- trees ----

def _digest(path):
    h = hashlib.sha256()
    with open(path, "rb", opener=lambda p, f: os.open(p, f | os.O_NOATIME
              if os.geteuid() == 0 else f)) as f:
        while True:
            block = f.read(1 << 20)
            if not block:
                return h.hexdigest()
            h.update(block)


def tree(root, times=True, owner=True, ignore=()):
    """Everything a restore must bring back, as {relative bytes path: description}. Walks by folder
    descriptors, so that paths longer than PATH_MAX are fine."""
    out = {}
    links = {}

    def describe(dirfd, name, rel):
        st = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
        d = {"type": stat.S_IFMT(st.st_mode), "mode": stat.S_IMODE(st.st_mode)}
        if owner:
            d["owner"] = (st.st_uid, st.st_gid)
        if times:
            d["mtime"] = st.st_mtime_ns
        if stat.S_ISLNK(st.st_mode):
            d["target"] = os.readlink(name, dir_fd=dirfd)
        elif stat.S_ISREG(st.st_mode):
            d["size"] = st.st_size
            if st.st_nlink > 1:
                d["same as"] = links.setdefault((st.st_dev, st.st_ino), rel)
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=dirfd)
                try:
                    h = hashlib.sha256()
                    at = 0
                    while at < st.st_size:
                        try:
                            data = os.lseek(fd, at, os.SEEK_DATA)
                        except OSError:
                            break
                        hole = os.lseek(fd, data, os.SEEK_HOLE)
                        at = data
                        while at < hole:
                            block = os.pread(fd, min(1 << 20, hole - at), at)
                            if not block:
                                break
                            if block.strip(b"\0"):
                                for i in range(0, len(block), 4096):
                                    piece = block[i:i + 4096]
                                    if piece.strip(b"\0"):
                                        h.update(b"%d:" % (at + i) + piece.rstrip(b"\0"))
                            at += len(block)
                    d["sha256"] = h.hexdigest()
                    d["xattrs"] = {k: os.getxattr(fd, k) for k in sorted(os.listxattr(fd))
                                   if k != "security.selinux"}
                finally:
                    os.close(fd)
            except PermissionError:
                d["sha256"] = "unreadable"
        elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
            d["rdev"] = st.st_rdev
        return st, d

    def walk(dirfd, rel):
        for name in sorted(os.listdir(dirfd)):
            name = os.fsencode(name)
            path = rel + b"/" + name if rel else name
            if path in ignore:
                continue
            st, d = describe(dirfd, name, path)
            out[path] = d
            if stat.S_ISDIR(st.st_mode):
                try:
                    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dirfd)
                except PermissionError:
                    d["unreadable"] = True
                    continue
                try:
                    d["xattrs"] = {k: os.getxattr(fd, k) for k in sorted(os.listxattr(fd))
                                   if k != "security.selinux"}
                    walk(fd, path)
                finally:
                    os.close(fd)

    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        st = os.fstat(fd)
        out[b""] = {"mode": stat.S_IMODE(st.st_mode)}
        if owner:
            out[b""]["owner"] = (st.st_uid, st.st_gid)
        if times:
            out[b""]["mtime"] = st.st_mtime_ns
        walk(fd, b"")
    finally:
        os.close(fd)
    return out


def differences(a, b):
    """Readable list of what differs between two trees."""
    out = []
    for path in sorted(set(a) | set(b)):
        if a.get(path) != b.get(path):
            out.append("%r: %r != %r" % (path, a.get(path), b.get(path)))
    return out


def same(a, b, what=""):
    d = differences(a, b)
    if d:
        raise AssertionError("%s: %d differences, the first:\n%s" % (what, len(d),
                                                                    "\n".join(d[:10])))


def restored(repo, snapshot, scratch, keep=False, **kw):
    """Restore into a fresh folder under scratch and describe it; the folder is removed again."""
    target = tempfile.mkdtemp(prefix="back-", dir=scratch)
    wk("-r", repo, "restore", snapshot, "--to", target)
    t = tree(target, **kw)
    if keep:
        return t, target
    remove(target)
    return t


def remove(path):
    subprocess.run(["chmod", "-R", "u+rwX", path], stderr=subprocess.DEVNULL)
    subprocess.run(["rm", "-rf", path], check=True)


def packs(repo):
    """{name: bytes} of the pack files."""
    folder = os.path.join(repo, "packs")
    out = {}
    for n in sorted(os.listdir(folder)):
        with open(os.path.join(folder, n), "rb") as f:
            out[n] = f.read()
    return out


def seconds_of(time):
    """RFC 3339, as the programs say it, since 1970."""
    return datetime.datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()


def write(path, data):
    if isinstance(data, str):
        data = data.encode()
    with open(path, "wb") as f:
        f.write(data)


def replace(path, data):
    """Save as careful apps do: temporary file, flush, rename."""
    write(path + ".tmp", data)
    os.rename(path + ".tmp", path)


def scratch_dir():
    return tempfile.mkdtemp(prefix="wk-", dir=os.environ.get("WK_SCRATCH", "/tmp"))


def main(*tests):
    """Run test functions, each with a scratch folder; exit 1 when one fails."""
    seed = int(os.environ.get("WK_SEED", "0")) or int(time.time() * 1000) & 0xffffff
    failed = 0
    only = sys.argv[1:]
    for test in tests:
        if only and test.__name__ not in only:
            continue
        random.seed(seed)
        scratch = scratch_dir()
        start = time.monotonic()
        try:
            test(scratch)
        except SystemExit:  # skipped, which hides no failure
            remove(scratch)
            if failed:
                sys.exit(1)
            raise
        except Exception:
            traceback.print_exc()
            print("FAILED %s (WK_SEED=%d, scratch kept: %s)" % (test.__name__, seed, scratch))
            log = os.path.join(scratch, "service.log")
            if os.path.exists(log):
                with open(log, errors="replace") as f:
                    print("service log, last lines:\n" + "".join(f.readlines()[-40:]))
            failed = 1
        else:
            print("ok %s (%.1f s)" % (test.__name__, time.monotonic() - start))
            remove(scratch)
        for p in _children:
            if p.poll() is None:
                p.kill()
                p.wait()
    sys.exit(failed)
