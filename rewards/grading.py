"""One group through its rewards: call each once, judge what it returned, sum up. Runs inside the worker."""

import asyncio
import functools
import inspect
import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rewards import registry
from rewards.types import Attempt, Cause, RewardFunction, Score

if TYPE_CHECKING:
    from rewards.config import RewardConfigBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What one reward gives one attempt."""

    value: float | None = None
    """Before its weight; None unless ``cause`` is ``ok``."""
    cause: Cause = "ok"
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A reward that is imported and ready."""

    label: str
    weight: float
    function: RewardFunction


def load(configs: Sequence["RewardConfigBase"]) -> list[Reward]:
    """Import every reward; RewardError names the one that cannot be."""
    return [Reward(label=c.label, weight=c.weight, function=registry.build(c)) for c in configs]


def grade(
    rewards: Sequence[Reward], group: Sequence[Attempt], announce: Callable[[str], None] = lambda label: None
) -> list[Score]:
    """Score the group; never raises for what a reward does. ``announce`` hears each label before it runs."""
    start = time.monotonic()
    marks: dict[str, list[Mark]] = {}
    for reward in rewards:
        announce(reward.label)
        marks[reward.label] = run(reward, group)
    seconds = time.monotonic() - start
    return [total(rewards, {label: row[g] for label, row in marks.items()}, seconds) for g in range(len(group))]


def total(rewards: Sequence[Reward], marks: dict[str, Mark], seconds: float) -> Score:
    """Make one attempt's score of its marks: the first failure decides, else what applies is summed."""
    parts = {label: mark.value for label, mark in marks.items()}
    for mark in marks.values():
        if mark.cause not in ("ok", "not_applicable"):
            return Score(value=None, cause=mark.cause, parts=parts, seconds=seconds, detail=mark.detail)
    terms = [r.weight * value for r in rewards if (value := parts[r.label]) is not None]
    if not terms:
        return Score(value=None, cause="not_applicable", parts=parts, seconds=seconds)
    return Score(value=sum(terms), cause="ok", parts=parts, seconds=seconds)


def run(reward: Reward, group: Sequence[Attempt]) -> list[Mark]:
    """Call one reward with the whole group; whatever it does becomes one mark an attempt."""
    try:
        returned = reward.function(**arguments(reward.function, group))
        if inspect.isawaitable(returned):
            returned = asyncio.run(_wait_for(returned))
    except (Exception, SystemExit) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error}"[:500]
        detail = f"reward {reward.label!r} raised {what} ({frame.filename}:{frame.lineno})"
        return [Mark(cause="error", detail=detail)] * len(group)
    return judge(reward.label, returned, len(group))


async def _wait_for(awaitable: Any) -> Any:
    return await awaitable


def arguments(function: RewardFunction, group: Sequence[Attempt]) -> dict[str, Any]:
    """Make the keyword arguments: everything for a function with ``**columns``, else only what it names.

    Lists are new for every call, so that a reward that changes its arguments cannot reach the next one.
    """
    names = {name for attempt in group for name in attempt.columns}
    everything: dict[str, Any] = {name: [a.columns.get(name) for a in group] for name in sorted(names)}
    everything["completion_ids"] = [list(a.completion_ids) for a in group]
    everything["prompts"] = [[dict(turn) for turn in a.prompt] for a in group]
    everything["completions"] = [[dict(turn) for turn in a.completion] for a in group]
    bound = function.keywords if isinstance(function, functools.partial) else {}
    parameters = inspect.signature(function).parameters.values()
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = [p for p in parameters if p.kind not in variadic]
    missing = [p.name for p in named if p.default is p.empty and p.name not in everything]
    if missing:
        raise ValueError(f"it needs the columns {missing}; the data has {sorted(names)}")
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return {name: value for name, value in everything.items() if name not in bound}
    return {p.name: everything[p.name] for p in parameters if p.name in everything and p.name not in bound}


def judge(label: str, returned: Any, num_attempts: int) -> list[Mark]:
    """Turn what a reward returned into marks; a wrong shape fails the group, a wrong value its attempt."""
    if isinstance(returned, str) or not hasattr(returned, "__len__") or len(returned) != num_attempts:
        what = f"a list of {num_attempts} values, one an attempt"
        detail = f"reward {label!r} must return {what}; it returned {returned!r:.200}"
        return [Mark(cause="malformed", detail=detail)] * num_attempts
    return [_judge_value(label, value) for value in returned]


def _judge_value(label: str, value: Any) -> Mark:
    if value is None:
        return Mark(cause="not_applicable")
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isfinite(number):
        return Mark(value=number)
    detail = f"reward {label!r} returned {value!r:.200} for this attempt; it must be a finite number or None"
    return Mark(cause="malformed", detail=detail)
