"""A learner of two ranks, one of which is killed: the stage goes on by itself, and ends as if nothing had happened."""

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.end_to_end.runs import (
    assert_same_weights,
    begin,
    is_alive,
    metrics,
    strop,
    wait_for,
    write_recipe,
    write_rows,
)
from tests.faults.family import role
from tests.models import write_tiny_model

pytestmark = [pytest.mark.real, pytest.mark.exhaustive]

NUM_STEPS = 6


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipe")
    rows = [{"prompt": f"What is {n} plus 1?", "answer": str(n + 1)} for n in range(40)]
    stage: dict[str, Any] = {
        "kind": "grpo", "prompts": write_rows(root / "train.jsonl", rows), "num_steps": NUM_STEPS,
        "prompts_per_step": 3, "group_size": 4, "learning_rate": 1e-3, "sampling": {"max_tokens": 12},
        "checkpoint": {"every_steps": 2}, "num_learners": 2, "kl": {"coef": 0.01},
        "rewards": [{"import_path": "tests.end_to_end.rewards:share_of_digits", "gold_value": None}],
    }  # fmt: skip
    engine = {"type": "transformers", "max_model_tokens": 64}
    model = str(write_tiny_model(root / "base"))
    return write_recipe(root / "recipe.yaml", name="r", model=model, seed=5, engine=engine, stages={"grpo": stage})


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
