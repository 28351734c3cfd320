"""Ray's nodes: where a stage's engines go, how far that is from its learner, and what became of the node of one.

Two nodes are told apart by Ray's ids and not by their addresses: several may have one.
"""

import fcntl
import logging
import os
import socket
import struct
from dataclasses import dataclass
from typing import Any

from rollout.config import VLLMEngineConfig
from rollout.engine import Reach

logger = logging.getLogger(__name__)

_SIOCGIFADDR = 0x8915
"""Linux's request for an interface's IPv4 address; the kernel's `struct ifreq` has 16 bytes of name before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where Ray is to put engines: in the stage's placement group, or wherever there is room."""

    group: Any
    """None: there is no group."""
    gpus: int
    """Of each engine, where there is no group."""
    home: str
    """Ray's id of the learner's node."""

    @classmethod
    def here(cls, config: VLLMEngineConfig) -> "Place":
        """Return the place of the process's stage. To be called in the thread that Ray runs the stage in."""
        import ray

        group = ray.util.get_current_placement_group()
        gpus = config.tensor_parallel if ray.cluster_resources().get("GPU", 0) else 0
        return cls(group=group, gpus=gpus, home=own_node())

    def options(self, at: int) -> dict[str, Any]:
        """Return Ray's options for engine ``at``; bundle 0 is the learner's."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if self.group is None:
            return {"num_gpus": self.gpus, "scheduling_strategy": "DEFAULT"}
        strategy = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=1 + at)
        return {"num_gpus": self.group.bundle_specs[1 + at].get("GPU", 0), "scheduling_strategy": strategy}

    def reach(self, node: str) -> Reach:
        """Return how far an engine on this node is from the learner."""
        if node != self.home:
            return "other_machine"
        gpus = self.gpus if self.group is None else max(bundle.get("GPU", 0) for bundle in self.group.bundle_specs[1:])
        if not gpus:
            return "same_machine"
        return "same_gpu" if gpus < 1 else "own_gpu"

    def node_of(self, at: int) -> str:
        """Return Ray's id of the node that has room for engine ``at``.

        It is empty where Ray still looks for one, as it does once the node has left, and where there is no group.
        """
        import ray

        if self.group is None:
            return ""
        return str(ray.util.placement_group_table(self.group)["bundles_to_node_id"].get(1 + at, ""))


def own_node() -> str:
    """Return Ray's id of the node that this process is on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def name_of(node: str) -> str:
    """Return a node's name for people: its address, and the beginning of its id."""
    return f"{_entry(node).get('NodeManagerAddress', 'of unknown address')} (Ray's {node[:8]})"


def has_left(node: str) -> bool:
    """Say whether a node is no more in the cluster, as far as Ray has noticed."""
    return not _entry(node).get("Alive", True)


def talk_over_own_address() -> None:
    """Have gloo and NCCL use the interface of this node's own address, as the cluster knows it.

    On a machine alone that is the loopback. What the user has set stays.
    """
    import ray

    address = ray.util.get_node_ip_address() if ray.is_initialized() else "127.0.0.1"
    interface = _interface_of(address)
    if interface is None:
        logger.warning(
            "no network interface has %s, this node's address; set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME if the "
            "ones that gloo and NCCL choose do not reach the other nodes",
            address,
        )
        return
    os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # this one, and none whose name begins like it


def _entry(node: str) -> dict[str, Any]:
    import ray

    return next((entry for entry in ray.nodes() if entry["NodeID"] == node), {})


def _interface_of(address: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
