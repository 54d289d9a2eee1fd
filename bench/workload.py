#!/usr/bin/env python3
"""workload.py - the trees that the benchmarks save. Seeded: the same arguments, the same bytes.

    python3 bench/workload.py W1 DIR [--scale 1.0] [--seed 1] [--synthetic]
    python3 bench/workload.py W1 DIR --change [--percent 1] [--round 2]

  W1  100,000 files of /usr/share, /usr/include and /usr/lib (or a made-up mix of that shape)
  W2  300,000 JSON files of about 1 KB in 1,000 folders
  W3  a 1 GB SQLite database in WAL mode, two tables and an index
  W4  one 2 GB file, half log lines, half random bytes
  W5  a small bot: 4 JSON files, 4 SQLite databases, 20,000 small .js files

--scale multiplies counts and sizes; a scale of 0.01 is right for trying things out.
"""
import argparse
import json
import os
import random
import shutil
import sqlite3
import stat
import sys

WORDS = ("the a of to and in is for on with file error request user session timeout cache value key "
         "node index commit state path return const static struct include define if else while "
         "import from class self None true false null function var let async await config server "
         "client socket thread lock queue worker start stop open close read write flush").split()
SYSTEM_FOLDERS = ("/usr/share", "/usr/include", "/usr/lib")


def scaled(n, scale):
    return max(1, int(n * scale))


def text_pool(rng, size):
    """About `size` bytes of lines that compress as source and prose do."""
    words = WORDS + ["%x" % rng.getrandbits(28) for _ in range(4000)]
    out, have = [], 0
    while have < size:
        line = " ".join(rng.choices(words, k=rng.randint(4, 14)))
        out.append(line)
        have += len(line) + 1
    return "\n".join(out).encode()


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)


# ---- W1 ----

def system_files(limit):
    """Paths of regular files, in a fixed order, at most `limit`."""
    n = 0
    for top in SYSTEM_FOLDERS:
        for folder, folders, files in os.walk(top):
            folders.sort()
            for name in sorted(files):
                path = os.path.join(folder, name)
                try:
                    st = os.lstat(path)
                except OSError:
                    continue
                if stat.S_ISREG(st.st_mode) and st.st_size < 64 << 20:
                    yield path
                    n += 1
                    if n == limit:
                        return


def copy_system(dest, count):
    n = 0
    for path in system_files(count):
        to = dest + path
        os.makedirs(os.path.dirname(to), exist_ok=True)
        shutil.copy2(path, to, follow_symlinks=False)
        n += 1
    return n


