"""What answers the policy between its turns: an environment of the user's, or functions that it may call.

Environments are somebody else's code, so they run where rewards do, in worker processes that can be killed. A worker
keeps nothing: a conversation's environment travels with it, pickled, so that any worker can take the next step.
"""

import asyncio
import contextlib
import inspect
import json
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

from rewards.importing import imported
from rewards.lane import Lane
from rewards.process import WorkerError
from rewards.scoring_config import ScoringConfig
from rewards.types import Mark, Message, RewardError, WorkerOrder
from rewards.worker import Announce, is_being_cancelled, shown
from rollout.config import EnvironmentConfig, ToolsConfig

ROLES = ("user", "tool", "system")
"""As which an environment may speak."""
LONGEST_MESSAGE = 1_000_000
"""Characters; a longer one would be cut by any context, and takes long to become tokens."""


T = TypeVar("T")


class Environment(Protocol):
    """The other side of one conversation. Each answer has its own; it has to survive pickling between its steps.

    It may have two attributes. ``tools``: JSON schemas of functions, which the chat template shows to the policy; of
    the class. ``columns``: what rewards may read besides the row's own columns, as of the end of the conversation; of
    the instance, and of types that JSON has.

    Example::

        class GuessTheNumber:
            def reset(self, prompt, columns):
                self.secret, self.columns = int(columns["secret"]), {"found": False}

            def step(self, response):
                if not response.isdigit():
                    return [{"role": "user", "content": "a number, please"}]
                if int(response) == self.secret:
                    self.columns = {"found": True}
                    return None
                return [{"role": "user", "content": "higher" if int(response) < self.secret else "lower"}]
    """

    def reset(self, prompt: Sequence[Message], columns: Mapping[str, Any]) -> None:
        """Begin, with what the policy is asked and the other columns of the row. May be a coroutine function."""
        ...

    def step(self, response: str) -> Sequence[Message] | None:
        """Return what is said to the policy's last turn; None where the conversation is over. May be a coroutine
        function."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A turn of the policy, on its way to an environment."""

    state: bytes | None
    """The environment; None: the conversation begins, and the environment with it."""
    prompt: Sequence[Message]
    columns: Mapping[str, Any]
    response: str | None
    """None: the turn was cut, and there is nothing to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What an environment makes of it."""

    state: bytes | None = None
    messages: tuple[Message, ...] | None = None
    """None: the conversation is over."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    failure: Mark | None = None
    """Why it could not answer; the conversation is over then, too."""


EnvironmentLane = Lane[Move, Reply]


@contextlib.contextmanager
def open_environment(config: EnvironmentConfig | None, scoring: ScoringConfig) -> Iterator[EnvironmentLane | None]:
    """Start the workers of an environment, under the limits of rewards. Raises RewardError where it cannot be had."""
    if config is None:
        yield None
        return
    lane = EnvironmentLane(_order(config, scoring), scoring, _failed, num_workers=scoring.num_workers)
    try:
        lane.wait_ready()
        yield lane
    finally:
        lane.close()


def tools_of(config: EnvironmentConfig | None, scoring: ScoringConfig) -> list[dict[str, Any]] | None:
    """Return the JSON schemas of the functions that the policy may call; None where there are none.

    Asks a worker, which is gone afterwards. Raises RewardError where the environment cannot be had.
    """
    if config is None:
        return None
    lane = EnvironmentLane(_order(config, scoring), scoring, _failed, num_workers=1)
    try:
        return cast("list[dict[str, Any]] | None", lane.wait_ready())
    finally:
        lane.close()


class Player:
    """What an environment's worker serves: a `Move` is a question, a `Reply` the answer."""

    about: Any
    """The schemas of its tools."""

    def __init__(self, config: EnvironmentConfig) -> None:
        """Import the environment. Raises RewardError where there is none under this name."""
        self._label = config.label
        self._make = _maker(config)
        self.about = _plain(getattr(self._make(), "tools", None) or None)

    def answer(self, question: Move, runner: asyncio.Runner, announce: Announce) -> Reply:
        """Take one step."""
        return runner.run(self.answer_at_once(question, announce))

    async def answer_at_once(self, question: Move, announce: Announce) -> Reply:
        """Take one step; plain functions hold up the others."""
        announce(f"environment {self._label!r}")
        try:
            return await self._step(question)
        except _MalformedError as error:
            return _broken("malformed", f"environment {self._label!r} {error}")
        except BaseException as error:
            if is_being_cancelled():
                raise
            what = f"raised {type(error).__name__}: {shown(error, str)}"
            return _broken("error", f"environment {self._label!r} {what}")

    async def _step(self, move: Move) -> Reply:
        environment: Any = self._make() if move.state is None else pickle.loads(move.state)
        if move.state is None:
            await _waited(environment.reset([dict(turn) for turn in move.prompt], dict(move.columns)))
            _pickled(environment)  # one that cannot be is to be found before a run
        said = None if move.response is None else await _waited(environment.step(move.response))
        columns = _plain(dict(getattr(environment, "columns", None) or {}))
        messages = None if said is None else _messages(said)
        return Reply(state=None if said is None else _pickled(environment), messages=messages, columns=columns)


