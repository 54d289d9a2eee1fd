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
import threading
import time

import wk

CUTS = int(os.environ.get("WK_CUTS", "16"))
SERIES = 50  # at most so many cuts in one repository
MIB = 1 << 20
SHUTDOWN, NO_FLUSH = 0x8004587d, 2
CLONE = 0x40049409

libc = ctypes.CDLL(None, use_errno=True)
skipped = []


def skip_part(name, why):
    print("SKIP: %s: %s" % (name, why))
    skipped.append(name)


class Broken(Exception):
    """A command of the system failed."""


class Missing(Exception):
    """What this machine lacks for a part of the test."""


def own_mounts():
    wk.need_root()
    if libc.unshare(0x20000) != 0:
        wk.skip("no mount namespace of our own: %s" % os.strerror(ctypes.get_errno()))
    try:
        run("mount", "--make-rprivate", "/")
    except Broken as e:
        wk.skip(str(e))


def run(*command):
    r = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if r.returncode:
        raise Broken("%s: %s" % (" ".join(command), r.stdout.decode(errors="replace").strip()))


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
            raise Broken("no %s" % self.mkfs[0])
        with open(self.file, "wb") as f:
            f.truncate(self.size)
        run(*self.mkfs, self.file)

    def mount(self):
        run("mount", "-o", ",".join(filter(None, ["loop", self.option])), self.file, self.at)
        self.mounted = True

    def device(self):
        with open("/proc/self/mounts") as mounts:
            return [line.split()[0] for line in mounts if line.split()[1] == self.at][-1]

    def unmount(self):
        if self.mounted:
            unmount(self.at)
        self.mounted = False

    def close(self):
        self.unmount()

    def keep(self, folder):
        """For whoever looks into a failure."""
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
        device = self.device() if self.mounted else None
        super().unmount()
        if device:
            run("btrfs", "device", "scan", "--forget", device)

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
            start = random.randrange(max(0, size - 4 * MIB), size + 1)
            length = random.choice([4096, 65536, MIB])
            libc.sync_file_range(fd, ctypes.c_int64(start), ctypes.c_int64(length), 7)
        finally:
            os.close(fd)

    def end(self):
        self.ended.set()
        if self.is_alive():
            self.join()


# ---- a repository, and what must be in it ----

class Keep:
    """The watched folder and what is restored lie in memory: their flushes would only take time."""

    def __init__(self, scratch, repo):
        self.repo = repo
        self.memory = os.path.join(scratch, "memory")
        os.mkdir(self.memory)
        run("mount", "-t", "tmpfs", "none", self.memory)
        self.root = os.path.join(self.memory, "data")
        self.tried, self.acknowledged = {}, []  # trees by name; names
        self.checked = set()
        self.figures = {k: 0 for k in ("cuts", "during a save", "acknowledged", "restored",
                                       "whole though not acknowledged")}
        self.count = 0
        os.mkdir(self.root)

    def close(self):
        unmount(self.memory)

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
            wk.same(self.tried[name], wk.restored(self.repo, name, self.memory), name)
            self.figures["restored"] += 1
        self.checked.update(names)
        r = wk.wk("-r", self.repo, "--json", "verify", code=None)
        assert r.code == 0 and r.summary["errors"] == 0, "verify: %r" % r


def acknowledged(out):
    return b'"summary"' in out and b'"exit":0' in out.replace(b" ", b"")


class Saver:
    """Saves by `watchkeep save`, without a service."""

    def __init__(self, scratch, keep):
        self.keep = keep
        self.took = {}  # seconds, for small and large saves

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

    def attempt(self):
        """Exit code and errors of a save that goes on to its end."""
        large, name, p = self.start()
        begun = time.monotonic()
        out, err = p.communicate(timeout=wk.PATIENCE)
        if p.returncode == 0:
            assert acknowledged(out), out
            self.keep.acknowledge(name)
            took = time.monotonic() - begun
            self.took[large] = (3 * self.took.get(large, took) + took) / 4
        return p.returncode, err.decode(errors="replace")

    def save(self):
        code, err = self.attempt()
        assert code == 0, "save failed: exit %d, %s" % (code, err)

    def cut(self, image):
        """During a save, or as soon as it is acknowledged. What is said after the cut counts for
        nothing: an fsync that a shutdown interrupts may return 0, on ext4 and on xfs."""
        large, name, p = self.start()
        out = b""
        if random.random() < 0.25:
            out = p.stdout.readline()
        else:
            time.sleep(random.random() * self.took.get(large, 0.05) * 1.2)
            if p.poll() is not None:
                out = p.stdout.read()
        image.cut()
        if random.random() < 0.5:
            p.kill()
        p.communicate(timeout=wk.PATIENCE)
        if acknowledged(out):
            self.keep.acknowledge(name)
        else:
            self.keep.figures["during a save"] += 1


