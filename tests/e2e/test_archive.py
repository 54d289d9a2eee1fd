"""Archives: what stock tools make of them, what they are made of, and where they come from."""
import hashlib
import importlib.util
import io
import json
import os
import sqlite3
import stat
import struct
import subprocess
import tarfile

import wk

spec = importlib.util.spec_from_file_location(
    "odd", os.path.join(os.path.dirname(os.path.abspath(__file__)), "test_odd_tree.py"))


def odd_tree(root):
    """The tree of test_odd_tree, whose own tests do not run here."""
    module = importlib.util.module_from_spec(spec)
    main, wk.main = wk.main, lambda *tests: None
    try:
        spec.loader.exec_module(module)
    finally:
        wk.main = main
    module.make(root, os.geteuid() == 0)


def database(path, rows=100):
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE a(x)")
    db.execute("CREATE TABLE b(x)")
    db.executemany("INSERT INTO a VALUES (?)", [(i,) for i in range(rows)])
    db.commit()
    db.close()


def config(scratch, root, **archive):
    path = os.path.join(scratch, "watchkeep.conf")
    with open(path, "w") as f:
        f.write("[service]\nrepository = %s\nsocket = %s\n[watch data]\npath = %s\n[archive]\n" % (
            os.path.join(scratch, "repo"), os.path.join(scratch, "sock"), root))
        for k, v in archive.items():
            f.write("%s = %s\n" % (k, v))
    return path


def ready(scratch, **archive):
    root = os.path.join(scratch, "data")
    conf = config(scratch, root, **archive)
    wk.wk("-c", conf, "init")
    return root, conf


def archived(conf, *args, code=0):
    r = wk.wk("-c", conf, "--json", "archive", *args, code=code)
    return [line for line in r.lines if line["type"] == "archived"]


def sha256(path):
    h = hashlib.sha256()
    with open(path, "rb", opener=lambda p, f: os.open(p, f | os.O_NOFOLLOW)) as f:
        while True:
            part = f.read(1 << 20)
            if not part:
                return h.hexdigest()
            h.update(part)


