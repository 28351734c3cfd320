"""Hand-written stand-ins for engines and scorers. They record what happens in a list that tests can share."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future

import torch

from rewards.types import Attempt, Score
from rollout.engine import Reach, Shipment, Ticket
from rollout.transports.registry import fetch
from rollout.types import Completion, GenerationRequest

TokenIds = tuple[int, ...]


def completion(*token_ids: int, version: int = 0, finish_reason: str = "stop") -> Completion:
    """A completion whose tokens all have log-probability -1."""
    return Completion(
        token_ids=token_ids,
        logprobs=(-1.0,) * len(token_ids),
        versions=(version,) * len(token_ids),
        finish_reason=finish_reason,
    )


class FakePool:
    """Answers from a script, at once or, where it ``holds``, on release; keeps the requests and weights it is given.

    ``script`` gives each prompt's completions, repeated or cut to the number asked for.
    ``engine_logprobs`` is what `logprobs` returns, [engine][sequence][T - 1].
    """

    def __init__(
        self,
        script: Mapping[TokenIds, Sequence[Completion]] | None = None,
        engine_logprobs: Sequence[Sequence[Sequence[float]]] = (),
        events: list[str] | None = None,
        reach: Reach = "same_machine",
    ) -> None:
        self.reach = reach
        self.script = dict(script or {})
        self.engine_logprobs = engine_logprobs
        self.events = events if events is not None else []
        self.requests: list[GenerationRequest] = []
        self.weights: dict[str, object] = {}
        self.tickets: list[Ticket] = []
        self.load_error: Exception | None = None
        self.holds = False
        self.held: list[tuple[Future[tuple[Completion, ...]], tuple[Completion, ...]]] = []

    def submit(self, request: GenerationRequest) -> "Future[tuple[Completion, ...]]":
        self.requests.append(request)
        future: Future[tuple[Completion, ...]] = Future()
        answers = self.script[request.prompt_ids]
        self.events.append(f"generated {request.prompt_ids[0]}")
        found = tuple(answers[g % len(answers)] for g in range(request.num_completions))
        if self.holds:
            self.held.append((future, found))
        else:
            future.set_result(found)
        return future

    def release(self, at: int) -> None:
        """Answer the request at this place among those that are held."""
        future, found = self.held.pop(at)
        future.set_result(found)

    def take_metrics(self):
        return {}

    def logprobs(self, sequences: Sequence[Sequence[int]], *, timeout_s: float = 600.0) -> list[list[list[float]]]:
        self.events.append("logprobs")
        return [[list(row) for row in engine] for engine in self.engine_logprobs]

    def load_weights(self, shipment: Shipment, version: int, *, timeout_s: float = 600.0) -> None:
        self.events.append(f"loaded {version}")
        ticket = shipment.ticket("0-0", 1, self.reach)
        self.tickets.append(ticket)
        if self.load_error is not None:
            raise self.load_error
        self.weights = dict(fetch(ticket, device=torch.device("cpu")))

    def sleep(self) -> None:
        self.events.append("slept")

    def close(self) -> None:
        self.events.append("closed")


class FakeScorer:
    """Gives each response its listed score; None is a failure. Never done when it ``hangs``."""

    def __init__(
        self, values: Mapping[str, float | None], events: list[str] | None = None, hangs: bool = False
    ) -> None:
        self.values = values
        self.events = events if events is not None else []
        self.groups: list[list[Attempt]] = []
        self.hangs = hangs
        self.budget_error: Exception | None = None

    def submit(self, group: Sequence[Attempt], /) -> "Future[list[Score]]":
        self.events.append("submitted")
        self.groups.append(list(group))
        future: Future[list[Score]] = Future()
        if not self.hangs:
            future.set_result([self._score(attempt) for attempt in group])
        return future

    num_waiting = 0

    def take_metrics(self):
        return {}

    def check_budget(self) -> None:
        self.events.append("checked budget")
        if self.budget_error is not None:
            raise self.budget_error

    def _score(self, attempt: Attempt) -> Score:
        value = self.values[attempt.completion[-1]["content"]]
        cause = "ok" if value is not None else "timeout"
        return Score(value=value, cause=cause, parts={"fake": value})
