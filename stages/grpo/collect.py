"""What one step learns from: groups taken from the stream until there are enough with signal. The driver calls it."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rollout.collector import summarize
from rollout.records import write_groups
from rollout.stream import GroupStream, staleness
from rollout.types import RolloutGroup
from stages.base import StageContext, StageError
from stages.grpo.advantages import advantages_of
from stages.grpo.batch import TrainingBatch, make_batch
from stages.grpo.config import GRPOStage
from stages.grpo.no_signal import no_signal

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What one step learns from."""

    groups: Sequence[RolloutGroup]
    """All that were taken, those without signal among them."""
    batch: TrainingBatch
    metrics: Mapping[str, float]


def collect(
    config: GRPOStage,
    context: StageContext,
    stream: GroupStream,
    step: int,
    adjusted: Callable[[Sequence[RolloutGroup]], list[RolloutGroup]] = list,
) -> Collected:
    """Take the groups of one step, by which version ``step`` is improved; all that are taken are kept on disk at once.

    ``adjusted`` may change their rewards first. Groups without signal are replaced by those of fresh prompts within the
    config's budget; where none has any, whole batches are. What is too stale is dropped and replaced too, unless the
    config keeps it. Raises StageError where there is nothing to learn from.
    """
    start, groups, num_stale = time.monotonic(), list[RolloutGroup](), 0
    most_stale = stream.num_ahead + config.prompts_per_step
    replaceable, empty_batches = config.replace_up_to, config.max_empty_batches
    missing = config.prompts_per_step
    while missing:
        ask_ahead(config, stream, step, at_least=missing)
        taken = adjusted(stream.take(missing))
        fresh = [group for group in taken if staleness(group, step) <= config.max_staleness]
        used = taken if config.stale_groups == "keep" else fresh
        num_stale += len(taken) - len(fresh)
        if len(used) < len(taken) and num_stale > most_stale:
            raise StageError(
                f"version {step} is to be improved, and {num_stale} groups in a row, asked for just now, are more than "
                f"{config.max_staleness} versions behind; the engines do not hold what they were sent"
            )
        groups += used
        write_groups(rollout_file(context, step + 1), groups)
        batch = make_batch(groups, config)
        without_signal = sum(row is None for row in advantages_of(used, config))
        missing = len(taken) - len(used) + min(without_signal, replaceable)
        replaceable -= min(without_signal, replaceable)
        if not missing and batch is None:
            if not empty_batches:
                raise no_signal(groups, config, rollout_file(context, step + 1))
            logger.warning("no group of %d has answers that differ in reward; taking fresh prompts", len(groups))
            missing, empty_batches = config.prompts_per_step, empty_batches - 1
    assert batch is not None
    age = [staleness(group, step) for group in groups]
    no_signal_fraction = sum(row is None for row in advantages_of(groups, config)) / len(groups)
    own = {
        "rollout/no_signal_fraction": no_signal_fraction,
        "rollout/no_signal_s": no_signal_fraction * (time.monotonic() - start),
        "rollout/stale_groups/count": num_stale,
        "rollout/staleness_max": max(age),
    }
    return Collected(
        groups=groups,
        batch=batch,
        metrics={
            **summarize(groups),
            **own,
            "rollout/staleness_mean": sum(age) / len(age),
            "rollout/ahead": stream.num_ahead,
        },
    )


def ask_ahead(config: GRPOStage, stream: GroupStream, step: int, *, at_least: int) -> None:
    """Keep as many groups in flight as can still be learned from: those of this step and of ``max_staleness`` more."""
    steps = min(config.max_staleness + 1, config.num_steps - step)
    wanted = config.prompts_per_step * (steps - 1) + at_least
    stream.request(max(0, wanted - stream.num_ahead), step + 1)


def rollout_file(context: StageContext, step: int) -> Path:
    """Where the groups that led to version ``step`` are kept."""
    return context.rollouts / f"step_{step:06d}.parquet"
