"""One group through its rewards: call each once, judge what it returned. Runs inside the worker."""

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
from rewards.types import Attempt, Graded, Mark, RewardFunction

if TYPE_CHECKING:
    from rewards.config import RewardConfigBase

Announce = Callable[[str], None]
"""Hears each reward's label before it runs."""
LogMetric = Callable[[str, float], None]
"""What a reward may log by: name and value, as in TRL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A reward that is imported and ready."""

    label: str
    function: RewardFunction


class Log:
    """What rewards log of themselves while they mark one group; values that are no finite number are left out."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def of(self, label: str) -> LogMetric:
        """Return what this reward logs by."""

        def log_metric(name: str, value: float) -> None:
            if math.isfinite(value):
                self.values.setdefault(f"{label}/{name}", []).append(float(value))

        return log_metric


def load(configs: Sequence["RewardConfigBase"]) -> list[Reward]:
    """Import every reward; RewardError names the one that cannot be."""
    return [Reward(label=config.label, function=registry.build(config)) for config in configs]


def grade(
    rewards: Sequence[Reward], group: Sequence[Attempt], runner: asyncio.Runner, announce: Announce = lambda label: None
) -> Graded:
    """Mark the group, one reward after the other; never raises for what a reward does.

    Coroutine rewards run on the runner's loop, the same for all groups, so that a client opened in one lives on.
    """
    start = time.monotonic()
    marks, log = {}, Log()
    for reward in rewards:
        announce(reward.label)
        try:
            returned: Any = reward.function(**arguments(reward.function, group, log.of(reward.label)))
            if inspect.isawaitable(returned):
                returned = runner.run(_wait_for(returned))
            marks[reward.label] = judge(reward.label, returned, len(group))
        except (Exception, SystemExit) as error:
            marks[reward.label] = failed(reward.label, error, len(group))
    return Graded(marks=marks, seconds=time.monotonic() - start, metrics=log.values)


async def grade_at_once(
    rewards: Sequence[Reward], group: Sequence[Attempt], announce: Announce = lambda label: None
) -> Graded:
    """Mark the group while other groups are being marked on the same loop; plain functions run in threads."""
    start = time.monotonic()
    marks, log = {}, Log()
    for reward in rewards:
        announce(reward.label)
        try:
            given = arguments(reward.function, group, log.of(reward.label))
            returned = await asyncio.to_thread(reward.function, **given)
            if inspect.isawaitable(returned):
                returned = await returned
            marks[reward.label] = judge(reward.label, returned, len(group))
        except (Exception, SystemExit) as error:
            marks[reward.label] = failed(reward.label, error, len(group))
    return Graded(marks=marks, seconds=time.monotonic() - start, metrics=log.values)


async def _wait_for(awaitable: Any) -> Any:
    return await awaitable


def failed(label: str, error: BaseException, num_attempts: int) -> list[Mark]:
    """Return the marks of a group whose reward raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {error}"[:500]
    return [
        Mark(cause="error", detail=f"reward {label!r} raised {what} ({frame.filename}:{frame.lineno})")
    ] * num_attempts


def arguments(
    function: RewardFunction, group: Sequence[Attempt], log_metric: LogMetric = lambda name, value: None
) -> dict[str, Any]:
    """Make the keyword arguments: everything for a function with ``**columns``, else only what it names.

    Lists are new for every call, so that a reward that changes its arguments cannot reach the next one.
    """
    names = {name for attempt in group for name in attempt.columns}
    everything: dict[str, Any] = {name: [a.columns.get(name) for a in group] for name in sorted(names)}
    everything["completion_ids"] = [list(a.completion_ids) for a in group]
    everything["prompts"] = [[dict(turn) for turn in a.prompt] for a in group]
    everything["completions"] = [[dict(turn) for turn in a.completion] for a in group]
    on_request = {
        "completion_logprobs": [list(a.completion_logprobs) for a in group],
        "group_id": group[0].group_id if group else "",
        "step": group[0].step if group else 0,
        "log_metric": log_metric,
    }
    bound = function.keywords if isinstance(function, functools.partial) else {}
    parameters = inspect.signature(function).parameters.values()
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = {p.name for p in parameters if p.kind not in variadic}
    everything |= {name: value for name, value in on_request.items() if name in named and name not in everything}
    needed = {p.name for p in parameters if p.kind not in variadic and p.default is p.empty}
    missing = sorted(needed - everything.keys())
    if missing:
        raise ValueError(f"it needs the columns {missing}; the data has {sorted(names)}")
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return {name: value for name, value in everything.items() if name not in bound and (takes_all or name in named)}


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
