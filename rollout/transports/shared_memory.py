"""Weights travel as safetensors files in a folder that learner and engines see: shared memory, or a shared disk."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rewards.own_files import SHARED_MEMORY, WEIGHTS
from rewards.private import PrivateFolder
from rollout.engine import Ticket
from rollout.types import RolloutError

WAY = "shared_memory"


class SharedMemory:
    """Writes the files, into a folder that only this user can enter, which the next run removes if this one is killed.

    The file that was withdrawn last stays, too, for engines that are being replaced.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = _folder_in((folder or _default_folder()).absolute())
        self._count = 0
        self._withdrawn: Path | None = None

    def ship(self, tensors: Mapping[str, torch.Tensor], version: int) -> "WeightFile":
        """Write one file. Raises RolloutError where the folder is too small."""
        _require_space(self._folder.path, sum(tensor.nbytes for tensor in tensors.values()))
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


def _folder_in(parent: Path) -> PrivateFolder:
    try:
        return PrivateFolder(parent, WEIGHTS)
    except OSError as error:
        raise RolloutError(
            f"weights cannot be put into {parent} ({error}); name a folder that can be written to in sync.folder"
        ) from error


def _require_space(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise RolloutError(
            f"{folder.parent} has {free / 1e9:.2f} GB free and the weights are {num_bytes / 1e9:.2f} GB; name a "
            "roomier folder in sync.folder (a container gets more shared memory by --shm-size)"
        )


def _default_folder() -> Path:
    return SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
