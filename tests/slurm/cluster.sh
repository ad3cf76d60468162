#!/usr/bin/env bash
# A real SLURM on this machine, to test with: tests/slurm/cluster.sh start|stop
#
# Two nodes n1 and n2 (both are this host), each with virtual cores and two GPUs that are none. For a
# throwaway machine or container with Debian or Ubuntu, as root: it writes /etc/slurm and /etc/munge,
# and touches neither where another SLURM is configured.
set -euo pipefail

work=/var/tmp/meddino-slurm
mark="# made by meddino's tests/slurm/cluster.sh"

fail() {
  echo "test SLURM: $*" >&2
  exit 1
}

unable() { # for reasons outside the project
  echo "test SLURM: $*" >&2
  exit 69
}

install() {
  [ "$(id -u)" = 0 ] || unable "needs root (run it in a container)"
  if [ -e /etc/slurm/slurm.conf ] && ! grep -qF "$mark" /etc/slurm/slurm.conf; then
    unable "/etc/slurm/slurm.conf is somebody else's; use another machine"
  fi
  command -v slurmctld >/dev/null && command -v munged >/dev/null && return
  command -v apt-get >/dev/null || unable "slurm-wlm and munge are missing, and there is no apt-get"
  echo "installing slurm-wlm and munge" >&2
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y slurm-wlm munge; } \
    >"$work/apt.log" 2>&1 || unable "cannot install slurm-wlm and munge (see $work/apt.log)"
}

configure() {
  if [ ! -s /etc/munge/munge.key ]; then
    dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 status=none
  fi
  chown munge: /etc/munge/munge.key && chmod 400 /etc/munge/munge.key
  mkdir -p /run/munge "$work/dev" "$work/state" /etc/slurm
  chown munge: /run/munge
  for gpu in 0 1; do
    [ -e "$work/dev/gpu$gpu" ] || mknod "$work/dev/gpu$gpu" c 1 3 \
      || unable "device files cannot be made here"
  done
  # torch finds the first node of a job by its name.
  grep -q '127.0.0.1 n1 n2' /etc/hosts || echo '127.0.0.1 n1 n2' >>/etc/hosts \
    || unable "/etc/hosts cannot be written"
  echo "NodeName=n[1-2] Name=gpu File=$work/dev/gpu[0-1]" >/etc/slurm/gres.conf
  cat >/etc/slurm/slurm.conf <<CONF
$mark
ClusterName=meddino
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=256
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
KillWait=15
OverTimeLimit=0
MinJobAge=600
SlurmdTimeout=20
SchedulerParameters=sched_interval=1,sched_min_interval=200000,batch_sched_delay=0
SlurmdParameters=config_overrides
GresTypes=gpu
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool.%n
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.%n.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.%n.log
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17001 CPUs=8 RealMemory=64000 Gres=gpu:2
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17002 CPUs=8 RealMemory=64000 Gres=gpu:2
PartitionName=cpu Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=n[1-2] MaxTime=INFINITE State=UP
CONF
}

start() {
  mkdir -p "$work"
  install
  stop
  rm -rf "$work/state"
  configure
  pgrep -x munged >/dev/null || su -s /bin/sh munge -c /usr/sbin/munged
  munge -n | unmunge >/dev/null || fail "munge does not work"
  slurmctld
  slurmd -N n1
  slurmd -N n2
  for _ in $(seq 60); do
    [ "$(sinfo -h -N -p cpu -o %T 2>/dev/null | grep -c idle)" = 2 ] && return
    sleep 0.5
  done
  fail "the nodes do not come up (see $work/*.log)"
}

stop() {
  for file in "$work"/slurmd.*.pid "$work"/slurmctld.pid; do
    pid=$(cat "$file" 2>/dev/null) || continue
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 40); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.25
    done
    rm -f "$file"
  done
  # Programs of SLURM, which Snakemake asks whenever it starts, would wait for a controller.
  if grep -qsF "$mark" /etc/slurm/slurm.conf; then rm /etc/slurm/slurm.conf; fi
}

case "${1:-}" in
  start) start ;;
  stop) stop ;;
  *) fail "say start or stop" ;;
esac
