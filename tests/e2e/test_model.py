"""Random trees that change at random: each state that was saved comes back exactly, by whichever way
it was found. WK_ROUNDS=N makes it longer."""
import ctypes
import errno
import os
import random
import shutil
import stat
import subprocess

import wk

ROUNDS = int(os.environ.get("WK_ROUNDS", "0")) or (8 if wk.SANITIZED else 40)
NAMES = [b"a", b"b", b"c", b"d", b"new\nline", b"not \xff\xfe utf-8", b"-rf", b"n" * 255, b"x.db",
         b"x.db-wal", "e\u0301".encode(), "\u00e9".encode(), b" ", b"..."]
CONTENT = [b"", b"x", b"\0" * 5000, bytes(range(256)) * 300, b"SQLite format 3\0" + b"z" * 3000]
EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


class Tree:
    """A folder that is changed at random, through descriptors, so that no path is too long."""

    def __init__(self, root, events):
        self.root = root
        # A change through a name that came and went since the last save is known to nobody but the
        # inode: events cannot tell, the timed rescan does.
        self.events = events
        self.linked = set()
        self.mounts = []
        self.log = []

    def folders(self):
        """Some folder as a list of names."""
        way = []
        fd = os.open(self.root, os.O_RDONLY)
        try:
            while random.random() < 0.75:
                inner = [n for n in sorted(os.listdir(fd)) if stat.S_ISDIR(
                    os.stat(n, dir_fd=fd, follow_symlinks=False).st_mode)]
                if not inner:
                    break
                name = os.fsencode(random.choice(inner))
                below = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = below
                way.append(name)
            return way, os.dup(fd)
        finally:
            os.close(fd)

    def some(self, fd):
        """A name in a folder, there or not."""
        there = sorted(os.fsencode(n) for n in os.listdir(fd))
        if there and random.random() < 0.6:
            return random.choice(there)
        return random.choice(NAMES)

    def drop(self, fd, name):
        try:
            if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                shutil.rmtree(name, dir_fd=fd)
            else:
                os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            pass

    def told(self, fd, name):
        try:
            return not (self.events and os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
                        in self.linked)
        except FileNotFoundError:
            return True

    def write(self, fd, name):
        if not self.told(fd, name):
            return
        flags = random.choice([os.O_TRUNC, os.O_APPEND, 0])
        f = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o644,
                    dir_fd=fd)
        try:
            if random.random() < 0.2:
                os.lseek(f, random.randrange(1 << 22), os.SEEK_SET)
            if random.random() < 0.15:
                os.ftruncate(f, random.choice([0, 100, 70000, 1 << 20, 1 << 33]))
            else:
                os.write(f, random.choice(CONTENT) + b"%d" % random.randrange(5))
        finally:
            os.close(f)

    def replace(self, fd, name):
        self.write(fd, b".tmp")
        os.rename(b".tmp", name, src_dir_fd=fd, dst_dir_fd=fd)

    def folder(self, fd, name):
        os.mkdir(name, dir_fd=fd)

    def type_change(self, fd, name):
        self.drop(fd, name)
        make = random.choice([self.write, self.folder, self.symlink, self.fifo])
        make(fd, name)

    def symlink(self, fd, name):
        os.symlink(random.choice([b".", b"..", b"a", b"/etc/passwd", name, b"t" * 3000]), name,
                   dir_fd=fd)

    def fifo(self, fd, name):
        os.mkfifo(name, dir_fd=fd)

    def remove(self, fd, name):
        self.drop(fd, name)

    def move(self, fd, name):
        to = self.folders()[1]
        try:
            os.rename(name, self.some(to), src_dir_fd=fd, dst_dir_fd=to)
        finally:
            os.close(to)

    def exchange(self, fd, name):
        to = self.folders()[1]
        try:
            _libc.renameat2(fd, name, to, self.some(to), EXCHANGE)
        finally:
            os.close(to)

    def link(self, fd, name):
        to = self.folders()[1]
        try:
            for _ in range(random.choice([1, 1, 1, 5])):
                other = random.choice(NAMES)
                if random.random() < 0.3:
                    self.drop(to, other)
                self.linked.add(os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino)
                os.link(name, other, src_dir_fd=fd, dst_dir_fd=to, follow_symlinks=False)
        finally:
            os.close(to)

    def metadata(self, fd, name):
        st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISLNK(st.st_mode) or not self.told(fd, name):
            return
        k = random.randrange(4)
        if k == 0:
            os.chmod(name, random.choice([0o600, 0o644, 0o755, 0o4755]) |
                     (0o700 if stat.S_ISDIR(st.st_mode) else 0o400), dir_fd=fd)
        elif k == 1:
            t = random.randrange(10**18)
            os.utime(name, ns=(t, t), dir_fd=fd)
        elif k == 2 and os.geteuid() == 0:
            os.chown(name, random.randrange(3), random.randrange(3), dir_fd=fd)
        elif not stat.S_ISFIFO(st.st_mode):
            f = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
            try:
                os.setxattr(f, b"user.a%d" % random.randrange(3), os.urandom(random.randrange(50)))
            finally:
                os.close(f)

    def deep(self, fd, name):
        """Longer than PATH_MAX."""
        if random.random() < 0.7:
            return
        fd = os.dup(fd)
        try:
            for i in range(22):
                long = name[:1] * 200 + b"%d" % i
                os.mkdir(long, dir_fd=fd)
                inner = os.open(long, os.O_RDONLY, dir_fd=fd)
                os.close(fd)
                fd = inner
            self.write(fd, b"bottom")
        finally:
            os.close(fd)

    def copy(self, fd, name):
        """A folder and its copy change places."""
        path = b"/proc/self/fd/%d/%s" % (fd, name)
        other = random.choice(NAMES) + b"2"
        if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            subprocess.run(["cp", "-a", "--", path, b"/proc/self/fd/%d/%s" % (fd, other)],
                           pass_fds=[fd], stderr=subprocess.DEVNULL)
            if random.random() < 0.5:
                self.drop(fd, name)
                os.rename(other, name, src_dir_fd=fd, dst_dir_fd=fd)

    def bind(self, fd, name):
        """The same folder by two names."""
        if self.events or os.geteuid() != 0 or self.mounts or random.random() < 0.9:
            return  # an event tells one of the names
        a, b = os.path.join(self.root, "bound"), os.path.join(self.root, "here")
        for x in (a, b):
            self.drop_top(x)
            os.mkdir(x)
        wk.write(os.path.join(a, "f"), "bound")
        if subprocess.run(["mount", "--bind", a, b]).returncode == 0:
            self.mounts.append(b)

    def drop_top(self, path):
        fd = os.open(self.root, os.O_RDONLY)
        try:
            self.drop(fd, os.fsencode(os.path.basename(path)))
        finally:
            os.close(fd)

    def unmount(self):
        while self.mounts:
            subprocess.run(["umount", "-l", self.mounts.pop()], check=True)

    def change(self):
        if self.mounts and random.random() < 0.1:
            self.unmount()
        op = random.choice([self.write, self.write, self.replace, self.folder, self.folder,
                            self.type_change, self.type_change, self.symlink, self.fifo,
                            self.remove, self.remove, self.move, self.move, self.move,
                            self.exchange, self.exchange, self.link, self.link, self.link,
                            self.metadata, self.metadata, self.deep, self.copy, self.bind])
        try:
            way, fd = self.folders()
        except OSError:
            return
        try:
            name = self.some(fd)
            if self.mounts and not way and name in (b"bound", b"here"):
                self.unmount()  # a folder that is removed while it is mounted is nothing to save
            self.log.append((op.__name__, b"/".join(way)[-60:], name[:40]))
            op(fd, name)
        except OSError as e:
            assert e.errno not in (errno.ENOSPC, errno.EMFILE), e
        finally:
            os.close(fd)


