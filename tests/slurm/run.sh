#!/usr/bin/env bash
# `make slurm-test`: a real SLURM on this machine; the shortened demo through profiles/slurm, with
# pretraining on two nodes; then what may befall jobs (tests/slurm/test_submit.py). `SLURM=faults` leaves
# the study out, `SLURM=short` most of the faults too.
set -euo pipefail
cd "$(dirname "$0")/../.."
what=${1:-all}
export OMP_NUM_THREADS=1 # two nodes on one machine
status=0
tests/slurm/cluster.sh start || status=$?
if [ $status = 69 ]; then
  printf '%s\n' "######## SLURM TEST SKIPPED: see above. Nothing was said about SLURM, good or bad. ########"
  exit 0
fi
[ $status = 0 ] || exit $status
trap 'tests/slurm/cluster.sh stop' EXIT

# The profile as it is, but for sizes, and for times in which a real cluster would not like to be asked.
task="--partition=gpu --nodes=1 --gpus-per-node=1 --cpus-per-task=1 --mem=4G --time=30"
team="--partition=gpu --nodes=2 --gpus-per-node=1 --cpus-per-task=1 --mem=4G --time=30"
study() {
  python -m meddino study --profile slurm \
    --slurm-init-seconds-before-status-checks 2 --seconds-between-status-checks 2 --latency-wait 10 \
    --local-cores 2 --default-resources slurm_partition=cpu max_mem_mb=8000 max_runtime=30 \
    --set-resources pretrain_{natural,stage1}:sbatch="'$team'" {pretrain_{stage2,stage3},finetune}:sbatch="'$task'" \
    --configfile profiles/demo/study.yaml profiles/demo/short.yaml tests/slurm/study.yaml -- all
}

if [ "$what" = all ]; then
  rm -rf results/slurm
  study
  cat results/slurm/tables/table2.md
fi
chosen=()
[ "$what" = short ] && chosen=(-k "two_nodes or requeued")
MEDDINO_TEST_SLURM=1 python -m pytest -q tests/slurm/test_submit.py --durations=5 "${chosen[@]}"
