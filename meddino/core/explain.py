"""Validation errors in words that name the key, the value, and what is allowed."""

import dataclasses
import difflib
import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, source: str, model: Any = None) -> str:
    """Describe every problem of a configuration, one a line.

    Args:
        error: what pydantic found.
        source: the file (or flag) that the values came from.
        model: the model that was validated; lets a misspelt key be answered with its neighbours.
    """
    lines = [_line(problem, model) for problem in error.errors()]
    return f"{source} is not valid:\n  " + "\n  ".join(lines)


def _line(problem: Any, model: Any) -> str:
    location = [part for part in problem["loc"] if not _is_branch(part)]
    key = ".".join(map(str, location)) or "(the whole study)"
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{key}: no such key{_suggestion(str(location[-1]), _keys(model, location[:-1]))}"
    if problem["type"] in ("missing", "missing_keyword_only_argument", "missing_argument"):
        return f"{key}: missing, and it has no default"
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(problem["input"], dict | list | tuple) or dataclasses.is_dataclass(
        problem["input"]
    ):
        return f"{key}: {message}"
    return f"{key} = {problem['input']!r}: {message[:1].lower()}{message[1:]}"


def _is_branch(part: Any) -> bool:
    """Whether part of a location is pydantic's name for a type or a union's branch, not a key."""
    return isinstance(part, str) and (
        part.endswith(")") or "[" in part or part == "constrained-str"
    )


def _suggestion(key: str, allowed: Iterable[str]) -> str:
    allowed = sorted(allowed)
    if not allowed:
        return ""
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (allowed: {', '.join(allowed)})"


def _keys(model: Any, location: Iterable[Any]) -> list[str]:
    """The keys that a model allows at a location, or none where they are free."""
    for part in location:
        model = _step(model, part)
    return list(_fields(model))


def _step(kind: Any, part: Any) -> Any:
    kind = _unwrap(kind)
    if typing.get_origin(kind) is dict:
        return typing.get_args(kind)[1]
    if isinstance(part, int) and typing.get_args(kind):
        return typing.get_args(kind)[0]
    return _fields(kind).get(str(part))


def _fields(kind: Any) -> dict[str, Any]:
    kind = _unwrap(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return {}


def _unwrap(kind: Any) -> Any:
    """Reduce `X | None` and `Annotated[X, ...]` to X."""
    arguments = [a for a in typing.get_args(kind) if a is not type(None)]
    origin = typing.get_origin(kind)
    if origin is typing.Annotated or (
        arguments
        and len(arguments) == 1
        and origin is not list
        and origin is not tuple
        and origin is not dict
    ):
        return _unwrap(arguments[0])
    return kind
