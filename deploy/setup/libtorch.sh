#!/usr/bin/env bash
# Puts libtorch 2.11 (CPU) into .libtorch/ at the project's root, taken from the PyTorch wheel; does nothing when it is there.
# A preset LIBTORCH or LIBTORCH_USE_PYTORCH wins: then nothing is fetched.
# CM3FLOW_CACHE (default: $HOME/.cache/cm3flow under CI, else none) keeps the unpacked library across clones.
set -euo pipefail

torch_version=2.11.0
cuda_version='13.0.*'
root=$(cd "$(dirname "$0")/../.." && pwd)
# CARGO's default for LIBTORCH is this very folder, so it does not count as preset.
target=$root/.libtorch

if [ -n "${LIBTORCH_USE_PYTORCH:-}" ]; then
    echo "libtorch: LIBTORCH_USE_PYTORCH is set, using the PyTorch of $(command -v python3)"
    exit 0
fi
if [ -n "${LIBTORCH:-}" ] && [ "$LIBTORCH" != "$target" ]; then
    if [ ! -e "$LIBTORCH/lib/libtorch_cpu.so" ]; then
        echo "libtorch: LIBTORCH=$LIBTORCH holds no lib/libtorch_cpu.so: point it at an unpacked libtorch $torch_version or unset it" >&2
        exit 1
    fi
    echo "libtorch: using LIBTORCH=$LIBTORCH"
    exit 0
fi
if [ "$(cat "$target/version" 2>/dev/null)" = "$torch_version" ]; then
    exit 0
fi

cache=${CM3FLOW_CACHE:-${CI:+$HOME/.cache/cm3flow}}
if [ -n "$cache" ] && [ "$(cat "$cache/libtorch/version" 2>/dev/null)" = "$torch_version" ]; then
    rm -rf "$target" && ln -s "$cache/libtorch" "$target"
    echo "libtorch: $torch_version from $cache/libtorch"
    exit 0
fi

python=${PYTHON:-python3}
work=$(mktemp -d "${TMPDIR:-/tmp}/cm3flow-libtorch.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "libtorch: fetching the PyTorch $torch_version wheel (about 530 MB, once)"
fetch() {
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$work/wheels" "$@" && return
    cat >&2 <<MESSAGE
libtorch: pip could not download $*.
  Either make a package index with that wheel reachable for pip and run this again,
  or unpack libtorch $torch_version yourself and set LIBTORCH to its folder,
  or install PyTorch $torch_version into a Python environment, activate it and set LIBTORCH_USE_PYTORCH=1.
MESSAGE
    exit 1
}
fetch "torch==$torch_version"
fetch "nvidia-cuda-runtime==$cuda_version" "nvidia-cuda-cupti==$cuda_version"

# libtorch_cpu.so of the CUDA build names libcudart and libcupti; both load without a GPU.
"$python" - "$work" <<'PYTHON'
import pathlib, sys, zipfile

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
            target.write_bytes(archive.read(name))
missing = [name for name in libraries if not (out / "lib" / name).exists()]
if missing:
    sys.exit(f"libtorch: the wheels lack {', '.join(missing)}; please report this with the versions in {work}/wheels")
PYTHON
echo "$torch_version" > "$work/libtorch/version"

rm -rf "$target"
if [ -n "$cache" ]; then
    mkdir -p "$cache" && rm -rf "$cache/libtorch" && mv "$work/libtorch" "$cache/libtorch"
    ln -s "$cache/libtorch" "$target"
else
    mv "$work/libtorch" "$target"
fi
echo "libtorch: $torch_version is in $target"
