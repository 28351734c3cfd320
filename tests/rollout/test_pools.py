"""The pool of one engine in this process: its order, and what waits for what."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from rollout.pools import LocalPool
from rollout.types import GenerationRequest, RolloutError

REQUEST = GenerationRequest(prompt_ids=(1,), num_completions=1, max_tokens=1, temperature=1.0, seed=0, eos_ids=(0,))


class Slow:
    """An engine that takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.did: list[str] = []

    async def generate(self, request: GenerationRequest) -> tuple[Any, ...]:
        await asyncio.sleep(self.seconds)
        self.did.append("answered")
        return ()

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        await asyncio.sleep(self.seconds)
        return []

    async def load_weights(self, ticket: Any, version: int) -> None:
        self.did.append("loaded")

    def close(self) -> None:
        self.did.append("closed")


class Given:
    """A shipment for anybody."""

    def ticket(self, *_: Any) -> None:
        return None


def pool_of(engine: Any) -> LocalPool:
    return LocalPool(engine)


def test_what_waits_for_its_turn_is_not_late() -> None:
    engine = Slow(0.3)
    pool = pool_of(engine)
    for _ in range(3):
        pool.submit(REQUEST)
    pool.load_weights(Given(), 1, timeout_s=0.2)  # type: ignore[arg-type]
    assert engine.did == ["answered"] * 3 + ["loaded"]
    pool.close()


def test_what_takes_too_long_by_itself_is() -> None:
    pool = pool_of(Slow(0.5))
    with pytest.raises(RolloutError, match=r"timed out after 0.1 s of waiting for the engine to score probes"):
        pool.logprobs([[1]], timeout_s=0.1)
    pool.close()


def test_an_answer_that_does_not_end_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.pools.CLOSE_TIMEOUT_S", 0.2)
    engine = Slow(2.0)
    pool = pool_of(engine)
    answers = [pool.submit(REQUEST) for _ in range(2)]
    while not answers[0].running():
        time.sleep(0.01)
    start = time.monotonic()
    with pytest.raises(RolloutError, match="the engine to end its last answer"):
        pool.close()
    assert time.monotonic() - start < 1.5
    assert answers[1].cancelled() and engine.did == []
