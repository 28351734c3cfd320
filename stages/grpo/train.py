"""GRPO: groups of answers are sampled, scored, and learned from.

    prompts -> stream -> collector -> engines -> rewards.scorer -> RolloutGroup
            -> batch (lists become tensors) -> learner.update -> publish the new version -> next step

One process runs this loop and owns the learner, or its first rank, which the others follow. Engines answer and rewards
mark in processes of their own. With ``max_staleness`` 0 a step asks for its groups and waits; with more, groups
of so many steps to come are being answered and scored meanwhile, and weights land in the middle of them. After
``publish`` returns, every engine holds version ``step``.
"""

import json
import logging
from pathlib import Path

from rewards import combine
from rewards.combinations import Combination
from rollout.collector import part_means
from rollout.prompts import PromptSource
from rollout.records import read_groups, write_groups
from rollout.stream import GroupStream
from rollout.types import RolloutGroup
from stages import checkpoints
from stages.base import StageContext, StageResult
from stages.generation import derive_seed, open_rollouts, probes, prompts_of
from stages.grpo.batch import batches_by_reward, hint_batch
from stages.grpo.collect import collect
from stages.grpo.config import GRPOStage
from stages.grpo.hints import hinting
from stages.grpo.learner import Learner
from stages.grpo.ranks import Ranks, follow
from stages.hand_over import save_policy
from stages.metrics import Clock
from stages.models import load_policy

logger = logging.getLogger(__name__)

AHEAD = "ahead.parquet"
"""File of a checkpoint with the groups that no step has taken yet."""
NUM_HANDED_OVER = 16
"""Prompts whose log-probabilities go into the manifest, for whoever loads the model to reproduce."""


def run(config: GRPOStage, context: StageContext) -> StageResult:
    """Improve the policy on its own scored answers."""
    policy = load_policy(context)
    learner = Learner(policy, config, context.facts, Ranks(context.rank, context.metrics.folder))
    if context.rank.index > 0:
        follow(learner)
        return StageResult()
    questions = prompts_of(context, config, "prompts", policy.tokenizer)
    prompts = PromptSource(questions, context.seed, config.prompt_order)
    probe = probes(questions, config.sync.num_probes)
    learner.require_reference(probe)
    combination = combine.build(config.combine, config.rewards)
    step = resume(context, learner, prompts, combination)
    if step < config.num_steps:
        with open_rollouts(context, policy, config, combination) as rollouts:
            collector = rollouts.collector(config.sampling)
            seed = derive_seed(context.seed, "rollouts")
            greedy = config.advantage.type == "greedy_baseline"
            hints = hinting(config.hint, policy.tokenizer, room=config.room("prompts", context.facts.engine), seed=seed)
            stream = GroupStream(
                collector, prompts, group_size=config.group_size, seed=seed, with_greedy=greedy, prepared=hints
            )
            stream.restore(ahead_in(context, step))
            rollouts.publish(learner.policy(), step, probe, learner.logprobs(probe))
            while step < config.num_steps:
                clock = Clock()
                collected = collect(config, context, stream, step, learner.with_kl_in_reward)
                rollouts.pool.sleep()
                clock.lap("generate_and_score")
                if combination.wants_gradients(step + 1):
                    products = learner.gradient_products(batches_by_reward(collected.groups, config))
                    combination.observe_gradients(products)
                learned = learner.update(collected.batch, combination.scale(), hint_batch(collected.groups))
                combination.observe(part_means(collected.groups))
                prompts.observe(collected.groups)
                step += 1
                clock.lap("learn")
                synced = rollouts.publish(learner.policy(), step, probe, learner.logprobs(probe))
                clock.lap("sync")
                waited = collector.take_metrics()
                waited["reward/wait_fraction"] = waited["reward/wait_s"] / sum(clock.laps.values())
                metrics = {**learned, **collected.metrics, **waited, **synced.metrics(), **combination.metrics()}
                context.metrics.write(step, {**metrics, **clock.laps}, of=config.num_steps)
                if is_due(config, step):
                    save(config, context, step, learner, prompts, stream, combination)
    save_policy(
        context,
        learner.policy(),
        version=step,
        data=[("prompts", config.prompts)],
        probes=[prompt.token_ids for prompt in questions[:NUM_HANDED_OVER]],
        live=learner.logprobs,
    )
    learner.ranks.close()
    return StageResult(metrics={"train/steps": step, "rollout/prompts_taken": prompts.num_taken})


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


def ahead_in(context: StageContext, step: int) -> list[RolloutGroup]:
    """Return the groups that were sampled and not yet learned from when version ``step`` was saved."""
    file = checkpoints.step_folder(context.checkpoints, step) / AHEAD
    return read_groups(file) if file.is_file() else []


def save(
    config: GRPOStage,
    context: StageContext,
    step: int,
    learner: Learner,
    prompts: PromptSource,
    stream: GroupStream,
    combination: Combination,
) -> None:
    """Write a checkpoint, whole or not at all, once what is in flight has landed: that is part of it."""
    ahead = stream.settled()

    def write(folder: Path) -> None:
        learner.save(folder / "learner")
        (folder / "prompts.json").write_text(json.dumps(prompts.state_dict()))
        (folder / "combination.json").write_text(json.dumps(combination.state_dict()))
        write_groups(folder / AHEAD, ahead)

    checkpoints.save(context.checkpoints, step, write, keep=config.checkpoint.keep)


def is_due(config: GRPOStage, step: int) -> bool:
    """Whether version ``step`` is to be saved: by the period, and at the end."""
    every = config.checkpoint.every_steps
    return step == config.num_steps or (every > 0 and step % every == 0)
