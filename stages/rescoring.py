"""Stored groups scored again, by other rewards: what becomes of scores and advantages. For `strop rewards rescore`."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from rewards.scorer import Scorer, check_deadline
from rewards.types import FAILURES, Attempt, Mark
from rollout.types import Rollout, RolloutGroup
from stages.data.rows import DataError
from stages.grpo.advantages import advantages
from stages.grpo.loss_config import GroupNormalized
from stages.offline import Setup, scored

SHOWN_CHANGES = 8
"""Answers whose score changed that `rescore` tells of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A stored answer whose score is another one now."""

    prompt_id: str
    before: float | None
    after: float | None
    reads: Mapping[str, str]
    """What each reward took for the answer now, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescored:
    """What stored groups come to under other rewards: weighted sums, and advantages normalised in the group."""

    num_groups: int
    num_attempts: int
    mean_before: float | None
    mean_after: float | None
    """None where no attempt has a value."""
    unscorable_after: int
    signal_lost: int
    """Groups that had signal and have none now."""
    signal_gained: int
    """Groups that had none and have some now."""
    advantage_correlation: float | None
    """Pearson's, over attempts of groups with signal under both; None where there are too few or they do not vary."""
    advantage_flipped_fraction: float | None
    """Share of these whose advantage changed its sign."""
    changed: tuple[Changed, ...] = ()
    """The first answers whose score changed."""


def rescore(files: Sequence[Path], setup: Setup) -> Rescored:
    """Score the groups of Parquet files again, and compare scores and group-normalised advantages.

    Raises DataError for a file that holds no groups.
    """
    from rollout.records import read_groups  # pyarrow

    groups = list[RolloutGroup]()
    for file in files:
        try:
            groups += read_groups(file)
        except (OSError, ValueError) as error:
            raise DataError(str(error)) from error
    check_deadline(setup.rewards, setup.scoring, max(len(group.rollouts) for group in groups))
    with Scorer(setup.rewards, setup.scoring) as scorer:
        again = list(scored(scorer, [_attempts(group) for group in groups]))
    before = [[rollout.score.value for rollout in group.rollouts] for group in groups]
    after = [[score.value for score in scores] for scores in again]
    changed = (
        Changed(prompt_id=group.prompt.id, before=old, after=new.value, reads=new.reads)
        for group, olds, news in zip(groups, before, again, strict=True)
        for old, new in zip(olds, news, strict=True)
        if old != new.value
    )
    return replace(compare(before, after), changed=tuple(islice(changed, SHOWN_CHANGES)))


def compare(before: Sequence[Sequence[float | None]], after: Sequence[Sequence[float | None]]) -> Rescored:
    """Compare two scorings of the same groups, [group][attempt]; None is what could not be scored."""
    pairs_NG = list(zip(*(advantages(values, GroupNormalized()) for values in (before, after)), strict=True))
    pairs = [
        (a, b)
        for old, new in pairs_NG
        if old is not None and new is not None
        for a, b in zip(old, new, strict=True)
        if a is not None and b is not None
    ]
    flipped = [a * b < 0 for a, b in pairs]
    varies = len(pairs) > 1 and all(len(set(column)) > 1 for column in zip(*pairs, strict=True))
    return Rescored(
        num_groups=len(after),
        num_attempts=sum(map(len, after)),
        mean_before=_mean(before),
        mean_after=_mean(after),
        unscorable_after=sum(value is None for row in after for value in row),
        signal_lost=sum(old is not None and new is None for old, new in pairs_NG),
        signal_gained=sum(old is None and new is not None for old, new in pairs_NG),
        advantage_correlation=statistics.correlation(*zip(*pairs, strict=True)) if varies else None,
        advantage_flipped_fraction=sum(flipped) / len(flipped) if flipped else None,
    )


def _mean(rows: Sequence[Sequence[float | None]]) -> float | None:
    values = [value for row in rows for value in row if value is not None]
    return statistics.fmean(values) if values else None


def _attempts(group: RolloutGroup) -> list[Attempt]:
    return [
        Attempt(
            prompt=group.prompt.messages,
            completion=rollout.messages,
            completion_ids=rollout.completion.sampled_ids,
            completion_logprobs=rollout.completion.sampled_logprobs,
            columns={**group.prompt.columns, **rollout.columns},
            opening=group.prompt.opening,
            group_id=group.prompt.id,
            failure=_break(rollout),
        )
        for rollout in group.rollouts
    ]


def _break(rollout: Rollout) -> Mark | None:
    """Return why an answer broke off before any reward could see it; None for one that they saw."""
    score = rollout.score
    return None if score.parts or score.cause not in FAILURES else Mark(cause=score.cause, detail=score.detail)
