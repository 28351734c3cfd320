"""GRPO, strictly on policy: every step samples from the version it improves.

    prompts -> collector -> engine.generate -> rewards.scorer -> RolloutGroup
            -> batch (lists become tensors) -> learner.update -> publish the new version -> next step

One process runs this loop and owns the learner. Engines answer and rewards mark in processes of their own; the loop
waits for both inside ``collect`` and for the engines again inside ``publish``, each time with a deadline. After
``publish`` returns, every engine holds version ``step``.
"""

import json
import logging
import time
from pathlib import Path

from rewards import combine
from rewards.combinations import Combination
from rollout.collector import Collector, part_means, summarize
from rollout.prompts import PromptSource
from rollout.records import write_groups
from rollout.types import RolloutGroup
from stages import checkpoints
from stages.base import StageContext, StageError, StageResult
from stages.data.prompts import load_prompts
from stages.generation import derive_seed, open_rollouts, probes
from stages.grpo.batch import TrainingBatch, batches_by_reward, make_batch
from stages.grpo.config import GRPOStage
from stages.grpo.learner import Learner
from stages.models import load_policy, save_policy

logger = logging.getLogger(__name__)

NUM_HANDED_OVER = 16
"""Prompts whose log-probabilities go into the manifest, for whoever loads the model to reproduce."""


def run(config: GRPOStage, context: StageContext) -> StageResult:
    """Improve the policy on its own scored answers."""
    policy = load_policy(context)
    questions = load_prompts(
        config.prompts, config.columns(), policy.tokenizer, room=config.room("prompts", context.facts.engine)
    )
    prompts = PromptSource(questions, context.seed)
    learner = Learner(policy, config, context.facts)
    probe = probes(questions, config.sync.num_probes)
    learner.require_reference(probe)
    combination = combine.build(config.combine, config.rewards)
    step = resume(context, learner, prompts, combination)
    if step < config.num_steps:
        with open_rollouts(context, policy, config, combination) as rollouts:
            collector = rollouts.collector(config.sampling)
            rollouts.publish(learner.policy, step, probe)
            while step < config.num_steps:
                clock = Clock()
                groups, batch = collect_with_signal(config, context, prompts, collector, step + 1)
                clock.lap("generate_and_score")
                if combination.wants_gradients(step + 1):
                    combination.observe_gradients(learner.gradient_products(batches_by_reward(groups, config)))
                learned = learner.update(batch, combination.scale())
                combination.observe(part_means(groups))
                step += 1
                clock.lap("learn")
                synced = rollouts.publish(learner.policy, step, probe)
                clock.lap("sync")
                sampled = summarize(groups, tolerance=config.advantage.tolerance)
                waited = collector.take_metrics()
                waited["reward/wait_fraction"] = waited["reward/wait_s"] / sum(clock.laps.values())
                metrics = {**learned, **sampled, **waited, **combination.metrics(), **synced.metrics(), **clock.laps}
                context.metrics.write(step, metrics, of=config.num_steps)
                if is_due(config, step):
                    save(config, context, step, learner, prompts, combination)
    save_policy(
        context,
        learner.policy,
        version=step,
        data=[("prompts", config.prompts)],
        probes=[prompt.token_ids for prompt in questions[:NUM_HANDED_OVER]],
    )
    return StageResult(metrics={"train/steps": step, "rollout/prompts_taken": prompts.num_taken})


def collect_with_signal(
    config: GRPOStage, context: StageContext, prompts: PromptSource, collector: Collector, step: int
) -> tuple[list[RolloutGroup], TrainingBatch]:
    """Return all groups collected for version ``step``, and the batch that they make; both are kept on disk at once.

    When no group has signal the next prompts are taken too, up to the config's limit.
    """
    groups: list[RolloutGroup] = []
    for _ in range(config.max_empty_batches + 1):
        seed = derive_seed(context.seed, "rollouts", prompts.num_taken)
        groups += collector.collect(prompts.take(config.prompts_per_step), config.group_size, seed, step)
        write_groups(rollout_file(context, step), groups)
        batch = make_batch(groups, config)
        if batch is not None:
            return groups, batch
        logger.warning("no group of %d has answers that differ in reward; taking fresh prompts", len(groups))
    raise StageError(
        f"{config.max_empty_batches + 1} batches in a row held no group whose answers differ in reward, so there is "
        "nothing to learn from: the task is too hard, too easy, or the reward is blind. Read "
        f"{rollout_file(context, step)}, then change prompts or rewards"
    )


def resume(context: StageContext, learner: Learner, prompts: PromptSource, combination: Combination) -> int:
    """Take up the last whole checkpoint and remove what was written after it; return the version reached."""
    step = checkpoints.latest(context.checkpoints)
    if step is not None:
        folder = checkpoints.step_folder(context.checkpoints, step)
        learner.load(folder / "learner")
        prompts.load_state_dict(json.loads((folder / "prompts.json").read_text()))
        combination.load_state_dict(json.loads((folder / "combination.json").read_text()))
        logger.info("continuing from version %d", step)
    for file in context.rollouts.glob("step_*.parquet"):
        if int(file.stem.removeprefix("step_")) > (step or 0):
            file.unlink()
    return step or 0


def save(
    config: GRPOStage,
    context: StageContext,
    step: int,
    learner: Learner,
    prompts: PromptSource,
    combination: Combination,
) -> None:
    """Write a checkpoint, whole or not at all."""

    def write(folder: Path) -> None:
        learner.save(folder / "learner")
        (folder / "prompts.json").write_text(json.dumps(prompts.state_dict()))
        (folder / "combination.json").write_text(json.dumps(combination.state_dict()))

    checkpoints.save(context.checkpoints, step, write, keep=config.checkpoint.keep)


def is_due(config: GRPOStage, step: int) -> bool:
    """Whether version ``step`` is to be saved: by the period, and at the end."""
    every = config.checkpoint.every_steps
    return step == config.num_steps or (every > 0 and step % every == 0)


def rollout_file(context: StageContext, step: int) -> Path:
    """Where the groups that led to version ``step`` are kept."""
    return context.rollouts / f"step_{step:06d}.parquet"


class Clock:
    """Seconds spent on each part of a step, as metrics."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, name: str) -> None:
        """Note the time since the last lap under this name."""
        now = time.monotonic()
        self.laps[f"time/{name}_s"] = now - self._since
        self._since = now
