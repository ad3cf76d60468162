"""Tables over several trainings, ranks with their stability, and what the report shows of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import report_data as made
from scipy import stats

from meddino.core.errors import MeddinoError
from meddino.evaluate.options import ScoresOptions
from meddino.evaluate.scores import of_seed, over_trainings, read_scores
from meddino.evaluate.scores import run as join
from meddino.report.options import Ranks, RanksOptions, Table, TableOptions
from meddino.report.page import report as page
from meddino.report.page.sections import stability
from meddino.report.tables import ranks, tables

NAN = float("nan")
CASES = [f"c{number:02d}" for number in range(12)]
LABELS = {"nnunet": "nnU-Net", "meddinov3": "MedDINOv3", "third": "Third"}


def rows(method: str, level: float, seed: int | None = None, fold: int = 0) -> pd.DataFrame:
    """DSC around a level, of the same cases for all methods; the last case has no tumour."""
    rng = np.random.default_rng([len(method), 1 + (seed or 0), fold])
    difficulty = np.random.default_rng(fold).normal(0, 0.08, (len(CASES), 2))
    values = np.clip(level + difficulty + rng.normal(0, 0.02, difficulty.shape), 0, 1)
    values[-1, 1] = NAN
    frame = pd.DataFrame(
        {"benchmark": "lits", "method": method, "fold": fold, "case": f"{case}{fold or ''}"}
        | {"label": label + 1, "structure": ("liver", "tumour")[label]}
        | {"dsc_paper": value, "nsd_paper": value / 2, "dsc_area": np.nan_to_num(value)}
        | {"nsd_area": value / 3, "hd95_mm": 30 * (1 - value)}
        for case, by_label in zip(CASES, values, strict=True)
        for label, value in enumerate(by_label)
    )
    return frame if seed is None else frame.assign(seed=seed)


def save(folder: Path, *frames: pd.DataFrame) -> list[Path]:
    paths = [folder / f"{number}.parquet" for number in range(len(frames))]
    for path, frame in zip(paths, frames, strict=True):
        frame.to_parquet(path)
    return paths


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two methods with seeds 0 (which the files do not name) to 2, a third with one."""
    return save(
        tmp_path,
        *(rows("nnunet", 0.7 - 0.01 * (seed or 0), seed) for seed in (None, 1, 2)),
        *(rows("meddinov3", 0.75 + 0.01 * (seed or 0), seed) for seed in (None, 1, 2)),
        rows("third", 0.6),
    )


def shown(**changes: Any) -> Table:
    values = {"title": "T", "rows": tuple(LABELS), "benchmarks": ("lits",), "metrics": ("DSC",)}
    return Table(**{**values, "intervals": True, "compare_with": "meddinov3", **changes})


def table_options(seed: int | None = 0, **changes: Any) -> TableOptions:
    return TableOptions(
        name="table9",
        table=shown(**changes),
        method_labels=LABELS,
        method_data=dict.fromkeys(LABELS, "none"),
        benchmark_labels={"lits": "LiTS"},
        tolerance_mm=1.0,
        seed=seed,
    )


def rank_options(resamples: int = 300, **changes: Any) -> RanksOptions:
    return RanksOptions(
        name="table9",
        table=shown(**changes),
        method_labels=LABELS,
        ranks=Ranks(resamples=resamples),
        seed=0,
    )


