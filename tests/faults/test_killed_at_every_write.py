"""Killed before any write or in the middle of any work, and begun again, a stage ends as if it had not been.

Every stage is killed once at each of its points (`points.py`), half-way through where it passes one several times; what
came of it is compared to the last bit with a run that nothing happened to. The engine is the exact one.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rollout.records import read_groups
from stages.checkpoints import sha256
from tests.end_to_end.runs import metrics, write_recipe, write_rows
from tests.faults.child import bring
from tests.models import write_tiny_model

pytestmark = pytest.mark.real

BATCHES = {"batch_size": 4, "micro_batch_size": 4, "max_tokens": 64, "checkpoint": {"every_steps": 2}}
DIGITS = {"import_path": "tests.end_to_end.rewards:share_of_digits", "gold_value": None}
STAGES = ("sft", "adapter", "pairs")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recipe of stages that learn, with an adapter too, and that sample."""
    root = tmp_path_factory.mktemp("recipe")
    rows = [{"prompt": f"What is {n} plus 1?", "completion": f"\\boxed{{{n + 1}}}"} for n in range(40)]
    train = write_rows(root / "train.jsonl", rows)
    stages: dict[str, Any] = {
        "sft": {"kind": "sft", "data": train, "learning_rate": 1e-2, "num_steps": 4, **BATCHES},
        "adapter": {
            "kind": "sft", "init_from": "sft", "data": train, "num_steps": 4, "params": {"type": "lora", "r": 2},
            **BATCHES,
        },
        "pairs": {
            "kind": "pairs", "init_from": "sft", "prompts": {"path": train, "limit": 12}, "rewards": [DIGITS],
            "sampling": {"max_tokens": 12}, "num_completions": 4,
        },
    }  # fmt: skip
    engine = {"type": "transformers", "max_model_tokens": 64}
    return write_recipe(
        root / "recipe.yaml", name="r", model=str(write_tiny_model(root / "base")), seed=5, engine=engine, stages=stages
    )


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where the runs folder as it was before each stage, and what came of it, are kept."""
    root = tmp_path_factory.mktemp("before")
    return {"runs": root / "runs", "kept": root / "kept"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_anywhere_ends_as_if_it_had_not_been(
    stage: str, recipe: Path, before: dict[str, Path], tmp_path: Path
) -> None:
    runs, kept = before["runs"], before["kept"] / stage
    runs.mkdir(exist_ok=True, parents=True)
    shutil.copytree(runs, kept, symlinks=True)
    passed = Counter(bring(recipe, runs, stage))
    whole = evidence(runs / "r", stage)
    assert len(passed) > 10 and not whole["left over"]
    for name, times in passed.items():
        killed = tmp_path / "runs"
        shutil.copytree(kept, killed, symlinks=True)
        bring(recipe, killed, stage, kill_at=(name, times // 2 + 1))
        bring(recipe, killed, stage)
        found = evidence(killed / "r", stage)
        assert not list(differences(whole, found)), f"killed at {name!r}, time {times // 2 + 1} of {times}"
        shutil.rmtree(killed)


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Name what differs, with both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            yield from differences(one.get(key), other.get(key), f"{where}/{key}")
    elif one != other:
        yield f"{where}: {one!r:.200} {other!r:.200}"


def evidence(run: Path, stage: str) -> dict[str, Any]:
    """Return all that must be the same: what is handed over, metrics, groups, the result, and that nothing is left."""
    folder = run / stage
    result = json.loads((folder / "result.json").read_text())
    return {
        "output": {
            path.name: sha256(path) for path in folder.glob("output/*") if path.suffix in (".safetensors", ".jsonl")
        },
        "metrics": {step: _timeless(row) for step, row in metrics(run, stage).items()},
        "result": {**result, "metrics": _timeless(result["metrics"])},
        "groups": {str(path.relative_to(folder)): _groups(path) for path in sorted(folder.rglob("*.parquet"))},
        "left over": [path.name for path in folder.rglob("*") if "writing" in path.name or "damaged" in path.name],
    }


def _timeless(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if not _is_of_time(name)}


HANDED_OVER = (".safetensors", ".jsonl")


def _is_of_time(name: str) -> bool:
    return name.endswith(("_s", "_s_max", "time", "wait_fraction", "queue_groups_max")) or "time/" in name


def _groups(path: Path) -> list[Any]:
    return [
        (group.prompt.id, [(r.completion.token_ids, r.score.value) for r in group.rollouts])
        for group in read_groups(path)
    ]
