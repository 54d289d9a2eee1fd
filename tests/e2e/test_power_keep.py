"""Power cuts while archives are written, snapshots pruned and packs compacted, and while a restore in
place or an undo is at work: see keeping.py for what must hold, test_power.py for how the power goes.

WK_CUTS=N makes about N cuts on each file system. Needs root."""
import os
import random
import subprocess

import keeping
import test_power as power
import wk

CUTS = int(os.environ.get("WK_CUTS", "8"))
SERIES = 40  # at most so many cuts in one repository


class Cut:
    """What is said after the cut counts for nothing."""

    def __init__(self, image, repo):
        self.image, self.repo = image, repo

    def __call__(self, command, seconds):
        neighbour = power.Neighbour(self.image, self.repo)
        if random.random() < 0.5:
            neighbour.start()
        p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, env=wk.environment())
        try:
            p.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        code = p.poll()
        self.image.cut()
        if code is None and random.random() < 0.5:
            p.kill()
        out, _ = p.communicate(timeout=wk.PATIENCE)
        neighbour.end()
        self.image.power_on()
        return code, out.decode() if code is not None else ""


def series(folder, kind, cuts):
    os.mkdir(folder)
    memory, image = os.path.join(folder, "memory"), None
    os.mkdir(memory)
    try:
        image = kind(folder)
        image.mount()
        power.run("mount", "-t", "tmpfs", "none", memory)
    except (power.Broken, OSError) as e:
        if image:
            image.close()
        raise power.Missing(str(e))
    place = os.path.join(image.at, "place")
    os.mkdir(place)
    try:
        keep = keeping.Keeping(place, memory, Cut(image, os.path.join(place, "repo")))
        told = keep.rounds(max(1, cuts // 4))
    except Exception:
        image.keep(folder)
        raise
    finally:
        power.unmount(memory)
        image.close()
    print("%s: %s" % (kind.__name__.lower(), told))
    wk.remove(folder)


def cuts(scratch, kind):
    try:
        for done in range(0, CUTS, SERIES):
            series(os.path.join(scratch, "series%d" % done), kind, min(CUTS - done, SERIES))
    except power.Missing as e:
        power.skip_part(kind.__name__.lower(), e)


def ext4(scratch):
    cuts(scratch, power.Ext4)


def xfs(scratch):
    cuts(scratch, power.Xfs)


def btrfs(scratch):
    cuts(scratch, power.Btrfs)


if __name__ == "__main__":
    power.main(ext4, xfs, btrfs)
