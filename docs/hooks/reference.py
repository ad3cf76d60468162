"""Pages and tables that are made from the code when the site is built, so that none goes stale."""

import contextlib
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from meddino import __main__ as command_line
from meddino.cli.cost import hours
from meddino.cli.estimate import Assumptions, Effort, Estimator, Figures, together
from meddino.cli.overview import HEADINGS
from meddino.cli.snakemake import dry_run
from meddino.datasets.options import Dataset
from meddino.pipeline.verbs import VERBS
from meddino.pretrain.meter import PEAK_FLOPS
from meddino.study.model import Study, load

ROOT = Path(__file__).parents[2]
PAPER = "config.yaml"
GPUS = ("A100", "H100", "H200", "B200")
"""For which the cost is printed."""

# ---- the configuration --------------------------------------------------------------------------


def config_page() -> str:
    """The paper's study, whose comments say where each number is from."""
    text = (ROOT / PAPER).read_text("utf-8")
    return (
        "# The paper's study\n\n`config.yaml`, as it is. Numbers in its comments are the paper's"
        f" sections; [all options](options.md) say what each key means.\n\n```yaml\n{text}```\n"
    )


def options_page() -> str:
    """Every key of the configuration: type, default, the paper's value with its source, meaning."""
    schema = Study.model_json_schema()
    text = (ROOT / PAPER).read_text("utf-8")
    lines = [
        "# All options",
        "",
        "Made from the options that the code declares. *Paper's study* is the value in"
        " [`config.yaml`](config.md), with its source: a number is a section of the paper. Where"
        " entries of a kind differ, the first that sets the key is shown. A file of your own is"
        " laid over `config.yaml` key by key (`--configfile`); keys that do not exist are refused.",
        "",
    ]
    lines += _sections("", schema, schema, [yaml.compose(text)], text.splitlines())
    dataset = Dataset.model_json_schema()
    lines += ["## A dataset", "", "What stands under `datasets.<name>`, and in the files of"]
    lines += ["`meddino/datasets/registry/` ([Datasets](../datasets.md)).", ""]
    lines += _sections("datasets.&lt;name&gt;", dataset, dataset, [], [])
    return "\n".join(lines) + "\n"


def _sections(
    path: str, section: Any, schema: Any, examples: list[Any], source: list[str]
) -> Iterator[str]:
    """The table of one section, then those of the sections in it."""
    if path:
        yield from (f"{'##' if '.' not in path else '###'} {path}", "")
        if section.get("description"):
            yield from (_text(section["description"]), "")
    yield from ("| option | default | paper's study | meaning |", "|---|---|---|---|")
    inner = []
    for name, key in section["properties"].items():
        below = [value for node in examples for k, value in _pairs(node) if k.value == name]
        keys = [k for node in examples for k, _ in _pairs(node) if k.value == name]
        required = name in section.get("required", ())
        shown, found = _example(keys, below, source)
        yield (
            f"| `{name}`<br><small>{_type(key, schema)}</small> |"
            f" {'required' if required else _default(key)} | {shown} |"
            f" {_text(_said(key, schema))}{f' *{found}*' if found else ''} |"
        )
        for suffix, child in _children(key, schema):
            nodes = below
            if suffix == ".&lt;name&gt;":
                nodes = [value for node in below for _, value in _pairs(node)]
            if suffix == "[]":
                nodes = [v for node in below for v in getattr(node, "value", ())]
            inner.append((f"{path}.{name}{suffix}".lstrip("."), child, nodes))
    yield ""
    for place, child, nodes in inner:
        yield from _sections(place, child, schema, nodes, source)


def _pairs(node: Any) -> list[tuple[Any, Any]]:
    if not isinstance(node, yaml.MappingNode):
        return []
    own = [(k, v) for k, v in node.value if k.value != "<<"]
    return own + [pair for k, v in node.value if k.value == "<<" for pair in _pairs(v)]


