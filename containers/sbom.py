"""Write the software bill of materials of an image: sbom.py PYTHON PYPROJECT OUTPUT.

CycloneDX's own tool lists the Python packages of PYTHON's environment; the packages of Debian are
added here, since they are as much of the image. Runs inside it, in the environment of
envs/lock-tools.txt, while it is built.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

VERSION = SchemaVersion.V1_6


def python_packages(python: str, pyproject: str) -> dict[str, Any]:
    """Return a bill of a Python environment; its main component is the project itself."""
    tool = str(Path(sys.executable).with_name("cyclonedx-py"))
    command = [tool, "environment", "--pyproject", pyproject, "--sv", VERSION.to_version()]
    command += ["--no-validate", python]  # which takes half a minute; the whole is validated below
    made = subprocess.run(command, check=True, capture_output=True, text=True)
    bill: dict[str, Any] = json.loads(made.stdout)
    return bill


def debian_packages() -> list[dict[str, str]]:
    """Return what dpkg knows to be installed, as components."""
    form = "${db:Status-Abbrev}\t${Package}\t${Version}\t${Architecture}\n"
    lines = subprocess.run(
        ["dpkg-query", "--show", f"--showformat={form}"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return [
        {
            "type": "library",
            "bom-ref": f"deb:{name}:{architecture}",
            "name": name,
            "version": version,
            "purl": str(PackageURL("deb", "debian", name, version, {"arch": architecture})),
        }
        for status, name, version, architecture in (line.split("\t") for line in lines)
        if status.startswith("ii")
    ]


def main(python: str, pyproject: str, output: str) -> None:
    """Write the bill, or stop where CycloneDX's schema refuses it."""
    bill = python_packages(python, pyproject)
    bill["components"] += debian_packages()
    text = json.dumps(bill, indent=1) + "\n"
    if error := JsonStrictValidator(VERSION).validate_str(text):
        sys.exit(f"the bill of materials is not valid CycloneDX: {error}")
    Path(output).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
