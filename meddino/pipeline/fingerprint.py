"""Which code a verb's results depend on, as a digest that layout and comments do not change.

Snakemake does not see an edited imported module. So each verb carries a revision, a parameter of
its rule, and `workflow/revisions.json` records the digest of the code that this revision stands
for. When the digest moves, whoever moved it says which it is: a new meaning (raise the revision in
`meddino/pipeline/verbs.py`; that stage and all after it rerun) or the same results (`make accept`).
"""

import ast
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, write_json
from meddino.pipeline.verbs import VERBS

PACKAGE = Path(__file__).parents[1]
RECORD = PACKAGE.parent / "workflow" / "revisions.json"


def digest(module: str, package: Path = PACKAGE) -> str:
    """Digest of a module and of every `meddino` module that it imports, however indirectly."""
    sources = _closure(module, package)
    text = "\n".join(f"{name}:{_meaning(tree)}" for name, tree in sorted(sources.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def current() -> dict[str, dict[str, int | str]]:
    """Revision and digest of every stage, as the code stands."""
    stages = {name: verb for name, verb in VERBS.items() if verb.options is not None}
    return {
        name: {"revision": verb.revision, "digest": digest(verb.module)}
        for name, verb in stages.items()
    }


def drift() -> list[str]:
    """Name the verbs whose code changed while their revision did not."""
    recorded = read_json(RECORD)
    return [name for name, now in current().items() if recorded.get(name) != now]


def _closure(module: str, package: Path) -> dict[str, ast.Module]:
    found: dict[str, ast.Module] = {}
    queue = [module]
    while queue:
        name = queue.pop()
        path = _source(name, package)
        if path is None or name in found:
            continue
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
        queue.append(name.rpartition(".")[0])  # importing a module runs its package first
        queue.extend(_imports(found[name]))
    return found


def _source(name: str, package: Path) -> Path | None:
    """The file of a dotted name inside the package, or None for a name that is not a module."""
    parts = name.split(".")
    if parts[0] != package.name:
        return None
    base = package.joinpath(*parts[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _meaning(tree: ast.Module) -> str:
    """The syntax tree as text, without docstrings: blind to comments and layout already."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # A string that stands alone does nothing: a docstring, also one under a field.
            node.body = [s for s in body if not _is_string(s)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_string(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def main(arguments: Sequence[str]) -> None:
    """Compare the code with the record, or with `--accept` take the code as it is.

    Raises:
        MeddinoError: the code of a verb changed and neither was its revision raised nor the
            change accepted.
    """
    if "--accept" in arguments:
        write_json(RECORD, current())
        print(f"{RECORD.name}: accepted the code as it is; results made by it stay valid")
    elif changed := drift():
        raise MeddinoError(
            f"the code of {', '.join(changed)} changed: raise the revision in"
            " meddino/pipeline/verbs.py if results change (they rerun), then or otherwise run"
            " `make accept`"
        )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MeddinoError as error:
        sys.exit(f"meddino: {error}")
