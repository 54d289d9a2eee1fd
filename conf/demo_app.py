#!/usr/bin/env python3
"""A small app to watch: keeps settings in a JSON file and orders in an SQLite database.

    demo_app.py DIRECTORY    until it is ended
"""
import json
import os
import random
import signal
import sqlite3
import sys
import threading

stop = threading.Event()
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda *_: stop.set())


def save_settings(folder, settings):
    """As careful apps save: a temporary file, flushed, renamed over the old one."""
    path = os.path.join(folder, "settings.json")
    with open(path + ".tmp", "w") as f:
        json.dump(settings, f, indent=1)
        f.flush()
        os.fsync(f.fileno())
    os.rename(path + ".tmp", path)


def main(folder):
    os.makedirs(folder, exist_ok=True)
    db = sqlite3.connect(os.path.join(folder, "orders.db"))
    db.execute("pragma journal_mode=wal")
    db.execute("create table if not exists orders(id integer primary key, what text, price real)")
    round_number = 0
    while not stop.is_set():
        round_number += 1
        with db:
            db.executemany("insert into orders(what, price) values (?, ?)",
                           [(random.choice(["tea", "bread", "salt"]), random.uniform(1, 9))
                            for _ in range(random.randint(1, 5))])
        save_settings(folder, {"round": round_number, "theme": random.choice(["light", "dark"])})
        stop.wait(3)
    db.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
