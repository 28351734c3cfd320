"""The command line: `strop check | run | resume | status | rewards`. Imports nothing heavy.

Exit code 2: the user's to mend, and nothing was started. Exit code 1: a stage failed.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from pipeline import rewards_cli, summary
from pipeline.check import Findings, check
from pipeline.config import ConfigError, RunConfig, load_config
from pipeline.graph import needed
from pipeline.plan import Step
from pipeline.state import RunFolder, RunState, write_json, write_text
from pipeline.terminal import console, errors, readable_errors

if TYPE_CHECKING:
    from pipeline.run import Observer

app = typer.Typer(
    help="Take a language model from base to finished: SFT, preference optimisation, GRPO. One run, one file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(rewards_cli.app, name="rewards")

Recipe = Annotated[Path, typer.Argument(help="A recipe, such as configs/quickstart.yaml.", show_default=False)]
RunPath = Annotated[Path, typer.Argument(help="A run's folder, such as runs/quickstart.", show_default=False)]
Set = Annotated[list[str], typer.Option("--set", help="Change one key: stages.odpo.loss.beta=0.05. Repeatable.")]
Runs = Annotated[Path, typer.Option(help="Folder that holds the folders of runs.")]
Only = Annotated[str | None, typer.Option(help="Run this stage and what it needs, and no more.")]


@app.command("check")
def check_command(
    recipe: Recipe,
    set_: Set = [],  # noqa: B006 - typer's way
    runs: Runs = Path("runs"),
    sample: Annotated[int, typer.Option(help="Prompts to sample before GRPO, with engines: is there signal?")] = 0,
) -> None:
    """Say whether a recipe is right and what would run. Seconds, no GPU, no Ray, unless it is to sample."""
    with readable_errors():
        config = load_config(recipe, set_)
        folder = RunFolder(runs / config.name)
        _show(config, check(config, folder))
        if sample:
            _show_readiness(config, folder, sample)


@app.command("run")
def run_command(
    recipe: Recipe,
    set_: Set = [],  # noqa: B006
    runs: Runs = Path("runs"),
    only: Only = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on if the run was begun before.")] = False,
) -> None:
    """Run a whole recipe, or one stage of it with what it needs."""
    with readable_errors():
        config = load_config(recipe, set_)
        folder = RunFolder(runs / config.name)
        if folder.load() is not None and not resume:
            raise ConfigError(
                f"{folder.root} holds a run already. To go on with it as it is: strop resume {folder.root}. To go on "
                f"with the recipe as you have changed it: strop run {recipe} --resume. To keep it and run anew: --set "
                f"name={config.name}-2. To start over: delete {folder.root}"
            )
        _drive(config, folder, only, recipe.read_text())


@app.command("resume")
def resume_command(run: RunPath, set_: Set = []) -> None:  # noqa: B006
    """Go on where a run stopped: finished stages are skipped, a half stage continues from its last checkpoint."""
    with readable_errors():
        folder = RunFolder(run)
        _require_run(folder)
        state = folder.load()
        if state is not None and state.begun_in not in ("", str(Path.cwd())):
            errors.print(
                f"note: the run was begun in {state.begun_in}, from which its recipe's paths are seen; this is "
                f"{Path.cwd()}",
                highlight=False,
                markup=False,
            )
        _drive(load_config(folder.resolved, set_), folder, None, None)


@app.command("status")
def status_command(run: RunPath) -> None:
    """Say what is done, what runs, and why what failed did."""
    with readable_errors():
        folder = RunFolder(run)
        _require_run(folder)
        config, state = load_config(folder.resolved), folder.load()
        if state is None:
            raise ConfigError(f"the run in {run} has not begun")
        console.print(summary.table(config, folder, state))
        for name in config.stages:
            _say_where_it_stands(name, state, folder)


@app.command("export")
def export_command(
    run: RunPath,
    stage: Annotated[str, typer.Argument(help="The stage whose model it is.")],
    to: Annotated[Path, typer.Option("--to", help="A folder that is not there yet.")],
    adapter: Annotated[bool, typer.Option("--adapter", help="The low-rank adapter alone.")] = False,
) -> None:
    """Write a finished stage's model as a plain Hugging Face folder, with a model card."""
    from pipeline.export import export

    with readable_errors():
        folder = RunFolder(run)
        _require_run(folder)
        written = export(load_config(folder.resolved), folder, stage, to, adapter=adapter)
    console.print(f"{written}: for transformers, or: vllm serve {written}", highlight=False, soft_wrap=True)


def _drive(config: RunConfig, folder: RunFolder, only: str | None, recipe: str | None) -> None:
    """Check, write down what is about to run, run it, and show what came of it."""
    from pipeline.run import StageFailed, run

    if only is not None:
        needed(config.stages, only)
    _require_none(check(config, folder))
    with folder.locked():
        if recipe is not None:
            write_text(folder.recipe, recipe)
        write_json(folder.resolved, config.model_dump(mode="json"))
        try:
            with _observed(config, folder) as observer:
                state = run(config, folder, lambda: _launcher(config), observer, only=only)
        except StageFailed as error:
            errors.print(str(error), style="red", highlight=False, markup=False)
            raise typer.Exit(1) from error
    console.print(summary.table(config, folder, state))
    gains = summary.gains_table(config, folder, state)
    if gains is not None:
        console.print(gains)
    for name in [name for name in config.stages if (folder.stage(name) / "output" / "config.json").is_file()][-1:]:
        console.print(f"the model of {name}, a Hugging Face folder: {folder.stage(name) / 'output'}", highlight=False)
    console.print(f"the same for programs: {folder.summary}", highlight=False)


