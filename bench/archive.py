"""archive.py - an archive of a snapshot beside tar piped into pigz -6, both flushed.

The save is not in the time: tar has none to make. `archive` of a folder in which nothing changed
looks at it, writes, flushes and names the archive, then reads it back from the disk and compares.
"archive, written" ends before that reading: what tar and pigz do. Both archives are unpacked by stock
tar and compared with the source.
"""
import json
import os
import shutil
import subprocess

import tools


class Ours:
    name = "watchkeep"

    def __init__(self, place, source):
        self.repo, self.source = os.path.join(place, "repo"), source
        self.run("init")
        self.run("save", "w1=" + source)

    def run(self, *args):
        env = dict(os.environ, WATCHKEEP_CONFIG="/dev/null")
        out = open(os.path.join(os.path.dirname(self.repo), "out"), "w+b")
        cost = tools.run([tools.Watchkeep.program, "-r", self.repo, "--json", *args], env=env, stdout=out)
        out.seek(0)
        lines = [json.loads(line) for line in out.read().splitlines()]
        out.close()
        return cost, lines

    def archive(self):
        cost, lines = self.run("archive", "w1")
        item = lines[0]
        if not item["verified"]:
            raise tools.Failed("the archive was not verified: %r" % item)
        return cost, item["seconds"], item["path"], item["name"]


class TarPigz:
    name = "tar|pigz -6"

    def __init__(self, place, source):
        self.path, self.source = os.path.join(place, "a.tar.gz"), source

    def archive(self):
        parent, folder = os.path.split(self.source)
        with open(self.path, "wb") as f:
            cost = tools.run(["tar", "-C", parent, "-cf", "-", folder], ["pigz", "-6"], stdout=f)
            cost.seconds += tools.timed(lambda: os.fsync(f.fileno()))
        return cost, cost.seconds, self.path, folder


def measure(base, source, rounds, results, check_equal):
    rigs = []
    for kind in (Ours, TarPigz):
        place = os.path.join(base, kind.__name__)
        os.makedirs(place)
        rigs.append(kind(place, source))
    for i in range(rounds):
        for rig in rigs if i % 2 == 0 else rigs[::-1]:
            cost, written, path, top = rig.archive()
            results.add("W1", "archive, written", rig.name, round(written, 4), round=i)
            results.add("W1", "archive, all of it", rig.name, round(cost.seconds, 4), round=i)
            results.add("W1", "archive, bytes", rig.name, os.path.getsize(path), unit="B", round=i)
            results.add("W1", "archive, memory", rig.name, round(cost.rss / 1024, 1), unit="MB", round=i)
            if i == 0:
                to = os.path.join(base, "unpacked")
                os.mkdir(to)
                subprocess.run(["tar", "-C", to, "-xpzf", path], check=True)
                where = os.path.join(to, top)
                if rig.name == "watchkeep":
                    os.unlink(os.path.join(where, "metadata.json"))
                check_equal(source, where, rig.name, "W1")
                shutil.rmtree(to)
