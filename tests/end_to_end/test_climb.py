"""The whole climb on real vLLM, with every kind of stage in it, and an engine killed on the way."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from rewards.private import is_private
from rollout.records import read_groups
from stages import artifact
from tests.end_to_end.runs import begin, metrics, wait_for, write_recipe, write_rows
from tests.models import write_tiny_model
from tests.rollout.test_vllm_pool import core_of

pytestmark = pytest.mark.real

NUM_STEPS = 6


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("climb")
    model = write_tiny_model(root / "base")
    rows: list[dict[str, Any]] = [
        {"prompt": f"What is {n} plus 1?", "completion": f"\\boxed{{{n + 1}}}", "answer": str(n + 1)} for n in range(60)
    ]
    train, dev = write_rows(root / "train.jsonl", rows[:40]), write_rows(root / "dev.jsonl", rows[40:])
    own = {"import_path": "tests.end_to_end.rewards:share_of_digits", "gold_value": None}
    sampling, asks_again = {"max_tokens": 12}, {"import_path": "tests.rollout.environments:AskAgain", "max_turns": 2}
    supervised = {"batch_size": 8, "micro_batch_size": 8, "max_tokens": 64, "num_steps": 6}
    stages: dict[str, Any] = {
        "sft": {"kind": "sft", "data": train, "learning_rate": 1e-2, **supervised},
        "pairs": {
            "kind": "pairs", "init_from": "sft", "prompts": train, "rewards": [own], "sampling": sampling,
            "num_completions": 4, "prompts_per_chunk": 16,
        },
        "odpo": {
            "kind": "preference", "init_from": "sft", "data": {"stage": "pairs"}, "learning_rate": 1e-3,
            "loss": {"type": "odpo", "scale": "linear"}, **supervised,
        },
        "reward": {
            "kind": "reward_model", "init_from": "sft", "data": {"stage": "pairs"}, "held_out": 0.3, **supervised,
        },
        "ready": {
            "kind": "readiness", "init_from": "odpo", "prompts": train, "rewards": [own], "sampling": sampling,
            "num_prompts": 4, "num_samples": 4,
        },
        "grpo": {
            "kind": "grpo", "init_from": "odpo", "prompts": train, "num_steps": NUM_STEPS, "prompts_per_step": 4,
            "group_size": 4, "learning_rate": 1e-2, "sampling": {"max_tokens": 40}, "checkpoint": {"every_steps": 2},
            "environment": asks_again,
            "params": {"type": "lora", "r": 4}, "rewards": [own, {"type": "math"}],
            "sync": {"max_drift": 1e-4, "transport": "broadcast"},
        },
        "exam": {
            "kind": "evaluate", "of": ["base", "sft", "odpo", "grpo"],
            "tasks": {"dev": {"data": dev, "max_tokens": 12, "num_samples": 2}},
        },
    }  # fmt: skip
    engine = {"type": "vllm", "max_model_tokens": 96}
    return write_recipe(root / "recipe.yaml", name="climb", model=str(model), seed=5, engine=engine, stages=stages)


def listening(processes: list[psutil.Process]) -> Iterator[str]:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            yield from (c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN)


def bound(process: psutil.Process) -> Iterator[Path]:
    """Yield the Unix sockets that a process has a name for."""
    with suppress(psutil.NoSuchProcess):
        yield from (Path(c.laddr) for c in process.net_connections("unix") if c.laddr and not c.laddr.startswith("@"))


def test_a_climb_whose_engine_is_killed_replaces_it_and_goes_on_to_its_end(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "climb"
    driver = begin("run", recipe, "--runs", tmp_path)
    wait_for(lambda: 2 in metrics(run, "grpo") or driver.poll() is not None, "step 2 of grpo", 400)
    family = psutil.Process(driver.pid).children(recursive=True)
    assert set(listening([psutil.Process(driver.pid), *family])) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    sockets = {path for process in family for path in bound(process)}
    assert {path.name for path in sockets} >= {"raylet", "plasma_store"} and len(sockets) > 2, "Ray's and vLLM's"
    assert [path for path in sockets if not any(map(is_private, path.parents))] == []
    [actor] = [process.pid for process in family if "EngineActor" in " ".join(process.cmdline())]
    os.kill(core_of(actor), signal.SIGKILL)
    told, said = driver.communicate(timeout=400)
    assert driver.returncode == 0, told + said
    assert f"to look at: {run / 'report.html'}" in told and (run / "report.html").is_file()
    assert sum(row["rollout/engine_restarts"] for row in metrics(run, "grpo").values()) == 1
    for step, row in metrics(run, "grpo").items():
        assert row["sync/drift_max"] < 1e-4 and row["policy/mismatch_max_nats"] < 1e-4, step
        assert row["sync/changed_bytes"] > 0, step

    files = sorted((run / "grpo" / "rollouts").glob("step_*.parquet"))
    assert [file.stem for file in files] == [f"step_{step:06d}" for step in range(1, NUM_STEPS + 1)]
    groups = [group for file in files for group in read_groups(file)]
    assert len({group.prompt.id for group in groups}) == len(groups) == 4 * NUM_STEPS
    talks = [r for group in groups for r in group.rollouts if len(r.turns) == 3]
    assert talks and all(talk.turns[1]["content"] == "Are you sure?" for talk in talks)
    assert all(len(talk.completion.given) == 1 and talk.columns["doubts"] == 1 for talk in talks)
    versions = [{v for g in read_groups(f) for r in g.rollouts for v in r.completion.versions} for f in files]
    assert versions == [{step} for step in range(NUM_STEPS)]

    summary = json.loads((run / "summary.json").read_text())
    assert [(s["name"], s["status"]) for s in summary["stages"]] == [
        (name, "done") for name in ("sft", "pairs", "odpo", "reward", "ready", "grpo", "exam")
    ]
    assert summary["engine"] == "vllm" and summary["wall_s"] > 0
    assert sorted(metrics(run, "exam")) == list(range(1, 9)), "a step for each of 4 models' sittings of 2 exams"
    accuracy = summary["exams"]["sft"]["dev/accuracy"]
    assert accuracy["num"] == 20 and accuracy["low"] <= accuracy["mean"] <= accuracy["high"]
    assert set(summary["exams"]) == {"base", "sft", "odpo", "grpo"}
    assert set(summary["gains"]) == {"base->sft", "sft->odpo", "odpo->grpo"}
    assert artifact.read(run / "grpo" / "output", "model").adapter == "merged"
