#!/usr/bin/env python3
"""run.py - watchkeep beside restic, borg and tar, on one machine, in turn.

    WK_BIN=build/release/watchkeep python3 bench/run.py W1 W2 --scale 0.1 --rounds 3
    WK_BIN=... python3 bench/run.py latency --count 300
    WK_BIN=... python3 bench/run.py growth --count 1000
    WK_BIN=... python3 bench/run.py prune --scale 0.1
    WK_BIN=... python3 bench/run.py archive --scale 0.2
    WK_BIN=... python3 bench/run.py fifo --scale 0.2 --days 60

Each round runs every tool once, one after the other (ours, theirs, ours, ...); the table shows the
median, the lowest and the highest, and how many times longer than ours the others take. The first
restored result of each tool and workload is compared with the source, file by file. See README.md.
"""
import argparse
import collections
import hashlib
import json
import os
import platform
import shutil
import statistics
import stat
import subprocess
import sys
import time

sys.dont_write_bytecode = True  # the tree stays as git has it
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import archive  # noqa: E402
import fifo  # noqa: E402
import growth  # noqa: E402
import latency  # noqa: E402
import pruning  # noqa: E402
import tools  # noqa: E402
import workload  # noqa: E402


# ---- results ----

class Results:
    def __init__(self, path):
        self.file = open(path, "a") if path else None
        self.values = collections.defaultdict(list)

    def add(self, what, measure, tool, value, unit="s", **more):
        self.values[(what, measure, unit)].append((tool, value))
        line = json.dumps(dict(workload=what, measure=measure, tool=tool, value=value, unit=unit,
                               **more))
        if self.file:
            self.file.write(line + "\n")
            self.file.flush()
        else:
            print(line)

    def table(self):
        rows = [("workload", "measure", "tool", "median", "lowest", "highest", "runs", "x ours")]
        for (what, measure, unit), values in self.values.items():
            by_tool = collections.defaultdict(list)
            for tool, v in values:
                by_tool[tool].append(v)
            ours = statistics.median(by_tool["watchkeep"]) if "watchkeep" in by_tool else None
            for tool, vs in by_tool.items():
                m = statistics.median(vs)
                ratio = "" if tool == "watchkeep" or not ours else "%.2f" % (m / ours)
                rows.append((what, measure, tool, *("%s %s" % (number(x), unit)
                                                    for x in (m, min(vs), max(vs))),
                             str(len(vs)), ratio))
        widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
        return "\n".join("  ".join(c.ljust(w) if i < 3 else c.rjust(w)
                                   for i, (c, w) in enumerate(zip(r, widths))) for r in rows)


def number(x):
    return "%.0f" % x if x >= 100 else "%.2f" % x if x >= 1 else "%.4f" % x


# ---- comparing trees ----

def describe(path):
    st = os.lstat(path)
    if stat.S_ISLNK(st.st_mode):
        return "link", os.readlink(path)
    if stat.S_ISDIR(st.st_mode):
        return "folder", stat.S_IMODE(st.st_mode)
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            h.update(block)
    return "file", stat.S_IMODE(st.st_mode), st.st_mtime_ns // 10**9, h.hexdigest()


def tree(top):
    out = {}
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            if name.endswith(("-wal", "-shm")):
                continue
            path = os.path.join(folder, name)
            out[os.path.relpath(path, top)] = describe(path)
    return out


def check_equal(source, restored, tool, what):
    """Names, types, modes, times in seconds and every byte; nobody writes to the source meanwhile."""
    a, b = tree(source), tree(restored)
    if a == b:
        return
    wrong = [p for p in sorted(set(a) | set(b)) if a.get(p) != b.get(p)]
    raise SystemExit("run.py: %s restored %s with %d differences, the first: %r: %r, not %r"
                     % (tool, what, len(wrong), wrong[0], b.get(wrong[0]), a.get(wrong[0])))


# ---- places to restore to ----

class TmpfsPlace:
    name = "restore, tmpfs"

    def __init__(self, base):
        self.path = None

    def open(self):
        self.path = "/dev/shm/wk-bench-%d" % os.getpid()
        shutil.rmtree(self.path, ignore_errors=True)
        os.mkdir(self.path)
        return self.path

    def close(self):
        shutil.rmtree(self.path, ignore_errors=True)


class Ext4Place:
    """A fresh ext4 image on a loop device: the state of the machine's own disk does not matter."""
    name = "restore, fresh ext4"

    def __init__(self, base):
        self.image = os.path.join(base, "ext4.img")
        self.mount = os.path.join(base, "ext4")

    def open(self):
        os.makedirs(self.mount, exist_ok=True)
        with open(self.image, "wb") as f:
            f.truncate(8 << 30)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0",
                        self.image], check=True)
        subprocess.run(["mount", "-o", "loop", self.image, self.mount], check=True)
        path = os.path.join(self.mount, "to")
        os.mkdir(path)
        return path

    def close(self):
        subprocess.run(["umount", self.mount], check=False)
        if os.path.exists(self.image):
            os.remove(self.image)


