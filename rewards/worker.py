"""What runs inside a reward worker process: import the rewards once, then score one group after another.

Started by `rewards.process`, which holds the other end of the pipe. It receives a `WorkerOrder`, then numbered groups;
it sends (number, kind, body) triples: number 0 with ``ready`` or ``failed`` once, then for each group ``running``
before each reward and ``scored`` (with a `Graded`) at the end. Where it marks several groups at once, a number with
None asks it to give that group up, and it says ``cancelled``.
"""

import asyncio
import contextlib
import math
import os
import resource
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from rewards import grading
from rewards.strays import die_with_parent
from rewards.types import Attempt, RewardError, WorkerOrder


def main(pipe_fd: int, parent_pid: int) -> None:
    """Serve until the pipe closes."""
    die_with_parent(parent_pid)
    be_killed_first()
    pipe = Connection(pipe_fd)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is done with us
        serve(pipe)


def serve(pipe: Connection) -> None:
    """Load what the order says, then answer each group."""
    order: WorkerOrder = pipe.recv()
    limit_memory(order.max_memory_bytes)
    try:
        rewards = grading.load(order.rewards)
    except Exception as error:  # loading imports other people's code
        said = error if isinstance(error, RewardError) else f"{type(error).__name__}: {grading.shown(error, str)}"
        pipe.send((0, "failed", f"{said}"))
        return
    pipe.send((0, "ready", None))
    if order.concurrency > 1:
        asyncio.run(serve_at_once(pipe, rewards, order.concurrency))
    else:
        serve_in_turn(pipe, rewards, order)


def serve_in_turn(pipe: Connection, rewards: Sequence[grading.Reward], order: WorkerOrder) -> None:
    """Answer one group after the other."""
    home, own_pid = Path.cwd(), os.getpid()
    with asyncio.Runner() as runner:
        while True:
            number, group = pipe.recv()
            os.chdir(home)  # wherever the last reward has gone
            limit_cpu(order.max_cpu_s)
            graded = grading.grade(rewards, group, runner, _announcer(pipe, number))
            if os.getpid() != own_pid:  # a reward has forked, and this is the child: one answer is enough
                os._exit(1)
            pipe.send((number, "scored", graded))


async def serve_at_once(pipe: Connection, rewards: Sequence[grading.Reward], concurrency: int) -> None:
    """Answer groups as they come, all on one event loop, until the pipe closes."""
    loop, closed = asyncio.get_running_loop(), asyncio.Event()
    loop.set_default_executor(ThreadPoolExecutor(concurrency))
    tasks: dict[int, asyncio.Task[None]] = {}

    async def answer(number: int, group: Sequence[Attempt]) -> None:
        try:
            graded = await grading.grade_at_once(rewards, group, _announcer(pipe, number))
            pipe.send((number, "scored", graded))
        except asyncio.CancelledError:
            pipe.send((number, "cancelled", None))
        finally:
            del tasks[number]

    def hear() -> None:
        try:
            number, group = pipe.recv()
        except (EOFError, ConnectionError):
            loop.remove_reader(pipe.fileno())
            closed.set()
            return
        if group is not None:
            tasks[number] = loop.create_task(answer(number, group))
        elif number in tasks:
            tasks[number].cancel()

    loop.add_reader(pipe.fileno(), hear)
    await closed.wait()


def _announcer(pipe: Connection, number: int) -> grading.Announce:
    return lambda label: pipe.send((number, "running", label))


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
