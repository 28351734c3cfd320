"""Killed at any moment and resumed, a run ends as if nothing had happened. Real Ray, real SIGKILL."""

from pathlib import Path
from typing import Any

import pytest

from stages import checkpoints
from tests.end_to_end.runs import (
    assert_same_weights,
    kill_when,
    metrics,
    prompts_by_step,
    strop,
    write_recipe,
    write_rows,
)
from tests.models import write_tiny_model

pytestmark = [pytest.mark.real, pytest.mark.exhaustive]

SUPERVISED = {
    "num_steps": 12,
    "batch_size": 4,
    "micro_batch_size": 4,
    "max_tokens": 64,
    "checkpoint": {"every_steps": 3},
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return sft -> odpo -> grpo -> grpo two versions ahead, on a tiny model, with the exact engine."""
    root = tmp_path_factory.mktemp("recipe")
    model = write_tiny_model(root / "base")
    rows = [
        {"prompt": f"What is {n} plus 1?", "completion": f"\\boxed{{{n + 1}}}", "answer": str(n + 1)} for n in range(40)
    ]
    pairs = [
        {
            "prompt": row["prompt"],
            "chosen": row["completion"],
            "rejected": "3",
            "score_chosen": 1.0,
            "score_rejected": 0.2,
        }
        for row in rows
    ]
    data, pairs_file = write_rows(root / "train.jsonl", rows), write_rows(root / "pairs.jsonl", pairs)
    stages: dict[str, Any] = {
        "sft": {"kind": "sft", "data": data, "learning_rate": 1e-2, **SUPERVISED},
        "odpo": {
            "kind": "preference", "init_from": "sft", "data": pairs_file, "learning_rate": 1e-3,
            "loss": {"type": "odpo", "scale": "linear"}, **SUPERVISED,
        },
        "grpo": {
            "kind": "grpo", "init_from": "odpo", "prompts": data, "num_steps": 8, "prompts_per_step": 3,
            "group_size": 4, "learning_rate": 1e-3, "sampling": {"max_tokens": 12}, "checkpoint": {"every_steps": 2},
            "rewards": [
                {"import_path": "tests.end_to_end.rewards:share_of_digits", "gold_value": None},
                {"type": "length", "target": 6},
            ],
            "combine": {"type": "gradient_guided", "every_steps": 2, "learning_rate": 0.5},
        },
        "ahead": {
            "kind": "grpo", "init_from": "grpo", "prompts": data, "num_steps": 7, "prompts_per_step": 3,
            "group_size": 4, "learning_rate": 1e-3, "sampling": {"max_tokens": 12}, "checkpoint": {"every_steps": 3},
            "rewards": [{"import_path": "tests.end_to_end.rewards:share_of_digits", "gold_value": None}],
            "max_staleness": 2, "replace_up_to": 1,
        },
    }  # fmt: skip
    engine = {"type": "transformers", "max_model_tokens": 64}
    return write_recipe(root / "recipe.yaml", name="r", model=str(model), seed=5, engine=engine, stages=stages)


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that nothing happened to."""
    runs = tmp_path_factory.mktemp("whole")
    result = strop("run", recipe, "--runs", runs)
    assert result.returncode == 0, result.stdout + result.stderr
    return runs / "r"


def flip_a_byte(checkpoint: Path) -> None:
    largest = max(checkpoint.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_a_run_killed_in_every_stage_ends_with_the_same_weights_and_prompts(
    recipe: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "r"
    kill_when("run", recipe, "--runs", tmp_path, ready=lambda: 5 in metrics(run, "sft"))
    kill_when("resume", run, ready=lambda: 7 in metrics(run, "odpo"))
    kill_when("resume", run, ready=lambda: 3 in metrics(run, "grpo"))
    newest = checkpoints.step_folder(root := run / "grpo" / "checkpoints", checkpoints.steps(root)[-1])
    flip_a_byte(newest)
    kill_when("resume", run, ready=lambda: 5 in metrics(run, "ahead"))
    assert f"{newest.name} is damaged" in "".join(file.read_text() for file in run.glob("grpo/attempt_*/stage.log"))
    result = strop("resume", run)
    assert result.returncode == 0, result.stdout + result.stderr
    for stage in ("sft", "odpo", "grpo", "ahead"):
        assert_same_weights(whole, run, stage)
    for stage in ("grpo", "ahead"):
        assert prompts_by_step(run, stage) == prompts_by_step(whole, stage)
    assert [metrics(run, "ahead")[step]["rollout/staleness_max"] for step in range(1, 8)] == [0, 1, 2, 2, 2, 2, 2]
    # the factors of the rewards went through the checkpoint with the rest
    factors = [metrics(folder, "grpo")[8]["reward/length/factor"] for folder in (run, whole)]
    assert factors[0] == factors[1] != 1.0
    # 8 steps of 3 prompts from 40: no epoch ends, so none may come twice
    taken = [prompt for step in prompts_by_step(run, "grpo").values() for prompt in step]
    assert len(taken) == len(set(taken)) == 24


def test_a_finished_run_does_nothing_again(recipe: Path, whole: Path) -> None:
    before = (whole / "run.json").read_text()
    result = strop("run", recipe, "--runs", whole.parent, "--resume")
    assert result.returncode == 0 and result.stdout.count("skip") == 4
    assert (whole / "run.json").read_text() == before


def test_the_models_before_grpo_are_sampled_on_request_and_the_run_stays_as_it_is(recipe: Path, whole: Path) -> None:
    before = (whole / "run.json").read_text()
    result = strop("check", recipe, "--runs", whole.parent, "--sample", "5")
    assert result.returncode == 0, result.stdout + result.stderr
    for line in ("grpo, before it learns: 5 prompts", "ahead, before it learns: 5 prompts", "groups with signal"):
        assert line in result.stdout
    assert (whole / "run.json").read_text() == before


def test_an_occupied_folder_is_refused_with_the_three_ways_out(recipe: Path, whole: Path) -> None:
    result = strop("run", recipe, "--runs", whole.parent)
    assert result.returncode == 2
    for way in ("strop resume", "--set name=", "delete"):
        assert way in result.stderr


def test_a_loss_that_is_not_finite_ends_the_run_with_stage_cause_and_way_on(recipe: Path, tmp_path: Path) -> None:
    changes = ["stages.sft.learning_rate=1e30", "stages.sft.max_grad_norm=1e30"]
    result = strop("run", recipe, "--runs", tmp_path, *[x for change in changes for x in ("--set", change)])
    assert result.returncode == 1
    assert (
        "stage 'sft' failed" in result.stderr and "strop resume" in result.stderr and "Traceback" not in result.stderr
    )
    status = strop("status", tmp_path / "r")
    assert status.returncode == 0 and "failed" in status.stdout
