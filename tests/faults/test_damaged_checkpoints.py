"""A checkpoint that a disk has damaged, file by file: it is set aside with an error, and the one before it is taken.

Stages are killed when both of their checkpoints, of versions 2 and 4, are whole; then something happens to a file. With
EVERYWHERE=1 in the environment each is resumed after any damage to any file, else after some.
"""

import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from stages import checkpoints
from stages.checkpoints import MARKER
from tests.faults.child import bring
from tests.faults.untouched import EVERYWHERE, Runs, Untouched, strike

pytestmark = [pytest.mark.real, pytest.mark.exhaustive]

LEARNERS = ("sft", "odpo", "dpo", "reward", "grpo", "ahead")
"""TRL's trainers with all parameters, with an adapter, with exams, with a head; ours, and with an adapter."""


@pytest.mark.parametrize("name", LEARNERS)
def test_any_damage_to_the_newest_checkpoint_is_said_and_the_one_before_is_taken(
    name: str, runs: Runs, tmp_path: Path
) -> None:
    stage = runs.stage(name)
    before = _with_two_checkpoints(runs, stage, tmp_path / "before")
    newest = _checkpoints(before, name)[-1]
    files = sorted(str(path.relative_to(newest)) for path in newest.rglob("*") if path.is_file())
    assert len(files) > 5 and MARKER in files

    def damaged(folder: Path, damage: tuple[str, str]) -> Iterator[str]:
        how, file = damage
        one_before, newest = _checkpoints(folder, name)
        _damage(newest / file, how)
        says = [f"{newest} is damaged: ", file if file != MARKER else ""]  # which then speaks of other files, or cannot
        yield from _resumed(runs, stage, folder, aside=[newest], says=says)
        if "continuing from version 2" not in _log(folder, name):
            yield f"{one_before} was not taken"

    damages = [*product(("flipped", "cut"), files), *product(["missing"], [file for file in files if file != MARKER])]
    for how, file in damages:
        copy = shutil.copytree(newest, tmp_path / "copy", dirs_exist_ok=True)
        _damage(copy / file, how)
        assert checkpoints.damage(copy), f"{file} {how}"
    wrong = strike(before, damages if EVERYWHERE else damages[:: len(damages) // 3], damaged, tmp_path)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_stage_all_of_whose_checkpoints_are_damaged_begins_anew_and_says_so(
    name: str, runs: Runs, tmp_path: Path
) -> None:
    stage = runs.stage(name)
    folder = _with_two_checkpoints(runs, stage, tmp_path / "runs")
    both = _checkpoints(folder, name)
    for checkpoint in both:
        _damage(checkpoint / MARKER, "flipped")
    says = [f"no checkpoint in {both[0].parent} can be taken", "the stage starts over"]
    assert not list(_resumed(runs, stage, folder, aside=both, says=says))


def _with_two_checkpoints(runs: Runs, stage: Untouched, folder: Path) -> Path:
    shutil.copytree(stage.before, folder, symlinks=True)
    bring(runs.recipe, folder, stage.name, at=(f"os.mkdir r/{stage.name}/.output.writing", 1))
    assert checkpoints.steps(folder / "r" / stage.name / "checkpoints") == [2, 4]
    return folder


def _checkpoints(runs: Path, name: str) -> list[Path]:
    root = runs / "r" / name / "checkpoints"
    return [checkpoints.step_folder(root, step) for step in checkpoints.steps(root)]


def _damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    file.unlink()
    if how == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif how == "cut":
        file.write_bytes(content[:-1])


def _log(runs: Path, name: str) -> str:
    return (runs / "r" / name / "latest" / "stage.log").read_text()


def _resumed(runs: Runs, stage: Untouched, folder: Path, *, aside: list[Path], says: list[str]) -> Iterator[str]:
    """Bring a run to the stage's end; yield what of that is not as it was without damage, or was not said."""
    failure = bring(runs.recipe, folder, stage.name).failure
    if failure is not None:
        yield failure
        return
    errors = "".join(line for line in _log(folder, stage.name).splitlines() if " ERROR " in line)
    yield from (f"{part!r} is not said in {errors!r}" for part in says if part not in errors)
    for checkpoint in aside:
        shutil.rmtree(checkpoint.with_name(f"{checkpoints.DAMAGED}{checkpoint.name}"))
    yield from stage.differences(folder)
