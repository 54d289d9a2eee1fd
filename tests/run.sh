#!/bin/sh
# tests/run.sh - install what the tests need (Debian packages by name), build, run all tests.
#
#   sh tests/run.sh             everything, as continuous integration does
#   sh tests/run.sh --quick     only the release build and its tests
#   WK_BUILD_ROOT=DIR           where to build (default: build/ in the tree, which git ignores)
#
# Three builds: gcc release (all tests), clang with ASan+UBSan, and gcc with TSan (unit, fuzz and
# some end-to-end tests). It ends with the summary of the release build's ctest. A skipped test is
# a failure unless tests/SKIPS lists it with its reason.
set -eu
cd "$(dirname "$0")/.."
top=$PWD
root=${WK_BUILD_ROOT:-$top/build}
quick=
[ "${1:-}" = "--quick" ] && quick=1

packages="gcc clang cmake make ninja-build pkg-config libuv1-dev libsqlite3-dev zlib1g-dev
  libdeflate-dev libzstd-dev libxxhash-dev libssl-dev libinih-dev libjansson-dev libcmocka-dev
  libclang-rt-14-dev clang-format-14 python3 strace rsync sqlite3 attr acl git e2fsprogs xfsprogs
  btrfs-progs systemd util-linux"
missing=
for p in $packages; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
if [ -n "$missing" ]; then
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "installing:$missing"
    $sudo apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing \
        >/dev/null
fi

git_state() { git status --porcelain 2>/dev/null || true; }
before=$(git_state)
if [ -n "${CI:-}" ] && [ -n "$before" ]; then
    printf 'files that git does not have:\n%s\n' "$before" >&2
    exit 1
fi

echo "== layout of the code (clang-format)"
git ls-files -z '*.c' '*.h' | xargs -0 clang-format-14 --dry-run --Werror

build() { # directory, compiler, cmake options...
    dir=$1 cc=$2
    shift 2
    echo "== build $dir ($cc $*)"
    cmake -S "$top" -B "$root/$dir" -G Ninja -DCMAKE_C_COMPILER="$cc" "$@" >/dev/null
    cmake --build "$root/$dir" 2>&1 | grep -v '^\[' || true
    cmake --build "$root/$dir" >/dev/null
}

build release gcc -DCMAKE_BUILD_TYPE=Release
if [ -z "$quick" ]; then
    build asan clang -DCMAKE_BUILD_TYPE=Debug -DWK_SANITIZE=address
    build tsan gcc -DCMAKE_BUILD_TYPE=Debug -DWK_SANITIZE=thread
fi

status=0
run() { # directory, ctest options...
    dir=$1
    shift
    echo "== test $dir"
    code=0
    (cd "$root/$dir" && exec ctest --output-on-failure --no-tests=error "$@") \
        >"$root/$dir.log" 2>&1 || code=$?
    grep -E '\*\*\*Skipped' "$root/$dir.log" | sed 's/.*Test *#[0-9]*: *\([^ ]*\).*/\1/' \
        >"$root/$dir.skipped" || true
    while read -r name; do
        if ! grep -qE "^$name[[:space:]]" "$top/tests/SKIPS"; then
            echo "skipped without a reason in tests/SKIPS: $name" >&2
            status=1
        else
            echo "SKIPPED, listed: $(grep -E "^$name[[:space:]]" "$top/tests/SKIPS")"
        fi
    done <"$root/$dir.skipped"
    [ "$code" = 0 ] || status=1
    cat "$root/$dir.log"
}
if [ -z "$quick" ]; then
    ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1 \
        run asan -j3 -L 'unit|fuzz|sanitized'
    TSAN_OPTIONS=halt_on_error=1 run tsan -j3 -L 'unit|sanitized'
fi
after=$(git_state)
if [ "$before" != "$after" ]; then
    printf 'the tests left files behind:\n%s\n' "$after" >&2
    status=1
fi
[ "$status" = 0 ] || echo "something above failed" >&2
run release -j4
exit "$status"
