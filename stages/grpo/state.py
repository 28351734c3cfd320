"""A learner's state on disk, in torch's distributed format: what some ranks have written, any number takes up."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from stages import checkpoints
from stages.base import StageError
from stages.grpo.ranks import Ranks
from stages.grpo.trusted import TrustedPlanner, TrustedReader

WEIGHTS = "weights"
"""Folder with weights and optimizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerState:
    """What training changes, and one rank's part of it. All ranks save and load at the same time."""

    model: Any
    optimizer: Any
    schedule: Any
    scaler: Any
    """None where the precision needs none."""
    ranks: Ranks

    def save(self, folder: Path) -> None:
        """Write all of it; returns when every rank has written."""
        try:
            with _alone_as_said():
                dcp.save(self._weights(), checkpoint_id=folder / WEIGHTS, no_dist=self.ranks.num == 1)
        except CheckpointException as error:
            said = _said_by(error)
            why = checkpoints.of_full_disk(said) or said
            raise StageError(f"the checkpoint in {folder} cannot be written: {why}") from error
        own = {
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler is not None else {},
            "rng": torch.get_rng_state(),
            "rng_of_gpu": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        }
        with _own_file(folder, self.ranks.index).open("wb") as file:  # torch's own would not say why a write fails
            torch.save(own, file)
        self.ranks.gathered(None)

    def load(self, folder: Path) -> None:
        """Take up what was saved; a rank that had no part in it goes on from the first one's random numbers."""
        weights = self._weights()
        reader = TrustedReader(folder / WEIGHTS)
        try:
            with _alone_as_said():
                dcp.load(weights, storage_reader=reader, planner=TrustedPlanner(), no_dist=self.ranks.num == 1)
        except CheckpointException as error:
            raise StageError(f"the checkpoint in {folder} cannot be loaded: {_said_by(error)}") from error
        set_state_dict(
            self.model, self.optimizer, model_state_dict=weights["model"], optim_state_dict=weights["optimizer"]
        )
        file = _own_file(folder, self.ranks.index)
        own = torch.load(file if file.is_file() else _own_file(folder, 0), weights_only=True)
        self.schedule.load_state_dict(own["schedule"])
        if self.scaler is not None:
            self.scaler.load_state_dict(own["scaler"])
        torch.set_rng_state(own["rng"])
        if own["rng_of_gpu"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(own["rng_of_gpu"])

    def _weights(self) -> dict[str, Any]:
        self.ranks.settle(self.model)
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer}


@contextmanager
def _alone_as_said() -> Iterator[None]:
    """Have torch not warn that one process saves or loads alone, which `no_dist` has told it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def _said_by(error: CheckpointException) -> str:
    """Return what each rank says; the error itself is no Exception by Python's rules, and nobody above catches it."""
    return "; ".join(str(cause) for cause, _ in error.failures.values())


def _own_file(folder: Path, index: int) -> Path:
    return folder / f"rank_{index}.pt"
