#!/usr/bin/env bash
# The main job on the GPU, from fitting to evaluation: the image tokenizer of preset f8-8192, in bf16, fitted to the sample corpus by STEPS updates
# (default 200; the preset itself asks for 100,000), then encoding, training, generating.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
steps=${STEPS:-200}
sed -e 's/preset = "photos-tiny".*/preset = "f8-8192"/' -e 's/^seq_len = .*/seq_len = 4608/' \
    -e "s#^url = \"#url = \"$PWD/tests/corpus/#" tests/corpus/photos.toml >"$folder/photos.toml"
cat >>"$folder/photos.toml" <<CONFIG

[runtime]
device = "cuda"

[fit.codebook]
steps = $steps
warm_up_steps = $((steps / 10))
discriminator_start = $((steps / 2))
CONFIG
"$carried/cm3flow" run "$folder/photos.toml"
