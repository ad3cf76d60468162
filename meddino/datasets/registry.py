"""The datasets known by name: one file each in the folder `registry`."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from meddino.core.errors import MeddinoError
from meddino.core.explain import explain
from meddino.datasets import nnunet_raw
from meddino.datasets.options import Dataset

FOLDER = Path(__file__).parent / "registry"
# The C loader, where PyYAML has it, is ten times as fast, and the workflow waits for it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def entries() -> Mapping[str, Dataset]:
    """All known datasets by name, in alphabetical order."""
    return {path.stem: _read(path) for path in sorted(FOLDER.glob("*.yaml"))}


def resolve(name: str, overrides: Mapping[str, Any]) -> Dataset:
    """The entry of one dataset with the user's own values put over it.

    Args:
        name: key of the dataset; one that is not known must be described in full by `overrides`.
        overrides: field -> value, as under `datasets.<name>` of the configuration.

    Raises:
        MeddinoError: a value is not valid, or an unknown dataset lacks what it needs.
    """
    entry, overrides = entries().get(name), nnunet_raw.dataset(name, overrides)
    if entry is None:
        _require(name, overrides)
    values = {} if entry is None else entry.model_dump(exclude_unset=True)
    return _validate({**values, **overrides}, f"datasets.{name}")


def _require(name: str, overrides: Mapping[str, Any]) -> None:
    missing = [key for key in ("images", "case") if not overrides.get(key)]
    if not any(overrides.get(key) for key in ("folder", "mirror", "sources")):
        missing.append("folder (or mirror)")
    if missing:
        raise MeddinoError(
            f"datasets.{name}: no dataset of this name is known (known: {', '.join(entries())});"
            f" to use your own, add {', '.join(missing)} under datasets.{name}, or `nnunet` alone:"
            " a folder in nnU-Net's raw layout"
        )


def _read(path: Path) -> Dataset:
    return _validate(yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER), str(path))


def _validate(values: Any, source: str) -> Dataset:
    try:
        return Dataset.model_validate(values)
    except ValidationError as error:
        raise MeddinoError(explain(error, source, Dataset)) from error
