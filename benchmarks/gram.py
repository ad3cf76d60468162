"""Does Gram anchoring keep dense features? `python benchmarks/gram.py`.

A small ViT learns phantom CT from nothing (stage 1). From its end, stage 2 is run with and without
the Gram term; nothing else differs. The Gram teacher is the EMA teacher early in stage 1, as in
section 3.2. Everything is measured on the teacher, on slices of patients that it has not seen:
consistency with the Gram teacher (correlation of the cosines between patches), mean cosine between
patches, RankMe, and the k-NN's balanced accuracy for organs of single patches. Prints a Markdown
table; minutes on one core.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from phantoms import indexed, scanned

from meddino.evaluate import probe
from meddino.evaluate.options import Probe, ProbeOptions
from meddino.models import load_backbone
from meddino.pretrain import pretrain, quality
from meddino.pretrain.options import (
    Augmentation,
    Head,
    Objective,
    Optimisation,
    PretrainOptions,
    Resolution,
    StageOptions,
)

SIZE_PX, SLICES, PATCH_PX = 96, 20, 8
HEAD = Head(prototypes=64, hidden=128, bottleneck=48)
PROBE = Probe(benchmark="phantom", slices_px=SIZE_PX)
PROBED = ProbeOptions(
    source="", variant="none", backbone="vittiny8", spacing_mm=1.0, fold=0, probe=PROBE
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=120, help="of each of the two stages")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    end, early = arguments.iterations, arguments.iterations // 3
    first = StageOptions(
        slices_px=SIZE_PX,
        iterations=end,
        snapshots=(early, end),
        batch_size=16,
        resolutions=(Resolution(global_px=48, local_px=24),),
        optim=Optimisation(lr=3e-3, warmup=10, layerwise_decay=1.0, momentum=(0.9, 0.97)),
        objective=Objective(teacher_temperature=(0.02, 0.02)),
        augmentation=Augmentation(local_crops=4),
        dino_head=HEAD,
        ibot_head=HEAD,
        seed=arguments.seed,
    )
    then = replace(
        first,
        snapshots=(early, 2 * early, end),
        init=f"stage1@{end}",
        optim=replace(first.optim, lr=1e-3),
    )
    anchored = replace(
        then,
        gram_teacher=f"stage1@{early}",
        resolutions=(Resolution(global_px=48, local_px=24, gram_px=96),),
        objective=replace(then.objective, gram=2.0),
    )
    with tempfile.TemporaryDirectory() as scratch:
        run(Path(scratch), {"stage1": first, "without": then, "with": anchored}, arguments.seed)


def run(folder: Path, stages: dict[str, StageOptions], seed: int) -> None:
    """Run the stages and print what became of the features."""
    rng = np.random.default_rng(seed)
    scans = [scanned(SIZE_PX, SLICES, rng) for _ in range(18)]
    images = np.concatenate([scan.image for scan in scans[:12]])
    slices = indexed(folder, images, len(images))
    parts = (scans[:12], scans[12:])
    samples = tuple(
        probe.draw(
            probe.Slices(
                np.concatenate([scan.image for scan in part]),
                np.stack(
                    [
                        probe.patch_labels(label, SIZE_PX, PATCH_PX).ravel()
                        for scan in part
                        for label in scan.truth
                    ]
                ),
            ),
            PROBE.patches_per_class,
            [seed, number],
        )
        for number, part in enumerate(parts)
    )
    unseen = torch.from_numpy(np.stack([s.image[z] for s in scans[12:] for z in (5, 10, 15)]))
    early, end = stages["stage1"].snapshots
    files = {"gram_teacher": folder / f"stage1/{early:06d}.pth"}
    print("| weights | consistency | cosine of patches | RankMe | k-NN (%) | linear (%) |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, stage in stages.items():
        paths = {
            "index": slices,
            "init": folder / f"stage1/{end:06d}.pth" if stage.init else None,
            "gram_teacher": files["gram_teacher"] if stage.gram_teacher else None,
            "state": folder / "state",
            "output": folder / name / "history.jsonl",
        }
        pretrain.run(PretrainOptions(name=name, backbone="vittiny8", stage=stage), **paths)
        reference = load_backbone(files["gram_teacher"])
        for iteration in stage.snapshots:
            vit = load_backbone(folder / name / f"{iteration:06d}.pth")
            values = quality.signals(vit, unseen, reference)
            score = probe.probe(vit, *samples, [str(label) for label in range(64)], PROBED)
            knn, linear = (100 * score[kind]["balanced_accuracy"] for kind in ("knn", "linear"))
            print(
                f"| {name}@{iteration} | {values['patch_consistency']:.3f}"
                f" | {values['patch_similarity']:.3f} | {values['rank_patch']:.1f}"
                f" | {knn:.1f} | {linear:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