def odd_with_stock_tools(scratch):
    root, conf = ready(scratch)
    odd_tree(root)
    deep = [n for n in os.listdir(root) if n.startswith("d00")][0]
    wk.remove(os.path.join(root, deep))  # longer than PATH_MAX: tar cannot make it
    database(os.path.join(root, "real.db"))
    os.unlink(os.path.join(root, "socket"))
    before = wk.tree(root)
    item = archived(conf)[0]
    assert item["verified"] and item["left_out"] == [], item
    name = item["path"]
    subprocess.run(["gzip", "-t", name], check=True)
    plain = subprocess.run(["zcat", name], check=True, capture_output=True).stdout
    assert len(plain) % 512 == 0

    to = os.path.join(scratch, "tar")
    os.mkdir(to)
    r = subprocess.run(["tar", "-C", to, "--xattrs", "--xattrs-include=*", "-xpzf", name],
                       capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    assert all("implausibly old time stamp" in line for line in r.stderr.splitlines()), r.stderr
    top = os.path.join(to, item["name"])
    os.unlink(os.path.join(top, "metadata.json"))
    os.utime(top, ns=(os.stat(root).st_mtime_ns,) * 2)
    wk.same(before, wk.tree(top), "tar xzf")
    assert os.stat(os.path.join(top, "sparse")).st_blocks < 200, "holes were filled"
    wk.remove(to)

    to = os.path.join(scratch, "python")
    with tarfile.open(name) as t:
        for m in t:
            if not m.isdev():
                t.extract(m, to, numeric_owner=True)
        listed = {os.fsencode(m.name): m for m in t.getmembers()}
    top = os.path.join(to, item["name"])
    for dirpath, dirs, files in os.walk(os.fsencode(root)):
        for f in files:
            path = os.path.join(dirpath, f)
            rel = os.path.relpath(path, os.fsencode(root))
            st = os.lstat(path)
            if stat.S_ISREG(st.st_mode):
                there = os.path.join(os.fsencode(top), rel)
                assert os.lstat(there).st_size == st.st_size, rel
                if st.st_size < 1 << 24:
                    assert sha256(there) == sha256(path), rel
            assert os.path.join(os.fsencode(item["name"]), rel) in listed, rel
    wk.remove(to)
    back = os.path.join(scratch, "ours")
    wk.wk("-c", conf, "restore", item["name"], "--to", back)
    wk.same(before, wk.tree(back), "restore of the archive")


def settle_times(root):
    """Everything gets a time of its own, long ago."""
    at = 1500000000
    for folder, _, files in os.walk(root, topdown=False):
        for path in [os.path.join(folder, f) for f in sorted(files)] + [folder]:
            at += 1
            os.utime(path, ns=(at * 10**9 + 123456789,) * 2, follow_symlinks=False)


def by_kind(scratch):
    """Members stand by kind, and not folder by folder: every folder has its time and mode all the
    same, a further name comes after the first, and who unpacks needs no more rights than before."""
    root, conf = ready(scratch)
    for folder in ("a", "b", "b/deep/er", "closed/in", "group", "heir"):
        os.makedirs(os.path.join(root, folder))
        for name in ("1.txt", "2.py", "3.txt", "4", "5.py"):
            wk.write(os.path.join(root, folder, name), folder + name)
    os.makedirs(os.path.join(root, "z", "empty"))
    os.link(os.path.join(root, "a", "5.py"), os.path.join(root, "b", "0.aaa"))
    os.link(os.path.join(root, "closed", "in", "4"), os.path.join(root, "z", "4"))
    wk.write(os.path.join(root, "a", "long"), b"long" * 700000)
    os.link(os.path.join(root, "a", "long"), os.path.join(root, "a", "also.long"))
    wk.write(os.path.join(root, "b", "longer"), os.urandom(1 << 20) * 17)
    os.symlink("1.txt", os.path.join(root, "a", "link.txt"))
    inherit = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, 7, 65534 if tag == 2 else 2**32 - 1) for tag in (1, 2, 4, 16, 32))
    try:
        os.setxattr(os.path.join(root, "heir"), "system.posix_acl_default", inherit)
    except OSError:
        pass  # no ACLs here
    os.chmod(os.path.join(root, "group"), 0o2775)
    os.chmod(os.path.join(root, "closed", "in"), 0o555)
    os.chmod(os.path.join(root, "closed"), 0o555)
    os.chmod(os.path.join(root, "b"), 0o700)
    settle_times(root)
    before = wk.tree(root)
    item = archived(conf)[0]

    with tarfile.open(item["path"]) as t:
        names = [m.name.split("/", 1)[-1] for m in t.getmembers()]
        to = os.path.join(scratch, "python")
        t.extractall(to, numeric_owner=True)
    open_ones = [n for n in names if n.startswith(("a/", "b/", "z/")) and n.endswith(".txt")]
    at = names.index(open_ones[0])
    assert names[at:at + len(open_ones)] == open_ones, names
    assert names.index("metadata.json") < names.index("b/deep", names.index("metadata.json")), names
    check_unpacked(wk.tree(root), root, to, item["name"], "tarfile")

    to = os.path.join(scratch, "tar")
    os.mkdir(to)
    subprocess.run(["tar", "-C", to, "--xattrs", "--xattrs-include=*", "-xpzf", item["path"]],
                   check=True)
    check_unpacked(before, root, to, item["name"], "tar")

    if os.geteuid() == 0:
        os.chmod(scratch, 0o755)
        to = os.path.join(scratch, "user")
        os.mkdir(to)
        os.chown(to, 65534, 65534)
        with open(item["path"], "rb") as f:
            subprocess.run(["tar", "-C", to, "-xpzf", "-"], stdin=f, user=65534, group=65534,
                           extra_groups=[], check=True)
        check_unpacked(wk.tree(root, owner=False), root, to, item["name"], "tar by a user",
                       owner=False)

    back = os.path.join(scratch, "ours")
    wk.wk("-c", conf, "restore", item["name"], "--to", back)
    wk.same(before, wk.tree(back), "restore of the archive")
    listed = wk.wk("-c", conf, "--json", "ls", item["name"]).json["entries"]
    paths = [x["path"] for x in listed]
    assert len(paths) == len(set(paths)), paths
    assert paths == sorted(paths, key=lambda p: p.split("/")), paths
    snapshot = wk.wk("-c", conf, "--json", "ls", "latest").json["entries"]
    assert listed == snapshot, [x for x in zip(listed, snapshot) if x[0] != x[1]]
    for part in ("b", "b/0.aaa", "z"):  # the first names lie elsewhere
        assert wk.wk("-c", conf, "--json", "ls", item["name"] + ":" + part).json["entries"] == \
            wk.wk("-c", conf, "--json", "ls", "latest:" + part).json["entries"], part


