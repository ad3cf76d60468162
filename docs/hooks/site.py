"""What MkDocs is told beyond mkdocs.yml: generated pages, files of the checkout's top, pictures.

Pages are written for GitHub too: links between them, to files beside `docs/`, and `mermaid` fences
work there as they are. Here they become links of the site, names of files, and SVG.
"""

import posixpath
import re
from pathlib import Path

import flowchart
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
TAKEN = {
    "README.md": "index.md",
    "DECISIONS.md": "decisions.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/RESULTS.md": "results.md",
}
"""Files of the checkout that are pages of the site, too."""
GENERATED = {
    "reference/options.md": reference.options_page,
    "reference/verbs.md": reference.verbs_page,
    "reference/config.md": reference.config_page,
    "reference/api.md": reference.api_page,
}
NEEDS = {
    "apptainer": "Apptainer",
    "cluster": "a SLURM cluster",
    "data": "data of your own",
    "download": "a connection",
    "gpu": "a GPU",
    "images": "nnU-Net's folders with a dataset",
    "results": "a study that has run or runs",
    "weights": "DINOv3's weights",
}
"""What a fence says that its commands need: those are not run by tests."""
INSERTED = {"cost": reference.cost_tables}
"""What `<!-- insert: NAME -->` in a page stands for."""

_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_PICTURE = re.compile(r"^!\[([^\]]*)\]\(([^)\s]+\.svg)\)$", re.MULTILINE)
_IMAGE = re.compile(r"!\[([^\]]*)\]\(docs/([^)\s]+)\)")
_MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INSERT = re.compile(r"^<!-- insert: (\w+) -->$", re.MULTILINE)
_NEEDS = re.compile(r'^( *```sh) needs="([a-z ]+)"$', re.MULTILINE)
_FENCE = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand in no file of `docs/`."""
    texts = {page: (ROOT / file).read_text("utf-8") for file, page in TAKEN.items()}
    texts |= {page: make() for page, make in GENERATED.items()}
    for page, text in texts.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draw flowcharts, insert tables, and turn links of the checkout into links of the site."""
    here = page.file.src_uri
    title = page.title or here
    markdown = _INSERT.sub(lambda match: INSERTED[match[1]](), markdown)
    markdown = _MERMAID.sub(
        lambda match: f'<div class="picture">\n{flowchart.draw(match[1], title)}\n</div>', markdown
    )
    markdown = _NEEDS.sub(
        lambda m: f'{m[1]} title="needs {", ".join(NEEDS[each] for each in m[2].split())}"',
        markdown,
    )
    markdown = _PICTURE.sub(lambda match: _inlined(here, *match.groups()), markdown)
    if here in TAKEN.values():  # pages from the checkout's top name their pictures from there
        markdown = _IMAGE.sub(r"![\1](\2)", markdown)
    return "".join(
        part if number % 2 else _LINK.sub(lambda m: _link(here, m[1], m[2], files), part)
        for number, part in enumerate(_FENCE.split(markdown))
    )


def _inlined(here: str, title: str, target: str) -> str:
    """A picture of our own as part of the page, so that it follows the page's colours."""
    svg = (ROOT / "docs" / posixpath.dirname(here) / target).read_text("utf-8")
    svg = svg.replace("<svg ", '<svg role="img" ', 1)
    svg = svg.replace(">", f">\n<title>{title}</title>", 1)
    lines = [line for line in svg.splitlines() if line.strip()]
    return "\n".join(['<div class="picture">', *lines, "</div>"])


def _link(here: str, text: str, target: str, files: Files) -> str:
    """A link of the checkout as one of the site, or the text alone where that has no such page."""
    path, hash_, anchor = target.partition("#")
    if "://" in path or not path:
        return f"[{text}]({target})"
    source = next((file for file, page in TAKEN.items() if page == here), f"docs/{here}")
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    page = TAKEN.get(wanted, wanted.removeprefix("docs/"))
    if wanted not in TAKEN and (ROOT / wanted).is_file() and files.get_file_from_path(page) is None:
        return text
    there = posixpath.relpath(page, posixpath.dirname(here) or ".")
    return f"[{text}]({there}{hash_}{anchor})"
