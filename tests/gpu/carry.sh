#!/usr/bin/env bash
# Builds what the other scripts run, stripped and packed: target/gpu/cm3flow-gpu.tar.xz.
set -euo pipefail
cd "$(dirname "$0")/../.."

limit=45000000
built=${CARGO_TARGET_DIR:-target}
out=target/gpu
make --no-print-directory setup
cargo build --workspace --bin cm3flow --example vq_values
unit_tests=$(cargo test --workspace --lib --no-run 2>&1 | tee /dev/stderr | sed -n 's/.*Executable.*(\(.*cm3flow_model-.*\))$/\1/p')
mkdir -p "$out"
cp "$built/debug/cm3flow" "$built/debug/examples/vq_values" "$out/"
cp "$unit_tests" "$out/unit_tests"
strip "$out/cm3flow" "$out/vq_values" "$out/unit_tests"
tar -cJf "$out/cm3flow-gpu.tar.xz" -C "$out" cm3flow vq_values unit_tests
size=$(stat -c %s "$out/cm3flow-gpu.tar.xz")
echo "$out/cm3flow-gpu.tar.xz: $size bytes"
if [ "$size" -gt "$limit" ]; then
    echo "that is more than $limit bytes" >&2
    exit 1
fi
