"""prune as people use it: here and through the service, frozen and thawed, beside everything else,
and when space is short."""
import json
import os
import random
import sqlite3
import subprocess
import threading
import time

import wk

MIB = 1 << 20
# How long the four loops run; a long run: WK_SECONDS=60.
SECONDS = float(os.environ.get("WK_SECONDS", "6"))


def ids(repo):
    return [s["id"] for s in wk.wk("-r", repo, "--json", "list", "--all").json["snapshots"]]


def free(at):
    st = os.statvfs(at)
    return st.f_bavail * st.f_frsize


def config(scratch, text, name="wk.conf"):
    path = os.path.join(scratch, name)
    wk.write(path, text)
    return path


def kept_and_dropped(scratch):
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    conf = config(scratch, "[service]\nrepository = %s\n[watch data]\npath = %s\n[retention]\n"
                  "keep_days = off\nkeep_daily = off\nkeep_monthly = off\nkeep_last = 1\n"
                  % (repo, root))
    wk.wk("-c", conf, "init")
    trees = {}
    for i in range(8):
        wk.write(os.path.join(root, "a%d" % (i % 3)), os.urandom(5000))
        wk.wk("-c", conf, "save", *(["--name", "kept"] if i == 1 else []))
        trees[i + 1] = wk.tree(root)
    dry = wk.wk("-c", conf, "--json", "prune", "--dry-run")
    assert ids(repo) == list(range(1, 9))
    assert {d["id"] for d in dry.lines[:-1] if not d["keep"]} == {1, 3, 4, 5}, dry
    assert dry.summary["dry_run"] and dry.summary["exit"] == 0
    text = wk.wk("-c", conf, "prune").out
    assert "named" in text and "drop  3" in text, text
    assert ids(repo) == [2, 6, 7, 8]
    again = wk.wk("-c", conf, "--json", "prune").summary
    assert again["dropped"] == 0 and again["kept"] == 4, again
    for i in ids(repo):
        wk.same(trees[i], wk.restored(repo, i, scratch), "snapshot %d" % i)
    assert "no snapshot 3" in wk.wk("-r", repo, "show", "3", code=6).err
    codes = [p["code"] for p in wk.wk("-c", conf, "--json", "status", code=8).json["problems"]]
    assert "space" not in codes, codes
    small = config(scratch, open(conf).read() + "max_size = 64K\n", "small.conf")
    told = [p for p in wk.wk("-c", small, "--json", "status", code=8).json["problems"]
            if p["code"] == "space"]
    assert told and "max_size" in told[0]["message"], told
    wk.wk("-c", conf, "unpin", "kept")
    wk.wk("-c", conf, "prune")
    wk.wk("-c", conf, "rebuild")
    assert ids(repo) == [6, 7, 8]
    assert "no watch 'x'" in wk.wk("-c", conf, "-w", "x", "prune", code=6).err
    wk.wk("-r", os.path.join(scratch, "none"), "prune", code=10)


def archives_too(scratch):
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    conf = config(scratch, "[service]\nrepository = %s\n[watch data]\npath = %s\n[archive]\n"
                  "format = directory\nkeep_days = off\nkeep_last = 2\n" % (repo, root))
    wk.wk("-c", conf, "init")

    def names():
        return [a["name"] for a in wk.wk("-c", conf, "--json", "list", "--archives").json["archives"]]
    for i in range(6):
        wk.write(os.path.join(root, "a"), str(i))
        wk.wk("-c", conf, "save")
        wk.wk("-c", conf, "archive", *(["--name", "mine"] if i == 1 else []))
    before = names()
    assert len(before) == 6 and "backup_mine" in before, before
    manual = [a for a in before if a == "backup_mine"]
    r = wk.wk("-c", conf, "prune", "--dry-run")
    assert "archives: 4 kept, 2 would be dropped" in r.out, r
    r = wk.wk("-c", conf, "--json", "prune")
    told = {d["archive"]: d["keep"] for d in r.lines[:-1] if d["archive"]}
    assert set(told) == set(before), told
    left = names()
    assert set(left) == {a for a, keep in told.items() if keep}, (told, left)
    assert set(manual) <= set(left)
    assert r.summary["archives_kept"] == len(left)
    assert len(left) == 4, left  # the named one, and the floor of three above keep_last
    folders = {n for d, sub, _ in os.walk(os.path.join(repo, "archives")) for n in sub}
    assert {n for n in folders if n.startswith("backup_")} == set(left), folders


