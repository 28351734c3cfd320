"""What is seen of a run: its stages in a table, and below it how those stand that run, failed or could not score.

Redrawn each second while a run goes on, printed once by `strop status`, and at the end of a run the table alone.
What a recipe, a reward or an error calls itself is shown, and never acts: no markup, no control characters.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.progress import Progress
from pipeline.standing import StageStanding, Standing
from rewards.printable import printable
from stages.base import Estimate

SILENT_S = 60.0
"""After so long without a sign of life it is shown in colour."""
HEIGHT_OF_DETAILS = 16
"""Lines that are kept free for what is told below the table."""
STYLES = {"done": "green", "running": "bold", "failed": "red", "interrupted": "yellow", "waiting": "dim"}
_REWARD = re.compile(r"(?:(?P<exam>.+)/)?reward/(?:(?P<part>.+)/)?mean")

Format = Callable[[float], str]


def _number(value: float) -> str:
    return f"{value:.3g}"


def _percent(value: float) -> str:
    return f"{value:.1%}"


SHOWN: Mapping[str, Sequence[tuple[str, str, Format]]] = {
    "learning": (
        ("train/loss", "loss", _number),
        ("train/token_accuracy", "token accuracy", _percent),
        ("preference/accuracy_beyond_offset", "preferred rightly", _percent),
        ("train/grad_norm", "gradient norm", _number),
    ),
    "exam": (("early_stop/accuracy", "accuracy", _percent),),
    "staleness": (
        ("rollout/staleness_mean", "mean", _number),
        ("rollout/staleness_max", "max", _number),
        ("rollout/stale_groups/count", "groups dropped", _number),
    ),
    "drift": (
        ("sync/drift_mean", "probe", _number),
        ("sync/drift_max", "probe max", _number),
        ("policy/mismatch_mean_nats", "batch", _number),
        ("policy/mismatch_max_nats", "batch max", _number),
    ),
    "KL": (("policy/kl_nats", "from reference", _number), ("monitor/kl_nats", "from start", _number)),
    "answers": (
        ("rollout/length/mean_tokens", "tokens", _number),
        ("rollout/truncated_fraction", "cut", _percent),
        ("rollout/no_signal_fraction", "groups without signal", _percent),
    ),
    "queues": (
        ("rollout/ahead", "groups ahead", _number),
        ("reward/queue_groups_max", "groups before a reward, at most", _number),
    ),
}
"""Titles of lines, and of which metrics they tell under which name. Drift and KL are in nats."""


def view(standing: Standing, *, height: int | None = None) -> RenderableType:
    """Return a run's whole view; of many stages no more than ``height`` lines leave room for, and then no warnings:
    a view that is redrawn has them printed above it."""
    room = None if height is None else max(3, height - HEIGHT_OF_DETAILS)
    blocks = [block for stage in standing.stages for block in _block(stage, standing)]
    if height is None:
        blocks += [_warning(stage, text) for stage, text in standing.warnings]
    notes = [Text(f"\n{printable(note)}", style="yellow", overflow="fold") for note in standing.notes]
    base = [Text(f"from {printable(standing.model)}", overflow="fold")] if standing.model else []
    return Group(stage_table(standing, most=room), *base, *blocks, *notes)


def _warning(stage: str, text: str) -> Text:
    return Text(f"stage {printable(stage)} warned: {printable(text)}", style="yellow", overflow="fold")


def stage_table(standing: Standing, *, most: int | None = None) -> Table:
    """Return stages with status, wall time and what exams found, each with its 95 % interval.

    Of more than ``most`` stages those around the first that is not done are shown, and how many others there are.
    """
    quantities = sorted({quantity for row in standing.exams.values() for quantity in row})
    title = Text(f"{printable(standing.name)}, seed {standing.seed}")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1))
    for heading in ("stage", "kind", "status"):
        table.add_column(heading)
    for heading in ("wall", *quantities):
        table.add_column(Text(printable(heading)), justify="right")

    def add(name: str, kind: str, status: str, wall: str) -> None:
        found = [_cell(standing.exams.get(name, {}).get(quantity)) for quantity in quantities]
        table.add_row(
            Text(printable(name)), Text(printable(kind)), Text(status, style=STYLES.get(status, "")), wall, *found
        )

    if "base" in standing.exams:
        add("base", "model", "", "")
    before, shown, after = _around(standing.stages, most)
    if before:
        table.add_row(f"{before} more")
    for stage in shown:
        wall = duration(stage.wall_s) if stage.wall_s else ""
        add(stage.name, stage.kind, stage.status, wall)
    if after:
        table.add_row(f"{after} more")
    return table


def duration(seconds: float) -> str:
    """Return seconds as text, in the unit that keeps two digits or more."""
    if seconds < 1000:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3 * 3600 else f"{seconds / 3600:.1f} h"


def _around(stages: Sequence[StageStanding], most: int | None) -> tuple[int, Sequence[StageStanding], int]:
    """Return how many stages are left out before, those shown, and how many are left out after."""
    if most is None or len(stages) <= most:
        return 0, stages, 0
    current = next((at for at, stage in enumerate(stages) if stage.status != "done"), len(stages) - 1)
    first = min(max(0, current - most // 2), len(stages) - most)
    return first, stages[first : first + most], len(stages) - first - most


def _cell(value: Estimate | None) -> str:
    return f"{value.mean:.1%} [{value.low:.1%}, {value.high:.1%}]" if value else ""


def _block(stage: StageStanding, standing: Standing) -> Iterator[RenderableType]:
    """Yield what is told of a stage below the table; nothing of one that waits, or that is done and scored all."""
    lines = list(_lines(stage, standing))
    if stage.status == "failed" or lines:
        attempt = f", attempt {stage.attempts}" if stage.attempts > 1 else ""
        yield Text(f"\n{printable(stage.name)}{attempt}", style="bold")
    if lines:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for title, content in lines:
            grid.add_row(f"  {title}", content)
        yield grid
    if stage.status == "failed":
        yield Text(f"  failed: {printable(stage.cause)}", style="red", overflow="fold")
        yield Text(f"  {printable(str(stage.attempt / 'stage.log'))}", overflow="fold")


def _lines(stage: StageStanding, standing: Standing) -> Iterator[tuple[str, RenderableType]]:
    progress = stage.progress
    if stage.status in ("running", "interrupted", "failed"):
        if stage.is_again:
            yield "why again", Text(printable(stage.why))
        yield "step", _pace(progress, is_going=stage.status == "running")
        yield from _measured(progress) if progress is not None else ()
    if stage.status in ("running", "interrupted"):
        for waiting in stage.waits:
            yield "waits for", Text(printable(waiting))
        yield from _signs_of_life(stage, standing)
    if progress is not None:
        yield from _troubles(progress)


def _pace(progress: Progress | None, *, is_going: bool) -> RenderableType:
    """Return a bar, and, while it grows, how fast."""
    if progress is None:
        return Text("none yet")
    if progress.num_steps is None:
        return Text(f"{progress.step}")
    rate = f"{progress.step_s:.3g} s each" if progress.step_s is not None else ""
    left = f"about {duration(progress.left_s)} left" if progress.left_s is not None and is_going else ""
    grid = Table.grid(padding=(0, 2, 0, 0))
    told = Text(", ".join(filter(None, (f"{progress.step}/{progress.num_steps}", rate, left))))
    grid.add_row(ProgressBar(total=max(1, progress.num_steps), completed=progress.step, width=20), told)
    return grid


def _measured(progress: Progress) -> Iterator[tuple[str, RenderableType]]:
    """Yield the newest metrics, as far as the stage has them."""
    newest = progress.newest
    rewards = {label: value for name, value in newest.items() if (label := _reward_label(name))}
    if rewards:
        yield "reward", _joined(f"{label} {_number(value)}" for label, value in rewards.items())
    for title, shown in SHOWN.items():
        told = [f"{label} {format_(newest[name])}" for name, label, format_ in shown if name in newest]
        if told:
            yield title, _joined(told)
    rates = {"sampled": progress.sampled_tokens_per_s, "learned": progress.learned_tokens_per_s}
    told = [f"{label} {rate:,.0f}" for label, rate in rates.items() if rate is not None]
    if told:
        yield "tokens/s", _joined(told)


def _reward_label(name: str) -> str:
    """Return what a reward's mean is called: "mean", a reward's own name, or an exam's; "" for other metrics."""
    found = _REWARD.fullmatch(name)
    if found is None or found["exam"] == "early_stop" or (found["exam"] and found["part"]):
        return ""
    return found["exam"] or found["part"] or "mean"


