"""A stage's share of the cluster: what it asks for, the wait for it, and on which nodes it came to lie."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.job import Job, WaitsFile
from rewards.waits import Wait

logger = logging.getLogger(__name__)

WAITS_NAME = "waits_driver.json"


class Reservation:
    """A placement group: the first bundle is the stage's own, then one an engine, then one a further rank."""

    def __init__(self, ray: Any, job: Job, *, may_grow: bool, timeout_s: float, on_poll: Callable[[], None]) -> None:
        """Wait until all of it is there; on one node if there is such a node, else on as few as Ray finds.

        ``may_grow``: whether nodes may join, so that it is worth waiting where there are too few GPUs. Raises
        RuntimeError where there are too few for good, WaitError where the share did not come.
        """
        self._ray = ray
        gpus = int(ray.cluster_resources().get("GPU", 0))
        bundles = bundles_of(job, gpus)
        shortage = _shortage(bundles, gpus)
        if shortage and not may_grow:
            raise RuntimeError(shortage)
        shares_card = any(0 < bundle.get("GPU", 0) < 1 for bundle in bundles)
        self.group = ray.util.placement_group(bundles, strategy="STRICT_PACK" if shares_card else "PACK")
        try:
            self._wait(job, timeout_s, shortage, on_poll)
        except BaseException:
            self.release()
            raise
        table = ray.util.placement_group_table(self.group)
        self._nodes: dict[int, str] = table["bundles_to_node_id"]
        logger.info("stage %s is on %s", job.name, [self.node_name(at) for at in range(len(bundles))])

    def bundle_of(self, rank: int, num_ranks: int) -> int:
        """Return which bundle is a rank's: of the first the first, of the others the last ones."""
        return rank and len(self.group.bundle_specs) - num_ranks + rank

    def node_name(self, bundle: int) -> str:
        """Return for people the node on which a bundle was placed."""
        node = self._nodes[bundle]
        entry: dict[str, Any] = next((entry for entry in self._ray.nodes() if entry["NodeID"] == node), {})
        return f"{entry.get('NodeManagerAddress', 'of unknown address')} (Ray's {node[:8]})"

    def release(self) -> None:
        """Give it back; what still runs in it is killed.

        Nothing of it is cancelled one by one: Ray's driver breaks where what is cancelled ends at that moment.
        """
        try:
            self._ray.util.remove_placement_group(self.group)
        except self._ray.exceptions.RayError as error:  # of which the next stage will hear, if there is one
            logger.warning("a stage's share of the cluster could not be given back: %s", error)

    def _wait(self, job: Job, timeout_s: float, shortage: str, on_poll: Callable[[], None]) -> None:
        ready, waits = self.group.ready(), WaitsFile(job.attempt / WAITS_NAME)
        way_out = f"{shortage or 'others may hold it, see `ray status`'}; reserve_timeout_s says how long to wait"

        def what() -> str:
            return f"room for stage {job.name!r}, {told(self.group.bundle_specs)}, in a cluster of {self._cluster()}"

        try:
            with Wait(what(), timeout_s, way_out=way_out) as wait:
                while not self._ray.wait([ready], timeout=wait.slice_s())[0]:
                    wait.look(what())
                    waits.write()
                    on_poll()
        finally:
            waits.write()

    def _cluster(self) -> str:
        nodes = [entry for entry in self._ray.nodes() if entry["Alive"]]
        return "; ".join(
            f"{entry['NodeManagerAddress']} ({entry['NodeID'][:8]}) with {_amounts(entry['Resources'])}"
            for entry in nodes
        )


def bundles_of(job: Job, gpus: int) -> list[dict[str, float]]:
    """Return what a stage and its engines need of a cluster with so many GPUs: one a learner, and what engines want.

    A single GPU is shared by learner and engine.
    """
    engines = job.facts.engine.worker_gpus() if any(part.generates for part in job.config.whole()) else []
    num_learners = job.config.learner_processes()
    if not gpus:
        return [{"CPU": 1.0}] * (num_learners + len(engines))
    if engines == [1] and num_learners == 1 and gpus == 1:
        return [{"CPU": 1.0, "GPU": 0.5}] * 2
    return [{"CPU": 1.0, "GPU": float(each)} for each in (1, *engines, *[1] * (num_learners - 1))]


def told(bundles: list[dict[str, float]]) -> str:
    """Return bundles for people: how many of which kind; each is whole on a node."""
    counts = Counter(_amounts(bundle) for bundle in bundles)
    return " and ".join(f"{count} x ({kind})" for kind, count in counts.items())


def _shortage(bundles: list[dict[str, float]], gpus: int) -> str:
    """Say what is wrong where the cluster has too few GPUs in all; nothing where it has enough."""
    wanted = sum(bundle.get("GPU", 0) for bundle in bundles)
    if wanted <= gpus:
        return ""
    return (
        f"learners and engines need {wanted:.0f} GPUs, and the cluster has {gpus}; lower num_learners, "
        "engine.num_engines or engine.tensor_parallel (one learner and one engine of one GPU can share a single card)"
    )


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{resources[kind]:g} {kind}" for kind in ("CPU", "GPU") if resources.get(kind)) or "neither"
