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


def merged(model: Any) -> Any:
    """Return the model below an adapter with what the adapter adds in its weights, in place.

    A weight that embeddings and output head share becomes two first, where the adapter touches either: PEFT adds what
    was learned for one of them to the weight of both. `settle_tie` says what becomes of the two.
    """
    base = model.get_base_model()
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    if not any(isinstance(end, ADAPTED) for end in ends):
        return model.merge_and_unload()
    was_tied = is_said_to_be_tied(base)
    _say_tied(base, False)
    _part(base)
    plain = model.merge_and_unload()
    _say_tied(plain, was_tied)
    return plain


ADAPTED = (peft.tuners.tuners_utils.BaseTunerLayer, peft.utils.other.AuxiliaryTrainingWrapper)
"""Layers that PEFT has put something around."""


def is_tied(model: Any) -> bool:
    """Say whether embeddings and output head are one weight."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    return head is not None and getattr(head, "weight", None) is embeddings.weight


def is_said_to_be_tied(model: Any) -> bool:
    """Say whether a model's config has embeddings and output head share a weight."""
    return bool(model.config.tie_word_embeddings or model.config.get_text_config().tie_word_embeddings)


def settle_tie(model: Any) -> None:
    """Make a model's config true: embeddings and head that are said to share a weight do so, if they are equal.

    Else each keeps its own, and the config says so: whoever reads the folder would give the head the embeddings'.
    """
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or not is_said_to_be_tied(model) or is_tied(model):
        return
    if torch.allclose(head.weight, embeddings.weight, rtol=1e-5, atol=1e-7):
        head.weight = embeddings.weight
    else:
        _say_tied(model, False)


def _say_tied(model: Any, is_so: bool) -> None:
    model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = is_so


def _part(base: Any) -> None:
    """Give each module a parameter of its own where several have the same."""
    seen = set[int]()
    for name, parameter in list(base.named_parameters(remove_duplicate=False)):
        if id(parameter) in seen:
            place, _, own = name.rpartition(".")
            fresh = torch.nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
            setattr(base.get_submodule(place), own, fresh)
        seen.add(id(parameter))
