#!/usr/bin/env bash
# Runs a command with the packages of requirements.txt, installed into an environment of their own, which is kept: in $CM3FLOW_CACHE/python, or
# under the build folder. The environment is that of the first argument, the command that of the others. Packages of a requirements-alone.txt beside
# it are installed without what they ask for themselves.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
requirements=$(realpath "$1")
shift
alone=$(dirname "$requirements")/requirements-alone.txt
[ -f "$alone" ] || alone=/dev/null
name=$(basename "$(dirname "$requirements")")
home=${CM3FLOW_CACHE:-${CARGO_TARGET_DIR:-$here/../../target}}/environments/$name
# The copy is written last, so an installation that was cut short is begun again.
if ! cat "$requirements" "$alone" | cmp -s - "$home/requirements.txt"; then
    echo "python: installing the packages of $requirements into $home"
    rm -rf "$home"
    mkdir -p "$home"
    "${PYTHON:-python3}" -m venv "$home/venv"
    "$home/venv/bin/python" -m pip install --quiet --no-cache-dir --only-binary=:all: --requirement "$requirements"
    "$home/venv/bin/python" -m pip install --quiet --no-cache-dir --only-binary=:all: --no-deps --requirement "$alone"
    cat "$requirements" "$alone" > "$home/requirements.txt"
fi
export VIRTUAL_ENV=$home/venv PATH=$home/venv/bin:$PATH
exec "$@"