@contextmanager
def _observed(config: RunConfig, folder: RunFolder) -> Iterator["Observer"]:
    """Yield who hears of progress: the terminal, and the trackers that the recipe names."""
    if not config.tracking:
        yield _Lines()
        return
    from pipeline import tracking

    try:
        tracked = tracking.start(config, folder.root)
    except RuntimeError as error:
        raise ConfigError(str(error)) from error
    try:
        yield _Both(_Lines(), tracked)
    finally:
        tracked.close()


def _require_run(folder: RunFolder) -> None:
    if folder.root.is_file():
        raise ConfigError(f"{folder.root} is a file; what is asked for is a run's folder, such as runs/quickstart")
    if not folder.resolved.is_file():
        way_out = f"run its recipe with: strop run RECIPE --resume --runs {folder.root.parent}"
        raise ConfigError(f"{folder.root} holds no run that is whole ({folder.resolved.name} is missing); {way_out}")


def _launcher(config: RunConfig):  # type: ignore[no-untyped-def]
    """Start Ray; only now is anything heavy imported."""
    import os

    from pipeline.launch import RayLauncher

    return RayLauncher(
        os.environ.get("RAY_ADDRESS") or config.ray_address,
        num_processes=len(config.engine.worker_gpus()) + max(s.learner_processes() for s in config.stages.values()),
        stall_timeout_s=config.stall_timeout_s,
    )


def _show_readiness(config: RunConfig, folder: RunFolder, num_prompts: int) -> None:
    """Sample from the models that GRPO stages would start from, and say what could be learned."""
    from pipeline import readiness

    for name, result in readiness.sampled(config, folder, _launcher(config), num_prompts).items():
        console.print(readiness.table(name, result))


def _require_none(findings: Findings) -> None:
    if findings.problems:
        raise ConfigError("\n".join(findings.problems))


def _show(config: RunConfig, findings: Findings) -> None:
    for note in findings.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    _require_none(findings)
    table = Table(
        title=f"{config.name}: {config.model}, {config.precision}, engine {config.engine.type}", title_justify="left"
    )
    for heading in ("stage", "kind", "reads", "would", "why"):
        table.add_column(heading)
    for step in findings.steps:
        stage = config.stages[step.name]
        sources = list(stage.inputs().values()) or ["base model"]
        reads = ", ".join([*sources, *(data.path for part in stage.whole() for data in part.datasets().values())])
        table.add_row(*map(escape, (step.name, stage.kind, reads, step.action, step.why)))
    console.print(table)


class _Both:
    """Two observers as one."""

    def __init__(self, *observers: "Observer") -> None:
        self._observers = observers

    def begins(self, step: Step) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.begins(step)

    def works(self, step: Step, attempt: Path) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.works(step, attempt)


class _Lines:
    """Progress as plain lines: when a stage begins, and its newest metrics every quarter of a minute."""

    EVERY_S = 15.0

    def __init__(self) -> None:
        self._next = 0.0

    def begins(self, step: Step) -> None:
        """Print what happens with a stage, and why."""
        console.print(f"[bold]{step.name}[/bold]: {step.action}, {escape(step.why)}", highlight=False, soft_wrap=True)
        self._next = time.monotonic() + self.EVERY_S

    def works(self, step: Step, attempt: Path) -> None:
        """Print the stage's newest line of metrics, now and then."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.EVERY_S
        newest = _last_metrics(attempt / "metrics.jsonl")
        if newest:
            shown = [f"{name} {value:.4g}" for name, value in newest.items() if _SHOWN.fullmatch(name)]
            of = f"/{newest['num_steps']:.0f}" if "num_steps" in newest else ""
            console.print(
                f"  {step.name} step {newest['step']:.0f}{of}  {'  '.join(shown)}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )


_SHOWN = re.compile(
    r"train/loss|early_stop/accuracy|preference/accuracy_beyond_offset|(.*/)?reward/.*mean|rollout/no_signal_fraction"
)
"""Metrics that the progress lines tell: each reward's own mean among them, so that a dead one is seen."""
_CAUSE = re.compile(r"reward/cause/(\w+)/count")


def _last_metrics(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    lines = path.read_bytes()[-8192:].splitlines()
    for line in reversed(lines):
        try:
            found: dict[str, float] = json.loads(line)
            return found
        except json.JSONDecodeError:  # the last line may be half written
            continue
    return {}


def _causes(path: Path) -> Counter[str]:
    """Return how many answers of an attempt's steps were scored with each cause."""
    causes = Counter[str]()
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with suppress(json.JSONDecodeError):  # the last line may be half written
            for metric, value in json.loads(line).items():
                if found := _CAUSE.search(metric):
                    causes[found[1]] += value
    return causes


def _say_where_it_stands(name: str, state: RunState, folder: RunFolder) -> None:
    stage = state.stage(name)
    attempt = folder.stage(name) / "latest"
    if stage.status == "failed":
        errors.print(f"{name} failed: {stage.cause}\n  {attempt / 'stage.log'}", highlight=False, markup=False)
    elif stage.status == "running":
        newest = _last_metrics(attempt / "metrics.jsonl")
        at = f"step {newest['step']:.0f}" if newest else "no step yet"
        age = time.time() - (attempt / "stage.log").stat().st_mtime if (attempt / "stage.log").exists() else 0.0
        driver = "" if folder.is_driven() else f"; its driver is gone, go on with: strop resume {folder.root}"
        console.print(f"{name}: {at}; last sign of life {age:.0f} s ago{driver}", highlight=False, soft_wrap=True)
    causes = _causes(attempt / "metrics.jsonl")
    if set(causes) - {"ok"}:
        counted = ", ".join(f"{count:.0f} {cause}" for cause, count in causes.items())
        console.print(f"{name}: its rewards' scores by cause: {counted}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
