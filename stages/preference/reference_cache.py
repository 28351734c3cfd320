"""Log-probabilities under the reference, computed once for a set of answers and kept on disk for the runs to come.

The file's name is a hash of everything they follow from: the reference's weights, the tokens, how they are cut and
computed, the libraries. So what is found is never that of another reference; what cannot be read is computed again.
"""

import fcntl
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Value
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, tensor

logger = logging.getLogger(__name__)

AT_ONCE = 10_000
"""Rows whose tokens are Python's integers at a time."""


class NoReference:
    """What stands in its place where a policy is held to none: a reference that gives any answer a probability of 1."""

    def through(self, dataset: Dataset, compute: Callable[[], Dataset]) -> Dataset:
        """Return the data set with the columns of such a reference, which nothing computes."""
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            dataset = dataset.add_column(name, [0.0] * len(dataset), feature=Value("float32"))
        return dataset

    def report(self) -> Mapping[str, float]:
        """Return no metric: there is nothing that could be on disk."""
        return {}


class ReferenceCache:
    """One folder of such files."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """``identity`` is what the values follow from besides the tokens, as JSON."""
        self._folder = folder
        self._identity = dict(identity)
        self._was_found = False

    def report(self) -> Mapping[str, float]:
        """Return whether the last values were there already."""
        return {"preference/reference_was_on_disk": float(self._was_found)}

    def through(self, dataset: Dataset, compute: Callable[[], Dataset]) -> Dataset:
        """Return the data set with the reference's columns: those of the file, or computed and kept."""
        file = self._folder / f"{self._key(dataset)}.safetensors"
        found = _read(file, len(dataset))
        self._was_found = found is not None
        if found is None:
            computed = compute()
            fresh = [name for name in computed.column_names if name not in dataset.column_names]
            _write(file, {name: tensor(computed[name]) for name in fresh})
            return computed
        logger.info("the reference's log-probabilities are those in %s", file)
        for name, values in found.items():
            dataset = dataset.add_column(name, values.tolist(), feature=Value("float32"))
        return dataset

    def _key(self, dataset: Dataset) -> str:
        digest = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode())
        for name in sorted(name for name in dataset.column_names if name.endswith(("_ids", "_weights", "_mask"))):
            digest.update(name.encode())
            for part in dataset.select_columns([name]).iter(AT_ONCE):
                digest.update(json.dumps(part[name]).encode())
        return digest.hexdigest()[:32]


def _read(file: Path, num_rows: int) -> dict[str, Tensor] | None:
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
            digest = (opened.metadata() or {}).get("sha256")
    except (SafetensorError, OSError) as error:
        logger.warning("%s cannot be read (%s); the reference is computed again", file, error)
        return None
    if digest != _digest(found) or any(len(values) != num_rows for values in found.values()):
        logger.warning("%s is damaged; the reference is computed again", file)
        return None
    return found


def _write(file: Path, columns: Mapping[str, Tensor]) -> None:
    """Keep them, unless another process keeps something here at this moment: most likely the same."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(".writing")  # of whoever holds the lock; what a kill leaves, the next writes over
    with file.with_name(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("the reference's log-probabilities are not kept: another process writes to %s", file.parent)
            return
        try:
            save_file(dict(columns), temporary, metadata={"sha256": _digest(columns)})
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)


def _digest(columns: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(columns):
        digest.update(name.encode() + columns[name].numpy().tobytes())
    return digest.hexdigest()
