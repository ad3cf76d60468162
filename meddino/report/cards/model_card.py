"""The `model_card` verb: a README.md beside each model, for the people who get it."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from meddino import __version__
from meddino.core.files import read_json, write_text
from meddino.evaluate.scores import read_scores
from meddino.finetune.settings import read_settings
from meddino.report.options import ModelCardOptions

TEMPLATE = Path(__file__).with_name("model_card.md.j2")
METRICS = {
    "dsc_paper": "DSC",
    "nsd_paper": "NSD",
    "dsc_area": "DSC, area",
    "nsd_area": "NSD, area",
}
"""Columns of the scores, in %, and their heads."""

OWN_LICENCE = "Apache-2.0"
"""This project's, and that of what it makes by itself: phantoms, and the demo's stand-in."""


def run(options: ModelCardOptions, *, description: Path, scores: Path, output: Path) -> None:
    """Write the model card of one run, with a front matter as Hugging Face reads it.

    It has no date, so that equal studies give equal files.

    Args:
        options: names, and where data and weights come from.
        description: `model.json`, from `finetune`.
        scores: scores of the same run, from `evaluate`.
        output: `README.md`, to lie beside the model.

    Raises:
        MeddinoError: a file is missing or damaged.
    """
    model, scored = read_json(description), read_scores([scores])
    text = render(TEMPLATE, options, model, scored)
    write_text(output, text)


def render(
    template: Path,
    options: ModelCardOptions,
    model: dict[str, Any],
    scored: pd.DataFrame,
    front: dict[str, Any] | None = None,
    **more: Any,
) -> str:
    """Fill the template of a card.

    Args:
        template: the card's own template, or one that extends it.
        options: names, and where data and weights come from.
        model: contents of `model.json`.
        scored: scores of the same run.
        front: entries of the front matter beside its own.
        more: what else the template uses.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, TEMPLATE.parent]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", r"\|")
    labels = structures(model)
    return environment.get_template(template.name).render(
        front=yaml.safe_dump(_front(options) | (front or {}), sort_keys=False, allow_unicode=True),
        options=options,
        fold=model["fold"],
        channel=model["dataset_json"]["channel_names"]["0"],
        labels=labels,
        volumetric=read_settings(model["plans"]).method.volumetric,
        configuration=_configuration(model),
        heads=list(METRICS.values()),
        rows=_rows(scored, list(labels)),
        cases=scored["case"].nunique(),
        versions=model.get("versions", {"nnunetv2": version("nnunetv2"), "meddino": __version__}),
        **more,
    )


def structures(model: dict[str, Any]) -> dict[str, int]:
    """Structures of `model.json` and their values, in the order of the values."""
    values = sorted(model["dataset_json"]["labels"].items(), key=lambda item: item[1])
    return {name: value for name, value in values if value != 0}


def _front(options: ModelCardOptions) -> dict[str, Any]:
    """The front matter; its licence is `other` wherever the terms of data or weights may bind."""
    data = [options.data, *options.pretraining]
    weights = [source for source in options.weights if source.licence != OWN_LICENCE]
    licence: dict[str, Any] = {"license": OWN_LICENCE.lower()}
    if weights or not all(source.phantom for source in data):
        licence = {"license": "other", "license_name": "terms-of-data-and-weights"}
    for source in weights:
        if source.licence:
            name = source.licence.lower().replace(" ", "-")
            licence |= {"license_name": name, "license_link": source.home}
    return {
        **licence,
        "library_name": "meddino",
        "pipeline_tag": "image-segmentation",
        "tags": ["medical", "ct", "segmentation", "nnunet", "meddino"],
        "datasets": list(dict.fromkeys(source.name for source in data)),
    }


def _configuration(model: dict[str, Any]) -> dict[str, Any]:
    """The model and its training: name -> value."""
    plans, settings = model["plans"], read_settings(model["plans"])
    configurations = plans["configurations"]
    own = configurations[model["configuration"]]
    chosen = {**configurations.get(own.get("inherits_from"), {}), **own}
    method, training = settings.method, settings.training
    facts = {
        "network": method.network,
        "preset of nnU-Net": method.preset,
        "ViT": method.backbone,
        "blocks to the decoder": ", ".join(map(str, method.blocks)),
        "initial weights of the ViT": method.weights or ("random" if method.backbone else None),
        "nnU-Net configuration": model["configuration"],
        "input (px)": " x ".join(map(str, chosen["patch_size"])),
        "spacing (mm)" if method.volumetric else "spacing in plane (mm)": " x ".join(
            f"{mm:.3f}" for mm in chosen["spacing"]
        ),
        "intensities": ", ".join(chosen["normalization_schemes"]),
        "batch": chosen["batch_size"],
        "training": f"{training.epochs} epochs of {training.iterations_per_epoch} steps",
        "training cases": f"{method.cases_percent} % of the fold's"
        if method.cases_percent < 100
        else None,
        "augmentation": training.augmentation,
        "optimiser": f"{method.optimizer}, rate {method.lr:g}, decay {method.weight_decay:g}",
        "rate of the ViT": method.backbone_lr,
        "seed": training.seed,
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _rows(scores: pd.DataFrame, structures: list[str]) -> list[tuple[str, int, list[str]]]:
    """Structure, number of cases that have it, and its means; last their mean."""
    columns = list(METRICS)
    means = scores.groupby("structure")[columns].mean().reindex(structures) * 100
    counts = scores[scores["reference_ml"] > 0].groupby("structure")["case"].nunique()
    rows = [
        (str(name), int(counts.get(name, 0)), _cells(values)) for name, values in means.iterrows()
    ]
    return [*rows, ("**mean**", scores["case"].nunique(), _cells(means[columns].mean()))]


def _cells(values: pd.Series) -> list[str]:
    return ["-" if pd.isna(value) else f"{value:.1f}" for value in values]
