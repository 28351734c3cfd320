"""Which transport an engine's weights take, and the engines' one door to all of them."""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch

from rollout.config import WeightSyncConfig
from rollout.engine import Reach, Ticket
from rollout.transports import broadcast, cuda_ipc, shared_memory
from rollout.types import RolloutError


class Parcel(Protocol):
    """One version of the weights, ready to take one way."""

    def ticket(self, engine: str, num_workers: int) -> Ticket:
        """Return what an engine of so many workers needs to fetch the weights; ``engine`` is new for each process."""
        ...

    def withdraw(self) -> None:
        """Let go of the weights; who is fetching them may finish."""
        ...


class Transport(Protocol):
    """The learner's half of one way."""

    def ship(self, tensors: Mapping[str, torch.Tensor], version: int) -> Parcel:
        """Make the tensors ready. Nobody changes them as long as the parcel is."""
        ...

    def close(self) -> None:
        """Free everything; safe to call twice."""
        ...


_BY_REACH = {
    "same_machine": shared_memory.WAY,
    "same_gpu": cuda_ipc.WAY,
    "own_gpu": broadcast.WAY,
    "other_machine": broadcast.WAY,
}


class Routes:
    """All the ways of one learner: each engine's weights take the one that reaches it, also where it moves.

    A way is opened when an engine first needs it. Processes on other machines meet in ``meeting_folder``; where that is
    None, those of this machine in a private one.
    """

    def __init__(self, config: WeightSyncConfig, meeting_folder: Path | None) -> None:
        self._config = config
        self._meeting_folder = meeting_folder
        self._open: dict[str, Transport] = {}

    def ship(self, tensors: Mapping[str, torch.Tensor], version: int) -> "Routed":
        """Make the tensors ready for whoever asks. Nobody changes them as long as the shipment is."""
        return Routed(self, tensors, version)

    def to(self, reach: Reach) -> Transport:
        """Return the transport to engines this far away. Raises RolloutError where the recipe's does not reach them."""
        way = way_to(self._config, reach)
        if way not in self._open:
            self._open[way] = self._opened(way)
        return self._open[way]

    def close(self) -> None:
        """Free everything; safe to call twice."""
        while self._open:
            self._open.popitem()[1].close()

    def _opened(self, way: str) -> Transport:
        if way == cuda_ipc.WAY:
            return cuda_ipc.CudaIPC()
        if way == broadcast.WAY:
            return broadcast.Broadcast(self._meeting_folder, self._config.timeout_s)
        return shared_memory.SharedMemory(Path(self._config.folder) if self._config.folder else None)


class Routed:
    """A `Shipment` by all the ways that its engines need. Tickets may be asked for in any thread."""

    def __init__(self, routes: Routes, tensors: Mapping[str, torch.Tensor], version: int) -> None:
        self._routes = routes
        self._tensors = dict(tensors)
        self._version = version
        self._parcels: dict[Transport, Parcel] = {}
        self._is_withdrawn = False
        self._lock = threading.Lock()

    def ticket(self, engine: str, num_workers: int, reach: Reach) -> Ticket:
        """Make the weights ready for this way, if they are not yet, and return what the engine needs.

        Raises RolloutError where they are withdrawn.
        """
        with self._lock:
            if self._is_withdrawn:
                raise RolloutError(f"version {self._version} of the weights is withdrawn")
            transport = self._routes.to(reach)
            if transport not in self._parcels:
                self._parcels[transport] = transport.ship(self._tensors, self._version)
            return self._parcels[transport].ticket(engine, num_workers)

    def withdraw(self) -> None:
        """Let go of the weights, on all ways."""
        with self._lock:
            self._is_withdrawn, self._tensors = True, {}
            while self._parcels:
                self._parcels.popitem()[1].withdraw()


def way_to(config: WeightSyncConfig, reach: Reach) -> str:
    """Return the recipe's way, or else the one to engines this far away.

    Raises RolloutError where the recipe's does not reach them.
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
    if way == shared_memory.WAY and reach == "other_machine" and config.folder is None:
        raise RolloutError(
            "sync.transport is shared_memory, but an engine is on another machine; name a folder that both see in "
            "sync.folder, or take the line out"
        )
    return way


def fetch(ticket: Ticket, *, device: torch.device, worker: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights that a ticket stands for, on any device: an engine's half, in each of its workers."""
    if ticket["way"] == cuda_ipc.WAY:
        return cuda_ipc.fetch(ticket, device)
    if ticket["way"] == broadcast.WAY:
        return broadcast.fetch(ticket, device, worker)
    return shared_memory.fetch(ticket)
