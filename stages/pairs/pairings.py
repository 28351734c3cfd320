"""Ways to make pairs of a scored group. Each takes a group and returns pairs, or the reason why there are none.

An answer that says nothing is no side of a pair, and one that was cut is never an example to follow. What could not be
scored is neither good nor bad.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rollout.types import Rollout, RolloutGroup
from stages.pairs.config import (
    BestVsWorst,
    Diverse,
    FlippedSystem,
    Graded,
    MarginLimited,
    NearMiss,
    Shorter,
    Threshold,
)

Embed = Callable[[Sequence[int], Sequence[Rollout]], Sequence[Sequence[float]]]
"""Returns a vector of length 1 for each of some answers to a prompt."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers of a group, the better one first."""

    chosen: Rollout
    rejected: Rollout

    @property
    def gap(self) -> float:
        """Difference of their scores."""
        return value(self.chosen) - value(self.rejected)


@dataclass(frozen=True, slots=True)
class NoPair:
    """Why a group makes none, in words that a report can count."""

    reason: str


Made = Sequence[Pair] | NoPair


def value(rollout: Rollout) -> float:
    """Return a score that is there."""
    assert rollout.score.value is not None
    return rollout.score.value


def best_vs_worst(group: RolloutGroup, pairing: BestVsWorst) -> Made:
    """Pair the extremes."""
    scored, finished = _candidates(group)
    if not finished:
        return NoPair("no finished answer")
    pair = Pair(max(finished, key=value), min(scored, key=value))
    return [pair] if pair.gap >= pairing.min_gap and _differ(pair) else NoPair("scores too close")


def threshold(group: RolloutGroup, pairing: Threshold) -> Made:
    """Pair the first good answer with the first bad one, the second with the second."""
    scored, finished = _candidates(group)
    bad_below = pairing.good_from if pairing.bad_below is None else pairing.bad_below
    good = _good(finished, pairing.good_from)
    bad = [rollout for rollout in scored if value(rollout) < bad_below]
    if not good or not bad:
        return NoPair("no good answer" if not good else "no bad answer")
    pairs = [pair for pair in map(Pair, good, bad) if _differ(pair)]
    return pairs[: pairing.most_pairs] or NoPair("the same is good and bad")


def graded(group: RolloutGroup, pairing: Graded) -> Made:
    """Pair answers of all gaps, evenly from the smallest to the largest; one pair a gap."""
    by_gap: dict[float, Pair] = {}
    for pair in _all_pairs(group):
        if pair.gap >= pairing.min_gap:
            by_gap.setdefault(round(pair.gap, 9), pair)
    if not by_gap:
        return NoPair("scores too close")
    ordered = [by_gap[gap] for gap in sorted(by_gap)]
    if len(ordered) <= pairing.most_pairs:
        return ordered
    if pairing.most_pairs == 1:
        return ordered[-1:]
    last = len(ordered) - 1
    return [ordered[round(at * last / (pairing.most_pairs - 1))] for at in range(pairing.most_pairs)]


def margin_limited(group: RolloutGroup, pairing: MarginLimited) -> Made:
    """Pair the two whose gap is the largest within the limits."""
    pairs = [pair for pair in _all_pairs(group) if pairing.min_gap <= pair.gap <= pairing.max_gap]
    return [max(pairs, key=lambda pair: pair.gap)] if pairs else NoPair("no gap within the limits")


def near_miss(group: RolloutGroup, pairing: NearMiss) -> Made:
    """Pair the first with full marks with the best without."""
    scored, finished = _candidates(group)
    full = [rollout for rollout in finished if value(rollout) >= pairing.full]
    missed = [rollout for rollout in scored if value(rollout) < pairing.full]
    if not full or not missed:
        return NoPair("none has full marks" if not full else "all have full marks")
    pair = Pair(full[0], max(missed, key=value))
    return [pair] if _differ(pair) else NoPair("the same is good and bad")


def shorter(group: RolloutGroup, pairing: Shorter) -> Made:
    """Pair the shortest with the longest."""
    scored, finished = _candidates(group)
    good, long = (_good(rollouts, pairing.good_from) for rollouts in (finished, scored))
    if not good:
        return NoPair("no good answer")
    pair = Pair(min(good, key=_length), max(long, key=_length))
    enough = _length(pair.rejected) >= pairing.min_ratio * _length(pair.chosen)
    return [pair] if enough and _differ(pair) else NoPair("lengths too close")


