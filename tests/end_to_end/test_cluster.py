"""A cluster of several nodes: learner and engine apart, nodes that leave, nodes that join. Real Ray, real vLLM.

The nodes are on one machine and have one address, so what could go by shared memory here must be seen to go otherwise.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.end_to_end.clusters import LoopbackCluster, loopback_cluster
from tests.end_to_end.runs import assert_same_weights, begin, metrics, strop, wait_for, write_recipe, write_rows
from tests.models import write_tiny_model

pytestmark = [pytest.mark.real, pytest.mark.exhaustive]

NUM_STEPS = 6
REWARD = """
import time

def share_of_digits(prompts, completions, **columns):
    time.sleep(1.0)  # so that a node can leave in the middle of the run
    texts = [turns[-1]["content"] for turns in completions]
    return [sum(letter.isdigit() for letter in text) / max(1, len(text)) for text in texts]
"""
"""A module of the user's own, which travels with what is submitted."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LoopbackCluster]:
    with loopback_cluster() as found:
        yield found


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two recipes, their data and a reward: what is submitted."""
    root = tmp_path_factory.mktemp("working")
    rows = [{"prompt": f"What is {n} plus 1?", "answer": str(n + 1)} for n in range(40)]
    (root / "my_rewards.py").write_text(REWARD)
    write_rows(root / "train.jsonl", rows)
    stage: dict[str, Any] = {
        "kind": "grpo", "prompts": "train.jsonl", "num_steps": NUM_STEPS, "prompts_per_step": 3, "group_size": 4,
        "learning_rate": 1e-3, "sampling": {"max_tokens": 12}, "checkpoint": {"every_steps": 2},
        "rewards": [{"import_path": "my_rewards:share_of_digits", "gold_value": None}], "kl": {"coef": 0.01},
    }  # fmt: skip
    common = {"model": str(write_tiny_model(root / "base")), "seed": 5, "reserve_timeout_s": 240}
    sampled = {**stage, "sync": {"max_drift": 1e-4}}
    write_recipe(
        root / "engine.yaml", name="engine", engine={"type": "vllm", "max_model_tokens": 64}, stages={"grpo": sampled},
        **common,
    )  # fmt: skip
    write_recipe(
        root / "ranks.yaml", name="ranks", engine={"type": "transformers", "max_model_tokens": 64},
        stages={"grpo": {**stage, "num_learners": 2}}, **common,
    )  # fmt: skip
    return root


@pytest.fixture(scope="module")
def alone(cluster: LoopbackCluster, working: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of two ranks to which nothing happened, on one machine."""
    runs = tmp_path_factory.mktemp("alone")
    elsewhere = {
        **cluster.environment,
        "RAY_ADDRESS": "",
    }  # none is joined unnamed, though one is on the machine
    driver = begin("run", "ranks.yaml", "--runs", runs, cwd=working, environment=elsewhere)
    told, said = driver.communicate(timeout=300)
    assert driver.returncode == 0, told + said
    return runs / "ranks"