def compare(scratch, repo, states, save, finish, events):
    root = os.path.join(scratch, "data")
    t = Tree(root, events)
    try:
        for i in range(ROUNDS):
            t.log = []
            t.linked.clear()
            for _ in range(random.choice([0, 1, 3, 10, 30])):
                t.change()
            name = "s%d" % i
            save("--name", name)
            states.append((name, wk.tree(root)))
            if len(states) > 30:
                states.pop(random.randrange(len(states) - 1))
            wk.same(states[-1][1], wk.restored(repo, name, scratch),
                    "round %d after %r" % (i, t.log))
            old, state = random.choice(states)
            wk.same(state, wk.restored(repo, old, scratch), "round %d, %s" % (i, old))
            if random.random() < 0.1:
                assert wk.wk("-r", repo, "--json", "verify", "--quick").summary["errors"] == 0
        finish()
        assert wk.wk("-r", repo, "--json", "verify").summary["errors"] == 0
        wk.wk("-r", repo, "rebuild")
        for name, state in states:
            wk.same(state, wk.restored(repo, name, scratch), "%s, rebuilt" % name)
    finally:
        t.unmount()


def by_hand(scratch):
    """Each save walks the whole tree."""
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    wk.wk("-r", repo, "init")

    def save(*args):
        wk.wk("-r", repo, "save", root, *args)
    compare(scratch, repo, [], save, lambda: None, False)


def through_the_service(scratch):
    """Each save looks at what was told by events, however they were cut into sets."""
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    s = wk.Service(scratch, {"data": {"path": root, "settle": random.choice(["1ms", "20ms"])}})

    def save(*args):
        assert s.save("data", *args)["gap"] is None
    compare(scratch, s.repo, [], save, s.stop, True)


wk.main(by_hand, through_the_service)
