#!/usr/bin/env bash
# What both images hold, made inside them: install.sh TORCH SNAPSHOT. meddino.def and Containerfile
# have put the sources into /opt/meddino/src.
set -euo pipefail
torch=$1 snapshot=$2
export DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1

packages=(ca-certificates python3 python3-venv)
# What torch.compile builds its GPU kernels' launchers with.
if [ "$torch" != cpu ]; then packages+=(gcc libc6-dev python3-dev); fi

# Debian as it was at a moment, so that a later build installs the same; `none` takes today's.
# By HTTP, since there are no certificates yet: apt checks Debian's signatures.
if [ "$snapshot" != none ]; then
  archive=http://snapshot.debian.org/archive
  rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
  printf 'deb [check-valid-until=no] %s bookworm%s main\n' \
    "$archive/debian/$snapshot" "" "$archive/debian/$snapshot" -updates \
    "$archive/debian-security/$snapshot" -security > /etc/apt/sources.list
fi
apt=(apt-get -qq -o APT::Sandbox::User=root) # a build without root has no other user
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends "${packages[@]}" > /dev/null
rm -rf /var/lib/apt/lists/*

cd /opt/meddino
find src -name __pycache__ -prune -exec rm -rf {} +
bash src/envs/setup.sh python3 venv "$torch"
venv/bin/python -m compileall -q src/meddino

python3 -m venv /tmp/tools
/tmp/tools/bin/pip install --quiet --no-deps --require-hashes -r src/envs/lock-tools.txt
/tmp/tools/bin/python sbom.py venv/bin/python src/pyproject.toml sbom.cdx.json
rm -rf /tmp/tools sbom.py install.sh
chmod -R a+rX /opt/meddino
