"""A disk that is full from any write on, or in the middle of one: the run fails and says so, and nothing is lost.

`full`: whatever takes space below the runs folder is refused from a point on, by an audit hook. A limit on the size of
files, and a small disk where we may mount one, have writes to open files fail in the middle.
"""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages import checkpoints
from tests.end_to_end.disks import resize, small_disk
from tests.faults.child import Ended, bring
from tests.faults.points import FREE_SPACE, Point
from tests.faults.untouched import EVERYWHERE, Choice, Runs, Untouched, strike

pytestmark = [pytest.mark.real, pytest.mark.exhaustive]

NEEDS_NONE = (*FREE_SPACE, "call")
"""How points begin that need no space."""
BEFORE_ANY_STAGE = ("os.mkdir r", "open r/.lock")
LOCK_BYTES = len(f"pid {2**22} on {socket.gethostname()}")
"""What the run's lock holds at most; where files may not have as many, no stage is thought of."""
NO_SPACE = "No space left on device"
KINDS = ("sft", "adapter", "pairs", "dpo", "odpo", "kto", "reward", "grpo", "ahead", "online", "exam")
SHORT_OF = KINDS if EVERYWHERE else ("sft", "pairs", "grpo")


@pytest.fixture(scope="module")
def choice() -> Choice:
    return Choice()


@pytest.mark.parametrize("name", KINDS)
def test_a_disk_full_from_any_write_on_fails_the_run_which_goes_on_once_there_is_space(
    name: str, runs: Runs, choice: Choice, tmp_path: Path
) -> None:
    stage = runs.stage(name)

    def full(folder: Path, point: Point) -> Iterator[str]:
        yield from told(name, bring(runs.recipe, folder, name, fault="full", at=point), NO_SPACE)
        yield from lost(stage, folder, point)
        yield from resumed(runs, stage, folder)

    chosen = choice.of(stage, always=stage.milestones)
    needing = [point for point in chosen if not point[0].startswith(NEEDS_NONE)]
    points = [point for point in needing if point[0] not in BEFORE_ANY_STAGE]
    assert points
    wrong = strike(stage.before, points, full, tmp_path)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", SHORT_OF)
def test_a_write_that_fails_in_its_middle_fails_the_run_which_goes_on_once_there_is_space(
    name: str, runs: Runs, tmp_path: Path
) -> None:
    """Files may be one byte shorter than each of those that the stage keeps, of half as many in CI."""
    stage = runs.stage(name)
    kept = [path for path in stage.after.rglob("*") if path.is_file() and not path.parent.name.startswith("attempt_")]
    sizes = sorted({path.stat().st_size for path in kept if path.stat().st_size > LOCK_BYTES})

    def short(folder: Path, size: int) -> Iterator[str]:
        yield from told(name, bring(runs.recipe, folder, name, most_bytes=size - 1), "File too large", "disk full")
        yield from lost(stage, folder)
        yield from resumed(runs, stage, folder)

    chosen = sizes if EVERYWHERE else sizes[-1 : 0 : -max(1, len(sizes) // 6)]
    wrong = strike(stage.before, chosen, short, tmp_path)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", SHORT_OF)
def test_a_small_disk_that_fills_up_fails_the_run_which_goes_on_once_there_is_space(
    name: str, runs: Runs, tmp_path: Path
) -> None:
    stage, folder = runs.stage(name), tmp_path / "disk"
    folder.mkdir()
    with small_disk(folder, 2**30):
        shutil.copytree(stage.before, folder / "runs", symlinks=True)
        full_at = _used_bytes(folder)
        assert bring(runs.recipe, folder / "runs", name).failure is None
        needed = _used_bytes(folder) - full_at
    num, wrong = 12 if EVERYWHERE else 3, list[str]()
    for share in range(1, num + 1):
        size = full_at + share * needed // (num + 1)
        with small_disk(folder, size):
            shutil.copytree(stage.before, folder / "runs", symlinks=True)
            found = [
                *told(name, bring(runs.recipe, folder / "runs", name), NO_SPACE, "disk full"),
                *lost(stage, folder / "runs"),
            ]
            resize(folder, 2**30)
            wrong += [f"{size} bytes: {what}" for what in [*found, *resumed(runs, stage, folder / "runs")]]
    assert not wrong, "\n".join(wrong)


def _used_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize


def told(name: str, ended: Ended, *causes: str) -> Iterator[str]:
    """Yield what the message of a stage that failed for one of these causes does not tell."""
    if ended.failure is None:
        yield "it did not fail"
    elif not (f"stage {name!r}" in ended.failure and "strop resume" in ended.failure):
        yield f"it does not name the stage and the way on: {ended.failure}"
    elif not any(cause in ended.failure for cause in causes):
        yield f"it does not name the cause: {ended.failure}"


def lost(stage: Untouched, runs: Path, point: Point | None = None) -> Iterator[str]:
    """Yield what is half and taken for whole, and what is not there although it was whole before a point."""
    root = runs / "r" / stage.name / "checkpoints"
    found = checkpoints.steps(root)
    yield from (f"step {step}: {wrong}" for step in found if (wrong := checkpoints.damage(root / f"step_{step:06d}")))
    if point is not None:
        places = [place for place, passed in enumerate(stage.passed) if passed == point[0]]
        before = stage.passed[: places[point[1] - 1]]
        if f"os.rename r/{stage.name}/checkpoints/step_#" in before and not found:
            yield "no checkpoint is left"


def resumed(runs: Runs, stage: Untouched, folder: Path) -> Iterator[str]:
    """Bring a run to the stage's end, and yield what of that is not as it was without a fault."""
    failure = bring(runs.recipe, folder, stage.name).failure
    yield from stage.differences(folder) if failure is None else [failure]
