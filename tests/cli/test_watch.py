"""`watch`: a study that is under way, told from its files; made-up ones, and one of Snakemake."""

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from meddino.__main__ import main
from meddino.cli import snakemake, watch
from meddino.cli.job_logs import Report, latest
from meddino.cli.lock import LOCKS, RECORD
from meddino.cli.run_state import left_s
from meddino.cli.snakemake import LOG
from meddino.core.errors import MeddinoError
from meddino.core.files import read_json

NOW = time.mktime(time.strptime("2026-11-25 15:20:00", "%Y-%m-%d %H:%M:%S"))
LINES = """\
Building DAG of jobs...
Job stats:
job                count
---------------  -------
phantom                2
pretrain_stage1        1
finetune               2
predict                3
all                    1
total                  9

Select jobs to execute...
Execute 2 jobs...

[Wed Nov 25 15:00:00 2026]
localrule phantom:
    output: resources/phantom/lits/SHA256SUMS
    log: logs/phantom/lits.log
    jobid: 28
    wildcards: dataset=lits
Shell command: python -m meddino phantom --options '{"cases":4}'

[Wed Nov 25 15:00:00 2026]
localrule phantom:
    log: logs/phantom/btcv.log
    jobid: 29
    wildcards: dataset=btcv
[Wed Nov 25 15:01:00 2026]
Finished jobid: 28 (Rule: phantom)
1 of 9 steps (11%) done
[Wed Nov 25 15:03:00 2026]
Error in rule phantom:
    jobid: 29
    output: resources/phantom/btcv/SHA256SUMS
    log: logs/phantom/btcv.log (check log file(s) for error details)

[Wed Nov 25 15:10:00 2026]
localrule pretrain_stage1:
    log: logs/pretrain/stage1.log
    jobid: 5
Shell command: python -m meddino submit -- pretrain --options '{"stage":{"iterations":200}}'
[Wed Nov 25 15:10:00 2026] Group job abc (jobs in lexicogr. order):
    rule predict:
        log: logs/predict/a.log
        jobid: 7
        wildcards: benchmark=amos22, method=nnunet, fold=0
[Wed Nov 25 15:10:00 2026]
localrule finetune:
    log: logs/finetune/b.log
    jobid: 8
    wildcards: benchmark=amos22, method=meddinov3, fold=0
Shell command: python -m meddino finetune --options '{"training":{"epochs":10}}'
"""
SAID = {
    "logs/pretrain/stage1.log": "submitted SLURM job 12 (meddino-x)\nSLURM job 12: PENDING x\n"
    "iteration 40: loss 7.1, koleo 0.2, seconds 0.2, hours_left 0.6\n"
    "iteration 50: loss 6.03, dino_global 4.1, koleo 0.39, grad_norm_x 0.5, hours_left 0.5\n"
    "stage1: pretraining: 50/200, 1800 s left\niteration 60: lo",
    "logs/predict/a.log": "fold0: segmenting: 3/12, 80 s left\n",
    "logs/finetune/b.log": "epoch 0: loss 0.1, pseudo Dice 0.2, 11.0 s\n"
    "epoch 3: loss -0.251, pseudo Dice 0.485, 12.5 s\n",
    "logs/phantom/btcv.log": "meddino phantom: cannot write x: no space; free some, then rerun\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study that is under way, though nothing runs."""
    monkeypatch.chdir(tmp_path)
    for name, text in {str(LOG): LINES, **SAID}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / LOCKS).mkdir(parents=True)
    (tmp_path / LOCKS / "0.output.lock").write_text("x")
    history = tmp_path / "results/finetune/amos22/nnunet/fold0/history.jsonl"
    history.parent.mkdir(parents=True)
    lines = [{"epoch": 4, "train_loss": -0.5, "pseudo_dice": [0.5, None, 0.7]}]
    history.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"epoch": 5, "tr')
    return tmp_path


def shown(folder: Path, now: float = NOW) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(watch.view(folder, folder / "results", now)[0])
    return console.export_text()


