"""Figures and report: whole, self-contained, deterministic, and safe against odd names."""

import base64
import hashlib
import itertools
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import report_data as made
from PIL import Image

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, sha256, write_json
from meddino.report import corpus
from meddino.report.cards.card import _markdown, remarks_by_kind
from meddino.report.cards.card import run as write_card
from meddino.report.figures import figures, layers, overlays
from meddino.report.options import CardOptions, FigureOptions, PlotOptions, Prices
from meddino.report.page import report
from meddino.report.page.charts import results, training
from meddino.report.page.charts.chart import Chart
from meddino.report.page.sections import glance, opening
from meddino.report.page.sections import results as section
from meddino.study.jobs.report import report_options
from meddino.study.model import Study, load


class Page(HTMLParser):
    """Elements of a page, and the contents of its scripts and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.cdata_elem == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        elif self.lasttag != "style":
            self.text += data

    def json(self, **attributes: str) -> Any:
        """The data of the script with these attributes (`_` for `-`)."""
        wanted = {"type": "application/json"}
        wanted |= {key.replace("_", "-"): value for key, value in attributes.items()}
        (found,) = [content for have, content in self.scripts if have == wanted]
        return json.loads(found)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = made.study(tmp_path_factory.mktemp("study"))
    made.draw(found)
    return found


@pytest.fixture(scope="module")
def page(study: dict[str, Any]) -> Page:
    return Page(made.report(study).read_text(encoding="utf-8"))


def test_every_figure_exists_and_is_described(study: dict[str, Any]) -> None:
    sections = set()
    for path in (*study["report"]["figures"], study["root"] / "ct3m/card/figures.json"):
        for entry in read_json(path):
            sections.add(entry["section"])
            assert (path.parent / entry["file"]).read_bytes().startswith(b"\x89PNG")
            assert entry["title"] and entry["caption"]
    assert sections == {"Curation", "Pretraining", "Finetuning", "Evaluation"}


def test_the_probes_caption_says_what_guessing_gives(study: dict[str, Any], tmp_path: Path) -> None:
    (caption,) = [
        e["caption"] for e in read_json(study["report"]["figures"][0]) if e["file"] == "probe.png"
    ]
    assert "2 classes (background, liver)" in caption and "50 %" in caption
    files = {**study["figures"], "probes": []}
    figures.run(PlotOptions(look=FigureOptions(dpi=60)), **files, output=tmp_path / "figures.json")
    assert all(e["file"] != "probe.png" for e in read_json(tmp_path / "figures.json"))


def test_figures_do_not_change_from_run_to_run(study: dict[str, Any]) -> None:
    (drawn,) = study["report"]["figures"]
    again = study["root"] / "again/figures.json"
    figures.run(PlotOptions(look=FigureOptions(dpi=60)), **study["figures"], output=again)
    for entry in read_json(drawn):
        name = entry["file"]
        assert (again.parent / name).read_bytes() == (drawn.parent / name).read_bytes(), name


# ---- the report -------------------------------------------------------------------------------


def test_the_report_is_one_file_that_asks_nothing_of_the_network(page: Page) -> None:
    named = [
        attributes[key]
        for _, attributes in page.elements
        for key in ("src", "href", "action", "data", "poster", "srcset")
        if attributes.get(key)
    ]
    assert named
    assert all(source.startswith(("data:", "#")) for source in named)
    identities = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {source[1:] for source in named if source.startswith("#")} <= identities
    assert "link" not in {tag for tag, _ in page.elements}


def test_only_the_reports_own_scripts_may_run(page: Page) -> None:
    (policy,) = [a["content"] for t, a in page.elements if a.get("http-equiv")]
    assert policy is not None and "default-src 'none'" in policy and "unsafe-eval" not in policy
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    own = [content for attributes, content in page.scripts if not attributes]
    digests = [hashlib.sha256(content.encode()).digest() for content in own]
    assert {base64.b64encode(digest).decode() for digest in digests} == allowed
    assert len(own) == 3
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)


def test_every_picture_has_a_text_and_every_heading_its_level(page: Page) -> None:
    assert all(attributes.get("alt") for tag, attributes in page.elements if tag == "img")
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    tags = {tag for tag, _ in page.elements}
    assert {"header", "nav", "main"} <= tags


def test_the_report_says_what_was_left_out_and_why(page: Page) -> None:
    assert "2 volumes could not be trusted" in page.text
    assert "truncated; fetch it again" in page.text and "on another grid; mend it" in page.text
    assert "benchmark LiTS" in page.text


def test_a_table_shows_the_paper_the_difference_and_the_best(study: dict[str, Any]) -> None:
    text = made.report(study).read_text(encoding="utf-8")
    assert "41.5 to 58.2" in text and "not run" not in text
    minus = "\N{MINUS SIGN}"
    assert f"&Delta; {minus}2.00, p &lt; 0.001</small>" in text
    assert f"{minus}3.5 to {minus}0.5</small>" in text
    assert "&Delta;: this run less that of MedDINOv3" in text
    assert "75.00" in text and "\N{MINUS SIGN}25.00" in text
    assert "<b>50.00</b>" in text and "<b>48.00</b>" not in text and "<b>75.00</b>" in text
    assert "NSD by edge voxels" not in text and "DSC in %." in text, "the table's footnotes"


def test_structures_with_few_cases_are_marked(study: dict[str, Any], page: Page) -> None:
    text = made.report(study).read_text(encoding="utf-8")
    assert "fewer than 6 cases, which say little (LiTS: " in text
    assert "liver (n = 2)" in text, "the chart of structures"


def test_remarks_stand_below_their_table(study: dict[str, Any]) -> None:
    text = made.report(study).read_text(encoding="utf-8")
    table, _, rest = text.partition("By the protocol by area")
    assert "on LiTS nnU-Net&#39;s configuration 2d takes 48 x 64 px here" in table
    assert "LiTS: nnU-Net 79.29, ResEnc-L 81.20, PrimusV2-M 81.73" in table
    assert "AMOS22" not in table and "Another setting" not in rest


def test_missing_runs_are_in_the_report(study: dict[str, Any]) -> None:
    lines = made.table_lines()
    lines.loc[lines["method"] == "nnunet", made.RESULTS] = np.nan
    lines.loc[lines["method"] == "nnunet", "cases"] = 0
    path = study["root"] / "missing.csv"
    lines.assign(metric="HD95", unit="mm").to_csv(path, index=False)
    text = made.report(study, "missing.html", tables=[path]).read_text(encoding="utf-8")
    assert (
        ">not run" in text
        and "HD95 (mm)" in text
        and ">nan" not in text
        and "NaN" not in Page(text).text
    )
    assert "74.00" in text, "the paper's value stays"


def test_the_card_names_a_variant_of_the_study_and_says_what_it_holds(
    study: dict[str, Any], tmp_path: Path
) -> None:
    (_, leak_free) = study["card"]["cards"]
    part = {key: value for key, value in read_json(leak_free).items() if key != "leak_free"}
    path = tmp_path / "index.tenth.32.card.json"
    write_json(path, {**part, "variant": {"name": "tenth", "percent": 10}})
    options = CardOptions(
        figures=FigureOptions(dpi=60), sizes_px=(32,), meanings={"tenth": "a tenth"}
    )
    files = {**study["card"], "cards": [study["card"]["cards"][0], path]}
    write_card(options, **files, output=tmp_path / "card/card.json")
    _, tenth = read_json(tmp_path / "card/card.json")["variants"]
    assert (tenth["variant"], tenth["meaning"], tenth["slices"]) == ("tenth", "a tenth", 10)
    assert "- **tenth**: a tenth. 10 slices" in (tmp_path / "card/card.md").read_text()


def test_the_card_counts_against_the_paper_and_says_what_each_variant_lacks(
    study: dict[str, Any], page: Page
) -> None:
    found = read_json(study["report"]["card"])
    (toy,) = found["datasets"]
    assert (toy["volumes"], toy["slices"], toy["quarantined"]) == (3, 30, 1)
    assert toy["bytes"] == (study["root"] / "ct3m/shards/toy/0.32.parquet").stat().st_size
    paper, leak_free = found["variants"]
    assert (paper["variant"], paper["slices"], paper["removed"]) == ("paper", 30, [])
    assert (leak_free["variant"], leak_free["slices"]) == ("leak-free", 10)
    assert [entry["because"] for entry in leak_free["removed"]] == [
        "toys validates on it",
        "copy of toy/a",
    ]
    assert found["overlap"] == {"datasets": ["toy"], "counts": [[3, 2]]}
    markdown = study["report"]["card"].with_name("card.md").read_text()
    assert "3,868,833" in markdown and "cannot be read" in markdown
    assert "3,868,833" in page.text and "copy of toy/a" in page.text
    for shown in (markdown, page.text):
        assert "every copy of them" in " ".join(shown.split())


def test_the_card_counts_remarks_by_kind(study: dict[str, Any]) -> None:
    remarks = [
        {"case": "1", "remark": "damaged files are left: 1, such as a.dcm"},
        {"case": "2", "remark": "damaged files are left: 9, such as b.dcm"},
        {"case": "2", "remark": "a single slice: the whole scan is elsewhere"},
    ]
    assert remarks_by_kind([{"dataset": "lits", "remarks": remarks}]) == [
        {"dataset": "lits", "remark": "a single slice", "volumes": 1},
        {"dataset": "lits", "remark": "damaged files are left", "volumes": 2},
    ]
    card = read_json(study["report"]["card"])
    assert card["remarks"] == []
    card["remarks"] = remarks_by_kind([{"dataset": "lits", "remarks": remarks}])
    assert "| lits | damaged files are left | 2 |" in _markdown(card, [])


def test_no_copies_are_a_sentence(study: dict[str, Any]) -> None:
    card = read_json(study["report"]["card"])
    path = study["root"] / "ct3m/card/none.json"
    write_json(path, {**card, "overlap": {"datasets": ["toy"], "counts": [[3, 0]]}})
    shown = Page(made.report(study, "none.html", card=path).read_text(encoding="utf-8"))
    assert "no volume of 1 dataset is a copy of another" in " ".join(shown.text.split())
    assert "overlap" not in shown.json(id="charts")


def test_names_from_files_are_text_everywhere(study: dict[str, Any], page: Page) -> None:
    text = (study["root"] / "report.html").read_text(encoding="utf-8")
    for name in (made.SCRIPT, made.HOSTILE, made.CASES[0], made.LESION):
        assert name not in text
    assert made.SCRIPT in page.text and "Read <this> first." in page.text
    scores = page.json(id="scores")["lits"]
    assert scores["cases"] == sorted(made.CASES)
    assert scores["structures"] == ["liver", made.LESION]
    pictures = page.json(data_overlays="lits")
    assert {case["case"] for case in pictures["cases"]} == set(made.CASES)
    assert "onerror" not in {key for _, attributes in page.elements for key in attributes}


def test_keys_of_histories_are_never_shown(page: Page) -> None:
    shown = {
        name
        for key, chart in page.json(id="charts").items()
        if key.startswith(("pretraining/", "finetuning/"))
        for name in chart["series"]
    }
    assert "iBOT" in shown and "MedDINOv3" in shown
    assert not any("_" in name or name in ("ibot", "koleo", "meddinov3") for name in shown)


def test_equal_studies_give_equal_reports(study: dict[str, Any]) -> None:
    assert made.report(study, "a.html").read_bytes() == made.report(study, "b.html").read_bytes()


@pytest.mark.parametrize(
    ("flag", "broken"),
    [
        ("tables", "table,row"),
        ("tables", "table,row\n"),
        ("tables", "\n"),
        ("card", "[]"),
        ("provenance", "{}"),
        ("scores", "junk"),
        ("card", "{"),
        ("provenance", ""),
        ("overlays", "{}x"),
        ("pretraining", "{"),
    ],
)
def test_a_damaged_input_is_one_clear_error(
    study: dict[str, Any], tmp_path: Path, flag: str, broken: str
) -> None:
    path = tmp_path / "broken"
    path.write_text(broken)
    many = isinstance(study["report"][flag], list)
    with pytest.raises(MeddinoError, match=r"broken.*(rerun|run )"):
        made.report(study, "broken.html", **{flag: [path] if many else path})
    assert not (study["root"] / "broken.html").exists()


def test_a_missing_picture_is_one_clear_error(study: dict[str, Any], tmp_path: Path) -> None:
    index = tmp_path / "lits/index.json"
    index.parent.mkdir()
    index.write_bytes(study["report"]["overlays"][0].read_bytes())
    with pytest.raises(MeddinoError, match=r"does not exist; delete .*index.json and rerun"):
        made.report(study, "broken.html", overlays=[index])


def test_the_configuration_in_the_report_is_the_study(page: Page) -> None:
    (link,) = [a["href"] for t, a in page.elements if t == "a" and "download" in a]
    assert link is not None
    assert made.SCRIPT in base64.b64decode(link.partition(",")[2]).decode()


@pytest.mark.parametrize(
    "files", [[], ["profiles/demo/study.yaml"], ["config.leak-free.yaml"]], ids=str
)
def test_a_study_said_as_one_file_is_the_same_study(root: Path, files: list[str]) -> None:
    study = load([root / name for name in ("config.yaml", *files)])
    assert Study.parse(json.loads(json.dumps(report_options(study).configuration))) == study


# ---- pictures of cases --------------------------------------------------------------------------


def test_the_slice_that_is_shown_tells_most_structures() -> None:
    labels = np.zeros((4, 8, 8), np.uint8)
    labels[1, :8] = 1
    labels[2, :6] = 1
    labels[2, 0, 0] = 2
    assert layers.telling_slice(labels) == 2, "two structures before more voxels"
    assert layers.telling_slice(np.zeros((5, 2, 2), np.uint8)) == 2


def test_pictures_show_a_slice_undistorted_and_labels_in_their_colours(tmp_path: Path) -> None:
    assert layers.fitted((100, 50), (1.0, 2.0), 64) == (64, 64)
    assert layers.fitted((100, 50), (1.0, 1.0), 64) == (32, 64)
    labels = np.array([[0, 1], [2, 7]])
    path = tmp_path / f"labels{layers.SUFFIX}"
    path.write_bytes(layers.label_maps(np.stack([labels, labels.T]), [2, 1], (4, 4)))
    places = Image.open(path).convert("L")
    pixels = np.asarray(places)
    assert pixels.shape == (8, 4), "two slices, one below the other"
    assert pixels[:4, 3].tolist() == [2, 2, 0, 0], "a place among the structures"
    assert pixels[:4, 0].tolist() == [0, 0, 1, 1] and pixels[7, 0] == 2
    first = places.crop((0, 0, 4, 4))
    shown = layers.overlaid(Image.new("L", (4, 4), 100), first, ["#0072b2", "#d55e00"], 40)
    assert shown.size == (40, 40)
    assert shown.getpixel((0, 0)) == (100, 100, 100), "no structure"
    assert shown.getpixel((20, 0)) == (0xD5, 0x5E, 0), "a border"
    red, green, blue = shown.getpixel((30, 9))
    assert 100 < red < 0xD5 and blue < green < 100, "the inside lets the image through"
    many = layers.colours(FigureOptions().colours, [f"s{n}" for n in range(24)])
    assert len(set(many.values())) == 24


def test_cases_are_spread_from_worst_to_best_and_not_picked() -> None:
    scores = pd.DataFrame(
        {"case": [f"c{n:02d}" for n in range(50)], "dsc_paper": np.arange(50) / 50}
    )
    shuffled = scores.sample(frac=1, random_state=0)
    ranking = overlays.ranked(shuffled)
    assert overlays.spread(ranking, 100) == scores["case"].tolist()
    assert overlays.spread(ranking, 6) == ["c00", "c10", "c20", "c29", "c39", "c49"]
    unknown = overlays.ranked(scores.assign(dsc_paper=np.nan))
    assert overlays.spread(unknown, 3) == ["c00", "c24", "c49"]
    assert overlays.spread(ranking, 1) == ["c00"]


def test_slices_are_spread_over_those_that_hold_structures() -> None:
    labels = np.zeros((40, 4, 4), np.uint8)
    labels[10:31, 0, 0] = 1
    labels[17, 1, 1] = 2
    assert layers.shown_slices(labels, 1) == [17]
    assert layers.shown_slices(labels, 5) == [10, 17, 20, 25, 30], "the telling one is among them"
    assert layers.shown_slices(labels, 99) == list(range(10, 31))
    assert layers.shown_slices(np.zeros_like(labels), 5) == [20]


def test_the_overlays_index_lists_what_was_drawn(study: dict[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "lits/index.json"
    output.parent.mkdir()
    (output.parent / "0009.image.webp").write_bytes(b"of an earlier run")
    overlays.run(made.look(cases_per_benchmark=1), **study["overlays"], output=output)
    found = read_json(output)
    assert found["scored"] == 2
    assert [entry["name"] for entry in found["structures"]] == ["liver", made.LESION]
    (case,) = found["cases"]
    assert case["shown"] == [2, 3] and case["shown"][case["first"]] == 3
    assert case["slices"] == 4 and case["size_px"] == [64, 53] and case["rank"] == "median"
    for name in (case["image"], case["reference"], *case["methods"].values()):
        assert Image.open(output.parent / name).size == (64, 2 * 53)
    assert set(case["methods"]) == set(made.METHODS)
    named = {case["image"], case["reference"], *case["methods"].values()}
    assert named == {path.name for path in output.parent.iterdir()} - {"index.json"}
    again = tmp_path / "again/index.json"
    overlays.run(made.look(cases_per_benchmark=1), **study["overlays"], output=again)
    for name in (*named, "index.json"):
        assert (again.parent / name).read_bytes() == (output.parent / name).read_bytes()


def test_a_scored_case_that_is_gone_is_one_clear_error(
    study: dict[str, Any], tmp_path: Path
) -> None:
    scores = tmp_path / "scores.parquet"
    pd.DataFrame(made.score_rows()).assign(case="gone").drop_duplicates(
        ["method", "label"]
    ).to_parquet(scores)
    files = {**study["overlays"], "scores": [scores]}
    with pytest.raises(MeddinoError, match="has no case 'gone'"):
        overlays.run(made.look(), **files, output=tmp_path / "index.json")


# ---- charts and glance --------------------------------------------------------------------------


def test_long_histories_are_thinned_to_means() -> None:
    lines = [{"iteration": n, "loss": float(n % 2), "ibot": None} for n in range(12_000)]
    (chart,) = training.pretraining("Stage 1", lines).values()
    rows, _ = chart.spec["datasets"].values()
    assert len(rows) == training.POINTS and {row["series"] for row in rows} == {"total"}
    assert all(row["y"] == 0.5 for row in rows)


def test_a_method_has_one_colour_in_all_charts() -> None:
    every = [f"m{n}" for n in range(12)]
    some = results.cases(every[3:5], every, "DSC (%)").spec
    assert some["layer"][0]["encoding"]["color"]["scale"]["range"] == ["var(--c4)", "var(--c5)"]
    lines = training.curves([{"series": "m3", "x": 1, "y": 1}], every, "x", "y", "d").spec
    assert lines["layer"][0]["encoding"]["color"]["scale"]["range"][3] == "var(--c4)"


def domain(chart: Chart) -> list[float]:
    (axis,) = {tuple(layer["encoding"]["x"]["scale"]["domain"]) for layer in chart.spec["layer"]}
    return list(axis)


def test_the_charts_of_a_table_share_an_axis_for_each_unit() -> None:
    lines = made.table_lines()
    better = lines.assign(benchmark="btcv", ours=lines["ours"] + 40, high=lines["high"] + 40)
    distance = lines.assign(metric="HD95", unit="mm", ours=9.0, low=8.0, high=12.0, paper=np.nan)
    other = lines.assign(table="table3", paper=np.nan)
    charts = section.table_charts(pd.concat([lines, better, distance, other]))
    lits, btcv = (charts[f"table/table2/{b}/DSC"] for b in ("lits", "btcv"))
    low, high = domain(lits)
    assert domain(btcv) == [low, high] and low <= 41.5 and high >= 98.25
    assert domain(charts["table/table2/lits/HD95"])[1] < 13, "millimetres are no per cent"
    assert domain(charts["table/table3/lits/DSC"])[1] < 60, "each table has its own"
    wide = section.table_charts(lines.assign(low=0.0, high=100.0))
    assert domain(wide["table/table2/lits/DSC"]) == [0, 100], "a share ends there"
    assert lits.series == ["this run", "the paper"]
    assert charts["table/table3/lits/DSC"].series == ["this run"]


def test_lines_bear_their_names_and_the_names_do_not_overlap() -> None:
    names = [f"method {n}" for n in range(10)]
    ends = [0.5, 0.5, 0.5, 0.51, 0.9, 0.1, 0.1, 0.1, 0.12, 0.3]
    rows = [
        {"series": name, "x": x, "y": y if x else 0.0}
        for name, y in zip(names, ends, strict=True)
        for x in (0, 1)
    ]
    chart = training.curves(rows, names, "Epoch", "Dice", "describes")
    _, named = chart.spec["datasets"].values()
    assert [entry["series"] for entry in named] == names
    low, high = chart.spec["layer"][0]["encoding"]["y"]["scale"]["domain"]
    places = sorted((entry["label_y"] - low) / (high - low) * training.HEIGHT for entry in named)
    assert places[0] >= 0 and places[-1] <= training.HEIGHT
    assert min(b - a for a, b in itertools.pairwise(places)) >= training.LINE - 1e-6
    alone = named[4]
    assert alone["label_y"] == pytest.approx(alone["y"], abs=0.01), "where there is room"


# ---- the first screen ---------------------------------------------------------------------------


def test_badges_say_what_was_found(study: dict[str, Any], tmp_path: Path) -> None:
    lines, options = made.table_lines(), made.report_options()
    assert opening.left_out([{"quarantined": [1, 2]}, {"quarantined": []}])[1:3] == (
        "2 volumes",
        "warn",
    )
    assert opening.left_out([{"quarantined": []}]).state == "good"
    assert opening.partial(lines)[:3] == ("Complete", "2 runs", "good")
    fewer = lines.assign(cases=np.where(lines["method"] == "nnunet", 1, 2))
    assert opening.partial(fewer)[:3] == ("Partial", "1 of 2 runs missing", "warn")
    card = {"datasets": [{"dataset": "lits"}]}
    seen = options.model_copy(update={"benchmark_datasets": {"lits": "lits"}})
    assert opening.leak(seen, lines, card)[1:3] == ("1 benchmark seen", "warn")
    assert opening.leak(seen, lines.assign(data="leak-free"), card).state == "good"
    assert opening.leak(seen, lines.assign(data="tenth"), card).state == "warn", "nothing held back"
    assert opening.leak(options, lines, card).state == "good", "its cases are of another dataset"
    assert opening.leak(options, lines, None).state == "unknown"


@pytest.mark.parametrize(
    ("last", "state"),
    [
        ({"rank_patch": 18.0, "rank_cls": 9.0, "patch_similarity": 0.4}, "good"),
        ({"rank_patch": 9.0, "rank_cls": 9.0, "patch_similarity": 0.4}, "bad"),
        ({"rank_patch": 18.0, "rank_cls": 9.0, "patch_similarity": 0.97}, "bad"),
    ],
)
def test_collapse_is_told_from_the_signals_of_training(
    tmp_path: Path, last: dict[str, float], state: str
) -> None:
    first = {"rank_patch": 20.0, "rank_cls": 10.0, "patch_similarity": 0.3}
    history = made.write_lines(tmp_path / "stage1/history.jsonl", [{"loss": 1.0}, first, last])
    badge = opening.collapse(made.report_options(), [history])
    assert badge.state == state and badge.finding == ("none" if state == "good" else "Stage 1")
    unmeasured = made.write_lines(tmp_path / "stage2/history.jsonl", [{"loss": 1.0}])
    assert opening.collapse(made.report_options(), [unmeasured]).state == "unknown"


def test_files_are_verified_against_their_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [Path("a.csv"), Path("b.csv")]
    for path in paths:
        path.write_text(path.name)
    outputs = [{"path": str(path), "sha256": sha256(path)} for path in paths]
    provenance = {"records": {"x": {"outputs": outputs}}}
    badge, other = opening.verified(provenance, paths)
    assert (badge.finding, badge.state, other) == ("2 files", "good", [])
    paths[1].write_text("edited")
    badge, other = opening.verified(provenance, paths)
    assert (badge.finding, badge.state, other) == ("1 of 2 files differ", "bad", ["b.csv"])


def test_the_first_screen_shows_the_median_case_beside_its_reference(page: Page) -> None:
    pictures = [a for tag, a in page.elements if tag == "img" and " on case " in str(a["alt"])]
    assert [str(a["alt"]).partition(" on ")[0] for a in pictures] == [
        "Reference",
        "MedDINOv3",  # the row that the table compares with
        "nnU-Net",
    ]
    assert "the median by DSC" in page.text
    assert "Highest DSC: meddinov3 on LiTS." in " ".join(page.text.split())


def test_own_data_do_not_wear_the_papers_clothes(study: dict[str, Any]) -> None:
    lines = made.table_lines().assign(paper=np.nan, difference=np.nan)
    table = study["root"] / "own.csv"
    lines.to_csv(table, index=False)
    card = study["root"] / "ct3m/card/own.json"
    write_json(card, {**read_json(study["report"]["card"]), "paper_slices": None})
    options = made.report_options(corpus=corpus.OWN)
    own = options.tables[0].model_copy(update={"corpus": corpus.OWN})
    options = options.model_copy(update={"tables": (own,)})
    output = study["root"] / "own.html"
    report.run(options, **{**study["report"], "tables": [table], "card": card}, output=output)
    text = output.read_text(encoding="utf-8")
    page = Page(text)
    assert "CT-3M" not in text and "beside the paper" not in text
    assert "here; the paper has" not in page.text and "the paper's value" not in page.text
    assert 'class="paper"' not in text and "The paper has neither intervals" not in text
    assert "Pretraining data all: nothing was held back" in page.text
    heads = [a.get("data-of") for tag, a in page.elements if tag == "th" and "data-of" in a]
    assert heads == ["LiTS, DSC (%)"] * 2, "one column for each protocol"


def job(verb: str, start: str, wall_s: float, gpus: list[str], energy: float | None = None) -> Any:
    end = f"2026-01-01T{start[:2]}:30:00.000+00:00"
    host = {"name": "a", "cpus": 4, "gpus": gpus, "system": "Linux"}
    files = {"inputs": {"some_files": [{"path": "a b"}]}, "outputs": [{"path": "out"}]}
    when = {"started": f"2026-01-01T{start}:00.000+00:00", "ended": end}
    took = {"wall_s": wall_s, "cpu_s": 7200.0, "cpu_energy_j": energy}
    return {"verb": verb, "options": {"k": "it's"}, "host": host, **files, **when, **took}


def test_effort_adds_hours_energy_and_cost() -> None:
    jobs = [job("slices", "00:00", 3600, []), job("finetune", "02:00", 1800, ["H100"] * 4, 5e3)]
    found = glance.effort(jobs, Prices(gpu_hour=2.0, core_hour=0.1))
    assert (found["elapsed_s"], found["core_h"], found["gpu_h"]) == (9000, 4.0, 2.0)
    assert (found["energy_kj"], found["metered"]) == (5.0, 1)
    assert found["cost"] == pytest.approx(2 * 2.0 + 2 * 0.1)
    assert glance.effort(jobs, Prices())["cost"] is None
    assert glance.effort([], Prices())["jobs"] == 0
    (host,) = glance.hosts(jobs)
    assert (host["jobs"], host["gpus"]) == (2, "4 x H100")


def test_commands_are_what_a_shell_takes() -> None:
    (entry,) = glance.commands([job("slices", "00:00", 1, []), job("slices", "01:00", 1, [])])
    words = shlex.split(entry["command"])
    assert words[:5] == ["python", "-m", "meddino", "slices", "--options"]
    assert json.loads(words[5]) == {"k": "it's"}
    assert words[6:] == ["--some-files", "a b", "--output", "out"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "< 1 s"), (59, "59 s"), (200, "3 min 20 s"), (7200, "2 h"), (273_600, "3 d 4 h")],
)
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert glance.duration(seconds) == said
