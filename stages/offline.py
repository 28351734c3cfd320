"""Rewards without a run: a file scored, a reward put to the test. For `strop rewards`; see `stages.rescoring`, too."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rewards.config import RewardConfig
from rewards.gold import GoldCheck
from rewards.scorer import Scorer, check_deadline
from rewards.scoring_config import ScoringConfig
from rewards.types import FAILURES, Attempt, RewardError, Score
from rewards.waits import Wait
from stages.data.config import DataSetConfig
from stages.data.marking import check_marked, column_names
from stages.data.rows import Row, load_rows, reward_columns
from stages.gold_trials import trial_attempts
from stages.yaml_tree import TreeError, shown, yaml_tree

TRIED_ROWS, TRIED_GROUP = 8, 8
"""Rows on whose gold answers a reward is put to the test, and answers of its largest group."""


def parse_reward(spec: str) -> RewardConfig:
    """Return the reward that a command line means: `math`, `module:function`, or `{type: length, limit: 512}`.

    Raises RewardError where it means none.
    """
    try:
        reward: RewardConfig = TypeAdapter(RewardConfig).validate_python(yaml_tree(spec))
        return reward
    except (ValidationError, TreeError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise RewardError(f"--reward {shown(spec)} is no reward: {what}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Rewards, and how they are run."""

    rewards: tuple[RewardConfig, ...]
    scoring: ScoringConfig


def setup(specs: Sequence[str], *, deadline_s: float, num_workers: int) -> Setup:
    """Return what a command line asks for. Raises RewardError."""
    try:
        scoring = ScoringConfig(deadline_s=deadline_s, num_workers=num_workers)
    except ValidationError as error:
        raise RewardError(f"{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}") from error
    return Setup(rewards=tuple(parse_reward(spec) for spec in specs), scoring=scoring)


def score_file(path: Path, setup: Setup) -> Iterator[Score]:
    """Score a file's completions, one score a row in their order; neighbours that differ in nothing else are a group.

    Rows have `prompt`, `completion` and the columns that the rewards read. Raises DataError, RewardError.
    """
    rows = _rows(path, ["prompt", "completion"], setup)
    names = column_names(rows)
    groups = [[_attempt(row, names) for row in group] for _, group in groupby(rows, key=_all_but_completion)]
    check_deadline(setup.rewards, setup.scoring, max(map(len, groups)))
    with Scorer(setup.rewards, setup.scoring) as scorer:
        for scores in scored(scorer, groups):
            yield from scores


def line(score: Score) -> dict[str, object]:
    """Return what is printed of a score; ``read`` is what each reward took for the answer."""
    parts, read = dict(score.parts), dict(score.reads)
    found: dict[str, object] = {
        "value": score.value,
        "cause": score.cause,
        "parts": parts,
        "read": read,
        "seconds": score.seconds,
    }
    return {**found, "detail": score.detail} if score.detail else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One clause of a reward's contract, and whether it is kept."""

    clause: str
    is_kept: bool
    detail: str
    """What was seen, and what to mend where it is not kept."""


def scored(scorer: Scorer, groups: Sequence[Sequence[Attempt]]) -> Iterator[list[Score]]:
    """Yield the scores of each group, in their order."""
    futures = [scorer.submit(group) for group in groups]
    with Wait("groups to be scored", 2 * scorer.longest_wait_s, fails=RewardError) as wait:
        for future in futures:
            yield wait.result_of(future)
            wait.renew()


def contract(path: Path, setup: Setup, *, is_random: bool = False) -> Iterator[Finding]:
    """Put rewards to the test on a file's gold answers (`completion`, or `answer` in a box), clause by clause.

    Raises DataError where the file is not what the rewards need.
    """
    scoring = setup.scoring
    check_deadline(setup.rewards, scoring, TRIED_GROUP)
    gold, other = trial_attempts(_rows(path, ["prompt"], setup), setup.rewards, TRIED_ROWS)
    with GoldCheck(setup.rewards, scoring) as check:
        problems = check.problems(gold, other)
    yield Finding(
        clause="full marks for gold answers, one finite value an attempt",
        is_kept=not problems,
        detail="; ".join(problems) or f"{len(gold)} gold answers, {len(other)} others",
    )
    if problems:
        return
    group = _of_different_answers([*gold, *other])
    with Scorer(setup.rewards, scoring) as scorer:
        [[alone]] = scored(scorer, [group[:1]])
        start = time.monotonic()
        [first] = scored(scorer, [group])
        seconds = time.monotonic() - start
        [second] = scored(scorer, [group])
    with Scorer(setup.rewards, scoring) as scorer:
        [third] = scored(scorer, [group])
    failed = [score.detail for score in [alone, *first] if score.cause in FAILURES]
    marked = [score for score in first if score.value is not None]
    yield Finding(
        clause="groups of one answer and of several, right and wrong ones",
        is_kept=bool(marked) and not failed,
        detail=next(iter(failed), f"{len(marked)} of {len(group)} marked" if marked else "no answer got any value"),
    )
    calls = [[score.value for score in scores] for scores in (first, second, third)]
    same = calls[0] == calls[1] == calls[2]
    yield Finding(
        clause="the same value for the same answer",
        is_kept=same or is_random,
        detail="the same twice, and in a fresh process"
        if same
        else "two calls differ; fix its seed, or say --random if that is meant",
    )
    rate = len(group) / max(seconds, 1e-9)
    yield Finding(
        clause="a group well within its deadline",
        is_kept=seconds < scoring.deadline_s / 2,
        detail=f"{len(group)} attempts in {seconds:.3f} s ({rate:.0f}/s); the deadline is {scoring.deadline_s:g} s",
    )


def _of_different_answers(tried: Sequence[Attempt]) -> list[Attempt]:
    """Return a group: the first row's own answer, and those of other rows and an empty one to the first's prompt."""
    texts = list(dict.fromkeys([*(attempt.completion[-1]["content"] or "" for attempt in tried), ""]))
    answers = (texts * TRIED_GROUP)[:TRIED_GROUP]
    return [replace(tried[0], completion=[{"role": "assistant", "content": text}]) for text in answers]


def _rows(path: Path, needs: Sequence[str], setup: Setup) -> list[Row]:
    """Read a file of which each row is marked by some reward. Raises DataError."""
    data = DataSetConfig(path=str(path))
    rows = load_rows(data, needs)
    check_marked(data, rows, setup.rewards)
    return rows


def _attempt(row: Mapping[str, Any], names: Sequence[str]) -> Attempt:
    columns = {**dict.fromkeys(names), **reward_columns(_all_but_completion(row))}
    return Attempt(prompt=row["prompt"], completion=row["completion"], columns=columns)


def _all_but_completion(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "completion"}
