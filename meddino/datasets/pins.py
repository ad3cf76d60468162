"""Commits that branches and tags stood for when a dataset was fetched first, kept from then on."""

import re
from collections.abc import Callable
from pathlib import Path

from meddino.core.files import read_json, write_json

COMMIT = re.compile(r"[0-9a-f]{40}")


class Pins:
    """What branches stand for: asked for once, and kept in a file."""

    def __init__(self, path: Path) -> None:
        """Read what an earlier run has kept.

        Args:
            path: the file; it need not exist.
        """
        self._path = path
        self._kept: dict[str, str] = read_json(path) if path.exists() else {}
        self.used: dict[str, str] = {}
        """Repository and branch -> commit, of those that were asked for."""

    def commit(self, repo: str, revision: str, resolve: Callable[[], str]) -> str:
        """The commit of a branch or tag: the kept one, or what `resolve` says; commits as such."""
        if COMMIT.fullmatch(revision):
            return revision
        name = f"{repo}@{revision}"
        if name not in self._kept:
            self._kept[name] = resolve()
            write_json(self._path, self._kept)
        self.used[name] = self._kept[name]
        return self._kept[name]
