# `make demo` and `make test` do all set-up on a fresh machine with Python 3.11 or 3.12.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
# Which build of torch: `cpu`, `cuda` (driver 580 or newer), `cu126` (525 or newer, older GPUs), or
# `auto` (cuda where an NVIDIA driver is found).
TORCH ?= auto
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-short demo-beyond standin test check format watch status cost verify accept schema golden rulegraph docs lock audit \
  container image container-test slurm-test gpu-test chaos chaos-short clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready  ## make the virtual environment from the hash-pinned locks

$(VENV)/.ready: envs/lock.txt envs/lock-torch.txt envs/lock-torch-cpu.txt pyproject.toml
	@bash envs/setup.sh $(PYTHON) $(VENV) $(TORCH)
	@touch $@
# Another build of torch than the installed one is asked for.
ifneq ($(filter-out auto $(shell cat $(VENV)/.torch 2>/dev/null),$(TORCH)),)
.PHONY: $(VENV)/.ready
endif

demo: setup  ## the complete study on phantoms, minutes on a laptop
	@python -m meddino study --preload --profile profiles/demo all
	@cat results/tables/table1.md results/tables/table2.md results/tables/table3.md
	@echo "report: $(CURDIR)/results/report.html"

demo-short: setup  ## every stage and every method on one phantom benchmark
	@python -m meddino study --preload --profile profiles/demo --configfile profiles/demo/study.yaml profiles/demo/short.yaml -- all
	@cat results/short/tables/table1.md results/short/tables/table2.md results/short/tables/table3.md
	@echo "report: $(CURDIR)/results/short/report.html"

demo-beyond: setup  ## what a referee would ask next, on phantoms: seeds, transfer, few labels, failures
	@python -m meddino study --preload --profile profiles/demo --configfile profiles/demo/study.yaml profiles/beyond/study.yaml -- all
	@echo "report: $(CURDIR)/results/beyond/report.html"

# `make demo` starts from what this makes, which comes with the package; who changes the engine may
# make it anew.
standin: setup  ## the demo's stand-in for DINOv3, made anew (8 minutes of one core)
	@python -m meddino study --profile profiles/demo --configfile profiles/demo/study.yaml profiles/standin/study.yaml -- results/standin/pretrain/natural/004000.pth
	@python -m meddino export --weights results/standin/pretrain/natural/004000.pth --format transformers --output meddino/models/standins/vittiny8

# Modules stay together, since some share what took long to make; the longest come first.
WORKERS ?= logical
test: setup  ## all tests, one process a core (WORKERS=2)
	@python -m pytest -q --numprocesses $(WORKERS) --maxprocesses 8 --dist loadscope --no-loadscope-reorder

# Needs no set-up where torch is there; with `make setup`, nnU-Net is compared as well.
gpu-test:  ## all that needs a GPU, 20 minutes on one; writes gpu-test.json (PEER=clone of facebookresearch/dinov3)
	@python3 benchmarks/gpu.py $(if $(PEER),--peer $(PEER))

chaos: setup  ## 50 faults at random moments of a small study (hours); writes docs/faults.md
	@python tests/chaos/campaign.py --write

chaos-short: setup  ## one fault of each of a few kinds (minutes)
	@python tests/chaos/campaign.py --short --work /tmp/meddino-chaos-short

check: setup  ## formatting, types, import layers, schema and revisions
	@ruff format --check . && ruff check .
	@mypy
	@lint-imports
	@snakefmt --check workflow
	@python -m meddino.study.schema --check
	@python -m meddino.pipeline.fingerprint

format: setup  ## format Python and Snakemake files
	@ruff format . && ruff check --fix . && snakefmt workflow

watch: setup  ## show the study that runs here: what runs, losses, failures, time left
	@python -m meddino watch

status: setup  ## what would rerun, and why (PROFILE=local)
	@python -m meddino status --profile $(or $(PROFILE),local)

cost: setup  ## what the study would take: jobs, GPU-hours, core-hours, disk (PROFILE=slurm)
	@python -m meddino cost --profile $(or $(PROFILE),slurm)

verify: setup  ## read all results again and compare them with their records
	@python -m meddino verify

accept: setup  ## take edited code as giving the same results
	@python -m meddino.pipeline.fingerprint --accept

schema: setup  ## write workflow/schemas/config.schema.yaml from the options
	@python -m meddino.study.schema

golden: setup  ## record anew the commands that four studies plan, after a change that is meant
	@PYTHONPATH=tests:. python tests/workflow/test_golden_plan.py

rulegraph: setup  ## write docs/rulegraph.md from the workflow
	@mkdir -p docs
	@{ printf '# Rules of the full study\n\nWritten by `make rulegraph`.\n\n```mermaid\nflowchart TB\n'; \
	  snakemake --profile local --quiet --rulegraph mermaid-js all 2>/dev/null \
	    | grep -E '^\s+id[0-9]+(\[| --)' | expand -t 2 | sort -V; printf '```\n'; } > docs/rulegraph.md

docs: setup  ## build the site of the documentation into site/, warnings as errors
	@python -m mkdocs build --strict

lock:  ## resolve envs/requirements.in again (needs uv)
	@python3 envs/lock.py

audit: setup  ## known vulnerabilities of the locked packages, where a database of them can be reached
	@python envs/audit.py

# Arguments of the definition, such as CONTAINER="TORCH=cpu FROM=debian:12".
container:  ## containers/meddino.sif, with its bill of materials (needs Apptainer)
	@bash containers/build.sh containers/meddino.sif $(CONTAINER)

# Arguments of the Containerfile, such as IMAGE="TORCH=cpu"; BUILDER=buildah or docker.
BUILDER ?= podman
image:  ## the same as an OCI image, meddino (needs Podman, or BUILDER=buildah|docker)
	@$(BUILDER) build --build-arg "COMMIT=$$(git describe --always --dirty)" $(addprefix --build-arg ,$(IMAGE)) \
	  --tag meddino --file containers/Containerfile .

container-test: setup  ## build the image on a base of its own, and run a short study inside (Debian, root)
	@bash containers/test.sh

SLURM ?= all
slurm-test: setup  ## a real SLURM here: the shortened demo on two nodes, and faults (Debian, root; SLURM=faults|short)
	@bash tests/slurm/run.sh $(SLURM)

clean:  ## remove results, logs and the demo's data; downloads of real data are kept
	@rm -rf results logs resources/demo .snakemake
