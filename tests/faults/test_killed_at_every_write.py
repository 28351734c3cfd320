"""Killed before any write or in the middle of any work, and begun again, each kind of stage ends as if it had not been.

A stage is killed at its points (`points.py`), and what came of it is compared to the last bit with a run that nothing
happened to; what was done and kept before the kill must not be done again. With EVERYWHERE=1 in the environment
(`make faults`) each kind is killed at all of its points; else at the calls, and at points whose name no kind before it
has.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.child import bring
from tests.faults.points import Point
from tests.faults.untouched import Choice, Runs, strike

pytestmark = [pytest.mark.real, pytest.mark.exhaustive]

LEARNS = {"call AdamW.step", "call Accelerator.backward"}
ANSWERS = {"call TransformersEngine.generate", "call _sample", "call Scorer.submit", "call WeightSync.publish",
           "call TransformersEngine.load_weights"}  # fmt: skip
MOMENTS = {
    "sft": LEARNS, "adapter": LEARNS, "pairs": ANSWERS, "dpo": LEARNS | ANSWERS, "odpo": LEARNS, "kto": LEARNS,
    "reward": LEARNS, "grpo": {*LEARNS, *ANSWERS, "call Learner.update"},
    "ahead": {*LEARNS, *ANSWERS, "call Learner.update"}, "online": {*LEARNS, *ANSWERS, "call Learner.update"},
    "exam": ANSWERS,
}  # fmt: skip
"""Of each stage, in the recipe's order: calls in the middle of which it is killed in any case."""


@pytest.fixture(scope="module")
def choice() -> Choice:
    return Choice()


@pytest.mark.parametrize("name", MOMENTS)
def test_a_stage_killed_anywhere_ends_as_if_it_had_not_been(
    name: str, runs: Runs, choice: Choice, tmp_path: Path
) -> None:
    stage = runs.stage(name)
    took_up = list[Point]()

    def killed(folder: Path, point: Point) -> Iterator[str]:
        bring(runs.recipe, folder, name, at=point)
        has_kept = stage.has_kept(folder)
        ended = bring(runs.recipe, folder, name)
        yield from stage.differences(folder) if ended.failure is None else [ended.failure]
        if has_kept:
            took_up.append(point)
            if stage.work(ended.passed) >= stage.work(stage.passed):
                yield "what was kept was not taken up"

    points = choice.of(stage, always=MOMENTS[name] | stage.milestones)
    wrong = strike(stage.before, points, killed, tmp_path)
    assert not wrong, "\n".join(wrong)
    assert took_up, "no kill came after something was kept"


@pytest.mark.parametrize(
    ("defect", "name"),
    [
        ("a_trainer_forgets_its_random_state", "adapter"),  # whose dropout draws
        ("a_trainer_forgets_its_optimizer", "sft"),
        ("the_learner_forgets_its_optimizer", "grpo"),
        ("prompts_start_over", "grpo"),
    ],
)
def test_a_resume_that_forgets_something_is_found_out(defect: str, name: str, runs: Runs, tmp_path: Path) -> None:
    stage = runs.stage(name)

    def killed(folder: Path, point: Point) -> Iterator[str]:
        bring(runs.recipe, folder, name, at=point)
        assert bring(runs.recipe, folder, name, plant=f"tests.faults.defects:{defect}").failure is None
        yield from stage.differences(folder)

    after_a_checkpoint = ("call AdamW.step", 3)
    assert "safetensors" in "".join(strike(stage.before, [after_a_checkpoint], killed, tmp_path))


@pytest.mark.parametrize(
    ("defect", "name", "late"),
    [
        ("checkpoints_are_passed_over", "sft", ("call AdamW.step", 3)),
        ("checkpoints_are_passed_over", "grpo", ("call AdamW.step", 3)),
        ("chunks_are_sampled_anew", "pairs", ("os.rename r/pairs/rollouts/prompt_#.parquet", 2)),
    ],
)
def test_a_stage_that_begins_anew_ends_the_same_and_is_found_out_by_its_work(
    defect: str, name: str, late: Point, runs: Runs, tmp_path: Path
) -> None:
    stage = runs.stage(name)
    folder = shutil.copytree(stage.before, tmp_path / "runs", symlinks=True)
    bring(runs.recipe, folder, name, at=late)
    assert stage.has_kept(folder)
    ended = bring(runs.recipe, folder, name, plant=f"tests.faults.defects:{defect}")
    assert ended.failure is None and not stage.differences(folder)
    assert stage.work(ended.passed) >= stage.work(stage.passed)
