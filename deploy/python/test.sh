#!/usr/bin/env bash
# Builds the wheel, installs it into the kept environment and runs the tests of the reader under PyTorch. Arguments go to pytest.
# Needs the command and the S3 service of the tests in $CM3FLOW_BUILT, where `make test-python` builds them.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
wheels=$CM3FLOW_BUILT/wheels
bash "$here/wheel.sh" "$wheels"
bash "$here/environment.sh" "$here/requirements.txt" python -m pip install --quiet --no-deps --force-reinstall "$wheels"/cm3flow-*.whl
cd "$here/tests"
exec bash "$here/environment.sh" "$here/requirements.txt" python -m pytest --quiet -p no:cacheprovider "$@"