def archives_that_cannot_be_removed(scratch):
    """Told, as kept and by the exit code; what is to go of snapshots and of other watches goes."""
    wk.need_root()
    repo = os.path.join(scratch, "repo")
    roots = {w: os.path.join(scratch, w) for w in ("one", "two")}
    conf = config(scratch, "[service]\nrepository = %s\n[watch one]\npath = %s\n[watch two]\npath = %s\n"
                  "[archive]\nkeep_days = off\nkeep_last = 3\n[retention]\nkeep_days = off\nkeep_daily = off\n"
                  "keep_monthly = off\nkeep_last = 3\n" % (repo, roots["one"], roots["two"]))
    for root in roots.values():
        os.mkdir(root)
    wk.wk("-c", conf, "init")
    for i in range(5):
        for w, root in roots.items():
            wk.write(os.path.join(root, "a"), w + str(i))
        wk.wk("-c", conf, "archive")
    held = os.path.join(repo, "archives", "one", "automatic")
    subprocess.run(["mount", "--bind", held, held], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", held], check=True)
        r = wk.wk("-c", conf, "--json", "prune", code=12)
    finally:
        subprocess.run(["umount", held], check=True)
    assert "cannot remove the archive '%s/" % held in r.err, r
    told = [d for d in r.lines[:-1] if d["archive"]]
    assert [d["reason"] for d in told if d["watch"] == "one" and "cannot" in d["reason"]] == \
        2 * ["it cannot be removed"] and sum(d["keep"] for d in told) == 5 + 3, r
    assert r.summary["archives_kept"] == 8 and r.summary["archives_dropped"] == 2, r
    for w in roots:
        assert len(wk.wk("-c", conf, "--json", "list", w).json["snapshots"]) == 3, w
    r = wk.wk("-c", conf, "--json", "prune")
    assert r.summary["archives_kept"] == 6 and r.summary["archives_dropped"] == 2, r


def archives_where_names_may_be_replaced(scratch):
    """NFS and FUSE know no rename that spares what is there: archives go there all the same."""
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    conf = config(scratch, "[service]\nrepository = %s\n[watch data]\npath = %s\n[archive]\n"
                  "keep_days = off\nkeep_last = 3\n" % (repo, root))
    wk.wk("-c", conf, "init")
    for i in range(4):
        wk.write(os.path.join(root, "a"), str(i))
        wk.wk("-c", conf, "archive")
    log = os.path.join(scratch, "calls")
    subprocess.run(["strace", "-f", "-qq", "-o", log, "-e", "trace=renameat2", "-e",
                    "inject=renameat2:error=EINVAL:when=1", wk.BIN, "-c", conf, "prune"],
                   env=wk.environment(), check=True, stdout=subprocess.DEVNULL)
    assert "RENAME_NOREPLACE) = -1 EINVAL" in open(log).read().splitlines()[0], open(log).read()
    left = wk.wk("-c", conf, "--json", "list", "--archives").json["archives"]
    assert len(left) == 3, left


def archives_of_several_repositories(scratch):
    """One folder, one name of a watch: nobody's rules take what another one made."""
    names = {}
    for who in ("here", "there"):
        root = os.path.join(scratch, who, "data")
        os.makedirs(root)
        conf = config(os.path.join(scratch, who), "[service]\nrepository = %s/repo-%s\n[watch data]\npath = %s\n"
                      "[archive]\npath = %s/archives\nkeep_days = off\nkeep_last = 3\n"
                      % (scratch, who, root, scratch))
        wk.wk("-c", conf, "init")
        for i in range(5):
            wk.write(os.path.join(root, "a"), who + str(i))
            made = wk.wk("-c", conf, "--json", "archive").lines[0]["name"]
            names.setdefault(who, []).append(made)
        r = wk.wk("-c", conf, "--json", "prune")
        assert r.summary["archives_dropped"] == 2, r
        told = {d["archive"]: d for d in r.lines[:-1] if d["archive"]}
        if who == "there":
            assert all(told[n]["reason"] == "of another host or folder" for n in names["here"][2:]), told
    left = {a["name"] for a in wk.wk("-c", conf, "--json", "list", "--archives").json["archives"]}
    assert left == set(names["here"][2:] + names["there"][2:]), (left, names)


def rules_that_are_refused(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    base = "[service]\nrepository = %s/repo\n[watch data]\npath = %s\n[retention]\n" % (scratch, root)
    for value in ("0", "1", "2", "-1"):
        conf = config(scratch, base + "keep_last = 5\nkeep_min = %s\n" % value)
        for command in (["config", "check"], ["prune"], ["save"]):
            r = wk.wk("-c", conf, *command, code=2)
            assert conf + ":7: " in r.err and "keep_min" in r.err, r
    conf = config(scratch, base + "keep_days = off\nkeep_daily = off\nkeep_monthly = off\n")
    r = wk.wk("-c", conf, "prune", code=2)
    assert conf + ":5: " in r.err and "no rule keeps anything" in r.err, r


def no_such_watch(scratch):
    """An error alone: nothing was looked at, so there is nothing to sum up."""
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    wk.write(os.path.join(root, "a"), "a")
    s = wk.Service(scratch, {"data": {"path": root}})

    def refused():
        r = s.cli("-w", "nosuch", "prune", code=6)
        assert r.out == "" and r.err == "watchkeep: no watch 'nosuch' in the repository\n", r
        assert s.cli("--json", "-w", "nosuch", "prune", code=6).summary["exit"] == 6
    refused()
    s.stop()
    refused()


def through_the_service(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    s = wk.Service(scratch, {"data": {"path": root}}, start=False)
    with open(s.conf, "a") as f:
        f.write("[retention]\nkeep_days = off\nkeep_daily = off\nkeep_monthly = off\nkeep_last = 1\n")
    s.start()
    for i in range(7):
        wk.write(os.path.join(root, "a"), str(i))
        s.save("data")
    before = ids(s.repo)
    r = s.cli("--json", "prune")
    assert r.summary["dropped"] == len(before) - 3, r
    assert ids(s.repo) == before[-3:]
    for n in range(30):
        wk.write(os.path.join(root, "f%d" % n), "x" * n)
    s.save("data")
    whole = ids(s.repo)[-1]
    for n in os.listdir(root):
        os.remove(os.path.join(root, n))
    wk.until(lambda: [p for p in s.status()["problems"] if p["code"] == "frozen"],
             "status to tell that it is frozen")
    for i in range(6):
        wk.write(os.path.join(root, "left"), str(i))
        s.save("data")
    kept = ids(s.repo)
    r = s.cli("prune", code=5)
    assert "is frozen" in r.err and "prune --thaw" in r.err, r
    assert ids(s.repo) == kept and whole in kept
    assert s.cli("status", code=7).code == 7
    s.cli("save", "data", "--accept")
    r = s.cli("--json", "-w", "data", "prune", "--thaw")
    assert r.summary["frozen"] == [] and r.summary["dropped"] > 0, r
    s.stop()


def encrypted(scratch):
    """Files that are all there and no longer what they were, as malware leaves them."""
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    conf = config(scratch, "[service]\nrepository = %s\n[watch data]\npath = %s\n[retention]\n"
                  "keep_days = off\nkeep_daily = off\nkeep_monthly = off\nkeep_last = 1\n"
                  % (repo, root))
    wk.wk("-c", conf, "init")
    names = ["settings%d.json" % i for i in range(6)] + ["notes%d.txt" % i for i in range(4)]
    whole = {n: json.dumps({"name": n, "list": list(range(50))}) for n in names}

    def put(some, content):
        for n in some:
            wk.write(os.path.join(root, n), content(n))
        wk.wk("-c", conf, "save", code=None)
    for i in range(5):
        put(names, lambda n: whole[n])
        put(["counter"], lambda n: str(i))
    put(names[:3], lambda n: os.urandom(400))  # three of eleven: not yet
    wk.wk("-c", conf, "prune")
    good = ids(repo)
    put(names[3:5], lambda n: os.urandom(400))
    put(names[5:8], lambda n: os.urandom(400))  # by now eight
    for _ in range(4):
        put(["counter"], lambda n: os.urandom(8).hex())
    kept = ids(repo)
    r = wk.wk("-c", conf, "prune", code=5)
    assert "no longer such" in r.err, r
    assert ids(repo) == kept and set(good) <= set(kept)
    put(names, lambda n: whole[n])
    wk.wk("-c", conf, "prune")
    assert len(ids(repo)) < len(kept)


def an_empty_mount_point(scratch):
    """The disk with the data is not mounted: what is there instead is nobody's state."""
    wk.need_root()
    root = os.path.join(scratch, "mnt")
    os.mkdir(root)
    if subprocess.run(["mount", "-t", "tmpfs", "none", root]).returncode:
        wk.skip("cannot mount a tmpfs here")
    mounted = True
    try:
        s = wk.Service(scratch, {"data": {"path": root}}, start=False)
        with open(s.conf, "a") as f:
            f.write("[retention]\nkeep_days = off\nkeep_daily = off\nkeep_monthly = off\n"
                    "keep_last = 1\n")
        s.start()
        for i in range(5):
            wk.write(os.path.join(root, "a"), str(i))
            s.save("data")
        good = ids(s.repo)
        state = wk.tree(root)
        content = {n: open(os.path.join(root, n), "rb").read() for n in os.listdir(root)}
        subprocess.run(["umount", "-l", root], check=True)
        mounted = False
        s.cli("save", "data", code=6)
        for _ in range(5):
            s.cli("prune", code=5)
        assert ids(s.repo) == good, "what was left was saved, or something was pruned"
        status = s.status()
        assert status["watches"][0]["state"] == "missing", status
        assert {"missing", "frozen"} <= {p["code"] for p in status["problems"]}, status
        assert s.cli("status", code=7).code == 7
        wk.same(state, wk.restored(s.repo, "latest", scratch))
        subprocess.run(["mount", "-t", "tmpfs", "none", root], check=True)
        mounted = True
        for n, data in content.items():
            wk.write(os.path.join(root, n), data)
        wk.until(lambda: s.status()["ok"], "all to be well when the disk is back")
        s.cli("prune")
        s.stop()
    finally:
        if mounted:
            subprocess.run(["umount", "-l", root], check=True)


def beside_everything(scratch):
    """Saves, restores, verifications and prunes at once: what remains can all be restored."""
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    s = wk.Service(scratch, {"data": {"path": root, "settle": "5ms"}}, start=False)
    with open(s.conf, "a") as f:
        f.write("[retention]\nkeep_days = off\nkeep_daily = off\nkeep_monthly = off\nkeep_last = 5\n")
    s.start()
    trees, failures, counts = {}, [], {}
    lock = threading.Lock()
    names = ("saves", "restores", "verifies", "prunes")
    begun = time.monotonic()

    def goes_on():
        """So long, and until each was done several times."""
        return not failures and (time.monotonic() < begun + SECONDS or (
            time.monotonic() < begun + wk.PATIENCE and min(counts.get(n, 0) for n in names) < 2))

    def loop(what):
        rng = random.Random("%s %s" % (what.__name__, os.environ.get("WK_SEED", "1")))
        while goes_on():
            try:
                what(rng)
                counts[what.__name__] = counts.get(what.__name__, 0) + 1
            except Exception as e:
                failures.append("%s: %s" % (what.__name__, e))

    def saves(rng):
        with lock:
            for _ in range(3):
                wk.write(os.path.join(root, "f%d" % rng.randrange(20)),
                         rng.randbytes(rng.randrange(60000)))
            number = s.save("data")["current"]
            trees[number] = wk.tree(root)

    def restores(rng):
        known = ids(s.repo)
        if not known:
            return
        number = rng.choice(known)
        target = os.path.join(scratch, "back")
        r = wk.wk("-r", s.repo, "restore", number, "--to", target, code=None)
        if r.code == 0 and number in trees:
            wk.same(trees[number], wk.tree(target), "snapshot %d beside prunes" % number)
        # It may have gone between the list and the restore, and only then.
        assert r.code == 0 or (r.code == 6 and number not in ids(s.repo)), r
        wk.remove(target)

    def verifies(rng):
        r = s.cli("--json", "verify", *(["--quick"] if rng.random() < 0.5 else []))
        assert r.summary["errors"] == 0, r

    def prunes(rng):
        s.cli("--json", "prune")

    threads = [threading.Thread(target=loop, args=(f,)) for f in (saves, restores, verifies, prunes)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures, failures
    assert all(counts.get(n, 0) > 1 for n in names), counts
    s.cli("prune")
    s.stop()
    left = ids(s.repo)
    assert 3 <= len(left) <= 12, left
    for number in left:
        back = wk.restored(s.repo, number, scratch)
        if number in trees:
            wk.same(trees[number], back, "snapshot %d" % number)
    assert wk.wk("-r", s.repo, "--json", "verify", "--full").summary["errors"] == 0
    print("  loops:", json.dumps(counts), "snapshots left:", len(left))


def where_others_took_the_room(scratch):
    """What is left is too little to move anything that lives: what can go without that goes, and
    the prune is done."""
    at = os.path.join(scratch, "disk")
    with wk.small_disk(at, 128 * MIB):
        root, repo = os.path.join(scratch, "data"), os.path.join(at, "repo")
        os.mkdir(root)
        conf = config(scratch, "[service]\nrepository = %s\nmin_free = %%s\n[watch data]\npath = %s\n"
                      "[retention]\nkeep_days = off\nkeep_daily = off\nkeep_monthly = off\n"
                      "keep_last = 1\n" % (repo, root))
        text, stays = open(conf).read(), os.urandom(100 << 10)
        wk.write(conf, text % "1M")
        wk.wk("-c", conf, "init")
        for i in range(6):
            for n in range(10):
                wk.write(os.path.join(root, "f%d" % n), os.urandom(MIB))
            wk.write(os.path.join(root, "stays"), stays)
            wk.wk("-c", conf, "save")
        wk.write(conf, text % "50%")
        with open(os.path.join(at, "others"), "ab", buffering=0) as f:
            while free(at) > 10 * MIB:
                f.write(bytes(MIB))
        before = free(at)
        wk.wk("-c", conf, "prune")
        assert len(ids(repo)) == 3
        assert free(at) > before + 20 * MIB, (before, free(at))
        wk.wk("-r", repo, "verify", "--full")
        os.remove(os.path.join(at, "others"))
        wk.wk("-c", conf, "prune")
        wk.same(wk.tree(root), wk.restored(repo, "latest", scratch))


def app_and_repository_on_one_disk(scratch):
    """The app never finds the disk full because of us: saves stop before, and go on by themselves."""
    at = os.path.join(scratch, "disk")
    with wk.small_disk(at, 100 * MIB):
        root = os.path.join(at, "data")
        os.mkdir(root)
        s = wk.Service(scratch, {"data": {"path": root, "settle": "5ms"}},
                       repo=os.path.join(at, "repo"), service={"min_free": "20%"}, start=False)
        with open(s.conf, "a") as f:
            f.write("[retention]\nkeep_days = 7\n")
        s.start()

        def free():
            st = os.statvfs(at)
            return st.f_bavail * st.f_frsize
        # The app rewrites 10 MiB again and again: every save stores all of it.
        refused = 0
        for i in range(30):
            for n in range(10):
                wk.write(os.path.join(root, "f%d" % n), os.urandom(MIB))  # no ENOSPC, ever
            r = s.cli("save", "data", code=None)
            assert r.code in (0, 13), r
            refused += r.code == 13
            assert free() > 4 * MIB, (i, free())
        assert refused > 0, "the disk was never short"
        assert len(ids(s.repo)) >= 3
        # By itself the app takes what is left, also of what history gave way; saves stop and say so.
        ballast = os.path.join(at, "ballast")

        for i in range(20):
            with open(ballast, "ab", buffering=0) as f:
                while free() > 5 * MIB:
                    f.write(bytes(MIB))
            wk.write(os.path.join(root, "more"), os.urandom(2 * MIB))
            r = s.cli("save", "data", code=None)
            if r.code == 13:
                break
        assert r.code == 13 and "min_free" in r.err, r
        wk.until(lambda: any(p["code"] == "no-space" for p in s.status()["problems"]),
                 "status to tell that saves have stopped")
        status = s.status()  # pruning may have made room again
        assert status["repository"]["free_percent"] >= 20 or any(
            p["code"] == "space" and "% full" in p["message"].replace(" %", "%")
            for p in status["problems"]), status
        newest = ids(s.repo)[-1]
        os.remove(ballast)
        for n in range(5):
            os.remove(os.path.join(root, "f%d" % n))
        wk.until(lambda: ids(s.repo)[-1] > newest, "saves to resume by themselves")
        state = wk.tree(root)
        wk.until(lambda: s.cli("save", "data", code=None).code == 0, "a save of all")
        wk.same(state, wk.restored(s.repo, "latest", scratch))
        s.stop()
        largest = max(len(p) for p in wk.packs(s.repo).values())
        assert largest < 8 * MIB, largest  # so that one can be emptied into what little room there is
        assert wk.wk("-r", s.repo, "--json", "verify").summary["errors"] == 0


def archives_leave_room(scratch):
    """Archives that stand beside the repository leave to the app what saves leave to it."""
    at = os.path.join(scratch, "disk")
    with wk.small_disk(at, 64 * MIB):
        root = os.path.join(at, "data")
        os.mkdir(root)
        wk.write(os.path.join(root, "f"), os.urandom(8 * MIB))
        with open(os.path.join(root, "holes"), "wb") as f:
            f.truncate(200 * MIB)
        for how in ("tar.gz", "directory"):
            conf = config(scratch, "[service]\nrepository = %s/%s\nmin_free = 25%%\n[watch data]\npath = %s\n"
                          "[archive]\nformat = %s\n" % (at, how, root, how))
            wk.wk("-c", conf, "init")
            made = 0
            while made < 8:
                r = wk.wk("-c", conf, "archive", code=None)
                st = os.statvfs(at)
                assert st.f_bavail * st.f_frsize >= 16 * MIB, (how, made, r)
                if r.code:
                    break
                made += 1
            assert 0 < made < 8 and r.code == 13, (made, r)
            assert "left to others (min_free)" in r.err and at in r.err, r
            folder = os.path.join(at, how, "archives", "data", "automatic")
            assert not [n for n in os.listdir(folder) if n.startswith(".")], os.listdir(folder)
            wk.wk("-c", conf, "save")
            wk.remove(os.path.join(at, how))
        # A database is copied to be opened: that counts too.
        db = sqlite3.connect(os.path.join(root, "app.db"))
        db.execute("CREATE TABLE t(x)")
        db.execute("INSERT INTO t VALUES (zeroblob(%d))" % (20 * MIB))
        db.commit()
        db.close()
        wk.wk("-c", conf, "init")
        assert "min_free" in wk.wk("-c", conf, "archive", code=13).err
        conf = config(scratch, open(conf).read().replace("directory", "tar.gz"))
        wk.wk("-c", conf, "init")
        assert "min_free" in wk.wk("-c", conf, "archive", code=13).err


def room_for_a_large_save(scratch):
    """History gives way to a save as far as that needs, however much more it is than min_free."""
    at, root = os.path.join(scratch, "disk"), os.path.join(scratch, "data")
    os.mkdir(root)
    with wk.small_disk(at, 100 * MIB):
        s = wk.Service(scratch, {"data": {"path": root, "settle": "5ms"}},
                       repo=os.path.join(at, "repo"), service={"min_free": "20%"})
        for i in range(100):
            wk.write(os.path.join(root, "f"), os.urandom(2 * MIB))
            if s.cli("save", "data", code=None).code == 13:
                break
        else:
            raise AssertionError("the disk was never short")
        wk.until(lambda: s.cli("save", "data", code=None).code == 0, "room for a small save")
        for n in range(15):
            wk.write(os.path.join(root, "large%d" % n), os.urandom(2 * MIB))
        state = wk.tree(root)
        wk.until(lambda: s.cli("save", "data", code=None).code == 0, "room for a large one", pace=1)
        wk.same(state, wk.restored(s.repo, "latest", scratch))
        assert len(ids(s.repo)) >= 3
        s.stop()


wk.main(kept_and_dropped, archives_too, archives_that_cannot_be_removed,
        archives_where_names_may_be_replaced, archives_of_several_repositories,
        rules_that_are_refused, no_such_watch, through_the_service, encrypted,
        an_empty_mount_point, beside_everything, where_others_took_the_room,
        app_and_repository_on_one_disk, archives_leave_room, room_for_a_large_save)
