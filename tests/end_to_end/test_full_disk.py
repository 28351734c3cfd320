"""A disk that fills up in the middle of a run. Needs the right to mount a small tmpfs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stages import checkpoints
from tests.end_to_end.disks import resize, small_disk
from tests.end_to_end.runs import strop, write_recipe, write_rows
from tests.models import write_tiny_model

pytestmark = [pytest.mark.real, pytest.mark.exhaustive]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with room for 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with small_disk(folder, 4 * 2**20):
        yield folder


def test_a_full_disk_ends_the_run_with_stage_cause_and_way_on_and_a_whole_checkpoint(
    disk: Path, tmp_path: Path
) -> None:
    model = write_tiny_model(tmp_path / "base")  # 0.3 MB of weights, and twice that for the optimizer
    rows = [{"prompt": f"What is {n} plus 1?", "completion": f"\\boxed{{{n + 1}}}"} for n in range(20)]
    stage = {
        "kind": "sft", "data": write_rows(tmp_path / "train.jsonl", rows), "num_steps": 12, "batch_size": 4,
        "micro_batch_size": 4, "max_tokens": 64, "checkpoint": {"every_steps": 1, "keep": 9},
    }  # fmt: skip
    recipe = write_recipe(tmp_path / "recipe.yaml", name="r", model=str(model), stages={"sft": stage})
    result = strop("run", recipe, "--runs", disk)
    assert result.returncode == 1
    assert "stage 'sft' failed" in result.stderr and "strop resume" in result.stderr
    assert "No space left" in result.stderr or "space" in result.stderr.lower()
    assert "the report could not be written" in result.stderr and "Traceback" not in result.stderr
    found = checkpoints.latest(disk / "r" / "sft" / "checkpoints")
    assert found is not None and found >= 1

    resize(disk, 64 * 2**20)
    resumed = strop("resume", disk / "r")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
