"""No wait without an end: what blocks has a limit in the call itself, or is known here with what ends it."""

import ast
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.test_layering import ROOT, sources

ENDLESS = {"wait", "join", "acquire", "recv", "result", "get"}
"""Methods that wait for ever when they are called without arguments."""
LIMITED = {"ray.get", "ray.wait", "self._ray.get", "self._ray.wait", "asyncio.wait", "subprocess.run", "wait"}
"""Functions that wait for ever when they are called without `timeout`, as the methods below do."""
LIMITED_METHODS = {"communicate", "shutdown"}

Place = tuple[str, str]
"""A file, and a function in it."""
ENDED_OTHERWISE: dict[Place, tuple[int, str]] = {
    ("pipeline/launch.py", "RayLauncher.close"): (1, "Ray's driver ends, and is killed where that takes too long"),
    ("pipeline/live.py", "watch"): (1, "somebody looks on until the run has no driver any more, or presses Ctrl-C"),
    ("pipeline/ray_process.py", "_Child.hear"): (1, "it has been polled: there is something"),
    ("pipeline/ray_process.py", "_serve"): (1, "the child waits for jobs, and dies with its parent"),
    ("pipeline/tracking.py", "_Feed._serve"): (1, "a thread that waits for lines; who closes it has a limit"),
    ("rewards/cgroup.py", "_remove"): (1, "a hundredth of a second, again until REMOVAL_S have passed"),
    ("rewards/grading.py", "_in_thread"): (1, "user code in a worker, which is killed at its question's deadline"),
    ("rewards/lane.py", "Lane._serve"): (1, "a thread that waits for jobs until its lane is closed"),
    ("rewards/process.py", "WorkerProcess._read"): (1, "a thread that listens to a worker until its pipe closes"),
    ("rewards/process.py", "WorkerProcess._write"): (1, "a thread that waits for questions until the worker is killed"),
    ("rewards/sandbox.py", "Sandbox._converse"): (
        2,
        "after SIGKILL to all of the sandbox, which ends whoever writes to it",
    ),
    ("rewards/reader.py", "Reader._within"): (1, "it has been polled: there is something"),
    ("rewards/reader.py", "_serve"): (1, "a fork of a worker waits for questions, and dies with its parent"),
    ("rewards/sandbox.py", "Sandbox._end"): (1, "after SIGKILL to all of the sandbox"),
    ("rewards/inside/trials.py", "run"): (1, "inside of a sandbox, which is killed from outside at its limit"),
    ("rewards/worker.py", "serve"): (1, "a worker waits for its order, and dies with its parent"),
    ("rewards/worker.py", "serve_at_once"): (1, "a worker waits for questions, and dies with its parent"),
    ("rewards/worker.py", "serve_at_once.hear"): (1, "the event loop has seen that there is something"),
    ("rewards/worker.py", "serve_in_turn"): (1, "a worker waits for questions, and dies with its parent"),
    ("rollout/orphans.py", "_watch"): (1, "a thread that watches its owner, as long as its process lives"),
    ("rollout/transports/broadcast.py", "_finish"): (1, "the work is completed, and only its error is asked for"),
}
"""How many calls, and what ends them."""
DONE: dict[Place, int] = {
    ("rewards/chat.py", "gathered"): 1,
    ("rewards/scorer.py", "Scorer.submit"): 1,
    ("rollout/collector.py", "Collector._finish.group"): 1,
    ("rollout/collector.py", "Collector._score"): 2,
    ("rollout/collector.py", "Collector.wait"): 2,
    ("rollout/episodes.py", "OneTurn.submit.answered"): 1,
    ("rollout/episodes.py", "Turns.submit.all_done"): 1,
    ("rollout/episodes.py", "_when.happened"): 1,
    ("rollout/vllm_engine.py", "VLLMEngine._while_alive"): 1,
    ("rollout/workers.py", "RayPool._answered"): 1,
    ("rollout/workers.py", "RayPool._started"): 1,
}
"""How often `.result()` is asked of futures that are done."""


def calls(node: ast.AST, within: str = "") -> Iterator[tuple[str, ast.Call]]:
    """Yield every call below a node, with the function that it is in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield within, child
        inside = within
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = f"{within}.{child.name}".lstrip(".")
        yield from calls(child, inside)


def is_endless(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    named = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name in ("time.sleep", "sleep"):
        return "slice_s" not in ast.unparse(call)
    if name in LIMITED or method in LIMITED_METHODS:
        return named.get("timeout", "None") == "None" and named.get("wait") != "False"
    given = [*map(ast.unparse, call.args), *named.values()]
    return method in ENDLESS and all(value == "None" for value in given)


def test_what_blocks_has_a_limit_or_is_known() -> None:
    done, others = Counter[Place](), Counter[Place]()
    for path in sources():
        for function, call in calls(ast.parse(path.read_text())):
            if is_endless(call):
                found = done if ast.unparse(call.func).endswith(".result") else others
                found[path.relative_to(ROOT).as_posix(), function] += 1
    assert others == {place: num for place, (num, _) in ENDED_OTHERWISE.items()}
    assert done == DONE


@pytest.mark.parametrize(
    ("endless", "limited"),
    [
        ("process.wait()", "process.wait(5)"),
        ("process.wait(None)", "process.wait(limit_s)"),
        ("inbox.get()", "columns.get('answer')"),
        ("inbox.get(timeout=None)", "inbox.get(timeout=1.0)"),
        ("process.communicate(given)", "process.communicate(given, timeout=5)"),
        ("executor.shutdown()", "executor.shutdown(wait=False)"),
        ("wait(futures, return_when=FIRST_COMPLETED)", "wait(futures, timeout=5)"),
        ("ray.get(reference, timeout=None)", "ray.get(reference, timeout=60.0)"),
        ("sleep(5)", "sleep(wait.slice_s())"),
    ],
)
def test_a_call_without_a_limit_is_told_from_one_with(endless: str, limited: str) -> None:
    expected = [(endless, True), (limited, False)]
    assert [(text, is_endless(next(calls(ast.parse(text)))[1])) for text, _ in expected] == expected
