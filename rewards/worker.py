"""What runs inside a worker process: load once, then answer one question after another.

Started by `rewards.process`, which holds the other end of the pipe. It receives a `WorkerOrder`, then numbered
questions; it sends (number, kind, body) triples: number 0 with ``started`` and its process id, then with ``ready`` or
``failed`` once, then for each question
``running`` before each part of somebody else's code, with its name, and ``answered`` at the end. Where it answers
several at once, a number with None asks it to give that question up, and it says ``cancelled``.
"""

import asyncio
import contextlib
import importlib
import math
import os
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from rewards.types import OUT_OF_MEMORY, RewardError, WorkerOrder

Announce = Callable[[str], None]
"""Hears the name of each part of somebody else's code before it runs."""


class Server(Protocol):
    """What a worker loads, and what answers in it. Never raises for what somebody else's code does."""

    about: Any
    """What the parent hears of it once it is loaded; travels by pickle."""

    def answer(self, question: Any, runner: asyncio.Runner, announce: Announce) -> Any:
        """Answer; coroutines run on the runner's loop, the same for all questions."""
        ...

    async def answer_at_once(self, question: Any, announce: Announce) -> Any:
        """Answer while other questions are being answered on the same loop; where ``concurrency`` is above 1."""
        ...


def main(pipe_fd: int) -> None:
    """Serve until the pipe closes; below a keeper (`rewards.keeper`)."""
    be_killed_first()
    pipe = Connection(pipe_fd)
    try:
        pipe.send((0, "started", os.getpid()))
        serve(pipe)
    except (EOFError, ConnectionError):
        return  # the parent is done with us
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


def serve(pipe: Connection) -> None:
    """Load what the order says, then answer each question."""
    order: WorkerOrder = pipe.recv()
    limit_memory(order.max_memory_bytes)
    module, name = order.server.split(":")
    try:
        server: Server = getattr(importlib.import_module(module), name)(order.given)
    except Exception as error:  # loading imports other people's code
        said = error if isinstance(error, RewardError) else f"{type(error).__name__}: {shown(error, str)}"
        pipe.send((0, "failed", f"{said}"))
        return
    pipe.send((0, "ready", server.about))
    if order.concurrency > 1:
        asyncio.run(serve_at_once(pipe, server, order.concurrency))
    else:
        serve_in_turn(pipe, server, order)


def serve_in_turn(pipe: Connection, server: Server, order: WorkerOrder) -> None:
    """Answer one question after the other."""
    home, own_pid = Path.cwd(), os.getpid()
    with asyncio.Runner() as runner:
        while True:
            number, question = pipe.recv()
            os.chdir(home)  # wherever the last answer has gone
            limit_cpu(order.max_cpu_s)
            answer = server.answer(question, runner, _announcer(pipe, number))
            if os.getpid() != own_pid:  # it has forked, and this is the child: one answer is enough
                os._exit(1)
            pipe.send((number, "answered", answer))


async def serve_at_once(pipe: Connection, server: Server, concurrency: int) -> None:
    """Answer questions as they come, all on one event loop, until the pipe closes."""
    loop, closed = asyncio.get_running_loop(), asyncio.Event()
    loop.set_default_executor(ThreadPoolExecutor(concurrency))
    tasks: dict[int, asyncio.Task[None]] = {}

    async def answer(number: int, question: Any) -> None:
        try:
            pipe.send((number, "answered", await server.answer_at_once(question, _announcer(pipe, number))))
        except asyncio.CancelledError:
            pipe.send((number, "cancelled", None))
        finally:
            del tasks[number]

    def hear() -> None:
        try:
            number, question = pipe.recv()
        except (EOFError, ConnectionError):
            loop.remove_reader(pipe.fileno())
            closed.set()
            return
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        if question is not None:
            tasks[number] = loop.create_task(answer(number, question))
        elif number in tasks:
            tasks[number].cancel()

    loop.add_reader(pipe.fileno(), hear)
    await closed.wait()


def _announcer(pipe: Connection, number: int) -> Announce:
    return lambda name: pipe.send((number, "running", name))


def is_being_cancelled() -> bool:
    """Say whether somebody has asked the running task to end; other people's code may raise CancelledError itself."""
    with contextlib.suppress(RuntimeError):  # there is no loop
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return False


def shown(value: Any, how: Callable[[Any], str] = repr) -> str:
    """Return the value as text for a message, cut short, whatever its own methods do."""
    try:
        return how(value)[:500]
    except BaseException as error:
        return f"<{type(value).__name__}, which cannot be shown: {type(error).__name__}>"


def limit_memory(max_bytes: int | None) -> None:
    """Have allocations past the limit fail, here and in what this process starts; leave no core files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if max_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))


def limit_cpu(seconds: float | None) -> None:
    """Have SIGXCPU end this process once it has used so much more processor time than now."""
    if seconds is None:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime + seconds), hard))


def be_killed_first() -> None:
    """Offer this process to Linux when memory runs out, so that it takes a reward and not the learner."""
    with contextlib.suppress(OSError):  # some containers forbid it, and it is only a preference
        Path("/proc/self/oom_score_adj").write_text("1000")
