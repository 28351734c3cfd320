"""Pools of engines: vLLM in Ray actors, or one transformers engine in this process. Stages start them here."""

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from rewards.waits import Wait
from rollout.config import EngineConfig, TransformersEngineConfig
from rollout.engine import Engine, EngineModel, Pool, Shipment
from rollout.types import Completion, GenerationRequest, RolloutError

T = TypeVar("T")

CLOSE_TIMEOUT_S = 600.0
"""How long an answer that nobody needs any more may take to end."""


def start_pool(config: EngineConfig, model: EngineModel) -> Pool:
    """Start the engines that ``config`` asks for and return when all are ready; they hold no weights yet.

    vLLM engines need a Ray that is already connected. They take bundles 1, 2, ... of the current placement
    group when there is one; bundle 0 is the learner's.
    """
    if isinstance(config, TransformersEngineConfig):
        from rollout.transformers_engine import TransformersEngine

        return LocalPool(TransformersEngine(model, config))
    from rollout.workers import RayPool  # Ray

    return RayPool(config, model)


class LocalPool:
    """A `Pool` of one engine in this process, which does one thing after the other in the order it was asked.

    So weights land after the requests that came before them and before those that came after, however fast anything
    is: what is sampled depends on what was asked alone.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._asked: set[Future[Any]] = set()
        self._closed = False

    def submit(self, request: GenerationRequest) -> "Future[tuple[Completion, ...]]":
        """Answer it when its turn comes."""
        return self._queue(lambda: self._engine.generate(request))

    def logprobs(self, sequences: Sequence[Sequence[int]], *, timeout_s: float = 600.0) -> list[list[list[float]]]:
        """Score after what was asked before."""
        return [self._ask("to score probes", timeout_s, lambda: self._engine.logprobs(sequences))]

    def load_weights(self, shipment: Shipment, version: int, *, timeout_s: float = 600.0) -> None:
        """Load after what was asked before."""
        ticket = shipment.ticket("0", 1, "same_machine")
        self._ask(f"to load version {version}", timeout_s, lambda: self._engine.load_weights(ticket, version))

    def sleep(self) -> None:
        """The engine has nothing to free but its weights."""

    def take_metrics(self) -> dict[str, float]:
        """Nothing breaks here but the process itself."""
        return {}

    def close(self) -> None:
        """Drop what has not begun, and free the engine once it has done what it is at."""
        if self._closed:
            return
        self._closed = True
        self._worker.shutdown(wait=False, cancel_futures=True)
        with Wait("the engine to end its last answer", CLOSE_TIMEOUT_S, fails=RolloutError) as wait:
            wait.until(lambda: not self._asked, every_s=0.01)
        self._engine.close()

    def _queue(self, call: "Callable[[], Coroutine[Any, Any, T]]") -> "Future[T]":
        asked = self._worker.submit(lambda: asyncio.run(call()))
        self._asked.add(asked)
        asked.add_done_callback(self._asked.discard)
        return asked

    def _ask(self, purpose: str, timeout_s: float, call: "Callable[[], Coroutine[Any, Any, T]]") -> T:
        """Return an answer that is there in time, from when the engine has come to it.

        Until then it answers requests, each of which is a sign of life of the stage.
        """
        asked = self._queue(call)
        with Wait(f"the engine's turn {purpose}", math.inf) as wait:
            wait.until(lambda: asked.running() or asked.done(), every_s=0.01)
        with Wait(f"the engine {purpose}", timeout_s, fails=RolloutError) as wait:
            return wait.result_of(asked)
