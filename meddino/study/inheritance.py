"""Entries of a configuration that are made of others, before anything is validated.

A stage or a method may say `like: NAME` and only what differs from the entry of that name. An entry
that is null is left out: so an overlay takes away what a file below it has. A preset is a set of
changes to the stages of pretraining; it is laid over them before other stages become like them, so
that it reaches those too. A dataset in nnU-Net's raw layout is a benchmark as well. What is of a
wrong type stays as it is, for validation to name.
"""

from collections.abc import Mapping
from typing import Any

from meddino.core.errors import MeddinoError
from meddino.core.layers import merge
from meddino.datasets import nnunet_raw
from meddino.datasets.nnunet_raw import KEY

LIKE = "like"
"""The key that names the entry from which another takes what it does not say itself."""
OWN_NUMBERS = range(900, 1000)
"""nnU-Net's numbers for datasets whose folders have none."""
NAMED = ("benchmarks", "datasets", "tables", "weights")
"""Sections of entries that an overlay may take away, beside `methods` and `pretrain.stages`."""


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """Apply the chosen preset, complete entries that are like others, and drop those that are null.

    Args:
        config: a study's configuration as its files say it, laid over each other.

    Raises:
        MeddinoError: an entry is like one that does not exist, or like itself, or there is no such
            preset, or a folder is not in nnU-Net's raw layout.
    """
    resolved = {**config, **_nnunet_benchmarks(config)}
    for section in NAMED:
        if isinstance(entries := resolved.get(section), Mapping):
            resolved[section] = _present(entries)
    if isinstance(methods := config.get("methods"), Mapping):
        resolved["methods"] = _complete(_present(methods), "methods")
    pretrain = config.get("pretrain")
    if isinstance(pretrain, Mapping) and isinstance(pretrain.get("stages"), Mapping):
        stages = _under_preset(pretrain, _present(pretrain["stages"]))
        resolved["pretrain"] = {**pretrain, "stages": _complete(stages, "pretrain.stages")}
    return resolved


def _nnunet_benchmarks(config: Mapping[str, Any]) -> dict[str, Any]:
    """The section of benchmarks with one for each dataset in nnU-Net's raw layout."""
    datasets, benchmarks = config.get("datasets"), config.get("benchmarks") or {}
    if not isinstance(datasets, Mapping) or not isinstance(benchmarks, Mapping):
        return {}
    completed = dict(benchmarks)
    for name, entry in datasets.items():
        own = completed.get(name, {})
        if not isinstance(entry, Mapping) or not entry.get(KEY) or not isinstance(own, Mapping):
            continue
        described = nnunet_raw.describe(f"datasets.{name}.{KEY}", entry[KEY])
        others = [b.get("nnunet_id") for b in completed.values() if isinstance(b, Mapping)]
        number = described.number or next(n for n in OWN_NUMBERS if n not in others)
        completed[name] = {"dataset": name, "nnunet_id": number, **described.benchmark, **own}
    return {"benchmarks": completed} if completed != benchmarks else {}


def _present(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in entries.items() if entry is not None}


def _under_preset(pretrain: Mapping[str, Any], stages: dict[str, Any]) -> dict[str, Any]:
    """The stages with the changes of the chosen preset laid over them."""
    preset, presets = pretrain.get("preset"), pretrain.get("presets") or {}
    if not isinstance(preset, str) or not isinstance(presets, Mapping):
        return stages
    if preset not in presets:
        names = ", ".join(presets) or "none; describe it under pretrain.presets"
        raise MeddinoError(f"pretrain.preset = {preset!r}: no such preset (known: {names})")
    changes = presets[preset]
    return merge(stages, changes) if isinstance(changes, Mapping) else stages


def _complete(entries: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Give entries that are like others what they do not say themselves."""
    completed: dict[str, Any] = {}

    def complete(name: str, path: tuple[str, ...]) -> Any:
        entry = entries[name]
        if name not in completed:
            if isinstance(entry, Mapping) and LIKE in entry:
                model, key = entry[LIKE], f"{section}.{name}.{LIKE}"
                if not isinstance(model, str) or model not in entries:
                    raise MeddinoError(f"{key} = {model!r}: not one of {', '.join(entries)}")
                if model in (*path, name):
                    raise MeddinoError(f"{key} = {model!r}: that is, in the end, like {name}")
                changes = {key: value for key, value in entry.items() if key != LIKE}
                base = complete(model, (*path, name))
                entry = merge(base, changes) if isinstance(base, Mapping) else changes
            completed[name] = entry
        return completed[name]

    return {name: complete(name, ()) for name in entries}
