"""pin and unpin: here, through the service, and after the catalog was made anew."""
import os
import time

import wk


def pinned(repo):
    found = wk.wk("-r", repo, "--json", "list", "--all").json["snapshots"]
    return {s["id"]: s["pinned"] for s in found}


def here(scratch):
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    wk.wk("-r", repo, "init")
    for i in range(3):
        wk.write(os.path.join(root, "a"), "%d" % i)
        wk.wk("-r", repo, "save", root, *(["--name", "named"] if i == 1 else []))
    assert pinned(repo) == {1: False, 2: True, 3: False}, "a name does not pin"
    assert "snapshot 3 of 'data' is now pinned" in wk.wk("-r", repo, "pin", "latest").out
    assert "already" in wk.wk("-r", repo, "pin", "3").out
    assert wk.wk("-r", repo, "--json", "unpin", "named").json == {
        "schema": 1, "snapshot": 2, "watch": "data", "pinned": False, "changed": True}
    want = {1: False, 2: False, 3: True}
    assert pinned(repo) == want
    wk.wk("-r", repo, "rebuild")
    assert pinned(repo) == want, "the packs do not hold it"
    assert "no snapshot 9" in wk.wk("-r", repo, "pin", "9", code=6).err
    assert "names a path" in wk.wk("-r", repo, "pin", "1:a", code=2).err
    wk.wk("-r", repo, "pin", code=2)


def through_the_service(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    wk.write(os.path.join(root, "a"), "1")
    s = wk.Service(scratch, {"data": {"path": root}})
    number = s.save("--name", "mine")["current"]
    assert pinned(s.repo)[number]
    s.cli("unpin", "mine")
    assert not pinned(s.repo)[number]
    assert s.cli("--json", "pin", "-w", "data", "latest").json["changed"]
    assert pinned(s.repo)[number]
    begun = time.monotonic()
    assert "no snapshot is named" in s.cli("pin", "nothing", code=6).err
    assert time.monotonic() - begun < 20, "it waited for the writer's lock"
    s.stop()
    assert pinned(s.repo)[number]


def not_by_others(scratch):
    wk.need_root()
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    os.chmod(scratch, 0o755)
    s = wk.Service(scratch, {"data": {"path": root}})
    number = s.save("--name", "mine")["current"]
    os.chmod(s.socket, 0o777)
    r = s.cli("unpin", "mine", code=12, preexec=lambda: (os.setgid(65534), os.setuid(65534)))
    assert "not permitted" in r.err or "ermission" in r.err, r
    assert pinned(s.repo)[number]
    s.stop()


wk.main(here, through_the_service, not_by_others)
