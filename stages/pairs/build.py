"""Pairs: sample answers to every prompt, score them, keep a better and a worse one of each group."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from rollout.collector import summarize
from rollout.records import read_groups, write_groups
from rollout.types import Prompt, Rollout, RolloutGroup
from stages import artifact
from stages.artifact import Manifest
from stages.base import StageContext, StageError, StageResult
from stages.data.rows import Row, fingerprint
from stages.generation import Rollouts, derive_seed, open_rollouts, probes, prompts_of
from stages.models import load_policy
from stages.pairs.config import BestVsWorst, PairsStage

logger = logging.getLogger(__name__)


def run(config: PairsStage, context: StageContext) -> StageResult:
    """Answer every prompt several times and publish the pairs that the scores make."""
    policy = load_policy(context)
    prompts = prompts_of(context, config, "prompts", policy.tokenizer)
    if any(not chunk_file(context, at).is_file() for at in range(0, len(prompts), config.prompts_per_chunk)):
        with open_rollouts(context, policy, config) as rollouts:
            rollouts.publish(policy, 0, probes(prompts, config.sync.num_probes))
            sample(config, context, prompts, rollouts)
    groups = [group for file in sorted(context.rollouts.glob("*.parquet")) for group in read_groups(file)]
    pairs = [pair for group in groups if (pair := best_vs_worst(group, config.pairing)) is not None]
    if not pairs:
        raise StageError(
            f"{len(groups)} groups of {config.num_completions} answers made no pair: in none do two finished answers "
            f"differ by {config.pairing.min_gap:g} or more in score. Read them in {context.rollouts}"
        )
    publish(config, context, pairs)
    return StageResult(metrics=report(groups, pairs))


def sample(config: PairsStage, context: StageContext, prompts: Sequence[Prompt], rollouts: Rollouts) -> None:
    """Answer the prompts chunk by chunk; each chunk is kept before the next begins, and done ones are passed over."""
    collector = rollouts.collector(config.sampling)
    for at in range(0, len(prompts), config.prompts_per_chunk):
        if chunk_file(context, at).is_file():
            continue
        chunk = prompts[at : at + config.prompts_per_chunk]
        groups = collector.collect(chunk, config.num_completions, derive_seed(context.seed, "pairs", at))
        write_groups(chunk_file(context, at), groups)
        done = at + len(chunk)
        context.metrics.write(done, {**summarize(groups), **collector.take_metrics()}, of=len(prompts))


def chunk_file(context: StageContext, at: int) -> Path:
    """Where the groups of the chunk that begins at prompt ``at`` are kept."""
    return context.rollouts / f"prompt_{at:06d}.parquet"


def best_vs_worst(group: RolloutGroup, pairing: BestVsWorst) -> Row | None:
    """Return the pair of a group, or None where no two scores differ enough.

    The chosen answer must have ended its turn: an answer that was cut is never an example to follow. An answer that
    says nothing is no side of a pair.
    """
    scored = [(r.score.value, r) for r in group.rollouts if r.score.value is not None and r.response.strip()]
    finished = [(value, r) for value, r in scored if r.completion.finish_reason == "stop"]
    if not finished:
        return None
    (high, chosen), (low, rejected) = max(finished, key=lambda s: s[0]), min(scored, key=lambda s: s[0])
    if high - low < pairing.min_gap or chosen.response == rejected.response:
        return None
    return {
        "id": group.prompt.id,
        "prompt": list(group.prompt.messages),
        "chosen": _turn(chosen),
        "rejected": _turn(rejected),
        "score_chosen": high,
        "score_rejected": low,
    }


def publish(config: PairsStage, context: StageContext, pairs: Sequence[Row]) -> None:
    """Write the artifact: `pairs.jsonl` with its manifest."""

    def fill(folder: Path) -> None:
        (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))

    artifact.write(
        context,
        fill,
        lambda files: Manifest(
            kind="pairs",
            stage=context.name,
            fingerprint=context.fingerprint,
            files=dict(files),
            data={"prompts": fingerprint(config.prompts)},
            code=artifact.code_versions(),
        ),
    )


def report(groups: Sequence[RolloutGroup], pairs: Sequence[Row]) -> dict[str, float]:
    """Return how many pairs were made and of what kind."""
    gaps = [pair["score_chosen"] - pair["score_rejected"] for pair in pairs]
    values = list(_values(groups))
    return {
        "pairs/made": len(pairs),
        "pairs/skipped_prompts": len(groups) - len(pairs),
        "pairs/gap/mean": sum(gaps) / len(gaps),
        "pairs/gap/min": min(gaps),
        "pairs/gap/max": max(gaps),
        "reward/mean": sum(values) / len(values),
    }


def _values(groups: Sequence[RolloutGroup]) -> Iterator[float]:
    for group in groups:
        yield from (r.score.value for r in group.rollouts if r.score.value is not None)


def _turn(rollout: Rollout) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": rollout.response}]
