"""Answers of one turn, or of several with an environment between them. The collector asks for them.

    request -> pool -> turn -> environment -> what it says, as tokens -> request -> ... -> Episode

What was sampled is never made into tokens again: the next turn's request is the prompt, all sampled tokens as they
came, and after each turn the tokens of what the environment said.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from rewards.futures import settle, when_all
from rewards.types import Mark, Message
from rollout.engine import Pool
from rollout.environment import EnvironmentLane, Move, Reply
from rollout.types import Completion, FinishReason, GenerationRequest, Prompt, request_seed

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One whole answer."""

    completion: Completion
    turns: tuple[Message, ...]
    """What was said after the prompt."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What an environment tells rewards."""
    failure: Mark | None = None
    """Why it broke off where the environment did."""

    @property
    def response(self) -> str:
        """The policy's last turn."""
        return str(next(turn["content"] for turn in reversed(self.turns) if turn["role"] == "assistant"))


class Conversation(Protocol):
    """How a prompt is answered."""

    def submit(self, prompt: Prompt, request: GenerationRequest) -> "Future[tuple[Episode, ...]]":
        """Answer a prompt ``request.num_completions`` times; returns at once. The future raises what the pool does."""
        ...


class OneTurn:
    """A `Conversation` that is over once the policy has answered."""

    def __init__(self, pool: Pool, decode: Callable[[Sequence[int]], str]) -> None:
        self._pool = pool
        self._decode = decode

    def submit(self, prompt: Prompt, request: GenerationRequest) -> "Future[tuple[Episode, ...]]":
        """Ask the pool."""
        whole = Future[tuple[Episode, ...]]()

        def answered(found: "Future[tuple[Completion, ...]]") -> None:
            settle(whole, lambda: tuple(self._episode(prompt, completion) for completion in found.result()))

        self._pool.submit(request).add_done_callback(answered)
        return whole

    def _episode(self, prompt: Prompt, completion: Completion) -> Episode:
        said = self._decode((*prompt.hint_ids, *completion.token_ids))
        return Episode(completion=completion, turns=(assistant(said),))


class Turns:
    """A `Conversation` with an environment, which answers until it, the turns or the tokens are at an end.

    ``tokens_of`` gives the tokens of messages that follow the policy's turn under a prompt, up to where it is to go on,
    and raises ValueError where they cannot follow; the answer could not be scored then.
    """

    def __init__(
        self,
        pool: Pool,
        environment: EnvironmentLane,
        decode: Callable[[Sequence[int]], str],
        tokens_of: Callable[[Sequence[Message], Prompt], tuple[int, ...]],
        *,
        max_turns: int,
    ) -> None:
        self._pool = pool
        self._environment = environment
        self._decode = decode
        self._tokens_of = tokens_of
        self._max_turns = max_turns

    def submit(self, prompt: Prompt, request: GenerationRequest) -> "Future[tuple[Episode, ...]]":
        """Ask for all first turns at once; from then on each answer goes its own way."""
        whole = Future[tuple[Episode, ...]]()
        drafts = [_Draft(prompt=prompt, request=request, number=at) for at in range(request.num_completions)]

        def all_done(found: "Sequence[Future[Episode]]") -> None:
            settle(whole, lambda: tuple(future.result() for future in found))

        when_all([draft.whole for draft in drafts], all_done)

        first_turns = self._pool.submit(request)
        for draft in drafts:
            _when(first_turns, draft, self._turn_is_there)
        return whole

    def _turn_is_there(self, draft: "_Draft", answers: Sequence[Completion]) -> None:
        """Show the environment a turn, whole or cut. Runs in a thread of the pool's."""
        completion = answers[draft.number if draft.num_turns == 0 else 0]
        draft.add(completion)
        said = self._decode(completion.token_ids)
        draft.turns.append(assistant(said))
        move = Move(
            state=draft.state,
            prompt=draft.prompt.messages,
            columns=draft.prompt.columns,
            response=said if completion.finish_reason == "stop" else None,
        )
        _when(self._environment.submit(move), draft, self._reply_is_there)

    def _reply_is_there(self, draft: "_Draft", reply: Reply) -> None:
        """End the answer, or ask for its next turn. Runs in a thread of the environment's."""
        draft.state = reply.state
        draft.columns = draft.columns if reply.failure else reply.columns
        if reply.messages is None:
            draft.end(failure=reply.failure)
        elif draft.num_turns == self._max_turns:
            draft.end("turns")
        else:
            self._go_on(draft, reply.messages)

    def _go_on(self, draft: "_Draft", messages: Sequence[Message]) -> None:
        """Ask for the turn that follows what the environment said, if there are tokens left for one."""
        try:
            given = self._tokens_of(messages, draft.prompt)
        except ValueError as error:
            draft.end(failure=Mark(cause="malformed", detail=str(error)))
            return
        request = draft.next_request(given)
        if request.max_tokens < 1:
            draft.end("length")
        else:
            draft.hear(messages, given)
            _when(self._pool.submit(request), draft, self._turn_is_there)


@dataclass(eq=False, kw_only=True)
class _Draft:
    """An answer that is being given."""

    prompt: Prompt
    request: GenerationRequest
    """Of the first turn."""
    number: int
    """Of the request's completions."""
    whole: "Future[Episode]" = field(default_factory=Future)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    given: list[tuple[int, int]] = field(default_factory=list)
    turns: list[Message] = field(default_factory=list)
    num_turns: int = 0
    finish_reason: FinishReason = "stop"
    state: bytes | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    def add(self, turn: Completion) -> None:
        """Take a turn of the policy."""
        self.token_ids += turn.token_ids
        self.logprobs += turn.logprobs
        self.versions += turn.versions
        self.finish_reason = turn.finish_reason
        self.num_turns += 1

    def hear(self, messages: Sequence[Message], token_ids: Sequence[int]) -> None:
        """Take what the environment said."""
        self.turns += messages
        self.given.append((len(self.token_ids), len(self.token_ids) + len(token_ids)))
        self.token_ids += token_ids
        self.logprobs += [0.0] * len(token_ids)
        self.versions += [self.versions[-1]] * len(token_ids)

    def next_request(self, given: Sequence[int]) -> GenerationRequest:
        """Return what is asked once these tokens have been heard; of the tokens, what is left."""
        first = self.request
        return replace(
            first,
            prompt_ids=(*first.prompt_ids, *self.token_ids, *given),
            num_completions=1,
            max_tokens=first.max_tokens - len(self.token_ids) - len(given),
            seed=request_seed(first.seed + self.number, self.num_turns),
        )

    def end(self, finish_reason: FinishReason | None = None, failure: Mark | None = None) -> None:
        """Give the whole answer to whoever waits for it."""
        completion = Completion(
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
            versions=tuple(self.versions),
            finish_reason=finish_reason or self.finish_reason,
            given=tuple(self.given),
        )
        self.whole.set_result(
            Episode(completion=completion, turns=tuple(self.turns), columns=self.columns, failure=failure)
        )


def _when(future: "Future[T]", draft: _Draft, act: Callable[[_Draft, T], None]) -> None:
    """Act on a future's result once it is there; whoever waits for the answer hears of what goes wrong."""

    def happened(found: "Future[T]") -> None:
        try:
            act(draft, found.result())
        except BaseException as error:
            draft.whole.set_exception(error)

    future.add_done_callback(happened)


def assistant(text: str) -> Message:
    """Return a turn of the policy."""
    return {"role": "assistant", "content": text}
