"""What may be sent to others: no name of a machine or person, and no folder of theirs."""

import getpass
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LIBRARY = re.compile(r"[^\s\"'`]*/(?:site|dist)-packages/")
"""What stands before the path of an installed module."""
PATH = re.compile(r"(?<![\w.~/:>])/(?:[^\s/\"'`,;:()|<>]+/)+([^\s/\"'`,;:()|<>]*)")
"""An absolute path, and its last part."""
SHORTEST = 3
"""Letters of a name that is looked for: a shorter one would be found in the middle of words."""


def anonymous(value: Any) -> Any:
    """The same value, with paths cut down to what tells of code, and names left out."""
    if isinstance(value, dict):
        return {anonymous(key): anonymous(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [anonymous(item) for item in value]
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    for folder, word in _folders():
        text = re.sub(rf"{re.escape(folder)}(?=/|\b)/?", word, text)
    text = PATH.sub(r"\1", LIBRARY.sub("", text))
    for name, word in _names():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", word, text)
    return text


def _folders() -> Iterator[tuple[str, str]]:
    """Folders by what stands for them; the longest first, since some lie in others."""
    folders = {
        str(ROOT): "",
        tempfile.gettempdir(): "<tmp>/",
        sys.prefix: "<python>/",
        sys.base_prefix: "<python>/",
        str(Path.cwd()): "",
        str(Path.home()): "<home>/",
    }
    for folder, word in sorted(folders.items(), key=lambda item: -len(item[0])):
        if folder != "/":
            yield folder, word


def _names() -> Iterator[tuple[str, str]]:
    host = socket.gethostname()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no entry for this user, as in some containers
        user = ""
    for name, word in ((host, "<host>"), (host.partition(".")[0], "<host>"), (user, "<user>")):
        if len(name) >= SHORTEST:
            yield name, word