def _example(keys: list[Any], values: list[Any], source: list[str]) -> tuple[str, str]:
    """What the paper's study says, where that is short, and the comment beside it."""
    if not keys:
        return "", ""
    line = source[keys[0].start_mark.line]
    after = values[0].end_mark if values[0].end_mark.line == keys[0].start_mark.line else None
    comment = line[after.column if after else len(line) :].partition("# ")[2]
    value = values[0]
    if isinstance(value, yaml.ScalarNode):
        return _code(value.value), _text(comment)
    if isinstance(value, yaml.SequenceNode) and all(
        isinstance(each, yaml.ScalarNode) for each in value.value
    ):
        words = [each.value for each in value.value]
        return _code(f"[{', '.join(words[:6])}{', ...' if words[6:] else ''}]"), _text(comment)
    return "", _text(comment)


def _resolved(key: Any, schema: Any) -> Any:
    return schema["$defs"][key["$ref"].rsplit("/", 1)[1]] if "$ref" in key else key


def _variants(key: Any, schema: Any) -> list[Any]:
    """The alternatives of a key, without null."""
    found = [_resolved(each, schema) for each in key.get("anyOf", [key])]
    return [each for each in found if each.get("type") != "null"]


def _children(key: Any, schema: Any) -> Iterator[tuple[str, Any]]:
    """Sections below a key, and how their path ends."""
    for variant in _variants(key, schema):
        if "properties" in variant:
            yield "", variant
            continue
        items = variant.get("additionalProperties") or variant.get("patternProperties") or {}
        if isinstance(items, dict) and variant.get("patternProperties"):
            items = next(iter(items.values()))
        for suffix, below in ((".&lt;name&gt;", items), ("[]", variant.get("items"))):
            if isinstance(below, dict):
                for inner in _variants(below, schema):
                    if "properties" in inner:
                        yield suffix, inner


LIMITS = {
    "minimum": "&ge; {}",
    "exclusiveMinimum": "&gt; {}",
    "maximum": "&le; {}",
    "exclusiveMaximum": "&lt; {}",
    "minItems": "at least {} of them",
}


def _type(key: Any, schema: Any) -> str:
    kinds = []
    for variant in _variants(key, schema):
        if "enum" in variant or "const" in variant:
            values = variant.get("enum", [variant.get("const")])
            kinds.append(" or ".join(map(str, values)))
        elif variant.get("type") == "array":
            items = variant.get("prefixItems") or [variant.get("items", {})]
            kinds.append(f"list of {_type(items[0], schema) or 'anything'}")
        elif "properties" in variant or variant.get("type") == "object":
            kinds.append("section")
        else:
            limits = [text.format(variant[k]) for k, text in LIMITS.items() if k in variant]
            kinds.append(" ".join([variant.get("type", "anything"), *limits]))
    nothing = any(each.get("type") == "null" for each in key.get("anyOf", ()))
    return ", ".join(dict.fromkeys(kinds)) + (", or null" if nothing else "")


def _said(key: Any, schema: Any) -> str:
    return str(key.get("description") or _resolved(key, schema).get("description", ""))


def _default(key: Any) -> str:
    if "default" not in key or (isinstance(key["default"], dict) and len(str(key["default"])) > 40):
        return "its keys' defaults"
    return _code(json.dumps(key["default"]).strip('"') or '""')


def _code(text: str) -> str:
    text = " ".join(text.split())
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    return f"`{shown}`".replace("|", "\\|") if shown else ""


def _text(text: str) -> str:
    """Prose as a cell of a table: what Markdown would take for markup is kept as it is."""
    text = " ".join(text.split()).replace("|", "\\|")
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*_])", r"\\\1", p).replace("<", "&lt;") for p in parts[::2]]
    return "`".join(parts)


# ---- verbs --------------------------------------------------------------------------------------


def verbs_page() -> str:
    """What each verb prints for `--help`."""
    lines = [
        "# Verbs",
        "",
        "`python -m meddino VERB --help` prints the same. Verbs of the study's stages take their"
        " options from `--config` files, or as JSON from the workflow.",
        "",
    ]
    for group, heading in HEADINGS.items():
        lines += [f"## {heading}", ""]
        stage = group == "stages"
        for name, verb in VERBS.items():
            if verb.group == group:
                lines += [f"### {name}", "", f"{verb.summary[:1].upper()}{verb.summary[1:]}.", ""]
                lines += [f"Module `{verb.module}`, revision {verb.revision}.", ""] if stage else []
                lines += ["```text", help_of(name), "```", ""]
    return "\n".join(lines)


