"""Records of results: whole, exact, without secrets; collected into a crate; verified."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meddino.__main__ import main
from meddino.cli import verify
from meddino.core import records
from meddino.core.checkout import checkout
from meddino.core.energy import Energy
from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, sha256
from meddino.core.options import Options
from meddino.pipeline import recorder
from meddino.pipeline.verbs import VERBS
from meddino.report.cards import provenance
from meddino.report.options import ProvenanceOptions

STUDY = """
resources: resources
phantom: {lits: {cases: 3, size_px: 48, slices: 16, seed: 4}}
ct3m: {datasets: [lits], sizes_px: [64, 128]}
"""
INDEX = Path("results/ct3m/index.64.parquet")
LEAVES = ["leaves", "--options", '{"count": 2, "size_px": 16}', "--output"]


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study: phantom, download, slices and index, each by its verb."""
    folder = tmp_path_factory.mktemp("made")
    before = Path.cwd()
    os.chdir(folder)
    try:
        layers = [root / "config.yaml", root / "profiles/demo/study.yaml", folder / "own.yaml"]
        layers[-1].write_text(STUDY)
        config = ["--config", *map(str, layers)]
        raw, report = "resources/raw/lits/.fetched.json", "results/ct3m/shards/lits/0.json"
        dataset, paper = ["--dataset", "lits"], ["--size", "64", "--variant", "paper"]
        for arguments in (
            ["phantom", *dataset, "--output", "resources/phantom/lits/SHA256SUMS"],
            ["fetch", *dataset, "--output", raw],
            ["slices", *dataset, "--chunk", "0", "--raw", raw, "--output", report],
            ["index", *paper, "--reports", report, "--output", str(INDEX)],
        ):
            assert main([arguments[0], *config, *arguments[1:]]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def study(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to be worked in; times of files are kept."""
    shutil.copytree(made, tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    return tmp_path / "study"


def record(output: str | Path) -> dict[str, Any]:
    return records.read(records.record_path(Path(output)))


def test_a_record_says_what_was_made_of_what_with_which_code(study: Path, root: Path) -> None:
    found = record("results/ct3m/shards/lits/0.json")
    paths = [entry["path"] for entry in found["outputs"]]
    assert paths == [
        f"results/ct3m/shards/lits/0.{end}" for end in ("json", "128.parquet", "64.parquet")
    ]
    for entry in found["outputs"]:
        assert entry["sha256"] == sha256(Path(entry["path"]))
        assert entry["bytes"] == Path(entry["path"]).stat().st_size
    (raw,) = found["inputs"]["raw"]
    assert raw["path"] == "resources/raw/lits/.fetched.json"
    assert found["options"]["curation"]["sizes_px"] == [64, 128]
    assert found["revision"] == VERBS["slices"].revision
    recorded = read_json(root / "workflow/revisions.json")["slices"]["digest"]
    assert len(found["code"]) == len(recorded)
    assert found["started"] <= found["ended"] and found["wall_s"] > 0 and found["cpu_s"] > 0
    assert found["peak_memory_bytes"] > 10e6
    assert {"Python", "meddino", "numpy", "pyarrow"} <= found["versions"].keys()
    assert found["host"]["name"] and found["host"]["gpus"] == []
    assert str(study) not in json.dumps(found), "paths are relative to the study"


def test_every_file_belongs_to_exactly_one_record(study: Path) -> None:
    listed = [
        entry["path"]
        for folder in ("results", "resources")
        for path in records.find(Path(folder))
        for entry in records.read(path)["outputs"]
    ]
    assert len(listed) == len(set(listed))
    there = {str(path) for path in Path("results").rglob("*") if path.is_file()}
    assert {path for path in there if "/." not in path} <= set(listed)


@pytest.mark.parametrize(
    ("verb", "output", "theirs", "others"),
    [
        ("tables", "table1.csv", ["table1.md", "table1.tex"], ["table2.md", "table10.md"]),
        ("preprocess", "2d.json", ["nnUNetPlans_2d/a.pkl"], ["nnUNetPlans_2d_896/a.pkl"]),
        ("preprocess", "2d_896.json", ["nnUNetPlans_2d_896/a.b2nd"], ["nnUNetPlans_2d/a.pkl"]),
        ("slices", "1.json", ["1.256.parquet"], ["11.256.parquet", ".tmp-1.256.parquet"]),
        ("pretrain", "history.jsonl", ["020000.pth", "100000.pth"], ["notes.txt"]),
        ("finetune", "model.safetensors", ["history.jsonl", "model.json"], ["README.md"]),
        ("predict", "done.json", ["amos_0001.nii.gz"], []),
    ],
)
def test_files_beside_the_output_are_found_and_others_are_not(
    verb: str, output: str, theirs: list[str], others: list[str], tmp_path: Path
) -> None:
    for name in [output, *theirs, *others]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = recorder.outputs(verb, None, tmp_path / output)
    assert found == [tmp_path / name for name in [output, *theirs]]


def test_hashes_of_inputs_come_from_their_makers_records_unless_they_were_touched(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(records, "sha256", lambda path: read.append(path) or sha256(path))
    report, shard = (Path(f"results/ct3m/shards/lits/0.{end}") for end in ("json", "64.parquet"))
    recorder._inputs({"a": report, "b": [shard], "output": INDEX, "absent": None})
    assert read == []
    os.utime(shard)
    found = recorder._inputs({"a": report, "b": [shard]})
    assert read == [shard]
    assert found["b"][0]["sha256"] == sha256(shard)


def test_a_damaged_record_beside_an_input_costs_another_reading(study: Path) -> None:
    report = Path("results/ct3m/shards/lits/0.json")
    records.record_path(report).write_text('{"verb": "sli')
    found = recorder._inputs({"reports": [report]})
    assert found["reports"][0]["sha256"] == sha256(report)
    _, whole = collect([INDEX])
    assert whole["without"] == [str(report)]


def test_a_failed_run_leaves_no_record_and_not_that_of_an_earlier_result(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_path = records.record_path(INDEX)
    assert record_path.exists()
    options = json.dumps(record(INDEX)["options"])
    command = ["index", "--options", options, "--reports", "absent.json", "--output", str(INDEX)]
    assert main(command) == 2
    assert "absent.json" in capsys.readouterr().err
    assert not record_path.exists()


def test_only_the_first_process_of_a_team_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "index.16.parquet"
    monkeypatch.setenv("RANK", "1")
    assert main([*LEAVES, str(output)]) == 0
    assert output.exists() and not records.record_path(output).exists()
    monkeypatch.setenv("RANK", "0")
    assert main([*LEAVES, str(output)]) == 0
    assert records.record_path(output).exists()


def test_records_change_no_result_and_hold_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hf_never_written_down"
    for name in ("HF_TOKEN", "SYNAPSE_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, secret)
    outputs = [tmp_path / name / "index.16.parquet" for name in ("with", "without")]
    assert main([*LEAVES, str(outputs[0])]) == 0
    monkeypatch.setenv("RANK", "1")
    assert main([*LEAVES, str(outputs[1])]) == 0
    for name in ("index.16.parquet", "leaves.16.parquet"):
        first, second = (output.with_name(name).read_bytes() for output in outputs)
        assert first == second
    assert secret not in records.record_path(outputs[0]).read_text()


def test_no_option_of_any_verb_holds_a_secret() -> None:
    def models(kind: type[Options]) -> Iterator[type[Options]]:
        yield kind
        for below in kind.__subclasses__():
            yield from models(below)

    names = {name for model in models(Options) for name in model.model_fields}
    assert "batch_size" in names
    assert not {n for n in names if {"token", "password", "secret", "key"} & set(n.split("_"))}


def test_an_unwritable_record_is_an_error_that_leaves_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise MeddinoError("cannot write: no space left")

    monkeypatch.setattr(recorder, "write_json", full)
    assert main([*LEAVES, str(tmp_path / "index.16.parquet")]) == 2
    assert "no space left" in capsys.readouterr().err
    assert (tmp_path / "index.16.parquet").exists()


def test_commit_and_edits_of_a_checkout(tmp_path: Path) -> None:
    assert checkout(tmp_path) is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD")
    assert checkout(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "code.py").write_text("a = 2\n")
    assert checkout(tmp_path) == {"commit": commit, "dirty": True}


def test_a_record_is_written_by_an_installed_package_too(root: Path, tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "meddino", tmp_path / "site/meddino", ignore=ignore)
    output = tmp_path / "out/index.16.parquet"
    subprocess.run(
        [sys.executable, "-m", "meddino", *LEAVES, str(output)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
    )
    found = record(output)
    assert found["git"] is None
    assert found["code"] == recorder.fingerprint.digest("meddino.pretrain.leaves")
    assert found["outputs"][0]["path"] == "out/index.16.parquet"


def test_energy_adds_up_packages_over_the_turn_of_their_counters(tmp_path: Path) -> None:
    assert Energy(tmp_path).joules is None
    for name, kind in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core")):
        zone = tmp_path / name
        zone.mkdir()
        (zone / "name").write_text(f"{kind}\n")
        (zone / "max_energy_range_uj").write_text("999999999\n")
        (zone / "energy_uj").write_text("999000000\n")
    with Energy(tmp_path) as energy:
        (tmp_path / "intel-rapl:0/energy_uj").write_text("4000000\n")
    assert energy.joules == pytest.approx(5.0)


def test_a_record_costs_little(study: Path) -> None:
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        with recorder.recorded("index", {}, {"output": INDEX}):
            pass
        best = min(best, time.process_time() - start)
    assert best < 0.5, "seconds of a busy machine"


# ---- collected --------------------------------------------------------------------------------


def collect(results: list[Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    output = Path("results/ro-crate-metadata.json")
    provenance.run(ProvenanceOptions(title="A study"), results=results, output=output)
    return read_json(output), read_json(output.with_name("provenance.json"))


def test_a_study_is_followed_back_to_its_raw_data(study: Path) -> None:
    _, whole = collect([INDEX])
    assert {entry["verb"] for entry in whole["records"].values()} == {"fetch", "slices", "index"}
    assert whole["summary"]["results"] == 3 and whole["without"] == []
    assert [effort["verb"] for effort in whole["summary"]["verbs"]] == ["fetch", "slices", "index"]
    records.record_path(Path("results/ct3m/shards/lits/0.json")).unlink()
    _, whole = collect([INDEX])
    assert whole["without"] == ["results/ct3m/shards/lits/0.json"]


def test_the_crate_is_a_process_run_crate(study: Path) -> None:
    """What RO-Crate 1.1 and the profile demand, as far as it can be said without their tools."""
    crate, _ = collect([INDEX])
    graph = {entity["@id"]: entity for entity in crate["@graph"]}
    assert len(graph) == len(crate["@graph"]), "no entity twice"
    assert graph["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    root = graph["./"]
    assert {"name", "description", "datePublished", "license"} <= root.keys()
    assert "wfrun/process" in root["conformsTo"]["@id"]
    references = [
        value["@id"]
        for entity in crate["@graph"]
        for values in entity.values()
        for value in (values if isinstance(values, list) else [values])
        if isinstance(value, dict) and not value["@id"].startswith("https://w3id.org/ro/crate/")
    ]
    assert set(references) <= graph.keys(), "every reference is described"
    files = [entity for entity in crate["@graph"] if entity["@type"] == "File"]
    parts = {part["@id"] for part in root["hasPart"]}
    assert {entity["@id"] for entity in files} == parts
    for entity in files:
        inside = not entity["@id"].startswith("ni:///sha-256;")
        assert not inside or (Path("results") / entity["@id"]).is_file()
    actions = [entity for entity in crate["@graph"] if entity["@type"] == "CreateAction"]
    assert len(actions) == 3
    for action in actions:
        assert graph[action["instrument"]["@id"]]["@type"] == "SoftwareApplication"
        assert action["result"] and action["endTime"]


# ---- verified ---------------------------------------------------------------------------------


def test_untouched_results_verify(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--strict"]) == 0
    printed = capsys.readouterr().out
    assert "0 changed, 0 missing, 0 without a record" in printed


def test_changed_missing_and_unrecorded_files_are_named_with_a_remedy(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = Path("results/ct3m/shards/lits/0.64.parquet")
    stat = shard.stat()
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # a decaying disk changes no time
    shard.with_name("0.128.parquet").unlink()
    records.record_path(INDEX).unlink()
    assert main(["verify"]) == 2
    said = capsys.readouterr()
    assert "1 changed, 1 missing, 2 without a record" in said.out
    assert said.err.count("\n") == 1
    assert "0.64.parquet" in said.err and "0.128.parquet" in said.err
    assert "--forcerun results/ct3m/shards/lits/0.json -- all" in said.err


def test_files_without_a_record_are_told_and_refused_when_asked(study: Path) -> None:
    records.record_path(INDEX).unlink()
    verify.main([])
    with pytest.raises(MeddinoError, match=r"index\.64"):
        verify.main(["--strict"])


def test_verify_where_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MeddinoError, match="name the folders"):
        verify.main([])


def test_a_damaged_record_is_an_error_with_a_remedy(study: Path) -> None:
    records.record_path(INDEX).write_text("[]")
    with pytest.raises(MeddinoError, match="is not a record"):
        verify.main([])
