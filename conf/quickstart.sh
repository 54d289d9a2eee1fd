#!/bin/sh
# quickstart.sh - from a fresh machine to a watched folder in one command.
#
#   sh conf/quickstart.sh                     watch a small demo app, in this terminal
#   sh conf/quickstart.sh DIRECTORY           watch DIRECTORY, in this terminal
#   sh conf/quickstart.sh --install DIRECTORY [NAME]
#                                             install, and let the system watch it from now on;
#                                             run again it upgrades
#   sh conf/quickstart.sh --uninstall         remove all but configuration and repository
#
# Installs missing packages by name (Debian and its kin), builds in build/quickstart.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
build=$top/build/quickstart
etc=/etc/watchkeep
manifest=/usr/local/libexec/watchkeep/install_manifest.txt
packages="gcc cmake make pkg-config libuv1-dev libsqlite3-dev zlib1g-dev libdeflate-dev libzstd-dev
libxxhash-dev libssl-dev libinih-dev libjansson-dev"

say() { printf '%s\n' "$*"; }
fail() {
    printf 'quickstart: %s\n' "$*" >&2
    exit 1
}
usage() {
    sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        fail "root is needed for: $* (there is no sudo)"
    fi
}

install_packages() { # names...
    command -v dpkg-query >/dev/null 2>&1 || {
        say "no Debian packages here; needed are: $*"
        return 0
    }
    missing=
    for p in "$@"; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' ||
            missing="$missing $p"
    done
    [ -n "$missing" ] || return 0
    say "installing:$missing"
    as_root apt-get update -qq
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        $missing >/dev/null
}

build_all() {
    # shellcheck disable=SC2086
    install_packages $packages
    say "building in $build"
    cmake -S "$top" -B "$build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX=/usr/local \
        -DWK_TESTS=OFF -DWK_BENCH=OFF >/dev/null
    cmake --build "$build" -j "$(nproc)" >"$build/build.log" 2>&1 || {
        tail -n 40 "$build/build.log" >&2
        fail "the build failed; all of it stands in $build/build.log"
    }
}

folder_of() { # DIRECTORY -> absolute path
    [ -d "$1" ] || fail "there is no folder '$1'"
    (cd "$1" && pwd -P)
}

# ---- in this terminal ----

service=
demo=
stop_all() {
    trap '' INT TERM HUP
    [ -z "$demo" ] || kill -TERM "$demo" 2>/dev/null || true
    [ -z "$service" ] || kill -TERM "$service" 2>/dev/null || true
}

watch_here() { # folder, repository, what to install later
    folder=$1 repository=$2 later=$3
    name=$(basename "$folder" | tr -c 'A-Za-z0-9._\n-' '-')
    say ""
    say "Ctrl-C ends it, and so does closing this terminal. To keep it, running from now on:"
    say "  sh $top/conf/quickstart.sh --install $later"
    say ""
    export WATCHKEEP_HELPER="$build/watchkeep-capture"
    # In a session of its own: Ctrl-C reaches this script alone, which then asks it to end.
    setsid "$build/watchkeep" -c /dev/null -r "$repository" run "$name=$folder" &
    service=$!
    trap stop_all INT TERM HUP
    code=0
    wait "$service" || code=$?
    if [ "$code" -gt 128 ] && kill -0 "$service" 2>/dev/null; then
        code=0
        wait "$service" || code=$? # the first wait was cut short by the signal
    fi
    service=
    stop_all
    [ -z "$demo" ] || wait "$demo" 2>/dev/null || true
    [ "$code" = 0 ] || fail "the service ended with exit code $code"
    say "ended; all is saved in $repository. It ends with the terminal; to keep it: sh $top/conf/quickstart.sh --install $later"
}

run_demo() {
    install_packages python3
    build_all
    place=$(mktemp -d "${TMPDIR:-/tmp}/watchkeep-demo.XXXXXX")
    mkdir "$place/data"
    say "a demo app writes JSON and SQLite in $place/data"
    setsid python3 "$top/conf/demo_app.py" "$place/data" &
    demo=$!
    watch_here "$place/data" "$place/repository" "DIRECTORY [NAME]"
}

