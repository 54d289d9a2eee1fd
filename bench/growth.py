"""growth.py - what the save of a small change adds to a repository.

Files that an app keeps changing, one in a source folder:

  same    100 KB of JSON, replaced by rename; the same field changes every time
  random  the same; a field of a random record changes
  page    a 1 GB file; one page of 16 KB is rewritten in place at random
  row     a 64 MB SQLite database in WAL mode; one random row is updated
  log     a log; 1 KB of lines is appended every time

A change is made, saved, and the growth of the packs taken; again and again. At the end versions are
read back by `cat` and compared by their hash (all of them, or every so manieth of large files), and
the oldest, the middle and the newest are restored whole.
"""
import hashlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import zlib

from workload import WORDS, make_database, scaled, text_pool

PAGE = 16384
GIB = 1 << 30


def record(rng, i):
    return {"id": i, "name": "user%d" % i, "active": bool(i % 3), "balance": rng.randrange(10**6),
            "token": "%032x" % rng.getrandbits(128), "tags": rng.choices(WORDS, k=8),
            "history": [{"at": 1700000000 + rng.randrange(10**7), "what": rng.choice(WORDS),
                         "n": rng.randrange(1000)} for _ in range(12)]}


class WrongVersion(Exception):
    pass


def packed(data):
    """Length of the data by itself, by zstd where that is installed, else by zlib."""
    if shutil.which("zstd"):
        return len(subprocess.run(["zstd", "-q", "-c", "-2"], input=data, capture_output=True,
                                  check=True).stdout)
    return len(zlib.compress(data, 6))


class Json:
    large = False

    def __init__(self, folder, scale, rng, where):
        self.path = os.path.join(folder, "state.json")
        self.rng, self.where, self.records = rng, where, []
        while len(json.dumps(self.records)) < scaled(100_000, scale):
            self.records.append(record(rng, len(self.records)))
        self.write()

    def write(self):
        with open(self.path + ".new", "w") as f:
            json.dump(self.records, f)
        os.rename(self.path + ".new", self.path)

    def change(self):
        """Returns what must be stored of it at least, 0 where that is next to nothing."""
        at = len(self.records) // 2 if self.where == "same" else self.rng.randrange(
            len(self.records))
        self.records[at]["balance"] = self.rng.randrange(10**6)
        self.write()
        return 0


class Pages:
    """A page is half random, half text, as pages of records are."""
    large = True

    def __init__(self, folder, scale, rng):
        self.path, self.rng = os.path.join(folder, "big.bin"), rng
        self.pool, self.count = text_pool(rng, 4 << 20), scaled(GIB, scale) // PAGE
        with open(self.path, "wb") as f:
            for _ in range(self.count):
                f.write(self.page())

    def page(self):
        rows = []
        for _ in range(PAGE // 256):
            at = self.rng.randrange(len(self.pool) - 128)
            rows.append(self.rng.randbytes(128) + self.pool[at:at + 128])
        return b"".join(rows)

    def change(self):
        data = self.page()
        with open(self.path, "r+b") as f:
            f.seek(self.rng.randrange(self.count) * PAGE)
            f.write(data)
        return packed(data)


class Rows:
    """The writer leaves after each change, so that what is compared lies in one file."""
    large = True

    def __init__(self, folder, scale, rng):
        self.path, self.rng = os.path.join(folder, "app.db"), rng
        make_database(self.path, scaled(64 << 20, scale), rng)

    def change(self):
        db = sqlite3.connect(self.path, isolation_level=None)
        top = db.execute("SELECT max(id) FROM events").fetchone()[0]
        db.execute("UPDATE events SET body=? WHERE id=?",
                   (self.rng.randbytes(160), self.rng.randrange(top)))
        db.close()
        return 0


class Log:
    large = False

    def __init__(self, folder, scale, rng):
        self.path, self.rng = os.path.join(folder, "app.log"), rng
        self.append(scaled(200_000, scale))

    def append(self, size):
        out = []
        while size > 0:
            out.append("%08x %s %s\n" % (self.rng.getrandbits(32), self.rng.choice(WORDS),
                                         " ".join(self.rng.choices(WORDS, k=10))))
            size -= len(out[-1])
        data = "".join(out).encode()
        with open(self.path, "ab") as f:
            f.write(data)
        return data

    def change(self):
        return packed(self.append(1000))


CASES = {
    "same": lambda folder, scale, rng: Json(folder, scale, rng, "same"),
    "random": lambda folder, scale, rng: Json(folder, scale, rng, "random"),
    "page": Pages,
    "row": Rows,
    "log": Log,
}


def lengths(top):
    """Of all files below; what they take up on the disk is rounded to its blocks."""
    return sum(os.lstat(os.path.join(folder, n)).st_size
               for folder, _, names in os.walk(top) for n in names)


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def check_versions(tool, thing, source, hashes):
    name = os.path.relpath(thing.path, source)
    for snapshot, want in hashes.items():
        p = subprocess.Popen([tool.program, "-r", tool.repo, "cat", "%d:%s" % (snapshot, name)],
                             stdout=subprocess.PIPE, env=tool.env())
        with p.stdout:
            got = hashlib.file_digest(p.stdout, "sha256").hexdigest()
        if p.wait() != 0 or got != want:
            raise WrongVersion("snapshot %d of %s reads differently" % (snapshot, name))
    ordered = sorted(hashes)
    for snapshot in {ordered[0], ordered[len(ordered) // 2], ordered[-1]}:
        target = os.path.join(tool.place, "restored")
        tool.wk("restore", str(snapshot), "--to", target)
        if digest(os.path.join(target, name)) != hashes[snapshot]:
            raise WrongVersion("snapshot %d of %s is restored differently" % (snapshot, name))
        shutil.rmtree(target)
    tool.verify()


def measure(tool, case, source, count, scale=1.0, seed=1, packs="", check=True):
    """{"grown": bytes a save, "least": what the changes took by themselves, "seconds": a save}.
    packs: the folder in the tool's repository that counts."""
    rng = random.Random(seed)
    shutil.rmtree(source, ignore_errors=True)
    os.makedirs(source)
    thing = CASES[case](source, scale, rng)
    every = max(1, count // 20) if thing.large else 1
    kept = os.path.join(tool.repo, packs)
    tool.fresh()
    tool.save(source)
    hashes, out = {}, {"grown": [], "least": [], "seconds": []}
    for i in range(count):
        out["least"].append(thing.change())
        before = lengths(kept)
        out["seconds"].append(tool.save(source).seconds)
        out["grown"].append(lengths(kept) - before)
        if check and (i % every == 0 or i == count - 1):
            hashes[i + 2] = digest(thing.path)
    if check:
        check_versions(tool, thing, source, hashes)
    return out
