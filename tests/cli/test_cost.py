"""What a study would take: jobs, submissions, time and disk, from figures with a source."""

import json
import shutil
from pathlib import Path

import pytest

from meddino.cli import cost
from meddino.cli.estimate import Estimator, Figures, cores_of, devices
from meddino.cli.snakemake import Job, read_log
from meddino.core import records
from meddino.core.errors import MeddinoError
from meddino.core.files import write_json
from meddino.pipeline.verbs import VERBS
from meddino.pretrain.meter import PEAK_FLOPS
from meddino.study import targets
from meddino.study.model import Study, load

PLAN = """
[Wed Nov 25 00:17:00 2026] Group job cut (jobs in lexicogr. order):

    [Wed Nov 25 00:17:00 2026]
    rule slices:
        input: resources/raw/lits/.fetched.json
        output: results/ct3m/shards/lits/0.json, results/ct3m/shards/lits/0.256.parquet
        reason: Missing output files: results/ct3m/shards/lits/0.json
        wildcards: dataset=lits, chunk=0
        resources: tmpdir=/tmp, mem_mb=8000, mem=8 GB, runtime=240
Shell command: python -m meddino slices
    rule slices:
        output: results/ct3m/shards/lits/1.json
        wildcards: dataset=lits, chunk=1
Shell command: python -m meddino slices

[Wed Nov 25 00:17:00 2026]
rule finetune:
    output: results/finetune/lits/nnunet/fold0/model.safetensors
    wildcards: benchmark=lits, method=nnunet, fold=0
    threads: 12
    resources: tmpdir=/tmp, mem_mb=48000, gpu=1, slurm_partition=gpu
Shell command: python -m meddino finetune

[Wed Nov 25 00:17:00 2026]
localrule pretrain_stage1:
    output: results/pretrain/stage1/history.jsonl
    resources: sbatch=--nodes 2 --gpus-per-node=h100:4 --cpus-per-task=12 --time=9, runtime=5
Shell command: python -m meddino pretrain

[Wed Nov 25 00:17:00 2026]
localrule all:
    input: results/report.html
    reason: Input files updated by another job: results/report.html
Shell command: None
"""


@pytest.fixture(scope="module")
def study(root: Path) -> Study:
    return load([root / "config.yaml"])


@pytest.fixture
def estimator(study: Study) -> Estimator:
    return Estimator(study, Figures.read(), PEAK_FLOPS["H100"])


def job(rule: str, output: str = "x", **wildcards: str) -> Job:
    return Job(rule, runs=True, output=(output,), wildcards=wildcards)


def test_a_dry_run_is_read_with_its_groups() -> None:
    plan = read_log(PLAN.splitlines())
    assert plan.rules == {"slices": 2, "finetune": 1, "pretrain_stage1": 1, "all": 1}
    assert plan.groups == 1
    assert plan.submissions == 3, "a group, a finetuning, and a stage that submits itself"
    slices, _, finetune, pretrain, _ = plan.jobs
    assert slices.wildcards == {"dataset": "lits", "chunk": "0"}
    assert slices.output[1] == "results/ct3m/shards/lits/0.256.parquet"
    assert (finetune.threads, devices(finetune, "finetune")) == (12, 1)
    assert (cores_of(pretrain), devices(pretrain, "pretrain")) == (96, 8)
    assert plan.reasons("slices") == {"Missing output files": 1}


def test_every_figure_says_where_it_is_from_and_every_rule_has_one() -> None:
    figures = Figures.read()
    stages = {figures.key(name) for name in VERBS if VERBS[name].options}
    assert stages <= set(figures.rules)
    assert all(rate.source for rate in figures.rules.values())


def test_pretraining_takes_its_operations_at_the_share_of_the_peak(estimator: Estimator) -> None:
    """Stage 1 on one H100 at 40 %: 22 h by the operations counted by hand (0.61 TFLOP a slice)."""
    effort = estimator.effort(job("pretrain_stage1"))
    assert effort.gpu_s == pytest.approx(100_000 * 512 * 0.61e12 / (989e12 * 0.4), rel=0.1)
    assert effort.wall_s == effort.gpu_s
    shared = job("pretrain_stage1")
    shared.resources["sbatch"] = "--nodes=1 --gpus-per-node=4 --cpus-per-task=12"
    assert estimator.effort(shared).wall_s == pytest.approx(effort.wall_s / 4)
    assert estimator.effort(shared).gpu_s == pytest.approx(effort.gpu_s)
    assert estimator.effort(shared).core_s == pytest.approx(effort.wall_s / 4 * 48)


