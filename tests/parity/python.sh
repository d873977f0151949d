#!/usr/bin/env bash
# Runs a script with the packages of requirements.txt, in an environment of their own that deploy/python/environment.sh keeps. PARITY_PYTHON (a
# Python that has those packages) wins: then nothing is installed.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
if [ -n "${PARITY_PYTHON:-}" ]; then
    exec "$PARITY_PYTHON" "$@"
fi
exec bash "$here/../../deploy/python/environment.sh" "$here/requirements.txt" python "$@"