# ---- the measures ----

def bench(what, args, results, chosen):
    base = os.path.join(args.work, what)
    shutil.rmtree(base, ignore_errors=True)
    os.makedirs(base)
    source = os.path.join(base, "source")
    print("making %s ..." % what, file=sys.stderr)
    workload.make(what, source, args.scale, args.seed, args.synthetic)
    files, folders, size = workload.size_of(source)
    print("%s: %d files, %d folders, %.1f MB" % (what, files, folders, size / 1e6), file=sys.stderr)
    rigs = [t(os.path.join(base, t.name.replace("|", "-"))) for t in chosen]
    places = [p(base) for p in ((TmpfsPlace, Ext4Place) if args.ext4 else (TmpfsPlace,))]
    checked = set()
    settle_stamps(source)
    for i in range(args.rounds):
        for rig in rigs if i % 2 == 0 else rigs[::-1]:
            one_round(what, rig, source, places, results, checked, i, args)
    if not args.keep:
        shutil.rmtree(base)


def settle_stamps(source):
    """Read everything once (a warm cache for all), and let time stamps grow older than their grain:
    no tool should have to distrust them."""
    tree(source)
    subprocess.run(["sync"], check=True)
    time.sleep(2.5)


def add_cost(results, what, measure, rig, cost, i):
    results.add(what, measure, rig.name, round(cost.seconds, 5), round=i)
    results.add(what, measure + ", memory", rig.name, round(cost.rss / 1024, 1), unit="MB", round=i)


def add_sizes(results, what, rig, i):
    stored, caches = rig.stored(), rig.caches()
    inside = caches if rig.name == tools.Watchkeep.name else 0
    for measure, size in (("repository", stored), ("repository, no cache", stored - inside),
                          ("repository, all caches", stored - inside + caches)):
        results.add(what, measure, rig.name, round(size / 1e6, 2), unit="MB", round=i)


def one_round(what, rig, source, places, results, checked, i, args):
    print("round %d: %s %s" % (i + 1, rig.name, what), file=sys.stderr)
    rig.fresh()
    add_cost(results, what, "first save", rig, rig.save(source), i)
    add_sizes(results, what, rig, i)
    if rig.can_repeat:
        add_cost(results, what, "nothing changed", rig, rig.save(source), i)
    for place in places:
        target = place.open()
        try:
            cost, where = rig.restore(target)
            add_cost(results, what, place.name, rig, cost, i)
            if (rig.name, place.name) not in checked:
                check_equal(source, where, rig.name, what)
                checked.add((rig.name, place.name))
        finally:
            place.close()
    cost = None if args.no_verify else rig.verify()
    if cost:
        add_cost(results, what, "verify", rig, cost, i)
    if rig.can_repeat and args.change:
        one_changed(what, rig, source, results, i, args)
    shutil.rmtree(rig.place, ignore_errors=True)


def one_changed(what, rig, source, results, i, args):
    """Last, because it changes the source: every tool then saves what it has not seen."""
    import random
    before = rig.stored()
    workload.change(what, source, 0, random.Random("%d %d %s" % (args.seed, i, rig.name)))
    time.sleep(0.1)
    add_cost(results, what, "one change", rig, rig.save(source), i)
    results.add(what, "one change, added", rig.name, round((rig.stored() - before) / 1e6, 4),
                unit="MB", round=i)


def bench_latency(args, results):
    base = os.path.join(args.work, "latency")
    shutil.rmtree(base, ignore_errors=True)
    source = os.path.join(base, "source")
    what = "W2" if args.files else "W5"
    workload.make(what, source, args.files / 300000 if args.files else args.scale, args.seed)
    r = latency.measure(tools.Watchkeep.program, os.path.join(base, "service"), source, args.count,
                        args.settle)
    for name, values in (("watchkeep", r["ours_ms"]), ("append+fdatasync", r["floor_ms"])):
        for p in (50, 99):
            results.add(what, "JSON by rename, durable, p%d" % p, name,
                        round(latency.percentile(values, p), 4), unit="ms", count=len(values))
    results.add(what, "service, memory", "watchkeep", round(r["rss_kib"] / 1024, 1), unit="MB")
    if not args.keep:
        shutil.rmtree(base)


def bench_archive(args, results):
    base = os.path.join(args.work, "archive")
    shutil.rmtree(base, ignore_errors=True)
    os.makedirs(base)
    source = os.path.join(base, "source")
    workload.make("W1", source, args.scale, args.seed, args.synthetic)
    settle_stamps(source)
    archive.measure(base, source, args.rounds, results, check_equal)
    if not args.keep:
        shutil.rmtree(base)


