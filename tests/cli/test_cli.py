"""The command line: verbs, flags from signatures, errors without tracebacks."""

import json
from pathlib import Path

import pytest

from meddino.__main__ import main
from meddino.pipeline.verbs import VERBS


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"  {verb} " in printed for verb in VERBS)


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if not verb.options])
def test_every_tool_says_how_it_is_used(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"usage: python -m meddino {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if verb.options])
def test_every_stage_describes_its_flags(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert "--output" in capsys.readouterr().out


def test_a_verb_works_by_hand_from_a_configuration(root: Path, tmp_path: Path) -> None:
    config = [str(root / "config.yaml"), str(root / "profiles/demo/study.yaml")]
    output = tmp_path / "index.64.parquet"
    assert main(["leaves", "--config", *config, "--size", "64", "--output", str(output)]) == 0
    assert output.exists()


def test_and_from_json_as_the_workflow_gives_it(tmp_path: Path) -> None:
    options = json.dumps({"count": 2, "size_px": 16})
    output = tmp_path / "index.16.parquet"
    assert main(["leaves", "--options", options, "--output", str(output)]) == 0
    assert output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["leaves", "--options", '{"count": 0, "size_px": 16}', "--output", "x"], "count must be"),
        (["leaves", "--options", '{"cont": 1}', "--output", "x"], "did you mean 'count'"),
        (["leaves", "--config", "absent.yaml", "--size", "64", "--output", "x"], "absent.yaml"),
        (["leaves", "--output", "x"], "say --size"),
    ],
)
def test_errors_are_one_line_with_a_remedy(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.startswith("meddino leaves: ")
    assert "Traceback" not in printed


def test_unwritable_output_is_an_error_with_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    options = json.dumps({"count": 1, "size_px": 16})
    output = tmp_path / "file/index.16.parquet"
    assert main(["leaves", "--options", options, "--output", str(output)]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_an_unknown_verb_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["pretrian"])
    assert stop.value.code == 2
    assert "pretrain" in capsys.readouterr().err
