"""The site: it builds without a warning, loads nothing from elsewhere, and says what is true."""

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

from meddino.pipeline.verbs import VERBS
from meddino.study.model import Study

sys.path.insert(0, str(ROOT / "docs/hooks"))
import flowchart

LOADING = {"src", "srcset", "data", "poster"}
"""Attributes whose address a browser fetches by itself; of links, only those of `<link>`."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


class Tags(HTMLParser):
    """Every start tag of a page, with its attributes."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, {key: value or "" for key, value in attrs}))


def pages(site: Path) -> Iterator[tuple[Path, Tags]]:
    for page in sorted(site.rglob("*.html")):
        yield page, Tags(page)


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loaded = []
    for page, tags in pages(site):
        for tag, attributes in tags.found:
            names = LOADING | ({"href"} if tag in ("link", "use", "image") else set())
            loaded += [(page.name, attributes[n]) for n in names & attributes.keys()]
            # The theme's script would fetch another one for a diagram that it is to draw.
            assert "mermaid" not in attributes.get("class", ""), page
    assert len(loaded) > 100
    assert [each for each in loaded if re.match(r"(https?:)?//", each[1])] == []
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", sheet.read_text("utf-8")), sheet


def test_links_between_pages_lead_somewhere(site: Path) -> None:
    """MkDocs checks what is written in Markdown; this checks what came out, anchors included."""
    ids = {
        page: {a["id"] for _, a in tags.found if "id" in a} | {"", "__skip"}
        for page, tags in pages(site)
    }
    for page, tags in pages(site):
        for tag, attributes in tags.found:
            target = attributes.get("href", "")
            if tag != "a" or "://" in target or page.name == "404.html":
                continue
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            there = there / "index.html" if there.is_dir() else there
            assert there.exists(), (page, target)
            assert there.suffix != ".html" or anchor in ids[there], (page, target)


def test_pictures_are_told_to_who_cannot_see_them(site: Path) -> None:
    drawn = 0
    for page, tags in pages(site):
        text = page.read_text("utf-8")
        for svg in re.findall(r'<div class="picture">\s*(<svg.*?</svg>)', text, re.DOTALL):
            assert 'role="img"' in svg and re.search(r"<title>[^<]{3,}</title>", svg), page
            drawn += 1
        assert all(a.get("alt") for tag, a in tags.found if tag == "img"), page
    assert drawn >= 3


def keys(schema: dict[str, Any]) -> set[str]:
    sections = [schema, *schema["$defs"].values()]
    return {key for section in sections for key in section.get("properties", {})}


def test_the_reference_has_every_option_verb_and_value(site: Path) -> None:
    options = (site / "reference/options.html").read_text("utf-8")
    missing = [k for k in keys(Study.model_json_schema()) if f"<code>{k}</code><br>" not in options]
    assert missing == []
    verbs = (site / "reference/verbs.html").read_text("utf-8")
    for name in VERBS:
        assert f'<h3 id="{name}">' in verbs
        assert f"usage: python -m meddino {name}" in verbs, f"{name} has no help"
    assert "leak_free" in (site / "reference/config.html").read_text("utf-8")
    api = (site / "reference/api.html").read_text("utf-8")
    assert 'id="meddino.finetune.segmenter.Segmenter.segment"' in api


def test_the_cost_is_that_of_the_papers_study(site: Path) -> None:
    page = (site / "cost.html").read_text("utf-8")
    for rule in ("fetch", "slices", "pretrain_stage3", "finetune", "report"):
        assert f"<code>{rule}</code>" in page
    counted = re.search(r"On a cluster these are (\d+) submissions", page)
    assert counted is not None
    stated = re.findall(r"study is (\d+) submissions", (ROOT / "docs/slurm.md").read_text("utf-8"))
    assert stated == [counted[1]], f"docs/slurm.md says {stated}, `cost` {counted[1]}"


