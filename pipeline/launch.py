"""Stages on Ray: start or join a cluster, reserve what a stage declares, run it in a process of its own, watch it.

Of this package, only this file and `reservation` have to do with Ray.
"""

import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline import session
from pipeline.cluster import Cluster, own_cluster, require_there
from pipeline.job import Job, Outcome, log_name, run_job
from pipeline.reservation import Reservation
from pipeline.state import last_sign_of_life
from rewards.importing import PACKAGES
from rewards.waits import Wait
from stages.base import Rank

logger = logging.getLogger(__name__)

ALONE = {
    # Ray's switch, on any system in spite of its name: 0 has its processes listen on loopback alone. Without it Ray
    # takes 127.0.0.1 for "whatever this machine is called", and listens on all interfaces
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    # these answer whoever asks, without a token; no port has such a number
    "RAY_enable_metrics_collection": "false",
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}
"""What a Ray that starts here has in its environment, with a token of its own: other users of the machine stay out."""
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it in the driver of a job that was submitted."""
POLL_S = 1.0
LAST_WORDS_S = 15.0
"""How long to wait for what a rank says that has ended, and for the others to end then."""
NODE_LOSS_S = 75.0
"""The same on a cluster, where Ray takes so long to notice that a node is gone: five looks of at most 13 s."""


@dataclass(kw_only=True)
class _Attempt:
    """What runs of a job, and where."""

    job: Job
    share: Reservation
    ranks: list[Any] = field(default_factory=list)
    """A reference for each."""

    def bundle_of(self, rank: int) -> int:
        """Return which bundle of the share a rank has."""
        return self.share.bundle_of(rank, self.job.config.learner_processes())

    def node_of(self, rank: int) -> str:
        """Return the name of a rank's node."""
        return self.share.node_name(self.bundle_of(rank))

    def log_of(self, rank: int) -> Path:
        """Return the file that a rank prints to."""
        return self.job.attempt / log_name(rank)


