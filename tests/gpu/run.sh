#!/usr/bin/env bash
# Runs the sample corpus through Chameleon's network with drawn weights, and says how busy the card was meanwhile. REPEAT times (default 20)
# the corpus, since one is over in seconds.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" tests/gpu/corpus.py "$folder" "${REPEAT:-20}"
nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits --loop-ms=200 >"$folder/busy" &
watcher=$!
began=$(date +%s.%N)
"$carried/cm3flow" run "$folder/chameleon.toml" --no-train
ended=$(date +%s.%N)
kill "$watcher"
awk -v seconds="$(echo "$ended - $began" | bc)" \
    '{ sum += $1; if ($1 > 0) busy++ } END { printf "run %.1f s, card busy %.0f %% on average, %.0f %% of %d looks\n", seconds, sum / NR, 100 * busy / NR, NR }' "$folder/busy"
