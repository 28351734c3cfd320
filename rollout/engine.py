"""The seams of generation: what an engine is, and what a pool of them offers to collector and weight sync.

An engine answers prompts with one copy of the policy. `rollout.vllm_engine` and `rollout.transformers_engine`
implement it; `rollout.pools` makes pools of either.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from rollout.types import Completion, GenerationRequest

Precision = Literal["float32", "bfloat16", "float16"]
Reach = Literal["same_machine", "same_gpu", "own_gpu", "other_machine"]
"""How far an engine is from the learner's weights. The middle two are on the learner's machine, too."""
Ticket = dict[str, Any]
"""Plain data by which one engine fetches one version of the weights; `rollout.transports` makes and takes them."""


class Shipment(Protocol):
    """One version of the weights, ready to be fetched by any engine, at any time until it is withdrawn."""

    def ticket(self, engine: str, num_workers: int, reach: Reach) -> Ticket:
        """Return what an engine of so many workers, this far away, needs to fetch the weights.

        ``engine`` is new for each process. Raises RolloutError where the recipe's transport does not reach it.
        """
        ...

    def withdraw(self) -> None:
        """Let go of the weights; who is fetching them may finish."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineModel:
    """What an engine is started with; the weights arrive by the first `load_weights`."""

    folder: Path
    """A Hugging Face folder: config and tokenizer."""
    precision: Precision
    """The run's one precision."""
    seed: int
    """Of the engine itself; each request carries its own."""
    trust_remote_code: bool = False
    """Whether code in the model's folder may run."""
    log_folder: Path | None = None
    """Where engine N of a pool writes `engine_N.log`; None: wherever its process writes."""


class Engine(Protocol):
    """One copy of the policy that can answer. Asynchronous, so that many prompts are in flight."""

    version: int
    """Policy version of the weights it holds; -1 before the first load."""

    async def generate(self, request: GenerationRequest) -> tuple[Completion, ...]:
        """Answer one prompt ``request.num_completions`` times, in the order of the seeds.

        Greedy log-probabilities are those at temperature 1.
        """
        ...

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return for each sequence of T tokens the T - 1 log-probabilities of tokens 1..T-1, in nats."""
        ...

    async def load_weights(self, ticket: Ticket, version: int) -> None:
        """Fetch weights, under transformers' parameter names, and take them as ``version``; wakes who sleeps."""
        ...

    def close(self) -> None:
        """Free everything; the engine is not used again."""
        ...


class Pool(Protocol):
    """Several engines behind one door. The caller waits, and each wait has a deadline and a name."""

    def submit(self, request: GenerationRequest) -> "Future[tuple[Completion, ...]]":
        """Have a request answered; returns at once.

        The future raises RolloutError, naming engines and causes, when none can answer. Raises ValueError where the
        request does not fit an engine's context.
        """
        ...

    def logprobs(self, sequences: Sequence[Sequence[int]], *, timeout_s: float = 600.0) -> list[list[list[float]]]:
        """Return [engine][sequence][T - 1]: what each engine gives tokens 1..T-1 of each sequence, in nats.

        Raises RolloutError, naming the engine, when one has not answered after ``timeout_s``; so does
        `load_weights`.
        """
        ...

    def load_weights(self, shipment: Shipment, version: int, *, timeout_s: float = 600.0) -> None:
        """Give every engine these weights, also while requests are in flight; returns when all hold ``version``.

        The shipment must stay ready until the next load: an engine that is replaced fetches it too.
        """
        ...

    def sleep(self) -> None:
        """Free the engines' GPUs until the next load, where they are configured to; nothing is in flight."""
        ...

    def take_metrics(self) -> dict[str, float]:
        """Return what happened to the engines since the last call."""
        ...

    def close(self) -> None:
        """Stop every engine; safe to call twice."""
        ...


def require_fit(requests: Sequence[GenerationRequest], max_model_tokens: int) -> None:
    """Raise ValueError where a prompt and its longest completion do not fit the engine's context."""
    for at, request in enumerate(requests):
        tokens = len(request.prompt_ids) + request.max_tokens
        if tokens > max_model_tokens:
            raise ValueError(
                f"request {at} needs {len(request.prompt_ids)} tokens of prompt and {request.max_tokens} of "
                f"completion, but the engine's context is {max_model_tokens} tokens; raise "
                "engine.max_model_tokens, lower sampling.max_tokens, or drop long prompts"
            )
