"""One group through its rewards: call each once, judge what it returned. Runs inside the worker."""

import asyncio
import functools
import inspect
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rewards import registry
from rewards.types import Attempt, Graded, LogMetric, Mark, Message, RewardFunction
from rewards.worker import Announce, is_being_cancelled, shown

if TYPE_CHECKING:
    from rewards.config import RewardConfigBase

"""What a reward may log by: name and value, as in TRL."""
LONGEST_READ = 200
"""Characters that are kept of what a reward took for the answer."""
LARGEST_VALUE = 1e30
"""A value beyond would overflow in float32, weighted and squared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A reward that is imported and ready."""

    label: str
    function: RewardFunction
    applies_to: Callable[[Mapping[str, Any]], bool]
    """Says of an attempt's columns whether they are what the reward needs."""


class _Sheet:
    """What comes of one group: filled in reward by reward, whatever they do."""

    def __init__(self, group: Sequence[Attempt], announce: Announce) -> None:
        self._group = group
        self._announce = announce
        self._start = time.monotonic()
        self._marks: dict[str, list[Mark]] = {}
        self._logged: dict[str, list[float]] = {}

    def concerns(self, reward: Reward) -> bool:
        """Say whether the reward applies to any attempt; where it does not, that is its mark."""
        self._marks[reward.label] = [Mark(cause="not_applicable")] * len(self._group)
        return bool(self._marked_by(reward))

    @contextmanager
    def marking(self, reward: Reward) -> Iterator[None]:
        """Announce the reward; what the block raises becomes its marks."""
        self._announce(f"reward {reward.label!r}")
        try:
            yield
        except BaseException as error:
            if is_being_cancelled():
                raise
            self._enter(reward, failed(reward.label, error, len(self._marked_by(reward))))

    def arguments(self, reward: Reward) -> dict[str, Any]:
        """Return what the reward is called with: the attempts to which it applies."""

        def log_metric(name: str, value: float) -> None:
            if abs(float(value)) <= LARGEST_VALUE:
                self._logged.setdefault(f"{reward.label}/{name}", []).append(float(value))

        group = [self._group[at] for at in self._marked_by(reward)]
        return arguments(reward.function, group, log_metric)

    def take(self, reward: Reward, returned: Any) -> None:
        """Judge what the reward returned."""
        self._enter(reward, judge(reward.label, returned, len(self._marked_by(reward))))

    def graded(self) -> Graded:
        """Return all of it."""
        return Graded(marks=self._marks, seconds=time.monotonic() - self._start, metrics=self._logged)

    def _marked_by(self, reward: Reward) -> list[int]:
        return [at for at, attempt in enumerate(self._group) if reward.applies_to(attempt.columns)]

    def _enter(self, reward: Reward, marks: Sequence[Mark]) -> None:
        for at, mark in zip(self._marked_by(reward), marks, strict=True):
            self._marks[reward.label][at] = mark


class Grader:
    """What a reward worker serves: a group of attempts is a question, a `Graded` the answer."""

    about = None

    def __init__(self, configs: Sequence["RewardConfigBase"]) -> None:
        self._rewards = load(configs)

    def answer(self, question: Sequence[Attempt], runner: asyncio.Runner, announce: Announce) -> Graded:
        """Mark the group, one reward after the other."""
        return grade(self._rewards, question, runner, announce)

    async def answer_at_once(self, question: Sequence[Attempt], announce: Announce) -> Graded:
        """Mark the group while others are marked."""
        return await grade_at_once(self._rewards, question, announce)


def load(configs: Sequence["RewardConfigBase"]) -> list[Reward]:
    """Import every reward; RewardError names the one that cannot be."""
    return [
        Reward(label=config.label, function=registry.build(config), applies_to=config.applies_to) for config in configs
    ]


def grade(
    rewards: Sequence[Reward], group: Sequence[Attempt], runner: asyncio.Runner, announce: Announce = lambda label: None
) -> Graded:
    """Mark the group, one reward after the other; never raises for what a reward does.

    Coroutine rewards run on the runner's loop, the same for all groups, so that a client opened in one lives on.
    """
    sheet = _Sheet(group, announce)
    for reward in filter(sheet.concerns, rewards):
        with sheet.marking(reward):
            returned: Any = reward.function(**sheet.arguments(reward))
            if inspect.isawaitable(returned):
                returned = runner.run(_wait_for(returned))
            sheet.take(reward, returned)
    return sheet.graded()


async def grade_at_once(
    rewards: Sequence[Reward], group: Sequence[Attempt], announce: Announce = lambda label: None
) -> Graded:
    """Mark the group while other groups are being marked on the same loop; plain functions run in its threads.

    A thread cannot be told to stop: cancelled meanwhile, this waits for it.
    """
    sheet = _Sheet(group, announce)
    for reward in filter(sheet.concerns, rewards):
        with sheet.marking(reward):
            call = functools.partial(reward.function, **sheet.arguments(reward))
            returned: Any = call() if _is_coroutine_function(reward.function) else await _in_thread(call)
            if inspect.isawaitable(returned):
                returned = await returned
            sheet.take(reward, returned)
    return sheet.graded()


async def _wait_for(awaitable: Any) -> Any:
    return await awaitable


async def _in_thread(call: Callable[[], Any]) -> Any:
    running = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _is_coroutine_function(function: RewardFunction) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def failed(label: str, error: BaseException, num_attempts: int) -> list[Mark]:
    """Return the marks of a group whose reward raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    what = f"reward {label!r} raised {type(error).__name__}: {shown(error, str)} ({frame.filename}:{frame.lineno})"
    what += "; how much its worker may have is max_memory_gb" if isinstance(error, MemoryError) else ""
    return [Mark(cause="error", detail=what)] * num_attempts


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
    everything["completions"] = [[_spoken(turn) for turn in a.completion] for a in group]
    on_request = {
        "completion_logprobs": [list(a.completion_logprobs) for a in group],
        "openings": [a.opening for a in group],
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


def _spoken(turn: Message) -> dict[str, Any]:
    """Return a turn whose content is a text: one that is a tool call alone says nothing."""
    return {**turn, "content": ""} if turn.get("content") is None else dict(turn)


def judge(label: str, returned: Any, num_attempts: int) -> list[Mark]:
    """Turn what a reward returned into marks; a wrong shape fails the group, a wrong value its attempt."""
    has_order = hasattr(returned, "__len__") and not isinstance(returned, str | bytes | Mapping | Set)
    values = list(returned) if has_order else []
    if not has_order or len(values) != num_attempts:
        what = f"a list of {num_attempts} values, one an attempt"
        detail = f"reward {label!r} must return {what}; it returned {shown(returned)}"
        return [Mark(cause="malformed", detail=detail)] * num_attempts
    return [_judge_value(label, value) for value in values]


def _judge_value(label: str, value: Any) -> Mark:
    if value is None:
        return Mark(cause="not_applicable")
    if isinstance(value, Mark) and value.cause != "ok":
        return replace(value, value=None, detail=f"reward {label!r}: {value.detail}", read=value.read[:LONGEST_READ])
    bare: Any = value.value if isinstance(value, Mark) else value
    try:
        number = math.nan if isinstance(bare, str | bytes) else float(bare)
    except Exception:  # the value is of somebody else's class
        number = math.nan
    if abs(number) <= LARGEST_VALUE:
        given = value if isinstance(value, Mark) else Mark()
        return Mark(value=number, detail=given.detail[:LONGEST_READ], read=given.read[:LONGEST_READ])
    detail = f"reward {label!r} returned {shown(bare)} for this attempt; it must be a finite number or None"
    return Mark(cause="malformed", detail=detail)
