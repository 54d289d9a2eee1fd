"""Power cuts on ext4, xfs and btrfs, and a disk that loses a flush: what was acknowledged stays.

The repository lies in the image of a file system on a loop device, the watched folder outside it.
ext4 and xfs are shut down without a flush (FS_IOC_SHUTDOWN) and mounted again, which replays their
journal. btrfs does not know that call: its image is cloned at one instant (a reflink, for which the
image lies on an xfs), and the clone is mounted. In half of the cuts a neighbour on the same file
system flushes a file of its own and has the kernel write pieces of the packs early, so that also
half-written saves reach the disk. Cuts of one series fall upon the same repository.

WK_CUTS=N makes N cuts on each file system. Needs root; all mounts are in a namespace of our own,
so that they are gone when this program is.
"""
import ctypes
import errno
import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import time

import wk

CUTS = int(os.environ.get("WK_CUTS", "14"))
SERIES = 50  # at most so many cuts in one repository
MIB = 1 << 20
SHUTDOWN, NO_FLUSH = 0x8004587d, 2
CLONE = 0x40049409

libc = ctypes.CDLL(None, use_errno=True)
skipped = []


class Missing(Exception):
    """What this machine lacks for a part of the test."""


def own_mounts():
    wk.need_root()
    if libc.unshare(0x20000) != 0:
        wk.skip("no mount namespace of our own: %s" % os.strerror(ctypes.get_errno()))
    run("mount", "--make-rprivate", "/")


def run(*command):
    r = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if r.returncode:
        raise Missing("%s: %s" % (" ".join(command), r.stdout.decode(errors="replace").strip()))


def unmount(path):
    def done():
        return subprocess.run(["umount", path], stderr=subprocess.DEVNULL).returncode == 0
    wk.until(done, "umount %s" % path)


# ---- file systems that lose power ----

class Image:
    """A new file system in the file `folder`/image, or the one given, to be mounted at at."""
    size = 2048 * MIB
    mkfs, options = [], [""]
    fails_at_cut = True  # who writes on after the cut gets an error

    def __init__(self, folder, file=None):
        self.file = file or os.path.join(folder, "image")
        self.at = os.path.join(folder, "mnt")
        self.option = random.choice(self.options)
        self.mounted = False
        os.mkdir(self.at)
        if not shutil.which(self.mkfs[0]):
            raise Missing("no %s" % self.mkfs[0])
        with open(self.file, "wb") as f:
            f.truncate(self.size)
        run(*self.mkfs, self.file)

    def mount(self):
        run("mount", "-o", ",".join(filter(None, ["loop", self.option])), self.file, self.at)
        self.mounted = True

    def unmount(self):
        if self.mounted:
            unmount(self.at)
        self.mounted = False

    def close(self):
        self.unmount()

    def cut(self):
        fd = os.open(self.at, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_FLUSH))
        finally:
            os.close(fd)

    def power_on(self):
        self.unmount()
        self.mount()


class Ext4(Image):
    mkfs = ["mkfs.ext4", "-q", "-F"]
    options = ["", "data=writeback", "nodelalloc"]


class Xfs(Image):
    mkfs = ["mkfs.xfs", "-q", "-f"]


class Btrfs(Image):
    size = 1536 * MIB
    mkfs = ["mkfs.btrfs", "-q", "-f"]
    options = ["", "compress-force=zstd"]
    fails_at_cut = False

    def __init__(self, folder):
        below = os.path.join(folder, "below")
        os.mkdir(below)
        self.host = Xfs(below)
        self.host.size = 2 * self.size
        self.host.mount()
        try:
            super().__init__(folder, os.path.join(self.host.at, "image"))
        except Exception:
            self.host.close()
            raise

    def cut(self):
        with open(self.file, "rb") as now, open(self.file + ".then", "wb") as then:
            fcntl.ioctl(then, CLONE, now.fileno())

    def unmount(self):
        """And have the kernel forget it, or it takes the clone for an outdated member."""
        with open("/proc/self/mounts") as mounts:
            devices = [line.split()[0] for line in mounts if line.split()[1] == self.at]
        super().unmount()
        for d in devices:
            run("btrfs", "device", "scan", "--forget", d)

    def power_on(self):
        self.unmount()
        os.rename(self.file + ".then", self.file)
        self.mount()

    def close(self):
        super().close()
        self.host.close()