class _MalformedError(Exception):
    """What an environment gave back cannot be used."""


def _order(config: EnvironmentConfig, scoring: ScoringConfig) -> WorkerOrder:
    return WorkerOrder(
        kind="environment",
        server="rollout.environment:Player",
        given=config,
        concurrency=config.steps_at_once,
        max_memory_bytes=scoring.max_memory_bytes,
        max_cpu_s=scoring.max_cpu_s,
    )


def _maker(config: EnvironmentConfig) -> Callable[[], Any]:
    """Return what makes an environment for one conversation."""
    if isinstance(config, ToolsConfig):
        from rollout.tools import Tools

        functions = [imported(path, "tool") for path in config.functions]
        return lambda: Tools(functions)
    kind = imported(config.import_path, "environment")
    missing = [name for name in ("reset", "step") if not callable(getattr(kind, name, None))]
    if missing:
        raise RewardError(
            f"environment {config.import_path!r} is {kind!r}, which has no {missing[0]}(); see Environment"
        )
    try:
        inspect.signature(kind).bind(**config.kwargs)
    except TypeError as error:
        raise RewardError(f"environment {config.import_path!r} is made with kwargs {config.kwargs}: {error}") from error
    return lambda: kind(**config.kwargs)


async def _waited(returned: Any) -> Any:
    return await returned if inspect.isawaitable(returned) else returned


def _messages(said: Any) -> tuple[Message, ...]:
    """Return what an environment said as messages, copied."""
    is_list = isinstance(said, Sequence) and not isinstance(said, str | bytes) and len(said) > 0
    turns = [dict(turn) for turn in said if isinstance(turn, Mapping)] if is_list else []
    texts = all(isinstance(text, str) for turn in turns for text in turn.values())
    if (
        not turns
        or len(turns) != len(said)
        or not texts
        or any(not {"role", "content"} <= turn.keys() for turn in turns)
    ):
        raise _MalformedError(
            f"must answer with messages, [{{'role': ..., 'content': ...}}] of texts, or None when the conversation is "
            f"over; it returned {shown(said)}"
        )
    longest = max(len(turn["content"]) for turn in turns)
    if longest > LONGEST_MESSAGE:
        raise _MalformedError(f"said {longest} characters; {LONGEST_MESSAGE} is the limit")
    if strange := [turn["role"] for turn in turns if turn["role"] not in ROLES]:
        raise _MalformedError(f"speaks as {strange[0]!r}; it may speak as one of {', '.join(ROLES)}")
    return tuple(_plain(turns))


def _plain(value: T) -> T:
    """Return the value in JSON's own types: what travels is never of somebody else's class."""
    try:
        plain: T = json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise _MalformedError(f"has columns or tools that JSON cannot hold ({error})") from error
    return plain


def _pickled(environment: Any) -> bytes:
    try:
        return pickle.dumps(environment)
    except Exception as error:
        raise _MalformedError(f"cannot be pickled between two steps: {type(error).__name__}: {error}") from error


def _broken(cause: Any, detail: str) -> Reply:
    return Reply(failure=Mark(cause=cause, detail=detail))


def _failed(move: Move, failure: WorkerError, seconds: float) -> Reply:
    return _broken(failure.cause, str(failure))