run_folder() {
    folder=$(folder_of "$1")
    build_all
    state=${XDG_STATE_HOME:-${HOME:-/root}/.local/state}/watchkeep-quickstart
    mkdir -p "$state"
    number=$(printf '%s' "$folder" | cksum | cut -d ' ' -f 1)
    watch_here "$folder" "$state/$(basename "$folder")-$number" "'$folder' [NAME]"
}

# ---- in the system ----

systemd_runs() { [ -d /run/systemd/system ]; }

configure() { # folder, name
    folder=$1 name=$2
    if grep -qsxF "[watch $name]" "$etc/watchkeep.conf" "$etc"/conf.d/*.conf; then
        [ "$(setting "watch $name" path)" = "$folder" ] ||
            fail "watch '$name' is configured for another folder: give another NAME"
        say "watch '$name' is configured already"
        return 0
    fi
    as_root mkdir -p "$etc/conf.d"
    if [ -e "$etc/watchkeep.conf" ]; then
        file=$etc/conf.d/$name.conf
        text="[watch $name]
path = $folder"
    else
        file=$etc/watchkeep.conf
        text="# All settings: /usr/local/share/doc/watchkeep/watchkeep.conf

[service]
repository = /var/lib/watchkeep

[watch $name]
path = $folder"
    fi
    printf '%s\n' "$text" | as_root tee "$file" >/dev/null
    say "wrote $file"
    watchkeep_as_root config check || {
        as_root rm -f "$file"
        fail "the configuration would be wrong; $file is removed again"
    }
}

watchkeep_as_root() { as_root /usr/local/bin/watchkeep -c "$etc/watchkeep.conf" "$@"; }

setting() { # section, key -> the value in force
    watchkeep_as_root --json config show 2>/dev/null |
        sed -n "s/.*\"section\":\"$1\",\"key\":\"$2\",\"value\":\"\([^\"]*\)\".*/\1/p"
}

wait_for_snapshot() { # name
    say "waiting for the first snapshot of '$1'"
    while ! watchkeep_as_root list "$1" --recent 1 2>/dev/null | grep -q .; do
        systemctl -q is-failed watchkeep && fail "the service failed: journalctl -u watchkeep"
        sleep 1
    done
    watchkeep_as_root list "$1" --recent 1
}

install_all() {
    folder=$(folder_of "$1")
    name=${2:-$(basename "$folder")}
    build_all
    as_root cmake --install "$build" >/dev/null
    as_root install -D -m 0644 "$build/install_manifest.txt" "$manifest"
    as_root ldconfig
    configure "$folder" "$name"
    watchkeep_as_root init
    if systemd_runs; then
        as_root systemctl daemon-reload
        as_root systemctl -q enable watchkeep
        as_root systemctl restart watchkeep
        wait_for_snapshot "$name"
        say "watchkeep runs and starts with the system. See: watchkeep status"
    else
        say "systemd does not run here, so nothing was started. What remains to do:"
        say "  systemctl enable --now watchkeep    once systemd runs, or"
        say "  /usr/local/bin/watchkeep run        from whatever starts services here"
    fi
}

uninstall_all() {
    repository=/var/lib/watchkeep
    if [ -x /usr/local/bin/watchkeep ]; then
        found=$(setting service repository)
        repository=${found:-$repository}
    fi
    if systemd_runs; then
        as_root systemctl -q disable --now watchkeep 2>/dev/null || true
    fi
    if [ -e "$manifest" ]; then
        # The last line may lack its end.
        while read -r file || [ -n "$file" ]; do
            as_root rm -f "$file"
        done <"$manifest"
        as_root rm -f "$manifest"
        as_root rmdir /usr/local/libexec/watchkeep /usr/local/share/doc/watchkeep 2>/dev/null || true
        as_root ldconfig
    else
        say "nothing is installed"
    fi
    as_root rm -rf /var/lib/watchkeep-state
    if systemd_runs; then
        as_root systemctl daemon-reload
    fi
    [ ! -e "$etc" ] || say "kept, the configuration: $etc"
    [ ! -e "$repository" ] || say "kept, the repository: $repository"
}

case ${1:-} in
-h | --help) usage ;;
--install)
    [ $# -ge 2 ] && [ $# -le 3 ] || fail "write: --install DIRECTORY [NAME]"
    install_all "$2" "${3:-}"
    ;;
--uninstall) uninstall_all ;;
-*) fail "unknown flag '$1': see --help" ;;
"") run_demo ;;
*) run_folder "$1" ;;
esac
