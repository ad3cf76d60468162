"""Make a bundle of a finetuned model: everything that others need to use it and to pass it on."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd

from meddino.bundle import licences, monai, nnunet
from meddino.bundle.licences import Judgement
from meddino.core import records
from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, read_json, sha256, write_json
from meddino.core.options import Options
from meddino.evaluate.scores import read_scores
from meddino.evaluate.statistics import interval, mean
from meddino.finetune.model import DESCRIPTION, WEIGHTS, find, load
from meddino.finetune.settings import read_settings
from meddino.report.cards import model_card, provenance
from meddino.report.options import ModelCardOptions, ProvenanceOptions

HERE = Path(__file__).parent
CARD = "README.md"
OWN_TEXT = {"Apache-2.0": HERE / "Apache-2.0.txt"}
"""Texts of licences that come with this project."""
PAPER = "Li, Y., Wu, Y., Lai, Y., Hu, M., Yang, X.: MedDINOv3. arXiv:2509.02379 (2025)"


class BundleOptions(Options):
    """What a person says of a bundle."""

    authors: str = "not named"
    """Who gives the model away; for `metadata.json`."""
    version: str = "1.0.0"
    """Version of the bundle; for `metadata.json`."""
    accepted: tuple[str, ...] = ()
    """Keys of sources of unknown terms for which the person has the owners' permission."""


class Origin(NamedTuple):
    """What is on record of a model.

    Attributes:
        weights: `model.safetensors`.
        description: contents of `model.json`.
        options: names, data, weights and their licences, from the record of the model card.
        scores: scores of the run.
    """

    weights: Path
    description: dict[str, Any]
    options: ModelCardOptions
    scores: Path


def trace(model: Path) -> Origin:
    """Follow a model back to its card's record, which names data, weights, licences and scores.

    Args:
        model: `model.safetensors`, or its folder, in the folder of the study.

    Raises:
        MeddinoError: model, card, records or scores are missing, or belong to another run.
    """
    weights = find(model)
    card = weights.with_name(CARD)
    record_path = records.record_path(card)
    if not record_path.is_file():
        raise MeddinoError(
            f"{record_path} does not exist: the licences of data and weights are read from the"
            f" record of the model card; let the study make {card}"
        )
    record = records.read(record_path)
    (described,), (scored,) = record["inputs"]["description"], record["inputs"]["scores"]
    description = weights.with_name(DESCRIPTION)
    for path, entry in ((description, described), (Path(scored["path"]), scored)):
        if not path.is_file():
            raise MeddinoError(
                f"{path} does not exist; start this command in the folder of the study, where"
                f" {card} was made"
            )
        if sha256(path) != entry["sha256"]:
            raise MeddinoError(f"{path} is not what {card} was made of; let the study make it anew")
    options = ModelCardOptions.model_validate(record["options"])
    return Origin(weights, read_json(description), options, Path(scored["path"]))


def permitted(origin: Origin, accepted: tuple[str, ...]) -> list[Judgement]:
    """Judge the licences of data and weights that a model derives from.

    Raises:
        MeddinoError: one of them forbids to give the model away, or may do so.
    """
    names = origin.options
    return licences.permit((names.data, *names.pretraining, *names.weights), accepted)


