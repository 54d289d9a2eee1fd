"""The library as a program outside of this tree uses it: header, pkg-config, symbols, the example."""
import os
import re
import shutil
import sqlite3
import subprocess

import wk

SOURCE, BUILD = os.environ["WK_SOURCE"], os.environ["WK_BUILD"]
EXAMPLE = os.path.join(SOURCE, "tests", "example", "wk_example.c")
STRICT = ["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror", "-pedantic"]


def run(*args, **kw):
    r = subprocess.run(args, capture_output=True, text=True, timeout=600, **kw)
    assert r.returncode == 0, "%s: exit %d\n%s\n%s" % (args, r.returncode, r.stdout, r.stderr)
    return r.stdout


def program_environment(libraries, **more):
    return wk.environment(WATCHKEEP_PROGRAM=wk.BIN, LD_LIBRARY_PATH=libraries, **more)


def folders(scratch):
    root = os.path.join(scratch, "data")
    os.mkdir(root)
    wk.write(os.path.join(root, "settings.json"), '{"a": 1}')
    return root, os.path.join(scratch, "repo"), os.path.join(scratch, "back")


def build_tree_example(scratch):
    program = os.path.join(scratch, "wk_example")
    run("cc", *STRICT, "-I", os.path.join(SOURCE, "include"), EXAMPLE, "-L", BUILD, "-lwatchkeep",
        "-lsqlite3", "-o", program)
    return program


def example_without_a_service(scratch):
    root, repo, target = folders(scratch)
    out = run(build_tree_example(scratch), root, repo, target, env=program_environment(BUILD))
    assert "all well" in out, out
    assert open(os.path.join(target, "settings.json")).read() == '{"a": 1}'
    assert sorted(os.listdir(target)) == ["app.db", "settings.json"]


def example_through_a_service(scratch):
    root, repo, target = folders(scratch)
    s = wk.Service(scratch, {"data": {"path": root, "settle": "50ms", "interval": "off"}})
    # A program that cannot be started shows that the service did it.
    env = program_environment(BUILD)
    env["WATCHKEEP_PROGRAM"] = "/nonexistent/watchkeep"
    out = run(build_tree_example(scratch), root, repo, target, env=env)
    assert "all well" in out, out
    assert "example" in [x["name"] for x in s.snapshots()]
    s.stop()


