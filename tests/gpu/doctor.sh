#!/usr/bin/env bash
# Says what the carried cm3flow finds on this machine.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
"$carried/cm3flow" doctor
