"""What the two ways to learn a preference share: from pairs, or from answers that are good or bad one by one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from stages import artifact
from stages.base import StageContext, StageError
from stages.checkpoints import sha256
from stages.data.rows import Row
from stages.logprobs import sequence_logprobs
from stages.models import Policy
from stages.preference.config import PreferenceStage
from stages.preference.monitor import Watched
from stages.preference.reference_cache import NoReference, ReferenceCache

REFERENCE_TOLERANCE = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.1}
"""How far TRL's reference, computed under autocast, may differ from our float32 forward, in nats a token."""
NUM_CHECKED = 8
"""Rows on which policy and reference are compared before the first step."""


class Objective(Protocol):
    """One of the two. What `load` returns goes into `trainer`, and what that returns into the others."""

    def load(self, config: PreferenceStage, context: StageContext) -> list[Row]:
        """Return what is learned from. Raises StageError or DataError before any model is loaded."""
        ...

    def split(self, rows: Sequence[Row], fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
        """Return rows to learn from and rows to be watched. Raises StageError where a side has too little."""
        ...

    def trainer(self, rows: Sequence[Row], policy: Policy, config: PreferenceStage, context: StageContext) -> Any:
        """Return TRL's trainer, the reference's log-probabilities computed."""
        ...

    def check_start(self, trainer: Any, policy: Policy, context: StageContext) -> Mapping[str, float]:
        """Return what the loss is before the first step. Raises StageError where policy and reference differ."""
        ...

    def report(self, rows: Sequence[Row], trainer: Any) -> Mapping[str, float]:
        """Return what was learned from, as metrics."""
        ...

    def watched(self, rows: Sequence[Row], policy: Policy, config: PreferenceStage) -> Watched:
        """Return what of some rows is looked at while others, or these, are learned from."""
        ...

    def token_ids(self, trainer: Any, num: int) -> list[list[int]]:
        """Return some whole conversations, for the manifest's probe."""
        ...


def reference_cache(policy: Policy, config: PreferenceStage, context: StageContext) -> ReferenceCache | NoReference:
    """Return the cache for this policy as the reference, where the loss has one."""
    if not config.loss.has_reference:
        return NoReference()
    computed = config.model_dump(mode="json", include={"max_tokens", "micro_batch_size", "micro_batch_tokens"})
    model = {"weights": policy.weights_sha256, "config": sha256(policy.folder / "config.json")}
    of_loss = {"ld_alpha": getattr(config.loss, "ld_alpha", None), "weighted": config.row_tokens is None}
    identity = {**model, "precision": context.facts.precision, **computed, **of_loss}
    return ReferenceCache(context.cache / "reference", {**identity, "code": artifact.code_versions()})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferencedAnswer:
    """An answer, and what the reference gives it."""

    prompt: list[int]
    tokens: list[int]
    weights: list[float]
    """Of the tokens; 0 for one that is not learned."""
    reference: float
    """Weighted sum of its tokens' log-probabilities, in nats."""


def require_reference(
    policy: Policy, answers: Sequence[ReferencedAnswer], context: StageContext, max_tokens: int
) -> list[float]:
    """Return each answer's log-probability less the reference's, in nats.

    Raises StageError where they differ by token: an adapter loaded wrongly, say.
    """
    gaps, drifts = [], []
    for answer in answers:
        whole = (answer.prompt + answer.tokens)[:max_tokens]
        logprobs = sequence_logprobs(policy.model, [whole])[0][len(answer.prompt) - 1 :]
        gaps.append(sum(w * value for w, value in zip(answer.weights, logprobs, strict=False)) - answer.reference)
        drifts.append(abs(gaps[-1]) / len(logprobs))
    limit = REFERENCE_TOLERANCE[context.facts.precision]
    if not max(drifts) <= limit:
        raise StageError(
            f"before the first step the policy gives an answer {max(drifts):.3g} nats a token more or less than the "
            f"reference it is held to (limit {limit:g}), although both were loaded from {policy.folder}"
        )
    return gaps
