#!/usr/bin/env bash
# Runs a script with the packages of requirements.txt, installed into an environment of their own, which is kept: in $CM3FLOW_CACHE/parity, or
# under the build folder. PARITY_PYTHON (a Python that has those packages) wins: then nothing is installed.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
if [ -n "${PARITY_PYTHON:-}" ]; then
    exec "$PARITY_PYTHON" "$@"
fi
home=${CM3FLOW_CACHE:-${CARGO_TARGET_DIR:-$here/../../target}}/parity
# The copy is written last, so an installation that was cut short is begun again.
if ! cmp -s "$here/requirements.txt" "$home/requirements.txt"; then
    echo "parity: installing the packages of tests/parity/requirements.txt into $home"
    rm -rf "$home"
    mkdir -p "$home"
    "${PYTHON:-python3}" -m venv "$home/venv"
    "$home/venv/bin/python" -m pip install --quiet --no-cache-dir --only-binary=:all: --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$home/requirements.txt"
fi
exec "$home/venv/bin/python" "$@"