def _joined(parts: Iterator[str] | Sequence[str]) -> Text:
    return Text(printable("  ".join(parts)))


def _signs_of_life(stage: StageStanding, standing: Standing) -> Iterator[tuple[str, RenderableType]]:
    if stage.silent_s is not None:
        style = "yellow" if stage.silent_s > SILENT_S else ""
        yield "last sign of life", Text(f"{duration(stage.silent_s)} ago", style=style)
    if stage.status == "interrupted":
        gone = f"its driver is gone; go on with: strop resume {printable(str(standing.root))}"
        there = "the run has a driver again, which is not at this stage yet"
        yield "interrupted", Text(there if standing.is_driven else gone, style="yellow")


def _troubles(progress: Progress) -> Iterator[tuple[str, RenderableType]]:
    """Yield what went wrong of late without ending the stage."""
    of_late = f"by the last {progress.num_lines} lines of metrics"
    if progress.engine_restarts:
        yield "engines replaced", Text(f"{progress.engine_restarts} {of_late}", style="yellow")
    unscorable = {cause: count for cause, count in progress.causes.items() if cause != "ok"}
    if any(unscorable.values()):
        told = ", ".join(f"{count} {cause}" for cause, count in unscorable.items())
        total = sum(progress.causes.values())
        yield "not scored", Text(printable(f"{told}; of {total}, {of_late}"), style="yellow")