def test_jobs_are_told_from_snakemakes_log(folder: Path) -> None:
    found = snakemake.read_log(LINES.splitlines())
    assert (found.done, found.total, found.over) == (1, 9, "")
    assert found.planned["predict"] == 3
    assert [job.name for job in found.running()] == [
        "pretrain_stage1",
        "predict amos22 nnunet 0",
        "finetune amos22 meddinov3 0",
    ]
    assert [job.length for job in found.running()] == [200, None, 10]
    (failed,) = found.failures()
    assert failed.name == "phantom btcv" and failed.log == Path("logs/phantom/btcv.log")
    assert found.numbered[28].ended == found.numbered[28].started + 60  # type: ignore[operator]


def test_all_of_it_is_shown(folder: Path) -> None:
    text = shown(folder)
    head = text.splitlines()[0]
    assert head.startswith("1 of 9 steps, running, last word 10 min ago, 20 min so far, about")
    assert re.search(r"phantom +1 of 2 +1 +60 s", text)
    assert re.search(r"pretrain_stage1 +10 min +25 % +30 min +iteration 50, loss 6.03", text)
    assert re.search(r"iteration 50, loss 6.03, dino_global 4.1, koleo 0.39 *\n", text)
    assert "epoch 4, loss -0.251, pseudo Dice 0.485" in text
    assert re.search(r"finetune amos22 meddinov3 0 +10 min +40 % +75 s", text)
    assert re.search(r"predict amos22 nnunet 0 +10 min +25 % +80 s +fold0: segmenting", text)
    assert re.search(r"finetune amos22 nnunet fold0 +epoch 5, loss -0.500, pseudo Dice 0.600", text)
    assert "phantom btcv: meddino phantom: cannot write x: no space" in text
    assert "(see logs/phantom/btcv.log)" in text


def test_the_time_left_is_that_of_the_means_and_of_what_jobs_say() -> None:
    found = snakemake.read_log(LINES.splitlines())
    said = {5: Report("", None, 1800.0), 7: Report("", None, 90.0)}
    # Waiting: 1 finetune and 2 predict, each as long as the phantom took; job 8 is over its mean.
    assert left_s(found, {}, NOW) == pytest.approx(3 * 60 / 3)
    assert left_s(found, said, NOW) == pytest.approx(1800), "not before the longest ends"
    assert left_s(snakemake.read_log(LINES.splitlines()[:22]), {}, NOW) is None


@pytest.mark.parametrize(
    ("more", "state"),
    [
        ("Exiting because a job execution failed. Look below\n", "failed"),
        ("Nothing to be done (all requested files are present).\n", "up to date"),
        ("Cancelling snakemake on user request.\n", "stopped"),
        ("9 of 9 steps (100%) done\n", "complete"),
    ],
)
def test_a_run_that_is_over_is_said_to_be(folder: Path, more: str, state: str) -> None:
    (folder / LOG).write_text(LINES + more)
    renderable, over = watch.view(folder, folder / "results", NOW)
    assert over and renderable
    head = shown(folder).splitlines()[0]
    assert f", {state}, 10 min so far" in head and "left" not in head