def help_of(name: str) -> str:
    """What `python -m meddino NAME --help` prints, 90 columns wide."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit), _columns(90):
        command_line.main([name, "--help"])
    return printed.getvalue().rstrip()


@contextlib.contextmanager
def _columns(width: int) -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(width)
    try:
        yield
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)


# ---- Python -------------------------------------------------------------------------------------

PUBLIC = {
    "Segmenting": ["meddino.finetune.segmenter"],
    "Backbones and checkpoints": ["meddino.models", "meddino.models.export"],
    "Slices": [
        "meddino.ct3m.shards",
        "meddino.ct3m.order",
        "meddino.ct3m.loader",
        "meddino.volumes.reader",
    ],
    "Metrics": ["meddino.evaluate.surface", "meddino.evaluate.statistics"],
    "Quality of features": ["meddino.pretrain.quality"],
    "Configuration": ["meddino.study.model", "meddino.pipeline.options"],
    "Files and errors": ["meddino.core.files", "meddino.core.errors"],
}
"""Modules that are meant to be used from Python, by what one would look for."""


def api_page() -> str:
    """Docstrings of the public modules, which mkdocstrings reads."""
    lines = ["# In Python", "", "From the docstrings. Everything else is told by its module.", ""]
    for title, modules in PUBLIC.items():
        lines += [f"## {title}", ""]
        for module in modules:
            import_module(module)  # a name that is gone is an error here and not a missing page
            lines += [f"::: {module}", ""]
    return "\n".join(lines)


# ---- cost ---------------------------------------------------------------------------------------


def cost_tables() -> str:
    """What the paper's study takes from nothing, as `cost` estimates it before any job has run."""
    plan = dry_run(["--forceall", "--cores", "100000", "--profile", "slurm"])
    study, figures = load([ROOT / PAPER]), Figures.read()
    lines = ["| rule | jobs | GPU-hours | core-hours held | disk (GB) | time is |"]
    lines += ["|---|---:|---:|---:|---:|---|"]
    estimator = Estimator(study, figures, PEAK_FLOPS[figures.gpu])
    efforts: dict[str, list[Effort]] = defaultdict(list)
    for job in plan.jobs:
        if job.rule != "all":
            efforts[job.rule].append(estimator.effort(job))
    for rule, each in efforts.items():
        total, rate = together(each), figures.rules.get(figures.key(rule))
        lines.append(
            f"| `{rule}` | {len(each)} | {hours(total.gpu_s)} | {hours(total.core_s)} |"
            f" {total.disk_gb:,.0f} | {rate.basis if rate else ''} |"
        )
    total = together(effort for each in efforts.values() for effort in each)
    lines.append(
        f"| **all** | **{sum(map(len, efforts.values()))}** | **{hours(total.gpu_s)}** |"
        f" **{hours(total.core_s)}** | **{total.disk_gb:,.0f}** | |"
    )
    lines += ["", f"On a cluster these are {plan.submissions} submissions. GPU-hours are those of"]
    lines += [f"{figures.gpu}s; by the same operations and shares of the peak, all of it takes", ""]
    lines += ["| GPU | GPU-hours |", "|---|---:|"]
    for gpu in GPUS:
        other = Estimator(study, figures, PEAK_FLOPS[gpu])
        lines.append(f"| {gpu} | {hours(together(map(other.effort, plan.jobs)).gpu_s)} |")
    return "\n".join([*lines, "", *_foundations(figures)])


def _foundations(figures: Figures) -> Iterator[str]:
    yield from (
        "Figures that it rests on:",
        "",
        "| figure | value | known | from |",
        "|---|---:|---|---|",
    )
    for name in Assumptions.model_fields:
        figure = getattr(figures.assumptions, name)
        value, known = f"{figure.value:g}", figure.basis
        yield f"| {name.replace('_', ' ')} | {value} | {known} | {_text(figure.source)} |"
    for rule, rate in figures.rules.items():
        value, known = f"{rate.seconds:g} s a {rate.per}", rate.basis
        yield f"| `{rule}` | {value} | {known} | {_text(rate.source)} |"
