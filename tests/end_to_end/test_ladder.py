"""Every shipped recipe of preferences, to its end: what it learns shows in an exam, from the same SFT start.

The recipes share a run folder, so SFT and pairs are made once. A quarter of an hour.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from examples.arithmetic.problems import make_splits
from examples.task import write_task
from tests.end_to_end.runs import ROOT, strop

pytestmark = [pytest.mark.real, pytest.mark.exhaustive]

LEARNED = {"dpo": "dpo", "odpo": "odpo", "kto": "kto", "online_dpo": "online_dpo", "reward_model": "policy"}
"""The stage of each recipe whose model takes the exam next to the SFT model."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ladder")
    write_task(root / "task", seed=17, version=1, make_splits=make_splits)
    return root


@pytest.mark.parametrize("name", LEARNED)
def test_a_recipe_of_the_ladder_rises_beyond_noise(root: Path, name: str) -> None:
    shipped = (ROOT / "configs" / f"{name}.yaml").read_text()
    smaller = {"artifacts/arithmetic": str(root / "task"), "dev.jsonl, limit: 512": "dev.jsonl, limit: 256"}
    for there, here in smaller.items():
        assert there in shipped
        shipped = shipped.replace(there, here)
    recipe = root / f"{name}.yaml"
    recipe.write_text(shipped)
    done = strop("run", recipe, "--runs", root / "runs", "--resume", timeout_s=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    run = root / "runs" / "ladder"
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    gain = summary["gains"][f"sft->{LEARNED[name]}"]["dev/accuracy"]
    assert gain["low"] > 0, gain
    assert len(list((run / "sft").glob("attempt_*"))) == 1, "SFT was made once for all"
    if name == "reward_model":
        told = json.loads((run / "reward" / "result.json").read_text())["metrics"]
        assert told["reward_model/accuracy_low"] > 0.5 and told["reward_model/calibration_error"] < 0.2
