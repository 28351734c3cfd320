"""Why a batch teaches nothing: what all its answers share, and the way out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rollout.types import FinishReason, Rollout, RolloutGroup
from stages.base import StageError
from stages.grpo.config import GRPOStage

CUT: dict[FinishReason, tuple[str, str]] = {
    "length": ("at max_tokens", "raise sampling.max_tokens (and with it engine.max_model_tokens)"),
    "deadline": ("by the clock", "raise the answers' deadline, or lower sampling.max_tokens"),
    "turns": ("for they had no turn left", "raise environment.max_turns"),
}
"""How an answer is cut, and what to do where all are."""


def no_signal(groups: Sequence[RolloutGroup], config: GRPOStage, file: Path) -> StageError:
    """Return the error of a step that has nothing to learn from; its groups are in ``file``."""
    return StageError(
        f"{config.max_empty_batches + 1} batches in a row held no group whose answers differ in reward, so there is "
        f"nothing to learn from: {why(groups, config)}. The answers are in {file}"
    )


def why(groups: Sequence[RolloutGroup], config: GRPOStage) -> str:
    """Return the cause that holds for most of the answers, with the way out."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    causes = Counter(rollout.score.cause for rollout in rollouts)
    ends = Counter(rollout.completion.finish_reason for rollout in rollouts)
    if "ok" not in causes:
        return _without_value(rollouts, causes)
    if "stop" not in ends:
        how, way_out = CUT[ends.most_common(1)[0][0]]
        also = ", or set mask_truncated: false, so that cut answers teach, too" if config.mask_truncated else ""
        return f"all answers were cut {how} ({', '.join(_counted(ends))}); {way_out}{also}"
    num_cut = len(rollouts) - ends["stop"]
    left = [[rollout for rollout in group.rollouts if _counts(rollout, config)] for group in groups]
    if all(len(group) < 2 for group in left):
        lost = len(rollouts) - sum(map(len, left))
        told = ", ".join([*_counted(causes), *(f"{ends[end]} cut {how}" for end, (how, _) in CUT.items() if ends[end])])
        return f"{lost} of {len(rollouts)} answers do not count, which leaves no two of one prompt to compare ({told})"
    if all(len({rollout.response for rollout in group}) == 1 for group in left if group):
        return (
            "the answers to each prompt are all the same text; raise sampling.temperature (it is "
            f"{config.sampling.temperature:g}), or take prompts that the policy is less sure of"
        )
    if 2 * num_cut > len(rollouts):
        how, way_out = CUT[max(CUT, key=lambda end: ends[end])]
        return f"{_same_values(left)}. And {num_cut} of {len(rollouts)} answers were cut, most of them {how}: {way_out}"
    return _same_values(left)


def _counts(rollout: Rollout, config: GRPOStage) -> bool:
    is_masked = config.mask_truncated and rollout.completion.finish_reason != "stop"
    return rollout.score.value is not None and not is_masked


def _without_value(rollouts: Sequence[Rollout], causes: Mapping[Any, int]) -> str:
    failed = [rollout.score for rollout in rollouts if rollout.score.cause != "not_applicable"]
    counted = ", ".join(_counted(causes))
    if not failed:
        return (
            f"no answer has a value ({counted}): no reward applies; look at the columns that the rewards read, and at "
            "your own functions, of which None means that they do not apply"
        )
    return f"no answer has a value ({counted}): none could be scored; for instance {failed[0].detail}"


def _same_values(groups: Sequence[Sequence[Rollout]]) -> str:
    values = [rollout.score.value for group in groups for rollout in group if rollout.score.value is not None]
    low, high = min(values), max(values)
    if high - low > 0:
        return (
            f"inside each group all rewards are equal, though they go from {low:g} to {high:g}: each prompt is always "
            "met or never; take prompts of middling difficulty, or a reward with more steps"
        )
    return (
        f"all answers that count got the same reward, {low:g}: the task is too hard or too easy, or the reward is "
        "blind to what differs; change prompts or rewards"
    )


def _counted(found: Mapping[Any, int]) -> list[str]:
    return [f"{count} {name}" for name, count in sorted(found.items(), key=lambda item: -item[1])]
