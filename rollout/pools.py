"""Pools of engines: vLLM in Ray actors, or one transformers engine in this process. Stages start them here."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from rewards.waits import Wait
from rollout.config import EngineConfig, TransformersEngineConfig
from rollout.engine import Engine, EngineModel, Pool, Shipment
from rollout.types import Completion, GenerationRequest, RolloutError


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
        self._closed = False

    def submit(self, request: GenerationRequest) -> "Future[tuple[Completion, ...]]":
        """Answer it when its turn comes."""
        return self._worker.submit(lambda: asyncio.run(self._engine.generate(request)))

    def logprobs(self, sequences: Sequence[Sequence[int]], *, timeout_s: float = 600.0) -> list[list[list[float]]]:
        """Score after what was asked before."""
        asked = self._worker.submit(lambda: asyncio.run(self._engine.logprobs(sequences)))
        with Wait("the engine to score probes", timeout_s, fails=RolloutError) as wait:
            return [wait.result_of(asked)]

    def load_weights(self, shipment: Shipment, version: int, *, timeout_s: float = 600.0) -> None:
        """Load after what was asked before."""
        ticket = shipment.ticket("0", 1, "same_machine")
        asked = self._worker.submit(lambda: asyncio.run(self._engine.load_weights(ticket, version)))
        with Wait(f"the engine to load version {version}", timeout_s, fails=RolloutError) as wait:
            wait.result_of(asked)

    def sleep(self) -> None:
        """The engine has nothing to free but its weights."""

    def take_metrics(self) -> dict[str, float]:
        """Nothing breaks here but the process itself."""
        return {}

    def close(self) -> None:
        """Drop what has not begun, and free the engine."""
        if not self._closed:
            self._worker.shutdown(cancel_futures=True)
            self._engine.close()
        self._closed = True