class ServiceSaver(Saver):
    """Saves by the service: on command, and by itself when something changes."""

    def __init__(self, scratch, keep):
        super().__init__(scratch, keep)
        self.service = wk.Service(scratch, {"data": {"path": keep.root, "settle": "1ms"}},
                                  repo=keep.repo, start=False)

    def command(self, name):
        return [wk.BIN, "-c", self.service.conf, "--json", "save", "data", "--name", name]

    def power_on(self):
        self.service.start(init=False)

    def power_off(self):
        if self.service.process and self.service.process.poll() is None:
            self.service.kill()

    def cut(self, image):
        how = random.random()
        if how < 0.3:
            end = time.monotonic() + random.random() * 0.2
            while time.monotonic() < end:
                self.keep.change()
                time.sleep(random.random() * 0.05)
            image.cut()
            self.keep.figures["during a save"] += 1
        else:
            super().cut(image)
        if how < 0.6 and image.fails_at_cut:
            self.keep.change()
            r = self.service.cli("--json", "save", "data", "--name", "after-the-cut", code=None)
            assert r.code not in (0, 3), "saved on a dead file system: %r" % r


class Bed:
    """A file system with a repository, and somebody who saves to it; all gone afterwards."""

    def __init__(self, folder, kind, saver_of):
        self.folder, self.kind, self.saver_of = folder, kind, saver_of
        self.image = self.keep = self.saver = None

    def __enter__(self):
        os.mkdir(self.folder)
        try:
            self.image = self.kind(self.folder)
            self.image.mount()
            self.keep = Keep(self.folder, os.path.join(self.image.at, "repo"))
            self.saver = self.saver_of(self.folder, self.keep)
            wk.wk("-r", self.keep.repo, "init")
        except (Broken, OSError) as e:
            self.close()
            raise Missing(str(e))
        except Exception:
            self.close()
            raise
        return self.image, self.keep, self.saver

    def __exit__(self, failure, *_):
        if failure:
            self.saver.power_off()
            self.image.keep(self.folder)
        self.close()
        if not failure:
            wk.remove(self.folder)

    def close(self):
        if self.saver:
            self.saver.power_off()
        if self.keep:
            self.keep.close()
        if self.image:
            self.image.close()


def series(folder, kind, saver_of, cuts):
    with Bed(folder, kind, saver_of) as (image, keep, saver):
        image.cut()  # as soon as the repository is there
        image.power_on()
        keep.check()
        for i in range(1, cuts):
            neighbour = Neighbour(image, keep.repo)
            saver.power_on()
            for _ in range(random.randrange(3) + (i == 1)):
                saver.save()
            if random.random() < 0.5:
                neighbour.start()
            saver.cut(image)
            saver.power_off()
            neighbour.end()
            image.power_on()
            keep.check()
        saver.power_on()
        saver.save()
        saver.power_off()
        keep.check(every=True)
        wk.wk("-r", keep.repo, "rebuild")
        keep.check()
        keep.figures["cuts"] = cuts
        return keep.figures


