"""Configurations in YAML files that are laid over each other."""

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import yaml

from meddino.core.errors import MeddinoError

MOST_VALUES, DEEPEST = 100_000, 50
TEMPLATES = "__use_yte__"
"""The key by which Snakemake takes a configuration for a template with Python in it."""


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
        value = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise MeddinoError(f"{path}: {error.strerror}; name a configuration file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MeddinoError(f"{path} is not YAML: {error}") from error
    except RecursionError as error:
        raise MeddinoError(f"{path} is nested too deeply; see config.yaml for the keys") from error
    if not isinstance(value, dict):
        raise MeddinoError(f"{path} holds no sections; see config.yaml for the keys")
    check(value, str(path))
    if TEMPLATES in value:
        raise MeddinoError(
            f"{path} holds {TEMPLATES}, which lets Snakemake run code that stands in it; write the"
            " values themselves"
        )
    return value


def check(value: Any, source: str) -> None:
    """Refuse a configuration that is small in its file, and huge once its aliases are followed.

    Raises:
        MeddinoError: it has more values, or deeper ones, than any study.
    """
    budget, level, depth = MOST_VALUES, [value], 0
    while level:
        budget, depth = budget - len(level), depth + 1
        if budget < 0 or depth > DEEPEST:
            raise MeddinoError(
                f"{source} holds more than {MOST_VALUES} values, or some more than {DEEPEST} deep,"
                " once its aliases (*) are followed; see config.yaml for the keys"
            )
        inner = (v.values() if isinstance(v, Mapping) else v for v in level if _holds(v))
        level = list(islice(chain.from_iterable(inner), budget + 1))


def _holds(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)


class _Loader(yaml.SafeLoader):
    """Plain values only, and no key twice: YAML forbids that, but PyYAML takes the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys: set[Any] = set()
        for key, _ in node.value:
            if key.value in keys and isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} stands twice in one section",
                    problem_mark=key.start_mark,
                )
            keys.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return node
