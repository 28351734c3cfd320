"""Pages: facts, tables, figures and rollouts, put into one file with all that it needs. It opens from disk."""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from pipeline.report.curves import Panel
from pipeline.report.recipes import Difference
from pipeline.report.run_data import RunData


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Some panels under one heading."""

    title: str
    panels: Sequence[Panel]
    is_wide: bool = False
    """Whether a panel is as wide as the page."""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a page shows."""

    title: str
    facts: str
    runs: Sequence[RunData]
    rows: Sequence[Row]
    groups: Sequence[Mapping[str, Any]] = ()
    """Rollouts to read."""
    groups_hint: str = ""
    recipe: str = ""
    differences: Sequence[Difference] = ()
    notes: Sequence[str] = field(default_factory=list)
    """What could not be shown."""


def render(page: Page) -> str:
    """Return a page's HTML. Nothing in it is fetched, and no text of a model, a recipe or a run acts in it."""
    placed = [(row, at, panel) for row, part in enumerate(page.rows) for at, panel in enumerate(part.panels)]
    script = "\n".join(map(_part, ("plots.js", *(["rollouts.js"] if page.groups else []))))
    scripts = [get_plotlyjs(), script]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_part("page.html")).render(
        page=page,
        runs=[run.standing for run in page.runs],
        style=_part("page.css"),
        scripts=scripts,
        hashes=[base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts],
        data=_json(
            {
                "figures": {f"figure-{row}-{at}": _plain(panel.figure) for row, at, panel in placed},
                "groups": list(page.groups),
            }
        ),
    )


def _plain(figure: go.Figure) -> Any:
    return json.loads(figure.to_json())


def _json(tree: Any) -> str:
    """Return JSON that can stand in a script element: no text of a model ends it."""
    text = json.dumps(_finite(tree), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(tree: Any) -> Any:
    """Return the tree with words for numbers that JSON does not have."""
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else str(tree)
    if isinstance(tree, Mapping):
        return {key: _finite(value) for key, value in tree.items()}
    return [_finite(value) for value in tree] if isinstance(tree, list) else tree


def _part(name: str) -> str:
    return (files("pipeline.report") / name).read_text()
