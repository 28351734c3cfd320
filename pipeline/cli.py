"""The command line: `strop check | run | resume | status | report | compare | export | rewards`. Imports nothing heavy.

Exit code 2: the user's to mend, and nothing was started. Exit code 1: a stage failed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from pipeline import live, rewards_cli, summary, tracking
from pipeline.check import Findings, check
from pipeline.config import ConfigError, RunConfig, load_config
from pipeline.graph import needed
from pipeline.lines import Lines
from pipeline.plan import Step
from pipeline.report.closing import leave_report
from pipeline.revisions import keep, pinned
from pipeline.standing import require_begun, standing_of
from pipeline.state import RunFolder, write_json, write_text
from pipeline.terminal import (
    PATH,
    UNBROKEN,
    console,
    endings_as_ctrl_c,
    errors,
    guard_standard_error,
    has_view,
    readable_errors,
    say,
)
from pipeline.view import stage_table, view
from rewards.hub import briefly
from rewards.own_files import make_caches_private, use_own_files
from rewards.printable import printable
from stages.base import Problem

if TYPE_CHECKING:
    from pipeline.ray_process import RayProcess
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
Runs = Annotated[Path, typer.Option(help="Folder that holds the folders of runs.", **PATH)]
Only = Annotated[str | None, typer.Option(help="Run this stage and what it needs, and no more.")]


@app.callback()
def begin() -> None:
    """Come before every command."""
    guard_standard_error()


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
        make_caches_private()
        found = pinned(config, folder)
        _require_none(found.problems)
        for unknown in found.unknown:
            say(f"note: {unknown}")
        config = found.config
        _show(config, check(config, folder))
        if sample:
            use_own_files()
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
                f"with the recipe as you have changed it: strop run {recipe} --resume. To keep it and start another: "
                f"--set name={config.name}-2. To start over: delete {folder.root}"
            )
        folder.require_own()
        _drive(config, folder, only, recipe.read_text(encoding="utf-8-sig"))


@app.command("resume")
def resume_command(run: RunPath, set_: Set = []) -> None:  # noqa: B006
    """Go on where a run stopped: finished stages are skipped, a half stage continues from its last checkpoint."""
    with readable_errors():
        folder = RunFolder(run)
        _require_run(folder)
        state = folder.load()
        if state is not None and state.begun_in not in ("", str(Path.cwd())):
            say(
                f"note: the run was begun in {state.begun_in}, from which its recipe's paths are seen; this is "
                f"{Path.cwd()}",
                on=errors,
            )
        _drive(load_config(folder.resolved, set_), folder, None, None)


@app.command("status")
def status_command(
    run: RunPath,
    watch: Annotated[bool, typer.Option("--watch", help="Redraw it each second, as long as it is driven.")] = False,
) -> None:
    """Say what is done, what runs and how well, and why what failed did: what is seen while a run goes on."""
    with readable_errors():
        folder = RunFolder(run)
        _require_run(folder)
        require_begun(folder)
        if not watch:
            console.print(view(standing_of(folder)), width=None if console.is_terminal else UNBROKEN)
        elif has_view():
            live.watch(folder)
        else:
            raise ConfigError(f"--watch draws on a terminal, which this is not; without: strop status {run}")


@app.command("report")
def report_command(run: RunPath) -> None:
    """Write a run's report.html, finished or not: exams, curves, time, and rollouts to read. One file, no network."""
    from pipeline.report.run_page import write

    with readable_errors():
        folder = RunFolder(run)
        _require_run(folder)
        written = write(load_config(folder.resolved), folder)
    say(str(written))


@app.command("compare")
def compare_command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of two runs or more.", show_default=False)],
    to: Annotated[Path, typer.Option("--to", help="The file to write.", **PATH)] = Path("compare.html"),
) -> None:
    """Write a page of several runs side by side: exams, curves, time, and what differs between their recipes."""
    from pipeline.report.compare_page import write

    with readable_errors():
        folders = [RunFolder(run) for run in runs]
        for folder in folders:
            _require_run(folder)
        written = write(folders, to)
    say(str(written))


@app.command("export")
def export_command(
    run: RunPath,
    stage: Annotated[str, typer.Argument(help="The stage whose model it is.")],
    to: Annotated[Path, typer.Option("--to", help="A folder that is not there yet.", **PATH)],
    adapter: Annotated[bool, typer.Option("--adapter", help="The low-rank adapter alone.")] = False,
) -> None:
    """Write a finished stage's model as a plain Hugging Face folder, with a model card."""
    from pipeline.export import export

    with readable_errors():
        folder = RunFolder(run)
        _require_run(folder)
        written = export(load_config(folder.resolved), folder, stage, to, adapter=adapter)
    say(f"{written}: for transformers, or: vllm serve {written}")