def write(
    options: BundleOptions,
    origin: Origin,
    judgements: list[Judgement],
    texts: Mapping[str, Path],
    folder: Path,
) -> None:
    """Write a bundle, without provenance; `add_provenance` adds that.

    Args:
        options: what the person says.
        origin: what is on record.
        judgements: of all sources.
        texts: licence texts that the person has, by the key of the source.
        folder: where the bundle goes; it must not exist.

    Raises:
        MeddinoError: the text of a licence is missing, or the network cannot be expressed.
    """
    copies = _texts(judgements, texts)
    model = load(origin.weights)
    description, scored = origin.description, read_scores([origin.scores])
    with atomic(folder) as temporary:
        temporary.mkdir()
        for name in (WEIGHTS, DESCRIPTION):
            shutil.copyfile(origin.weights.with_name(name), temporary / name)
        for name, source in copies.items():
            target = temporary / "licences" / name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
        nnunet.write_results(
            model, description["configuration"], description["fold"], temporary / "nnunet"
        )
        about = _about(options, origin, judgements, scored)
        monai.write_bundle(model, about, temporary)
        notice = render_notice(judgements)
        (temporary / "NOTICE").write_text(notice, encoding="utf-8")
        card = model_card.render(
            HERE / "card.md.j2", origin.options, description, scored,
            front=_front(origin, scored),
            monai=monai.MONAI,
            differences=monai.DIFFERENCES,
            trainer=nnunet.trainer_name(model),
            intervals=_intervals(scored, list(model_card.structures(description))),
            terms=notice,
            texts=copies,
            jobs=len(_lineage(origin)),
        )  # fmt: skip
        (temporary / CARD).write_text(card, encoding="utf-8")


def render_notice(judgements: list[Judgement]) -> str:
    """The contents of NOTICE: all sources, their licences and conditions."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    terms = list(dict.fromkeys(term for judgement in judgements for term in judgement.terms))
    return environment.get_template("notice.md.j2").render(
        judgements=judgements,
        terms=[term for term in terms if term.conditions],
        acknowledgements=list(dict.fromkeys(t.acknowledgement for t in terms if t.acknowledgement)),
        alike=sorted({term.alike for term in terms if term.alike}),
    )


def _texts(judgements: list[Judgement], texts: Mapping[str, Path]) -> dict[str, Path]:
    """File names in `licences/`, and what is copied there.

    Raises:
        MeddinoError: a licence has to go with the model and its text is not there; or a text is of
            no source.
    """
    copies: dict[str, Path] = {}
    for judgement in judgements:
        key = judgement.source.name
        if key in texts:
            copies[f"{key}{texts[key].suffix or '.txt'}"] = texts[key]
            continue
        for licence in judgement.texts:
            if licence not in OWN_TEXT:
                raise MeddinoError(
                    f"{key}: a copy of its licence ({judgement.source.licence}) has to go with the"
                    f" model; give it with --licence-text {key}=FILE"
                    + (f" (it is at {judgement.source.home})" if judgement.source.home else "")
                )
            copies[f"{licence}.txt"] = OWN_TEXT[licence]
    if strange := sorted(set(texts) - {judgement.source.name for judgement in judgements}):
        raise MeddinoError(f"--licence-text {strange[0]}: this model has no such source")
    if missing := [str(path) for path in texts.values() if not path.is_file()]:
        raise MeddinoError(f"--licence-text: {missing[0]} does not exist")
    return copies


def _lineage(origin: Origin) -> dict[str, dict[str, Any]]:
    """Records of the jobs behind a model.

    Raises:
        MeddinoError: the model itself has none.
    """
    lineage, without = records.lineage([origin.weights.with_name(CARD), origin.weights])
    if records.located(origin.weights) in without:
        raise MeddinoError(
            f"{origin.weights} has no record of how it was made, so its origin cannot be shown;"
            " start this command in the folder of the study"
        )
    return lineage


def add_provenance(origin: Origin, folder: Path) -> None:
    """Write `provenance.json` and `ro-crate-metadata.json` into a bundle.

    The record of the bundle's own making, beside its card, becomes a part of them and is removed.

    Args:
        origin: what is on record of the model.
        folder: the bundle.
    """
    card = folder / CARD
    lineage, without = records.lineage([card])
    lineage = _without_names(_lineage(origin) | lineage)
    path = folder / "provenance.json"
    content = {"summary": provenance.summary(lineage, without), "without": without}
    title = f"{origin.options.method} on {origin.options.benchmark}"
    crate = provenance.crate(ProvenanceOptions(title=title), lineage, folder, path)
    inside = f"{records.located(folder)}/"
    write_json(path, _shortened({**content, "records": lineage}, inside))
    write_json(folder / "ro-crate-metadata.json", _shortened(crate, inside))
    records.record_path(card).unlink()


def _shortened(content: Any, folder: str) -> Any:
    """Paths below a folder without its name, which says where somebody keeps files."""
    return json.loads(json.dumps(content).replace(json.dumps(folder)[1:-1], ""))


def _without_names(lineage: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Records with numbers for the names of computers, and without those of jobs on a cluster."""
    names = list(dict.fromkeys(record["host"]["name"] for record in lineage.values()))
    numbers = {name: f"host {number}" for number, name in enumerate(names, start=1)}
    return {
        path: {
            **record,
            "host": {
                key: numbers[value] if key == "name" else value
                for key, value in record["host"].items()
                if key != "slurm_job"
            },
        }
        for path, record in lineage.items()
    }