def test_the_tree_of_the_architecture_is_that_of_the_package() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    tree = page.partition("meddino/\n")[2].partition("\ntests/")[0]
    named = set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE))
    layers = page.partition("## The layers")[2]
    layered = set(re.findall(r"\w+", layers.partition("```text")[2].partition("```")[0]))
    packages = {path.parent.name for path in (ROOT / "meddino").glob("*/__init__.py")}
    assert named == packages and layered == packages | {"__main__"}


def test_python_in_the_pages_imports_what_exists() -> None:
    """Packages move; pages that show how to use them must move too."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    fences = [
        fence for page in pages
        for fence in re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)
    ]  # fmt: skip
    nodes = [node for fence in fences for node in ast.walk(ast.parse(fence))]
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    assert len(imports) >= 4
    for node in imports:
        if node.module == "datasets":  # Hugging Face's, which meddino does not need
            continue
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            found = hasattr(importlib.import_module(str(node.module)), alias.name)
            assert found or importlib.util.find_spec(name), name


def test_the_picture_of_the_readme_can_be_drawn_again() -> None:
    """Drawing takes the results of a demo; that its imports hold can be seen without."""
    assert callable(importlib.import_module("demo_picture").draw)
    picture = ROOT / "docs/assets/demo.webp"
    assert picture.stat().st_size < 100_000, "the first screen of the README loads in a blink"


@pytest.mark.parametrize("page", ["parity.md", "reproducibility.md"])
def test_tests_that_pages_name_exist(page: str) -> None:
    named = re.findall(r"tests/[\w/]+\.py(?:::\w+)?", (ROOT / "docs" / page).read_text("utf-8"))
    assert named
    for each in named:
        file, _, name = each.partition("::")
        functions = {n.name for n in ast.walk(ast.parse((ROOT / file).read_text("utf-8")))
                     if isinstance(n, ast.FunctionDef)}  # fmt: skip
        assert not name or name in functions, each


def test_keys_of_disagreements_exist() -> None:
    config = yaml.safe_load((ROOT / "config.yaml").read_text("utf-8"))
    config = Study.parse(config).model_dump(mode="json")
    rows = [
        line.split("|")[-2] for line in (ROOT / "docs/disagreements.md").read_text().splitlines()
        if line.startswith("|")
    ]  # fmt: skip
    named = [key for row in rows for key in re.findall(r"`([\w.]+)`", row)]
    assert len(named) > 20
    for key in named:
        section: Any = config
        for part in key.split("."):
            assert part in section, key
            section = section[part]


# ---- flowcharts ---------------------------------------------------------------------------------

CHART = "flowchart LR\n  a[first<br>of all] --> b --> d\n  a -. some words .-> c & b\n  c --> d"


def test_a_flowchart_is_read_and_drawn_without_overlaps() -> None:
    chart = flowchart.parse(CHART)
    assert chart.text == {"a": ["first", "of all"], "b": ["b"], "c": ["c"], "d": ["d"]}
    assert ("a", "c", "some words") in chart.links and ("a", "b", None) in chart.links
    svg = flowchart.draw(CHART, "letters & words")
    assert "letters &amp; words" in svg and svg.count('class="tip"') == len(chart.links)
    boxes = [
        tuple(float(n) for n in found)
        for found in re.findall(r'<rect.* x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"', svg)
    ]
    assert len(boxes) == 4
    for number, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, other_width, _ in boxes[:number]:
            apart = x + width <= other_x or other_x + other_width <= x
            assert apart or y + height <= other_y or other_y < y


def test_what_other_links_imply_is_left_out_of_a_dense_picture() -> None:
    chart = flowchart.parse("flowchart TB\n a --> b --> c\n a --> c\n a -. x .-> c")
    kept = flowchart.reduced(chart).links
    assert ("a", "c", None) not in kept and ("a", "c", "x") in kept and len(kept) == 3


def test_what_is_no_flowchart_is_refused() -> None:
    with pytest.raises(ValueError, match="circle"):
        flowchart.draw("flowchart TB\n a --> b --> a", "round")
    with pytest.raises(ValueError, match="not a node"):
        flowchart.parse("flowchart TB\n a == b")
