"""What the Snakemake catalogue and WorkflowHub read of a checkout, compared with what it holds."""

import json
import tomllib
from typing import Any

import yaml
from places import ROOT

from meddino import __version__

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CRATE = json.loads((ROOT / "ro-crate-metadata.json").read_text())
ENTITIES: dict[str, dict[str, Any]] = {entity["@id"]: entity for entity in CRATE["@graph"]}


def references(value: Any) -> set[str]:
    """Identifiers that a value of an entity points to."""
    if isinstance(value, list):
        return set().union(*map(references, value))
    return {value["@id"]} if isinstance(value, dict) else set()


def test_the_crate_says_what_the_project_and_its_citation_say() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    root, workflow = ENTITIES["./"], ENTITIES["workflow/Snakefile"]
    assert root["version"] == workflow["version"] == citation["version"] == __version__
    assert root["datePublished"] == citation["date-released"]
    assert (root["name"], root["description"]) == (PROJECT["name"], PROJECT["description"])
    assert root["keywords"].split(", ") == PROJECT["keywords"]
    licence = f"https://spdx.org/licenses/{PROJECT['license']}"
    assert references(root["license"]) == references(workflow["license"]) == {licence}
    authors = [ENTITIES[name]["name"] for name in sorted(references(root["author"]))]
    assert authors == [author["name"] for author in PROJECT["authors"]]


def test_the_crate_keeps_the_profile_of_workflows() -> None:
    """https://w3id.org/workflowhub/workflow-ro-crate/1.0, its MUSTs and SHOULDs."""
    assert CRATE["@context"] == "https://w3id.org/ro/crate/1.1/context"
    descriptor, root = ENTITIES["ro-crate-metadata.json"], ENTITIES["./"]
    assert references(descriptor["about"]) == {"./"}
    assert references(descriptor["conformsTo"]) == {
        "https://w3id.org/ro/crate/1.1",
        "https://w3id.org/workflowhub/workflow-ro-crate/1.0",
    }
    (main,) = references(root["mainEntity"])
    assert main == "workflow/Snakefile" and main in references(root["hasPart"])
    workflow = ENTITIES[main]
    assert workflow["@type"] == ["File", "SoftwareSourceCode", "ComputationalWorkflow"]
    (language,) = references(workflow["programmingLanguage"])
    assert ENTITIES[language]["name"] == "Snakemake"
    (picture,) = references(workflow["image"])
    assert "ImageObject" in ENTITIES[picture]["@type"]
    assert references(ENTITIES["README.md"]["about"]) == {"./"}


def test_all_parts_of_the_crate_are_there_and_described() -> None:
    assert len(ENTITIES) == len(CRATE["@graph"])
    for part in references(ENTITIES["./"]["hasPart"]):
        assert (ROOT / part).is_dir() == part.endswith("/") and (ROOT / part).exists(), part
        assert "File" in ENTITIES[part]["@type"] or ENTITIES[part]["@type"] == "Dataset"


def test_the_catalogue_finds_what_it_asks_for() -> None:
    """github.com/snakemake/snakemake-workflow-catalog: criteria of its standardized workflows."""
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage.keys() == {"mandatory-flags", "software-stack-deployment"}
    assert set(usage["software-stack-deployment"].values()) <= {True, False}
    assert (ROOT / "profiles/local/profile.yaml").exists()
    assert usage["mandatory-flags"]["flags"] == "--profile local"
    readme = (ROOT / "README.md").read_text().lower()
    assert "snakemake" in readme and "workflow" in readme
    for path in ("workflow/Snakefile", "config/README.md", "workflow/rules/data.smk"):
        assert (ROOT / path).exists(), path


def test_links_of_the_configurations_page_lead_somewhere() -> None:
    text = (ROOT / "config/README.md").read_text()
    links = [part.partition(")")[0] for part in text.split("](")[1:]]
    assert len(links) > 8
    for link in links:
        assert (ROOT / "config" / link).exists(), link


def test_the_workflow_of_github_runs_what_must_pass() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["run"]
    assert "bash .ci/run" in [step.get("run") for step in job["steps"]]
    assert (ROOT / ".ci/run").read_text().startswith("#!/usr/bin/env bash\n")