def test_scores_are_joined_with_their_seeds(files: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "all.parquet"
    join(ScoresOptions(seed=0), scores=files, output=output)
    joined = pd.read_parquet(output)
    assert joined.groupby("method")["seed"].unique().map(list).to_dict() == {
        "meddinov3": [0, 1, 2],
        "nnunet": [0, 1, 2],
        "third": [0],
    }
    assert joined["seed"].dtype == np.int64
    mean = over_trainings(joined)
    assert len(mean) == len(joined) * 3 / 7 and "seed" not in mean
    chosen = {"method": "nnunet", "case": "c03", "structure": "liver"}
    cells = joined[(joined[list(chosen)] == pd.Series(chosen)).all(axis=1)]
    one = mean[(mean[list(chosen)] == pd.Series(chosen)).all(axis=1)]
    assert one["dsc_paper"].tolist() == pytest.approx([cells["dsc_paper"].mean()])
    assert len(of_seed(joined, 0)) == len(joined) * 3 / 7
    with pytest.raises(MeddinoError, match="some files of scores name the seed"):
        read_scores(files)
    with pytest.raises(MeddinoError, match="c00 of lits is scored twice for nnunet"):
        read_scores([files[1], files[1], files[2]])
    plain = read_scores([files[0], files[6]], 0)
    assert "seed" not in plain and over_trainings(plain) is plain and of_seed(plain, 0) is plain


def test_a_table_is_over_all_trainings_and_says_so(files: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "table9.csv"
    tables.run(table_options(), scores=files, output=output)
    lines = pd.read_csv(output).set_index(["protocol", "method"])
    means = [100 * pd.read_parquet(path)["dsc_paper"] for path in files[:3]]
    structure = [values.groupby(pd.read_parquet(files[0])["structure"]).mean() for values in means]
    assert lines.loc[("paper", "nnunet"), "ours"] == pytest.approx(np.mean(structure), rel=1e-4)
    assert lines.loc["paper"]["seeds"].to_dict() == {"nnunet": 3, "meddinov3": 3, "third": 1}
    assert (lines["folds"] == 1).all() and (lines["cases"] == 12).all()
    text = (tmp_path / "table9.md").read_text()
    assert "Trainings: each row with 3 or 1 seeds; values are means over them." in text
    assert "Intervals: over other cases and other trainings, by Student's t" in text
    assert "whose own scatter is in no interval and no p (Third: LiTS)." in text
    assert "p: t-test of the difference over cases (paired) and trainings (not paired)" in text
    assert "permutation" not in text and "Intervals: over cases, by" not in text
    alone = table_options(rows=("nnunet", "meddinov3", "third"), compare_with="third")
    tables.run(alone, scores=[files[0], files[1], files[3], files[6]], output=output)
    assert (
        "but a paired permutation test where both rows have one training"
        in (tmp_path / "table9.md").read_text()
    ), "MedDINOv3 and Third"


def test_trainings_that_differ_more_make_a_table_less_sure(tmp_path: Path) -> None:
    p, widths = [], []
    for spread in (0.0, 0.05):
        levels = [(None, 0.0), (1, spread), (2, -spread)]
        frames = [rows(m, {"nnunet": 0.7, "meddinov3": 0.73}[m] + d, s)
                  for m in ("nnunet", "meddinov3") for s, d in levels]  # fmt: skip
        asked = table_options(rows=("nnunet", "meddinov3"))
        tables.run(asked, scores=save(tmp_path, *frames), output=tmp_path / "table9.csv")
        line = pd.read_csv(tmp_path / "table9.csv").iloc[0]
        p.append(line["p"])
        widths.append(line["high"] - line["low"])
    assert p[0] < 0.01 < p[1] and widths[0] < widths[1]


def test_folds_and_a_training_that_is_missing(tmp_path: Path) -> None:
    parts = [(None, 0), (1, 0), (None, 1), (1, 1), (2, 0)]  # seed 2 lacks fold 1
    frames = [rows("nnunet", 0.7, seed, fold) for seed, fold in parts]
    asked = table_options(rows=("nnunet",), compare_with=None)
    tables.run(asked, scores=save(tmp_path, *frames), output=tmp_path / "table9.csv")
    line = pd.read_csv(tmp_path / "table9.csv").iloc[0]
    assert (line["seeds"], line["folds"], line["cases"]) == (2, 2, 24)
    text = (tmp_path / "table9.md").read_text()
    assert "each row with 2 seeds in each of 2 folds, whose trainings are independent" in text


def test_one_seed_writes_what_it_did(files: list[Path], tmp_path: Path) -> None:
    tables.run(table_options(seed=None), scores=[files[0], files[3]], output=tmp_path / "t.csv")
    assert not {"seeds", "folds"} & set(pd.read_csv(tmp_path / "t.csv").columns)
    text = (tmp_path / "t.md").read_text()
    assert "permutation" in text and "Trainings" not in text


def test_ranks_are_counted_in_draws_of_cases(tmp_path: Path) -> None:
    paths = save(tmp_path, rows("nnunet", 0.7), rows("meddinov3", 0.705), rows("third", 0.4))
    output = tmp_path / "table9.ranks.csv"
    ranks.run(rank_options(4000), scores=paths, output=output)
    lines = pd.read_csv(output).set_index("method")
    shares = lines[[f"share_{k}" for k in (1, 2, 3)]]
    assert shares.sum(axis=1).tolist() == pytest.approx([1, 1, 1], rel=1e-5)
    assert lines.loc["third", ["rank", "rank_low", "rank_high", "share_3"]].tolist() == [3, 3, 3, 1]
    assert (lines["draws"] == 4000).all() and (lines["cases"] == 12).all()
    # By hand: how often a draw of cases puts nnU-Net first.
    table = [pd.read_parquet(path).pivot(index="case", columns="structure") for path in paths[:2]]
    one, other = (t["dsc_paper"].to_numpy() for t in table)
    drawn = np.random.default_rng(7).integers(0, 12, (4000, 12))
    means = [np.nanmean(np.nanmean(v[drawn], axis=1), axis=1) for v in (one, other)]
    assert lines.loc["nnunet", "share_1"] == pytest.approx((means[0] > means[1]).mean(), abs=0.03)
    swapped = shares.loc["nnunet"].iloc[2 - lines.loc["nnunet", "rank"]]  # the other of ranks 1, 2
    tau = stats.kendalltau([1, 2, 3], [2, 1, 3]).statistic
    assert lines["tau"].tolist() == pytest.approx([1 - (1 - tau) * swapped] * 3, abs=1e-4)
    again = tmp_path / "again.csv"
    ranks.run(rank_options(4000), scores=paths, output=again)
    assert again.read_bytes() == output.read_bytes()


def test_effects_are_of_the_paired_differences(files: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "table9.ranks.csv"
    ranks.run(rank_options(metrics=("DSC", "HD95")), scores=files, output=output)
    lines = pd.read_csv(output).set_index(["metric", "method"])
    assert lines.loc[("DSC", "meddinov3"), ["compared_with", "dz", "superiority"]].isna().all()
    assert lines.loc[("DSC", "third"), "superiority"] == 0
    assert lines.loc[("HD95", "third"), "superiority"] == 0, "a longer distance is worse"
    assert lines.loc[("DSC", "nnunet"), "dz"] < -1 and lines.loc[("HD95", "nnunet"), "dz"] > 1
    assert lines["rank"].tolist() == [2, 1, 3] * 2
    ranks.run(rank_options(compare_with=None), scores=files, output=output)
    assert "dz" not in pd.read_csv(output)


def test_trainings_that_differ_make_ranks_less_stable(tmp_path: Path) -> None:
    shares = []
    for spread in (0.0, 0.06):
        frames = [rows(m, level + d, s)
                  for m, level in (("nnunet", 0.7), ("meddinov3", 0.73))
                  for s, d in ((None, 0.0), (1, spread), (2, -spread))]  # fmt: skip
        output = tmp_path / "table9.ranks.csv"
        ranks.run(rank_options(), scores=save(tmp_path, *frames), output=output)
        shares.append(pd.read_csv(output).set_index("method").loc["meddinov3", "share_1"])
    assert shares[0] > 0.95 > shares[1] > 0.5


def test_equal_methods_share_their_rank_and_one_alone_has_none(tmp_path: Path) -> None:
    paths = save(tmp_path, rows("nnunet", 0.7), rows("nnunet", 0.7).assign(method="meddinov3"))
    output = tmp_path / "table9.ranks.csv"
    ranks.run(rank_options(), scores=paths, output=output)
    lines = pd.read_csv(output)
    assert (
        (lines["rank"] == 1).all() and (lines["share_1"] == 1).all() and lines["tau"].isna().all()
    )
    assert lines["superiority"].tolist()[0] == 0.5
    with pytest.raises(MeddinoError, match="table9: no benchmark has scores of two of its rows"):
        ranks.run(rank_options(), scores=paths[:1], output=output)


def test_the_report_has_a_section_of_ranks_when_there_are_some(
    files: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "table9.ranks.csv"
    ranks.run(rank_options(), scores=files, output=output)
    options = made.report_options(tables=(table_options(),))
    lines = [stability.read_ranks(output)]
    charts = stability.rank_charts(options, lines)
    assert list(charts) == ["ranks/table9/lits/DSC"]
    chart = charts["ranks/table9/lits/DSC"]
    assert [field for field, _ in chart.columns] == ["method", "place", "share"]
    (section,) = stability.rank_sections(options, lines)
    (column,) = section["columns"]
    assert [line["label"] for line in column["lines"]] == ["MedDINOv3", "nnU-Net", "Third"]
    assert (section["base"], section["draws"], column["cases"]) == ("MedDINOv3", 300, 12)
    output.write_text("a,b\n1,2\n")
    with pytest.raises(MeddinoError, match="is no table of ranks; delete it and rerun"):
        stability.read_ranks(output)


def test_the_whole_report_shows_seeds_and_ranks(files: list[Path], tmp_path: Path) -> None:
    study = made.study(tmp_path / "study")
    made.draw(study)
    plain = made.report(study).read_text()
    assert 'id="ranks"' not in plain and "several seeds" not in plain
    join(ScoresOptions(seed=0), scores=files, output=tmp_path / "all.parquet")
    ranked, table = tmp_path / "table9.ranks.csv", tmp_path / "table9.csv"
    ranks.run(rank_options(), scores=files, output=ranked)
    tables.run(table_options(), scores=files, output=table)
    changes = {"scores": tmp_path / "all.parquet", "tables": [table], "beyond": (ranked,)}
    output = tmp_path / "report.html"
    options = made.report_options(tables=(table_options(),), seed=0)
    page.run(options, **{**study["report"], **changes}, output=output)
    text = output.read_text()
    assert '<h2 id="ranks">Ranks</h2>' in text and 'href="#ranks"' in text
    assert 'data-chart="ranks/table9/lits/DSC"' in text
    assert "effects are against MedDINOv3" in text
    assert "numbers are means over trainings, pictures are of those with seed 0" in text
    assert "7 models" in text
