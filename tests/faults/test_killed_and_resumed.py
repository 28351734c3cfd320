"""Each kind of stage is killed once in the middle of its work, after it has kept something, and resumed.

What comes of it is compared to the last bit with a run that nothing happened to. `test_killed_at_every_write.py` kills
at every other point.
"""

import shutil
from pathlib import Path

import pytest

from tests.faults.child import bring
from tests.faults.points import Point
from tests.faults.untouched import Runs

pytestmark = pytest.mark.real

LEARNING: Point = ("call AdamW.step", 3)
"""In step 3 of 4; version 2 has been kept."""
KILLED_AT: dict[str, Point] = {
    "sft": LEARNING, "adapter": LEARNING, "pairs": ("call Scorer.submit", 9), "dpo": LEARNING, "odpo": LEARNING,
    "kto": LEARNING, "reward": LEARNING, "grpo": LEARNING, "ahead": LEARNING, "online": LEARNING,
    "exam": ("call TransformersEngine.generate", 20),
}  # fmt: skip


@pytest.mark.parametrize("name", KILLED_AT)
def test_a_stage_killed_in_its_work_goes_on_from_what_it_kept_and_ends_the_same(
    name: str, runs: Runs, tmp_path: Path
) -> None:
    stage = runs.stage(name)
    folder = shutil.copytree(stage.before, tmp_path / "runs", symlinks=True)
    bring(runs.recipe, folder, name, at=KILLED_AT[name])
    assert stage.has_kept(folder)
    ended = bring(runs.recipe, folder, name)
    assert ended.failure is None, ended.failure
    assert not stage.differences(folder)
    assert stage.work(ended.passed) < stage.work(stage.passed), "what was kept was not taken up"
