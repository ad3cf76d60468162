"""Add a high-resolution configuration to plans that nnU-Net's own planner wrote."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, write_text
from meddino.finetune.options import Configuration
from meddino.finetune.plan import finer, summary


def add(plans: Path, patch_px: int = 896, batch_size: int | None = None) -> str:
    """Add `2d_<patch_px>`, which shows the field of view of `2d` in more pixels.

    Args:
        plans: nnU-Net's `nnUNetPlans.json`; changed in place.
        patch_px: side of the input (px); section 3.1: 896.
        batch_size: slices in a batch; None keeps that of `2d`.

    Returns:
        The name of the configuration; `nnUNetv2_preprocess -c` takes it.

    Raises:
        MeddinoError: the plans have no `2d`, or have the configuration with other values.
    """
    content = read_json(plans)
    if "2d" not in content.get("configurations", {}):
        raise MeddinoError(f"{plans} has no configuration 2d; run nnUNetv2_plan_experiment first")
    name, configurations = f"2d_{patch_px}", content["configurations"]
    extra = Configuration(patch_px=patch_px, batch_size=batch_size)
    added = finer(configurations["2d"], name, extra, content["plans_name"])
    if configurations.get(name, added) != added:
        raise MeddinoError(
            f"{plans} has another {name}; remove it and its folder of preprocessed volumes first"
        )
    configurations[name] = added
    # As nnU-Net writes it, with its order of keys, so that people find what they look for.
    write_text(plans, json.dumps(content, indent=4))
    print(f"{name}: {summary(added)}", file=sys.stderr)
    return name


def main(arguments: Sequence[str]) -> None:
    """Add the configuration from the command line.

    Raises:
        MeddinoError: the plans do not take it.
    """
    parser = argparse.ArgumentParser(prog="python -m meddino highres", description=__doc__)
    parser.add_argument("plans", type=Path, metavar="PLANS", help="nnUNetPlans.json")
    parser.add_argument("--patch-px", type=int, default=896, help="side of the input (896)")
    parser.add_argument("--batch-size", type=int, help="slices in a batch (that of 2d)")
    flags = parser.parse_args(arguments)
    name = add(flags.plans, flags.patch_px, flags.batch_size)
    print(f"next: nnUNetv2_preprocess -d DATASET -plans_name {flags.plans.stem} -c {name}")
