#!/usr/bin/env bash
# Build the image and put its bill of materials beside it:
#   containers/build.sh IMAGE.sif [NAME=VALUE of the definition's %arguments | --OPTION of apptainer build]...
set -euo pipefail
image=$(realpath -m "$1")
shift
cd "$(dirname "$0")/.."

command -v apptainer >/dev/null || {
  echo "building needs Apptainer (https://apptainer.org, or a cluster's module); \`make container-test\`" \
    "brings its own on Debian" >&2
  exit 1
}
arguments=(--build-arg "COMMIT=$(git describe --always --dirty 2>/dev/null || echo unknown)")
for argument in "$@"; do
  [[ $argument == --* ]] && arguments+=("$argument") || arguments+=(--build-arg "$argument")
done

# pip in the image reads no settings of this machine (its mirror, its certificates): lend them.
lent=$(mktemp -d)
trap 'rm -rf "$lent" "$image.part"' EXIT
if [ -s "${PIP_CONFIG_FILE:-}" ]; then
  cp "$PIP_CONFIG_FILE" "$lent/pip.conf"
  arguments+=(--bind "$lent:/mnt")
fi
mkdir -p "$(dirname "$image")"
apptainer build --force "${arguments[@]}" "$image.part" containers/meddino.def
mv "$image.part" "$image"
apptainer exec "$image" cat /opt/meddino/sbom.cdx.json > "${image%.sif}.sbom.cdx.json"
echo "$image: $(du -h "$image" | cut -f1)B, and its bill of materials, ${image%.sif}.sbom.cdx.json"
