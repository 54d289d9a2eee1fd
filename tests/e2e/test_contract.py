"""src/cli/CONTRACT.md against --help and against what the program really prints."""
import json
import os
import re

import wk

PAGE = open(os.path.join(os.environ["WK_SOURCE"], "src", "cli", "CONTRACT.md")).read()
COMMANDS = PAGE.split("## Commands")[1].split("## Exit codes")[0]
FLAG = re.compile(r"--[a-z][a-z-]*")


def examples():
    """{title: document} of the page's JSON section."""
    out = {}
    for part in PAGE.split("\n### ")[1:]:
        title, rest = part.split("\n", 1)
        block = re.search(r"```json\n(.*?)\n```", rest, re.S)
        out[title.strip()] = json.loads(block.group(1))
    return out


def kind(value):
    return "number" if type(value) in (int, float) else type(value).__name__


def fits(example, real, where):
    """Every key of the example is there, with a value of that kind where it has one; and no key
    that the page does not know."""
    assert example is None or real is None or kind(example) == kind(real), \
        "%s: %r on the page, %r printed" % (where, example, real)
    if isinstance(example, dict):
        assert isinstance(real, dict), "%s: %r is no object" % (where, real)
        assert set(example) == set(real), "%s: keys differ: only on the page %s, only printed %s" % (
            where, sorted(set(example) - set(real)), sorted(set(real) - set(example)))
        for k in example:
            fits(example[k], real[k], where + "." + k)
    elif isinstance(example, list) and example and real:
        fits(example[0], real[0], where + "[]")


def commands_and_flags(scratch):
    rows = {}
    for line in COMMANDS.splitlines():
        cells = re.split(r"(?<!\\)\|", line)
        if len(cells) == 5 and cells[1].strip().startswith("`"):
            usage = cells[1].strip().strip("`").replace("\\|", "|")
            rows[usage.split()[0]] = (usage, set(FLAG.findall(cells[2])))
    overview = wk.wk("--help").out
    listed = re.findall(r"^  ([a-z]+)\s", overview.split("commands:")[1].split("flags,")[0], re.M)
    assert sorted(listed) == sorted(rows), (listed, sorted(rows))
    everywhere = set(FLAG.findall(COMMANDS.split("Flags of all commands:")[1].split("**The")[0]))
    assert set(FLAG.findall(overview.split("flags, before")[1])) == everywhere
    for name, (usage, own) in rows.items():
        text = wk.wk("help", name).out
        assert text == wk.wk(name, "--help").out
        assert ("usage: watchkeep [flags] " + usage) in text.splitlines(), (usage, text)
        before = text.split("flags of all commands:")[0]
        told = set(FLAG.findall(before.split("\nflags:\n")[1])) if "\nflags:\n" in before else set()
        assert told == own, (name, told, own)
    reserved = PAGE.split("## Not there yet")[1]
    for name in re.findall(r"`([a-z]+)`", reserved):
        assert "unknown command '%s'" % name in wk.wk(name, code=2).err
    for name in rows:
        assert "unknown flag" in wk.wk(name, "--no-such-flag", code=2).err
    assert wk.wk("--version").out.startswith("watchkeep ")


def json_keys(scratch):
    page = examples()
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    wk.write(os.path.join(root, "a.json"), '{"a": 1}')
    seen = set()

    def compare(title, real):
        fits(page[title], real, title)
        seen.add(title)

    def query(title, *args, code=0):
        r = wk.wk("-r", repo, "--json", *args, code=code)
        compare(title, r.json)
    query("init", "init")
    wk.wk("-r", repo, "save", root, "--name", "first")
    wk.write(os.path.join(root, "a.json"), '{"a": 2}')
    wk.write(os.path.join(root, "b.txt"), "b")
    compare("save", wk.wk("-r", repo, "--json", "save", root).summary)
    lines = wk.wk("-r", repo, "--json", "archive", "data").lines
    compare("archived", lines[0])
    compare("archive", lines[1])
    query("list --archives", "list", "--archives")
    archive = lines[0]["name"]
    query("show ARCHIVE", "show", archive)
    compare("restore ARCHIVE", wk.wk("-r", repo, "--json", "restore", archive, "--to",
                                     os.path.join(scratch, "unpacked")).summary)
    compare("verify ARCHIVE", wk.wk("-r", repo, "--json", "verify", archive).summary)
    query("list", "list")
    query("show", "show", "latest")
    query("ls", "ls", "latest")
    query("diff", "diff", "first", "latest", "b.txt")
    query("history", "history", "a.json")
    compare("restore", wk.wk("-r", repo, "--json", "restore", "latest", "--to",
                             os.path.join(scratch, "back")).summary)
    compare("verify", wk.wk("-r", repo, "--json", "verify").summary)
    query("pin", "pin", "first")
    query("pin", "unpin", "latest")
    compare("prune", wk.wk("-r", repo, "--json", "prune").summary)
    query("status", "status", code=8)
    query("config show", "config", "show")
    query("config check", "config", "check")
    query("rebuild", "rebuild")
    r = wk.wk("-r", repo, "--json", "show", "99", code=6)
    compare("error", json.loads(r.err))
    seen.add("alert")  # test_timed compares it
    assert seen == set(page), "never compared: %s" % sorted(set(page) - seen)


def lines_end_with_a_summary(scratch):
    root, repo = os.path.join(scratch, "data"), os.path.join(scratch, "repo")
    os.mkdir(root)
    for args, code in ((["save", root], 10), (["restore", "latest", "--to", root + "x"], 10),
                       (["verify"], 10), (["save", "--bad"], 2), (["save", "--name", "1"], 2)):
        r = wk.wk("-r", repo, "--json", *args, code=code)
        assert r.summary["exit"] == code, r
        assert json.loads(r.err.splitlines()[-1])["code"] == code, r
    wk.wk("-r", repo, "init")
    other = os.path.join(scratch, "other")
    os.mkdir(other)
    r = wk.wk("-r", repo, "--json", "save", root, other)
    assert [x["type"] for x in r.lines] == ["saved", "saved", "summary"], r
    assert [x["watch"] for x in r.lines[:2]] == ["data", "other"], r


def exit_codes(scratch):
    codes = re.findall(r"^\| ([0-9, ]+) \| ", PAGE.split("## Exit codes")[1], re.M)
    known = {int(n) for c in codes for n in c.split(",")}
    assert known == {0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 130, 143}, known


wk.main(commands_and_flags, json_keys, lines_end_with_a_summary, exit_codes)