def test_a_run_that_was_killed_is_told_by_its_record(folder: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    record = {"host": socket.gethostname(), "group": process.pid, "locks": {}}
    (folder / RECORD).write_text(json.dumps(record))
    assert "was killed; rerun to go on" in shown(folder)
    (folder / RECORD).write_text(json.dumps({**record, "group": os.getpid()}))
    assert "running" in shown(folder).splitlines()[0]
    (folder / RECORD).write_text('{"host": "')
    assert "running" in shown(folder).splitlines()[0], "a half-written record is as none"
    (folder / LOCKS / "0.output.lock").unlink()
    assert "not running (no lock)" in shown(folder)


def test_a_job_that_is_tried_again_is_no_failure() -> None:
    again = """\
[Wed Nov 25 15:05:00 2026]
Trying to restart job 29.
[Wed Nov 25 15:05:00 2026]
localrule phantom:
    log: logs/phantom/btcv.log
    jobid: 29
    wildcards: dataset=btcv
Job 29 has been submitted with SLURM jobid 4711 (log: x.log).
"""
    found = snakemake.read_log((LINES + again).splitlines())
    assert not found.failures() and found.numbered[29] in found.running()
    assert latest(found.numbered[29]).text == "SLURM job 4711"


def test_every_beginning_of_every_file_can_be_shown(folder: Path) -> None:
    whole = LINES + "Exiting because a job execution failed. Look above\n"
    for end in range(0, len(whole), 37):
        (folder / LOG).write_text(whole[:end])
        shown(folder)
    for name, text in SAID.items():
        for end in range(0, len(text), 11):
            (folder / name).write_text(text[:end])
        (folder / LOG).write_text(LINES)
        shown(folder)
    (folder / LOG).write_bytes(b"\xff\xfe" + LINES.encode() + b"\xc3")
    assert "1 of 9 steps" in shown(folder)


def test_names_are_not_taken_for_markup(folder: Path) -> None:
    (folder / LOG).write_text(LINES.replace("method=nnunet", "method=[bold]x[/nope]"))
    assert "predict amos22 [bold]x[/nope] 0" in shown(folder)


def test_snakemakes_own_log_serves_where_plain_snakemake_runs(folder: Path) -> None:
    (folder / LOG).unlink()
    place = folder / snakemake.LOGS
    place.mkdir(parents=True)
    (place / "a.snakemake.log").write_text(LINES)
    planned = place / "b.snakemake.log"
    planned.write_text("Building DAG of jobs...\n")
    os.utime(planned, (NOW, NOW + 10**6))
    assert snakemake.find_log(folder) == place / "a.snakemake.log"
    assert "1 of 9 steps" in shown(folder)


def test_no_study_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["watch", "--once"]) == 2
    printed = capsys.readouterr().err
    assert (
        printed.startswith("meddino watch: no study has run in") and len(printed.splitlines()) == 1
    )
    with pytest.raises(MeddinoError, match="python -m meddino study"):
        snakemake.find_log(tmp_path)


def test_once_prints_plain_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "--once"]) == 0
    printed = capsys.readouterr().out
    assert "1 of 9 steps" in printed and "\x1b" not in printed


SNAKEFILE = """
rule all:
    input: "results/good.txt", "results/bad.txt", "results/slow.txt"
rule good:
    output: "results/good.txt"
    log: "logs/good.log"
    shell: "echo done > {output} 2> {log}"
rule bad:
    output: "results/bad.txt"
    log: "logs/bad.log"
    shell: "echo 'meddino bad: it is broken; mend it' > {log}; exit 2"
rule slow:
    output: "results/slow.txt"
    log: "logs/slow.log"
    shell:
        "echo 'slow: counting: 3/4, 20 s left' > {log};"
        " while [ ! -f go ]; do sleep 0.1; done; touch {output}"
"""


def state(folder: Path) -> dict[str, Any]:
    progress = snakemake.read_log(snakemake.find_log(folder).read_text().splitlines())
    return {
        "running": {job.rule for job in progress.running()},
        "failed": {job.rule for job in progress.failures()},
        "over": progress.over,
        "done": progress.done,
    }


def test_a_real_run_of_snakemake_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    command = [sys.executable, "-m", "meddino", "study", "--cores", "3", "--keep-going", "all"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL):
        wanted = {"running": {"slow"}, "failed": {"bad"}, "over": "", "done": 1}
        end = time.monotonic() + 600
        now: dict[str, Any] = {}
        while now != wanted and time.monotonic() < end:
            time.sleep(0.2)
            if (tmp_path / LOG).exists():
                now = state(tmp_path)
        assert now == wanted
        text = shown(tmp_path, time.time())
        assert read_json(tmp_path / RECORD)["group"]
        (tmp_path / "go").touch()
    assert "1 of 4 steps, running" in text and "left" in text.splitlines()[0]
    assert re.search(r"slow +\d+ s +75 % +20 s +slow: counting", text)
    assert "bad: meddino bad: it is broken; mend it (see logs/bad.log)" in text
    assert state(tmp_path)["over"] == "failed" and state(tmp_path)["done"] == 2
    assert shown(tmp_path, time.time()).startswith("2 of 4 steps, failed")
