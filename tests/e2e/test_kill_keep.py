"""kill -9 of archive, prune, restore --in-place and undo at random moments. WK_KILLS=N: N of each."""
import os
import subprocess
import tempfile

import keeping
import wk

KILLS = int(os.environ.get("WK_KILLS", "6"))


def kill_it(command, seconds):
    p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL, env=wk.environment())
    try:
        out, _ = p.communicate(timeout=seconds)
        return p.returncode, out.decode()
    except subprocess.TimeoutExpired:
        p.kill()
        p.communicate()
        return None, ""


def killed(scratch):
    memory = tempfile.mkdtemp(dir="/dev/shm") if os.access("/dev/shm", os.W_OK) else scratch
    try:
        place, aside = os.path.join(memory, "place"), os.path.join(memory, "aside")
        os.mkdir(place)
        os.mkdir(aside)
        keep = keeping.Keeping(place, aside, kill_it)
        for _ in range(5):  # until the kills fell upon the work
            print(keep.rounds(KILLS))
            if sum(keep.broken.values()) > KILLS:
                break
        assert sum(keep.broken.values()) > KILLS, keep.broken
    finally:
        if memory != scratch:
            wk.remove(memory)


if __name__ == "__main__":
    wk.main(killed)