def test_a_benchmark_for_tests_alone_takes_all_of_its_cases(root: Path) -> None:
    study = load([root / "config.yaml", root / "config.transfer.yaml"])
    names = {"origin": "amos22", "benchmark": "btcv", "method": "nnunet", "fold": "0"}
    own = Estimator(study, Figures.read()).effort(job("predict", **names))
    assert Estimator(study, Figures.read()).effort(job("predict_transfer", **names)) == own
    assert own.gpu_s > 0
    assert study.transfer is not None
    (pair, *_) = study.transfer.pairs
    alone = study.transfer.model_copy(
        update={"pairs": (pair.model_copy(update={"in_domain": False}),)}
    )
    tested = Estimator(study.model_copy(update={"transfer": alone}), Figures.read())
    assert tested.effort(job("predict_transfer", **names)).gpu_s == pytest.approx(5 * own.gpu_s)


def test_curation_is_as_the_docs_say(estimator: Estimator, study: Study) -> None:
    """docs/curation.md: 11 core-hours; 170 GB for 256 px and 600 GB for 512 px."""
    jobs = [
        job("slices", dataset=name, chunk=str(chunk))
        for name in study.ct3m.datasets
        for chunk in range(study.chunks(name))
    ]
    efforts = [estimator.effort(cut) for cut in jobs]
    assert sum(effort.core_s for effort in efforts) / 3600 == pytest.approx(11, rel=0.1)
    assert sum(effort.disk_gb for effort in efforts) == pytest.approx(770, rel=0.15)


def test_higher_resolution_costs_more_and_no_download_of_your_own_folder(
    study: Study, estimator: Estimator
) -> None:
    low, high = (
        estimator.effort(job("finetune", benchmark="amos22", method=name, fold="0"))
        for name in ("dinov3_multiscale", "dinov3_896")
    )
    assert high.gpu_s > 2.9 * low.gpu_s
    assert estimator.effort(job("fetch", dataset="lits")).disk_gb == 35
    own = study.model_copy(update={"datasets": {"lits": {"folder": "/data/lits"}}})
    there = Estimator(own, estimator.figures, estimator.peak_flops)
    assert there.effort(job("fetch", dataset="lits")).disk_gb == 0


def jobs_of(study: Study, cut: str) -> list[Job]:
    """Curation, and preprocessing of all that tables ask for."""
    chunks = [(name, n) for name in study.ct3m.datasets for n in range(study.chunks(name))]
    return [
        *(job(cut, dataset=name, chunk=str(chunk)) for name, chunk in chunks),
        *(
            job("preprocess", benchmark=benchmark, configuration=configuration)
            for benchmark, configuration in targets.trained(study)
        ),
    ]


def test_the_most_on_the_disk_is_what_stays_and_the_largest_of_what_goes(
    root: Path, estimator: Estimator, study: Study
) -> None:
    """Of downloads that are freed, the largest and its archive: LiTS, two times 35 GB."""
    frugal = load([root / "config.yaml", root / "config.quota.yaml"])
    disk = Estimator(frugal, estimator.figures, estimator.peak_flops).disk
    peak, final = disk.usage(jobs_of(frugal, "slices_and_free"))
    arrays = [disk.kept_gb(j, "preprocess") for j in jobs_of(frugal, "") if j.rule == "preprocess"]
    assert final.gb == pytest.approx(169, rel=0.05)
    assert peak.gb - final.gb == pytest.approx(2 * 35 + max(arrays))
    assert peak.gb < 600 and peak.files > final.files
    kept = [*jobs_of(study, "slices"), *(job("fetch", dataset=d) for d in study.ct3m.datasets)]
    peak, final = estimator.disk.usage(kept)
    assert final.gb > 2000 and peak.gb - final.gb == pytest.approx(856, rel=0.01), "archives"


def test_files_are_counted(estimator: Estimator) -> None:
    """240 slices of DICOM and more make most of the 80 cases of Pancreas-CT."""
    usage = estimator.disk.usage([job("fetch", dataset="pancreas_ct")])
    assert 80 * 240 < usage.final.files < 80 * 300
    usage = estimator.disk.usage([job("convert", benchmark="btcv")])
    assert 60 <= usage.final.files < 70


def test_what_is_fetched_in_the_same_job_takes_its_time(root: Path, estimator: Estimator) -> None:
    frugal = load([root / "config.yaml", root / "config.quota.yaml"])
    there = Estimator(frugal, estimator.figures, estimator.peak_flops)
    alone = there.effort(job("slices", dataset="msd_lung", chunk="0"))
    both = there.effort(job("slices_and_free", dataset="msd_lung", chunk="0"))
    assert both.wall_s - alone.wall_s == pytest.approx(
        9.2 * estimator.figures.rules["fetch"].seconds
    )
    assert both.disk_gb == alone.disk_gb


