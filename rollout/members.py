"""One engine's place in a pool of vLLM engines: its Ray actor, where that is, and what broke it."""

import logging
import os
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rewards.machine import require_seen, use_own_processors
from rewards.own_files import use_own_files
from rewards.private import FOR_NOBODY_ELSE
from rollout.config import VLLMEngineConfig
from rollout.engine import EngineModel, Shipment
from rollout.engine_logs import last_error, log_file, print_to, see
from rollout.nodes import Place, has_left, name_of, own_node, talk_over_own_address
from rollout.types import Completion, GenerationRequest, NodeLostError, RolloutError
from rollout.vllm_engine import EngineDeadError, VLLMEngine

logger = logging.getLogger(__name__)


class EngineActor(VLLMEngine):
    """A vLLM engine as a Ray actor. All calls from outside are coroutines, so many are in flight."""

    def __init__(self, model: EngineModel, config: VLLMEngineConfig, log: Path | None) -> None:
        if log is not None:
            print_to(log)  # vLLM's own processes inherit it
        os.umask(FOR_NOBODY_ELSE)  # nothing else that an engine writes is the run's
        use_own_processors()
        use_own_files()
        require_seen(model.folder)  # or vLLM would look for it on the Hub
        talk_over_own_address()
        super().__init__(model, config)

    async def whereabouts(self) -> tuple[int, str]:
        """Return the process id and Ray's id of the node; an answer means that the engine is ready."""
        return os.getpid(), own_node()

    async def stop(self) -> None:
        """Stop vLLM's processes."""
        self.close()


@dataclass(eq=False, kw_only=True)
class Job:
    """A request on its way to an answer."""

    number: int
    request: GenerationRequest
    answer: "Future[tuple[Completion, ...]]"


@dataclass(eq=False, kw_only=True)
class Member:
    """One engine's place in the pool. Whoever dies is replaced there, by a new actor of the same number."""

    at: int
    config: VLLMEngineConfig
    model: EngineModel
    place: Place
    actor: Any = None
    state: Literal["starting", "ready", "lost"] = "starting"
    pid: int = 0
    node: str = ""
    """Ray's id of the node that it is on or was last; empty while there is none for it."""
    jobs: set[Job] = field(default_factory=set)
    loaded: int | None = None
    """Version that a replacement was given."""
    incarnation: int = 0
    """How many came before it in its place."""
    restarts: int = 0
    """Since it last answered."""
    heard: float = field(default_factory=time.monotonic)
    """When it last answered, or was given something while it had nothing."""
    why_lost: str = ""
    left: bool = False
    """Whether that is because its node has left the cluster."""

    @property
    def log(self) -> Path | None:
        """Where it prints to."""
        return log_file(self.model, self.at)

    @property
    def load(self) -> int:
        """Completions to do."""
        return sum(job.request.num_completions for job in self.jobs)

    def spawn(self) -> None:
        """Start an actor where the pool has its place."""
        import ray

        if self.log is not None:
            self.log.touch()  # by the stage, whose umask is the user's
        options = self.place.options(self.at)
        actor = ray.remote(EngineActor).options(num_cpus=1, max_concurrency=4096, **options)
        self.actor = actor.remote(self.model, self.config, self.log)

    def is_at(self, pid: int, node: str) -> None:
        """Take note of where it is, on which depends how its weights travel."""
        self.pid, self.node = pid, node
        logger.info("engine %d is on node %s, %s", self.at, name_of(node), self.place.reach(node))

    def ticket(self, shipment: Shipment) -> Any:
        """Return that by which it fetches weights."""
        name, reach = f"{self.at}-{self.incarnation}", self.place.reach(self.node)
        return shipment.ticket(name, self.config.tensor_parallel, reach)

    def has_node(self) -> bool:
        """Say whether there is a node with room for it, which may have to wait until one joins."""
        self.node = self.node or self.place.node_of(self.at)
        return bool(self.node) or self.place.group is None

    def node_that_left(self) -> str:
        """Return the name of its node if that has left the cluster, or else nothing."""
        return name_of(self.node) if self.node and has_left(self.node) else ""

    def cause(self, error: BaseException | None) -> str:
        """Return what broke it, in a line: the last error that it has printed says more than Ray's wrapping."""
        first = str(getattr(error, "cause", None) or error).strip().splitlines()
        return last_error(self.log) or (first[0] if first else type(error).__name__)

    def failed(self, purpose: str, error: BaseException) -> RolloutError:
        """Return the error that names it, what it was to do, and what broke it."""
        if node := self.node_that_left():
            return NodeLostError(f"engine {self.at} died {purpose}: its node {node} has left the cluster")
        verb = "died" if is_dead(error) else "failed"
        return RolloutError(f"engine {self.at} {verb} {purpose}: {self.cause(error)}{see(self.log)}")


def is_dead(error: BaseException) -> bool:
    """Say whether an engine cannot answer any more, rather than having refused something."""
    import ray

    if isinstance(error, ray.exceptions.RayTaskError):
        return isinstance(error.cause, EngineDeadError)
    # the memory monitor's kills are no RayActorError
    return isinstance(error, ray.exceptions.RayError) and not isinstance(error, ray.exceptions.GetTimeoutError)
