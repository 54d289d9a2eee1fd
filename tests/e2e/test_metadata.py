"""metadata.json of an archive: every key of it says what is so, found out by other means, and no
key is there that this test does not look at. In both formats, of whole and incomplete snapshots."""
import base64
import datetime
import hashlib
import json
import os
import re
import socket
import sqlite3
import subprocess
import time

import wk

KEYS = {"schema", "archive", "backup_date", "created_utc", "zone", "utc_offset", "host", "watch",
        "repository", "snapshot", "snapshot_time", "root", "kind", "format", "metadata", "complete", "suspect",
        "file_count", "total_bytes", "left_out_count", "left_out", "app", "watchkeep_version",
        "databases", "files_backed_up"}
CHECKED = {"stored_bytes", "seconds", "verified", "damaged"}  # what NAME.json has besides
ZONE = "Asia/Kolkata"


class Place:
    """A configuration, and a user who may not read everything."""

    def __init__(self, scratch, form, **archive):
        self.root = os.path.join(scratch, "the data")
        self.conf = os.path.join(scratch, "watchkeep.conf")
        self.repo = os.path.join(scratch, "repo")
        self.folder = os.path.join(scratch, "archives")
        self.form = form
        os.mkdir(self.root)
        wk.write(self.conf, "[service]\nrepository = %s\nsocket = %s/s\n[watch my-app]\npath = %s\n"
                 "[archive]\nformat = %s\npath = %s\n" % (self.repo, scratch, self.root, form,
                                                         self.folder))
        os.chmod(scratch, 0o777)
        self.run("init")

    def path(self, name):
        path = os.path.join(self.root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def run(self, *args, code=0):
        user = None if os.geteuid() else lambda: (os.setgroups([]), os.setgid(65534),
                                                  os.setuid(65534))
        env = wk.environment(TZ=ZONE, HOME="/nonexistent")
        return wk.wk("-c", self.conf, *args, code=code, env=env, preexec=user)

    def archived(self, *args, code=0):
        began = time.time()
        lines = self.run("--json", "archive", *args, code=code).lines
        item = [x for x in lines if x["type"] == "archived"][0]
        return item, (began, time.time())


def database(path, tables, mode="DELETE"):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=%s" % mode)
    for name, rows in tables.items():
        db.execute("CREATE TABLE %s(x)" % name)
        db.executemany("INSERT INTO %s VALUES(?)" % name, [("row %d" % i,) for i in range(rows)])
    db.execute("CREATE VIEW v AS SELECT 1")
    db.commit()
    db.close()


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def exact(name):
    """A path as the JSON has it."""
    try:
        return {"path": name.decode()}
    except UnicodeDecodeError:
        return {"path": name.decode("utf-8", "replace"), "path_b64": base64.b64encode(name).decode()}


def unpacked(item, scratch):
    """The archive's folder, by stock tools, and its metadata as bytes."""
    top = item["path"]
    if item["format"] == "tar.gz":
        to = os.path.join(scratch, "unpacked-" + item["name"])
        os.mkdir(to)
        subprocess.run(["tar", "-C", to, "-xzf", item["path"]], check=True, capture_output=True)
        assert os.listdir(to) == [item["name"]], "everything stands under one folder"
        top = os.path.join(to, item["name"])
    return top


def local(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def true_in_every_field(p, item, when, scratch, want):
    top = unpacked(item, scratch)
    with open(os.path.join(top, want["metadata"]), "rb") as f:
        text = f.read()
    meta = json.loads(text)
    assert set(meta) == KEYS, set(meta) ^ KEYS

    # When and where.
    created = local(meta["created_utc"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", meta["created_utc"]), meta
    assert when[0] <= created.timestamp() <= when[1], (when, meta["created_utc"])
    here = created.astimezone(datetime.timezone(datetime.timedelta(hours=5, minutes=30)))
    assert meta["backup_date"] == here.strftime("%Y-%m-%d %H:%M:%S"), meta
    assert (meta["zone"], meta["utc_offset"]) == ("+05:30", 19800), meta
    assert meta["host"] == socket.gethostname(), meta
    assert meta["watchkeep_version"] == wk.wk("--version").out.split()[1], meta
    # What it is of.
    snapshot = [x for x in p.run("--json", "list", "--all").json["snapshots"]
                if x["id"] == meta["snapshot"]][0]
    assert meta["snapshot"] == snapshot["id"] == want["snapshot"], (meta, snapshot)
    assert meta["snapshot_time"] == snapshot["time"] and meta["watch"] == "my-app", meta
    assert local(meta["snapshot_time"]) <= created, meta
    assert meta["root"] == p.root, meta
    assert meta["repository"] == p.run("--json", "status", code=8).json["repository"]["id"], meta
    assert meta["complete"] is want["complete"] is snapshot["complete"], (meta, snapshot)
    assert meta["suspect"] is False is snapshot["suspect"], (meta, snapshot)
    # What it is.
    assert meta["schema"] == 1 and meta["archive"] == item["name"], meta
    assert meta["kind"] == want["kind"] and meta["format"] == p.form, meta
    stamp = here.strftime("%Y-%m-%d_%H-%M-%S")
    assert item["name"] == "backup_" + (want.get("name") or stamp), item
    assert item["path"] == os.path.join(p.folder, "my-app", want["kind"], item["name"] + (
        ".tar.gz" if p.form == "tar.gz" else "")), item
    assert meta["metadata"] == want["metadata"] and meta["app"] == want["app"], meta
    # What is in it: what stock tools found there, and what stands in the source.
    files, found = [], {}
    for folder, _, names in os.walk(os.fsencode(top)):
        for n in names:
            path = os.path.join(folder, n)
            rel = os.path.relpath(path, os.fsencode(top))
            if rel == want["metadata"].encode() or not os.path.isfile(path) or os.path.islink(path):
                continue
            found[rel] = digest(path)
            files.append(dict(exact(rel), bytes=os.path.getsize(path), sha256=found[rel]))
    assert sorted(meta["files_backed_up"], key=str) == sorted(files, key=str), (meta, files)
    for rel, sha256 in found.items():
        source = os.path.join(os.fsencode(p.root), rel)
        if rel not in want["databases"]:
            assert digest(source) == sha256, rel
    assert set(found) == want["files"], (set(found) ^ want["files"])
    assert meta["file_count"] == len(files) and meta["total_bytes"] == sum(
        f["bytes"] for f in files), meta
    # What is not.
    assert meta["left_out_count"] == len(want["left_out"]), meta
    assert sorted(meta["left_out"], key=str) == sorted(
        [dict(exact(n), reason=why) for n, why in want["left_out"].items()], key=str), meta
    for name in want["left_out"]:
        assert os.path.lexists(os.path.join(os.fsencode(p.root), name)), name
        assert not os.path.lexists(os.path.join(os.fsencode(top), name)), name
    # What the databases hold, asked of those in the archive.
    databases = []
    for rel in want["databases"]:
        db = sqlite3.connect(os.fsdecode(os.path.join(os.fsencode(top), rel)))
        tables = [r[0] for r in db.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        rows = sum(db.execute("SELECT count(*) FROM " + t).fetchone()[0] for t in tables)
        told = db.execute("PRAGMA integrity_check").fetchone()[0]
        db.close()
        assert (len(tables), rows, told) == want["databases"][rel] + ("ok",), (rel, tables, rows)
        databases.append(dict(exact(rel), tables=len(tables), rows=rows, integrity="ok"))
    assert sorted(meta["databases"], key=str) == sorted(databases, key=str), meta

    # The copy beside it is the same, byte for byte, but for a line for each result of the check.
    with open(os.path.join(os.path.dirname(item["path"]), item["name"] + ".json"), "rb") as f:
        copy = f.read()
    beside = json.loads(copy)
    assert set(beside) - set(meta) == CHECKED, set(beside) ^ set(meta)
    lines = [n for n in copy.split(b"\n")
             if not any(n.startswith(b' "%s": ' % k.encode()) for k in CHECKED)]
    assert b"\n".join(lines) == text, "NAME.json is another text than " + want["metadata"]
    assert beside["damaged"] is False and beside["stored_bytes"] == item["stored_bytes"], beside
    assert created.timestamp() - 1 <= local(beside["verified"]).timestamp() <= when[1] + 1, beside
    # Commands print nine digits.
    assert "%.9g" % beside["seconds"] == "%.9g" % item["seconds"], (beside, item)
    assert 0 < beside["seconds"] <= when[1] - when[0], (beside, item)
    if p.form == "tar.gz":
        assert beside["stored_bytes"] == os.path.getsize(item["path"]), beside
    else:
        blocks = sum(os.stat(os.path.join(d, n)).st_blocks * 512
                     for d, _, names in os.walk(os.fsencode(top)) for n in names
                     if n.decode("latin-1") != want["metadata"] and
                     not os.path.islink(os.path.join(d, n)))
        assert 0 < beside["stored_bytes"] <= blocks, (beside, blocks)
    # And so do the commands that list and show it.
    listed = [x for x in p.run("--json", "list", "--archives").json["archives"]
              if x["name"] == item["name"]][0]
    shown = p.run("--json", "show", item["name"]).json
    for told in (listed, shown):
        for key, theirs in (("snapshot", "snapshot"), ("time", "created_utc"), ("kind", "kind"),
                            ("format", "format"), ("files", "file_count"), ("watch", "watch"),
                            ("bytes", "total_bytes"), ("complete", "complete"),
                            ("suspect", "suspect"), ("verified", "verified"),
                            ("stored_bytes", "stored_bytes"), ("damaged", "damaged")):
            assert told[key] == beside[theirs], (key, told, beside)
    for key in ("root", "snapshot_time", "zone", "host", "left_out", "app", "databases",
                "watchkeep_version"):
        assert shown[key] == meta[key], key


def make(p):
    """What every case has: names of all kinds, links, databases, a socket."""
    for name, content in (("a.json", b'{"a": 1}'), ("empty", b""), ("sub/deep/b", b"b" * 100000),
                          ("späße", b"x"), (os.fsdecode(b"not\xff utf8"), b"y")):
        wk.write(p.path(name), content)
    os.link(p.path("sub/deep/b"), p.path("again"))
    os.symlink("a.json", p.path("link"))
    os.symlink("nowhere", p.path("dangling"))
    os.mkdir(p.path("empty folder"))
    with open(p.path("sparse"), "wb") as f:
        f.truncate(1 << 20)
        f.write(b"end")
    database(p.path("app.db"), {"a": 42, "b": 0})
    database(p.path("sub/wal.sqlite"), {"t": 7}, "WAL")
    if os.geteuid() == 0:
        subprocess.run(["chown", "-hR", "65534:65534", p.root], check=True)
    return {"snapshot": 1, "complete": True, "kind": "automatic", "metadata": "metadata.json",
            "app": {}, "left_out": {},
            "databases": {b"app.db": (2, 42), b"sub/wal.sqlite": (1, 7)},
            "files": {b"a.json", b"empty", b"sub/deep/b", "späße".encode(), b"not\xff utf8",
                      b"again", b"sparse", b"app.db", b"sub/wal.sqlite"}}


def in_both(test):
    def run(scratch):
        for form in ("tar.gz", "directory"):
            place = os.path.join(scratch, form.replace(".", "-"))
            os.mkdir(place)
            os.chmod(scratch, 0o777)
            test(place, Place(place, form))
    run.__name__ = test.__name__
    return run


@in_both
def whole(scratch, p):
    want = make(p)
    item, when = p.archived()
    true_in_every_field(p, item, when, scratch, want)
    # A named one, of another state, with what the app says of itself.
    wk.write(p.path("a.json"), '{"a": 2, "more": true}')
    item, when = p.archived("--name", "v2", "--meta", "release=1.2", "--meta", "by=me=you",
                            "--meta", "who=ä\"\\")
    true_in_every_field(p, item, when, scratch, dict(
        want, snapshot=2, kind="manual", name="v2",
        app={"release": "1.2", "by": "me=you", "who": "ä\"\\"}))


@in_both
def own_metadata(scratch, p):
    """A root that has a metadata.json itself."""
    want = make(p)
    wk.write(p.path("metadata.json"), "mine")
    want["files"].add(b"metadata.json")
    item, when = p.archived()
    true_in_every_field(p, item, when, scratch, dict(want, metadata="metadata.watchkeep.json"))


@in_both
def incomplete(scratch, p):
    """A file that may not be read, one that has no form in a tar, a server's data folder."""
    want = make(p)
    wk.write(p.path("secret"), "nobody reads it")
    os.chmod(p.path("secret"), 0)
    if os.geteuid() == 0:
        os.chown(p.path("secret"), 0, 0)
    wk.write(p.path("pg/PG_VERSION"), "15\n")
    os.makedirs(p.path("pg/base"), exist_ok=True)
    s = socket.socket(socket.AF_UNIX)
    s.bind(p.path("socket"))
    s.close()
    want["files"].add(b"pg/PG_VERSION")
    item, when = p.archived(code=3)
    reasons = {x["path"]: x["reason"] for x in item["left_out"]}
    left_out = {b"secret": reasons["secret"]}
    assert "ermission denied" in reasons["secret"], reasons
    if p.form == "tar.gz":
        left_out[b"socket"] = reasons["socket"]
        assert "socket" in reasons["socket"], reasons
    true_in_every_field(p, item, when, scratch, dict(want, complete=False, left_out=left_out))


wk.main(whole, own_metadata, incomplete)
