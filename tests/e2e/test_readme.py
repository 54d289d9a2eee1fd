"""Every command in the README still works, and says what the README shows where that is fixed."""
import os
import re
import shlex
import subprocess

import wk

README = os.path.join(os.environ["WK_SOURCE"], "README.md")


def blocks():
    return re.findall(r"^```\w*\n(.*?)^```", open(README).read(), re.M | re.S)


def tour(scratch):
    srv = os.path.join(scratch, "srv")
    data = os.path.join(srv, "bot", "data")
    os.makedirs(data)
    settings = os.path.join(data, "settings.json")
    wk.write(settings, '{"theme": "lite"}')
    wk.write(os.path.join(data, "other"), b"x" * 20000)
    env = wk.environment(XDG_STATE_HOME=os.path.join(scratch, "state"))
    env["PATH"] = os.path.dirname(wk.BIN) + ":" + env["PATH"]
    service, ran = None, []

    def count():
        return len(wk.wk("list", "--json", env=env).json["snapshots"])

    for block in blocks():
        lines = block.split("\n")
        for i, line in enumerate(lines):
            if not line.startswith("$ "):
                continue
            words = shlex.split(line[2:].replace("/srv/", srv + "/"))
            shown = []
            for after in lines[i + 1:]:
                if after.startswith("$ "):
                    break
                shown.append(after)
            if words[0] == "export":
                name, value = words[1].split("=", 1)
                env[name] = value
                continue
            assert words[0] == "watchkeep", line
            ran.append(words[1])
            if words[1] == "run":
                service = subprocess.Popen([wk.BIN, *words[1:]], env=env,
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                wk._children.append(service)
                wk.until(lambda: os.path.exists(env["WATCHKEEP_REPO"] + "/format") and
                         wk.wk("list", env=env, code=None).code == 0 and count() == 1,
                         "the first snapshot")
                wk.replace(settings, '{"theme": "dark"}')
                wk.until(lambda: count() == 2, "the second snapshot")
                continue
            wrong = [x for x in shown if x.startswith("  do: ")]
            r = wk.wk(*words[1:], env=env, code=7 if wrong else 0)
            assert all(x in r.out.splitlines() for x in wrong), (r, wrong)
            assert r.out.strip() or r.err.strip(), "%s says nothing" % line
            if words[1] == "cat":
                assert r.out.strip() == "\n".join(shown).strip(), (r, shown)
            if words[1] == "status":
                assert "'settings.json' is empty" in r.out and "heal bot" in r.out, r
            if words[1] in ("list", "history", "diff"):
                want = shown[0].split()
                assert [w for w in want if w not in r.out.split()] == [], (line, want, r)
            if words[1] == "save":
                wk.write(settings, "")
                wk.until(lambda: count() == 4, "the emptied file's snapshot")
    assert {"run", "save", "list", "diff", "history", "cat", "restore", "verify",
            "status"} <= set(ran), ran
    service.terminate()
    assert service.wait(wk.PATIENCE) == 0


def the_rest(scratch):
    text = open(README).read()
    for script in set(re.findall(r"\bsh ((?:conf|tests)/\S+\.sh)", text)):
        subprocess.run(["sh", "-n", os.path.join(os.environ["WK_SOURCE"], script)], check=True)
    for flag in re.findall(r"quickstart\.sh (--\w+)", text):
        assert flag in open(os.path.join(os.environ["WK_SOURCE"], "conf", "quickstart.sh")).read()
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert os.path.exists(os.path.join(os.environ["WK_SOURCE"], link)), link
    for block in re.findall(r"^```ini\n(.*?)^```", text, re.M | re.S):
        conf = os.path.join(scratch, "c.conf")
        os.makedirs(os.path.join(scratch, "data"), exist_ok=True)
        wk.write(conf, block.replace("/srv/bot/data", os.path.join(scratch, "data"))
                 .replace("group = bot", "group = root"))
        wk.wk("-c", conf, "config", "check")
    for command in set(re.findall(r"`watchkeep (\w+)", text)):
        wk.wk("help", command)


wk.main(tour, the_rest)
