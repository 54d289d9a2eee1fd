"""What status says of each thing that is wrong: which watch, and what to do about it."""
import os
import signal

import wk


def start(scratch, **more):
    watches = {}
    for name in ("one", "two"):
        root = os.path.join(scratch, name)
        os.mkdir(root)
        wk.write(os.path.join(root, "a"), name)
        watches[name] = {"path": root, "settle": "50ms"}
    return wk.Service(scratch, watches, **more)


def problem(service, code):
    """The problem as JSON, once it is there; and that the text for people has it."""
    def look():
        return [p for p in service.status()["problems"] if p["code"] == code]
    p = wk.until(look, "the problem '%s'" % code)[0]
    text = service.cli("status", code=None).out
    assert p["message"] in text and "do: " + p["do"] in text, (p, text)
    assert p["do"] and "@" not in p["do"] and "NAME" not in p["do"], p
    if p["watch"]:
        assert "\n%s: %s" % (p["watch"], p["message"]) in text, text
    return p


def a_missing_folder(scratch):
    s = start(scratch)
    os.rename(os.path.join(scratch, "two"), os.path.join(scratch, "elsewhere"))
    p = problem(s, "missing")
    assert p["watch"] == "two" and "watchkeep save two --moved" in p["do"], p
    s.stop()
    p = problem(s, "missing")
    assert p["watch"] == "two" and "watchkeep save two --moved" in p["do"], p


def files_not_whole(scratch):
    wk.need_root()
    s = start(scratch, start=False)
    os.makedirs(os.path.join(scratch, "two", "pg", "base"))
    wk.write(os.path.join(scratch, "two", "pg", "PG_VERSION"), "15\n")
    s.start()
    p = problem(s, "incomplete")
    assert p["watch"] == "two" and "-w two show latest" in p["do"], p
    assert "pg" in s.cli("-w", "two", "show", "latest").out
    s.stop()


def another_folder_on_record(scratch):
    s = start(scratch)
    s.stop()
    os.rename(os.path.join(scratch, "two"), os.path.join(scratch, "three"))
    s.watches["two"]["path"] = os.path.join(scratch, "three")
    s.write_config()
    s.start(wait=False)
    p = problem(s, "save-failed")
    assert p["watch"] == "two" and "watchkeep save two --moved" in p["do"], p
    assert s.save("two", "--moved")["exit"] == 0
    wk.until(lambda: s.cli("status", code=None).code == 0, "all to be well again")
    s.stop()


def suddenly_empty(scratch):
    s = start(scratch, start=False)
    for i in range(100):
        wk.write(os.path.join(scratch, "two", str(i)), "x%d" % i)
    s.start()
    s.stop()
    for n in os.listdir(os.path.join(scratch, "two")):
        os.remove(os.path.join(scratch, "two", n))
    s.start()
    p = problem(s, "suspect")
    assert p["watch"] == "two" and "watchkeep save two --accept" in p["do"], p
    assert [p["code"] for p in s.status()["problems"]] == ["frozen", "suspect"], s.status()
    assert problem(s, "frozen")["watch"] == "two"
    assert len(s.cli("-w", "two", "ls", "latest").out.splitlines()) == 101
    s.cli("prune", code=5)
    for i in range(60):
        wk.write(os.path.join(scratch, "two", str(i)), "x%d" % i)
    wk.until(lambda: s.status()["ok"], "the freeze to end when most files are back")
    s.cli("prune")
    s.stop()


def a_broken_configuration(scratch):
    s = start(scratch)
    with open(s.conf, "a") as f:
        f.write("[service]\nnonsense = 1\n")
    os.kill(s.pid(), signal.SIGHUP)
    p = problem(s, "config")
    assert p["watch"] is None and "config check" in p["do"], p
    s.stop()


def a_damaged_snapshot(scratch):
    s = start(scratch)
    wk.write(os.path.join(scratch, "two", "b"), os.urandom(100000))
    s.save("two")
    s.stop()
    name, content = sorted(wk.packs(s.repo).items(), key=lambda x: len(x[1]))[-1]
    path = os.path.join(s.repo, "packs", name)
    middle = len(content) - 50000
    wk.write(path, content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:])
    s.cli("verify", code=4)
    p = problem(s, "damaged")
    assert p["watch"] == "two" and "watchkeep save two" in p["do"], p


wk.main(a_missing_folder, files_not_whole, another_folder_on_record, suddenly_empty,
        a_broken_configuration, a_damaged_snapshot)
