"""Pairs: sample answers to every prompt, score them, keep better and worse ones of each group."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from rollout.collector import summarize
from rollout.records import read_groups, write_groups
from rollout.types import Prompt, Rollout, RolloutGroup
from stages import artifact
from stages.base import StageContext, StageError, StageResult
from stages.data.prompts import load_prompts
from stages.data.rows import Row, asked_of, fingerprint
from stages.generation import Rollouts, derive_seed, open_rollouts, probes, prompts_of
from stages.metrics import Clock
from stages.models import Policy, load_policy
from stages.pairs.config import FlippedSystem, PairsStage
from stages.pairs.pairings import Embed, Made, NoPair, Pair, pairs_of, value

logger = logging.getLogger(__name__)


def run(config: PairsStage, context: StageContext) -> StageResult:
    """Answer every prompt several times and publish the pairs that the scores make."""
    policy = load_policy(context)
    prompts = asked(config, context, policy.tokenizer)
    if any(not chunk_file(context, at).is_file() for at in range(0, len(prompts), config.prompts_per_chunk)):
        with open_rollouts(context, policy, config) as rollouts:
            rollouts.publish(policy, 0, probes(prompts, config.sync.num_probes))
            sample(config, context, prompts, rollouts)
    groups = [group for file in sorted(context.rollouts.glob("*.parquet")) for group in read_groups(file)]
    made = _hardest_first(pairs_of(groups, config.pairing, embedding(policy)), config.hardest)
    pairs = [_row(group, pair) for group, found in made if not isinstance(found, NoPair) for pair in found]
    if not pairs:
        reasons = Counter(found.reason for _, found in made if isinstance(found, NoPair))
        raise StageError(
            f"{len(groups)} groups of {config.num_completions} answers made no pair by {config.pairing.type}: "
            f"{', '.join(f'{reason} ({count})' for reason, count in reasons.most_common())}. Read them in "
            f"{context.rollouts}"
        )
    publish(config, context, pairs, list(answers(groups)))
    return StageResult(metrics=report(groups, made))


def asked(config: PairsStage, context: StageContext, tokenizer: Any) -> list[Prompt]:
    """Return the prompts; where system prompts are flipped, each under the first and then under the second."""
    if not isinstance(config.pairing, FlippedSystem):
        return prompts_of(context, config, "prompts", tokenizer)
    both = []
    for number, system in enumerate(config.pairing.systems, start=1):
        data = config.prompts.model_copy(update={"system": system})
        prompts = load_prompts(
            data,
            config.columns(),
            config.rewards,
            tokenizer,
            room=config.room("prompts", context.facts.engine),
            alive=context.metrics.alive,
        )
        both.append([replace(prompt, id=f"{prompt.id}-system-{number}") for prompt in prompts])
    return [prompt for two in zip(*both, strict=True) for prompt in two]


def embedding(policy: Policy) -> Embed:
    """Return a function from a group to a vector for each answer: the mean of the policy's last hidden states."""
    model = policy.model

    def embed(prompt: Sequence[int], rollouts: Sequence[Rollout]) -> list[list[float]]:
        vectors = []
        for rollout in rollouts:
            tokens = torch.tensor([[*prompt, *rollout.completion.token_ids]], device=model.device)
            with torch.no_grad():
                states_TH = model(input_ids=tokens, output_hidden_states=True).hidden_states[-1][0]
            mean_H = states_TH[len(prompt) :].float().mean(dim=0)
            vectors.append(torch.nn.functional.normalize(mean_H, dim=0).tolist())
        return vectors

    return embed


def sample(config: PairsStage, context: StageContext, prompts: Sequence[Prompt], rollouts: Rollouts) -> None:
    """Answer the prompts chunk by chunk; each chunk is kept before the next begins, and done ones are passed over."""
    collector = rollouts.collector(config.sampling)
    for at in range(0, len(prompts), config.prompts_per_chunk):
        if chunk_file(context, at).is_file():
            continue
        chunk = prompts[at : at + config.prompts_per_chunk]
        clock = Clock()
        groups = collector.collect(chunk, config.num_completions, derive_seed(context.seed, "pairs", at))
        clock.lap("generate_and_score")
        told = {**summarize(groups), **collector.take_metrics(), **clock.laps}
        context.metrics.write(at + len(chunk), told, of=len(prompts))
        write_groups(chunk_file(context, at), groups)  # last: a chunk that is kept is not collected again


