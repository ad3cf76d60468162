"""Look the locked packages up in a database of known vulnerabilities: `make audit`.

pip-audit finds "no known vulnerabilities" where the service knows nothing, as behind a mirror of
the package index. So a service is first asked about a release that is known to be vulnerable; where
none names its flaws, the audit is skipped, and says so. Arguments are pip-audit's, such as
`--ignore-vuln ID` or `--osv-url URL`.
"""

import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ENVS = Path(__file__).parent
TOOLS = ENVS.parent / "build" / "tools"
LOCKS = ("lock.txt", "lock-torch.txt", "lock-tools.txt")
SERVICES = ("pypi", "osv")
CONTROL = "jinja2==2.10"
"""A release with flaws that every service knows (CVE-2019-10906 and others)."""


def tools() -> Path:
    """Return the folder of programs of an environment made from lock-tools.txt."""
    programs = TOOLS / "bin"
    if not (programs / "pip-audit").exists():
        print("installing pip-audit", file=sys.stderr)
        venv.create(TOOLS, with_pip=True, clear=True)
        command = [programs / "pip", "install", "-qq", "--no-deps", "--require-hashes"]
        subprocess.run([*command, "-r", ENVS / "lock-tools.txt"], check=True)
    return programs


def audit(service: str, requirements: Sequence[Path], extra: Sequence[str]) -> list[dict[str, Any]]:
    """Return what the service says of each requirement; nothing where it does not answer."""
    command: list[str | Path] = [tools() / "pip-audit", "--vulnerability-service", service]
    command += [
        "--disable-pip",
        "--no-deps",
        "--format",
        "json",
        "--progress-spinner",
        "off",
        *extra,
    ]
    for path in requirements:
        command += ["--requirement", path]
    answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found: list[dict[str, Any]] = json.loads(answer)["dependencies"] if answer.strip() else []
    return found


def answers(service: str, extra: Sequence[str]) -> bool:
    """Tell whether the service names the flaws of the control."""
    with tempfile.TemporaryDirectory() as folder:
        control = Path(folder, "control.txt")
        control.write_text(CONTROL + "\n", encoding="utf-8")
        return any(part.get("vulns") for part in audit(service, [control], extra))


def main(extra: Sequence[str]) -> int:
    """Audit with the first service that answers; return 1 where a package has a known flaw."""
    service = next((name for name in SERVICES if answers(name, extra)), None)
    if service is None:
        print(f"AUDIT SKIPPED: neither of {', '.join(SERVICES)} knew of the flaws of {CONTROL}")
        return 0
    parts = audit(service, [ENVS / name for name in LOCKS], extra)
    flaws = [(part, flaw) for part in parts for flaw in part.get("vulns", [])]
    for part, flaw in flaws:
        mended = ", ".join(flaw["fix_versions"]) or "no release"
        print(f"{part['name']} {part['version']}: {flaw['id']}, mended in {mended}")
    unknown = [part["name"] for part in parts if "skip_reason" in part]
    print(
        f"{service}: {len(parts)} packages, {len(flaws)} known flaws, unknown: {unknown or 'none'}"
    )
    return 1 if flaws or not parts else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