def diverse(group: RolloutGroup, pairing: Diverse, embed: Embed) -> Made:
    """Pair the rarest good answer with the commonest bad one."""
    scored, finished = _candidates(group)
    rarity = _rarities(group, pairing, embed)
    good = _good(finished, pairing.good_from)
    bad = [rollout for rollout in scored if value(rollout) < pairing.good_from]
    if not good or not bad:
        return NoPair("no good answer" if not good else "no bad answer")
    pair = Pair(max(good, key=lambda r: rarity[id(r)]), min(bad, key=lambda r: rarity[id(r)]))
    return [pair] if _differ(pair) else NoPair("the same is good and bad")


def flipped_system(first: RolloutGroup, second: RolloutGroup, pairing: FlippedSystem) -> tuple[Made, Made]:
    """Pair what was said under each of two system prompts, in the conversations of both."""
    good, other = (_good(_candidates(group)[1], pairing.good_from) for group in (first, second))
    if not good or not other:
        nothing = NoPair("no good answer under one of the two")
        return nothing, nothing
    pair = Pair(max(good, key=value), max(other, key=value))
    if not _differ(pair):
        return (same := NoPair("the same is said under both")), same
    return [pair], [Pair(pair.rejected, pair.chosen)]


def pairs_of(groups: Sequence[RolloutGroup], pairing: Any, embed: Embed) -> list[tuple[RolloutGroup, Made]]:
    """Return what each group makes. Under two system prompts groups come in twos, as they were asked."""
    if isinstance(pairing, FlippedSystem):
        twos = zip(groups[::2], groups[1::2], strict=True)
        return [made for two in twos for made in zip(two, flipped_system(*two, pairing), strict=True)]
    if isinstance(pairing, Diverse):
        return [(group, diverse(group, pairing, embed)) for group in groups]
    make: Callable[[RolloutGroup, Any], Made] = _PAIRINGS[type(pairing)]
    return [(group, make(group, pairing)) for group in groups]


_PAIRINGS: Mapping[type, Callable[[RolloutGroup, Any], Made]] = {
    BestVsWorst: best_vs_worst,
    Threshold: threshold,
    Graded: graded,
    MarginLimited: margin_limited,
    NearMiss: near_miss,
    Shorter: shorter,
}


def _candidates(group: RolloutGroup) -> tuple[list[Rollout], list[Rollout]]:
    """Return the answers that may be rejected, and those that may be chosen."""
    scored = [r for r in group.rollouts if r.score.value is not None and r.response.strip()]
    return scored, [r for r in scored if r.completion.finish_reason == "stop"]


def _good(rollouts: Sequence[Rollout], good_from: float | None) -> list[Rollout]:
    return [rollout for rollout in rollouts if good_from is None or value(rollout) >= good_from]


def _all_pairs(group: RolloutGroup) -> list[Pair]:
    scored, finished = _candidates(group)
    pairs = [Pair(chosen, rejected) for chosen in finished for rejected in scored]
    return [pair for pair in pairs if _differ(pair)]


def _differ(pair: Pair) -> bool:
    return pair.chosen.response.strip() != pair.rejected.response.strip()


def _length(rollout: Rollout) -> int:
    return len(rollout.completion.token_ids)


def _rarities(group: RolloutGroup, pairing: Diverse, embed: Embed) -> dict[int, float]:
    """Return how rare each answer of a group is, by its identity; the larger the rarer."""
    rollouts = [rollout for rollout in group.rollouts if rollout.completion.token_ids]
    if pairing.measure == "frequency":
        said = Counter(rollout.response.strip() for rollout in rollouts)
        return {id(rollout): -float(said[rollout.response.strip()]) for rollout in rollouts}
    if pairing.measure == "probability":
        return {id(rollout): -fmean(rollout.completion.sampled_logprobs or (0.0,)) for rollout in rollouts}
    vectors = embed(group.prompt.token_ids, rollouts)
    return {
        id(rollout): -fmean(sum(a * b for a, b in zip(mine, other, strict=True)) for other in vectors)
        for rollout, mine in zip(rollouts, vectors, strict=True)
    }
