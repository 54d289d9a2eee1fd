#!/usr/bin/env python3
"""Do the tests see? For every step of src/base/safety.h a build that leaves it out, which the tests
must refuse.

  tests/without.py [NUMBER...]     each step must be caught by the tests that tests/WITHOUT names
  tests/without.py --find NUMBER   run all tests on that build and name those that fail

WK_BUILD_ROOT: where to build (default: build/ in the tree). Ends with 1 when a step is not caught.
"""
import os
import re
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(os.environ.get("WK_BUILD_ROOT", os.path.join(TOP, "build")), "without")


def steps():
    text = open(os.path.join(TOP, "src", "base", "safety.h")).read()
    found = re.findall(r"^    X\((\d+), (\w+), \"([^\"]+)\"\)", text, re.M)
    assert [int(n) for n, _, _ in found] == list(range(1, len(found) + 1)), "numbers in order"
    return [(int(n), name, what) for n, name, what in found]


def catchers():
    table = {}
    for line in open(os.path.join(TOP, "tests", "WITHOUT")):
        if line.strip() and not line.startswith("#"):
            name, *tests = line.split()
            table[name] = tests
    return table


def build(number):
    subprocess.run(["cmake", "-S", TOP, "-B", BUILD, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                    "-DWK_WITHOUT=%d" % number], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", BUILD], check=True, stdout=subprocess.DEVNULL)


def failing(tests=None):
    """The tests that fail on the build, of those named or of all."""
    command = ["ctest", "-j2", "--timeout", "600"]
    if tests:
        command += ["-R", "^(%s)$" % "|".join(re.escape(t) for t in tests)]
    out = subprocess.run(command, cwd=BUILD, capture_output=True, text=True).stdout
    if tests and len(re.findall(r"Test +#\d+:", out)) < len(tests):
        sys.exit("ctest does not know all of: %s" % " ".join(tests))
    return re.findall(r"Test +#\d+: (\S+) \.*\*\*\*(?!Skipped)", out)


def main():
    find = "--find" in sys.argv
    wanted = [int(a) for a in sys.argv[1:] if a.isdigit()]
    known, missed = catchers(), []
    for number, name, what in steps():
        if wanted and number not in wanted:
            continue
        build(number)
        caught = failing(None if find else known.get(name) or sys.exit(name + ": no test named"))
        print("%2d %-20s %s\n     without it fails: %s" % (number, name, what,
                                                        ", ".join(caught) or "NOTHING"), flush=True)
        if not caught:
            missed.append(name)
    if missed:
        sys.exit("not caught: " + " ".join(missed))


if __name__ == "__main__":
    main()