def power_cuts(scratch, kind):
    name, all_figures = kind.__name__.lower(), []
    begun = time.monotonic()
    try:
        for saver_of, share in ((Saver, CUTS - CUTS // 2), (ServiceSaver, CUTS // 2)):
            for done in range(0, share, SERIES):
                folder = os.path.join(scratch, "series%d" % len(all_figures))
                all_figures.append(series(folder, kind, saver_of, min(share - done, SERIES)))
    except Missing as e:
        skip_part(name, e)
        return
    figures = ["%d %s" % (sum(f[k] for f in all_figures), k) for k in all_figures[0]]
    print("%s: %s; %.0f s" % (name, ", ".join(figures), time.monotonic() - begun))


def ext4(scratch):
    power_cuts(scratch, Ext4)


def xfs(scratch):
    power_cuts(scratch, Xfs)


def btrfs(scratch):
    power_cuts(scratch, Btrfs)


def holes(scratch):
    """What a cut seldom leaves: pages behind a hole reached the disk, and no commit did. That is
    no damage, with or without a catalog."""
    for name, size, torn_off in (("1-data-0000000000000002.wkp", 6 * MIB, 0),
                                 ("0-log-0000000000000001.wkp", 500000, 100)):
        root, before, after = (os.path.join(scratch, n) for n in ("data", "before", "after"))
        os.mkdir(root)
        wk.write(os.path.join(root, "a"), os.urandom(2 * MIB))
        wk.wk("-r", after, "init")
        wk.wk("-r", after, "save", root, "--name", "first")
        first = wk.tree(root)
        shutil.copytree(after, before)
        wk.write(os.path.join(root, "b"), os.urandom(size))
        wk.wk("-r", after, "save", root, "--name", "second")
        end = os.path.getsize(os.path.join(before, "packs", name))
        pack = bytearray(wk.packs(after)[name])
        pack[end + 100:end + 100 + 50000] = bytes(50000)
        wk.write(os.path.join(before, "packs", name), pack[:len(pack) - torn_off])
        for repo in (before, before + "-bare"):
            if repo == before:
                shutil.copytree(before, before + "-bare")
                os.remove(os.path.join(before + "-bare", "catalog.db"))
            wk.wk("-r", repo, "save", root, "--name", "third")
            wk.same(first, wk.restored(repo, "first", scratch), "first")
            wk.same(wk.tree(root), wk.restored(repo, "third", scratch), "third")
            r = wk.wk("-r", repo, "--json", "verify", code=None)
            assert r.code == 0 and r.summary["errors"] == 0, "verify: %r" % r
        for folder in (root, before, before + "-bare", after):
            wk.remove(folder)


# ---- a disk that loses what it was told to flush ----

class Shrunk(Ext4):
    """On a disk that can become too small: a sparse file in a little memory. Only data is lost:
    journal and tables lie at the beginning, which is allocated."""
    size = 256 * MIB
    mkfs = [*Ext4.mkfs, "-b", "4096", "-N", "1024", "-J", "size=4", "-E",
            "packed_meta_blocks=1,lazy_itable_init=0,lazy_journal_init=0"]

    def __init__(self, folder):
        self.disk = os.path.join(folder, "disk")
        os.mkdir(self.disk)
        run("mount", "-t", "tmpfs", "-o", "size=128m", "none", self.disk)
        try:
            super().__init__(folder, os.path.join(self.disk, "image"))
        except Exception:
            unmount(self.disk)
            raise
        with open(self.file, "r+b") as f:
            os.posix_fallocate(f.fileno(), 0, 6 * MIB)

    def mount(self):
        """A loop device takes a write of which only the first part has room for a success: let
        there be none of more than a page."""
        super().mount()
        wk.write("/sys/block/%s/queue/max_sectors_kb" % os.path.basename(self.device()), "4")

    def fill(self, left):
        with open(os.path.join(self.disk, "ballast"), "wb", buffering=0) as f:
            try:
                while True:
                    f.write(bytes(65536))
            except OSError as e:
                assert e.errno == errno.ENOSPC, e
            f.truncate(max(0, f.tell() - left))

    def gave_up(self):
        """A block of ext4's own was lost too (of a folder, or of a file in many pieces): it takes
        no more writes until it is mounted again, though not every kernel shows that in its flags."""
        try:
            fd = os.open(os.path.join(self.at, "probe"), os.O_CREAT | os.O_WRONLY)
        except OSError as e:
            return e.errno == errno.EROFS
        os.close(fd)
        return bool(os.statvfs(self.at).f_flag & os.ST_RDONLY)

    def make_room(self):
        os.remove(os.path.join(self.disk, "ballast"))

    def keep(self, folder):
        self.unmount()
        run("cp", "--sparse=always", self.file, folder)

    def close(self):
        super().close()
        unmount(self.disk)


def losing_flushes(folder, saver_of):
    failed = 0
    with Bed(folder, Shrunk, saver_of) as (image, keep, saver):
        saver.power_on()
        for i in range(6):
            saver.save()
            saver.save()
            image.fill(random.choice([0, 4096, 30000, 300000, 2 * MIB]))
            tries = []
            while len(tries) < 30 and len(tries) - tries.count(0) < 2:
                code, err = saver.attempt()
                tries.append(code)
                assert code == 0 or (code in (1, 13) and err) or image.gave_up(), \
                    "exit %d: %r" % (code, err)
            failed += len(tries) - tries.count(0)
            if isinstance(saver, ServiceSaver) and any(tries):
                problems = {p["code"] for p in saver.service.status()["problems"]}
                assert problems & {"save-failed", "no-space"}, problems
            image.make_room()
            code, err = saver.attempt()
            if code:
                assert image.gave_up(), "save failed: exit %d, %s" % (code, err)
                saver.power_off()
                image.power_on()
                keep.check()
                saver.power_on()
                saver.save()
            if isinstance(saver, ServiceSaver):
                wk.until(lambda: saver.service.status()["ok"], "status to be good again")
            if random.random() < 0.5:
                image.cut()
            saver.power_off()
            image.power_on()
            keep.check()
            saver.power_on()
        saver.save()
        saver.power_off()
        keep.check(every=True)
        print("failing flush, %s: %d acknowledged, %d failed" % (
            saver_of.__name__, keep.figures["acknowledged"], failed))
    assert failed > 3, "the disk was never too small"


def failing_flush(scratch):
    try:
        for saver_of in (Saver, ServiceSaver):
            losing_flushes(os.path.join(scratch, saver_of.__name__), saver_of)
    except Missing as e:
        skip_part("failing flush", e)


def main(*tests):
    own_mounts()
    try:
        wk.main(*tests)
    except SystemExit as e:
        if not e.code and skipped:
            wk.skip("not all of it: %s" % ", ".join(skipped))
        raise


if __name__ == "__main__":
    main(holes, failing_flush, ext4, xfs, btrfs)
