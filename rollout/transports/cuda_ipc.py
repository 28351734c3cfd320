"""Weights do not travel: an engine on the learner's GPU opens the learner's copy of them and loads from there.

A copy and not the weights themselves, since an engine that is replaced in the middle of an update loads too.
"""

from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any

import torch
from torch.multiprocessing.reductions import rebuild_cuda_tensor, reduce_tensor

from rollout.engine import Ticket

WAY = "cuda_ipc"
_PARAMETERS = tuple(signature(rebuild_cuda_tensor).parameters)


class CudaIPC:
    """Offers the copies. The memory of one that an engine still reads stays until it has finished, by torch's count."""

    def ship(self, tensors: Mapping[str, torch.Tensor], version: int) -> "OpenedTensors":
        """Keep the tensors, whose writing must be over before another process reads them."""
        torch.cuda.synchronize()
        return OpenedTensors(tensors)

    def close(self) -> None:
        """Nothing is held but shipments."""


class OpenedTensors:
    """A `Parcel` in the learner's own memory."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = dict(tensors)

    def ticket(self, engine: str, num_workers: int) -> Ticket:
        """Return a handle for each tensor, new each time: torch counts who holds one."""
        return {"way": WAY, "tensors": [(name, handle(tensor)) for name, tensor in self._tensors.items()]}

    def withdraw(self) -> None:
        """Let the tensors go."""
        self._tensors = {}
        torch.cuda.ipc_collect()


def handle(tensor: torch.Tensor) -> dict[str, Any]:
    """Return torch's handle of a tensor on a GPU as plain data: its parts by name, classes and types left out."""
    _, arguments = reduce_tensor(tensor)
    parts = dict(zip(_PARAMETERS, arguments, strict=True))
    for known in ("tensor_cls", "storage_cls", "requires_grad", "storage_device"):
        del parts[known]
    sizes = {"tensor_size": list(parts["tensor_size"]), "tensor_stride": list(parts["tensor_stride"])}
    return {**parts, **sizes, "dtype": str(tensor.dtype).removeprefix("torch.")}


def opened(parts: dict[str, Any], device: torch.device) -> torch.Tensor:
    """Return the tensor that another process on the same GPU has made a handle of. The reverse of `handle`."""
    whole = {
        **parts,
        "tensor_cls": torch.Tensor,
        "storage_cls": torch.UntypedStorage,
        "requires_grad": False,
        "dtype": getattr(torch, parts["dtype"]),
        "storage_device": device.index or 0,
    }
    tensor: torch.Tensor = rebuild_cuda_tensor(**whole)
    return tensor


def fetch(ticket: Ticket, device: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the learner's tensors, to be copied from. The GPU is done with them when this ends."""
    for name, parts in ticket["tensors"]:
        yield name, opened(parts, device)
    torch.cuda.synchronize(device)
