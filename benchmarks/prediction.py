"""Seconds a volume: `meddino predict` against `nnUNetv2_predict`, with the same weights.

`python benchmarks/prediction.py --python PATH`, where PATH is the Python of an environment in which
meddino is installed and torch and torchvision match: nnU-Net's command imports both.
Both run in it as commands, from starting Python to the last file, with nnU-Net's defaults (mirrored
images averaged, its three and three processes). On shared cores set OMP_NUM_THREADS=1: threads that
wait for each other made a network 9 times slower.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import SimpleITK as sitk
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from phantoms import scanned

from meddino.core.files import read_json, write_json
from meddino.finetune import plan
from meddino.finetune.networks import build_network
from meddino.finetune.options import Method, Planning, PlanOptions, Training
from meddino.finetune.settings import Settings, write_settings

ROOT = Path(__file__).parents[1]
NAME, LABELS = "Dataset990_bench", {"background": 0, "body": 1, "soft": 2, "bone": 3}
METHODS: dict[str, dict[str, Any]] = {
    "U-Net": {"network": "unet", "optimizer": "sgd", "lr": 0.01},
    "ViT": {
        "network": "primus",
        "backbone": "vittiny8",
        "blocks": [0, 1],
        "optimizer": "adamw",
        "lr": 0.001,
    },
}


def write_raw(folder: Path, volumes: int, size_px: int, slices: int) -> Path:
    """Phantoms in nnU-Net's layout, labelled by HU; all are validation cases of fold 0."""
    rng, cases = np.random.default_rng(0), {}
    for number in range(volumes):
        scan = scanned(size_px, slices, rng)
        label = np.digitize(scan.image, (-500, 0, 150)).astype(np.uint8)
        case = f"{number:02d}"
        files = {"images": f"imagesTr/{case}_0000.nii.gz", "label": f"labelsTr/{case}.nii.gz"}
        for path, array in ((files["images"], scan.image), (files["label"], label)):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing(scan.spacing[::-1])
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(image, str(folder / path))
        cases[case] = {"images": [files["images"]], "label": files["label"]}
    content = {"channel_names": {"0": "CT"}, "labels": LABELS, "file_ending": ".nii.gz"}
    write_json(folder / "dataset.json", {**content, "numTraining": volumes, "dataset": cases})
    write_json(folder / "splits_final.json", [{"train": [], "val": sorted(cases)}])
    return folder / "dataset.json"


def write_models(plans: Path, dataset: Path, method: Method, folder: Path) -> None:
    """One random network as our model and as nnU-Net's results."""
    content = read_json(plans)
    settings = Settings(method=method, training=Training())
    write_settings(content, settings)
    manager = PlansManager(content)
    torch.manual_seed(0)
    network = build_network(settings, manager.get_configuration("2d"), len(LABELS), False)
    facts = {key: read_json(dataset)[key] for key in ("channel_names", "labels", "file_ending")}
    axes = [0, 1]
    write_json(
        folder / "ours/model.json",
        {
            "plans": content,
            "configuration": "2d",
            "dataset_json": facts,
            "fold": 0,
            "mirror_axes": axes,
        },
    )
    safetensors.torch.save_model(network, str(folder / "ours/model.safetensors"))
    write_json(folder / "theirs/plans.json", content)
    write_json(folder / "theirs/dataset.json", facts)
    (folder / "theirs/fold_0").mkdir()
    named = method.network != "unet"
    torch.save(
        {
            "trainer_name": "RandomViTTrainer" if named else "nnUNetTrainer",
            "init_args": {"configuration": "2d"},
            "network_weights": network.state_dict(),
            "inference_allowed_mirroring_axes": axes,
        },
        folder / "theirs/fold_0/checkpoint_final.pth",
    )


def seconds(command: list[str], folder: Path) -> float:
    trainers = ROOT / "meddino/finetune/trainers"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "nnUNet_extTrainer": str(trainers)}
    before = time.monotonic()
    with (folder / "log.txt").open("w") as log:
        subprocess.run(command, env=environment, stdout=log, stderr=log, check=True)
    return time.monotonic() - before


def compare(python: str, dataset: Path, folder: Path, device: str) -> tuple[float, float]:
    """Seconds of ours and theirs; refuses to say them if a voxel differs."""
    ours = [python, "-m", "meddino", "predict", "--dataset", str(dataset)]
    options = {"prediction": {"device": device}, "fold": 0}
    ours += ["--options", json.dumps(options), "--model", str(folder / "ours/model.safetensors")]
    ours += ["--output", str(folder / "ours/pred/done.json")]
    entry = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder"
    theirs = [python, "-c", f"{entry} as run; run()", "-i", str(dataset.parent / "imagesTr")]
    theirs += ["-o", str(folder / "theirs/pred"), "-m", str(folder / "theirs"), "-f", "0"]
    theirs += ["-device", device]
    both = seconds(ours, folder / "ours"), seconds(theirs, folder / "theirs")
    for case in read_json(folder / "ours/pred/done.json")["cases"]:
        found = [
            sitk.GetArrayFromImage(sitk.ReadImage(str(folder / side / f"pred/{case}.nii.gz")))
            for side in ("ours", "theirs")
        ]
        different = int((found[0] != found[1]).sum())
        if different:
            sys.exit(f"{case}: {different} of {found[0].size} voxels differ")
    return both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="Python that runs both")
    parser.add_argument("--volumes", type=int, default=4)
    parser.add_argument("--size-px", type=int, default=128)
    parser.add_argument("--slices", type=int, default=24)
    parser.add_argument("--patch-px", type=int, default=128)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = folder / "raw" / NAME
        dataset = write_raw(raw, given.volumes, given.size_px, given.slices)
        planning = Planning(
            patch_px=given.patch_px, batch_size=2, features_per_stage=[8, 16, 32, 32]
        )
        plans = folder / "preprocessed" / NAME / "nnUNetPlans.json"
        plan.run(PlanOptions(planning=planning), dataset=dataset, output=plans)
        for label, values in METHODS.items():
            method = Method.model_validate({"label": label, "weight_decay": 0, **values})
            write_models(plans, dataset, method, folder / label)
            ours, theirs = compare(given.python, dataset, folder / label, given.device)
            print(
                f"{label}: ours {ours / given.volumes:.1f} s a volume, nnUNetv2_predict "
                f"{theirs / given.volumes:.1f} s, ratio {theirs / ours:.2f}; voxels equal"
            )


if __name__ == "__main__":
    main()
