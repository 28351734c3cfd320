"""Pools of engines: Ray actors around vLLM, or one transformers engine in this process. Stages start them here.

No other file of rollout knows Ray. Every wait on an actor has a deadline, is logged while it lasts, and ends in a
RolloutError that names the engine.
"""

import asyncio
import logging
import os
import re
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rollout.config import EngineConfig, TransformersEngineConfig, VLLMEngineConfig
from rollout.engine import Engine, EngineModel, Pool, require_fit
from rollout.types import Completion, GenerationRequest, RolloutError
from rollout.vllm_engine import VLLMEngine

logger = logging.getLogger(__name__)

_LOG_EVERY_S = 30.0
_CLOSE_TIMEOUT_S = 20.0


def start_pool(config: EngineConfig, model: EngineModel) -> Pool:
    """Start the engines that ``config`` asks for and return when all are ready; they hold no weights yet.

    vLLM engines need a Ray that is already connected. They take bundles 1, 2, ... of the current placement
    group when there is one; bundle 0 is the learner's.
    """
    if isinstance(config, TransformersEngineConfig):
        from rollout.transformers_engine import TransformersEngine

        return LocalPool(TransformersEngine(model, config))
    return RayPool(config, model)


class LocalPool:
    """A `Pool` of one engine in this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._closed = False

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """Answer one request after the other."""
        for index, request in enumerate(requests):
            yield index, asyncio.run(self._engine.generate(request))

    def logprobs(self, sequences: Sequence[Sequence[int]], *, timeout_s: float = 600.0) -> list[list[list[float]]]:
        """Score in this process; a deadline would have nobody to wait for."""
        return [asyncio.run(self._engine.logprobs(sequences))]

    def load_weights(self, files: Sequence[Path], version: int, *, timeout_s: float = 600.0) -> None:
        """Load in this process."""
        asyncio.run(self._engine.load_weights(files, version))

    def close(self) -> None:
        """Free the engine."""
        if not self._closed:
            self._engine.close()
        self._closed = True


class EngineActor(VLLMEngine):
    """A vLLM engine as a Ray actor. All calls from outside are coroutines, so many are in flight."""

    def __init__(self, model: EngineModel, config: VLLMEngineConfig, log: Path | None) -> None:
        if log is not None:
            _print_to(log)  # vLLM's own processes inherit it
        super().__init__(model, config)

    async def pid(self) -> int:
        """Return the process id; an answer means that the engine is ready."""
        return os.getpid()

    async def stop(self) -> None:
        """Stop vLLM's processes."""
        self.close()


