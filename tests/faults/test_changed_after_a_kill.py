"""A recipe that is changed between kill and resume: nothing of what was begun finds its way into what comes of it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages import checkpoints
from tests.end_to_end.runs import write_recipe
from tests.faults.child import bring
from tests.faults.recipes import differences, evidence
from tests.faults.untouched import Runs

pytestmark = [pytest.mark.real, pytest.mark.exhaustive]


@pytest.mark.parametrize(
    ("name", "change"),
    [("sft", {"learning_rate": 5e-3}), ("grpo", {"sampling": {"max_tokens": 12, "temperature": 0.7}})],
)
def test_a_stage_that_is_changed_after_a_kill_ends_as_if_it_had_been_so_all_along(
    name: str, change: dict[str, Any], runs: Runs, tmp_path: Path
) -> None:
    stage = runs.stage(name)
    tree = yaml.safe_load(runs.recipe.read_text())
    tree["stages"][name] |= change
    changed = write_recipe(tmp_path / "changed.yaml", **tree)
    killed, untouched = (shutil.copytree(stage.before, tmp_path / each, symlinks=True) for each in ("one", "other"))
    bring(runs.recipe, killed, name, at=("call AdamW.step", 3))
    for folder in (killed, untouched):
        assert bring(changed, folder, name).failure is None
    assert not list(differences(evidence(untouched / "r", name), evidence(killed / "r", name)))
    assert stage.differences(killed), "the change must show"
    assert checkpoints.steps(killed / "r" / f"{name}.old-1" / "checkpoints") == [2]
