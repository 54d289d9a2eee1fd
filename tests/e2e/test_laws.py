"""The include law, where each library may be used, and the shape of the tree."""
import os
import re
import subprocess
import sys

SOURCE = os.environ["WK_SOURCE"]

# What a room may include besides itself (src/README.md tells why).
ROOMS = {
    "base": set(),
    "io": {"base"},
    "config": {"base"},
    "store": {"base", "io"},
    "capture": {"base", "io", "store"},
    "snapshot": {"base", "io", "store", "capture"},
    "keep": {"base", "io", "store", "capture", "snapshot"},
    "watch": {"base", "io"},
    "lib": {"base", "io", "store", "snapshot", "keep", "config", "service"},
    "service": None,
    "cli": None,
}
# The only header of a room that another room may use though the table above says no.
EXCEPTIONS = {
    ("capture", "store"): {"store/node.h"},  # the shapes it fills: extents, xattrs
    ("lib", "service"): {"service/client.h"},  # saving goes through the running service
    ("lib", "config"): {"config/places.h"},  # what lies in a watched folder
}
LIBRARIES = {
    "uv.h": ("watch/", "service/"),
    "sqlite3.h": ("io/vfs", "store/catalog", "capture/"),
    "zstd.h": ("store/codec",), "zlib.h": ("store/codec", "keep/gzip"),
    "libdeflate.h": ("store/codec", "keep/gzip"),
    "xxhash.h": ("store/hash",), "openssl/": ("store/hash",),
    "ini.h": ("config/",),
    "jansson.h": ("snapshot/report", "keep/archive_", "service/", "cli/", "lib/"),
}
TOP = re.compile(r"^(\..*|CMakeLists\.txt|src|include|tests|bench|conf|README\.md|LICENSE)$")

problems = []
files = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=SOURCE,
                       capture_output=True, text=True, check=True).stdout.split("\n")
files = [f for f in files if f and os.path.exists(os.path.join(SOURCE, f))]
seen = {}
for f in files:
    if not TOP.match(f.split("/")[0]):
        problems.append("%s: not a part of the agreed tree" % f)
    if f.startswith("src/") and f.endswith((".c", ".h")):
        name = os.path.basename(f)
        if name in seen:
            problems.append("%s: the same file name as %s" % (f, seen[name]))
        seen[name] = f
        room, rest = f.split("/")[1], f[len("src/"):]
        if room not in ROOMS:
            problems.append("%s: no such room" % f)
            continue
        text = open(os.path.join(SOURCE, f)).read()
        lines = text.count("\n")
        if lines > 800:
            problems.append("%s: %d lines are more than one idea" % (f, lines))
        includes = re.findall(r'^\s*#\s*include\s*["<]([^">]+)[">]', text, re.M)
        for i in includes:
            other = i.split("/")[0]
            if "/" in i and other in ROOMS and other != room and ROOMS[room] is not None:
                if other not in ROOMS[room] or i not in EXCEPTIONS.get((room, other), {i}):
                    problems.append("%s includes %s against the include law" % (f, i))
            for library, places in LIBRARIES.items():
                if (i == library or (library.endswith("/") and i.startswith(library))) and \
                        not rest.startswith(places):
                    problems.append("%s uses <%s> outside of %s" % (f, i, ", ".join(places)))
        if f.endswith(".c") and (not includes or includes[-1] != "base/banned.h"):
            problems.append("%s: base/banned.h is not its last include" % f)
        if f.endswith(".h") and not text.startswith("/* " + name):
            problems.append("%s: the header does not begin with what it is" % f)
        if re.search(r"\b(abort|_?exit)\s*\(", re.sub(r'/\*.*?\*/|"(\\.|[^"])*"', "", text,
                                                      flags=re.S)) and \
                room not in ("cli",) and rest not in ("base/random.c", "capture/helper_main.c"):
            # A forked child may only _exit.
            if not re.search(r"\b_exit\s*\(", text) or re.search(r"(?<!_)\bexit\s*\(|\babort\s*\(",
                                                                text):
                problems.append("%s: ends the process below cli/" % f)
for p in problems:
    print(p)
sys.exit(1 if problems else 0)
