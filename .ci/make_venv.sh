#!/usr/bin/env bash
# Makes .venv with imsd (editable), its extras and the development tools, at the exact versions of
# constraints.txt. Run by `make`, whenever pyproject.toml or constraints.txt is newer than the environment.
set -euo pipefail
cd "$(dirname "$0")/.."

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

find_python() { # prints the first interpreter for which every given test holds
    local python
    for python in python3.11 python3 python3.12 python3.13; do
        command -v "$python" >/dev/null || continue
        for test in "$@"; do "$test" "$python" || continue 2; done
        echo "$python"
        return
    done
    return 1
}

apt_install() { # package...
    echo "Installing $*"
    local apt=(apt-get -q -y -o DPkg::Lock::Timeout=580 -o Dpkg::Use-Pty=0 -o Acquire::Retries=3) log
    log=$(mktemp)
    DEBIAN_FRONTEND=noninteractive "${apt[@]}" update >"$log" 2>&1 </dev/null &&
        DEBIAN_FRONTEND=noninteractive "${apt[@]}" install --no-install-recommends "$@" >>"$log" 2>&1 </dev/null ||
        cat "$log" >&2
    rm -f "$log"
}

if ! python=$(find_python is_new_enough has_venv); then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt_install python3 python3-venv
        python=$(find_python is_new_enough has_venv) || true
    fi
    if [ -z "${python:-}" ]; then
        echo "imsd needs Python 3.11 or newer with its venv module." >&2
        echo "On Debian 12 or newer, as root:  apt-get install python3 python3-venv" >&2
        exit 1
    fi
fi

if [ -x .venv/bin/python ] && is_new_enough .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; then
    echo "Renewing .venv ($(.venv/bin/python --version))"
else
    echo "Making .venv with $(command -v "$python") ($("$python" --version))"
    rm -rf .venv
    "$python" -m venv .venv
fi
echo "Installing imsd and its tools at the versions of constraints.txt (a minute or two)"
.venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-input --progress-bar off \
    --root-user-action=ignore --constraint constraints.txt --editable '.[all,dev]'
touch .venv/.installed
