"""`strop check --sample N`: how ready is the model that a GRPO stage starts from? Runs engines, and no stage."""

from pathlib import Path

from rich.table import Table

from pipeline.config import ConfigError, RunConfig
from pipeline.job import Job
from pipeline.run import Launcher
from pipeline.state import RunFolder
from stages.base import StageResult
from stages.grpo.config import GRPOStage
from stages.readiness.config import ReadinessStage

SHOWN = {
    "readiness/pass_rate/mean": "mean pass rate",
    "readiness/pass_rate/0/fraction": "prompts that are never passed",
    "readiness/pass_rate/to_0.25/fraction": "up to 25 %",
    "readiness/pass_rate/to_0.5/fraction": "up to 50 %",
    "readiness/pass_rate/to_0.75/fraction": "up to 75 %",
    "readiness/pass_rate/to_1/fraction": "up to 100 %, not always",
    "readiness/pass_rate/1/fraction": "always",
    "readiness/signal_fraction": "groups with signal",
    "readiness/expected_signal/mean": "mean of sqrt(a (1 - a)), 0.5 at most",
    "rollout/truncated_fraction": "answers cut off",
    "reward/unscorable_fraction": "answers that could not be scored",
}


def sampled(config: RunConfig, folder: RunFolder, launcher: Launcher, num_prompts: int) -> dict[str, StageResult]:
    """Return a report for each GRPO stage whose model is there. Raises ConfigError where none is, or it fails."""
    stages = {name: stage for name, stage in config.stages.items() if isinstance(stage, GRPOStage)}
    there = {name: stage for name, stage in stages.items() if _model(folder, stage) is not None or not stage.init_from}
    if not there:
        wanted = ", ".join(f"{name!r} starts from {stage.init_from!r}" for name, stage in stages.items())
        raise ConfigError(f"there is nothing to sample from yet: {wanted or 'there is no grpo stage'}")
    return {name: _report(config, folder, launcher, name, stage, num_prompts) for name, stage in there.items()}


def table(name: str, result: StageResult) -> Table:
    """Return a report for people."""
    count = result.metrics["readiness/prompts/count"]
    found = Table(title=f"{name}, before it learns: {count:.0f} prompts", title_justify="left", show_header=False)
    for metric, words in SHOWN.items():
        if metric in result.metrics:
            found.add_row(words, f"{result.metrics[metric]:.3f}")
    return found


def _report(
    config: RunConfig, folder: RunFolder, launcher: Launcher, name: str, stage: GRPOStage, num_prompts: int
) -> StageResult:
    place = (folder.root / ".readiness" / name).resolve()
    place.mkdir(parents=True, exist_ok=True)
    model = _model(folder, stage)
    readiness = ReadinessStage(
        kind="readiness",
        init_from=stage.init_from,
        prompts=stage.prompts,
        rewards=stage.rewards,
        combine=stage.combine,
        scoring=stage.scoring,
        sync=stage.sync,
        sampling=stage.sampling,
        environment=stage.environment,
        num_prompts=num_prompts,
        num_samples=stage.group_size,
        tolerance=stage.advantage.tolerance,
    )
    job = Job(
        name=f"{name} readiness",
        config=readiness,
        facts=config.facts,
        folder=place,
        attempt=place,
        inputs={"policy": model} if model is not None else {},
        fingerprint="",
        seed=config.seed,
        launched_from=Path.cwd(),
    )
    outcome = launcher.run(job, lambda: None)
    if outcome.result is None:
        raise ConfigError(f"stage {name!r} could not be sampled: {outcome.cause}; see {place / 'stage.log'}")
    return outcome.result


def _model(folder: RunFolder, stage: GRPOStage) -> Path | None:
    """Return the model that the stage starts from, where an earlier stage has made it."""
    output = folder.stage(stage.init_from).resolve() / "output" if stage.init_from else None
    return output if output is not None and (output / "config.json").is_file() else None
