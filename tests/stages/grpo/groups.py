"""Hand-made groups and stage configs for tests of the GRPO learner."""

from collections.abc import Sequence
from typing import Any

from rewards.types import Score
from rollout.types import Completion, FinishReason, Prompt, Rollout, RolloutGroup
from stages.grpo.config import GRPOStage


def stage(**changes: Any) -> GRPOStage:
    """Return a GRPO stage's config with small defaults."""
    base: dict[str, Any] = {
        "kind": "grpo",
        "prompts": "none.jsonl",
        "rewards": [{"type": "math"}],
        "num_steps": 10,
        "schedule": "constant",
        "learning_rate": 1e-3,
    }
    return GRPOStage.model_validate({**base, **changes})


def group(
    prompt_ids: Sequence[int],
    answers: Sequence[tuple[Sequence[int], float | None]],
    logprobs: Sequence[Sequence[float]] | None = None,
    finish_reasons: Sequence[FinishReason] | None = None,
) -> RolloutGroup:
    """Return a group of (token ids, reward) answers; the engine's log-probabilities are 0 unless given."""
    rollouts = []
    for at, (token_ids, value) in enumerate(answers):
        given = tuple(logprobs[at]) if logprobs else (0.0,) * len(token_ids)
        completion = Completion(
            token_ids=tuple(token_ids),
            logprobs=given,
            versions=(0,) * len(token_ids),
            finish_reason=finish_reasons[at] if finish_reasons else "stop",
        )
        score = Score(value=value, cause="ok" if value is not None else "timeout")
        rollouts.append(Rollout(completion=completion, response=f"answer {token_ids}", score=score))
    prompt = Prompt(id=str(prompt_ids), messages=[], token_ids=tuple(prompt_ids))
    return RolloutGroup(prompt=prompt, rollouts=tuple(rollouts))
