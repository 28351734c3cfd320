"""Which transport a run takes, and the engines' one door to all of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch

from rollout.config import WeightSyncConfig
from rollout.engine import Reach, Shipment, Ticket
from rollout.transports import broadcast, cuda_ipc, shared_memory
from rollout.types import RolloutError


class Transport(Protocol):
    """The learner's half of one way."""

    keeps: int
    """How many shipments stay ready: the last one, and those before it that may still be fetched."""
    on_cpu: bool
    """Whether the learner's copies lie on the CPU, or where the weights are."""

    def ship(self, tensors: Mapping[str, torch.Tensor], version: int) -> Shipment:
        """Make the tensors ready. Nobody changes them as long as the shipment is."""
        ...

    def close(self) -> None:
        """Free everything; safe to call twice."""
        ...


_BY_REACH = {"same_machine": shared_memory.WAY, "same_gpu": cuda_ipc.WAY, "apart": broadcast.WAY}


def open_transport(config: WeightSyncConfig, reach: Reach, meeting_folder: Path) -> Transport:
    """Return the recipe's transport, or else the one for engines this far away.

    Processes on other machines meet in ``meeting_folder``. Raises RolloutError where the recipe's cannot reach them.
    """
    way = _BY_REACH[reach] if config.transport == "auto" else config.transport
    if way == cuda_ipc.WAY and reach != "same_gpu":
        raise RolloutError(
            "sync.transport is cuda_ipc, but learner and engine do not share a GPU; take the line out of the recipe"
        )
    if way == broadcast.WAY and reach == "same_gpu":
        raise RolloutError(
            "sync.transport is broadcast, but NCCL does not send between two processes on one GPU; take the line out"
        )
    if way == cuda_ipc.WAY:
        return cuda_ipc.CudaIPC()
    if way == broadcast.WAY:
        return broadcast.Broadcast(meeting_folder, config.timeout_s)
    return shared_memory.SharedMemory(Path(config.folder) if config.folder else None)


def fetch(ticket: Ticket, *, device: torch.device, worker: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights that a ticket stands for, on any device: an engine's half, in each of its workers."""
    if ticket["way"] == cuda_ipc.WAY:
        return cuda_ipc.fetch(ticket, device)
    if ticket["way"] == broadcast.WAY:
        return broadcast.fetch(ticket, device, worker)
    return shared_memory.fetch(ticket)
