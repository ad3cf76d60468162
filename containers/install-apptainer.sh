#!/usr/bin/env bash
# Apptainer for tests, into a folder of its own: containers/install-apptainer.sh FOLDER
# Debian 12 and 13 do not package it. Debian sid does, for a newer libc than Debian 12 has: that is
# taken from Debian 13 and used by Apptainer's two programs alone. Nothing of the system changes but
# for helper packages of its own release. On your own machine, install Apptainer as its makers say.
set -euo pipefail
prefix=$(realpath -m "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
libraries=$prefix/usr/lib/x86_64-linux-gnu

apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
  ca-certificates fuse2fs fuse-overlayfs mmdebstrap patchelf squashfs-tools squashfuse uidmap >/dev/null

download() { # SUITE PACKAGE...: from another suite of this machine's mirror, past the system's own lists
  local suite=$1 state=$work/$1
  shift
  mkdir -p "$state"/{lists/partial,sources,cache/archives/partial}
  local mirror
  # shellcheck disable=SC2016  # apt's own names
  mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -E '/debian/?$' | head -n 1)
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" \
    > "$state/sources/$suite.list"
  local options=(-qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$state/sources"
    -o Dir::State::lists="$state/lists" -o Dir::Cache="$state/cache" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update
  (cd "$work" && apt-get "${options[@]}" download "$@")
}

download sid apptainer
download trixie libc6 libseccomp2 libsqlite3-0
mkdir -p "$prefix/libc"
dpkg-deb -x "$work"/apptainer_*.deb "$prefix"
for package in libc6 libseccomp2 libsqlite3-0; do
  dpkg-deb -x "$work/$package"_*.deb "$prefix/libc"
done
private=$prefix/libc/usr/lib/x86_64-linux-gnu
for program in "$prefix/usr/bin/apptainer" "$libraries/apptainer/bin/starter"; do
  patchelf --set-interpreter "$private/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$private" "$program"
done
# A moved Apptainer looks for its settings and its state beside its programs.
for folder in etc var; do
  ln -sfn "../$folder" "$prefix/usr/$folder"
  ln -sfn "../../$folder" "$prefix/usr/lib/$folder"
done
"$prefix/usr/bin/apptainer" --version
