"""Do the paper's findings show on phantoms? `python benchmarks/directions.py [--seeds 0 1 2]`.

Tables 1 and 3 of a small study (profiles/directions/study.yaml), once for each seed of pretraining
and finetuning, through the workflow; what is finished is not run again. Prints the DSC of each row
and, for each of the paper's steps, the difference: by seed, its mean, and the 95 % interval over
cases of the mean over seeds. Half an hour a seed on one core.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from meddino.evaluate import statistics
from meddino.report.tables.samples import case_values
from meddino.study import paths, targets
from meddino.study.model import load

OVERLAYS = ["profiles/demo/study.yaml", "profiles/directions/study.yaml"]
STEPS = {
    "pretrained > random (last block)": ("dinov3_last", "randinit"),
    "multi-scale > last block": ("dinov3_multiscale", "dinov3_last"),
    "higher resolution > lower": ("dinov3_896", "dinov3_multiscale"),
    "pretrained > random (multi-scale, high resolution; not in the paper)": (
        "dinov3_896",
        "random_896",
    ),
    "stage 1 > none": ("stage1", "dinov3_896"),
    "stage 3 >= stage 1": ("meddinov3", "stage1"),
}
"""The paper's steps in Tables 1 and 3: the row that should be better, and the other."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cores", type=int, default=1)
    given = parser.parse_args()
    scores = [run(seed, given.cores) for seed in given.seeds]
    methods = list(dict.fromkeys(scores[0]["method"]))
    by_method = {
        method: [case_values(table[table["method"] == method], "DSC", "paper") for table in scores]
        for method in methods
    }
    print_rows(by_method, given.seeds)
    print_steps(by_method, given.seeds)


def run(seed: int, cores: int) -> pd.DataFrame:
    """Scores of the study with a seed of its own for all that is random."""
    results = f"results/directions/seed{seed}"
    stages = {stage: {"seed": seed} for stage in ("natural", "stage1", "stage2", "stage3")}
    overlay = Path(results).with_suffix(".yaml")
    overlay.parent.mkdir(parents=True, exist_ok=True)
    overlay.write_text(
        yaml.safe_dump(
            {"results": results, "training": {"seed": seed}, "pretrain": {"stages": stages}}
        )
    )
    wanted = [f"{results}/scores.parquet", *load_probes(overlay)]
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/demo", "--quiet"]
    command += ["--cores", str(cores), "--rerun-incomplete"]
    command += ["--configfile", *OVERLAYS, str(overlay), "--", *wanted]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return pd.read_parquet(wanted[0])


def load_probes(overlay: Path) -> list[str]:
    """Probes of all checkpoints, which say what pretraining did before any finetuning."""
    study = load(["config.yaml", *OVERLAYS, overlay])
    return [paths.probe(study, source) for source in targets.probed(study)]


def print_rows(by_method: dict[str, list[pd.DataFrame]], seeds: list[int]) -> None:
    print(f"\n| DSC (%) | {' | '.join(f'seed {seed}' for seed in seeds)} | mean |")
    print(f"|---|{'---:|' * (len(seeds) + 1)}")
    for method, values in by_method.items():
        means = [float(table.mean().mean()) for table in values]
        print(f"| {method} | {' | '.join(f'{m:.1f}' for m in means)} | {np.mean(means):.1f} |")


def print_steps(by_method: dict[str, list[pd.DataFrame]], seeds: list[int]) -> None:
    print(f"\n| step | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | 95 % over cases |")
    print(f"|---|{'---:|' * (len(seeds) + 2)}")
    for name, (better, worse) in STEPS.items():
        differences = [a - b for a, b in zip(by_method[better], by_method[worse], strict=True)]
        means = [float(table.mean().mean()) for table in differences]
        low, high = statistics.interval(np.mean([table.to_numpy() for table in differences], 0))
        told = " | ".join(f"{mean:+.1f}" for mean in means)
        print(f"| {name} | {told} | {np.mean(means):+.1f} | {low:+.1f} to {high:+.1f} |")


if __name__ == "__main__":
    main()