class RayLauncher:
    """Runs jobs on Ray. Ray starts here, on loopback, unless an address of a cluster is given."""

    def __init__(
        self,
        cluster: Cluster | None,
        *,
        patience_s: float,
        num_processes: int,
        stall_timeout_s: float,
        reserve_timeout_s: float,
    ) -> None:
        """Start Ray or join the cluster, which has so many seconds to answer; raises ClusterError where it does not."""
        address = "local"  # and not the cluster that somebody has started on this machine
        if cluster is not None:
            address = require_there(cluster, own_cluster, limit_s=patience_s)
        else:  # read when Ray is imported
            os.environ |= {**ALONE, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        import ray

        self._ray = ray
        self._is_cluster = cluster is not None
        self._stall_timeout_s = stall_timeout_s
        self._reserve_timeout_s = reserve_timeout_s
        self._settings = _settings(is_cluster=self._is_cluster)
        os.environ.update(self._settings)
        if cluster is not None:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        else:
            here = str(Path(__file__).resolve().parent.parent)
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
            ray.init(
                address=address,
                num_cpus=max(os.cpu_count() or 1, num_processes),  # slots, not cores: each process finds a place
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                _node_ip_address="127.0.0.1",
            )

    def run(self, job: Job, on_poll: Callable[[], None]) -> Outcome:
        """Reserve, start, and watch the stage until it ends, dies, or gives no sign of life for too long."""
        try:
            return self._run(job, on_poll)
        except self._ray.exceptions.RayError as error:
            return Outcome(cause=f"Ray failed ({type(error).__name__}: {error})", is_lost=True)
        except RuntimeError as error:  # a WaitError is one
            return Outcome(cause=f"it could not be launched: {error}")
        except Exception as error:  # one more attempt would not change that
            logger.exception("stage %s could not be launched", job.name)
            return Outcome(cause=f"it could not be launched: {type(error).__name__}: {error}")

    def close(self) -> None:
        """End Ray, or leave the cluster."""
        self._ray.shutdown()

    def _run(self, job: Job, on_poll: Callable[[], None]) -> Outcome:
        copied_to = self._ray.get_runtime_context().runtime_env.get("working_dir") and Path.cwd()
        if copied_to and job.folder.is_relative_to(copied_to):
            raise RuntimeError(
                f"{job.folder} lies in Ray's copy of what was submitted, which ends with the job; name a folder that "
                "all nodes share with --runs"
            )
        if copied_to and (ours := [name for name in PACKAGES if (copied_to / f"{name}.py").is_file()]):
            raise RuntimeError(
                f"{ours[0]}.py, in the folder that was submitted, has the name of one of Strop's packages; rename it"
            )
        share = Reservation(
            self._ray, job, may_grow=self._is_cluster, timeout_s=self._reserve_timeout_s, on_poll=on_poll
        )
        attempt = _Attempt(job=replace(job, launched_from=None) if copied_to else job, share=share)
        try:
            for index in range(job.config.learner_processes()):
                attempt.ranks.append(self._start(attempt, index))
            return self._watch(attempt, on_poll)
        finally:
            share.release()

    def _start(self, attempt: _Attempt, index: int) -> Any:
        """Start a rank in its bundle."""
        group, bundle = attempt.share.group, attempt.bundle_of(index)
        options: dict[str, Any] = {
            "num_cpus": 1,
            "num_gpus": group.bundle_specs[bundle].get("GPU", 0),
            "max_calls": 1,  # a process of its own: nothing of one stage is left for the next
            "max_retries": 0,
            "scheduling_strategy": self._ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=bundle, placement_group_capture_child_tasks=True
            ),
        }
        if self._is_cluster:  # whose processes inherit another machine's environment, and hand this one on
            options["runtime_env"] = {"env_vars": self._settings}
        rank = Rank(index=index, num=attempt.job.config.learner_processes())
        return self._ray.remote(**options)(run_job).remote(attempt.job, rank)

    def _watch(self, attempt: _Attempt, on_poll: Callable[[], None]) -> Outcome:
        """Wait for the first rank to end the stage, or for any to be lost, which is the end of all."""
        first, waiting, began = attempt.ranks[0], list(attempt.ranks), time.time()
        while True:
            for ended in self._ray.wait(waiting, timeout=POLL_S)[0]:
                outcome = self._outcome_of(attempt, ended)
                if ended == first and outcome.result is not None:
                    return outcome
                if outcome.result is None:
                    return self._cause(attempt, ended, outcome, on_poll)
                waiting.remove(ended)  # the first has let it go
            on_poll()
            silent = time.time() - max(began, last_sign_of_life(attempt.job.attempt))
            if silent > self._stall_timeout_s:
                stopped = session.stopped(os.getsid(0))
                return Outcome(
                    cause=f"gave no sign of life for {silent:.0f} s (stall_timeout_s is {self._stall_timeout_s:.0f}) "
                    f"on node {attempt.node_of(0)}{stopped}; its last words are in {attempt.log_of(0)}",
                    is_lost=True,
                )

    def _cause(self, attempt: _Attempt, ended: Any, outcome: Outcome, on_poll: Callable[[], None]) -> Outcome:
        """Return why the stage ended: the rank that died, or else what all have to say, who ended first before them."""
        others = [reference for reference in attempt.ranks if reference != ended]
        if outcome.is_lost or not others:
            return outcome
        gone: list[Any] = []
        with Wait("the other ranks to say why", NODE_LOSS_S if self._is_cluster else LAST_WORDS_S) as wait:
            while len(gone) < len(others) and wait.slice_s():
                gone, _ = self._ray.wait(others, num_returns=len(others), timeout=wait.slice_s(POLL_S))
                on_poll()
        told = [outcome, *(self._outcome_of(attempt, reference) for reference in gone)]
        lost = [found for found in told if found.is_lost]
        return lost[0] if lost else Outcome(cause="; ".join(found.cause for found in told if found.cause))

    def _outcome_of(self, attempt: _Attempt, reference: Any) -> Outcome:
        index = attempt.ranks.index(reference)
        try:
            outcome: Outcome = self._ray.get(reference, timeout=LAST_WORDS_S)
            told = f"rank {index} of its learner: {outcome.cause}; see {attempt.log_of(index)}"
            return replace(outcome, cause=told) if outcome.cause and index else outcome
        except self._ray.exceptions.RayTaskError as error:  # it could not even begin
            return Outcome(cause=f"{type(error.cause).__name__}: {error.cause}")
        except self._ray.exceptions.RayError as error:
            whose = f"rank {index} of its learner" if index else "its process"
            how = "with its" if isinstance(error, self._ray.exceptions.NodeDiedError) else "on"
            died = f"{whose} died {how} node {attempt.node_of(index)} ({type(error).__name__})"
            return Outcome(cause=f"{died}; see {attempt.log_of(index)}", is_lost=True)


def _settings(*, is_cluster: bool) -> dict[str, str]:
    """Return what the processes of stages are to have in their environment; what the user has set stays."""
    if os.environ.get("OMP_NUM_THREADS") == "1" and JOB in os.environ:
        del os.environ["OMP_NUM_THREADS"]  # which is Ray's doing, for a driver takes no CPU slot
    settings = {
        # Ray would set 1 for a task of one CPU slot; on a cluster each process takes its own node's processors
        "OMP_NUM_THREADS": "" if is_cluster else str(os.cpu_count() or 1),
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait cost 20 times the time where cores are shared
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    return {name: os.environ.get(name, value) for name, value in settings.items()}
