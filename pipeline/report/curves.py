"""Curves: a panel for each quantity and stage, on the same axes wherever the quantity is the same."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from pipeline.report.run_data import History, RunData

MOST_POINTS = 2000
"""Of a curve: of a longer one, every n-th step is shown, and the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """What one row of panels shows."""

    title: str
    pattern: str
    """Its metrics; a group in it is what tells several apart."""
    span: tuple[float, float] | None = None
    """What the y-axis shows at least; none: what there is."""
    comparable_by: str | None = None
    """Key of a stage's config that must be equal for two stages to mean the same by it; none: all do."""
    hint: str = ""
    """What one has to know to read it."""


QUANTITIES = (
    Quantity(
        title="loss",
        pattern=r"train/loss",
        comparable_by="loss",
        hint="What is minimised. That of a policy gradient stays about zero while the policy learns: its reward tells.",
    ),
    Quantity(title="reward", pattern=r"reward/mean", span=(0, 0), comparable_by="rewards"),
    Quantity(title="reward by part, before weights", pattern=r"reward/([^/]+)/mean", span=(0, 1)),
    Quantity(title="accuracy in the exam while learning", pattern=r"early_stop/accuracy", span=(0, 1)),
    Quantity(
        title="share of pairs told apart",
        pattern=r"preference/(accuracy_beyond_offset)|monitor/(accuracy)|train/(accuracy)",
        span=(0, 1),
        hint="Of which the policy, against where it started, or the reward model prefers the chosen one; a tie is not "
        "told apart. What has an offset is to be preferred by more than that.",
    ),
    Quantity(title="log-probability by token, nats", pattern=r"monitor/(good|bad|greedy)_nats_a_token", span=(0, 0)),
    Quantity(title="KL from the start, nats", pattern=r"monitor/kl_nats|policy/kl_nats", span=(0, 0)),
    Quantity(title="token accuracy", pattern=r"train/token_accuracy", span=(0, 1)),
    Quantity(title="gradient norm", pattern=r"train/grad_norm", span=(0, 0)),
    Quantity(title="learning rate", pattern=r"train/learning_rate", span=(0, 0), comparable_by="learning_rate"),
    Quantity(title="tokens of an answer, mean", pattern=r"rollout/length/mean_tokens", span=(0, 0)),
    Quantity(
        title="share of groups without signal",
        pattern=r"rollout/no_signal_fraction",
        span=(0, 1),
        hint="All answers to a prompt have the same reward, so it teaches nothing: too easy, too hard, or cut.",
    ),
    Quantity(title="share of answers cut or broken off", pattern=r"rollout/truncated_fraction", span=(0, 1)),
    Quantity(title="share of answers without a score", pattern=r"reward/unscorable_fraction", span=(0, 1)),
    Quantity(
        title="learner and engine apart at most, nats",
        pattern=r"policy/(mismatch)_max_nats|sync/(drift)_max",
        hint="Of the same tokens. Drift is of fixed texts right after the weights were sent: rounding, if all is well. "
        "Mismatch is of the answers that are learned from: rounding, and what was learned since they were begun.",
    ),
    Quantity(
        title="versions that groups are old",
        pattern=r"rollout/staleness_(mean|max)",
        span=(0, 1),
        hint="Optimizer steps between the weights that answered and those that learn from the answers.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture, with what it shows in words."""

    title: str
    figure: go.Figure
    told: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    run: int
    metric: str
    label: str
    points: Sequence[tuple[int, float]]


def curves(runs: Sequence[RunData]) -> Iterator[tuple[Quantity, list[Panel]]]:
    """Yield each quantity that any stage has, with a panel by stage; stages of one name share theirs."""
    for quantity in QUANTITIES:
        found = {name: list(_curves_of(runs, name, quantity)) for name in _stage_names(runs)}
        found = {name: lines for name, lines in found.items() if lines}
        spans = _spans(runs, found, quantity)
        if found:
            yield quantity, [_panel(runs, name, lines, spans[name]) for name, lines in found.items()]


def _stage_names(runs: Sequence[RunData]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.config.stages))


def _curves_of(runs: Sequence[RunData], stage: str, quantity: Quantity) -> Iterator[_Curve]:
    for number, run in enumerate(runs):
        history: History = run.histories.get(stage, {})
        names = sorted({name for row in history.values() for name in row})
        metrics = {name: found for name in names if (found := re.fullmatch(quantity.pattern, name))}
        for metric, matched in metrics.items():
            points = [(step, row[metric]) for step, row in history.items() if metric in row]
            finite = [(step, value) for step, value in points if math.isfinite(value)]
            which = next(filter(None, matched.groups()), "")
            parts = [*([run.config.name] if len(runs) > 1 else []), *([which] if len(metrics) > 1 else [])]
            if finite:
                yield _Curve(run=number, metric=metric, label=": ".join(parts), points=finite)


def _spans(
    runs: Sequence[RunData], found: Mapping[str, Sequence[_Curve]], quantity: Quantity
) -> dict[str, tuple[float, float]]:
    """Return what the y-axis of each stage's panel shows: the same for all that mean the same by the quantity."""
    meanings = {name: _meaning(runs, name, quantity) for name in found}
    spans = {}
    for name, meaning in meanings.items():
        alike = [curve for other, lines in found.items() if meanings[other] == meaning for curve in lines]
        values = [*(value for curve in alike for _, value in curve.points), *(quantity.span or ())]
        low, high = min(values), max(values)
        margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
        spans[name] = (low - margin, high + margin)
    return spans


def _meaning(runs: Sequence[RunData], stage: str, quantity: Quantity) -> object:
    if quantity.comparable_by is None:
        return None
    configs = [run.config.stages[stage] for run in runs if stage in run.config.stages]
    return sorted({repr((config.kind, getattr(config, quantity.comparable_by, None))) for config in configs})


def _panel(runs: Sequence[RunData], stage: str, lines: Sequence[_Curve], span: tuple[float, float]) -> Panel:
    figure = go.Figure(layout={"template": {}})
    metrics = sorted({curve.metric for curve in lines})
    for curve in lines:
        at = metrics.index(curve.metric)
        points = thinned(curve.points)
        figure.add_scatter(
            x=[x for x, _ in points],
            y=[float(f"{y:.6g}") for _, y in points],
            mode="lines" if len(points) > 1 else "markers",
            name=curve.label,
            showlegend=len(lines) > 1,
            meta={"colour": at if len(runs) == 1 else curve.run, "dash": at if len(metrics) > 1 else curve.run},
        )
    kinds = {run.config.stages[stage].kind for run in runs if stage in run.config.stages}
    figure.update_layout(
        xaxis={"title": {"text": "prompts" if kinds == {"pairs"} else "step"}, "range": [0, 1.02 * _end(runs, stage)]},
        yaxis={"range": list(span)},
        height=220 + 18 * max(0, len(lines) - 2),  # for the legend
    )
    return Panel(title=stage, figure=figure, told="; ".join(map(_told, lines)))


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return at most about ``MOST_POINTS`` of the points, evenly spread, the last among them."""
    every = max(1, math.ceil(len(points) / MOST_POINTS))
    return [*points[:-1:every], *points[-1:]]


def _end(runs: Sequence[RunData], stage: str) -> float:
    """Return where the stage's x-axis ends: at the last step that there will be."""
    rows = [(step, row) for run in runs for step, row in run.histories.get(stage, {}).items()]
    return max((max(step, row.get("num_steps", 0)) for step, row in rows), default=0) or 1


def _told(curve: _Curve) -> str:
    first, last = (f"{value + 0.0:.3g}" for _, value in (curve.points[0], curve.points[-1]))  # no -0
    label = f"{curve.label} " if curve.label else ""
    return f"{label}{last}" if len({value for _, value in curve.points}) == 1 else f"{label}{first} to {last}"
