#!/usr/bin/env bash
# Runs the unit tests of model/ that need a GPU to say anything.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
"$carried/unit_tests" --include-ignored cuda:: device::
