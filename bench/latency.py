"""latency.py - how long after the last write a change is durable, through the running service.

One small JSON file is replaced by rename, again and again; the time runs from the rename to the
moment the service says that the snapshot is durable, and the configured settle time is taken off.
Beside it, on the same disk and in the same loop: an append of 4 KB and an fdatasync, which is the
floor.
"""
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
import time

SAVED = re.compile(r"snapshot (\d+):")


def percentile(values, p):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))]


def replace(path, data):
    with open(path + ".new", "wb") as f:
        f.write(data)
    os.rename(path + ".new", path)
    return time.perf_counter()


class Service:
    def __init__(self, program, place, source, settle_ms):
        self.place = place
        shutil.rmtree(place, ignore_errors=True)
        os.makedirs(place)
        repo, conf = os.path.join(place, "repo"), os.path.join(place, "watchkeep.conf")
        with open(conf, "w") as f:
            f.write("[service]\nrepository = %s\nsocket = %s\nlog_level = info\n"
                    "[watch bench]\npath = %s\nsettle = %dms\ninterval = off\n"
                    % (repo, os.path.join(place, "s"), source, settle_ms))
        env = dict(os.environ, XDG_STATE_HOME=os.path.join(place, "state"))
        subprocess.run([program, "-r", repo, "-q", "init"], check=True, env=env)
        subprocess.run([program, "-r", repo, "-q", "--no-progress", "save", "bench=" + source],
                       check=True, env=dict(env, WATCHKEEP_CONFIG="/dev/null"))
        self.process = subprocess.Popen([program, "-c", conf, "run"], env=env,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()
        self.program, self.conf, self.env = program, conf, env

    def read(self):
        for line in self.process.stderr:
            self.lines.put((time.perf_counter(), line.decode(errors="replace")))

    def saved(self, patience=30):
        """The moment of the next snapshot's line."""
        end = time.perf_counter() + patience
        while True:
            at, line = self.lines.get(timeout=max(0.001, end - time.perf_counter()))
            if SAVED.search(line):
                return at

    def wait_ready(self):
        while True:
            r = subprocess.run([self.program, "-c", self.conf, "--json", "status"],
                               capture_output=True, env=self.env)
            if r.returncode in (0, 7) and all(w["state"] != "scanning" and w["last_checked"]
                                              for w in json.loads(r.stdout)["watches"]):
                return
            if self.process.poll() is not None:
                raise RuntimeError("the service ended: exit %d" % self.process.returncode)
            time.sleep(0.02)

    def drain(self):
        while not self.lines.empty():
            self.lines.get()

    def rss_kib(self):
        with open("/proc/%d/status" % self.process.pid) as f:
            return int(re.search(r"VmHWM:\s+(\d+)", f.read()).group(1))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def floor(place, count):
    """Seconds of an append of 4 KB and an fdatasync."""
    fd = os.open(os.path.join(place, "floor"), os.O_WRONLY | os.O_CREAT, 0o600)
    data, out = os.urandom(4096), []
    for i in range(count):
        start = time.perf_counter()
        os.pwrite(fd, data, i * 4096)
        os.fdatasync(fd)
        out.append(time.perf_counter() - start)
    os.close(fd)
    return out


def measure(program, place, source, count, settle_ms=20):
    """{"ours_ms": [...] beyond settle, "floor_ms": [...], "rss_kib": N}"""
    path = os.path.join(source, "latency.json")
    replace(path, b"{}")
    s = Service(program, place, source, settle_ms)
    ours, floors = [], []
    try:
        s.wait_ready()
        s.drain()
        for i in range(count):
            doc = {"n": i, "at": time.time(), "text": "x" * (i % 500)}
            start = replace(path, json.dumps(doc).encode())
            ours.append((s.saved() - start) * 1000 - settle_ms)
            floors += [t * 1000 for t in floor(place, 1)]
        rss = s.rss_kib()
    finally:
        s.stop()
    return {"ours_ms": ours, "floor_ms": floors, "rss_kib": rss}
