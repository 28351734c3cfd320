"""Each kind of process of a run is stopped: it holds what it holds and says nothing. The run heals, as after a kill.

What is stopped is found by its name below the driver's own process; the limits are short ones. An engine that is
stopped is a test of the pool's (`tests/rollout/test_vllm_pool.py`).
"""

import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.config import RunConfig, load_config
from pipeline.plan import Step
from tests.end_to_end.runs import is_alive, metrics, wait_for
from tests.faults.child import Silent
from tests.faults.family import of_role
from tests.faults.on_ray import Sees, bring
from tests.faults.recipes import SLOW_DIGITS, differences, evidence, write_grpo

pytestmark = [pytest.mark.real, pytest.mark.exhaustive]

NUM_STEPS, STOPPED_AT = 24, 4
SILENT_S = 45.0
SCORED_WITHIN_S = 4.0


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grpo(
        tmp_path_factory.mktemp("recipe"), num_steps=NUM_STEPS, rewards=[SLOW_DIGITS],
        scoring={"deadline_s": SCORED_WITHIN_S, "num_workers": 1}, common={"stall_timeout_s": SILENT_S},
    )  # fmt: skip


class Stops(Sees):
    """Stops, or kills, one process once the run is at some step."""

    def __init__(self, run: Path, role: str, sent: signal.Signals = signal.SIGSTOP) -> None:
        super().__init__()
        self._run = run
        self._role = role
        self._sent = sent
        self.stopped: psutil.Process | None = None

    def works(self, step: Step, attempt: Path) -> None:
        super().works(step, attempt)
        if self.stopped is None and STOPPED_AT in metrics(self._run, "grpo"):
            for process in of_role(self._role)[:1]:  # none for a moment, where another takes its place
                process.send_signal(self._sent)
                self.stopped = process

    def see_all_gone(self) -> None:
        wait_for(lambda: not any(map(is_alive, self.seen)), "all processes to be gone", 60.0)


def bring_short(config: RunConfig, folder: Path, observer: Silent) -> None:
    bring(config, folder, observer, num_processes=config.stages["grpo"].learner_processes(), limit_s=SILENT_S)


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole") / "r"
    bring_short(load_config(recipe), folder, Silent())
    return evidence(folder, "grpo")


@pytest.mark.parametrize(
    ("role", "sent", "told"),
    [
        ("stage", signal.SIGSTOP, r"\(stall_timeout_s is 45\) on node .*; stopped: ray::run_job"),
        ("driver", signal.SIGSTOP, r"Ray's driver gave no sign of life for 45 s; stopped: python"),
        ("driver", signal.SIGKILL, r"Ray's driver died \(exit code -9\)"),
        ("raylet", signal.SIGSTOP, ""),
        ("raylet", signal.SIGKILL, ""),
        ("gcs_server", signal.SIGSTOP, ""),
        ("gcs_server", signal.SIGKILL, ""),
    ],
)
def test_a_run_whose_process_is_stopped_or_killed_ends_as_if_it_had_not_been(
    role: str, sent: signal.Signals, told: str, recipe: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    observer = Stops(tmp_path / "r", role, sent)
    bring_short(load_config(recipe), tmp_path / "r", observer)
    assert observer.stopped is not None
    assert not list(differences(whole, evidence(tmp_path / "r", "grpo")))
    assert re.search(told, (tmp_path / "r" / "events.jsonl").read_text())
    observer.see_all_gone()


def test_a_rank_that_is_stopped_is_named_and_replaced(recipe: Path, tmp_path: Path) -> None:
    config = load_config(recipe, ["stages.grpo.num_learners=2", "stages.grpo.num_steps=10"])
    observer = Stops(tmp_path / "r", "rank_1")
    bring_short(config, tmp_path / "r", observer)
    assert observer.stopped is not None
    observer.see_all_gone()
    assert f"stopped: ray::run_job ({observer.stopped.pid})" in (tmp_path / "r" / "events.jsonl").read_text()
    assert len(metrics(tmp_path / "r", "grpo")) == 10


def test_a_reward_worker_that_is_stopped_costs_its_group_and_no_more(recipe: Path, tmp_path: Path) -> None:
    observer = Stops(tmp_path / "r", "worker")
    bring_short(load_config(recipe), tmp_path / "r", observer)
    assert observer.stopped is not None
    observer.see_all_gone()
    causes = Counter[str]()
    for row in metrics(tmp_path / "r", "grpo").values():
        causes.update({name: int(value) for name, value in row.items() if name.startswith("reward/cause/")})
    assert causes["reward/cause/timeout/count"] == 4  # the group that it had, of the 72 there are
