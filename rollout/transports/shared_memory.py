"""Weights travel as safetensors files in a folder that learner and engines see: shared memory, or a shared disk."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rollout.engine import Ticket
from rollout.types import RolloutError

WAY = "shared_memory"
_SHARED_MEMORY = Path("/dev/shm")
_PREFIX = "strop-weights-"
_TRIES = 100


class SharedMemory:
    """Writes the files. The one that was withdrawn last stays, too, for engines that are being replaced.

    What a killed run has left in the folder is removed when the next one starts.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = _LockedFolder((folder or _default_folder()).absolute())
        self._count = 0
        self._withdrawn: Path | None = None

    def ship(self, tensors: Mapping[str, torch.Tensor], version: int) -> "WeightFile":
        """Write one file. Raises RolloutError where the folder is too small."""
        self._folder.require_space(sum(tensor.nbytes for tensor in tensors.values()))
        self._count += 1
        path = self._folder.path / f"{self._count}-version-{version}.safetensors"
        save_file(dict(tensors), path)
        return WeightFile(self, path)

    def withdraw(self, path: Path) -> None:
        """Remove the file that was withdrawn before this one; who has it open keeps it."""
        if self._withdrawn is not None and self._withdrawn != path:
            self._withdrawn.unlink(missing_ok=True)
        self._withdrawn = path

    def close(self) -> None:
        """Remove the folder."""
        self._folder.remove()


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A `Parcel` on disk."""

    owner: SharedMemory
    path: Path

    def ticket(self, engine: str, num_workers: int) -> Ticket:
        """Return the file's name, the same for all."""
        return {"way": WAY, "file": str(self.path)}

    def withdraw(self) -> None:
        """Have the file removed once the next one is withdrawn."""
        self.owner.withdraw(self.path)


def fetch(ticket: Ticket) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the file's tensors, one after the other."""
    with safe_open(ticket["file"], framework="pt", device="cpu") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            yield name, file.get_tensor(name)


class _LockedFolder:
    """A folder of this process alone. The lock on it falls when the process dies, however it dies."""

    def __init__(self, parent: Path) -> None:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self._take(parent)
        except OSError as error:
            raise RolloutError(
                f"weights cannot be put into {parent} ({error}); name a folder that can be written to in sync.folder"
            ) from error

    def _take(self, parent: Path) -> None:
        for left in parent.glob(f"{_PREFIX}*"):
            _remove_if_unlocked(left)
        for _ in range(_TRIES):
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            descriptor = _locked(self.path)
            if descriptor is not None:
                self._descriptor = descriptor
                return
        raise RolloutError(f"{parent} yields no folder: whatever is made there is removed at once, {_TRIES} times now")

    def require_space(self, num_bytes: int) -> None:
        free = shutil.disk_usage(self.path).free
        if free < num_bytes:
            raise RolloutError(
                f"{self.path.parent} has {free / 1e9:.2f} GB free and the weights are {num_bytes / 1e9:.2f} GB; name a "
                "roomier folder in sync.folder (a container gets more shared memory by --shm-size)"
            )

    def remove(self) -> None:
        if self.path.exists():
            shutil.rmtree(self.path)
            os.close(self._descriptor)


def _remove_if_unlocked(folder: Path) -> None:
    descriptor = _locked(folder)
    if descriptor is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _locked(folder: Path) -> int | None:
    """Return a descriptor that locks a folder; None where its run is alive, or it is another user's, or removed.

    A run that starts at the same time may take a new folder for one that was left, as long as it is not locked.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except (PermissionError, FileNotFoundError):
        return None
    with ExitStack() as unless_kept:
        unless_kept.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if not folder.exists():
            return None
        unless_kept.pop_all()
        return descriptor


def _default_folder() -> Path:
    return _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