def no_source_is_opened_here(scratch):
    """strace of the program alone (not of what it starts): no open of the database by the library."""
    if not shutil.which("strace"):
        wk.skip("needs strace")
    root, repo, target = folders(scratch)
    source = os.path.join(scratch, "quiet.c")
    wk.write(source, """
#include <watchkeep.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    wk_handle *h;
    int rc = argc == 4 ? wk_open(argv[2], WK_CREATE, &h) : 1;
    if (rc == 0) rc = wk_save(h, argv[1], NULL, NULL);
    if (rc == 0) rc = wk_restore(h, "latest", argv[3], NULL, NULL);
    if (rc == 0) rc = wk_verify(h, "latest", 0, NULL);
    if (rc != 0) fprintf(stderr, "%s\\n", wk_error(h));
    wk_close(h);
    return rc != 0;
}
""")
    program = os.path.join(scratch, "quiet")
    run("cc", *STRICT, "-I", os.path.join(SOURCE, "include"), source, "-L", BUILD, "-lwatchkeep",
        "-o", program)
    db = sqlite3.connect(os.path.join(root, "app.db"))
    db.executescript("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    trace = os.path.join(scratch, "trace")
    # -b execve lets go of a child as soon as it is another program.
    run("strace", "-f", "-b", "execve", "-e", "trace=open,openat,openat2,creat", "-o", trace,
        program, root, repo, target, env=program_environment(BUILD))
    opened = [line for line in open(trace) if root + "/" in line]
    assert not opened, "".join(opened)
    db.close()


def errors_are_told(scratch):
    source = os.path.join(scratch, "errors.c")
    wk.write(source, """
#include <watchkeep.h>
#include <stdio.h>
#include <string.h>
#define EXPECT(call, code) do { int rc = (call); if (rc != (code) || wk_error_code(h) != (code) || \\
    ((code) != 0) != (strlen(wk_error(h)) > 0)) { \\
    printf("%s: %d %s\\n", #call, rc, wk_error(h)); bad = 1; } } while (0)
static int stop(void *context, const wk_snapshot *s)
{
    (void)s;
    ++*(int *)context;
    return 77;
}
int main(int argc, char **argv)
{
    wk_handle *h;
    int bad = 0, seen = 0;
    (void)argc;
    EXPECT(wk_open("/nonexistent/repository", 0, &h), WK_NOREPO);
    wk_close(h);
    EXPECT(wk_open(NULL, 0, &h), WK_USAGE);
    wk_close(h);
    wk_close(NULL);
    EXPECT(wk_open(argv[2], WK_CREATE, &h), 0);
    EXPECT(wk_save(h, "", NULL, NULL), WK_USAGE);
    EXPECT(wk_save(h, "nobody-knows-it", NULL, NULL), WK_NOTFOUND);
    EXPECT(wk_save(h, "/nonexistent/folder", NULL, NULL), WK_NOTFOUND);
    EXPECT(wk_restore(h, "latest", argv[3], NULL, NULL), WK_NOTFOUND);
    EXPECT(wk_list(h, NULL, NULL, NULL), WK_USAGE);
    EXPECT(wk_save(h, argv[1], NULL, NULL), 0);
    EXPECT(wk_list(h, NULL, stop, &seen), 77);
    EXPECT(wk_verify(h, "latest:settings.json", 0, NULL), WK_USAGE);
    EXPECT(wk_verify(h, "latest", WK_VERIFY_QUICK, NULL), 0);
    EXPECT(wk_restore(h, "latest", argv[2], NULL, NULL), WK_REFUSED);
    EXPECT(wk_restore(h, "latest:settings.json", argv[3], NULL, NULL), 0);
    wk_close(h);
    return bad || seen != 1;
}
""")
    program = os.path.join(scratch, "errors")
    run("cc", *STRICT, "-I", os.path.join(SOURCE, "include"), source, "-L", BUILD, "-lwatchkeep",
        "-o", program)
    run(program, *folders(scratch), env=program_environment(BUILD))


def header_is_clean_in_c_and_cpp(scratch):
    unit = os.path.join(scratch, "unit.c")
    wk.write(unit, "#include <watchkeep.h>\nint x = (int)sizeof(wk_snapshot);\n")
    include = ["-I", os.path.join(SOURCE, "include"), "-fsyntax-only", "-Wall", "-Wextra",
               "-Werror", "-pedantic"]
    for standard in ("c99", "c11", "c17"):
        run("cc", "-std=" + standard, *include, unit)
    if shutil.which("c++"):
        for standard in ("c++98", "c++17"):
            run("c++", "-x", "c++", "-std=" + standard, "-Wno-long-long", *include, unit)


def only_our_symbols(scratch):
    library = os.path.join(BUILD, "libwatchkeep.so")
    names = [line.split()[-1] for line in run("nm", "-D", "--defined-only", library).splitlines()]
    header = open(os.path.join(SOURCE, "include", "watchkeep.h")).read()
    declared = set(re.findall(r"\b(wk_\w+)\(", re.sub(r"/\*.*?\*/", "", header, flags=re.S)))
    assert set(names) == declared, set(names) ^ declared
    needed = run("readelf", "-d", library)
    assert "libuv" not in needed, needed


def installed_tree(scratch):
    dest = os.path.join(scratch, "dest")
    run("cmake", "--install", BUILD, env=dict(os.environ, DESTDIR=dest))
    found = [os.path.join(d, "watchkeep.pc") for d, _, files in os.walk(dest)
             if "watchkeep.pc" in files]
    assert len(found) == 1, found
    env = dict(os.environ, PKG_CONFIG_PATH=os.path.dirname(found[0]), PKG_CONFIG_SYSROOT_DIR=dest,
               PKG_CONFIG_ALLOW_SYSTEM_CFLAGS="1", PKG_CONFIG_ALLOW_SYSTEM_LIBS="1")
    flags = run("pkg-config", "--cflags", "--libs", "watchkeep", env=env).split()
    libdir = [f[2:] for f in flags if f.startswith("-L")][0]
    program = os.path.join(scratch, "wk_example")
    run("cc", *STRICT, EXAMPLE, *flags, "-lsqlite3", "-o", program)
    bindir = [d for d, _, files in os.walk(dest) if "watchkeep" in files and d.endswith("/bin")]
    env = wk.environment(LD_LIBRARY_PATH=libdir, PATH=bindir[0] + ":" + os.environ["PATH"])
    env.pop("WATCHKEEP_HELPER", None)  # the installed program finds the installed helper
    root, repo, target = folders(scratch)
    out = run(program, root, repo, target, env=env)
    assert "all well" in out, out


if __name__ == "__main__":
    wk.main(example_without_a_service, example_through_a_service, no_source_is_opened_here,
            errors_are_told, header_is_clean_in_c_and_cpp, only_our_symbols, installed_tree)
