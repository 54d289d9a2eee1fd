"""A disk that is full: what fails says so and leaves nothing behind, the rest works, and what makes
room works at the last byte."""
import ctypes
import os
import signal
import subprocess
import time

import wk

MIB = 1 << 20


class Disk:
    """A small file system with a repository on it."""

    def __init__(self, scratch, size):
        wk.need_root()
        self.at = os.path.join(scratch, "mnt")
        os.mkdir(self.at)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%d" % size, "none", self.at]).returncode:
            wk.skip("cannot mount a tmpfs here")
        self.repo = os.path.join(self.at, "repo")
        self.ballast = os.path.join(self.at, "ballast")

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        subprocess.run(["umount", self.at] + ["-l"] * (failure is not None), check=True)

    def free(self):
        st = os.statvfs(self.at)
        return st.f_bavail * st.f_frsize

    def fill(self):
        """To the last byte."""
        with open(self.ballast, "wb", buffering=0) as f:
            for size in (65536, 4096):
                try:
                    while True:
                        f.write(bytes(size))
                except OSError:
                    pass
        assert self.free() == 0, self.free()

    def files(self):
        return sorted(os.path.relpath(os.path.join(d, n), self.repo)
                      for d, _, names in os.walk(self.repo) for n in names)


def data(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    for i in range(60):
        wk.write(os.path.join(root, "file%d" % i), os.urandom(3000))
    return root


def reads(disk, name, state, scratch):
    names = [x["name"] for x in wk.wk("-r", disk.repo, "--json", "list").json["snapshots"]]
    assert name in names, names
    wk.same(state, wk.restored(disk.repo, name, scratch), name)
    r = wk.wk("-r", disk.repo, "--json", "verify")
    assert r.summary["errors"] == 0, r


def too_big_a_save(scratch):
    """What a save left that did not fit is given back: the next one fits as before."""
    root = data(scratch)
    with Disk(scratch, 24 * MIB) as disk:
        wk.wk("-r", disk.repo, "init")
        wk.wk("-r", disk.repo, "save", root, "--name", "before")
        before, state = disk.free(), wk.tree(root)
        files, last = disk.files(), "before"
        for i in range(3):
            wk.write(os.path.join(root, "big"), os.urandom(40 * MIB))
            r = wk.wk("-r", disk.repo, "--json", "save", root, "--name", "toobig", code=13)
            assert r.err, r
            assert disk.free() > before - MIB, (before, disk.free(), disk.files())
            reads(disk, last, state, scratch)
            os.remove(os.path.join(root, "big"))
            wk.write(os.path.join(root, "more%d" % i), os.urandom(MIB))
            last = "after%d" % i
            wk.wk("-r", disk.repo, "save", root, "--name", last)
            state = wk.tree(root)
            reads(disk, last, state, scratch)
            before = disk.free()
            wk.wk("-r", disk.repo, "rebuild")
            reads(disk, last, state, scratch)
        left = set(disk.files()) - set(files)
        assert all(n.startswith("packs/") for n in left), left


def killed_while_full(scratch):
    """The same when the save was killed and gave nothing back itself."""
    root = data(scratch)
    with Disk(scratch, 24 * MIB) as disk:
        wk.wk("-r", disk.repo, "init")
        wk.wk("-r", disk.repo, "save", root, "--name", "before")
        state = wk.tree(root)
        wk.write(os.path.join(root, "big"), os.urandom(40 * MIB))

        def killed_with_all_it_wrote():
            """Not after it has found the disk full and given all back."""
            p = subprocess.Popen([wk.BIN, "-r", disk.repo, "save", root], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                 env=wk.environment())
            wk.until(lambda: disk.free() <= 8 * MIB or p.poll() is not None, "a disk nearly full",
                     pace=0)
            p.send_signal(signal.SIGKILL)
            return p.wait() == -signal.SIGKILL and disk.free() <= 8 * MIB
        wk.until(killed_with_all_it_wrote, "a kill while the disk is nearly full")
        os.remove(os.path.join(root, "big"))
        wk.write(disk.ballast, bytes(max(0, disk.free() - 128 * 1024)))
        wk.write(os.path.join(root, "more"), os.urandom(2 * MIB))
        wk.wk("-r", disk.repo, "save", root, "--name", "after")
        reads(disk, "before", state, scratch)
        reads(disk, "after", wk.tree(root), scratch)


def last_byte(scratch):
    """The reserve: not for saves, but the catalog can be made anew when nothing is free."""
    root = data(scratch)
    with Disk(scratch, 24 * MIB) as disk:
        wk.wk("-r", disk.repo, "init")
        wk.wk("-r", disk.repo, "save", root, "--name", "before")
        reserve = os.path.join(disk.repo, "reserve")
        assert os.path.getsize(reserve) == 24 * MIB // 64
        assert os.stat(reserve).st_blocks * 512 >= 24 * MIB // 64, "it holds no space"
        state = wk.tree(root)
        disk.fill()
        wk.write(os.path.join(root, "more"), os.urandom(100000))
        r = wk.wk("-r", disk.repo, "save", root, code=13)
        assert "min_free" in r.err and "dropped" not in r.err, r  # there was nothing that may go
        assert os.path.exists(reserve), "a save took the reserve"
        reads(disk, "before", state, scratch)
        wk.wk("-r", disk.repo, "rebuild")
        reads(disk, "before", state, scratch)
        os.remove(disk.ballast)
        wk.wk("-r", disk.repo, "save", root, "--name", "after")
        assert os.path.getsize(reserve) == 24 * MIB // 64, "it was not made again"
        reads(disk, "after", wk.tree(root), scratch)


class Opens:
    """How often a file is opened, as the kernel counts."""

    IN_OPEN, EVENT = 0x20, 16

    def __init__(self, path):
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert libc.inotify_add_watch(self.fd, os.fsencode(path), self.IN_OPEN) >= 0, ctypes.get_errno()
        self.seen = 0

    def close(self):
        os.close(self.fd)

    def count(self):
        """Equal events that nobody has read yet are one: to be asked often."""
        try:
            self.seen += len(os.read(self.fd, 65536)) // self.EVENT
        except BlockingIOError:
            pass
        return self.seen


def asleep(pid):
    """No thread of it runs, waits for its turn or for a disk; nor did one end just now."""
    folder = "/proc/%d/task" % pid
    try:
        return all(open(os.path.join(folder, t, "stat")).read().rsplit(")", 1)[1].split()[0] == "S"
                   for t in os.listdir(folder))
    except OSError:
        return False


def rests_between_tries(scratch):
    """A save that is larger than all the room there can be: the snapshots that may go make room,
    each for another try; then it is tried after ever longer rests, however much was made before."""
    snapshots, rests, jump = 5, 4, 10
    root = data(scratch)
    clock = wk.Clock(scratch)
    with Disk(scratch, 100 * MIB) as disk:
        s = wk.Service(scratch, {"data": {"path": root, "settle": "1ms"}}, repo=disk.repo,
                       service={"min_free": "20%"})
        for _ in range(snapshots):
            wk.write(os.path.join(root, "f"), os.urandom(2 * MIB))
            s.save("data")
        wk.write(disk.ballast, bytes(disk.free() - 22 * MIB))  # within the quarter that is made anew
        before = [x["id"] for x in s.snapshots()]
        big = os.path.join(scratch, "big")
        wk.write(big, os.urandom(60 * MIB))
        opens = Opens(big)
        began = time.monotonic()
        passed = tries = quiet = 0

        def tried_enough():
            """Whenever all of it has slept for a while the clock goes on."""
            nonlocal passed, tries, quiet
            tries, last = opens.count(), tries
            quiet = quiet + 1 if asleep(s.pid()) and tries == last else 0
            if quiet == 20:
                clock.wait(jump)
                passed += jump
                quiet = 0
            return tries >= len(before) - 3 + 2 + rests  # three stay; what was dead already makes room once

        os.rename(big, os.path.join(root, "big"))
        wk.until(tried_enough, "its tries", patience=5 * wk.PATIENCE, pace=0.005)
        passed += time.monotonic() - began
        opens.close()
        assert passed >= sum(2 ** i for i in range(rests)), (tries, passed)
        left = [x["id"] for x in s.snapshots()]
        assert set(left) < set(before) and left[-1] == before[-1] and len(left) >= 3, (before, left)
        s.kill()


def the_service_goes_on(scratch):
    root = data(scratch)
    with Disk(scratch, 24 * MIB) as disk:
        s = wk.Service(scratch, {"data": {"path": root, "settle": "1ms"}}, repo=disk.repo)
        s.save("data", "--name", "before")
        state = wk.tree(root)
        wk.write(os.path.join(root, "big"), os.urandom(40 * MIB))
        wk.until(lambda: not s.status()["ok"], "status to tell of the failure")
        reads(disk, "before", state, scratch)
        os.remove(os.path.join(root, "big"))
        wk.write(os.path.join(root, "more"), os.urandom(MIB))
        wk.until(lambda: s.status()["ok"], "saves to go on by themselves")
        s.save("data", "--name", "after")
        reads(disk, "after", wk.tree(root), scratch)
        s.stop()


wk.main(too_big_a_save, killed_while_full, last_byte, the_service_goes_on, rests_between_tries)
