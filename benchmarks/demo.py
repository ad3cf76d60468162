"""Does the demo show the paper's steps, whatever its data? `python benchmarks/demo.py`.

The demo (profiles/demo/study.yaml) with other phantoms, and other seeds of training, for each of
`--seeds`; what is finished is not run again. Prints the DSC of all rows on AMOS22, and of Table 2's
on the other benchmarks. Six minutes a seed on two cores.

The demo's rates and sizes were chosen with seed 900; the demo itself is seed 0.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

from meddino.evaluate import statistics
from meddino.report.tables.results import case_values
from meddino.study.model import load

DEMO = "profiles/demo/study.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    means = {seed: run(seed) for seed in arguments.seeds}
    table = pd.DataFrame(means).mul(1.0)
    table.columns = [f"seed {seed}" for seed in table.columns]
    print(table.assign(mean=table.mean(axis=1)).round(1).to_markdown(floatfmt=".1f"))


def run(seed: int) -> dict[str, float]:
    """Mean DSC (%) of each method on each benchmark, of the demo with a seed of its own."""
    results = f"results/demo/seed{seed}"
    overlay = Path(results).with_suffix(".yaml")
    overlay.parent.mkdir(parents=True, exist_ok=True)
    overlay.write_text(yaml.safe_dump(overlaid(seed, results)))
    command = [sys.executable, "-m", "meddino", "study", "--preload", "--profile", "profiles/demo"]
    command += ["--configfile", DEMO, str(overlay), "--", f"{results}/scores.parquet"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    scores = pd.read_parquet(f"{results}/scores.parquet")
    groups = scores.groupby(["benchmark", "method"], sort=False)
    return {
        f"{benchmark}, {method}": statistics.mean(case_values(group, "DSC", "paper").to_numpy())
        for (benchmark, method), group in groups
    }


def overlaid(seed: int, results: str) -> dict[str, object]:
    """What a seed changes in the demo: all that is random."""
    study = load(["config.yaml", DEMO])
    phantoms = {name: {"seed": phantom.seed + seed} for name, phantom in study.phantom.items()}
    for name, phantom in study.phantom.items():
        if phantom.copies is not None:
            copies = {"copies": {"seed": phantom.copies.seed + seed}}
            phantoms[name] = phantoms[name] | copies  # type: ignore[operator]
    stages = {stage: {"seed": seed} for stage in study.pretrain.stages}
    return {
        "results": results,
        "resources": f"{results}/resources",
        "phantom": phantoms,
        "training": {"seed": seed},
        "pretrain": {"stages": stages},
    }


if __name__ == "__main__":
    main()
