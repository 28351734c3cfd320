"""A reward with a vLLM server of its own: it answers, and nothing of it is left."""

import os
import signal
import time

import psutil
import pytest

from rewards.config import VerifierRewardConfig
from rewards.process import WorkerProcess, reward_order
from rewards.scoring_config import ScoringConfig
from rewards.types import RewardError
from tests.hub import files_of, serving
from tests.models import write_tiny_model
from tests.rewards.attempts import group

pytestmark = [pytest.mark.real, pytest.mark.exhaustive]
SCORING = ScoringConfig(deadline_s=60, start_timeout_s=180)


def gone(processes, deadline_s):
    _, alive = psutil.wait_procs(processes, timeout=deadline_s)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_a_server_of_our_own_answers_and_ends_with_its_worker(tmp_path):
    model = write_tiny_model(tmp_path / "verifier", max_position_embeddings=2048)  # its tokens are characters
    config = VerifierRewardConfig(
        model=str(model), max_model_tokens=2048, max_tokens=8, num_samples=2, temperature=1.0, seconds=50
    )
    worker = WorkerProcess(reward_order([config], SCORING, concurrency=4))
    try:
        worker.wait_ready(SCORING.start_timeout_s)
        started = psutil.Process(worker.pid).children(recursive=True)
        assert len(started) >= 2  # the server and its engine
        graded = worker.ask(group("42", "17"), SCORING.deadline_s)
        assert graded.metrics["verifier/requests"] == [4]
        assert graded.metrics["verifier/completion_tokens"][0] >= 4
        assert {mark.cause for mark in graded.marks["verifier"]} <= {"ok", "malformed"}  # it babbles
        os.kill(worker.pid, signal.SIGKILL)  # alone, as the kernel would
        assert gone(started, 30)
    finally:
        worker.kill()


def test_a_server_that_cannot_start_says_so(tmp_path):
    (tmp_path / "empty").mkdir()
    config = VerifierRewardConfig(model=str(tmp_path / "empty"), max_model_tokens=256)
    worker = WorkerProcess(reward_order([config], SCORING))
    start = time.monotonic()
    try:
        with pytest.raises(RewardError, match="ended with exit code 1 before it answered"):
            worker.wait_ready(SCORING.start_timeout_s)
    finally:
        worker.kill()
    assert time.monotonic() - start < SCORING.start_timeout_s


def test_a_server_of_our_own_serves_the_commit_though_the_branch_has_moved(tmp_path, monkeypatch):
    with serving(monkeypatch, tmp_path / "home") as hub:
        first = hub.push(
            "models/org/verifier", files_of(write_tiny_model(tmp_path / "first", seed=1, max_position_embeddings=2048))
        )
        hub.push(
            "models/org/verifier", files_of(write_tiny_model(tmp_path / "second", seed=2, max_position_embeddings=2048))
        )
        config = VerifierRewardConfig(
            model="org/verifier", model_revision=first, max_model_tokens=2048, max_tokens=8, seconds=50
        )
        worker = WorkerProcess(reward_order([config], SCORING))
        try:
            worker.wait_ready(SCORING.start_timeout_s)
            graded = worker.ask(group("42"), SCORING.deadline_s)
        finally:
            worker.kill()
        assert {mark.cause for mark in graded.marks["verifier"]} <= {"ok", "malformed"}
        fetched = [path.split("/")[4] for path in hub.asked if path.startswith("/org/verifier/resolve/")]
        assert fetched and set(fetched) == {first}