def chunk_file(context: StageContext, at: int) -> Path:
    """Where the groups of the chunk that begins at prompt ``at`` are kept."""
    return context.rollouts / f"prompt_{at:06d}.parquet"


def publish(config: PairsStage, context: StageContext, pairs: Sequence[Row], scored: Sequence[Row]) -> None:
    """Write the artifact: `pairs.jsonl`, every scored answer in `answers.jsonl`, and the manifest."""

    def fill(folder: Path) -> None:
        for name, rows in (("pairs.jsonl", pairs), ("answers.jsonl", scored)):
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    artifact.write(
        context,
        fill,
        lambda files: artifact.manifest(context, files, kind="pairs", data={"prompts": fingerprint(config.prompts)}),
    )


def answers(groups: Sequence[RolloutGroup]) -> Iterator[Row]:
    """Yield every answer that was scored and says something, for stages that learn from answers one by one."""
    for group in groups:
        for rollout in group.rollouts:
            if rollout.score.value is not None and rollout.response.strip():
                yield {
                    "id": group.prompt.id,
                    **_asked(group),
                    "completion": _turn(rollout),
                    "score": rollout.score.value,
                    "finished": rollout.completion.finish_reason == "stop",
                }


def report(groups: Sequence[RolloutGroup], made: Sequence[tuple[RolloutGroup, Made]]) -> dict[str, float]:
    """Return how many pairs were made and of what kind, and why groups made none."""
    pairs = [pair for _, found in made if not isinstance(found, NoPair) for pair in found]
    reasons = Counter(found.reason for _, found in made if isinstance(found, NoPair))
    gaps = [pair.gap for pair in pairs]
    lengths = {
        side: [len(getattr(pair, side).completion.token_ids) for pair in pairs] for side in ("chosen", "rejected")
    }
    values = [r.score.value for group in groups for r in group.rollouts if r.score.value is not None]
    return {
        "pairs/made": len(pairs),
        "pairs/skipped_prompts": sum(reasons.values()),
        **{f"pairs/skipped/{reason.replace(' ', '_')}": count for reason, count in sorted(reasons.items())},
        "pairs/gap/mean": fmean(gaps),
        "pairs/gap/min": min(gaps),
        "pairs/gap/max": max(gaps),
        **{f"pairs/{side}_tokens/mean": fmean(found) for side, found in lengths.items()},
        "reward/mean": fmean(values),
    }


def _row(group: RolloutGroup, pair: Pair) -> Row:
    return {
        "id": group.prompt.id,
        **_asked(group),
        "chosen": _turn(pair.chosen),
        "rejected": _turn(pair.rejected),
        "score_chosen": value(pair.chosen),
        "score_rejected": value(pair.rejected),
    }


def _asked(group: RolloutGroup) -> Row:
    """Return the prompt, and what else the chat template was given."""
    return asked_of({**group.prompt.columns, "prompt": list(group.prompt.messages)})


def _turn(rollout: Rollout) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": rollout.response}]


def _hardest_first(made: Sequence[tuple[RolloutGroup, Made]], num: int | None) -> list[tuple[RolloutGroup, Made]]:
    """Return the groups of lowest mean score that make pairs, so many of them, and those that make none."""
    if num is None:
        return list(made)
    useful = sorted((each for each in made if not isinstance(each[1], NoPair)), key=lambda each: _mean(each[0]))
    left = [(group, NoPair("not among the hardest")) for group, _ in useful[num:]]
    return [*useful[:num], *left, *(each for each in made if isinstance(each[1], NoPair))]


def _mean(group: RolloutGroup) -> float:
    return fmean(r.score.value for r in group.rollouts if r.score.value is not None)
