"""Nothing that a worker starts outlives it: real processes that cut all ties, and real kills."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rewards.config import CodeRewardConfig, FunctionRewardConfig
from rewards.scorer import Scorer
from rewards.scoring_config import ScoringConfig
from rewards.strays import descendants
from tests.rewards.attempts import group
from tests.rewards.test_scorer import is_running, wait_until_gone

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]


def obeying(note):
    return FunctionRewardConfig(import_path="tests.rewards.obedient:obey", kwargs={"note": str(note)})


def flee(runtime):
    """Have a worker leave such a process behind; return the worker's id and that of what fled."""
    worker, fled = (int(score.value) for score in runtime.submit(group("flee", "")).result(30))
    assert is_running(fled)
    assert Path(f"/proc/{fled}/environ").read_bytes() == b"" and os.getsid(fled) != os.getsid(worker)
    assert "rewards.worker" in " ".join(psutil.Process(psutil.Process(fled).ppid()).cmdline()), "its keeper has it"
    return worker, fled


def test_what_fled_ends_when_the_scorer_is_closed(tmp_path):
    with Scorer([obeying(tmp_path / "note")], ScoringConfig()) as runtime:
        worker, fled = flee(runtime)
        assert [score.value for score in runtime.submit(group("1", "2")).result(30)] == [1.0, 2.0]
        assert is_running(fled)  # the worker lives, and what it started may too
    assert not is_running(fled) and not is_running(worker)


def test_what_fled_ends_when_its_worker_is_killed_and_the_next_one_serves_on(tmp_path):
    with Scorer([obeying(tmp_path / "note")], ScoringConfig()) as runtime:
        worker, fled = flee(runtime)
        os.kill(worker, signal.SIGKILL)
        wait_until_gone([worker, fled], 5.0)
        assert [score.value for score in runtime.submit(group("1", "2")).result(30)] == [1.0, 2.0]


@pytest.mark.exhaustive
def test_what_fled_ends_when_its_worker_is_late(tmp_path):
    with Scorer([obeying(tmp_path / "note")], ScoringConfig(deadline_s=2.0)) as runtime:
        _, fled = flee(runtime)
        [late] = runtime.submit(group("sleep")).result(30)
        assert late.cause == "timeout" and not is_running(fled)


ASKING = """
import sys
from tests.rewards.test_keeper import Scorer, ScoringConfig, flee, group, obeying
runtime = Scorer([obeying(sys.argv[1])], ScoringConfig(deadline_s=600))
print(*flee(runtime), flush=True)
runtime.submit(group("hold the lock")).result()
"""


@pytest.mark.parametrize(
    "sent", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive)], ids=lambda sent: sent.name
)
def test_what_fled_ends_when_whoever_asked_is_killed(tmp_path, sent):
    command = [sys.executable, "-c", ASKING, str(tmp_path / "note")]
    asking = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        worker, fled = map(int, asking.stdout.readline().split())
        below = descendants(asking.pid)
        assert {worker, fled} <= set(below)
        asking.send_signal(sent)
        asking.wait(10)
        wait_until_gone([worker, fled, *below], 5.0)
    finally:
        asking.kill()


@pytest.mark.exhaustive
def test_a_keeper_that_is_stopped_does_not_hold_up_the_end(tmp_path):
    runtime = Scorer([obeying(tmp_path / "note")], ScoringConfig())
    worker = int(runtime.submit(group("pid", "")).result(30)[0].value)
    keeper = psutil.Process(worker).ppid()
    os.kill(keeper, signal.SIGSTOP)
    start = time.monotonic()
    runtime.close()
    assert time.monotonic() - start < 11
    wait_until_gone([worker, keeper], 5.0)


FLEEING_PROGRAM = """```python
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open({path!r}, "w").write(str(os.getpid()))
        os.closerange(0, 4096)
        os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"], {{}})
    os._exit(0)
os.wait()
time.sleep(0.5)
```"""


def test_what_a_program_leaves_behind_without_a_sandbox_ends_with_the_worker(tmp_path):
    told = tmp_path / "fled"
    code = CodeRewardConfig(sandbox="none", processes=64)
    with Scorer([code], ScoringConfig()) as runtime:
        program = FLEEING_PROGRAM.format(path=str(told))
        runtime.submit(group(program, tests=["assert True"])).result(30)
    wait_until_gone([int(told.read_text())], 5.0)
