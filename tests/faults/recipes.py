"""A recipe with every kind of stage, on a tiny model and with the exact engine; and what came of a stage of it."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rollout.records import read_groups
from stages.artifact import MANIFEST
from stages.checkpoints import sha256
from tests.end_to_end.runs import metrics, write_recipe, write_rows
from tests.models import write_tiny_model

LEARNS = {"num_steps": 4, "learning_rate": 1e-3, "checkpoint": {"every_steps": 2}}
BATCHES = {**LEARNS, "batch_size": 4, "micro_batch_size": 2, "max_tokens": 64}
SAMPLED = {**LEARNS, "prompts_per_step": 3, "group_size": 4, "sampling": {"max_tokens": 12}}
LORA = {"type": "lora", "r": 2}
DIGITS = {"import_path": "tests.end_to_end.rewards:share_of_digits", "gold_value": None}
SLOW_DIGITS = {"import_path": "tests.end_to_end.rewards:slow_share_of_digits", "gold_value": None}

NOT_OF_THE_WORK = {
    "preference/reference_was_on_disk",  # an attempt finds what the one before it computed
    "reward/queue_groups_max",  # how many groups waited for a reward's worker is a matter of who was faster
}
"""Metrics that are of time or chance by their nature, besides those that say so by their unit."""


def write_every_kind(root: Path) -> Path:
    """Write the recipe, its base model and its data; return the recipe's file."""

    def rows(name: str, numbers: range) -> str:
        asked = [(n, f"What is {n} plus 1?") for n in numbers]
        return write_rows(
            root / f"{name}.jsonl",
            [{"prompt": q, "completion": f"\\boxed{{{n + 1}}}", "answer": str(n + 1)} for n, q in asked],
        )

    train, select, exam = rows("train", range(40)), rows("select", range(50, 54)), rows("exam", range(60, 66))
    after_pairs = {"init_from": "sft", "data": {"stage": "pairs"}, **BATCHES}
    look = {"every_steps": 2, "max_tokens": 8, "num_prompts": 2}
    stages: dict[str, Any] = {
        "sft": {"kind": "sft", "data": train, **BATCHES, "learning_rate": 1e-2},
        "adapter": {"kind": "sft", "init_from": "sft", "data": train, **BATCHES,
                    "params": {**LORA, "dropout": 0.1}},
        "pairs": {
            "kind": "pairs", "init_from": "sft", "prompts": {"path": train, "limit": 12}, "rewards": [DIGITS],
            "sampling": {"max_tokens": 12}, "num_completions": 4, "prompts_per_chunk": 4,
        },
        "dpo": {
            "kind": "preference", **after_pairs, "monitor": look,
            "early_stop": {"exam": select, "max_tokens": 8, "reward": DIGITS},
        },
        "odpo": {"kind": "preference", **after_pairs, "params": LORA, "loss": {"type": "odpo", "scale": "linear"},
                 "monitor": look},
        "kto": {
            "kind": "preference", **after_pairs, "data": {"stage": "pairs", "answers": {"good_from": 0.2}},
            "loss": {"type": "kto"}, "monitor": None,
        },
        "reward": {"kind": "reward_model", **after_pairs, "held_out": 0.3},
        "grpo": {
            "kind": "grpo", "init_from": "adapter", "prompts": train, **SAMPLED,
            "rewards": [DIGITS, {"type": "length", "target": 6}],
            "combine": {"type": "gradient_guided", "every_steps": 2, "learning_rate": 0.5},
        },
        "ahead": {"kind": "grpo", "init_from": "sft", "prompts": train, **SAMPLED, "params": LORA, "rewards": [DIGITS],
                  "max_staleness": 2, "replace_up_to": 1},
        "online": {"kind": "grpo", "init_from": "sft", "prompts": train, **SAMPLED,
                   "rewards": [{"type": "model", "stage": "reward", "max_tokens": 64}],
                   "loss": {"type": "online_preference"}},
        "exam": {"kind": "evaluate", "of": ["sft", "dpo", "grpo"], "reward": DIGITS,
                 "tasks": {"dev": {"data": exam, "max_tokens": 8, "num_samples": 2}}},
    }  # fmt: skip
    engine = {"type": "transformers", "max_model_tokens": 64}
    return write_recipe(
        root / "recipe.yaml", name="r", model=str(write_tiny_model(root / "base")), seed=5, engine=engine, stages=stages
    )


def write_grpo(root: Path, *, common: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write a recipe of GRPO alone, named `r`, with its base model and its data; return its file.

    ``changes`` are those of the stage, ``common`` those of the recipe.
    """
    rows = [{"prompt": f"What is {n} plus 1?", "answer": str(n + 1)} for n in range(40)]
    stage: dict[str, Any] = {
        "kind": "grpo", "prompts": write_rows(root / "train.jsonl", rows), "num_steps": 6, "prompts_per_step": 3,
        "group_size": 4, "learning_rate": 1e-4, "sampling": {"max_tokens": 12}, "checkpoint": {"every_steps": 2},
        "rewards": [DIGITS], **changes,
    }  # fmt: skip
    whole: dict[str, Any] = {
        "model": str(write_tiny_model(root / "base")), "seed": 5,
        "engine": {"type": "transformers", "max_model_tokens": 64}, **(common or {}),
    }  # fmt: skip
    return write_recipe(root / "recipe.yaml", name="r", **whole, stages={"grpo": stage})


def evidence(run: Path, stage: str) -> dict[str, Any]:
    """Return all that must be the same: what is handed over, metrics, groups, the result, and that nothing is left."""
    folder, cache = run / stage, run.parent / ".cache"
    result = json.loads((folder / "result.json").read_text())
    return {
        "output": {
            str(path.relative_to(folder)): _content(path, run.parent)
            for path in sorted(folder.glob("output/**/*"))
            if path.is_file()
        },
        "metrics": {step: _timeless(row) for step, row in metrics(run, stage).items()},
        "result": {**result, "metrics": _timeless(result["metrics"])},
        "groups": {str(path.relative_to(folder)): _groups(path) for path in sorted(folder.rglob("*.parquet"))},
        "checkpoints": sorted(path.name for path in (folder / "checkpoints").glob("*")),
        "left over": [
            str(path.relative_to(run.parent))
            for path in (*folder.rglob("*"), *cache.rglob("*"))
            if path.name.startswith((".", "damaged")) and path.name not in (".lock", ".metadata")
        ],
    }


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Name what differs, with both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            yield from differences(one.get(key), other.get(key), f"{where}/{key}")
    elif one != other:
        yield f"{where}: {one!r:.200} {other!r:.200}"


def _content(file: Path, runs: Path) -> Any:
    """Return what a file holds but for where it lies; of a manifest, whether its hashes are those of its files."""
    if file.name == MANIFEST:
        manifest = json.loads(file.read_text())
        digests = manifest["files"].items()
        return {**manifest, "files": {name: digest == sha256(file.parent / name) for name, digest in digests}}
    return hashlib.sha256(file.read_bytes().replace(str(runs).encode(), b"RUNS")).hexdigest()


def _timeless(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if not _is_of_time(name) and name not in NOT_OF_THE_WORK}


def _is_of_time(name: str) -> bool:
    return name.endswith(("_s", "_s_max", "time", "wait_fraction")) or "time/" in name


def _groups(path: Path) -> list[Any]:
    return [
        (group.prompt.id, [(r.completion, r.response, r.score.value, r.score.parts) for r in group.rollouts])
        for group in read_groups(path)
    ]
