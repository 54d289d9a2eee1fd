"""tools.py - the programs that bench/run.py compares: how each saves, restores and verifies.

Every method runs the tool at its defaults in its own folder and returns a Cost. What a tool does not
flush by itself is flushed here, inside the time: see `flushes` of each.
"""
import os
import re
import shutil
import subprocess
import threading
import time


class Cost:
    def __init__(self, seconds, rss):
        self.seconds, self.rss = seconds, rss  # rss: of the largest process, in KiB


class Failed(Exception):
    pass


class PeakMemory(threading.Thread):
    """The high-water mark of processes, sampled while they run. (ru_maxrss begins with what this
    program itself held when it forked.)"""

    def __init__(self):
        super().__init__(daemon=True)
        self.pids, self.kib, self.over = [], 0, threading.Event()

    def sample(self):
        for pid in self.pids:
            try:
                with open("/proc/%d/status" % pid) as f:
                    found = re.search(r"VmHWM:\s+(\d+)", f.read())
            except OSError:
                continue
            if found:
                self.kib = max(self.kib, int(found.group(1)))

    def run(self):
        while not self.over.wait(0.005):
            self.sample()


def run(*commands, cwd=None, env=None, stdout=None):
    """Run one command, or several as a pipe; the largest process' memory counts."""
    start = time.perf_counter()
    processes, feed = [], None
    memory = PeakMemory()
    memory.start()
    for i, c in enumerate(commands):
        last = i == len(commands) - 1
        p = subprocess.Popen(c, cwd=cwd, env=env, stdin=feed or subprocess.DEVNULL,
                             stdout=(stdout or subprocess.DEVNULL) if last else subprocess.PIPE,
                             stderr=subprocess.PIPE if last else subprocess.DEVNULL)
        if feed:
            feed.close()
        feed = p.stdout
        processes.append(p)
        memory.pids.append(p.pid)
        memory.sample()
    error = processes[-1].stderr.read()
    code = 0
    for p in processes:
        code = p.wait() or code
    seconds = time.perf_counter() - start
    processes[-1].stderr.close()
    memory.over.set()
    memory.join()
    if code != 0:
        raise Failed("%s: exit %d: %s" % (" | ".join(" ".join(c) for c in commands), code,
                                          error.decode(errors="replace")[-600:]))
    return Cost(seconds, memory.kib)


