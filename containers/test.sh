#!/usr/bin/env bash
# Install Apptainer where it is absent, make a Debian base, build the definition with CPU torch, run
# its %test, and run a short study inside: `make container-test`. What could not be tried for reasons
# outside the project is said loudly, and is no failure. Apptainer and the base are kept in
# build/containers for the next time, the image and the study for looking at.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD/build/containers
image=$work/meddino.sif
mkdir -p "$work"
exec 3>&1

skip() { # REASON
  printf '\n%s\n' "######################################################################" \
    "#  CONTAINER TEST SKIPPED: $1" \
    "#  Nothing was said about the image, good or bad. Log: build/containers/*.log" \
    "######################################################################" >&3
  exit 0
}

step() { # NAME COMMAND...: quietly, with its time; its output goes to NAME.log
  local name=$1 begun=$SECONDS status=0
  shift
  "$@" > "$work/$name.log" 2>&1 || status=$?
  printf '%-10s %4d s%s\n' "$name" $((SECONDS - begun)) "$([ $status = 0 ] || echo '  FAILED')" >&3
  return $status
}

fail() { # NAME: the end of its log, and out
  tail -n 40 "$work/$1.log" >&2
  exit 1
}

make_base() { # a minimal Debian 12, as the image of that name on a hub
  [ -s "$work/base.tar" ] || {
    mmdebstrap --variant=minbase --include=ca-certificates bookworm "$work/base.part.tar"
    mv "$work/base.part.tar" "$work/base.tar"
  }
  rm -rf "$work/base"
  mkdir "$work/base"
  tar -C "$work/base" -xf "$work/base.tar" --exclude='./dev/*'
}

lend_pip() { # this machine's pip settings as one file, and the local files that they name
  local file
  "$python" -m pip config list | sed -nE "s/^(global|:env:)\.([a-z-]+)='(.*)'$/\2 = \3/p" \
    | grep -v '^constraint' | awk -F' = ' '{ s[$1] = $0 } END { print "[global]"; for (k in s) print s[k] }' \
    > "$work/pip.conf"
  while read -r file; do
    file=${file#file://}
    file=${file%/simple} # an index refers to the folder beside itself
    [ -e "$file" ] || continue
    if [ -d "$file" ]; then
      mkdir -p "$work/base$file"
    elif [ ! -e "$work/base$file" ]; then
      install -D /dev/null "$work/base$file"
    fi
    binds+=("--bind=$file")
  done < <(grep -oE '(file://)?/[^ ]+' "$work/pip.conf" | grep -v '^//')
}

[ "$(id -u)" = 0 ] || skip "only root may install packages and make a base"
grep -q '^ID=debian' /etc/os-release || skip "only Debian is provided for"
python=$(command -v python)
binds=()

if ! command -v apptainer >/dev/null; then
  export PATH=$work/apptainer/usr/bin:$PATH
  apptainer --version >/dev/null 2>&1 \
    || step install bash containers/install-apptainer.sh "$work/apptainer" \
    || skip "Apptainer could not be installed"
fi
command -v mmdebstrap >/dev/null || step mmdebstrap apt-get install -y -qq mmdebstrap || skip "no mmdebstrap"
step base make_base || skip "no Debian base could be made"
step index "$python" -m pip download -qq --no-deps --dest "$work/probe" wheel || skip "no package index can be reached"
lend_pip

within=()
if (((0x$(awk '/^CapEff/ { print $2 }' /proc/self/status) >> 24 & 1) == 0)); then # CAP_SYS_RESOURCE
  within=(sh containers/in-namespace.sh)
fi
"${within[@]}" true || skip "no user namespaces here"
PIP_CONFIG_FILE=$work/pip.conf step build "${within[@]}" bash containers/build.sh "$image" \
  BOOTSTRAP=localimage "FROM=$work/base" TORCH=cpu SNAPSHOT=none --notest "${binds[@]}" \
  --mksquashfs-args="-comp zstd -Xcompression-level 1" || fail build # the default takes minutes
if [ ${#within[@]} -gt 0 ]; then export APPTAINER_USERNS=1; fi # running needs less than building
step test apptainer test "$image" || fail test

# In a folder of its own, where no checkout is: the code that runs is the image's.
rm -rf "$work/study"
mkdir "$work/study"
cp config.yaml "$work/study"
export MEDDINO_IMAGE=$image
step study snakemake --profile profiles/demo --directory "$work/study" --sdm apptainer \
  --configfile profiles/demo/study.yaml containers/study.yaml -- all || fail study
inside=$(grep -c 'Activating .* image' "$work/study.log")
echo "$(du -h "$image" | cut -f1)B image; a study of $inside jobs inside; tables and report are there"
test -s "$work/study/results/report.html"
