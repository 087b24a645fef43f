#!/usr/bin/env bash
# Set Hearth up: ./setup.sh · ./setup.sh run [FLAGS] · ./setup.sh cluster · ./setup.sh test [PYTEST ARGUMENTS]
# Each step is done only where it is missing, so it can be interrupted and run again.
set -euo pipefail
CALLED_FROM=$PWD
cd "$(dirname "$0")"

VENV=$PWD/.venv
LOG=$VENV/setup.log
# llama.cpp for this very CPU, without the parts that Hearth does not use (vision, and HTTPS of llama.cpp's own downloads).
export CMAKE_ARGS="${CMAKE_ARGS:--DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DLLAMA_OPENSSL=OFF}"
export PIP_DISABLE_PIP_VERSION_CHECK=1
# pip 23.1 and newer take a wheel that was built here before from their cache, hashes or not.
PIP_VERSION=26.3
# Packages of npm that the tests run, and their lock file.
NPM_CLIENTS=tests/server/npm
TTY=""
[[ ! -t 1 ]] || TTY=1

say() { printf '==> %s\n' "$*"; }
die() { printf 'setup.sh: %s\n' "$*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

usage() {
    echo "Usage: ./setup.sh              set everything up"
    echo "       ./setup.sh run [FLAGS]  set up what is missing, and serve (flags: .venv/bin/python main.py --help);"
    echo "                               the first time it fetches a small model (HEARTH_MODEL=NAME: another, none: none)"
    echo "       ./setup.sh cluster      set up what a cluster needs too (docs/cluster.md)"
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

# Whether there is a browser that the tests can drive.
has_browser() { has chromium || has chromium-browser || has google-chrome; }

# Debian keeps it where only root looks.
has_rabbitmq() { has rabbitmq-server || [[ -x /usr/sbin/rabbitmq-server ]]; }

# Programs that the tests cannot do without.
has_test_tools() { has_browser && has redis-server && has_rabbitmq && has node && has npm; }

# Debian's packages for what is lacking, by apt-get; through sudo where that is needed.
install_system_packages() {
    local missing=() python
    python=$(find_python)
    [[ -n $python ]] || missing+=(python3)
    if [[ -z $python ]]; then
        missing+=(python3-venv)
    elif ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        missing+=("$(basename "$python")-venv")
    fi
    has c++ && has cc || missing+=(build-essential)
    has cmake || missing+=(cmake)
    has ninja || has make || missing+=(ninja-build)
    has curl || missing+=(curl)
    [[ $command != test ]] || has_browser || missing+=(chromium)
    [[ $command != test ]] || has redis-server || missing+=(redis-server)
    [[ $command != test ]] || has_rabbitmq || missing+=(rabbitmq-server)
    [[ $command != test ]] || has strace || missing+=(strace)
    [[ $command != test ]] || has node || missing+=(nodejs)
    [[ $command != test ]] || has npm || missing+=(npm)
    [[ ${#missing[@]} -gt 0 ]] || return 0

    local as_root=()
    if [[ $EUID -ne 0 ]]; then
        has sudo || die "these packages are needed, and there is no sudo to install them: ${missing[*]}. Have them installed, then run this again."
        as_root=(sudo)
    fi
    has apt-get || die "these packages are needed, and there is no apt-get to install them: ${missing[*]}. Install what your system calls them, then run this again."
    say "Installing system packages: ${missing[*]}"
    { "${as_root[@]}" apt-get -o DPkg::Lock::Timeout=300 update -q &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends "${missing[@]}"; } ||
        die "apt-get could not install these packages: ${missing[*]}. Have them installed, then run this again."
    [[ -n $(find_python) ]] || die "Python 3.10 or newer is needed, and this system's is older: $(python3 --version)."
}

# The environment, with pip; anew where it was not finished, or no longer works.
make_venv() {
    if [[ -f $VENV/made ]] && "$VENV/bin/python" -c 'import pip' 2>/dev/null; then return; fi
    say "Making .venv"
    rm -rf "$VENV"
    "$(find_python)" -m venv "$VENV"
    "$VENV/bin/python" -m pip install --quiet "pip==$PIP_VERSION" >"$LOG" 2>&1 || fail
    touch "$VENV/made"
}

# What llama.cpp is compiled for: the options, and which instructions this CPU has.
build_id() {
    {
        echo "$CMAKE_ARGS"
        uname -m
        grep -m 1 -E '^(flags|Features)' /proc/cpuinfo | tr ' ' '\n' | grep -E '^(s?sse|avx|fma|f16c|bmi|amx|asimd|sve|i8mm|bf16|fphp)' | sort || true
    } | sha256sum
}

# What an installation of FILE depends on.
stamp_of() { { cat "$1"; build_id; } | sha256sum; }

is_installed() { [[ -f $VENV/made && -f $VENV/$1.installed && $(<"$VENV/$1.installed") == "$(stamp_of "$1")" ]]; }

is_noted() { [[ -f $1 && $(<"$1") == "$(build_id)" ]]; }

# The environment, or pip's cache, may hold llama.cpp compiled for another CPU or with other options. Both keep a note.
forget_other_builds() {
    CACHE_NOTE=$("$VENV/bin/python" -m pip cache dir 2>/dev/null)/hearth-llama-build || CACHE_NOTE=""
    if [[ -n $CACHE_NOTE ]] && ! is_noted "$CACHE_NOTE"; then
        "$VENV/bin/python" -m pip cache remove llama_cpp_python >/dev/null 2>&1 || true
    fi
    if ! is_noted "$VENV/llama-build"; then
        "$VENV/bin/python" -m pip uninstall --yes --quiet llama-cpp-python >/dev/null 2>&1 || true
    fi
}

# install_requirements FILE: what FILE pins, into the environment.
install_requirements() {
    local file=$1
    say "Installing the packages of $file"
    forget_other_builds
    if ! "$VENV/bin/python" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("llama_cpp"))'; then
        echo "    Unless it was before, llama.cpp is compiled for this CPU: about five minutes on two cores."
        echo "    .venv/setup.log has the details."
    fi
    # A process group of its own, so that the compiler ends with pip where this script is interrupted.
    set -m
    "$VENV/bin/python" -m pip install --verbose --require-hashes -r "$file" </dev/null >"$LOG" 2>&1 &
    set +m
    show_progress $! || fail
    build_id >"$VENV/llama-build"
    if [[ -n $CACHE_NOTE ]]; then mkdir -p "$(dirname "$CACHE_NOTE")" && build_id >"$CACHE_NOTE"; fi
    stamp_of "$file" >"$VENV/$file.installed"
    # What the tests need holds all that a cluster needs, and that all that the server needs.
    [[ $file != requirements-dev.txt ]] || stamp_of requirements-cluster.txt >"$VENV/requirements-cluster.txt.installed"
    stamp_of requirements.txt >"$VENV/requirements.txt.installed"
}

# The clients that the tests run, without what they need for other things.
install_clients() {
    "$VENV/bin/python" -m pip install --quiet --no-deps --require-hashes -r requirements-clients.txt >"$LOG" 2>&1 || fail
    stamp_of requirements-clients.txt >"$VENV/requirements-clients.txt.installed"
}

# Those of npm, in a folder beside the scripts that import them.
install_npm_clients() {
    say "Installing the packages of $NPM_CLIENTS/package-lock.json"
    (cd "$NPM_CLIENTS" && npm ci --ignore-scripts --no-audit --no-fund) >"$LOG" 2>&1 || fail
    cp "$NPM_CLIENTS/package-lock.json" "$VENV/npm-clients.installed"
}

npm_clients_are_installed() {
    [[ -d $NPM_CLIENTS/node_modules && -f $VENV/npm-clients.installed ]] &&
        [[ $(<"$VENV/npm-clients.installed") == "$(<"$NPM_CLIENTS/package-lock.json")" ]]
}

# show_progress PID: until it ends, what pip is at, from its log; give its exit status.
show_progress() {
    local pid=$1 line shown=""
    trap 'kill -INT -- "-$pid" 2>/dev/null; wait "$pid"; die "interrupted; it can be run again."' INT TERM HUP
    while kill -0 "$pid" 2>/dev/null; do
        line=$(progress_line)
        if [[ -n $line && $line != "$shown" ]]; then
            shown=$line
            if [[ -n $TTY ]]; then printf '\r\033[K    %s' "$line"; else echo "    $line"; fi
        fi
        sleep 2
    done
    trap - INT TERM HUP
    [[ -z $TTY ]] || printf '\r\033[K'
    wait "$pid"
}

# The last thing worth telling in pip's log. Where nobody watches, the compiler's progress counts in tens of percent.
progress_line() {
    local last
    last=$(grep -aoE '^ *\[ *[0-9]+/[0-9]+\]|^ *\[ *[0-9]+%\]|^ *(Collecting|Installing collected|Preparing metadata|Installing build dependencies)[^(;]{0,60}' "$LOG" 2>/dev/null | tail -n 1)
    awk -v fine="${TTY:-0}" '
        match($0, /[0-9]+\/[0-9]+\]/) {
            split(substr($0, RSTART, RLENGTH - 1), n, "/"); percent = int(100 * n[1] / n[2])
            if (!fine) percent -= percent % 10
            print "compiling llama.cpp: " percent " %"; next
        }
        match($0, /[0-9]+%/) { percent = substr($0, RSTART, RLENGTH - 1) + 0; if (!fine) percent -= percent % 10; print "compiling llama.cpp: " percent " %"; next }
        { sub(/^ +/, ""); if (!fine && /^Collecting/) { print "collecting packages"; next } print tolower(substr($0, 1, 1)) substr($0, 2) }' <<<"$last"
}

fail() {
    tail -n 25 "$LOG" >&2
    die "that did not work; the lines above end .venv/setup.log. Once the cause is gone, run this again."
}

command=${1:-setup}
[[ $# -eq 0 ]] || shift
case $command in
    setup | run | cluster | test) ;;
    -h | --help | help) usage; exit ;;
    *) usage >&2; die "there is no command $command" ;;
esac

wanted=requirements.txt
[[ $command != cluster ]] || wanted=requirements-cluster.txt
[[ $command != test ]] || wanted=requirements-dev.txt
if ! is_installed "$wanted" || { [[ $command == test ]] && ! has_test_tools; }; then
    install_system_packages
fi
if ! is_installed "$wanted"; then
    make_venv
    install_requirements "$wanted"
fi
[[ $command != test ]] || is_installed requirements-clients.txt || install_clients
[[ $command != test ]] || npm_clients_are_installed || install_npm_clients
case $command in
    cluster) say "Everything for a cluster is set up: docs/cluster.md goes on from here." ;;
    setup) say "Everything is set up. Type ./setup.sh run (or: source .venv/bin/activate; python3 main.py) to serve on port 5000." ;;
    run)
        # The first start has a real model (98 MB); HEARTH_MODEL names another, or none.
        export HEARTH_MODEL="${HEARTH_MODEL:-SmolLM2}"
        main=$PWD/main.py && cd "$CALLED_FROM" && exec "$VENV/bin/python" "$main" "$@"
        ;;
    test)
        "$VENV/bin/python" -m tests.support.real_models || die "the models that the tests need could not be fetched; the lines above say why."
        exec scripts/check "$@"
        ;;
esac
