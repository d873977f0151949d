#!/usr/bin/env bash
# Builds the wheel for this machine's platform and any Python from 3.9 on; it is the only one in the folder of the first argument then.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
wheels=$1
rm -rf "$wheels"
# A folder of its own: the crates have other features here than in the workspace.
export CARGO_TARGET_DIR=$(dirname "$wheels")/python
exec bash "$here/environment.sh" "$here/requirements.txt" \
    maturin build --quiet --release --locked --manifest-path "$here/Cargo.toml" --out "$wheels"