def synthetic_tree(dest, count, rng, first=0):
    """Files as in a /usr: 8 in a folder, a median of 4 KB with a long tail, one of 7 binary."""
    pool = text_pool(rng, 8 << 20)
    for i in range(first, first + count):
        folder = os.path.join(dest, "p%03d" % (i // 4000), "d%04d" % (i // 8 % 500))
        if i % 8 == 0 or i == first:
            os.makedirs(folder, exist_ok=True)
        size = min(int(rng.lognormvariate(8.3, 1.5)), 8 << 20)
        if i % 7 == 0:
            # Machine code: runs of random bytes among repeated ones.
            data = b"".join(rng.randbytes(40) + pool[o:o + 24] for o in
                            (rng.randrange(len(pool) - 64) for _ in range(size // 64 + 1)))[:size]
        else:
            parts, have = [], 0
            while have < size:
                at, n = rng.randrange(len(pool) - 3000), rng.randint(200, 3000)
                parts.append(pool[at:at + n])
                have += n
            data = b"".join(parts)[:size]
        write(os.path.join(folder, "f%06d.%s" % (i, "so" if i % 7 == 0 else "txt")), data)


def make_w1(dest, scale, rng, synthetic=False):
    count = scaled(100000, scale)
    got = 0 if synthetic else copy_system(dest, count)
    if got < count:
        synthetic_tree(os.path.join(dest, "synthetic"), count - got, rng)


# ---- W2 ----

NAMES = ("amber ash birch blue coral crow dawn dusk elm ember fern fox frost gold hawk iris ivy jade lark "
         "lynx maple mist moss oak onyx otter pearl pine raven reed rose rowan sage storm swift teal "
         "thorn vale willow wren").split()
ITEMS = "sword shield potion lantern fishing_rod golden_apple compass map".split()
BADGES = ("first_message night_owl early_bird chatterbox quiz_master helper collector veteran explorer "
          "peacemaker").split()


def moment(rng, year):
    return "%d-%02d-%02dT%02d:%02d:%02dZ" % (year, rng.randint(1, 12), rng.randint(1, 28),
                                             rng.randrange(24), rng.randrange(60), rng.randrange(60))


def record(rng, i):
    """A member of a chat server as a bot keeps it: many keys, each once, and what differs from file
    to file is short. Compressed alone such a file loses a third, among its neighbours nearly all."""
    return {
        "user_id": str(rng.randrange(10**17, 10**18)), "record_number": i,
        "display_name": "%s_%s%d" % (rng.choice(NAMES), rng.choice(NAMES), rng.randrange(1000)),
        "locale": rng.choice(["en-GB", "de-DE", "fr-FR", "pt-BR"]),
        "timezone": rng.choice(["Europe/Berlin", "America/New_York", "Asia/Tokyo", "UTC"]),
        "joined_at": moment(rng, rng.randint(2018, 2025)), "last_seen_at": moment(rng, 2026),
        "favourite_channel": rng.choice(NAMES) + "-talk",
        "preferences": {"direct_messages_allowed": rng.random() < .8,
                        "notifications_enabled": rng.random() < .6,
                        "profile_colour": "#%06x" % rng.getrandbits(24),
                        "mention_on_level_up": rng.random() < .5, "compact_layout": False},
        "statistics": {"experience": rng.randrange(10**6), "level": rng.randrange(100),
                       "coins": rng.randrange(10**5), "bank_balance": rng.randrange(10**6),
                       "daily_streak": rng.randrange(400), "voice_minutes": rng.randrange(10**5),
                       "messages_sent": rng.randrange(10**5),
                       "reactions_given": rng.randrange(10**4), "games_played": rng.randrange(1000),
                       "games_won": rng.randrange(500), "highest_score": rng.randrange(10**6)},
        "moderation": {"warnings": rng.randrange(3), "muted_until": None,
                       "verified_by_phone": rng.random() < .3, "trusted_member": rng.random() < .2},
        "inventory": [{"item": rng.choice(ITEMS), "quantity": rng.randint(1, 20)}
                      for _ in range(rng.randint(1, 5))],
        "achievements": rng.sample(BADGES, 3), "referred_by": None, "premium_until": None,
        "schema_version": 3}


def make_w2(dest, scale, rng):
    count = scaled(300000, scale)
    per_folder = 300
    for i in range(count):
        folder = os.path.join(dest, "%04d" % (i // per_folder))
        if i % per_folder == 0:
            os.mkdir(folder)
        write(os.path.join(folder, "%06d.json" % i), json.dumps(record(rng, i)).encode())


# ---- W3 ----

def make_database(path, size, rng, rows_at_once=5000):
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;"
                     "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT, amount INTEGER);"
                     "CREATE TABLE events(id INTEGER PRIMARY KEY, user INTEGER, at INTEGER, "
                     "what TEXT, body BLOB);"
                     "CREATE INDEX events_user ON events(user, at);")
    n = 0
    while os.path.getsize(path) < size:
        db.execute("BEGIN")
        db.executemany("INSERT INTO users VALUES(?,?,?)",
                       [(n + i, "user%d" % (n + i), rng.randrange(10**6))
                        for i in range(0, rows_at_once, 10)])
        db.executemany("INSERT INTO events VALUES(?,?,?,?,?)",
                       [(n + i, rng.randrange(n + 1), 1700000000 + n + i, rng.choice(WORDS),
                         " ".join(rng.choices(WORDS, k=20)).encode() + rng.randbytes(60))
                        for i in range(rows_at_once)])
        db.execute("COMMIT")
        n += rows_at_once
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def make_w3(dest, scale, rng):
    make_database(os.path.join(dest, "big.db"), scaled(1 << 30, scale), rng)


# ---- W4 ----

def make_w4(dest, scale, rng):
    half = scaled(1 << 30, scale)
    with open(os.path.join(dest, "big.log"), "wb") as f:
        second, left = 1700000000, half
        while left > 0:
            lines = []
            for _ in range(20000):
                second += rng.randrange(3)
                lines.append("%d %08x %s %s" % (second, rng.getrandbits(32), rng.choice(WORDS),
                                                " ".join(rng.choices(WORDS, k=10))))
            data = "\n".join(lines).encode()[:left]
            f.write(data)
            left -= len(data)
        for at in range(0, half, 1 << 20):
            f.write(rng.randbytes(min(1 << 20, half - at)))


# ---- W5 ----

def make_w5(dest, scale, rng):
    for i, size in enumerate((1000, 5000, 40000, 200000)):
        doc, n = [], 0
        while len(json.dumps(doc)) < size:
            doc.extend(record(rng, n + k) for k in range(1 + size // 20000))
            n = len(doc)
        write(os.path.join(dest, "state%d.json" % i), json.dumps(doc).encode())
    for i in range(4):
        make_database(os.path.join(dest, "bot%d.db" % i), scaled((i + 1) << 20, scale), rng, 200)
    pool = text_pool(rng, 1 << 20)
    for i in range(scaled(20000, scale)):
        folder = os.path.join(dest, "node_modules", "m%04d" % (i // 20))
        if i % 20 == 0:
            os.makedirs(folder)
        at = rng.randrange(len(pool) - 4000)
        write(os.path.join(folder, "i%05d.js" % i), pool[at:at + rng.randint(200, 3000)])


# ---- changes ----

def files_of(dest):
    return sorted(os.path.join(folder, f) for folder, _, files in os.walk(dest) for f in files)


def change(name, dest, percent, rng):
    """Change `percent` of the files (databases: ten rows; W4: lines at the end). 0: one file."""
    if name == "W3":
        db = sqlite3.connect(os.path.join(dest, "big.db"), isolation_level=None)
        top = db.execute("SELECT max(id) FROM events").fetchone()[0]
        db.execute("BEGIN")
        for _ in range(10):
            db.execute("UPDATE events SET body = ? WHERE id = ?",
                       (rng.randbytes(80), rng.randrange(top)))
        db.execute("COMMIT")
        db.close()
        return 1
    if name == "W4":
        with open(os.path.join(dest, "big.log"), "ab") as f:
            f.write(text_pool(rng, 100000))
        return 1
    files = [f for f in files_of(dest) if not f.endswith((".db", ".db-wal", ".db-shm"))]
    chosen = rng.sample(files, max(1, int(len(files) * percent / 100)))
    for path in chosen:
        with open(path, "ab") as f:
            f.write(b"\n// changed %d\n" % rng.getrandbits(32))
    return len(chosen)


MAKE = {"W1": make_w1, "W2": make_w2, "W3": make_w3, "W4": make_w4, "W5": make_w5}


def make(name, dest, scale=1.0, seed=1, synthetic=False):
    """Fill the new folder dest."""
    os.makedirs(dest)
    rng = random.Random("%s %d" % (name, seed))
    if name == "W1":
        make_w1(dest, scale, rng, synthetic)
    else:
        MAKE[name](dest, scale, rng)


def size_of(dest):
    """(files, folders, bytes)"""
    files = folders = size = 0
    for folder, _, names in os.walk(dest):
        folders += 1
        for n in names:
            files += 1
            size += os.lstat(os.path.join(folder, n)).st_size
    return files, folders, size


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("name", choices=sorted(MAKE))
    p.add_argument("dest")
    p.add_argument("--scale", type=float, default=1.0)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--synthetic", action="store_true", help="W1: copy nothing of this machine")
    p.add_argument("--change", action="store_true", help="change an existing one instead")
    p.add_argument("--percent", type=float, default=1.0)
    p.add_argument("--round", type=int, default=1)
    a = p.parse_args()
    if a.change:
        rng = random.Random("%s %d change %d" % (a.name, a.seed, a.round))
        print("%d files changed" % change(a.name, a.dest, a.percent, rng))
        return 0
    if os.path.exists(a.dest):
        sys.exit("workload.py: '%s' is there already" % a.dest)
    make(a.name, a.dest, a.scale, a.seed, a.synthetic)
    print("%s: %d files, %d folders, %d bytes" % (a.name, *size_of(a.dest)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