# ---- numbers and words --------------------------------------------------------------------------


def _values(scored: pd.DataFrame, metric: str, structures: list[str]) -> Any:
    """float64 (cases, structures) in %, NaN where a protocol leaves a case out."""
    table = scored.pivot(index="case", columns="structure", values=metric)
    return table.reindex(columns=structures).to_numpy(np.float64) * 100


def _intervals(scored: pd.DataFrame, structures: list[str]) -> list[tuple[str, list[str]]]:
    """Each structure and then their mean, with the ends of the interval of each metric."""
    rows = [(name, [name]) for name in structures] + [("**mean**", structures)]
    return [
        (label, [_ends(_values(scored, metric, names)) for metric in model_card.METRICS])
        for label, names in rows
    ]


def _ends(values: Any) -> str:
    if np.isnan(values).all():
        return "-"
    low, high = interval(values)
    return "-" if np.isnan(low) else f"{low:.1f} to {high:.1f}"


def _front(origin: Origin, scored: pd.DataFrame) -> dict[str, Any]:
    """Tags, and Hugging Face's `model-index` with the means and their intervals."""
    structures = list(model_card.structures(origin.description))
    metrics = []
    for metric, head in model_card.METRICS.items():
        values = _values(scored, metric, structures)
        if not np.isnan(values).all():
            name = f"{head} (%), mean of structures; 95 % interval {_ends(values)}"
            entry = {"type": metric.partition("_")[0], "name": name}
            metrics.append({**entry, "value": round(mean(values), 2)})
    names = origin.options
    dataset = {"name": names.benchmark, "type": names.data.name, "split": "validation"}
    result = {"task": {"type": "image-segmentation"}, "dataset": dataset, "metrics": metrics}
    return {
        "tags": ["medical", "ct", "segmentation", "nnunet", "monai", "meddino"],
        "model-index": [{"name": f"{names.method} on {names.benchmark}", "results": [result]}],
    }


def _about(
    options: BundleOptions, origin: Origin, judgements: list[Judgement], scored: pd.DataFrame
) -> dict[str, Any]:
    """What MONAI's metadata says of the model and its makers."""
    names, structures = origin.options, list(model_card.structures(origin.description))
    network = read_settings(origin.description["plans"]).method.network
    metrics = {
        head: round(mean(values), 2)
        for metric, head in model_card.METRICS.items()
        if not np.isnan(values := _values(scored, metric, structures)).all()
    }
    return {
        "version": options.version,
        "changelog": {options.version: "made by meddino bundle"},
        "task": f"Segmentation of {', '.join(structures)}",
        "description": f"{names.method} ({network}) on {names.benchmark}, slice by slice. README.md"
        " has training data, licences, limits and scores.",
        "authors": options.authors,
        "copyright": "; ".join(
            f"{j.title}: {j.source.licence or 'not stated'}" for j in judgements
        ),
        "data_source": "; ".join(filter(None, (names.data.title, names.data.home))),
        "data_type": "nibabel",
        "intended_use": "Research. No medical device.",
        "eval_metrics": metrics,
        "references": [PAPER],
    }
