#!/usr/bin/env bash
# Make a virtual environment from the locks: envs/setup.sh PYTHON VENV auto|cpu|cuda|cu126
set -euo pipefail
python=$1 venv=$2 build=$3
here=$(cd "$(dirname "$0")" && pwd)

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || {
  echo "meddino needs Python 3.11 or 3.12, and $python is not: make PYTHON=/path/to/python3.11" >&2
  exit 1
}
case "$build" in
  auto)
    build=cuda
    command -v nvidia-smi >/dev/null || {
      build=cpu
      echo "no nvidia-smi here: torch is installed for CPUs ALONE. For jobs that run on GPUs elsewhere, as from" \
        "a login node: make setup TORCH=cuda (NVIDIA driver 580 or newer) or TORCH=cu126 (525 or newer)" >&2
    }
    ;;
  cpu | cuda | cu[0-9][0-9][0-9]) ;;
  *)
    echo "TORCH=$build is none of auto, cpu, cuda, cu126: make setup TORCH=cuda" >&2
    exit 1
    ;;
esac
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
install=("$venv/bin/pip" install --quiet --no-deps --require-hashes)

# To pip another build of the same release is the same: it would be left in place.
if [ -s "$venv/.torch" ] && [ "$(cat "$venv/.torch")" != "$build" ]; then
  "$venv/bin/pip" uninstall --quiet --yes torch torchvision
  rm "$venv/.torch"
fi
# Builds other than PyPI's lie on the makers' own index. Where that cannot be reached, nor another
# index has the CPU build, PyPI's serves, and is larger.
makers=(--extra-index-url "https://download.pytorch.org/whl/$build" --retries 1)
if [[ $build == cu[0-9]* ]]; then
  [ -s "$here/lock-torch-$build.txt" ] || "$venv/bin/python" "$here/lock.py" "$build"
  echo "installing torch for $build with its CUDA libraries" >&2
  "${install[@]}" "${makers[@]}" -r "$here/lock-torch-$build.txt"
elif [ "$build" = cuda ] || ! "${install[@]}" "${makers[@]}" -r "$here/lock-torch-cpu.txt" 2>/dev/null; then
  echo "installing torch with its CUDA libraries" >&2
  "${install[@]}" -r "$here/lock-torch.txt"
fi
echo "$build" > "$venv/.torch"
echo "installing the other packages" >&2
"${install[@]}" -r "$here/lock.txt"
# timm and transformers import torchvision, which may be PyPI's beside the CPU build of torch.
if [ "$build" = cpu ] && ! "$venv/bin/python" -c 'import torchvision' 2>/dev/null; then
  echo "torchvision is for CUDA here: its Python part is used without its compiled operators" >&2
  "$venv/bin/python" "$here/torchvision_python.py"
fi
"$venv/bin/pip" install --quiet --no-deps --no-build-isolation --editable "$here/.."
