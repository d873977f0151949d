#!/usr/bin/env bash
# Builds what the other scripts run, stripped and packed: target/gpu/cm3flow-gpu.tar.xz.
set -euo pipefail
cd "$(dirname "$0")/../.."

limit=45000000
built=${CARGO_TARGET_DIR:-target}
out=target/gpu
make --no-print-directory setup
cargo build --release --package cm3flow --bin cm3flow
cargo build --release --package cm3flow-model --example vq_values
mkdir -p "$out"
cp "$built/release/cm3flow" "$built/release/examples/vq_values" "$out/"
strip "$out/cm3flow" "$out/vq_values"
tar -cJf "$out/cm3flow-gpu.tar.xz" -C "$out" cm3flow vq_values
size=$(stat -c %s "$out/cm3flow-gpu.tar.xz")
echo "$out/cm3flow-gpu.tar.xz: $size bytes"
if [ "$size" -gt "$limit" ]; then
    echo "that is more than $limit bytes" >&2
    exit 1
fi
