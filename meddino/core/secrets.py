"""Secrets: not in configurations, not in logs or errors, and in files that nobody else can read.

Tokens are those of the clients: from the environment or from their own credential files.
"""

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

NAMES = re.compile(
    r"token|secret|passw|signature|credential|auth|(api|access)[-_]?key|^sig$", re.IGNORECASE
)
"""Names of variables and of parameters in addresses whose values are secrets."""
SHORTEST = 8
"""Characters; shorter values stand in messages by chance."""
_USER = re.compile(r"(?<=://)[^/\s@]+@")
_PARAMETER = re.compile(r"(?<=[?&])([^=&\s]+)=([^&\s'\"]+)")


def public(address: str) -> str:
    """An address as it is, if it holds no secret: configurations end up in logs and records.

    Raises:
        ValueError: it holds a name and password, or a parameter such as `token`.
    """
    try:
        parts = urlsplit(address)
        named = [key for key, _ in parse_qsl(parts.query) if NAMES.search(key)]
    except ValueError as error:
        raise ValueError(f"is no address: {error}") from error
    if "@" in parts.netloc or named:
        what = f"the parameter {named[0]!r}" if named else "a name or password"
        raise ValueError(
            f"holds {what}, and would be seen in logs and records; get the files by hand and give"
            " their folder, or use a client's own login"
        )
    return address


def hidden(text: str) -> str:
    """A message without the secrets of the environment, and without those in addresses."""
    secrets = (value for name, value in os.environ.items() if NAMES.search(name))
    for secret in sorted((s for s in secrets if len(s) >= SHORTEST), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _USER.sub("***@", text)
    return _PARAMETER.sub(
        lambda m: f"{m[1]}=***" if NAMES.search(m[1]) else m[0],
        text,
    )


def warn_if_shared(paths: Iterable[Path]) -> None:
    """Warn of credential files that other users of this machine can read."""
    for path in paths:
        if path.is_file() and path.stat().st_mode & 0o077:
            print(
                f"warning: {path} holds a secret and can be read by other users; run"
                f" `chmod 600 {path}`",
                file=sys.stderr,
                flush=True,
            )
