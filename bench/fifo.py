"""fifo.py - a repository of which a snapshot comes and one goes every day: how much compaction rewrites.

A tree of W1's shape is saved once a day and 30 snapshots are kept, so that from day 31 on each prune
drops the oldest. Each day some of the files change: of eight, four grow, two are written anew, one
goes and one comes. The days pass by libfaketime (Debian: apt install faketime) around each command,
because an emptied pack stays for a day and a pack ends when it is a day old. Bytes moved are what
the store's compaction itself counts: `bytes_moved` of prune, and of the upkeep that a save may end
with (`-vv`). At the end every snapshot is verified and the newest one is restored and compared.
"""
import json
import os
import random
import re
import shutil
import statistics
import subprocess

import tools
import workload

KEPT = 30
POOL = 8 << 20


def faketime():
    if not shutil.which("faketime"):
        raise SystemExit("fifo: days must pass and 'faketime' is not here: apt install faketime")


def churn(source, percent, rng, pool):
    """Change `percent` of the files."""
    files = workload.files_of(source)
    chosen = rng.sample(files, max(1, round(len(files) * percent / 100)))
    for i, path in enumerate(chosen):
        what = i % 8
        if what < 4:
            with open(path, "ab") as f:
                f.write(b"\n// changed %d\n" % rng.getrandbits(32))
        elif what < 6:
            size = max(64, os.path.getsize(path))
            parts = []
            while sum(map(len, parts)) < size:
                at = rng.randrange(len(pool) - 3000)
                parts.append(pool[at:at + rng.randint(200, 3000)])
            workload.write(path, b"".join(parts)[:size])
        elif what == 6:
            os.unlink(path)
        else:
            at = rng.randrange(len(pool) - 20000)
            name = "new%08x.txt" % rng.getrandbits(32)
            workload.write(os.path.join(os.path.dirname(path), name),
                           pool[at:at + rng.randint(200, 20000)])


class Repository:
    def __init__(self, place, source):
        self.path, self.source = os.path.join(place, "repo"), source
        self.conf = os.path.join(place, "fifo.conf")
        self.env = dict(os.environ, XDG_STATE_HOME=os.path.join(place, "state"))
        with open(self.conf, "w") as f:
            f.write("[retention]\nkeep_days = off\nkeep_daily = off\nkeep_monthly = off\n"
                    "keep_last = %d\n" % KEPT)

    def run(self, day, *args):
        """(JSON lines, what was told at -vv) of a command on that day."""
        r = subprocess.run(["faketime", "-f", "+%dd" % day, tools.Watchkeep.program, "-c", self.conf,
                            "-r", self.path, "--json", "-vv", *args],
                           env=self.env, capture_output=True, text=True)
        if r.returncode != 0:
            raise tools.Failed("%r on day %d: %d: %s" % (args, day, r.returncode, r.stderr[-500:]))
        return [json.loads(line) for line in r.stdout.splitlines()], r.stderr

    def day(self, n):
        lines, told = self.run(n, "save", "w1=" + self.source)
        moved = sum(int(m) for m in re.findall(r"bytes_moved=(\d+)", told))
        summary = self.run(n, "prune")[0][-1]
        return {"day": n, "stored": lines[-1]["bytes_stored"],
                "moved": moved + summary["bytes_moved"], "dropped": summary["dropped"],
                "bytes": summary["bytes_after"]}

    def check(self, day, base, check_equal):
        lines = self.run(day, "verify", "--full")[0]
        if lines[-1]["errors"] != 0 or lines[-1]["snapshots"] != KEPT:
            raise tools.Failed("verify: %r" % lines[-1])
        to = os.path.join(base, "restored")
        self.run(day, "restore", "latest", "--to", to)
        check_equal(self.source, to, "watchkeep", "fifo")


def measure(base, args, results, check_equal):
    faketime()
    source = os.path.join(base, "source")
    workload.make("W1", source, args.scale, args.seed, True)
    pool = workload.text_pool(random.Random(args.seed), POOL)
    repo = Repository(base, source)
    repo.run(0, "init")
    days = []
    for n in range(KEPT + args.days):
        if n > 0:
            churn(source, args.percent, random.Random("%d %d" % (args.seed, n)), pool)
        d = repo.day(n)
        if n < KEPT:
            continue
        if d["dropped"] != 1:
            raise tools.Failed("day %d: %d snapshots were dropped, not 1" % (n, d["dropped"]))
        days.append(d)
        results.add("fifo", "moved of the repository", "watchkeep",
                    round(100 * d["moved"] / d["bytes"], 4), unit="%", **d)
    repo.check(KEPT + args.days - 1, base, check_equal)
    share = [100 * d["moved"] / d["bytes"] for d in days]
    print("%d days with %d snapshots, %.1f %% of the files changed a day: compaction wrote anew %.2f %% of the"
          " repository a day on average, %.2f %% on the worst day; stored a day %.2f %%; the repository has"
          " %.1f MB, on the first of these days %.1f MB"
          % (len(days), KEPT, args.percent, statistics.mean(share), max(share),
             statistics.mean(100 * d["stored"] / d["bytes"] for d in days),
             days[-1]["bytes"] / 1e6, days[0]["bytes"] / 1e6))
