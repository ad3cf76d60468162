"""The command line: verbs, flags from signatures, errors without tracebacks."""

import inspect
import json
from importlib import import_module
from pathlib import Path

import pytest

from meddino.__main__ import main
from meddino.cli.overview import HEADINGS
from meddino.cli.stages import describe, stage_parser
from meddino.core.errors import MeddinoError
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


@pytest.mark.parametrize(
    ("name", "hint"),
    [("pretrian", "did you mean 'pretrain'?"), ("segmnet", "'segment'"), ("xyzzy", "lists all")],
)
def test_an_unknown_verb_is_answered_with_the_closest(
    name: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name]) == 2
    printed = capsys.readouterr().err
    assert f"there is no verb {name!r}" in printed and hint in printed
    assert len(printed.splitlines()) == 1


def test_every_verb_stands_under_one_heading() -> None:
    assert {verb.group for verb in VERBS.values()} == set(HEADINGS)
    stages = {name for name, verb in VERBS.items() if verb.options is not None}
    assert stages == {name for name, verb in VERBS.items() if verb.group == "stages"}


def test_what_people_use_most_is_listed_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    places = [printed.index(f"\n  {verb} ") for verb in ("segment", "study", "watch", "fetch")]
    assert places == sorted(places)
    assert all(len(line) <= 90 for line in printed.splitlines())


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if verb.options])
def test_the_help_of_a_stage_is_no_docstring(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    printed = capsys.readouterr().out
    assert "Raises:" not in printed and "Args:" not in printed
    parser = stage_parser(verb, import_module(VERBS[verb].module).run)
    unexplained = [action.dest for action in parser._actions if not action.help]
    assert unexplained == [], f"{verb}: document these under Args in the docstring of its `run`"


def test_a_docstring_is_split_into_prose_and_arguments() -> None:
    text = """Do it.

    More
    of it.

    Args:
        one: the first, which goes
            on: here.
        two: 95 % of it

    Raises:
        MeddinoError: never.
    """
    description = describe(inspect.cleandoc(text))
    assert description.summary == "Do it." and description.details == "More\nof it."
    assert description.arguments == {"one": "the first, which goes on: here", "two": "95 % of it"}


USAGES = {
    "segment": [
        "--model ABSENT --device cpu --no-tta --overwrite one.nii.gz two.nii.gz OUT",
        "one.nii.gz --model ABSENT OUT",
        "one.nii.gz two.nii.gz --model ABSENT OUT --device cpu",
    ],
    "features": [
        "--model ABSENT --slice 3 --patch 1,2 --size 64 --output STEM --device cpu --dpi 50 IMAGE",
        "--model a=ABSENT --model b=ABSENT --size 64 --size 128 IMAGE",
        "IMAGE --model ABSENT --at 0.4,0.6",
    ],
    "export": ["--weights ABSENT --format timm --output OUT"],
    "bundle": ["--model ABSENT --output OUT --authors A --accept-licence a b --release 2.0.0"],
    "highres": ["--patch-px 896 --batch-size 2 ABSENT", "ABSENT --patch-px 896"],
    "watch": ["--results ABSENT --once"],
    "tensorboard": ["--output OUT ABSENT", "ABSENT --output OUT"],
    "verify": ["--strict ABSENT ABSENT2", "ABSENT --strict ABSENT2"],
    "submit": ["--folder OUT --sbatch= --apptainer= -- pretrain --options {}"],
}
"""Command lines in the order that a tool's own help prints, and with flags in other places."""


@pytest.mark.parametrize(
    ("verb", "line"), [(verb, line) for verb, lines in USAGES.items() for line in lines]
)
def test_flags_and_files_may_stand_in_any_printed_order(
    verb: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parser takes the line: what fails then is that no such file exists, in one clear line."""
    monkeypatch.chdir(tmp_path)

    def leave(program: str, command: list[str]) -> None:
        raise MeddinoError(f"{program} would run {command}")

    monkeypatch.setattr("os.execvp", leave)
    assert main([verb, *line.split()]) == 2


def test_every_tool_with_a_parser_of_its_own_has_its_usages_tested() -> None:
    own = {name for name, verb in VERBS.items() if verb.options is None and not verb.usage}
    assert own == set(USAGES)
