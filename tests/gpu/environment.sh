# Sourced by the scripts beside it: the carried binaries find libtorch in the machine's Python.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-python3}
carried=$(cd "${CARRIED:-target/gpu}" && pwd)
torch=$("$python" -c 'import os, torch; print(os.path.dirname(torch.__file__))')
# CUDA's own libraries lie beside PyTorch's, a folder each.
cuda=$(find "$(dirname "$torch")/nvidia" -maxdepth 3 -type d -name lib 2>/dev/null | tr '\n' ':')
export LD_LIBRARY_PATH=$torch/lib:${cuda}${LD_LIBRARY_PATH:-}