def _drive(config: RunConfig, folder: RunFolder, only: str | None, recipe: str | None) -> None:
    """Check, write down what is about to run, run it, and show what came of it."""
    from pipeline.run import StageFailed, run

    needed(config.stages, only)  # raises where there is no such stage
    make_caches_private()  # models and data may be fetched from now on
    found = pinned(config, folder)
    _require_none([*found.problems, *found.unknown])
    config = found.config
    findings = check(config, folder)
    _require_none(findings.problems)
    for note in findings.notes:
        say(f"note: {note}", on=errors)
    use_own_files()
    with folder.locked(), endings_as_ctrl_c():
        if recipe is not None:
            write_text(folder.recipe, recipe)
        keep(folder, found.commits)
        write_json(folder.resolved, config.model_dump(mode="json"))
        try:
            with _observed(config, folder, findings.steps, only) as observer, _ray(config, folder) as ray:
                run(config, folder, ray.start, observer, only=only)
        except KeyboardInterrupt:
            say(f"stopped; to go on: strop resume {folder.root}", on=errors)
            raise
        except StageFailed as error:
            say(str(error), on=errors, style="red")
            leave_report(config, folder)
            raise typer.Exit(1) from error
    standing = standing_of(folder)
    console.print(stage_table(standing))
    gains = summary.gains_table(standing.gains)
    if gains is not None:
        console.print()
        console.print(gains)
    for name in [name for name in config.stages if (folder.stage(name) / "output" / "config.json").is_file()][-1:]:
        say(f"the model of {name}, a Hugging Face folder: {folder.stage(name) / 'output'}")
    say(f"the same for programs: {folder.summary}")
    leave_report(config, folder)


@contextmanager
def _observed(config: RunConfig, folder: RunFolder, steps: Sequence[Step], only: str | None) -> Iterator["Observer"]:
    """Yield who hears of progress: the terminal, and the trackers that the recipe names."""
    from pipeline.run import Observers

    try:
        trackers = tracking.start(config, folder, steps, only=only) if config.tracking else None
    except tracking.TrackingError as error:
        raise ConfigError(str(error)) from error
    with trackers or nullcontext(), live.live(folder) if has_view() else nullcontext(Lines()) as seen:
        yield Observers([seen, trackers] if trackers else [seen])


def _require_run(folder: RunFolder) -> None:
    if not folder.root.is_dir():
        what = "is a file" if folder.root.is_file() else "is not there"
        raise ConfigError(f"{folder.root} {what}; what is asked for is a run's folder, such as runs/quickstart")
    if not folder.resolved.is_file():
        way_out = f"run its recipe with: strop run RECIPE --resume --runs {folder.root.parent}"
        raise ConfigError(f"{folder.root} holds no run that is whole ({folder.resolved.name} is missing); {way_out}")
    folder.require_own()


def _ray(config: RunConfig, folder: RunFolder) -> "RayProcess":
    """Return where stages run; Ray starts with the first."""
    from pipeline.cluster import cluster_of
    from pipeline.ray_process import RayProcess

    return RayProcess(
        cluster_of(config.ray_address),
        folder.root / "ray.log",
        num_processes=len(config.engine.worker_gpus()) + max(s.learner_processes() for s in config.stages.values()),
        stall_timeout_s=config.stall_timeout_s,
        reserve_timeout_s=config.reserve_timeout_s,
    )


def _show_readiness(config: RunConfig, folder: RunFolder, num_prompts: int) -> None:
    """Sample from the models that GRPO stages would start from, and say what could be learned."""
    from pipeline import readiness

    with _ray(config, folder) as ray:
        results = readiness.sampled(config, folder, ray, num_prompts)
    for name, result in results.items():
        console.print(readiness.table(name, result))


def _require_none(problems: Sequence[Problem]) -> None:
    if problems:
        raise ConfigError("\n".join(problems))


def _show(config: RunConfig, findings: Findings) -> None:
    for note in findings.notes:
        say(f"note: {note}")
    _require_none(findings.problems)
    base = briefly(config.model, config.model_revision)
    title = Text(printable(f"{config.name}: {base}, {config.precision}, engine {config.engine.type}"))
    table = Table(title=title, title_justify="left")
    for heading in ("stage", "kind", "reads", "would", "why"):
        table.add_column(heading)
    for step in findings.steps:
        stage = config.stages[step.name]
        sources = list(stage.inputs().values()) or ["base model"]
        reads = ", ".join([*sources, *(data.path for part in stage.whole() for data in part.datasets().values())])
        table.add_row(*(Text(printable(part)) for part in (step.name, stage.kind, reads, step.action, step.why)))
    console.print(table)


if __name__ == "__main__":
    app()
