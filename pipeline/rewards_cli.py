"""`strop rewards score | check | rescore`: rewards without a run."""

import json
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from pipeline.config import ConfigError
from pipeline.state import RunFolder
from pipeline.terminal import PATH, console, errors, readable_errors, say
from rewards.printable import printable

app = typer.Typer(help="Try rewards on a file, put one to the test, score a run's groups again.", no_args_is_help=True)

Specs = Annotated[
    list[str], typer.Option("--reward", help="math, module:function, or {type: length, limit: 512}. Repeatable.")
]
Data = Annotated[Path, typer.Option(help="JSONL with prompt, completion and the columns that rewards read.", **PATH)]
Deadline = Annotated[float, typer.Option(help="Seconds that a group may take.")]
Workers = Annotated[int, typer.Option(help="Worker processes.")]


@app.command("score")
def score_command(reward: Specs, data: Data, deadline_s: Deadline = 20.0, workers: Workers = 1) -> None:
    """Score a file: a JSON line each on standard output, a summary on standard error.

    Neighbouring rows with the same prompt are one group.
    """
    from stages import offline

    with readable_errors():
        setup = offline.setup(reward, deadline_s=deadline_s, num_workers=workers)
        start, causes, values = time.monotonic(), Counter[str](), list[float]()
        for score in offline.score_file(data, setup):
            print(json.dumps(offline.line(score)), flush=True)
            causes[score.cause] += 1
            values += [score.value] if score.value is not None else []
        seconds = time.monotonic() - start
    mean = f"mean {sum(values) / len(values):.4g}" if values else "no value"
    counted = ", ".join(f"{count} {cause}" for cause, count in causes.items())
    say(f"{causes.total()} attempts: {counted}; {mean}; {seconds:.1f} s with the workers' start", on=errors)


@app.command("check")
def check_command(
    reward: Specs,
    data: Data,
    deadline_s: Deadline = 20.0,
    random: Annotated[bool, typer.Option("--random", help="Two calls may differ.")] = False,
) -> None:
    """Put rewards to the test on gold answers, and say what to mend. Exit code 2 where something is."""
    from stages import offline

    with readable_errors():
        setup = offline.setup(reward, deadline_s=deadline_s, num_workers=1)
        findings = list(offline.contract(data, setup, is_random=random))
    for finding in findings:
        mark = "passed" if finding.is_kept else "failed"
        say(f"{mark}  {finding.clause}: {finding.detail}")
    if not all(finding.is_kept for finding in findings):
        raise typer.Exit(2)


@app.command("rescore")
def rescore_command(
    run: Annotated[Path, typer.Argument(help="A run's folder, such as runs/quickstart.", show_default=False)],
    reward: Specs,
    stage: Annotated[str, typer.Option(help="The stage whose groups are scored again.")] = "grpo",
    deadline_s: Deadline = 20.0,
    workers: Workers = 1,
) -> None:
    """Score a finished run's stored groups with other rewards, and show how scores and advantages change."""
    from stages import offline, rescoring

    with readable_errors():
        RunFolder(run).require_own()
        files = sorted((run / stage / "rollouts").rglob("*.parquet"))
        if not files:
            raise ConfigError(f"{run / stage / 'rollouts'} holds no groups; name another stage by --stage")
        found = rescoring.rescore(files, offline.setup(reward, deadline_s=deadline_s, num_workers=workers))
    title = Text(printable(f"{run}, stage {stage}: {', '.join(reward)} instead of its own rewards"))
    table = Table(title=title, title_justify="left")
    table.add_column("of the stored groups")
    table.add_column("", justify="right")
    told = asdict(found)
    changed = told.pop("changed")
    for name, value in told.items():
        shown = "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), shown)
    console.print(table)
    for one in changed:
        reads = "; ".join(f"{label} read {read!r}" for label, read in one["reads"].items()) or "no answer was read"
        say(f"{one['prompt_id']}: {one['before']} -> {one['after']}; {reads}")
