#!/usr/bin/env bash
# Runs the sample corpus through Chameleon's network with drawn weights, and says how fast samples were prepared and how busy the card was
# meanwhile. REPEAT times (default 40) the corpus, since one is over in seconds.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

folder=$(mktemp -d)
trap 'rm -rf "$folder"; kill "$watcher" 2>/dev/null || true' EXIT
watcher=
"$python" tests/gpu/corpus.py "$folder" "${REPEAT:-40}"
TZ=UTC nvidia-smi --query-gpu=timestamp,utilization.gpu --format=csv,noheader,nounits --loop-ms=100 >"$folder/busy" &
watcher=$!
"$carried/cm3flow" run "$folder/chameleon.toml" --no-train
kill "$watcher"
"$python" tests/gpu/busy.py "$folder"/.cm3flow/runs/*/events "$folder/busy"
