"""How weights enter vLLM, whichever way they came.

vLLM's worker processes import this module, because it holds their ``worker_extension_cls``; the import
registers the backend of its weight transfer.
"""

from dataclasses import dataclass

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from rollout.engine import Ticket
from rollout.orphans import end_with_owner
from rollout.transports.registry import fetch

BACKEND = "strop"


@dataclass
class NoInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """A ticket says all that a worker needs."""


@dataclass
class Update(WeightTransferUpdateInfo):  # type: ignore[misc]
    """One update: what the worker fetches, which is every parameter."""

    ticket: Ticket


class Transfer(WeightTransferEngine):  # type: ignore[misc]
    """Loads all parameters, between the two halves of vLLM's layerwise reload.

    The reload gives each layer back the parameters that it had before vLLM packed them, and packs them again.
    Without it a CPU worker has no parameters to load into.
    """

    init_info_cls = NoInitInfo
    update_info_cls = Update

    def init_transfer_engine(self, init_info: NoInitInfo) -> None:
        """Nothing to prepare."""

    def start_weight_update(self) -> None:
        """Make the layers ready to be loaded."""
        self._expected = {name for name, _ in self.model.named_parameters()}
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: Update) -> None:
        """Fetch and load. Raises ValueError where a parameter of the model is left as it was."""
        with disable_mtp_completeness_check():
            weights = fetch(update_info.ticket, device=self.device, worker=self.parallel_config.rank)
            loaded = self.model.load_weights(weights)
        missing = sorted(self._expected - set(loaded))
        if missing:
            raise ValueError(
                f"the weights sent leave {len(missing)} parameters of the engine unset, first {missing[0]!r}; a "
                "sync must carry all of them, a tied output head included: send policy_weights(model)"
            )

    def finish_weight_update(self) -> None:
        """Pack the layers again."""
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing is held between updates."""


class WorkerExtension:
    """Adds nothing to a worker; naming it makes the worker import this module."""


WeightTransferEngineFactory.register_engine(BACKEND, Transfer)
end_with_owner()
