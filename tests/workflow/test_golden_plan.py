"""Every command that four studies plan, compared with the recorded ones.

A command holds the options and the run folder of its job, so that a change of the configuration's
code that alters any of them shows here, job by job. After a change that is meant, record anew:
`make golden`.
"""

import hashlib
import json
import os
import shlex
import tempfile
from pathlib import Path

import pytest
from places import ROOT
from processes import run_snakemake

RECORDS = ROOT / "tests" / "golden" / "plan"
CONFIG, DEMO = ROOT / "config.yaml", ROOT / "profiles" / "demo" / "study.yaml"
STUDIES = {
    "default": [CONFIG],
    "leak_free": [CONFIG, ROOT / "config.leak-free.yaml"],
    "demo": [CONFIG, DEMO],
    "own_data": [CONFIG, DEMO, ROOT / "tests" / "realct.yaml"],
}
"""Configurations of a study, each laid over those before it."""
Plan = dict[str, dict[str, str]]


SCANS = [
    "ts_example_ct_sm/ct.nii.gz",
    "ts_example_ct_sm/seg_total.nii.gz",
    "ts_example_ct_dicom_scrubbed/dicom/1.dcm",
    "ts_example_ct_dicom_scrubbed/seg_total.nii.gz",
]
"""What the folder of own data holds here: of such a folder, sizes and dates go into the plan."""


def dry_run(configs: list[Path], folder: Path) -> str:
    """What Snakemake prints of a study that has not begun."""
    for name in SCANS:
        scan = folder.parent / "shared/realct" / name
        scan.parent.mkdir(parents=True, exist_ok=True)
        scan.write_bytes(b"scan")
        os.utime(scan, (1_600_000_000, 1_600_000_000))
    folder.mkdir(exist_ok=True)
    arguments = ["--dry-run", "--printshellcmds", "--nolock", "--cores", "2"]
    result = run_snakemake([*arguments, "--configfile", *map(str, configs), "--", "all"], folder)
    assert result.returncode == 0, result.stdout
    return result.stdout


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def describe(command: str) -> tuple[str, dict[str, str]]:
    """The main output of a command, and its verb, options and other words, in any order."""
    words = shlex.split(command)
    options = json.loads(words.pop(words.index("--options") + 1))
    verb = words[words.index("--options") - 1]
    flags = sorted(" ".join(words).split(" --"))
    output = words[words.index("--output") + 1]
    return output, {"verb": verb, "options": digest(options), "words": digest(flags)}


def plan(configs: list[Path], folder: Path) -> Plan:
    """Every command of a study, by the main output that it makes."""
    marker = "Shell command: "
    lines = (line.strip() for line in dry_run(configs, folder).splitlines())
    commands = [line.removeprefix(marker) for line in lines if line.startswith(marker)]
    return dict(describe(command) for command in commands if command != "None")


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_plans_the_recorded_commands(study: str, tmp_path: Path) -> None:
    planned = plan(STUDIES[study], tmp_path / "study")
    recorded: Plan = json.loads((RECORDS / f"{study}.json").read_text())
    assert len(recorded) > 50
    different = {
        output: [key for key in recorded[output] if recorded[output][key] != planned[output][key]]
        for output in recorded.keys() & planned.keys()
        if recorded[output] != planned[output]
    }
    assert (recorded.keys() - planned.keys(), planned.keys() - recorded.keys()) == (set(), set())
    assert different == {}, "if this is meant, run `make golden`"


def record() -> None:
    RECORDS.mkdir(parents=True, exist_ok=True)
    for study, configs in STUDIES.items():
        with tempfile.TemporaryDirectory() as folder:
            planned = plan(configs, Path(folder, "study"))
        text = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(planned.items()))
        (RECORDS / f"{study}.json").write_text(f"{{\n{text}\n}}\n")
        print(f"{study}: {len(planned)} commands")


if __name__ == "__main__":
    record()