def submitted(cluster: LoopbackCluster, working: Path, said: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """Begin a run as a job of the cluster's, as soon as it takes jobs; return what follows the job, into ``said``."""
    ray = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", cluster.dashboard]
    command = [*ray, "--working-dir", str(working), "--", sys.executable, "-m", "pipeline.cli", *arguments]
    jobs: list[subprocess.Popen[bytes]] = []

    def is_taken() -> bool:
        has_ended = bool(jobs) and jobs[-1].poll() is not None
        told = said.read_text() if jobs else ""
        if not jobs or (has_ended and "No available agent" in told):
            with said.open("w") as file:
                jobs.append(subprocess.Popen(command, stdout=file, stderr=file, env=cluster.environment))
            return False
        return has_ended or "submitted successfully" in told

    wait_for(is_taken, "the cluster to take jobs", 120)
    return jobs[-1]


def waits(run: Path) -> str:
    file = run / "grpo" / "attempt_001" / "waits_driver.json"
    return file.read_text() if file.is_file() else ""


def log(run: Path, attempt: int = 1) -> str:
    return (run / "grpo" / f"attempt_{attempt:03d}" / "stage.log").read_text()


def holds_shared_memory(process: psutil.Process) -> bool:
    return any("strop-weights" in str(link.readlink()) for link in Path(f"/proc/{process.pid}/fd").iterdir())


def test_an_engine_whose_node_leaves_is_replaced_on_a_node_that_joins(
    cluster: LoopbackCluster, working: Path, tmp_path: Path
) -> None:
    run = tmp_path / "engine"
    said = tmp_path / "said"
    job = submitted(cluster, working, said, "run", "engine.yaml", "--runs", str(tmp_path))
    wait_for(lambda: "room for stage 'grpo', 2 x (1 CPU)" in waits(run) or job.poll() is not None, "a wait", 120)
    assert job.poll() is None, said.read_text()
    told = " ".join(strop("status", run).stdout.split())  # lines are broken where they are too long
    assert "waits for room for stage 'grpo', 2 x (1 CPU), in a cluster of 127.0.0.1" in told, told
    for _ in range(2):
        cluster.join()
    wait_for(lambda: 2 in metrics(run, "grpo") or job.poll() is not None, "step 2", 300)
    [learner], [engine] = cluster.workers("ray::run_job"), cluster.workers("ray::EngineActor")
    assert learner.ppid() != engine.ppid()
    assert "engine 0 is on node 127.0.0.1" in log(run) and "other_machine" in log(run)
    assert (run / "grpo" / "attempt_001" / "engine-0-0.group").exists() and not holds_shared_memory(learner)
    cluster.leave(engine.ppid())
    cluster.join()
    assert job.wait(300) == 0, said.read_text()
    assert "has left the cluster) with " in log(run) and "engine 0 is replaced" in log(run)
    rows = metrics(run, "grpo")
    assert sorted(rows) == list(range(1, NUM_STEPS + 1))
    assert sum(row["rollout/engine_restarts"] for row in rows.values()) >= 1
    for step, row in rows.items():
        assert row["sync/drift_max"] < 1e-4 and row["policy/mismatch_max_nats"] < 1e-4, step
        assert row["sync/changed_bytes"] > 0, step
    assert json.loads(waits(run)) == []


def test_a_learner_on_two_nodes_of_which_one_leaves_goes_on_with_a_third_and_ends_as_on_one_machine(
    cluster: LoopbackCluster, working: Path, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "ranks"
    while cluster.num_nodes < 2:
        cluster.join()
    driver = begin("run", "ranks.yaml", "--runs", tmp_path, cwd=working, environment=cluster.environment)
    wait_for(lambda: 3 in metrics(run, "grpo") or driver.poll() is not None, "step 3", 300)
    ranks = cluster.workers("ray::run_job")
    assert len({process.ppid() for process in ranks}) == 2
    first = [process for process in ranks if Path(f"/proc/{process.pid}/fd/1").readlink().name == "stage.log"]
    cluster.leave(first[0].ppid())
    cluster.join()
    told, said = driver.communicate(timeout=300)
    assert driver.returncode == 0, told + said
    events = (run / "events.jsonl").read_text()
    assert "its process died with its node 127.0.0.1 (Ray's " in events
    begun_at = re.search(r"continuing from version (\d+)", log(run, 2))
    assert begun_at is not None and int(begun_at[1]) >= 2
    assert_same_weights(alone, run, "grpo")


def test_a_run_whose_head_leaves_ends_with_that_cause_and_goes_on_on_the_next_cluster(
    working: Path, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "ranks"
    with loopback_cluster() as first:
        for _ in range(2):
            first.join()
        once = ("--set", "max_restarts=0")
        driver = begin("run", "ranks.yaml", "--runs", tmp_path, *once, cwd=working, environment=first.environment)
        wait_for(lambda: 3 in metrics(run, "grpo") or driver.poll() is not None, "step 3", 300)
        [head] = [process for process in first.processes() if process.name() == "gcs_server"]
        head.kill()
        told, said = driver.communicate(timeout=300)
        assert driver.returncode == 1, told + said
        assert "stage 'grpo' failed: Ray's driver died" in said and "strop resume" in said
    with loopback_cluster() as second:
        for _ in range(2):
            second.join()
        driver = begin("resume", run, cwd=working, environment=second.environment)
        told, said = driver.communicate(timeout=300)
        assert driver.returncode == 0, told + said
        assert "grpo: continue, failed: Ray's driver died" in told
    assert_same_weights(alone, run, "grpo")
