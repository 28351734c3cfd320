"""Which parameters train, and what acts in the end: adapters by PEFT."""

from collections.abc import Iterator
from typing import Any, Literal

import peft
import torch
from peft.tuners.lora import LoraLayer

from rollout.weight_sync import policy_weights
from stages.training import FullParams, LoraParams


def lora_config(params: FullParams | LoraParams, task: Literal["CAUSAL_LM", "SEQ_CLS"] = "CAUSAL_LM") -> Any:
    """Return PEFT's config of the adapter that is to train; None where every parameter is.

    For `SEQ_CLS`, the fresh head trains as a whole beside it.
    """
    if isinstance(params, FullParams):
        return None
    return peft.LoraConfig(
        task_type=task,
        r=params.r,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        target_modules=params.target_modules,
        **params.extra,
    )


def weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights that act: for a model with an adapter, each base weight plus what the adapter adds to it."""
    if not isinstance(model, peft.PeftModel):
        yield from policy_weights(model)
        return
    base = model.get_base_model()
    adapted = {f"{name}.": module for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    for name, tensor in policy_weights(base):
        inside = next((prefix for prefix in adapted if name.startswith(prefix)), None)
        if inside is None:
            yield name, tensor
        elif name == f"{inside}base_layer.weight":
            yield f"{inside}weight", tensor + adapted[inside].get_delta_weight("default").detach()
        elif name.startswith(f"{inside}base_layer."):
            yield name.replace("base_layer.", "", 1), tensor
