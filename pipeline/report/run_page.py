"""`report.html`: one run to look at, and its rollouts to read."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.report import figures
from pipeline.report.curves import Panel, curves
from pipeline.report.decoding import decoder
from pipeline.report.page import Page, Row, render
from pipeline.report.run_data import RunData, read
from pipeline.state import RunFolder, write_text
from rewards.hub import briefly
from stages.sampled import Sample, sample

REPORT = "report.html"
MOST_TOKENS = 300_000
"""Of rollouts on a page; the stages that have any share them."""


def write(config: RunConfig, folder: RunFolder) -> Path:
    """Write a run's report from what lies in its folder, finished or not; return the file.

    Raises RunFolderError where the run has not begun, or cannot be read.
    """
    run = read(config, folder)
    notes = list(run.notes)
    notes += [f"stage {stage} warned: {text}" for stage, text in run.standing.warnings]
    samples = _samples(run, notes)
    read_files = sum(found.num_read for found in samples.values())
    num_files = sum(found.num_files for found in samples.values())
    base = briefly(config.model, config.model_revision)
    page = Page(
        title=config.name,
        facts=f"{base}, seed {config.seed}, engine {config.engine.type}, {run.standing.wall_s:.0f} s in stages",
        runs=[run],
        rows=list(_rows(run, samples)),
        groups=[group for found in samples.values() for group in found.groups],
        groups_hint=f"From {read_files} of the {num_files} files of rollouts, spread over each stage.",
        recipe=folder.recipe.read_text(encoding="utf-8", errors="replace") if folder.recipe.is_file() else "",
        notes=[*notes, *(note for found in samples.values() for note in found.notes)],
    )
    write_text(folder.root / REPORT, render(page))
    return folder.root / REPORT


def _samples(run: RunData, notes: list[str]) -> dict[str, Sample]:
    stages = run.config.stages
    writing = [name for name in stages if (run.folder.stage(name) / "rollouts").is_dir()]
    return {
        name: sample(
            stages[name],
            run.folder.stage(name),
            decoder(run.config, run.folder, name, notes),
            MOST_TOKENS // len(writing),
        )
        for name in writing
    }


def whole_run(runs: Sequence[RunData]) -> Iterator[Row]:
    """Yield what the pages of one run and of several share: the climb, time, and the curves."""
    for title, figure in figures.climb(runs):
        hint = "Points are means with 95 % intervals; lines lead from a model to those that started from it."
        yield Row(title=title, panels=[Panel(title="", figure=figure, told="")], is_wide=True, hint=hint)
    time = figures.time_spent(runs)
    if time is not None:
        yield Row(
            title="Time by activity",
            panels=[Panel(title="", figure=time, told=_seconds(runs))],
            is_wide=True,
            hint="Of all attempts, work that a kill undid included. What goes on while it learns takes no time here.",
        )
    for quantity, panels in curves(runs):
        yield Row(title=quantity.title, panels=panels, hint=quantity.hint)


def _rows(run: RunData, samples: Mapping[str, Sample]) -> Iterator[Row]:
    yield from whole_run([run])
    counts, picture = figures.causes(run)
    if counts:
        title, told = "Answers without a score, by cause", _counts(counts)
        panels = [Panel(title="", figure=picture, told=told)] if picture else []
        yield Row(title=title, panels=panels, hint="" if picture else f"None: all {counts['ok']} counted have one.")
    yield from distributions(samples)


def distributions(samples: Mapping[str, Sample]) -> Iterator[Row]:
    """Yield lengths and ages of answers, as a picture where they differ and as a sentence where they do not."""
    lengths = {source: found for each in samples.values() for source, found in each.lengths.items()}
    ages = {name: found.ages for name, found in samples.items()}
    for title, values, unit in (
        ("Lengths of answers", lengths, "tokens"),
        ("Age of answers when they were learned from", ages, "versions that the oldest token is behind"),
    ):
        different = {value for found in values.values() for value in found}
        if len(different) == 1:
            yield Row(title=title, panels=[], hint=f"All the same: {different.pop()} {unit}.")
        elif different:
            figure = figures.distribution(values, unit)
            yield Row(title=title, panels=[Panel(title="", figure=figure, told=_means(values))], is_wide=True)


def _seconds(runs: Sequence[RunData]) -> str:
    total = sum((Counter(spent) for run in runs for spent in run.spent_s.values()), Counter[str]())
    return "; ".join(f"{activity} {seconds:.0f} s" for activity, seconds in total.most_common())


def _counts(counts: Counter[str]) -> str:
    return "; ".join(f"{count} {cause}" for cause, count in counts.most_common())


def _means(values: Mapping[str, Sequence[int]]) -> str:
    return "; ".join(f"{name}: mean {sum(found) / len(found):.3g}" for name, found in values.items() if found)
