"""A run with a real vLLM engine that is killed and resumed: the same prompts, versions and steps, and like metrics."""

from pathlib import Path
from typing import Any

import pytest

from rollout.records import read_groups
from tests.end_to_end.runs import kill_when, metrics, strop, write_recipe, write_rows
from tests.models import write_tiny_model

pytestmark = [pytest.mark.real, pytest.mark.exhaustive]

NUM_STEPS, KILLED_AT = 8, 5
NEAR = {
    "policy/sampled_nll_nats": 0.02, "reward/mean": 0.02, "rollout/length/mean_tokens": 1.0, "train/loss": 0.02,
}  # fmt: skip
"""Metrics, and how far a step's may be from those of the run that nothing happened to.

vLLM's rounding depends on what it computes together, and a sampled token on the rounding.
"""


def write(root: Path) -> Path:
    rows = [{"prompt": f"What is {n} plus {n % 7}?", "answer": str(n + n % 7)} for n in range(40)]
    stage: dict[str, Any] = {
        "kind": "grpo", "prompts": write_rows(root / "train.jsonl", rows), "num_steps": NUM_STEPS,
        "prompts_per_step": 4, "group_size": 4, "learning_rate": 1e-4, "sampling": {"max_tokens": 16},
        "checkpoint": {"every_steps": 2},
        "rewards": [{"import_path": "tests.end_to_end.rewards:share_of_digits", "gold_value": None}],
    }  # fmt: skip
    model = str(write_tiny_model(root / "base"))
    engine = {"type": "vllm", "max_model_tokens": 64}
    return write_recipe(root / "recipe.yaml", name="r", model=model, seed=5, engine=engine, stages={"grpo": stage})


def taken(run: Path) -> dict[str, list[tuple[str, set[int]]]]:
    """Return of each step the prompts in their order, each with the versions that answered it."""
    return {
        file.stem: [
            (group.prompt.id, {version for rollout in group.rollouts for version in rollout.completion.versions})
            for group in read_groups(file)
        ]
        for file in sorted((run / "grpo" / "rollouts").glob("step_*.parquet"))
    }


def test_a_killed_run_goes_on_with_the_same_prompts_and_versions(tmp_path: Path) -> None:
    recipe, whole, killed = write(tmp_path), tmp_path / "whole", tmp_path / "killed"
    done = strop("run", recipe, "--runs", whole)
    assert done.returncode == 0, done.stdout + done.stderr
    kill_when("run", recipe, "--runs", killed, ready=lambda: KILLED_AT in metrics(killed / "r", "grpo"))
    done = strop("resume", killed / "r")
    assert done.returncode == 0, done.stdout + done.stderr
    expected, found = taken(whole / "r"), taken(killed / "r")
    assert found == expected and len(expected) == NUM_STEPS
    assert [versions for step in expected.values() for _, versions in step] == [
        {version} for version in range(NUM_STEPS) for _ in range(4)
    ]
    one, other = metrics(whole / "r", "grpo"), metrics(killed / "r", "grpo")
    assert one.keys() == other.keys() == set(range(1, NUM_STEPS + 1))
    for step in one:
        for name, tolerance in NEAR.items():
            assert other[step][name] == pytest.approx(one[step][name], abs=tolerance), (step, name)