class Neighbour(threading.Thread):
    """Somebody else on the file system, and a kernel that writes back when it likes."""

    def __init__(self, image, repo):
        super().__init__()
        self.image, self.packs, self.ended = image, os.path.join(repo, "packs"), threading.Event()

    def run(self):
        try:
            while not self.ended.wait(random.random() * 0.006):
                self.write_back(os.path.join(self.packs, random.choice(os.listdir(self.packs))))
                with open(os.path.join(self.image.at, "neighbour"), "ab") as f:
                    f.write(b"n" * random.randrange(1, 3000))
                    f.flush()
                    os.fsync(f.fileno())
        except OSError:
            pass  # the cut

    def write_back(self, pack):
        fd = os.open(pack, os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            start = random.randrange(max(1, size - 4 * MIB), size + 1)
            length = random.choice([4096, 65536, MIB])
            libc.sync_file_range(fd, ctypes.c_int64(start), ctypes.c_int64(length), 7)
        finally:
            os.close(fd)

    def end(self):
        self.ended.set()
        self.join()


# ---- a repository, and what must be in it ----

class Keep:
    def __init__(self, scratch, repo):
        self.scratch, self.repo = scratch, repo
        self.root = os.path.join(scratch, "data")
        self.tried, self.acknowledged = {}, []  # trees by name; names
        self.checked = set()
        self.figures = {"cuts": 0, "acknowledged": 0, "whole though not acknowledged": 0,
                        "restored": 0}
        self.count = 0
        os.makedirs(self.root, exist_ok=True)

    def change(self):
        """Small changes go through the log pack alone, large ones through a data pack."""
        self.count += 1
        wk.replace(os.path.join(self.root, "state.json"), '{"i": %d}' % self.count)
        with open(os.path.join(self.root, "log"), "ab") as f:
            f.write(os.urandom(random.randrange(1, 900)))
        large = random.random() < 0.4
        if large:
            wk.write(os.path.join(self.root, "large"), os.urandom(random.randrange(MIB, 4 * MIB)))
        elif random.random() < 0.5:
            wk.write(os.path.join(self.root, "blob"), os.urandom(random.randrange(900000)))
        if random.random() < 0.3:
            for _ in range(random.randrange(60)):
                wk.write(os.path.join(self.root, "f%d" % random.randrange(200)),
                         os.urandom(random.randrange(3000)))
        return large

    def try_save(self):
        """The name for a save of what is there now."""
        name = "s%d" % self.count
        self.tried[name] = wk.tree(self.root)
        return name

    def acknowledge(self, name):
        self.acknowledged.append(name)
        self.figures["acknowledged"] += 1

    def listed(self):
        return [s["name"] for s in wk.wk("-r", self.repo, "--json", "list", "--all").json["snapshots"]
                if s["name"]]

    def check(self, every=False):
        names = self.listed()
        assert len(names) == len(set(names)), names
        for name in self.acknowledged:
            assert name in names, "the acknowledged snapshot %s is lost" % name
        more = [n for n in names if n not in self.checked and n not in self.acknowledged]
        self.figures["whole though not acknowledged"] += len(more)
        for name in names if every else [*self.acknowledged[-2:], *more]:
            wk.same(self.tried[name], wk.restored(self.repo, name, self.scratch), name)
            self.figures["restored"] += 1
        self.checked.update(names)
        r = wk.wk("-r", self.repo, "--json", "verify", code=None)
        assert r.code == 0 and r.summary["errors"] == 0, "verify: %r" % r


def acknowledged(code, out):
    return code == 0 and b'"summary"' in out and b'"exit":0' in out.replace(b" ", b"")


class Saver:
    """Saves by `watchkeep save`, without a service."""

    def __init__(self, keep):
        self.keep = keep
        self.took = {}

    def power_on(self):
        pass

    def power_off(self):
        pass

    def command(self, name):
        return [wk.BIN, "-r", self.keep.repo, "--json", "save", self.keep.root, "--name", name]

    def start(self):
        large, name = self.keep.change(), self.keep.try_save()
        p = subprocess.Popen(self.command(name), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, env=wk.environment())
        return large, name, p

    def save(self):
        large, name, p = self.start()
        begun = time.monotonic()
        out, err = p.communicate(timeout=wk.PATIENCE)
        assert acknowledged(p.returncode, out), "save failed: %r %r" % (out, err)
        self.keep.acknowledge(name)
        self.took[large] = (self.took.get(large, time.monotonic() - begun) * 3
                            + time.monotonic() - begun) / 4

    def cut(self, image):
        """During a save, or as soon as it is acknowledged."""
        large, name, p = self.start()
        if random.random() < 0.25:
            out = p.stdout.readline()
            early = acknowledged(0, out)
        else:
            time.sleep(random.random() * self.took.get(large, 0.05) * 1.2)
            early = p.poll() is not None
            out = b""
        image.cut()
        if random.random() < 0.5:
            p.kill()
        rest, _ = p.communicate(timeout=wk.PATIENCE)
        # Where the file system fails from the cut on, a flush that came through was before it.
        if early or (image.fails_at_cut and p.returncode == 0):
            assert acknowledged(0, out + rest), (out, rest)
            self.keep.acknowledge(name)


class ServiceSaver(Saver):
    """Saves by the service: on command, and by itself when something changes."""

    def __init__(self, keep):
        super().__init__(keep)
        self.service = wk.Service(keep.scratch, {"data": {"path": keep.root, "settle": "1ms"}},
                                  repo=keep.repo, start=False)

    def command(self, name):
        return [wk.BIN, "-c", self.service.conf, "--json", "save", "data", "--name", name]

    def power_on(self):
        self.service.start(init=False)

    def power_off(self):
        self.service.kill()

    def cut(self, image):
        how = random.random()
        if how < 0.3:
            end = time.monotonic() + random.random() * 0.2
            while time.monotonic() < end:
                self.keep.change()
                time.sleep(random.random() * 0.05)
            image.cut()
        else:
            super().cut(image)
        if how < 0.6 and image.fails_at_cut:
            self.keep.change()
            r = self.service.cli("--json", "save", "data", "--name", "after-the-cut", code=None)
            assert r.code not in (0, 3), "saved on a dead file system: %r" % r


def series(scratch, kind, saver_of, cuts, figures):
    folder = os.path.join(scratch, "%s-%s-%d" % (kind.__name__, saver_of.__name__, len(figures)))
    os.mkdir(folder)
    image = kind(folder)
    saver = None
    try:
        image.mount()
        keep = Keep(folder, os.path.join(image.at, "repo"))
        figures.append(keep.figures)
        wk.wk("-r", keep.repo, "init")
        saver = saver_of(keep)
        for i in range(cuts):
            neighbour = None
            if i == 0:
                image.cut()  # as soon as the repository is there
            else:
                saver.power_on()
                for _ in range(random.randrange(3) + (i == 1)):
                    saver.save()
                if random.random() < 0.5:
                    neighbour = Neighbour(image, keep.repo)
                    neighbour.start()
                saver.cut(image)
                saver.power_off()
            if neighbour:
                neighbour.end()
            keep.figures["cuts"] += 1
            image.power_on()
            keep.check()
        saver.power_on()
        saver.save()
        saver.power_off()
        keep.check(every=True)
        wk.wk("-r", keep.repo, "rebuild")
        keep.check()
    finally:
        if saver and isinstance(saver, ServiceSaver) and saver.service.process:
            if saver.service.process.poll() is None:
                saver.power_off()
        image.close()
    wk.remove(folder)


def power_cuts(scratch, kind):
    figures = []
    begun = time.monotonic()
    try:
        for saver_of, share in ((Saver, CUTS - CUTS // 2), (ServiceSaver, CUTS // 2)):
            while share > 0:
                series(scratch, kind, saver_of, min(share, SERIES), figures)
                share -= SERIES
    except Missing as e:
        print("SKIP: %s: %s" % (kind.__name__.lower(), e))
        skipped.append(kind.__name__)
        return
    total = {k: sum(f[k] for f in figures) for k in figures[0]}
    print("%s: %s, %.0f s" % (kind.__name__.lower(),
                              ", ".join("%d %s" % (v, k) for k, v in total.items()),
                              time.monotonic() - begun))


def ext4(scratch):
    power_cuts(scratch, Ext4)


def xfs(scratch):
    power_cuts(scratch, Xfs)


def btrfs(scratch):
    power_cuts(scratch, Btrfs)


own_mounts()
try:
    wk.main(ext4, xfs, btrfs)
except SystemExit as e:
    if not e.code and skipped:
        wk.skip("not all of it: %s" % ", ".join(skipped))
    raise
