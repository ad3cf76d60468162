"""Does the demo show the paper's steps, whatever its data? `python benchmarks/demo.py`.

The demo (profiles/demo/study.yaml) with other phantoms, and other seeds of training, for each of
`--seeds`; what is finished is not run again. Prints the DSC of all rows on AMOS22 and of Table 2's
on the other benchmarks, and the paper's steps on AMOS22: by seed, and over the cases of all seeds.
Four minutes a seed on two cores.

The demo's rates and sizes were chosen with seed 900; the demo itself is seed 0.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

from meddino.evaluate import statistics
from meddino.report.tables.samples import case_values
from meddino.study.model import load

DEMO = "profiles/demo/study.yaml"


STEPS = {
    "pretrained > random (last block)": ("dinov3_last", "randinit"),
    "multi-scale > last block": ("dinov3_multiscale", "dinov3_last"),
    "higher resolution > lower": ("dinov3_896", "dinov3_multiscale"),
    "stage 1 > none": ("stage1", "dinov3_896"),
    "stage 3 >= stage 1": ("meddinov3", "stage1"),
    "MedDINOv3 > DINOv3": ("meddinov3", "dinov3_896"),
    "MedDINOv3 > nnU-Net": ("meddinov3", "nnunet"),
    "MedDINOv3 > SegFormer": ("meddinov3", "segformer"),
    "MedDINOv3 > Dino U-Net": ("meddinov3", "dino_unet"),
}
"""The paper's steps in Tables 1 to 3: the row that should be better, and the other."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    scores = {f"seed {seed}": run(seed) for seed in arguments.seeds}
    table = pd.DataFrame({seed: means(of_seed) for seed, of_seed in scores.items()})
    print(table.assign(mean=table.mean(axis=1)).round(1).to_markdown(floatfmt=".1f"))
    print()
    print(steps(scores).to_markdown(floatfmt="+.1f"))


def run(seed: int) -> dict[tuple[str, str], pd.DataFrame]:
    """DSC (%) of the demo with a seed of its own: (benchmark, method) -> cases by structures."""
    results = f"results/demo/seed{seed}"
    overlay = Path(results).with_suffix(".yaml")
    overlay.parent.mkdir(parents=True, exist_ok=True)
    overlay.write_text(yaml.safe_dump(overlaid(seed, results)))
    command = [sys.executable, "-m", "meddino", "study", "--preload", "--profile", "profiles/demo"]
    command += ["--configfile", DEMO, str(overlay), "--", f"{results}/scores.parquet"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    groups = pd.read_parquet(f"{results}/scores.parquet").groupby(["benchmark", "method"])
    return {(name, method): case_values(group, "DSC", "paper") for (name, method), group in groups}


def means(scores: dict[tuple[str, str], pd.DataFrame]) -> dict[str, float]:
    return {", ".join(key): statistics.mean(table.to_numpy()) for key, table in scores.items()}


def steps(scores: dict[str, dict[tuple[str, str], pd.DataFrame]]) -> pd.DataFrame:
    """Differences on AMOS22: by seed, over all cases, and the 95 % interval over these."""
    lines = {}
    for step, pair in STEPS.items():
        tables = [[of_seed["amos22", method] for of_seed in scores.values()] for method in pair]
        better, worse = (pd.concat(table, keys=scores).to_numpy() for table in tables)
        by_seed = [
            statistics.mean(a.to_numpy()) - statistics.mean(b.to_numpy())
            for a, b in zip(*tables, strict=True)
        ]
        contrast = statistics.contrast(better, worse)
        columns = dict(zip(scores, by_seed, strict=True))
        lines[step] = columns | {
            "mean": contrast.difference,
            "low": contrast.low,
            "high": contrast.high,
        }
    return pd.DataFrame(lines).T


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