def bench_fifo(args, results):
    base = os.path.join(args.work, "fifo")
    shutil.rmtree(base, ignore_errors=True)
    os.makedirs(base)
    fifo.measure(base, args, results, check_equal)
    if not args.keep:
        shutil.rmtree(base)


def bench_growth(args, results, chosen):
    """Peers keep what they save in few large files and are slow: they get fewer saves."""
    source = os.path.join(args.work, "growth", "source")
    for case in args.cases.split(",") if args.cases else growth.CASES:
        for t in chosen:
            if not t.can_repeat:
                continue
            ours = t is tools.Watchkeep
            rig = t(os.path.join(args.work, "growth", t.name))
            r = growth.measure(rig, case, source, args.count if ours else args.peer_count,
                               args.scale, args.seed, packs="packs" if ours else "", check=ours)
            n = len(r["grown"])
            mean = sum(r["grown"]) / n
            results.add(case, "growth a save, mean", t.name, round(mean, 1), unit="B", count=n)
            results.add(case, "growth a save, median", t.name, statistics.median(r["grown"]),
                        unit="B", count=n)
            if sum(r["least"]):
                results.add(case, "growth / the change packed alone", t.name,
                            round(sum(r["grown"]) / sum(r["least"]), 3), unit="times", count=n)
            results.add(case, "save, median", t.name, round(statistics.median(r["seconds"]), 4),
                        count=n)
            if not args.keep:
                shutil.rmtree(rig.place)
    if not args.keep:
        shutil.rmtree(os.path.join(args.work, "growth"))


def bench_prune(args, results, chosen):
    base = os.path.join(args.work, "prune")
    shutil.rmtree(base, ignore_errors=True)
    os.makedirs(base)
    able = [t for t in chosen if t.can_repeat]
    for i in range(args.rounds):
        for t in able[i % len(able):] + able[:i % len(able)]:
            rig = t(os.path.join(base, t.name))
            for measure, cost in pruning.measure(rig, os.path.join(base, "source"), args, i):
                add_cost(results, "W1", measure, rig, cost, i)
            shutil.rmtree(rig.place, ignore_errors=True)
    if not args.keep:
        shutil.rmtree(base)


def print_machine(chosen):
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) / 1048576
    print("%s, %d processors, %.0f GB, Linux %s" % (platform.machine(), os.cpu_count(), memory,
                                                    platform.release()), file=sys.stderr)
    for t in chosen:
        print("%s: %s\n    flushed: %s" % (t.name, t.version(), t.flushes), file=sys.stderr)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("what", nargs="+",
                   choices=sorted(workload.MAKE) + ["archive", "fifo", "latency", "growth", "prune"])
    p.add_argument("--scale", type=float, default=1.0)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--work", default="/var/tmp/watchkeep-bench", help="scratch folder on a real disk")
    p.add_argument("--tools", default="", help="names, comma separated; default: all that are here")
    p.add_argument("--synthetic", action="store_true", help="W1: made up, not copied from /usr")
    p.add_argument("--ext4", action="store_true", help="restore to a fresh ext4 image too (root)")
    p.add_argument("--change", action="store_true", help="also save after one change")
    p.add_argument("--no-verify", action="store_true")
    p.add_argument("--count", type=int, default=300, help="latency, growth: how many saves")
    p.add_argument("--files", type=int, default=0, help="latency: of W2 in the watch; default: W5")
    p.add_argument("--peer-count", type=int, default=10, help="growth: how many of other tools")
    p.add_argument("--cases", default="", help="growth: names, comma separated; default: all")
    p.add_argument("--days", type=int, default=60, help="fifo: days on which one snapshot goes")
    p.add_argument("--percent", type=float, default=3, help="fifo: of the files, changed a day")
    p.add_argument("--settle", type=int, default=20, help="latency: settle time in ms")
    p.add_argument("--out", help="append JSON lines to this file instead of printing them")
    p.add_argument("--keep", action="store_true", help="leave the scratch folder")
    a = p.parse_args()
    wanted = a.tools.split(",") if a.tools else [t.name for t in tools.ALL]
    chosen = [t for t in tools.ALL if t.name in wanted]
    for t in list(chosen):
        if t.missing():
            print("not here: %s (%s)" % (t.name, ", ".join(t.missing())), file=sys.stderr)
            chosen.remove(t)
    if not chosen:
        sys.exit("run.py: none of the tools is here (is WK_BIN set?)")
    print_machine(chosen)
    results = Results(a.out)
    for what in a.what:
        if what == "latency":
            bench_latency(a, results)
        elif what == "archive":
            bench_archive(a, results)
        elif what == "fifo":
            bench_fifo(a, results)
        elif what == "growth":
            bench_growth(a, results, chosen)
        elif what == "prune":
            bench_prune(a, results, chosen)
        else:
            bench(what, a, results, chosen)
    print("\n" + results.table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