def timed(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def flush_files(top):
    """fsync every file of a small set (an archive)."""
    for folder, _, files in os.walk(top):
        for f in files:
            fd = os.open(os.path.join(folder, f), os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)


def bytes_in(top):
    total = 0
    for folder, _, files in os.walk(top):
        for f in files:
            total += os.lstat(os.path.join(folder, f)).st_blocks * 512
    return total


class Tool:
    name = "?"
    programs = ()  # that must be there
    flushes = ""   # what is durable when save returns
    can_repeat = True  # a second save into the same repository means something

    def __init__(self, place):
        self.place = place
        self.repo = os.path.join(place, "repo")

    @classmethod
    def missing(cls):
        return [p for p in cls.programs if not shutil.which(p)]

    def fresh(self):
        """An empty repository; not timed."""
        shutil.rmtree(self.place, ignore_errors=True)
        os.makedirs(self.place)

    def stored(self):
        return bytes_in(self.repo)

    def caches(self):
        """What it can make anew from the rest, wherever that lies."""
        return bytes_in(self.place) - bytes_in(self.repo)

    def flush_restored(self, target, cost):
        cost.seconds += timed(lambda: subprocess.run(["sync", "-f", target], check=True))
        return cost

    def verify(self):
        return None


class Watchkeep(Tool):
    name = "watchkeep"
    flushes = "everything, before it returns (fdatasync); restore: one syncfs"
    program = os.environ.get("WK_BIN", "watchkeep")

    @classmethod
    def missing(cls):
        return [] if shutil.which(cls.program) else [cls.program]

    def stored(self):
        reserve = os.path.join(self.repo, "reserve")
        return bytes_in(self.repo) - (os.path.getsize(reserve) if os.path.exists(reserve) else 0)

    def caches(self):
        names = [f for f in os.listdir(self.repo) if f.startswith("catalog.db")]
        return sum(os.lstat(os.path.join(self.repo, f)).st_blocks * 512 for f in names)

    @classmethod
    def version(cls):
        return first_line(cls.program, "--version")

    def env(self):
        return dict(os.environ, WATCHKEEP_CONFIG="/dev/null",
                    XDG_STATE_HOME=os.path.join(self.place, "state"))

    def wk(self, *args):
        return run([self.program, "-r", self.repo, "-q", "--no-progress", *args], env=self.env())

    def fresh(self):
        super().fresh()
        self.wk("init")

    def save(self, source):
        return self.wk("save", "bench=" + source)

    def restore(self, target):
        return self.wk("restore", "latest", "--to", target), target

    def verify(self):
        return self.wk("verify", "--full")


class Restic(Tool):
    name = "restic"
    programs = ("restic",)
    flushes = "its pack files, before it returns (fsync); restore: sync -f, counted here"

    @classmethod
    def version(cls):
        return first_line("restic", "version")

    def env(self):
        return dict(os.environ, RESTIC_PASSWORD="bench", RESTIC_REPOSITORY=self.repo,
                    RESTIC_CACHE_DIR=os.path.join(self.place, "cache"))

    def fresh(self):
        super().fresh()
        run(["restic", "init"], env=self.env())

    def save(self, source):
        self.source = source
        return run(["restic", "backup", "-q", "."], cwd=source, env=self.env())

    def restore(self, target):
        cost = run(["restic", "restore", "-q", "latest", "--target", target], env=self.env())
        inner = target + os.path.realpath(self.source)
        return self.flush_restored(target, cost), inner if os.path.isdir(inner) else target

    def verify(self):
        return run(["restic", "check", "-q", "--read-data"], env=self.env())


class Borg(Tool):
    name = "borg"
    programs = ("borg",)
    flushes = "its segments, before it returns (fsync); restore: sync -f, counted here"

    @classmethod
    def version(cls):
        return first_line("borg", "--version")

    def env(self):
        return dict(os.environ, BORG_BASE_DIR=os.path.join(self.place, "base"),
                    BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes",
                    BORG_RELOCATED_REPO_ACCESS_IS_OK="yes")

    def fresh(self):
        super().fresh()
        self.count = 0
        run(["borg", "init", "-e", "none", self.repo], env=self.env())

    def save(self, source):
        self.count += 1
        return run(["borg", "create", "%s::a%d" % (self.repo, self.count), "."], cwd=source,
                   env=self.env())

    def restore(self, target):
        cost = run(["borg", "extract", "%s::a%d" % (self.repo, self.count)], cwd=target,
                   env=self.env())
        return self.flush_restored(target, cost), target

    def verify(self):
        return run(["borg", "check", "--verify-data", self.repo], env=self.env())


class Tar(Tool):
    """tar | pigz -6, or tar | gzip -6 where there is no pigz."""
    name = "tar|pigz"
    programs = ("tar",)
    flushes = "nothing by itself; fsync of the archive, and sync -f after a restore, counted here"
    can_repeat = False
    zip = "pigz" if shutil.which("pigz") else "gzip"

    @classmethod
    def version(cls):
        return "%s, %s" % (first_line("tar", "--version"), first_line(cls.zip, "--version"))

    def fresh(self):
        super().fresh()
        os.mkdir(self.repo)
        self.archive = os.path.join(self.repo, "archive.tar.gz")

    def save(self, source):
        with open(self.archive, "wb") as out:
            cost = run(["tar", "-C", source, "-cf", "-", "."], [self.zip, "-6"], stdout=out)
        cost.seconds += timed(lambda: flush_files(self.repo))
        return cost

    def restore(self, target):
        cost = run([self.zip, "-dc", self.archive], ["tar", "-C", target, "-xpf", "-"])
        return self.flush_restored(target, cost), target

    def verify(self):
        return run([self.zip, "-t", self.archive])


def first_line(*command):
    r = subprocess.run(command, capture_output=True, text=True)
    text = (r.stdout or r.stderr).strip().splitlines()
    return text[0] if text else "?"


ALL = [Watchkeep, Restic, Borg, Tar]
