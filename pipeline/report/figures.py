"""Figures of whole runs, by plotly: the climb, time, causes, distributions."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import plotly.graph_objects as go

from pipeline.progress import count_causes
from pipeline.report.run_data import ACTIVITIES, REST, WAITING, RunData
from stages.base import Estimate

MOST_BINS = 40
"""Of a distribution."""


def climb(runs: Sequence[RunData]) -> Iterator[tuple[str, go.Figure]]:
    """Yield what each stage's model reached in exams, with 95 % intervals: of one run in one picture, of several in
    one for each exam. Lines lead from a model to those that started from it.
    """
    exams = [run.standing.exams for run in runs]
    quantities = sorted({quantity for found in exams for row in found.values() for quantity in row})
    if not quantities:
        return
    names = ["base", *dict.fromkeys(name for run in runs for name in run.config.stages)]
    series = [(run, found, quantity) for quantity in quantities for run, found in zip(runs, exams, strict=True)]
    pictures = {"The climb": series}
    if len(runs) > 1:
        pictures = {f"The climb: {each}": [part for part in series if part[2] == each] for each in quantities}
    for title, shown in pictures.items():
        reached = [name for name in names if any(quantity in found.get(name, {}) for _, found, quantity in shown)]
        figure = go.Figure(layout={"template": {}})
        for at, (run, found, quantity) in enumerate(shown):
            points = {name: found[name][quantity] for name in reached if quantity in found.get(name, {})}
            aside = min(0.05, 0.6 / len(shown)) * (at - (len(shown) - 1) / 2)
            places = {name: reached.index(name) + aside for name in points}
            _add_climb(figure, run, points, places, run.config.name if len(runs) > 1 else quantity, at)
        figure.update_layout(
            yaxis={"title": {"text": "right, %"}, "range": [0, 103]},
            xaxis={
                "title": {"text": "model of"},
                "tickvals": list(range(len(reached))),
                "ticktext": reached,
                "range": [-0.4, len(reached) - 0.6],
            },
        )
        yield title, figure


def _add_climb(
    figure: go.Figure, run: RunData, points: Mapping[str, Estimate], places: Mapping[str, float], label: str, at: int
) -> None:
    steps = [(before, name) for name in points if (before := _before(run, name, points)) is not None]
    meta = {"colour": at, "dash": at}
    figure.add_scatter(
        x=[x for before, name in steps for x in (places[before], places[name], None)],
        y=[y for before, name in steps for y in (100 * points[before].mean, 100 * points[name].mean, None)],
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        meta=meta,
    )
    figure.add_scatter(
        x=list(places.values()),
        y=[round(100 * each.mean, 2) for each in points.values()],
        error_y={
            "type": "data",
            "array": [round(100 * (each.high - each.mean), 2) for each in points.values()],
            "arrayminus": [round(100 * (each.mean - each.low), 2) for each in points.values()],
        },
        text=list(points),
        customdata=[[100 * each.low, 100 * each.high, each.num] for each in points.values()],
        hovertemplate="%{text}: %{y:.1f} % [%{customdata[0]:.1f}, %{customdata[1]:.1f}] of %{customdata[2]} problems",
        mode="markers",
        name=label,
        meta={**meta, "symbol": at},
    )


def _before(run: RunData, name: str, points: Mapping[str, Estimate]) -> str | None:
    """Return the nearest examined model that this one started from, straight or through others."""
    while name != "base":
        name = getattr(run.config.stages[name], "init_from", None) or "base"
        if name in points:
            return name
    return None


def time_spent(runs: Sequence[RunData]) -> go.Figure | None:
    """Return how long each stage took, over all attempts, and with what; None where none has begun."""
    places = [(run, stage) for run in runs for stage in run.spent_s]
    names = [f"{run.config.name}: {stage}" if len(runs) > 1 else stage for run, stage in places]
    known = [*ACTIVITIES.values(), WAITING]
    others = {activity for run, stage in places for activity in run.spent_s[stage]} - {*known, REST}
    figure = go.Figure(layout={"template": {}})
    for at, activity in enumerate([*known, REST, *sorted(others)]):
        seconds = [round(run.spent_s[stage].get(activity, 0.0), 2) for run, stage in places]
        if any(seconds):
            figure.add_bar(y=names, x=seconds, name=activity, orientation="h", meta={"colour": at})
    figure.update_layout(
        barmode="stack",
        xaxis={"title": {"text": "seconds"}},
        yaxis={"autorange": "reversed"},
        height=140 + 30 * len(places),
    )
    return figure if figure.data else None


def causes(run: RunData) -> tuple[Counter[str], go.Figure | None]:
    """Return how many answers the run's metrics count, by cause of their score, and a picture of all but "ok"."""
    counts = {
        stage: Counter({cause.replace("_", " "): count for cause, count in count_causes(history.values()).items()})
        for stage, history in run.histories.items()
    }
    total = sum(counts.values(), Counter[str]())
    kinds = [kind for kind in sorted(total) if kind != "ok"]
    figure = go.Figure(layout={"template": {}})
    for at, (stage, found) in enumerate(counts.items()):
        if set(found) - {"ok"}:
            figure.add_bar(x=kinds, y=[found[kind] for kind in kinds], name=stage, meta={"colour": at})
    figure.update_layout(
        yaxis={"title": {"text": "answers"}}, xaxis={"title": {"text": "cause"}}, showlegend=True, barmode="group"
    )
    return total, figure if figure.data else None


def distribution(values: Mapping[str, Sequence[int]], title: str) -> go.Figure:
    """Return how many in a hundred of each source's values fall where, in bins that are the same for all.

    ``values`` are whole numbers, and some.
    """
    found = {name: numbers for name, numbers in values.items() if numbers}
    low, high = min(map(min, found.values())), max(map(max, found.values()))
    width = math.ceil((high - low + 1) / MOST_BINS)
    num_bins = (high - low) // width + 1
    edges = [low - 0.5 + width * at for at in range(num_bins + 1)]
    figure = go.Figure(layout={"template": {}})
    for at, (name, numbers) in enumerate(found.items()):
        counts = Counter((number - low) // width for number in numbers)
        shares = [round(100 * counts[place] / len(numbers), 3) for place in range(num_bins)]
        figure.add_scatter(
            x=[edges[0], *edges, edges[-1]],
            y=[0.0, *shares, shares[-1], 0.0],
            line={"shape": "hv"},
            mode="lines",
            name=name,
            showlegend=True,
            meta={"colour": at, "dash": at},
        )
    ticks = {"dtick": 1} if num_bins <= 20 and width == 1 else {}
    bins = f", bins of {width}" if width > 1 else ""
    figure.update_layout(
        xaxis={"title": {"text": f"{title}{bins}"}, "range": [low - 1, edges[-1] + 0.5], **ticks},
        yaxis={"title": {"text": "% of answers"}, "rangemode": "tozero"},
    )
    return figure