def test_records_of_jobs_that_ran_correct_the_rest(
    estimator: Estimator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = job("slices", "results/0.json", dataset="lits", chunk="0")
    left = job("slices", "results/1.json", dataset="lits", chunk="1")
    before = estimator.effort(left)
    record = {"verb": "slices", "inputs": {}, "outputs": [], "wall_s": 3 * before.wall_s}
    write_json(records.record_path(Path(done.output[0])), record)
    assert estimator.correct([done, job("slices", "absent", dataset="lits", chunk="2")]) == {
        "slices": 1
    }
    assert estimator.effort(left).wall_s == pytest.approx(3 * before.wall_s)
    assert estimator.effort(left).disk_gb == before.disk_gb


def test_the_study_is_the_one_that_snakemake_would_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(root / "config.yaml", tmp_path)
    shutil.copytree(root / "profiles", tmp_path / "profiles")
    monkeypatch.chdir(tmp_path)
    assert cost.configuration(["--profile", "profiles/demo", "all"]).phantom
    assert not cost.configuration(["--profile", "profiles/slurm"]).phantom
    layers = ["--profile", "profiles/demo", "--profile", "profiles/example-h100"]
    assert cost.configuration(layers).phantom, "the upper one says nothing of it"
    (tmp_path / "mine.yaml").write_text("title: Mine\n")
    assert cost.configuration(["--configfile", "mine.yaml", "--", "all"]).title == "Mine"
    with pytest.raises(MeddinoError, match="put these values into a file"):
        cost.configuration(["--config", "title=x"])


def test_the_estimate_is_printed_with_its_foundations(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(root / "config.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/profile.yaml").write_text("executor: slurm\n")
    asked: list[list[str]] = []

    def plan(arguments: list[str]) -> object:
        asked.append(list(arguments))
        return read_log(PLAN.splitlines())

    monkeypatch.setattr("meddino.cli.snakemake.dry_run", plan)
    cost.main(["--gpu", "A100", "--profile", "slurm"])
    printed = capsys.readouterr().out
    assert "5 jobs in 3 submissions" in printed
    assert "A100s" in printed and "measured" in printed and "assumed" in printed
    assert all(tuple(arguments[-2:]) == ("--profile", "slurm") for arguments in asked)
    with pytest.raises(MeddinoError, match="H100"):
        cost.main(["--gpu", "Z9"])


def test_figures_that_do_not_fit_are_named(tmp_path: Path) -> None:
    (tmp_path / "cost.yaml").write_text(json.dumps({"gpu": "H100", "rule": {}}))
    with pytest.raises(MeddinoError, match="did you mean 'rules'"):
        Figures.read(tmp_path / "cost.yaml")


def test_networks_that_nnunet_has_timed_take_what_it_says(root: Path) -> None:
    study = load([root / "config.yaml", root / "config.3d.yaml"])
    figures = Figures.read()

    def hours(method: str, gpu: str) -> float:
        estimator = Estimator(study, figures, PEAK_FLOPS[gpu])
        names = {"benchmark": "btcv", "method": method, "fold": "0"}
        return estimator.effort(Job("finetune", wildcards=names, threads=12)).wall_s / 3600

    assert hours("nnunet_3d", "A100") == pytest.approx(9)
    assert hours("resenc_l_3d", "A100") == pytest.approx(35)
    # A faster GPU is not credited, a slower one takes longer.
    assert hours("resenc_l_3d", "H100") == pytest.approx(35)
    assert hours("resenc_l_3d", "V100") > 35
    short = study.model_copy(update={"training": study.training.model_copy(update={"epochs": 100})})
    brief = Estimator(short, figures, PEAK_FLOPS["A100"])
    names = {"benchmark": "btcv", "method": "nnunet_3d", "fold": "0"}
    assert brief.effort(Job("finetune", wildcards=names)).wall_s == pytest.approx(0.9 * 3600)


def test_volumes_are_preprocessed_beside_slices(root: Path) -> None:
    study = load([root / "config.yaml", root / "config.3d.yaml"])
    estimator = Estimator(study, Figures.read())
    for configuration in ("2d", "3d_fullres"):
        job = Job("preprocess", wildcards={"benchmark": "btcv", "configuration": configuration})
        assert estimator.effort(job).wall_s > 0 and estimator.effort(job).disk_gb > 0
