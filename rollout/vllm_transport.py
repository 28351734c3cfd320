"""How weights enter vLLM: from safetensors files, in a folder that learner and worker both see.

vLLM's worker processes import this module, because it holds their ``worker_extension_cls``; the import
registers the transport. On a CPU the files lie in shared memory. A GPU reads them from there too, which is
right but not fast.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from rollout.orphans import end_with_owner

BACKEND = "shared_memory"


@dataclass
class NoInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """Files need no rendezvous."""


@dataclass
class FilesToLoad(WeightTransferUpdateInfo):  # type: ignore[misc]
    """One update: the safetensors files that together hold every parameter."""

    files: list[str]


class SharedMemoryTransfer(WeightTransferEngine):  # type: ignore[misc]
    """Loads all parameters from files, between the two halves of vLLM's layerwise reload.

    The reload gives each layer back the parameters that it had before vLLM packed them, and packs them anew.
    Without it a CPU worker has no parameters to load into.
    """

    init_info_cls = NoInitInfo
    update_info_cls = FilesToLoad

    def init_transfer_engine(self, init_info: NoInitInfo) -> None:
        """Nothing to prepare."""

    def start_weight_update(self) -> None:
        """Make the layers ready to be loaded."""
        self._expected = {name for name, _ in self.model.named_parameters()}
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: FilesToLoad) -> None:
        """Load the files. Raises ValueError when they leave a parameter of the model as it was."""
        with disable_mtp_completeness_check():
            loaded = self.model.load_weights(_tensors([Path(file) for file in update_info.files]))
        missing = sorted(self._expected - set(loaded))
        if missing:
            raise ValueError(
                f"the files leave {len(missing)} parameters of the engine unset, first {missing[0]!r}; a "
                "sync must carry all of them, a tied output head included: send policy_weights(model)"
            )

    def finish_weight_update(self) -> None:
        """Pack the layers again."""
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing is held between updates."""


class WorkerExtension:
    """Adds nothing to a worker; naming it makes the worker import this module."""


def _tensors(files: Sequence[Path]) -> Iterator[tuple[str, Any]]:
    for path in files:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                yield name, file.get_tensor(name)


WeightTransferEngineFactory.register_engine(BACKEND, SharedMemoryTransfer)
end_with_owner()
