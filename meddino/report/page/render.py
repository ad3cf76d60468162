"""The page as one HTML file, from its templates, style and scripts."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import vl_convert

from meddino.report.corpus import variant_label
from meddino.report.page.charts.training import POINTS
from meddino.report.page.sections import glance

TEMPLATES = Path(__file__).with_name("templates")


def render(page: Mapping[str, Any]) -> str:
    """The page as HTML; its content security policy lets no scripts but its own run."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,  # names of cases come from strangers' files
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.globals |= {
        "counted": glance.counted,
        "points": POINTS,
        "variant_label": variant_label,
    }
    environment.filters |= {
        "duration": glance.duration,
        "minus": lambda text: text.replace("-", "\N{MINUS SIGN}"),
        "base64": lambda text: base64.b64encode(text.encode()).decode("ascii"),
    }
    scripts = {
        "theme": _template("theme.js"),
        "library": _library(),
        "behaviour": _template("report.js"),
    }
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts.values())
    return environment.get_template("report.html.j2").render(
        **page, style=_template("report.css"), scripts=scripts, allowed=allowed
    )


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
