"""A learner of two ranks, one of which is killed: the stage goes on by itself, and ends as if nothing had happened."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.runs import (
    assert_same_weights,
    begin,
    is_alive,
    metrics,
    strop,
    wait_for,
)
from tests.faults.family import role
from tests.faults.recipes import write_grpo

pytestmark = [pytest.mark.real, pytest.mark.exhaustive]

NUM_STEPS = 6


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipe")
    return write_grpo(root, num_steps=NUM_STEPS, learning_rate=1e-3, num_learners=2, kl={"coef": 0.01})


def test_the_death_of_a_rank_is_survived_and_leaves_no_trace_in_the_weights(recipe: Path, tmp_path: Path) -> None:
    whole = strop("run", recipe, "--runs", tmp_path / "whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    run = tmp_path / "killed" / "r"
    driver = begin("run", recipe, "--runs", run.parent)
    wait_for(lambda: 3 in metrics(run, "grpo") or driver.poll() is not None, "step 3", 300)
    family = psutil.Process(driver.pid)
    learners = [process for process in family.children(recursive=True) if role(process) == "rank_1"]
    assert len(learners) == 1
    os.kill(learners[0].pid, signal.SIGKILL)
    told, said = driver.communicate(timeout=300)
    assert driver.returncode == 0, told + said
    assert "rank 1 of its learner died" in (run / "events.jsonl").read_text()
    assert [folder.name for folder in sorted((run / "grpo").glob("attempt_*"))] == ["attempt_001", "attempt_002"]
    assert not [process for process in learners if is_alive(process)]
    assert_same_weights(tmp_path / "whole" / "r", run, "grpo")
    # and one rank alone learns the same
    alone = strop("run", recipe, "--runs", tmp_path / "alone", "--set", "stages.grpo.num_learners=1")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    losses = [
        [metrics(tmp_path / which / "r", "grpo")[step]["train/loss"] for step in range(1, NUM_STEPS + 1)]
        for which in ("whole", "alone")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
