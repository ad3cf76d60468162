#!/usr/bin/env bash
# `make slurm-test`: the shortened demo through profiles/slurm on a real SLURM, and faults of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
cluster=tests/slurm/cluster.sh
$cluster start
trap '$cluster stop' EXIT

# The profile as it is, but for sizes, and for times that a cluster would not like to be asked in.
task="--partition=gpu --nodes=1 --gpus-per-node=1 --cpus-per-task=1 --mem=4G --time=30"
team="--partition=gpu --nodes=2 --gpus-per-node=1 --cpus-per-task=1 --mem=4G --time=30"
study() {
  OMP_NUM_THREADS=1 python -m meddino study --profile slurm "$@" \
    --slurm-init-seconds-before-status-checks 2 --seconds-between-status-checks 2 --latency-wait 10 \
    --local-cores 2 --resources mem_mb=16000 --default-resources slurm_partition=cpu mem_mb=1000 runtime=10 \
    --set-threads pretrain_{natural,stage1,stage2,stage3}=1 finetune=1 \
    --set-resources {pretrain_{natural,stage1,stage2,stage3},finetune}:mem_mb=200 \
    pretrain_{natural,stage1}:sbatch="'$team'" {pretrain_{stage2,stage3},finetune}:sbatch="'$task'" \
    --configfile profiles/demo/study.yaml profiles/demo/short.yaml tests/slurm/study.yaml -- all
}
study