def databases_that_need_their_app(scratch):
    """A collation or a function of the app's own, or a database that is broken: it is copied and
    archived as it is, and the metadata says what it is like."""
    root, conf = ready(scratch)
    os.mkdir(root)
    db = sqlite3.connect(os.path.join(root, "own.db"))
    db.create_collation("own", lambda a, b: (a > b) - (a < b))
    db.create_function("twice", 1, lambda x: 2 * x, deterministic=True)
    db.execute("CREATE TABLE word(x TEXT COLLATE own UNIQUE, y INT)")
    db.execute("CREATE INDEX word_twice ON word(twice(y))")
    db.executemany("INSERT INTO word VALUES (?, ?)", [(str(i), i) for i in range(100)])
    db.commit()
    db.close()
    database(os.path.join(root, "broken.db"), 5000)
    with open(os.path.join(root, "broken.db"), "r+b") as f:
        f.seek(4096)
        f.write(b"x" * 8192)
    item, = archived(conf)
    assert item["verified"] and not item["damaged"], item
    meta = wk.wk("-c", conf, "--json", "show", item["name"]).json
    told = {d["path"]: d for d in meta["databases"]}
    assert told["own.db"]["integrity"].startswith("not checked: "), told
    assert (told["own.db"]["tables"], told["own.db"]["rows"]) == (1, 100), told
    assert told["broken.db"]["integrity"] not in ("ok", "") and "not checked" not in \
        told["broken.db"]["integrity"], told
    assert wk.wk("-c", conf, "--json", "verify", item["name"]).summary["databases"] == 2
    back = os.path.join(scratch, "back")
    wk.wk("-c", conf, "restore", item["name"], "--to", back)
    wk.same(wk.tree(root), wk.tree(back))


def databases_of_several_kinds(scratch):
    """Members stand by kind, and so not in the order of names: the databases among them are found all
    the same when the archive is read back."""
    root, conf = ready(scratch)
    os.mkdir(root)
    for i, name in enumerate(("a.sqlite", "b.db", "c.sqlite", "d", "e.db")):
        database(os.path.join(root, name), 10 * i)
    item, = archived(conf)
    assert item["verified"] and not item["damaged"], item
    told = wk.wk("-c", conf, "--json", "show", item["name"]).json["databases"]
    assert sorted(d["path"] for d in told) == sorted(os.listdir(root)), told
    with tarfile.open(item["path"]) as t:
        names = [m.name.split("/", 1)[-1] for m in t.getmembers() if m.isfile()]
    assert names != sorted(names), names
    assert [d["path"] for d in told] == [n for n in names if n != "metadata.json"], told
    assert wk.wk("-c", conf, "--json", "verify", item["name"]).summary["databases"] == len(told)


def more_than_one_window(scratch):
    """So many that they are gathered several times, more than are made into one piece: each comes
    once, behind its folder, with what it holds."""
    root, conf = ready(scratch)
    for d in range(40):
        os.makedirs(os.path.join(root, "d%02d" % d, "in"))
        for i in range(450):
            wk.write(os.path.join(root, "d%02d" % d, "in", "%d.%s" % (i, "abc"[i % 3])),
                     b"" if i % 50 == 0 else b"%d" % (i * d % 700) * (1 + i % 40))
        os.link(os.path.join(root, "d00", "in", "%d.a" % (3 * d)), os.path.join(root, "d%02d" % d, "z"))
        wk.write(os.path.join(root, "d%02d" % d, "random"), os.urandom(300000))
    settle_times(root)
    before = wk.tree(root)
    item = archived(conf)[0]
    assert item["verified"], item
    with tarfile.open(item["path"]) as t:
        names = [m.name for m in t if not m.isdir() and m.name != item["name"] + "/metadata.json"]
    assert len(names) == len(set(names)) == 40 * 452, len(names)
    to = os.path.join(scratch, "tar")
    os.mkdir(to)
    subprocess.run(["tar", "-C", to, "-xpzf", item["path"]], check=True)
    check_unpacked(before, root, to, item["name"], "tar")


