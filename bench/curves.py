#!/usr/bin/env python3
"""curves.py - how the cost of a save and of a look back grows with what is kept already.

    WK_BIN=build/release/watchkeep python3 bench/curves.py files --counts 1000,10000,100000,1000000
    WK_BIN=... python3 bench/curves.py snapshots --files 1000000 --upto 100000
    WK_BIN=... python3 bench/curves.py growth

files      one file replaced in a watch of N files, through the service: milliseconds until durable,
           and of processor time
snapshots  the same at 10, 100, ... snapshots in the repository, and then how long `list --recent`,
           `history` and `cat` of one file take over all of it
growth     bytes that the packs gain over 1 .. 1000 changes of one line of a 100 KB JSON file

Every point is a JSON line; with gnuplot installed each part also gives a PNG.
"""
import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True  # the tree stays as git has it
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import latency  # noqa: E402

PER_FOLDER = 1000
WINDOW = 100  # saves behind each point of a curve


# ---- trees ----

def file_path(top, i):
    return os.path.join(top, "%04d" % (i // PER_FOLDER), "%06d.json" % i)


def make_tree(top, count):
    """Small files, all different."""
    shutil.rmtree(top, ignore_errors=True)
    for i in range(count):
        if i % PER_FOLDER == 0:
            os.makedirs(os.path.join(top, "%04d" % (i // PER_FOLDER)))
        with open(file_path(top, i), "w") as f:
            f.write('{"id": %d, "state": "new"}' % i)


def packs_bytes(repo):
    folder = os.path.join(repo, "packs")
    return sum(os.path.getsize(os.path.join(folder, n)) for n in os.listdir(folder))


# ---- output ----

class Output:
    def __init__(self, path):
        self.path = path
        self.points = []

    def add(self, curve, x, what=None, **values):
        point = dict(curve=curve, x=x, **{k: round(v, 4) for k, v in values.items()})
        if what:
            point["what"] = what
        self.points.append(point)
        print(json.dumps(point), flush=True)
        if self.path:
            with open(self.path, "a") as f:
                f.write(json.dumps(point) + "\n")

    def plot(self, curve, values, x_label, y_label, folder, linear=False):
        """A PNG of the curve with a line for each of the values; needs gnuplot."""
        points = [p for p in self.points if p["curve"] == curve]
        if not shutil.which("gnuplot") or len(points) < 2:
            return
        os.makedirs(folder, exist_ok=True)
        data = "\n".join(" ".join(str(p[k]) for k in ("x", *values)) for p in points)
        script = "set terminal png size 800,500\nset output '%s'\nset xlabel '%s'\nset ylabel '%s'\n" \
                 "set yrange [0:*]\n%sset key left top\nset grid\n$d << end\n%s\nend\nplot %s\n" % (
                     os.path.join(folder, curve + ".png"), x_label, y_label,
                     "" if linear else "set logscale x\n", data,
                     ", ".join("$d using 1:%d with linespoints title '%s'" % (i + 2, v)
                               for i, v in enumerate(values)))
        subprocess.run(["gnuplot"], input=script.encode(), check=True)


# ---- saves through the service ----

class Saves:
    """A service over a tree of small files, and saves of one file after the other."""

    def __init__(self, args, place, source, count):
        self.args, self.source, self.count = args, source, count
        self.random = random.Random(args.seed)
        self.service = latency.Service(args.program, place, source, args.settle)
        self.repo = os.path.join(place, "repo")
        self.done = 0

    def __enter__(self):
        self.service.wait_ready()
        self.service.drain()
        self.wait_idle()
        return self

    def __exit__(self, *_):
        self.service.stop()

    def save(self):
        """Milliseconds from the rename to durable, less the settle time."""
        self.done += 1
        path = file_path(self.source, self.random.randrange(self.count))
        # As long as it was: one that is suddenly short would be told as spoilt with each save.
        body = b'{"change": %d}' % self.done
        start = latency.replace(path, body.ljust(os.path.getsize(path)))
        return (self.service.saved() - start) * 1000 - self.args.settle

    def cpu_ms(self):
        """Of the service so far; steadier than the clock on a busy machine."""
        with open("/proc/%d/stat" % self.service.process.pid) as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")

    def wait_idle(self):
        """The first save has its own work behind it: bringing the catalog's log back."""
        for _ in range(60):
            before = self.cpu_ms()
            time.sleep(3)
            if self.cpu_ms() - before < 50:
                return

    def point(self, saves=WINDOW):
        before = self.cpu_ms()
        ms = [self.save() for _ in range(saves)]
        return dict(p50=latency.percentile(ms, 50), p99=latency.percentile(ms, 99),
                    cpu=(self.cpu_ms() - before) / saves)


def curve_files(args, out):
    for count in args.counts:
        source, place = os.path.join(args.tree, "files"), os.path.join(args.work, "files")
        make_tree(source, count)
        with Saves(args, place, source, count) as saves:
            saves.point(20)
            out.add("files", count, rss_mb=saves.service.rss_kib() / 1024, **saves.point())
        shutil.rmtree(place)
        shutil.rmtree(source)
    out.plot("files", ("p50", "cpu"), "files in the watch", "ms until durable", args.plots)


def curve_snapshots(args, out):
    source, place = os.path.join(args.tree, "snapshots"), os.path.join(args.work, "snapshots")
    make_tree(source, args.files)
    with Saves(args, place, source, args.files) as saves:
        next_point = 10
        while saves.done < args.upto:
            window = min(WINDOW, next_point - saves.done)
            while saves.done < next_point - window:
                saves.save()
            out.add("snapshots", next_point, **saves.point(window))
            next_point *= 10
    queries(args, out, saves.repo, source, saves.done)
    if not args.keep:
        shutil.rmtree(place)
        shutil.rmtree(source)
    out.plot("snapshots", ("p50", "cpu"), "snapshots", "ms until durable", args.plots)


def queries(args, out, repo, source, last):
    """Over the whole repository, while no service runs: each one is a process of its own."""
    env = dict(os.environ, WATCHKEEP_CONFIG="/dev/null")
    path = os.path.relpath(file_path(source, args.files // 2), source)
    for name, command in (("list --recent 100", ["list", "--recent", "100"]),
                          ("history", ["history", path]),
                          ("cat, newest", ["cat", "latest:" + path]),
                          ("cat, middle", ["cat", "%d:%s" % (max(1, last // 2), path)]),
                          ("restore one file", ["restore", "latest:" + path, "--to"])):
        seconds = []
        for i in range(args.rounds):
            target = os.path.join(args.work, "restored")
            shutil.rmtree(target, ignore_errors=True)
            full = [args.program, "-r", repo, "-q", *command]
            start = time.perf_counter()
            subprocess.run(full + ([target] if command[-1] == "--to" else []), check=True, env=env,
                           stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - start)
        out.add("queries", last, name, ms=statistics.median(seconds) * 1000)


def curve_growth(args, out):
    source, place = os.path.join(args.tree, "growth"), os.path.join(args.work, "growth")
    shutil.rmtree(source, ignore_errors=True)
    os.makedirs(source)
    rng = random.Random(args.seed)
    doc = [{"id": i, "text": "%016x" % rng.getrandbits(64), "n": 0} for i in range(1800)]
    path = os.path.join(source, "state.json")
    latency.replace(path, json.dumps(doc).encode())
    service = latency.Service(args.program, place, source, args.settle)
    repo = os.path.join(place, "repo")
    try:
        service.wait_ready()
        service.drain()
        before, done = packs_bytes(repo), 0
        for upto in (1, 10, 30, 100, 300, 1000):
            while done < upto:
                doc[rng.randrange(len(doc))]["n"] += 1
                latency.replace(path, json.dumps(doc).encode())
                service.saved()
                done += 1
            added = packs_bytes(repo) - before
            out.add("growth", upto, bytes=added, bytes_each=added / upto)
    finally:
        service.stop()
    shutil.rmtree(place)
    shutil.rmtree(source)
    out.plot("growth", ("bytes",), "changes", "bytes added", args.plots, linear=True)


PARTS = {"files": curve_files, "snapshots": curve_snapshots, "growth": curve_growth}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("parts", nargs="+", choices=sorted(PARTS))
    p.add_argument("--counts", default="1000,10000,100000", help="files: numbers of files")
    p.add_argument("--files", type=int, default=1000, help="snapshots: files in the watch")
    p.add_argument("--upto", type=int, default=10000, help="snapshots: the last point")
    p.add_argument("--settle", type=int, default=1, help="settle time in ms")
    p.add_argument("--rounds", type=int, default=11, help="of each query")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--work", default="/var/tmp/watchkeep-curves", help="repositories: a real disk")
    p.add_argument("--tree", default="/dev/shm/watchkeep-curves", help="where the files are made")
    p.add_argument("--plots", default="plots", help="folder for the PNGs")
    p.add_argument("--out", help="append the JSON lines to this file too")
    p.add_argument("--keep", action="store_true", help="leave tree and repository of `snapshots`")
    a = p.parse_args()
    a.program = os.environ.get("WK_BIN", "watchkeep")
    a.counts = [int(n) for n in a.counts.split(",")]
    out = Output(a.out)
    for part in a.parts:
        PARTS[part](a, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
