"""A second user in the service's group may list and save through the socket, and nothing else."""
import grp
import os
import pwd
import socket

import wk


def ask(path, request, become):
    """What the socket answers to another user."""
    out, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        become()
        s = socket.socket(socket.AF_UNIX)
        s.connect(path)
        s.sendall(request.encode() + b"\n")
        for piece in iter(lambda: s.recv(4096), b""):
            os.write(answer, piece)
        os._exit(0)
    os.close(answer)
    with os.fdopen(out) as f:
        text = f.read()
    os.waitpid(pid, 0)
    return text


def group_member(scratch):
    wk.need_root()
    group = next(g for g in grp.getgrall() if g.gr_gid not in (0, 65534) and g.gr_name == "games")
    os.chmod(scratch, 0o755)
    root = os.path.join(scratch, "data")
    os.mkdir(root, 0o700)
    wk.write(os.path.join(root, "a"), "a")
    s = wk.Service(scratch, {"data": {"path": root, "settle": "1h", "max_delay": "2h"}},
                   service={"group": group.gr_name})
    env = wk.environment(WATCHKEEP_SERVICE_SOCKET=s.socket, WATCHKEEP_REPO=s.repo)

    def member():
        os.setgroups([group.gr_gid])
        os.setgid(65534)
        os.setuid(65534)

    def stranger():
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    def as_member(*args, code=0):
        return wk.wk(*args, env=env, preexec=member, code=code)
    snaps = as_member("--json", "list").json["snapshots"]
    assert [x["watch"] for x in snaps] == ["data"]
    wk.write(os.path.join(root, "a"), "b")
    assert as_member("--json", "save", "data").summary["snapshot"]
    assert len(as_member("--json", "list").json["snapshots"]) == 2
    as_member("status")
    for args in (["verify"], ["rebuild"], ["cat", "latest:a"], ["ls", "latest"],
                 ["restore", "latest", "--to", os.path.join(scratch, "stolen")],
                 ["restore", "latest", "--in-place", "--confirm"], ["undo", "--confirm"],
                 ["heal", "data", "--confirm"], ["history", "a"]):
        r = as_member(*args, code=12)
        assert r.err.strip(), r
    # Nor by speaking to the socket itself: what a restore in place asks for.
    known = len(s.snapshots())
    for request in ('{"command":"save","watches":["data"],"safety":true}',
                    '{"command":"record","watch":"data","text":"restored 1\\nback 1\\nbase 1\\npath \\n"}'):
        r = ask(s.socket, request, member)
        assert '"code":12' in r.replace(" ", ""), r
    assert len(s.snapshots()) == known
    # A path of the caller's choice would be read with the service's rights.
    as_member("save", "/root", code=12)
    for args in (["list"], ["save", "data"], ["status"]):
        wk.wk(*args, env=env, preexec=stranger, code=12)
    assert not os.path.exists(os.path.join(scratch, "stolen"))
    s.stop()


wk.main(group_member)