def longer_names_than_a_window(scratch):
    """More bytes of names than are kept at once, long before there are too many files: each comes once,
    in its folder, with what it holds."""
    root, conf = ready(scratch)
    deep = os.path.join(root, *["%02d" % i + "d" * 238 for i in range(14)])
    os.makedirs(deep)
    for i in range(2600):
        wk.write(os.path.join(deep, "%04d" % i + "f" * 196 + "." + "abc"[i % 3]), b"%d" % i)
    settle_times(root)
    before = wk.tree(root)
    item = archived(conf)[0]
    assert item["verified"] and item["left_out"] == [], item
    with tarfile.open(item["path"]) as t:
        held = {m.name: t.extractfile(m).read() for m in t if "f" * 196 in m.name}
    assert sorted(held.values()) == sorted(b"%d" % i for i in range(2600)), len(held)
    to = os.path.join(scratch, "tar")
    os.mkdir(to)
    subprocess.run(["tar", "-C", to, "-xpzf", item["path"]], check=True)
    check_unpacked(before, root, to, item["name"], "tar")


def check_unpacked(before, root, to, name, how, **what):
    top = os.path.join(to, name)
    os.unlink(os.path.join(top, "metadata.json"))
    os.utime(top, ns=(os.stat(root).st_mtime_ns,) * 2)
    after = wk.tree(top, **what)
    for d in [*before.values(), *after.values()]:
        if how == "tar" or "type" not in d:
            continue
        d.pop("xattrs", None)  # nobody asked for ACLs
        if how == "tarfile":   # floating point; links keep the time they are made at
            d["mtime"] = 0 if stat.S_ISLNK(d["type"]) else d["mtime"] // 10**9
    wk.same(before, after, how)
    subprocess.run(["chmod", "-R", "u+rwx", to], check=True)
    wk.remove(to)


def odd_as_a_folder(scratch):
    root, conf = ready(scratch, format="directory")
    odd_tree(root)
    database(os.path.join(root, "real.db"))
    before = wk.tree(root)
    item = archived(conf)[0]
    assert item["format"] == "directory" and item["verified"], item
    assert os.path.isdir(item["path"])
    back = os.path.join(scratch, "ours")
    wk.wk("-c", conf, "restore", item["name"], "--to", back)
    wk.same(before, wk.tree(back), "restore of the archive")
    wk.remove(back)
    to = os.path.join(scratch, "copy")
    deep = [n for n in os.listdir(item["path"]) if n.startswith("d00")][0]
    wk.remove(os.path.join(item["path"], deep))
    wk.remove(os.path.join(root, deep))
    os.mkdir(to)
    subprocess.run(["cp", "-a", item["path"] + "/.", to], check=True)
    os.unlink(os.path.join(to, "metadata.json"))
    before, after = wk.tree(root), wk.tree(to)
    for tree in (before, after):
        tree.pop(b"", None)
        tree.pop("", None)
    wk.same({p: v for p, v in before.items() if p not in (b".", ".")},
            {p: v for p, v in after.items() if p not in (b".", ".")}, "cp -a")


def own_metadata(scratch):
    """A root with a metadata.json of its own keeps it."""
    for form in ("tar.gz", "directory"):
        place = os.path.join(scratch, form)
        os.mkdir(place)
        root, conf = ready(place, format=form)
        os.mkdir(root)
        wk.write(os.path.join(root, "metadata.json"), "mine")
        item = archived(conf)[0]
        assert wk.wk("-c", conf, "cat", item["name"] + ":metadata.json").out == "mine"
        back = os.path.join(place, "back")
        wk.wk("-c", conf, "restore", item["path"], "--to", back)
        assert os.listdir(back) == ["metadata.json"]
        if form == "directory":
            text = open(os.path.join(item["path"], "metadata.watchkeep.json")).read()
        else:
            with tarfile.open(item["path"]) as t:
                text = t.extractfile(item["name"] + "/metadata.watchkeep.json").read()
        assert json.loads(text)["file_count"] == 1


