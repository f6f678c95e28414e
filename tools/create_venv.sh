#!/bin/sh
# create_venv.sh DIRECTORY CONFIGURATION
#
# Makes a virtual environment and installs the versions pinned in requirements/CONFIGURATION-pyX.Y.txt into it, and this
# package in editable mode. The interpreter is $PYTHON, else the first of 3.10 (the only one that has every optional
# wheel), 3.11, 3.12 and 3.9 found on PATH or among pyenv's versions.
set -eu

directory=$1
configuration=$2
cd "$(dirname "$0")/.."
versions='3.10 3.11 3.12 3.9'

# Print the version of interpreter $1 if it works and can make virtual environments.
version_of() {
    "$1" -c 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# Print the path of an interpreter of version $1; fail if there is none.
find_version() {
    for candidate in "python$1" "${PYENV_ROOT:-/nonexistent}"/versions/"$1"*/bin/python \
        "${HOME:-/nonexistent}"/.pyenv/versions/"$1"*/bin/python python3 python; do
        if [ "$(version_of "$candidate")" = "$1" ]; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

find_any() {
    for version in $versions; do
        find_version "$version" && return 0
    done
    return 1
}

if [ -n "${PYTHON:-}" ]; then
    python=$PYTHON
elif ! python=$(find_any); then
    echo "error: no Python $versions with the venv and ensurepip modules on PATH or in pyenv." >&2
    echo "Install one (on Debian and Ubuntu also the package python3-venv), or name one: make PYTHON=/path/to/python3.10" >&2
    exit 1
fi
version=$(version_of "$python") || {
    echo "error: $python does not run, or lacks the venv or ensurepip module (on Debian and Ubuntu: package python3-venv)." >&2
    exit 1
}
lock=requirements/$configuration-py$version.txt
if [ ! -f "$lock" ]; then
    echo "error: $python is Python $version; this project supports $versions." >&2
    exit 1
fi

echo "Creating $directory with $python (Python $version) from $lock"
"$python" -m venv --clear "$directory"
"$directory/bin/python" -m pip install --disable-pip-version-check --quiet --quiet --requirement "$lock"
"$directory/bin/python" -m pip install --disable-pip-version-check --quiet --quiet --no-deps --no-build-isolation --editable .
