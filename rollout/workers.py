"""A pool of vLLM engines, each in a Ray actor of its own: started, fed, watched and replaced. `pools` starts it.

Of rollout only `members` and `nodes` know Ray, too. Every wait on an actor has a deadline, is logged while it lasts,
and ends in a RolloutError that names the engine.
"""

import contextlib
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from rewards.waits import LOOK_EVERY_S, Wait
from rollout.config import VLLMEngineConfig
from rollout.engine import EngineModel, Shipment, require_fit
from rollout.engine_logs import see
from rollout.members import Job, Member, is_dead
from rollout.nodes import Place, talk_over_own_address
from rollout.types import Completion, GenerationRequest, NodeLostError, RolloutError

logger = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 20.0
_ANSWER_S = 30.0
"""How long an answer that is there may take to be read, and the death of an engine to be noted."""
NONE_READY_S = 110.0
"""How long no engine at all may be there before the run stops."""


class RayPool:
    """A `Pool` of vLLM engines, each in an actor of its own. Requests go to the engine with the least to do.

    An engine that dies, or answers nothing for too long, is replaced: the new one gets the current weights and what the
    old one had still to answer. While others live they do its work; where none does for two minutes, or one that has
    answered nothing was replaced too often, everything that is asked fails by its name.

    One thread, ``_serve``, decides all of this. Callers and Ray only put what has happened into its inbox.
    """

    def __init__(self, config: VLLMEngineConfig, model: EngineModel) -> None:
        self._config = config
        place = Place.here(config)  # Ray tells only the thread of the stage
        talk_over_own_address()
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._numbers = itertools.count()
        self._failure: RolloutError | None = None
        self._num_restarts = 0
        self._weights_lock = threading.Lock()
        self._weights: tuple[Shipment, int] | None = None
        self._is_asleep = False
        self._members: list[Member] = []
        self._last_ready = time.monotonic()
        self._thread: threading.Thread | None = None
        try:
            for at in range(config.num_engines):
                member = Member(at=at, config=config, model=model, place=place, node=place.node_of(at))
                member.spawn()
                self._members.append(member)
            started = [(member, member.actor) for member in self._members]
            found = self._ask_all(started, "to be ready", config.start_timeout_s, "whereabouts")
        except BaseException:
            self.close()
            raise
        for member in self._members:
            member.is_at(*found[member.at])
            member.state, member.heard = "ready", time.monotonic()
        self._last_ready = time.monotonic()
        self._thread = threading.Thread(target=self._serve, name="pool", daemon=True)
        self._thread.start()

    @property
    def pids(self) -> list[int]:
        """Process ids of the engines' actors, in their order."""
        return [member.pid for member in self._members]

    def submit(self, request: GenerationRequest) -> "Future[tuple[Completion, ...]]":
        """Have a request answered, by whichever engine has the least to do."""
        assert self._thread is not None, "the pool is closed"
        require_fit([request], self._config.max_model_tokens)
        job = Job(number=next(self._numbers), request=request, answer=Future())
        job.answer.set_running_or_notify_cancel()  # nobody takes it back
        self._waiting.append(job)
        self._inbox.put(lambda: None)  # wakes the thread, the only one that takes jobs out
        return job.answer

    def logprobs(self, sequences: Sequence[Sequence[int]], *, timeout_s: float = 600.0) -> list[list[list[float]]]:
        """Ask all engines that live, at the same time."""
        while True:
            engines = self._living(timeout_s)
            answers = self._ask_all(engines, "for log-probabilities", timeout_s, "logprobs", lambda _: (sequences,))
            if answers:
                return [answers[at] for at in sorted(answers)]

    def load_weights(self, shipment: Shipment, version: int, *, timeout_s: float = 600.0) -> None:
        """Load in all engines that live, at the same time; a sleeping one wakes."""
        with self._weights_lock:
            self._weights, self._is_asleep = (shipment, version), False
            ready = self._ready()
        purpose = f"to load version {version}"
        self._ask_all(ready, purpose, timeout_s, "load_weights", lambda member: (member.ticket(shipment), version))
        self._living(timeout_s)

    def sleep(self) -> None:
        """Put all engines that live to sleep. One that is being replaced is given no weights until the next load."""
        if not self._config.sleep:
            return
        with self._weights_lock:
            self._is_asleep = True
            ready = self._ready()
        self._ask_all(ready, "to sleep", self._config.request_timeout_s, "sleep")

    def take_metrics(self) -> dict[str, float]:
        """Return how many engines were replaced since the last call, and how many are there."""
        found, self._num_restarts = self._num_restarts, 0
        return {"rollout/engine_restarts": float(found), "rollout/engines_ready": float(len(self._ready()))}

    def close(self) -> None:
        """Close vLLM in every actor, then kill the actors, also those that do not close in time."""
        import ray

        thread, self._thread = self._thread, None
        if thread is not None:
            self._inbox.put(None)
            thread.join(_CLOSE_TIMEOUT_S)
        members, self._members = self._members, []
        closing = [member.actor.stop.remote() for member in members]
        done, _ = ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_TIMEOUT_S) if closing else ([], [])
        for member, reference in zip(members, closing, strict=True):
            if reference not in done:
                logger.warning("engine %d did not close within %.0f s and is killed", member.at, _CLOSE_TIMEOUT_S)
            ray.kill(member.actor)
        self._fail(RolloutError("the pool was closed before this request was answered"), members)

    def _serve(self) -> None:
        """Take note of what happens, hand out what waits, look after the engines. Runs in a thread."""
        while True:
            try:
                with contextlib.suppress(Empty):
                    happened = self._inbox.get(timeout=LOOK_EVERY_S)
                    if happened is None:
                        return
                    happened()
                if self._failure is None and self._inbox.empty():
                    self._look_after()
                    self._hand_out()
            except Exception as error:
                logger.exception("the pool's thread broke")
                self._failure = RolloutError(f"the pool broke: {type(error).__name__}: {error}")
            if self._failure is not None:
                self._fail(self._failure, self._members)

    def _hand_out(self) -> None:
        """Keep each engine supplied with up to twice what it decodes at once; once, where time is counted."""
        while self._waiting:
            ready = [member for member in self._members if member.state == "ready"]
            member = min(ready, key=lambda member: member.load, default=None)
            rounds = 1 if self._waiting[0].request.deadline_s is not None else 2
            if member is None or member.load >= rounds * self._config.max_num_seqs:
                return
            job = self._waiting.popleft()
            if not member.jobs:
                member.heard = time.monotonic()
            member.jobs.add(job)
            self._when_done(member, member.actor.generate.remote(job.request), partial(self._answered, member, job))

    def _answered(self, member: Member, job: Job, found: "Future[Any]") -> None:
        if job not in member.jobs:
            return  # it was lost meanwhile, and another engine has the request
        error = found.exception()
        if error is not None and is_dead(error):
            self._lose(member, member.cause(error))
            return
        member.jobs.remove(job)
        member.heard, member.restarts = time.monotonic(), 0
        if error is not None:
            job.answer.set_exception(member.failed(f"answering request {job.number}", error))
        else:
            job.answer.set_result(found.result())

    def _lose(self, member: Member, why: str) -> None:
        """Give up an engine, take back what it had to answer, and start another in its place."""
        import ray

        if member.state == "lost":
            return
        member.left = bool(node := member.node_that_left())
        why = f"its node {node} has left the cluster" if member.left else why
        logger.warning(
            "engine %d is lost (%s) with %d requests; they are asked again", member.at, why, len(member.jobs)
        )
        self._waiting.extendleft(sorted(member.jobs, key=lambda job: -job.number))
        member.jobs.clear()
        member.state, member.why_lost, member.heard = "lost", why, time.monotonic()
        ray.kill(member.actor)
        if member.restarts < self._config.max_restarts:
            member.restarts += not member.left  # which is no fault of the engine's
            member.incarnation += 1
            self._num_restarts += 1
            try:
                member.spawn()
            except Exception as error:  # a cluster that is going down
                member.why_lost = f"{why}, and no other can be started: {error}"
                return
            member.state, member.node = "starting", ""
            self._when_done(member, member.actor.whereabouts.remote(), partial(self._started, member))

    def _started(self, member: Member, found: "Future[tuple[int, str]]") -> None:
        """Take note that a replacement is there, if it is."""
        if found.exception() is not None:
            self._lose(member, member.cause(found.exception()))
            return
        member.is_at(*found.result())
        member.loaded = None
        self._equip(member)

    def _equip(self, member: Member) -> None:
        """Give a replacement the current weights, and call it ready once it holds them."""
        with self._weights_lock:  # whoever brings the next ones finds it ready, or it finds them here
            if self._weights is None or self._is_asleep or member.loaded == self._weights[1]:
                member.state, member.heard = "ready", time.monotonic()
                logger.info("engine %d is replaced", member.at)
                return
            member.loaded = self._weights[1]
            ticket = member.ticket(self._weights[0])
        reference = member.actor.load_weights.remote(ticket, member.loaded)
        self._when_done(member, reference, partial(self._equipped, member))

    def _equipped(self, member: Member, found: "Future[None]") -> None:
        """Look again, for other weights may have come meanwhile."""
        if found.exception() is not None:
            self._lose(member, member.cause(found.exception()))
            return
        self._equip(member)

    def _look_after(self) -> None:
        """Replace engines that are silent or late; give up where there is none for too long."""
        now = time.monotonic()
        for member in self._members:
            silent_s = now - member.heard
            if member.state == "ready" and member.jobs and silent_s > self._config.request_timeout_s:
                self._lose(member, f"it answered nothing for {silent_s:.0f} s")
            elif member.state == "starting" and not member.has_node():
                member.heard = now  # its time begins when it has one
            elif member.state == "starting" and silent_s > self._config.start_timeout_s:
                self._lose(member, f"its replacement was not ready after {silent_s:.0f} s")
        if any(member.state == "ready" for member in self._members):
            self._last_ready = now
        if all(member.state == "lost" for member in self._members) or now - self._last_ready > NONE_READY_S:
            causes = "; ".join(f"engine {m.at}: {m.why_lost}{see(m.log)}" for m in self._members)
            kind = NodeLostError if any(m.left for m in self._members) else RolloutError
            self._failure = kind(f"no engine is left to answer. {causes}. The run can be resumed")
            self._fail(self._failure, self._members)

    def _fail(self, error: RolloutError, members: Sequence[Member]) -> None:
        """Fail all that is asked."""
        jobs = [job for member in members for job in member.jobs]
        while self._waiting:
            jobs.append(self._waiting.popleft())
        for member in members:
            member.jobs.clear()
        for job in jobs:
            if not job.answer.done():
                job.answer.set_exception(error)

    def _when_done(self, member: Member, reference: Any, act: "Callable[[Future[Any]], None]") -> None:
        """Have the thread act on a call's outcome, unless the actor has been replaced by then."""
        actor = member.actor

        def happened(found: "Future[Any]") -> None:
            self._inbox.put(lambda: act(found) if member.actor is actor else None)

        reference.future().add_done_callback(happened)

    def _ready(self) -> "list[tuple[Member, Any]]":
        """Return the engines that live, each with its actor of this moment."""
        return [(member, member.actor) for member in self._members if member.state == "ready"]

    def _living(self, timeout_s: float) -> "list[tuple[Member, Any]]":
        """Return the engines that live; where there is none, wait for one. Raises RolloutError where none comes."""
        with Wait("any engine to be replaced", timeout_s + NONE_READY_S, fails=RolloutError) as wait:
            while True:
                if self._failure is not None:
                    raise self._failure
                with self._weights_lock:
                    ready = self._ready()
                if ready:
                    return ready
                wait.look()
                time.sleep(wait.slice_s(0.1))

    def _ask_all(
        self,
        engines: "Sequence[tuple[Member, Any]]",
        purpose: str,
        timeout_s: float,
        method: str,
        arguments: Callable[[Member], tuple[Any, ...]] = lambda _: (),
    ) -> dict[int, Any]:
        """Return the answers of the engines by their number; those that die or are late are left out, and replaced.

        Raises RolloutError for an error that is not an engine's death, and where the pool starts for each.
        """
        import ray

        asked = {getattr(actor, method).remote(*arguments(member)): (member, actor) for member, actor in engines}
        answers: dict[int, Any] = {}

        def waited_for() -> str:
            return f"engines {sorted(member.at for member, _ in asked.values())} {purpose}"

        with Wait(waited_for(), timeout_s, way_out="see their logs, and `ray status`", fails=RolloutError) as wait:
            while asked:
                done, _ = ray.wait(list(asked), num_returns=1, timeout=wait.slice_s())
                for reference in done:
                    member, actor = asked.pop(reference)
                    try:
                        answers[member.at] = ray.get(reference, timeout=_ANSWER_S)
                    except ray.exceptions.RayError as error:
                        if self._thread is None or not is_dead(error):
                            raise member.failed(purpose, error) from error
                        self._give_up(member, actor, member.cause(error))
                try:
                    if not done:
                        wait.look(waited_for())
                except RolloutError as late:
                    if self._thread is None:
                        raise
                    for member, actor in asked.values():
                        self._give_up(member, actor, str(late))
                    return answers
        return answers

    def _give_up(self, member: Member, actor: Any, why: str) -> None:
        """Have the thread replace an actor, and wait until it has taken note, or that one would be asked again."""

        def lose() -> None:
            if member.actor is actor:
                self._lose(member, why)

        self._inbox.put(lose)
        with Wait(f"the loss of engine {member.at} to be noted", _ANSWER_S, fails=RolloutError) as wait:
            wait.until(lambda: member.actor is not actor or member.state != "ready", every_s=0.01)
