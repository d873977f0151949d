#!/usr/bin/env bash
# Compares codes and speed of the image tokenizer on this machine's GPU; options go to encoding.py.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
"$python" tests/gpu/encoding.py "$carried/vq_values" "$@"