class RayPool:
    """A `Pool` of vLLM engines, each in an actor of its own. Requests go to the engine with the least to do.

    A dead or failing engine ends the run with a RolloutError; nothing is restarted or asked again.
    """

    def __init__(self, config: VLLMEngineConfig, model: EngineModel) -> None:
        self._config = config
        self._engines: list[Any] = []
        self._logs = [_log_file(model, at) for at in range(config.num_engines)]
        try:
            self._engines.extend(_spawn(config, model, at) for at in range(config.num_engines))
            self.pids: list[int] = self._ask_all("to be ready", config.start_timeout_s, "pid")
        except BaseException:
            self.close()
            raise

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """Keep each engine supplied with up to twice what it decodes at once; yield answers as they come."""
        import ray

        assert self._engines, "the pool is closed"
        require_fit(requests, self._config.max_model_tokens)
        deadline = _Deadline(self._config.request_timeout_s)
        waiting = deque(enumerate(requests))
        load: Counter[int] = Counter(dict.fromkeys(range(len(self._engines)), 0))
        pending: dict[Any, tuple[int, int]] = {}
        try:
            while waiting or pending:
                while waiting and (engine := self._idlest(load)) is not None:
                    index, request = waiting.popleft()
                    pending[self._engines[engine].generate.remote(request)] = (index, engine)
                    load[engine] += request.num_completions
                reference = self._first_done(pending, deadline)
                deadline = _Deadline(self._config.request_timeout_s)
                index, engine = pending.pop(reference)
                load[engine] -= requests[index].num_completions
                yield index, self._fetch(reference, engine, f"answering request {index}")
        finally:
            for reference in pending:
                ray.cancel(reference)

    def logprobs(self, sequences: Sequence[Sequence[int]], *, timeout_s: float = 600.0) -> list[list[list[float]]]:
        """Ask all engines at the same time."""
        answers: list[list[list[float]]] = self._ask_all("for log-probabilities", timeout_s, "logprobs", sequences)
        return answers

    def load_weights(self, files: Sequence[Path], version: int, *, timeout_s: float = 600.0) -> None:
        """Load in all engines at the same time."""
        self._ask_all(f"to load version {version}", timeout_s, "load_weights", files, version)

    def close(self) -> None:
        """Close vLLM in every actor, then kill the actors, also those that do not close in time."""
        import ray

        engines, self._engines = self._engines, []
        closing = [engine.stop.remote() for engine in engines]
        done, _ = ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_TIMEOUT_S) if closing else ([], [])
        for at, (engine, reference) in enumerate(zip(engines, closing, strict=True)):
            if reference not in done:
                logger.warning("engine %d did not close within %.0f s and is killed", at, _CLOSE_TIMEOUT_S)
            ray.kill(engine)

    def _idlest(self, load: Counter[int]) -> int | None:
        """Return the engine with the fewest completions to do, or None when all have enough."""
        engine = min(load, key=load.__getitem__)
        return engine if load[engine] < 2 * self._config.max_num_seqs else None

    def _first_done(self, pending: dict[Any, tuple[int, int]], deadline: "_Deadline") -> Any:
        """Wait for any answer. Raises RolloutError at the deadline."""
        import ray

        while True:
            done, _ = ray.wait(list(pending), num_returns=1, timeout=deadline.slice_s())
            if done:
                return done[0]
            busy = sorted({engine for _, engine in pending.values()})
            way_out = "raise engine.request_timeout_s, or ask for fewer or shorter completions"
            _still_waiting(f"{len(pending)} answers from engines {busy}", deadline, way_out)

    def _ask_all(self, purpose: str, timeout_s: float, method: str, *arguments: Any) -> list[Any]:
        """Return the answers of all engines, in their order. Raises RolloutError at the deadline."""
        import ray

        engines = {getattr(it, method).remote(*arguments): at for at, it in enumerate(self._engines)}
        answers: dict[int, Any] = {}
        deadline = _Deadline(timeout_s)
        while engines:
            done, _ = ray.wait(list(engines), num_returns=1, timeout=deadline.slice_s())
            for reference in done:
                engine = engines.pop(reference)
                answers[engine] = self._fetch(reference, engine, purpose)
            if not done:
                _still_waiting(
                    f"engines {sorted(engines.values())} {purpose}", deadline, "see their logs, and `ray status`"
                )
        return [answers[engine] for engine in sorted(answers)]

    def _fetch(self, reference: Any, engine: int, purpose: str) -> Any:
        """Return the answer of a finished call, or raise RolloutError with the engine and what broke it."""
        import ray

        try:
            return ray.get(reference, timeout=_LOG_EVERY_S)
        except ray.exceptions.RayTaskError as error:
            why = _last_error(self._logs[engine]) or error.cause
            raise RolloutError(f"engine {engine} failed {purpose}: {why}{_see(self._logs[engine])}") from error
        except ray.exceptions.RayError as error:
            raise RolloutError(
                f"engine {engine} died {purpose}: {error}; the machine's memory may say more, and the run can be "
                f"resumed{_see(self._logs[engine])}"
            ) from error


class _Deadline:
    """A time limit, cut into slices after which whoever waits says so."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._start = time.monotonic()

    def elapsed_s(self) -> float:
        return time.monotonic() - self._start

    def passed(self) -> bool:
        return self.elapsed_s() >= self.limit_s

    def slice_s(self) -> float:
        return min(_LOG_EVERY_S, max(0.0, self.limit_s - self.elapsed_s()))


def _still_waiting(waits_for: str, deadline: _Deadline, way_out: str) -> None:
    """Say what is waited for. Raises RolloutError when the time is up."""
    if deadline.passed():
        raise RolloutError(f"waited {deadline.limit_s:.0f} s for {waits_for}, in vain; {way_out}")
    logger.info("waiting for %s for %.0f s", waits_for, deadline.elapsed_s())


def _spawn(config: VLLMEngineConfig, model: EngineModel, at: int) -> Any:
    """Start actor number ``at``: in its bundle of the placement group, or wherever Ray has room for it."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = ray.util.get_current_placement_group()
    if group is None:
        num_gpus = config.tensor_parallel if ray.cluster_resources().get("GPU", 0) else 0
        strategy: Any = "DEFAULT"
    else:
        num_gpus = group.bundle_specs[1 + at].get("GPU", 0)
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=1 + at)
    actor = ray.remote(EngineActor).options(
        num_cpus=1, num_gpus=num_gpus, scheduling_strategy=strategy, max_concurrency=4096
    )
    return actor.remote(model, config, _log_file(model, at))


def _log_file(model: EngineModel, at: int) -> Path | None:
    return model.log_folder / f"engine_{at}.log" if model.log_folder else None


def _print_to(path: Path) -> None:
    """Send all that this process and its children print to a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _last_error(log: Path | None) -> str | None:
    """Return the last error that an engine printed: vLLM's own exception only says to look at its trace."""
    if log is None or not log.is_file():
        return None
    text = log.read_text(errors="replace")[-200_000:]
    found = re.findall(r"^.*?\b(\w+(?:Error|Exception): .+)$", text, re.MULTILINE)
    telling = [line for line in found if "EngineDeadError" not in line and "EngineCore encountered" not in line]
    return str(telling[-1]) if telling else None


def _see(log: Path | None) -> str:
    return f"; see {log}" if log else ""
