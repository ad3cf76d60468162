"""How the package is written: names that say what they hold, functions that fit a screen."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from places import ROOT

PACKAGE = ROOT / "meddino"
LINES = 60
VAGUE = {"found", "each", "given", "said", "told", "seen"}
"""Names that say how a value came about instead of what it is."""
SHARE = 0.005
"""Share of all names bound in the package that may be vague."""


@cache
def nodes() -> list[tuple[Path, ast.AST]]:
    """Every node of the package's syntax trees, with the file that it stands in."""
    return [
        (path.relative_to(ROOT), node)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
    ]


def bindings() -> Iterator[tuple[str, str]]:
    """Every variable and parameter that is bound, with its place."""
    for path, node in nodes():
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, f"{path}:{node.lineno}"
        elif isinstance(node, ast.arg):
            yield node.arg, f"{path}:{node.lineno}"


def test_functions_fit_a_screen() -> None:
    long = [
        f"{path}:{node.lineno} {node.name}"
        for path, node in nodes()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= LINES
    ]
    assert long == []


def test_every_module_has_a_package() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_names_say_what_they_hold() -> None:
    names = list(bindings())
    assert len(names) > 1000
    vague = [f"{place} {name}" for name, place in names if name in VAGUE]
    assert len(vague) < SHARE * len(names), "\n".join(vague)
