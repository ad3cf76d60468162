"""The JSON schema of config.yaml, made from the options.

`python -m meddino.study.schema [--check]`
"""

import sys
from pathlib import Path

import yaml

from meddino.study.model import Study

SCHEMA = Path(__file__).parents[2] / "workflow" / "schemas" / "config.schema.yaml"


def text() -> str:
    """The schema as YAML."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= Study.model_json_schema()
    return "# Made by `make schema` from meddino/*/options.py; do not edit.\n" + yaml.safe_dump(
        schema, sort_keys=False, width=100
    )


def main() -> None:
    """Write the schema, or with --check fail where the file is out of date."""
    if "--check" not in sys.argv:
        SCHEMA.parent.mkdir(parents=True, exist_ok=True)
        SCHEMA.write_text(text(), encoding="utf-8")
    elif not SCHEMA.exists() or SCHEMA.read_text(encoding="utf-8") != text():
        sys.exit(f"{SCHEMA} is out of date: run `make schema`")


if __name__ == "__main__":
    main()
