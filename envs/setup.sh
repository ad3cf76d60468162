#!/usr/bin/env bash
# Make a virtual environment from the locks: envs/setup.sh PYTHON VENV auto|cpu|cuda
set -euo pipefail
python=$1 venv=$2 build=$3
here=$(cd "$(dirname "$0")" && pwd)

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || {
  echo "meddino needs Python 3.11 or 3.12, and $python is not: make PYTHON=/path/to/python3.11" >&2
  exit 1
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
install=("$venv/bin/pip" install --quiet --no-deps --require-hashes)

if [ "$build" = auto ]; then
  build=cpu
  command -v nvidia-smi >/dev/null && build=cuda
fi
# The CPU build lies on the makers' own index; without that the general one serves, and is larger.
if [ "$build" = cuda ] || ! "${install[@]}" -r "$here/lock-torch-cpu.txt" 2>/dev/null; then
  echo "installing torch with its CUDA libraries" >&2
  "${install[@]}" -r "$here/lock-torch.txt"
fi
echo "installing the other packages" >&2
"${install[@]}" -r "$here/lock.txt"
"$venv/bin/pip" install --quiet --no-deps --no-build-isolation --editable "$here/.."
