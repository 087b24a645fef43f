#!/usr/bin/env bash
# Set Hearth up: ./setup.sh · ./setup.sh run [FLAGS] · ./setup.sh test [PYTEST ARGUMENTS]
# Each step is done only where it is missing, so it can be interrupted and run again.
set -euo pipefail
cd "$(dirname "$0")"

VENV=.venv
LOG=$VENV/setup.log
# llama.cpp for this very CPU, without the parts that Hearth does not use (vision, and HTTPS of llama.cpp's own downloads).
export CMAKE_ARGS="${CMAKE_ARGS:--DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DLLAMA_OPENSSL=OFF}"
export PIP_DISABLE_PIP_VERSION_CHECK=1
# pip 23.1 and newer take a wheel that was built here before from their cache, hashes or not.
PIP_VERSION=26.3

say() { printf '==> %s\n' "$*"; }
die() { printf 'setup.sh: %s\n' "$*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

usage() {
    echo "Usage: ./setup.sh              set everything up"
    echo "       ./setup.sh run [FLAGS]  set up what is missing, and serve (flags: .venv/bin/python main.py --help)"
    echo "       ./setup.sh test [ARGS]  set up what is missing, and run the checks and tests (arguments go to pytest)"
}

# The first Python from 3.10 on; HEARTH_PYTHON names another.
find_python() {
    local python
    for python in ${HEARTH_PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if has "$python" && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
}

# Debian's packages for what is lacking, by apt-get; through sudo where that is needed.
install_system_packages() {
    local missing=() python
    python=$(find_python)
    [[ -n $python ]] || missing+=(python3)
    if [[ -z $python ]] || ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then missing+=(python3-venv); fi
    has c++ && has cc || missing+=(build-essential)
    has cmake || missing+=(cmake)
    has ninja || has make || missing+=(ninja-build)
    [[ ${#missing[@]} -gt 0 ]] || return 0

    local as_root=()
    if [[ $EUID -ne 0 ]]; then
        has sudo || die "these packages are needed, and there is no sudo to install them: ${missing[*]}. Have them installed, then run this again."
        as_root=(sudo)
    fi
    has apt-get || die "these packages are needed, and there is no apt-get to install them: ${missing[*]}. Install what your system calls them, then run this again."
    say "Installing system packages: ${missing[*]}"
    { "${as_root[@]}" apt-get update -q && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"; } ||
        die "apt-get could not install these packages: ${missing[*]}. Have them installed, then run this again."
    [[ -n $(find_python) ]] || die "Python 3.10 or newer is needed, and this system's is older: $(python3 --version)."
}

make_venv() {
    if [[ -x $VENV/bin/python ]] && "$VENV/bin/python" -c 'import pip' 2>/dev/null; then return; fi
    say "Making $VENV"
    rm -rf "$VENV"
    "$(find_python)" -m venv "$VENV"
}

# install_requirements FILE: what FILE pins, unless the stamp says that it is there already.
install_requirements() {
    local file=$1 stamp want
    stamp=$VENV/$1.installed
    want=$("$VENV/bin/python" --version; cat "$file"; echo "$CMAKE_ARGS")
    want=$(sha256sum <<<"$want")
    if [[ -f $stamp && $(<"$stamp") == "$want" ]]; then return; fi
    say "Installing the packages of $file"
    [[ -f $stamp ]] || echo "    llama.cpp is compiled for this CPU: about five minutes on two cores. $LOG has the details."
    if ! "$VENV/bin/python" -m pip --version | grep -q "^pip $PIP_VERSION "; then
        "$VENV/bin/python" -m pip install --quiet "pip==$PIP_VERSION" >"$LOG" 2>&1 || fail
    fi
    # A process group of its own, so that the compiler ends with pip where this script is interrupted.
    set -m
    "$VENV/bin/python" -m pip install --verbose --require-hashes -r "$file" </dev/null >"$LOG" 2>&1 &
    set +m
    show_progress $! || fail
    echo "$want" >"$stamp"
}

# show_progress PID: until it ends, what pip is at, from its log; give its exit status.
show_progress() {
    local pid=$1 line shown=""
    trap 'kill -- "-$pid" 2>/dev/null; die "interrupted; run this again: it goes on where it stopped."' INT TERM
    while kill -0 "$pid" 2>/dev/null; do
        line=$(progress_line)
        if [[ -n $line && $line != "$shown" ]]; then
            shown=$line
            if [[ -t 1 ]]; then printf '\r\033[K    %s' "$line"; else echo "    $line"; fi
        fi
        sleep 2
    done
    trap - INT TERM
    [[ -t 1 ]] && printf '\r\033[K'
    wait "$pid"
}

# The last thing worth telling in pip's log. Where nobody watches, the compiler's progress counts in tens of percent.
progress_line() {
    local last
    last=$(grep -aoE '^ *\[ *[0-9]+/[0-9]+\]|^ *\[ *[0-9]+%\]|^ *(Collecting|Installing collected|Preparing metadata|Installing build dependencies)[^(;]{0,60}' "$LOG" 2>/dev/null | tail -n 1)
    awk -v coarse="$([[ -t 1 ]] || echo 1)" '
        match($0, /[0-9]+\/[0-9]+\]/) {
            split(substr($0, RSTART, RLENGTH - 1), n, "/"); percent = int(100 * n[1] / n[2])
            if (coarse) percent -= percent % 10
            print "compiling llama.cpp: " percent " %"; next
        }
        match($0, /[0-9]+%/) { percent = substr($0, RSTART, RLENGTH - 1) + 0; if (coarse) percent -= percent % 10; print "compiling llama.cpp: " percent " %"; next }
        { sub(/^ +/, ""); if (coarse && /^Collecting/) { print "collecting packages"; next } print tolower(substr($0, 1, 1)) substr($0, 2) }' <<<"$last"
}

fail() {
    tail -n 25 "$LOG" >&2
    die "that did not work; the lines above end $LOG. Once the cause is gone, run this again: it goes on where it stopped."
}

command=${1:-setup}
[[ $# -eq 0 ]] || shift
case $command in
    setup | run | test) ;;
    -h | --help | help) usage; exit ;;
    *) usage >&2; die "there is no command $command" ;;
esac

install_system_packages
make_venv
case $command in
    setup)
        install_requirements requirements.txt
        say "Everything is set up. Type ./setup.sh run (or: source $VENV/bin/activate; python3 main.py) to serve on port 5000."
        ;;
    run)
        install_requirements requirements.txt
        exec "$VENV/bin/python" main.py "$@"
        ;;
    test)
        install_requirements requirements-dev.txt
        exec scripts/check "$@"
        ;;
esac
