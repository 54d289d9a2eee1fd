"""What a crash leaves of a bot's files: which snapshots are good, and what brings them back."""
import json
import os
import sqlite3

import wk


class Bot:
    """A folder with an app's files, and a repository; through the service or without."""

    def __init__(self, scratch, service):
        self.scratch = os.path.join(scratch, "service" if service else "alone")
        self.root = os.path.join(self.scratch, "bot")
        self.repo = os.path.join(self.scratch, "repo")
        os.makedirs(self.root)
        self.data = {str(i): {"balance": i * 10, "name": "user %d" % i} for i in range(200)}
        self.put("users.json", json.dumps(self.data))
        self.put("bot.log", "started\n")
        self.service = None
        if service:
            self.service = wk.Service(self.scratch, {"bot": {
                "path": self.root, "settle": "1h", "max_delay": "1h", "interval": "off"}})
            self.repo = self.service.repo
        else:
            self.cli("init")

    def put(self, name, content):
        wk.write(os.path.join(self.root, name), content)

    def cli(self, *args, **kw):
        if self.service:
            return self.service.cli(*args, **kw)
        return wk.wk("-r", self.repo, *args, **kw)

    def save(self, *args):
        return self.cli("--json", "save", "bot" if self.service else self.root, *args).summary

    def row(self, number):
        return [s for s in self.cli("--json", "list").json["snapshots"] if s["id"] == number][0]

    def back(self, selector):
        """Tree of what a restore gives, and what it said."""
        to = os.path.join(self.scratch, "back-" + selector)
        if os.path.exists(to):
            wk.remove(to)
        r = self.cli("restore", selector, "--to", to)
        return wk.tree(to), r.err


def check(bot, broken, reason):
    """The file is broken in a snapshot, and another change follows."""
    first = bot.save()["current"]
    before = wk.tree(bot.root)
    bot.put("users.json", broken)
    s = bot.save()
    assert s["spoilt"] == [{"path": "users.json", "reason": reason}] and s["exit"] == 0, s
    bot.put("bot.log", "started\nand again\n")
    s = bot.save()
    assert s["spoilt"] == [{"path": "users.json", "reason": reason}], s
    bot.cli("verify")
    last = s["snapshot"]
    assert bot.row(first)["good"] is True and bot.row(first)["spoilt"] == 0, bot.row(first)
    for number in (last - 1, last):
        assert bot.row(number)["good"] is False and bot.row(number)["spoilt"] == 1, bot.row(number)
    tree, err = bot.back("good")
    wk.same(before, tree)
    assert err == "", err
    tree, err = bot.back("latest")
    wk.same(wk.tree(bot.root), tree)
    assert "not to be good" in err and "%d ('good')" % first in err, err
    shown = bot.cli("--json", "show", "latest").json
    assert shown["spoilt_paths"] == [{"path": "users.json", "reason": reason}], shown
    assert "'users.json' " + reason in bot.cli("show", "latest").out
    assert "not good" in bot.cli("list").out
    problems = bot.cli("--json", "status", code=None).json["problems"]
    told = [p for p in problems if p["code"] == "spoilt"]
    if bot.service:
        assert len(told) == 1 and "'users.json' " + reason in told[0]["message"], problems
    # The user puts it right.
    bot.put("users.json", json.dumps(bot.data))
    s = bot.save()
    assert s["spoilt"] == [], s
    bot.cli("verify")
    assert bot.row(s["snapshot"])["good"] is True
    assert not [p for p in bot.cli("--json", "status", code=None).json["problems"]
                if p["code"] == "spoilt"]


def emptied_or_cut_in_half(scratch):
    for service in (False, True):
        bot = Bot(scratch, service)
        text = json.dumps(bot.data)
        check(bot, "", "is empty")
        bot.put("bot.log", "more\n")
        check(bot, text[:len(text) // 2], "is broken")
        bot.put("bot.log", "and more\n")
        check(bot, "\0" * len(text), "is broken")
        bot.put("bot.log", "and still more\n")
        check(bot, json.dumps({"0": bot.data["0"]}), "is less than half of what it was")
        if bot.service:
            bot.service.stop()


def people_are_told(scratch):
    bot = Bot(scratch, False)
    bot.save()
    bot.put("users.json", "")
    r = bot.cli("save", bot.root)
    assert "users.json' is empty" in r.err and "--accept" in r.err, r.err
    bot.put("bot.log", "more\n")
    r = bot.cli("save", bot.root, "--accept")
    assert r.err == "", r.err
    assert bot.row(3)["spoilt"] == 0
    bot.put("bot.log", "and more\n")
    assert bot.cli("save", bot.root).err == ""


def always_broken_spoils_nothing(scratch):
    bot = Bot(scratch, False)
    bot.put("config.json", "{ // with a comment\n \"a\": 1 }")
    bot.put("empty.json", "")
    bot.put("list.json", "one\ntwo\n")
    bot.save()
    for i in range(3):
        bot.put("config.json", "{ // with %d comments\n \"a\": 1 }" % i)
        bot.put("bot.log", "x" * (1 if i % 2 else 100000))
        s = bot.save()
        assert s["spoilt"] == [], s
    bot.cli("verify")
    assert [s["good"] for s in bot.cli("--json", "list").json["snapshots"]] == [True] * 4


def a_database_emptied(scratch):
    for service in (False, True):
        bot = Bot(scratch, service)
        db = sqlite3.connect(os.path.join(bot.root, "bot.db"))
        db.execute("CREATE TABLE t(x)")
        db.executemany("INSERT INTO t VALUES(?)", [("x" * 100,)] * 1000)
        db.commit()
        db.close()
        first = bot.save()
        assert first["spoilt"] == []
        wk.write(os.path.join(bot.root, "bot.db"), b"")
        s = bot.save()
        assert s["spoilt"] == [{"path": "bot.db", "reason": "is empty"}], s
        bot.cli("verify")
        bot.back("good")
        db = sqlite3.connect(os.path.join(bot.scratch, "back-good", "bot.db"))
        assert db.execute("SELECT count(*) FROM t").fetchone() == (1000,)
        db.close()
        # good~1 is the one before the newest good one.
        os.remove(os.path.join(bot.root, "bot.db"))
        bot.save()
        bot.cli("verify")
        assert bot.cli("--json", "show", "good~1").json["id"] == first["current"]
        if bot.service:
            bot.service.stop()


wk.main(emptied_or_cut_in_half, people_are_told, always_broken_spoils_nothing, a_database_emptied)
