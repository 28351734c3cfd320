"""One run, of whose processes one of each kind is killed, one after the other: it ends as if nothing had happened.

Real Ray, a learner of two ranks, the exact engine. vLLM's processes are killed in `tests/end_to_end/test_climb.py`;
`test_stopped.py` stops and kills each kind in a run of its own.
"""

import signal
from pathlib import Path

import pytest

from tests.end_to_end.runs import begin, is_alive, metrics, strop, wait_for
from tests.faults.family import family, of_role
from tests.faults.recipes import SLOW_DIGITS, differences, evidence, write_grpo

pytestmark = pytest.mark.real

KILLED_AT = {"worker": 2, "rank_1": 4, "stage": 6, "raylet": 8, "driver": 10, "gcs_server": 12}
"""Kind of process -> the step after which one of it is killed. `strop run` itself is killed last."""
STROP_KILLED_AT, NUM_STEPS = 14, 16
A_STEP_WITHIN_S = 150.0


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grpo(
        tmp_path_factory.mktemp("recipe"), num_steps=NUM_STEPS, num_learners=2, scoring={"num_workers": 1},
        rewards=[SLOW_DIGITS], common={"max_restarts": len(KILLED_AT)},
    )  # fmt: skip


def test_a_run_of_whose_processes_each_kind_is_killed_ends_as_if_none_had_been(recipe: Path, tmp_path: Path) -> None:
    whole = strop("run", recipe, "--runs", tmp_path / "whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr

    run = tmp_path / "killed" / "r"
    driver = begin("run", recipe, "--runs", run.parent)
    seen = set()
    try:
        for role, step in KILLED_AT.items():
            wait_for(
                lambda step=step, role=role: step in metrics(run, "grpo") and bool(of_role(role, driver.pid)),
                f"step {step}, before which {role} is to be killed",
                A_STEP_WITHIN_S,
            )
            seen |= set(family(driver.pid))
            of_role(role, driver.pid)[0].send_signal(signal.SIGKILL)
        wait_for(lambda: STROP_KILLED_AT in metrics(run, "grpo"), f"step {STROP_KILLED_AT}", A_STEP_WITHIN_S)
        seen |= set(family(driver.pid))
    finally:
        driver.kill()
        driver.communicate()
    wait_for(lambda: not any(map(is_alive, seen)), "the processes of the killed run to end", 90.0)
    resumed = strop("resume", run)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert not list(differences(evidence(tmp_path / "whole" / "r", "grpo"), evidence(run, "grpo")))
    events = (run / "events.jsonl").read_text()
    assert "rank 1 of its learner died" in events and "Ray's driver died (exit code -9)" in events
