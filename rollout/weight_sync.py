"""Gives the engines the learner's weights, and proves that they have them.

After each sync the engines score a few probe sequences, and the log-probabilities must be the learner's.
Weights that arrive wrong make nothing fail: the run would only learn less.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rollout.config import WeightSyncConfig
from rollout.engine import Pool, Precision, Shipment
from rollout.transports.registry import Routes
from rollout.types import RolloutError

MAX_DRIFT: dict[Precision, float] = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
"""Nats by which an engine that holds the learner's weights may still differ on a token, by its kernels' rounding."""
_WORD = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncReport:
    """What one sync did."""

    version: int
    seconds: float
    """Writing, loading and checking."""
    bytes: int
    """Size of all weights."""
    changed_bytes: int
    """Bytes of the parameters whose bits differ from the last sync; all of them in the first."""
    drift_max: float
    """Largest difference between learner and any engine on a probe token, in nats."""
    drift_mean: float
    """Mean of these differences, in nats."""

    def metrics(self) -> dict[str, float]:
        """Return the report under its metric names."""
        return {
            "sync/time_s": self.seconds,
            "sync/size_bytes": self.bytes,
            "sync/changed_bytes": self.changed_bytes,
            "sync/drift_max": self.drift_max,
            "sync/drift_mean": self.drift_mean,
        }


class WeightSync:
    """Publishes copies of the weights, to each engine by the transport of the recipe, or else that which reaches it.

    A copy is kept until the next sync: engines that are being replaced fetch it, and the next is compared with it. In
    ``meeting_folder`` processes on other machines find each other; by default in a private one of this machine.
    """

    def __init__(
        self,
        pool: Pool,
        config: WeightSyncConfig,
        *,
        precision: Precision = "float32",
        meeting_folder: Path | None = None,
    ) -> None:
        self._pool = pool
        self._config = config
        self._max_drift = MAX_DRIFT[precision] if config.max_drift is None else config.max_drift
        self._routes = Routes(config, meeting_folder)
        self._last: dict[str, torch.Tensor] = {}
        self._shipment: Shipment | None = None

    def publish(
        self,
        weights: Iterable[tuple[str, torch.Tensor]],
        version: int,
        probes: Sequence[Sequence[int]],
        probe_logprobs: Sequence[Sequence[float]],
    ) -> SyncReport:
        """Bring ``weights`` to every engine as ``version``, and compare.

        ``weights`` must be complete, see `policy_weights`. ``probe_logprobs`` are the learner's own,
        [probe][T - 1] for tokens 1..T-1. Raises RolloutError where an engine differs by more than the
        configured drift.
        """
        _check_probes(probes, probe_logprobs)
        start = time.monotonic()
        tensors = _own_copies(weights, on_cpu=self._config.transport == "shared_memory")
        before, shipment = self._shipment, self._routes.ship(tensors, version)
        self._shipment = shipment
        self._pool.load_weights(shipment, version, timeout_s=self._config.timeout_s)
        if before is not None:
            before.withdraw()
        changed_bytes = sum(_changed_bytes(self._last.get(name), new) for name, new in tensors.items())
        self._last = tensors
        drifts = self._drifts(version, probes, probe_logprobs)
        return SyncReport(
            version=version,
            seconds=time.monotonic() - start,
            bytes=sum(tensor.nbytes for tensor in tensors.values()),
            changed_bytes=changed_bytes,
            drift_max=max(drifts),
            drift_mean=sum(drifts) / len(drifts),
        )

    def close(self) -> None:
        """Let go of the weights; the pool stays open."""
        if self._shipment is not None:
            self._shipment.withdraw()
        self._routes.close()
        self._last = {}

    def _drifts(
        self, version: int, probes: Sequence[Sequence[int]], expected: Sequence[Sequence[float]]
    ) -> list[float]:
        """Return |engine - learner| for every engine, probe and token."""
        drifts: list[float] = []
        answers = self._pool.logprobs(probes, timeout_s=self._config.timeout_s)
        for engine, answer in enumerate(answers):
            for probe, (got, want) in enumerate(zip(answer, expected, strict=True)):
                differences = [abs(a - b) for a, b in zip(got, want, strict=True)]
                worst = max(differences, key=lambda it: math.inf if math.isnan(it) else it)
                self._require_small(worst, engine, probe, version)
                drifts.extend(differences)
        return drifts

    def _require_small(self, drift: float, engine: int, probe: int, version: int) -> None:
        if not drift <= self._max_drift:  # NaN is no agreement either
            raise RolloutError(
                f"after syncing version {version}, engine {engine} differs from the learner by {drift:.4g} "
                f"nats on probe {probe}; the limit is {self._max_drift:g}. Likely: a parameter was not sent (a tied "
                "head, an unmerged adapter), the probes were scored on other weights, or the two compute in different "
                "precisions. Where the model is merely large and rounding adds up, raise sync.max_drift"
            )


def policy_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a transformers model's weights under its own names, complete: a tied output head is among them.

    Engines hold the head apart from the embeddings, so it must come under its own name even when the model
    shares it.
    """
    state = model.state_dict()
    head = model.get_output_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    state.setdefault(f"{names[id(head)]}.weight", head.weight)
    for name, tensor in state.items():
        yield name, tensor.detach()


def _own_copies(weights: Iterable[tuple[str, torch.Tensor]], *, on_cpu: bool) -> dict[str, torch.Tensor]:
    """Return copies that share no memory; safetensors refuses tensors that do."""
    copies = {
        name: tensor.detach().to("cpu" if on_cpu else tensor.device, copy=True, memory_format=torch.contiguous_format)
        for name, tensor in weights
    }
    if not copies:
        raise ValueError("there are no weights to publish; pass policy_weights(model), once for each publish")
    return copies


def _changed_bytes(old: torch.Tensor | None, new: torch.Tensor) -> int:
    """Count by bits, so that a NaN equals itself."""
    width: int = new.element_size()
    if old is None or old.shape != new.shape or old.dtype != new.dtype:
        return int(new.numel()) * width
    changed: int = torch.count_nonzero(old.view(_WORD[width]) != new.view(_WORD[width])).item()
    return changed * width


def _check_probes(probes: Sequence[Sequence[int]], logprobs: Sequence[Sequence[float]]) -> None:
    expected = [len(probe) - 1 for probe in probes]
    if not probes or min(expected) < 1 or expected != [len(row) for row in logprobs]:
        raise ValueError(
            f"probes of {[len(probe) for probe in probes]} tokens came with {[len(row) for row in logprobs]} "
            "log-probabilities; a sync needs at least one probe, each of two tokens or more, with one "
            "log-probability for each token but the first"
        )
