"""The `preprocess` verb: nnU-Net's cropping, normalisation and resampling of a benchmark."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, read_json, write_json
from meddino.finetune.nnunet import check_raw, folders, quiet
from meddino.finetune.options import PreprocessOptions


def run(options: PreprocessOptions, *, plans: Path, output: Path) -> None:
    """Preprocess one benchmark in one configuration.

    Args:
        options: which configuration, with how many processes.
        plans: `DatasetNNN_x/nnUNetPlans.json` from `plan`, or plans of volumes from `replan`.
        output: a marker beside `plans`, written last: configuration, its folder and its cases.

    Raises:
        MeddinoError: the plans lack the configuration, or a raw volume is truncated.
    """
    folder = make(options, plans, output)
    cases = sorted(read_json(plans.parent / "dataset.json")["dataset"])
    write_json(output, {"configuration": options.configuration, "folder": folder, "cases": cases})
    print(f"{options.configuration}: {len(cases)} cases preprocessed", file=sys.stderr)


def make(options: PreprocessOptions, plans: Path, marker: Path | None = None) -> str:
    """Preprocess the volumes into nnU-Net's folder beside the plans, and return its name.

    Args:
        options: which configuration, with how many processes.
        plans: `DatasetNNN_x/nnUNetPlans.json` from `plan`, or plans of volumes from `replan`.
        marker: a file that goes before the folder of an earlier run does.

    Raises:
        MeddinoError: the plans lack the configuration, or a raw volume is truncated.
    """
    read_json(plans.parent / "dataset.json", plans)
    content = read_json(plans)
    configurations = content["configurations"]
    if options.configuration not in configurations:
        raise MeddinoError(
            f"{plans} has no configuration {options.configuration!r} (it has "
            f"{', '.join(configurations)}); add it to planning.configurations"
        )
    check_raw(plans.parent / "dataset.json", options.num_processes)
    folder = str(configurations[options.configuration]["data_identifier"])
    if marker is not None:
        marker.unlink(missing_ok=True)
    shutil.rmtree(plans.parent / folder, ignore_errors=True)  # the disk need not hold both
    with atomic(plans.parent / folder) as temporary:
        _preprocess(content, options, temporary)
    return folder


def _preprocess(plans: dict[str, Any], options: PreprocessOptions, folder: Path) -> None:
    """Preprocess into `folder`, beside `dataset.json`."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    from meddino.finetune.nnunet_patches import pools

    preprocessor = DefaultPreprocessor(verbose=False)
    preprocessor.show_progress_bar = False
    dataset, root = folder.parent, folder.parent.parent
    # nnU-Net takes the name of the folder from plans, and these by their name from a file.
    plans["configurations"][options.configuration]["data_identifier"] = folder.name
    file = dataset / f"{folder.name}.json"
    try:
        file.write_text(json.dumps(plans), encoding="utf-8")
        # It insists on a raw folder but never reads it: dataset.json has the paths of the volumes.
        with quiet(), folders(raw=root, preprocessed=root), pools(options.num_processes):
            preprocessor.run(
                dataset.name, options.configuration, folder.name, options.num_processes
            )
    finally:
        file.unlink(missing_ok=True)
