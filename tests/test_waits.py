"""No wait without an end: what blocks has a limit in the call itself, or is known here with what ends it."""

import ast
from collections.abc import Iterator

from tests.test_layering import ROOT, sources

ENDLESS = {"wait", "join", "communicate", "acquire", "recv", "result"}
"""Methods that wait for ever when they are called without arguments."""
LIMITED = {"ray.get", "ray.wait", "self._ray.get", "self._ray.wait", "asyncio.wait", "subprocess.run"}
"""Functions that wait for ever when they are called without `timeout`."""
ENDED_OTHERWISE = {
    "rewards/worker.py": "a worker waits for questions, and dies with its parent",
    "rewards/process.py": "a thread that listens to a worker until its pipe closes; who asks has a deadline",
    "rewards/sandbox_inside.py": "inside of a sandbox, which is killed from outside at its limit",
    "rewards/sandbox.py": "after SIGKILL to all of the sandbox",
    "rewards/grading.py": "user code in a worker, which is killed at the deadline of its question",
    "pipeline/ray_process.py": "the child waits for jobs, and dies with its parent",
    "pipeline/live.py": "somebody looks on until the run has no driver any more, or presses Ctrl-C",
    "rollout/orphans.py": "a thread that watches its owner, as long as its process lives",
    "rollout/transports/broadcast.py": "the work is completed by then, and only its error is asked for",
}
DONE = {
    "rollout/collector.py",
    "rollout/episodes.py",
    "rollout/workers.py",
    "rollout/vllm_engine.py",
    "rewards/scorer.py",
    "rewards/chat.py",
}
"""Files in which `.result()` is asked of futures that are done."""


def calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield path.relative_to(ROOT).as_posix(), node


def unlimited() -> Iterator[tuple[str, str, int]]:
    for file, call in calls():
        name = ast.unparse(call.func)
        method = name.rpartition(".")[2] if isinstance(call.func, ast.Attribute) else ""
        if method in ENDLESS and not call.args and not call.keywords:
            yield file, method, call.lineno
        if name == "time.sleep" and "slice_s" not in ast.unparse(call):
            yield file, name, call.lineno
        if name in LIMITED and "timeout" not in {keyword.arg for keyword in call.keywords}:
            yield file, name, call.lineno


def test_what_blocks_has_a_limit_or_is_known() -> None:
    found = list(unlimited())
    unknown = [
        (file, name, line)
        for file, name, line in found
        if file not in ENDED_OTHERWISE and not (name == "result" and file in DONE)
    ]
    assert not unknown
    assert set(ENDED_OTHERWISE) <= {file for file, _, _ in found}, "a file here waits no more"
