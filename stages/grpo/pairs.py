"""Online preference: pairs of a step's own groups, learned with the losses of `stages.preference`.

A group makes one pair, its other answers train nothing. What the learner does with the pairs is a policy gradient,
whose advantages are the derivatives of the loss: see `price`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rollout.types import Rollout, RolloutGroup
from stages.grpo.loss_config import OnlinePreference
from stages.pairs.pairings import NoPair, pairs_of, value


@dataclass(frozen=True, slots=True, kw_only=True)
class PairPlaces:
    """A pair as places in a batch's answers."""

    chosen: int
    rejected: int
    gap: float
    """Difference of the scores."""


def signs(groups: Sequence[RolloutGroup], loss: OnlinePreference) -> list[list[float | None] | None]:
    """Return [group][answer]: 1 for the better answer of a pair, -1 for the worse, None for others; None: no pair."""
    found: list[list[float | None] | None] = []
    for group, made in pairs_of(groups, loss.pairing, _no_embedding):
        if isinstance(made, NoPair):
            found.append(None)
            continue
        sides = {id(made[0].chosen): 1.0, id(made[0].rejected): -1.0}
        found.append([sides.get(id(rollout)) for rollout in group.rollouts])
    return found


def places(groups: Sequence[RolloutGroup], signs_NG: Sequence[Sequence[float | None] | None]) -> tuple[PairPlaces, ...]:
    """Return the pairs of a batch that holds the answers with a sign, in their order."""
    pairs: list[PairPlaces] = []
    next_place = 0
    for group, signs_G in zip(groups, signs_NG, strict=True):
        if signs_G is None:
            continue
        scores = {}
        for sign, rollout in zip(signs_G, group.rollouts, strict=True):
            if sign is not None:
                scores[sign] = (next_place, value(rollout))
                next_place += 1
        (chosen, high), (rejected, low) = scores[1.0], scores[-1.0]
        pairs.append(PairPlaces(chosen=chosen, rejected=rejected, gap=high - low))
    return tuple(pairs)


def _no_embedding(prompt: Sequence[int], rollouts: Sequence[Rollout]) -> Sequence[Sequence[float]]:
    raise NotImplementedError("the config allows no pairing by embeddings")
