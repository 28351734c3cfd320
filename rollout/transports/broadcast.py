"""Weights travel between processes on different devices or machines: NCCL between GPUs, gloo between CPUs.

Each engine has a group of its own with the learner, so that one that dies takes no other's with it and one that takes
its place joins at any time. A group is made when the engine first fetches and kept; members find each other through a
file. Where the learner asks an engine to fetch, a thread of the learner sends; both sides give up after the timeout.
"""

import logging
import math
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rewards.private import PrivateFolder
from rewards.waits import Wait
from rollout.engine import Ticket
from rollout.peers import own_sockets, require_own_peers
from rollout.types import RolloutError

logger = logging.getLogger(__name__)

WAY = "broadcast"
BUCKET_BYTES = 256 * 2**20
"""Tensors are sent together up to this size."""
NEVER = timedelta(days=30)
_LOOK_EVERY_S = 0.001

Kind = tuple[str, str, list[int]]
"""Name, type and shape of a tensor on its way."""


class Broadcast:
    """The sender: rank 0 of every group. Members meet in ``folder``; None: in a private one of this machine."""

    def __init__(self, folder: Path | None, timeout_s: float) -> None:
        self._own: PrivateFolder | None = None
        if folder is None:
            self._own = PrivateFolder(Path(tempfile.gettempdir()), "strop-meeting-")
            folder = self._own.path
        self.folder = folder
        self.timeout_s = timeout_s
        self._groups: dict[str, Any] = {}
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._meeting_points: set[Path] = set()

    def ship(self, tensors: Mapping[str, torch.Tensor], version: int) -> "Sending":
        """Keep the tensors until they are asked for."""
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.synchronize()  # they are sent by another thread
        return Sending(self, tensors, version)

    def send(self, engine: str, num_workers: int, tensors: Mapping[str, torch.Tensor], version: int) -> Ticket:
        """Begin to send to one engine, and return what it needs to receive."""
        meeting_point = self.folder / f"engine-{engine}.group"
        self._meeting_points.add(meeting_point)
        ticket = {
            "way": WAY,
            "meeting_point": str(meeting_point.resolve()),
            "size": 1 + num_workers,
            "timeout_s": self.timeout_s,
            "on_gpu": next(iter(tensors.values())).is_cuda,
            "bucket_bytes": BUCKET_BYTES,
            "tensors": [(name, _name(t.dtype), list(t.shape)) for name, t in tensors.items()],
        }
        sending = threading.Thread(
            target=self._send, args=(engine, ticket, list(tensors.values()), version), name="weights", daemon=True
        )
        sending.start()
        return ticket

    def close(self) -> None:
        """Leave all groups."""
        self._groups.clear()
        for meeting_point in self._meeting_points:
            meeting_point.unlink(missing_ok=True)
        if self._own is not None:
            self._own.remove()

    def _send(self, engine: str, ticket: Ticket, tensors: Sequence[torch.Tensor], version: int) -> None:
        """Send all buckets; in a thread. What fails here fails the engine too, which is where the run hears of it."""
        with self._locks[engine]:
            group = self._groups.pop(engine, None)
            try:
                group = group or _join(ticket, rank=0, device=tensors[0].device)
                for places in _buckets(ticket):
                    flat = torch.cat([tensors[place].reshape(-1) for place in places])
                    _finish(group.broadcast(flat, 0), self.timeout_s)
                self._groups[engine] = group
            except Exception as error:
                logger.warning("engine %s did not take version %d: %s", engine, version, error)
                _leave(group)


class Sending:
    """A `Parcel` that is sent to whoever asks."""

    def __init__(self, sender: Broadcast, tensors: Mapping[str, torch.Tensor], version: int) -> None:
        self._sender = sender
        self._tensors = dict(tensors)
        self._version = version

    def ticket(self, engine: str, num_workers: int) -> Ticket:
        """Begin to send to this engine."""
        return self._sender.send(engine, num_workers, self._tensors, self._version)

    def withdraw(self) -> None:
        """Let the tensors go; what is being sent holds its own."""
        self._tensors = {}


_joined: dict[str, Any] = {}
"""Groups of this process as a receiver, by their meeting points."""


def fetch(ticket: Ticket, device: torch.device, worker: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors as they come; the engine's worker number ``worker`` is rank 1 + ``worker``."""
    key = ticket["meeting_point"]
    device = device if ticket["on_gpu"] else torch.device("cpu")
    group = _joined.pop(key, None) or _join(ticket, rank=1 + worker, device=device)
    for places in _buckets(ticket):
        kinds = [ticket["tensors"][place] for place in places]
        sizes = [_num_elements(kind) for kind in kinds]
        flat = torch.empty(sum(sizes), dtype=getattr(torch, kinds[0][1]), device=device)
        try:
            _finish(group.broadcast(flat, 0), ticket["timeout_s"])
        except Exception:
            _leave(group)
            raise
        for (name, _, shape), part in zip(kinds, flat.split(sizes), strict=True):
            yield name, part.view(shape)
    _joined[key] = group  # of a group that failed there is nothing to keep


def _join(ticket: Ticket, *, rank: int, device: torch.device) -> Any:
    """Make the group, once all have come. It is another group than the process's own, if it has one."""
    timeout = timedelta(seconds=ticket["timeout_s"])
    store = dist.FileStore(ticket["meeting_point"], ticket["size"])
    store.set_timeout(timeout)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = NEVER  # when it is up NCCL ends the process; `_finish` is before it
        return dist.ProcessGroupNCCL(store, rank, ticket["size"], options)
    before = own_sockets()
    group = dist.ProcessGroupGloo(store, rank, ticket["size"], timeout)
    require_own_peers(before)
    return group


def _leave(group: Any) -> None:
    """Give up what hangs in a group; gloo's gives up by itself."""
    if type(group).__name__ == "ProcessGroupNCCL":  # which a torch without NCCL does not have
        group.abort()


def _finish(work: Any, timeout_s: float) -> None:
    """Wait for a broadcast, on the CPU: NCCL's own waiting has no end that a caller could survive."""
    with Wait("weights on their way", timeout_s, way_out="see sync.timeout_s", fails=RolloutError) as wait:
        wait.until(work.is_completed, every_s=_LOOK_EVERY_S)
    work.wait()


def _buckets(ticket: Ticket) -> Iterator[list[int]]:
    """Yield the places of tensors that are sent together: neighbours of one type. Both sides count the same."""
    bucket: list[int] = []
    num_bytes = 0
    for place, kind in enumerate(ticket["tensors"]):
        size = _num_elements(kind) * getattr(torch, kind[1]).itemsize
        if bucket and (num_bytes + size > ticket["bucket_bytes"] or ticket["tensors"][bucket[-1]][1] != kind[1]):
            yield bucket
            bucket, num_bytes = [], 0
        bucket.append(place)
        num_bytes += size
    if bucket:
        yield bucket


def _num_elements(kind: Kind) -> int:
    return math.prod(kind[2])


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