def names_and_places(scratch):
    root, conf = ready(scratch, path=os.path.join(scratch, "elsewhere"))
    os.mkdir(root)
    wk.write(os.path.join(root, "a"), "a")
    first = archived(conf, "--name", "before-upgrade")[0]
    assert first["path"] == os.path.join(scratch, "elsewhere", "data", "manual",
                                         "backup_before-upgrade.tar.gz")
    before = sha256(first["path"])
    r = wk.wk("-c", conf, "archive", "--name", "before-upgrade", code=5)
    assert "before-upgrade" in r.err
    assert sha256(first["path"]) == before
    several = [archived(conf)[0]["name"] for _ in range(4)]
    assert len(set(several)) == 4
    listed = wk.wk("-c", conf, "--json", "list", "--archives").json["archives"]
    assert len(listed) == 5 and all(a["verified"] for a in listed), listed
    assert [a["time"] for a in listed] == sorted(a["time"] for a in listed)
    assert len(wk.wk("-c", conf, "--json", "list", "--archives", "--recent", "2").json["archives"]) == 2
    wk.wk("-c", conf, "archive", "--name", "no/slash", code=2)
    wk.wk("-c", conf, "archive", "--meta", "none", code=2)
    wk.wk("-c", conf, "archive", "other", code=6)
    assert stat.S_IMODE(os.stat(first["path"]).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(first["path"])).st_mode) == 0o700
    # A folder that another file system keeps, or that was copied elsewhere, needs no repository.
    wk.remove(os.path.join(scratch, "repo"))
    assert len(wk.wk("-c", conf, "--json", "list", "--archives").json["archives"]) == 5
    back = os.path.join(scratch, "back")
    wk.wk("restore", first["path"], "--to", back)
    assert open(os.path.join(back, "a")).read() == "a"


def archives_inside_the_watch(scratch):
    """Another watch's archives lie in this one: they are not saved with it."""
    a, b = os.path.join(scratch, "a"), os.path.join(scratch, "b")
    for d in (a, b):
        os.mkdir(d)
        wk.write(os.path.join(d, "file"), d)
    conf = os.path.join(scratch, "c.conf")
    wk.write(conf, "[service]\nrepository = %s/repo\nsocket = %s/s\n[watch a]\npath = %s\n"
             "[watch b]\npath = %s\n[archive b]\npath = %s/kept\nformat = directory\n"
             % (scratch, scratch, a, b, a))
    wk.wk("-c", conf, "init")
    lines = wk.wk("-c", conf, "--json", "archive").lines
    assert [x["watch"] for x in lines[:2]] == ["a", "b"] and lines[2]["archives"] == 2, lines
    assert lines[1]["path"].startswith(os.path.join(a, "kept", "b", "automatic")), lines
    assert wk.wk("-c", conf, "--json", "save", "a").summary["snapshot"] is None
    listed = wk.wk("-c", conf, "--json", "list", "--archives").json["archives"]
    assert sorted(x["watch"] for x in listed) == ["a", "b"], listed
    assert wk.wk("-c", conf, "cat", lines[1]["name"] + ":file", "-w", "b").out == b


def what_is_refused(scratch):
    root, conf = ready(scratch)
    os.mkdir(root)
    for i in range(30):
        wk.write(os.path.join(root, "f%d" % i), "x%d" % i)
    wk.wk("-c", conf, "save")
    folder = os.path.join(scratch, "repo", "archives")
    os.rename(root, root + ".away")
    r = wk.wk("-c", conf, "archive", code=None)
    assert r.code != 0, r
    os.mkdir(root)
    wk.write(os.path.join(root, "left"), "1")
    assert "suspect" in wk.wk("-c", conf, "archive", code=5).err
    assert not os.path.exists(folder) or wk.wk("-c", conf, "--json", "list", "--archives").json[
        "archives"] == []
    os.rename(root, root + ".empty")
    os.rename(root + ".away", root)
    wk.wk("-c", conf, "archive")


