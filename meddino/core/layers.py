"""Configurations in YAML files that are laid over each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from meddino.core.errors import MeddinoError


def read(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Read YAML files, each laid over those before it.

    Raises:
        MeddinoError: a file is absent, is not YAML, or holds no sections.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, _read(Path(path)))
    return merged


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one configuration over another as Snakemake does: sections merge, values are replaced."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return result


def _read(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MeddinoError(f"{path}: {error.strerror}; name a configuration file") from error
    except yaml.YAMLError as error:
        raise MeddinoError(f"{path} is not YAML: {error}") from error
    if not isinstance(value, dict):
        raise MeddinoError(f"{path} holds no sections; see config.yaml for the keys")
    return value
