"""The `preprocess` verb: nnU-Net's cropping, normalisation and resampling of a benchmark."""

import sys
from pathlib import Path

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, write_json
from meddino.finetune.nnunet import check_raw, folders, quiet
from meddino.finetune.options import PreprocessOptions


def run(options: PreprocessOptions, *, plans: Path, output: Path) -> None:
    """Preprocess one benchmark in one configuration.

    Args:
        options: which configuration, with how many processes.
        plans: `DatasetNNN_x/nnUNetPlans.json`, from `plan`.
        output: a marker beside `plans`, written last: configuration, its folder and its cases.

    Raises:
        MeddinoError: the plans lack the configuration, or a raw volume is truncated.
    """
    read_json(plans.parent / "dataset.json", plans)
    configurations = read_json(plans)["configurations"]
    if options.configuration not in configurations:
        raise MeddinoError(
            f"{plans} has no configuration {options.configuration!r} (it has "
            f"{', '.join(configurations)}); add it to planning.configurations"
        )
    check_raw(plans.parent / "dataset.json", options.num_processes)
    root = plans.parent.parent
    # nnU-Net insists on a raw folder but never reads it: dataset.json has the paths of the volumes.
    with quiet(), folders(raw=root, preprocessed=root):
        _preprocess(plans, options)
    cases = sorted(read_json(plans.parent / "dataset.json")["dataset"])
    folder = configurations[options.configuration]["data_identifier"]
    write_json(output, {"configuration": options.configuration, "folder": folder, "cases": cases})
    print(f"{options.configuration}: {len(cases)} cases preprocessed", file=sys.stderr)


def _preprocess(plans: Path, options: PreprocessOptions) -> None:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    from meddino.finetune.nnunet_patches import pools

    preprocessor = DefaultPreprocessor(verbose=False)
    preprocessor.show_progress_bar = False
    with pools(options.num_processes):
        preprocessor.run(
            plans.parent.name, options.configuration, plans.stem, options.num_processes
        )