def a_full_disk(scratch):
    """Told by the folder of the archives, and nothing is left there."""
    wk.need_root()
    full = os.path.join(scratch, "full")
    root, conf = ready(scratch, path=full)
    os.mkdir(root)
    os.mkdir(full)
    wk.write(os.path.join(root, "f"), os.urandom(2 << 20))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", full]).returncode:
        wk.skip("cannot mount a tmpfs here")
    try:
        for how in ("tar.gz", "directory"):
            config(scratch, root, path=full, format=how)
            r = wk.wk("-c", conf, "archive", code=13)
            folder = os.path.join(full, "data", "automatic")
            assert folder in r.err and "No space left" in r.err, r
            assert os.listdir(folder) == [], os.listdir(folder)
    finally:
        subprocess.run(["umount", "-l", full], check=True)


def damage_makes_no_archive(scratch):
    root, conf = ready(scratch)
    os.mkdir(root)
    with open(os.path.join(root, "big"), "wb") as f:
        f.write(os.urandom(3 << 20))
    wk.wk("-c", conf, "save")
    for name in os.listdir(os.path.join(scratch, "repo", "packs")):
        path = os.path.join(scratch, "repo", "packs", name)
        if name.startswith("1-data") and os.path.getsize(path) > 1 << 20:
            with open(path, "r+b") as f:
                f.seek(os.path.getsize(path) // 2)
                f.write(b"\xff" * 64)
    for form in ("tar.gz", "directory"):
        config(scratch, root, format=form)
        r = wk.wk("-c", conf, "archive", code=4)
        assert "big" in r.err, r
        left = [n for _, d, f in os.walk(os.path.join(scratch, "repo", "archives"))
                for n in d + f if n not in ("data", "automatic")]
        assert left == [], left


def damage_in_an_archive(scratch):
    root, conf = ready(scratch)
    os.mkdir(root)
    wk.write(os.path.join(root, "text"), "some text\n" * 1000)
    with open(os.path.join(root, "noise"), "wb") as f:
        f.write(os.urandom(200000))
    item = archived(conf)[0]
    good = open(item["path"], "rb").read()
    back = os.path.join(scratch, "back")
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 1
    for data in (bytes(bad), good[:len(good) // 2], good[:-1], good[:-600], b"", b"no gzip at all"):
        with open(item["path"], "wb") as f:
            f.write(data)
        wk.wk("-c", conf, "verify", item["name"], code=4)
        listed = wk.wk("-c", conf, "--json", "list", "--archives").json["archives"][0]
        assert listed["damaged"] and listed["verified"] is None, listed
        wk.wk("-c", conf, "restore", item["path"], "--to", back, code=4)
        assert not os.path.exists(back)
    with open(item["path"], "wb") as f:
        f.write(good)
    wk.wk("-c", conf, "verify", item["name"])
    listed = wk.wk("-c", conf, "--json", "list", "--archives").json["archives"][0]
    assert not listed["damaged"] and listed["verified"], listed
    # A whole tar whose files are not those that were archived.
    with tarfile.open(item["path"]) as t:
        names = t.getnames()
        content = {n: t.extractfile(n).read() if t.getmember(n).isfile() else None for n in names}
        infos = {n: t.getmember(n) for n in names}
    with tarfile.open(item["path"], "w:gz", format=tarfile.PAX_FORMAT) as t:
        for n in names:
            data = content[n]
            if n.endswith("/text"):
                data = b"other text" * 1000
            t.addfile(infos[n], io.BytesIO(data) if data is not None else None)
    r = wk.wk("-c", conf, "verify", item["name"], code=4)
    assert "text" in r.out, r


def hostile(scratch):
    """Nothing outside the target changes, whatever a tar says."""
    outside = os.path.join(scratch, "outside")
    os.mkdir(outside)
    wk.write(os.path.join(outside, "victim"), "untouched")

    def info(name, kind=tarfile.REGTYPE, link="", size=0):
        t = tarfile.TarInfo(name)
        t.type, t.linkname, t.size, t.mode = kind, link, size, 0o755 if kind == tarfile.DIRTYPE else 0o644
        return t
    top = info("backup_x", tarfile.DIRTYPE)
    evil = io.BytesIO
    cases = {
        "up": ([top, info("backup_x/../../outside/victim", size=4)], 5),
        "absolute": ([top, info(os.path.join(outside, "victim"), size=4)], 5),
        "beside": ([top, info("other/file", size=4)], 5),
        "through a link": ([top, info("backup_x/l", tarfile.SYMTYPE, outside),
                            info("backup_x/l/victim", size=4)], None),
        "hard link out": ([top, info("backup_x/h", tarfile.LNKTYPE, "../outside/victim")], 5),
        "hard link through a link": ([top, info("backup_x/l", tarfile.SYMTYPE, outside),
                                      info("backup_x/h", tarfile.LNKTYPE, "backup_x/l/victim"),
                                      info("backup_x/h", size=4)], None),
        "twice": ([top, info("backup_x/a", tarfile.SYMTYPE, os.path.join(outside, "victim")),
                   info("backup_x/a", size=4)], None),
        "link to itself": ([top, info("backup_x/a", tarfile.LNKTYPE, "backup_x/a")], None),
        "a folder as file": ([top, info("backup_x/a", size=4), info("backup_x/a/b", size=4)], None),
    }
    for what, (members, code) in cases.items():
        path = os.path.join(scratch, "evil.tar.gz")
        with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as t:
            for m in members:
                t.addfile(m, evil(b"evil"[:m.size]))
        for extra in ([], ["--overwrite"]):
            to = os.path.join(scratch, "to")
            r = wk.wk("restore", path, "--to", to, *extra, code=None)
            assert r.code in ((code,) if code is not None else (0, 1, 4, 5)), (what, r)
            if r.code == 0:
                wk.remove(to)
            assert open(os.path.join(outside, "victim")).read() == "untouched", what
            assert os.listdir(outside) == ["victim"], what
            if os.path.exists(to):
                wk.remove(to)
        wk.wk("ls", path, code=None)
        wk.wk("verify", path, code=4)


def through_the_service(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    wk.write(os.path.join(root, "a"), "1")
    service = wk.Service(scratch, {"data": {"path": root}})
    wk.write(os.path.join(root, "a"), "2")
    r = service.cli("--json", "archive", "--meta", "k=v", "--name", "one")
    assert [x["type"] for x in r.lines] == ["archived", "summary"], r
    item = r.lines[0]
    assert item["verified"] and r.summary["archives"] == 1, r
    assert service.cli("cat", item["name"] + ":a").out == "2"
    assert service.cli("--json", "show", item["name"]).json["app"] == {"k": "v"}
    assert "one" in service.cli("archive", "--name", "one", code=5).err
    assert service.cli("archive", "none", code=6).err
    service.stop()


def left_by_a_kill(scratch):
    """What a killed run left goes with the next, and never has the name of an archive."""
    root, conf = ready(scratch)
    os.mkdir(root)
    wk.write(os.path.join(root, "a"), "1")
    item = archived(conf)[0]
    folder = os.path.dirname(item["path"])
    for name in (".watchkeep-backup_2020-01-01_00-00-00-01234567",
                 ".watchkeep-backup_2020-01-01_00-00-00-01234567.json", ".wk-tmp-0123456789abcdef"):
        open(os.path.join(folder, name), "w").close()
    os.mkdir(os.path.join(folder, ".watchkeep-backup_2020-01-01_00-00-01-01234567"))
    os.unlink(item["path"])  # only its NAME.json is left
    again = archived(conf)[0]
    assert sorted(os.listdir(folder)) == [again["name"] + ".json", again["name"] + ".tar.gz"], \
        os.listdir(folder)


wk.main(odd_with_stock_tools, by_kind, more_than_one_window, longer_names_than_a_window,
        databases_that_need_their_app, databases_of_several_kinds, odd_as_a_folder, own_metadata,
        names_and_places, archives_inside_the_watch, what_is_refused, a_full_disk, damage_makes_no_archive, damage_in_an_archive, hostile, through_the_service,
        left_by_a_kill)
