#!/usr/bin/env bash
# Puts libtorch 2.11 (CPU) into .libtorch/ at the project's root, taken from the PyTorch wheel on PyPI; does nothing when it is there.
# A preset LIBTORCH or LIBTORCH_USE_PYTORCH wins: then nothing is fetched.
# CM3FLOW_CACHE (a folder; unset: none) keeps the unpacked library for several clones: it lies in $CM3FLOW_CACHE/libtorch, .libtorch links to it.
# Everything is unpacked beside its place and renamed into it, so a run that is cut short leaves no half a library, and of two runs at once one wins.
set -euo pipefail

torch_version=2.11.0
root=$(cd "$(dirname "$0")/../.." && pwd)
link=$root/.libtorch
home=${CM3FLOW_CACHE:+$CM3FLOW_CACHE/libtorch}
home=${home:-$link}

fail() {
    cat >&2 <<MESSAGE
libtorch: $1.
  Put that right and run this again,
  or unpack libtorch $torch_version yourself and set LIBTORCH to its folder,
  or install PyTorch $torch_version into a Python environment, activate it and set LIBTORCH_USE_PYTORCH=1.
MESSAGE
    exit 1
}
is_complete() { [ "$(cat "$1/version" 2>/dev/null)" = "$torch_version" ]; }

if [ -n "${LIBTORCH_USE_PYTORCH:-}" ]; then
    echo "libtorch: LIBTORCH_USE_PYTORCH is set, using the PyTorch of $(command -v python3 || echo 'a missing python3')"
    exit 0
fi
# Cargo sets LIBTORCH to the link, and .ci/run sets it to the cached folder: neither is a choice of the user's.
case ${LIBTORCH:-$link} in
"$link" | "$home") ;;
*)
    [ -e "$LIBTORCH/lib/libtorch_cpu.so" ] || fail "LIBTORCH=$LIBTORCH holds no lib/libtorch_cpu.so"
    echo "libtorch: using LIBTORCH=$LIBTORCH"
    exit 0
    ;;
esac
is_complete "${LIBTORCH:-$link}" && exit 0

fetch() {
    local python=${PYTHON:-python3} folder=${home%/*} work
    [ "$(uname -sm)" = "Linux x86_64" ] || fail "only the wheel for Linux on x86-64 is known here, this is $(uname -sm)"
    "$python" -m pip --version >/dev/null 2>&1 || fail "'$python -m pip' does not run (on Debian: apt-get install python3-pip)"
    mkdir -p "$folder"
    "$python" -c 'import shutil, sys; sys.exit(shutil.disk_usage(sys.argv[1]).free < 1.5e9)' "$folder" ||
        fail "less than 1.5 GB is free in $folder"
    # What a killed run left.
    find "$folder" -maxdepth 1 -name '.libtorch.??????' -mmin +240 -exec rm -rf {} +
    work=$(mktemp -d "$folder/.libtorch.XXXXXX")
    # shellcheck disable=SC2064 # the path is wanted as it is now
    trap "rm -rf '$work'" EXIT

    echo "libtorch: fetching the PyTorch $torch_version wheel (530 MB, once)"
    # One wheel for whatever Python is here; it is only unpacked. libtorch_cpu.so names the two CUDA libraries, which load without a GPU.
    cat > "$work/requirements.txt" <<'REQUIREMENTS'
torch==2.11.0 --hash=sha256:0f68f4ac6d95d12e896c3b7a912b5871619542ec54d3649cf48cc1edd4dd2756
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cupti==13.0.85 --hash=sha256:4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
REQUIREMENTS
    TMPDIR=$work "$python" -m pip download --quiet --no-cache-dir --no-deps --require-hashes --only-binary=:all: \
        --python-version 3.12 --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux2014_x86_64 \
        --dest "$work/wheels" --requirement "$work/requirements.txt" ||
        fail "pip could not download the wheels of torch $torch_version (see above)"

    "$python" - "$work" <<'PYTHON' || fail "the wheels could not be unpacked (see above)"
import pathlib, shutil, sys, zipfile

work = pathlib.Path(sys.argv[1])
out = work / "libtorch"
libraries = ("libtorch_cpu.so", "libc10.so", "libtorch.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13")
for wheel in sorted((work / "wheels").glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            path = pathlib.PurePosixPath(name)
            if path.name in libraries:
                target = out / "lib" / path.name
            elif name.startswith("torch/include/") and not name.endswith("/"):
                target = out / path.relative_to("torch")
            else:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as packed, target.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
missing = [name for name in libraries if not (out / "lib" / name).exists()]
if missing:
    sys.exit(f"libtorch: the wheels lack {', '.join(missing)}")
PYTHON
    echo "$torch_version" > "$work/libtorch/version"

    # A link or another version makes room; a complete one was put there by another run meanwhile, and is kept.
    if ! is_complete "$home"; then
        mv -T "$home" "$work/old" 2>/dev/null || true
        mv -T "$work/libtorch" "$home" 2>/dev/null || is_complete "$home" || fail "could not write $home"
    fi
}

is_complete "$home" || fetch
if [ "$home" != "$link" ]; then
    rm -rf "$link"
    ln -sfn "$home" "$link"
fi
echo "libtorch: $torch_version is in $home"
